"""The model answers as a real server does: the same commands, from the same clients, get the same replies from both."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.bus.once import DELETE_IF_MINE
from sim.faults.server_commands import SPIN
from sim.grounds.catalogue import open_broker
from sim.grounds.model.costs import COLD_MAX_MS, MIB, Costs
from sim.grounds.model.ground import model
from sim.grounds.model.loop import NS_PER_S
from sim.machine.clock import new_event_loop, now_ns
from sim.wire.address import Address
from sim.wire.resp import pack
from tests.support.examples import examples

CLIENTS = 3
Script = list[tuple[int, tuple[str, ...]]]  # (client, words)


class Talker:
    """Speak RESP to either server, and know nothing of the lab's own client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._parser = hiredis.Reader()

    def send(self, *words: str) -> None:
        self._writer.write(pack(*(word.encode() for word in words)))

    async def reply(self) -> Any:
        while (reply := self._parser.gets()) is False:
            data = await self._reader.read(65_536)
            if not data:
                raise ConnectionResetError
            self._parser.feed(data)
        return str(reply) if isinstance(reply, Exception) else reply

    async def replies_up_to(self, mark: str) -> list[Any]:
        """Send PING with a mark, and return every reply before its answer."""
        self.send("PING", mark)
        replies = []
        while (reply := await self.reply()) not in (mark.encode(), [b"pong", mark.encode()]):
            replies.append(reply)
        return replies

    def close(self) -> None:
        self._writer.close()


async def talk(address: Address) -> Talker:
    return Talker(*await asyncio.open_connection(address.host, address.port))


async def play(address: Address, script: Script) -> list[list[Any]]:
    """Let each client say its commands, one after another over all clients, and return what each was told."""
    clients = [await talk(address) for _ in range(CLIENTS)]
    told: list[list[Any]] = [[] for _ in clients]
    clients[0].send("FLUSHALL")
    assert await clients[0].reply() == b"OK"
    for place, (number, words) in enumerate(script):
        clients[number].send(*words)
        told[number] += await clients[number].replies_up_to(f"mark{place}")
    for number, client in enumerate(clients):
        told[number] += await client.replies_up_to("the end")
        client.close()
    return told


def on_model(coroutine_of: Any) -> Any:
    with model() as broker, asyncio.Runner(loop_factory=broker.new_loop) as runner:
        return runner.run(coroutine_of(broker))


names = st.sampled_from(["a", "b", "c"])
commands = st.one_of(
    st.tuples(st.just("SET"), names, names),
    st.tuples(st.just("SET"), names, names, st.just("NX"), st.just("EX"), st.just("300")),
    st.tuples(st.just("GET"), names),
    st.tuples(st.just("DEL"), names, names),
    st.tuples(st.just("EVAL"), st.just(DELETE_IF_MINE), st.just("1"), names, names),
    st.tuples(st.just("PUBLISH"), names, names),
    st.tuples(st.just("PUBSUB"), st.just("NUMSUB"), names, names),
    st.tuples(st.just("DBSIZE")),
    st.tuples(st.just("FLUSHALL")),
    st.tuples(st.just("CLIENT"), st.just("SETNAME"), names),
)
ids = st.sampled_from(["0", "$"])
counts = st.sampled_from(["1", "2", "10"])
stream_commands = st.one_of(
    st.tuples(st.just("XADD"), names, st.just("*"), st.just("e"), names),
    st.tuples(st.just("XADD"), names, st.just("MAXLEN"), st.just("2"), st.just("*"), st.just("e"), names),
    st.tuples(st.just("XADD"), names, st.just("MAXLEN"), st.just("~"), st.just("2"), st.just("*"), st.just("e"), names),
    st.tuples(st.just("XGROUP"), st.just("CREATE"), names, st.just("g"), ids, st.just("MKSTREAM")),
    st.tuples(st.just("XGROUP"), st.just("CREATECONSUMER"), names, st.just("g"), names),
    st.tuples(st.just("XGROUP"), st.just("DESTROY"), names, st.just("g")),
    st.tuples(*map(st.just, ("XREADGROUP", "GROUP", "g")), names, st.just("COUNT"), counts, st.just("STREAMS"), names, st.just(">")),
    st.tuples(*map(st.just, ("XREADGROUP", "GROUP", "g")), names, st.just("COUNT"), counts, st.just("STREAMS"), names, st.just("0")),
    st.tuples(st.just("XAUTOCLAIM"), names, st.just("g"), names, st.just("0"), st.just("0-0"), st.just("COUNT"), counts),
    st.tuples(st.just("XLEN"), names),
    st.tuples(st.just("EXISTS"), names),
    st.tuples(st.just("DEL"), names),
)
hearing = st.one_of(
    st.tuples(st.just("SUBSCRIBE"), names),
    st.tuples(st.just("SUBSCRIBE"), names, names),
    st.tuples(st.just("UNSUBSCRIBE"), names),
)
# The last client only hears: a subscriber may not say anything else in RESP2.
scripts = st.lists(
    st.one_of(st.tuples(st.integers(0, CLIENTS - 2), commands), st.tuples(st.just(CLIENTS - 1), hearing)),
    max_size=25,
)


@pytest.mark.broker
def test_the_model_and_a_real_server_give_the_same_replies(address: Address) -> None:
    """One hypothesis run inside one event loop each, so that a hundred scripts cost a hundred round trips and no more."""
    compared: list[int] = []

    @settings(max_examples=examples(100))
    @given(scripts)
    def compare(script: Script) -> None:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            real = runner.run(play(address, script))
        assert on_model(lambda broker: play(broker.address, script)) == real
        compared.append(sum(map(len, real)))

    compare()
    assert sum(compared) > 100, "the scripts said hardly anything"


@pytest.mark.broker
def test_settings_and_what_keeps_a_server_busy_are_those_of_a_real_server() -> None:
    """On a server of its own: it asks for a password meanwhile, which only new connections feel."""
    limit = "client-output-buffer-limit"
    script: Script = [
        (0, ("CONFIG", "GET", limit)),
        (0, ("CONFIG", "SET", limit, "pubsub 1048576 65536 7")),
        (1, ("CONFIG", "GET", limit)),
        (0, ("CONFIG", "SET", limit, "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60")),
        (1, ("CONFIG", "GET", limit)),
        (0, ("CONFIG", "SET", "maxclients", "50")),
        (1, ("CONFIG", "GET", "maxclients")),
        (0, ("CONFIG", "GET", "no-such-setting")),
        (0, ("CONFIG", "SET", "requirepass", "secret")),
        (1, ("CONFIG", "GET", "requirepass")),
        (1, ("SET", "a", "1")),
        (0, ("CONFIG", "SET", "requirepass", "")),
        (0, ("EVAL", SPIN, "0", "1")),
        (1, ("CLIENT", "PAUSE", "1", "ALL")),
        (1, ("CLIENT", "KILL", "ID", "999999")),
    ]
    with open_broker("embedded") as broker, asyncio.Runner(loop_factory=new_event_loop) as runner:
        real = runner.run(play(broker.address, script))
    assert on_model(lambda broker: play(broker.address, script)) == real


def test_a_script_that_spins_keeps_the_model_busy_for_as_long() -> None:
    async def scene(broker: Any) -> int:
        busy, waits = await talk(broker.address), await talk(broker.address)
        began_ns = now_ns()
        busy.send("EVAL", SPIN, "0", "250")
        assert await busy.reply() == b"done"
        waits.send("PING")
        await waits.reply()
        assert broker.server.busy_ns > 250_000_000
        return now_ns() - began_ns

    assert 250_000_000 < on_model(scene) < 260_000_000


def unnumbered(reply: Any) -> Any:
    """Ids hold the time; which entry each is stands in its content, so they are left out."""
    if isinstance(reply, list):
        return [unnumbered(one) for one in reply]
    return b"id" if isinstance(reply, bytes) and re.fullmatch(rb"\d{6,}-\d+", reply) else reply


@pytest.mark.broker
def test_streams_and_groups_are_those_of_a_real_server(address: Address) -> None:
    compared: list[int] = []

    @settings(max_examples=examples(150))
    @given(st.lists(st.tuples(st.integers(0, CLIENTS - 2), stream_commands), max_size=30))
    def compare(script: Script) -> None:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            real = runner.run(play(address, script))
        told = on_model(lambda broker: play(broker.address, script))
        for one, other in zip(told, real, strict=True):
            for mine, theirs in zip(one, other, strict=True):
                if isinstance(theirs, str) and " " in theirs:  # an error: its code counts
                    mine, theirs = mine.split()[0], theirs.split()[0]
                assert unnumbered(mine) == unnumbered(theirs), script
        compared.append(sum(map(len, real)))

    compare()
    assert sum(compared) > 100, "the scripts said hardly anything"


@pytest.mark.broker
@pytest.mark.parametrize("most", [1, 20, 150])
@pytest.mark.parametrize("size", [10, 300, 1000, 20_000])
def test_a_stream_trimmed_to_about_a_length_is_as_long_as_on_a_real_server(address: Address, size: int, most: int) -> None:
    """What it is told is the least: nodes are dropped whole."""
    add = ("XADD", "s", "MAXLEN", "~", str(most), "*", "e", "x" * size)
    script: Script = [(0, words) for _ in range(max(220, most + 30)) for words in (add, ("XLEN", "s"))]
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        real = runner.run(play(address, script))[0][1::2]
    assert on_model(lambda broker: play(broker.address, script))[0][1::2] == real
    assert min(real[most:]) >= most


@pytest.mark.broker
@pytest.mark.parametrize(
    "words",
    [("NOSUCH", "a"), ("PUBSUB", "NOSUCH"), ("CLIENT", "NOSUCH")],
)
def test_both_refuse_what_neither_knows(address: Address, words: tuple[str, ...]) -> None:
    with asyncio.Runner() as runner:
        real = runner.run(play(address, [(0, words)]))
    told = on_model(lambda broker: play(broker.address, [(0, words)]))
    assert real[0][0].startswith("ERR unknown")
    assert told[0][0].startswith("ERR unknown")


def test_a_key_expires_in_virtual_time() -> None:
    async def scene(broker: Any) -> list[Any]:
        talker = await talk(broker.address)
        heard = []
        for words, wait_s in ((("SET", "k", "v", "EX", "300"), 299.9), (("GET", "k"), 0.2), (("GET", "k"), 0), (("DEL", "k"), 0)):
            talker.send(*words)
            heard.append(await talker.reply())
            await asyncio.sleep(wait_s)
        return heard

    assert on_model(scene) == [b"OK", b"v", None, 0]


def test_work_takes_the_servers_time_and_waiting_commands_share_a_turn() -> None:
    async def scene(broker: Any) -> tuple[int, int]:
        hearers = [await talk(broker.address) for _ in range(50)]
        for hearer in hearers:
            hearer.send("SUBSCRIBE", "c")
            await hearer.reply()
        talker = await talk(broker.address)
        server = broker.server
        busy = server.busy_ns
        talker.send("PUBLISH", "c", "x")
        assert await talker.reply() == 50
        alone = server.busy_ns - busy
        busy = server.busy_ns
        for _ in range(16):
            talker.send("PUBLISH", "c", "x")
        for _ in range(16):
            assert await talker.reply() == 50
        return alone, server.busy_ns - busy

    alone, together = on_model(scene)
    assert alone > 50 * 5_000, "50 copies are 50 writes"
    assert together < 8 * alone, "16 publishes that wait together leave in one write a subscriber"


def test_a_subscriber_that_does_not_read_is_cut_at_the_limit() -> None:
    async def scene(broker: Any) -> None:
        loop = asyncio.get_running_loop()
        deaf: list[Any] = []
        read: list[int] = []
        lost: list[Any] = []

        class Deaf(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                deaf.append(transport)
                transport.write(pack(b"SUBSCRIBE", b"c"))
                transport.pause_reading()

            def data_received(self, data: bytes) -> None:
                read.append(len(data))

            def connection_lost(self, exc: Exception | None) -> None:
                lost.append(exc)

        await loop.create_connection(Deaf, broker.address.host, broker.address.port)
        talker = await talk(broker.address)
        queued, receivers = 0, 1
        payload = "x" * (MIB // 4)
        while receivers:
            await asyncio.sleep(0.001)
            talker.send("PUBLISH", "c", payload)
            receivers = await talker.reply()
            queued += receivers * len(payload)
        assert 32 * MIB < queued < 40 * MIB, "the kernel's window and the hard limit"
        await asyncio.sleep(1)
        assert broker.server.stats["cuts"] == 1
        assert lost == [], "who does not read does not see the end either"
        deaf[0].resume_reading()
        await asyncio.sleep(1)
        assert lost == [None]
        assert 0 < sum(read) < 10 * MIB, "what the kernels held, and none of what the server did"

    on_model(scene)


def test_a_frozen_server_accepts_and_is_silent_until_it_is_thawed() -> None:
    async def scene(broker: Any) -> float:
        broker.server.freeze()
        talker = await talk(broker.address)
        talker.send("PING")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await talker.reply()
        broker.server.thaw()
        before = now_ns()
        assert await talker.reply() == b"PONG"
        return (now_ns() - before) / NS_PER_S

    assert on_model(scene) < 0.001


def test_a_server_that_slept_longer_pays_more_up_to_a_limit() -> None:
    async def scene(broker: Any) -> list[int]:
        talker = await talk(broker.address)
        busy = []
        for sleep_s in (0.001, 0.004, 1, 1000):
            await asyncio.sleep(sleep_s)
            before = broker.server.busy_ns
            talker.send("PING")
            await talker.reply()
            busy.append(broker.server.busy_ns - before)
        return busy

    one, four, long, longer = on_model(scene)
    cold_ns = Costs().cold_ns
    assert four - one == pytest.approx(cold_ns, rel=0.05), "twice as much after four times as long"
    assert long - one == pytest.approx(cold_ns * (COLD_MAX_MS**0.5 - 1), rel=0.05)
    assert longer == long


@pytest.mark.parametrize(("at_once", "end"), [(True, "reset"), (False, "closed")])
def test_a_server_that_ends_takes_its_keys_and_clients_with_it(at_once: bool, end: str) -> None:
    async def scene(broker: Any) -> None:
        talker = await talk(broker.address)
        talker.send("SET", "k", "v")
        await talker.reply()
        broker.server.end(at_once=at_once)
        with pytest.raises(ConnectionResetError):
            await talker.reply()
        with pytest.raises(ConnectionRefusedError):
            await talk(broker.address)
        await broker.start()
        again = await talk(broker.address)
        again.send("GET", "k")
        assert await again.reply() is None

    on_model(scene)


def test_a_slow_server_is_slower_by_that_factor() -> None:
    async def scene(broker: Any) -> list[int]:
        talker = await talk(broker.address)
        busy = []
        for factor in (1, 10, 1):
            broker.server.slow_down(factor)
            await asyncio.sleep(1)  # each time the server has slept as long as matters
            before = broker.server.busy_ns
            talker.send("PING")
            await talker.reply()
            busy.append(broker.server.busy_ns - before)
        return busy

    fast, slow, again = on_model(scene)
    assert slow == pytest.approx(10 * fast, rel=0.01)
    assert again == fast


def test_info_sums_what_client_list_shows_of_each() -> None:
    """INFO looks only at clients that have something waiting; the sum must be that over all of them, also once they have read it."""

    async def scene(broker: Any) -> list[tuple[int, int, int]]:
        loop = asyncio.get_running_loop()
        deaf: list[Any] = []

        class Deaf(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                deaf.append(transport)
                transport.write(pack(b"SUBSCRIBE", b"c", b"d"))
                transport.pause_reading()

        for _ in range(2):
            await loop.create_connection(Deaf, broker.address.host, broker.address.port)
        talker = await talk(broker.address)
        seen = []

        async def look() -> None:
            talker.send("INFO")
            fields = dict(line.split(":", 1) for line in (await talker.reply()).decode().splitlines())
            talker.send("CLIENT", "LIST")
            listed = [int(line.split("omem=")[1].split()[0]) for line in (await talker.reply()).decode().splitlines()]
            seen.append((int(fields["mem_clients_normal"]), sum(listed), int(fields["pubsub_clients"])))

        await asyncio.sleep(1)
        await look()
        for _ in range(20):
            talker.send("PUBLISH", "c", "x" * (MIB // 2))
            assert await talker.reply() == 2
        await look()
        deaf[0].resume_reading()
        await asyncio.sleep(1)
        await look()
        deaf[1].abort()
        await asyncio.sleep(1)
        await look()
        return seen

    seen = on_model(scene)
    assert all(summed == listed for summed, listed, _ in seen)
    assert [hearing for _, _, hearing in seen] == [2, 2, 2, 1]
    assert [summed > MIB for summed, _, _ in seen] == [False, True, True, False]


def test_a_listing_is_of_now_whatever_was_listed_before() -> None:
    """The lines of clients that did not change are kept between listings; whoever came, left, took a name or heard more shows at once."""

    async def scene(broker: Any) -> list[list[tuple[str, int]]]:
        one, two, asker = [await talk(broker.address) for _ in range(3)]
        seen = []

        async def look() -> None:
            for _ in range(2):  # made anew, and kept
                asker.send("CLIENT", "LIST", "TYPE", "pubsub")
                lines = (await asker.reply()).decode().splitlines()
                seen.append([(line.split("name=")[1].split()[0], int(line.split("sub=")[1].split()[0])) for line in lines])
            assert seen[-2] == seen[-1]

        async def do(talker: Talker, *words: str) -> None:
            talker.send(*words)
            await talker.reply()
            await look()

        await do(one, "CLIENT", "SETNAME", "one")
        await do(one, "SUBSCRIBE", "a")
        await do(two, "CLIENT", "SETNAME", "two")
        await do(two, "SUBSCRIBE", "a")
        await do(two, "SUBSCRIBE", "b")
        await do(two, "UNSUBSCRIBE", "a")
        await do(one, "CLIENT", "SETNAME", "first")
        one.close()
        await asyncio.sleep(1)
        await look()
        await do(asker, "CLIENT", "KILL", "TYPE", "pubsub")
        return seen[::2]

    names = [dict(listed) for listed in on_model(scene)]
    one, two = {"one": 1}, {"two": 1}
    assert names == [{}, one, one, one | two, one | {"two": 2}, one | two, {"first": 1} | two, two, {}]
