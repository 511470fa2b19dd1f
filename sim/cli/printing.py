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


class FiniteRange(click.FloatRange):
    """A number within a range; click alone would accept nan in every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or refuse it."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


def check_out(path: Path, option: str = "--out") -> None:
    """Refuse an output file that cannot be written, before anything is measured for it."""
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
    """Print a table as wide as the terminal, or as wide as a log where there is none; its text is as it is, whatever brackets are in it."""
    from rich.console import Console

    wide = None if Console().is_terminal else LOG_WIDTH
    Console(width=wide, markup=False, emoji=False).print(table)


def print_judgement(folder: Path, *, report: bool, write: bool, only: tuple[str, ...] = (), code_folder: Path | None = None) -> int:
    """Judge a folder, write what was asked for, print the table and where things lie; return the verdict's exit code."""
    from sim.record.checksum import changed_since
    from sim.results.checkers import CHECKERS, is_checker
    from sim.results.judged_run import judge_folder
    from sim.results.report import verdict_table, write_report

    for name in only:
        if not is_checker(name):
            raise UsageError(f"--only {name!r}: no such checker; known: {', '.join(CHECKERS)}")
    changed = changed_since(folder / name for name in ("verdict.json", "junit.xml", "report.html"))
    judged = judge_folder(folder, only=only or None, write=write, code_folder=code_folder)
    for path in changed:
        click.echo(f"buslab: {path} was damaged or changed after it was written; this is the verdict on the run itself", err=True)
    print_table(verdict_table(judged.verdict))
    click.echo(f"verdict  {judged.verdict.verdict}")
    click.echo(f"run      {folder}")
    if report:
        click.echo(f"report   {folder / write_report(judged.run, judged.verdict).name}")
    return judged.verdict.exit_code
