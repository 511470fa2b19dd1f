"""Find out whether a file was damaged or edited after the lab wrote it: its size and columns may be right, and every number wrong.

CRC-32 finds accidents, not forgery.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sim.errors import RunFolderError

CHUNK_BYTES = 1 << 20
KEY = "crc32"
_SIGNED = re.compile(rb"<!-- crc32 of all before this line: (\d+) -->\n\Z")


def file_checksum(path: Path) -> int:
    """Return the CRC-32 of a file's bytes; raises OSError."""
    found = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            found = zlib.crc32(chunk, found)
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or raise `RunFolderError`."""
    try:
        value = json.loads(path.read_bytes())
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text: nothing could print or write it
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"cannot read {path}: {error}; the file is damaged, repeat the run") from error
    if not isinstance(value, dict):
        raise RunFolderError(f"{path} holds a {type(value).__name__}, not an object; it is not from a run of this lab")
    return value


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what goes into a JSON file with the checksum of all of it beside it."""
    return {**content, KEY: _checksum(content)}


def is_whole(content: Mapping[str, Any]) -> bool:
    """Return whether what was read from a JSON file is what was written; one without a checksum cannot be checked, and counts as whole."""
    return KEY not in content or content[KEY] == _checksum(content)


def signed_page(text: str) -> str:
    """Return a page in HTML or XML with the checksum of all of it in a last line, which is a comment."""
    text = text if text.endswith("\n") else text + "\n"
    return f"{text}<!-- crc32 of all before this line: {zlib.crc32(text.encode())} -->\n"


def changed_since(paths: Iterable[Path]) -> list[Path]:
    """Return those JSON files and pages that were damaged or changed since they were written; none that is not there or has no checksum."""
    return [path for path in paths if path.is_file() and not (_json_is_whole if path.suffix == ".json" else _page_is_whole)(path)]


def _json_is_whole(path: Path) -> bool:
    try:
        return is_whole(read_json(path))
    except RunFolderError:
        return False


def _page_is_whole(path: Path) -> bool:
    try:
        content = path.read_bytes()
    except OSError:
        return False
    signed = _SIGNED.search(content)
    if signed is None:  # written before pages had a checksum, unless the checksum is what was damaged
        return b"<!-- crc32 of all before" not in content[-200:]
    return zlib.crc32(content[: signed.start()]) == int(signed[1])


def _checksum(content: Mapping[str, Any]) -> int:
    rest = {key: value for key, value in content.items() if key != KEY}
    read_back = json.loads(json.dumps(rest))  # as a reader will find it: keys are text, tuples are lists
    return zlib.crc32(json.dumps(read_back, sort_keys=True).encode())
