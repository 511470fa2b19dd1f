"""Check that the instrument finds what was planted in its record."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.options import out_option, set_option
from sim.errors import UsageError


@click.command()
@click.option("--scenario", metavar="SCENARIO", help="Whose bus the run is of, for a few seconds. [default: the reference's]")
@set_option()
@out_option("The run folder to make. [default: reports/runs/audit/<UTC time>]")
def audit(scenario: str | None, settings: tuple[str, ...], out: Path | None) -> int:
    """Plant a loss, a duplicate, a swap and a delay in the record of a short run, and demand exactly those in the verdict."""
    from sim.experiments.audit import run_audit
    from sim.scenario.file import load_scenario

    if settings and scenario is None:
        raise UsageError(f"--set {settings[0]!r} changes a scenario: name it with --scenario")
    outcome = run_audit(scenario=None if scenario is None else load_scenario(scenario, settings=settings), out=out)
    click.echo(outcome.text)
    return 0 if outcome.exact else 2
