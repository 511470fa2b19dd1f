"""What each fault does to each bus: every scenario of the catalogue of faults on several buses of `sim.scenario.buses`, as one table.

A cell is the fault's own scenario with the bus exchanged, its pods making the calls and reading configuration meanwhile, so that a stale
copy is seen. The scenario's own limits are left out: they are about the reference's bus. So a cell's verdict says whether the books
balance and whether the bus kept what it promises.

Columns, all over the run phase:

- **lost**: missing copies, without those that another pod of the service took (streams hand an event to one pod of each service).
  **in doubt**: copies that nobody heard and whose publisher does not know whether they were published. **unheard**: both together.
- **twice**: copies heard again by a pod that had heard them, and events that a service ran more than once although its bus has a recipe.
- **never**: events that no pod of a service ran, where the bus has a recipe; else not measured.
- **stale**: reads that were served an old copy; **stale_s**: for how long at most.
- **late_s**: greatest lag. **deaf_s**: longest time from the fault's end until a pod heard again.
- **told**: of the pods that lost copies or were blind in the fault (checkers `deaf`, `fallback`), whether all were told: "yes", "no", or
  how many of how many.
- **recovered**: after the load, every pod heard a probe on each of its channels (checker `steady`); **recover_s**: how long after the
  last fault's end every pod was connected and no copy was lost any more.

A *cost* is the same bus without a fault: the broker's processor time and the lag of the scenario `baseline`, run alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sim.errors import BuslabError, Interrupted, RunFolderError, UsageError, did_you_mean
from sim.experiments.many_runs import Job, Outcome, default_jobs, run_many
from sim.experiments.matrix.cells import cell_scenario, cost_scenario
from sim.faults.catalogue import FAULTS
from sim.grounds.catalogue import shown_ground
from sim.record.checksum import read_json
from sim.record.schema import CAUSES
from sim.results.broker_costs import broker_costs
from sim.results.checkers.verdict import worst
from sim.run.display import Countdown
from sim.scenario.buses import BUSES
from sim.scenario.settings import Scenario

REAL_JOBS = 2  # such runs mostly wait, and their lag is not compared
NAN = math.nan
NO_END = "no end"  # of what is only known to be at least so much


@dataclass(frozen=True)
class MatrixRow:
    """What one fault did to one bus; see the module. `why_not` is set where there was no run, and the rest is empty then.

    What is known only between two ends has the upper one in the field with `_most`; copies, in `lost` and `unheard`.
    """

    fault: str
    bus: str
    verdict: str = ""
    expected: int = 0
    lost: int = 0
    in_doubt: int = 0
    causes: str = ""
    unexplained: int = 0
    twice: int = 0
    never: float = NAN
    never_most: float = NAN
    reads: int = 0
    stale: int = 0
    stale_s: float = NAN
    late_s: float = NAN
    deaf_s: float = NAN
    deaf_s_most: float = NAN
    told: str = ""
    recovered: str = ""
    recover_s: float = NAN
    recover_s_most: float = NAN
    truth_gap_s: float = NAN
    truth_gap_s_most: float = NAN
    why: str = ""
    why_not: str = ""
    seconds: float = 0.0

    @property
    def unheard(self) -> int:
        """Copies that were expected and that nobody heard: lost, or in doubt."""
        return self.lost + self.in_doubt


@dataclass(frozen=True)
class BusCost:
    """What a bus costs without a fault; processor time of all the broker's nodes, NaN where it was not measured."""

    bus: str
    copy_us: float = NAN
    publish_us: float = NAN
    core: float = NAN
    lag_ms_p50: float = NAN
    lag_ms_p99: float = NAN
    why_not: str = ""


@dataclass(frozen=True)
class Matrix:
    """The rows, by fault and then by bus, and the costs of the buses.

    `interrupted` when it ended early; `scenario`: what the faults were done to, empty for each fault's own scenario.
    """

    ground: str
    seed: int
    buses: tuple[str, ...]
    rows: list[MatrixRow]
    costs: list[BusCost]
    interrupted: Interrupted | None = None
    scenario: str = ""

    @property
    def verdict(self) -> str:
        """The worst of all: unknown when some copy has no cause or some run cannot be judged, else invalid when a promise was broken."""
        words = [row.verdict for row in self.rows if not row.why_not] + ["unknown"] * (self.interrupted is not None)
        return "unknown" if "unknown" in words else worst(words)

    def frame(self) -> pd.DataFrame:
        """Return the rows as a frame, one row a fault and bus."""
        return pd.DataFrame([asdict(row) for row in self.rows])

    def count(self, bus: str, what: Callable[[MatrixRow], bool]) -> int:
        """Return in how many faults something is so on a bus."""
        return sum(what(row) for row in self.rows if row.bus == bus and not row.why_not)


def ranged(low: str, most: str, *, joint: str = " to ") -> str:
    """Return two ends, as they are shown, as one text: the first alone where they are shown alike, or where there is no second."""
    if most in ("", "-", low):
        return low
    return f"{low}{joint.replace('to', 'or')}more" if most == NO_END else f"{low}{joint}{most}"


def run_matrix(
    *,
    on: str = "model",
    buses: Sequence[str] = tuple(BUSES),
    faults: Sequence[str] = tuple(FAULTS),
    seed: int = 1,
    jobs: int | None = None,
    out: Path,
    image: str | None = None,
    scenario: Scenario | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Matrix:
    """Run every fault on every bus, and each bus once without a fault.

    Parameters
    ----------
    on
        A ground of ours, as of `--on`; a fault that it cannot do is a row with the reason.
    jobs
        How many runs at a time; by default a run per core on the model, two on a real ground. The costs are measured one by one.
    out
        A folder for the run folders.
    scenario
        What the faults are done to; by default each fault's own scenario, of the reference's services.
    tell
        Called with a line when a run has ended: how many are done, how long the others will take, and what it was.

    Raises
    ------
    UsageError
        There is no such bus or fault.
    """
    for kind, names, known in (("bus", buses, BUSES), ("fault", faults, FAULTS)):
        for name in names:
            if name not in known:
                raise UsageError(f"no {kind} {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}")
    pairs = [(fault, bus) for fault in dict.fromkeys(faults) for bus in dict.fromkeys(buses)]
    done: dict[str, Outcome] = {}
    plain = {bus: cost_scenario(bus, seed=seed, base=scenario) for bus in dict.fromkeys(buses)}
    costs = [Job(f"cost-{bus}", one, on, image) for bus, one in plain.items()]
    cells = []
    for fault, bus in pairs:
        key = f"{fault}-{bus}"
        try:
            cells.append(Job(key, cell_scenario(fault, bus, seed=seed, base=scenario), on, image))
        except UsageError as error:  # a fault that the scenario cannot have
            done[key] = Outcome(Job(key, plain[bus], on, image), out / key, None, error, 0.0)
    countdown = Countdown(tell)
    few = jobs or (default_jobs(on) if default_jobs(on) > 1 else REAL_JOBS)
    interrupted = None
    try:
        for some, at_once in ((costs, 1), (cells, few)):
            for outcome in run_many(some, out=out, at_once=at_once):
                done[outcome.job.key] = outcome
                word = outcome.error if outcome.verdict is None else outcome.verdict.verdict
                countdown.tell(len(done), len(cells) + len(costs), f"{outcome.job.key}: {word}")
    except Interrupted as error:
        interrupted = error
    for job in [*costs, *cells]:
        done.setdefault(job.key, Outcome(job, out / job.key, None, BuslabError("interrupted before it was run"), 0.0))
    rows = [matrix_row(fault, bus, done[f"{fault}-{bus}"]) for fault, bus in pairs]
    prices = [cost_of(bus, done[f"cost-{bus}"]) for bus in plain]
    return Matrix(shown_ground(on), seed, tuple(plain), rows, prices, interrupted, scenario.name if scenario else "")


def matrix_row(fault: str, bus: str, outcome: Outcome) -> MatrixRow:
    """Return what a cell's verdict says."""
    if outcome.verdict is None:
        return MatrixRow(fault, bus, why_not=str(outcome.error), seconds=outcome.took_s)
    checkers = outcome.verdict.checkers
    copies = {name: int(outcome.count("ledger", name)) for name in ("expected", "missing", "unknown", *checkers["ledger"].counts)}
    taken = copies.get("taken-by-peer", 0)
    causes = {cause: count for cause, count in copies.items() if cause in CAUSES and count and cause != "taken-by-peer"}
    reasons = [f"{name}: {one.detail}" for name, one in checkers.items() if one.verdict != "valid"]
    metrics = {"never": "handled_never", "deaf_s": "deaf_s_max", "recover_s": "steady_s_max", "truth_gap_s": "truth_gap_s_max"}
    ends: dict[str, Any] = {name: outcome.ends(of)[0] for name, of in metrics.items()}
    ends |= {f"{name}_most": outcome.ends(of)[1] for name, of in metrics.items()}
    return MatrixRow(
        fault,
        bus,
        verdict=outcome.verdict.verdict,
        expected=copies["expected"],
        lost=copies["missing"] - taken,
        in_doubt=copies["unknown"],
        causes=", ".join(f"{count:,} {cause}" for cause, count in sorted(causes.items(), key=lambda one: -one[1])),
        unexplained=copies.get("unexplained", 0),
        twice=int(outcome.count("duplication", "redelivered") + outcome.count("once", "twice_or_more")),
        reads=int(outcome.count("staleness", "reads")),
        stale=int(outcome.count("staleness", "stale_reads")),
        stale_s=outcome.metric("stale_ms_max") / 1000,
        late_s=outcome.metric("lag_ms_max") / 1000,
        told=_told(outcome),
        recovered="yes" if outcome.ends("steady_s_max")[0] >= 0 else "no",
        why="; ".join(reasons),
        seconds=outcome.took_s,
        **ends,
    )


def _told(outcome: Outcome) -> str:
    """Return how many of the pods concerned were told, by the checker that saw more of them left in the dark; empty for none."""
    sides = [("deaf", "told", "untold"), ("fallback", "noticed", "unnoticed")]
    not_told, knew = max((outcome.count(checker, no), outcome.count(checker, yes)) for checker, yes, no in sides)
    return "" if not knew + not_told else "yes" if not not_told else "no" if not knew else f"{knew:.0f} of {knew + not_told:.0f}"


def open_matrix(folder: Path) -> Matrix:
    """Read a matrix that was run before, from its matrix.json.

    Raises
    ------
    RunFolderError
        The folder holds none, or not a whole one.
    """
    if not (folder / "matrix.json").is_file():
        raise RunFolderError(f"{folder} holds no matrix.json: give the folder of results that `buslab matrix` printed")
    content = read_json(folder / "matrix.json")
    try:
        rows, costs = [MatrixRow(**_numbers(one)) for one in content["rows"]], [BusCost(**_numbers(one)) for one in content["costs"]]
        of = str(content.get("scenario", ""))
        return Matrix(content["ground"], content["seed"], tuple(dict.fromkeys(row.bus for row in rows)), rows, costs, scenario=of)
    except (KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{folder}/matrix.json is not of this version, or damaged ({error}): run the matrix again") from None


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as it was before it was JSON, which has no NaN and no infinity."""
    return {key: NAN if value is None else math.inf if value == NO_END else value for key, value in row.items()}


def cost_of(bus: str, outcome: Outcome) -> BusCost:
    """Return what a bus costs without a fault."""
    if outcome.verdict is None:
        return BusCost(bus, why_not=str(outcome.error))
    costs = broker_costs(outcome.judged().run)
    publish_us = costs.all_in_copy_us * costs.fan_out
    return BusCost(bus, costs.all_in_copy_us, publish_us, costs.cpu_share, outcome.metric("lag_ms_p50"), outcome.metric("lag_ms_p99"))
