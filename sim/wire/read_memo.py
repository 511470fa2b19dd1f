"""What becomes of the payloads of one read: they are decoded, once for all pods of a process that read the same bytes.

A PUBLISH reaches every subscriber as the same bytes, so a read that another pod has had is not parsed again: `ReadMemo` maps the
bytes of a whole read to its decoded chunk. It removes work that production pods do, so a lab process's CPU is never a pod's CPU.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar


class ChunkLike(Protocol):
    """What a decoder makes of the payloads of one read."""

    @property
    def events(self) -> Sequence[Any]:
        """What was heard, in order."""


C = TypeVar("C", bound=ChunkLike)
Decode = Callable[[Iterable[Any]], C]  # of payloads, or of pairs of channel and payload
Handling = Sequence["asyncio.Future[Any]"]
Heard = Callable[[C, int], Handling | None]  # given a chunk and when it was read; returns what of it is still being handled, if anything


class ReadMemo(Generic[C]):
    """The chunks of recent reads, shared by all connections of this process.

    `by_channel`: whether `decode` is given pairs of channel and payload.
    """

    MAX_READS = 512
    MAX_BYTES = 64 * 1024  # of one read
    WHOLE_BYTES = 1024  # up to here the read itself is the key; hashing more costs more than comparing it

    def __init__(self, decode: Decode[C], *, by_channel: bool = False) -> None:
        self.decode = decode
        self.by_channel = by_channel
        self._chunks: dict[Any, tuple[bytes, C]] = {}
        self.last: tuple[bytes | None, C | None] = (None, None)  # the read that was asked for last, and its chunk

    def get(self, data: bytes) -> C | None:
        """Return the chunk of the same bytes, or None."""
        entry = self._chunks.get(data if len(data) <= self.WHOLE_BYTES else (data[:192], len(data)))
        if entry is None or entry[0] != data:
            return None
        self.last = (data, entry[1])
        return entry[1]

    def put(self, data: bytes, chunk: C) -> None:
        """Store the chunk of a read that held whole frames only."""
        if len(data) <= self.MAX_BYTES:
            if len(self._chunks) >= self.MAX_READS:
                self._chunks.clear()
            self._chunks[data if len(data) <= self.WHOLE_BYTES else (data[:192], len(data))] = (data, chunk)
            self.last = (data, chunk)
