"""What the nodes of a cluster say of each other, rewritten on its way to a client: no socket."""

from __future__ import annotations

from itertools import pairwise

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.wire.resp import encode, pack
from sim.wire.tap_addresses import AddressRewriter, UnknownNode

NODES = {("10.0.0.1", 7000): ("127.0.0.1", 16000), ("node-b", 7001): ("127.0.0.1", 16001)}
SLOTS = encode(
    [[0, 99, [b"10.0.0.1", 7000, b"id-a", []], [b"node-b", 7001, b"id-b", [b"ip", b"10.0.0.2"]]], [100, 7000, [b"", 7000, b"id-a"]]]
)
SHARD = [b"id", b"a", b"port", 7000, b"ip", b"10.0.0.1", b"endpoint", b"node-a", b"hostname", b"", b"role", b"master"]
SHARDS = encode([[b"slots", [0, 7000], b"nodes", [SHARD]]])
LINES = b"a 10.0.0.1:7000@17000,node-a myself,master - 0 0 1 connected 0-99\nb node-b:7001@17001 slave a 0 1 1 connected\n"


def rewritten(*said: tuple[bytes, bytes]) -> list[object]:
    """The replies that a client gets to commands, each a command and its answer."""
    rewriter, reader, found = AddressRewriter(NODES, asked="10.0.0.1"), hiredis.Reader(), []
    for command, answer in said:
        assert rewriter.from_client(command) == command
        reader.feed(rewriter.from_server(answer))
        while (reply := reader.gets()) is not False:
            found.append(str(reply) if isinstance(reply, hiredis.ReplyError) else reply)
    return found


def test_slots_shards_and_nodes() -> None:
    slots, shards, lines = rewritten(
        (pack(b"cluster", b"slots"), SLOTS), (pack(b"CLUSTER", b"SHARDS"), SHARDS), (pack(b"CLUSTER", b"NODES"), encode(LINES))
    )
    assert slots == [
        [0, 99, [b"127.0.0.1", 16000, b"id-a", []], [b"127.0.0.1", 16001, b"id-b", [b"ip", b"10.0.0.2"]]],
        [100, 7000, [b"127.0.0.1", 16000, b"id-a"]],
    ]
    shard = shards[0][3][0]  # type: ignore[index]
    assert shard[3::2][:3] == [16000, b"127.0.0.1", b"127.0.0.1"]
    assert lines == LINES.replace(b"10.0.0.1:7000", b"127.0.0.1:16000").replace(b"node-b:7001", b"127.0.0.1:16001")


def test_redirections_and_no_other_error() -> None:
    get = pack(b"GET", b"k")
    assert rewritten(
        (get, b"-MOVED 99 node-b:7001\r\n"),
        (get, b"-ASK 99 10.0.0.1:7000\r\n"),
        (get, b"-MOVED 99 :7000\r\n"),
        (get, b"-ERR MOVED 1 a:1\r\n"),
    ) == ["MOVED 99 127.0.0.1:16001", "ASK 99 127.0.0.1:16000", "MOVED 99 127.0.0.1:16000", "ERR MOVED 1 a:1"]


def test_what_a_value_holds_is_left_alone() -> None:
    value = b"-MOVED 99 node-b:7001\r\n" + SLOTS
    assert rewritten((pack(b"GET", b"k"), encode(value)), (pack(b"LRANGE", b"l", b"0", b"1"), SLOTS)) == [
        value,
        [[0, 99, [b"10.0.0.1", 7000, b"id-a", []], [b"node-b", 7001, b"id-b", [b"ip", b"10.0.0.2"]]], [100, 7000, [b"", 7000, b"id-a"]]],
    ]


@pytest.mark.parametrize("answer", [b"-MOVED 1 10.0.0.9:7000\r\n", SLOTS.replace(b":7001", b":7009"), SHARDS.replace(b":7000", b":7009")])
def test_a_node_without_a_tap_cannot_be_named(answer: bytes) -> None:
    rewriter = AddressRewriter(NODES, asked="10.0.0.1")
    rewriter.from_client(pack(b"CLUSTER", b"SHARDS" if answer.startswith(SHARDS[:12]) else b"SLOTS"))
    with pytest.raises(UnknownNode, match=r"7000|7009"):
        rewriter.from_server(answer)


@given(cuts=st.lists(st.integers(0, 10_000), max_size=12))
def test_however_it_is_cut_it_comes_whole_and_the_rest_is_not_kept_back(cuts: list[int]) -> None:
    value = b"v" * 50
    said = encode(value) + SLOTS + b"+OK\r\n" + b"-MOVED 5 node-b:7001\r\n" + encode(7)
    commands = pack(b"GET", b"k") + pack(b"CLUSTER", b"SLOTS") + pack(b"SET", b"k", b"v") + pack(b"GET", b"k") + pack(b"INCR", b"k")
    whole = AddressRewriter(NODES, asked="10.0.0.1")
    whole.from_client(commands)
    expected = whole.from_server(said)
    pieces = AddressRewriter(NODES, asked="10.0.0.1")
    pieces.from_client(commands)
    places = sorted({0, len(said), *(cut % len(said) for cut in cuts)})
    got = b""
    for begin, end in pairwise(places):
        got += pieces.from_server(said[begin:end])
        assert got[: min(end, len(encode(value)))] == said[: min(end, len(encode(value)))]
    assert got == expected != said
