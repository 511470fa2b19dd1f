"""CloudEvents 1.0 in structured JSON: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md.

Rules
-----
1. `specversion` 1.0 is written and read; another one is unsupported.
2. The service is the `source`, a URI reference, so what cannot stand in one is percent-encoded; a foreign one is taken as it is.
3. The correlation id travels as the extension `correlationid`; it may be missing. Other extensions are not kept.
4. `data` that is no object is ``{"value": data}`` to a handler, `data_base64` ``{"base64": …}``, and none is ``{}``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from sim.bus.envelope import VERSION, Chunk, Event, chunk_of, read_json
from sim.bus.pointer import Pointer
from sim.errors import UnsupportedVersion

SPEC_VERSION = "1.0"
_SAFE = "/:@!$&'()*+,;=-._~"
_encoder = msgspec.json.Encoder()


class _Written(msgspec.Struct, frozen=True, gc=False):
    """What is written: the id first, as the receive path tells reads apart by their first bytes."""

    id: str
    specversion: str
    type: str
    source: str
    time: str
    correlationid: str
    datacontenttype: str
    data: dict[str, Any]


class _Read(msgspec.Struct, frozen=True, gc=False):
    """What is read of any CloudEvent; other attributes are left out."""

    id: str
    specversion: str
    type: str
    source: str
    time: str | None = None
    correlationid: str | None = None
    data: Any = None
    data_base64: str | None = None


_decoder = msgspec.json.Decoder(_Read)


class CloudEvents:
    """CloudEvents 1.0, structured JSON."""

    data_at: Pointer = ("data",)
    by_channel = False
    identity = None  # an event has its id

    def encode(self, event: Event) -> bytes:
        """Return the event as bytes."""
        source = quote(event.source, safe=_SAFE)
        return _encoder.encode(
            _Written(
                event.event_id, SPEC_VERSION, event.type, source, event.timestamp, event.correlation_id, "application/json", event.data
            )
        )

    def decode_read(self, payloads: Iterable[bytes]) -> Chunk:
        """Decode the events of one read."""
        return chunk_of(payloads, _decode)


def _decode(payload: bytes) -> Event:
    try:
        read = _decoder.decode(payload)
    except msgspec.MsgspecError:  # JavaScript reads more; and an event of another version may have other attributes
        fields = read_json(payload)
        version = fields.get("specversion")
        if isinstance(version, str) and version != SPEC_VERSION:
            raise _unsupported(version) from None
        read = msgspec.convert(fields, _Read)
    if read.specversion != SPEC_VERSION:
        raise _unsupported(read.specversion)
    if not (read.id and read.type and read.source):
        raise ValueError("id, type and source of a CloudEvent are not empty")
    data = read.data
    if not isinstance(data, dict):
        data = {"value": data} if data is not None else {"base64": read.data_base64} if read.data_base64 is not None else {}
    return Event(read.id, read.correlationid or "", read.type, VERSION, read.time or "", unquote(read.source), data)


def _unsupported(version: str) -> UnsupportedVersion:
    return UnsupportedVersion(f"specversion {version[:40]!r} is not read here; publish {SPEC_VERSION}")
