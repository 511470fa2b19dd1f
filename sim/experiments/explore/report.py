"""What an exploration found, as a table, a page with pictures, and JUnit with a case for each finding."""

from __future__ import annotations

from pathlib import Path

import tomli_w
from rich.table import Table

from sim.errors import RecordError
from sim.experiments.explore.run import Exploration, Explored, per_minute, told_confirmed
from sim.experiments.explore.search import Progress, slug
from sim.machine.files import why_not_written, write_all
from sim.machine.words import amount, count, duration
from sim.results.junit import cases_to_junit

PARTS = ("drawing", "checking", "running", "judging")
MAX_EVENTS = 200


def found_table(explored: Exploration) -> Table:
    """Return the findings for a rich console."""
    table = Table(title=f"Found among {count(explored.progress.looked, 'schedule')} of {explored.plan.name}")
    for heading in ("finding", "schedules", "first", "faults", "lines", "file"):
        table.add_column(heading, justify="right" if heading in ("schedules", "first", "faults", "lines") else "left", overflow="fold")
    lines = {one.case.finding.name: str(one.shrunk.lines) for one in explored.found}
    for name, case in explored.progress.cases.items():
        told = f"{name} (known)" if case.known else name
        many = str(len(case.tree["faults"]))
        table.add_row(told, str(case.runs), str(case.number), many, lines.get(name, ""), str(case.path or ""))
    return table


def speed_line(progress: Progress) -> str:
    """Return how fast a search went, and what took how long."""
    here = progress.looked - progress.resumed
    if not here:
        return f"{count(progress.looked, 'schedule')}, and none more"
    each = [1000 * seconds / here for seconds in progress.seconds]
    parts = ", ".join(f"{part} {value:.1f}" for part, value in zip(PARTS, each, strict=True))
    before = f" after {progress.resumed:,} earlier ones" if progress.resumed else ""
    told = f"{count(here, 'schedule')}{before} in {duration(progress.took_s)}, {amount(per_minute(progress))} a minute"
    return f"{told}; {progress.new:,} showed something new; milliseconds of CPU each: {parts}"


def write_page(explored: Exploration, page: Path) -> list[Path]:
    """Write the page, its pictures and, beside it, JUnit; return their paths.

    Raises
    ------
    RecordError
        A file cannot be written.
    """
    pictures = page.parent / f"{page.stem}_files"
    junit = page.with_suffix(".xml")
    try:
        drawn = {one.case.finding.name: _picture(one, pictures) for one in explored.found}
        write_all({page: page_text(explored, {k: v.relative_to(page.parent) for k, v in drawn.items() if v}), junit: junit_text(explored)})
    except OSError as error:
        raise RecordError(f"cannot write {page}: {why_not_written(error)}; choose another --report") from error
    return [page, junit, *(path for path in drawn.values() if path)]


def junit_text(explored: Exploration) -> str:
    """Return JUnit XML: a case for each finding; one that passes when nothing was found."""
    cases = [(name, "valid" if case.known else "invalid", case.finding.text) for name, case in explored.progress.cases.items()]
    none = [("nothing was found", "valid", speed_line(explored.progress))]
    return cases_to_junit(f"buslab.explore.{explored.plan.name}", "findings", cases or none)


def page_text(explored: Exploration, pictures: dict[str, Path]) -> str:
    """Return the page, Markdown."""
    plan, progress = explored.plan, explored.progress
    shard = "" if plan.shard == (1, 1) else f", shard {plan.shard[0]} of {plan.shard[1]}"
    how = "guided by what was new" if plan.guided else "blind"
    lines = [f"# What was found in {plan.name}", "", f"Seed {plan.seed}{shard}, {how}. {speed_line(progress)}.", ""]
    if not progress.cases:
        return "\n".join([*lines, "Nothing was found.", ""])
    lines += ["| finding | schedules | first | faults | lines | counts |", "|---|---:|---:|---:|---:|---|"]
    made = {one.case.finding.name: one for one in explored.found}
    for name, case in progress.cases.items():
        size = str(made[name].shrunk.lines) if name in made else ""
        counts = "no: known" if case.known else "yes"
        lines.append(f"| {name} | {case.runs} | {case.number} | {len(case.tree['faults'])} | {size} | {counts} |")
    for name, one in made.items():
        lines += ["", f"## {name}", "", one.case.finding.text + ".", ""]
        lines += ["" if one.confirmed is None else told_confirmed(one.confirmed).capitalize() + ".", ""] if one.confirmed else []
        lines += ["```toml", tomli_w.dumps(one.case.tree).rstrip(), "```", ""]
        lines += [f"Again: `buslab explore {one.case.path} --as-is`; on a real server: `buslab run {one.case.path} --on embedded`.", ""]
        lines += ["```text", one.story.rstrip(), "```", ""] if one.story else []
        lines += [f"![Who published and who heard]({pictures[name]})", ""] if name in pictures else []
    return "\n".join(lines)


def _picture(one: Explored, folder: Path) -> Path | None:
    """Draw the events of a run from pod to pod; None where there is nothing to draw."""
    import matplotlib
    from matplotlib.figure import Figure

    from sim.results.outage_plots import space_time

    run = one.look.run
    if run is None or not len(run.publishes) or not len(run.deliveries):
        return None
    matplotlib.use("Agg")
    figure = Figure(figsize=(11, 5), layout="constrained")
    space_time(run, figure.subplots())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{slug(one.case.finding.name)}.png"
    figure.savefig(path, dpi=110)
    return path
