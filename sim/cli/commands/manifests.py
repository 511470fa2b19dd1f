"""Write what Kubernetes needs to run a bus and the lab."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.options import out_option, set_option, tell
from sim.scenario.manifests.objects import FOLDERS, MAX_WORKERS, WORKERS


@click.command()
@click.argument("scenario", metavar="SCENARIO_OR_BUS")
@out_option("The folder to make. [default: all on stdout, for kubectl apply -f -]")
@set_option()
@click.option("--image", metavar="IMAGE", help="With buslab, dask and locust. [default: buslab:VERSION, which the Dockerfile makes]")
@click.option(
    "--workers", default=WORKERS, show_default=True, type=click.IntRange(1, MAX_WORKERS), help="How many of Dask, and how many of Locust."
)
@click.option("--only", multiple=True, type=click.Choice(FOLDERS), help="Only this folder; may be repeated.")
@click.option("--force", is_flag=True, help="Replace a folder of manifests.")
def manifests(
    scenario: str, out: Path | None, settings: tuple[str, ...], image: str | None, workers: int, only: tuple[str, ...], force: bool
) -> int:
    """Write manifests for Kubernetes of SCENARIO_OR_BUS: its services as real pods, a Redis for tests, the lab on Dask, and Locust.

    No password goes into them: the pods read the broker's URL from a Secret that you make.
    """
    from sim.scenario.manifests.write import manifests, one_text, write_manifests

    found = manifests(scenario, settings=settings, image=image or "", workers=workers, only=only)
    paths = [] if out is None else write_manifests(found, out=out, force=force)
    for note in found.notes:
        tell(f"note: {note}")
    if out is None:
        click.echo(one_text(found), nl=False)
    for path in paths:
        click.echo(f"manifest {path}")
    return 0
