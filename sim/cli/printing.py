"""What commands print and refuse alike: tables as wide as the terminal, a run's verdict, files that cannot be written."""

from __future__ import annotations

import errno
import math
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import click

from sim.errors import UsageError

LOG_WIDTH = 140

if TYPE_CHECKING:  # imported where used: pandas takes a second, and --help should not
    from rich.console import RenderableType

    from sim.results.checkers import Verdict
    from sim.results.opened_run import Run


class FiniteRange(click.FloatRange):
    """Take a number of a range; nan lies in every range for click."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or refuse it."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


def check_out(path: Path, option: str = "--out") -> None:
    """Refuse a file that cannot be written before it is measured for, not after."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is no regular file")
        there = next(folder for folder in path.absolute().parents if folder.exists())
        TemporaryFile(dir=there).close()
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}; choose another with {option}") from None


def print_table(table: RenderableType) -> None:
    """Print a table as wide as the terminal, or as wide as a log where there is none."""
    from rich.console import Console

    console = Console()
    (console if console.is_terminal else Console(width=LOG_WIDTH)).print(table)


def judge_folder(folder: Path, *, report: bool, write: bool, only: tuple[str, ...] = ()) -> int:
    """Judge a folder, write what was asked for, print the table and where things lie."""
    from sim.results.checkers import CHECKERS, judge, write_verdict
    from sim.results.opened_run import open_run
    from sim.results.report import verdict_table, write_report

    for name in only:
        if name not in CHECKERS:
            raise UsageError(f"--only {name!r}: no such checker; known: {', '.join(CHECKERS)}")
    opened: Run = open_run(folder)
    verdict: Verdict = judge(opened, only=only or None)
    if write:
        write_verdict(opened, verdict)
    print_table(verdict_table(verdict))
    click.echo(f"verdict  {verdict.verdict}")
    click.echo(f"run      {folder}")
    if report:
        click.echo(f"report   {folder / write_report(opened, verdict).name}")
    return verdict.exit_code
