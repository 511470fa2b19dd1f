"""Run many scenarios, some at a time, each whole in a worker process, and give what became of each when it ends.

Rules
-----
1. A worker is this module as a process of its own. It takes one job after another over an inherited socket, runs it, judges it, and
   answers with the content of verdict.json. It dies with its parent, and its broker with it.
2. A cell that fails is an answer with its reason; the others go on. A worker that dies fails its cell and is replaced.
3. Ctrl-C or SIGTERM: every worker is told to end, heals and seals its run; what was done before is kept, then `Interrupted` is raised.
"""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from sim.errors import BuslabError, Interrupted
from sim.machine.line import inherited_line, start_child
from sim.machine.process import interruptible
from sim.scenario.file import Scenario, check_tree

END_TIMEOUT_S = 20.0  # a worker that is told to end heals its faults, drains and seals
LOOK_S = 0.2


@dataclass(frozen=True)
class Cell:
    """Say what to run where; `key` names it, and is the name of its run folder."""

    key: str
    scenario: Scenario
    on: str


@dataclass(frozen=True)
class Outcome:
    """Say what became of a cell: the content of its verdict.json, or why there is none; and the seconds it took."""

    cell: Cell
    folder: Path
    verdict: dict[str, Any] | None
    error: str
    seconds: float

    def metric(self, name: str) -> float:
        """Return what some checker measured, NaN when it was not measured."""
        for checker in (self.verdict or {"checkers": {}})["checkers"].values():
            if (value := checker["metrics"].get(name)) is not None:
                return float(value)
        return float("nan")

    def count(self, checker: str, name: str, default: float = 0.0) -> float:
        """Return a count of one checker."""
        value = self.verdict["checkers"].get(checker, {}).get("counts", {}).get(name) if self.verdict else None
        return default if value is None else float(value)


class _Job(msgspec.Struct, frozen=True):
    scenario: dict[str, Any]
    on: str
    out: str
    image: str | None = None
    load_this_server: bool = False


class _Answer(msgspec.Struct, frozen=True):
    verdict: dict[str, Any] | None = None
    error: str = ""


class _Worker:
    """Own one worker process and the cell it is at."""

    def __init__(self, log: Path) -> None:
        self.line = start_child("sim.experiments.many_runs", name="its process", log=log)
        self.child = self.line.child
        self.cell: Cell | None = None
        self.folder = Path()
        self.began_s = 0.0
        self.dead = False

    def give(self, cell: Cell, folder: Path, *, image: str | None, load_this_server: bool) -> None:
        self.cell, self.folder, self.began_s = cell, folder, time.monotonic()
        self.line.send(_Job(msgspec.to_builtins(cell.scenario), cell.on, str(folder.absolute()), image, load_this_server))

    def take(self) -> Outcome:
        """Read the answer that has come; a line that fails is a worker that died."""
        assert self.cell is not None
        try:
            answer = self.line.receive(_Answer, timeout_s=END_TIMEOUT_S)
        except BuslabError as error:
            self.dead, answer = True, _Answer(error=str(error))
        outcome = Outcome(self.cell, self.folder, answer.verdict, answer.error, time.monotonic() - self.began_s)
        self.cell = None
        return outcome

    def dismiss(self) -> None:
        """Tell it to end: at once when it is idle, in order when it runs something."""
        if self.child.poll() is None:
            self.child.process.terminate()

    def close(self) -> None:
        """Wait until it has ended, and make it in the end; it was told once, and a second signal would end it in the middle of its seal."""
        self.line.close()
        try:
            self.child.process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.child.kill()


def default_jobs(on: str) -> int:
    """Return how many cells may run at a time: one per core on the model, where time is not real; one on a real ground."""
    return os.cpu_count() or 1 if on.partition(":")[0] == "model" else 1


def run_cells(
    cells: Iterable[Cell],
    *,
    out: Path,
    jobs: int,
    image: str | None = None,
    load_this_server: bool = False,
    told: Callable[[Outcome], None] = lambda outcome: None,
) -> Iterator[Outcome]:
    """Run every cell in the order given and yield each outcome as it ends.

    Parameters
    ----------
    out
        The folder for the run folders, one named after each cell's key; one that is left over from an earlier try is replaced.
    jobs
        How many at a time. On a real ground they share this machine's cores, and disturb each other's lag.

    Raises
    ------
    Interrupted
        Ctrl-C or SIGTERM; outcomes yielded before that stand.
    """
    out.mkdir(parents=True, exist_ok=True)
    asked: list[int] = []
    with interruptible(asked.append), _Crew(deque(cells), out=out, image=image, load_this_server=load_this_server) as crew:
        for _ in range(jobs):
            crew.hire()
        while crew.busy and not asked:
            for outcome in crew.look():
                told(outcome)
                yield outcome
        if asked:
            name = signal.Signals(asked[0]).name
            raise Interrupted(asked[0], f"interrupted by {name}; what was done is in {out}")


class _Crew:
    """Own the workers and what waits for them. On leaving, all are told to end before one is waited for: each may have to heal and seal."""

    def __init__(self, waiting: deque[Cell], *, out: Path, image: str | None, load_this_server: bool) -> None:
        self._waiting, self._out, self._image, self._load_this_server = waiting, out, image, load_this_server
        self._eyes = selectors.DefaultSelector()
        self._workers: list[_Worker] = []

    def __enter__(self) -> _Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.dismiss()
        for worker in self._workers:
            worker.close()
        self._eyes.close()
        log = self._out / "workers.log"
        if log.exists() and not log.stat().st_size:
            log.unlink()

    @property
    def busy(self) -> bool:
        """Whether some cell is under way."""
        return any(worker.cell is not None for worker in self._workers)

    def hire(self) -> None:
        """Start one more worker, if there is something for it to do."""
        if self._waiting:
            worker = _Worker(self._out / "workers.log")
            self._workers.append(worker)
            self._eyes.register(worker.line.socket, selectors.EVENT_READ, worker)
            self._give(worker)

    def _give(self, worker: _Worker) -> None:
        if self._waiting:
            cell = self._waiting.popleft()
            folder = self._out / cell.key
            shutil.rmtree(folder, ignore_errors=True)
            worker.give(cell, folder, image=self._image, load_this_server=self._load_this_server)

    def look(self) -> Iterator[Outcome]:
        """Wait a moment for answers, and give who has answered the next cell; who has died is replaced."""
        for key, _ in self._eyes.select(LOOK_S):
            worker: _Worker = key.data
            if worker.cell is None:
                continue
            outcome = worker.take()
            if worker.dead:
                self._eyes.unregister(worker.line.socket)
                self.hire()
            else:
                self._give(worker)
            yield outcome


def _work() -> None:
    """Carry out jobs until the line closes."""
    from sim.results.checkers import judge, write_verdict
    from sim.results.opened_run import open_run
    from sim.run.steps import run_scenario

    line = inherited_line(name="the command")
    for job in line.messages(_Job):
        try:
            scenario = check_tree(job.scenario, where="of a cell")
            folder = run_scenario(scenario, on=job.on, out=Path(job.out), image=job.image, load_this_server=job.load_this_server)
            run = open_run(folder)
            verdict = judge(run)
            write_verdict(run, verdict)
            answer = _Answer(verdict.to_json())
        except Interrupted:
            return
        except BuslabError as error:
            answer = _Answer(error=str(error))
        except Exception as error:  # one cell's accident is not the others'
            answer = _Answer(error=f"{type(error).__name__}: {error}")
        line.send(answer)


if __name__ == "__main__":
    _work()
