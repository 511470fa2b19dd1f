"""Events without an envelope: their type is their channel, and they are known by their content."""

from __future__ import annotations

import json

import pytest

from sim.bus.batcher import BatchRule
from sim.bus.envelope import PROBE, PROBER, Event
from sim.bus.envelopes import make_envelope
from sim.bus.node import BusNode
from sim.record.schema import FOREIGN_BIT, event_id, event_key, hashed_key

RAW = make_envelope("raw", {"channel_prefix": "shop:"})


def node(source: str = "orders") -> BusNode:
    return BusNode(source, nonce=5, publisher=9, batches={"asked": BatchRule(2, 60_000)}, wall_offset_ns=0, envelope=RAW)


def test_an_event_is_what_a_call_carries_and_pods_know_it_by_that() -> None:
    bus = node()
    one, same, other = (bus.call(kind, {"n": 1}, now_ns=1, intended_ns=1) for kind in ("order", "order", "price"))
    assert one is not None and same is not None and other is not None
    assert (json.loads(one.payload), one.event != same.event) == ({"n": 1}, True)
    assert one.identity == same.identity != other.identity and one.identity & FOREIGN_BIT
    chunk = RAW.decode_read([(b"shop:order", one.payload), (b"shop:price", other.payload), (b"shop:order", b"\xff\x00")])
    assert chunk.keys.tolist()[:2] == [one.identity, other.identity] and chunk.refused == 0
    assert [(kind, event.data["payload"]) for kind, event in chunk.events] == [
        ("order", one.payload),
        ("price", other.payload),
        ("order", b"\xff\x00"),
    ]


def test_a_batch_has_an_identity_too() -> None:
    bus = node()
    assert bus.call("asked", {"n": 1}, now_ns=1, intended_ns=1) is None
    full = bus.call("asked", {"n": 2}, now_ns=1, intended_ns=1)
    assert full is not None and RAW.identity is not None
    assert full.identity == RAW.identity("asked", full.payload) != 0


def test_a_probe_carries_its_id_and_a_broken_one_is_malformed() -> None:
    probe = node(PROBER).publish("order", {"round": 3}, now_ns=1, intended_ns=1, items=0)
    chunk = RAW.decode_read(
        [(b"shop:order", probe.payload), (b"shop:order", b"buslab-probe nonsense"), (b"shop:order", b"buslab-probe {}")]
    )
    assert (chunk.malformed, chunk.keys.tolist(), probe.identity) == (2, [probe.event], 0)
    kind, event = chunk.events[0]
    assert (kind, event.event_id, event.type, event.data["round"]) == (PROBE, event_id(probe.event), "order", 3)


@pytest.mark.parametrize("kind", ["aiponge", "cloudevents", "plain"])
def test_an_event_that_has_an_id_needs_no_other(kind: str) -> None:
    envelope = make_envelope(kind, {})
    assert not envelope.by_channel and envelope.identity is None


def test_an_event_without_an_envelope_has_only_its_type_and_bytes() -> None:
    payload = b'{"n":1}'
    key = hashed_key(b"order\n" + payload)
    ((kind, heard),) = RAW.decode_read([(b"shop:order", payload)]).events
    assert (kind, heard) == ("order", Event(f"raw_{key:016x}", "", "order", "1.0", "", "", {"payload": payload}))
    assert RAW.identity is not None and RAW.identity("order", payload) == key and RAW.data_at == ()
    others = RAW.decode_read([(b"other", b"x"), (b"shop:\xff", b"x")])
    assert [kind for kind, _ in others.events] == ["other", "\ufffd"] and (others.malformed, others.unsupported) == (0, 0)


def test_a_probe_is_written_with_its_id_and_type_and_none_takes_another_with_it() -> None:
    probe = Event("evt_7", "cor_1", "order", "1.0", "now", PROBER, {"round": 3})
    payload = RAW.encode(probe)
    assert payload == b'buslab-probe {"id": "evt_7", "type": "order", "round": 3}'
    chunk = RAW.decode_read(
        [(b"shop:a", b"buslab-probe [" * 9), (b"shop:a", payload), (b"shop:a", b'buslab-probe {"id": 1}'), (b"shop:a", b"x")]
    )
    data = {"id": "evt_7", "type": "order", "round": 3}
    assert chunk.events[0] == (PROBE, Event("evt_7", "", "order", "1.0", "", PROBER, data))
    assert [kind for kind, _ in chunk.events] == [PROBE, "a"] and (chunk.malformed, chunk.unsupported) == (2, 0)
    assert chunk.keys[0] == event_key("evt_7") and len(chunk.keys) == 2
