"""Measure what a broker's steps cost."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.options import out_option, rounds_option, tell
from sim.cli.printing import check_out, print_table


@click.command()
@out_option("The file to write.", default="reports/costs.json")
@rounds_option("Rounds of measuring; more make narrower intervals.", default=7, least=3, most=31)
def calibrate(out: Path, rounds: int) -> int:
    """Measure what an embedded broker's steps cost on this machine, for --on model:FILE."""
    from sim.grounds.model.costs import write_costs
    from sim.measure.calibrate import calibration_table, run_calibration

    check_out(out)
    costs = run_calibration(rounds=rounds, tell=tell)
    write_costs(costs, out)
    print_table(calibration_table(costs))
    click.echo(f"costs    {out}; use them with --on model:{out}")
    return 0
