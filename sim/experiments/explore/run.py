"""One exploration, from the search to the page: search, make what was found smaller, and ask a real server whether it holds there.

What was found stands in the folder of the search from the moment it is found; all that comes after may be interrupted.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sim.errors import BuslabError, Interrupted
from sim.experiments.explore.draw import Tree
from sim.experiments.explore.findings import findings
from sim.experiments.explore.look import Look, Property, load_property, look_at
from sim.experiments.explore.search import FoundCase, Progress, Search, SearchPlan, run_search
from sim.experiments.explore.shrink import MOST_LOOKS, Shrunk, shrink
from sim.machine.words import count
from sim.results.judged_run import judge_folder
from sim.run.steps import run_scenario
from sim.scenario.explore_bounds import Explore
from sim.scenario.file import check_tree

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Confirmed:
    """How often a finding was there again on a real ground, of how many runs; and what else was found, or why none was made."""

    on: str
    times: int
    runs: int
    otherwise: str = ""


@dataclass
class Explored:
    """One finding that counts, with the smallest schedule that shows it.

    Attributes
    ----------
    story
        The stations of one event that shows it; empty where no event does.
    """

    case: FoundCase
    shrunk: Shrunk
    look: Look
    story: str = ""
    confirmed: Confirmed | None = None


@dataclass
class Exploration:
    """What one exploration found."""

    plan: SearchPlan
    folder: Path
    progress: Progress
    found: list[Explored] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """Return 1 when something was found that counts."""
        return int(bool(self.progress.counting))


def explore(
    plan: SearchPlan,
    folder: Path,
    *,
    runs: int | None = None,
    minutes: float | None = None,
    jobs: int = 1,
    resume: bool = False,
    confirm: str = "",
    repeats: int = 5,
    most_looks: int = MOST_LOOKS,
    tell: Tell = lambda line: None,
    watch: Callable[[Progress], None] = lambda progress: None,
) -> Exploration:
    """Search, shrink what was found, and confirm it.

    Parameters
    ----------
    folder
        Of the search.
    runs, minutes
        How many schedules are looked at, or for how long; with neither until it is interrupted.
    resume
        Go on with the search of the folder.
    confirm, repeats
        A ground on which each finding is tried so often; empty: none.
    most_looks
        How many schedules are tried to make one smaller.

    Raises
    ------
    BuslabError
        The plan leaves nothing to draw, a property is at fault, or nothing can be written; or `Interrupted`.
    """
    search = Search(plan, folder)
    first = search.resume() if resume else 0
    if not resume:
        search.begin()
    own = load_property(plan.property) if plan.property else None

    def seen(progress: Progress, new: list[FoundCase]) -> None:
        for case in new:
            tell(f"{case.finding.name}: schedule {case.number}, {case.finding.text}" + (" (known)" if case.known else ""))
        watch(progress)

    seconds = None if minutes is None else 60 * minutes
    run_search(search, runs=runs, seconds=seconds, jobs=jobs, first=first, watch=seen)
    result = Exploration(plan, folder, search.progress)
    for case in search.progress.counting:
        tell(f"{case.finding.name}: making its schedule smaller")
        result.found.append(one := smaller(case, plan.bounds, own, most_looks=most_looks))
        search.write(case)
        told = f"{count(len(one.shrunk.tree['faults']), 'fault')} and {count(one.shrunk.lines, 'line')}"
        tell(f"{case.finding.name}: {told} after {count(one.shrunk.looks, 'run')}: {case.path}")
        if confirm:
            one.confirmed = confirmed(case.tree, case.finding.name, on=confirm, repeats=repeats, bounds=plan.bounds)
            tell(told_confirmed(one.confirmed))
    return result


def smaller(case: FoundCase, bounds: Explore, own: Property | None = None, *, most_looks: int = MOST_LOOKS) -> Explored:
    """Return a finding with the smallest schedule that shows it; the case has it from then on."""
    name = case.finding.name

    def shows(tree: Tree) -> bool:
        return name in look_at(tree, heal_s=bounds.heal_s, own=own).names

    shrunk = shrink(case.tree, shows, most_looks=most_looks)
    look = look_at(shrunk.tree, heal_s=bounds.heal_s, own=own)
    if (again := next((one for one in look.findings if one.name == name), None)) is None:
        shrunk = Shrunk(case.tree, shrunk.looks, whole=False)
        look = look_at(case.tree, heal_s=bounds.heal_s, own=own)
        again = next((one for one in look.findings if one.name == name), case.finding)
    case.tree, case.finding = shrunk.tree, again
    return Explored(case, shrunk, look, story=_story(look, again.event))


def _story(look: Look, event: str) -> str:
    try:
        return look.run.story(event) if look.run is not None and event else ""
    except BuslabError:  # a witness need not be an event
        return ""


def confirmed(tree: Tree, name: str, *, on: str, repeats: int, bounds: Explore) -> Confirmed:
    """Run a schedule on a real ground some times, and count in how many runs the finding is there."""
    times, other = 0, ""
    for number in range(repeats):
        with tempfile.TemporaryDirectory(prefix="buslab-explore-") as folder:
            try:
                scenario = check_tree({**tree, "seed": number + tree["seed"]}, where=name)
                judged = judge_folder(run_scenario(scenario, on=on, out=Path(folder) / "run"))
                found = findings(judged.run, judged.verdict, heal_s=bounds.heal_s)
            except Interrupted:
                raise
            except BuslabError as error:
                return Confirmed(on, times, number, str(error))
        names = sorted(one.name for one in found)
        times += name in names
        other = other or ", ".join(one for one in names if one != name)
    return Confirmed(on, times, repeats, other)


def told_confirmed(one: Confirmed) -> str:
    """Return in how many runs a finding was there, as a sentence."""
    more = f"; there was also {one.otherwise}" if one.otherwise else ""
    return f"on {one.on} it was there in {one.times} of {count(one.runs, 'run')}{more}"


def per_minute(progress: Progress) -> float:
    """Return how many schedules were judged a minute, by the clock on the wall."""
    return 60 * (progress.looked - progress.resumed) / progress.took_s if progress.took_s else math.nan
