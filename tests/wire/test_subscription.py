"""A subscription on a socket that a test plays: what it writes, what it takes from what it reads, and what it tells of its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sim.errors import BrokerRefused, BrokerUnreachable
from sim.grounds.model.loop import JumpingLoop
from sim.machine.clock import now_ns
from sim.machine.freezer import Freezer
from sim.wire.clients import SubscribingClient, SubscriptionCallbacks
from sim.wire.connection import Denied, Wire
from sim.wire.pipeline import MAX_CREDIBLE, NOT_SAID
from sim.wire.read_memo import ReadMemo
from sim.wire.resp import encode, pack
from sim.wire.subscription import CLASSIC, SHARDED, ChannelSubscription, PubSubWords, counted, open_subscription
from tests.support.strange_server import strange_server


class Socket:
    """A transport that keeps what is written and what is asked of it."""

    def __init__(self) -> None:
        self.written = b""
        self.orders: list[str] = []

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return bool({"close", "abort"} & set(self.orders))

    def close(self) -> None:
        self.orders.append("close")

    def abort(self) -> None:
        self.orders.append("abort")

    def pause_reading(self) -> None:
        self.orders.append("pause")

    def resume_reading(self) -> None:
        self.orders.append("resume")


class Payloads:
    def __init__(self, payloads: Any) -> None:
        self.events = tuple(payloads)


class End:
    """One subscription, its socket, and what it was heard to say: the payloads of each read, and when."""

    def __init__(self, kind: PubSubWords = CLASSIC) -> None:
        self.socket, self.wire = Socket(), Wire()
        self.wire.connection_made(self.socket)  # type: ignore[arg-type]
        self.heard: list[tuple[tuple[bytes, ...], int]] = []
        self.decoded: list[tuple[bytes, ...]] = []
        self.lost: list[str] = []
        self.memo: ReadMemo[Payloads] = ReadMemo(self._decode)
        self.subscription = ChannelSubscription(self.wire, kind, self.memo, self._heard)

    def _decode(self, payloads: Any) -> Payloads:
        chunk = Payloads(payloads)
        self.decoded.append(chunk.events)
        return chunk

    def _heard(self, chunk: Payloads, at_ns: int) -> None:
        self.heard.append((chunk.events, at_ns))

    def read(self, data: bytes) -> list[tuple[bytes, ...]]:
        """Read from the socket, and return what was heard of it."""
        before = len(self.heard)
        self.wire.data_received(data)
        return [events for events, _ in self.heard[before:]]

    async def subscribed(self, *channels: str) -> End:
        """Subscribe, with a broker that confirms each channel."""
        kind = self.subscription._kind
        waiting = asyncio.ensure_future(self.subscription.subscribe(channels))
        await asyncio.sleep(0)
        for number, channel in enumerate(sorted(set(channels)), 1):
            self.read(encode([kind.subscribe, channel.encode(), number]))
        await waiting
        self.subscription.on_lost(self.lost.append)
        self.heard.clear()
        self.decoded.clear()
        self.socket.written = b""
        return self


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(scene())


def message(payload: bytes, channel: bytes = b"a", kind: bytes = b"message") -> bytes:
    return pack(kind, channel, payload)


@pytest.mark.parametrize(("kind", "word"), [(CLASSIC, b"SUBSCRIBE"), (SHARDED, b"SSUBSCRIBE")])
def test_it_asks_for_each_channel_once_and_is_ready_when_each_is_confirmed(kind: PubSubWords, word: bytes) -> None:
    async def scene() -> None:
        end = End(kind)
        waiting = asyncio.ensure_future(end.subscription.subscribe(["b", "a", "b"]))
        await asyncio.sleep(0)
        assert end.socket.written == pack(word, b"a") + pack(word, b"b")
        end.read(encode([kind.subscribe, b"a", 1]))
        await asyncio.sleep(0)
        assert not waiting.done()
        end.read(encode([kind.subscribe, b"b", 2]))
        await asyncio.sleep(0)
        assert waiting.done() and waiting.result() is None
        end.read(encode([kind.subscribe, b"b", 2]))  # said once more: nothing comes of it

    play(scene)


def test_a_refusal_names_the_channel_that_it_is_about() -> None:
    async def scene() -> None:
        end = End()
        waiting = asyncio.ensure_future(end.subscription.subscribe(["a", "b"]))
        await asyncio.sleep(0)
        end.read(encode([b"subscribe", b"a", 1]) + b"-NOPERM no\r\n-NOPERM later\r\n")
        with pytest.raises(Denied) as denied:
            await waiting
        assert (denied.value.channel, denied.value.reply) == ("b", "NOPERM no")

    play(scene)


def test_a_connection_that_goes_before_all_is_confirmed_is_a_broker_that_is_not_there() -> None:
    async def scene() -> None:
        end = End()
        waiting = asyncio.ensure_future(end.subscription.subscribe(["a"]))
        await asyncio.sleep(0)
        end.wire.connection_lost(None)
        end.wire.connection_lost(None)
        with pytest.raises(BrokerUnreachable, match=r"^closed by the broker$"):
            await waiting

    play(scene)


@pytest.mark.parametrize("kind", [CLASSIC, SHARDED])
def test_payloads_of_a_read_are_heard_together_at_the_time_of_the_read(kind: PubSubWords) -> None:
    async def scene() -> None:
        end = await End(kind).subscribed("a", "long name", "x.y")
        await asyncio.sleep(1.5)
        word = kind.message
        stream = message(b"1", kind=word) + message(b"", b"long name", word) + message(b"\r\n3", b"x.y", word)
        assert end.read(stream) == [(b"1", b"", b"\r\n3")]
        assert end.heard[0][1] == now_ns()
        assert end.read(stream + message(b"4", b"xzy", word)) == [(b"1", b"", b"\r\n3", b"4")], "also of a channel that was not asked for"

    play(scene)


@pytest.mark.parametrize("place", range(1, len(message(b"one") + message(b"two"))))
def test_a_read_that_ends_inside_a_message_is_gone_on_with_and_never_remembered(place: int) -> None:
    async def scene() -> None:
        end = await End().subscribed("a")
        stream = message(b"one") + message(b"two")
        first = end.read(stream[:place])
        second = end.read(stream[place:])
        assert [*sum(first, ()), *sum(second, ())] == [b"one", b"two"]
        assert end.read(stream) == [(b"one", b"two")]
        whole = len(message(b"one"))
        assert len(end.memo._chunks) == 1 + 2 * (place == whole)
        decoded = len(end.decoded)
        assert end.read(bytes(bytearray(stream))) == [(b"one", b"two")] and len(end.decoded) == decoded, "parsed once"

    play(scene)


def test_whole_messages_of_its_channels_are_cut_out_and_a_read_that_was_had_is_heard_at_its_own_time() -> None:
    async def scene() -> None:
        end = await End().subscribed("a", "b.c")
        end.subscription._reader.feed = None  # type: ignore[method-assign,assignment]
        stream = message(b"1") + message(b"2", b"b.c") + message(b"3")
        times = []
        for _ in range(3):
            await asyncio.sleep(1.5)
            times.append(now_ns())
            assert end.read(stream) == [(b"1", b"2", b"3")]
        assert [at_ns for _, at_ns in end.heard] == times
        assert len(end.decoded) == 1

    play(scene)


@pytest.mark.parametrize("kind", [CLASSIC, SHARDED])
def test_where_a_memo_wants_it_each_payload_stands_beside_its_channel(kind: PubSubWords) -> None:
    """In messages that are cut out, with blanks and ends of lines in them, and in those that came in two reads."""

    async def scene() -> None:
        end = End(kind)
        end.memo.by_channel = True
        await end.subscribed("a b", "c")
        payloads = [(b"a b", b"x y\r\n$3\r\nz"), (b"c", b""), (b"a b", b" 5")]
        sent = b"".join(message(payload, channel, kind.message) for channel, payload in payloads)
        assert end.read(sent) == [tuple(payloads)]
        assert end.read(sent[:-4]) == [tuple(payloads[:2])] and end.read(sent[-4:]) == [tuple(payloads[2:])]

    play(scene)


def test_messages_of_a_channel_that_was_not_asked_for_are_remembered_like_any() -> None:
    async def scene() -> None:
        end = await End().subscribed("a")
        stream = message(b"1", b"other") + message(b"2")
        for _ in range(3):
            assert end.read(bytes(bytearray(stream))) == [(b"1", b"2")]
        assert end.decoded == [(b"1", b"2")]

    play(scene)


def test_messages_and_other_words_of_one_read_are_told_apart_and_not_remembered() -> None:
    async def scene() -> None:
        end = await End().subscribed("a")
        assert end.subscription.ping() is True
        mixed = message(b"1") + encode([b"pong", b""]) + message(b"2")
        assert end.read(mixed) == [(b"1", b"2")]
        assert end.memo._chunks == {}
        assert end.subscription.ping() is True, "the PONG was read, between two messages"

    play(scene)


@pytest.mark.parametrize("answer", [encode([b"pong", b""]), b"-ERR unknown command\r\n"])
def test_a_ping_waits_for_the_answer_to_the_one_before(answer: bytes) -> None:
    async def scene() -> None:
        end = await End().subscribed("a")
        assert [end.subscription.ping(), end.subscription.ping()] == [True, False]
        assert end.socket.written == pack(b"PING")
        end.read(message(b"1"))
        assert end.subscription.ping() is False
        end.read(answer)
        assert end.subscription.ping() is True
        assert end.socket.written == 2 * pack(b"PING")
        end.read(answer)
        end.wire.transport = None
        assert end.subscription.ping() is False

    play(scene)


@pytest.mark.parametrize(
    ("kind", "said", "name"),
    [
        (CLASSIC, [b"unsubscribe", b"a", 0], "a"),
        (SHARDED, [b"sunsubscribe", "ä".encode(), 0], "ä"),
        (CLASSIC, [b"unsubscribe", b"\xff", 0], "\ufffd"),
        (CLASSIC, [b"unsubscribe", 7, 0], "?"),
        (CLASSIC, [b"unsubscribe", b"a"], "a"),
        (CLASSIC, [b"unsubscribe"], "?"),
    ],
)
def test_a_channel_that_the_broker_takes_away_is_a_lost_connection(kind: PubSubWords, said: list[Any], name: str) -> None:
    async def scene() -> None:
        end = await End(kind).subscribed("a")
        assert end.read(message(b"1", kind=kind.message) + encode(said)) == [(b"1",)], "what came before it is heard"
        await asyncio.sleep(0)
        assert end.lost == [f"the broker took the channel {name} away: its slot moved"]
        assert (end.socket.orders, end.subscription.is_gone) == (["abort"], True)

    play(scene)


@pytest.mark.parametrize("form", [[b"message", b"a"], [b"message", b"a", 7], [b"message", b"a", b"1", b"2"]])
def test_a_message_of_another_form_is_no_answer_of_a_broker(form: list[Any]) -> None:
    async def scene() -> None:
        end = await End().subscribed("a")
        end.read(encode(form))
        await asyncio.sleep(0)
        assert end.lost == [f"the server says a message of another form: {form!r}"]

    play(scene)


@pytest.mark.parametrize("other", [encode([]), encode(b"text"), encode([b"psubscribe", b"a", 1]), encode(7), b"$-1\r\n", b"*-1\r\n"])
def test_what_it_did_not_ask_for_is_passed_over(other: bytes) -> None:
    async def scene() -> None:
        end = await End().subscribed("a")
        assert end.read(other + message(b"1")) == [(b"1",)]
        assert end.read(message(b"1") + other + message(b"2")) == [(b"1", b"2")]
        assert (end.lost, end.memo._chunks) == ([], {})

    play(scene)


def test_it_pauses_resumes_and_ends_its_socket() -> None:
    async def scene() -> None:
        end = await End().subscribed("a")
        end.subscription.pause()
        end.wire.pause("frozen")
        end.subscription.resume()
        assert end.socket.orders == ["pause", "pause"], "the other reason to pause is still there"
        end.wire.resume("frozen")
        assert (end.socket.orders[2:], end.subscription.is_gone) == (["resume"], False)
        await end.subscription.finish()
        assert end.socket.orders[3:] == []
        end.subscription.close()
        assert (end.socket.orders[3:], end.subscription.is_gone) == (["close"], True)
        aborted = await End().subscribed("a")
        aborted.subscription.abort()
        await asyncio.sleep(0)
        assert (aborted.socket.orders, aborted.lost) == (["abort"], [])

    play(scene)


# -- opened ------------------------------------------------------------------------------------------------------


def server_of(word: bytes) -> Callable[[list[bytes]], bytes]:
    """Return what a broker says: OK, and to a subscription its confirmation and at once a message."""

    def answer(words: list[bytes]) -> bytes:
        if words[0] != word.upper():
            return b"+OK\r\n"
        kind = SHARDED if word == SHARDED.subscribe else CLASSIC
        return encode([word, words[1], 1]) + message(b"of " + words[1], words[1], kind.message)

    return answer


@pytest.mark.parametrize("kind", [CLASSIC, SHARDED])
def test_it_is_opened_under_its_client_s_name_and_hears_what_came_with_the_confirmation(kind: PubSubWords) -> None:
    async def scene() -> None:
        decoded: list[tuple[bytes, ...]] = []
        heard: list[Any] = []

        def decode(payloads: Any) -> Payloads:
            chunk = Payloads(payloads)
            decoded.append(chunk.events)
            return chunk

        callbacks = SubscriptionCallbacks(ReadMemo(decode), lambda chunk, at_ns: heard.append(chunk.events), lost=decoded.append)
        freezer = Freezer()
        client = SubscribingClient("its name", "group", "consumer", freezer=freezer)
        subscription = await open_subscription(server.address, ["b", "a"], kind=kind, client=client, callbacks=callbacks)
        assert server.asked[0] == [b"CLIENT", b"SETNAME", b"its name"]
        assert [words[1] for words in server.asked[1:]] == [b"a", b"b"] and server.asked[1][0].lower() == kind.subscribe
        assert (
            [payload for events in heard for payload in events]
            == [payload for events in decoded for payload in events]
            == [b"of a", b"of b"]
        )
        assert subscription._wire in freezer._streams, "frozen with its client"
        subscription.close()

    with strange_server(server_of(kind.subscribe)) as server:
        asyncio.run(scene())


def test_a_pod_s_freezer_holds_back_the_reads_of_its_subscription() -> None:
    async def scene() -> None:
        heard: list[Any] = []
        callbacks = SubscriptionCallbacks(ReadMemo(Payloads), lambda chunk, at_ns: heard.append(chunk.events), lost=heard.append)
        freezer = Freezer()
        client = SubscribingClient("n", "group", "consumer", freezer=freezer)
        subscription = await open_subscription(server.address, ["a"], kind=CLASSIC, client=client, callbacks=callbacks)
        before = len(heard)
        freezer.freeze()
        assert subscription.ping() is True
        assert not subscription._wire.transport.is_reading()  # type: ignore[union-attr]
        await asyncio.sleep(0.05)
        assert len(heard) == before
        freezer.thaw()
        while len(heard) == before:
            await asyncio.sleep(0.001)
        subscription.close()

    with strange_server(server_of(b"subscribe")) as server:
        asyncio.run(scene())


# -- the memo ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 1023, 1024, 1025, 65_535, 65_536])
def test_the_memo_knows_the_same_bytes_again_and_no_others(length: int) -> None:
    memo: ReadMemo[Payloads] = ReadMemo(Payloads)
    data, chunk = b"x" * length, Payloads([b"1"])
    memo.put(data, chunk)
    assert memo.last == (data, chunk)
    other, others = b"y" + b"x" * 50, Payloads([b"2"])
    memo.put(other, others)
    again = bytes(bytearray(data))
    assert memo.get(again) is chunk
    assert memo.last[0] is again and memo.last[1] is chunk
    assert memo.get(b"x" * (length - 1) + b"z") is None
    assert memo.get(b"x" * (length + 1)) is None
    assert memo.last[0] is again, "what was not found is not the last"


def test_the_memo_tells_long_reads_apart_by_their_beginnings_and_lengths_and_begins_anew_when_it_is_full() -> None:
    memo: ReadMemo[Payloads] = ReadMemo(Payloads)
    chunks = {}
    for first in (0, 191):
        for length in (2_000, 2_001):
            data = b"a" * first + b"b" + b"c" * length
            chunks[data] = Payloads([])
            memo.put(data, chunks[data])
    assert [memo.get(data) for data in chunks] == list(chunks.values())
    same = b"b" + b"c" * 1_999 + b"d"  # as long, and alike in the first 192 bytes: it takes the place of the other
    memo.put(same, Payloads([]))
    assert memo.get(next(iter(chunks))) is None
    for number in range(memo.MAX_READS - 4):
        memo.put(b"%d" % number, Payloads([]))
    assert len(memo._chunks) == memo.MAX_READS
    memo.put(b"one more", Payloads([]))
    assert list(memo._chunks) == [b"one more"]


def test_a_memo_that_was_asked_for_nothing_has_no_last_read() -> None:
    assert ReadMemo(Payloads).last == (None, None)


def test_a_read_that_is_too_long_to_remember_is_not_the_last_one_either() -> None:
    memo: ReadMemo[Payloads] = ReadMemo(Payloads)
    memo.put(b"x" * (memo.MAX_BYTES + 1), Payloads([]))
    assert (memo.last, memo._chunks) == ((None, None), {})


# -- how many subscribe ------------------------------------------------------------------------------------------


def nodes(*replies: Any) -> tuple[list[Any], list[tuple[str, ...]]]:
    asked: list[tuple[str, ...]] = []

    def of(reply: Any) -> Any:
        async def command(*words: str) -> Any:
            asked.append(words)
            return reply

        return command

    return [of(reply) for reply in replies], asked


def test_subscribers_are_summed_over_the_nodes_and_nonsense_is_not_known() -> None:
    async def scene() -> None:
        commands, asked = nodes([b"a", 1, b"b", 2, b"c", MAX_CREDIBLE], [b"a", 0, b"b", MAX_CREDIBLE + 1, b"c", 0])
        assert await counted(commands, "NUMSUB", ["a", "b", "c"]) == [1, NOT_SAID, MAX_CREDIBLE]
        assert asked == [("PUBSUB", "NUMSUB", "a", "b", "c")] * 2
        commands, _ = nodes([b"a", -1])
        assert await counted(commands, "NUMSUB", ["a"]) == [NOT_SAID]

    play(scene)


@pytest.mark.parametrize("reply", [7, None, [], [b"a"], [b"b", 1], [b"a", b"1"], [b"a", 1, b"b"], [b"a", True], [1, b"a"]])
def test_an_answer_that_is_not_the_channels_with_their_numbers_is_refused(reply: Any) -> None:
    async def scene() -> None:
        commands, _ = nodes(reply)
        with pytest.raises(BrokerRefused) as refused:
            await counted(commands, "SHARDNUMSUB", ["a"])
        assert str(refused.value) == f"its answer to PUBSUB SHARDNUMSUB is not the channels with a number each: {reply!r}"

    play(scene)
