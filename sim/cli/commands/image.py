"""Build a local image of the embedded server."""

from __future__ import annotations

import click

from sim.cli.options import tell
from sim.machine.words import duration


@click.command()
def image() -> int:
    """Build a local image of the embedded server, for --on container where no registry can be reached."""
    from sim.grounds.local_image import build_image

    one = build_image(tell=tell)
    click.echo(f"{one.name}  {one.size_bytes / 1e6:.1f} MB  {'built' if one.built else 'already there'}, {duration(one.took_s)}")
    return 0
