"""Scenarios that nobody thought of: drawn by seed, with faults that overlap as they like, and those that were once judged wrongly.

What must hold of each stands in `sim.experiments.explore.findings`. A change tries a few seeds, `make deep` thousands; a seed that fails
prints its scenario, which a smaller one under ``found/`` then keeps.
"""

from __future__ import annotations

import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

from sim.experiments.explore.draw import KINDS, draw_scenario
from sim.experiments.explore.findings import FORGETS, findings
from sim.results.checkers import judge
from sim.results.opened_run import open_run
from sim.run.steps import run_scenario
from sim.scenario.file import Scenario, check_tree, to_toml
from tests.support.drawn_scenarios import try_scenario

FOUND = sorted((Path(__file__).parent / "found").glob("*.toml"))
A_PART = 250
MANY = 2_000
MANY_REAL = 30  # of each of two real grounds


def judged_rightly(scenario: Scenario, *, on: str, folder: Path) -> None:
    found = try_scenario(scenario, on=on, folder=folder)
    assert not found, "\n".join([f"# on {on}: {found[0]}", to_toml(scenario), *found[1:]])


def found_scenario(path: Path) -> Scenario:
    return check_tree(tomllib.loads(path.read_text("utf-8")) | {"name": path.stem}, where=path.name)


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_what_was_judged_wrongly_once_is_judged_rightly(path: Path, tmp_path: Path) -> None:
    judged_rightly(found_scenario(path), on="model", folder=tmp_path / "run")


def test_a_stall_that_outlasts_its_fault_was_felt(tmp_path: Path) -> None:
    (path,) = (path for path in FOUND if path.stem == "a_stall_outlasts_its_fault")
    run = open_run(run_scenario(found_scenario(path), on="model", out=tmp_path / "run"))
    assert run.faults["felt"].tolist() == ["whole"]


@pytest.mark.broker
@pytest.mark.parametrize("name", ["consumers_stay_counted", "given_to_a_pod_that_died_with_the_broker"])
def test_so_it_is_on_a_real_server(name: str, tmp_path: Path) -> None:
    (path,) = (path for path in FOUND if path.stem == name)
    judged_rightly(found_scenario(path), on="embedded", folder=tmp_path / "run")


@pytest.mark.parametrize("seed", range(40))
def test_a_drawn_scenario_is_judged_rightly(seed: int, tmp_path: Path) -> None:
    judged_rightly(draw_scenario(seed), on="model", folder=tmp_path / "run")


@pytest.mark.broker
@pytest.mark.parametrize("seed", range(2))
def test_a_drawn_scenario_is_judged_rightly_on_a_real_server(seed: int, tmp_path: Path) -> None:
    judged_rightly(draw_scenario(seed, on="embedded"), on="embedded", folder=tmp_path / "run")


@pytest.mark.deep
@pytest.mark.parametrize("first", range(40, MANY, A_PART))
def test_thousands_of_drawn_scenarios_are_judged_rightly(first: int, tmp_path: Path) -> None:
    for seed in range(first, min(first + A_PART, MANY)):
        judged_rightly(draw_scenario(seed), on="model", folder=tmp_path / str(seed))


@pytest.mark.deep
@pytest.mark.broker
@pytest.mark.parametrize("on", ["embedded", "cluster"])
@pytest.mark.parametrize("seed", range(2, 2 + MANY_REAL))
def test_many_drawn_scenarios_are_judged_rightly_on_real_servers(seed: int, on: str, tmp_path: Path) -> None:
    judged_rightly(draw_scenario(seed, on=on), on=on, folder=tmp_path / "run")


# -- the drawing itself ------------------------------------------------------------------------------------------------


def test_a_seed_draws_the_same_scenario_again_and_another_one_another() -> None:
    assert to_toml(draw_scenario(7)) == to_toml(draw_scenario(7)) != to_toml(draw_scenario(8))
    assert to_toml(draw_scenario(7)) != to_toml(draw_scenario(7, on="embedded"))


@pytest.mark.parametrize("on", KINDS)
def test_every_fault_that_a_ground_can_do_is_drawn_and_they_overlap(on: str) -> None:
    scenarios = [draw_scenario(seed, on=on) for seed in range(300)]
    kinds = [[type(fault).__struct_config__.tag for fault in scenario.faults] for scenario in scenarios]
    assert {kind for some in kinds for kind in some} == {*KINDS[on], "machine_down"}
    assert {len(some) for some in kinds} == {1, 2, 3, 4}
    assert sum(overlap(scenario) for scenario in scenarios) > 50
    assert any(set(some) & {*FORGETS, "broker_freeze"} for some in kinds)


def overlap(scenario: Scenario) -> bool:
    spans = sorted(span for fault in scenario.faults for span in fault.spans_s())
    return any(begin_s < end_s for (_, end_s), (begin_s, _) in pairwise(spans))


def test_a_verdict_that_its_rows_do_not_bear_out_is_found(tmp_path: Path) -> None:
    """The judge of the judge: what it demands fails where a delivery, a reason or a balance is wrong."""
    run = open_run(run_scenario(draw_scenario(0), on="model", out=tmp_path / "run"))
    verdict = judge(run)
    assert findings(run, verdict) == []
    for word in ("unknown", "invalid"):
        verdict.checkers["order"] = verdict.checkers["order"].__class__(word, "no data: nothing was delivered in the run phase")
        assert [one.text for one in findings(run, verdict)] == [f"order is {word}: no data: nothing was delivered in the run phase"]
    heard = run.deliveries
    run.__dict__["deliveries"] = heard.iloc[1:]
    verdict = judge(run)
    assert any("do not balance" in text or "unexplained" in text for text in (one.text for one in findings(run, verdict)))
