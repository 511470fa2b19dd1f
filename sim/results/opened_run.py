"""Open a run folder: its tables, the ledger of every copy, the story of one event.

A *copy* is one event for one pod. It is **expected** when the pod's channels hold the event's channel and the pod was alive
when the event was sent (at its intended time, if it never left), or came alive before the answer and did hear it. An event
that stands twice in `publishes` counts once, with its best outcome. On a transport that hands an event to one pod of each service
(`bus.transport = "streams"`) every pod of the service is expected to hear it all the same, and one that came alive later may.

- **delivered**: the first delivery of an expected copy. **duplicate**: each further one to the same pod.
- **unexpected**: a delivery of an event that is not in `publishes`, to a pod that was not to hear it, or of an event that its
  publisher calls refused or never-sent.
- **unknown**: expected, not heard, not taken by a peer, and the publisher does not know whether it was published.
- **missing**: every other expected copy that was not heard. It has one cause: what its publisher knew (never-sent,
  publish-refused, sent-in-memory-mode), else **taken-by-peer** (on such a transport: another pod of the service heard it, also when
  the publisher does not know whether it was published), else the *silent window* of the pod that [sent, acked] touches, else unexplained.

A **silent window** opens when the newest event was sent that the pod heard before its connection or its life ended (one
connection keeps its order: what was answered before that must have arrived), or at `starting`, and closes at `subscribed`.
The cause is **pod-down** when the pod ended in it, **cut** when the broker reported a buffer cut of the pod in it, **cut-link** as
far as a fault that loses what is on the pod's link explains it, else **deaf**. `sim.results.silent_windows` has the rules.

A cluster of several nodes has several **ways** to a pod, and only what came the same way proves anything: with `sharded` each channel is
one, else each publisher. What no silent window explains there is **not-whole** when [sent, acked] touches a fault on the broker.
Where the broker keeps events, what was on its way while its keys were lost is **keys-lost**.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sim.errors import RunFolderError
from sim.record.reader import (
    FOREVER_NS,
    Array,
    categorical,
    check_sealed,
    codes_in,
    codes_of,
    gather,
    join_parts,
    positions,
    read_info,
    read_json,
    read_phases,
    read_scenario,
    read_table,
    take_rows,
)
from sim.record.schema import CAUSES, FATES, OUTCOMES, TABLES, event_id, event_key
from sim.results.pod_histories import PodHistory, SilentWindow, read_pod_histories, read_ways
from sim.results.silent_windows import DOWN_GRACE_NS, PodFault, read_windows

FATE = {word: code for code, word in enumerate(FATES)}
CAUSE = {word: code for code, word in enumerate(("", *CAUSES))}
KNOWN_CAUSE = {"never-sent": "never-sent", "refused": "publish-refused", "memory": "sent-in-memory-mode"}
OUTCOME = {word: rank for rank, word in enumerate(("acknowledged", "unknown", "memory", "refused", "never-sent"))}  # best first
ONE_PER_SERVICE = ("streams",)  # transports that hand an event to one pod of each service


class Copies(NamedTuple):
    """Hold one entry a copy: the compact form of `Run.ledger`.

    Pod by pod; of a pod first what it heard, in that order, then what it did not hear. `publish` and `delivery` are row
    numbers, -1 for none; `pod` numbers `Run.pod_histories`; `fate` and `cause` are codes of `FATE` and `CAUSE`.
    """

    publish: Array
    delivery: Array
    pod: Array
    fate: Array
    cause: Array


def _lazy(table: str) -> cached_property[pd.DataFrame]:
    return cached_property(lambda run: run._table(table))


class Run:
    """Give one run's tables, ledger and stories; made by `open_run`.

    `info`, `scenario`, `environment` are run.json, scenario.toml, environment.json as dicts; `slo` is the scenario's `[slo]`;
    `phases` maps a name to (start_ns, end_ns), in order; `sealed` is False when the run's process ended before it could join
    its tables (what it wrote is still read).
    """

    def __init__(self, folder: Path, *, info: dict[str, Any], scenario: dict[str, Any], environment: dict[str, Any]) -> None:
        self.folder, self.info, self.scenario, self.environment = folder, info, scenario, environment
        self.slo: dict[str, Any] = scenario.get("slo", {})
        self.sealed = "tables" in info and info["state"] != "running"
        self.phases = read_phases(info["phases"])
        self.unreadable_parts: list[str] = []

    deliveries, pods, faults, reads = _lazy("deliveries"), _lazy("pods"), _lazy("faults"), _lazy("reads")
    broker, hosts, probes, calls = _lazy("broker"), _lazy("hosts"), _lazy("probes"), _lazy("calls")

    @cached_property
    def publishes(self) -> pd.DataFrame:
        """One row a publish, with its phase by intended time."""
        rows = self._table("publishes")
        return rows.assign(phase=categorical(self.phase_codes(rows["intended_ns"].to_numpy()), list(self.phases) or [""]))

    @cached_property
    def pod_histories(self) -> list[PodHistory]:
        """Every pod of the pods table, then those that only deliveries name (never alive)."""
        return read_pod_histories(self.pods, self.deliveries)

    @property
    def one_per_service(self) -> bool:
        """Whether the transport hands an event to one pod of each service."""
        return self.transport in ONE_PER_SERVICE

    @property
    def transport(self) -> str:
        """How events travelled."""
        return str(self.scenario.get("bus", {}).get("transport", "pubsub"))

    @property
    def many_nodes(self) -> bool:
        """Whether the broker is a cluster of several nodes."""
        return int(self.info.get("nodes", 1)) > 1

    @cached_property
    def index(self) -> _Index:
        """Events by key and deliveries by pod."""
        return _make_index(self)

    @cached_property
    def copies(self) -> Copies:
        """Every copy with its fate and cause, see the module."""
        return _account(self)

    def _table(self, table: str) -> pd.DataFrame:
        whole, parts = self.folder / f"{table}.parquet", []
        if self.sealed or whole.exists():
            return read_table(whole, table)
        for part in sorted((self.folder / "parts").glob(f"{table}-*.parquet")):
            try:
                parts.append(read_table(part, table))
            except RunFolderError:
                self.unreadable_parts.append(part.name)
        empty = pd.DataFrame({c: pd.Series([], dtype="category" if kind == "name" else kind) for c, kind in TABLES[table].items()})
        return join_parts(parts) if parts else empty

    def phase(self, name: str) -> tuple[int, int] | None:
        """Return (start_ns, end_ns) of a phase, None when the run did not reach it."""
        return self.phases.get(name)

    def phase_codes(self, at_ns: Array) -> Array:
        """Return the number of the phase of each time; a gap belongs to the phase before it, what precedes all to the first."""
        starts = np.array([start for start, _ in self.phases.values()], dtype=np.int64)
        return np.maximum(np.searchsorted(starts, at_ns, side="right") - 1, 0).astype(np.int8)

    def copies_phase(self) -> Array:
        """Return the number of the phase of each of `copies`: of its event, or of its delivery when nobody published it."""
        publish, delivery = self.copies.publish, self.copies.delivery
        phases = take_rows(self.phase_codes(self.publishes["intended_ns"].to_numpy()), publish)
        foreign = publish < 0
        phases[foreign] = self.phase_codes(self.deliveries["received_ns"].to_numpy()[delivery[foreign]])
        return phases

    def ledger(self) -> pd.DataFrame:
        """Return one row a copy.

        Returns
        -------
        DataFrame
            event (key, see `schema.event_id`), channel, publisher, phase, pod, service, fate, cause (empty when none),
            lag_us (intended time to handler start, NaN when not heard), path. See the module for every word.
        """
        copies, publishes, deliveries = self.copies, self.publishes, self.deliveries
        published = copies.publish >= 0
        event = take_rows(publishes["event"].to_numpy(), copies.publish)
        event[~published] = deliveries["event"].to_numpy()[copies.delivery[~published]]
        handled_ns = take_rows(deliveries["handled_ns"].to_numpy(), copies.delivery)
        lag_ns = handled_ns - take_rows(publishes["intended_ns"].to_numpy(), copies.publish)
        services = sorted({history.service for history in self.pod_histories})
        service_of_pod = np.array([services.index(history.service) for history in self.pod_histories], dtype=np.int16)
        columns = {
            "event": event,
            "channel": gather(publishes["channel"], copies.publish),
            "publisher": gather(publishes["publisher"], copies.publish),
            "phase": categorical(self.copies_phase(), list(self.phases) or [""]),
            "pod": categorical(copies.pod, [history.pod for history in self.pod_histories]),
            "service": categorical(service_of_pod[copies.pod], services),
            "fate": categorical(copies.fate, list(FATE)),
            "cause": categorical(copies.cause, list(CAUSE)),
            "lag_us": np.where(published & (copies.delivery >= 0), lag_ns / 1e3, np.nan),
            "path": gather(deliveries["path"], copies.delivery),
        }
        return pd.DataFrame(columns, copy=False)

    def story(self, event: str) -> str:
        """Return the stations of one event's life, one a line, times relative to its intended time.

        Raises
        ------
        RunFolderError
            Nobody in this run published or heard the event.
        """
        return _story(self, event)


def open_run(path: str | Path) -> Run:
    """Open a run folder, sealed or not; `path` may be a link such as `latest`.

    Raises
    ------
    RunFolderError
        The folder is missing, is not a run folder, is of another format, or a table is missing, truncated or foreign.
    """
    if not Path(path).is_dir():
        raise RunFolderError(f"no run folder at {path}; look into reports/runs for those there are")
    folder = Path(path).resolve()
    if not (folder / "run.json").is_file():
        hint = f"did you mean {path}/latest?" if (folder / "latest").exists() else "give the folder that `buslab run` printed"
        raise RunFolderError(f"{path} is not a run folder, it holds no run.json; {hint}")
    environment = read_json(folder / "environment.json") if (folder / "environment.json").exists() else {}
    info = read_info(folder / "run.json")
    scenario = read_scenario(folder / "scenario.toml", promised=info.get("scenario_crc32"))
    run = Run(folder, info=info, scenario=scenario, environment=environment)
    for table in TABLES if run.sealed else ():
        check_sealed(folder / f"{table}.parquet", table, promised=run.info["tables"].get(table))
    return run


class _Index(NamedTuple):
    """Sort events by key and deliveries by pod, with one more entry in each event column for "nobody published it"."""

    row: Array
    channel: Array
    outcome: Array
    due_ns: Array
    sent_ns: Array
    answered_ns: Array
    event_of: Array  # of each delivery
    proves: Array  # of each delivery: it came through the broker and its event was published
    by_pod: Array
    bounds: Array
    cuts: dict[str, list[int]]
    faults: list[PodFault]
    hurt: list[SilentWindow]  # faults on the broker
    way: Array  # of each event: events of one way keep their order
    heard_by: dict[str, Array]  # service -> which events some pod of it heard from the broker; empty where each pod has its own copy


def _make_index(run: Run) -> _Index:
    publishes, deliveries, broker = run.publishes, run.deliveries, run.broker
    key, outcome = publishes["event"].to_numpy(), codes_in(publishes["outcome"], OUTCOME)
    order = np.lexsort((outcome, key))
    row = order[np.diff(key[order], prepend=~key[order[:1]]) != 0].astype(np.int32)
    sent, intended = publishes["sent_ns"].to_numpy()[row], publishes["intended_ns"].to_numpy()[row]
    left = (outcome[row] < OUTCOME["refused"]) & (sent > 0)
    names = {history.pod: number for number, history in enumerate(run.pod_histories)}
    pod = codes_in(deliveries["pod"], names)
    by_pod = np.argsort(pod, kind="stable").astype(np.int32)
    event_of = positions(key[row], deliveries["event"].to_numpy())
    proves = (event_of < len(row)) & (codes_in(deliveries["path"], {"broker": 1}) == 1)
    cuts = broker[(broker["metric"] == "buffer_cuts") & (broker["value"] > 0)]
    faults = [
        PodFault(f["fault"], f["begin_ns"], f["end_ns"] or FOREVER_NS, frozenset(f["target"].split(",")))
        for f in run.faults.to_dict("records")
    ]
    return _Index(
        row=np.append(row, np.int32(-1)),
        channel=np.append(codes_of(publishes["channel"])[0][row], -1),
        outcome=np.append(outcome[row], -1),
        due_ns=np.append(np.where(left, sent, intended), 0),
        sent_ns=np.append(sent, 0),
        answered_ns=np.append(np.maximum(publishes["acked_ns"].to_numpy()[row], sent), 0),
        event_of=event_of,
        proves=proves,
        by_pod=by_pod,
        bounds=np.searchsorted(pod[by_pod], np.arange(len(names) + 1)),
        cuts={str(name): sorted(rows["at_ns"]) for name, rows in cuts.groupby("subject", observed=True)},
        faults=faults,
        hurt=list(_hurt(faults, many_nodes=run.many_nodes, kept=run.one_per_service)),
        way=np.append(read_ways(publishes, many_nodes=run.many_nodes, transport=run.transport)[row], -1),
        heard_by=_heard_by_service(run, pod[proves], event_of[proves], len(row) + 1) if run.one_per_service else {},
    )


def _hurt(faults: Sequence[PodFault], *, many_nodes: bool, kept: bool) -> Iterator[SilentWindow]:
    """Give the times in which the broker itself may have lost what it took, where no pod's silence explains it."""
    for fault in faults:
        if many_nodes and "broker" in fault.pods:
            yield SilentWindow(fault.begin_ns, fault.end_ns, "not-whole")
        if kept and fault.fault == "keys_lost":  # what was kept and not read yet had come at most so long before
            yield SilentWindow(fault.begin_ns - DOWN_GRACE_NS, fault.end_ns, "keys-lost")


def _heard_by_service(run: Run, pod: Array, event: Array, events: int) -> dict[str, Array]:
    heard = {history.service: np.zeros(events, dtype=bool) for history in run.pod_histories}
    for number, history in enumerate(run.pod_histories):
        heard[history.service][event[pod == number]] = True
    return heard


def _account(run: Run) -> Copies:
    """Walk the pods one by one, so that memory beyond the result is that of one pod's cells."""
    pods = [_account_pod(run, number) for number in range(len(run.pod_histories))]
    empty = np.array([], dtype=np.int32)
    publish, delivery, fate, cause = (np.concatenate([empty, *column]) for column in zip(*pods, strict=True)) if pods else (empty,) * 4
    pod = np.repeat(np.arange(len(pods), dtype=np.int16), [len(columns[0]) for columns in pods])
    return Copies(publish, delivery, pod, fate.astype(np.int8), cause.astype(np.int8))


def _account_pod(run: Run, pod: int) -> tuple[Array, Array, Array, Array]:
    index, history = run.index, run.pod_histories[pod]
    rows = index.by_pod[index.bounds[pod] : index.bounds[pod + 1]]
    event = index.event_of[rows]
    wanted = np.array([*(word in history.channels for word in codes_of(run.publishes["channel"])[1]), False])[index.channel]
    expected = wanted & history.alive(index.due_ns)
    possible = wanted & (index.outcome < OUTCOME["refused"])
    meant = (expected & possible)[event]
    late = np.flatnonzero(~meant & possible[event])
    late = late[history.alive(index.answered_ns[event[late]]) | run.one_per_service]
    meant[late] = expected[event[late]] = True
    first = np.full(len(index.row), -1, dtype=np.int32)
    first[event[meant][::-1]] = rows[meant][::-1]  # written backwards, so the first delivery stays
    fate = np.where(meant, np.where(first[event] == rows, FATE["delivered"], FATE["duplicate"]), FATE["unexpected"])
    lost = np.flatnonzero(expected & (first < 0))
    cause_of = np.array([CAUSE[KNOWN_CAUSE.get(word, "unexplained")] for word in OUTCOME])
    taken = index.heard_by[history.service][lost] & possible[lost] if run.one_per_service else np.zeros(len(lost), dtype=bool)
    unknown = (index.outcome[lost] == OUTCOME["unknown"]) & ~taken
    cause = np.where(unknown, CAUSE[""], cause_of[index.outcome[lost]])
    cause[taken] = CAUSE["taken-by-peer"]
    sent, answered = index.sent_ns[lost], index.answered_ns[lost]
    for way in np.unique(index.way[lost[cause == CAUSE["unexplained"]]]).tolist():
        for window in silent_windows(run, pod, way):
            here = window.touches(sent, answered) & (index.way[lost] == way)
            cause[here & (cause == CAUSE["unexplained"])] = CAUSE[window.cause]
    for window in index.hurt:
        cause[window.touches(sent, answered) & (cause == CAUSE["unexplained"])] = CAUSE[window.cause]
    lost_fate = np.where(unknown, FATE["unknown"], FATE["missing"])
    none = np.full(len(lost), -1, dtype=np.int32)
    publish = np.concatenate([index.row[event], index.row[lost]])
    return publish, np.concatenate([rows, none]), np.concatenate([fate, lost_fate]), np.concatenate([fate * 0, cause])


def silent_windows(run: Run, pod: int, way: int) -> list[SilentWindow]:
    """Return the times in which a pod could not hear what came one way, see the module; `pod` numbers `run.pod_histories`."""
    index, history = run.index, run.pod_histories[pod]
    rows = index.by_pod[index.bounds[pod] : index.bounds[pod + 1]]
    rows = rows[index.proves[rows] & (index.way[index.event_of[rows]] == way)]
    return read_windows(
        history,
        received_ns=np.maximum.accumulate(run.deliveries["received_ns"].to_numpy()[rows]),
        sent_ns=index.sent_ns[index.event_of[rows]],
        cuts_ns=index.cuts.get(history.pod, ()),
        faults=[fault for fault in index.faults if history.pod in fault.pods],
        drain_ns=run.phases.get("drain", (FOREVER_NS, 0))[0],
    )


def _story(run: Run, event: str) -> str:
    key, copies, deliveries = np.uint64(event_key(event)), run.copies, run.deliveries
    rows, heard = (np.flatnonzero(table["event"].to_numpy() == key) for table in (run.publishes, deliveries))
    if not len(rows) + len(heard):
        meant = run.publishes[(run.publishes["phase"] == "run").to_numpy()]
        some = [event_id(int(one)) for table in (meant, run.publishes, deliveries) for one in table["event"][:1]]
        raise RunFolderError(f"no event {event!r} in {run.folder}; {f'one that is there: {some[0]}' if some else 'it holds no events'}")
    zero = int(run.publishes["intended_ns"].iloc[rows[0]] if len(rows) else deliveries["received_ns"].iloc[heard[0]])
    lines = [] if len(rows) else [f"{event}: nobody in this run published it; times from its first delivery"]
    for row in run.publishes.iloc[rows].to_dict("records"):
        lines += [f"{event}: {row['channel']} from {row['publisher']}, {row['items']} items, {row['bytes']} bytes, phase {row['phase']}"]
        lines += [f"{_at(row['intended_ns'], zero)} intended"]
        waited = f"{(row['intended_ns'] - row['first_item_ns']) / 1e3:,.0f} us"
        lines += [f"{'':>16} batched: {row['items']} items, the oldest waited {waited}"] if row["items"] > 1 else []
        lines += [f"{_at(row['sent_ns'], zero)} sent"] if row["sent_ns"] else []
        said = f"; PUBLISH said {row['receivers']} receivers" if row["receivers"] >= 0 else ""
        at = max(row["acked_ns"], row["sent_ns"]) or row["intended_ns"]
        lines += [f"{_at(at, zero)} {row['outcome']}: {OUTCOMES.get(row['outcome'], 'not a known outcome')}{said}"]
    for copy in np.flatnonzero(((copies.publish >= 0) & np.isin(copies.publish, rows)) | np.isin(copies.delivery, heard)):
        pod, fate = run.pod_histories[copies.pod[copy]].pod, list(FATE)[copies.fate[copy]]
        if copies.delivery[copy] >= 0:
            received, handled = deliveries[["received_ns", "handled_ns"]].iloc[copies.delivery[copy]]
            lines += [f"{_at(received, zero)} {pod} received, handled {_at(handled, zero).strip()}: {fate}"]
        else:
            lines += [f"{'':>16} {pod} {fate}{_evidence(run, int(copy), zero)}"]
    return "\n".join(lines)


def _evidence(run: Run, copy: int, zero_ns: int) -> str:
    cause, index = list(CAUSE)[run.copies.cause[copy]], run.index
    at = int(np.flatnonzero(index.row == run.copies.publish[copy])[0])
    windows = silent_windows(run, int(run.copies.pod[copy]), int(index.way[at])) + index.hurt
    touched = [window for window in windows if window.cause == cause and window.touches(index.sent_ns[at], index.answered_ns[at])]
    words = f", {cause}: {CAUSES[cause]}" if cause else ""
    return words + "".join(f" (silent from {_at(w.begin_ns, zero_ns).strip()} to {_at(w.end_ns, zero_ns).strip()})" for w in touched[:1])


def _at(at_ns: int, zero_ns: int) -> str:
    return "the end" if at_ns == FOREVER_NS else f"{(int(at_ns) - zero_ns) / 1e3:>+13,.0f} us"
