"""List what a service never handled."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sim.cli.options import RUN_ARGUMENT

SHOWN = 20  # rows without --csv


@click.command()
@RUN_ARGUMENT
@click.option("--service", "services", multiple=True, metavar="NAME", help="Only of this service; may be repeated.")
@click.option("--csv", is_flag=True, help="Every row as comma-separated values, and nothing else.")
def lost(run: Path, services: tuple[str, ...], csv: bool) -> int:
    """List the events that no pod of a service handled: key, time and cause of each."""
    from rich.table import Table

    from sim.cli.printing import print_table
    from sim.machine.words import count
    from sim.record.schema import event_id
    from sim.results.lost import MEANINGS, half_served, lost_in_short
    from sim.results.opened_run import open_run

    opened = open_run(run)
    rows = opened.lost(services=services)
    rows["event"] = [event_id(int(key)) for key in rows["event"]]
    if csv:
        rows.to_csv(sys.stdout, index=False, float_format="%.6f")
        return 0
    for sentence in lost_in_short(opened, rows):
        click.echo(sentence)
    if rows.empty:
        of_whom = " and ".join(services) if services else "every service"
        click.echo(f"nothing was lost: {of_whom} handled each event that it should hear in the run phase")
        for name, half in half_served(opened, services):
            click.echo(f"but {count(half, 'event')} of {name} reached only some of its pods")
        return 0
    table = Table()
    for column in ("service", "key", "at, s", "cause", "channel", "event"):
        table.add_column(column, justify="right" if column == "at, s" else "left", overflow="fold")
    words = {}
    for row in rows.head(SHOWN).to_dict("records"):
        word = row["cause"] or row["how"]
        words[word] = MEANINGS.get(word, "")
        table.add_row(row["service"], row["key"], f"{row['at_s']:.3f}", word, row["channel"], row["event"])
    print_table(table)
    for word, meaning in words.items():
        click.echo(f"{word}: {meaning}")
    if len(rows) > SHOWN:
        click.echo(f"{len(rows) - SHOWN:,} more rows: add --csv to see them all")
    return 0
