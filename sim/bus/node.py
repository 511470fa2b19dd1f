"""What one publisher of the bus decides: event ids, batching, envelopes. Stimuli in, `Send` instructions out.

A driver calls a method with the time, carries out the instructions it returns, and calls `tick` no later than `due_ns`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import msgspec

from sim.bus.batcher import Batch, Batcher, BatchRule
from sim.bus.cache import NAMING, subject_of
from sim.bus.envelope import VERSION, Event, correlation_id, encode_item, iso_timestamp
from sim.bus.envelopes import AIPONGE, Envelope
from sim.bus.key_caches import KeyRule, named_key
from sim.bus.pointer import Pointer, key_at
from sim.errors import NotEncodable
from sim.record.schema import compose_key, event_id


class Send(msgspec.Struct, frozen=True, gc=False):
    """An instruction to the driver: publish one encoded event.

    Attributes
    ----------
    event
        Event key.
    items
        Calls of the application that it carries; 0 for a probe.
    first_item_ns, items_wait_ns, intended_ns, subject, stamped_ns
        As in the `publishes` table.
    keys
        The business key of each of its calls, where its channel has one.
    identity
        As in the `identities` table; 0 of an event that carries its id.
    """

    event: int
    type: str
    payload: bytes
    items: int
    first_item_ns: int
    items_wait_ns: int
    intended_ns: int
    subject: str = ""
    stamped_ns: int = 0
    keys: tuple[str, ...] = ()
    identity: int = 0


class BusNode:
    """The decisions of one publisher: one connection, one sequence of events, one part-full batch of each batched event type.

    Parameters
    ----------
    source
        The service, as it stands in the envelope.
    nonce, publisher
        The upper parts of its event keys.
    batches
        Event type -> the rule by which its items become a batch; any other call is an event of its own.
    wall_offset_ns
        Wall clock minus `now_ns`, for the envelope's timestamp.
    keys
        Event type -> where in the data of a call its business key stands.
    cache_keys
        Event type -> which key of a cache its events name, beside those of the reference.
    envelope
        How events become bytes.

    Attributes
    ----------
    due_ns
        When `tick` must be called, or None.
    skew_ns
        How far the wall clock is ahead of the true time.
    waiting_keys
        The business keys of the items that wait, by event type; a list is never used for a second batch.
    """

    def __init__(
        self,
        source: str,
        *,
        nonce: int,
        publisher: int,
        batches: Mapping[str, BatchRule],
        wall_offset_ns: int,
        keys: Mapping[str, Pointer] = MappingProxyType({}),
        cache_keys: Mapping[str, KeyRule] = MappingProxyType({}),
        envelope: Envelope = AIPONGE,
    ) -> None:
        self.source = source
        self._write = envelope.encode
        self._identity = envelope.identity
        self.batchers = {type: Batcher(size=rule.size, interval_ms=rule.interval_ms) for type, rule in batches.items()}
        self._first_key = compose_key(nonce=nonce, publisher=publisher, sequence=0)
        self._sequence = 0
        self.due_ns: int | None = None
        self._wall_offset_ns = wall_offset_ns
        self.skew_ns = 0
        self._pointers = dict(keys)
        self._subjects: dict[str, Callable[[dict[str, Any]], str]] = {type: partial(subject_of, type) for type in NAMING}
        self._subjects |= {type: partial(named_key, rule) for type, rule in cache_keys.items()}
        self.waiting_keys: dict[str, list[str]] = {type: [] for type in self.batchers if type in self._pointers}

    def wall_ns(self, now_ns: int) -> int:
        """Return what the pod's wall clock shows, in nanoseconds since 1970."""
        return now_ns + self._wall_offset_ns + self.skew_ns

    def call(self, type: str, data: dict[str, Any], *, now_ns: int, intended_ns: int) -> Send | None:
        """Take one call of the application: an analytics item goes into the batch, anything else is an event of its own.

        Raises
        ------
        NotEncodable
            `data` is no object or holds what JSON cannot. Nothing has changed: the batch goes on without it.
        """
        if (batcher := self.batchers.get(type)) is not None:
            item = encode_item(data)
            if (waiting := self.waiting_keys.get(type)) is not None:
                waiting.append(key_at(self._pointers[type], data))
            batch = batcher.add(item, intended_ns=intended_ns)
            if batch is None:
                if len(batcher) == 1:
                    self._set_due()
                return None
            return self._send_batch(type, batch, now_ns)
        return self.publish(type, data, now_ns=now_ns, intended_ns=intended_ns)

    def publish(self, type: str, data: dict[str, Any], *, now_ns: int, intended_ns: int, items: int = 1) -> Send:
        """Return the instruction to publish one event now; raises as `call` does."""
        if not isinstance(data, dict):
            raise NotEncodable(f"an event's data is {data.__class__.__name__}, not an object; give a dict")
        key, payload = self._encode(type, data, now_ns, intended_ns)
        pointer = self._pointers.get(type)
        keys = () if pointer is None else (key_at(pointer, data),)
        names = self._subjects.get(type)
        return Send(
            key,
            type,
            payload,
            items,
            intended_ns,
            0,
            intended_ns,
            "" if names is None else names(data),
            now_ns + self.skew_ns,
            keys,
            self._known_by(type, payload),
        )

    def tick(self, now_ns: int) -> Send | None:
        """Return a batch whose time has come, if any; there may be more."""
        for type, batcher in self.batchers.items():
            if (batch := batcher.tick(now_ns)) is not None:
                return self._send_batch(type, batch, now_ns)
        return None

    def flush(self, now_ns: int) -> Send | None:
        """Return a part-full batch whatever its age, if any; there may be more."""
        for type, batcher in self.batchers.items():
            if (batch := batcher.flush(now_ns)) is not None:
                return self._send_batch(type, batch, now_ns)
        return None

    def _set_due(self) -> None:
        self.due_ns = min((due_ns for one in self.batchers.values() if (due_ns := one.due_ns) is not None), default=None)

    def _send_batch(self, type: str, batch: Batch, now_ns: int) -> Send:
        self._set_due()
        key, payload = self._encode(type, {"events": batch.items}, now_ns, batch.intended_ns)
        times = (batch.first_item_ns, batch.items_wait_ns, batch.intended_ns)
        keys: tuple[str, ...] = ()
        if type in self.waiting_keys:
            keys, self.waiting_keys[type] = tuple(self.waiting_keys[type]), []
        return Send(
            key,
            type,
            payload,
            len(batch.items),
            *times,
            stamped_ns=now_ns + self.skew_ns,
            keys=keys,
            identity=self._known_by(type, payload),
        )

    def _known_by(self, type: str, payload: bytes) -> int:
        return 0 if self._identity is None else self._identity(type, payload)

    def _encode(self, type: str, data: dict[str, Any], now_ns: int, intended_ns: int) -> tuple[int, bytes]:
        key = self._first_key + self._sequence
        timestamp = iso_timestamp(now_ns + self._wall_offset_ns + self.skew_ns)
        event = Event(event_id(key), correlation_id(intended_ns), type, VERSION, timestamp, self.source, data)
        try:
            payload = self._write(event)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise NotEncodable(f"an event of type {type!r} cannot become JSON: {error}") from None
        self._sequence += 1  # after encoding, so that the sequence has no gap
        return key, payload
