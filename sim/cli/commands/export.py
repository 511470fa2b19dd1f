"""Write a bus as documents of its services."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.options import set_option


@click.command()
@click.argument("language", metavar="asyncapi", type=click.Choice(["asyncapi"]))
@click.argument("bus", metavar="BUS_OR_SCENARIO")
@click.option("--service", metavar="NAME", help="Only the document of this service.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder for a file a service, or, of one service, the file: .yaml or .json.",
)
@set_option()
@click.option("--force", is_flag=True, help="Replace files that are there.")
def export(language: str, bus: str, service: str | None, out: Path, settings: tuple[str, ...], force: bool) -> int:
    """Write the AsyncAPI 3 documents of BUS_OR_SCENARIO, a .bus.toml file or a scenario: one a service."""
    from sim.scenario.asyncapi.export import export_asyncapi

    for path in export_asyncapi(bus, out=out, service=service, settings=settings, force=force):
        click.echo(f"asyncapi {path}")
    return 0
