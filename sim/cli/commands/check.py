"""Judge a run folder again."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.options import RUN_ARGUMENT, path_option
from sim.cli.printing import print_judgement


@click.command()
@RUN_ARGUMENT
@click.option("--only", multiple=True, metavar="CHECKER", help="Run only this checker; may be repeated. Nothing is written then.")
@path_option()
def check(run: Path, only: tuple[str, ...], code_folder: Path | None) -> int:
    """Judge a run folder again, new or old, and write its verdict.json and junit.xml."""
    return print_judgement(run, report=False, write=not only, only=only, code_folder=code_folder)
