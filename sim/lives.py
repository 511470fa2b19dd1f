"""Who lived when: each pod's states over time, and the windows in which it could not hear."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd

from sim.schema import ALIVE_STATES
from sim.tables import Array, codes_of


class Window(NamedTuple):
    """Say from when to when a pod could not hear, and why."""

    begin_ns: int
    end_ns: int
    cause: str

    def touches(self, sent_ns: Array, answered_ns: Array) -> Array:
        """Return for each event whether it was on its way to the pods in this window."""
        return (sent_ns <= self.end_ns) & (answered_ns >= self.begin_ns)


@dataclass(frozen=True)
class Life:
    """Tell one pod's states over time, from the pods table."""

    pod: str
    service: str = ""
    channels: frozenset[str] = frozenset()
    at_ns: tuple[int, ...] = ()
    states: tuple[str, ...] = ()

    def alive(self, at_ns: Array) -> Array:
        """Return for each time whether the pod was running."""
        flags = np.array([False, *(state in ALIVE_STATES for state in self.states)])
        return flags[np.searchsorted(np.array(self.at_ns, dtype=np.int64), at_ns, side="right")]

    def state(self, at_ns: int) -> str:
        """Return the pod's state at a time, empty before its first."""
        return ("", *self.states)[int(np.searchsorted(self.at_ns, at_ns, side="right"))]


def read_lives(pods: pd.DataFrame, deliveries: pd.DataFrame) -> list[Life]:
    """Return every pod of the pods table, then those that only deliveries name (never alive)."""
    pod, words = codes_of(pods["pod"])
    order = np.lexsort((pods["at_ns"].to_numpy(), pod))
    ordered = (pods[column].to_numpy()[order].tolist() for column in ("service", "channels", "state", "at_ns"))
    service, channels, state, at = ordered
    starts = np.flatnonzero(np.diff(pod[order], prepend=-1)).tolist()
    lives = []
    for begin, end in pairwise([*starts, len(order)]):
        heard = frozenset(channel for listed in set(channels[begin:end]) for channel in listed.split(",") if channel)
        lives.append(Life(words[pod[order[begin]]], service[begin], heard, tuple(at[begin:end]), tuple(state[begin:end])))
    known = {life.pod for life in lives}
    return lives + [Life(pod) for pod in codes_of(deliveries["pod"])[1] if pod not in known]
