"""The model's TCP: bytes in order whatever the sides do, windows, ends and resets, and asyncio's own programs on it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.faults.link import LinkPlan
from sim.grounds.model.costs import WINDOW_BYTES
from sim.grounds.model.loop import START_NS, JumpingLoop
from sim.grounds.model.network import Network, Peer
from sim.wire.connection import READ_BYTES


def run(scene: Callable[[Network], Coroutine[Any, Any, Any]], *, plan: LinkPlan = LinkPlan(delay_ns=1000), seed: int = 1) -> Any:  # noqa: B008
    networks: list[Network] = []

    def new_loop() -> JumpingLoop:
        loop = JumpingLoop()
        networks.append(Network(loop, seed=seed, plan=plan))
        return loop

    async def bounded() -> Any:
        return await scene(networks[0])

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(bounded())


class Ear(asyncio.Protocol):
    def __init__(self) -> None:
        self.reads: list[bytes] = []
        self.times: list[int] = []
        self.lost: list[Exception | None] = []
        self.peer: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.peer = transport

    def data_received(self, data: bytes) -> None:
        self.reads.append(data)
        self.times.append(asyncio.get_running_loop().now_ns())  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


async def connected(network: Network) -> tuple[Ear, Ear]:
    there = Ear()
    network.listen(lambda: there, "127.0.0.1", 9)
    _, here = await network.loop.create_connection(Ear, "127.0.0.1", 9)
    return here, there


actions = st.lists(st.one_of(st.binary(min_size=1, max_size=50), st.sampled_from(["pause", "resume", "wait"])), max_size=40)


@given(actions, st.integers(0, 5000), st.integers(0, 10**6))
def test_every_byte_arrives_once_and_in_order(actions: list[bytes | str], jitter_ns: int, seed: int) -> None:
    async def scene(network: Network) -> None:
        here, there = await connected(network)
        for action in actions:
            if isinstance(action, bytes):
                here.peer.write(action)
            elif action == "wait":
                await asyncio.sleep(0.000_001)
            else:
                getattr(there.peer, f"{action}_reading")()
        there.peer.resume_reading()
        here.peer.close()
        await asyncio.sleep(1)
        assert b"".join(there.reads) == b"".join(action for action in actions if isinstance(action, bytes))
        assert (here.lost, there.lost) == ([None], [None])

    run(scene, plan=LinkPlan(delay_ns=1000, jitter_ns=jitter_ns), seed=seed)


def test_a_piece_is_one_read_of_the_same_object_after_the_delay() -> None:
    async def scene(network: Network) -> None:
        here, there = await connected(network)
        piece = bytes(300)
        sent_ns = network.loop.now_ns()
        here.peer.write_at(piece, sent_ns)
        await asyncio.sleep(1)
        assert there.reads[0] is piece
        assert there.times == [sent_ns + 1000]
        assert sent_ns == START_NS + 2000, "a connection takes one round trip"

    run(scene)


def test_a_reader_that_pauses_fills_the_window_and_then_the_senders_buffer() -> None:
    async def scene(network: Network) -> None:
        here, there = await connected(network)
        there.peer.pause_reading()
        told: list[int] = []
        here.peer.room = lambda: told.append(here.peer.get_write_buffer_size())
        piece = bytes(1024 * 1024)
        for _ in range(10):
            here.peer.write(piece)
        await asyncio.sleep(1)
        in_window = -(-WINDOW_BYTES // len(piece))  # the piece that fills it goes too
        assert here.peer.get_write_buffer_size() == (10 - in_window) * len(piece)
        assert there.reads == []
        there.peer.resume_reading()
        await asyncio.sleep(1)
        assert sum(map(len, there.reads)) == 10 * len(piece)
        assert here.peer.get_write_buffer_size() == 0
        assert told == [0]

    run(scene)


@pytest.mark.parametrize("paused", [False, True])
def test_no_read_is_longer_than_a_client_s_buffer_and_who_pauses_after_one_reads_no_more(paused: bool) -> None:
    """Where a reader takes all that has come at once, its program holds what in truth waits in the kernel and at the server."""

    async def scene(network: Network) -> None:
        here, there = await connected(network)
        data = random.Random(1).randbytes(READ_BYTES * 5 // 2)
        if paused:
            there.peer.pause_reading()
        here.peer.write(data)
        here.peer.write(b"next")
        await asyncio.sleep(1)
        there.peer.resume_reading()
        await asyncio.sleep(1)
        assert b"".join(there.reads) == data + b"next"
        assert [len(one) for one in there.reads[:2]] == [READ_BYTES, READ_BYTES] and max(map(len, there.reads)) == READ_BYTES

        there.reads.clear()
        there.data_received = lambda one: (there.reads.append(one), there.peer.pause_reading())  # type: ignore[method-assign,assignment]
        here.peer.write(data)
        await asyncio.sleep(1)
        for reads in (1, 2, 3):
            assert len(there.reads) == reads and here.peer._under_way == len(data) - sum(map(len, there.reads))
            there.peer.resume_reading()
            await asyncio.sleep(1)
        assert b"".join(there.reads) == data

    run(scene)


def test_an_abort_drops_what_waits_and_the_other_side_sees_an_end() -> None:
    async def scene(network: Network) -> None:
        here, there = await connected(network)
        here.peer.write(b"gone")
        there.peer.abort()
        await asyncio.sleep(1)
        assert there.reads == []
        assert there.lost == [None]
        assert here.lost == [None], "as a kernel ends a connection of which all was read"
        here.peer.write(b"nobody")
        assert here.peer.is_closing()

    run(scene)


def test_an_abort_with_bytes_unread_is_a_reset() -> None:
    async def scene(network: Network) -> None:
        here, there = await connected(network)
        there.peer.pause_reading()
        here.peer.write(b"never read")
        await asyncio.sleep(1)
        there.peer.abort()
        await asyncio.sleep(1)
        assert isinstance(here.lost[0], ConnectionResetError)
        assert there.lost == [None]

    run(scene)


def test_who_pauses_reads_what_came_before_it_sees_the_end() -> None:
    async def scene(network: Network) -> None:
        here, there = await connected(network)
        there.peer.pause_reading()
        here.peer.write(b"before")
        here.peer.abort()
        await asyncio.sleep(1)
        assert (there.reads, there.lost) == ([], [])
        there.peer.resume_reading()
        await asyncio.sleep(1)
        assert (there.reads, there.lost) == ([b"before"], [None])

    run(scene)


def test_a_protocol_that_fails_is_told_to_the_loop_and_loses_its_connection() -> None:
    async def scene(network: Network) -> None:
        told: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["exception"]))
        here, there = await connected(network)
        error = ValueError("the protocol's")

        def fail(data: bytes) -> None:
            raise error

        there.data_received = fail  # type: ignore[method-assign]
        here.peer.write(b"x")
        await asyncio.sleep(1)
        assert told == [error]
        assert (len(there.lost), here.lost) == (1, [None])

    run(scene)


def test_a_held_link_is_a_black_hole_that_repeats() -> None:
    async def scene(network: Network) -> None:
        here, there = await connected(network)
        peer: Peer = here.peer
        peer.link.plan = LinkPlan(delay_ns=1000, held=True)
        peer.write(b"a")
        peer.write(b"b")
        await asyncio.sleep(10)
        assert there.reads == []
        peer.link.plan = LinkPlan(delay_ns=1000)
        peer.flush()
        await asyncio.sleep(1)
        assert there.reads == [b"a", b"b"]

    run(scene)


def test_nobody_listens_and_an_address_is_taken() -> None:
    async def scene(network: Network) -> None:
        with pytest.raises(ConnectionRefusedError):
            await network.loop.create_connection(Ear, "127.0.0.1", 9)
        listener = network.listen(Ear, "127.0.0.1", 9)
        with pytest.raises(OSError, match="in use"):
            network.listen(Ear, "127.0.0.1", 9)
        listener.close()
        network.listen(Ear, "127.0.0.1", 9)

    run(scene)


def test_asyncios_streams_run_on_it() -> None:
    async def scene(network: Network) -> bytes:
        async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.readline()).upper())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(shout, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello\n")
            answer = await reader.read()
            writer.close()
        return answer

    assert run(scene) == b"HELLO\n"
