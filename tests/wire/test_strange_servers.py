"""Servers that answer what no Redis would: one line that names the address, in no time, and no memory taken for what was announced."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import hiredis
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.bus.envelope import decode_read
from sim.errors import BrokerError, BrokerRefused, BuslabError
from sim.grounds.external import ExternalBroker, external
from sim.measure.capacity import children
from sim.measure.capacity.run import TINY, measure_capacity
from sim.measure.capacity.saturate import Range
from sim.pods.blocking_client import BusClient
from sim.scenario.file import load_scenario
from sim.wire.address import Address
from sim.wire.clients import PublishCallbacks, SubscribingClient, SubscriptionCallbacks
from sim.wire.command_client import CommandClient
from sim.wire.pipeline import NOT_SAID
from sim.wire.read_memo import ReadMemo
from sim.wire.reply_reader import MAX_DEPTH, BadReply, ReplyReader
from sim.wire.resp import NIL, encode, pack
from sim.wire.slots import find_owners
from sim.wire.transports import TRANSPORTS
from tests.support.strange_server import strange_server

CHANNEL = "aiponge:events:analytics.events.batch"
TOO_LARGE = {
    "two billion elements": b"*2000000000\r\n",
    "two billion in an array": b"*1\r\n*2000000000\r\n",
    "many announcements in each other": b"*900000\r\n" * 8,
    "a map of RESP3": b"%2000000000\r\n",
    "a set of RESP3": b"~2000000000\r\n",
    "a push of RESP3": b">2000000000\r\n",
    "a text of 2 GB": b"$2000000000\r\n",
    "a text of 2 GB in a message": b"*3\r\n$7\r\nmessage\r\n$%d\r\n%b\r\n$2000000000\r\n" % (len(CHANNEL), CHANNEL.encode()),
    "arrays a thousand deep": b"*1\r\n" * 1000,
    "a number without end": b"*" + b"9" * 5000 + b"\r\n",
    "an error of 3 MB": b"-ERR " + b"x" * 3_000_000 + b"\r\n",
    "a status of 3 MB without an end": b"+" + b"x" * 3_000_000,
}
NO_REDIS = {
    "HTTP": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "SMTP": b"220 mail.example ESMTP\r\n",
    "zeros": bytes(100),
    "TLS": bytes.fromhex("15030300020228"),
    "an array of letters": b"*abc\r\n",
    "JSON": b'{"error": "no"}\n',
}
EVERY = TOO_LARGE | NO_REDIS
Run = Callable[[Coroutine[Any, Any, Any]], Any]


def callbacks() -> PublishCallbacks:
    return PublishCallbacks(lambda *_: None, lambda *_: None, lambda *_: None)


async def subscribe(kind: str, address: Address) -> None:
    hears = SubscriptionCallbacks(ReadMemo(decode_read), lambda *_: None, lambda _: None)
    client = SubscribingClient("buslab-t", "g", "c")
    (await TRANSPORTS[kind]().subscribe(address, [CHANNEL], client=client, callbacks=hears)).abort()


async def publish(kind: str, address: Address) -> None:
    (await TRANSPORTS[kind]().open_publisher(address, client_name="buslab-t", callbacks=callbacks())).abort()


async def ask(address: Address) -> None:
    client = CommandClient(address, name="buslab-t")
    try:
        await client.ask("INFO")
    finally:
        client.close()


def reach(address: Address) -> None:
    with external(address.url):
        pass


def connect(address: Address) -> None:
    BusClient(address, source="music-service").connect()


def ask_of_capacity(address: Address) -> None:
    Range(ExternalBroker(address, str(address)), Path()).info("cpu")


def hear_of_capacity(address: Address) -> None:
    children.connect(address.url, [CHANNEL])


OURS = {
    "commands": ask,
    "hearing": lambda address: subscribe("pubsub", address),
    "hearing shards": lambda address: subscribe("sharded", address),
    "hearing streams": lambda address: subscribe("streams", address),
    "speaking": lambda address: publish("pubsub", address),
    "speaking to shards": lambda address: publish("sharded", address),
    "asking for slots": lambda address: find_owners(address, client_name="buslab-t"),
}
SUBSCRIBED = encode([b"subscribe", CHANNEL.encode(), 1])
REDIS_PY = {"reaching": reach, "Locust's client": connect, "capacity asks": ask_of_capacity, "capacity subscribes": hear_of_capacity}


def refused_in_one_line(address: Address, attempt: Callable[[], object], *, within_s: float = 6.0) -> str:
    before, began_s = psutil.Process().memory_info().vms, time.monotonic()
    with pytest.raises(BrokerError) as refused:
        attempt()
    assert time.monotonic() - began_s < within_s
    assert psutil.Process().memory_info().vms - before < 400e6
    said = str(refused.value)
    assert str(address) in said and "\n" not in said and len(said) < 600
    return said


@pytest.mark.parametrize("answer", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("use", OURS.values(), ids=OURS)
def test_our_own_connections_refuse_it_in_one_line(run_async: Run, use: Any, answer: bytes) -> None:
    with strange_server(lambda words: answer) as server:
        refused_in_one_line(server.address, lambda: run_async(use(server.address)))


@pytest.mark.parametrize("answer", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("use", REDIS_PY.values(), ids=REDIS_PY)
def test_redis_py_s_connections_refuse_it_in_one_line(use: Callable[[Address], None], answer: bytes) -> None:
    with strange_server(lambda words: answer) as server:
        refused_in_one_line(server.address, lambda: use(server.address))


def only(command: bytes, answer: bytes, *, other: bytes = b"+OK\r\n") -> Callable[[list[bytes]], bytes]:
    return lambda words: answer if words[0] == command else other


@pytest.mark.parametrize("command", [b"INFO", b"SUBSCRIBE", b"PUBLISH"])
def test_capacity_ends_in_one_line_and_takes_no_memory(command: bytes) -> None:
    """The server is let in with its PING, and announces two billion elements in answer to what capacity asks later."""
    scenario = load_scenario("baseline", settings=["load.driver=pods"])
    info = encode(b"used_cpu_user:0\r\nused_cpu_sys:0\r\ntotal_net_output_bytes:0\r\n")
    others = {b"INFO": info, b"SUBSCRIBE": SUBSCRIBED, b"PUBLISH": b":1\r\n"}

    def answer(words: list[bytes]) -> bytes:
        if words[0] == b"PUBLISH":
            time.sleep(0.001)  # nobody hears anything here, and who publishes would wait for that
        return TOO_LARGE["two billion elements"] if words[0] == command else others.get(words[0], b"+OK\r\n")

    with strange_server(answer) as server:
        before = psutil.Process().memory_info().vms
        with pytest.raises(BuslabError) as refused:
            measure_capacity(scenario, on=server.address.url, effort=TINY)
        assert psutil.Process().memory_info().vms - before < 2e9, "it took 16.7 GB"
    said = str(refused.value)
    assert "2,000,000,000 elements" in said or "2000000000" in said, said
    assert "\n" not in said and "Traceback" not in said and len(said) < 600


@pytest.mark.parametrize("answer", EVERY.values(), ids=EVERY)
def test_a_publish_that_is_answered_so_is_lost_with_its_connection(run_async: Run, answer: bytes) -> None:
    async def scene() -> str:
        lost: asyncio.Future[tuple[str, list[Any]]] = asyncio.get_running_loop().create_future()
        told = PublishCallbacks(lambda *_: None, lambda *_: None, lambda why, tokens: lost.set_result((why, tokens)))
        publisher = await TRANSPORTS["pubsub"]().open_publisher(server.address, client_name="buslab-t", callbacks=told)
        assert publisher.send(b"c", b"p", 7)
        async with asyncio.timeout(5):
            why, tokens = await lost
        assert tokens == [7]
        return why

    with strange_server(only(b"PUBLISH", answer)) as server:
        assert "\n" not in run_async(scene())


@pytest.mark.parametrize("answer", EVERY.values(), ids=EVERY)
def test_a_blocking_publish_that_is_answered_so_is_unknown(answer: bytes) -> None:
    with strange_server(only(b"PUBLISH", answer)) as server:
        client = BusClient(server.address, source="music-service")
        published = client.call("config.cache.invalidate", {"pattern": "*"})
        assert published is not None
        assert published.outcome == "unknown" and len(published.error) < 600
        client.close()


@pytest.mark.parametrize("count", [-1, -5, 1_000_001, 2**31, 2**63 - 1])
def test_a_count_of_receivers_that_nobody_can_have_counts_as_not_said(run_async: Run, count: int) -> None:
    async def scene() -> int:
        told: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        calls = PublishCallbacks(lambda _, receivers, __: told.set_result(receivers), lambda *_: None, lambda *_: None)
        publisher = await TRANSPORTS["pubsub"]().open_publisher(server.address, client_name="buslab-t", callbacks=calls)
        publisher.send(b"c", b"p", 7)
        async with asyncio.timeout(5):
            receivers = await told
        publisher.abort()
        return receivers

    with strange_server(only(b"PUBLISH", b":%d\r\n" % count)) as server:
        assert run_async(scene()) == NOT_SAID
        client = BusClient(server.address, source="music-service")
        published = client.call("config.cache.invalidate", {"pattern": "*"})
        assert published is not None and (published.outcome, published.receivers) == ("acknowledged", NOT_SAID)
        client.close()


WRONG = {
    "a number": b":7\r\n",
    "a text": b"$5\r\nhello\r\n",
    "a text of 3 MB": b"$3000000\r\n" + b"x" * 3_000_000 + b"\r\n",
    "a status": b"+OK\r\n",
    "nothing": b"$-1\r\n",
    "an empty list": b"*0\r\n",
    "half a pair": encode([CHANNEL.encode()]),
    "a pair too many": encode([CHANNEL.encode(), 1, b"more", 2]),
    "a text for a number": encode([CHANNEL.encode(), b"many"]),
    "a list for a number": encode([CHANNEL.encode(), [1]]),
    "nothing for a number": encode([CHANNEL.encode(), NIL]),
    "another channel": encode([b"other", 1]),
    "a list of lists": encode([[CHANNEL.encode(), 1]]),
}


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("kind", ["pubsub", "sharded", "streams"])
def test_a_count_of_subscribers_of_a_wrong_form_is_refused_in_one_line(run_async: Run, kind: str, answer: bytes) -> None:
    async def scene() -> None:
        client = CommandClient(server.address, name="buslab-t")
        try:
            with pytest.raises(BrokerRefused) as refused:
                await TRANSPORTS[kind]().subscribers([client.ask], server.address, [CHANNEL])
            assert "\n" not in str(refused.value) and len(str(refused.value)) < 400
        finally:
            client.close()

    if kind == "streams" and answer == WRONG["an empty list"]:
        pytest.skip("a stream without groups has no consumers")
    with strange_server(lambda words: answer if words[0] in (b"PUBSUB", b"XINFO") else b"+OK\r\n") as server:
        run_async(scene())


@pytest.mark.parametrize("answer", [value for name, value in WRONG.items() if name not in ("an empty list", "nothing")])
def test_an_answer_about_slots_of_a_wrong_form_is_refused_in_one_line(run_async: Run, answer: bytes) -> None:
    async def scene() -> None:
        with pytest.raises(BrokerRefused, match="CLUSTER SLOTS") as refused:
            await find_owners(server.address, client_name="buslab-t")
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 400

    with strange_server(only(b"CLUSTER", answer)) as server:
        run_async(scene())


MESSAGES = {
    "a message without a payload": encode([b"message", b"c"]),
    "a message of numbers": encode([b"message", 1, 2]),
    "a message of nothing": encode([b"message", b"c", NIL]),
    "a message of four": encode([b"message", b"c", b"{}", b"{}"]),
    **EVERY,
}


@pytest.mark.parametrize("said", MESSAGES.values(), ids=MESSAGES)
def test_a_subscription_that_hears_nonsense_is_lost_in_one_line(run_async: Run, said: bytes) -> None:
    async def scene() -> str:
        lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        hears = SubscriptionCallbacks(ReadMemo(decode_read), lambda *_: None, lost.set_result)
        await TRANSPORTS["pubsub"]().subscribe(server.address, [CHANNEL], client=SubscribingClient("buslab-t", "g", "c"), callbacks=hears)
        async with asyncio.timeout(5):
            return await lost

    confirmed = encode([b"subscribe", CHANNEL.encode(), 1])
    with strange_server(lambda words: confirmed + said if words[0] == b"SUBSCRIBE" else b"+OK\r\n") as server:
        try:
            why = run_async(scene())
        except BrokerError as error:  # it came in one read with the confirmation
            why = str(error)
    assert why and "\n" not in why and len(why) < 600


replies = st.recursive(
    st.just(NIL) | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=30) | st.sampled_from(["OK", b"message"]),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)
messages = st.tuples(st.just(b"message"), st.binary(max_size=20), st.binary(max_size=120)).map(lambda words: pack(*words))


@given(st.lists(replies.map(encode) | messages, min_size=1, max_size=6), st.lists(st.integers(1, 40), max_size=200))
def test_what_is_a_reply_is_read_as_hiredis_does_and_its_end_is_known(frames: list[bytes], cuts: list[int]) -> None:
    data, ends, place = b"".join(frames), set(), 0
    for frame in frames:
        place += len(frame)
        ends.add(place)
    ours, plain, place = ReplyReader(), hiredis.Reader(), 0
    for cut in [*cuts, len(data)]:
        part = data[place : place + cut]
        if not part:
            break
        place += len(part)
        ours.feed(part)
        plain.feed(part)
        while (expected := plain.gets()) is not False:
            assert ours.gets() == expected
        assert ours.gets() is False
        assert ours.whole == (place in ends)


@pytest.mark.parametrize("step", [1, 7, 10_000_000])
@pytest.mark.parametrize("bad", [value for name, value in EVERY.items() if name not in ("TLS",)])
def test_it_is_refused_however_its_bytes_are_cut(bad: bytes, step: int) -> None:
    reader = ReplyReader()
    with pytest.raises((BadReply, hiredis.ProtocolError)):
        for place in range(0, len(bad), step):
            reader.feed(bad[place : place + step])
            while reader.gets() is not False:
                pass
        pytest.fail("it was taken")


def test_as_deep_as_a_server_of_ours_answers_is_taken() -> None:
    reader = ReplyReader()
    reader.feed(b"*1\r\n" * MAX_DEPTH + b":1\r\n")
    assert reader.whole and reader.gets() is not False
