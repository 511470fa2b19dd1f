"""Patterns among what a service subscribes to: they stand for the channels of the bus that match, by the rules of Redis' PSUBSCRIBE.

A pod subscribes to each of those channels by its name, so it hears what PSUBSCRIBE would bring. What a pattern costs the broker itself,
which holds each publish against every pattern, is not played. A pod whose patterns and names overlap would hear an event twice on Redis,
so that is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import translate
from typing import Any

from sim.errors import ScenarioError

MAX_SHOWN = 20  # names in one message
_GLOB = re.compile(r"[*?\[]")


def expand_patterns(tree: dict[str, Any], channels: Iterable[str], *, where: str) -> dict[str, Any]:
    """Return a scenario's tree in which each pattern of a service's `subscribes` is the channels that it stands for.

    Raises
    ------
    ScenarioError
        A pattern matches no channel, or a channel is named twice.
    """
    services, known = tree.get("services"), list(channels)
    if not isinstance(services, Mapping):
        return tree
    changed = {name: _expanded(str(name), service, known, where) for name, service in services.items()}
    return tree if changed == services else tree | {"services": changed}


def _expanded(name: str, service: Any, channels: list[str], where: str) -> Any:
    named = service.get("subscribes") if isinstance(service, Mapping) else None
    if not isinstance(named, list) or not any(isinstance(one, str) and _is_pattern(one, channels) for one in named):
        return service
    found: dict[str, str] = {}  # channel -> what named it
    for one in named:
        if not isinstance(one, str):
            return service  # it is refused by its type
        matches = _matching(one, channels) if _is_pattern(one, channels) else [one]
        if not matches:
            there = ", ".join(channels[:MAX_SHOWN])
            raise ScenarioError(f"{where}: services.{name}.subscribes: {one!r} matches no channel; there are {there}")
        for channel in matches:
            if channel in found:
                raise ScenarioError(
                    f"{where}: services.{name}.subscribes: {channel!r} is named by {found[channel]!r} and by {one!r}: on Redis a pod "
                    "would hear it twice; leave one of them out"
                )
            found[channel] = one
    return {**service, "subscribes": list(found)}


def _is_pattern(text: str, channels: list[str]) -> bool:
    return _GLOB.search(text) is not None and text not in channels


def _matching(pattern: str, channels: list[str]) -> list[str]:
    matches = re.compile(translate(pattern.replace("[^", "[!"))).fullmatch
    return [channel for channel in channels if matches(channel)]
