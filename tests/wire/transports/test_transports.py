"""The contract that every transport keeps, on the model in virtual time and on a real server: the model is verified here.

Tests marked `served` are about what a server does to a connection (kill, refuse, hang up, be absent): the transport memory has none.
The transport sharded runs on real servers only: the model is one server and has no shards.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import pytest

from sim.errors import BrokerError, BrokerRefused, BrokerUnreachable
from sim.wire import connection as wire
from sim.wire.address import Address, free_port, parse_address
from sim.wire.pipeline import MAX_IN_FLIGHT
from sim.wire.transports import TRANSPORTS, Transport
from tests.support.scenes import ON_REAL, Ground
from tests.support.transport_contract import CONTRACT, Scene, receivers
from tests.support.transport_ends import ends

NOT_MODELLED = "sharded"


def on_grounds(*names: str, model: bool = True) -> pytest.MarkDecorator:
    """Run a test with each of these transports, on the model and on a real server."""
    both = [
        pytest.param(TRANSPORTS[name](), on, id=f"{name}-{on}", marks=ON_REAL.marks if on == "embedded" else ())
        for name in names
        for on in ("model", "embedded")
        if on == "embedded" or (model and name != NOT_MODELLED)
    ]
    return pytest.mark.parametrize(("transport", "ground"), both, indirect=["ground"])


SERVED = [name for name in TRANSPORTS if name != "memory"]
every = on_grounds(*TRANSPORTS)
served = on_grounds(*SERVED)
served_really = on_grounds(*SERVED, model=False)


@every
@pytest.mark.parametrize("keeps", CONTRACT, ids=lambda scene: scene.__name__)
def test_what_every_server_keeps(keeps: Scene, transport: Transport, ground: Ground) -> None:
    """On a cluster too: see `test_on_cluster`."""
    keeps(transport, ground)


@every
@pytest.mark.parametrize("size", [0, 1, 1_000, 65_536, 262_144, 1_000_000])
def test_a_payload_of_any_size_arrives_whole(transport: Transport, ground: Ground, size: int) -> None:
    async def scene() -> None:
        with ends(transport, ground.address) as both:
            logs = [await both.subscribe("big", name=f"s{n}") for n in range(3)]
            publisher, _ = await both.publisher()
            wanted = [bytes([65 + n]) * size for n in range(4)] + [b"\r\n*3\r\n$7\r\nmessage\r\n\x00\xff", b"end"]
            for payload in wanted:
                assert publisher.send(b"big", payload, None)
            for log in logs:
                await log.until(lambda log=log: len(log.heard) >= len(wanted))
                assert log.heard == wanted

    ground.run(scene())


@every
def test_subscribing_returns_only_when_every_channel_counts_the_subscriber(transport: Transport, ground: Ground) -> None:
    channels = [f"confirmed-{n}" for n in range(50)]

    async def scene() -> None:
        with ends(transport, ground.address) as both:
            asking = await wire.open_wire(ground.address, client_name="confirming")

            async def command(*words: str) -> Any:
                reply = await asking.command(*words)
                if isinstance(reply, Exception):
                    raise BrokerRefused(str(reply))
                return reply

            assert set(await transport.subscribers([command], ground.address, channels)) == {0}
            for expected in (1, 2):
                await both.subscribe(*channels)
                assert set(await transport.subscribers([command], ground.address, channels)) == {expected}
            asking.close()

    ground.run(scene())


@served
def test_a_closed_end_is_not_lost_and_leaves_no_client(transport: Transport, ground: Ground) -> None:
    async def scene() -> None:
        with ends(transport, ground.address) as both:
            log = await both.subscribe("c", name="closing")
            publisher, said = await both.publisher(name="closing")
            assert publisher.send(b"c", b"1", "token")
            await said.until(lambda: said.answered != [])
            assert publisher.close() == []
            both.opened[0].close()
            watcher, heard = await both.publisher()
            while await ground.named("closing"):  # the server closes its side when it reads the end
                assert watcher.send(b"nobody", b"", None)
                await heard.until(lambda: watcher.in_flight == 0)
            assert not publisher.send(b"c", b"2", "late")
            assert (log.lost, said.lost) == ([], [])

    ground.run(scene())


@served
def test_a_killed_connection_is_lost_once(transport: Transport, ground: Ground) -> None:
    async def scene() -> None:
        with ends(transport, ground.address) as both:
            log = await both.subscribe("c", name="victim-sub")
            publisher, said = await both.publisher(name="victim-pub")
            for row in await ground.named("victim-sub") + await ground.named("victim-pub"):
                await ground.ask("CLIENT", "KILL", "ID", row["id"])
            await log.until(lambda: log.lost != [])
            await said.until(lambda: said.lost != [])
            assert not publisher.send(b"c", b"late", None)
            survivor, _ = await both.publisher()
            assert survivor.send(b"c", b"1", None)
            assert (len(log.lost), len(said.lost), log.heard) == (1, 1, [])

    ground.run(scene())


@served
def test_publishes_without_an_answer_are_handed_over_when_the_connection_goes(transport: Transport, ground: Ground) -> None:
    async def scene() -> None:
        with ends(transport, ground.address) as both:
            publisher, said = await both.publisher(name="victim")
            await ground.ask("CLIENT", "PAUSE", "60000", "WRITE")  # holds PUBLISH back, and nothing else
            for n in range(10):
                assert publisher.send(b"c", b"x", n)
            assert publisher.in_flight == 10
            await ground.ask("CLIENT", "KILL", "ID", (await ground.named("victim"))[0]["id"])
            await said.until(lambda: said.lost != [])
            assert (said.unanswered, said.answered, len(said.lost), publisher.in_flight) == (list(range(10)), [], 1, 0)

    ground.run(scene())


@every
@pytest.mark.parametrize("how", ["close", "abort"])
def test_who_closes_with_publishes_under_way_gets_their_tokens(transport: Transport, ground: Ground, how: str) -> None:
    async def scene() -> None:
        with ends(transport, ground.address) as both:
            publisher, said = await both.publisher()
            await ground.ask("CLIENT", "PAUSE", "60000", "WRITE")
            assert publisher.send(b"c", b"x", "token")
            assert getattr(publisher, how)() == ["token"]
            assert getattr(publisher, how)() == []
            assert said.lost == []

    ground.run(scene())


@every
def test_too_many_publishes_under_way_are_turned_down_and_nothing_else(transport: Transport, ground: Ground) -> None:
    async def scene() -> None:
        with ends(transport, ground.address) as both:
            publisher, said = await both.publisher()
            await ground.ask("CLIENT", "PAUSE", "60000", "WRITE")
            taken = [publisher.send(b"c", b"x", n) for n in range(MAX_IN_FLIGHT + 5)]
            assert taken == [True] * MAX_IN_FLIGHT + [False] * 5
            await ground.ask("CLIENT", "UNPAUSE")
            await said.until(lambda: len(said.answered) == MAX_IN_FLIGHT)
            assert publisher.send(b"c", b"x", "again")
            await said.until(lambda: said.answered[-1] == ("again", receivers(transport, 0)))

    ground.run(scene())


async def open_any(transport: Transport, address: Address, end: str) -> None:
    with ends(transport, address) as both:
        await (both.subscribe("c") if end == "subscription" else both.publisher())


both_ends = pytest.mark.parametrize("end", ["subscription", "publisher"])


async def refusal(kind: type[BrokerError], transport: Transport, address: Address, end: str) -> str:
    with pytest.raises(kind) as refused:
        await open_any(transport, address, end)
    message = str(refused.value)
    assert str(address) in message
    assert "\n" not in message
    return message


@served
@both_ends
def test_a_dead_port_is_unreachable(transport: Transport, ground: Ground, end: str) -> None:
    dead = parse_address(f"redis://127.0.0.1:{free_port()}")
    assert "refused" in ground.run(refusal(BrokerUnreachable, transport, dead, end))


@served_really
@both_ends
def test_a_host_that_does_not_exist_is_unreachable(transport: Transport, ground: Ground, end: str) -> None:
    """Names are resolved by the real machine only."""
    ground.run(refusal(BrokerUnreachable, transport, parse_address("redis://no-such-host.invalid:6379"), end))


@served
@both_ends
@pytest.mark.parametrize("given", ["", ":wrong@", "ann:wrong@", "ann:right@"])
def test_a_wrong_password_is_refused_and_never_shown(transport: Transport, ground: Ground, end: str, given: str) -> None:
    async def scene() -> None:
        await ground.ask("CONFIG", "SET", "requirepass", "right")
        port = ground.address.port
        message = await refusal(BrokerRefused, transport, parse_address(f"redis://{given}127.0.0.1:{port}"), end)
        assert "wrong" not in message.replace("WRONGPASS", "")
        assert "right" not in message
        for let_in in (":right@", "default:right@"):
            await open_any(transport, parse_address(f"redis://{let_in}127.0.0.1:{port}"), end)

    ground.run(scene())


@served
@both_ends
def test_a_password_that_nobody_asked_for_is_refused(transport: Transport, ground: Ground, end: str) -> None:
    message = ground.run(refusal(BrokerRefused, transport, parse_address(f"redis://:hunter2@127.0.0.1:{ground.address.port}"), end))
    assert "hunter2" not in message


@served
@both_ends
def test_a_full_server_says_so(transport: Transport, ground: Ground, end: str) -> None:
    async def scene() -> None:
        await ground.ask("CONFIG", "SET", "maxclients", "1")
        for _ in range(20):  # the server's word and its hanging up race with our first command
            assert "max" in await refusal(BrokerError, transport, ground.address, end)

    ground.run(scene())


@served_really
def test_a_channel_without_permission_is_refused(transport: Transport, ground: Ground) -> None:
    """The model has one user, who may do everything."""
    ann = parse_address(f"redis://ann:secret@127.0.0.1:{ground.address.port}")

    async def scene() -> None:
        await ground.ask("ACL", "SETUSER", "ann", "reset", "on", ">secret", "+@all", "&allowed", "~allowed")
        with ends(transport, ann) as both:
            log = await both.subscribe("allowed")
            with pytest.raises(BrokerRefused, match="NOPERM"):
                await both.subscribe("allowed", "forbidden")
            publisher, said = await both.publisher()
            assert publisher.send(b"forbidden", b"1", 1)
            assert publisher.send(b"allowed", b"2", 2)
            await said.until(lambda: said.answered != [])
            await log.until(lambda: log.heard != [])
            assert ([token for token, _ in said.refused], said.answered, log.heard) == ([1], [(2, receivers(transport, 1))], [b"2"])
            assert "NOPERM" in said.refused[0][1]

    ground.run(scene())


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    here = writer.get_extra_info("socket")
    if here is not None:  # the model's abort is a reset; a kernel's needs to be told
        here.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await reader.read(1)
    writer.transport.abort()


async def speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await writer.drain()
    writer.close()


@served
@both_ends
@pytest.mark.parametrize("serve", [hang_up, reset, speak_http])
def test_what_is_no_redis_is_a_broker_error_that_names_the_address(transport: Transport, ground: Ground, end: str, serve: Any) -> None:
    async def scene() -> str:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = parse_address(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with server, asyncio.timeout(20):
            with pytest.raises(BrokerError) as refused:
                await open_any(transport, address, end)
            assert str(address) in str(refused.value)
        return str(refused.value)

    assert "\n" not in ground.run(scene())


@served
@both_ends
@pytest.mark.parametrize("given_up", ["in time", "cancelled"])
def test_an_attempt_that_is_given_up_leaves_no_connection(
    transport: Transport, ground: Ground, monkeypatch: pytest.MonkeyPatch, end: str, given_up: str
) -> None:
    """A frozen server accepts and is silent; what connects again and again must not pile up connections."""
    monkeypatch.setattr(wire, "CONNECT_TIMEOUT_S", 0.05 if given_up == "in time" else 20)

    async def scene() -> None:
        asked, gone = asyncio.Event(), asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.set()
            await reader.read()  # until the client closes
            gone.set()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        address = parse_address(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with server, asyncio.timeout(10):
            attempt = asyncio.ensure_future(open_any(transport, address, end))
            await asked.wait()
            if given_up == "cancelled":
                attempt.cancel()
            with pytest.raises((BrokerUnreachable, asyncio.CancelledError)):
                await attempt
            await gone.wait()

    ground.run(scene())
