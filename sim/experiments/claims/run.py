"""Re-run claims: every trial once, each claim judged by its rule, and `claims.json` beside the run folders.

Rules
-----
1. Trials that several claims share run once.
2. Trials on the model run `jobs` at a time; those on a real server one after another with nothing beside them, as they measure time.
3. A trial that fails makes its claims unknown, with the reason; the others go on.
4. After an interruption, what was finished is judged and written with the state `interrupted`; then the interruption is raised on.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from sim.errors import BuslabError, RecordError, UsageError
from sim.experiments.claims.catalogue import CLAIMS, Claim, Finding, Trial, find
from sim.experiments.claims.claim import MODEL, Evidence, read_evidence
from sim.experiments.many_runs import Job, run_many
from sim.grounds.catalogue import shown_ground
from sim.machine.clock import utc_now
from sim.machine.files import write_whole
from sim.machine.import_path import child_environment, python_child
from sim.machine.process import Child
from sim.machine.words import count, duration
from sim.results.checkers.verdict import finite
from sim.run.folder import empty_folder, point_latest_to, runs_folder
from sim.scenario.file import load_scenario

FORMAT = 1
MAX_JOBS = 64
EXTRA_S = {"embedded": 3.0, "cluster": 6.0}  # what a real run takes besides its load
LOCUST_S = 3.0
MODEL_S = 1.0  # of a trial on the model
PATIENCE = 6.0  # times what a program takes: on a machine that is busy it takes longer


@dataclass(frozen=True)
class TrialRun:
    """One run that decides some claims: which trial, where, and in which folder."""

    trial: Trial
    on: str
    folder: Path

    @property
    def is_virtual(self) -> bool:
        """Whether it runs on the model."""
        return self.on.partition(":")[0] == MODEL

    @property
    def about_s(self) -> float:
        """About how long it takes."""
        if self.is_virtual:
            return MODEL_S
        if self.trial.program:
            return self.trial.about_s
        load = load_scenario(self.trial.scenario, settings=self.trial.settings).load
        more_s = EXTRA_S.get(self.on.partition(":")[0], 4.0) + (LOCUST_S if load.driver == "locust" else 0.0)
        return load.warm_up_s + load.run_s + more_s

    @property
    def job(self) -> Job:
        """What to run."""
        return Job(self.folder.name, load_scenario(self.trial.scenario, settings=self.trial.settings), self.on)


@dataclass(frozen=True)
class ClaimAnswer:
    """What a claim came to, and the runs behind it, by the names of the trials."""

    number: str
    claim: Claim
    finding: Finding
    runs: Mapping[str, TrialRun]

    @property
    def as_expected(self) -> bool:
        """Whether the verdict is the one that theory expects."""
        return self.finding.verdict == self.claim.expects


@dataclass(frozen=True)
class ClaimAnswers:
    """What `run_claims` found, in the order of numbers; `left_out` says which claims cannot run on the ground, and why."""

    folder: Path
    on: str
    answers: tuple[ClaimAnswer, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    state: str = "complete"

    @property
    def exit_code(self) -> int:
        """1 when a verdict is not what theory expects, else 2 when one is unknown, else 0."""
        words = [(answer.finding.verdict, answer.as_expected) for answer in self.answers]
        if any(word != "unknown" and not expected for word, expected in words):
            return 1
        return 2 if self.state != "complete" or any(word == "unknown" for word, _ in words) else 0


def run_claims(
    numbers: Sequence[str | int] = (),
    *,
    on: str = "",
    out: Path | None = None,
    jobs: int = 2,
    tell: Callable[[str], None] = lambda line: None,
) -> ClaimAnswers:
    """Run the experiments of claims, judge them, and write `claims.json`.

    Parameters
    ----------
    numbers
        Keys of `sim.experiments.claims.catalogue.CLAIMS`; by default all that can run on the ground.
    on
        Another ground than each claim's own.
    out
        The folder to make; by default ``reports/runs/claims/<UTC time>``.
    jobs
        How many trials on the model run at a time.
    tell
        Called with a line when a trial has ended.

    Raises
    ------
    UsageError
        No such claim, one that cannot run on the ground, or a folder that is not empty.
    Interrupted
        Ctrl-C or SIGTERM; what was finished is in the folder.
    """
    chosen, left_out = choose(numbers, on=on)
    if not 1 <= jobs <= MAX_JOBS:
        raise UsageError(f"--jobs {jobs}: give 1 to {MAX_JOBS}")
    folder = _make_folder(out)
    plans = _plan(chosen, on=on, folder=folder)
    work = list({run.folder: run for plan in plans.values() for run in plan.values()}.values())
    state, errors = "interrupted", dict[str, str]()
    try:
        _run_all(work, folder=folder, at_once=jobs, errors=errors, tell=tell)
        state = "complete"
    finally:
        answers = ClaimAnswers(folder, on, tuple(_answer(number, plans[number], errors) for number in plans), left_out, state)
        _write_json(answers)
    return answers


def choose(numbers: Sequence[str | int], *, on: str) -> tuple[list[str], dict[str, str]]:
    """Return the claims to run, and those left out with the reason; one that was asked for by its number is refused instead."""
    named = list(dict.fromkeys(str(number) for number in numbers))
    for number in named:
        if number not in CLAIMS:
            raise UsageError(f"no claim {number!r}: there are 1 to {len(CLAIMS)}, see `buslab list claims`")
    chosen, left_out = [], {}
    for number in named or CLAIMS:
        cannot = [trial for trial in CLAIMS[number].trials if trial.where(on) is None]
        if cannot and named:
            raise UsageError(f"--on {shown_ground(on)}: claim {number} {_why(cannot[0])}; leave --on out")
        if cannot:
            left_out[number] = _why(cannot[0])
        else:
            chosen.append(number)
    return chosen, left_out


def _why(trial: Trial) -> str:
    return f"needs {trial.on}" if trial.needs == "only" else "needs a real server, for times of real code or Locust"


def _make_folder(out: Path | None) -> Path:
    folder = empty_folder(out or runs_folder() / "claims" / utc_now().strftime("%Y%m%dT%H%M%S.%fZ"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if out is None:
            point_latest_to(folder)
    except OSError as error:
        raise RecordError(f"cannot make the folder {folder}: {error.strerror or error}; choose another --out") from None
    return folder


def _plan(numbers: Sequence[str], *, on: str, folder: Path) -> dict[str, dict[str, TrialRun]]:
    """Return the runs of each claim; one trial that several share is one run, in the folder of the first."""
    known: dict[tuple[str, str], Path] = {}
    plans: dict[str, dict[str, TrialRun]] = {}
    for number in numbers:
        plans[number] = {}
        for trial in CLAIMS[number].trials:
            where = trial.where(on)
            assert where is not None
            path = known.setdefault((trial.command, where), folder / f"{int(number):02d}-{trial.name}")
            plans[number][trial.name] = TrialRun(trial, where, path)
    return plans


def _run_all(work: Sequence[TrialRun], *, folder: Path, at_once: int, errors: dict[str, str], tell: Callable[[str], None]) -> None:
    """Run everything, and note the error of each run folder that has one."""
    left = {run.folder.name: run.about_s / (min(at_once, len(work)) if run.is_virtual else 1) for run in work}
    tell(f"{count(len(work), 'run')}, about {duration(round(max(sum(left.values()), 1)))}")
    runs = [run for run in work if not run.trial.program]
    virtual, real = ([run.job for run in runs if run.is_virtual is word] for word in (True, False))
    made = ((one.job.key, one.error) for one in chain(run_many(virtual, out=folder, at_once=at_once), run_many(real, out=folder)))
    where = {run.folder.name: f"{run.trial.scenario} on {shown_ground(run.on)}" for run in work}
    for name, error in chain(made, _run_programs(run for run in work if run.trial.program)):
        del left[name]
        errors.update({name: str(error)} if error else {})
        word = f"failed: {error}" if error else where[name]
        rest = f", about {duration(round(max(sum(left.values()), 1)))} left" if left else ""
        tell(f"{len(work) - len(left)} of {len(work)} runs{rest} | {name}: {word}")


def _run_programs(work: Iterable[TrialRun]) -> Iterator[tuple[str, BuslabError | None]]:
    """Run the trials that are programs of their own, one after another; yield each folder's name and what went wrong."""
    for run in work:
        module, *arguments = run.trial.program
        run.folder.mkdir(parents=True, exist_ok=True)
        child = Child(python_child(module, run.folder, *arguments), log=run.folder / "program.log", env=child_environment(), name=module)
        error: BuslabError | None = None
        try:
            if child.process.wait(run.trial.about_s * PATIENCE):
                error = BuslabError(f"{module} ended with code {child.poll()}: {child.tail()}")
        except subprocess.TimeoutExpired:
            error = BuslabError(f"{module} has not ended after {duration(run.trial.about_s * PATIENCE)}: {child.tail()}")
        finally:
            child.end()
        yield run.folder.name, error


def _answer(number: str, plan: Mapping[str, TrialRun], errors: Mapping[str, str]) -> ClaimAnswer:
    evidence: dict[str, Evidence] = {}
    doubts = []
    for name, run in plan.items():
        try:
            if run.folder.name in errors:
                doubts.append(f"{name}: {errors[run.folder.name]}")
            elif not (run.folder / "verdict.json").exists():
                doubts.append(f"{name}: it was not run to its end")
            else:
                evidence[name] = read_evidence(run.folder)
        except (BuslabError, TypeError) as error:
            doubts.append(f"{name}: {error}")
    if doubts:
        return ClaimAnswer(number, CLAIMS[number], Finding({}, None, "", "no judgement", doubt="; ".join(doubts)), plan)
    return ClaimAnswer(number, CLAIMS[number], find(CLAIMS[number], evidence), plan)


def to_json(answers: ClaimAnswers) -> dict[str, Any]:
    """Return the content of claims.json; a number that does not exist is null."""
    listed = [_one_json(answer, answers.folder) for answer in answers.answers]
    return {"format": FORMAT, "state": answers.state, "on": shown_ground(answers.on), "left_out": dict(answers.left_out), "claims": listed}


def _one_json(answer: ClaimAnswer, folder: Path) -> dict[str, Any]:
    claim, finding = answer.claim, answer.finding
    said = {"number": answer.number, "claim": claim.words, "where": claim.where, "theory": claim.theory, "expects": claim.expects}
    said["false_if"] = claim.false_if
    found = {"verdict": finding.verdict, "as_expected": answer.as_expected, "cases": dict(finding.cases)}
    value = None if finding.number is None else finite(finding.number)
    numbers = {key: finite(number) for key, number in finding.numbers.items()}
    measured = {"value": value, "unit": finding.unit, "detail": finding.detail, "doubt": finding.doubt, "numbers": numbers}
    trials = [
        {
            "trial": name,
            "scenario": run.trial.scenario,
            "settings": list(run.trial.settings),
            "on": shown_ground(run.on),
            "run": os.path.relpath(run.folder, folder),
        }
        for name, run in answer.runs.items()
    ]
    return said | found | measured | {"experiment": trials, "again": again(answer)}


def again(answer: ClaimAnswer) -> str:
    """Return the command that re-runs one claim."""
    return f"buslab claims {answer.number}"


def _write_json(answers: ClaimAnswers) -> None:
    write_whole(answers.folder / "claims.json", json.dumps(to_json(answers), indent=2, allow_nan=False) + "\n")
