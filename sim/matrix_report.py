"""Show a matrix of faults and buses: a table for the terminal, a page, a picture, and files for other programs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from rich.markup import escape
from rich.table import Table

from sim.buses import BUSES
from sim.matrix import BusCost, Matrix, MatrixRow
from sim.plots import BLUE, make_axes
from sim.record import write_json

WORDS = {"valid": "green", "invalid": "red", "unknown": "yellow"}
ROUND_S = 0.05  # a time below it is said as 0: what ends within a few milliseconds is nobody's outage


def _number(value: float, *, digits: int = 1) -> str:
    if math.isnan(value):
        return "-"
    return "0" if value < ROUND_S else f"{value:,.{digits}f}"


COLUMNS: dict[str, Callable[[MatrixRow], str]] = {
    "fault": lambda row: row.fault,
    "bus": lambda row: row.bus,
    "copies": lambda row: f"{row.expected:,}",
    "lost": lambda row: f"{row.lost:,}",
    "twice": lambda row: f"{row.twice:,}",
    "never": lambda row: "-" if math.isnan(row.never) else f"{row.never:,.0f}",
    "stale reads": lambda row: f"{row.stale:,}",
    "stale s": lambda row: _number(row.stale_s),
    "deaf s": lambda row: _number(row.deaf_s),
    "green s": lambda row: _number(row.truth_gap_s),
    "told": lambda row: row.told or "-",
    "recovered": lambda row: f"{_number(row.recover_s)} s" if row.recovered == "yes" else "no",
    "verdict": lambda row: row.verdict,
    "why lost": lambda row: row.causes,
}
COST_COLUMNS: dict[str, Callable[[BusCost], str]] = {
    "bus": lambda cost: cost.bus,
    "broker CPU, us a copy": lambda cost: _number(cost.copy_us),
    "of a core": lambda cost: f"{cost.core:.1%}" if cost.core >= 0 else "-",
    "lag p50, ms": lambda cost: _number(cost.lag_ms_p50, digits=2),
    "lag p99, ms": lambda cost: _number(cost.lag_ms_p99, digits=2),
}
LEGEND = (
    "lost: missing copies, without those that a pod of the same service took. twice, never: runs of events that should run once. "
    "stale: reads of an old copy, and for how long at most. deaf: until a pod heard again after the fault. green: how long a pod called "
    "itself connected while it did not hear or its publishes had no answer. told: whether those that lost copies were told. "
    "recovered: when no copy was lost any more, after the fault's end."
)


def finding(matrix: Matrix) -> str:
    """Return what the matrix shows in one sentence."""
    faults = len({row.fault for row in matrix.rows if not row.why_not})
    parts = [f"{bus} in {matrix.count(bus, lambda row: row.lost > 0)}" for bus in matrix.buses]
    return f"Copies are lost in how many of {faults} faults: {', '.join(parts)}"


def matrix_table(matrix: Matrix) -> Table:
    """Return the matrix as a table for the terminal."""
    table = Table(title=escape(f"{finding(matrix)}, on {matrix.ground}"), caption=LEGEND)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("fault", "bus", "told", "verdict", "why lost") else "right", overflow="fold")
    for row in matrix.rows:
        if row.why_not:
            table.add_row(row.fault, row.bus, *[""] * (len(COLUMNS) - 3), escape(f"not run: {row.why_not}"))
            continue
        words = {name: escape(write(row)) for name, write in COLUMNS.items()}
        words["verdict"] = f"[{WORDS[row.verdict]}]{row.verdict}[/]"
        table.add_row(*words.values(), end_section=row.bus == matrix.buses[-1])
    return table


def cost_table(matrix: Matrix) -> Table:
    """Return what the buses cost without a fault."""
    table = Table(title=f"What a bus costs without a fault, baseline at 500 calls/s on {matrix.ground}")
    for name in COST_COLUMNS:
        table.add_column(name, justify="left" if name == "bus" else "right")
    for cost in matrix.costs:
        table.add_row(*(write(cost) for write in COST_COLUMNS.values()))
    return table


def matrix_page(matrix: Matrix, *, took_s: float) -> str:
    """Return the matrix as a Markdown page."""
    head = [f"# {finding(matrix)}", ""]
    head += [f"`buslab matrix --on {matrix.ground}`, seed {matrix.seed}, {took_s:,.0f} s. Times that end within 50 ms are 0.", ""]
    head += [f"- **{bus}**: {BUSES[bus].text}" for bus in matrix.buses] + ["", LEGEND, ""]
    ran = [row for row in matrix.rows if not row.why_not]
    lines = [*head, *_markdown(COLUMNS, ran), "", "## Without a fault", "", *_markdown(COST_COLUMNS, matrix.costs)]
    left_out = [f"- {row.fault} on {row.bus}: {row.why_not}" for row in matrix.rows if row.why_not]
    broken = [f"- {row.fault} on {row.bus} is {row.verdict}: {row.why}" for row in ran if row.verdict != "valid"]
    lines += ["", "## Promises that were broken", "", *broken] if broken else []
    lines += ["", "## Not run", "", *left_out] if left_out else []
    return "\n".join(lines) + "\n"


def _markdown(columns: dict[str, Callable[[Any], str]], rows: list[Any]) -> list[str]:
    cells = [list(columns), ["---"] * len(columns), *([write(row) for write in columns.values()] for row in rows)]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in cells]


def matrix_picture(matrix: Matrix, ax: Axes | None = None) -> Axes:
    """Draw faults down and, for each bus, what was lost, run twice, stale and deaf across; darker is worse, and the number stands in it.

    Lost copies are a share of those expected; each column is dark at its own worst.
    """
    ax = ax or make_axes(None)
    faults = list(dict.fromkeys(row.fault for row in matrix.rows if not row.why_not))
    if not faults:
        ax.set_axis_off()
        ax.set_title("No cell was run")
        return ax
    values, words, heads = _grid(matrix, faults)
    worst = np.nanmax(np.where(np.isnan(values), 0, values), axis=(1, 2), keepdims=True)
    shade = np.where(worst > 0, np.sqrt(np.nan_to_num(values) / np.where(worst > 0, worst, 1)), 0)
    measures, buses = values.shape[0], len(matrix.buses)
    flat = shade.transpose(1, 0, 2).reshape(len(faults), measures * buses)
    ax.imshow(np.where(flat > 0, 0.12 + 0.78 * flat, 0), cmap="Greys", vmin=0, vmax=1, aspect="auto")
    for row, line in enumerate(words):
        for column, word in enumerate(line):
            dark = flat[row, column] > 0.55
            ax.text(column, row, word, ha="center", va="center", fontsize=7, color="white" if dark else "black")
    ax.set_xticks(range(measures * buses), list(matrix.buses) * measures, fontsize=7, rotation=30, ha="left", rotation_mode="anchor")
    ax.xaxis.tick_top()
    ax.set_yticks(range(len(faults)), faults, fontsize=8)
    for edge in range(1, measures):
        ax.axvline(edge * buses - 0.5, color=BLUE, linewidth=1.5)
    for place, head in enumerate(heads):
        at = (place * buses + (buses - 1) / 2, len(faults) - 0.35)
        ax.annotate(head, at, ha="center", va="top", fontsize=8, annotation_clip=False)
    ax.tick_params(length=0)
    cost = [f"{one.bus} {_number(one.copy_us)} us, {_number(one.lag_ms_p99, digits=2)} ms" for one in matrix.costs if not one.why_not]
    ax.set_xlabel("without a fault, broker CPU a copy and p99 of lag:  " + ";  ".join(cost), fontsize=8, labelpad=22)
    ax.set_title(f"{finding(matrix)} ({matrix.ground})", fontsize=11, pad=8)
    return ax


def _grid(matrix: Matrix, faults: list[str]) -> tuple[np.ndarray, list[list[str]], list[str]]:
    """Return (measure, fault, bus) values, the words in the cells by fault, and what the measures are called."""
    measures: dict[str, Callable[[MatrixRow], float]] = {
        "copies lost, %": lambda row: 100 * row.lost / row.expected if row.expected else math.nan,
        "ran twice, events": lambda row: float(row.twice),
        "stale reads": lambda row: float(row.stale),
        "deaf after it, s": lambda row: row.deaf_s if row.deaf_s >= ROUND_S or math.isnan(row.deaf_s) else 0.0,
        "green while blind, s": lambda row: row.truth_gap_s if row.truth_gap_s >= ROUND_S or math.isnan(row.truth_gap_s) else 0.0,
    }
    of = {(row.fault, row.bus): row for row in matrix.rows}
    values = np.full((len(measures), len(faults), len(matrix.buses)), math.nan)
    words = [[""] * (len(measures) * len(matrix.buses)) for _ in faults]
    for m, measure in enumerate(measures.values()):
        for f, fault in enumerate(faults):
            for b, bus in enumerate(matrix.buses):
                row = of[fault, bus]
                value = math.nan if row.why_not else measure(row)
                values[m, f, b] = value
                words[f][m * len(matrix.buses) + b] = "" if row.why_not or math.isnan(value) else _short(value)
    return values, words, list(measures)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value == 0 or value >= 99.5 or value == int(value) else f"{value:.2g}" if value < 9.95 else f"{value:.0f}"


def write_matrix(matrix: Matrix, folder: Path, *, took_s: float) -> list[Path]:
    """Write matrix.md, .png, .csv and .json into a folder, and return their paths."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"matrix.{kind}" for kind in ("md", "png", "csv", "json")]
    paths[0].write_text(matrix_page(matrix, took_s=took_s), "utf-8")
    figure = Figure(figsize=(11, 1.8 + 0.3 * len({row.fault for row in matrix.rows})), layout="constrained")
    matrix_picture(matrix, figure.subplots())
    figure.savefig(paths[1], dpi=110)
    matrix.frame().to_csv(paths[2], index=False)
    rows, costs = ([_plain(asdict(one)) for one in many] for many in (matrix.rows, matrix.costs))
    write_json(paths[3], {"verdict": matrix.verdict, "ground": matrix.ground, "seed": matrix.seed, "rows": rows, "costs": costs})
    return paths


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as JSON can hold it: a number that was not measured is null."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
