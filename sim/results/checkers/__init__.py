"""Judge a run: each member looks at one promise and says valid, invalid or unknown.

A member is a file with one function ``check(run: Run) -> Result`` that reads the run's tables and nothing else. It judges the
`run` phase unless it says otherwise, gives its counts, up to three witnesses (each begins with an event id, so that
`buslab story` shows its life), and the measured values of the `schema.SLO_METRICS` it owns. To add one, write the file and add
a line to `CHECKERS`. Members do not know each other; what they return is in `verdict`.

How verdicts compose
--------------------
1. A checker that throws is unknown, with the exception's text.
2. Any `invalid` makes the run invalid: a broken promise that was seen stays broken, however poor the instrument.
3. Except limits: when the harness says unknown, the instrument that measured a limit is not trusted (a saturated generator
   makes lag of its own), so a limit that fails then is unknown, not invalid. So is a limit on lag that would hold if
   Locust itself had made no call late; where a call had to wait for earlier ones to return, that is not Locust's doing.
4. A run without a fleet of ours is judged by its publishes alone (`WITHOUT_FLEET`); a limit on what pods heard was then not measured.
5. Else any `unknown` makes it unknown. A limit that was not measured (no data, NaN, no such metric) is unknown, never passed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sim.errors import UsageError, did_you_mean
from sim.machine.files import write_all
from sim.record.schema import SLO_METRICS
from sim.results.checkers import (
    batching,
    callers,
    clocks,
    deaf,
    duplication,
    fallback,
    harness,
    lag,
    ledger,
    once,
    order,
    staleness,
    steady,
)
from sim.results.checkers.verdict import JudgedLimit, Result, Verdict, beside_limit, finite, worst
from sim.results.opened_run import Run

__all__ = ["CHECKERS", "JudgedLimit", "Result", "Verdict", "judge", "worst", "write_verdict"]

CHECKERS: dict[str, Callable[[Run], Result]] = {
    "harness": harness.check,
    "steady": steady.check,
    "ledger": ledger.check,
    "duplication": duplication.check,
    "order": order.check,
    "lag": lag.check,
    "clocks": clocks.check,
    "once": once.check,
    "staleness": staleness.check,
    "fallback": fallback.check,
    "deaf": deaf.check,
    "batching": batching.check,
    "callers": callers.check,
}


WITHOUT_FLEET = ("harness", "lag", "callers")  # all that can be judged where the pods are not ours: nobody knows who heard


def judge(run: Run, *, only: Sequence[str] | None = None) -> Verdict:
    """Run the checkers and compare what they measured with the scenario's limits.

    Parameters
    ----------
    run
        An opened run folder.
    only
        Names of `CHECKERS`; limits on metrics of other checkers are then left out.

    Raises
    ------
    UsageError
        A name in `only` is not a checker.
    """
    everything = WITHOUT_FLEET if run.info.fleet == "none" else tuple(CHECKERS)
    names = list(everything if only is None else dict.fromkeys(only))
    for name in names:
        if name not in CHECKERS:
            raise UsageError(f"no checker {name!r}{did_you_mean(name, CHECKERS)}; there are {', '.join(CHECKERS)}")
    if not names:
        raise UsageError(f"no checker was named; there are {', '.join(CHECKERS)}")
    results = {name: _check(name, run) for name in names}
    metrics = {key: value for result in results.values() for key, value in result.metrics.items()}
    wanted = {key: value for key, value in run.slo.items() if only is None or key in metrics or key not in SLO_METRICS}
    slo = [_limit(metric, value, metrics, doubt=partial(_doubt, run, results)) for metric, value in wanted.items()]
    words = [result.verdict for result in results.values()] + [limit.verdict for limit in slo]
    return Verdict(worst(words), run.info.scenario, run.info.ground, run.info.seed, results, slo)


def _check(name: str, run: Run) -> Result:
    try:
        return CHECKERS[name](run)
    except Exception as error:  # a checker that throws must not end the judgement, nor pass
        return Result("unknown", f"the checker failed: {type(error).__name__}: {error}")


def _doubt(run: Run, results: Mapping[str, Result], metric: str, limit: float) -> str:
    """Return why a limit that seems broken may be the fault of the instrument, or an empty string."""
    if "harness" in results and results["harness"].verdict == "unknown":
        return "the harness cannot vouch for the measurement"
    if metric in lag.SLO_METRICS and "lag" in results and run.info.driver == "locust":
        return lag.generator_s_own(metric, limit, results["lag"].counts)
    return ""


def _limit(metric: str, limit: Any, metrics: Mapping[str, float], *, doubt: Callable[[str, float], str]) -> JudgedLimit:
    measured = finite(metrics.get(metric, math.nan))
    if metric not in SLO_METRICS:
        return JudgedLimit(metric, limit, None, "unknown", f"{metric} is not a metric{did_you_mean(metric, SLO_METRICS)}")
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not math.isfinite(limit):
        return JudgedLimit(metric, limit, measured, "unknown", f"{metric} has the limit {limit!r}, which is not a number")
    if measured is None:
        return JudgedLimit(metric, limit, None, "unknown", f"{metric} was not measured: no data")
    told = f"{metric} is {beside_limit(metric, measured, limit)}"
    if measured >= limit if metric.endswith("_min") else measured <= limit:
        return JudgedLimit(metric, limit, measured, "valid", f"{told} as promised")
    if why := doubt(metric, limit):
        return JudgedLimit(metric, limit, measured, "unknown", f"{told} was promised, but {why}")
    return JudgedLimit(metric, limit, measured, "invalid", f"{told} was promised")


def write_verdict(run: Run, verdict: Verdict) -> Path:
    """Write verdict.json and junit.xml into the run folder, both whole or neither, and return the path of the former."""
    from sim.results.junit import to_junit

    content, path = verdict.to_json(), run.folder / "verdict.json"
    write_all({run.folder / "junit.xml": to_junit(content), path: json.dumps(content, indent=2, allow_nan=False) + "\n"})
    return path
