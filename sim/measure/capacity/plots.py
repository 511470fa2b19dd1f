"""Draw a measurement of capacity: one function a figure, each returns its axes; the rules are those of `sim.results.plots`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from sim.errors import UsageError
from sim.machine.files import whole_file
from sim.machine.words import count
from sim.measure.capacity.report import Capacity
from sim.pages.colours import BLUE, RED
from sim.results.plots import COLOURS, MARKERS, STYLES, make_axes

CURVE_POINTS = 60


def predicted_against_measured(found: Capacity, ax: Axes | None = None) -> Axes:
    """Draw the saturation rate of every held-out combination: predicted with its interval, and measured."""
    ax = make_axes(ax)
    held = sorted(found.held(), key=lambda one: one.measured)
    measured = np.array([one.measured for one in held])
    predicted = np.array([one.predicted.value for one in held])
    spans = np.array([[one.predicted.value - one.predicted.low, one.predicted.high - one.predicted.value] for one in held]).T
    ends = np.array([measured.min() / 2, measured.max() * 2])
    ax.plot(ends, ends, color="0.4", linewidth=1, linestyle=":", label="predicted = measured")
    ax.errorbar(measured, predicted, yerr=spans, fmt="o", color=BLUE, capsize=4, label="fan-out model, 95 % interval")
    ax.plot(measured, [one.usl for one in held], linestyle="", marker="x", markersize=8, color=RED, label="scalability law (USL)")
    for n, one in enumerate(reversed(held)):  # names stand in turn above and below their intervals: neighbours do not overlap
        above = n % 2 == 0 and n < len(held) - 1
        at, offset, side = (one.predicted.high, (-4, 4), "right") if above else (one.predicted.low, (4, -9), "left")
        ax.annotate(one.point.name, (one.measured, at), offset, textcoords="offset points", ha=side, fontsize=7, color="0.3")
    ax.set(xscale="log", yscale="log", xlabel="measured saturation rate (events/s, log)", ylabel="predicted (events/s, log)", xlim=ends)
    error = float(np.median([abs(one.error) for one in held]))
    ax.set_title(f"Held out: off by {error:.0%} in the median, {sum(one.covered for one in held)} of {len(held)} inside the interval")
    _plain(ax)
    ax.legend(loc="upper left", frameon=False, fontsize=9)
    return ax


def rate_against_pods(found: Capacity, ax: Axes | None = None) -> Axes:
    """Draw what the broker carries against the pods that hear, for each size that was fitted; what was tested is shaded."""
    ax = make_axes(ax)
    few, many = (end(point.pods for point in found.fitted) for end in (min, max))
    ax.axvspan(few, many, facecolor="0.93", edgecolor="0.8", hatch="//", linewidth=0, zorder=0, label="tested")
    pods = np.unique(np.round(np.geomspace(few, many * 3, CURVE_POINTS)).astype(int))
    sizes = sorted({(point.event_bytes, point.payload_bytes, point.batch) for point in found.fitted})
    for n, (size, payload, batch) in enumerate(sizes):
        costs = [found.model.cost_us([(1.0, int(count), size)]).inverse(1e6) for count in pods]
        look: dict[str, Any] = {"color": COLOURS[n % len(COLOURS)], "linestyle": STYLES[n % len(STYLES)]}
        ax.plot(pods, [cost.value for cost in costs], label=f"{size:,} B (payload {payload} B, batch {batch})", **look)
        ax.fill_between(pods, [cost.low for cost in costs], [cost.high for cost in costs], color=look["color"], alpha=0.12, linewidth=0)
        mine = [point for point in found.fitted if point.event_bytes == size]
        ax.plot(
            [p.pods for p in mine], [1e6 / p.cost_us for p in mine], linestyle="", marker=MARKERS[n % len(MARKERS)], color=look["color"]
        )
    held = found.held_out
    ax.plot([p.pods for p in held], [1e6 / p.cost_us for p in held], linestyle="", marker="*", color="black", label="held out, measured")
    ax.set(xscale="log", yscale="log", xlabel="pods that hear an event (log)", ylabel="saturation rate (events/s, log)")
    first, last = (found.model.cost_us([(1.0, count, sizes[0][0])]).inverse(1e6).value for count in (few, many))
    ax.set_title(
        f"From {few} to {count(many, 'pod')} a broker of events of {sizes[0][0]:,} B falls from {first:,.0f} to {last:,.0f} events/s"
    )
    _plain(ax)
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.14), ncols=2, frameon=False, fontsize=8)
    return ax


def write_picture(found: Capacity, path: Path) -> None:
    """Draw both beside each other into a file.

    Raises
    ------
    UsageError
        It cannot be written.
    """
    figure = Figure(figsize=(17, 7), layout="constrained")
    left, right = figure.subplots(1, 2)
    predicted_against_measured(found, left)
    rate_against_pods(found, right)
    try:
        with whole_file(path) as unfinished:
            figure.savefig(unfinished, format="png", dpi=90)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}; choose another folder with --out") from None


def _plain(ax: Axes) -> None:
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.set_minor_formatter(NullFormatter())
    ax.grid(True, color="0.92")
