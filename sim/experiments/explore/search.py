"""Search: draw schedules, prefer those that are near what was new, keep what was found, and lose nothing of it to an interruption.

A search is a folder:

- ``search.jsonl``: one line of what is searched, then one for each schedule that was looked at; whoever resumes reads it.
- ``found/NAME.toml``: the first schedule with each finding, written when it is found, and again when it has been made smaller.

Guided, half of the schedules are changes of one that showed something new (`sim.experiments.explore.mutate`); blind, all are drawn.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import tomli_w

from sim.errors import Interrupted, RecordError, UsageError
from sim.experiments.explore.crew import Crew
from sim.experiments.explore.draw import ANY, Tree, draw_schedule
from sim.experiments.explore.flaw import Flaw, is_known
from sim.experiments.explore.look import Seen, Setup
from sim.experiments.explore.mutate import mutated
from sim.machine.clock import in_a_loop
from sim.machine.files import why_not_written, write_whole
from sim.machine.signals import interruptible
from sim.scenario.explore_bounds import Explore
from sim.scenario.file import Scenario

LOG = "search.jsonl"
MOST_KEPT = 2000  # schedules that showed something new
ALL_REFUSED = 64  # schedules, one after another, after which the bounds are at fault
WITHOUT_BOUND = 10**9


@dataclass(frozen=True)
class SearchPlan:
    """What is searched.

    Attributes
    ----------
    name
        The scenario's, or ``anything``.
    base, bounds
        See `draw_schedule`.
    shard
        Which of how many searches that share the seed this is: (1, 2) and (2, 2) look at different schedules.
    guided
        Whether what was new is tried again, changed.
    property
        The user's file, see `load_property`; empty for none.
    """

    name: str = "anything"
    base: Scenario | None = None
    bounds: Explore = ANY
    seed: int = 1
    shard: tuple[int, int] = (1, 1)
    guided: bool = True
    property: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return what makes two searches the same, for JSON."""
        told: dict[str, Any] = msgspec.to_builtins(self)
        return json.loads(json.dumps(told))  # type: ignore[no-any-return]


@dataclass
class FoundCase:
    """One finding and the first schedule that showed it.

    Attributes
    ----------
    number
        The place of that schedule in the search, from 0.
    runs
        How many schedules showed it.
    known
        Whether it does not count, by the bounds.
    """

    finding: Flaw
    number: int
    tree: Tree
    runs: int = 1
    known: bool = False
    path: Path | None = None


@dataclass
class Progress:
    """How far a search is.

    Attributes
    ----------
    looked, refused, new
        Schedules that were looked at, that the model could not run, and that showed something new.
    cases
        By the name of the finding, in the order of the first time.
    seconds
        Processor time of drawing, checking, running and judging.
    first_s, took_s
        Wall time until the first finding that counts, NaN before, and since the search began or was resumed.
    resumed
        How many of the schedules were looked at before it was resumed.
    """

    looked: int = 0
    refused: int = 0
    new: int = 0
    cases: dict[str, FoundCase] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])
    first_s: float = float("nan")
    took_s: float = 0.0
    resumed: int = 0

    @property
    def counting(self) -> list[FoundCase]:
        """The findings that count."""
        return [case for case in self.cases.values() if not case.known]


class Search:
    """One search: what was seen so far, and the next schedule to look at."""

    def __init__(self, plan: SearchPlan, folder: Path | None = None) -> None:
        self.plan, self.folder, self.progress = plan, folder, Progress()
        self._seen: set[str] = set()
        self._kept: list[Tree] = []
        self._refusals: Counter[str] = Counter()

    # -- drawing ---------------------------------------------------------------------------------------------------------

    def draw(self, number: int) -> Tree:
        """Return the schedule with a number."""
        began_s = time.process_time()
        part, parts = self.plan.shard
        seed = f"{self.plan.seed}/{number * parts + part - 1}"
        choice = Random(f"{seed}/choice")
        tree = None
        if self.plan.guided and self._kept and choice.random() < 0.5:
            parent = self._kept[int(len(self._kept) * choice.random() ** 0.5)]  # the later ones rather than the first
            tree = mutated(seed, parent, bounds=self.plan.bounds, base=self.plan.base)
        tree = tree or draw_schedule(seed, base=self.plan.base, bounds=self.plan.bounds)
        self.progress.seconds[0] += time.process_time() - began_s
        return tree

    # -- taking what was seen --------------------------------------------------------------------------------------------

    def take(self, tree: Tree, seen: Seen) -> list[FoundCase]:
        """Take what was seen of a schedule; return the findings that nobody had seen before."""
        progress = self.progress
        progress.looked += 1
        progress.refused += bool(seen.refused)
        self._check_refusals(seen)
        for place, seconds in enumerate(seen.seconds, start=1):
            progress.seconds[place] += seconds
        new = sorted(set(seen.traits) - self._seen)
        if new:
            self._seen.update(new)
            progress.new += 1
            if len(self._kept) < MOST_KEPT:
                self._kept.append(tree)
        cases = [case for one in {one.name: one for one in seen.findings[::-1]}.values() if (case := self._case(one, tree, seen.number))]
        self._log({"number": seen.number, "new": new, "found": seen.findings, **({"tree": tree} if new or seen.findings else {})})
        return cases

    def _case(self, one: Flaw, tree: Tree, number: int) -> FoundCase | None:
        if (case := self.progress.cases.get(one.name)) is not None:
            case.runs += 1
            return None
        case = self.progress.cases[one.name] = FoundCase(one, number, tree, known=is_known(one.name, self.plan.bounds.known))
        self.write(case)
        return case

    def write(self, case: FoundCase) -> None:
        """Write the schedule of a finding into the folder, if there is one."""
        if self.folder is not None:
            case.path = self.folder / "found" / f"{slug(case.finding.name)}.toml"
            _written(case.path, as_toml(case.tree, case.finding))

    def _check_refusals(self, seen: Seen) -> None:
        """Raise where no schedule at all is a scenario: then the bounds and the scenario do not go together."""
        self._refusals[seen.refused] += bool(seen.refused)
        if self.progress.refused == self.progress.looked == ALL_REFUSED:
            raise UsageError(f"none of {ALL_REFUSED} schedules that were drawn can run: {self._refusals.most_common(1)[0][0]}")

    # -- the folder ------------------------------------------------------------------------------------------------------

    def _log(self, line: dict[str, Any]) -> None:
        if self.folder is None:
            return
        try:
            with (self.folder / LOG).open("ab") as file:
                file.write(msgspec.json.encode(line) + b"\n")
        except OSError as error:
            raise RecordError(f"cannot write {self.folder / LOG}: {why_not_written(error)}") from error

    def begin(self) -> None:
        """Make the folder of a new search."""
        if self.folder is not None:
            try:
                (self.folder / "found").mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RecordError(f"cannot make {self.folder}: {why_not_written(error)}; choose another --out") from error
            self._log({"plan": self.plan.as_dict()})

    def resume(self) -> int:
        """Read what a search saw before it was interrupted; return the number of the next schedule.

        Raises
        ------
        UsageError
            There is none, or it searched something else.
        """
        assert self.folder is not None
        lines = _lines(self.folder / LOG)
        if next(lines, {}).get("plan") != self.plan.as_dict():
            raise UsageError(f"--resume: the search in {self.folder} was another one: give it the same scenario, seed, shard and bounds")
        folder, self.folder, number = self.folder, None, -1  # what is read is not written again
        for line in lines:
            number = line["number"]
            found = msgspec.convert(line["found"], list[Flaw])
            self.take(line.get("tree", {}), Seen(number, found, line["new"]))
        self.folder, self.progress.resumed = folder, self.progress.looked
        for case in self.progress.cases.values():
            case.path = folder / "found" / f"{slug(case.finding.name)}.toml"
            if not case.path.exists():
                self.write(case)
        return number + 1


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a log; a last one that is torn is cut off, so that the next can follow."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(f"--resume: there is no search at {path}: {error.strerror or error}; leave the option out") from None
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:  # the process was killed while it wrote the last line
        with path.open("r+b") as file:
            file.truncate(len(whole))
    for line in whole.splitlines():
        yield msgspec.json.decode(line)


def _written(path: Path, text: str) -> None:
    try:
        write_whole(path, text)
    except OSError as error:
        raise RecordError(f"cannot write {path}: {why_not_written(error)}") from error


def slug(name: str) -> str:
    """Return the name of a finding as that of a file."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:80] or "finding"


def as_toml(tree: Tree, finding: Flaw) -> str:
    """Return a schedule as the file of a scenario, its finding above it."""
    return f"# {finding.name}\n# {finding.text}\n\n{tomli_w.dumps(tree)}"


def run_search(
    search: Search,
    *,
    runs: int | None = None,
    seconds: float | None = None,
    jobs: int = 1,
    first: int = 0,
    until: Callable[[Progress], bool] = lambda progress: False,
    watch: Callable[[Progress, list[FoundCase]], None] = lambda progress, new: None,
) -> Progress:
    """Look at schedules until so many were looked at, or so much time is over, or `until` says that it is enough.

    Parameters
    ----------
    first
        The number of the first schedule.
    watch
        Called after each schedule with the findings that are new.

    Raises
    ------
    Interrupted
        Ctrl-C or SIGTERM; what was found is in `search.progress` and in its folder.
    """
    plan, asked, began_s = search.plan, list[int](), time.monotonic()
    setup = Setup(plan.bounds.heal_s, plan.property)
    numbers = iter(range(first, WITHOUT_BOUND if runs is None else max(first, runs)))
    log = (search.folder or Path()) / "workers.log"
    with contextlib.nullcontext() if in_a_loop() else interruptible(asked.append), Crew(setup, jobs=jobs, log=log) as crew, _ended(asked):
        for tree, seen in crew.looked(_until(numbers, began_s, seconds, asked), search.draw):
            cases = search.take(tree, seen)
            progress = search.progress
            progress.took_s = time.monotonic() - began_s
            if progress.first_s != progress.first_s and progress.counting:
                progress.first_s = progress.took_s
            watch(progress, cases)
            if asked or until(progress):
                break
    if asked:
        kept = f"; what was found is in {search.folder}" if search.folder else ""
        raise Interrupted(asked[0], f"interrupted by {signal.Signals(asked[0]).name} after {search.progress.looked} schedules{kept}")
    return search.progress


@contextlib.contextmanager
def _ended(asked: list[int]) -> Iterator[None]:
    """Take the interruption of a run in this process as one of the search."""
    try:
        yield
    except Interrupted as error:
        asked.append(error.signal_number)


def _until(numbers: Iterator[int], began_s: float, seconds: float | None, asked: list[int]) -> Iterator[int]:
    for number in numbers:
        if asked or (seconds is not None and time.monotonic() - began_s >= seconds):
            return
        yield number
