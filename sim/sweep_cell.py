"""One run of a sweep: made, judged, and boiled down to a row; and the process that does so for a sweep with several at a time.

A row holds the settings, the verdict, every metric of `schema.SLO_METRICS` (NaN where it was not measured), the counts of every checker
as ``checker.count``, and what a copy cost the broker. A worker (`python -m sim.sweep_cell FD`) takes one `Task` after another from the
socket FD and answers with a row, or with the sentence that says why there is none; it ends when the other side is closed.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec

from sim.broker_costs import broker_costs
from sim.checkers import judge, write_verdict
from sim.errors import BuslabError, Interrupted
from sim.results import open_run
from sim.run import run_scenario
from sim.scenario import load_scenario
from sim.schema import SLO_METRICS
from sim.status import Status

KEEP = {
    "all": "every run folder",
    "not-valid": "the folders of runs that are not valid",
    "none": "no run folder",
}


@dataclass(frozen=True)
class Task:
    """Say what to run and where: as `run_scenario`; `repeat` is added to the scenario's seed."""

    scenario: str
    settings: tuple[str, ...]
    repeat: int
    on: str
    folder: Path
    keep: str
    load_this_server: bool = False
    image: str | None = None


def run_cell(task: Task, *, watch: Callable[[Status], None] = lambda status: None) -> dict[str, Any]:
    """Run, judge, and return the row; the folder stays when `keep` says so.

    Raises
    ------
    BuslabError
        The run failed or was interrupted; its folder stays.
    """
    begun_s = time.monotonic()
    scenario = load_scenario(task.scenario, settings=task.settings)
    scenario = msgspec.structs.replace(scenario, seed=scenario.seed + task.repeat)
    shutil.rmtree(task.folder, ignore_errors=True)  # what an interrupted run of this cell left
    run = open_run(
        run_scenario(scenario, on=task.on, out=task.folder, load_this_server=task.load_this_server, image=task.image, watch=watch)
    )
    verdict = judge(run)
    write_verdict(run, verdict)
    measured = {key: value for result in verdict.checkers.values() for key, value in result.metrics.items()}
    counts = {f"{name}.{key}": value for name, result in verdict.checkers.items() for key, value in result.counts.items()}
    costs = broker_costs(run)
    stays = task.keep == "all" or (task.keep == "not-valid" and verdict.verdict != "valid")
    if not stays:
        shutil.rmtree(task.folder)
    return {
        "state": "complete",
        "verdict": verdict.verdict,
        "reasons": "; ".join(verdict.reasons) if verdict.verdict != "valid" else "",
        "run_folder": task.folder.name if stays else "",
        "took_s": time.monotonic() - begun_s,
        **{metric: measured.get(metric, float("nan")) for metric in SLO_METRICS},
        "broker.cpu_share": costs.cpu_share,
        "broker.cpu_us_per_copy": costs.all_in_copy_us,
        **counts,
    }


def serve(channel: Connection) -> None:
    """Answer tasks until the other side is closed or a signal asks to end."""
    while True:
        try:
            task = channel.recv()
        except EOFError:
            return
        try:
            channel.send((True, run_cell(task)))
        except Interrupted:
            return
        except BuslabError as error:
            channel.send((False, str(error)))
        except Exception as error:  # the sweep goes on with its other cells and says what became of this one
            channel.send((False, f"{type(error).__name__}: {error}"))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
