"""The same load on several grounds, in one table."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from sim.errors import BrokerUnreachable
from sim.experiments import many_runs
from sim.experiments.fidelity.grounds import exit_code, grounds_table, run_on_grounds
from sim.scenario.file import load_scenario

SHORT = ("load.run_s=2", "load.warm_up_s=0.5", "slo.lag_ms_p99=10000")


def shown(*what: Any) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(grounds_table(*what))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_ground_that_cannot_be_had_is_left_out_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    real = many_runs.run_scenario

    def run(scenario: Any, *, on: str, **more: Any) -> Any:
        if on == "container":
            raise BrokerUnreachable("no container engine answers")
        return real(scenario, on=on, **more)

    monkeypatch.setattr(many_runs, "run_scenario", run)
    scenario = load_scenario("baseline", settings=SHORT)
    found = run_on_grounds(scenario, grounds=("model", "container"))
    assert exit_code(found) == 2
    assert exit_code(found[:1]) == 0
    text = shown(scenario, found)
    assert "not run: no container engine answers" in text
    assert f"{len(scenario.schedule()):,}" in text


def test_two_runs_on_the_model_are_alike_and_a_broken_limit_is_told() -> None:
    scenario = load_scenario("baseline", settings=(*SHORT, "slo.lag_ms_p99=0.001"))
    one, other = run_on_grounds(scenario, grounds=("model", "model"))
    assert one.side is not None and other.side is not None
    assert (one.side.lag_us, one.side.expected) == (other.side.lag_us, other.side.expected)
    assert exit_code([one, other]) == 1


@pytest.mark.broker
def test_the_model_and_a_real_server_get_the_same_load() -> None:
    scenario = load_scenario("baseline", settings=SHORT)
    found = run_on_grounds(scenario, grounds=("model", "embedded"))
    sides = [one.side for one in found if one.side is not None]
    assert len(sides) == 2
    assert sides[0].intended_calls == sides[1].intended_calls == len(scenario.schedule())
    assert sides[0].delivered == sides[0].expected
    costs = [one.costs for one in found if one.costs is not None]
    assert all(cost.all_in_copy_us > 0 for cost in costs)
