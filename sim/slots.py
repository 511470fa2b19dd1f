"""Which node of a cluster has a channel: the hash slot of a key, who owns which slot, and a reply that points elsewhere."""

from __future__ import annotations

import binascii
from typing import NamedTuple

SLOTS = 16_384


def slot_of(key: bytes) -> int:
    """Return the hash slot of a key or channel: of the part in the first braces where that is not empty."""
    begin = key.find(b"{")
    if begin >= 0 and (end := key.find(b"}", begin + 1)) > begin + 1:
        key = key[begin + 1 : end]
    return binascii.crc_hqx(key, 0) % SLOTS


class Elsewhere(NamedTuple):
    """Say where a command should have gone; `ask` means only this once, while the slot is on its way there."""

    slot: int
    host: str
    port: int
    ask: bool


def read_redirect(error: str) -> Elsewhere | None:
    """Read an error such as ``MOVED 3999 127.0.0.1:7001``; None when it is another one. No host: the one that was asked."""
    words = error.split()
    if len(words) < 3 or words[0] not in ("MOVED", "ASK") or not words[1].isdigit():
        return None
    host, _, port = words[2].rpartition(":")
    return Elsewhere(int(words[1]), host.strip("[]"), int(port), words[0] == "ASK") if port.isdigit() else None
