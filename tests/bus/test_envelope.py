"""The envelope: what goes in comes out, and no bytes from anywhere can harm a pod that reads them."""

from __future__ import annotations

import json
import math
import re
import time
from array import array
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.bus.envelope import (
    PROBE,
    PROBER,
    Event,
    ExtendedEvent,
    correlation_id,
    decode,
    decode_read,
    encode,
    intended_ns,
    is_supported,
    iso_timestamp,
)
from sim.errors import UnsupportedVersion
from sim.record.schema import event_key

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
versions = st.one_of(st.just("1.0"), st.just("1"), st.integers(0, 10**9 - 1).map(lambda minor: f"1.{minor}"))
data = st.dictionaries(
    texts, st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts, st.lists, max_leaves=6), max_size=4
)
events = st.builds(Event, texts, texts, texts, versions, texts, texts, data)
FIELDS = ["eventId", "correlationId", "type", "version", "timestamp", "source", "data"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
extras = st.dictionaries(texts.filter(lambda name: name not in FIELDS), json_values, min_size=1, max_size=4)


@given(events)
def test_an_event_survives_encoding(event: Event) -> None:
    assert decode(encode(event)) == event


@given(events)
def test_an_envelope_is_the_reference_s_json_and_begins_with_the_event_id(event: Event) -> None:
    fields = json.loads(encode(event))
    assert list(fields) == FIELDS
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
    assert len(chunk.events) + chunk.malformed + chunk.unsupported == 1


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


@given(events, extras, st.randoms())
def test_fields_that_nobody_knows_are_kept_and_stand_behind_the_known_ones(event: Event, extra: dict[str, Any], random: Random) -> None:
    """Wherever another program put them."""
    fields = list((json.loads(encode(event)) | extra).items())
    random.shuffle(fields)
    payload = json.dumps(dict(fields)).encode()
    chunk = decode_read([payload])
    assert (len(chunk.events), chunk.refused) == (1, 0)
    read = chunk.events[0][1]
    assert read.extra == extra
    assert decode(payload) == read
    again = encode(read)
    assert json.loads(again) == dict(fields)
    assert list(json.loads(again)) == FIELDS + [name for name, _ in fields if name in extra]
    assert again.startswith(b'{"eventId":')
    assert decode(again) == read


def test_an_event_of_this_version_has_no_extra_fields() -> None:
    assert decode((ENVELOPE % "{}").encode()).extra == {}


def test_an_extra_field_cannot_replace_a_known_one() -> None:
    event = ExtendedEvent("a", "c", "t", "1.0", "", "s", {}, {"eventId": "b", "trace": 1})
    assert encode(event).count(b"eventId") == 1
    assert decode(encode(event)).extra == {"trace": 1}
    assert decode(encode(ExtendedEvent("a", "c", "t", "1.0", "", "s", {}, {"eventId": "b"}))) == Event("a", "c", "t", "1.0", "", "s", {})


@pytest.mark.parametrize("version", ["1", "1.0", "1.1", "1.17", "1.999999999"])
def test_every_minor_of_version_one_is_read(version: str) -> None:
    chunk = decode_read([(ENVELOPE % "{}").replace(':"1"', f':"{version}"').encode()])
    assert [event.version for _, event in chunk.events] == [version]


UNREAD = [
    "",
    "2",
    "2.0",
    "0.9",
    "10",
    "10.0",
    "1.",
    "1.x",
    " 1",
    "1 ",
    "1.0\\n",
    "v1",
    "1.0.0",
    "1,0",
    "-1",
    "1.\u0661",
    "11.0",
    "1.0000000001",
]


@pytest.mark.parametrize("version", UNREAD)
@pytest.mark.parametrize("more", ["", ',"schema":{"new":true}'])
def test_another_version_is_refused_and_counted_apart(version: str, more: str) -> None:
    payload = ((ENVELOPE % "{}")[:-1] + more + "}").replace(':"1"', f':"{version}"').encode()
    chunk = decode_read([payload])
    assert (len(chunk.events), chunk.malformed, chunk.unsupported, chunk.refused) == (0, 0, 1, 1)
    with pytest.raises(UnsupportedVersion, match="is not read here"):
        decode(payload)


def test_a_newer_schema_whose_fields_are_others_is_unsupported_and_not_malformed() -> None:
    chunk = decode_read([b'{"version":"2.0","id":7,"data":[]}'])
    assert (chunk.malformed, chunk.unsupported) == (0, 1)


@pytest.mark.parametrize("version", ["1", "1.0", "null", "[]"])
def test_a_version_that_is_no_text_is_malformed(version: str) -> None:
    chunk = decode_read([(ENVELOPE % "{}").replace('"version":"1"', f'"version":{version}').encode()])
    assert (chunk.malformed, chunk.unsupported) == (1, 0)


# -- fuzz: every payload is one event or one refusal, and never an exception ------------------------------------


def accounted(payloads: list[bytes]) -> None:
    chunk = decode_read(payloads)
    assert len(chunk.events) + chunk.malformed + chunk.unsupported == len(payloads)
    assert chunk.refused == chunk.malformed + chunk.unsupported
    assert len(chunk.keys) == len(chunk.events)
    for _, event in chunk.events:
        assert is_supported(event.version)
        assert decode(encode(event)) == event


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_bytes_of_any_kind_are_accounted_for(payloads: list[bytes]) -> None:
    accounted(payloads)


@given(st.lists(json_values.map(lambda value: json.dumps(value).encode()), max_size=5))
def test_json_of_any_kind_is_accounted_for(payloads: list[bytes]) -> None:
    accounted(payloads)


odd_fields = st.fixed_dictionaries({}, optional={name: st.one_of(texts, json_values) for name in FIELDS})


@given(st.lists(st.tuples(events, odd_fields, extras | st.just({}), st.sets(st.sampled_from(FIELDS), max_size=2)), max_size=4))
def test_mutated_envelopes_are_accounted_for(mutants: list[tuple[Event, dict[str, Any], dict[str, Any], set[str]]]) -> None:
    """Fields replaced by anything, fields more, fields less, versions of any kind."""
    payloads = []
    for event, replaced, more, less in mutants:
        fields = json.loads(encode(event)) | replaced | more
        payloads.append(json.dumps({name: value for name, value in fields.items() if name not in less}).encode())
    accounted(payloads)


@given(st.text(max_size=8))
def test_only_one_and_one_point_n_are_versions(version: str) -> None:
    assert is_supported(version) == bool(re.fullmatch(r"1(\.[0-9]{1,9})?", version))


@pytest.mark.parametrize("payload", [b"\xff" * (1 << 20), b"[" * (1 << 20), b'{"a":"' + b"x" * (1 << 20), b"0" * (1 << 20)])
def test_a_megabyte_of_nothing_is_counted(payload: bytes) -> None:
    assert decode_read([payload]).malformed == 1


@pytest.mark.parametrize("more", ["", ',"trace":"' + "y" * (1 << 20) + '"'], ids=["known", "unknown"])
def test_a_megabyte_of_event_is_an_event(more: str) -> None:
    payload = ((ENVELOPE % ('{"note":"' + "x" * (1 << 20) + '"}'))[:-1] + more + "}").encode()
    assert [len(event.data["note"]) for _, event in decode_read([payload]).events] == [1 << 20]
    accounted([payload])


@pytest.mark.parametrize("text", ['"\\ud800"', '"\\udc00\\ud800"', "NaN", "Infinity", "1e400", str(10**400), "-" + str(2**70)])
def test_odd_json_in_an_unknown_field_is_accounted_for(text: str) -> None:
    chunk = decode_read([((ENVELOPE % "{}")[:-1] + f',"odd":{text}}}').encode()])
    assert len(chunk.events) + chunk.malformed + chunk.unsupported == 1
    for _, event in chunk.events:
        encode(event)


HALVES = ["\\ud83d", "\\ude00", "\\ude00\\ud83d", "caf\\ud83dx", "\\ud83d\\u0041", "\\uD83D\\ude00\\ud83d"]


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("field", [*FIELDS[:3], "timestamp", "source", "data", "deep", "key", "extra"])
def test_half_a_pair_of_surrogates_anywhere_is_read_as_javascript_reads_it(half: str, field: str) -> None:
    fields = {name: json.dumps(name) for name in FIELDS} | {"version": '"1.0"', "data": "{}"}
    places = {"data": f'{{"title":"{half}"}}', "deep": f'{{"a":[{{"b":["{half}"]}}]}}', "key": f'{{"{half}":1}}'}
    if field in places:
        fields["data"] = places[field]
    else:
        fields[field] = f'"{half}"'
    payload = ("{" + ",".join(f'"{name}":{text}' for name, text in fields.items()) + "}").encode()
    chunk = decode_read([payload, payload])
    assert (len(chunk.events), chunk.refused) == (2, 0)
    event = chunk.events[0][1]
    assert chunk.keys == array("Q", [event_key(event.event_id)] * 2)
    assert json.loads(encode(event)) == json.loads(payload)
    assert decode(encode(event)) == event == decode(payload)


def test_two_ids_that_differ_in_half_a_pair_are_two_events() -> None:
    payloads = [(ENVELOPE % "{}").replace('"eventId":"a"', f'"eventId":"{half}"').encode() for half in ("\\ud83d", "\\ud83e")]
    assert len(set(decode_read(payloads).keys)) == 2


@pytest.mark.parametrize("correlation", ['"correlationId":null,', ""])
@pytest.mark.parametrize("data", ["{}", '{"templateId":"t1"}'])
def test_no_correlation_id_and_one_that_is_null_are_the_same(correlation: str, data: str) -> None:
    payload = (ENVELOPE % data).replace('"correlationId":"c",', correlation).encode()
    event = decode(payload)
    assert (event.correlation_id, event.extra) == ("", {})
    assert decode_read([payload]).events == (("t", event),)


@pytest.mark.parametrize("other", ["7", "true", "[]", "{}"])
def test_a_correlation_id_that_is_no_text_is_malformed(other: str) -> None:
    assert decode_read([(ENVELOPE % "{}").replace('"correlationId":"c"', f'"correlationId":{other}').encode()]).malformed == 1


NUMBERS = {
    "1e400": math.inf,
    "-1e400": -math.inf,
    "1" * 400: math.inf,
    "1" * 5000: math.inf,
    str(2**64): 2.0**64,
    str(2**53 + 1): 2**53 + 1,
    str(-(2**70)): -(2.0**70),
    "-0": 0,
    "1E5": 100000.0,
    "1e-400": 0.0,
    "0.1e1": 1.0,
}


@pytest.mark.parametrize(("text", "value"), NUMBERS.items())
@pytest.mark.parametrize("odd", ["", ',"odd":"\\ud800"'])
def test_every_number_that_javascript_reads_is_read(text: str, value: float, odd: str) -> None:
    (read,) = decode_read([(ENVELOPE % f'{{"n":{text}{odd}}}').encode()]).events
    number = read[1].data["n"]  # msgspec keeps every digit of a whole number, where JavaScript rounds
    assert (math.inf if number >= 10**309 else number) == pytest.approx(value, rel=1e-15)
    encode(read[1])


READ = {
    "a name twice": ENVELOPE.replace('"type":"t"', '"type":"other","type":"t"') % '{"a":1,"a":2}',
    "a known field twice": ENVELOPE.replace('"source":"s"', '"source":7,"source":"s"') % '{"a":2}',
    "blanks everywhere": " \r\n\t" + ENVELOPE.replace(":", " : ").replace(",", "\n,\t") % '{ "a" : 2 }' + "\r\n",
    "the character zero": ENVELOPE % '{"a":2,"b":"\\u0000"}',
    "escapes": ENVELOPE % '{"a":2,"b":"\\/\\b\\f\\n\\r\\t\\u00e9\\"\\\\"}',
    "an escaped name": ENVELOPE.replace('"type"', '"\\u0074ype"') % '{"a":2}',
    "a name that a prototype has": ENVELOPE % '{"a":2,"__proto__":{"b":1},"constructor":1}',
    "nested five hundred deep": ENVELOPE % ('{"a":2,"b":' + "[" * 500 + "]" * 500 + "}"),
}
MORE = {"": "", "half a pair": ',"odd":"\\ud800"', "a large number": ',"odd":1e999'}


@pytest.mark.parametrize("more", MORE.values(), ids=MORE)
@pytest.mark.parametrize("text", READ.values(), ids=READ)
def test_what_json_parse_reads_is_read_by_either_decoder(text: str, more: str) -> None:
    payload = (text.rstrip()[:-1] + more + "}").encode()
    (read,) = decode_read([payload]).events
    assert (read[0], read[1].source, read[1].data["a"]) == ("t", "s", 2)


UNREADABLE = {
    "a byte order mark": b"\xef\xbb\xbf" + (ENVELOPE % "{}").encode(),
    "UTF-16": (ENVELOPE % "{}").encode("utf-16"),
    "a text that is not UTF-8": (ENVELOPE % '{"a":"\xe9"}').encode("latin-1"),
    "a surrogate as bytes": (ENVELOPE % '{"a":"\ud83d"}').encode("utf-8", "surrogatepass"),
    "a raw line break in a text": (ENVELOPE % '{"a":"\n"}').encode(),
    "a raw zero": (ENVELOPE % '{"a":"\0"}').encode(),
    "NaN": (ENVELOPE % '{"a":NaN}').encode(),
    "Infinity": (ENVELOPE % '{"a":-Infinity}').encode(),
    "a comma too many": (ENVELOPE % '{"a":1,}').encode(),
    "single quotes": (ENVELOPE % "{'a':1}").encode(),
    "a comment": (ENVELOPE % '{"a":1/**/}').encode(),
    "a leading zero": (ENVELOPE % '{"a":01}').encode(),
    "hexadecimal": (ENVELOPE % '{"a":0x1}').encode(),
    "a half escape": (ENVELOPE % '{"a":"\\ud8"}').encode(),
    "a wrong escape": (ENVELOPE % '{"a":"\\x41"}').encode(),
    "a blank of another kind": ("\u00a0" + ENVELOPE % "{}").encode(),
    "something behind it": (ENVELOPE % "{}" + "x").encode(),
    "digits of another script": (ENVELOPE % '{"a":\u0661}').encode(),
    "data that is null": (ENVELOPE % "null").encode(),
}


@pytest.mark.parametrize("more", [b"", b',"odd":"\\ud800"'])
@pytest.mark.parametrize("payload", UNREADABLE.values(), ids=UNREADABLE)
def test_what_json_parse_refuses_is_malformed(payload: bytes, more: bytes) -> None:
    end = payload.rfind(b"}")
    assert decode_read([payload[:end] + more + payload[end:]]).malformed == 1


@pytest.mark.parametrize("depth", [2_000, 100_000])
@pytest.mark.parametrize("odd", ["", '"odd":"\\ud800",'])
def test_json_that_is_nested_too_deep_is_malformed(depth: int, odd: str) -> None:
    assert decode_read([(ENVELOPE % (f'{{{odd}"a":' + "[" * depth + "]" * depth + "}")).encode()]).malformed == 1


@pytest.mark.parametrize(("source", "kind"), [(PROBER, PROBE), ("music-service", "config.cache.invalidate")])
def test_a_probe_is_told_apart_by_its_source(source: str, kind: str) -> None:
    probe = Event("evt_1", "", "config.cache.invalidate", "1.0", "", source, {"round": 1})
    assert decode_read([encode(probe)]).events[0][0] == kind


@given(st.integers(0, 2**63))
def test_a_correlation_id_carries_the_intended_time(at_ns: int) -> None:
    assert intended_ns(correlation_id(at_ns)) == at_ns


@pytest.mark.parametrize("foreign", ["cor_" + "f" * 17, "cor_-5", "cor_1_0", "", "cor_", "cor_xyz", "abc", "cor", "cor_ ", "corr_12"])
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


# -- what is read and written to the last byte -------------------------------------------------------------------


def test_what_cannot_be_utf_8_is_written_as_json_stringify_writes_it() -> None:
    """Without blanks, the known fields first among equals, half a pair as an escape, null for a number that JSON has not."""
    payload = (ENVELOPE.replace('"source":"s"', '"source":"\\ud83d"') % '{"n":[1.5,7,1e999,{"m":-1e999}],"t":true,"z":null}')[
        :-1
    ] + ',"x":1}'
    event = decode(payload.encode())
    assert encode(event) == (
        b'{"x":1,"eventId":"a","correlationId":"c","type":"t","version":"1","timestamp":"","source":"\\ud83d",'
        b'"data":{"n":[1.5,7,null,{"m":null}],"t":true,"z":null}}'
    )
    with pytest.raises(UnicodeEncodeError):
        encode(event, strict=True)


@pytest.mark.parametrize("odd", ["", ',"odd":"\\ud800"'])
@pytest.mark.parametrize("text", ["7", "-7", "9" * 18])
def test_a_whole_number_keeps_every_digit_and_stays_whole(text: str, odd: str) -> None:
    assert repr(decode((ENVELOPE % f'{{"n":{text}{odd}}}').encode()).data["n"]) == text


def test_a_whole_number_of_nineteen_digits_is_a_float_where_msgspec_does_not_read_it() -> None:
    assert repr(decode((ENVELOPE % f'{{"n":{"9" * 19},"odd":"\\ud800"}}').encode()).data["n"]) == "1e+19"


@pytest.mark.parametrize("correlation", ['"correlationId":null,', ""])
def test_an_event_without_unknown_fields_is_a_plain_event(correlation: str) -> None:
    event = decode((ENVELOPE % "{}").replace('"correlationId":"c",', correlation).encode())
    assert (type(event), event) == (Event, Event("a", "", "t", "1", "", "s", {}))


@pytest.mark.parametrize(
    ("payload", "error", "said"),
    [
        (b"[]", ValueError, "an envelope is a JSON object"),
        (b'"\\ud800"', ValueError, "an envelope is a JSON object"),
        ((ENVELOPE % '{"a":NaN,"odd":"\\ud800"}').encode(), ValueError, "NaN is no JSON"),
        (
            (ENVELOPE % "{}").replace(':"1"', ':"2.0"').encode(),
            UnsupportedVersion,
            "schema version '2.0' is not read here; publish 1 or 1.N",
        ),
        (
            (ENVELOPE % "{}").replace(':"1"', f':"{"7" * 99}"').encode(),
            UnsupportedVersion,
            f"schema version '{'7' * 40}' is not read here; publish 1 or 1.N",
        ),
    ],
    ids=["a list", "a text", "NaN", "a version", "a long version"],
)
def test_why_an_envelope_is_not_read_is_said_in_one_sentence(payload: bytes, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as refused:
        decode(payload)
    assert str(refused.value) == said


def test_every_payload_of_a_read_is_counted_once_whatever_stood_before_it() -> None:
    good = (ENVELOPE % "{}").encode()
    newer = good.replace(b':"1"', b':"2.0"')
    other = b'{"version":"2.0","id":7}'
    deep = (ENVELOPE % ('{"a":' + "[" * 100_000 + "]" * 100_000 + "}")).encode()
    payloads = [newer, newer, good, other, other, good, deep, deep, good, b"x", b"x", good]
    chunk = decode_read(payloads)
    assert chunk.events == (("t", decode(good)),) * 4
    assert (list(chunk.keys), chunk.malformed, chunk.unsupported, chunk.refused) == ([event_key("a")] * 4, 4, 4, 8)


def test_a_timestamp_is_in_utc_wherever_the_pod_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Somewhere-9")
    time.tzset()
    try:
        assert iso_timestamp(1_700_000_123_004_000_000) == "2023-11-14T22:15:23.004Z"
    finally:
        monkeypatch.undo()
        time.tzset()
