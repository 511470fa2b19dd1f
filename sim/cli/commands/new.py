"""Begin a bus of one's own."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from sim.cli.options import tell
from sim.errors import UsageError
from sim.scenario.starts import STARTS

LIKE = "; ".join(f"{name}: {text}" for name, text in STARTS.items())


@click.command()
@click.argument("name")
@click.argument("more", nargs=-1, metavar="[FILE]...", type=click.Path(path_type=Path))
@click.option("--like", default="shop", show_default=True, metavar="BUS", help=f"What it begins as. {LIKE}.")
@click.option("--from", "documents", multiple=True, metavar="FILE", type=click.Path(path_type=Path),
              help="An AsyncAPI 3 document of a service; others may follow it. The bus is made of them, in place of --like.")  # fmt: skip
@click.option("--dir", "folder", type=click.Path(path_type=Path), help="The folder to make, or an empty one. [default: NAME]")
@click.pass_context
def new(context: click.Context, name: str, more: tuple[Path, ...], like: str, documents: tuple[Path, ...], folder: Path | None) -> int:
    """Begin a bus of your own: write a folder with a bus file, two scenarios, a notebook and a CI file that run at once.

    The files begin with NAME. A folder that holds anything is refused; one that cannot be written whole is not written.
    """
    from sim.scenario.asyncapi.bus import import_asyncapi
    from sim.scenario.start import new_bus, next_commands

    text = None
    if more and not documents:
        raise UsageError(f"{more[0]}: a document needs --from before it, as in: buslab new {name} --from {more[0]}")
    if documents:
        if context.get_parameter_source("like") is ParameterSource.COMMANDLINE:
            raise UsageError(f"--like {like} and --from: each says what the bus is; give one of them")
        imported = import_asyncapi(*documents, *more)
        for note in imported.notes:
            tell(f"note: {note}")
        text = imported.text
    made = new_bus(name, like=like, bus_text=text, folder=folder)
    for file in sorted(path for path in made.rglob("*") if path.is_file()):
        click.echo(f"wrote    {file}")
    for command in next_commands(name, made):
        click.echo(f"next     {command}")
    return 0
