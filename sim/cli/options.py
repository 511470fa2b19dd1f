"""The options that several commands take, each declared once: the same word means the same everywhere, and so does its help.

A command adds what is its own: a default, or a sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sim.machine.variables import read_variable


class GroundOption(click.Option):
    """The option --on: its text, from the command line or its variable, has no blanks at the ends."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Return what the variable says, None where that is nothing."""
        return (read_variable(self.envvar, is_list=True) or None) if isinstance(self.envvar, str) else None

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """Return the text without the blanks at its ends."""
        text = super().type_cast_value(ctx, value)
        return text.strip() if isinstance(text, str) else text


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

RUN_ARGUMENT = click.argument("run", type=click.Path(path_type=Path))
GROUND_HELP = (
    "Where: embedded or container, either with :PORT, cluster or container-cluster, model[:FILE], redis://… or rediss://… ; "
    "a URL with a password is safer in the variable."
)


def on_option(*, help: str = GROUND_HELP, default: str = "embedded", variable: bool = True) -> Decorator:
    """Declare --on: where to run; by the variable BUSLAB_ON, too, unless the command means something else by a ground."""
    more: dict[str, Any] = {"envvar": "BUSLAB_ON", "show_envvar": True} if variable else {}
    return click.option("--on", default=default, show_default=bool(default), metavar="GROUND", help=help, cls=GroundOption, **more)


def image_option() -> Decorator:
    """Declare --image: what a container of a broker runs."""
    text = "What the grounds of containers run. [default: BUSLAB_REDIS_IMAGE, else an official image]"
    return click.option("--image", metavar="IMAGE", help=text)


def set_option(what: str = "the scenario") -> Decorator:
    """Declare --set KEY=VALUE, of one scenario or of every one."""
    text = f"Change a setting of {what}; may be repeated."
    return click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help=text)


def load_option() -> Decorator:
    """Declare --yes-load-this-server."""
    return click.option("--yes-load-this-server", is_flag=True, help="Allow --on to name a server on another machine.")


def out_option(text: str, *, default: str | None = None) -> Decorator:
    """Declare --out: the folder or file to make; `text` tells which, and the default where it is worked out."""
    more: dict[str, Any] = {} if default is None else {"default": Path(default), "show_default": True}
    return click.option("--out", type=click.Path(path_type=Path), help=text, **more)


def repeats_option(text: str, *, most: int) -> Decorator:
    """Declare --repeats: how many runs of each."""
    return click.option(
        "--repeats", default=1, show_default=True, type=click.IntRange(1, most), help=f"{text}, with one seed after another."
    )


def jobs_option(text: str, *, default: int | None = None) -> Decorator:
    """Declare --jobs: how many at a time."""
    more: dict[str, Any] = {} if default is None else {"default": default, "show_default": True}
    return click.option("--jobs", type=click.IntRange(1, 64), help=text, **more)


def rounds_option(text: str, *, default: int, least: int, most: int) -> Decorator:
    """Declare --rounds: how often to measure."""
    return click.option("--rounds", default=default, show_default=True, type=click.IntRange(least, most), help=text)


def report_option(text: str, *, metavar: str | None = None) -> Decorator:
    """Declare --report: where the page goes, too."""
    return click.option("--report", type=click.Path(path_type=Path), metavar=metavar, help=text)


def path_option() -> Decorator:
    """Declare --path: where the user's own checkers are."""
    text = "Where modules of your own checkers are. [default: where the run says that they were]"
    return click.option("--path", "code_folder", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="DIR", help=text)


def tell(line: str) -> None:
    """Print a line about what goes on, beside what the command prints."""
    click.echo(line, err=True)
