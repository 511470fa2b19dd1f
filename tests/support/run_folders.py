"""Build synthetic run folders whose every copy is known, so that a test can say what a judge must find.

The plan is plain: pods subscribe at second 1, the run lasts from second 10 to 20, every publisher sends one event a millisecond and
every pod hears it 200 us after it was sent. A test then plants what it wants: `drop`, `repeat`, `swap`, `delay`, `foreign`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sim.machine.waits import Waits
from sim.record.recorder import Recorder, seal_tables, write_table
from sim.record.run_info import LoadInfo, Phase, RunInfo
from sim.record.schema import FORMAT, OPTIONAL, TABLES, TIMES, compose_key, event_id, source_of
from sim.results.books import keep_books
from sim.results.copies import Copies
from sim.results.opened_run import Run, open_run
from sim.results.pieces import Piece, Pieces
from sim.results.service_books import ServiceBooks

SECOND = 1_000_000_000
MS = 1_000_000
US = 1_000
NONCE = 7
HOSTS_REQUIRED = [column for column in TABLES["hosts"] if column not in OPTIONAL["hosts"]]
PHASES = {"provision": (0, 1), "start": (1, 8), "probe": (8, 9), "warm-up": (9, 10), "run": (10, 20), "drain": (20, 22)}
RUN_NS = 10 * SECOND


@dataclass
class Event:
    """One row of `publishes`."""

    key: int
    channel: str
    publisher: str
    intended_ns: int
    sent_ns: int
    acked_ns: int
    items: int = 1
    size: int = 300
    first_item_ns: int = 0
    outcome: str = "acknowledged"
    receivers: int = -1
    subject: str = ""
    stamped_ns: int = 0

    @property
    def id(self) -> str:
        return event_id(self.key)


@dataclass
class Heard:
    """One row of `deliveries`."""

    key: int
    pod: str
    received_ns: int
    handled_ns: int
    path: str = "broker"
    outcome: str = "handled"


def synthetic_info() -> RunInfo:
    """Return what a complete run of these folders says of itself."""
    return RunInfo(
        format=FORMAT,
        scenario="synthetic",
        ground="embedded",
        nodes=1,
        seed=1,
        driver="locust",
        nonce=NONCE,
        state="complete",
        reason="",
        started_at="2026-01-01T00:00:00Z",
        wall_offset_ns=0,
        phases=[Phase(name, begin * SECOND, end * SECOND) for name, (begin, end) in PHASES.items()],
        load=LoadInfo(),
        fleet="ours",
        notes=[],
        recovered=True,
    )


@dataclass
class RunFolder:
    """A run folder in the making: pods, events and deliveries, and the faults planted into them."""

    folder: Path
    slo: dict[str, Any] = field(default_factory=dict)
    info: RunInfo = field(default_factory=synthetic_info)
    load: LoadInfo | None = None  # by default derived from the events
    pods: dict[str, tuple[str, str]] = field(default_factory=dict)
    beliefs: dict[tuple[str, int], str] = field(default_factory=dict)
    clocks: dict[tuple[str, int], int] = field(default_factory=dict)
    states: list[tuple[str, int, str]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    calls: list[tuple[int, str, str, int, str]] = field(default_factory=list)
    reads: list[tuple[int, str, str, int, str]] = field(default_factory=list)
    reads_per_s: float = 0.0
    faults: list[tuple[str, str, int, int]] = field(default_factory=list)
    probes: list[tuple[int, str, str, int, str]] = field(default_factory=list)
    keys: list[tuple[int, str, int, str]] = field(default_factory=list)
    identities: list[tuple[int, int]] = field(default_factory=list)
    ahead_ns: dict[str, int] = field(default_factory=dict)
    known: dict[str, tuple[int, int]] = field(default_factory=dict)
    scenario: str = ""
    broker: list[tuple[int, str, str, float]] = field(default_factory=list)
    hosts: list[tuple[Any, ...]] | None = None
    sequences: dict[str, int] = field(default_factory=dict)
    cpu_share: dict[str, float] = field(default_factory=dict)
    numsub: bool = True
    title: str = ""
    transport: str = "pubsub"
    bus: dict[str, Any] = field(default_factory=dict)

    def pod(self, name: str, *, service: str = "web", channels: str = "config.updated", end_ns: int = 30 * SECOND) -> RunFolder:
        """Add a pod that lives from second 1 to the end."""
        self.pods[name] = (service, channels)
        self.states += [(name, SECOND, "starting"), (name, SECOND + MS, "subscribed"), (name, end_ns, "stopped")]
        return self

    def service(self, name: str, *, replicas: int, channels: str = "config.updated") -> RunFolder:
        """Add the pods name-0, name-1, …"""
        for number in range(replicas):
            self.pod(f"{name}-{number}", service=name, channels=channels)
        return self

    def state(self, pod: str, at_ns: int, state: str, bus: str = "") -> RunFolder:
        """Add a change of a pod's state, before its end, and of what it believes: by default what goes with the state."""
        self.states.append((pod, at_ns, state))
        if bus:
            self.beliefs[pod, at_ns] = bus
        return self

    def end(self, pod: str, at_ns: int, state: str = "aborted") -> RunFolder:
        """Move a pod's end."""
        self.states = [row for row in self.states if not (row[0] == pod and row[2] in ("stopped", "aborted"))]
        return self.state(pod, at_ns, state)

    def event(self, at_ns: int, *, channel: str = "config.updated", publisher: str = "locust-0", **columns: Any) -> Event:
        """Add one event; nobody hears it unless `hear` adds that."""
        sequence = self.sequences[publisher] = self.sequences.get(publisher, -1) + 1
        number = list(self.sequences).index(publisher)
        key = compose_key(nonce=NONCE, publisher=number, sequence=sequence)
        times = {"intended_ns": at_ns, "sent_ns": at_ns + 50 * US, "acked_ns": at_ns + 150 * US} | columns
        event = Event(key=key, channel=channel, publisher=publisher, **times)
        self.events.append(event)
        return event

    def key(self, event: Event, *keys: str) -> RunFolder:
        """Add the business keys of an event's calls."""
        self.keys += [(event.key, event.channel, place, key) for place, key in enumerate(keys)]
        return self

    def hear(self, event: Event, pod: str, *, lag_ns: int = 250 * US, **columns: Any) -> Heard:
        """Add that a pod heard an event so long after its intended time."""
        at = event.intended_ns + lag_ns
        row = Heard(event.key, pod, at - 10 * US, at, **columns)
        self.heard.append(row)
        return row

    def publish(self, count: int, *, start_ns: int = RUN_NS, step_ns: int = MS, lag_ns: int = 250 * US, **columns: Any) -> list[Event]:
        """Add events that every pod on their channel hears."""
        events = [self.event(start_ns + n * step_ns, **columns) for n in range(count)]
        for event in events:
            pods = [pod for pod, (_, channels) in self.pods.items() if event.channel in channels.split(",")]
            event.receivers = len(pods)
            for pod in pods:
                self.hear(event, pod, lag_ns=lag_ns)
        return events

    def _row(self, event: Event, pod: str) -> int:
        return next(n for n, row in enumerate(self.heard) if row.key == event.key and row.pod == pod)

    def drop(self, event: Event, pod: str) -> RunFolder:
        """Lose one copy."""
        del self.heard[self._row(event, pod)]
        return self

    def repeat(self, event: Event, pod: str, *, times: int = 1) -> RunFolder:
        """Add that a pod heard an event again, right after the first time."""
        at = self._row(event, pod)
        for _ in range(times):
            self.heard.insert(at, self.heard[at])
        return self

    def swap(self, first: Event, second: Event, pod: str) -> RunFolder:
        """Swap two events in the order in which a pod heard them."""
        a, b = self._row(first, pod), self._row(second, pod)
        one, two = self.heard[a], self.heard[b]
        one.key, two.key = two.key, one.key
        one.received_ns, one.handled_ns = two.received_ns, two.handled_ns  # nobody hears an event before it is sent
        return self

    def delay(self, event: Event, pod: str, by_ns: int) -> RunFolder:
        """Make a pod hear and handle an event later."""
        row = self.heard[self._row(event, pod)]
        row.received_ns, row.handled_ns = row.received_ns + by_ns, row.handled_ns + by_ns
        return self

    def clock(self, process: str, *, ahead_ns: int, wrong_ns: int = 0, bound_ns: int = 10 * US) -> RunFolder:
        """Let a process read a clock that is ahead of the run's: `h0`, which has the pods, or `locust`, which publishes.

        The table `clocks` says that it is by `wrong_ns` more, and that this is known to `bound_ns`.
        """
        self.ahead_ns[process] = ahead_ns
        self.known[process] = (ahead_ns + wrong_ns, bound_ns)
        return self

    def read(self, pod: str, subject: str, at_ns: int, *, loaded_ns: int | None = None) -> RunFolder:
        """Add that a pod read a cache key: a copy loaded earlier, or by default a miss, loaded now."""
        self.reads.append((at_ns, pod, subject, at_ns if loaded_ns is None else loaded_ns, "miss" if loaded_ns is None else "hit"))
        return self

    def foreign(self, key: int, pod: str, *, at_ns: int = RUN_NS + SECOND) -> RunFolder:
        """Add that a pod heard an event that nobody published."""
        self.heard.append(Heard(key, pod, at_ns, at_ns + 10 * US))
        return self

    def write(self, *, state: str = "complete", seal: bool = True, parts: int = 1) -> Path:
        """Write the folder and return it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_parts(parts)
        offered = sum(event.items for event in self.events if event.intended_ns >= PHASES["warm-up"][0] * SECOND)
        self.info.state, self.info.reason = state, "" if state in ("complete", "running") else "Ctrl-C"
        self.info.load = self.load or LoadInfo(offered_calls=offered, generators=["locust"])
        self.info.tables = seal_tables(self.folder) if seal else None
        (self.folder / "run.json").write_text(json.dumps(msgspec.to_builtins(self.info)))  # no checksum: tests edit it
        (self.folder / "environment.json").write_text(json.dumps({"python": "3.11", "redis": "7.4"}))
        slo = "".join(f"{key} = {value}\n" for key, value in self.slo.items())
        title = json.dumps(self.title)
        bus = "".join(f"{key} = {json.dumps(value)}\n" for key, value in ({"transport": self.transport} | self.bus).items())
        (self.folder / "scenario.toml").write_text(
            f'name = "synthetic"\ntitle = {title}\nseed = 1\n[bus]\n{bus}'
            f"[load]\nreads_per_s = {self.reads_per_s}\n[slo]\n{slo}{self.scenario}",
            encoding="utf-8",
        )
        return self.folder

    def _write_parts(self, parts: int) -> None:
        recorder = Recorder(self.folder, source="h0", pods=list(self.pods))
        speaker = Recorder(self.folder, source="locust") if self.known else recorder
        for pod, at, state in self.states:
            service, channels = self.pods[pod]
            bus = {"subscribed": "connected", "stopped": "stopped", "aborted": "stopped"}.get(state, "outage")
            recorder.tables["pods"].add(
                pod, service, "h0", channels, at, state, self.beliefs.get((pod, at), bus), self.clocks.get((pod, at), 0)
            )
        calls = self.calls or [(e.intended_ns, e.publisher, e.channel, 5 * US, "ok") for e in self.events if e.items]
        for table, rows in {
            "calls": calls,
            "reads": self.reads,
            "keys": self.keys,
            "identities": self.identities,
            "probes": self.probes,
            "faults": [(*fault, "whole", fault[2]) for fault in self.faults],
        }.items():
            for row in rows:
                (speaker if table in ("calls", "keys", "identities") else recorder).tables[table].add(*row)
        for sample in [*self._numsub(), *self.broker]:
            recorder.tables["broker"].add(*sample)
        for sample in self._hosts() if self.hosts is None else self.hosts:
            recorder.tables["hosts"].add(*sample, *Waits()[len(sample) - len(HOSTS_REQUIRED) :])  # what is left out is not known
        numbers = {pod: number for number, pod in enumerate(self.pods)}
        for part in range(parts):
            for e in self.events[part::parts]:
                first = e.first_item_ns or e.intended_ns
                speaker.tables["publishes"].add(
                    e.key, e.channel, e.publisher, e.items, e.size, first, (e.intended_ns - first) * e.items,
                    e.intended_ns, e.sent_ns, e.acked_ns, e.outcome, e.receivers, e.subject, e.stamped_ns,
                )  # fmt: skip
            rows = len(self.heard)
            for row in self.heard[part * rows // parts : (part + 1) * rows // parts]:
                self._add_delivery(recorder, numbers, row)
            recorder.flush()
            speaker.flush()
        recorder.close()
        speaker.close()
        self._use_own_clocks()

    def _use_own_clocks(self) -> None:
        """Put the times of processes with clocks of their own into these, as they would have written them, and write how those went."""
        if not self.known:
            return
        run = Recorder(self.folder, source="the-run")
        for process, (offset_ns, bound_ns) in self.known.items():
            for at in (0, 40 * SECOND):
                run.tables["clocks"].add(
                    process, f"clock of {process}", "echo", at + self.ahead_ns[process], offset_ns, 0.0, 2 * bound_ns, 0, bound_ns
                )
        run.close()
        for part in (self.folder / "parts").glob("*.parquet"):
            table = part.name.partition("-")[0]
            ahead_ns = self.ahead_ns.get(source_of(part.stem, table), 0)
            if ahead_ns and TIMES.get(table):
                rows = pq.ParquetFile(part).read()
                for column in TIMES[table]:
                    place, values = rows.schema.get_field_index(column), rows[column].to_numpy()
                    rows = rows.set_column(
                        place, column, pa.array(np.where(values == 0, 0, values + ahead_ns), rows.schema.field(column).type)
                    )
                write_table(part, table, rows)

    @staticmethod
    def _add_delivery(recorder: Recorder, numbers: dict[str, int], row: Heard) -> None:
        buffer = recorder.deliveries
        if (row.path, row.outcome) != ("broker", "handled"):
            buffer.odd_rows.append((len(buffer), buffer.PATHS.index(row.path), buffer.RESULTS.index(row.outcome)))
        buffer.events.append(row.key)
        buffer.handled_ns.append(row.handled_ns)
        buffer.reads_pod.append(numbers[row.pod])
        buffer.reads_count.append(1)
        buffer.reads_received_ns.append(row.received_ns)

    def _numsub(self) -> list[tuple[int, str, str, float]]:
        channels = [channel for _, listed in self.pods.values() for channel in listed.split(",") if channel]
        times = [int(8.9 * SECOND), int(19.9 * SECOND)] if self.numsub else []
        return [(at, "numsub", channel, float(channels.count(channel))) for at in times for channel in sorted(set(channels))]

    def starve(self, *, busy: float = 0.0, **waits: Callable[[int], Waits]) -> RunFolder:
        """Sample these processes every quarter of a second, each with what its function says was withheld so far, at a time.

        Each uses this share of a core. `h0` holds the pods, `locust` publishes, `broker` is a server of ours.
        """
        self.hosts = []
        for at in range(8 * SECOND, 23 * SECOND, SECOND // 4):
            for host, said in ({"locust": lambda at: Waits(waited_ns=0.0), "h0": lambda at: Waits(waited_ns=0.0)} | waits).items():
                self.hosts.append((at, host, int(at * busy), 20 * US, *said(at)))
        return self

    def _hosts(self) -> list[tuple[Any, ...]]:
        shares = {"locust": 0.3, "h0": 0.2} | self.cpu_share
        return [(s * SECOND, host, int(s * share * SECOND), 20 * US) for s in range(8, 23) for host, share in shares.items()]


def cooked(folder: Path, *, copies: Copies | None = None, services: ServiceBooks | None = None) -> Run:
    """Open a run and put other copies, or other books of its services, in the place of those that it has."""
    run = open_run(folder)
    whole = run.pieces.whole
    assert whole is not None
    if copies is not None:
        phase = np.append(run.phase_codes(run.meant_ns(run.publishes)), np.int8(0))[copies.publish]
        run.__dict__["pieces"] = Pieces(run, run.index, whole=Piece(run, whole.heard, copies, phase))
    books = keep_books(run, run.index, run.pieces)
    run.__dict__["books"] = books if services is None else books._replace(services=services)
    return run


def fates(run: Run) -> dict[str, int]:
    """Count the copies of a run by their fate."""
    counts = run.ledger()["fate"].value_counts()
    return {str(fate): int(count) for fate, count in counts.items() if count}


def causes(run: Run, event: Event | None = None) -> dict[str, int]:
    """Count the missing copies of a run, or of one event, by their cause."""
    ledger = run.ledger()
    rows = ledger if event is None else ledger[ledger["event"] == event.key]
    counts = rows["cause"].value_counts()
    return {str(cause): int(count) for cause, count in counts.items() if count and cause}
