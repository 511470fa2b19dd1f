"""A scenario that was run for the sake of its tables: on the model in memory, on any other ground in a folder."""

from __future__ import annotations

from pathlib import Path

from sim.results.opened_run import Run, open_recorded, open_run
from sim.run.steps import run_in_memory, run_scenario
from sim.scenario.file import Scenario


def ran(scenario: Scenario, *, on: str = "model", folder: Path) -> Run:
    """Run a scenario and return what was recorded; nothing is written of a run on the model."""
    if on == "model":
        return open_recorded(run_in_memory(scenario))
    return open_run(run_scenario(scenario, on=on, out=folder))
