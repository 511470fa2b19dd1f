"""Which slot of a cluster a channel is in, and an answer that points to another node. No I/O."""

from __future__ import annotations

import binascii
import re
from typing import NamedTuple

SLOTS = 16_384
_MOVED = re.compile(r"\bMOVED (\d+) (\S*):(\d+)")


def slot_of(key: bytes) -> int:
    """Return the slot of a key or channel: of the part in the first braces where that is not empty."""
    begin = key.find(b"{")
    if begin >= 0 and (end := key.find(b"}", begin + 1)) > begin + 1:
        key = key[begin + 1 : end]
    return binascii.crc_hqx(key, 0) % SLOTS


class Moved(NamedTuple):
    """Say which node has a slot; no host means the one that was asked."""

    slot: int
    host: str
    port: int


def read_moved(error: str) -> Moved | None:
    """Read an error such as ``MOVED 3999 127.0.0.1:7001``; None when it is another one.

    A server answers ASK only for keys, when some of a slot's keys are still elsewhere; a channel has no key.
    """
    found = _MOVED.search(error)
    return Moved(int(found[1]), found[2].strip("[]"), int(found[3])) if found else None
