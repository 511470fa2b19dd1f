"""The event as it travels: its fields, its channel, and how it becomes bytes and back.

The field order is fixed and starts with the event id: the receive path tells reads apart by their first bytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from sim.schema import event_key

VERSION = "1.0"
EVENT_TYPES = (
    "analytics.events.batch",
    "analytics.metric.recorded",
    "analytics.provider.usage",
    "config.template.invalidated",
    "config.provider.invalidated",
    "config.cache.invalidate",
)
BATCH = EVENT_TYPES[0]
CHANNEL_PREFIX = "aiponge:events:"
PROBER = "buslab"  # source of probes: events on the real channels that prove who hears
PROBE = "probe"

_CORRELATION_PREFIX = "cor_"
_MS = 1_000_000


class Event(msgspec.Struct, rename="camel", frozen=True, gc=False):
    """One event, with the reference's fields."""

    event_id: str
    correlation_id: str
    type: str
    version: str
    timestamp: str
    source: str
    data: dict[str, Any]


class Chunk:
    """Hold the events of one read from a socket, in order: parsed once, heard by many pods.

    Attributes
    ----------
    events
        (event type, or `PROBE` for a probe; the event), so that a handler is one look-up away.
    keys
        Event keys, in the same order.
    malformed
        Payloads that were no event.
    """

    __slots__ = ("events", "keys", "malformed")

    def __init__(self, events: tuple[tuple[str, Event], ...], keys: array[int], malformed: int) -> None:
        self.events = events
        self.keys = keys
        self.malformed = malformed


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)


def encode(event: Event) -> bytes:
    """Return the envelope as UTF-8 JSON."""
    return _encoder.encode(event)


def decode(payload: bytes) -> Event:
    """Return the event in an envelope.

    Raises
    ------
    ValueError
        Not JSON, not UTF-8, a field missing or of the wrong type.
    """
    try:
        return _decoder.decode(payload)
    except msgspec.ValidationError:  # the common envelope is decoded once; any other pays for a second look
        return _decode_uncommon(payload)


def _decode_uncommon(payload: bytes) -> Event:
    """Decode the reference's own envelope, which has no correlation id."""
    fields = msgspec.json.decode(payload)
    if not isinstance(fields, dict):
        raise ValueError("an envelope is a JSON object")
    return msgspec.convert({"correlationId": "", **fields}, Event)


def decode_read(payloads: Iterable[bytes]) -> Chunk:
    """Decode the envelopes of one read; malformed ones are counted and left out."""
    events = []
    malformed = 0
    for payload in payloads:
        try:
            events.append(decode(payload))
        except (ValueError, RecursionError):  # JSON nested a thousand deep is another program's doing
            malformed += 1
    keys = array("Q", [event_key(event.event_id) for event in events])
    return Chunk(tuple((PROBE if event.source == PROBER else event.type, event) for event in events), keys, malformed)


def correlation_id(intended_ns: int) -> str:
    """Return a correlation id that carries the call's intended time, for the live view of lag."""
    return f"{_CORRELATION_PREFIX}{intended_ns:x}"


def intended_ns(correlation_id: str) -> int | None:
    """Return the intended time in a correlation id of `correlation_id`, or None for any other."""
    if not correlation_id.startswith(_CORRELATION_PREFIX):
        return None
    try:
        return int(correlation_id[len(_CORRELATION_PREFIX) :], 16)
    except ValueError:
        return None


def iso_timestamp(wall_ns: int) -> str:
    """Return nanoseconds since 1970 as ISO 8601 in UTC with milliseconds, as JavaScript prints it."""
    seconds, rest_ns = divmod(wall_ns, 1_000_000_000)
    return f"{_iso_second(seconds)}.{rest_ns // _MS:03d}Z"


_second_cache: tuple[int, str] = (-1, "")


def _iso_second(seconds: int) -> str:
    global _second_cache
    if _second_cache[0] != seconds:
        _second_cache = (seconds, datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S"))
    return _second_cache[1]
