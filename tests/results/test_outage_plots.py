"""Figures of outages by what stands in their axes."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sim.results import outage_plots
from sim.results.opened_run import open_run
from tests.support.run_folders import MS, SECOND, RunFolder

matplotlib.use("Agg")


def axes() -> Axes:
    return Figure().subplots()


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    """Two pods; web-0 publishes every 100 ms; from 13 to 15 s both are on their own, and web-1 is deaf for another second."""
    plan = RunFolder(tmp_path / "run").service("web", replicas=2)
    plan.faults = [("broker_down", "broker", 13 * SECOND, 15 * SECOND)]
    for pod, back in (("web-0", 15), ("web-1", 16)):
        plan.state(pod, 13 * SECOND, "disconnected").state(pod, back * SECOND, "subscribed")
    for at in range(10 * SECOND, 18 * SECOND, 100 * MS):
        away = 13 * SECOND <= at < 15 * SECOND
        event = plan.event(at, publisher="web-0", outcome="memory" if away else "acknowledged")
        plan.hear(event, "web-0", path="memory" if away else "broker")
        if not 13 * SECOND <= at < 16 * SECOND:
            plan.hear(event, "web-1")
    return plan


def test_a_band_shows_how_many_pods_were_on_their_own(plan: RunFolder) -> None:
    ax = outage_plots.rates_and_states(open_run(plan.write()), axes())
    assert ax.get_title().endswith("; up to 2 of 2 pods on their own")
    assert [text.get_text() for text in ax.child_axes[0].get_legend().get_texts()] == list(outage_plots.BANDS)
    alone = ax.child_axes[0].collections[2].get_paths()[0].vertices
    tops = {at: alone[np.isclose(alone[:, 0], at), 1] for at in (4.0, 5.6)}
    bottoms = {at: values.min() for at, values in tops.items()}
    assert bottoms == {4.0: 0.0, 5.6: 1.0}, "both at first, then web-0 is connected again"


def test_the_map_shows_the_share_of_each_pair_in_the_whole_seconds_of_the_fault(plan: RunFolder) -> None:
    run = open_run(plan.write())
    ax = outage_plots.reachability_map(run, axes())
    assert ax.get_title() == "0 of 20 copies for another pod were heard while broker_down lasted"
    assert ax.images[0].get_array().tolist() == [[1.0, 0.0]]
    later = outage_plots.reachability_map(run, axes(), between_s=(5, 7))
    assert later.get_title() == "10 of 20 copies for another pod were heard from 5 to 7 s"
    assert later.images[0].get_array().tolist() == [[1.0, 0.5]]


def test_each_copy_is_a_line_or_a_cross(plan: RunFolder) -> None:
    ax = outage_plots.space_time(open_run(plan.write()), axes(), between_s=(4.95, 6.15))
    assert ax.get_title() == "14 copies of 12 events were heard and 10 lost, from 4.95 to 6.15 s"
    (crosses,) = (line.get_xdata() for line in ax.lines if line.get_marker() == "x")
    (copies,) = (np.asarray(line.get_xdata(), dtype=float) for line in ax.lines if line.get_marker() == (3, 0, 0))
    assert len(np.asarray(crosses)) == 10
    assert np.isnan(copies).tolist() == [False, False, True] * 14, "from the sender to the pod, and a gap"


@pytest.mark.parametrize("draw", outage_plots.FIGURES, ids=lambda draw: draw.__name__)
def test_every_figure_draws_any_run_and_names_its_axes(draw: outage_plots.space_time, plan: RunFolder, tmp_path: Path) -> None:  # type: ignore[valid-type]
    empty = RunFolder(tmp_path / "empty").write()
    unsealed = RunFolder(tmp_path / "unsealed").write(seal=False, state="running")
    bare = RunFolder(tmp_path / "bare").service("web", replicas=1)
    bare.info.phases = []
    bare.publish(3)
    for folder in (plan.write(), empty, unsealed, bare.write()):
        ax = draw(open_run(folder), axes())
        ax.figure.canvas.draw()
        assert ax.get_title() and ax.get_xlabel()


def test_single_events_are_drawn_where_most_were_lost_and_what_is_left_out_is_told(plan: RunFolder) -> None:
    ax = outage_plots.space_time(open_run(plan.write()), axes())
    assert ax.get_title() == "12 copies of 11 events were heard and 10 lost, from 2.90 to 4.00 s, where most were lost"
    plan.folder = plan.folder.with_name("many")
    for number in range(700):
        plan.event(13 * SECOND + number * MS, publisher="web-1")
    ax = outage_plots.space_time(open_run(plan.write()), axes())
    assert ax.get_title() == (
        "2 copies of 200 events were heard and 398 lost, from 2.98 to 3.20 s, where most were lost; not drawn: 1 of 201 events"
    )
    wide = outage_plots.space_time(open_run(plan.folder), axes(), between_s=(2.9, 3.9))
    assert wide.get_title().endswith("from 2.90 to 3.90 s; not drawn: 510 of 710 events")


def test_where_a_run_lost_nothing_the_end_of_the_first_fault_is_drawn(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("web", replicas=41)
    plan.publish(100, step_ns=100 * MS)
    plan.faults = [("link_slow", "web-0", 13 * SECOND, 15 * SECOND)]
    title = outage_plots.space_time(open_run(plan.write()), axes()).get_title()
    assert title == "400 copies of 10 events were heard and 0 lost, from 4.90 to 5.90 s; not drawn: 1 of 41 pods"


def test_the_map_covers_every_fault_and_names_services_where_pods_are_many(plan: RunFolder, tmp_path: Path) -> None:
    plan.faults.append(("broker_freeze", "broker", 16 * SECOND, 17 * SECOND))
    assert outage_plots.reachability_map(open_run(plan.write()), axes()).get_title().endswith(" while faults were on")
    many = RunFolder(tmp_path / "many").service("web", replicas=20).service("api", replicas=3)
    many.publish(100, step_ns=100 * MS, publisher="api-0")
    many.faults = [("link_cut", "web-0", at * SECOND, (at + 2) * SECOND) for at in (12, 16)]
    many.drop(many.events[25], "web-3")
    ax = outage_plots.reachability_map(open_run(many.write()), axes())
    assert ax.get_title() == "879 of 880 copies for another pod were heard while link_cut was on, 2 times"
    assert [text.get_text() for text in ax.get_xticklabels()] == ["web", "api"] and ax.get_xlabel() == "pod of the service that should hear"
    assert [text.get_text() for text in ax.get_yticklabels()] == ["api"]
    assert ax.images[0].get_array().tolist() == [[799 / 800, 1.0]]
