"""Slots are those that every client and server computes, and an answer that points elsewhere is understood."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from sim.errors import BrokerUnreachable
from sim.wire.address import parse_address
from sim.wire.slots import Moved, Owners, read_moved, read_owners, slot_of


@given(st.binary(max_size=60) | st.from_regex(rb"[a-c{}]{0,12}", fullmatch=True))
def test_a_slot_is_what_redis_py_computes(key: bytes) -> None:
    assert slot_of(key) == key_slot(key)


def test_a_slot_is_what_the_specification_says() -> None:
    assert slot_of(b"123456789") == 0x31C3
    assert slot_of(b"{user1000}.following") == slot_of(b"user1000")


@pytest.mark.parametrize(
    ("error", "moved"),
    [
        ("MOVED 3999 127.0.0.1:7001", Moved(3999, "127.0.0.1", 7001)),
        ("MOVED 0 [::1]:7001", Moved(0, "::1", 7001)),
        ("MOVED 7 :7001", Moved(7, "", 7001)),
        ("redis://h:1: cannot subscribe: MOVED 7 h:7001", Moved(7, "h", 7001)),
        ("ASK 3999 127.0.0.1:7001", None),
        ("ERR MOVED on", None),
        ("CLUSTERDOWN The cluster is down", None),
    ],
)
def test_only_moved_points_elsewhere(error: str, moved: Moved | None) -> None:
    assert read_moved(error) == moved


SEED = parse_address("redis://ann:hunter2@10.0.0.1:7000")


def test_owners_are_let_in_as_the_node_that_was_asked() -> None:
    reply = [[0, 99, [b"10.0.0.2", 7001, b"id"], [b"10.0.0.3", 7002, b"id"]], [100, 16_383, [b"", 7000, b"id", []]]]
    owners = read_owners(reply, SEED)
    assert [(m.host, m.port, m.username, m.password) for m in owners.masters] == [
        ("10.0.0.2", 7001, "ann", "hunter2"),
        ("10.0.0.1", 7000, "ann", "hunter2"),
    ]
    assert "hunter2" not in f"{owners}"
    assert owners.of("c").port == (7001 if slot_of(b"c") < 100 else 7000)
    after = owners.after(Moved(slot_of(b"c"), "10.0.0.9", 7009))
    assert (after.of("c").host, after.of("c").port) == ("10.0.0.9", 7009)
    assert owners.grouped(["c", "c2"]) == [(owners.of("c"), ["c", "c2"])]


def test_a_slot_that_nobody_owns_is_unreachable() -> None:
    with pytest.raises(BrokerUnreachable, match="nobody in the cluster owns slot 7365, that of c"):
        Owners(((0, 1, SEED),)).of("c")
    with pytest.raises(BrokerUnreachable, match="owns a slot"):
        read_owners([], SEED)
