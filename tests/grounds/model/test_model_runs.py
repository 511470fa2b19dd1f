"""Runs in virtual time: the same seed gives the same tables, byte for byte, in another process with another hash seed."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from sim.errors import BuslabError, Interrupted
from sim.grounds.model.costs import FILE_FORMAT, CostInterval, Costs, CostsFile, write_costs
from sim.record.run_info import RunInfo
from sim.record.schema import TABLES
from sim.results.opened_run import open_run
from sim.run import steps
from sim.run.sampler import SAMPLES
from sim.run.steps import Status, run_scenario
from sim.scenario.file import built_in, load_scenario
from sim.scenario.settings import Scenario

RUN_ALL = """
import sys
from pathlib import Path
from sim.run.steps import run_scenario
from sim.run.sampler import SAMPLES
from sim.scenario.file import built_in, load_scenario
for name in list(built_in())[:: int(sys.argv[2])]:
    scenario = load_scenario(name)
    if not any("failover" in fault.needs for fault in scenario.faults):  # the model is one server
        run_scenario(scenario, on="model", out=Path(sys.argv[1]) / name)
assert "pandas" not in sys.modules, "a run waits a quarter second for what only judging needs"
"""


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.deep)])
def test_every_scenario_gives_the_same_tables_from_its_seed(every: int, tmp_path: Path) -> None:
    """Of all scenarios in `make deep`, of every third for each change."""
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        subprocess.run([sys.executable, "-c", RUN_ALL, str(tmp_path / hash_seed), str(every)], env=environment, check=True, timeout=170)
    compared = 0
    names = sorted(folder.name for folder in (tmp_path / "1").iterdir())
    assert {*list(built_in())[::every]} - {*names} <= {"broker_failover"} and len(names) > 30 / every
    for name in names:
        for table in TABLES:
            one, other = ((tmp_path / seed / name / f"{table}.parquet").read_bytes() for seed in ("1", "2"))
            assert one == other, f"{table} of {name} differs"
            compared += open_run(tmp_path / "1" / name).info.tables[table].rows
    assert compared > 10_000 / every


def test_another_seed_gives_another_run(tmp_path: Path) -> None:
    for seed in (1, 2):
        scenario = load_scenario("baseline", settings=(f"seed={seed}", "load.run_s=2"))
        run_scenario(scenario, on="model", out=tmp_path / str(seed))
    one, other = (open_run(tmp_path / str(seed)) for seed in (1, 2))
    assert one.publishes["sent_ns"].tolist() != other.publishes["sent_ns"].tolist()
    assert one.info.nonce != other.info.nonce


def test_the_pods_drive_where_locust_cannot(tmp_path: Path) -> None:
    run = open_run(run_scenario(load_scenario("baseline", settings=("load.run_s=1",)), on="model", out=tmp_path / "run"))
    assert run.info.driver == run.scenario["load"]["driver"] == "pods"
    assert run.info.ground == "model"
    assert len(run.hosts) == 0


def test_the_display_goes_by_the_readers_clock(tmp_path: Path) -> None:
    seen: list[Status] = []
    scenario = load_scenario("baseline", settings=("load.run_s=600", "load.rate_per_s=50"))
    run_scenario(scenario, on="model", out=tmp_path / "run", watch=seen.append)
    phases = [status.phase for status in seen]
    assert list(dict.fromkeys(phases)) == ["provision", "start", "probe", "warm-up", "run", "drain", "seal"]
    assert len(seen) < 600, "not once a quarter of a virtual second"


def test_an_interrupt_in_virtual_time_keeps_what_was_recorded(tmp_path: Path) -> None:
    """The signal comes when the run phase shows; the folder says that it is part of a run."""

    sent: list[int] = []

    def interrupt(status: Status) -> None:
        if status.phase == "run" and status.delivered and not sent:  # a second signal would end this process at once
            sent.append(1)
            os.kill(os.getpid(), 2)

    scenario = load_scenario("baseline", settings=("load.run_s=20000", "load.rate_per_s=50"))
    with pytest.raises(Interrupted):
        run_scenario(scenario, on="model", out=tmp_path / "run", watch=interrupt)
    run = open_run(tmp_path / "run")
    assert run.info.state == "interrupted"
    assert len(run.deliveries) > 100


def test_a_costs_file_that_is_not_there_is_named_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(BuslabError, match=r"nowhere\.json.*buslab calibrate"):
        run_scenario(load_scenario("baseline"), on=f"model:{tmp_path}/nowhere.json", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_long_run_asks_the_broker_some_thousands_of_times_at_most(tmp_path: Path) -> None:
    for run_s, least, most in ((20, 80, 90), (4000, 0.9 * SAMPLES, 1.1 * SAMPLES)):
        settings = (f"load.run_s={run_s}", "load.rate_per_s=1", "load.warm_up_s=0")
        run = open_run(run_scenario(load_scenario("baseline", settings=settings), on="model", out=tmp_path / str(run_s)))
        assert least <= (run.broker["metric"] == "used_cpu_user_s").sum() <= most


def test_a_costs_file_sets_the_speed_of_the_model(tmp_path: Path) -> None:
    values = {name: CostInterval(10 * cost, cost, 20 * cost) for name, cost in asdict(Costs()).items()}
    values |= {
        "link_delay_ns": CostInterval(2e6, 1e6, 3e6),
        "link_jitter_ns": CostInterval(0, 0, 0),
        "window_bytes": CostInterval(1e6, 1e6, 1e6),
    }
    write_costs(CostsFile(FILE_FORMAT, "", 3, values, {}, {}), tmp_path / "costs.json")
    lags = []
    for on in ("model", f"model:{tmp_path}/costs.json"):
        run = open_run(run_scenario(load_scenario("baseline", settings=("load.run_s=1",)), on=on, out=tmp_path / str(len(lags))))
        lags.append(run.ledger()["lag_us"].min())
        assert run.info.ground == "model"
        costs = run.environment["broker"]["model_costs"]
        assert f"write_ns={(1 if len(lags) == 1 else 10) * Costs().write_ns:g}" in costs
    assert lags[0] < 1000, "two links of some microseconds"
    assert lags[1] > 4000, "two links of two milliseconds"


def test_what_a_run_has_left_is_not_kept_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run freezes what is alive, so that no collection walks it; the runs after it must let go of that."""
    monkeypatch.setattr(steps, "FROZEN_PODS", 0)
    frozen = []
    for number in range(6):
        run_scenario(load_scenario("baseline", settings=("load.run_s=1",)), on="model", out=tmp_path / str(number))
        frozen.append(gc.get_freeze_count())
    assert max(frozen[2:]) - min(frozen[2:]) < 1_000, frozen


def test_a_run_counts_its_pods_a_few_times_and_not_once_for_each_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand pods took three quarters of a minute to be listed ten thousand times."""
    asked = []
    plain = Scenario.first_pods

    def first_pods(scenario: Scenario) -> list[tuple[str, str]]:
        asked.append(scenario.name)
        return plain(scenario)

    monkeypatch.setattr(Scenario, "first_pods", first_pods)
    counts = []
    for pods in (3, 60):
        settings = (f"services.music-service.replicas={pods}", "load.run_s=0.2", "load.warm_up_s=0", "load.rate_per_s=5")
        asked.clear()
        run_scenario(load_scenario("baseline", settings=settings), on="model", out=tmp_path / str(pods))
        counts.append(len(asked))
    assert counts[0] == counts[1]


def test_a_run_in_virtual_time_says_that_its_load_runs_and_leaves_out_phases_of_a_millisecond(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who finds the folder of a killed run reads in which phase it was; nobody reads run.json six times in a tenth of a second."""
    monkeypatch.setattr(steps, "INFO_PERIOD_S", 3600.0)
    written = []
    plain = steps.write_info

    def write_info(folder: Path, info: RunInfo) -> None:
        plain(folder, info)
        written.append([phase.name for phase in info.phases][-1])

    monkeypatch.setattr(steps, "write_info", write_info)
    folder = run_scenario(load_scenario("baseline", settings=("load.run_s=1",)), on="model", out=tmp_path / "run")
    names = [phase.name for phase in open_run(folder).info.phases]
    assert written == [names[0], "run", names[-1]]
    assert len(names) > len(written)
