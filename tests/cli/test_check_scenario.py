"""`buslab check-scenario`: what a person reads, what a machine reads, and what a run tells of it at its start."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from sim.cli.commands.check_scenario import check_scenario
from sim.errors import BuslabError, ScenarioError, UsageError
from sim.grounds.model.costs import VALUES, CostInterval, CostsFile, write_costs
from sim.machine.facts import environment
from sim.measure.meaning.machine import carried_here
from sim.measure.meaning.meaning import check_scenario as meaning_of
from sim.scenario.file import load_scenario
from tests.support.cli import buslab

SHOP = Path(__file__).parents[2] / "docs" / "examples" / "shop"
EVERYDAY, AWAY = str(SHOP / "everyday.toml"), str(SHOP / "redis_away.toml")


def check(*args: str) -> Result:
    return CliRunner().invoke(check_scenario, args, standalone_mode=False)


def test_a_person_reads_tables_and_a_machine_reads_json() -> None:
    text = check(AWAY, "--set", 'slo.missing.service."billing"=0').output
    for word in (
        "21 pods",
        "420 events/s",
        "order.created",
        "billing",
        "Connections to the broker: 38",
        "broker_down",
        'missing.service."billing"',
    ):
        assert word in text, word
    kept = json.loads(check(AWAY, "--json").output)
    assert kept == json.loads(msgspec.json.encode(meaning_of(load_scenario(AWAY))))
    assert [one["name"] for one in kept["channels"]] == ["order.created", "price.invalidated", "search.asked"]
    assert kept["faults"][0] == {"kind": "broker_down", "spans_s": [[2.0, 5.0]], "pods": None, "settings": {}}


@pytest.mark.parametrize(
    ("args", "error", "says"),
    [
        (["basline"], ScenarioError, "did you mean 'baseline'"),
        ([EVERYDAY, "--set", "load.rte=3"], ScenarioError, "unknown key 'load.rte'"),
        ([EVERYDAY, "--set", "load.mix.order.created=3"], ScenarioError, "load.mix"),
        ([EVERYDAY, "--from", "nowhere"], UsageError, "nowhere has neither costs.json nor capacity.json"),
    ],
    ids=str,
)
def test_what_is_wrong_is_one_line(args: list[str], error: type[BuslabError], says: str) -> None:
    done = check(*args)
    assert isinstance(done.exception, error) and says in str(done.exception) and "\n" not in str(done.exception)


def costs(machine: dict[str, object]) -> CostsFile:
    values = {name: CostInterval(1000.0, 900.0, 1100.0) for name in VALUES} | {"cold_ns": CostInterval(0.0, 0.0, 0.0)}
    values["byte_ns"] = CostInterval(0.5, 0.4, 0.6)
    return CostsFile(1, "2026-11-23T15:29:29+00:00", 3, values, {}, {"machine": machine})


def test_what_this_machine_carries_comes_from_what_was_measured_on_it(tmp_path: Path) -> None:
    settings = ('load.mix={"price.invalidated"=1}', "load.rate_per_s=1000", "load.shape=steady")
    scenario = load_scenario(EVERYDAY, settings=settings)
    loads = meaning_of(scenario).channels
    write_costs(costs(environment(broker_says={})["machine"]), tmp_path / "costs.json")
    (files, core), unknown = carried_here(scenario, loads, measured=tmp_path)
    assert files.enough and unknown == ["what one process of pods hears was not measured here: `buslab capacity` does that"]
    (one,) = loads
    assert one.out_bytes_per_s is not None
    each_us = 1 + 1 + 1 + 10 + 11  # a turn, a read, a command, ten copies, eleven writes
    assert core.needed == pytest.approx(1000 * each_us * 1e-6 + one.out_bytes_per_s * 0.5e-9)
    assert core.needed_low < core.needed < core.needed_high and core.enough is True
    assert "another machine" not in core.source and "2026-11-23" in core.source


def test_what_was_measured_elsewhere_is_used_only_when_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = load_scenario(EVERYDAY)
    loads = meaning_of(scenario).channels
    write_costs(costs({"cores": 64}), tmp_path / "costs.json")
    (_, core), _ = carried_here(scenario, loads, measured=tmp_path)
    assert core.source.endswith("on another machine")
    monkeypatch.setenv("BUSLAB_REPORTS", str(tmp_path))
    (files,), unknown = carried_here(scenario, loads)
    assert files.what == "open files of one process"
    of_another = f"({tmp_path / 'costs.json'} is of another machine)"
    assert unknown[0] == f"what a broker's core carries was not measured here {of_another}: `buslab calibrate` does that"
    (tmp_path / "costs.json").write_text("{")
    assert "holds no costs of the model" in carried_here(scenario, loads)[1][0]
    with pytest.raises(UsageError, match="holds no costs of the model"):
        carried_here(scenario, loads, measured=tmp_path)


def test_what_a_process_of_pods_hears_comes_from_a_measurement_of_capacity() -> None:
    reports = Path(__file__).parents[2] / "reports"
    scenario = load_scenario(EVERYDAY, settings=("hosts.kind=local", "hosts.processes=2"))
    (_, core, pods), unknown = carried_here(scenario, meaning_of(scenario).channels, measured=reports)
    assert unknown == [] and core.what == "the broker's core"
    assert pods.available == json.loads((reports / "capacity.json").read_text())["host_copies_per_s"]
    assert pods.needed == pytest.approx(meaning_of(scenario).copies_per_s / 2)


def test_a_run_tells_what_is_odd_when_it_starts(tmp_path: Path) -> None:
    settings = ["--set", 'load.mix={"order.created"=1}', "--set", "load.run_s=0.5", "--set", "slo={}"]
    done = buslab("run", EVERYDAY, "--on", "model", "--no-report", "--out", "run", *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    noted = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert noted == [
        "note: channels.price.invalidated: nothing is called of it: it has no weight in load.mix",
        "note: channels.search.asked: nothing is called of it: it has no weight in load.mix",
    ]
