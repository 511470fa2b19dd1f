"""Write a file whole or not at all: who reads it finds what stood there before, or all of what was meant to be there.

It is written beside its place, as ``<name>.unfinished``, and moved there at the end. What was begun is removed again when the disk is
full, the writing fails or is interrupted; only a process that is killed leaves it, and the next one removes it first.

A link stays one, and the file that it means is written. What is no file (a device, a pipe) takes what is written as it comes: moving
something there would replace the device itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from sim.machine.open_files import why_no_file

SUFFIX = ".unfinished"
MAX_FILE_NAME = 120  # bytes of a name that stands for a text; file systems allow 255, and a kind and a number stand beside it
_NO_FILE_NAME = re.compile(r"[%/\\\x00-\x1f\x7f]|^\.")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give the file to write in place of `path`, and move it there when the block ends; remove it when that fails or is interrupted."""
    with whole_files(path) as (unfinished,):
        yield unfinished


@contextlib.contextmanager
def whole_files(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Give files to write in place of `paths`: none is moved before all are written, and then the first comes first."""
    targets = [Path(os.path.realpath(path)) if path.is_symlink() and not _takes_as_it_comes(path) else path for path in paths]
    unfinished = tuple(path if _takes_as_it_comes(path) else path.with_name(path.name + SUFFIX) for path in targets)
    pairs = [(made, path) for made, path in zip(unfinished, targets, strict=True) if made != path]
    try:
        _remove(pairs)  # a link that somebody left there would be followed
        yield unfinished
        for made, path in pairs:
            os.replace(made, path)
    finally:
        _remove(pairs)


def _takes_as_it_comes(path: Path) -> bool:
    """Return whether a path is a device, a pipe or a socket."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _remove(pairs: list[tuple[Path, Path]]) -> None:
    for made, _ in pairs:
        with contextlib.suppress(OSError):  # the reason why it failed is the one to tell
            made.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all.

    Raises
    ------
    OSError
        It could not be written.
    """
    write_all({path: text})


def write_all(texts: Mapping[Path, str]) -> None:
    """Write several text files in UTF-8: none when one of them cannot be written, the first one first.

    Raises
    ------
    OSError
        One could not be written.
    """
    with whole_files(*texts) as unfinished:
        for path, text in zip(unfinished, texts.values(), strict=True):
            path.write_text(text, encoding="utf-8")


def why_not_written(error: OSError) -> str:
    """Return why a file of a run was not written, and what to do."""
    return why_no_file(error) or f"{error.strerror or error}; free some space or choose another --out"


@contextlib.contextmanager
def made_folders(folder: Path) -> Iterator[None]:
    """Make a folder and those above it; when the block fails, remove those that were not there."""
    new = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for one in new:
            with contextlib.suppress(OSError):
                one.rmdir()
        raise


def file_name(text: str) -> str:
    """Return a file's name that stands for a text: the text where it can be one, else with what cannot as %XX, and short enough."""
    name = _NO_FILE_NAME.sub(lambda found: f"%{ord(found[0]):02X}", text)
    encoded = name.encode()
    if len(encoded) <= MAX_FILE_NAME:
        return name
    digest = hashlib.blake2b(encoded, digest_size=8).hexdigest()
    return f"{encoded[: MAX_FILE_NAME - len(digest) - 1].decode(errors='ignore')}-{digest}"
