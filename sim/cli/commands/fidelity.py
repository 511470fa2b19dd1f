"""Compare the model with a real server."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.printing import check_out, print_table


@click.command()
@click.option("--scenario", "scenarios", multiple=True, metavar="NAME", help="Compare this one; may be repeated. [default: all built-in]")
@click.option(
    "--repeats", default=1, show_default=True, type=click.IntRange(1, 20), help="Pairs of runs of each, with one seed after another."
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting of every scenario; may be repeated.")
@click.option("--on", default="model", show_default=True, metavar="GROUND", help="The model: model, or model:FILE with measured costs.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("reports/fidelity.md"), show_default=True, help="File: .md or .json.")
def fidelity(scenarios: tuple[str, ...], repeats: int, settings: tuple[str, ...], on: str, out: Path) -> int:
    """Run scenarios on the model and on an embedded server, and tell how far they differ."""
    from sim.experiments.fidelity.run import run_fidelity
    from sim.experiments.fidelity.table import fidelity_table, write_fidelity

    tell = lambda line: click.echo(line, err=True)  # noqa: E731
    check_out(out)
    compared = run_fidelity(scenarios, repeats=repeats, model_on=on, settings=settings, tell=tell)
    write_fidelity(compared, out)
    print_table(fidelity_table(compared))
    click.echo(f"table    {out}")
    return 0
