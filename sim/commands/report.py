"""Draw the report of a run folder again."""

from __future__ import annotations

from pathlib import Path

import click

from sim.printing import RUN_ARGUMENT


@click.command()
@RUN_ARGUMENT
def report(run: Path) -> int:
    """Draw report.html of a run folder again."""
    from sim.checkers import judge
    from sim.report import write_report
    from sim.results import open_run

    opened = open_run(run)
    click.echo(write_report(opened, judge(opened)))
    return 0
