"""What is written is RESP, as hiredis reads it, and sizes on the wire are those of the bytes."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.wire.resp import NIL, Error, bulk_size, encode, message_bytes, message_size, pack, wire_size

resp = st.recursive(st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=30), lambda inner: st.lists(inner, max_size=4))


def written(frame: Any) -> bytes:
    if isinstance(frame, list):
        return b"*%d\r\n" % len(frame) + b"".join(map(written, frame))
    if isinstance(frame, bytes):
        return b"$%d\r\n%b\r\n" % (len(frame), frame)
    return b"$-1\r\n" if frame is None else b":%d\r\n" % frame


def parsed(data: bytes) -> Any:
    reader = hiredis.Reader()
    reader.feed(data)
    return reader.gets()


@given(resp)
def test_the_size_of_a_frame_is_what_it_took_on_the_wire(frame: Any) -> None:
    assert wire_size(parsed(written(frame))) == len(written(frame))


def test_the_size_of_an_error_is_what_it_took_on_the_wire() -> None:
    assert wire_size(parsed(b"-ERR no\r\n")) == 9


@given(kind=st.sampled_from([b"message", b"smessage"]), channel=st.binary(max_size=120), payload=st.binary(max_size=1_100))
def test_the_size_of_a_copy_is_what_it_took_on_the_wire(kind: bytes, channel: bytes, payload: bytes) -> None:
    copy = pack(kind, channel, payload)
    assert message_size(kind, channel, payload) == wire_size([kind, channel, payload]) == len(copy)
    if kind == b"message":
        assert message_bytes(len(channel), len(payload)) == len(copy) == len(pack(b"PUBLISH", channel, payload))


@pytest.mark.parametrize("length", [0, 1, 9, 10, 99, 100, 16_384, 1_000_000])
def test_the_size_of_a_word_is_what_it_adds_to_a_frame(length: int) -> None:
    assert bulk_size(length) == len(pack(b"a", bytes(length))) - len(pack(b"a"))


@pytest.mark.parametrize(("words", "packed"), [((b"PING",), b"*1\r\n$4\r\nPING\r\n"), ((b"a", b""), b"*2\r\n$1\r\na\r\n$0\r\n\r\n")])
def test_a_command_is_packed_as_resp(words: tuple[bytes, ...], packed: bytes) -> None:
    assert pack(*words) == packed


def test_a_reply_is_read_as_it_was_meant() -> None:
    assert parsed(encode([b"subscribe", b"c", 1, "OK", NIL, [b""]])) == [b"subscribe", b"c", 1, b"OK", None, [b""]]
    assert isinstance(parsed(encode(Error("ERR no"))), hiredis.ReplyError)
