"""One run of a sweep as a row of its table.

A row holds the settings, the verdict, every metric of `schema.SLO_METRICS` (NaN where it was not measured), the counts of every checker
as ``checker.count``, and what a copy cost the broker.
"""

from __future__ import annotations

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
    broken = [detail for word, detail in said if word == verdict.verdict]
    return {
        "state": "complete",
        "verdict": verdict.verdict,
        "reasons": "; ".join(broken) if verdict.verdict != "valid" else "",
        "run_folder": outcome.folder.name if outcome.stays(keep) else "",
        "took_s": outcome.took_s,
        **{metric: outcome.metric(metric) for metric in SLO_METRICS},
        "broker.cpu_share": costs.cpu_share,
        "broker.cpu_us_per_copy": costs.all_in_copy_us,
        **{f"{name}.{key}": value for name, checker in verdict.checkers.items() for key, value in checker.counts.items()},
    }
