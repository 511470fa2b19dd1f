"""The envelope: what goes in comes out, and no bytes from anywhere can harm a pod that reads them."""

from __future__ import annotations

import json
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.bus.envelope import PROBE, PROBER, Event, correlation_id, decode, decode_read, encode, intended_ns, iso_timestamp
from sim.schema import event_key

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
data = st.dictionaries(
    texts, st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts, st.lists, max_leaves=6), max_size=4
)
events = st.builds(Event, texts, texts, texts, texts, texts, texts, data)


@given(events)
def test_an_event_survives_encoding(event: Event) -> None:
    assert decode(encode(event)) == event


@given(events)
def test_an_envelope_is_the_reference_s_json_and_begins_with_the_event_id(event: Event) -> None:
    fields = json.loads(encode(event))
    assert list(fields) == ["eventId", "correlationId", "type", "version", "timestamp", "source", "data"]
    assert encode(event).startswith(b'{"eventId":')


@given(st.lists(st.one_of(events, st.binary(max_size=60)), max_size=8))
def test_a_read_keeps_its_events_in_order_and_counts_what_is_none(mixed: list[Event | bytes]) -> None:
    chunk = decode_read([encode(part) if isinstance(part, Event) else part for part in mixed])
    wanted = [part for part in mixed if isinstance(part, Event)]
    assert [event for _, event in chunk.events] == wanted
    assert chunk.keys == array("Q", [event_key(event.event_id) for event in wanted])
    assert chunk.malformed == len(mixed) - len(wanted)


@given(events, st.integers(0, 400), st.integers(0, 400), st.binary(max_size=4))
def test_a_damaged_envelope_never_raises(event: Event, start: int, length: int, instead: bytes) -> None:
    whole = encode(event)
    chunk = decode_read([whole[:start] + instead + whole[start + length :]])
    assert len(chunk.events) + chunk.malformed == 1


ENVELOPE = '{"eventId":"a","correlationId":"c","type":"t","version":"1","timestamp":"","source":"s","data":%s}'


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'"text"',
        b"1e999",
        b'{"eventId":1}',
        (ENVELOPE % "[]").encode(),
        (ENVELOPE % '{"a":1}')[:-1].encode(),
        b"[" * 100000,
        (ENVELOPE % ('{"a":' + "[" * 100000)).encode(),
    ],
    ids=lambda payload: repr(payload[:24]),
)
def test_what_is_no_event_is_counted(payload: bytes) -> None:
    assert decode_read([payload]).malformed == 1


def test_another_program_s_extra_fields_are_no_error() -> None:
    assert decode((ENVELOPE % "{}")[:-1].encode() + b',"extra":{"deep":[1]}}').event_id == "a"


@pytest.mark.parametrize(("source", "kind"), [(PROBER, PROBE), ("music-service", "config.cache.invalidate")])
def test_a_probe_is_told_apart_by_its_source(source: str, kind: str) -> None:
    probe = Event("evt_1", "", "config.cache.invalidate", "1.0", "", source, {"round": 1})
    assert decode_read([encode(probe)]).events[0][0] == kind


@given(st.integers(0, 2**63))
def test_a_correlation_id_carries_the_intended_time(at_ns: int) -> None:
    assert intended_ns(correlation_id(at_ns)) == at_ns


@pytest.mark.parametrize("foreign", ["", "cor_", "cor_xyz", "abc", "cor", "cor_ ", "corr_12"])
def test_a_foreign_correlation_id_carries_none(foreign: str) -> None:
    assert intended_ns(foreign) is None


@pytest.mark.parametrize(
    ("wall_ns", "text"),
    [(0, "1970-01-01T00:00:00.000Z"), (1_700_000_000_999_999_999, "2023-11-14T22:13:20.999Z"), (1_000_000, "1970-01-01T00:00:00.001Z")],
)
def test_a_timestamp_reads_as_javascript_prints_it(wall_ns: int, text: str) -> None:
    assert iso_timestamp(wall_ns) == text


def test_the_reference_s_own_envelope_has_no_correlation_id() -> None:
    text = b'{"eventId":"evt_abc123","type":"analytics.events.batch","version":"1.0","timestamp":"2024-12-22T10:30:00Z",'
    event = decode(text + b'"source":"music-service","data":{"events":[]}}')
    assert (event.event_id, event.correlation_id, event.data) == ("evt_abc123", "", {"events": []})
    assert decode_read([text + b'"source":1,"data":{}}', b"[]", b"{}"]).malformed == 3
