"""The reference's envelope, whose functions are in `sim.bus.envelope`."""

from __future__ import annotations

from collections.abc import Iterable

from sim.bus.envelope import Chunk, Event, decode_read, encode
from sim.bus.pointer import Pointer


class Aiponge:
    """The reference's JSON: eventId, correlationId, type, version (1 or 1.N are read), timestamp, source, data."""

    data_at: Pointer = ("data",)
    by_channel = False
    identity = None  # an event has its id

    def encode(self, event: Event) -> bytes:
        """Return the event as bytes; half a pair of surrogates is refused."""
        return encode(event, strict=True)

    def decode_read(self, payloads: Iterable[bytes]) -> Chunk:
        """Decode the events of one read."""
        return decode_read(payloads)
