"""Envelopes: what one encodes it decodes to the same; what others write is read, or counted as what it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.bus.envelope import PROBE, PROBER, VERSION, Event
from sim.bus.envelopes import ENVELOPES, Envelope, make_envelope
from sim.bus.envelopes.cloudevents import _decode
from sim.errors import UnsupportedVersion
from sim.record.schema import event_id, event_key

META = {
    "id": "/meta/id",
    "type": "/meta/kind",
    "time": "/meta/at",
    "source": "/meta/from",
    "data": "",
    "version": "/v",
    "versions": ["2", "2.*"],
}
ALL: dict[str, Envelope] = {name: make_envelope(name, {}) for name in ENVELOPES if name != "raw"} | {
    "plain, data above": make_envelope("plain", META)
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), lambda inner: st.lists(inner, max_size=3), max_leaves=5
)
NAMES = st.text(min_size=1, max_size=20).filter(lambda name: name not in ("meta", "v"))


def event(number: int = 1, *, source: str = "orders", data: dict[str, Any] | None = None) -> Event:
    return Event(
        event_id(number), "cor_1f", "order.created", VERSION, "2026-01-01T00:00:00.000Z", source, {"n": 1} if data is None else data
    )


@pytest.mark.parametrize("name", ALL)
@given(data=st.dictionaries(NAMES, JSON, max_size=4), source=st.text(min_size=1, max_size=10).filter(lambda text: text != PROBER))
def test_what_is_encoded_is_decoded_to_the_same(name: str, data: dict[str, Any], source: str) -> None:
    sent = event(7, source=source, data=data)
    chunk = ALL[name].decode_read([ALL[name].encode(sent)])
    assert (chunk.refused, chunk.keys.tolist()) == (0, [7])
    kind, heard = chunk.events[0]
    assert (kind, heard.event_id, heard.type, heard.timestamp, heard.source) == (
        sent.type,
        sent.event_id,
        sent.type,
        sent.timestamp,
        source,
    )
    if name == "plain, data above":
        assert {key: heard.data[key] for key in data} == data
    else:
        assert heard.data == data


@pytest.mark.parametrize("name", ALL)
def test_the_id_comes_within_the_first_bytes_and_a_probe_is_known(name: str) -> None:
    assert event_id(9).encode() in ALL[name].encode(event(9))[:60]
    assert ALL[name].decode_read([ALL[name].encode(event(source=PROBER))]).events[0][0] == PROBE


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"7", b"{}", b'{"id": ', b"\xff", b"[" * 100_000, b'{"id":{},"type":1,"source":[]}'])
def test_what_is_no_envelope_is_malformed_and_takes_nothing_with_it(name: str, payload: bytes) -> None:
    good = ALL[name].encode(event(3))
    chunk = ALL[name].decode_read([payload, good])
    assert (chunk.malformed, chunk.unsupported, chunk.keys.tolist()) == (1, 0, [3])


def cloud(**fields: Any) -> bytes:
    return json.dumps({"specversion": "1.0", "id": "a-1", "source": "/shop", "type": "order.created", **fields}).encode()


@pytest.mark.parametrize(
    ("payload", "data"),
    [
        (cloud(), {}),
        (cloud(data={"a": 1}, someextension=5, subject="x", datacontenttype="application/json"), {"a": 1}),
        (cloud(data=[1, 2]), {"value": [1, 2]}),
        (cloud(data="text", time=None), {"value": "text"}),
        (cloud(data_base64="AAEC"), {"base64": "AAEC"}),
        (b'{"specversion":"1.0","id":"a-1","source":"/shop","type":"order.created","data":{"t":"\\ud800"}}', {"t": "\ud800"}),
    ],
)
def test_any_cloudevent_is_read(payload: bytes, data: dict[str, Any]) -> None:
    chunk = ALL["cloudevents"].decode_read([payload])
    assert (chunk.refused, chunk.keys.tolist()) == (0, [event_key("a-1")])
    assert (chunk.events[0][1].source, chunk.events[0][1].data) == ("/shop", data)


@pytest.mark.parametrize(
    ("payload", "malformed"),
    [
        (cloud(specversion="0.3"), 0),
        (json.dumps({"specversion": "2.0", "event_id": 1}).encode(), 0),
        (cloud(specversion=1), 1),
        (cloud(id=""), 1),
        (cloud(id=5), 1),
        (json.dumps({"id": "a", "source": "s", "type": "t"}).encode(), 1),
    ],
)
def test_a_cloudevent_of_another_version_is_unsupported(payload: bytes, malformed: int) -> None:
    chunk = ALL["cloudevents"].decode_read([payload])
    assert (chunk.malformed, chunk.unsupported, chunk.events) == (malformed, 1 - malformed, ())


def test_a_cloudevent_has_what_the_specification_requires() -> None:
    written = json.loads(ALL["cloudevents"].encode(event(source="my orders/eu")))
    assert written == {
        "id": event_id(1),
        "specversion": "1.0",
        "type": "order.created",
        "source": "my%20orders/eu",
        "time": "2026-01-01T00:00:00.000Z",
        "correlationid": "cor_1f",
        "datacontenttype": "application/json",
        "data": {"n": 1},
    }


@pytest.mark.parametrize(
    ("version", "read"), [("2", True), ("2.0", True), ("2.1.3", True), ("20", False), ("1", False), (None, True), (2, True)]
)
def test_the_version_rule_of_plain_json(version: Any, read: bool) -> None:
    payload = json.dumps({"meta": {"id": 5, "kind": "order.created", "from": "x"}, "v": version, "orderId": 7}).encode()
    chunk = ALL["plain, data above"].decode_read([payload])
    assert (len(chunk.events), chunk.unsupported, chunk.malformed) == (int(read), int(not read), 0)
    if read:
        assert (chunk.events[0][1].event_id, chunk.events[0][1].data["orderId"]) == ("5", 7)


def test_data_that_hides_the_envelope_is_refused() -> None:
    with pytest.raises(ValueError, match="the envelope has a field 'meta' too"):
        ALL["plain, data above"].encode(event(data={"meta": 1}))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"id": "id"}, "id = 'id' is no JSON pointer"),
        ({"type": ""}, "type is empty: say where it stands"),
        ({"id": "/a", "type": "/a"}, "stand in one another"),
        ({"id": "/a", "type": "/a/b"}, "id and type stand in one another: /a and /a/b"),
        ({"data": "/id"}, "stand in one another"),
        ({"version": "/v", "versions": []}, "begin with the version that is written"),
        ({"version": "/v", "versions": ["1.*"]}, "begin with the version that is written"),
    ],
)
def test_pointers_that_do_not_fit_together_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        make_envelope("plain", settings)


def plain(**fields: Any) -> bytes:
    return json.dumps(
        {"id": "a-1", "type": "order.created", "time": "now", "source": "shop", "c": "cor_1", "data": {"n": 1}} | fields
    ).encode()


@pytest.mark.parametrize(
    ("fields", "read"),
    [
        ({}, {}),
        ({"id": 5}, {"event_id": "5"}),
        ({"id": 0}, {"event_id": "0"}),
        ({"id": 1.5}, {"event_id": "1.5"}),
        ({"id": ""}, None),
        ({"id": None}, None),
        ({"id": True}, None),
        ({"id": ["a"]}, None),
        ({"type": ""}, {"type": ""}),
        ({"type": 1}, None),
        ({"type": None}, None),
        ({"source": ""}, {"source": ""}),
        ({"source": 1}, None),
        ({"source": None}, None),
        ({"time": 17}, {"timestamp": "17"}),
        ({"time": None}, {"timestamp": ""}),
        ({"c": 5}, {"correlation_id": ""}),
        ({"c": None}, {"correlation_id": ""}),
        ({"data": [1]}, {"data": {"value": [1]}}),
        ({"data": 0}, {"data": {"value": 0}}),
        ({"data": None}, {"data": {}}),
        ({"more": 1}, {}),
    ],
    ids=str,
)
def test_plain_json_is_read_field_by_field(fields: dict[str, Any], read: dict[str, Any] | None) -> None:
    chunk = make_envelope("plain", {"correlation": "/c"}).decode_read([plain(**fields)])
    whole = {"event_id": "a-1", "correlation_id": "cor_1", "type": "order.created", "version": "1.0", "timestamp": "now", "source": "shop"}
    if read is None:
        assert (chunk.events, chunk.malformed) == ((), 1)
    else:
        assert [one for _, one in chunk.events] == [Event(**(whole | {"data": {"n": 1}} | read))]


def test_what_plain_json_writes_byte_by_byte() -> None:
    sent = event()
    assert make_envelope("plain", {}).encode(sent).decode() == (
        f'{{"id":"{sent.event_id}","type":"order.created","time":"2026-01-01T00:00:00.000Z","source":"orders","data":{{"n":1}}}}'
    )
    other = make_envelope(
        "plain", {"type": "/m/kind", "time": "", "source": "/m/from", "id": "/m/id", "correlation": "/c", "version": "/v"}
    )
    assert other.encode(sent).decode() == (
        f'{{"m":{{"id":"{sent.event_id}","kind":"order.created","from":"orders"}},"c":"cor_1f","v":"1.0","data":{{"n":1}}}}'
    )
    assert (make_envelope("plain", {}).data_at, other.data_at) == (("data",), ("data",))
    assert ALL["plain, data above"].encode(sent).decode() == (
        f'{{"meta":{{"id":"{sent.event_id}","kind":"order.created","at":"2026-01-01T00:00:00.000Z","from":"orders"}},"v":"2","n":1}}'
    )


@pytest.mark.parametrize(
    ("version", "read"),
    [
        ("1.0", True),
        ("1", True),
        ("1.7", True),
        ("1.", True),
        ("10", False),
        ("2.0", False),
        ("1.*", True),
        (1, True),
        (1.5, True),
        (2, False),
    ],
)
def test_without_a_word_on_versions_those_of_the_reference_are_read(version: object, read: bool) -> None:
    chunk = make_envelope("plain", {"version": "/v"}).decode_read([plain(v=version)])
    assert (len(chunk.events), chunk.unsupported) == (int(read), int(not read))
    assert len(make_envelope("plain", {}).decode_read([plain(v=version)]).events) == 1, "where none is looked at, any is read"


@pytest.mark.parametrize(
    ("kind", "payload", "said"),
    [
        ("plain", plain(v="x" * 41), f"version '{'x' * 40}' is not read here"),
        ("plain", plain(v="1.0", id=None), "no id, type or source at their pointers"),
        ("cloudevents", cloud(specversion="x" * 41), f"specversion '{'x' * 40}' is not read here; publish 1.0"),
        ("cloudevents", json.dumps({"specversion": "0.3"}).encode(), "specversion '0.3' is not read here; publish 1.0"),
        ("cloudevents", cloud(id=""), "id, type and source of a CloudEvent are not empty"),
        ("cloudevents", cloud(type=""), "id, type and source of a CloudEvent are not empty"),
        ("cloudevents", cloud(source=""), "id, type and source of a CloudEvent are not empty"),
    ],
)
def test_why_an_event_is_not_read_is_said_in_one_sentence(kind: str, payload: bytes, said: str) -> None:
    decode = make_envelope("plain", {"version": "/v"})._decode if kind == "plain" else _decode  # type: ignore[attr-defined]
    with pytest.raises((UnsupportedVersion, ValueError)) as error:
        decode(payload)
    assert str(error.value) == said and error.value.__cause__ is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"id": "id"}, "id = 'id' is no JSON pointer: begin it with a slash, as /data/orderId"),
        ({"data": "data"}, "data = 'data' is no JSON pointer: begin it with a slash, as /data/orderId"),
        ({"source": ""}, "source is empty: say where it stands, as /source"),
        ({"id": ""}, "id is empty: say where it stands, as /id"),
        ({"data": "/time/x"}, "time and data stand in one another: /time and /time/x"),
        ({"version": "/v", "versions": []}, "versions = []: begin with the version that is written, such as 1.0"),
        ({"version": "/v", "versions": ("1.*", "1")}, "versions = ['1.*', '1']: begin with the version that is written, such as 1.0"),
    ],
)
def test_why_settings_do_not_fit_is_said_in_one_sentence(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as error:
        make_envelope("plain", settings)
    assert str(error.value) == said and error.value.__cause__ is None


def test_names_that_only_begin_alike_do_not_stand_in_one_another() -> None:
    envelope = make_envelope("plain", {"id": "/m/a", "type": "/m/ab", "versions": [], "data": "/m/abc"})
    assert envelope.data_at == ("m", "abc") and envelope.decode_read([envelope.encode(event())]).refused == 0


@pytest.mark.parametrize(
    ("fields", "read"),
    [
        ({"time": "now", "correlationid": "cor_1"}, {"timestamp": "now", "correlation_id": "cor_1"}),
        ({"source": "my%20shop/eu"}, {"source": "my shop/eu"}),
        ({"data": {}, "data_base64": "AA=="}, {}),
        ({"data": None, "data_base64": "AA=="}, {"data": {"base64": "AA=="}}),
        ({"data": False}, {"data": {"value": False}}),
        ({"data_base64": ""}, {"data": {"base64": ""}}),
    ],
)
def test_a_cloudevent_is_read_field_by_field(fields: dict[str, Any], read: dict[str, Any]) -> None:
    ((kind, found),) = ALL["cloudevents"].decode_read([cloud(**fields)]).events
    whole = {"event_id": "a-1", "correlation_id": "", "type": "order.created", "version": "1.0", "timestamp": "", "source": "/shop"}
    assert (kind, found) == ("order.created", Event(**(whole | {"data": {}} | read)))


def test_what_may_stand_in_a_uri_is_written_as_it_is() -> None:
    written = json.loads(ALL["cloudevents"].encode(event(source="/:@!$&'()*+,;=-._~ é%?#")))
    assert written["source"] == "/:@!$&'()*+,;=-._~%20%C3%A9%25%3F%23"
