"""Is this run worse than the baseline? Each metric's difference with its 95 % interval, against a tolerance; for CI.

A metric is **worse** when even the favourable end of the interval is beyond the tolerance: run > baseline x (1 + tolerance) + floor (a
metric that should be high: the same, downwards). It is **maybe worse** when only the measured value is beyond it, or no interval is known;
that is reported and fails nothing. **better** is the mirror image of worse, **same** the rest. The floor is what is too small to matter
(`METRICS`): a median that grew from 60 us to 80 us is a third more, but timers alone vary by that. A verdict that was valid and is invalid
is worse too: it is the metric `verdict`.

Intervals come from blocks of time and, with several runs a side, from the spread between runs: see `sim.experiments.compare.bootstrap`.
They do not cover drift: a shared machine is slow for some minutes and then is not, and when one side ran after the other, either may have
had the bad minutes. So a *time* on a real server is worse only when it has more than doubled (`DRIFT`) and grown by more than neighbours'
time slices (`Metric.drift`); short of that it is maybe worse. This does not apply when both sides have several runs that were made **in
turn**: then their own spread holds the drift. Counts and the model's times do not drift.

What a run knows only as an **interval** (copies that nobody heard and nobody can vouch for) has two ends, and both are compared: `same`
when the lower ends are, within the tolerance, and the upper ends are, `worse` when even the run's lower end is worse than the baseline's
upper one, `better` when even its upper end is better than the baseline's lower one, `maybe worse` when both ends are at least that; else
unknown.

On a starved machine a run is late by no fault of the bus: what would be worse is **unknown** where it need not have been without the time
that was withheld from the run (`sim.experiments.compare.starved`).

Two sides **cannot be compared** when they are of different scenarios, services, loads or kinds of ground, when a verdict is unknown (the
instrument is not trusted), when one run is on both sides, or when one measured what the other did not. What may differ (the bus, faults,
the seed, versions) is named.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from sim.errors import RunFolderError, UsageError, did_you_mean
from sim.experiments.compare.bootstrap import BLOCKS, LEVEL, Blocked, block_of, draw, quantile, ratio, welch
from sim.experiments.compare.starved import made_by_machine, starved
from sim.record.reader import FOREVER_NS, Array
from sim.results.broker_costs import cpu_samples, work_between
from sim.results.checkers import judge
from sim.results.checkers.verdict import Bounds
from sim.results.copies import FATE
from sim.results.opened_run import Run, open_run

Word = Literal["same", "better", "worse", "maybe worse", "unknown"]


@dataclass(frozen=True)
class Metric:
    """A metric: what it is, which difference is too small to matter, whether it should be high, and how far a machine's drift moves it.

    `drift` is in the metric's unit and comes on top of `DRIFT`, which is relative; None: it does not drift.
    """

    what: str
    floor: float = 0.0
    high: bool = False
    drift: float | None = None


LAGS = {"lag_ms_p50": 0.5, "lag_ms_p90": 0.9, "lag_ms_p99": 0.99, "lag_ms_p999": 0.999}
CALLS = {"call_ms_p50": 0.5, "call_ms_p99": 0.99}
METRICS: dict[str, Metric] = {
    "lag_ms_p50": Metric("median lag, milliseconds", 0.1, drift=0.5),
    "lag_ms_p90": Metric("90th percentile of lag, milliseconds", 0.25, drift=2.5),
    "lag_ms_p99": Metric("99th percentile of lag, milliseconds", 0.5, drift=6.0),
    "lag_ms_p999": Metric("99.9th percentile of lag, milliseconds", 2.0, drift=8.0),
    "missing_ratio": Metric("missing copies / expected copies"),
    "unserved_ratio": Metric("events that no pod of a service heard / events that services should hear"),
    "duplicates": Metric("copies heard again, per expected copy"),
    "stale_reads": Metric("stale reads of caches; only with several runs", 2.0),
    "items_lost": Metric("items of batches that no pod heard; only with several runs"),
    "wait_ms_mean": Metric("mean wait of an item in its batch, milliseconds", 1.0),
    "item_age_ms_p99": Metric("99th percentile of a batch's age when handled, milliseconds; only with several runs", 1.0),
    "call_ms_p50": Metric("median time of a fire-and-forget call, milliseconds", 0.02, drift=0.02),
    "call_ms_p99": Metric("99th percentile of it, milliseconds", 0.25, drift=4.0),
    "broker_us_per_copy": Metric("the broker's processor time per copy, microseconds", 1.0, drift=5.0),
    "publishes_per_s": Metric("publishes per second", 0.5),
    "offered_ratio": Metric("calls made / calls meant; only with several runs", 0.005, high=True),
}
# metrics of whole runs, which checkers measured: ours -> theirs
OF_CHECKERS = {name: name for name in ("stale_reads", "items_lost", "item_age_ms_p99")} | {"offered_ratio": "offered_ratio_min"}
DEFAULT_TOLERANCE = 0.1
DRIFT = 1.0  # when sides were not made in turn, drift alone may raise a time by this share of the baseline's
EXIT_CODES = {"same": 0, "better": 0, "maybe worse": 0, "worse": 1, "unknown": 2}


class Ends(NamedTuple):
    """A metric that is known only between two ends."""

    low: Blocked | float
    high: Blocked | float


Measure = Blocked | float | Ends


@dataclass(frozen=True)
class Difference:
    """One metric on both sides; `change` and its interval are relative to the baseline, NaN where it is 0.

    Where a side knows it only between two ends, `run_most` or `baseline_most` is the upper one, and `change` is of the lower ones.
    """

    metric: str
    run: float
    baseline: float
    change: float
    low: float
    high: float
    tolerance: float
    verdict: Word
    detail: str
    run_most: float | None = None
    baseline_most: float | None = None


@dataclass(frozen=True)
class Comparison:
    """All differences; `cannot` says why the sides cannot be compared, `differs` what else is not the same."""

    scenario: str
    runs: tuple[str, ...]
    baselines: tuple[str, ...]
    differences: tuple[Difference, ...]
    cannot: tuple[str, ...]
    differs: tuple[str, ...]
    note: str

    @property
    def exit_code(self) -> int:
        """Return 1 when something is worse, else 2 when something cannot be compared, else 0."""
        codes = {EXIT_CODES[difference.verdict] for difference in self.differences}
        return 2 if self.cannot else 1 if 1 in codes else 2 if 2 in codes else 0

    def to_json(self) -> dict[str, Any]:
        """Return the content of compare.json; a number that does not exist is null."""
        rows = [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(d).items()} for d in self.differences]
        return {**asdict(self), "differences": rows, "exit_code": self.exit_code}


def read_tolerances(texts: Sequence[str]) -> dict[str, float]:
    """Read ``10%`` (of every metric, key ``""``) and ``metric=20%``.

    Raises
    ------
    UsageError
        It is neither, or there is no such metric.
    """
    tolerances = {"": DEFAULT_TOLERANCE}
    for text in texts:
        metric, equals, share = text.rpartition("=")
        if equals and metric not in METRICS:
            raise UsageError(f"--tolerance {text}: no metric {metric!r}{did_you_mean(metric, METRICS)}; there are {', '.join(METRICS)}")
        try:
            value = float(share.removesuffix("%")) / 100 if share.endswith("%") else math.nan
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise UsageError(f"--tolerance {text}: write a percentage, 10% for every metric or lag_ms_p99=20% for one")
        tolerances[metric] = value
    return tolerances


def compare(
    run: str | Path | Sequence[str | Path], baseline: str | Path | Sequence[str | Path], *, tolerance: Sequence[str] = ()
) -> Comparison:
    """Compare runs with a baseline.

    Parameters
    ----------
    run, baseline
        A run folder, a folder of run folders (its repeats), or several.
    tolerance
        ``10%`` and ``metric=20%``; by default `DEFAULT_TOLERANCE`.

    Raises
    ------
    RunFolderError
        One is no run folder, or is damaged.
    UsageError
        A tolerance is wrong.
    """
    tolerances = read_tolerances(tolerance)
    sides = [[open_run(folder) for folder in find_runs(given)] for given in (run, baseline)]
    cannot, differs = _comparable(*sides)
    measured: list[list[dict[str, Measure]]] = [[], []]
    words: list[list[str]] = [[], []]
    for side, runs in enumerate(sides):
        for one in runs if not cannot else ():
            verdict, values, why = measure(one)
            words[side].append(verdict)
            measured[side].append(values)
            if verdict == "unknown":
                cannot.append(f"the verdict of {one.folder.name} is unknown: {why}")
    several = min(len(side) for side in sides) >= 2
    drift = 0.0 if _kind(sides[1][0]) == "model" or _in_turn(*sides) else DRIFT
    differences = [] if cannot else _differences(measured[0], measured[1], tolerances, drift)
    if any(one.verdict == "worse" for one in differences):
        differences = _without_machine(differences, sides[0], measured[0])
    differences = differences if cannot else [_verdicts(*words), *differences]
    note = "intervals hold the spread between runs" if several else "one run a side: the spread between runs is not known"
    note += (
        "; a time is worse only when it has more than doubled and grown by some ms, unless runs were made in turn: docs/how-to/compare.md"
        if drift
        else ""
    )
    names = [tuple(str(one.folder) for one in side) for side in sides]
    return Comparison(sides[0][0].info.scenario, names[0], names[1], tuple(differences), tuple(cannot), tuple(differs), note)


def find_runs(given: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the run folders of one side, each once."""
    found: dict[Path, None] = {}
    for folder in [Path(given)] if isinstance(given, str | Path) else [Path(one) for one in given]:
        inner = sorted(path.parent for path in folder.glob("*/run.json")) if not (folder / "run.json").is_file() else []
        for path in inner or [folder]:
            try:
                found[path.resolve()] = None
            except (OSError, RuntimeError) as error:  # a loop of links
                raise RunFolderError(f"cannot read {path}: {error}") from None
    if not found:
        raise RunFolderError("no run folder was given")
    return list(found)


def _comparable(runs: list[Run], baselines: list[Run]) -> tuple[list[str], list[str]]:
    """Return why they cannot be compared, and what else differs."""
    differs, first = [], baselines[0]
    twice = {one.folder for one in runs} & {one.folder for one in baselines}
    cannot = [f"{folder.name} is on both sides: a run is no baseline of itself" for folder in sorted(twice)]
    for one in [*runs, *baselines[1:]]:
        pairs: dict[str, tuple[Any, Any]] = {
            "scenario": (one.info.scenario, first.info.scenario),
            "ground": (_kind(one), _kind(first)),
        }
        mine, theirs = _flat(one.scenario), _flat(first.scenario)
        pairs |= {key: (mine.get(key), theirs.get(key)) for key in [*mine, *theirs] if key.startswith(("load.", "services."))}
        cannot += [f"{key} is {a} in {one.folder.name} and {b} in {first.folder.name}" for key, (a, b) in pairs.items() if a != b]
        rest = [key for key in {**mine, **theirs} if not key.startswith(("load.", "services.", "name", "title", "seed", "slo"))]
        if one in runs:
            differs += [f"{key}: {mine.get(key)} against {theirs.get(key)}" for key in rest if mine.get(key) != theirs.get(key)]
        elif any(mine.get(key) != theirs.get(key) for key in rest):
            cannot.append(f"the baselines {first.folder.name} and {one.folder.name} are not of the same settings")
    machines = {json.dumps(one.environment.get("machine"), sort_keys=True) for one in (*runs, *baselines)}
    return list(dict.fromkeys(cannot)), list(dict.fromkeys(differs)) + (["the machine is another one"] if len(machines) > 1 else [])


def _in_turn(runs: Sequence[Run], baselines: Sequence[Run]) -> bool:
    """Return whether both sides have several runs, and neither had all of its before the other's first."""
    begun = [sorted(one.info.started_at for one in side) for side in (runs, baselines)]
    return min(map(len, begun)) >= 2 and begun[0][0] < begun[1][-1] and begun[1][0] < begun[0][-1]


def _kind(run: Run) -> str:
    return run.info.ground.partition(":")[0].replace("rediss", "redis")


def _flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return flat


def measure(run: Run) -> tuple[str, dict[str, Measure], str]:
    """Return a run's verdict, each metric by blocks of time or as one value where rows do not say, and the verdict's first reason."""
    verdict = judge(run)
    begin, end = run.phases.get("run", (0, 0))
    phase = begin, int(run.publishes["intended_ns"].max()) if end == FOREVER_NS else end
    values: dict[str, Measure] = {**_of_copies(run, phase), **_of_publishes(run, phase)}
    calls = run.calls[run.calls["intended_ns"].between(*phase)]
    if len(calls):
        block = block_of(calls["intended_ns"].to_numpy(), phase)
        for name, rank in CALLS.items():
            values[name] = _milli(quantile(calls["took_ns"].to_numpy(), block, rank, blocks=BLOCKS))
    at_s, cpu_s = cpu_samples(run, "run")
    if len(at_s) > 1 and (np.diff(cpu_s) >= 0).all():
        values["broker_us_per_copy"] = ratio(np.diff(cpu_s) * 1e6, work_between(run, at_s)[1])
    metrics = {key: value for result in verdict.checkers.values() for key, value in result.metrics.items()}
    for ours, theirs in OF_CHECKERS.items():
        value = metrics.get(theirs, math.nan)
        values[ours] = Ends(value.low, value.high) if isinstance(value, Bounds) else value
    return verdict.verdict, values, next(iter(verdict.reasons), "see buslab check")


def _of_copies(run: Run, phase: tuple[int, int]) -> dict[str, Measure]:
    copies, books, of_run = run.copies, run.service_books, (run.publishes["phase"] == "run").to_numpy()
    rows = np.flatnonzero(run.copies_in("run") & (copies.publish >= 0))
    pairs, alone = (some[of_run[books.publish[some]]] for some in (np.arange(len(books.publish)), books.alone))
    intended = run.publishes["intended_ns"].to_numpy()
    fate = np.concatenate([copies.fate[rows], books.fate[alone]])
    block = block_of(intended[np.concatenate([copies.publish[rows], books.publish[alone]])], phase)
    expected = _count(block, np.isin(fate, [FATE["delivered"], FATE["missing"], FATE["unknown"]]))
    missing, in_doubt = (_count(block, fate == FATE[word]) for word in ("missing", "unknown"))
    served = block_of(intended[books.publish[pairs]], phase)
    owed, unserved = _count(served, np.ones(len(pairs))), _count(served, books.unserved[pairs])
    known = _count(served, books.unserved[pairs] & ~books.in_doubt[pairs])
    values: dict[str, Measure] = {
        "missing_ratio": _ends(ratio(missing, expected), ratio(missing + in_doubt, expected)),
        "unserved_ratio": _ends(ratio(known, owed), ratio(unserved, owed)),
        "duplicates": ratio(_count(block, fate == FATE["duplicate"]), expected),
    }
    intended, block, fate = intended[copies.publish[rows]], block[: len(rows)], fate[: len(rows)]
    first = fate == FATE["delivered"]
    lag = run.deliveries["handled_ns"].to_numpy()[copies.delivery[rows[first]]] - intended[first]
    for name, rank in LAGS.items() if len(lag) else ():
        values[name] = _milli(quantile(lag, block[first], rank, blocks=BLOCKS))
    return values


def _ends(low: Blocked, high: Blocked) -> Measure:
    return low if low.value == high.value or math.isnan(low.value) else Ends(low, high)


def _of_publishes(run: Run, phase: tuple[int, int]) -> dict[str, Measure]:
    rows = run.publishes[(run.publishes["phase"] == "run") & (run.publishes["items"] > 0)]
    block = block_of(rows["intended_ns"].to_numpy(), phase)
    seconds = np.full(BLOCKS, (phase[1] - phase[0]) / 1e9 / BLOCKS)
    values: dict[str, Measure] = {"publishes_per_s": ratio(_count(block, np.ones(len(rows))), seconds)}
    if (rows["items_wait_ns"] > 0).any():
        batches = rows[rows["channel"].isin(run.batched)]
        block = block_of(batches["intended_ns"].to_numpy(), phase)
        values["wait_ms_mean"] = ratio(_count(block, batches["items_wait_ns"].to_numpy() / 1e6), _count(block, batches["items"].to_numpy()))
    return values


def _count(block: Array, weight: Array) -> Array:
    counts: Array = np.bincount(block, weights=weight.astype(np.float64), minlength=BLOCKS)
    return counts


def _milli(of_ns: Blocked) -> Blocked:
    return Blocked(of_ns.blocks, lambda sums: of_ns.statistic(sums) / 1e6, of_ns.value / 1e6)


def _verdicts(runs: list[str], baselines: list[str]) -> Difference:
    broken, before = (side.count("invalid") / len(side) for side in (runs, baselines))
    word: Word = "worse" if broken > before else "better" if broken < before else "same"
    detail = f"verdict: {', '.join(runs)}; of the baseline {', '.join(baselines)}"
    return Difference("verdict", broken, before, math.nan, math.nan, math.nan, 0.0, word, detail)


def _differences(
    runs: list[dict[str, Measure]], baselines: list[dict[str, Measure]], tolerances: Mapping[str, float], drift: float
) -> list[Difference]:
    rng, found = np.random.default_rng(1), []
    for name in METRICS:
        sides = [[one.get(name, math.nan) for one in side] for side in (runs, baselines)]
        known = [[_value(one) for one in side if not math.isnan(_value(one))] for side in sides]
        asked = name in tolerances
        if not known[0] and not known[1] and not asked:
            continue  # it does not apply to runs of this kind
        tolerance = tolerances.get(name, tolerances[""])
        if len(known[0]) < len(sides[0]) or len(known[1]) < len(sides[1]):
            detail = f"{name} was not measured in {sum(map(len, sides)) - sum(map(len, known))} of {sum(map(len, sides))} runs"
            found.append(Difference(name, _mean(known[0]), _mean(known[1]), *(math.nan,) * 3, tolerance, "unknown", detail))
            continue
        differ = partial(_difference, name, tolerance=tolerance, drift=drift if METRICS[name].drift is not None else 0.0, rng=rng)
        found.append(_by_ends(sides[0], sides[1], differ))
    return found


def _without_machine(differences: list[Difference], runs: list[Run], measured: list[dict[str, Measure]]) -> list[Difference]:
    """Return the differences with those unknown that are worse in the run, and may be so by what its machine withheld."""
    waited, found = starved(runs), []
    for one in differences:
        why = ""
        if waited and one.verdict == "worse":
            metric = METRICS[one.metric]
            allowed = one.tolerance * abs(one.baseline) + metric.floor
            values = {str(run.folder): _value(values[one.metric]) for run, values in zip(runs, measured, strict=True)}
            most = one.baseline - allowed if metric.high else one.baseline + allowed
            why = made_by_machine(one.metric, values, waited, most=most, high=metric.high)
        found.append(replace(one, verdict="unknown", detail=f"{one.detail}; but {why}") if why else one)
    return found


def _by_ends(runs: Sequence[Measure], baselines: Sequence[Measure], differ: Callable[..., Difference]) -> Difference:
    """Return the difference of a metric; of one of which some runs know only two ends, see the module."""
    run, base = ([[one[end] if isinstance(one, Ends) else one for one in side] for end in (0, 1)] for side in (runs, baselines))
    low = differ(run[0], base[0])
    if not any(isinstance(one, Ends) for one in (*runs, *baselines)):
        return low
    high = differ(run[1], base[1])
    if all(one.verdict == "same" and _near(one) for one in (low, high)):
        word: Word = "same"
    elif differ(run[0], base[1]).verdict == "worse":
        word = "worse"
    elif differ(run[1], base[0]).verdict == "better":
        word = "better"
    else:
        word = "maybe worse" if {low.verdict, high.verdict} <= {"worse", "maybe worse"} else "unknown"
    detail = low.detail if low.detail == high.detail else f"the least it can be: {low.detail}; the most: {high.detail}"
    if word == "unknown":
        detail = f"nobody knows whether what was not heard had been published, so {low.metric} is known only between two ends: {detail}"
    return replace(low, verdict=word, detail=detail, run_most=high.run, baseline_most=high.baseline)


def _near(one: Difference) -> bool:
    """Return whether the values are within the tolerance both ways: of a lower one `same` says only that nobody can be sure."""
    return abs(one.run - one.baseline) <= one.tolerance * abs(one.baseline) + METRICS[one.metric].floor


def _value(one: Measure) -> float:
    value = one.low if isinstance(one, Ends) else one
    return value.value if isinstance(value, Blocked) else float(value)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _difference(
    name: str,
    runs: Sequence[Blocked | float],
    baselines: Sequence[Blocked | float],
    *,
    tolerance: float,
    drift: float,
    rng: np.random.Generator,
) -> Difference:
    metric, sign = METRICS[name], -1.0 if METRICS[name].high else 1.0
    values = [[_value(one) for one in side] for side in (runs, baselines)]
    run, base = (_mean(side) for side in values)
    spread = welch(*values)
    half = 0.0 if math.isnan(spread) else spread
    blocked = [[one for one in side if isinstance(one, Blocked)] for side in (runs, baselines)]
    if len(blocked[0]) == len(runs) and len(blocked[1]) == len(baselines):
        drawn = draw(blocked[0], rng) - draw(blocked[1], rng)
        low, high = (float(end) for end in np.nanquantile(drawn, LEVEL))
    else:
        low = high = run - base
        if math.isnan(spread):  # one value a side tells nothing of its spread
            low, high = -math.inf, math.inf
    low, high = min(low, run - base - half), max(high, run - base + half)
    low = max(low, min(run, 0.0) - base) if math.isfinite(low) else low  # no time and no count is below 0, so none falls by over 100 %
    allowed = tolerance * abs(base) + metric.floor
    most = (metric.drift or 0.0) if drift else 0.0
    sure_worse, sure_better = (max(allowed, share * abs(base) + metric.floor + most) for share in (drift, 1 - 1 / (1 + drift)))
    good, bad = (low, high) if sign > 0 else (-high, -low)
    exceeds = sign * (run - base) > allowed
    word: Word = "worse" if exceeds and good > sure_worse else "maybe worse" if exceeds else "better" if bad < -sure_better else "same"
    parts = [part / abs(base) if base else math.nan for part in (run - base, low, high)]
    if math.isinf(low):
        change = (f"{parts[0]:+.1%}" if base else "from 0") + ", interval not known from one run a side"
    else:
        change = f"{parts[0]:+.1%}, 95 % interval {parts[1]:+.1%} to {parts[2]:+.1%}" if base else f"from 0, by {low:.3g} to {high:.3g}"
    detail = f"{name} is {run:,.5g}, of the baseline {base:,.5g} ({change}); tolerated are {tolerance:.0%} plus {metric.floor:g}"
    return Difference(name, run, base, parts[0], parts[1], parts[2], tolerance, word, detail)
