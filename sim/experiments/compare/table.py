"""Show a comparison: a table for people, compare.json and JUnit for CI."""

from __future__ import annotations

import json
import math
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from sim.errors import UsageError
from sim.experiments.compare.compare import Comparison, Difference
from sim.machine.files import write_all
from sim.machine.words import count
from sim.results.junit import cases_to_junit

JUNIT = {"worse": "invalid", "unknown": "unknown"}
STYLES = {"worse": "bold red", "unknown": "yellow", "maybe worse": "yellow", "better": "green", "same": ""}


def compare_table(comparison: Comparison) -> Group:
    """Return the comparison for a rich console."""
    sides = f"{count(len(comparison.runs), 'run')} against {len(comparison.baselines)} of the baseline"
    table = Table(title=f"{comparison.scenario}: {sides}", caption=comparison.note)
    for heading in ("metric", "baseline", "run", "change", "95 % interval", "tolerated", ""):
        table.add_column(heading, justify="left" if heading in ("metric", "") else "right", no_wrap=True)
    for one in comparison.differences:
        if one.metric == "verdict":
            table.add_row("verdict", "", "", "", "", "", Text(one.verdict, STYLES[one.verdict]))
            continue
        values = (_written(one.baseline, one.baseline_most), _written(one.run, one.run_most))
        table.add_row(one.metric, *values, *_change(one), f"{one.tolerance:.0%}", Text(one.verdict, STYLES[one.verdict]))
    lines = [f"what differs: {text}" for text in comparison.differs] + [f"cannot be compared: {text}" for text in comparison.cannot]
    lines += [f"{one.verdict}: {one.detail}" for one in comparison.differences if one.verdict in ("worse", "maybe worse", "unknown")]
    return Group(*([table] if comparison.differences else []), *(Text(line) for line in lines))


def _written(value: float, most: float | None) -> str:
    """Return a value, or its two ends."""
    ends = [f"{one:,.0f}" if abs(one) >= 1000 else f"{one:.4g}" for one in (value, value if most is None else most)]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def _change(one: Difference) -> tuple[str, str]:
    if math.isnan(one.change):
        return ("-", "-")
    return f"{one.change:+.1%}", f"{one.low:+.1%} .. {one.high:+.1%}" if math.isfinite(one.low) else "not known"


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """Write compare.json and compare.xml (JUnit) into a folder, and return the path of the former.

    Raises
    ------
    UsageError
        They cannot be written.
    """
    cases = [(one.metric, JUNIT.get(one.verdict, "valid"), one.detail) for one in comparison.differences]
    cases += [(f"comparable {number}", "unknown", text) for number, text in enumerate(comparison.cannot, start=1)]
    texts = {  # the XML first: where it cannot be written, the JSON is not written either
        folder / "compare.xml": cases_to_junit(f"buslab.{comparison.scenario}", "compare", cases),
        folder / "compare.json": json.dumps(comparison.to_json(), indent=2, allow_nan=False) + "\n",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_all(texts)
    except OSError as error:
        raise UsageError(f"cannot write into {folder}: {error.strerror or error}; choose another folder with --out") from None
    return folder / "compare.json"
