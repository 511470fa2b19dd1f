"""Faults that are not ours: found by an installed package's name or as ``module:Name``, and given the word that a scenario calls them by.

Such a fault is what a member of the catalogue is: a struct of `FaultTimes` with `begin(world)`, `end(world)` and `needs`, whose further
fields are its configuration. It need not say its `kind`: that is the word in the scenario, and so it stands in the run folder.
`kills_pods = True` says that it ends, freezes or starts pods, `adds_up = True` that several may be on at once on one target.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import msgspec

from sim.errors import UsageError
from sim.faults.catalogue import FAULTS
from sim.faults.times import FaultTimes
from sim.machine.user_code import find_member, first_line

NEEDS = frozenset(need for one in FAULTS.values() for need in getattr(one, "needs", ()))


_made: set[type[Any]] = set()


def is_own(fault: object) -> bool:
    """Return whether a fault is not ours."""
    return type(fault) in _made


def find_fault(kind: str, *, folder: str = "") -> type[Any]:
    """Return the struct of a kind of fault: one of `FAULTS`, or one that is not ours, whose module may be in `folder`.

    Raises
    ------
    UsageError
        There is no such fault, or it cannot be imported, or is none.
    """
    found: Any = find_member(kind, kind="fault", members=FAULTS, folder=folder)
    return found if kind in FAULTS else _called(found, kind)


@cache
def _called(found: Any, kind: str) -> type[Any]:
    """Return a fault of the user's under the word that a scenario calls it by."""
    if problem := _problem(found):
        raise UsageError(problem)
    try:
        config: dict[str, Any] = {"tag_field": "kind", "tag": kind, "frozen": True, "forbid_unknown_fields": True, "kw_only": True}
        made = msgspec.defstruct(found.__name__, [], bases=(found,), module=found.__module__, **config)
    except (TypeError, ValueError) as error:
        raise UsageError(f"it cannot be a fault of a scenario: {first_line(error)}") from None
    _made.add(made)
    return made


def _problem(found: Any) -> str:
    """Return why something is no fault, empty when it is one."""
    if not isinstance(found, type) or not issubclass(found, FaultTimes) or found is FaultTimes:
        return "it is no fault: write a class of sim.faults.times.FaultTimes"
    missing = [name for name in ("begin", "end") if not inspect.iscoroutinefunction(getattr(found, name, None))]
    if missing:
        return f"it is no fault: it has no async {' and no async '.join(f'{name}(world)' for name in missing)}"
    needs = getattr(found, "needs", None)
    if not isinstance(needs, tuple) or not needs or not set(needs) <= NEEDS:
        return f"its needs are {needs!r}: give a tuple of what it touches, of {', '.join(sorted(NEEDS))}"
    return ""
