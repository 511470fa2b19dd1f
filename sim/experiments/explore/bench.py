"""How many schedules are judged a minute: two shapes of fixed size, each with faults drawn anew, on all cores of this machine.

The clock starts when every process is warm. Beside what the wall clock says stand the milliseconds of processor time that drawing,
checking, running and judging one schedule took.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from sim.errors import BuslabError
from sim.experiments.explore.crew import Crew
from sim.experiments.explore.draw import Tree, base_tree, draw_schedule
from sim.experiments.explore.look import Setup
from sim.machine.words import amount, count
from sim.scenario.explore_bounds import Explore
from sim.scenario.file import load_scenario

WARM = 20  # schedules of each process before the clock starts
PARTS = ("drawing", "checking", "running", "judging")


@dataclass(frozen=True)
class BenchShape:
    """A size of schedules: the settings of the baseline, how long the load goes on, until when faults end, and the aim, a minute."""

    name: str
    settings: tuple[str, ...]
    run_s: float
    faults_s: float
    aim: int


SHAPES = (
    BenchShape("6 services, 12 pods, 10 s, 100 calls/s", ("load.rate_per_s=100",), 10.0, 6.0, 1500),
    BenchShape(
        "3 services, 6 pods, 3 s, 60 events",
        (
            "load.rate_per_s=20",
            "load.reads_per_s=0",
            "services.music-service.replicas=2",
            "services.ai-config-service.replicas=2",
            "services.analytics-service.replicas=2",
        ),
        3.0,
        1.6,
        5000,
    ),
)
SMALL = ("music-service", "ai-config-service", "analytics-service")
SMALL_MIX = ("config.template.invalidated", "analytics.provider.usage")


@dataclass(frozen=True)
class ShapeRow:
    """What was measured of one shape: schedules a minute, and milliseconds of processor time of one schedule by part."""

    name: str
    schedules: int
    per_minute: float
    milliseconds: tuple[float, ...]
    aim: int


@dataclass(frozen=True)
class ExploreReport:
    """What one bench of the search found."""

    jobs: int
    rows: tuple[ShapeRow, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return asdict(self)


def run_explore_bench(*, schedules: int = 400, jobs: int | None = None, tell: Callable[[str], None] = lambda line: None) -> ExploreReport:
    """Measure each shape with so many schedules.

    Raises
    ------
    BuslabError
        A schedule could not be run, or a process died.
    """
    many = jobs or os.cpu_count() or 1
    rows = []
    for shape in SHAPES:
        rows.append(row := _measured(shape, schedules, many))
        tell(f"{row.name}: {amount(row.per_minute)} a minute")
    return ExploreReport(many, tuple(rows))


def _measured(shape: BenchShape, schedules: int, jobs: int) -> ShapeRow:
    draw = drawer(shape)
    warm, drawn, begins = WARM * jobs, 0.0, 0.0
    seconds = [0.0, 0.0, 0.0]

    def timed(number: int) -> Tree:
        nonlocal drawn
        began_s = time.process_time()
        tree = draw(number)
        drawn += time.process_time() - began_s if number >= warm else 0.0
        return tree

    with tempfile.TemporaryDirectory(prefix="buslab-bench-") as folder, Crew(Setup(1.0, ""), jobs=jobs, log=Path(folder) / "log") as crew:
        for _, seen in crew.looked(iter(range(warm + schedules)), timed):
            if seen.refused:
                raise BuslabError(f"the bench drew a schedule that cannot run: {seen.refused}")
            if seen.number == warm - 1:
                begins = time.monotonic()
            if seen.number >= warm:
                seconds = [one + other for one, other in zip(seconds, seen.seconds, strict=True)]
        took_s = time.monotonic() - begins
    each = tuple(1000 * one / schedules for one in (drawn, *seconds))
    return ShapeRow(shape.name, schedules, 60 * schedules / took_s if took_s else math.nan, each, shape.aim)


def drawer(shape: BenchShape) -> Callable[[int], Tree]:
    """Return what draws the n-th schedule of a shape: all of it stays but the seed and the faults."""
    base = load_scenario("baseline", settings=(*shape.settings, f"load.run_s={shape.run_s:g}", "load.warm_up_s=0"))
    fixed = base_tree(base)
    if shape is SHAPES[1]:
        fixed["services"] = {name: fixed["services"][name] for name in SMALL}
        fixed["load"]["mix"] = dict.fromkeys(SMALL_MIX, 1.0)
    bounds = Explore(run_s_min=shape.faults_s, run_s_max=shape.faults_s, heal_s=1.0)

    def draw(number: int) -> Tree:
        faults: list[Tree] = []
        for attempt in range(50):
            drawn = draw_schedule(f"bench/{number}/{attempt}", base=base, bounds=bounds)
            pods = {f"{name}-{n}" for name, one in fixed["services"].items() for n in range(one["replicas"])} | set(fixed["services"])
            faults = [one for one in drawn["faults"] if set(one.get("pods", ())) <= pods]
            if faults:
                break
        return fixed | {"seed": Random(f"bench/{number}").randrange(1 << 20), "faults": faults}

    return draw


def explore_table(report: ExploreReport) -> Group:
    """Return the report for a rich console."""
    table = Table(title=f"Schedules judged in virtual time, {count(report.jobs, 'process', 'processes')}")
    for heading in ("shape", "a minute", *(f"{part} ms" for part in PARTS)):
        table.add_column(heading, justify="left" if heading == "shape" else "right")
    lines = []
    for row in report.rows:
        table.add_row(row.name, f"{row.per_minute:,.0f}", *(f"{value:.1f}" for value in row.milliseconds))
        reached = "reached" if row.per_minute >= row.aim else "NOT reached"
        lines.append(Text(f"{row.name}: {row.per_minute:,.0f} schedules a minute, target {row.aim:,}: {reached}."))
    return Group(table, *lines)
