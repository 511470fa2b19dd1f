"""Tell a file that was damaged or edited after the lab wrote it: sizes and columns may be right, and every number wrong.

CRC-32 finds accidents, not forgery.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 20
KEY = "crc32"


def file_checksum(path: Path) -> int:
    """Return the CRC-32 of a file's bytes; raises OSError."""
    found = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            found = zlib.crc32(chunk, found)
    return found


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what goes into a JSON file with the checksum of all of it beside it."""
    return {**content, KEY: _checksum(content)}


def is_whole(content: Mapping[str, Any]) -> bool:
    """Return whether what was read from a JSON file is what was written; of one without a checksum nothing is known, so yes."""
    return KEY not in content or content[KEY] == _checksum(content)


def _checksum(content: Mapping[str, Any]) -> int:
    rest = {key: value for key, value in content.items() if key != KEY}
    read_back = json.loads(json.dumps(rest))  # a reader finds keys as text and tuples as lists
    return zlib.crc32(json.dumps(read_back, sort_keys=True).encode())
