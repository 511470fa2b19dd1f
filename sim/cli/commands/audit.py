"""Check that the instrument finds what was planted in its record."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.options import out_option


@click.command()
@out_option("The run folder to make. [default: reports/runs/audit/<UTC time>]")
def audit(out: Path | None) -> int:
    """Plant a loss, a duplicate, a swap and a delay in the record of a short run, and demand exactly those in the verdict."""
    from sim.experiments.audit import run_audit

    outcome = run_audit(out=out)
    click.echo(outcome.text)
    return 0 if outcome.exact else 2
