"""A conversation that passes through a tap, read from its bytes: no socket, no clock."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.bus.event_rule import EventRule
from sim.record.schema import event_key, hashed_key
from sim.wire.frame_reader import WHOLE_BYTES, inline_words
from sim.wire.resp import pack
from sim.wire.tap_rows import Connection
from sim.wire.tapped_connection import SharedReads, TappedConnection
from tests.support.tap_witness import Told

EVENT = b'{"eventId":"evt_0000000000000007","data":1}'
OTHER = b'{"data":2,"eventId":"theirs"}'


def tapped(told: Told, *, pointer: str = "/eventId", reads: SharedReads | None = None) -> TappedConnection:
    return TappedConnection(Connection(1, "door", 0), sink=told, identify=EventRule(pointer), reads=reads or SharedReads())


def talk(*said: tuple[str, bytes]) -> Told:
    """Let bytes pass: ``>`` towards the server, ``<`` towards the client, each at the next nanosecond."""
    told = Told()
    connection = tapped(told)
    for at_ns, (way, data) in enumerate(said, 1):
        (connection.to_server if way == ">" else connection.to_client)(data, at_ns)
    connection.close(len(said) + 1, "client")
    return told


def push(*words: bytes, three: bool = False) -> bytes:
    frame = pack(*words)
    return b">" + frame[1:] if three else frame


def confirmed(kind: bytes, channel: bytes, many: int, *, three: bool = False) -> bytes:
    return push(kind, channel, b"x", three=three).replace(b"$1\r\nx\r\n", b":%d\r\n" % many)


def outcomes(told: Told) -> list[tuple[str, str, int]]:
    return [(one.command, one.outcome, one.receivers) for _, one in told.publishes]


def test_a_publish_has_the_time_of_its_last_byte_and_of_its_answer() -> None:
    sent = pack(b"PUBLISH", b"ch", EVENT)
    told = talk((">", sent[:-1]), (">", sent[-1:]), ("<", b":1"), ("<", b"2\r\n"))
    [(_, one)] = told.publishes
    assert (one.channel, one.key, one.hashed, one.size) == (b"ch", 7, False, len(EVENT))
    assert (one.passed_ns, one.answered_ns, one.outcome, one.receivers) == (2, 4, "acknowledged", 12)


def test_what_is_answered_otherwise_than_by_a_number() -> None:
    told = talk(
        (">", pack(b"publish", b"ch", EVENT) + pack(b"PUBLISH", b"ch", OTHER) + pack(b"SPUBLISH", b"s", EVENT)),
        ("<", b"-NOPERM this user has no permissions\r\n:0\r\n"),
    )
    assert outcomes(told) == [("publish", "refused", -1), ("publish", "acknowledged", 0), ("spublish", "unknown", -1)]
    assert [one.said for _, one in told.publishes] == ["NOPERM", "", ""]


def test_a_publish_of_which_a_part_passed_is_none() -> None:
    assert talk((">", pack(b"PUBLISH", b"ch", EVENT)[:-3])).publishes == []


def test_identity_is_the_id_at_the_pointer_else_the_hash_of_channel_and_payload() -> None:
    told = talk((">", b"".join(pack(b"PUBLISH", b"ch", one) for one in (OTHER, b"plain", b'{"eventId":""}', b'{"eventId":12}', b"[1]"))))
    keys = [(one.key, one.hashed) for _, one in told.publishes]
    assert keys[0] == (event_key("theirs"), False)
    assert keys[1] == (hashed_key(b"ch\nplain"), True)
    assert keys[2] == (hashed_key(b'ch\n{"eventId":""}'), True)
    assert keys[3] == (event_key("12"), False)
    assert keys[4] == (hashed_key(b"ch\n[1]"), True)


@pytest.mark.parametrize("size", [WHOLE_BYTES, WHOLE_BYTES + 1, 3 * WHOLE_BYTES])
def test_a_long_payload_has_the_hash_of_its_bytes_on_both_ways_and_is_not_kept(size: int) -> None:
    payload = b"y" * size
    told = Told()
    connection = tapped(told, pointer="")
    sent, heard = pack(b"PUBLISH", b"ch", payload), push(b"message", b"ch", payload, three=True)
    for place in range(0, len(sent), 65_536):
        connection.to_server(sent[place : place + 65_536], 1)
    connection.to_client(b":1\r\n", 2)
    for place in range(0, len(heard), 65_536):
        connection.to_client(heard[place : place + 65_536], 3)
    connection.close(4, "client")
    [(_, publish)], [(_, _, message)] = told.publishes, told.pushes
    assert publish.key == message.key == hashed_key(b"ch\n" + payload)
    assert publish.size == message.size == size


@pytest.mark.parametrize("three", [False, True], ids=["RESP2", "RESP3"])
def test_messages_and_subscriptions(three: bool) -> None:
    told = talk(
        (">", pack(b"HELLO", b"3") if three else pack(b"PING")),
        ("<", b"%1\r\n$5\r\nproto\r\n:3\r\n" if three else b"+PONG\r\n"),
        (">", pack(b"SUBSCRIBE", b"a", b"b") + pack(b"PSUBSCRIBE", b"c*")),
        ("<", confirmed(b"subscribe", b"a", 1, three=three) + push(b"message", b"a", EVENT, three=three)),
        ("<", confirmed(b"subscribe", b"b", 2, three=three) + confirmed(b"psubscribe", b"c*", 3, three=three)),
        ("<", push(b"pmessage", b"c*", b"cc", OTHER, three=three)),
        (">", pack(b"UNSUBSCRIBE") + pack(b"PING")),
        ("<", confirmed(b"unsubscribe", b"a", 2, three=three) + confirmed(b"unsubscribe", b"b", 1, three=three)),
        ("<", b"+PONG\r\n" if three else pack(b"pong", b"")),
        (">", pack(b"PUNSUBSCRIBE") + pack(b"PUBLISH", b"x", EVENT)),
        ("<", confirmed(b"punsubscribe", b"c*", 0, three=three) + b":5\r\n"),
    )
    assert told.subscriptions == [
        (1, "subscribe", b"a", True),
        (1, "subscribe", b"b", True),
        (1, "psubscribe", b"c*", True),
        (1, "subscribe", b"a", False),
        (1, "subscribe", b"b", False),
        (1, "psubscribe", b"c*", False),
    ]
    assert [(at_ns, one.kind, one.channel, one.key, one.pattern) for _, at_ns, one in told.pushes] == [
        (4, "message", b"a", 7, b""),
        (6, "pmessage", b"cc", event_key("theirs"), b"c*"),
    ]
    assert outcomes(told) == [("publish", "acknowledged", 5)]


def test_a_reply_that_looks_like_a_message_is_none_where_nothing_is_subscribed() -> None:
    told = talk((">", pack(b"LRANGE", b"l", b"0", b"-1") + pack(b"PUBLISH", b"c", EVENT)), ("<", pack(b"message", b"a", b"x") + b":3\r\n"))
    assert (told.pushes, outcomes(told)) == ([], [("publish", "acknowledged", 3)])


def test_a_transaction_tells_its_publishes_when_it_is_executed() -> None:
    body = pack(b"MULTI") + pack(b"SET", b"k", b"v") + pack(b"PUBLISH", b"ch", EVENT) + pack(b"PUBLISH", b"ch") + pack(b"EXEC")
    told = talk((">", body), ("<", b"+OK\r\n+QUEUED\r\n+QUEUED\r\n-ERR wrong number\r\n"), ("<", b"-EXECABORT discarded\r\n"))
    assert outcomes(told) == [("publish", "refused", -1)]
    body = pack(b"MULTI") + pack(b"SET", b"k", b"v") + pack(b"PUBLISH", b"ch", EVENT) + pack(b"EXEC") + pack(b"PUBLISH", b"ch", OTHER)
    told = talk((">", body), ("<", b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n:4\r\n:6\r\n"))
    assert outcomes(told) == [("publish", "acknowledged", 4), ("publish", "acknowledged", 6)]
    told = talk((">", pack(b"MULTI") + pack(b"PUBLISH", b"ch", EVENT) + pack(b"EXEC")), ("<", b"+OK\r\n+QUEUED\r\n*-1\r\n"))
    assert outcomes(told) == [("publish", "refused", -1)]


def test_streams_in_both_protocols() -> None:
    two = b"*1\r\n*2\r\n$2\r\nst\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\ne\r\n$5\r\nhello\r\n"
    three = b"%1\r\n$2\r\nst\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\ne\r\n$5\r\nhello\r\n"
    told = talk(
        (">", pack(b"XADD", b"st", b"NOMKSTREAM", b"MAXLEN", b"~", b"100", b"*", b"e", b"hello")),
        ("<", b"$3\r\n1-0\r\n"),
        (">", pack(b"XREADGROUP", b"GROUP", b"g", b"c", b"STREAMS", b"st", b">") + pack(b"XREAD", b"STREAMS", b"st", b"0")),
        ("<", two + three),
        (">", pack(b"XACK", b"st", b"g", b"1-0")),
    )
    assert outcomes(told) == [("xadd", "acknowledged", -1)]
    assert {one.key for _, _, one in told.pushes} == {told.publishes[0][1].key} and len(told.pushes) == 2
    assert told.handled == [(b"st", b"g", (b"1-0",))]


def test_commands_that_are_not_answered() -> None:
    told = talk(
        (">", pack(b"CLIENT", b"REPLY", b"SKIP") + pack(b"PUBLISH", b"a", EVENT) + pack(b"PUBLISH", b"a", OTHER)),
        ("<", b":1\r\n"),
        (">", pack(b"CLIENT", b"REPLY", b"OFF") + pack(b"PUBLISH", b"a", EVENT) + pack(b"CLIENT", b"REPLY", b"ON") + pack(b"PING")),
        ("<", b"+OK\r\n+PONG\r\n"),
    )
    assert outcomes(told) == [("publish", "unknown", -1), ("publish", "acknowledged", 1), ("publish", "unknown", -1)]


def test_names_are_known_and_no_secret_is_kept() -> None:
    told = Told()
    connection = tapped(told)
    said = pack(b"HELLO", b"3", b"AUTH", b"ann", b"hunter2", b"SETNAME", b"orders") + pack(b"AUTH", b"hunter2") + pack(b"hunter2", b"x")
    connection.to_server(said + b"hunter2\r\n" + pack(b"CLIENT", b"SETINFO", b"LIB-NAME", b"mine"), 1)
    assert (connection.seen.client_name, connection.seen.library) == ("orders", "mine")
    assert connection.seen.commands == {"HELLO": 1, "AUTH": 1, "other": 2, "CLIENT": 1}
    connection.close(2, "client")
    assert "hunter2" not in repr([connection.seen, vars(connection), told.__dict__])


def test_inline_commands_are_commands() -> None:
    assert inline_words(b"""  PUBLISH 'a b' "x\\x41\\n\\"" c""") == [b"PUBLISH", b"a b", b'xA\n"', b"c"]
    told = talk((">", b"PUBLISH ch hello\r\n\r\nPUBLISH ch 'he"), (">", b"llo'\n"), ("<", b":1\r\n:2\r\n"))
    assert outcomes(told) == [("publish", "acknowledged", 1), ("publish", "acknowledged", 2)]
    assert len({one.key for _, one in told.publishes}) == 1


@pytest.mark.parametrize(
    ("way", "garbage"),
    [
        (">", b"*1\r\n+no text\r\n"),
        (">", b"*x\r\n"),
        (">", b"a" * 70_000),
        ("<", b"HTTP/1.1 400 Bad\r\n"),
        ("<", b"$" + b"9" * 40 + b"\r\n"),
    ],
)
def test_what_cannot_be_read_is_counted_and_leaves_what_waits_unknown(way: str, garbage: bytes) -> None:
    told = talk((">", pack(b"PUBLISH", b"ch", EVENT)), (way, garbage), (way, b"more"), ("<", b":1\r\n"))
    seen = told.connections[1]
    assert (seen.unread_to_server if way == ">" else seen.unread_to_client) >= 4
    assert [one.outcome for _, one in told.publishes] == ["acknowledged" if way == ">" else "unknown"]


def test_monitor_and_replication_are_passed_by_and_counted() -> None:
    told = talk((">", pack(b"MONITOR")), ("<", b'+OK\r\n+1.2 [0 127.0.0.1:1] "PING"\r\n'), ("<", b'+1.3 [0 x] "PING"\r\n'))
    assert told.connections[1].unread_to_client > 0
    told = talk((">", pack(b"PSYNC", b"?", b"-1")), ("<", b"+FULLRESYNC abc 0\r\n$5\r\nab"))
    assert (told.connections[1].unread_to_client, told.pushes) == (len(b"+FULLRESYNC abc 0\r\n$5\r\nab"), [])


def test_the_same_read_is_read_once_for_all_subscribers() -> None:
    reads, told = SharedReads(), [Told(), Told()]
    heard = push(b"message", b"a", EVENT) * 3
    for one in told:
        connection = tapped(one, reads=reads)
        connection.to_server(pack(b"SUBSCRIBE", b"a"), 1)
        connection.to_client(confirmed(b"subscribe", b"a", 1), 2)
        connection.to_client(heard, 3)
    assert [[push for _, _, push in one.pushes] for one in told] == [[told[0].pushes[0][2]] * 3] * 2
    assert told[0].pushes[0][2] is told[1].pushes[0][2]


CHANNELS = st.sampled_from([b"a", b"bb", b"a"])
PAYLOADS = st.one_of(st.binary(max_size=40), st.sampled_from([EVENT, OTHER, b"\r\n:1\r\n", b"$3\r\nabc\r\n"]))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), CHANNELS, PAYLOADS),
        st.tuples(st.just("heard"), CHANNELS, PAYLOADS),
        st.tuples(st.just("get"), CHANNELS, PAYLOADS),
        st.tuples(st.just("transaction"), CHANNELS, PAYLOADS),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=150)
@given(steps=STEPS, cuts=st.lists(st.integers(1, 4000), max_size=30))
def test_however_the_bytes_are_cut_the_same_is_told(steps: list[tuple[str, bytes, bytes]], cuts: list[int]) -> None:
    """A RESP3 connection that hears and publishes; what is told is what was said, and the pieces in which it came do not matter."""
    there, back = (
        pack(b"HELLO", b"3") + pack(b"SUBSCRIBE", b"a"),
        b"%1\r\n$5\r\nproto\r\n:3\r\n" + confirmed(b"subscribe", b"a", 1, three=True),
    )
    published, heard = [], []
    for number, (kind, channel, payload) in enumerate(steps):
        if kind == "publish":
            there, back = there + pack(b"PUBLISH", channel, payload), back + b":%d\r\n" % number
            published.append((channel, len(payload), number))
        elif kind == "transaction":
            there += pack(b"MULTI") + pack(b"PUBLISH", channel, payload) + pack(b"EXEC")
            back += b"+OK\r\n+QUEUED\r\n*1\r\n:%d\r\n" % number
            published.append((channel, len(payload), number))
        elif kind == "get":
            there, back = there + pack(b"GET", channel), back + b"$%d\r\n%b\r\n" % (len(payload), payload)
        else:
            back += push(b"message", channel, payload, three=True)
            heard.append((channel, len(payload)))
    for pieces in ([0, len(there)], sorted({0, len(there), *(cut % (len(there) + 1) for cut in cuts)})):
        told = Told()
        connection = tapped(told)
        for begin, end in pairwise(pieces):
            connection.to_server(there[begin:end], 1)
        for begin, end in pairwise(sorted({0, len(back), *(cut % (len(back) + 1) for cut in cuts)})):
            connection.to_client(back[begin:end], 2)
        connection.close(3, "client")
        assert [(one.channel, one.size, one.receivers) for _, one in told.publishes] == published
        assert [(one.channel, one.size) for _, _, one in told.pushes] == heard
        assert (connection.seen.unread_to_server, connection.seen.unread_to_client) == (0, 0)
