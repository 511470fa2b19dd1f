"""Make a bus file of the documents of services."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.options import out_option, tell


@click.command("import")
@click.argument("language", metavar="asyncapi", type=click.Choice(["asyncapi"]))
@click.argument("documents", nargs=-1, required=True, metavar="DOCUMENT…", type=click.Path(path_type=Path))
@out_option("The bus file to write, such as shop.bus.toml; without it, it is printed.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def import_(language: str, documents: tuple[Path, ...], out: Path | None, force: bool) -> int:
    """Make a bus file of AsyncAPI 3 documents, one a service.

    What AsyncAPI cannot say comes from x-buslab in the documents, or is left as a comment to fill in.
    """
    from sim.machine.words import count
    from sim.scenario.asyncapi.bus import import_asyncapi

    made = import_asyncapi(*documents, out=out, force=force)
    if made.path is None:
        click.echo(made.text, nl=False)
        return 0
    for note in made.notes:
        tell(f"note: {note}")
    click.echo(f"bus      {made.path}: {count(len(made.tree['services']), 'service')}, {count(len(made.tree['channels']), 'channel')}")
    return 0
