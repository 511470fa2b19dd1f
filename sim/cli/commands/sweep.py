"""Run a scenario over a grid of settings."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.options import image_option, jobs_option, load_option, on_option, out_option, repeats_option, tell
from sim.cli.printing import print_table


@click.command()
@click.argument("scenario")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE,…",
    help="A setting; commas between values make an axis, except inside quotes, brackets and braces. May be repeated.",
)  # fmt: skip
@repeats_option("Runs of each cell", most=1000)
@on_option(help="As of `run`.")
@image_option()
@out_option("The sweep's folder. [default: reports/sweeps/SCENARIO/<UTC time>]")
@jobs_option("Cells at a time. [default: 2 on the model, 1 elsewhere: real runs disturb each other]")
@click.option("--resume", is_flag=True, help="Go on with the sweep in --out, by default the latest: finished cells are not run again.")
@click.option("--keep", default="not-valid", show_default=True, metavar="WHICH", help="Run folders that stay: all, not-valid, or none.")
@load_option()
def sweep(
    scenario: str,
    settings: tuple[str, ...],
    repeats: int,
    on: str,
    image: str | None,
    out: Path | None,
    jobs: int | None,
    resume: bool,
    keep: str,
    yes_load_this_server: bool,
) -> int:
    """Run SCENARIO with every combination of settings, and gather one table (exit code: the worst verdict's)."""
    from rich.console import Console

    from sim.experiments.sweep.run import exit_code, run_sweep
    from sim.experiments.sweep.table import sweep_table
    from sim.run.display import Display

    with Display(Console(stderr=True)) as display:
        table = run_sweep(
            scenario, settings=settings, repeats=repeats, on=on, out=out, jobs=jobs, resume=resume, keep=keep,
            load_this_server=yes_load_this_server, image=image, tell=tell, watch=display.show,
        )  # fmt: skip
    print_table(sweep_table(table))
    click.echo(f"table    {Path(table.attrs['folder']) / 'sweep.parquet'}, sweep.csv")
    return exit_code(table)
