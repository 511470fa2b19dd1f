"""A run in memory is the run that its folder would hold: every table, what is true of all of it, and the verdict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sim.experiments.explore.draw import draw_scenario
from sim.record.schema import TABLES
from sim.results.checkers import judge
from sim.results.opened_run import Run, open_recorded, open_run
from sim.run.steps import run_in_memory, run_scenario

OF_ITS_MOMENT = {"started_at", "wall_offset_ns", "tables", "scenario_crc32", "files"}  # of a file, or of the clock on the wall


def table(run: Run, name: str) -> pd.DataFrame:
    return run._table(name)


@pytest.mark.parametrize("seed", [0, 3, 11, 16])
def test_a_run_in_memory_has_the_tables_and_the_verdict_of_its_folder(seed: int, tmp_path: Path) -> None:
    scenario = draw_scenario(seed)
    ours, theirs = open_recorded(run_in_memory(scenario)), open_run(run_scenario(scenario, on="model", out=tmp_path / "run"))
    assert ours.scenario == theirs.scenario and ours.environment == theirs.environment
    assert all(getattr(ours.info, f) == getattr(theirs.info, f) for f in ours.info.__struct_fields__ if f not in OF_ITS_MOMENT)
    assert ours.sealed and theirs.sealed
    for name in TABLES:
        mine, other = table(ours, name), table(theirs, name)
        if name == "hosts":  # processor time of this machine
            mine, other = (rows.drop(columns=[c for c in rows if c in TIMES_OF_HOSTS]) for rows in (mine, other))
        pd.testing.assert_frame_equal(mine, other, check_categorical=True)
    verdicts = [judge(run).to_json() for run in (ours, theirs)]
    assert verdicts[0] == verdicts[1]


TIMES_OF_HOSTS = {"cpu_ns", "waited_ns", "stood_ns"}


def test_nothing_is_written_and_a_table_can_be_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recorded = run_in_memory(draw_scenario(0))
    again = [open_recorded(recorded).publishes["event"].to_numpy().copy() for _ in range(2)]
    assert np.array_equal(*again) and len(again[0])
    assert list(tmp_path.iterdir()) == []
