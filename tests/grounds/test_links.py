"""Links that a fault can make bad: the proxy's process and the model's network keep the same contract."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import pytest

from sim.errors import BrokerError
from sim.faults.link import LinkLoad, LinkPlan
from sim.grounds.catalogue import open_broker
from sim.grounds.links import Links, ModelLinks, ProxyLinks, SharedLinks
from sim.machine.clock import NS_PER_S, now_ns
from sim.wire.address import Address
from sim.wire.connection import CONNECT_TIMEOUT_S, Wire, open_wire, pack

HELD = LinkPlan(held=True)
FREE = LinkPlan()
SLOW_NS = 200_000_000
PODS = 3

Scene = Callable[[Links, Any], Coroutine[Any, Any, Any]]
Ground = Callable[[Scene], Any]


@pytest.fixture(params=["model", pytest.param("embedded", marks=pytest.mark.broker)])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Ground:
    """Run a scene on a ground, with links of three pods."""

    def run(scene: Scene) -> Any:
        with open_broker(request.param) as broker, asyncio.Runner(loop_factory=broker.new_loop) as runner:

            async def whole() -> Any:
                links: Links
                if request.param == "model":
                    links = ModelLinks(broker.network, broker.address, pods=PODS)  # type: ignore[attr-defined]
                else:
                    links = await ProxyLinks.open(broker.address, pods=PODS, folder=tmp_path, seed=1)
                try:
                    async with asyncio.timeout(60):
                        return await scene(links, broker)
                finally:
                    await links.close()

            return runner.run(whole())

    return run


async def connected(address: Address) -> tuple[Wire, list[str]]:
    """Return a connection and the list that gets the reason when it is lost."""
    wire = await open_wire(address, client_name="test")
    lost: list[str] = []
    wire.on_lost = lost.append
    return wire, lost


async def until(reached: Callable[[], Any]) -> None:
    while not reached():
        await asyncio.sleep(0.005)


async def took_ns(wire: Wire, *words: str) -> int:
    began = now_ns()
    assert await wire.command(*words)
    return now_ns() - began


async def is_quick_again(wire: Wire) -> None:
    """Return when an answer came without the delay: the scene's bound ends it where it never does, and a busy machine may be late."""
    while await took_ns(wire, "PING") >= SLOW_NS:
        pass


def test_a_link_is_one_pods_own(play: Ground) -> None:
    async def scene(links: Links, broker: Any) -> None:
        wires = [(await connected(links.address(pod)))[0] for pod in range(PODS)]
        await links.shape([1], to_broker=LinkPlan(delay_ns=SLOW_NS), to_pod=FREE)
        assert await took_ns(wires[1], "PING") >= SLOW_NS
        await is_quick_again(wires[0])
        await is_quick_again(wires[2])
        await links.shape([1], to_broker=FREE, to_pod=FREE)
        await is_quick_again(wires[1])

    play(scene)


def test_delay_is_by_direction_and_holds_for_new_connections(play: Ground) -> None:
    async def scene(links: Links, broker: Any) -> None:
        await links.shape([0], to_broker=FREE, to_pod=LinkPlan(delay_ns=SLOW_NS))
        wire, _ = await connected(links.address(0))
        assert await took_ns(wire, "PING") >= SLOW_NS
        await links.shape([0], to_broker=LinkPlan(delay_ns=SLOW_NS), to_pod=LinkPlan(delay_ns=SLOW_NS))
        assert await took_ns(wire, "PING") >= 2 * SLOW_NS

    play(scene)


def test_a_rate_lets_bytes_pass_no_faster(play: Ground) -> None:
    async def scene(links: Links, broker: Any) -> None:
        wire, _ = await connected(links.address(0))
        await wire.command("SET", "k", "x" * 20_000)
        await links.shape([0], to_broker=FREE, to_pod=LinkPlan(bytes_per_s=100_000))
        assert await took_ns(wire, "GET", "k") >= 200_000_000

    play(scene)


def test_a_black_hole_is_silent_and_gives_everything_back(play: Ground) -> None:
    async def scene(links: Links, broker: Any) -> None:
        wire, lost = await connected(links.address(0))
        await links.shape([0], to_broker=HELD, to_pod=FREE)
        answers = [asyncio.ensure_future(wire.command("SET", "k", str(n))) for n in range(5)]
        done, _ = await asyncio.wait(answers, timeout=0.3)
        assert (done, lost) == (set(), [])
        await links.shape([0], to_broker=FREE, to_pod=FREE)
        assert await asyncio.gather(*answers) == [b"OK"] * 5
        assert await wire.command("GET", "k") == b"4", "in their order"

    play(scene)


def test_a_black_hole_towards_the_pod_hides_the_answer_but_not_the_effect(play: Ground) -> None:
    async def scene(links: Links, broker: Any) -> None:
        deaf, _ = await connected(links.address(0))
        other, _ = await connected(links.address(1))
        await links.shape([0], to_broker=FREE, to_pod=HELD)
        answer = asyncio.ensure_future(deaf.command("SET", "k", "v"))
        while await other.command("GET", "k") is None:
            await asyncio.sleep(0.01)
        assert not answer.done()
        await links.shape([0], to_broker=FREE, to_pod=FREE)
        assert await answer == b"OK"

    play(scene)


def test_what_gives_up_in_a_black_hole_stays_a_client_of_the_broker_until_it_heals(play: Ground) -> None:
    async def scene(links: Links, broker: Any) -> None:
        wire, _ = await connected(links.address(0))
        admin = await open_wire(broker.address, client_name="admin")

        async def clients() -> int:
            return (await admin.command("CLIENT", "LIST")).count(b"name=test")

        await links.shape([0], to_broker=HELD, to_pod=HELD)
        wire.abort()
        await asyncio.sleep(0.2)
        assert await clients() == 1
        await links.shape([0], to_broker=FREE, to_pod=FREE)
        while await clients():
            await asyncio.sleep(0.01)

    play(scene)


def test_what_was_sent_into_a_black_hole_arrives_when_it_heals_although_its_sender_has_given_up(play: Ground) -> None:
    """Its kernel has taken it, and repeats it: such a publish has no answer, and is heard by all, late."""

    async def scene(links: Links, broker: Any) -> None:
        wire, _ = await connected(links.address(0))
        admin = await open_wire(broker.address, client_name="admin")
        await links.shape([0], to_broker=HELD, to_pod=HELD)
        unanswered = asyncio.ensure_future(wire.command("SET", "late", "yes"))
        await asyncio.sleep(0.2)
        for _ in range(3):  # a busy machine's proxy has read it when it has answered orders that came later: what it has not, a reset drops
            await links.shape([2], to_broker=FREE, to_pod=FREE)
        wire.abort()
        unanswered.cancel()
        assert await admin.command("GET", "late") is None
        await links.shape([0], to_broker=FREE, to_pod=FREE)
        while await admin.command("GET", "late") != b"yes":
            await asyncio.sleep(0.01)

    play(scene)


def test_a_reset_is_heard_on_both_sides_and_a_new_connection_works(play: Ground) -> None:
    async def scene(links: Links, broker: Any) -> None:
        _, lost = await connected(links.address(0))
        _, others = await connected(links.address(1))
        await links.reset([0])
        await until(lambda: lost)
        assert others == []
        again, _ = await connected(links.address(0))
        assert await again.command("PING") == b"PONG"

    play(scene)


def test_a_cut_ends_a_frame_in_its_middle(play: Ground) -> None:
    async def scene(links: Links, broker: Any) -> None:
        wire, lost = await connected(links.address(0))
        await wire.command("SET", "k", "x" * 1000)
        read: list[bytes] = []
        await links.cut([0], True)
        wire.on_read = read.append
        assert wire.transport is not None
        wire.transport.write(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n")
        await until(lambda: lost)
        assert 0 < len(b"".join(read)) < 1000

    play(scene)


def test_what_comes_after_a_cut_is_not_joined_to_its_half(play: Ground) -> None:
    """Else a reader would take the next frame's bytes for the rest of the first."""

    async def scene(links: Links, broker: Any) -> None:
        wire, lost = await connected(links.address(0))
        publisher, _ = await connected(broker.address)
        read: list[bytes] = []
        wire.on_read = read.append
        assert wire.transport is not None
        wire.transport.write(b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nc\r\n")
        await until(lambda: read)
        read.clear()
        await links.cut([0], True)
        payloads = [b"%d" % number * 100 for number in range(20)]
        for payload in payloads:
            await publisher.command("PUBLISH", "c", payload.decode())
        await until(lambda: lost)
        # What the server sends at once is cut in its middle: one message, or several when it was late.
        stream = b"".join(pack(b"message", b"c", payload) for payload in payloads)
        assert stream.startswith(b"".join(read)), "what was passed is the beginning, and nothing is left out of it"
        assert len(b"".join(read)) < len(stream), "and it was cut"

    play(scene)


def test_a_connection_that_heard_nothing_while_a_cut_was_on_lives_on(play: Ground) -> None:
    async def scene(links: Links, broker: Any) -> None:
        wire, lost = await connected(links.address(0))
        await links.cut([0], True)
        await links.cut([0], False)
        assert await wire.command("PING") == b"PONG"
        assert lost == []

    play(scene)


def test_loads_of_several_faults_add_up_and_each_heals_by_itself(play: Ground) -> None:
    async def scene(links: Links, broker: Any) -> None:
        shared = SharedLinks(links)
        wire, lost = await connected(links.address(0))
        await shared.load(1, [0], LinkLoad(to_broker=LinkPlan(delay_ns=SLOW_NS)))
        await shared.load(2, [0, 1], LinkLoad(to_broker=LinkPlan(delay_ns=SLOW_NS // 2), to_pod=HELD))
        answer = asyncio.ensure_future(wire.command("PING"))
        done, _ = await asyncio.wait([answer], timeout=0.5)
        assert (done, lost) == (set(), [])
        await shared.unload(1)
        done, _ = await asyncio.wait([answer], timeout=0.1)
        assert (done, lost) == (set(), []), "the other one still holds it"
        await shared.load(3, [0], LinkLoad(to_broker=LinkPlan(delay_ns=SLOW_NS)))
        await shared.unload(2)
        assert await answer
        assert await took_ns(wire, "PING") >= SLOW_NS
        await shared.load(4, [0], LinkLoad(refusing=True))
        await shared.load(5, [0], LinkLoad(refusing=True))
        await until(lambda: lost)
        await shared.unload(4)
        with pytest.raises(BrokerError):
            await connected(links.address(0))
        await shared.unload(3)
        await shared.unload(5)
        again, _ = await connected(links.address(0))
        await is_quick_again(again)

    play(scene)


def test_who_is_refused_is_told_so_at_once_and_does_not_wait(play: Ground) -> None:
    async def scene(links: Links, broker: Any) -> None:
        await links.refuse([0], True)
        for _ in range(20):
            began = now_ns()
            with pytest.raises(BrokerError):
                await open_wire(links.address(0), client_name="test")
            assert now_ns() - began < CONNECT_TIMEOUT_S * NS_PER_S / 2, "it was not reset: the attempt waited for an answer"

    play(scene)


def test_a_broker_that_is_not_there_refuses_through_a_link_too(play: Ground) -> None:
    async def scene(links: Links, broker: Any) -> None:
        await broker.control.kill()
        with pytest.raises(BrokerError):
            await open_wire(links.address(0), client_name="test")
        await broker.control.start()
        _, lost = await connected(links.address(0))
        await broker.control.kill()
        await until(lambda: lost)

    play(scene)


@pytest.mark.broker
def test_the_proxy_passes_megabytes_unchanged_and_ends_with_its_owner(tmp_path: Path) -> None:
    async def scene(broker: Any) -> int:
        links = await ProxyLinks.open(broker.address, pods=1, folder=tmp_path, seed=1)
        wire, _ = await connected(links.address(0))
        value = bytes(range(33, 126)) * 50_000
        await wire.command("SET", "k", value.decode())
        assert await wire.command("GET", "k") == value
        adds = await links.add_us()
        assert 0 < adds["direct_p50"] <= adds["direct_p99"]
        assert 0 < adds["through_p50"] <= adds["through_p99"]
        pid = links.pids["proxy"]
        await links.close()
        return pid

    with open_broker("embedded") as broker, asyncio.Runner(loop_factory=broker.new_loop) as runner:
        assert not psutil.pid_exists(runner.run(scene(broker)))


@pytest.mark.broker
def test_a_slow_link_takes_in_no_more_than_its_window_and_passes_all_on(tmp_path: Path) -> None:
    """What does not fit waits at the broker, where buffers have limits."""
    size = 60_000_000  # more than the window and the kernel's buffers on both sides of the proxy

    async def scene(broker: Any) -> None:
        links = await ProxyLinks.open(broker.address, pods=1, folder=tmp_path, seed=1)
        wire, _ = await connected(links.address(0))
        before = psutil.Process(links.pids["proxy"]).memory_info().rss
        await (await connected(broker.address))[0].command("SET", "k", "x" * size)
        await links.shape([0], to_broker=FREE, to_pod=LinkPlan(delay_ns=2 * NS_PER_S))
        answer = asyncio.ensure_future(wire.command("GET", "k"))
        await asyncio.wait([answer], timeout=1.5)
        assert not answer.done()
        assert psutil.Process(links.pids["proxy"]).memory_info().rss - before < size / 2
        await links.shape([0], to_broker=FREE, to_pod=FREE)
        assert len(await answer) == size
        await links.close()

    with open_broker("embedded") as broker, asyncio.Runner(loop_factory=broker.new_loop) as runner:
        runner.run(scene(broker))


@pytest.mark.broker
def test_a_proxy_that_died_says_so(tmp_path: Path) -> None:
    async def scene(broker: Any) -> None:
        links = await ProxyLinks.open(broker.address, pods=1, folder=tmp_path, seed=1)
        psutil.Process(links.pids["proxy"]).kill()
        with pytest.raises(BrokerError, match="proxy"):
            await links.reset([0])
        await links.close()

    with open_broker("embedded") as broker, asyncio.Runner(loop_factory=broker.new_loop) as runner:
        runner.run(scene(broker))
