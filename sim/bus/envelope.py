"""The event as it travels: its fields, its channel, and how it becomes bytes and back.

Rules
-----
1. The field order is fixed and starts with the event id: the receive path tells reads apart by their first bytes.
2. Schema versions ``1`` and ``1.N`` are read. Another one is *unsupported*: refused and counted apart from *malformed*, which is
   what is no envelope at all. An envelope of a newer schema may have other fields, so its version is looked at first.
3. A field that this version does not know is kept in `Event.extra`, and written again after the known ones.
4. What JSON.parse reads is read, as the reference's pods do: half a pair of surrogates in any text, numbers beyond 64 bits, a name that
   comes twice (the last one counts), and null for the one field that may be missing. Bytes that are not UTF-8, a byte order mark and
   JSON nested deeper than Python's stack are malformed. The common envelope goes through one decoder and pays nothing for this.
"""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from sim.errors import NotEncodable, UnsupportedVersion
from sim.record.schema import event_key

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
ANALYTICS = frozenset(kind for kind in EVENT_TYPES if kind.startswith("analytics."))
CHANNEL_PREFIX = "aiponge:events:"
PROBER = "buslab"  # source of probes: events on the real channels that prove who hears
PROBE = "probe"

_CORRELATION_PREFIX = "cor_"
_MS = 1_000_000
MAX_DIGITS = 19  # of a whole number of an envelope that msgspec does not read
_SUPPORTED = re.compile(r"1(\.[0-9]{1,9})?", re.ASCII)


class Event(msgspec.Struct, rename="camel", frozen=True, gc=False, forbid_unknown_fields=True):
    """One event, with the reference's fields."""

    event_id: str
    correlation_id: str
    type: str
    version: str
    timestamp: str
    source: str
    data: dict[str, Any]

    @property
    def extra(self) -> dict[str, Any]:
        """Fields of the envelope that this version does not know; empty for all but an `ExtendedEvent`."""
        return {}


class ExtendedEvent(Event, rename="camel", frozen=True, gc=False, forbid_unknown_fields=True):
    """One event with fields that this version does not know, in the order in which they came."""

    extra: dict[str, Any]  # stored here only: a plain event has no unknown field to keep


class Chunk:
    """The events of one read from a socket, in order: parsed once, heard by many pods.

    Attributes
    ----------
    events
        (event type, or `PROBE` for a probe; the event), so that a handler is one look-up away.
    keys
        Event keys, in the same order.
    malformed, unsupported
        Payloads that were no event, and those of a schema version that is not read here.
    refused
        Their sum.
    """

    __slots__ = ("events", "keys", "malformed", "refused", "unsupported")

    def __init__(self, events: tuple[tuple[str, Event], ...], keys: array[int], malformed: int, unsupported: int) -> None:
        self.events = events
        self.keys = keys
        self.malformed = malformed
        self.unsupported = unsupported
        self.refused = malformed + unsupported


_FIELDS = tuple(field.encode_name for field in msgspec.structs.fields(Event))
_NAMES = tuple(zip(_FIELDS, Event.__struct_fields__, strict=True))  # in the envelope, and here
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)


def encode(event: Event, *, strict: bool = False) -> bytes:
    """Return the envelope as UTF-8 JSON.

    Parameters
    ----------
    strict
        Whether half a pair of surrogates raises `UnicodeEncodeError`: it is no text. Else it is written as an escape, as JavaScript does.
    """
    try:
        if type(event) is Event:
            return _encoder.encode(event)
        known = Event(*(getattr(event, name) for name in Event.__struct_fields__))
        extra = {name: value for name, value in event.extra.items() if name not in _FIELDS}
        return _encoder.encode(known)[:-1] + b"," + _encoder.encode(extra)[1:] if extra else _encoder.encode(known)
    except UnicodeEncodeError:
        if strict:
            raise
    fields = {field: getattr(event, name) for field, name in _NAMES}
    return json.dumps(_finite({**event.extra, **fields}), separators=(",", ":")).encode()


def encode_item(item: dict[str, Any]) -> msgspec.Raw:
    """Return one analytics item as JSON that stands in a batch as it is, so that a bad item is found before it joins one.

    Raises
    ------
    NotEncodable
        It is no object, or holds what JSON cannot.
    """
    if not isinstance(item, dict):
        raise NotEncodable(f"an item is {type(item).__name__}, not an object; give a dict")
    try:
        return msgspec.Raw(_encoder.encode(item))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise NotEncodable(f"an item cannot become JSON: {error}") from None


def is_supported(version: str) -> bool:
    """Return whether events of this schema version are read here."""
    return version == VERSION or _SUPPORTED.fullmatch(version) is not None


def decode(payload: bytes) -> Event:
    """Return the event in an envelope.

    Raises
    ------
    UnsupportedVersion
        Its schema version is not read here.
    ValueError, RecursionError
        Not JSON, not UTF-8, a field missing or of the wrong type, or nested too deep.
    """
    try:
        event = _decoder.decode(payload)
    except msgspec.MsgspecError:  # the common envelope is decoded once; any other pays for a second look
        return _decode_uncommon(payload)
    if event.version != VERSION and not is_supported(event.version):
        raise _unsupported(event.version)
    return event


def read_json(payload: bytes) -> dict[str, Any]:
    """Return the JSON object in a payload, read as JavaScript reads it.

    Raises
    ------
    ValueError, RecursionError
        Not JSON, not UTF-8, no object, or nested too deep.
    """
    try:
        fields = msgspec.json.decode(payload)
    except msgspec.MsgspecError:  # half a pair of surrogates in a text, a number beyond 64 bits: JavaScript reads them
        fields = _parse(payload.decode())
    if not isinstance(fields, dict):
        raise ValueError("an envelope is a JSON object")
    return fields


def _decode_uncommon(payload: bytes) -> Event:
    fields = read_json(payload)
    if fields.get("correlationId") is None:
        fields.pop("correlationId", None)
    version = fields.get("version")
    if isinstance(version, str) and not is_supported(version):
        raise _unsupported(version)
    known = {"correlationId": ""} | {name: fields.pop(name) for name in _FIELDS if name in fields}  # the reference's own has none
    return msgspec.convert({**known, "extra": fields}, ExtendedEvent) if fields else msgspec.convert(known, Event)


def _whole_number(text: str) -> int | float:
    """Return a whole number as JavaScript has it: beyond 64 bits it is a float."""
    return int(text) if len(text) < MAX_DIGITS else float(text)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_parse = json.JSONDecoder(parse_int=_whole_number, parse_constant=_no_constant).decode


def _finite(value: Any) -> Any:
    """Return the value with null for a number that is too large for JSON, as JavaScript writes it."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _unsupported(version: str) -> UnsupportedVersion:
    return UnsupportedVersion(f"schema version {version[:40]!r} is not read here; publish 1 or 1.N")


def decode_read(payloads: Iterable[bytes]) -> Chunk:
    """Decode the envelopes of one read; malformed and unsupported ones are counted and left out."""
    events = []
    malformed = unsupported = 0
    decode_common = _decoder.decode
    for payload in payloads:
        try:
            event = decode_common(payload)
            if event.version != VERSION and not is_supported(event.version):
                unsupported += 1
                continue
        except (ValueError, RecursionError) as error:  # another program may send JSON nested a thousand deep
            if not isinstance(error, msgspec.MsgspecError):
                malformed += 1
                continue
            try:
                event = _decode_uncommon(payload)
            except UnsupportedVersion:
                unsupported += 1
                continue
            except (ValueError, RecursionError):
                malformed += 1
                continue
        events.append((PROBE if event.source == PROBER else event.type, event))
    return _chunk(events, malformed, unsupported)


def chunk_of(payloads: Iterable[bytes], read: Callable[[bytes], Event]) -> Chunk:
    """Return what one read holds, by a function that returns the event of a payload and raises as `decode` does."""
    events = []
    malformed = unsupported = 0
    for payload in payloads:
        try:
            event = read(payload)
        except UnsupportedVersion:
            unsupported += 1
        except (ValueError, RecursionError):
            malformed += 1
        else:
            events.append((PROBE if event.source == PROBER else event.type, event))
    return _chunk(events, malformed, unsupported)


def _chunk(events: list[tuple[str, Event]], malformed: int, unsupported: int) -> Chunk:
    keys = array("Q", [event_key(event.event_id) for _, event in events])
    return Chunk(tuple(events), keys, malformed, unsupported)


def correlation_id(intended_ns: int) -> str:
    """Return a correlation id that carries the call's intended time, for the live view of lag."""
    return f"{_CORRELATION_PREFIX}{intended_ns:x}"


def intended_ns(correlation_id: str) -> int | None:
    """Return the intended time in a correlation id of `correlation_id`, or None for any other."""
    if not correlation_id.startswith(_CORRELATION_PREFIX):
        return None
    digits = correlation_id[len(_CORRELATION_PREFIX) :]
    try:
        return int(digits, 16) if len(digits) <= 16 and digits.isalnum() else None
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
