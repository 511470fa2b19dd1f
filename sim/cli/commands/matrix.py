"""Show what each fault does to each bus."""

from __future__ import annotations

import time
from pathlib import Path

import click

from sim.cli.options import image_option, jobs_option, on_option, out_option, report_option, set_option
from sim.cli.printing import check_out, print_table
from sim.errors import UsageError
from sim.machine.words import count, duration


@click.command()
@on_option(help="Where: model, embedded, container, cluster.", default="model", variable=False)
@click.option("--bus", "buses", multiple=True, metavar="BUS", help="reference, ioredis, hardened, streams; may be repeated. [default: all]")
@click.option("--fault", "faults", multiple=True, metavar="FAULT", help="Only this fault; may be repeated. [default: all]")
@click.option("--scenario", metavar="SCENARIO", help="What the faults are done to. [default: each fault's own, of the reference]")
@set_option()
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="Of every run.")
@jobs_option("Runs at a time. [default: one a core on the model, else two]")
@image_option()
@out_option("Folder for results and runs. [default: reports/runs/matrix/<UTC time>]")
@report_option("Write matrix.md and matrix.png there, too.", metavar="DIR")
@click.option("--against", type=click.Path(path_type=Path), metavar="DIR", help="Results of another ground: tell where they differ.")
@click.option("--keep-runs/--no-keep-runs", default=True, show_default=True, help="Keep the run folders beside the results.")
def matrix(
    on: str,
    buses: tuple[str, ...],
    faults: tuple[str, ...],
    scenario: str | None,
    settings: tuple[str, ...],
    seed: int,
    jobs: int | None,
    image: str | None,
    out: Path | None,
    report: Path | None,
    against: Path | None,
    keep_runs: bool,
) -> int:
    """Run every fault on every bus, and show what was lost, run twice, stale, deaf and told, and what the buses cost.

    Exit code: 0 every copy is accounted for and every bus kept its promises, 1 some bus broke one, 2 some run cannot be judged.
    """
    import shutil

    from sim.experiments.matrix.report import cost_table, matrix_table, write_matrix
    from sim.experiments.matrix.run import open_matrix, run_matrix
    from sim.faults.catalogue import FAULTS
    from sim.machine.clock import utc_now
    from sim.results.checkers.verdict import EXIT_CODES
    from sim.run.folder import empty_folder, runs_folder
    from sim.scenario.buses import BUSES
    from sim.scenario.file import load_scenario

    if settings and scenario is None:
        raise UsageError(f"--set {settings[0]!r} changes a scenario: name it with --scenario")
    base = None if scenario is None else load_scenario(scenario, settings=settings)
    other = open_matrix(against) if against else None
    if report:
        check_out(report / "matrix.md")
    folder = empty_folder(out or runs_folder() / "matrix" / utc_now().strftime("%Y%m%dT%H%M%S.%fZ"))
    began_s = time.monotonic()
    found = run_matrix(
        on=on, buses=buses or tuple(BUSES), faults=faults or tuple(FAULTS), seed=seed, jobs=jobs, image=image,
        scenario=base, out=folder / "runs", tell=lambda line: click.echo(line, err=True),
    )  # fmt: skip
    took_s = time.monotonic() - began_s
    files = write_matrix(found, folder, took_s=took_s, against=other)
    if report:
        report.mkdir(parents=True, exist_ok=True)
        for file in files[:2]:
            shutil.copy(file, report / file.name)
    if not keep_runs:
        shutil.rmtree(folder / "runs")
    print_table(matrix_table(found))
    print_table(cost_table(found))
    click.echo(f"verdict  {found.verdict}, {count(len(found.rows), 'cell')} in {duration(took_s)}")
    click.echo(f"results  {folder}: matrix.md, .png, .csv, .json")
    if found.interrupted:
        raise found.interrupted
    return EXIT_CODES[found.verdict]
