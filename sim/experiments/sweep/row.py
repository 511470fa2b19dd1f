"""One run of a sweep, boiled down to a row of its table.

A row holds the settings, the verdict, every metric of `schema.SLO_METRICS` (NaN where it was not measured), the counts of every checker
as ``checker.count``, and what a copy cost the broker.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.record.schema import SLO_METRICS
from sim.results.broker_costs import broker_costs
from sim.results.checkers import judge, write_verdict
from sim.results.opened_run import open_run
from sim.run.status import Status
from sim.run.steps import run_scenario
from sim.scenario.settings import Scenario

KEEP = {
    "all": "every run folder",
    "not-valid": "the folders of runs that are not valid",
    "none": "no run folder",
}


@dataclass(frozen=True)
class Task:
    """Say what to run and where, as `run_scenario`, and whether its folder stays: a key of `KEEP`."""

    scenario: Scenario
    on: str
    folder: Path
    keep: str
    load_this_server: bool = False
    image: str | None = None


def run_task(task: Task, *, watch: Callable[[Status], None] = lambda status: None) -> dict[str, Any]:
    """Run in this process, judge, and return the row.

    Raises
    ------
    BuslabError
        The run failed or was interrupted; its folder stays.
    """
    begun_s = time.monotonic()
    shutil.rmtree(task.folder, ignore_errors=True)  # what an interrupted run of this cell left
    run = open_run(
        run_scenario(task.scenario, on=task.on, out=task.folder, load_this_server=task.load_this_server, image=task.image, watch=watch)
    )
    verdict = judge(run)
    write_verdict(run, verdict)
    return row_of(task, verdict.to_json(), took_s=time.monotonic() - begun_s)


def row_of(task: Task, verdict: Mapping[str, Any], *, took_s: float) -> dict[str, Any]:
    """Return the row of a run whose verdict.json has this content; the run's folder goes when `keep` says so."""
    checkers = verdict["checkers"]
    measured = {key: value for checker in checkers.values() for key, value in checker["metrics"].items() if value is not None}
    costs = broker_costs(open_run(task.folder))
    stays = task.keep == "all" or (task.keep == "not-valid" and verdict["verdict"] != "valid")
    if not stays:
        shutil.rmtree(task.folder)
    broken = [one for one in (*checkers.values(), *verdict["slo"]) if one["verdict"] == verdict["verdict"]]
    return {
        "state": "complete",
        "verdict": verdict["verdict"],
        "reasons": "; ".join(one["detail"] for one in broken) if verdict["verdict"] != "valid" else "",
        "run_folder": task.folder.name if stays else "",
        "took_s": took_s,
        **{metric: measured.get(metric, float("nan")) for metric in SLO_METRICS},
        "broker.cpu_share": costs.cpu_share,
        "broker.cpu_us_per_copy": costs.all_in_copy_us,
        **{f"{name}.{key}": value for name, checker in checkers.items() for key, value in checker["counts"].items()},
    }
