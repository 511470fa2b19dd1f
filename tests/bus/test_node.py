"""The bus node: stimuli in, instructions out."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.bus.batcher import BatchRule
from sim.bus.envelope import BATCH, EVENT_TYPES, decode, intended_ns
from sim.bus.node import BusNode, Send
from sim.errors import NotEncodable
from sim.record.schema import compose_key, event_id, event_key
from tests.support.reference import batches

OTHER = "config.cache.invalidate"
DEEP: list[Any] = []
DEEP.append(DEEP)


def node(*, batch_size: int = 3, wall_offset_ns: int = 0) -> BusNode:
    return BusNode("music-service", nonce=5, publisher=9, batches=batches(batch_size, 100), wall_offset_ns=wall_offset_ns)


def test_an_event_of_another_type_leaves_at_once_and_does_not_disturb_the_batch() -> None:
    bus = node()
    assert bus.call(BATCH, {"eventType": "a"}, now_ns=10, intended_ns=1) is None
    send = bus.call(OTHER, {"pattern": "*"}, now_ns=20, intended_ns=15)
    assert send is not None
    assert (send.type, send.items, send.first_item_ns, send.items_wait_ns, send.intended_ns) == (OTHER, 1, 15, 0, 15)
    assert bus.due_ns == 1 + 100_000_000


def test_a_full_batch_leaves_as_one_event_with_its_items_in_order() -> None:
    bus = node()
    sends = [bus.call(BATCH, {"n": n}, now_ns=50, intended_ns=10 * n) for n in range(3)]
    assert sends[:2] == [None, None]
    send = sends[2]
    assert send is not None
    assert (send.items, send.first_item_ns, send.items_wait_ns, send.intended_ns) == (3, 0, 20 + 10, 20)
    event = decode(send.payload)
    assert event.data == {"events": [{"n": 0}, {"n": 1}, {"n": 2}]}
    assert (event.type, event.source, intended_ns(event.correlation_id)) == (BATCH, "music-service", 20)


BAD: list[Any] = [{"n": object()}, {"n": "\ud800"}, {("a",): 1}, [1], 7, None, "text", {"deep": DEEP}]


@pytest.mark.parametrize(
    "bad", BAD, ids=("an object", "half a character", "a key that is none", "a list", "a number", "null", "a text", "deep")
)
def test_an_item_that_cannot_be_encoded_leaves_the_batch_and_the_sequence_as_they_were(bad: Any) -> None:
    bus = node()
    assert bus.call(BATCH, {"n": 1}, now_ns=1, intended_ns=1) is None
    for kind in (BATCH, OTHER):
        with pytest.raises(NotEncodable):
            bus.call(kind, bad, now_ns=2, intended_ns=2)
    assert bus.call(BATCH, {"n": 2}, now_ns=3, intended_ns=3) is None
    send = bus.call(BATCH, {"n": 3}, now_ns=4, intended_ns=4)
    assert send is not None
    assert decode(send.payload).data == {"events": [{"n": 1}, {"n": 2}, {"n": 3}]}
    assert send.event == compose_key(nonce=5, publisher=9, sequence=0)


def test_an_item_is_published_as_it_was_when_it_was_recorded() -> None:
    bus = node()
    item = {"n": 1}
    bus.call(BATCH, item, now_ns=1, intended_ns=1)
    item["n"] = 2
    send = bus.flush(2)
    assert send is not None
    assert decode(send.payload).data == {"events": [{"n": 1}]}


def test_ticks_and_flushes_of_an_empty_node_send_nothing() -> None:
    assert (node().tick(10**18), node().flush(10**18), node().due_ns) == (None, None, None)


@given(st.lists(st.sampled_from([*EVENT_TYPES, BATCH, "tick", "flush"]), max_size=60))
def test_event_keys_rise_by_one_and_stand_in_the_envelope(stimuli: list[str]) -> None:
    bus, sends = node(), list[Send]()
    for now_ns, what in enumerate(stimuli):
        if what in ("tick", "flush"):
            send = bus.tick(now_ns + 10**12) if what == "tick" else bus.flush(now_ns)
        else:
            send = bus.call(what, {"now": now_ns}, now_ns=now_ns, intended_ns=now_ns)
        sends += [send] if send else []
    assert [send.event for send in sends] == [compose_key(nonce=5, publisher=9, sequence=n) for n in range(len(sends))]
    assert [event_key(decode(send.payload).event_id) for send in sends] == [send.event for send in sends]
    assert sum(send.items for send in sends) + sum(map(len, bus.batchers.values())) == sum(what in EVENT_TYPES for what in stimuli)


WALL_NS = 1_700_000_000_000_000_000
KEY = compose_key(nonce=5, publisher=9, sequence=0)


def envelope(key: int, kind: str, *, intended: int, timestamp: str, data: str) -> bytes:
    head = f'{{"eventId":"{event_id(key)}","correlationId":"cor_{intended:x}","type":"{kind}","version":"1.0","timestamp":"{timestamp}"'
    return f'{head},"source":"music-service","data":{data}}}'.encode()


def test_an_instruction_to_send_an_event_is_all_that_travels_and_all_that_is_recorded() -> None:
    bus = node(wall_offset_ns=WALL_NS)
    kind, now_ns = "config.template.invalidated", 5_000_000
    assert bus.wall_ns(now_ns) == WALL_NS + now_ns
    bus.skew_ns = 2_000_000
    assert bus.wall_ns(now_ns) == WALL_NS + now_ns + 2_000_000
    payload = envelope(KEY, kind, intended=4, timestamp="2023-11-14T22:13:20.007Z", data='{"templateId":"t1"}')
    sent = Send(KEY, kind, payload, 1, 4, 0, 4, "aiponge:cache:templates:t1", 7_000_000)
    assert bus.call(kind, {"templateId": "t1"}, now_ns=now_ns, intended_ns=4) == sent
    probe = bus.publish(OTHER, {"round": 1}, now_ns=now_ns, intended_ns=6, items=0)
    payload = envelope(KEY + 1, OTHER, intended=6, timestamp="2023-11-14T22:13:20.007Z", data='{"round":1}')
    assert probe == Send(KEY + 1, OTHER, payload, 0, 6, 0, 6, "", 7_000_000)


@pytest.mark.parametrize("leaves", ["full", "due", "flushed"])
def test_an_instruction_to_send_a_batch_has_the_times_of_its_items_and_the_clock_of_its_leaving(leaves: str) -> None:
    bus = node(wall_offset_ns=WALL_NS, batch_size=2 if leaves == "full" else 3)
    bus.skew_ns = -1_000_000
    assert bus.call(BATCH, {"n": 0}, now_ns=4, intended_ns=3) is None
    send = bus.call(BATCH, {"n": 1}, now_ns=8_000_000, intended_ns=7)
    intended = 7
    if leaves == "due":
        send, intended = bus.tick(100_000_003), 100_000_003
    if leaves == "flushed":
        send = bus.flush(6)  # by a clock that is behind: no item leaves before it was meant
    stamped_ns = {"full": 7_000_000, "due": 99_000_003, "flushed": -999_994}[leaves]
    timestamp = {"full": "2023-11-14T22:13:20.007Z", "due": "2023-11-14T22:13:20.099Z", "flushed": "2023-11-14T22:13:19.999Z"}[leaves]
    payload = envelope(KEY, BATCH, intended=intended, timestamp=timestamp, data='{"events":[{"n":0},{"n":1}]}')
    assert send == Send(KEY, BATCH, payload, 2, 3, (intended - 3) + (intended - 7), intended, "", stamped_ns)


@pytest.mark.parametrize(
    ("kind", "bad", "said"),
    [
        (BATCH, [1], "an item is list, not an object; give a dict"),
        (BATCH, {"n": object()}, "an item cannot become JSON: Encoding objects of type object is unsupported"),
        (OTHER, [1], "an event's data is list, not an object; give a dict"),
        (OTHER, {"n": object()}, f"an event of type '{OTHER}' cannot become JSON: Encoding objects of type object is unsupported"),
    ],
)
def test_what_cannot_be_encoded_is_said_in_one_sentence(kind: str, bad: Any, said: str) -> None:
    with pytest.raises(NotEncodable) as refused:
        node().call(kind, bad, now_ns=1, intended_ns=1)
    assert (str(refused.value), refused.value.__cause__) == (said, None)


def test_each_batched_type_has_a_batch_and_a_rule_of_its_own() -> None:
    rules = {"asked": BatchRule(2, 100), "seen": BatchRule(3, 50)}
    bus = BusNode("search", nonce=5, publisher=9, batches=rules, wall_offset_ns=0)
    assert bus.call("asked", {"n": 1}, now_ns=0, intended_ns=0) is None and bus.due_ns == 100_000_000
    assert bus.call("seen", {"n": 2}, now_ns=0, intended_ns=10) is None and bus.due_ns == 50_000_010
    assert bus.tick(50_000_009) is None
    seen = bus.tick(50_000_010)
    assert seen is not None and (seen.type, seen.items, bus.due_ns) == ("seen", 1, 100_000_000)
    full = bus.call("asked", {"n": 3}, now_ns=60_000_000, intended_ns=60_000_000)
    assert full is not None and (full.type, full.items, bus.due_ns) == ("asked", 2, None)
    assert msgspec.json.decode(full.payload)["data"] == {"events": [{"n": 1}, {"n": 3}]}
    for kind in rules:
        bus.call(kind, {}, now_ns=0, intended_ns=0)
    left = [bus.flush(1), bus.flush(1), bus.flush(1)]
    assert [one and one.type for one in left] == ["asked", "seen", None]


def test_the_business_key_of_each_call_travels_with_its_event() -> None:
    bus = BusNode(
        "search",
        nonce=5,
        publisher=9,
        batches={"asked": BatchRule(3, 60_000)},
        wall_offset_ns=0,
        keys={"asked": ("user", "id"), "order": ("orderId",)},
    )
    order = bus.call("order", {"orderId": 17}, now_ns=1, intended_ns=1)
    other = bus.call("price", {"orderId": 17}, now_ns=1, intended_ns=1)
    assert order is not None and other is not None
    assert (order.keys, other.keys) == (("17",), ())
    first = bus.waiting_keys["asked"]
    for user in ("ann", "bob"):
        assert bus.call("asked", {"user": {"id": user}}, now_ns=2, intended_ns=2) is None
    with pytest.raises(NotEncodable):
        bus.call("asked", {"user": {"id": "none"}, "n": object()}, now_ns=2, intended_ns=2)
    assert first == ["ann", "bob"]
    full = bus.call("asked", {}, now_ns=3, intended_ns=3)
    assert full is not None and full.keys == ("ann", "bob", "")
    assert bus.waiting_keys["asked"] == [] and bus.waiting_keys["asked"] is not first
    bus.call("asked", {"user": {"id": "cid"}}, now_ns=4, intended_ns=4)
    flushed = bus.flush(5)
    assert flushed is not None and flushed.keys == ("cid",)
