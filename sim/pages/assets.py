"""Read the style sheet and the scripts, and say which of them a page may run."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

from sim.pages.colours import FATE_COLOURS, VERDICT_COLOURS


@cache
def style_sheet() -> str:
    """Return the style sheet of all pages, with the colours of fates and verdicts as its variables (`--missing`, `--valid`)."""
    colours = {**FATE_COLOURS, **{word: colour for word, colour in VERDICT_COLOURS.items() if word != "unknown"}}
    colours |= {"doubt": VERDICT_COLOURS["unknown"]}
    root = " ".join(f"--{name}: {colour};" for name, colour in colours.items())
    return f":root {{ {root} }}\n{_text('page.css')}"


@cache
def script(name: str) -> str:
    """Return a script of pages by its file's name without the ending."""
    return _text(f"{name}.js")


def content_policy(*scripts: str) -> str:
    """Return the content security policy of a page that needs nothing but itself, and runs these scripts and no other."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in scripts)
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {hashes or chr(39) + 'none' + chr(39)}"


def _text(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
