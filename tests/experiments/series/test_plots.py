"""Figures of several runs by what stands in their axes, and the rows they are drawn from."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sim.errors import UsageError
from sim.experiments.series import plots as series_plots
from sim.experiments.series.run import freed_too_early, lag_rows, lock_rows, predict_rows, run_each, second_rows
from sim.results.checkers import judge
from sim.results.opened_run import Run, open_run
from tests.support.run_folders import MS, SECOND, US, Heard, RunFolder

matplotlib.use("Agg")
FAN = ("bus.once=none", "services.music-service.handler_ms=0", "services.music-service.skew_ms=0", "load.run_s=1")


def axes() -> Axes:
    return Figure().subplots()


def words(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def fan_out(folder: Path, replicas: int, *, again: int = 0) -> Run:
    """Ten events to each replica; `again` of them come twice to the first."""
    plan = RunFolder(folder / str(replicas)).service("web", replicas=replicas)
    for n in range(10):
        event = plan.event(10 * SECOND + n * 100 * MS)
        for pod in range(replicas):
            plan.hear(event, f"web-{pod}")
        if n < again:
            plan.hear(event, "web-0", lag_ns=400 * US)
    return open_run(plan.write())


def test_replicas_multiply_what_is_handled_and_what_came_again_stands_on_top(tmp_path: Path) -> None:
    runs = {1: fan_out(tmp_path, 1), 3: fan_out(tmp_path, 3, again=5)}
    ax = series_plots.copies_against_replicas(runs, axes(), service="web")
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([1, 3, 0, 0.5])
    assert list(ax.lines[0].get_ydata()) == [1, 3]
    assert ax.get_title() == "3 replicas of web count each event 3.5 times; 0.5 copies came again"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("replicas of web", "copies handled per event")
    assert len({(patch.get_hatch(), patch.get_facecolor()) for patch in ax.patches}) == 2


def test_the_lag_is_cut_where_the_times_say_and_its_parts_are_the_whole(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("web", replicas=2).service("shop", replicas=1, channels="price.changed")
    for n in range(100):
        at = 10 * SECOND + n * 10 * MS
        event = plan.event(at, sent_ns=at + 1 * MS, acked_ns=at + 2 * MS)
        for pod, received in (("web-0", 3 * MS), ("web-1", 6 * MS)):
            plan.heard.append(Heard(event.key, pod, at + received, at + received + 500 * US))
        other = plan.event(at, channel="price.changed", sent_ns=at, acked_ns=at + MS)
        plan.heard.append(Heard(other.key, "shop-0", at + 2 * MS, at + 2 * MS))
    run = open_run(plan.write())
    table = series_plots.part_rows(run)
    assert list(table.loc["config.updated", list(series_plots.PARTS)]) == pytest.approx([1, 2, 1.5, 0.5])
    assert list(table.loc["price.changed", list(series_plots.PARTS)]) == pytest.approx([0, 2, 0, 0])
    lags = judge(run, only=["lag"]).checkers["lag"].counts
    assert table.loc["slowest 1 %", list(series_plots.PARTS)].sum() * 1e3 == pytest.approx(lags["lag_us.max"])
    assert dict(table["copies"]) == {"config.updated": 200, "price.changed": 100, "all copies": 300, "slowest 1 %": 100}
    ax = series_plots.lag_parts(run, axes())
    assert ax.get_title() == "50% of 4 ms mean lag pass on the way to the first pod"
    assert ax.get_xlabel() == "mean lag (ms)"
    assert ax.get_yticklabels()[0].get_text() == "config.updated (200)"
    assert max(bar.get_x() + bar.get_width() for bar in ax.patches) == pytest.approx(6.5)
    assert len({bars[0].get_hatch() for bars in ax.containers}) == len(series_plots.PARTS)
    by_service = series_plots.part_rows(run, by="service")
    assert list(by_service.index) == ["shop", "web", "all copies", "slowest 1 %"]


def test_a_run_that_delivered_nothing_is_said_so(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("web", replicas=1)
    plan.event(11 * SECOND)
    assert series_plots.lag_parts(open_run(plan.write()), axes()).get_title() == "No copy was delivered through the broker"


def lock_table() -> pd.DataFrame:
    rows = [("finally-del", 1.0, 5.0, 0.9), ("finally-del", 4.0, 5.0, 0.1), ("keep-marker", 1.0, 5.0, 0.0), ("keep-marker", 4.0, 5.0, 0.0)]
    table = pd.DataFrame(rows, columns=["recipe", "handler_ms", "skew_ms", "more"])
    return table.assign(expected_more=[0.88, 0.12, 0.88, 0.12])


def test_a_line_for_each_recipe_and_skew_and_arithmetic_beside_the_reference_alone() -> None:
    ax = series_plots.runs_per_event(lock_table(), axes())
    assert [list(line.get_ydata()) for line in ax.lines] == [pytest.approx([90, 10]), [0, 0], pytest.approx([88, 12])]
    assert words(ax)[0] == "finally-del, pods begin 0 to 5 ms apart" and "arithmetic" in words(ax)[2]
    assert ax.get_title() == "finally-del ran 90% of events more than once at 1 ms; keep-marker none"
    assert "%" in ax.get_ylabel() and "ms" in ax.get_xlabel()
    assert len({line.get_linestyle() for line in ax.lines[:2]} | {line.get_marker() for line in ax.lines}) > 3


def lag_table(verdicts: tuple[str, str] = ("valid", "valid")) -> pd.DataFrame:
    rows = {"value": [10, 100], "lag_ms_p50": [1.0, 5.0], "lag_ms_p99": [2.0, 30.0], "lag_ms_max": [3.0, 40.0], "verdict": list(verdicts)}
    return pd.DataFrame(rows)


def test_lag_against_a_number_names_both_ends_and_where_the_limit_is_kept() -> None:
    computed = lag_table().assign(value=[100, 1000], lag_ms_p99=[30.0, 400.0], stable=[True, False])
    ax = series_plots.lag_against(lag_table(), axes(), what="pods", predicted=computed, limit_ms=50)
    assert ax.get_title() == "p99 lag 2 ms at 10, 400 ms at 1,000 pods; under 50 ms up to 100"
    assert words(ax) == ["median, run", "median, computed", "p99, run", "p99, computed", "max, run", "max, computed", "limit 50 ms"]
    crosses = [line for line in ax.lines if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses] == [[1000]] * 3, "where the broker does not keep up"
    assert [text.get_text() for text in ax.get_xticklabels()] == ["10", "100", "1,000"]


def test_a_run_that_is_not_valid_is_marked() -> None:
    ax = series_plots.lag_against(lag_table(("valid", "unknown")), axes(), what="calls/s")
    marked = next(line for line in ax.lines if line.get_label() == "not valid")
    assert (list(marked.get_xdata()), list(marked.get_ydata())) == ([100], [30.0])


def test_arithmetic_of_a_lock_that_is_freed_too_early_is_that_of_drawn_times() -> None:
    begins = np.random.default_rng(1).uniform(0, 5, (200_000, 3))
    drawn = float((np.ptp(begins, axis=1) > 2).mean())
    assert freed_too_early(3, handler_ms=2, skew_ms=5) == pytest.approx(drawn, abs=0.005)
    assert freed_too_early(3, handler_ms=5, skew_ms=5) == freed_too_early(3, handler_ms=1, skew_ms=0) == 0.0


def test_runs_differ_in_one_setting_and_their_rows_are_what_the_checkers_say() -> None:
    told: list[str] = []
    runs = run_each("lock_lab", "services.music-service.replicas", (2, 20), settings=FAN, tell=told.append)
    assert told == [f"lock_lab: services.music-service.replicas = {n}, on model" for n in (2, 20)]
    rows = lag_rows(runs)
    assert list(rows["pods"]) == [2, 20] and list(rows["missing"]) == [0, 0] and set(rows["verdict"]) == {"valid"}
    assert list(rows["copies_per_s"] / rows["events_per_s"]) == pytest.approx([2, 20])
    lag = judge(runs[20]).checkers["lag"]
    assert rows["lag_ms_p99"].iloc[1] == lag.metrics["lag_ms_p99"]
    computed = predict_rows(runs, (20, 5000))
    assert computed["lag_ms_p99"].iloc[0] == pytest.approx(rows["lag_ms_p99"].iloc[1], rel=0.03)
    assert computed["lag_ms_p50"].iloc[1] > 50 * computed["lag_ms_p50"].iloc[0], "the last of 5,000 pods waits for all others"


def test_no_value_and_one_twice_are_refused_and_so_is_a_prediction_of_several_channels() -> None:
    for values in ((), (1, 1)):
        with pytest.raises(UsageError, match="give at least one value, and each once"):
            run_each("lock_lab", "seed", values)
    with pytest.raises(UsageError, match="exactly one"):
        predict_rows(run_each("baseline", "seed", (1,), settings=("load.run_s=1", "load.warm_up_s=0.2")), (10,))


def test_the_lock_lab_gives_one_row_for_each_recipe_handler_time_and_skew() -> None:
    rows = lock_rows(("finally-del", "keep-marker"), handler_ms=(0.5, 6.0), skew_ms=(5.0,), settings=("load.run_s=2",))
    assert list(zip(rows["recipe"], rows["handler_ms"], strict=True)) == [
        ("finally-del", 0.5), ("finally-del", 6.0), ("keep-marker", 0.5), ("keep-marker", 6.0)
    ]  # fmt: skip
    assert list(rows["more"]) == pytest.approx([0.97, 0, 0, 0], abs=0.06)
    assert list(rows["never"] + rows["once"] + rows["more"]) == pytest.approx([1] * 4)
    assert rows["expected_more"].iloc[0] == pytest.approx(0.972)


def test_second_by_second_every_pod_is_one_thing_and_only_the_publisher_hears_itself_in_an_outage() -> None:
    run = run_each("broker_down", "seed", (1,))[1]
    rows = second_rows(run)
    assert list(rows.index) == [float(n) for n in range(12)]
    assert set(rows["pods connected"] + rows["pods deaf"] + rows["pods on their own"]) == {7}
    inside, before = rows.loc[3:5], rows.loc[0]
    assert inside["for others: heard"].sum() == 0 and inside["for others: published"].min() > 0
    assert (inside["for itself: heard"] == inside["for itself: published"]).all() and inside["for itself: heard"].min() > 0
    assert before["for others: heard"] == before["for others: published"]
