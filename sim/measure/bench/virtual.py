"""Measure virtual time: how long an hour of the topology takes, and what ten thousand pods cost.

Each measure is a run on ground `model` in a child process of its own, so that its peak of memory is its own. The yardstick is a bare
event loop in the same child: a heap whose events do nothing but set the next one, as many as the run had. What an event of a run does
besides (JSON, RESP, the bus, the record) is in the ratio. The books are balanced before a figure is shown: copies that the broker
counted == deliveries recorded.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from sim.errors import BuslabError
from sim.grounds.model.loop import JumpingLoop
from sim.machine.clock import in_a_loop
from sim.machine.import_path import child_environment, python_child
from sim.machine.words import amount, count, duration
from sim.run.status import Status
from sim.run.steps import run_scenario
from sim.scenario.file import load_scenario

CHILD_TIMEOUT_S = 1800.0
CALLS_PER_EVENT = 2.45  # of the baseline's mix: analytics items share events
WAITING = 64  # timers in the yardstick's heap, about as many as a small fleet's loop has
TARGET_CPU_S, TARGET_RATIO = 60.0, 0.1

Settings = tuple[str, ...]


@dataclass(frozen=True)
class VirtualRun:
    """One run in virtual time.

    Attributes
    ----------
    cpu_s
        Processor time of the run, from its start to its sealed folder.
    events
        Timers, calls of series and ready callbacks of the loop.
    heap_cpu_s
        Processor time of the bare heap for as many.
    copies
        Deliveries recorded.
    memory_mib
        Peak of the process.
    """

    cpu_s: float
    events: int
    heap_cpu_s: float
    copies: int
    memory_mib: float

    @property
    def ratio(self) -> float:
        """Speed of the run against the bare heap's."""
        return self.heap_cpu_s / self.cpu_s


@dataclass(frozen=True)
class LoadRow:
    """The rounds of one load."""

    what: str
    virtual_s: float
    rounds: tuple[VirtualRun, ...]


@dataclass(frozen=True)
class VirtualReport:
    """What one bench of virtual time found."""

    rows: tuple[LoadRow, ...]
    conclusions: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return asdict(self)


def loads(hour_s: float, fleet_s: float, pods: int) -> dict[str, tuple[float, Settings]]:
    """Return what is measured: a sentence, its virtual length and the settings of the baseline."""
    rate = f"load.rate_per_s={100 * CALLS_PER_EVENT:g}"
    fleet = (f"services.music-service.replicas={pods - 9}", "load.rate_per_s=2", f"load.run_s={fleet_s:g}", "limits.start_s=600")
    return {
        "12 pods, 100 events/s": (hour_s, (rate, f"load.run_s={hour_s:g}")),
        f"{count(pods, 'pod')}, 2 calls/s": (fleet_s, fleet),
    }


def run_virtual_bench(
    *, hour_s: float = 3600, fleet_s: float = 600, pods: int = 10_000, rounds: int = 3, tell: Callable[[str], None] = lambda line: None
) -> VirtualReport:
    """Measure each load `rounds` times, in turn.

    Parameters
    ----------
    hour_s, fleet_s
        Virtual lengths of the two loads.
    pods
        Size of the big fleet.

    Raises
    ------
    BuslabError
        A run failed, or recorded other copies than the broker made.
    """
    planned = loads(hour_s, fleet_s, pods)
    measures: dict[str, list[VirtualRun]] = {what: [] for what in planned}
    for number in range(rounds):
        for what, (_, settings) in planned.items():
            done = _in_child(settings)
            measures[what].append(done)
            tell(f"round {number + 1}/{rounds}, {what}: {duration(done.cpu_s)} of CPU, {done.memory_mib:,.0f} MiB")
    rows = tuple(LoadRow(what, length_s, tuple(measures[what])) for what, (length_s, _) in planned.items())
    return VirtualReport(rows, _conclusions(rows[0]))


def virtual_table(report: VirtualReport) -> Group:
    """Return the report for a rich console."""
    table = Table(title=f"Virtual time, median (min .. max) of {count(len(report.rows[0].rounds), 'round')}")
    for heading in ("load", "virtual s", "CPU s", "loop events/s", "bare heap/s", "ratio", "copies/s", "peak MiB"):
        table.add_column(heading, justify="left" if heading == "load" else "right")
    for row in report.rows:
        rounds = row.rounds
        table.add_row(
            row.what,
            f"{row.virtual_s:,.0f}",
            _span([m.cpu_s for m in rounds], ".1f"),
            _span([m.events / m.cpu_s for m in rounds], ",.0f"),
            f"{statistics.median(m.events / m.heap_cpu_s for m in rounds):,.0f}",
            _span([m.ratio for m in rounds], ".2f"),
            f"{statistics.median(m.copies / m.cpu_s for m in rounds):,.0f}",
            f"{max(m.memory_mib for m in rounds):,.0f}",
        )
    return Group(table, *map(Text, report.conclusions))


def _span(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} .. {max(values):{form}})"


def _conclusions(hour: LoadRow) -> tuple[str, ...]:
    cpu_s = statistics.median(m.cpu_s for m in hour.rounds) * 3600 / hour.virtual_s
    ratio = statistics.median(m.ratio for m in hour.rounds)
    reached = {True: "reached", False: "NOT reached"}
    return (
        f"An hour of 12 pods at 100 events/s takes {duration(cpu_s)} of CPU, target {duration(TARGET_CPU_S)}: "
        f"{reached[cpu_s <= TARGET_CPU_S]}.",
        f"Its events come at {amount(100 * ratio)} % of the bare heap's speed, target "
        f"{amount(100 * TARGET_RATIO)} %: {reached[ratio >= TARGET_RATIO]}.",
    )


def _in_child(settings: Settings) -> VirtualRun:
    argv, env = python_child("sim.measure.bench", "virtual", *settings), child_environment()
    done = subprocess.run(argv, capture_output=True, text=True, timeout=CHILD_TIMEOUT_S, check=False, env=env)
    if done.returncode:
        raise BuslabError(f"a run of the bench failed: {(done.stderr.strip().splitlines() or ['it printed nothing'])[-1]}")
    return VirtualRun(**json.loads(done.stdout))


def main(settings: Sequence[str]) -> None:
    """Run the baseline with some settings, as the child, and print a `VirtualRun` as JSON."""
    loops: list[JumpingLoop] = []

    def watch(status: Status) -> None:
        if not loops and in_a_loop():  # before the run begins, statuses come from outside its loop
            running = asyncio.get_running_loop()
            assert isinstance(running, JumpingLoop)
            loops.append(running)

    with tempfile.TemporaryDirectory(prefix="buslab-bench-") as name:
        scenario = load_scenario("baseline", settings=tuple(settings))
        before_s = time.process_time()
        folder = run_scenario(scenario, on="model", out=Path(name) / "run", watch=watch)
        cpu_s = time.process_time() - before_s
        memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        copies = _balanced(folder)
    events = loops[0].events
    print(json.dumps(asdict(VirtualRun(cpu_s, events, bare_heap_s(events), copies, memory_mib))))


def _balanced(folder: Path) -> int:
    """Return how many deliveries were recorded; the broker must have counted as many copies."""
    from sim.results.opened_run import open_run  # only after memory was read: pandas is no part of a run

    run = open_run(folder)
    made, recorded = int(run.publishes["receivers"].sum()), len(run.deliveries)
    if made != recorded:
        raise BuslabError(f"the broker made {count(made, 'copy')} and {count(recorded, 'delivery is', 'deliveries are')} recorded")
    return recorded


class _BareLoop:
    """An event loop of nothing but a heap: each event sets the next one."""

    def __init__(self, events: int) -> None:
        self.at_ns = 0
        self._left = events
        self._set = 0
        self._heap: list[tuple[int, int, Callable[[int], None], int]] = []

    def set(self, at_ns: int, call: Callable[[int], None], argument: int) -> None:
        self._set += 1
        heapq.heappush(self._heap, (at_ns, self._set, call, argument))

    def again(self, step_ns: int) -> None:
        if self._left > 0:
            self._left -= 1
            self.set(self.at_ns + step_ns, self.again, step_ns)

    def run(self) -> None:
        heap, pop = self._heap, heapq.heappop
        while heap:
            self.at_ns, _, call, argument = pop(heap)
            call(argument)


def bare_heap_s(events: int) -> float:
    """Return the processor time in which a bare loop sets and makes about so many calls."""
    loop = _BareLoop(max(0, events - WAITING))
    before_s = time.process_time()
    for number in range(WAITING):
        loop.set(number, loop.again, 1_000 + 37 * number)
    loop.run()
    return time.process_time() - before_s
