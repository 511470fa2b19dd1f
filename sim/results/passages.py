"""Which processes a copy passes on its way, and what was withheld from them meanwhile (`sim.results.withheld`).

A copy passes its publisher's process, the servers of ours, the proxy, and its pod's process. What is behind keeps others waiting: while
copies of one pod, or events of one publisher, queue without a gap, a later one is late by at least what made the one before it late.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from sim.record.reader import Array, codes_of
from sim.results.opened_run import Run
from sim.results.withheld import Withheld, hosts_of_pods

FASTEST_NS = 50_000  # no copy comes from one process through a server to another in less
SECOND_NS = 1_000_000_000

_Hosts = tuple[str, ...]


class Passages:
    """The ways of a run's copies through its processes."""

    def __init__(self, run: Run, withheld: Withheld) -> None:
        self._withheld, self._publishes = withheld, run.publishes
        by_pod, generators = hosts_of_pods(run), tuple(run.info.load.generators)
        self._of_pod: list[_Hosts] = [tuple(by_pod.get(history.pod, ())) for history in run.pod_histories]
        self.publisher, words = codes_of(run.publishes["publisher"])
        self._of_publisher: list[_Hosts] = [by_publisher(word, by_pod, generators) for word in words]

    def to_pods(self, publish: Array, pod: Array, begin_ns: Array, end_ns: Array) -> Array:
        """Return at most what was withheld in each interval from what carries an event (a row of `publishes`) to a pod."""
        found = np.zeros(len(publish), dtype=np.int64)
        for senders, sent in _groups(self._of_publisher, self.publisher[publish]):
            for hearers, heard in _groups(self._of_pod, pod):
                rows = np.flatnonzero(sent & heard)
                found[rows] = self._withheld.over((*senders, *self._withheld.servers, *hearers), begin_ns[rows], end_ns[rows])
        return found

    def to_servers(self, publish: Array, begin_ns: Array, end_ns: Array) -> Array:
        """Return at most what was withheld in each interval from an event's publisher and the servers."""
        found = np.zeros(len(publish), dtype=np.int64)
        for senders, sent in _groups(self._of_publisher, self.publisher[publish]):
            rows = np.flatnonzero(sent)
            found[rows] = self._withheld.over((*senders, *self._withheld.servers), begin_ns[rows], end_ns[rows])
        return found

    def sending(self) -> Array:
        """Return at most by how much each of `publishes` was sent late because of what was withheld."""
        return self._sending

    @cached_property
    def _sending(self) -> Array:
        publishes = self._publishes
        intended, sent = publishes["intended_ns"].to_numpy(), publishes["sent_ns"].to_numpy()
        done = np.maximum(publishes["acked_ns"].to_numpy(), sent)  # 0 of what never left: nobody waits behind it
        lost = self.to_servers(np.arange(len(publishes)), intended, done)
        late: Array = np.where(sent > intended, handed_on(self.publisher, intended, done, lost), 0)
        bounded: Array = np.minimum(late, np.maximum(sent - intended, 0))
        return bounded

    def arriving(self, publish: Array, pod: Array, end_ns: Array) -> Array:
        """Return at most how much of the time from an event's intended time to what a pod did with it at `end_ns` was withheld."""
        begin = self._publishes["intended_ns"].to_numpy()[publish]
        own = handed_on(pod, begin, end_ns, self.to_pods(publish, pod, begin, end_ns))
        bounded: Array = np.minimum(np.maximum(own, self.sending()[publish]), np.maximum(end_ns - begin, 0))
        return bounded


def by_publisher(publisher: str, by_pod: dict[str, list[str]], generators: _Hosts) -> _Hosts:
    """Return the processes that may hold a publisher: its pod's, or the generator's, of which nobody wrote down which."""
    return tuple(by_pod.get(publisher, generators))


def _groups(hosts: list[_Hosts], codes: Array) -> list[tuple[_Hosts, Array]]:
    """Return each set of processes, and which rows it is about."""
    wanted: dict[_Hosts, list[int]] = {}
    for code in np.unique(codes).tolist():
        wanted.setdefault(hosts[code], []).append(code)
    return [(names, np.isin(codes, its)) for names, its in wanted.items()]


def excusable(times_ns: Array, lost_ns: Array, *, limit_ns: float) -> Array:
    """Return which times are beyond the limit and would not have been, had none of what they lost been withheld."""
    if limit_ns < FASTEST_NS:
        return np.zeros(len(times_ns), dtype=bool)
    found: Array = (times_ns > limit_ns) & (times_ns - lost_ns <= limit_ns)
    return found


def kept_at_best(times_ns: Array, lost_ns: Array, begin_ns: Array, *, limit_ns: float, withheld: Withheld) -> Array:
    """Return times with those within the limit that would have been, had nothing been withheld; what was withheld is given out once.

    A time may lose all that its processes were withheld meanwhile. But times that do not overlap lose different parts of that: second by
    second what was withheld goes first to those of which it brings the most within the limit. Nothing is faster than `FASTEST_NS`.

    Parameters
    ----------
    times_ns, begin_ns
        How long each took, from when on.
    lost_ns
        The most that each of them lost.
    """
    excused = np.flatnonzero(excusable(times_ns, lost_ns, limit_ns=limit_ns))
    excused = excused[np.argsort(begin_ns[excused], kind="stable")]
    if not len(excused):
        return times_ns
    begin, end = begin_ns[excused], begin_ns[excused] + times_ns[excused]
    reach = np.maximum.accumulate(end)
    together = np.cumsum(np.append(True, begin[1:] > reach[:-1])) - 1
    first = np.flatnonzero(np.append(True, np.diff(together) > 0))
    need = np.maximum.reduceat(times_ns[excused] - limit_ns, first)
    second = np.maximum.reduceat(end, first) // SECOND_NS
    kept = np.zeros(len(first), dtype=bool)
    dearness = need / np.bincount(together)
    for one in np.unique(second).tolist():
        mine = np.flatnonzero(second == one)
        mine = mine[np.argsort(dearness[mine], kind="stable")]
        kept[mine] = np.cumsum(need[mine]) <= withheld.total(int(begin[first[mine]].min()), (one + 1) * SECOND_NS)
    times = times_ns.copy()
    rows = excused[kept[together]]
    times[rows] = np.minimum(times[rows], int(limit_ns))
    return times


def handed_on(group: Array, begin_ns: Array, end_ns: Array, lost_ns: Array) -> Array:
    """Return what each interval lost, and at least what the one before it lost where that ended after this one began.

    Parameters
    ----------
    group
        Whose queue each stands in; within a queue they are done in the order of `end_ns`.
    """
    if not len(group):
        return lost_ns
    order = np.lexsort((end_ns, group))
    begin, lost = begin_ns[order], lost_ns[order]
    alone = np.append(True, (np.diff(group[order]) != 0) | (end_ns[order][:-1] <= begin[1:]))
    queue = np.cumsum(alone) * (int(lost.max()) + 1)
    found = np.empty_like(lost_ns)
    found[order] = np.maximum.accumulate(lost + queue) - queue
    return found
