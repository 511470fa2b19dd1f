"""The files of the user's own code that a scenario names, for machines that do not have them.

Rules
-----
1. What may be imported from the folder is taken: its Python files, and its packages with all Python files in them. Not what begins with a
   dot, and no link.
2. It is code and no data: more than `MOST_BYTES` is refused, because then the folder is not one of modules.
3. A checksum says whether the files of two machines are the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from sim.errors import UsageError

MOST_BYTES = 16 << 20


def code_files(folder: Path) -> dict[str, bytes]:
    """Return the content of each Python file that may be imported from a folder, by its path in it.

    Raises
    ------
    UsageError
        One cannot be read, or they are too many.
    """
    found: dict[str, bytes] = {}
    size = 0
    for path in _paths(folder):
        try:
            found[path.relative_to(folder).as_posix()] = content = path.read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read {path}, which may have to be sent to the workers: {error.strerror or error}") from None
        size += len(content)
        if size > MOST_BYTES:
            raise UsageError(
                f"code_folder = {str(folder)!r} has more than {MOST_BYTES >> 20} MiB of Python files, too many to send to the workers: put "
                "the modules that the scenario names in a folder of their own"
            )
    return found


def _paths(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or path.is_symlink():
            continue
        if path.suffix == ".py" and path.is_file():
            yield path
        elif path.is_dir() and (path / "__init__.py").is_file():
            yield from sorted(one for one in path.rglob("*.py") if one.is_file() and not one.is_symlink())


def code_checksum(files: Mapping[str, bytes]) -> int:
    """Return the CRC-32 of the names and contents of files."""
    found = 0
    for name, content in sorted(files.items()):
        found = zlib.crc32(content, zlib.crc32(f"{name}\0{len(content)}\0".encode(), found))
    return found
