"""Account for every copy of every event.

A *copy* is one event for one pod. It is **expected** when the pod's channels hold the event's channel and the pod was alive when the event
was sent (at its intended time, if it never left); or did hear it, and came alive before the answer (at any time, where none came: a link
may have held it; or where it is only one node's: the others of a cluster are told later), or lived for a part of the very nanosecond of the
sending, as in virtual time. An event that stands twice in `publishes` counts once, with its best outcome. On a transport that hands an
event to one pod of each service (`bus.transport = "streams"`) every pod of the service is expected to hear it all the same, and one that
came alive later may.

- **delivered**: the first delivery of an expected copy. **duplicate**: each further one to the same pod.
- **unexpected**: a delivery of an event that is not in `publishes`, to a pod that was not to hear it, or of an event that its
  publisher calls refused or never-sent.
- **unknown**: expected, not heard, not taken by a peer, and the publisher does not know whether it was published; or what the pod
  recorded was lost with its machine, so that nobody knows whether it was heard. Or, between machines, not heard, and whether it was
  expected, or why it is missing, turns on less than their clocks are known by (`sim.results.clock_doubt`).
- **missing**: every other expected copy that was not heard. It has one cause: what its publisher knew (never-sent,
  publish-refused, sent-in-memory-mode), else **taken-by-peer** (on such a transport: another pod of the service heard it, also when
  the publisher does not know whether it was published), else the *silent window* of the pod that [sent, acked] touches, else unexplained.

A **silent window** opens when the newest event was sent that the pod heard before its connection or its life ended (one
connection keeps its order: what was answered before that must have arrived), or at `starting`, and closes at `subscribed`.
The cause is **pod-down** when the pod ended in it, **cut** when the broker reported a buffer cut of the pod in it, **cut-link** as
far as a fault that loses what is on the pod's link explains it, else **deaf**. `sim.results.silent_windows` has the rules.

A cluster of several nodes has several **ways** to a pod, and only what came the same way proves anything: with `sharded` each channel is
one, else each publisher. What no silent window explains there is **not-whole** when [sent, acked] touches a fault on the broker.
Where the broker keeps events and hands each to one pod of a service, a channel is a way too, and what no silent window of the pod explains
may have been a peer's, or lost in the broker: **keys-lost** and **trimmed**, by the rules of `sim.results.handed_out`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np

from sim.record.reader import FOREVER_NS, Array, codes_in, codes_of
from sim.record.schema import CAUSES, FATES
from sim.results.clock_doubt import causes_in_doubt, own_error_ns, pod_error_ns, windows_in_doubt
from sim.results.handed_out import Absence, GroupBooks, forgets, read_absences
from sim.results.handling import handling_of
from sim.results.heard import Deliveries, HeardRows, InMemory, SortedFiles
from sim.results.pod_histories import SilentWindow, read_ways
from sim.results.run_tables import RunTables
from sim.results.silent_windows import PodFault, read_windows

FATE = {word: code for code, word in enumerate(FATES)}
CAUSE = {word: code for code, word in enumerate(("", *CAUSES))}
KNOWN_CAUSE = {"never-sent": "never-sent", "refused": "publish-refused", "memory": "sent-in-memory-mode"}
STREAM_MAX_LEN = 100_000  # where an old run's scenario does not say
OUTCOME = {word: rank for rank, word in enumerate(("acknowledged", "unknown", "memory", "refused", "never-sent"))}  # best first


class Copies(NamedTuple):
    """Every copy, one entry each: the compact form of `Run.ledger`.

    Pod by pod; of a pod first what it heard, in that order, then what it did not hear. `publish` and `delivery` are row
    numbers, -1 for none; `pod` numbers `Run.pod_histories`; `fate` and `cause` are codes of `FATE` and `CAUSE`.
    """

    publish: Array
    delivery: Array
    pod: Array
    fate: Array
    cause: Array


@dataclass(frozen=True)
class CopyIndex:
    """Events by key and deliveries by pod, with one more entry in each event column for "nobody published it"."""

    row: Array
    channel: Array
    outcome: Array
    due_ns: Array
    sent_ns: Array
    answered_ns: Array
    heard: Deliveries
    cuts: dict[str, list[int]]
    faults: list[PodFault]
    hurt: list[SilentWindow]  # faults on the broker
    way: Array  # of each event: events of one way keep their order
    heard_by: dict[str, Array]  # service -> which events some pod of it heard from the broker; empty where each pod has its own copy
    channels: list[str]  # the words of the channels
    clock: Array  # of each event: the number of the clock that it was sent by; empty where all clocks are one
    bound_ns: Array  # of each event, against the run's clock; empty there too
    groups: dict[tuple[str, int], GroupBooks] = field(default_factory=dict)  # of services and ways, as they were asked for


def make_index(run: RunTables, *, in_memory: bool = False) -> CopyIndex:
    """Return where each event and each pod's deliveries stand, and what may explain a loss.

    Parameters
    ----------
    in_memory
        Whether deliveries stay in memory however many they are.
    """
    publishes, broker = run.publishes, run.broker
    key, outcome = publishes["event"].to_numpy(), codes_in(publishes["outcome"], OUTCOME)
    order = np.lexsort((outcome, key))
    row = order[np.diff(key[order], prepend=~key[order[:1]]) != 0].astype(np.int32)
    sent, intended = publishes["sent_ns"].to_numpy()[row], publishes["intended_ns"].to_numpy()[row]
    left = (outcome[row] < OUTCOME["refused"]) & (sent > 0)
    channel, channels = codes_of(publishes["channel"])
    names = {history.pod: number for number, history in enumerate(run.pod_histories)}
    table = None if in_memory else run.many_deliveries
    heard: Deliveries
    if table is None:
        heard = InMemory(run.deliveries, keys=key[row], names=names)
    else:
        heard = SortedFiles(table, keys=key[row], names=names, at_most=_most_copies(run, channel[row], channels))
    cuts = broker[(broker["metric"] == "buffer_cuts") & (broker["value"] > 0)]
    clock, bound_ns = _clocks_of(run, row)
    faults = [PodFault(f["fault"], f["begin_ns"], f["end_ns"] or FOREVER_NS, frozenset(f["target"].split(","))) for f in run.felt_faults()]
    return CopyIndex(
        row=np.append(row, np.int32(-1)),
        channel=np.append(channel[row], -1),
        outcome=np.append(outcome[row], -1),
        due_ns=np.append(np.where(left, sent, intended), 0),
        sent_ns=np.append(sent, 0),
        answered_ns=np.append(np.maximum(publishes["acked_ns"].to_numpy()[row], sent), 0),
        heard=heard,
        cuts={str(name): sorted(rows["at_ns"]) for name, rows in cuts.groupby("subject")} if len(cuts) else {},
        faults=faults,
        hurt=list(_hurt(faults, many_nodes=run.many_nodes)),
        way=np.append(read_ways(publishes, many_nodes=run.many_nodes, transport=run.transport)[row], -1),
        heard_by=_heard_by_service(run, heard, len(row) + 1) if run.one_per_service else {},
        channels=channels,
        clock=clock,
        bound_ns=bound_ns,
    )


def _most_copies(run: RunTables, channel: Array, channels: Sequence[str]) -> list[int]:
    """Return of how many events each pod can be expected to have a copy."""
    many = np.bincount(channel, minlength=len(channels)).tolist()
    return [sum(events for word, events in zip(channels, many, strict=True) if word in one.channels) for one in run.pod_histories]


def _clocks_of(run: RunTables, row: Array) -> tuple[Array, Array]:
    """Return `CopyIndex.clock` and `CopyIndex.bound_ns`."""
    if not run.clocks.differ:
        return np.array([], dtype=np.int16), np.array([], dtype=np.int64)
    clock, bound = (np.append(run.publishes[column].to_numpy()[row], 0) for column in ("clock", "bound_ns"))
    return clock, bound


def _hurt(faults: Sequence[PodFault], *, many_nodes: bool) -> Iterator[SilentWindow]:
    """Yield the times in which the broker itself may have lost what it took, where no pod's silence explains it."""
    for fault in faults:
        if many_nodes and "broker" in fault.pods:
            yield SilentWindow(fault.begin_ns, fault.end_ns, "not-whole")


def _heard_by_service(run: RunTables, deliveries: Deliveries, events: int) -> dict[str, Array]:
    found = {history.service: np.zeros(events, dtype=bool) for history in run.pod_histories}
    for pods in deliveries.pieces:
        heard = deliveries.of(pods)
        for pod in pods:
            rows = heard.rows(pod)
            found[run.pod_histories[pod].service][heard.event_of[rows[heard.proves[rows]]]] = True
    return found


def account(run: RunTables, index: CopyIndex, heard: HeardRows) -> Copies:
    """Return every copy of some pods with its fate: pod by pod, so that memory beyond the result is that of one pod's cells."""
    pods = [_account_pod(run, index, heard, number) for number in heard.pods]
    empty = np.array([], dtype=np.int32)
    publish, delivery, fate, cause = (np.concatenate([empty, *column]) for column in zip(*pods, strict=True)) if pods else (empty,) * 4
    pod = np.repeat(np.array(heard.pods, dtype=np.int16), [len(columns[0]) for columns in pods])
    return Copies(publish, delivery, pod, fate.astype(np.int8), cause.astype(np.int8))


def _account_pod(run: RunTables, index: CopyIndex, heard: HeardRows, pod: int) -> tuple[Array, Array, Array, Array]:
    history = run.pod_histories[pod]
    rows = heard.rows(pod)
    event = heard.event_of[rows]
    wanted = np.array([*(word in history.channels for word in index.channels), False])[index.channel]
    expected = wanted & history.alive(index.due_ns)
    possible = wanted & (index.outcome < OUTCOME["refused"])
    meant = (expected & possible)[event]
    doubted, maybe = _expected_in_doubt(run, index, pod, wanted) if run.clocks.differ else (np.zeros(0, dtype=bool), expected)
    late = np.flatnonzero(~meant & possible[event])
    came, was = history.alive(index.answered_ns[event[late]]), history.alive_about(index.due_ns[event[late]]) | maybe[event[late]]
    late = late[came | was | run.one_per_service | run.handed_on | (index.outcome[event[late]] == OUTCOME["unknown"])]
    meant[late] = expected[event[late]] = True
    first = np.full(len(index.row), -1, dtype=np.int32)
    first[event[meant][::-1]] = rows[meant][::-1]  # written backwards, so that the first delivery wins
    fate = np.where(meant, np.where(first[event] == rows, FATE["delivered"], FATE["duplicate"]), FATE["unexpected"])
    lost = np.flatnonzero((expected | maybe) & (first < 0))
    cause_of = np.array([CAUSE[KNOWN_CAUSE.get(word, "unexplained")] for word in OUTCOME])
    taken = index.heard_by[history.service][lost] & possible[lost] if run.one_per_service else np.zeros(len(lost), dtype=bool)
    unknown = ((index.outcome[lost] == OUTCOME["unknown"]) | (run.unrecorded_pods[pod] & possible[lost])) & ~taken
    cause = np.where(unknown, CAUSE[""], cause_of[index.outcome[lost]])
    cause[taken] = CAUSE["taken-by-peer"]
    sent, answered = index.sent_ns[lost], index.answered_ns[lost]
    for way in np.unique(index.way[lost[cause == CAUSE["unexplained"]]]).tolist():
        for window in silent_windows(run, index, pod, way):
            here = window.touches(sent, answered) & (index.way[lost] == way)
            cause[here & (cause == CAUSE["unexplained"])] = CAUSE[window.cause]
        left = (cause == CAUSE["unexplained"]) & (index.way[lost] == way)
        if run.one_per_service and left.any():
            words = _group(run, index, history.service, way).causes(sent[left], answered[left], of_pod=pod)
            cause[left] = [CAUSE[word or "unexplained"] for word in words]
    for window in index.hurt:
        cause[window.touches(sent, answered) & (cause == CAUSE["unexplained"])] = CAUSE[window.cause]
    if run.clocks.differ:
        searched = ~unknown & ~taken & (cause_of[index.outcome[lost]] == CAUSE["unexplained"])
        unknown |= (doubted[lost] & ~taken) | (searched & _cause_in_doubt(run, index, pod, lost, searched))
        cause[unknown] = CAUSE[""]
    lost_fate = np.where(unknown, FATE["unknown"], FATE["missing"])
    none = np.full(len(lost), -1, dtype=np.int32)
    publish = np.concatenate([index.row[event], index.row[lost]])
    return publish, np.concatenate([rows, none]), np.concatenate([fate, lost_fate]), np.concatenate([fate * 0, cause])


def _expected_in_doubt(run: RunTables, index: CopyIndex, pod: int, wanted: Array) -> tuple[Array, Array]:
    """Return for each event whether nobody knows if a pod was to hear it, and whether it may have been."""
    error_ns, due_ns = pod_error_ns(run, run.pod_histories[pod].pod, index.clock, index.bound_ns), index.due_ns
    some, all_of_it = run.pod_histories[pod].alive_in(due_ns - error_ns, due_ns + error_ns)
    return wanted & some & ~all_of_it, wanted & some


def _cause_in_doubt(run: RunTables, index: CopyIndex, pod: int, lost: Array, searched: Array) -> Array:
    """Return for each lost event whether its cause turns on less than the clocks are known by; only of those whose cause was searched."""
    found = np.zeros(len(lost), dtype=bool)
    sent, answered = index.sent_ns[lost], index.answered_ns[lost]
    error_ns = index.bound_ns[lost] + run.clocks.worst_ns
    for way in np.unique(index.way[lost[searched]]).tolist():
        here = np.flatnonzero(searched & (index.way[lost] == way))
        windows = silent_windows(run, index, pod, way) + index.hurt
        found[here] = windows_in_doubt(windows, sent[here], answered[here], error_ns[here])
        if run.one_per_service and len(here):
            books = _group(run, index, run.pod_histories[pod].service, way)
            found[here] |= causes_in_doubt(partial(books.causes, of_pod=pod), sent[here], answered[here], error_ns[here])
    return found


def silent_windows(run: RunTables, index: CopyIndex, pod: int, way: int) -> list[SilentWindow]:
    """Return the times in which a pod could not hear what came one way, see the module; `pod` numbers `run.pod_histories`."""
    history = run.pod_histories[pod]
    received_ns, sent_ns = _heard_one_way(index, pod, way)
    return read_windows(
        history,
        received_ns=received_ns,
        sent_ns=sent_ns,
        cuts_ns=index.cuts.get(history.pod, ()),
        faults=[fault for fault in index.faults if history.pod in fault.pods],
        drain_ns=_drain_ns(run),
        is_slow=handling_of(run.scenario.get("services", {}).get(history.service, {})).takes_time,
        error_ns=own_error_ns(run, history.pod),
    )


def _drain_ns(run: RunTables) -> int:
    """Return when the drain began."""
    return int(run.phases.get("drain", (FOREVER_NS, 0))[0])


def _heard_one_way(index: CopyIndex, pod: int, way: int) -> tuple[Array, Array]:
    """Return when a pod received what came one way, which never falls, and when that was sent."""
    heard = index.heard.of_pod(pod)
    rows = heard.rows(pod)
    rows = rows[heard.proves[rows] & (index.way[heard.event_of[rows]] == way)]
    received = np.maximum.accumulate(heard.received_ns[rows])
    return received, index.sent_ns[heard.event_of[rows]]


def _group(run: RunTables, index: CopyIndex, service: str, way: int) -> GroupBooks:
    """Return what is known of one service's group on one channel, worked out once."""
    if (service, way) in index.groups:
        return index.groups[service, way]
    absences: dict[int, Sequence[Absence]] = {}
    received: list[Array] = [np.array([], dtype=np.int64)]
    sent: list[Array] = [np.array([], dtype=np.int64)]
    for number, history in enumerate(run.pod_histories):
        if history.service == service:
            received_ns, sent_ns = _heard_one_way(index, number, way)
            absences[number] = read_absences(history, received_ns=received_ns, sent_ns=sent_ns, drain_ns=_drain_ns(run))
            received.append(received_ns)
            sent.append(sent_ns)
    added = (index.way == way) & (index.outcome < OUTCOME["memory"]) & (index.sent_ns > 0)
    books = index.groups[service, way] = GroupBooks(
        absences,
        forgets(index.faults),
        np.concatenate(received),
        np.concatenate(sent),
        index.sent_ns[added],
        index.answered_ns[added],
        int(run.scenario["bus"].get("stream_max_len", STREAM_MAX_LEN)),
    )
    return books
