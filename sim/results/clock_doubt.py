"""Which copies turn on less than the clocks of two machines are known by: nobody knows whether they were expected, or why they are missing.

Whether a copy was heard, and in which order, is known without any clock: it stands in the rows of its pod. But a copy is *expected* when
its pod was alive when the event was sent, and a *cause* is a time of the pod, of a fault or of the broker that the way of the event
touches. Where these are times of several clocks they may be wrong against each other, so

1. a copy that was not heard is **in doubt** when its pod was alive in a part of the time in which the event may have been sent, and not in
   all of it;
2. and when the first silent window that it may have touched is not one that it surely touched, unless what would explain it else is the
   same cause;
3. a copy that was heard was expected when its pod was alive in any part of that time.

What is in doubt is unknown. In a run of one clock no error is more than 0, and none of this is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from sim.record.reader import Array
from sim.results.pod_histories import SilentWindow
from sim.results.run_tables import RunTables


def pod_error_ns(run: RunTables, pod: str, event_clock: Array, event_bound_ns: Array) -> Array:
    """Return by how much the times of each event may be wrong against those of a pod's states, nanoseconds.

    Parameters
    ----------
    event_clock, event_bound_ns
        Of each event: the number of the clock by which it was sent, and that clock's bound then.
    """
    mine = (run.pods["pod"] == pod).to_numpy()
    clocks, bounds = run.pods["clock"].to_numpy()[mine], run.pods["bound_ns"].to_numpy()[mine]
    one_clock = len(np.unique(clocks)) == 1
    same = (event_clock == clocks[0]) if one_clock else np.zeros(len(event_clock), dtype=bool)
    found: Array = np.where(same, 0, event_bound_ns + int(bounds.max(initial=0)))
    return found


def own_error_ns(run: RunTables, pod: str) -> int:
    """Return by how much the states of a pod may be wrong against what it heard: the run writes some of them."""
    if not run.clocks.differ:
        return 0
    mine = (run.pods["pod"] == pod).to_numpy()
    several = len(np.unique(run.pods["clock"].to_numpy()[mine])) > 1
    return int(run.pods["bound_ns"].to_numpy()[mine].max(initial=0)) if several else 0


def windows_in_doubt(windows: Iterable[SilentWindow], sent_ns: Array, answered_ns: Array, error_ns: Array) -> Array:
    """Return for each lost event whether it is in doubt which of these windows explains it, or whether any does.

    Parameters
    ----------
    windows
        In the order in which they explain.
    """
    causes: dict[str, int] = {}
    first = np.zeros(len(sent_ns), dtype=np.int64)  # the cause of the first window that it may have touched, 0 before any
    settled, doubted = np.zeros(len(sent_ns), dtype=bool), np.zeros(len(sent_ns), dtype=bool)
    for window in windows:
        cause = causes.setdefault(window.cause, len(causes) + 1)
        may = window.touches(sent_ns - error_ns, answered_ns + error_ns) & ~settled
        surely = window.touches(sent_ns + error_ns, answered_ns - error_ns) & may
        doubted |= may & (first != 0) & (first != cause)
        first[may & (first == 0)] = cause
        settled |= surely
    in_doubt: Array = doubted | (~settled & (first != 0))
    return in_doubt


def causes_in_doubt(causes: Callable[[Array, Array], Array], sent_ns: Array, answered_ns: Array, error_ns: Array) -> Array:
    """Return for each lost event whether its cause would be another one, were its times earlier or later by the error."""
    earlier, later = causes(sent_ns - error_ns, answered_ns - error_ns), causes(sent_ns + error_ns, answered_ns + error_ns)
    in_doubt: Array = earlier != later
    return in_doubt
