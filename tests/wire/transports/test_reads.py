"""How a subscription cuts reads into messages, whatever the network made of them, and what the memo may remember."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from sim.bus.envelope import decode_read
from sim.wire.connection import Wire
from sim.wire.read_memo import ReadMemo
from sim.wire.resp import pack
from sim.wire.subscription import CLASSIC, ChannelSubscription

PAYLOADS = [
    b"",
    b"a",
    b"b",
    b"\r\n",
    b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nz\r\n",
    b"x" * 300,
    b"y" * 300,
    b"x" * 2_000,
    b"x" * 1_999 + b"y",
]
Run = Callable[[Any], Any]


def frames(payloads: list[bytes]) -> bytes:
    return b"".join(pack(b"message", b"channel", payload) for payload in payloads)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(stream) + 1) for place in places}), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges) if end > start]


class Heard:
    """A chunk of payloads."""

    def __init__(self, payloads: Any) -> None:
        self.events = tuple(payloads)


streams = st.lists(st.sampled_from(PAYLOADS), max_size=6)
cuts = st.lists(st.sampled_from([17, 30]) | st.integers(0, 60) | st.integers(0, 10_000), max_size=6)


@given(payloads=streams, pods=st.lists(cuts, min_size=1, max_size=4))
@example(payloads=[b"a", b"b"], pods=[[17], [17, 40], []])  # a read that ends between two elements of a frame
def test_every_pod_hears_the_stream_however_it_is_cut(run_async: Run, payloads: list[bytes], pods: list[list[int]]) -> None:
    async def scene() -> None:
        memo = ReadMemo(Heard)
        for places in pods:
            heard: list[bytes] = []
            subscription = ChannelSubscription(Wire(), CLASSIC, memo, lambda chunk, at_ns, heard=heard: heard.extend(chunk.events))
            for read in cut(frames(payloads), places):
                subscription._read(read)
            assert heard == payloads

    run_async(scene())


@given(st.lists(cuts, min_size=2, max_size=4))
def test_two_streams_that_begin_alike_are_never_taken_for_each_other(run_async: Run, pods: list[list[int]]) -> None:
    """Same lengths, same first kilobytes, other ends; one memo for all."""

    async def scene() -> None:
        memo = ReadMemo(Heard)
        for number, places in enumerate(pods):
            payloads = [b"x" * 1_000 + b"%d" % (number % 2), b"%d" % (number % 3)]
            heard: list[bytes] = []
            subscription = ChannelSubscription(Wire(), CLASSIC, memo, lambda chunk, at_ns, heard=heard: heard.extend(chunk.events))
            for read in cut(frames(payloads), places):
                subscription._read(read)
            assert heard == payloads

    run_async(scene())


def test_the_memo_is_bounded_in_reads_and_in_bytes() -> None:
    memo = ReadMemo(Heard)
    chunk = Heard([b"x"])
    for number in range(3 * memo.MAX_READS):
        memo.put(b"%d" % number, chunk)
        assert len(memo._chunks) <= memo.MAX_READS
    memo.put(b"x" * (memo.MAX_BYTES + 1), chunk)
    assert memo.get(b"x" * (memo.MAX_BYTES + 1)) is None
    assert memo.get(b"%d" % number) is chunk


def test_bytes_that_are_no_event_are_counted_and_the_connection_stays(run_async: Run) -> None:
    async def scene() -> None:
        malformed = []
        subscription = ChannelSubscription(Wire(), CLASSIC, ReadMemo(decode_read), lambda chunk, at_ns: malformed.append(chunk.malformed))
        subscription._read(frames([b"\xff", b"{", b"[" * 100_000]))
        assert malformed == [3]

    run_async(scene())


def test_what_waits_for_an_answer_is_told_when_the_connection_goes(run_async: Run) -> None:
    async def scene() -> list[str]:
        lost: list[str] = []
        wire = Wire()
        wire.on_lost = lost.append
        wire.connection_lost(None)
        wire.close()
        wire.connection_lost(asyncio.CancelledError())
        return lost

    assert run_async(scene()) == ["closed by the broker"]
