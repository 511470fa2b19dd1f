"""Build a local image: of the embedded server, or of pods."""

from __future__ import annotations

import click

from sim.cli.options import tell
from sim.errors import UsageError
from sim.machine.words import duration


@click.command()
@click.option("--pods", is_flag=True, help="Of `buslab pod` and of hosts.kind = 'containers': this interpreter, this code, its packages.")
@click.option("--package", "packages", multiple=True, metavar="NAME",
              help="An installed package that code of your own needs, for --pods; may be repeated.")  # fmt: skip
def image(pods: bool, packages: tuple[str, ...]) -> int:
    """Build a local image of the embedded server, for --on container where no registry can be reached, or of pods."""
    from sim.grounds.local_image import build_image
    from sim.grounds.pod_image import build_pod_image

    if packages and not pods:
        raise UsageError("--package goes into an image of pods: add --pods")
    one = build_pod_image(packages=packages, tell=tell) if pods else build_image(tell=tell)
    click.echo(f"{one.name}  {one.size_bytes / 1e6:.1f} MB  {'built' if one.built else 'already there'}, {duration(one.took_s)}")
    return 0
