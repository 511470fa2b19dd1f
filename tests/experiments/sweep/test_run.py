"""Sweeps on the model: the table, going on after an end of any kind, and what a folder refuses."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from sim.errors import Interrupted, RunFolderError, ScenarioError, UsageError
from sim.experiments.sweep.run import exit_code, read_sweep, run_sweep
from sim.experiments.sweep.table import sweep_table
from sim.record.schema import SLO_METRICS
from sim.results.opened_run import open_run

GRID = ("bus.batch_size=1,10", "load.rate_per_s=20,40", "load.run_s=2")


def sweep(out: Path, *settings: str, **more: object) -> pd.DataFrame:
    return run_sweep("batch_size", settings=settings or GRID, on="model", out=out, **more)  # type: ignore[arg-type]


def test_seeds_beyond_the_largest_are_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the last one's seed would be 9223372036854775808"):
        sweep(tmp_path / "s", "seed=9223372036854775807", "load.run_s=1", repeats=2)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("damage", ["verdict", "another's", "old"])
def test_a_row_that_is_damaged_or_another_cells_is_run_again(damage: str, tmp_path: Path) -> None:
    sweep(tmp_path / "s", "load.rate_per_s=20,30", "load.run_s=2", jobs=1)
    one, other = (tmp_path / "s" / "rows" / f"c000{number}-r000.json" for number in (0, 1))
    row = json.loads(one.read_text("utf-8"))
    made = {"verdict": row | {"verdict": "banana"}, "old": {"state": "complete", "run_folder": 7}}
    one.write_text(other.read_text("utf-8") if damage == "another's" else json.dumps(made[damage]), "utf-8")
    lines: list[str] = []
    table = sweep(tmp_path / "s", "load.rate_per_s=20,30", "load.run_s=2", jobs=1, resume=True, tell=lines.append)
    assert any("1 of 2 runs were done before" in line for line in lines)
    assert list(table["load.rate_per_s"]) == [20, 30] and "banana" not in set(table["verdict"])


@pytest.mark.broker
def test_a_sweep_gives_a_row_a_run_with_every_metric_and_no_run_folder_by_default(tmp_path: Path) -> None:
    table = sweep(tmp_path / "s", repeats=2)
    assert len(table) == 8
    assert set(table["verdict"]) == {"valid"} and exit_code(table) == 0
    assert set(SLO_METRICS) <= set(table.columns)
    assert sorted(set(zip(table["bus.batch_size"], table["load.rate_per_s"], strict=True))) == [(1, 20), (1, 40), (10, 20), (10, 40)]
    assert sorted(set(zip(table["repeat"], table["seed"], strict=True))) == [(0, 1), (1, 2)]
    assert sorted(table["place"]) == list(range(8))
    ones = table[table["bus.batch_size"] == 1]
    assert (ones["batching.items_per_batch"] == 1).all()
    assert (table[table["bus.batch_size"] == 10]["batching.items_per_batch"] > 5).all()
    assert set(table["run_folder"]) == {""} and not (tmp_path / "s" / "runs").exists()
    pd.testing.assert_frame_equal(read_sweep(tmp_path / "s"), table)
    assert len(pd.read_csv(tmp_path / "s" / "sweep.csv")) == 8
    assert [column.header for column in sweep_table(table).columns][:3] == ["bus.batch_size", "load.rate_per_s", "runs"]


def test_a_sweep_takes_any_bus_with_its_own_services_and_channels(tmp_path: Path) -> None:
    shop = str(Path(__file__).parents[3] / "docs" / "examples" / "shop" / "everyday.toml")
    settings = ('channels."search.asked".batch_size=2,20', "services.search.replicas=2", "load.rate_per_s=50", "load.run_s=2")
    table = run_sweep(shop, settings=settings, on="model", out=tmp_path / "s", jobs=1)
    assert list(table['channels."search.asked".batch_size']) == [2, 20] and set(table["verdict"]) == {"valid"}
    assert table["batching.items_per_batch"].iloc[0] < table["batching.items_per_batch"].iloc[1]


def test_the_same_seed_gives_the_same_table_with_one_job(tmp_path: Path) -> None:
    first, second = (sweep(tmp_path / name, "bus.batch_size=1,10", "load.run_s=1", jobs=1) for name in "ab")
    pd.testing.assert_frame_equal(first.drop(columns="took_s"), second.drop(columns="took_s"))


def test_run_folders_of_runs_that_are_not_valid_stay_and_the_worst_verdict_decides(tmp_path: Path) -> None:
    table = sweep(tmp_path / "s", "slo.lag_ms_p99=0.0001,1000", "bus.batch_size=1", "load.run_s=1", jobs=1)
    assert list(table["verdict"]) == ["invalid", "valid"] and exit_code(table) == 1
    assert "lag_ms_p99" in table["reasons"].iloc[0]
    assert open_run(table["run_folder"].iloc[0]).sealed
    assert table["run_folder"].iloc[1] == ""


def test_an_interrupted_sweep_goes_on_with_the_rest_only(tmp_path: Path) -> None:
    lines: list[str] = []

    def end_after_two(line: str) -> None:
        lines.append(line)
        if line.startswith("2/"):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="2 of 4 runs are done") as error:
        sweep(tmp_path / "s", jobs=1, tell=end_after_two)
    assert error.value.exit_code == 130
    begun = read_sweep(tmp_path / "s")
    assert len(begun) == 2
    lines.clear()
    whole = sweep(tmp_path / "s", jobs=1, resume=True, tell=lines.append)
    assert len(whole) == 4
    assert sum(line.endswith("runs") for line in lines) == 2, "what was finished is not run again"
    same = whole.set_index(["cell", "repeat"]).loc[list(zip(begun["cell"], begun["repeat"], strict=True))].reset_index()
    assert list(same["took_s"]) == list(begun["took_s"])


@pytest.mark.broker
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda n: n.name)
def test_a_sweep_of_two_jobs_that_is_ended_leaves_no_process_and_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    args = ["sweep", "batch_size", "--on", "model", "--jobs", "2", "--out", "s", "--set", "load.rate_per_s=20,30,40,50", "--set"]
    args += ["load.run_s=20"]
    process = subprocess.Popen([sys.executable, "-m", "sim.cli", *args], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("1/4 ")
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(number)
    said = process.communicate(timeout=150)[1]
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert number == signal.SIGKILL or "--resume goes on" in said
    assert psutil.wait_procs(children, timeout=60)[1] == []
    rows = {path: path.read_bytes() for path in (tmp_path / "s" / "rows").iterdir()}
    done = subprocess.run([sys.executable, "-m", "sim.cli", *args, "--resume"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"{len(rows)} of 4 runs were done before" in done.stderr
    assert {path: path.read_bytes() for path in rows} == rows
    assert len(read_sweep(tmp_path / "s")) == 4


@pytest.mark.broker
def test_a_worker_that_dies_costs_its_cell_and_going_on_runs_it(tmp_path: Path) -> None:
    def kill_one(line: str) -> None:
        if line.startswith("1/"):
            for child in psutil.Process().children()[:1]:
                os.kill(child.pid, signal.SIGKILL)

    table = sweep(tmp_path / "s", "load.rate_per_s=20,30,40,50,60,70", "load.run_s=20", jobs=2, tell=kill_one)
    assert len(table) == 6
    failed = table[table["state"] == "failed"]
    assert len(failed) <= 1  # none when the one that was idle died
    assert exit_code(table) == (2 if len(failed) else 0)
    assert all("exit code -9" in reason for reason in failed["reasons"])
    assert set(sweep(tmp_path / "s", "load.rate_per_s=20,30,40,50,60,70", "load.run_s=20", resume=True)["state"]) == {"complete"}


def test_a_folder_refuses_another_grid_and_says_what_changed(tmp_path: Path) -> None:
    sweep(tmp_path / "s", "bus.batch_size=1,10", "load.run_s=1", jobs=1)
    for settings, more, says in [
        (("bus.batch_size=1,20", "load.run_s=1"), {}, "bus.batch_size was 1,10 and is 1,20"),
        (("bus.batch_size=1,10", "load.run_s=1"), {"repeats": 2}, "--repeats was 1 and is 2"),
        (("bus.batch_size=1,10",), {}, "load.run_s was 1 and is not set"),
    ]:
        with pytest.raises(UsageError, match=says):
            sweep(tmp_path / "s", *settings, resume=True, **more)
    with pytest.raises(UsageError, match="go on with it by --resume"):
        sweep(tmp_path / "s", "bus.batch_size=1,10", "load.run_s=1")
    with pytest.raises(UsageError, match="no sweep lies there"):
        sweep(tmp_path / "nowhere", resume=True)


def test_a_changed_scenario_file_is_another_sweep(tmp_path: Path) -> None:
    from sim.scenario.file import built_in

    mine = tmp_path / "mine.toml"
    shutil.copy(built_in()["batch_size"], mine)
    run_sweep(str(mine), settings=("load.run_s=1",), on="model", out=tmp_path / "s")
    mine.write_text(mine.read_text().replace("rate_per_s = 20", "rate_per_s = 21"))
    with pytest.raises(UsageError, match="the scenario mine has changed"):
        run_sweep(str(mine), settings=("load.run_s=1",), on="model", out=tmp_path / "s", resume=True)


def test_a_bad_cell_or_argument_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="batch_size = -1"):
        sweep(tmp_path / "s", "bus.batch_size=1,-1")
    with pytest.raises(UsageError, match="--jobs 0"):
        sweep(tmp_path / "s", jobs=0)
    with pytest.raises(UsageError, match="--keep some"):
        sweep(tmp_path / "s", keep="some")
    with contextlib.suppress(FileNotFoundError):
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(RunFolderError, match="not the folder of a sweep"):
        read_sweep(tmp_path)


def test_a_damaged_row_is_run_again(tmp_path: Path) -> None:
    sweep(tmp_path / "s", "load.run_s=1", jobs=1)
    next((tmp_path / "s" / "rows").iterdir()).write_text('{"state": "compl')
    begun = time.monotonic()
    assert list(sweep(tmp_path / "s", "load.run_s=1", jobs=1, resume=True)["took_s"] <= time.monotonic() - begun) == [True]


def test_a_folder_whose_name_is_no_text_is_refused_before_the_first_run(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(UsageError, match="the name is not UTF-8"):
        run_sweep("baseline", settings=("load.rate_per_s=10,20",), on="model", out=folder)
    assert not folder.exists()


def test_a_cell_whose_runs_know_a_metric_between_two_ends_shows_both() -> None:
    rows = pd.DataFrame({"cell": [0, 0], "verdict": ["unknown", "valid"], "missing": [math.nan, 3.0]})
    rows["missing.least"], rows["missing.most"] = [0.0, math.nan], [94.0, math.nan]
    rows.attrs["plan"] = {"settings": {}, "scenario": "x", "on": "model"}
    shown = {str(column.header): list(column.cells) for column in sweep_table(rows).columns}
    assert shown["missing"] == ["0 to 94"]
