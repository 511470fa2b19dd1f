"""Which settings of a scenario differ from those of the built-in one of its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.scenario.changes import changed_settings
from sim.scenario.file import built_in, load_scenario


@pytest.mark.parametrize("name", ["baseline", "broker_down"])
def test_a_built_in_scenario_differs_in_nothing(name: str) -> None:
    assert name in built_in() and changed_settings(load_scenario(name)) == []


def test_each_setting_that_differs_is_named_with_both_values() -> None:
    scenario = load_scenario(
        "broker_down", settings=("load.rate_per_s=500", "services.music-service.replicas=9", "slo.missing=0", "seed=4")
    )
    assert changed_settings(scenario) == [
        "seed = 4 (built-in: 1)",
        "services.music-service.replicas = 9 (built-in: 2)",
        "load.rate_per_s = 500.0 (built-in: 200.0)",
        "slo.missing = 0.0 (built-in: not set)",
    ]


def test_a_long_value_is_cut_and_what_is_gone_is_not_set() -> None:
    scenario = load_scenario("broker_down", settings=("faults=[]", "slo={}"))
    found = changed_settings(scenario) or []
    (faults,) = (text for text in found if text.startswith("faults"))
    assert faults.startswith('faults = [] (built-in: [{"kind": "broker_down"') and faults.endswith("…)")
    assert "slo.duplicates = not set (built-in: 0.0)" in found


def test_a_scenario_of_another_name_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(built_in()["baseline"].read_text("utf-8"), "utf-8")
    assert changed_settings(load_scenario(str(path))) is None
