"""Figures by what stands in their axes."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from sim.pages.colours import FATE_COLOURS
from sim.record.run_info import Phase
from sim.record.schema import FATES
from sim.results import plots
from sim.results.opened_run import open_run
from tests.support.run_folders import MS, RUN_NS, SECOND, RunFolder

matplotlib.use("Agg")


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    plan = RunFolder(tmp_path / "run").service("web", replicas=3).service("api", replicas=1)
    plan.publish(100, step_ns=100 * MS)
    return plan


def axes() -> Axes:
    return Figure().subplots()


def lines(ax: Axes) -> dict[str, np.ndarray]:
    return {str(line.get_label()): np.asarray(line.get_ydata(), dtype=float) for line in ax.lines}


def test_rates_are_per_second_whatever_the_interval(plan: RunFolder) -> None:
    plan.drop(plan.events[55], "web-0")
    ax = plots.rates(open_run(plan.write()), axes())
    drawn, run = lines(ax), slice(5, None)  # warm-up has no load here
    width_s = float(np.diff(ax.lines[0].get_xdata())[0])
    assert drawn["events published"][run].sum() * width_s == pytest.approx(100)
    assert drawn["copies delivered"][run].sum() * width_s == pytest.approx(399)
    assert drawn["copies missing"].sum() * width_s == pytest.approx(1)
    assert ax.get_title() == "10 events/s became 40 copies/s; 1 copy is missing"


def test_lag_over_time_shows_the_delayed_copy_in_its_interval(plan: RunFolder) -> None:
    plan.delay(plan.events[50], "web-0", 90 * MS)
    ax = plots.lag_over_time(open_run(plan.write()), axes())
    drawn = lines(ax)
    x = np.asarray(ax.lines[0].get_xdata(), dtype=float)
    assert x[np.nanargmax(drawn["max"])] == pytest.approx(5, abs=0.25)
    assert np.nanmax(drawn["max"]) == pytest.approx(90_250, rel=0.002)  # read from counts, see `sim.results.over_time`
    assert np.nanmax(drawn["median"]) == pytest.approx(250, rel=0.002)
    assert ax.get_yscale() == "log"


def test_the_distribution_ends_at_the_maximum(plan: RunFolder) -> None:
    plan.delay(plan.events[50], "web-0", 90 * MS)
    run = open_run(plan.write())
    ax = plots.lag_distribution(run, axes())
    drawn = lines(ax)
    assert list(drawn) == ["all copies (400)", "config.updated (400)"]
    assert (drawn["all copies (400)"][0], drawn["all copies (400)"][-1]) == (250, 90_250)
    assert list(lines(plots.lag_distribution(run, axes(), by="service"))) == ["all copies (400)", "api (100)", "web (300)"]
    assert list(lines(plots.lag_distribution(run, axes(), by="total"))) == ["all copies (400)"]


def test_the_parts_of_lag_are_drawn(plan: RunFolder) -> None:
    ax = plots.send_delay(open_run(plan.write()), axes())
    assert {name: values[0] for name, values in lines(ax).items()} == {"lag": 250, "before it was sent": 50, "on the bus": 200}
    assert ax.get_title() == "20% of all lag passed before the event was sent"


def test_copies_per_event_stand_beside_the_pods(plan: RunFolder) -> None:
    plan.repeat(plan.events[3], "api-0").drop(plan.events[4], "web-1")
    ax = plots.copies_per_event(open_run(plan.write()), axes())
    assert [text.get_text() for text in ax.get_xticklabels()] == ["api", "web"]
    assert [round(float(bar.get_height()), 3) for bar in ax.patches] == [1.0, 2.99, 0.01, 0.0]
    assert list(lines(ax)["pods"]) == [1, 3]
    assert "1 copy was heard again" in ax.get_title()


def test_the_books_are_bars_with_their_numbers(plan: RunFolder) -> None:
    plan.drop(plan.events[4], "web-1").repeat(plan.events[5], "web-0")
    ax = plots.ledger_books(open_run(plan.write()), axes())
    names = [text.get_text() for text in ax.get_yticklabels()]
    widths = dict(zip(names, (int(bar.get_width()) for bar in ax.patches), strict=True))
    assert widths == {"delivered": 399, "duplicate": 1, "missing": 1, "missing: unexplained": 1, "unexpected": 0, "unknown": 0}
    assert ax.get_title() == "399 of 400 expected copies were delivered"


def test_faults_are_hatched_and_named_and_phases_marked(plan: RunFolder) -> None:
    plan.faults = [("freeze", "web-0", RUN_NS + 2 * SECOND, RUN_NS + 4 * SECOND), ("cut", "web-1", RUN_NS + 5 * SECOND, 0)]
    ax = plots.rates(open_run(plan.write()), axes())
    spans = [patch for patch in ax.patches if patch.get_hatch()]
    assert (float(spans[0].get_x()), float(spans[0].get_width())) == pytest.approx((2, 2))
    assert len(spans) == 2
    assert {"freeze web-0", "cut web-1", "warm-up", "run"} <= {text.get_text() for text in ax.texts}


def test_the_name_of_a_fault_is_short_and_leaves_the_axes_their_place(plan: RunFolder) -> None:
    pods = ",".join(f"web-{n}" for n in range(40))
    plan.faults = [
        ("pod_kill", pods, RUN_NS + SECOND, RUN_NS + 2 * SECOND),
        ("broker_down", "broker", RUN_NS + 5 * SECOND, RUN_NS + 6 * SECOND),
    ]
    figure = Figure(figsize=(7.4, 4.8), layout="constrained")
    ax = plots.rates(open_run(plan.write()), figure.subplots())
    figure.savefig(BytesIO())
    assert {"pod_kill 40 pods", "broker_down"} <= {text.get_text() for text in ax.texts}
    assert ax.get_position().width > 0.8


def test_a_lag_axis_names_its_ticks_in_one_way(plan: RunFolder) -> None:
    plan.delay(plan.events[50], "web-0", 20 * MS)
    ax = plots.lag_over_time(open_run(plan.write()), axes())
    ax.figure.savefig(BytesIO())
    assert [text.get_text() for text in ax.get_yticklabels(minor=True) if text.get_text()] == []


@pytest.mark.parametrize("draw", plots.FIGURES, ids=lambda draw: draw.__name__)
def test_every_figure_draws_any_run_and_names_its_axes(draw: plots.rates, plan: RunFolder, tmp_path: Path) -> None:  # type: ignore[valid-type]
    empty = RunFolder(tmp_path / "empty").write()
    unsealed = RunFolder(tmp_path / "unsealed").write(seal=False, state="running")
    bare = RunFolder(tmp_path / "bare").service("web", replicas=1)
    bare.info.phases = []
    bare.publish(3)
    for folder in (plan.write(), empty, unsealed, bare.write()):
        ax = draw(open_run(folder), axes())
        ax.figure.canvas.draw()
        assert ax.get_title()
        assert ax.get_xlabel() or ax.get_xticklabels()
    assert draw(open_run(plan.folder)).figure is not None
    matplotlib.pyplot.close("all")


def test_of_many_channels_those_with_most_copies_are_drawn_and_the_others_counted(tmp_path: Path) -> None:
    names = [f"channel.{number}" for number in range(plots.MAX_LINES + 3)]
    plan = RunFolder(tmp_path / "run").service("web", replicas=1, channels=",".join(names))
    for number, name in enumerate(names):
        plan.publish(number + 1, channel=name)
    ax = plots.lag_distribution(open_run(plan.write()), axes())
    assert list(lines(ax)) == ["all copies (120)", *(f"{name} ({number + 1})" for number, name in enumerate(names) if number >= 3)]
    assert ax.get_title().endswith("; 3 more channels are not drawn")


def test_a_fate_has_one_colour_in_all_figures(plan: RunFolder) -> None:
    plan.drop(plan.events[55], "web-0").repeat(plan.events[5], "web-0")
    run = open_run(plan.write())
    of_rates = {line.get_label(): line.get_color() for line in plots.rates(run, axes()).lines}
    books = plots.ledger_books(run, axes())
    bars = {text.get_text(): to_hex(bar.get_facecolor()) for text, bar in zip(books.get_yticklabels(), books.patches, strict=True)}
    assert set(FATE_COLOURS) == set(FATES) and len(set(FATE_COLOURS.values())) == len(FATES)
    assert of_rates["copies delivered"] == FATE_COLOURS["delivered"] and of_rates["copies missing"] == FATE_COLOURS["missing"]
    assert {name: bars[name] for name in FATES} == {fate: colour.lower() for fate, colour in FATE_COLOURS.items()}
    assert bars["missing: unexplained"] == FATE_COLOURS["missing"].lower()


def test_a_run_that_did_not_reach_its_run_phase_has_the_rates_of_what_is_drawn(plan: RunFolder) -> None:
    plan.info.phases = [Phase("warm-up", 9 * SECOND, None)]
    title = plots.rates(open_run(plan.write(state="interrupted")), axes()).get_title()
    assert title == "9 events/s became 36 copies/s before the run phase, which was not reached; 0 copies are missing"


def test_what_a_peer_took_is_not_drawn_as_missing(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run", transport="streams").service("web", replicas=2)
    for number in range(40):
        plan.hear(plan.event(RUN_NS + number * 100 * MS), f"web-{number % 2}")
    ax = plots.rates(open_run(plan.write()), axes())
    assert ax.get_title() == "4 events/s became 4 copies/s; 0 copies are missing, 40 left to another pod"
    assert not lines(ax)["copies missing"].any()


def test_p99_is_drawn_where_it_is_not_the_maximum_and_limits_are_lines(plan: RunFolder) -> None:
    few = plots.lag_over_time(open_run(plan.write()), axes())
    assert [name for name in lines(few) if not name.startswith("_")] == ["median", "max"], "no interval holds 100 copies"
    plan.folder = plan.folder.with_name("many")
    plan.publish(2000, start_ns=RUN_NS + SECOND, step_ns=MS // 10)
    plan.slo = {"lag_ms_p99": 5, "lag_ms_max": 20, "missing": 0}
    run = open_run(plan.write())
    ax = plots.lag_over_time(run, axes())
    p99 = lines(ax)["p99, of 100 copies or more"]
    assert 0 < np.isfinite(p99).sum() < len(p99)
    assert {text.get_text() for text in ax.texts} >= {"limit of p99: 5 ms", "limit of max: 20 ms"}
    assert [line.get_ydata()[0] for line in ax.lines if str(line.get_label()).startswith("_")][:2] == [5_000, 20_000]
    marks = [line for line in plots.lag_distribution(run, axes()).lines if line.get_marker() == "v"]
    assert [(round(float(line.get_xdata()[0])), float(line.get_ydata()[0])) for line in marks] == [(100, 5_000), (8400, 20_000)]
