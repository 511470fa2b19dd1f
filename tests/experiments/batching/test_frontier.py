"""The frontier of batch settings: what is dominated, what is recommended, and a sweep on the model against theory."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pandas as pd
import pytest

from sim.errors import UsageError
from sim.experiments.batching import plots as batch_plots
from sim.experiments.batching.frontier import (
    AGE,
    AT_RISK,
    BYTES,
    INTERVAL,
    LOAD,
    PUBLISHES,
    SIZE,
    against_theory,
    batch_frontier,
    batched_alone,
    judge_default,
)
from sim.experiments.sweep.run import run_sweep
from sim.scenario.file import load_scenario

matplotlib.use("Agg")


def made(*rows: tuple[float, ...]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=[LOAD, SIZE, INTERVAL, AGE, AT_RISK, PUBLISHES, BYTES])


PLAIN = made(
    (1, 10, 1000, 1000, 5, 0.5, 250),
    (1, 10, 5000, 5000, 10, 0.16, 190),
    (1, 100, 1000, 1005, 5, 0.5, 250),  # alike to the first
    (1, 100, 5000, 5200, 12, 0.2, 200),  # worse than the second in all
    (1, 100, 30000, 30000, 43, 0.03, 165),
)


def test_dominated_settings_name_what_beats_them_and_of_those_alike_the_smaller_stays() -> None:
    assert list(batch_frontier(PLAIN)["dominated_by"]) == ["", "", "10 / 1 s", "10 / 5 s", ""]


def test_recommended_is_the_fewest_publishes_within_the_limits() -> None:
    judged = batch_frontier(PLAIN)
    assert judged[judged["recommended"]][[SIZE, INTERVAL]].to_numpy().tolist() == [[10, 5000]]
    assert batch_frontier(PLAIN, max_age_ms=60_000)["recommended"].tolist() == [False, False, False, False, True]
    strict = batch_frontier(PLAIN, max_age_ms=100)
    assert strict["recommended"].tolist() == [True, False, False, False, False] and not strict["keeps_limits"].any()
    assert judged["default"].tolist() == [False, False, False, False, True]


def test_loads_are_judged_by_themselves() -> None:
    both = pd.concat([PLAIN, PLAIN.assign(**{LOAD: 2.0, AGE: 1.0})])
    assert batch_frontier(both).groupby(LOAD)["recommended"].sum().tolist() == [1, 1]


def test_a_sweep_of_other_settings_or_without_batches_is_refused() -> None:
    with pytest.raises(UsageError, match=f"has no {SIZE}"):
        batch_frontier(PLAIN.drop(columns=SIZE))
    with pytest.raises(UsageError, match="measured no batches"):
        batch_frontier(PLAIN.assign(**{AGE: float("nan")}))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    out: Path = tmp_path_factory.mktemp("sweep") / "s"
    settings = ("bus.batch_size=10,100", "bus.batch_interval_ms=1000,30000", "load.rate_per_s=1", "load.run_s=1200")
    return run_sweep("batch_size", settings=settings, on="model", out=out, jobs=1, keep="none")


def test_the_model_s_runs_agree_with_theory(swept: pd.DataFrame) -> None:
    compared = against_theory(swept)
    assert compared["wait_error"].abs().max() < 0.06
    assert compared["publishes_error"].abs().max() < 0.06
    default = compared[(compared[SIZE] == 100) & (compared[INTERVAL] == 30_000)].iloc[0]
    assert 14_500 < default["wait_ms_measured"] < 16_500


def test_the_answer_judges_the_default_and_a_bad_measurement_is_not_valid(swept: pd.DataFrame) -> None:
    judged, compared = batch_frontier(swept), against_theory(swept)
    verdict, sentence = judge_default(swept, judged, compared)
    assert verdict == "valid"
    assert "keeps the limits at 0 of 1 load of a pod" in sentence and "30 s old" in sentence
    assert judge_default(swept, judged, compared.assign(wait_error=0.5))[0] == "invalid"
    assert judge_default(swept.assign(verdict="invalid"), judged, compared)[0] == "invalid"
    assert judge_default(swept.assign(verdict="unknown"), judged, compared)[0] == "unknown"
    assert judge_default(swept, judged.assign(default=False), compared)[0] == "unknown"


def test_the_figures_hold_what_was_judged(swept: pd.DataFrame) -> None:
    judged, compared = batch_frontier(swept), against_theory(swept)
    ax = batch_plots.frontier(judged)
    assert len(ax.lines[0].get_xdata()) == (judged["dominated_by"] == "").sum()
    assert "at 1/s" in ax.get_title() and "p99 (ms" in ax.get_ylabel()
    ax = batch_plots.theory(compared)
    assert list(ax.lines[1].get_ydata()) == list(compared["wait_ms_measured"])
    assert f"{compared['wait_error'].abs().max():.1%}" in ax.get_title()


SHOP = str(Path(__file__).parents[3] / "docs" / "examples" / "shop" / "everyday.toml")


def test_a_batched_channel_of_any_bus_stands_alone_under_its_own_rule(tmp_path: Path) -> None:
    alone = batched_alone(load_scenario(SHOP), "search.asked")
    assert (alone.size_key, alone.size, alone.interval_ms) == ('channels."search.asked".batch_size', 20, 500)
    grid = (f"{alone.size_key}=5,20", f"{alone.interval_key}=500", "load.rate_per_s=20", "load.run_s=60")
    table = run_sweep(SHOP, settings=(*alone.settings, *grid), on="model", out=tmp_path / "s", jobs=1, keep="none")
    table = table.rename(columns=alone.columns)
    compared = against_theory(table)
    judged = batch_frontier(table, default=(alone.size, alone.interval_ms))
    verdict, sentence = judge_default(table, judged, compared)
    assert verdict == "valid" and sentence.startswith("The default of 20 items / 500 ms keeps the limits at 1 of 1 load of a pod"), sentence


def test_who_publishes_beside_the_one_pod_publishes_something_else() -> None:
    alone = batched_alone(load_scenario("baseline"), "analytics.events.batch")
    scenario = load_scenario("baseline", settings=alone.settings)
    publishing = {name: one.replicas for name, one in scenario.services.items() if "analytics.events.batch" in one.publishes}
    assert publishing == {"music-service": 1} and (alone.size_key, alone.interval_key) == ("bus.batch_size", "bus.batch_interval_ms")
    with pytest.raises(UsageError, match=r"no batched channel 'order\.created'; batched are search\.asked"):
        batched_alone(load_scenario(SHOP), "order.created")
