"""Compare runs with a baseline."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.options import RUN_ARGUMENT, out_option
from sim.cli.printing import check_out, print_table


@click.command()
@RUN_ARGUMENT
@click.argument("baseline", type=click.Path(path_type=Path))
@click.option("--run", "more_runs", multiple=True, type=click.Path(path_type=Path), help="One more run (a repeat); may be repeated.")
@click.option("--baseline", "more_baselines", multiple=True, type=click.Path(path_type=Path), help="One more baseline; may be repeated.")
@click.option(
    "--tolerance",
    multiple=True,
    metavar="[METRIC=]N%",
    help="How much worse is tolerated; of one metric or, without one, of all. [default: 10%]",
)
@out_option("Folder for compare.json and compare.xml. [default: none is written]")
def compare(
    run: Path, baseline: Path, more_runs: tuple[Path, ...], more_baselines: tuple[Path, ...], tolerance: tuple[str, ...], out: Path | None
) -> int:
    """Compare RUN with BASELINE, each a run folder or a folder of run folders.

    Exit code: 0 nothing is worse, 1 something is, 2 they cannot be compared.
    """
    from sim.experiments.compare.compare import compare as compare_runs
    from sim.experiments.compare.table import compare_table, write_comparison

    if out is not None:
        check_out(out / "compare.json")
    comparison = compare_runs((run, *more_runs), (baseline, *more_baselines), tolerance=tolerance)
    print_table(compare_table(comparison))
    if out is not None:
        click.echo(f"json     {write_comparison(comparison, out)}, compare.xml")
    return comparison.exit_code
