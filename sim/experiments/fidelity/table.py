"""The comparison of the model with a real server as people and programs read it: for a console, as Markdown, as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from sim.errors import UsageError
from sim.experiments.fidelity.run import EMBEDDED, MODEL, Fidelity, causes
from sim.machine.files import write_whole
from sim.machine.words import count

REASONS = (
    "A pod of the model has a core of its own and its code takes no time; on embedded all pods, their load and the recorder share "
    "one process and one event loop, which shares this machine's cores with the server and all else.",
    "A timer of the model fires at its nanosecond; a real loop wakes late, so its events are sent late (send delay).",
    "The model's server pays the same mean cost for the same step each time, and is never without a core; a real one shares its core "
    "and caches with whatever else runs.",
    "A pod of the model is awake at once; a real process that slept is woken by the kernel, and pays for cold caches as the server does.",
    "The model's server has no housekeeping ten times a second, and answers INFO at the price of any command.",
    "Reconnection draws its waits from the same seed on both; but a real outage begins and ends some milliseconds off, an attempt that "
    "just misses the server costs a whole further wait, and which of a pod's two connections breaks first decides which wait it draws.",
)
HEADINGS = (
    *("scenario", "ground", "calls", "publishes", "expected", "delivered", "per s", "missing by cause"),
    *("lag us p50", "p99", "max", "CPU us", "verdict"),
)


def table_rows(fidelity: Fidelity) -> list[tuple[str, ...]]:
    """Return the table's cells, two rows a pair, in the order of `HEADINGS`."""
    rows = []
    for pair in fidelity.pairs:
        name = pair.scenario if pair.seed == fidelity.pairs[0].seed else f"{pair.scenario}, seed {pair.seed}"
        for ground, side in ((MODEL, pair.model), (EMBEDDED, pair.embedded)):
            counts = (f"{many:,}" for many in (side.intended_calls, side.publishes, side.expected, side.delivered))
            lags = (f"{side.lag_us[quantile]:,.0f}" if quantile in side.lag_us else "-" for quantile in ("p50", "p99", "max"))
            cpu = "-" if math.isnan(side.broker_cpu_us) else f"{side.broker_cpu_us:,.0f}"
            rows.append((name, ground, *counts, f"{side.delivered_per_s:,.0f}", causes(side), *lags, cpu, side.verdict))
    return rows


def _notes(fidelity: Fidelity) -> list[str]:
    unsure = {
        (pair.scenario, ground): side for pair in fidelity.pairs for ground, side in (("model", pair.model), ("embedded", pair.embedded))
    }
    why = [f"{name} on {ground} is {side.verdict}: {side.reasons[0]}" for (name, ground), side in unsure.items() if side.reasons]
    return [*(pair.sentence for pair in fidelity.pairs), *why]


def fidelity_table(fidelity: Fidelity) -> Group:
    """Return the comparison for a rich console."""
    table = Table(padding=(0, 0), title=f"{fidelity.model_on} against embedded: same seed, same load, pods as drivers")
    for heading in HEADINGS:
        words, wide = heading in ("scenario", "ground", "missing by cause", "verdict"), heading == "missing by cause"
        table.add_column(heading, justify="left" if words else "right", min_width=19 if wide else None, no_wrap=not wide)
    for place, cells in enumerate(table_rows(fidelity)):
        table.add_row(*cells, end_section=bool(place % 2))
    return Group(table, *(Text(note) for note in (*_notes(fidelity), "What always differs:", *REASONS)))


def write_fidelity(fidelity: Fidelity, path: Path) -> None:
    """Write the comparison: as JSON where the name ends in ``.json``, else as Markdown.

    Raises
    ------
    UsageError
        The file cannot be written.
    """
    text = json.dumps(_finite(asdict(fidelity)), indent=2, allow_nan=False) if path.suffix == ".json" else to_markdown(fidelity)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.rstrip() + "\n")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}; choose another file with --out") from None


def _finite(value: Any) -> Any:
    """Return the tree with null for every number that does not exist."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_markdown(fidelity: Fidelity) -> str:
    """Return the comparison as Markdown."""
    machine, server = fidelity.about["machine"], fidelity.about["broker"]
    version = server.get("valkey_version", server.get("redis_version", "of unknown version"))
    lines = [
        f"# {fidelity.model_on} against embedded",
        "",
        f"Made by `buslab fidelity` with Python {fidelity.about['python']}, server {version}, {count(machine['cores'], 'core')} "
        f"({machine['processor']}). Counts, lag and rates are of the run phase; CPU is the server's for each publish that it answered.",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|" + "--|" * len(HEADINGS),
        *("| " + " | ".join(cells) + " |" for cells in table_rows(fidelity)),
        "",
        *(f"- {note}" for note in _notes(fidelity)),
        "",
        "What always differs:",
        "",
        *(f"- {reason}" for reason in REASONS),
    ]
    return "\n".join(lines)
