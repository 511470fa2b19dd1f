"""Compare the model with a real server."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.options import on_option, out_option, repeats_option, set_option, tell
from sim.cli.printing import check_out, print_table


@click.command()
@click.option("--scenario", "scenarios", multiple=True, metavar="NAME", help="Compare this one; may be repeated. [default: all built-in]")
@repeats_option("Pairs of runs of each", most=20)
@set_option("every scenario")
@on_option(help="The model: model, or model:FILE with measured costs.", default="model", variable=False)
@out_option("File: .md or .json.", default="reports/fidelity.md")
def fidelity(scenarios: tuple[str, ...], repeats: int, settings: tuple[str, ...], on: str, out: Path) -> int:
    """Run scenarios on the model and on an embedded server, and tell how far they differ."""
    from sim.experiments.fidelity.run import run_fidelity
    from sim.experiments.fidelity.table import fidelity_table, write_fidelity

    check_out(out)
    compared = run_fidelity(scenarios, repeats=repeats, model_on=on, settings=settings, tell=tell)
    write_fidelity(compared, out)
    print_table(fidelity_table(compared))
    click.echo(f"table    {out}")
    return 0
