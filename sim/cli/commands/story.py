"""Show one event's life."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.options import RUN_ARGUMENT


@click.command()
@RUN_ARGUMENT
@click.argument("event")
def story(run: Path, event: str) -> int:
    """Tell what happened to one EVENT (its id, or its number in the tables), station by station."""
    from sim.record.schema import event_id
    from sim.results.opened_run import open_run

    click.echo(str(open_run(run).story(event_id(int(event)) if event.isdecimal() and event.isascii() else event)))
    return 0
