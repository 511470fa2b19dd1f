"""Bytes without an envelope: what a call carries as JSON, and nothing else.

Rules
-----
1. An event's type is its channel, so what is decoded is pairs of channel and payload (`by_channel`).
2. Its identity is the hash of its type and payload. The record has that of each publish (table `identities`), and equal payloads are told
   apart offline, by their times (`sim.results.identities`). A recipe for handling once takes equal payloads for one event.
3. Who sent it, when and by which call is not told: a run cannot show the lag while it goes on.
4. The lab's own probes begin with `PROBE_MARK`.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable

import msgspec

from sim.bus.envelope import PROBE, PROBER, VERSION, Chunk, Event, read_json
from sim.bus.pointer import Pointer
from sim.record.schema import event_key, hashed_key

PROBE_MARK = b"buslab-probe "
_encoder = msgspec.json.Encoder()


class Raw:
    """What a call carries, as JSON."""

    data_at: Pointer = ()
    by_channel = True

    def __init__(self, *, channel_prefix: str) -> None:
        self._prefix = channel_prefix.encode()

    def encode(self, event: Event) -> bytes:
        """Return the event's data as bytes; a probe carries its id too."""
        if event.source == PROBER:
            return PROBE_MARK + json.dumps({"id": event.event_id, "type": event.type} | event.data).encode()
        return _encoder.encode(event.data)

    def identity(self, type: str, payload: bytes) -> int:
        """Return what tells an event from those of other types or payloads; 0 for a probe, which has an id."""
        return 0 if payload.startswith(PROBE_MARK) else hashed_key(type.encode() + b"\n" + payload)

    def decode_read(self, payloads: Iterable[tuple[bytes, bytes]]) -> Chunk:
        """Decode the events of one read; none is malformed but a probe that is not ours."""
        events: list[tuple[str, Event]] = []
        keys: list[int] = []
        malformed = 0
        for channel, payload in payloads:
            if payload.startswith(PROBE_MARK):
                try:
                    data = read_json(payload[len(PROBE_MARK) :])
                    event = Event(str(data["id"]), "", str(data["type"]), VERSION, "", PROBER, data)
                except (ValueError, KeyError, RecursionError):
                    malformed += 1
                    continue
                events.append((PROBE, event))
                keys.append(event_key(event.event_id))
                continue
            type = channel.removeprefix(self._prefix).decode("utf-8", "replace")
            key = self.identity(type, payload)
            events.append((type, Event(f"raw_{key:016x}", "", type, VERSION, "", "", {"payload": payload})))
            keys.append(key)
        return Chunk(tuple(events), array("Q", keys), malformed, 0)
