"""Look at one schedule: run it in the memory of this process, in virtual time, judge it, and say what was found and what was new.

Nothing is written. A run that breaks is a finding, and so is one that does not end: in virtual time nothing waits, so only the processor
time that a run takes says that. Whoever looks at thousands calls `warm_up` first.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sim.errors import BuslabError, Interrupted, ScenarioError, UsageError
from sim.experiments.explore.draw import Tree
from sim.experiments.explore.findings import findings
from sim.experiments.explore.flaw import Flaw
from sim.experiments.explore.novelty import signature
from sim.machine.user_code import first_line, load_file
from sim.results.checkers import judge
from sim.results.opened_run import Run, open_recorded
from sim.run.steps import run_in_memory
from sim.scenario.file import check_tree

HANG_CPU_S = 60
COLLECT_EVERY = 50  # runs: what a run leaves behind is in circles, which only a collection takes away
Property = Callable[[Run], object]


@dataclass
class Look:
    """What one schedule showed.

    Attributes
    ----------
    findings
        What is wrong; empty when nothing is.
    traits
        Its signature, see `sim.experiments.explore.novelty`.
    refused
        Why it is no scenario that the model can run; empty when it is one.
    run
        The opened run, where it ended.
    checked_s, run_s, judged_s
        Processor time of checking the scenario, running it, and judging it with all that is asked of the verdict.
    """

    findings: list[Flaw] = field(default_factory=list)
    traits: frozenset[str] = frozenset()
    refused: str = ""
    run: Run | None = None
    checked_s: float = 0.0
    run_s: float = 0.0
    judged_s: float = 0.0

    @property
    def names(self) -> set[str]:
        """The names of the findings."""
        return {one.name for one in self.findings}


def look_at(tree: Tree, *, heal_s: float | None = 3.0, own: Property | None = None) -> Look:
    """Run and judge one schedule.

    Parameters
    ----------
    heal_s
        See `findings`.
    own
        The user's property, see `load_property`.

    Raises
    ------
    UsageError
        The property itself is at fault.
    Interrupted
        Ctrl-C or SIGTERM.
    """
    seen, began_s = Look(), time.process_time()
    try:
        scenario = check_tree(tree, where="drawn")
        seen.checked_s, began_s = time.process_time() - began_s, time.process_time()
        with _bounded():
            recorded = run_in_memory(scenario)
            seen.run_s, began_s = time.process_time() - began_s, time.process_time()
            seen.run = open_recorded(recorded)
            verdict = judge(seen.run)
            seen.findings = findings(seen.run, verdict, heal_s=heal_s)
            seen.traits = signature(seen.run, verdict)
    except (ScenarioError, UsageError) as error:
        seen.refused = str(error)
        return seen
    except Interrupted:
        raise
    except Exception as error:  # whatever it is, it is a finding: a run that is drawn must not break the lab
        text = " ".join(str(error).split())
        kind = "hangs" if isinstance(error, _Hangs) else type(error).__name__
        seen.findings.append(Flaw(f"run: {kind}", f"{type(error).__name__}: {text}" if kind != "hangs" else text))
    if own is not None and seen.run is not None:
        seen.findings += _of_property(own, seen.run)
    seen.judged_s = time.process_time() - began_s
    return seen


class _Hangs(Exception):
    """A run that does not end."""


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """End what takes more processor time than a short run can need; outside the main thread nothing is bounded."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hangs(number: int, frame: object) -> None:
        raise _Hangs(f"it hangs: not over after {HANG_CPU_S} s of processor time")

    before = signal.signal(signal.SIGPROF, hangs)
    signal.setitimer(signal.ITIMER_PROF, HANG_CPU_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def load_property(path: str) -> Property:
    """Return the function `check(run)` of a file of the user's: it returns what is wrong as a text or several, or raises AssertionError.

    Raises
    ------
    UsageError
        The file cannot be read, raised, or has no such function.
    """
    check: Any = getattr(load_file(path), "check", None)
    if not callable(check):
        raise UsageError(f"--property {path}: it has no function check(run); write one that returns what is wrong, or nothing")
    found: Property = check
    return found


def _of_property(own: Property, run: Run) -> list[Flaw]:
    try:
        said = own(run)
    except AssertionError as error:
        said = str(error) or "an assertion failed"
    except (Exception, SystemExit) as error:
        raise UsageError(f"--property: check(run) raised {first_line(error)}") from error
    if said is None or said == "" or said is True:
        return []
    texts = said if isinstance(said, list | tuple | set) else ["check(run) returned False" if said is False else said]
    return [Flaw(f"property: {' '.join(''.join(c for c in str(text) if not c.isdigit()).split()[:6])}", str(text)) for text in texts]


def warm_up() -> None:
    """Make this process ready for thousands of short runs: all is imported, and collections of garbage are ours to begin."""
    gc.collect()
    gc.freeze()
    gc.disable()


def collect(number: int) -> None:
    """Collect what earlier runs left, every so many runs."""
    if number % COLLECT_EVERY == 0:
        gc.collect()


class Setup(msgspec.Struct, frozen=True):
    """What a worker is told first."""

    heal_s: float
    property: str


class Task(msgspec.Struct, frozen=True):
    """One schedule for a worker."""

    number: int
    tree: dict[str, Any]


class Seen(msgspec.Struct, frozen=True):
    """What a worker saw of one schedule: what it found, and which traits are new to it; or the error of a property."""

    number: int
    findings: list[Flaw] = []
    traits: list[str] = []
    refused: str = ""
    error: str = ""
    seconds: tuple[float, float, float] = (0.0, 0.0, 0.0)  # checked, run, judged


class Looker:
    """One process's eye: it looks at one schedule after another and remembers which traits it has seen."""

    def __init__(self, setup: Setup) -> None:
        self._heal_s = setup.heal_s
        self._own = load_property(setup.property) if setup.property else None
        self._known: set[str] = set()

    def look(self, task: Task) -> Seen:
        """Look at a schedule; an error of the property is what was seen."""
        collect(task.number)
        try:
            seen = look_at(task.tree, heal_s=self._heal_s, own=self._own)
        except Interrupted:
            raise
        except BuslabError as error:
            return Seen(task.number, error=str(error))
        new = sorted(seen.traits - self._known)
        self._known |= seen.traits
        return Seen(task.number, seen.findings, new, seen.refused, seconds=(seen.checked_s, seen.run_s, seen.judged_s))
