"""Judge a run: each member looks at one promise and says valid, invalid or unknown.

A member is a file with one function ``check(run: Run) -> Result`` that reads the run's tables and nothing else. It judges the
`run` phase unless it says otherwise, gives its counts, up to three witnesses (each begins with an event id, so that
`buslab story` shows its life), and the measured values of the `schema.SLO_METRICS` it owns. To add one, write the file and add
a line to `CHECKERS`. Members do not know each other; what they return is in `verdict`.

One that is not ours is such a function, named in the scenario's `checkers` as ``module:name``, or an entry point of ``buslab.checkers``
(`sim.machine.user_code`). It judges too, but the limits in `[slo]` are on the metrics of ours only.

How verdicts compose
--------------------
1. A checker that throws is unknown, with the exception's text. So is one of the user's own whose code cannot be had, or that returns
   something else than a `Result`.
2. Any `invalid` makes the run invalid: a broken promise that was seen stays broken, however poor the instrument.
3. Except limits: when the harness says unknown, the instrument that measured a limit is not trusted (a saturated generator
   makes lag of its own), so a limit that fails then is unknown, not invalid. So is a limit on lag that would hold if
   Locust itself had made no call late; where a call had to wait for earlier ones to return, that is not Locust's doing.
4. Nor does a limit, or a checker, say invalid where the machine may have done it: what it withheld from the lab's processes, by waiting
   for a core or standing still, is taken off, and when the limit would then have been kept it is unknown and names who waited and how
   long (`sim.results.at_best`: which metric loses what; what no stall can explain, such as an event heard twice, stays invalid). A limit
   that holds stays valid, with the wait beside it. On the ground `model` time is virtual, and none of this applies.
5. A run without a fleet of ours is judged by its publishes alone (`WITHOUT_FLEET`); a limit on what pods heard was then not measured.
6. A checker that needs what only pods of ours tell says nothing of a fleet of programs: it is *not measured*, never valid, and decides
   nothing (`sim.results.programs`); a limit on a metric of its was not measured either.
7. Else any `unknown` makes it unknown. A limit that was not measured (no data, NaN, no such metric) is unknown, never passed; nor is
   one on something of which nothing happened.
8. What nobody can vouch for helps no limit: a metric that it could move is an interval. A limit that one end keeps and the other breaks
   is unknown; one that even the better end breaks is invalid.
9. A time between processes that read two clocks is such an interval, as wide as these are known (`sim.results.run_clocks`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sim.errors import UsageError, did_you_mean
from sim.machine.files import write_all
from sim.machine.user_code import find_member, first_line, installed_members, is_named
from sim.record.checksum import signed_page, with_checksum
from sim.record.limits import SCOPED_METRICS, read_metric
from sim.record.schema import SLO_METRICS, TIMES_BETWEEN_PROCESSES
from sim.results.at_best import AtBest
from sim.results.checkers import (
    batching,
    callers,
    clocks,
    consumers,
    deaf,
    duplication,
    fallback,
    harness,
    lag,
    ledger,
    once,
    order,
    programs,
    staleness,
    steady,
)
from sim.results.checkers.verdict import (
    Bounds,
    JudgedLimit,
    Result,
    Verdict,
    beside_limit,
    finite,
    least_of,
    most_of,
    own_result,
    widened,
    worst,
)
from sim.results.excuses import ALTHOUGH, advice, notable, who_waited
from sim.results.opened_run import Run
from sim.results.programs import not_measured

__all__ = ["CHECKERS", "JudgedLimit", "Result", "Verdict", "at_best_of", "judge", "worst", "write_verdict"]

CHECKERS: dict[str, Callable[[Run], Result]] = {
    "harness": harness.check,
    "steady": steady.check,
    "ledger": ledger.check,
    "duplication": duplication.check,
    "order": order.check,
    "lag": lag.check,
    "consumers": consumers.check,
    "clocks": clocks.check,
    "once": once.check,
    "staleness": staleness.check,
    "fallback": fallback.check,
    "deaf": deaf.check,
    "batching": batching.check,
    "callers": callers.check,
    "programs": programs.check,
}


OF_PROGRAMS = "programs"  # asked only where some pod is one
WITHOUT_FLEET = ("harness", "lag", "callers")  # all that can be judged where the pods are not ours: nobody knows who heard


def find_checker(name: str, *, folder: str = "") -> Callable[[Run], Result]:
    """Return a checker by its name: one of `CHECKERS`, or one that is not ours, whose module may be in `folder`.

    Raises
    ------
    UsageError
        There is no such checker, or it cannot be imported.
    """
    return find_member(name, kind="checker", members=CHECKERS, folder=folder)


def is_checker(name: str) -> bool:
    """Return whether a name can be that of a checker; whether the code of one that is not ours is there is another question."""
    return name in CHECKERS or is_named(name) or name in installed_members("checker")


def judge(run: Run, *, only: Sequence[str] | None = None, code_folder: str | Path | None = None) -> Verdict:
    """Run the checkers and compare what they measured with the scenario's limits.

    Parameters
    ----------
    run
        An opened run folder.
    only
        Names of checkers; limits on metrics of other checkers are then left out.
    code_folder
        Where the modules of the user's own checkers are; without it, where the run says that they were.

    Raises
    ------
    UsageError
        A name in `only` is not a checker.
    RunFolderError
        There is no room to sort the deliveries of a long run, see `sim.results.heard`.
    """
    everything = WITHOUT_FLEET if run.info.fleet == "none" else (*CHECKERS, *map(str, run.scenario.get("checkers", ())))
    unmeasured = not_measured(run)
    everything = tuple(name for name in everything if name not in unmeasured and (name != OF_PROGRAMS or run.info.programs is not None))
    folder = str(run.scenario.get("code_folder", "") if code_folder is None else Path(code_folder).absolute())
    names = list(everything if only is None else (name for name in dict.fromkeys(only) if name not in unmeasured))
    for name in names:
        if only is not None and not is_checker(name):
            raise UsageError(f"no checker {name!r}{did_you_mean(name, CHECKERS)}; there are {', '.join(CHECKERS)}")
    if not names and not only:
        raise UsageError(f"no checker was named; there are {', '.join(CHECKERS)}")
    if run.many_deliveries is not None:
        _ = run.pieces  # that there is no room to sort them is no checker's finding
    best = at_best_of(run)
    results = {name: _check(name, run, best) if name in CHECKERS else _own_check(name, run, folder) for name in names}
    metrics = {key: value for name, result in results.items() if name in CHECKERS for key, value in result.metrics.items()}
    named = {key: read_metric(key) for key in run.slo}
    wanted = {key: value for key, value in run.slo.items() if only is None or named[key].base in metrics or not named[key].known}
    slo = [_limit(metric, value, metrics, doubt=partial(_doubt, run, results, best)) for metric, value in wanted.items()]
    slo = [_with_waits(limit, best) for limit in slo]
    words = [result.verdict for result in results.values()] + [limit.verdict for limit in slo]
    said = {name: why for name, why in unmeasured.items() if only is None or name in only}
    return Verdict(worst(words), run.info.scenario, run.info.ground, run.info.seed, results, slo, said)


def at_best_of(run: Run) -> AtBest:
    """Return what the metrics of a run would have been, had its machine withheld nothing."""
    return AtBest(run, partial(staleness.stale_for_at_best, run))


def _check(name: str, run: Run, best: AtBest) -> Result:
    try:
        result = _between_clocks(CHECKERS[name](run), run.clocks.greatest_error_ns)
        if result.verdict == "invalid" and best.withheld.accounts and best.may_be_made(name):
            why = f"{who_waited(run, best.withheld)}, which may have made it: {advice(run, best.withheld)}"
            return replace(result, verdict="unknown", detail=f"{result.detail}; but {why}")
        return result
    except Exception as error:  # a checker that throws must not end the judgement, nor pass
        return Result("unknown", f"the checker failed: {type(error).__name__}: {error}")


def _between_clocks(result: Result, error_ns: int) -> Result:
    """Return what a checker found, its times between processes as exact as their clocks are known."""
    if not error_ns:
        return result
    found = {metric: read_metric(metric).base for metric in result.metrics}
    per = {metric: 1e9 if base.endswith("_s_max") else 1e6 for metric, base in found.items() if base in TIMES_BETWEEN_PROCESSES}
    return replace(result, metrics={m: widened(value, error_ns / per[m]) if m in per else value for m, value in result.metrics.items()})


def _own_check(name: str, run: Run, folder: str) -> Result:
    """Return what a checker of the user's own says; unknown where its code is not there, or fails."""
    try:
        check = find_checker(name, folder=folder)
    except UsageError as error:
        return Result("unknown", f"its code cannot be had: {error}; say where it is with --path")
    try:
        return own_result(check(run))
    except (Exception, SystemExit) as error:
        return Result("unknown", f"the checker failed: {first_line(error, folder=folder)}")


def _doubt(run: Run, results: Mapping[str, Result], best: AtBest, metric: str, measured: float, limit: float) -> str:
    """Return why a limit that seems broken may be the fault of the instrument, or of the machine it ran on, or an empty string."""
    if why := _waited(run, best, metric, measured, limit):
        return why
    if "harness" in results and results["harness"].verdict == "unknown":
        return "the harness cannot vouch for the measurement"
    if read_metric(metric).base in lag.SLO_METRICS and "lag" in results and run.info.driver == "locust":
        return lag.generator_s_own(metric, limit, results["lag"].counts)
    return ""


def _waited(run: Run, best: AtBest, metric: str, measured: float, limit: float) -> str:
    """Return who waited how long for the machine, where without that the limit may have been kept; else an empty string."""
    if not best.withheld.accounts:
        return ""
    at_best = best.value(metric, measured, limit)
    if not (at_best >= limit if read_metric(metric).base.endswith("_min") else at_best <= limit):
        return ""
    return f"{who_waited(run, best.withheld)}, which may have made it: {advice(run, best.withheld)}"


def _with_waits(limit: JudgedLimit, best: AtBest) -> JudgedLimit:
    """Return a limit that holds with what the lab waited beside it, where that is worth a word."""
    if limit.verdict == "valid" and best.concerns(limit.metric) and (told := notable(best.run, best.withheld)):
        return replace(limit, detail=f"{limit.detail}{ALTHOUGH}{told}")
    return limit


def _limit(metric: str, limit: Any, metrics: Mapping[str, float | Bounds], *, doubt: Callable[[str, float, float], str]) -> JudgedLimit:
    name, found = read_metric(metric), metrics.get(metric, math.nan)
    measured, interval = (None, found) if isinstance(found, Bounds) else (finite(found), None)
    judged = partial(JudgedLimit, metric, limit, measured, interval=interval)
    if not name.known:
        near = did_you_mean(name.base, SCOPED_METRICS if name.scope else SLO_METRICS)
        return judged(verdict="unknown", detail=f"{metric} is not a metric{near}")
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not math.isfinite(limit):
        return judged(verdict="unknown", detail=f"{metric} has the limit {limit!r}, which is not a number")
    if measured is None and interval is None:
        return judged(verdict="unknown", detail=f"{metric} was not measured: no data")
    value = interval or measured or 0.0
    ends = [one >= limit if name.base.endswith("_min") else one <= limit for one in (least_of(value), most_of(value))]
    told = f"{metric} is {beside_limit(metric, value, limit)}"
    if all(ends):
        return judged(verdict="valid", detail=f"{told} as promised")
    if any(ends):
        return judged(verdict="unknown", detail=f"{told} was promised: nobody knows {interval.why if interval else ''}")
    if why := doubt(metric, most_of(value) if name.base.endswith("_min") else least_of(value), limit):
        return judged(verdict="unknown", detail=f"{told} was promised, but {why}")
    return judged(verdict="invalid", detail=f"{told} was promised")


def write_verdict(run: Run, verdict: Verdict) -> Path:
    """Write verdict.json and junit.xml into the run folder, both whole or neither, and return the path of the former."""
    from sim.results.junit import to_junit

    content, path = verdict.to_json(), run.folder / "verdict.json"
    text = json.dumps(with_checksum(content), indent=2, allow_nan=False) + "\n"
    write_all({run.folder / "junit.xml": signed_page(to_junit(content)), path: text})
    return path
