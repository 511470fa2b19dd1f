"""What became of an event that a consumer group was to hand to one pod of a service, and that no pod of it heard.

On a transport with such groups the broker keeps an event until some pod of the service has acknowledged it. So the silence of one pod
explains nothing by itself: it may be a peer that was given the event. Within a channel a group hands out in order, and one connection keeps
that order, therefore channel by channel:

- what the group had **given to a pod**, and the pod did not hear, came after the newest that it heard on that channel, and before its
  connection or its life ended (`Absence`). It gets it again when it is back, or a peer claims it. Neither can when the broker lost its
  memory meanwhile (a fault of `FORGETTING`): **keys-lost**; when the stream was trimmed meanwhile: **trimmed**; and nobody did by the end
  of the run when the pod never came back: **taken-by-peer**, for the pods that it was not given to.
- what had been **given to nobody** came after everything that any pod of the service had got. It is lost with the broker's keys
  (**keys-lost**), or when so many were added after it that the stream dropped it (**trimmed**).

Anything else stays unexplained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sim.record.reader import FOREVER_NS, Array
from sim.record.schema import ALIVE_STATES
from sim.results.pod_histories import PodHistory
from sim.results.silent_windows import PodFault

# Faults after which the broker has forgotten what it kept; the refusal of connections may end in a new server.
FORGETTING = frozenset(("broker_down", "broker_stop", "broker_failover", "connections_refused", "keys_lost", "pod_start_in_outage"))
KEYS_LOST = "keys_lost"  # the one of them in which the pods' connections stay


class Absence(NamedTuple):
    """A time from which a pod's connection was gone: what it was given since `since_ns` and did not hear waited for it until `back_ns`."""

    since_ns: int
    lost_ns: int
    back_ns: int


def read_absences(history: PodHistory, *, received_ns: Array, sent_ns: Array, drain_ns: int = FOREVER_NS) -> list[Absence]:
    """Return when a pod's connection or life had ended and it was not back yet, as seen from one channel.

    How all pods end in the drain is no absence: nothing was on its way any more, and it would excuse everything.

    Parameters
    ----------
    received_ns, sent_ns
        Of each event that the pod heard on the channel, in that order; `received_ns` never falls.
    drain_ns
        When the drain began.
    """
    newest = np.maximum.accumulate(sent_ns)
    absences: list[Absence] = []
    joined, away = 0, (0, 0)
    for at, state in zip(history.at_ns, history.states, strict=True):
        if state == "subscribed":
            absences += [Absence(*away, at)] if away[1] else []
            joined, away = (at if away[1] or not joined else joined), (0, 0)
        elif (state == "disconnected" or state not in ALIVE_STATES) and not away[1] and joined and at < drain_ns:
            last = int(np.searchsorted(received_ns, at, side="right")) - 1
            away = (max(joined, int(newest[last])) if last >= 0 else joined, at)
    return absences + ([Absence(*away, FOREVER_NS)] if away[1] else [])


@dataclass(frozen=True)
class GroupBooks:
    """What is known of one service's group on one channel.

    Attributes
    ----------
    absences
        Pod number -> its absences.
    forgets
        Faults of `FORGETTING`.
    heard_received_ns, heard_sent_ns
        Of what any pod of the service heard on the channel through the broker.
    added_sent_ns, added_answered_ns
        Of what was added to the channel, as far as anybody knows.
    max_len
        Entries that the stream keeps.
    """

    absences: Mapping[int, Sequence[Absence]]
    forgets: Sequence[PodFault]
    heard_received_ns: Array
    heard_sent_ns: Array
    added_sent_ns: Array
    added_answered_ns: Array
    max_len: int

    def causes(self, sent_ns: Array, answered_ns: Array, *, of_pod: int) -> Array:
        """Return why a pod did not hear events that nobody of its service heard, empty where nothing here says so."""
        found = np.full(len(sent_ns), "", dtype=object)
        trimmed_ns = self._trimmed_ns(sent_ns)
        _mark(found, trimmed_ns <= self._passed_ns(answered_ns), "trimmed")
        for fault in self.forgets:
            if fault.fault == KEYS_LOST:
                before = self.heard_sent_ns[self.heard_received_ns < fault.begin_ns]
                _mark(found, (answered_ns >= before.max(initial=0)) & (sent_ns <= fault.end_ns), "keys-lost")
        for pod, absences in self.absences.items():
            for absence in absences if pod != of_pod else ():
                given = (answered_ns >= absence.since_ns) & (sent_ns <= absence.lost_ns)
                for fault in self.forgets:
                    if fault.begin_ns <= absence.back_ns:
                        _mark(found, given & (sent_ns <= fault.end_ns), "keys-lost")
                _mark(found, given & (trimmed_ns <= absence.back_ns) & (trimmed_ns < FOREVER_NS), "trimmed")
                _mark(found, given & (absence.back_ns == FOREVER_NS), "taken-by-peer")
        return found

    def _trimmed_ns(self, sent_ns: Array) -> Array:
        """Return when each event can have been trimmed at the earliest: `max_len` had been added after it; `FOREVER_NS` for never."""
        surely_before = np.searchsorted(np.sort(self.added_answered_ns), sent_ns, side="left")
        added = np.sort(self.added_sent_ns)
        return np.append(added, FOREVER_NS)[np.minimum(surely_before + self.max_len, len(added))]

    def _passed_ns(self, answered_ns: Array) -> Array:
        """Return when any pod had got something that surely came after each event, so that it was no longer the group's to give."""
        order = np.argsort(self.heard_sent_ns)
        first = np.append(np.minimum.accumulate(self.heard_received_ns[order][::-1])[::-1], FOREVER_NS - 1)
        return first[np.searchsorted(self.heard_sent_ns[order], answered_ns, side="right")]


def _mark(found: Array, which: Array, cause: str) -> None:
    found[which & (found == "")] = cause


def forgets(faults: Iterable[PodFault]) -> list[PodFault]:
    """Return those of some faults after which the broker has forgotten what it kept."""
    return [fault for fault in faults if fault.fault in FORGETTING]
