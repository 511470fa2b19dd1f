"""From the path of a sealed run folder to the run and its verdict: where the live half hands over to the offline half.

Whoever makes one run and judges it writes ``judge_folder(run_scenario(...))``. Neither half knows the other: all that passes is the path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sim.results.checkers import Verdict, judge, write_verdict
from sim.results.opened_run import Run, open_run


@dataclass(frozen=True)
class JudgedRun:
    """One opened run, and the verdict on it."""

    run: Run
    verdict: Verdict


def judge_folder(
    folder: str | Path, *, only: Sequence[str] | None = None, write: bool = True, code_folder: str | Path | None = None
) -> JudgedRun:
    """Open a sealed run folder, judge it, and write what came of it into the folder.

    Parameters
    ----------
    only, code_folder
        As of `judge`.
    write
        Whether verdict.json and junit.xml are written.

    Raises
    ------
    RunFolderError
        The folder holds no run, or not a whole one.
    UsageError
        A name in `only` is not a checker.
    """
    run = open_run(folder)
    verdict = judge(run, only=only, code_folder=code_folder)
    if write:
        write_verdict(run, verdict)
    return JudgedRun(run, verdict)
