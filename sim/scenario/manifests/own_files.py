"""The user's own files that a scenario names: its code and its locustfile, with what they import of their folder.

Rules
-----
1. Code is taken where a name says ``module:Name`` and the scenario's `code_folder` has that module; what is installed comes with the image.
2. What a file imports of its own folder comes along, and what that imports. What it opens does not: nobody can see that from outside.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from sim.errors import ScenarioError
from sim.machine.user_code import is_named
from sim.scenario.settings import Scenario


def code_files(scenario: Scenario) -> dict[str, str]:
    """Return the text of each file of the user's code that a scenario names, by its path in the code's folder.

    Raises
    ------
    ScenarioError
        A file cannot be read.
    """
    names = [scenario.bus.once, *(one.behaviour for one in scenario.services.values()), *scenario.checkers]
    names += [str(one["kind"]) for one in msgspec.to_builtins(scenario.faults)]
    modules = [name.partition(":")[0].partition(".")[0] for name in names if is_named(name)]
    return with_imports(modules, folder=Path(scenario.code_folder)) if modules else {}


def locust_files(scenario: Scenario) -> dict[str, str]:
    """Return the text of the user's locustfile and of what it imports of its folder, by their paths there; empty without one.

    Raises
    ------
    ScenarioError
        A file cannot be read.
    """
    if not scenario.load.locustfile:
        return {}
    path = Path(scenario.load.locustfile)
    text = _read(path)
    return {path.name: text} | with_imports(_imported(text), folder=path.parent)


def with_imports(modules: Iterable[str], *, folder: Path) -> dict[str, str]:
    """Return the text of each of these modules that a folder has, and of what they import of it, by their paths there."""
    found, waiting, seen = dict[str, str](), list(modules), set[str]()
    while waiting:
        name = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        for path in _files_of(name, folder):
            text = found[path.relative_to(folder).as_posix()] = _read(path)
            waiting += _imported(text)
    return found


def _files_of(module: str, folder: Path) -> Iterator[Path]:
    """Yield the files of a module, or of a package, of a folder; nothing when it has none."""
    if (folder / f"{module}.py").is_file():
        yield folder / f"{module}.py"
    elif (folder / module).is_dir():
        yield from sorted((folder / module).rglob("*.py"))


def _imported(text: str) -> list[str]:
    """Return the names at the top of what a text imports, wherever in it that stands; nothing of what is no Python."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return []
    names = list[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
    return [name.partition(".")[0] for name in names]


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise ScenarioError(f"cannot take {path} along: {getattr(error, 'strerror', None) or error}") from None
