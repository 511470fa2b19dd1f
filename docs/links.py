"""The pages of the project, and where their relative links lead."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"^( *```).*?^\1$", re.M | re.S)
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.M)


def pages(root: Path) -> list[Path]:
    """Return every page: those at the top and all in docs/."""
    return [root / "README.md", root / "CHANGELOG.md", *sorted((root / "docs").rglob("*.md"))]


def links_of(page: Path) -> list[tuple[Path, str]]:
    """Return each relative link of a page as the path that it leads to and its #anchor, empty when none."""
    prose = re.sub(r"`[^`\n]+`", "", _CODE.sub("", page.read_text("utf-8")))
    links = []
    for target in _LINK.findall(prose):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            links.append(((page.parent / unquote(path)).resolve() if path else page, anchor))
    return links


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as code hosts and the site make them."""
    headings = _HEADING.findall(_CODE.sub("", page.read_text("utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
