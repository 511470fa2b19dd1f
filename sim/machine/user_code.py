"""Code of the user's own: found by an entry point of an installed package, or as ``module:Name`` in a folder of the user's.

A family of ours lists its members once; whoever looks one up may ask here for what is not in that list. One mechanism for all families.

Rules
-----
1. Ours come first: a name in the family's own list never means anything else.
2. A name with a colon is ``module:Name``. Its folder is put at the end of the path, so that nothing of ours, and nothing that is
   installed, is found there in the place of what we mean.
3. A module of that folder which something else hides, by its place in the path or because it was imported before, is an error: what was
   meant would not be what runs.
4. Whatever the code does when it is imported is told in one line, with the place where it happened.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Mapping
from importlib.abc import SourceLoader
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, TypeVar

from sim.errors import UsageError, did_you_mean
from sim.machine.import_path import is_working_folder

GROUPS = {  # what a member is called -> the group of its entry points
    "behaviour": "buslab.behaviours",
    "fault": "buslab.faults",
    "checker": "buslab.checkers",
    "recipe": "buslab.recipes",
}
MAX_SHOWN = 300  # characters of an error's text
_NAMED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")

_FILE = "users_file_"

T = TypeVar("T")
_found: dict[tuple[str, str, str], Any] = {}


def is_named(name: str) -> bool:
    """Return whether a name means something in a module of the user's: ``module:Name``."""
    return ":" in name


def find_member(name: str, *, kind: str, members: Mapping[str, T], folder: str = "") -> T:
    """Return a member of a family by its name: one of ours, one that an installed package brings, or ``module:Name``.

    Parameters
    ----------
    kind
        What a member is: a key of `GROUPS`.
    members
        Those of ours.
    folder
        Where modules of the user's are, beside those that are installed; empty = nowhere else.

    Raises
    ------
    UsageError
        There is no such member, or its code cannot be imported; one line that names it, but not where its name stands.
    """
    if name in members:
        return members[name]
    key = (kind, name, folder)
    if key not in _found:
        _found[key] = _named(name, folder) if is_named(name) else _installed(name, kind, members)
    found: T = _found[key]
    return found


def installed_members(kind: str) -> dict[str, str]:
    """Return the members of a kind that installed packages bring: the name, and what it means in which package."""
    return {one.name: f"{one.value} of {_package(one)}" for one in sorted(entry_points(group=GROUPS[kind]))}


def append_folder(folder: str) -> None:
    """Look for modules in a folder too, after all other places but the working directory: what was named comes before what lies about."""
    if folder and os.path.realpath(folder) not in map(os.path.realpath, sys.path):
        sys.path.insert(len(sys.path) - (bool(sys.path) and is_working_folder(sys.path[-1])), folder)


def first_line(error: BaseException, *, folder: str = "") -> str:
    """Return an error in one line: its class, its text, and which line of the user's code it came from, if any of its lines are there."""
    text = " ".join(str(error).split())
    shown = f"{type(error).__name__}: {text[:MAX_SHOWN]}" if text else type(error).__name__
    inside = os.path.realpath(folder) + os.sep
    frames = traceback.extract_tb(error.__traceback__) if folder else []
    places = [one for one in frames if os.path.isabs(one.filename) and os.path.realpath(one.filename).startswith(inside)]
    return f"{shown} (line {places[-1].lineno} of {os.path.basename(places[-1].filename)})" if places else shown


def takes_turns(function: Any) -> bool:
    """Return whether a call of a function would only begin it: a coroutine or a generator, of which nobody would ask for more."""
    call = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004 - an object's own
    return inspect.iscoroutinefunction(call) or inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call)


def load_file(path: str) -> ModuleType:
    """Run a Python file of the user's, whose folder then is at the end of the path, and return its module.

    Raises
    ------
    UsageError
        It cannot be read, or raised.
    """
    folder = os.path.dirname(os.path.abspath(path))
    append_folder(folder)
    name = f"{_FILE}{os.path.splitext(os.path.basename(path))[0]}"  # a file may be called as a module is that others import
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or not isinstance(spec.loader, SourceLoader):
        raise UsageError(f"{path} is not a Python file: its name ends in .py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:  # compiled anew: a compiled file that is kept is known by its second and its size, which an edit may leave as they were
        exec(spec.loader.source_to_code(spec.loader.get_data(path), path), module.__dict__)
    except (Exception, SystemExit) as error:
        raise UsageError(f"{path} raised {first_line(error, folder=folder)}") from error
    return module


def _named(name: str, folder: str) -> Any:
    """Return what ``module:Name`` means."""
    if not _NAMED.fullmatch(name):
        raise UsageError("write module:Name, as in mypkg.billing:Billing")
    module, _, attribute = name.partition(":")
    append_folder(folder)
    return _attribute(_imported(module, folder), attribute)


def _imported(name: str, folder: str) -> ModuleType:
    importlib.invalidate_caches()  # the file may be newer than what was read of its folder
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            where = f" in {folder}" if folder else ""
            raise UsageError(f"there is no module {error.name!r}{where}, and none is installed") from None
        raise UsageError(f"importing {name} raised {first_line(error, folder=folder)}") from error
    except (Exception, SystemExit) as error:  # the user's module may do anything
        raise UsageError(f"importing {name} raised {first_line(error, folder=folder)}") from error
    _check_place(name.partition(".")[0], folder)
    return module


def _check_place(top: str, folder: str) -> None:
    """Refuse a module that the folder has too, where another one was found."""
    if not folder or not any(os.path.exists(os.path.join(folder, one)) for one in (f"{top}.py", os.path.join(top, "__init__.py"))):
        return
    module = sys.modules[top]
    inside, found = os.path.realpath(folder) + os.sep, getattr(module, "__file__", None)
    if found is None or not os.path.realpath(found).startswith(inside):
        raise UsageError(f"the module {top} of {folder} is hidden by {found or 'one of Python itself'}: give it another name")


def _attribute(module: ModuleType, path: str) -> Any:
    found: Any = module
    for part in path.split("."):
        if not hasattr(found, part):
            where = f"{module.__name__} ({module.__file__})" if module.__file__ else module.__name__
            raise UsageError(f"{where} has no {path!r}{did_you_mean(part, vars(found) if hasattr(found, '__dict__') else ())}")
        found = getattr(found, part)
    return found


def _installed(name: str, kind: str, members: Mapping[str, Any]) -> Any:
    """Return what an installed package brings by this name."""
    there = entry_points(group=GROUPS[kind])
    ours = [one for one in there if one.name == name]
    if not ours:
        known = [*members, *sorted(there.names)]
        raise UsageError(f"no such {kind}{did_you_mean(name, known)}; known: {', '.join([*known, 'your own as module:Name'])}")
    if len({one.value for one in ours}) > 1:
        raise UsageError(f"several packages bring a {kind} of this name: {', '.join(map(_package, ours))}; write module:Name")
    try:
        return ours[0].load()
    except (Exception, SystemExit) as error:
        raise UsageError(f"{ours[0].value} of {_package(ours[0])} raised {first_line(error)}") from error


def _package(entry: EntryPoint) -> str:
    with contextlib.suppress(Exception):  # what was not installed in order may have no name
        if entry.dist is not None:
            return f"{entry.dist.name} {entry.dist.version}"
    return "an installed package"
