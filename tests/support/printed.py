"""What a console would print, as text."""

from __future__ import annotations

from io import StringIO

from rich.console import Console, RenderableType

WIDTH = 200


def printed(what: RenderableType) -> str:
    """Return it as a wide console without colours prints it."""
    console = Console(file=StringIO(), width=WIDTH, force_terminal=False)
    console.print(what)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()
