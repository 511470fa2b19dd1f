"""Search for schedules of faults that break a bus, or the lab."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sim.cli.options import jobs_option, out_option, report_option, set_option, tell
from sim.cli.printing import FiniteRange, check_out, print_table
from sim.errors import UsageError

if TYPE_CHECKING:
    from sim.experiments.explore.search import Progress, SearchPlan


@click.command()
@click.argument("scenario", default="")
@click.option("--minutes", type=FiniteRange(0.01, 100_000), help="Search for so long.")
@click.option("--runs", type=click.IntRange(1, 100_000_000), help="Look at so many schedules. [default: 1000 without --minutes]")
@jobs_option("Processes that look at schedules. [default: one a core]")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="What all draws come from.")
@click.option(
    "--shard", default="1/1", show_default=True, metavar="K/N", help="Look only at the K-th part of N, as another machine does at its own."
)
@click.option("--blind", is_flag=True, help="Draw every schedule anew, whatever earlier ones showed.")
@click.option("--property", "own", type=click.Path(path_type=Path), metavar="FILE", help="A file with check(run) of your own.")
@click.option("--resume", is_flag=True, help="Go on with a search: that of --out, or the newest of the scenario.")
@click.option("--confirm", default="", metavar="GROUND", help="Try each finding on a real ground, for example embedded.")
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1, 100), help="How often, with --confirm.")
@click.option("--as-is", is_flag=True, help="Draw nothing: judge the scenario itself as a search does, for example one that was found.")
@set_option()
@out_option("The folder of the search. [default: reports/explore/<scenario>/<UTC time>]")
@report_option("Write a page with pictures there, and JUnit beside it.", metavar="FILE")
def explore(
    scenario: str,
    minutes: float | None,
    runs: int | None,
    jobs: int | None,
    seed: int,
    shard: str,
    blind: bool,
    own: Path | None,
    resume: bool,
    confirm: str,
    repeats: int,
    as_is: bool,
    settings: tuple[str, ...],
    out: Path | None,
    report: Path | None,
) -> int:
    """Search for schedules of faults that break a bus, or the lab, in virtual time.

    Each is drawn within the bounds of [explore] of the SCENARIO; without one, everything is drawn. What is found is made smaller and kept.

    Exit code: 0 nothing was found, 1 something was, 2 an error.
    """
    from sim.experiments.explore.draw import base_tree
    from sim.experiments.explore.search import SearchPlan
    from sim.scenario.explore_bounds import Explore
    from sim.scenario.file import load_with_bounds

    if not scenario and (settings or as_is):
        raise UsageError("--set and --as-is are about a scenario: name one")
    base, bounds = load_with_bounds(scenario, settings=settings) if scenario else (None, Explore())
    plan = SearchPlan(
        name=base.name if base else "anything",
        base=base,
        bounds=bounds,
        seed=seed,
        shard=_shard(shard),
        guided=not blind,
        property=str(own.absolute()) if own else "",
    )
    if as_is:
        assert base is not None
        return _as_is(base_tree(base), plan, confirm, repeats)
    if report is not None:
        check_out(report, "--report")
    return _explore(plan, out, runs, minutes, jobs, resume=resume, confirm=confirm, repeats=repeats, report=report)


def _explore(
    plan: SearchPlan,
    out: Path | None,
    runs: int | None,
    minutes: float | None,
    jobs: int | None,
    *,
    resume: bool,
    confirm: str,
    repeats: int,
    report: Path | None,
) -> int:
    from sim.experiments.explore.report import found_table, speed_line, write_page
    from sim.experiments.explore.run import explore as search_and_shrink
    from sim.machine.clock import utc_now
    from sim.run.folder import empty_folder, point_latest_to, reports_folder

    beside = reports_folder() / "explore" / plan.name
    named = out or beside / ("latest" if resume else utc_now().strftime("%Y%m%dT%H%M%S.%fZ"))
    folder = named if resume else empty_folder(named)
    if runs is None and minutes is None:
        runs = 1000
    if out is None and not resume:
        folder.mkdir(parents=True, exist_ok=True)
        point_latest_to(folder)
    explored = search_and_shrink(
        plan,
        folder,
        runs=runs,
        minutes=minutes,
        jobs=jobs or os.cpu_count() or 1,
        resume=resume,
        confirm=confirm,
        repeats=repeats,
        tell=tell,
        watch=_Counter().show,
    )
    if explored.progress.cases:
        print_table(found_table(explored))
    click.echo(speed_line(explored.progress))
    click.echo(f"search   {folder}")
    if report is not None:
        click.echo(f"report   {', '.join(map(str, write_page(explored, report)))}")
    return explored.exit_code


class _Counter:
    """The line that says now and then how far a search is."""

    every = 500  # schedules

    def show(self, progress: Progress) -> None:
        """Tell every so many schedules."""
        if progress.looked % self.every == 0:
            from sim.experiments.explore.report import speed_line

            tell(speed_line(progress))


def _as_is(tree: dict[str, object], plan: SearchPlan, confirm: str, repeats: int) -> int:
    """Judge one schedule and print what is found, here and on a real ground."""
    from sim.experiments.explore.flaw import is_known
    from sim.experiments.explore.look import load_property, look_at
    from sim.experiments.explore.run import confirmed, told_confirmed

    look = look_at(tree, heal_s=plan.bounds.heal_s, own=load_property(plan.property) if plan.property else None)
    if look.refused:
        raise UsageError(look.refused)
    counting = 0
    for one in look.findings:
        known = is_known(one.name, plan.bounds.known)
        counting += not known
        click.echo(f"{one.name}{' (known)' if known else ''}: {one.text}")
        if confirm:
            click.echo(told_confirmed(confirmed(tree, one.name, on=confirm, repeats=repeats, bounds=plan.bounds)))
    if not look.findings:
        click.echo("nothing was found")
    return int(counting > 0)


def _shard(text: str) -> tuple[int, int]:
    """Return K and N of K/N."""
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise UsageError(f"--shard {text!r}: write K/N with K from 1 to N, for example 2/8")
    return int(part), int(parts)
