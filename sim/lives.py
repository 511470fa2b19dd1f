"""Tell the life of each pod from the rows of the pods table.

A freeze is no change of what a pod is: a frozen pod stays connected and subscribed as far as the broker knows. So the row
``frozen``, and the row after it that says the pod goes on as before, are not among its states but make its *freezes*.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sim.schema import ALIVE_STATES
from sim.tables import FOREVER_NS, Array


@dataclass(frozen=True)
class Life:
    """Tell one pod's states over time; `freezes` are (begin_ns, end_ns)."""

    pod: str
    service: str = ""
    channels: frozenset[str] = frozenset()
    at_ns: tuple[int, ...] = ()
    states: tuple[str, ...] = ()
    freezes: tuple[tuple[int, int], ...] = ()

    def alive(self, at_ns: Array) -> Array:
        """Return for each time whether the pod was running."""
        flags = np.array([False, *(state in ALIVE_STATES for state in self.states)])
        return flags[np.searchsorted(np.array(self.at_ns, dtype=np.int64), at_ns, side="right")]

    def state(self, at_ns: int) -> str:
        """Return the pod's state at a time, empty before its first."""
        return ("", *self.states)[int(np.searchsorted(self.at_ns, at_ns, side="right"))]


def make_life(pod: str, *, service: str, channels: Iterable[str], at_ns: Iterable[int], states: Iterable[str]) -> Life:
    """Return the life that one pod's rows tell, in the order of time."""
    times: list[int] = []
    words: list[str] = []
    freezes: list[tuple[int, int]] = []
    frozen_ns = 0
    for at, state in zip(at_ns, states, strict=True):
        if state == "frozen":
            frozen_ns = at
            continue
        if frozen_ns:
            freezes.append((frozen_ns, at))
            frozen_ns = 0
            if words and state == words[-1]:
                continue
        times.append(at)
        words.append(state)
    freezes += [(frozen_ns, FOREVER_NS)] if frozen_ns else []
    return Life(pod, service, frozenset(channels), tuple(times), tuple(words), tuple(freezes))
