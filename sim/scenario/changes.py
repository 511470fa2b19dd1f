"""Say which settings of a scenario differ from those of the built-in scenario of the same name, for whoever looks at its run later."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from sim.scenario.file import built_in, load_scenario
from sim.scenario.settings import Scenario

NO_SETTINGS = ("name", "title", "code_folder")
MAX_LETTERS = 60  # of a value that is shown


def changed_settings(scenario: Scenario) -> list[str] | None:
    """Return one text for each setting that differs, as ``load.rate_per_s = 500 (built-in: 200)``; None where no built-in has the name."""
    if scenario.name not in built_in():
        return None
    ours, theirs = (dict(_flat(msgspec.to_builtins(one))) for one in (scenario, load_scenario(scenario.name)))
    names = [*ours, *(name for name in theirs if name not in ours)]
    return [f"{name} = {_shown(ours, name)} (built-in: {_shown(theirs, name)})" for name in names if _differ(ours, theirs, name)]


def _differ(ours: Mapping[str, Any], theirs: Mapping[str, Any], name: str) -> bool:
    return (name in ours) != (name in theirs) or ours.get(name) != theirs.get(name)


def _flat(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{path}{key}.")
        elif path or key not in NO_SETTINGS:
            yield f"{path}{key}", value


def _shown(values: Mapping[str, Any], name: str) -> str:
    text = json.dumps(values[name], ensure_ascii=False) if name in values else "not set"
    return text if len(text) <= MAX_LETTERS else f"{text[:MAX_LETTERS]}…"
