"""By what an event of another's program is known."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sim.bus.envelopes.raw import PROBE_MARK, Raw
from sim.bus.event_rule import EventRule
from sim.bus.pointer import find, parse_pointer
from sim.record.schema import event_key, hashed_key

NAMES = st.sampled_from(["id", "meta", "a/b", "0", "é"])
VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=8,
)


@pytest.mark.parametrize("pointer", ["/id", "/meta/id", "/a~1b", "/meta/0", "/0/id", "/é/meta/id"])
@given(value=VALUES)
def test_the_id_is_what_stands_at_the_pointer_however_it_is_read(pointer: str, value: Any) -> None:
    payload = json.dumps(value).encode()
    found = find(parse_pointer(pointer), json.loads(payload))
    is_id = isinstance(found, str | int | float) and not isinstance(found, bool) and found != ""
    key, hashed = EventRule(pointer).key(b"ch", payload)
    assert hashed != is_id
    if isinstance(found, str) and found:
        assert key == event_key(found)
    if not is_id:
        assert key == hashed_key(b"ch\n" + payload)


@given(payload=st.binary(max_size=50))
@example(payload=PROBE_MARK)
def test_what_is_no_json_is_known_by_its_hash_as_the_raw_envelope_has_it(payload: bytes) -> None:
    rule = EventRule("", channel_prefix="p:")
    as_raw = Raw(channel_prefix="p:").identity("orders", payload)
    if payload.startswith(PROBE_MARK):  # no probe after all, which a pod would call malformed
        as_raw = hashed_key(b"orders\n" + payload)
    assert rule.key(b"p:orders", payload) == (as_raw, True)
    running = rule.begin(b"p:orders")
    running.update(payload[:20])
    running.update(payload[20:])
    assert rule.key_of_long(running) == rule.key(b"p:orders", payload)[0]


def test_a_probe_of_the_lab_is_known_by_its_id() -> None:
    payload = PROBE_MARK + b'{"id":"evt_0000000000000009","type":"x"}'
    assert EventRule().key(b"ch", payload) == (9, False)
    assert EventRule().key(b"ch", PROBE_MARK + b"[]")[1]


def test_a_pointer_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="begin it with a slash"):
        EventRule("eventId")
