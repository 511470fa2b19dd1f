"""A sweep as people read it: a row a cell, its repeats as least .. most."""

from __future__ import annotations

import pandas as pd
from rich.table import Table

SHOWN = {  # column -> heading; those that are 0 or were not measured in every run are left out
    "lag_ms_p50": "lag ms p50",
    "lag_ms_p99": "p99",
    "missing": "missing",
    "duplicates": "duplicates",
    "stale_reads": "stale reads",
    "item_age_ms_p99": "item age ms p99",
    "batching.publishes_per_s": "publishes/s",
    "broker.cpu_us_per_copy": "broker us a copy",
}
MAX_ROWS = 60


def axes_of(table: pd.DataFrame) -> list[str]:
    """Return the settings of a sweep that have several values."""
    return [key for key, values in table.attrs["plan"]["settings"].items() if len(values) > 1]


def sweep_table(table: pd.DataFrame) -> Table:
    """Return the table of a sweep for a rich console; several runs of a cell are `least .. most`."""
    plan, axes = table.attrs["plan"], axes_of(table)
    fixed = ", ".join(f"{key}={values[0]}" for key, values in plan["settings"].items() if len(values) == 1)
    shown = Table(title=f"{plan['scenario']} on {plan['on']}" + (f", {fixed}" if fixed else ""))
    columns = {column: heading for column, heading in SHOWN.items() if _happened(table, column)}
    for heading in (*axes, "runs", *columns.values(), "verdict"):
        shown.add_column(heading, justify="left" if heading == "verdict" else "right")
    cells = list(table.groupby("cell")) if len(table) else []
    for _, rows in cells[:MAX_ROWS]:
        verdicts = rows["verdict"].value_counts()
        words = ", ".join(str(word) if count == len(rows) else f"{count} {word}" for word, count in verdicts.items())
        values = (_spread(rows, column) for column in columns)
        shown.add_row(*(str(rows[axis].iloc[0]) for axis in axes), str(len(rows)), *values, words)
    if len(cells) > MAX_ROWS:
        shown.caption = f"{len(cells) - MAX_ROWS} more cells are in the table's file"
    return shown


def _happened(table: pd.DataFrame, column: str) -> bool:
    return any(name in table and bool((table[name].fillna(0) != 0).any()) for name in (column, f"{column}.most"))


def _spread(rows: pd.DataFrame, column: str) -> str:
    """Return a column's values: the number, `least .. most` of several runs, or `least to most` where a run knows only these of its own."""
    ends = [rows[name].dropna() for name in (f"{column}.least", f"{column}.most") if name in rows]
    values = pd.concat([rows[column].dropna(), *ends])
    if not len(values):
        return "-"
    least, most = (f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}" for value in (values.min(), values.max()))
    return least if least == most else f"{least} {'to' if any(map(len, ends)) else '..'} {most}"
