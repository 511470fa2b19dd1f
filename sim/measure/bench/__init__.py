"""Measure how fast the lab itself receives, beside a C program, a bare Python drain and redis-py, in one run.

A simulated pod shares its core with hundreds of others, so what it costs to receive is distortion of what is measured.

Rules
-----
1. Each client is a child process of its own with the same number of subscribers, on the same server, which is pinned to another core.
2. `depth` events are in flight: the publisher, a child too, sends so many PUBLISHes in one write, and the next when the client has
   heard them. So every client meets the same reads, a slow one piles up no backlog, and a fast one waits for the server (`busy` < 100 %).
3. Clients take turns within a round; a ratio is the median of the ratios within the rounds.
4. Every copy is accounted for: published x subscribers == received, or there is no figure. For `buslab` the recorded rows are counted.
5. Wall rates move with the machine; processor time per delivery moves less, so it stands beside them.

A member of the family is a client. To add one: write a function in `children` that exchanges the messages named there, and list it in
`CLIENTS`.
"""

from __future__ import annotations

import os
import select
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from sim.errors import UsageError
from sim.grounds.embedded import embedded
from sim.machine.words import count, multiple
from sim.measure.bench.children import LAB, RAW, REDIS_PY, C
from sim.measure.bench.measure import ClientRound, Setting, compile_drain

CLIENTS: dict[str, str] = {
    C: "a C program reads and drops: the ceiling",
    RAW: "Python reads and drops, one loop around epoll: what Python can reach",
    LAB: "this lab's pods receive, decode, handle and record",
    REDIS_PY: "redis-py's asyncio listen(), json, a list: how it is written by default",
}
PEERS = [name for name in CLIENTS if name != LAB]
TARGETS = {1: {C: 0.7, REDIS_PY: 3.5}, 16: {C: 0.55, REDIS_PY: 15.0}}  # of buslab's rate, by depth


@dataclass(frozen=True)
class ClientRow:
    """What the rounds of one client at one depth come to; `versus` maps other clients to ratios of rates.

    Attributes
    ----------
    cpu_us
        Processor time of the client per delivery.
    busy
        Share of the time that the client's processor time is; near 1 the client sets the rate, below it the server does.
    per_read
        Deliveries a read, where it is known.
    versus_cpu
        Ratios of deliveries per processor time.
    """

    client: str
    depth: int
    rate: float
    rate_min: float
    rate_max: float
    cpu_us: float
    busy: float
    per_read: float | None
    versus: dict[str, float]
    versus_cpu: dict[str, float]


@dataclass(frozen=True)
class BenchReport:
    """What one bench found."""

    pods: int
    seconds: float
    rounds: int
    event_bytes: int
    pinning: str
    left_out: str
    rows: tuple[ClientRow, ...]
    conclusions: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return asdict(self)


def run_bench(
    *,
    pods: int = 100,
    seconds: float = 1.0,
    event_bytes: int = 300,
    depths: Sequence[int] = (1, 4, 16),
    rounds: int = 3,
    tell: Callable[[str], None] = lambda line: None,
) -> BenchReport:
    """Measure every client at every depth, `seconds` each, `rounds` times.

    Raises
    ------
    UsageError
        This is not Linux.
    BuslabError
        A client or the publisher failed, or received other than what was published.
    """
    if not hasattr(select, "epoll"):
        raise UsageError("buslab bench needs Linux: it compares with what epoll can reach")
    measures: list[ClientRound] = []
    cores = sorted(os.sched_getaffinity(0))[:2]
    cores = cores if len(cores) == 2 else []
    with tempfile.TemporaryDirectory(prefix="buslab-bench-") as name, embedded() as broker:
        folder = Path(name)
        drain, left_out = compile_drain(folder)
        clients = [name for name in CLIENTS if name != C or drain is not None]
        if cores and broker.pid is not None:
            os.sched_setaffinity(broker.pid, cores[:1])
        setting = Setting(broker, folder, drain, pods, seconds, event_bytes, cores)
        for number in range(rounds):
            for depth in depths:
                for client in clients:
                    done = setting.measure(client, depth)
                    measures.append(done)
                    tell(f"round {number + 1}/{rounds}, {depth:>2} in flight: {client:<9} {done.rate:>11,.0f} deliveries/s")
    rows = tuple(_row(measures, client, depth) for depth in depths for client in clients)
    pinning = f"server and publisher on core {cores[0]}, client on core {cores[1]}" if cores else "none, there is one core"
    return BenchReport(pods, seconds, rounds, event_bytes, pinning, left_out, rows, _conclusions(rows))


def bench_table(report: BenchReport) -> Group:
    """Return the report for a rich console; without a terminal it prints as plain text."""
    table = Table(
        title=(
            f"{count(report.pods, 'subscriber')} in one process, {report.event_bytes}-byte events, median of "
            f"{count(report.rounds, 'round')}"
        )
    )
    for heading in ("in flight", "client", "deliveries/s", "min .. max", "CPU us each", "busy", "a read", *(f"x {name}" for name in PEERS)):
        table.add_column(heading, justify="left" if heading == "client" else "right")
    for row in report.rows:
        ratios = (f"{row.versus[name]:.2f}" if name in row.versus else "-" for name in PEERS)
        span = f"{row.rate_min:,.0f} .. {row.rate_max:,.0f}"
        per_read = "-" if row.per_read is None else f"{row.per_read:.1f}"
        table.add_row(str(row.depth), row.client, f"{row.rate:,.0f}", span, f"{row.cpu_us:.2f}", f"{row.busy:.0%}", per_read, *ratios)
        if row.client == REDIS_PY:
            table.add_section()
    notes = [
        f"Pinning: {report.pinning}. Every copy was counted: published x subscribers == received.",
        report.left_out,
        *report.conclusions,
    ]
    return Group(table, *(Text(note) for note in notes if note))


def _row(measures: Sequence[ClientRound], client: str, depth: int) -> ClientRow:
    """Sum up the rounds of one client; the n-th measures of two clients were made side by side, so those are compared."""
    of = {name: [m for m in measures if m.client == name and m.depth == depth] for name in CLIENTS}
    mine = of[client]
    rates = [m.rate for m in mine]
    pairs = {name: list(zip(mine, others, strict=True)) for name, others in of.items() if others and name != client}
    return ClientRow(
        client,
        depth,
        rate=statistics.median(rates),
        rate_min=min(rates),
        rate_max=max(rates),
        cpu_us=statistics.median(m.cpu_each_ns / 1000 for m in mine),
        busy=statistics.median(m.cpu_ns / 1e9 / m.seconds for m in mine),
        per_read=statistics.median(m.delivered / m.reads for m in mine) if mine[0].reads else None,
        versus={name: statistics.median(m.rate / o.rate for m, o in both) for name, both in pairs.items()},
        versus_cpu={name: statistics.median(o.cpu_each_ns / m.cpu_each_ns for m, o in both) for name, both in pairs.items()},
    )


def _conclusions(rows: Sequence[ClientRow]) -> tuple[str, ...]:
    """Return a sentence for each target: whether it was reached."""
    sentences = []
    for row in rows:
        if row.client != LAB:
            continue
        for other, target in TARGETS.get(row.depth, {}).items():
            if other in row.versus:
                word = "reached" if row.versus[other] >= target else "NOT reached"
                by_cpu = f"{multiple(row.versus_cpu[other])} it by processor time"
                sentences.append(
                    f"{row.depth} in flight: buslab has {multiple(row.versus[other])} {other}'s rate "
                    f"({by_cpu}), target {multiple(target)} it: {word}."
                )
    return tuple(sentences)
