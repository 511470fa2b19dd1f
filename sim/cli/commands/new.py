"""Begin a bus of one's own."""

from __future__ import annotations

from pathlib import Path

import click

from sim.scenario.starts import STARTS

LIKE = "; ".join(f"{name}: {text}" for name, text in STARTS.items())


@click.command()
@click.argument("name")
@click.option("--like", default="shop", show_default=True, metavar="BUS", help=f"What it begins as. {LIKE}.")
@click.option("--dir", "folder", type=click.Path(path_type=Path), help="The folder to make, or an empty one. [default: NAME]")
def new(name: str, like: str, folder: Path | None) -> int:
    """Begin a bus of your own: write a folder with a bus file, two scenarios, a notebook and a CI file that run at once.

    The files begin with NAME. A folder that holds anything is refused; one that cannot be written whole is not written.
    """
    from sim.scenario.start import new_bus, next_commands

    made = new_bus(name, like=like, folder=folder)
    for file in sorted(path for path in made.rglob("*") if path.is_file()):
        click.echo(f"wrote    {file}")
    for command in next_commands(name, made):
        click.echo(f"next     {command}")
    return 0
