"""Draw a matrix of faults and buses: faults down, measures across, in each the buses side by side; below what a bus costs without a fault.

Each field holds its number or word; the darker, the worse, so it reads in grey. Nothing is shown or saved here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sim.experiments.matrix.run import NO_END, BusCost, Matrix, MatrixRow, ranged
from sim.machine.words import UNITS_S, count, duration, multiple

SHADES = ("#ffffff", "#dedede", "#b4b4b4", "#6e6e6e")  # nothing, little, much, nearly all


class MatrixColumn(NamedTuple):
    """One group of columns: its heading, its text, and how bad it is, 0 to 3."""

    heading: str
    text: Callable[[MatrixRow], str]
    shade: Callable[[MatrixRow], int]


def _share(part: float, whole: float) -> int:
    """Return 0 for nothing, 1 below 5 %, 2 below 25 %, else 3."""
    return 0 if not part else 1 if part < 0.05 * whole else 2 if part < 0.25 * whole else 3


def _time(seconds: float) -> int:
    return 0 if math.isnan(seconds) or seconds < 0.05 else 1 if seconds < 0.5 else 2 if seconds < 2 else 3


def _seconds(value: float) -> str:
    return "" if math.isnan(value) else "0" if value < 0.05 else NO_END if math.isinf(value) else f"{value:.1f}"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:,.0f}"


def _unheard(row: MatrixRow) -> str:
    return ranged(f"{row.lost:,}", f"{row.unheard:,}", joint=" to\n")


def _recovered(row: MatrixRow) -> str:
    return ranged(_seconds(row.recover_s), _seconds(row.recover_s_most), joint=" to\n") if row.recovered == "yes" else row.recovered


def _deaf(row: MatrixRow) -> str:
    return ranged(_seconds(row.deaf_s), _seconds(row.deaf_s_most), joint=" to\n")


def _green(row: MatrixRow) -> str:
    return ranged(_seconds(row.truth_gap_s), _seconds(row.truth_gap_s_most), joint=" to\n")


def _never(row: MatrixRow) -> str:
    return ranged(_number(row.never), _number(row.never_most), joint=" to\n")


MEASURES = (
    MatrixColumn("copies lost\n(to: with those\nin doubt)", _unheard, lambda row: _share(row.unheard, row.expected)),
    MatrixColumn("run or heard\ntwice", lambda row: f"{row.twice:,}", lambda row: 2 if row.twice else 0),
    MatrixColumn("events never\nrun", _never, lambda row: 2 if row.never > 0 else 0),
    MatrixColumn("stale reads", lambda row: f"{row.stale:,}", lambda row: _share(row.stale, row.reads)),
    MatrixColumn("greatest lag, s", lambda row: _seconds(row.late_s), lambda row: _time(row.late_s)),
    MatrixColumn("deaf after it, s", _deaf, lambda row: _time(row.deaf_s)),
    MatrixColumn("green while\nblind, s", _green, lambda row: _time(row.truth_gap_s)),
    MatrixColumn("told", lambda row: row.told.replace(" of ", "/"), lambda row: 3 if row.told == "no" else 2 if " of " in row.told else 0),
    MatrixColumn("recovered\nafter, s", _recovered, lambda row: 3 if row.recovered == "no" else _time(row.recover_s)),
    MatrixColumn("verdict", lambda row: row.verdict, lambda row: {"valid": 0, "invalid": 3}.get(row.verdict, 2)),
)


def draw_matrix(matrix: Matrix) -> Figure:
    """Return the picture: the matrix, and below it what each bus costs without a fault."""
    faults = _faults(matrix)
    columns = len(MEASURES) * len(matrix.buses)
    figure = Figure(figsize=(max(3.2 + 0.52 * columns, 11), 3.8 + 0.27 * len(faults)), layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=[0.27 * len(faults) + 1.4, 1.9])
    draw_cells(matrix, figure.add_subplot(grid[0, :]))
    for place, (what, unit, value) in enumerate(_COSTS):
        _bars(matrix, figure.add_subplot(grid[1, place]), what=what, unit=unit, value=value)
    return figure


def draw_cells(matrix: Matrix, ax: Axes) -> Axes:
    """Draw the fields of the faults that some bus was run with."""
    rows, many = _faults(matrix), len(matrix.buses)
    of = {(row.fault, row.bus): row for row in matrix.rows}
    for y, fault in enumerate(rows):
        for number, bus in enumerate(matrix.buses):
            for group, measure in enumerate(MEASURES):
                _field(ax, group * (many + 0.25) + number, y, of[fault, bus], measure)
    for group, measure in enumerate(MEASURES):
        left = group * (many + 0.25)
        ax.text(left + many / 2, -2.2, measure.heading, ha="center", va="bottom", fontsize=9, weight="bold")
        for number, bus in enumerate(matrix.buses):
            ax.text(left + number + 0.5, -0.15, bus, ha="center", va="bottom", fontsize=7, rotation=35)
    ax.set(xlim=(0, len(MEASURES) * (many + 0.25) - 0.25), ylim=(max(len(rows), 1), -3.6))
    ax.set_yticks(np.arange(len(rows)) + 0.5, rows, fontsize=9)
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(f"{finding(matrix)} ({matrix.ground})", fontsize=13, loc="left")
    return ax


def finding(matrix: Matrix) -> str:
    """Return in words how many copies nobody heard on each bus, and in how many faults."""
    faults = len(_faults(matrix))
    parts = []
    for bus in matrix.buses:
        copies = sum(row.unheard for row in matrix.rows if row.bus == bus)
        parts.append(f"{bus} {copies:,} in {matrix.count(bus, lambda row: row.unheard > 0)} of them")
    return f"Copies that nobody heard in {count(faults, 'fault')}: {', '.join(parts)}"


def _faults(matrix: Matrix) -> list[str]:
    return list(dict.fromkeys(row.fault for row in matrix.rows if not row.why_not))


def _field(ax: Axes, x: float, y: float, row: MatrixRow, measure: MatrixColumn) -> None:
    if row.why_not:
        ax.add_patch(Rectangle((x, y), 1, 1, facecolor="white", edgecolor="0.8", hatch="////", linewidth=0.5))
        return
    shade = measure.shade(row)
    ax.add_patch(Rectangle((x, y), 1, 1, facecolor=SHADES[shade], edgecolor="0.8", linewidth=0.5))
    text = measure.text(row)
    dim = shade == 0 and text in ("0", "", "valid", "yes")
    ax.text(x + 0.5, y + 0.53, text, ha="center", va="center", fontsize=7, color="white" if shade == 3 else "0.6" if dim else "black")


_COSTS: tuple[tuple[str, str, Callable[[BusCost], float]], ...] = (
    ("Broker CPU for each publish", "us", lambda cost: cost.publish_us),
    ("Median lag", "ms", lambda cost: cost.lag_ms_p50),
    ("Lag p99", "ms", lambda cost: cost.lag_ms_p99),
)
HATCHES = ("", "//", "..", "xx", "\\\\")


def _bars(matrix: Matrix, ax: Axes, *, what: str, unit: str, value: Callable[[BusCost], float]) -> None:
    values = [value(cost) for cost in matrix.costs]
    known = [0.0 if math.isnan(one) else one for one in values]
    where = "computed by the model" if matrix.ground == "model" else f"on {matrix.ground}"
    bars = ax.barh(range(len(values)), known, color="0.85", edgecolor="black")
    for place, bar in enumerate(bars):
        bar.set_hatch(HATCHES[place % len(HATCHES)])
    ax.bar_label(
        bars, labels=["not measured" if math.isnan(one) else duration(one * UNITS_S[unit]) for one in values], padding=4, fontsize=9
    )
    ax.set_yticks(range(len(values)), [cost.bus for cost in matrix.costs], fontsize=9)
    ax.invert_yaxis()
    ax.set(
        xlim=(0, max([*known, 1e-9]) * 1.3),
        xlabel=f"{unit}, without a fault, {where}",
    )
    dear = f": {matrix.costs[-1].bus} {multiple(values[-1] / values[0])} {matrix.costs[0].bus}" if len(known) > 1 and min(known) > 0 else ""
    ax.set_title(what + dear, fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
