"""The commands of README.md and docs/: found, run as a reader would paste them, and compared with the output that a page shows.

``python -m docs.blocks [--deep] README.md …`` runs the blocks of these pages, with ``--deep`` the long ones too, and writes the output that
they show anew. The tests in tests/house/test_docs.py do the same without writing.

Rules
-----
1. A block is a fence of ``bash`` or ``python``. Those of one page are run in order, in one copy of the checkout whose path has a blank.
2. Comments on the lines right before the fence say what is special: ``<!-- deep -->`` it takes long and is run by `make deep`;
   ``<!-- exits 1 -->`` it ends with this code, not 0; ``<!-- not run: why -->``.
3. A fence of ``text`` after the comment ``<!-- output -->`` shows what the block before it printed. ``<!-- output: REGEX -->`` shows
   only the lines that match, and the rows of a table that go on below one, with ``…`` for what is left out.
4. The time in a run folder's name is compared as a word. ``<!-- output, numbers vary: REGEX -->`` compares all numbers so: another
   server, another number.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LANGUAGES = {"bash": ("bash", "-euo", "pipefail", "-c"), "python": (".venv/bin/python", "-c")}
NOT_COPIED = {".venv", ".git", "build", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", "__pycache__", "runs", "sweeps"}
TIME_LIMIT_S = {False: 150, True: 3000}
_OPEN = re.compile(r"^( *)```(\w*)$")
_MARK = re.compile(r"^ *<!-- (.*) -->$")
_STAMP = re.compile(r"\d{8}T\d{6}\.\d{6}Z")
_NUMBER = re.compile(r"\d[\d,.]*")


class Shown(NamedTuple):
    """The output that a page shows: between which lines, which lines of the real one, and whether its numbers are compared."""

    begin: int
    end: int
    lines: re.Pattern[str] | None
    numbers_vary: bool


class Block(NamedTuple):
    """One block of a page: its line, its text, and what the comments before it say."""

    line: int
    language: str
    text: str
    deep: bool
    exit_code: int
    not_run: str
    shown: Shown | None = None
    page_lines: list[str] = []  # what the page shows of its output

    @property
    def title(self) -> str:
        """The line where it begins, with its first command."""
        return f"line {self.line}: {self.text.splitlines()[0][:80]}"


def read_blocks(text: str) -> list[Block]:
    """Return the blocks of a page, in order."""
    blocks = list[Block]()
    for line, language, body, marks in fences(text):
        if language in LANGUAGES:
            blocks.append(_block(line, language, "\n".join(body), marks))
        elif said := next((one for one in map(_shows, marks) if one), None):
            blocks[-1] = blocks[-1]._replace(shown=Shown(line, line + len(body), *said), page_lines=body)
    return blocks


def fences(text: str) -> Iterator[tuple[int, str, list[str], list[str]]]:
    """Yield each fence of a page: its line, its language, what is in it, and the comments on the lines right before it."""
    lines, at, marks = text.splitlines(), 0, list[str]()
    while at < len(lines):
        if mark := _MARK.match(lines[at]):
            marks.append(mark[1])
        elif fence := _OPEN.match(lines[at]):
            close = lines.index(f"{fence[1]}```", at + 1)
            yield at + 1, fence[2], [line.removeprefix(fence[1]) for line in lines[at + 1 : close]], marks
            at, marks = close, []
        elif lines[at].strip():
            marks = []
        at += 1


def _block(line: int, language: str, text: str, marks: list[str]) -> Block:
    exits = [int(mark.removeprefix("exits ")) for mark in marks if mark.startswith("exits ")]
    not_run = [mark.removeprefix("not run: ") for mark in marks if mark.startswith("not run")]
    return Block(line, language, text, "deep" in marks, exits[0] if exits else 0, not_run[0] if not_run else "")


def _shows(mark: str) -> tuple[re.Pattern[str] | None, bool] | None:
    said = re.match(r"output(, numbers vary)?(?:: (.*))?$", mark)
    return said and (re.compile(said[2]) if said[2] else None, said[1] is not None)


def copy_checkout(folder: Path) -> Path:
    """Copy what a reader has into a folder whose name has a blank, with this environment, and return it."""
    there = folder / "my buslab"
    shutil.copytree(ROOT, there, ignore=lambda _, names: NOT_COPIED & set(names))
    (there / ".venv").symlink_to(Path(sys.prefix), target_is_directory=True)
    return there


def run_block(block: Block, folder: Path) -> str:
    """Run a block in a copy of the checkout and return what it printed.

    Raises
    ------
    AssertionError
        It did not end in time, or with another code than the page says.
    """
    path = os.pathsep.join((str(Path(sys.prefix) / "bin"), os.environ.get("PATH", "")))
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder), "MPLBACKEND": "Agg", "COLUMNS": "140"}
    ended = subprocess.run(
        [*LANGUAGES[block.language], block.text],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S[block.deep],
        check=False,
    )
    said = f"{block.title}\n{ended.stdout}\n{ended.stderr}"
    assert ended.returncode == block.exit_code, f"ended with {ended.returncode}, the page says {block.exit_code}: {said}"
    return ended.stdout


def shown_of(printed: str, shown: Shown) -> list[str]:
    """Return the lines that a page shows of what a block printed."""
    lines, kept, row = [line.rstrip() for line in printed.splitlines()], list[str](), False
    if shown.lines is None:
        return lines
    for line in lines:
        row = bool(shown.lines.search(line)) or (row and re.match(r"│ +│", line) is not None)
        if row:
            kept.append(line)
        elif kept[-1:] != ["…"]:
            kept.append("…")
    return kept[kept[:1] == ["…"] : len(kept) - (kept[-1:] == ["…"])]


def comparable(line: str, shown: Shown) -> str:
    """Return a line without what differs from run to run."""
    line = _STAMP.sub("TIME", line)
    return " ".join(_NUMBER.sub("#", line).split()) if shown.numbers_vary else line


def refresh(page: Path, *, deep: bool) -> None:
    """Run the blocks of a page, the long ones only if asked, and write what they print where it shows it."""
    with TemporaryDirectory() as folder:
        there = copy_checkout(Path(folder))
        printed = [
            (block, run_block(block, there)) for block in read_blocks(page.read_text("utf-8")) if not block.not_run and block.deep <= deep
        ]
    lines = page.read_text("utf-8").splitlines()
    for block, text in reversed(printed):
        if block.shown:
            lines[block.shown.begin : block.shown.end] = shown_of(text, block.shown)
    page.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        if name != "--deep":
            refresh(Path(name), deep="--deep" in sys.argv)
