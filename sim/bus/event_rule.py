"""How an event of a program that is not ours is known: by a rule on its bytes, the same for who publishes and who hears.

Rules
-----
1. An id at the pointer (text or a number, as `sim.bus.envelopes.plain` reads it) is the event's. Its key is that of any event id
   (`sim.record.schema.event_key`), so what the lab's own pods hear of the same event has the same key.
2. What has none, and a payload of more than the tap keeps, is known by the hash of its channel and payload (as with the envelope `raw`).
   Equal payloads then have one hash; who keeps the books numbers the publishes and tells them apart by their order.
3. The lab's own probes are known by their id, whatever the envelope.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec

from sim.bus.envelopes.raw import PROBE_MARK
from sim.bus.pointer import Pointer, find, parse_pointer
from sim.record.schema import FOREIGN_BIT, event_key, hashed_key

ID_POINTERS: dict[str, str] = {"aiponge": "/eventId", "cloudevents": "/id", "plain": "/id", "raw": ""}  # envelope -> where its id stands


class EventRule:
    """The identity of events by a JSON pointer, or by their hash.

    Parameters
    ----------
    pointer
        Where the id stands, as ``/eventId``; empty: events have none.
    channel_prefix
        What is left out of a channel to have the event's type.

    Raises
    ------
    ValueError
        It is no JSON pointer.
    """

    def __init__(self, pointer: str = "", *, channel_prefix: str = "") -> None:
        self._prefix = channel_prefix.encode()
        self._pointer = parse_pointer(pointer)
        self._decode = _quick_decoder(self._pointer)

    def key(self, channel: bytes, payload: bytes) -> tuple[int, bool]:
        """Return the key by which an event is known, and whether that is a hash which others may share."""
        if self._pointer:
            try:
                found = self._decode(payload)
            except (ValueError, RecursionError):
                found = None
            if type(found) is str and found:
                return event_key(found), False
            if isinstance(found, int | float) and not isinstance(found, bool):
                return event_key(str(found)), False
        if payload.startswith(PROBE_MARK):
            try:
                return event_key(str(msgspec.json.decode(payload[len(PROBE_MARK) :])["id"])), False
            except (ValueError, KeyError, TypeError):
                pass
        return hashed_key(channel.removeprefix(self._prefix) + b"\n" + payload), True

    def begin(self, channel: bytes) -> Any:
        """Return the hash of a payload that is not kept, to be fed with it."""
        return hashlib.blake2b(channel.removeprefix(self._prefix) + b"\n", digest_size=8)

    def key_of_long(self, hash: Any) -> int:
        """Return the key of such a payload, as `key` would of the same bytes by their hash."""
        return int.from_bytes(hash.digest(), "big") | FOREIGN_BIT


def _quick_decoder(pointer: Pointer) -> Callable[[bytes], Any]:
    """Return what reads the id out of a payload without making objects of the rest of it."""
    whole = msgspec.json.Decoder()

    def slow(payload: bytes) -> Any:
        return find(pointer, whole.decode(payload))

    if not pointer or any(name.isdigit() for name in pointer):
        return slow
    kind: Any = str | int | float | None
    for name in reversed(pointer):
        kind = msgspec.defstruct("At", [("at", kind, None)], rename={"at": name}, gc=False)
    read = msgspec.json.Decoder(kind).decode
    deep = range(len(pointer) - 1)

    def decode(payload: bytes) -> Any:
        try:
            found = read(payload).at
        except msgspec.MsgspecError:
            return slow(payload)
        for _ in deep:
            if found is None:
                return None
            found = found.at
        return found

    return decode
