"""The model beside a real server: the same load and the same copies; how late and how dear is shown, not judged."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from sim.errors import BuslabError, UsageError
from sim.experiments.fidelity.run import (
    EMBEDDED,
    MODEL,
    Fidelity,
    GroundRow,
    Pair,
    measure,
    on_both_grounds,
    run_fidelity,
    sentence,
    shortened,
)
from sim.experiments.fidelity.table import fidelity_table, table_rows, write_fidelity
from sim.results.judged_run import judge_folder
from sim.run.steps import run_scenario
from sim.scenario.file import built_in, load_scenario

SIDE = GroundRow(
    intended_calls=100,
    publishes=50,
    expected=200,
    delivered=180,
    missing={"deaf": 20},
    delivered_per_s=36.0,
    lag_us={"p50": 100.0, "p99": 200.0, "max": 300.0},
    send_delay_us_p50=0.0,
    bus_us_p50=100.0,
    broker_cpu_us=80.0,
    host_cpu=math.nan,
    recovery_s=math.nan,
    verdict="valid",
    reasons=[],
)


def said(**changes: object) -> str:
    return sentence(Pair("baseline", 1, SIDE, replace(SIDE, **changes)))  # type: ignore[arg-type]


def test_a_sentence_tells_what_differs_and_by_how_much() -> None:
    assert "200 copies expected and 20 missing on both" in said()
    assert "lag p50 is 100 % of the model's" in said()
    assert "lag p99 is 2.5 times the model's" in said(lag_us={"p50": 100.0, "p99": 500.0, "max": 900.0})
    assert "broker CPU per publish is 50 % of the model's" in said(broker_cpu_us=40.0)
    assert "the model misses 10.0% (20 deaf), of 200 the real run 15.0% (10 deaf, 20 cut)" in said(missing={"deaf": 10, "cut": 20})
    assert "THE LOAD DIFFERS" in said(intended_calls=99)
    assert "25% of a core" in said(host_cpu=0.25)


def test_what_was_not_measured_is_not_told() -> None:
    bare = said(lag_us={}, send_delay_us_p50=math.nan, bus_us_p50=math.nan, broker_cpu_us=math.nan)
    assert not any(word in bare for word in ("lag", "CPU", "nan", "core", "late", "hear"))
    silent = replace(SIDE, lag_us={"p50": 0.0, "p99": 0.0, "max": 0.0})
    assert "100 us where the model has 0" in sentence(Pair("memory_mode", 1, silent, SIDE))


def test_a_scenario_is_shortened_only_where_no_fault_needs_its_time() -> None:
    quiet, broken = (shortened(load_scenario(name)) for name in ("baseline", "restart_redis"))
    assert (quiet.load.run_s, quiet.load.driver, broken.load.driver) == (5.0, "pods", "pods")
    assert broken.load.run_s == load_scenario("restart_redis").load.run_s


def test_arguments_that_cannot_be_are_named() -> None:
    for wrong, says in (
        ({"repeats": 0}, "--repeats 0"),
        ({"model_on": "embedded"}, "--on embedded"),
        ({"scenarios": ["basline"]}, "baseline"),
    ):
        with pytest.raises(BuslabError, match=says):
            run_fidelity(**wrong)  # type: ignore[arg-type]


def test_a_comparison_is_written_as_markdown_and_as_json_that_any_program_reads(tmp_path: Path) -> None:
    unsure = replace(SIDE, verdict="unknown", reasons=["no data"], host_cpu=0.5)
    about = {"python": "3", "machine": {"cores": 2, "processor": "x"}, "broker": {"valkey_version": "9"}}
    fidelity = Fidelity("model", (Pair("baseline", 1, SIDE, unsure, "They differ."),), about)
    write_fidelity(fidelity, tmp_path / "made" / "it.md")
    text = (tmp_path / "made" / "it.md").read_text()
    assert "| baseline | model | 100 | 50 | 200 | 180 | 36 | 20 deaf | 100 | 200 | 300 | 80 | valid |" in text
    assert "- They differ." in text
    assert "- baseline on embedded is unknown: no data" in text
    write_fidelity(fidelity, tmp_path / "it.json")
    tree = json.loads((tmp_path / "it.json").read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert tree["pairs"][0]["model"]["host_cpu"] is None
    with pytest.raises(UsageError, match="cannot write"):
        write_fidelity(fidelity, tmp_path)


@pytest.mark.broker
def test_two_scenarios_have_the_same_load_and_copies_on_both_grounds(tmp_path: Path) -> None:
    told: list[str] = []
    fidelity = run_fidelity(["baseline", "lock_lab"], settings=("load.run_s=1", "slo.missing=0"), tell=told.append)
    assert [(pair.scenario, pair.seed) for pair in fidelity.pairs] == [("baseline", 1), ("lock_lab", 1)]
    assert len(told) == 4
    for pair in fidelity.pairs:
        model, real = pair.model, pair.embedded
        assert model.intended_calls == real.intended_calls > 0
        assert model.publishes == real.publishes > 0
        assert model.expected == real.expected == model.delivered == real.delivered
        assert model.missing == real.missing == {}
        assert 0 < model.lag_us["p50"] < 10 * real.lag_us["p50"], "the model is not slower than any real server"
        assert model.broker_cpu_us > 0
        assert model.verdict == "valid"
        assert "were meant on both" in pair.sentence
    assert {row[1] for row in table_rows(fidelity)} == {MODEL, EMBEDDED}
    assert fidelity_table(fidelity).renderables


def test_a_recovery_counts_from_the_fault_to_hearing_again(tmp_path: Path) -> None:
    side = measure(judge_folder(run_scenario(shortened(load_scenario("restart_redis")), on="model", out=tmp_path / "run")))
    assert 3.037 < side.recovery_s < 6, "three seconds and the server's start, then each pod's wait"
    assert side.missing["deaf"] > 0
    assert 50 < side.broker_cpu_us < 500


def test_the_model_is_compared_as_it_runs_alone(tmp_path: Path) -> None:
    """A comparison must not change what it compares: the model's side equals a run of its own."""
    scenario = shortened(load_scenario("baseline", settings=("load.run_s=1",)))
    one, other = (measure(judge_folder(run_scenario(scenario, on="model", out=tmp_path / str(n)))) for n in range(2))
    assert str(one) == str(other)
    assert math.isnan(one.host_cpu)


def test_by_default_every_scenario_is_compared_that_one_server_can_run() -> None:
    assert set(built_in()) - set(on_both_grounds()) == {"broker_failover"}
