"""The bench of virtual time runs for real, small: never is a speed asserted, only that it counts right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

from sim.cli.main import cli
from sim.errors import BuslabError
from sim.measure.bench import virtual
from sim.measure.bench.virtual import LoadRow, VirtualReport, VirtualRun, run_virtual_bench
from sim.run.steps import run_scenario
from sim.scenario.file import load_scenario

TINY: dict[str, Any] = {"hour_s": 5, "fleet_s": 5, "pods": 30, "rounds": 1}


@pytest.mark.broker
def test_the_command_measures_both_loads_and_says_whether_the_targets_were_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reports: list[VirtualReport] = []

    def tiny(*, rounds: int, tell: Any) -> VirtualReport:
        reports.append(run_virtual_bench(tell=tell, **TINY | {"rounds": rounds}))
        return reports[-1]

    monkeypatch.setattr(virtual, "run_virtual_bench", tiny)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = CliRunner().invoke(cli, ["bench", "--virtual", "--rounds", "1"])
    assert done.exit_code == 0, done.output
    hour, fleet = json.loads(json.dumps(reports[0].as_dict()))["rows"]
    assert [len(row["rounds"]) for row in (hour, fleet)] == [1, 1]
    for row in (hour, fleet):
        one = row["rounds"][0]
        assert one["events"] > one["copies"] > 100
        assert one["cpu_s"] > 0 < one["heap_cpu_s"] and one["memory_mib"] > 10
    assert "12 pods, 100 events/s" in done.output and "30 pods" in done.output
    assert done.output.count("target") == 2
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_is_an_error_with_its_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual, "loads", lambda *sizes: {"nothing": (1.0, ("load.no_such_key=1",))})
    with pytest.raises(BuslabError, match=r"a run of the bench failed: .*no_such_key"):
        run_virtual_bench(rounds=1)


def test_a_copy_that_is_not_recorded_leaves_no_figure(tmp_path: Path) -> None:
    def lose_one(rows: pa.Table) -> pa.Table:
        return rows.slice(1)

    scenario = load_scenario("baseline", settings=("load.run_s=1", "load.warm_up_s=0"))
    assert virtual._balanced(run_scenario(scenario, on="model", out=tmp_path / "whole")) > 100
    with pytest.raises(BuslabError, match=r"the broker made [\d,]+ copies and [\d,]+ deliveries are recorded"):
        virtual._balanced(run_scenario(scenario, on="model", out=tmp_path / "short", tamper=lose_one))


def test_the_targets_are_judged_by_the_median_and_by_the_hour() -> None:
    measure = VirtualRun(cpu_s=10.0, events=1000, heap_cpu_s=1.0, copies=1, memory_mib=1)
    slow = replace(measure, cpu_s=100.0)
    reached = virtual._conclusions(LoadRow("", 3600, (measure, slow, measure)))
    assert reached[0].endswith("takes 10 s of CPU, target 1 min: reached.") and reached[1].endswith("target 10 %: reached.")
    missed = virtual._conclusions(LoadRow("", 360, (measure, slow, slow)))
    assert missed[0].endswith("takes 16 min 40 s of CPU, target 1 min: NOT reached.") and missed[1].endswith("NOT reached.")


def test_the_bare_heap_makes_as_many_events_as_the_run() -> None:
    loop = virtual._BareLoop(1000)
    loop.set(0, loop.again, 3)
    loop.run()
    assert (loop._set, loop.at_ns) == (1001, 3000)
