"""When a pod could not hear, and why: silent windows from what it said of itself, what it heard, and what was done to it.

Rules
-----
1. A window opens when the newest event was sent that the pod heard before its connection or its life ended (one connection keeps its
   order: what was answered before that must have arrived), or at ``starting``, and closes at ``subscribed``.
2. A pod's end excuses only what was sent at most `DOWN_GRACE_NS` plus its last transit time before it, or since a fault on it or a
   freeze began, and only before the drain: how all pods end after a run excuses only what had been sent and had no answer yet.
3. A window whose connection the broker ended for a full buffer is **cut**, whatever else was going on.
4. A pod whose handlers take time may end in the drain with events unread that its connection had brought: where what it read last had
   waited for more than `BEHIND_NS`, what was sent after that is **behind**.
5. Of any other window, what lies inside a fault of `LOSING` on the pod's link is **cut-link**: nobody could reach it then. When the
   connection ended inside that fault, so is what was on its way before the fault began, since the window opened. What is left, such
   as the time from the fault's end until the pod is back, is **deaf**. `link_slow` loses nothing and explains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sim.record.reader import FOREVER_NS, Array
from sim.results.pod_histories import PodHistory, SilentWindow

DOWN_GRACE_NS = 1_000_000_000
BEHIND_NS = 500_000_000
CUT_SAMPLING_NS = 1_000_000_000  # the sampler sees a buffer cut up to this long after it
LOSING = frozenset(("link_blackhole", "link_cut", "link_reset", "partition"))  # faults that lose what is on a link


class PodFault(NamedTuple):
    """One row of `faults`; `pods` may be the word ``broker``."""

    fault: str
    begin_ns: int
    end_ns: int
    pods: frozenset[str]


class _Silent(NamedTuple):
    """A window that is open: since when, why, and when its connection ended, or 0."""

    since_ns: int
    cause: str
    lost_ns: int

    def until(self, end_ns: int, faults: Sequence[PodFault]) -> list[SilentWindow]:
        """Return the parts of it that faults on its link explain, then the window, closed."""
        window = SilentWindow(self.since_ns, end_ns, self.cause)
        if self.cause != "deaf":
            return [window]
        losing = [fault for fault in faults if fault.fault in LOSING and fault.begin_ns <= end_ns and fault.end_ns >= self.since_ns]
        parts = []
        for fault in losing:
            under_way = fault.begin_ns <= self.lost_ns <= fault.end_ns
            begin = self.since_ns if under_way else max(self.since_ns, fault.begin_ns)
            parts.append(SilentWindow(begin, min(end_ns, fault.end_ns), "cut-link"))
        return [*parts, window]


def read_windows(
    history: PodHistory,
    *,
    received_ns: Array,
    sent_ns: Array,
    cuts_ns: Sequence[int],
    faults: Sequence[PodFault],
    drain_ns: int,
    is_slow: bool = False,
    error_ns: int = 0,
) -> list[SilentWindow]:
    """Return the times in which a pod could not hear what came one way; of two that overlap, the first says why.

    Parameters
    ----------
    received_ns, sent_ns
        Of each event that the pod heard this way, in that order; `received_ns` never falls.
    cuts_ns
        When the broker was seen to have cut a connection of the pod.
    faults
        Those on this pod.
    drain_ns
        When the drain began.
    is_slow
        Whether its handlers take time.
    error_ns
        By how much `received_ns` may be wrong against the times of its states.
    """
    newest = np.maximum.accumulate(sent_ns)
    windows: list[SilentWindow] = []
    joined, began = 0, False
    silent: _Silent | None = None  # the window that is open
    for at, state in zip(history.at_ns, history.states, strict=True):
        last = int(np.searchsorted(received_ns, at + error_ns, side="right")) - 1
        quiet = max(joined, int(newest[last])) if last >= 0 else joined
        if state == "starting" and began:  # a row that tells something else of it, such as that its clock is wrong
            continue
        began = state == "starting"
        if state == "starting":
            windows += silent.until(at, faults) if silent else []
            silent = _Silent(at, "deaf", 0)
        elif state == "subscribed":
            windows += silent.until(at, faults) if silent else []
            if silent or not joined:  # else only its publishing connection came or went, and the pod could hear all the time
                joined = at
            silent = None
        elif state == "disconnected" and not silent:
            cut = any(quiet <= cut <= at + CUT_SAMPLING_NS for cut in cuts_ns)
            silent = _Silent(quiet, "cut" if cut else "deaf", at)
        elif silent and state != "disconnected":
            windows += silent.until(at, faults)
            silent = None
        elif state != "disconnected" and at < drain_ns:
            grace = DOWN_GRACE_NS + int(received_ns[last] - sent_ns[last] if last >= 0 else 0)
            held = [(fault.begin_ns, fault.end_ns) for fault in faults] + list(history.freezes)
            begins = [begin for begin, end in held if begin <= at and end >= quiet]
            windows.append(SilentWindow(max(quiet, min([at - grace, *begins])), at, "pod-down"))
        elif state != "disconnected":
            transit_ns = int(received_ns[last] - sent_ns[last]) if is_slow and last >= 0 else 0
            windows += [SilentWindow(quiet, at, "behind")] * (transit_ns > BEHIND_NS) + [SilentWindow(at, at, "pod-down")]
    return windows + (silent.until(FOREVER_NS, faults) if silent else [])
