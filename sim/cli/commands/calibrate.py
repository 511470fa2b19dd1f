"""Measure what a broker's steps cost."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.printing import check_out, print_table


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("reports/costs.json"), show_default=True, help="The file to write.")
@click.option(
    "--rounds", default=7, show_default=True, type=click.IntRange(3, 31), help="Rounds of measuring; more make narrower intervals."
)
def calibrate(out: Path, rounds: int) -> int:
    """Measure what an embedded broker's steps cost on this machine, for --on model:FILE."""
    from sim.grounds.model.costs import write_costs
    from sim.measure.calibrate import calibration_table, run_calibration

    check_out(out)
    costs = run_calibration(rounds=rounds, tell=lambda line: click.echo(line, err=True))
    write_costs(costs, out)
    print_table(calibration_table(costs))
    click.echo(f"costs    {out}; use them with --on model:{out}")
    return 0
