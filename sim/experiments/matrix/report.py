"""Show a matrix of faults and buses: a table for the terminal, a page, a picture, and files for other programs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from sim.experiments.matrix.plots import draw_matrix, finding
from sim.experiments.matrix.run import NO_END, BusCost, Matrix, MatrixRow, ranged
from sim.machine.files import whole_files, write_whole
from sim.machine.words import agreeing, count, duration
from sim.record.recorder import write_json
from sim.results.report import COLOURS
from sim.scenario.buses import BUSES

NEAR, FEW, NEAR_S = 0.25, 10.0, 0.25  # two grounds say the same when they are no further apart: a share, a count, seconds
REASONS = {
    "lost": "which copies fall into a gap depends on milliseconds: when a fault is done, which of a pod's connections breaks first, and "
    "which wait its reconnection then draws",
    "in_doubt": "what was on its way when a connection broke: bytes in the buffers of a real kernel, of which the model has none",
    "twice": "two pods run an event when they begin far enough apart, and real timers are late by different times",
    "never": "a recipe fails when its command is on its way as the connection breaks",
    "stale": "a read is stale as long as its pod has not heard, and a real outage begins and ends some milliseconds off",
    "late_s": "what waits for a reconnection waits for the pause that it draws; a real process is late besides",
    "deaf_s": "a pod's pause is drawn; a try that just misses the server costs the whole next pause",
    "told": "only pods that lost something count, and which lose something in the gap differs",
    "recovered": "see the cell's reason",
    "recover_s": "the last of all pods' pauses decides it, and an attempt that just misses the server costs the whole next one",
    "truth_gap_s": "it ends with the first copy that gets through, and a quiet channel has few",
    "verdict": "see the cell's reason",
}
FAULT_REASONS = {
    "broker_slow": "the script takes `stall_ms` of processor time, which on a busy machine is more of anybody else's time",
    "keys_lost": "which of the group's renewals meet the next loss of all keys, 10 ms later, decides who gives up and is deaf for a moment",
    "link_blackhole": "what was sent into the hole arrives when it ends, also from a pod that has given up: others hear it late",
}
COMPARED = {"lost": FEW, "in_doubt": FEW, "twice": FEW, "never": FEW, "stale": FEW, "late_s": NEAR_S, "deaf_s": NEAR_S, "told": 0.0}
COMPARED |= {"truth_gap_s": NEAR_S, "recovered": 0.0, "recover_s": NEAR_S, "verdict": 0.0}
ROUND_S = 0.05  # a time below it is shown as 0: what ends within a few milliseconds is nobody's outage


def _number(value: float, *, digits: int = 1) -> str:
    if math.isnan(value):
        return "-"
    return "0" if value < ROUND_S else NO_END if math.isinf(value) else f"{value:,.{digits}f}"


COLUMNS: dict[str, Callable[[MatrixRow], str]] = {
    "fault": lambda row: row.fault,
    "bus": lambda row: row.bus,
    "copies": lambda row: f"{row.expected:,}",
    "lost": lambda row: ranged(f"{row.lost:,}", f"{row.unheard:,}"),
    "in doubt": lambda row: f"{row.in_doubt:,}",
    "twice": lambda row: f"{row.twice:,}",
    "never": lambda row: ranged(*("-" if math.isnan(never) else f"{never:,.0f}" for never in (row.never, row.never_most))),
    "stale reads": lambda row: f"{row.stale:,}",
    "stale s": lambda row: _number(row.stale_s),
    "late s": lambda row: _number(row.late_s),
    "deaf s": lambda row: ranged(_number(row.deaf_s), _number(row.deaf_s_most)),
    "green s": lambda row: ranged(_number(row.truth_gap_s), _number(row.truth_gap_s_most)),
    "told": lambda row: row.told or "-",
    "recovered": lambda row: f"{ranged(_number(row.recover_s), _number(row.recover_s_most))} s" if row.recovered == "yes" else "no",
    "verdict": lambda row: row.verdict,
    "why lost": lambda row: row.causes,
}
COST_COLUMNS: dict[str, Callable[[BusCost], str]] = {
    "bus": lambda cost: cost.bus,
    "broker CPU, us a copy": lambda cost: _number(cost.copy_us),
    "us a publish": lambda cost: _number(cost.publish_us),
    "of a core": lambda cost: f"{cost.core:.1%}" if cost.core >= 0 else "-",
    "lag p50, ms": lambda cost: _number(cost.lag_ms_p50, digits=2),
    "lag p99, ms": lambda cost: _number(cost.lag_ms_p99, digits=2),
}
LEGEND = (
    "lost: missing copies, without those that a pod of the same service took; of a service without a living pod, one copy an event. in "
    "doubt: copies that nobody heard, and their publisher does not know whether they were published; with and without them a number is "
    "an interval. twice, never: runs of events that should run once. stale: reads of an old copy, and for how "
    "long at most. late: greatest lag. deaf: until a pod heard again after the fault. green: how long a pod called itself connected while "
    "it did not hear or its publishes had no answer. told: whether the pods that lost copies or were blind were told, or how many. "
    "recovered: when no copy was lost any more, after the fault's end."
)


def matrix_table(matrix: Matrix) -> Table:
    """Return the matrix as a table for the terminal."""
    table = Table(title=Text(f"{finding(matrix)}, on {matrix.ground}", "table.title"), caption=LEGEND)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("fault", "bus", "told", "verdict", "why lost") else "right", overflow="fold")
    for row in matrix.rows:
        if row.why_not:
            table.add_row(row.fault, row.bus, *[""] * (len(COLUMNS) - 3), Text(f"not run: {row.why_not}"))
            continue
        words = {name: Text(write(row)) for name, write in COLUMNS.items()}
        words["verdict"] = Text(row.verdict, COLOURS[row.verdict])
        table.add_row(*words.values(), end_section=row.bus == matrix.buses[-1])
    return table


def cost_table(matrix: Matrix) -> Table:
    """Return what the buses cost without a fault."""
    table = Table(title=f"What a bus costs without a fault, {matrix.scenario or 'baseline at 500 calls/s'} on {matrix.ground}")
    for name in COST_COLUMNS:
        table.add_column(name, justify="left" if name == "bus" else "right")
    for cost in matrix.costs:
        table.add_row(*(write(cost) for write in COST_COLUMNS.values()))
    return table


def matrix_page(matrix: Matrix, *, took_s: float, against: Matrix | None = None) -> str:
    """Return the matrix as a Markdown page; with another matrix it says where the two differ."""
    head = [f"# {finding(matrix)}", ""]
    of = f" --scenario {matrix.scenario}" if matrix.scenario else ""
    head += [f"`buslab matrix --on {matrix.ground}{of}`, seed {matrix.seed}, {duration(took_s)}. Times that end within 50 ms are 0.", ""]
    head += ["![What each fault does to each bus](matrix.png)", ""]
    head += [f"- **{bus}**: {BUSES[bus].text}" for bus in matrix.buses] + ["", LEGEND, ""]
    ran = [row for row in matrix.rows if not row.why_not]
    lines = [*head, *_markdown(COLUMNS, ran), "", "## Without a fault", "", *_markdown(COST_COLUMNS, matrix.costs)]
    left_out = [f"- {row.fault} on {row.bus}: {row.why_not}" for row in matrix.rows if row.why_not]
    broken = [f"- {row.fault} on {row.bus} is {row.verdict}: {row.why}" for row in ran if row.verdict != "valid"]
    lines += ["", "## Promises that were broken", "", *broken] if broken else []
    lines += ["", "## Not run", "", *left_out] if left_out else []
    lines += ["", f"## Where {against.ground} and {matrix.ground} differ", "", *_difference_lines(against, matrix)] if against else []
    return "\n".join(lines) + "\n"


def differences(first: Matrix, second: Matrix) -> list[tuple[MatrixRow, MatrixRow, list[str]]]:
    """Return the cells that were run in both and do not say the same, and in what: keys of `REASONS`.

    Counts are alike that are within `NEAR`, or `FEW`, of each other, times within `NEAR_S` or `NEAR`; words must be equal.
    """
    of, found = {(row.fault, row.bus): row for row in first.rows if not row.why_not}, []
    for here in second.rows:
        there = of.get((here.fault, here.bus))
        if there is None or here.why_not:
            continue
        differ = [name for name, slack in COMPARED.items() if not _alike(getattr(there, name), getattr(here, name), slack)]
        if differ:
            found.append((there, here, differ))
    return found


def _alike(one: object, other: object, slack: float) -> bool:
    if not (isinstance(one, int | float) and isinstance(other, int | float)):
        return one == other
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return abs(one - other) <= max(slack, NEAR * max(one, other))


def _difference_lines(first: Matrix, second: Matrix) -> list[str]:
    found = differences(first, second)
    both = {(row.fault, row.bus) for row in first.rows if not row.why_not} & {
        (row.fault, row.bus) for row in second.rows if not row.why_not
    }
    alike = f"counts within {NEAR:.0%} or {FEW:g}, times within {NEAR:.0%} or {duration(NEAR_S)}, words equal"
    same = len(both) - len(found)
    lines = [f"{same} of {count(len(both), 'cell')} {agreeing(same, 'says', 'say')} the same ({alike}){'. The others:' if found else '.'}"]
    pairs = [(there, here, name) for there, here, differ in found for name in differ]
    columns: dict[str, Callable[[Any], str]] = {
        "fault": lambda pair: pair[1].fault,
        "bus": lambda pair: pair[1].bus,
        "what": lambda pair: pair[2],
        first.ground: lambda pair: _plainly(getattr(pair[0], pair[2])),
        second.ground: lambda pair: _plainly(getattr(pair[1], pair[2])),
    }
    kinds = dict.fromkeys(name for _, _, name in pairs)
    why = [f"- {name}: {REASONS[name]}." for name in kinds]
    why += [f"- {fault}: {FAULT_REASONS[fault]}." for fault in dict.fromkeys(here.fault for _, here, _ in pairs) if fault in FAULT_REASONS]
    return [*lines, "", *_markdown(columns, pairs), "", "Why:", "", *why] if pairs else lines


def _plainly(value: object) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value) or "-"


def _markdown(columns: dict[str, Callable[[Any], str]], rows: list[Any]) -> list[str]:
    cells = [list(columns), ["---"] * len(columns), *([write(row) for write in columns.values()] for row in rows)]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in cells]


def write_matrix(matrix: Matrix, folder: Path, *, took_s: float, against: Matrix | None = None) -> list[Path]:
    """Write matrix.md, .png, .csv and .json into a folder, and return their paths; `against` as in `matrix_page`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"matrix.{kind}" for kind in ("md", "png", "csv", "json")]
    write_whole(paths[0], matrix_page(matrix, took_s=took_s, against=against))
    with whole_files(*paths[1:3]) as (picture, table):
        draw_matrix(matrix).savefig(picture, format="png", dpi=100)
        matrix.frame().to_csv(table, index=False)
    rows, costs = ([_plain(asdict(one)) for one in many] for many in (matrix.rows, matrix.costs))
    write_json(
        paths[3],
        {
            "verdict": matrix.verdict,
            "ground": matrix.ground,
            "seed": matrix.seed,
            "rows": rows,
            "costs": costs,
            "scenario": matrix.scenario,
        },
    )
    return paths


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as JSON can hold it: a number that was not measured is null, one without an end is said so."""
    plain = {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
    return {key: NO_END if value == math.inf else value for key, value in plain.items()}
