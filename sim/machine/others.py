"""What else runs on this machine and takes processor time, so that a person knows what to stop."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection
from typing import NamedTuple

import psutil

NAMED = 3  # at most so many
SHARE_MIN = 0.05  # of a core


class Taker(NamedTuple):
    """A process that is not ours, and its share of a core."""

    name: str
    pid: int
    share: float

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid}, {self.share:.0%} of a core)"


class OtherProcesses:
    """The processor time of all processes but ours, from the moment that this was made.

    Parameters
    ----------
    ours
        Process ids beside this process. A child that has ended by the time of asking is not among the others either.
    """

    def __init__(self, ours: Collection[int] = ()) -> None:
        self._ours = {os.getpid(), *ours}
        self._began, self._before = time.monotonic(), self._used()

    def _used(self) -> dict[tuple[int, float], tuple[str, float]]:
        """Return (process, when it began) -> (name, seconds used); what we may not see is left out."""
        found = {}
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if one.pid not in self._ours:
                    times = one.cpu_times()
                    found[one.pid, one.create_time()] = one.name(), times.user + times.system
        return found

    def busiest(self, most: int = NAMED) -> list[Taker]:
        """Return those that have used most since then, so many of at least `SHARE_MIN` of a core."""
        took = max(time.monotonic() - self._began, 1e-3)
        takers = []
        for key, (name, used) in self._used().items():
            _, before = self._before.get(key, ("", 0.0))
            takers.append(Taker(name, key[0], (used - before) / took))
        return sorted((one for one in takers if one.share >= SHARE_MIN), key=lambda one: -one.share)[:most]
