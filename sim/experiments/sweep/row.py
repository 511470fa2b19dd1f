"""One run of a sweep as a row of its table.

A row holds the settings, the verdict, every metric of `schema.SLO_METRICS` (NaN where it was not measured) and those of a service or
channel that the scenario limits, the counts of every checker as ``checker.count``, and what a copy cost the broker. A metric that is
known only as an interval is NaN itself, and has the columns ``metric.least`` and ``metric.most``.
"""

from __future__ import annotations

import math
from typing import Any

from sim.experiments.many_runs import Outcome
from sim.record.schema import SLO_METRICS
from sim.results.broker_costs import broker_costs


def sweep_row(outcome: Outcome, *, keep: str) -> dict[str, Any]:
    """Return the row of a run, failed or judged; its folder must still be there, and the row names it when it stays."""
    if outcome.verdict is None:
        folder = outcome.folder.name if outcome.folder.exists() else ""
        return {"state": "failed", "verdict": "unknown", "reasons": str(outcome.error), "run_folder": folder}
    verdict = outcome.verdict
    costs = broker_costs(outcome.judged().run)
    said = [(one.verdict, one.detail) for one in verdict.checkers.values()] + [(one.verdict, one.detail) for one in verdict.slo]
    scoped = [limit.metric for limit in verdict.slo if limit.metric not in SLO_METRICS]
    broken = [detail for word, detail in said if word == verdict.verdict]
    return {
        "state": "complete",
        "verdict": verdict.verdict,
        "reasons": "; ".join(broken) if verdict.verdict != "valid" else "",
        "run_folder": outcome.folder.name if outcome.stays(keep) else "",
        "took_s": outcome.took_s,
        **{key: value for metric in (*SLO_METRICS, *scoped) for key, value in _columns(metric, *outcome.ends(metric)).items()},
        "broker.cpu_share": costs.cpu_share,
        "broker.cpu_us_per_copy": costs.all_in_copy_us,
        **{f"{name}.{key}": value for name, checker in verdict.checkers.items() for key, value in checker.counts.items()},
    }


def _columns(metric: str, least: float, most: float) -> dict[str, float]:
    if least < most:
        return {metric: math.nan, f"{metric}.least": least, f"{metric}.most": most}
    return {metric: least}
