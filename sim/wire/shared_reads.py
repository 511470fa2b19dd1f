"""What several subscribers of a tap were sent the same bytes of is parsed once."""

from __future__ import annotations

from typing import Any

from sim.wire.tap_rows import Push


class SharedReads:
    """What recent reads held that were whole messages only: the same PUBLISH reaches every subscriber as the same bytes."""

    MAX_READS = 1024
    MAX_BYTES = 64 * 1024  # of one read
    WHOLE_BYTES = 1024  # up to here the read itself is the key; hashing more costs more than comparing it

    def __init__(self) -> None:
        self._reads: dict[Any, tuple[bytes, tuple[Push, ...]]] = {}
        self._last: tuple[bytes, tuple[Push, ...]] = (b"", ())

    def get(self, data: bytes) -> tuple[Push, ...] | None:
        """Return the messages of the same bytes, or None."""
        if data == self._last[0]:
            return self._last[1]
        found = self._reads.get(data if len(data) <= self.WHOLE_BYTES else (data[:192], data[-64:], len(data)))
        return found[1] if found is not None and found[0] == data else None

    def put(self, data: bytes, pushes: tuple[Push, ...]) -> None:
        """Keep the messages of a read."""
        if len(data) <= self.MAX_BYTES:
            if len(self._reads) >= self.MAX_READS:
                self._reads.clear()
            self._last = (data, pushes)
            self._reads[data if len(data) <= self.WHOLE_BYTES else (data[:192], data[-64:], len(data))] = self._last
