"""Make many runs, one after another or several at a time, and yield what became of each as it ends.

Rules
-----
1. A run is made, judged, and its verdict.json written. One that fails is an outcome with its error; the others go on. An error that is
   no `BuslabError` is a bug, so its traceback goes to stderr; the workers' stderr is the file workers.log beside the run folders.
2. One at a time, runs are made in this process. Several at a time, each is made in a worker: this module as a process of its own. It takes
   one job after another over an inherited socket and answers with the content of verdict.json. It dies with its parent, and its broker
   with it. A worker that dies by itself fails its job and is replaced.
3. Ctrl-C or SIGTERM: each run that is under way heals and is sealed; what was done before is kept, then `Interrupted` is raised.
4. A run folder that is not kept is removed when the next outcome is asked for.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from sim import errors
from sim.errors import BuslabError, Interrupted, UsageError, did_you_mean
from sim.machine.clock import in_a_loop
from sim.machine.line import inherited_line, start_child
from sim.machine.signals import interruptible, signal_of
from sim.results.checkers import Verdict
from sim.results.checkers.verdict import least_of, most_of
from sim.results.judged_run import JudgedRun, judge_folder
from sim.results.opened_run import open_run
from sim.run.status import Watch
from sim.run.steps import run_scenario
from sim.scenario.file import Scenario, check_tree

END_TIMEOUT_S = 20.0  # a worker that is told to end heals its faults, drains and seals
LOOK_S = 0.2

KEEP = {
    "all": "every run folder",
    "not-valid": "the folders of runs that are not valid",
    "none": "no run folder",
}


@dataclass(frozen=True)
class Job:
    """One run to make: a scenario, and where it runs as `run_scenario` takes it; `key` names the job and its run folder."""

    key: str
    scenario: Scenario
    on: str
    image: str | None = None
    load_this_server: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a job: its verdict, or the error for which it has none; and the seconds it took, judgement included."""

    job: Job
    folder: Path
    verdict: Verdict | None
    error: BuslabError | None
    took_s: float

    def judged(self) -> JudgedRun:
        """Open the run folder and return it with the verdict.

        Raises
        ------
        BuslabError
            The error, where there is no verdict.
        """
        if self.verdict is None:
            raise self.error or BuslabError(f"{self.job.key} has no verdict")
        return JudgedRun(open_run(self.folder), self.verdict)

    def stays(self, keep: str) -> bool:
        """Return whether the run folder is kept; that of a run without a verdict always is."""
        return self.verdict is None or keep == "all" or (keep == "not-valid" and self.verdict.verdict != "valid")

    def metric(self, name: str) -> float:
        """Return what some checker measured, NaN when it was not measured, or is known only as an interval (see `ends`)."""
        low, high = self.ends(name)
        return low if low == high else math.nan

    def ends(self, name: str) -> tuple[float, float]:
        """Return the least and the most that a metric can be: twice the same number when it is known, NaN when it was not measured."""
        for result in self.verdict.checkers.values() if self.verdict else ():
            value = result.metrics.get(name, math.nan)
            if not math.isnan(least_of(value)):
                return least_of(value), most_of(value)
        return math.nan, math.nan

    def count(self, checker: str, name: str) -> float:
        """Return a count of one checker, 0 when there is none."""
        found = self.verdict.checkers.get(checker) if self.verdict else None
        value = found.counts.get(name, math.nan) if found else math.nan
        return 0.0 if math.isnan(value) else float(value)


def check_keep(keep: str) -> None:
    """Refuse what is no key of `KEEP`."""
    if keep not in KEEP:
        raise UsageError(f"--keep {keep}: no such choice{did_you_mean(keep, KEEP)}; known: {', '.join(KEEP)}")


def default_jobs(on: str) -> int:
    """Return how many runs may go on at a time: one per core on the model, where time is not real; one on a real ground."""
    return os.cpu_count() or 1 if on.partition(":")[0] == "model" else 1


def run_many(
    jobs: Iterable[Job],
    *,
    out: Path | None = None,
    at_once: int = 1,
    keep: str = "all",
    begin: Callable[[Job], None] = lambda job: None,
    watch: Watch = lambda status: None,
) -> Iterator[Outcome]:
    """Make every run in the order given and yield each outcome as it ends.

    Parameters
    ----------
    out
        The folder for the run folders, one named after each job's key; one that is left over from an earlier try is replaced. Without it
        they are made in a temporary one, and none stays.
    at_once
        How many at a time: one in this process, more in processes of their own. On a real ground they share this machine's cores, and
        disturb each other's lag.
    keep
        Which run folders stay: a key of `KEEP`.
    begin
        Called with a job before its run begins; what it raises ends the series.
    watch
        As of `run_scenario`; only with one at a time.

    Raises
    ------
    Interrupted
        Ctrl-C or SIGTERM; outcomes yielded before that stand.
    """
    check_keep(keep)
    with contextlib.ExitStack() as last_first:
        folder = out or Path(last_first.enter_context(tempfile.TemporaryDirectory(prefix="buslab-runs-")))
        folder.mkdir(parents=True, exist_ok=True)
        made = _run_here(jobs, folder, begin, watch) if at_once <= 1 else _run_in_workers(jobs, folder, begin, at_once)
        last_first.enter_context(contextlib.closing(made))
        try:
            for outcome in made:
                try:
                    yield outcome
                finally:
                    if not outcome.stays(keep if out else "none"):
                        shutil.rmtree(outcome.folder, ignore_errors=True)
        except Interrupted as error:
            kept = f"what was done is in {out}" if out else "nothing was kept"
            raise Interrupted(error.signal_number, f"interrupted by {signal.Signals(error.signal_number).name}; {kept}") from None


class _Order(msgspec.Struct, frozen=True):
    """A job as a worker is given it, with the folder for its run."""

    scenario: dict[str, Any]
    on: str
    folder: str
    image: str | None
    load_this_server: bool


class _Answer(msgspec.Struct, frozen=True):
    """What a worker answers: the content of verdict.json, or the text of an error and the name of its class."""

    verdict: dict[str, Any] | None = None
    error: str = ""
    kind: str = "BuslabError"


def _carry_out(order: _Order, watch: Watch = lambda status: None) -> _Answer:
    """Make a run and judge it, here or in a worker: what comes of it is the same."""
    folder = Path(order.folder)
    try:
        scenario = check_tree(order.scenario, where="of a cell")
        run_scenario(scenario, on=order.on, out=folder, image=order.image, load_this_server=order.load_this_server, watch=watch)
        return _Answer(judge_folder(folder).verdict.to_json())
    except Interrupted:
        raise
    except BuslabError as error:
        return _Answer(error=str(error), kind=type(error).__name__)
    except Exception as error:  # a bug must not end the other jobs, and its traceback says where it is
        traceback.print_exc()
        return _Answer(error=f"{type(error).__name__}: {error}")


def _order(job: Job, out: Path) -> _Order:
    """Return the order for a job; what an earlier try left in its folder is removed."""
    folder = (out / job.key).absolute()
    shutil.rmtree(folder, ignore_errors=True)
    return _Order(msgspec.to_builtins(job.scenario), job.on, str(folder), job.image, job.load_this_server)


def _outcome(job: Job, order: _Order, answer: _Answer, *, began_s: float) -> Outcome:
    verdict = None if answer.verdict is None else Verdict.from_json(answer.verdict)
    error = None if verdict else getattr(errors, answer.kind, BuslabError)(answer.error)
    return Outcome(job, Path(order.folder), verdict, error, time.monotonic() - began_s)


def _run_here(jobs: Iterable[Job], out: Path, begin: Callable[[Job], None], watch: Watch) -> Generator[Outcome, None, None]:
    """Make one run after another in this process.

    An interruption ends a run, or its judgement, at once. Between two runs it waits, so that whoever takes an outcome can finish.
    """
    asked: list[int] = []
    under_way = False

    def interrupt(number: int) -> None:
        asked.append(number)
        if under_way:
            raise KeyboardInterrupt(number)

    # In a notebook Ctrl-C keeps its own meaning: `interruptible` would end the kernel at the second one.
    with contextlib.nullcontext() if in_a_loop() else interruptible(interrupt):
        for job in itertools.takewhile(lambda job: not asked, jobs):
            begin(job)
            order, began_s = _order(job, out), time.monotonic()
            try:
                under_way = True
                if asked:  # asked for just before `under_way` was set, so nothing was raised
                    break
                answer = _carry_out(order, watch)
            except Interrupted as end:
                asked.append(end.signal_number)
            except KeyboardInterrupt as end:
                asked.append(signal_of(end))
            finally:
                under_way = False
            if asked:
                break
            yield _outcome(job, order, answer, began_s=began_s)
        if asked:
            raise Interrupted(asked[0], "interrupted")


def _run_in_workers(jobs: Iterable[Job], out: Path, begin: Callable[[Job], None], at_once: int) -> Generator[Outcome, None, None]:
    """Make some runs at a time, each in a worker."""
    asked: list[int] = []
    with interruptible(asked.append), _Crew(iter(jobs), out, begin) as crew:
        for _ in range(at_once):
            crew.hire()
        while crew.busy and not asked:
            yield from crew.look()
        if asked:
            raise Interrupted(asked[0], "interrupted")


class _Crew:
    """The workers, and the jobs that wait for them. On leaving, all are told to end before any is waited for: each may have to heal."""

    def __init__(self, waiting: Iterator[Job], out: Path, begin: Callable[[Job], None]) -> None:
        self._waiting, self._out, self._begin = waiting, out, begin
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
        """Whether some run is under way."""
        return any(worker.job is not None for worker in self._workers)

    def hire(self) -> None:
        """Start one more worker, if there is something for it to do."""
        job = next(self._waiting, None)
        if job is not None:
            worker = _Worker(self._out / "workers.log")
            self._workers.append(worker)
            self._eyes.register(worker.line.socket, selectors.EVENT_READ, worker)
            self._give(worker, job)

    def _give(self, worker: _Worker, job: Job) -> None:
        self._begin(job)
        worker.give(job, _order(job, self._out))

    def look(self) -> Iterator[Outcome]:
        """Wait a moment for answers; a worker that has answered gets the next job, one that has died is replaced."""
        for key, _ in self._eyes.select(LOOK_S):
            worker: _Worker = key.data
            if worker.job is None:
                continue
            outcome = worker.take()
            try:
                if worker.dead:
                    self._eyes.unregister(worker.line.socket)
                    self.hire()
                elif (job := next(self._waiting, None)) is not None:
                    self._give(worker, job)
            finally:  # also when the next job could not begin
                yield outcome


class _Worker:
    """One worker process, and the job it is at."""

    def __init__(self, log: Path) -> None:
        self.line = start_child("sim.experiments.many_runs", name="its process", log=log)
        self.child = self.line.child
        self.job: Job | None = None
        self.order: _Order | None = None
        self.began_s = 0.0
        self.dead = False

    def give(self, job: Job, order: _Order) -> None:
        """Send the worker the order for a job."""
        self.job, self.order, self.began_s = job, order, time.monotonic()
        self.line.send(order)

    def take(self) -> Outcome:
        """Read the answer that has come; a line that fails is a worker that died."""
        assert self.job is not None and self.order is not None
        try:
            answer = self.line.receive(_Answer, timeout_s=END_TIMEOUT_S)
        except BuslabError as error:
            self.dead, answer = True, _Answer(error=str(error))
        outcome = _outcome(self.job, self.order, answer, began_s=self.began_s)
        self.job = None
        return outcome

    def dismiss(self) -> None:
        """Ask the worker to end: an idle one ends at once, a busy one heals and seals its run first."""
        if self.child.poll() is None:
            self.child.process.terminate()

    def close(self) -> None:
        """Wait until the worker has ended, and kill it after `END_TIMEOUT_S`: a second signal would end it in the middle of sealing."""
        self.line.close()
        try:
            self.child.process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.child.kill()


def _work() -> None:
    """Carry out orders until the line closes."""
    line = inherited_line(name="the command")
    for order in line.messages(_Order):
        try:
            answer = _carry_out(order)
        except Interrupted:
            return
        line.send(answer)


if __name__ == "__main__":
    _work()
