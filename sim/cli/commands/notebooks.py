"""Run notebooks headless."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.options import jobs_option, out_option, tell
from sim.cli.printing import FiniteRange, check_out
from sim.machine.words import duration


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("-p", "--parameter", "parameters", multiple=True, metavar="KEY=VALUE", help="Set a parameter; may be repeated.")
@out_option("Folder for the executed notebooks and all that they run. [default: reports/runs/notebooks]")
@click.option("--html", type=click.Path(path_type=Path), metavar="DIR", help="Also write pages with an index into this folder.")
@jobs_option("Notebooks at a time; those that measure disturb each other.", default=1)
@click.option("--timeout", "timeout_s", default=600.0, show_default=True, type=FiniteRange(1), help="Seconds that one may take.")
def notebooks(names: tuple[str, ...], parameters: tuple[str, ...], out: Path | None, html: Path | None, jobs: int, timeout_s: float) -> int:
    """Run notebooks (by default all) in kernels of their own, and keep them with what they showed.

    NAME is one of the folder notebooks, or a .py or .ipynb file. Exit code: 0 each concluded valid, 1 one concluded invalid, 2 one
    concluded unknown or nothing, or a cell failed.
    """
    from sim.experiments.notebooks.run import default_folder, exit_code, run_notebooks

    if html is not None:
        check_out(html / "index.html", "--html")
    executed = run_notebooks(names, parameters=parameters, out=out, jobs=jobs, timeout_s=timeout_s, tell=tell)
    for one in executed:
        click.echo(f"{one.verdict:<8} {one.name:<28} {duration(one.took_s):>10}  {one.sentence}")
        for line in one.error[1:]:
            click.echo(f"{'':<50}{line}")
    if html is not None:
        from sim.experiments.notebooks.pages import write_pages

        click.echo(f"pages    {write_pages(executed, notebooks=out or default_folder(), out=html)}")
    return exit_code(executed)
