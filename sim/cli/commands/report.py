"""Draw the report of a run folder again."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.options import RUN_ARGUMENT, path_option


@click.command()
@RUN_ARGUMENT
@path_option()
def report(run: Path, code_folder: Path | None) -> int:
    """Draw report.html of a run folder again."""
    from sim.results.checkers import judge
    from sim.results.opened_run import open_run
    from sim.results.report import write_report

    opened = open_run(run)
    click.echo(write_report(opened, judge(opened, code_folder=code_folder)))
    return 0
