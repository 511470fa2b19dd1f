"""What a claim is, what an experiment on it is, and how its verdict follows from what was measured.

Rules
-----
1. A claim is cut into *cases*: a situation in words, and whether the claim held in it (None: the numbers do not allow a judgement).
2. The verdict follows from the cases alone: all held = true, none = false, some = depends, and then the cases are the condition. One
   case that is not judged, or no case at all, makes it unknown.
3. A run that the lab itself does not vouch for (a checker of it says unknown: harness, an unexplained copy, no data) makes the claim
   unknown, whatever its numbers say. Limits of the scenario do not matter here: a claim judges by its own rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from sim.errors import RunFolderError
from sim.record.checksum import is_whole, read_json
from sim.results.checkers.verdict import Result, read_result
from sim.results.opened_run import Run, open_run

Word = Literal["true", "false", "depends", "unknown"]
MODEL, EMBEDDED = "model", "embedded"
LOST_UNHEARD = ("deaf", "cut", "cut-link")
CLIENT = "client"  # under which name the verdict of a client that is not ours holds what was counted


@dataclass(frozen=True)
class Trial:
    """One part of an experiment, and how it is run.

    Attributes
    ----------
    name
        What the claim's rule calls it.
    scenario, settings
        As of `buslab run SCENARIO --set …`.
    on
        The ground where it runs by default: the model, where virtual time can tell the truth about it.
    needs
        Which other grounds will do: "any" single server or the model, "server" = any single real one, "only" = none but `on`.
    program, about_s
        Not empty: no run of a scenario, but a module of ours and its arguments, run with the folder before these, into which it writes
        its verdict; and about how long it takes.
    """

    name: str
    scenario: str
    settings: tuple[str, ...] = ()
    on: str = MODEL
    needs: Literal["any", "server", "only"] = "any"
    program: tuple[str, ...] = ()
    about_s: float = 0.0

    @property
    def command(self) -> str:
        """How to run it alone, without its ground."""
        if self.program:
            module, *arguments = self.program
            return " ".join(["python -m", module, "FOLDER", *arguments])
        return " ".join([f"buslab run {self.scenario}", *(f'--set "{setting}"' for setting in self.settings)])

    def where(self, ground: str) -> str | None:
        """Return where the trial runs when a ground is asked for (empty: none is); None where it cannot run there."""
        kind = ground.partition(":")[0]
        if not ground:
            return self.on
        if self.needs == "only":
            return self.on if kind != MODEL else None
        return None if kind == MODEL and self.needs == "server" else ground


CALM = Trial("calm", "baseline", ("load.run_s=8", "load.warm_up_s=1", "load.driver=pods"))  # everyday load, nothing broken


@dataclass(frozen=True)
class Evidence:
    """One sealed run and what the checkers say of it (see `read_evidence`)."""

    folder: Path
    checkers: Mapping[str, Result]

    @cached_property
    def run(self) -> Run:
        """The opened run."""
        return open_run(self.folder)

    def counts(self, checker: str) -> dict[str, int | float]:
        """Return what a checker counted."""
        return self.checkers[checker].counts

    @property
    def lost_unheard(self) -> int:
        """How many copies of the run phase reached the broker and were not heard by their pods."""
        return sum(int(self.counts("ledger").get(cause, 0)) for cause in LOST_UNHEARD)

    @property
    def doubts(self) -> list[str]:
        """What keeps the lab from vouching for the run, empty when nothing does."""
        return [f"{name}: {result.detail}" for name, result in self.checkers.items() if result.verdict == "unknown"]


def read_evidence(folder: Path) -> Evidence:
    """Return a judged run folder as evidence.

    Raises
    ------
    RunFolderError
        It holds no verdict, or one that cannot be read.
    """
    content = read_json(folder / "verdict.json")
    if not is_whole(content):
        raise RunFolderError(f"{folder / 'verdict.json'} was damaged or changed; judge the run again with `buslab check {folder}`")
    said = content.get("checkers")
    if not isinstance(said, dict) or not said:
        raise RunFolderError(f"{folder / 'verdict.json'} names no checkers; judge the run again with `buslab check {folder}`")
    return Evidence(folder, {name: read_result(result) for name, result in said.items()})


@dataclass(frozen=True)
class Finding:
    """What an experiment came to.

    Attributes
    ----------
    cases
        Situation -> whether the claim held in it.
    number, unit
        The one number that tells most.
    detail
        A sentence with the numbers.
    doubt
        Why nothing can be said; the verdict is then unknown.
    """

    cases: Mapping[str, bool | None]
    number: float | None
    unit: str
    detail: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    doubt: str = ""

    def __post_init__(self) -> None:
        """Turn numpy's values into plain ones."""
        object.__setattr__(self, "cases", {case: None if held is None else bool(held) for case, held in self.cases.items()})
        object.__setattr__(self, "number", None if self.number is None else float(self.number))
        object.__setattr__(self, "numbers", {name: float(number) for name, number in self.numbers.items()})

    @property
    def verdict(self) -> Word:
        """The verdict by rule 2 of the module."""
        held = list(self.cases.values())
        if self.doubt or not held or None in held:
            return "unknown"
        return "true" if all(held) else "depends" if any(held) else "false"

    @property
    def condition(self) -> str:
        """In which cases it held and in which not, where that differs."""
        if self.verdict != "depends":
            return ""
        told = {word: [case for case, held in self.cases.items() if held is word] for word in (True, False)}
        return f"true {', '.join(told[True])}; false {', '.join(told[False])}"


@dataclass(frozen=True)
class Claim:
    """A claim about the bus: where it stands, what theory expects, and the experiment that decides.

    Attributes
    ----------
    words
        The claim in our words.
    where
        The section of the reference that says so, or who does.
    theory
        What theory expects.
    expects
        The verdict that goes with it.
    trials
        The runs of the experiment.
    rule
        Turns the runs, by the names of the trials, into a finding.
    false_if
        Which outcome of the experiment would make it false.
    """

    words: str
    where: str
    theory: str
    expects: Word
    trials: tuple[Trial, ...]
    rule: Callable[[Mapping[str, Evidence]], Finding]
    false_if: str = ""


def find(claim: Claim, evidence: Mapping[str, Evidence]) -> Finding:
    """Return the finding of a claim's rule; unknown where a run is not vouched for or does not hold what the rule needs."""
    doubts = [f"{name}: {doubt}" for name, one in evidence.items() for doubt in one.doubts]
    try:
        finding = claim.rule(evidence)
    except (KeyError, IndexError, ValueError, TypeError, ZeroDivisionError) as error:  # a number that is not there, or None
        why = f"the runs do not hold what the rule needs: {type(error).__name__}: {error}"
        return Finding({}, None, "", why, doubt="; ".join([*doubts, why]))
    if doubts:
        return Finding(finding.cases, finding.number, finding.unit, finding.detail, finding.numbers, doubt="; ".join(doubts))
    return finding
