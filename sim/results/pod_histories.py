"""Who lived when: each pod's states over time, and the windows in which it could not hear.

A freeze is no change of what a pod is: a frozen pod stays connected and subscribed as far as the broker knows. So the row
``frozen``, and the row after it that says the pod goes on as before, are not among its states but make its *freezes*.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd

from sim.record.reader import FOREVER_NS, Array, codes_of
from sim.record.schema import ALIVE_STATES


class SilentWindow(NamedTuple):
    """A time in which a pod could not hear, and why."""

    begin_ns: int
    end_ns: int
    cause: str

    def touches(self, sent_ns: Array, answered_ns: Array) -> Array:
        """Return for each event whether it was on its way to the pods in this window."""
        return (sent_ns <= self.end_ns) & (answered_ns >= self.begin_ns)


@dataclass(frozen=True)
class PodHistory:
    """One pod's states over time, from the pods table; `freezes` are (begin_ns, end_ns)."""

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

    def alive_about(self, at_ns: Array) -> Array:
        """Return for each time whether the pod was running before, in or after that nanosecond: in virtual time much happens in one."""
        ran = np.cumsum([0, 0, *(state in ALIVE_STATES for state in self.states)])  # how many of the first n states, none before the first
        rows = np.array(self.at_ns, dtype=np.int64)
        return ran[np.searchsorted(rows, at_ns, side="right") + 1] > ran[np.searchsorted(rows, at_ns, side="left")]

    def alive_in(self, begin_ns: Array, end_ns: Array) -> tuple[Array, Array]:
        """Return for each time from a beginning to an end whether the pod was running in some of it, and whether in all of it."""
        ran = np.cumsum([0, 0, *(state in ALIVE_STATES for state in self.states)])
        rows = np.array(self.at_ns, dtype=np.int64)
        first, last = np.searchsorted(rows, begin_ns, side="right"), np.searchsorted(rows, end_ns, side="right")
        running = ran[last + 1] - ran[first]
        return running > 0, running == last - first + 1

    def state(self, at_ns: int) -> str:
        """Return the pod's state at a time, empty before its first."""
        return ("", *self.states)[int(np.searchsorted(self.at_ns, at_ns, side="right"))]

    def has_been(self, state: str, at_ns: int) -> bool:
        """Return whether the pod was in a state at a time or before."""
        return state in self.states[: int(np.searchsorted(self.at_ns, at_ns, side="right"))]


def make_history(pod: str, *, service: str, channels: Iterable[str], at_ns: Iterable[int], states: Iterable[str]) -> PodHistory:
    """Return the history of one pod from its rows, which are in the order of time."""
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
    return PodHistory(pod, service, frozenset(channels), tuple(times), tuple(words), tuple(freezes))


def read_pod_histories(pods: pd.DataFrame, deliveries: pd.DataFrame) -> list[PodHistory]:
    """Return every pod of the pods table, then those that only deliveries name (never alive)."""
    pod, words = codes_of(pods["pod"])
    order = np.lexsort((pods["at_ns"].to_numpy(), pod))
    ordered = (pods[column].to_numpy()[order].tolist() for column in ("service", "channels", "state", "at_ns"))
    service, channels, state, at = ordered
    starts = np.flatnonzero(np.diff(pod[order], prepend=-1)).tolist()
    pod_histories = []
    for begin, end in pairwise([*starts, len(order)]):
        heard = frozenset(channel for listed in set(channels[begin:end]) for channel in listed.split(",") if channel)
        name = words[pod[order[begin]]]
        pod_histories.append(make_history(name, service=service[begin], channels=heard, at_ns=at[begin:end], states=state[begin:end]))
    known = {history.pod for history in pod_histories}
    return pod_histories + [PodHistory(pod) for pod in codes_of(deliveries["pod"])[1] if pod not in known]


def read_ways(publishes: pd.DataFrame, *, many_nodes: bool, transport: str) -> Array:
    """Return which way each publish went to the pods, as a number: what went one way keeps its order.

    One server is one way, but a stream keeps no order with another. In a cluster a sharded channel has its master, and a classic event
    comes through its publisher's node.
    """
    if transport == "streams":
        return codes_of(publishes["channel"])[0]
    if not many_nodes:
        return np.zeros(len(publishes), dtype=np.int32)
    return codes_of(publishes["channel" if transport == "sharded" else "publisher"])[0]
