"""Streams: one pod of a service gets an event, and no event is lost because a pod, or all of them, or the broker's memory is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis

from sim.errors import BrokerRefused
from sim.grounds.embedded import embedded
from sim.wire.address import Address
from sim.wire.transports.pubsub import PubSub
from sim.wire.transports.streams import Streams
from tests.support.transport_ends import Ends, Log, ends, named

pytestmark = pytest.mark.broker
Run = Callable[[Any], Any]
Server = tuple[Address, redis.Redis]
QUICK = Streams(stream_claim_s=0.05)
PATIENT = Streams(stream_claim_s=60)


def pending(client: redis.Redis, group: str = "g", key: str = "c") -> int:
    return int(client.xpending(key, group)["pending"])


def add(client: redis.Redis, *payloads: bytes, key: str = "c") -> None:
    for payload in payloads:
        client.xadd(key, {"e": payload})


async def eventually(reached: Callable[[], bool]) -> None:
    while not reached():
        await asyncio.sleep(0.002)


def play(run_async: Run, transport: Any, address: Address, scene: Callable[[Ends], Awaitable[None]]) -> None:
    async def whole() -> None:
        with ends(transport, address) as both:
            await scene(both)

    run_async(whole())


def test_one_pod_of_a_service_gets_each_event_and_each_event_is_got(own_server: Server, run_async: Run) -> None:
    address, client = own_server
    wanted = [b"%d" % n for n in range(3_000)]

    async def scene(both: Ends) -> None:
        logs = [await both.subscribe("c", "d", group="g", consumer=f"pod-{n}") for n in range(3)]
        other = await both.subscribe("c", group="another service")
        publisher, said = await both.publisher()
        for n, payload in enumerate(wanted):
            assert publisher.send(b"cd"[n % 2 : n % 2 + 1], payload, None)
            if n % 10 == 0:
                await said.until(lambda: publisher.in_flight == 0)  # so that no pod gets all in one read
        await eventually(lambda: sum(len(log.heard) for log in logs) >= len(wanted) and len(other.heard) >= len(wanted) // 2)
        assert sorted(payload for log in logs for payload in log.heard) == sorted(wanted)
        assert all(log.heard for log in logs)
        assert other.heard == wanted[::2]
        await eventually(lambda: pending(client) == pending(client, key="d") == 0)

    play(run_async, PATIENT, address, scene)


@pytest.mark.parametrize("how", ["killed", "ended"])
def test_what_a_pod_had_not_handled_when_it_died_goes_to_another(own_server: Server, run_async: Run, how: str) -> None:
    address, client = own_server

    async def scene(both: Ends) -> None:
        dying = Log()
        dying.handling = []
        await both.subscribe("c", group="g", consumer="dying", log=dying, name="dying")
        add(client, b"1", b"2", b"3")
        await dying.until(lambda: len(dying.heard) == 3)
        if how == "killed":
            client.client_kill_filter(_id=named(address, "dying")[0]["id"])
            await dying.until(lambda: dying.lost != [])
        else:
            both.opened[0].abort()
        assert pending(client) == 3
        heir = await both.subscribe("c", group="g", consumer="heir")
        await heir.until(lambda: len(heir.heard) == 3)
        assert (dying.heard, heir.heard) == ([b"1", b"2", b"3"], [b"1", b"2", b"3"]), "handled twice, and visible as that"
        await eventually(lambda: pending(client) == 0)

    play(run_async, QUICK, address, scene)


def test_an_entry_is_acknowledged_only_when_its_handler_is_done(own_server: Server, run_async: Run) -> None:
    address, client = own_server

    async def scene(both: Ends) -> None:
        log = Log()
        log.handling = []
        await both.subscribe("c", group="g", log=log)
        add(client, b"1", b"2")
        await log.until(lambda: len(log.heard) == 2)
        assert pending(client) == 2
        add(client, b"3")
        await log.until(lambda: len(log.heard) == 3)  # it reads on meanwhile
        assert pending(client) == 3
        for one in log.handling:
            one.set_result(None)
        await eventually(lambda: pending(client) == 0)

    play(run_async, PATIENT, address, scene)


def test_a_cancelled_handler_leaves_its_entry_to_others(own_server: Server, run_async: Run) -> None:
    address, client = own_server

    async def scene(both: Ends) -> None:
        log = Log()
        log.handling = []
        await both.subscribe("c", group="g", log=log)
        add(client, b"1")
        await log.until(lambda: len(log.heard) == 1)
        log.handling[0].cancel()
        log.handling = None
        await log.until(lambda: log.heard == [b"1", b"1"])
        await eventually(lambda: pending(client) == 0)

    play(run_async, QUICK, address, scene)


def test_a_handler_slower_than_the_claim_time_keeps_its_entry(own_server: Server, run_async: Run) -> None:
    address, client = own_server

    async def scene(both: Ends) -> None:
        log = Log()
        log.handling = []
        await both.subscribe("c", group="g", log=log)
        add(client, b"1")
        await log.until(lambda: len(log.heard) == 1)
        given = lambda: client.xpending_range("c", "g", "-", "+", 10)[0]["times_delivered"]  # noqa: E731
        await eventually(lambda: given() >= 4)  # it claimed its own entry three times
        assert log.heard == [b"1"]
        log.handling[0].set_result(None)
        await eventually(lambda: pending(client) == 0)
        assert log.heard == [b"1"]

    play(run_async, QUICK, address, scene)


def test_finishing_waits_for_handlers_and_acknowledges_everything(own_server: Server, run_async: Run) -> None:
    address, client = own_server

    async def scene(both: Ends) -> None:
        log = Log()
        log.handling = []
        await both.subscribe("c", group="g", log=log)
        add(client, *[b"%d" % n for n in range(50)])
        await log.until(lambda: len(log.heard) == 50)
        finishing = asyncio.ensure_future(both.opened[0].finish())
        await asyncio.sleep(0)
        for one in log.handling:
            assert not finishing.done()
            one.set_result(None)
        await finishing
        assert pending(client) == 0
        add(client, b"late")
        both.opened[0].close()
        next_pod = await both.subscribe("c", group="g", consumer="next")
        await next_pod.until(lambda: next_pod.heard == [b"late"])
        assert len(log.heard) == 50

    play(run_async, PATIENT, address, scene)


def test_a_pod_that_comes_back_first_handles_what_it_had_not_acknowledged(own_server: Server, run_async: Run) -> None:
    address, client = own_server
    wanted = [b"%03d" % n for n in range(200)]

    async def scene(both: Ends) -> None:
        before = Log()
        before.handling = []
        await both.subscribe("c", "d", group="g", log=before)
        add(client, *wanted)
        await before.until(lambda: len(before.heard) == 200)
        both.opened[0].abort()
        add(client, b"new")
        after = await both.subscribe("c", "d", group="g", returning=True)
        await after.until(lambda: len(after.heard) == 201)
        assert after.heard == [*wanted, b"new"]
        await eventually(lambda: pending(client) == 0)

    play(run_async, PATIENT, address, scene)


def test_what_was_trimmed_before_it_was_handled_is_no_event_and_does_not_stay(own_server: Server, run_async: Run) -> None:
    address, client = own_server

    async def scene(both: Ends) -> None:
        before = Log()
        before.handling = []
        await both.subscribe("c", group="g", log=before)
        add(client, b"1", b"2")
        await before.until(lambda: len(before.heard) == 2)
        both.opened[0].abort()
        client.xtrim("c", maxlen=0, approximate=False)
        after = await both.subscribe("c", group="g", returning=True)
        await eventually(lambda: pending(client) == 0)
        assert after.heard == []

    play(run_async, PATIENT, address, scene)


def test_a_stream_is_trimmed(own_server: Server, run_async: Run) -> None:
    address, client = own_server

    async def scene(both: Ends) -> None:
        publisher, said = await both.publisher()
        for n in range(5_000):
            assert publisher.send(b"c", b"%d" % n, n)
        await said.until(lambda: len(said.answered) == 5_000)
        assert 100 <= client.xlen("c") <= 200  # whole nodes of 100 entries
        assert {receivers for _, receivers in said.answered} == {-1}

    play(run_async, Streams(stream_max_len=100), address, scene)


@pytest.mark.parametrize("harm", ["FLUSHALL", "DEL c", "XGROUP DESTROY c g"])
def test_a_group_that_is_gone_is_made_anew_and_nothing_added_since_is_lost(own_server: Server, run_async: Run, harm: str) -> None:
    address, client = own_server

    async def scene(both: Ends) -> None:
        log = await both.subscribe("c", "d", group="g")
        add(client, b"before")
        await log.until(lambda: log.heard == [b"before"])
        await eventually(lambda: pending(client) == 0)
        log.heard.clear()
        with client.pipeline(transaction=True) as both_at_once:
            both_at_once.execute_command(*harm.split())
            both_at_once.xadd("c", {"e": b"after"})
            both_at_once.execute()
        await log.until(lambda: b"after" in log.heard)
        add(client, b"later")
        await log.until(lambda: log.heard[-1] == b"later")
        assert log.lost == []

    play(run_async, PATIENT, address, scene)


def test_a_key_that_becomes_no_stream_is_a_lost_connection(own_server: Server, run_async: Run) -> None:
    address, client = own_server

    async def scene(both: Ends) -> None:
        log = await both.subscribe("c", group="g")
        client.set("c", "no stream")
        await log.until(lambda: log.lost != [])
        assert len(log.lost) == 1 and "WRONGTYPE" in log.lost[0]
        with pytest.raises(BrokerRefused, match="WRONGTYPE"):
            await both.subscribe("c", group="g")

    play(run_async, PATIENT, address, scene)


def test_after_a_restart_of_the_broker_nothing_published_since_is_lost(run_async: Run) -> None:
    """The first to publish is there before the first that hears; on Pub/Sub that is lost."""

    async def scene() -> None:
        with embedded() as broker, ends(PATIENT, broker.address) as both:
            log = await both.subscribe("c", group="g")
            await broker.kill()
            await log.until(lambda: log.lost != [])
            await broker.start()
            publisher, said = await both.publisher()
            assert publisher.send(b"c", b"before it is back", None)
            await said.until(lambda: said.answered != [])
            again = await both.subscribe("c", group="g", returning=True)
            await again.until(lambda: again.heard == [b"before it is back"])

    run_async(scene())


@pytest.mark.parametrize(("transport", "expected"), [(PATIENT, [b"1", b"2"]), (PubSub(), [b"2"])], ids=["streams", "pubsub"])
def test_a_service_whose_only_pod_is_away_gets_the_events_later_on_streams_only(
    own_server: Server, run_async: Run, transport: Any, expected: list[bytes]
) -> None:
    address, _ = own_server

    async def scene(both: Ends) -> None:
        await both.subscribe("c", group="g")
        both.opened[0].close()
        publisher, said = await both.publisher()
        assert publisher.send(b"c", b"1", None)
        await said.until(lambda: said.answered != [])
        again = await both.subscribe("c", group="g", returning=True)
        assert publisher.send(b"c", b"2", None)
        await again.until(lambda: again.heard[-1:] == [b"2"])
        assert again.heard == expected

    play(run_async, transport, address, scene)


def test_a_silent_server_is_noticed_by_ping_and_an_idle_one_is_not_dead(own_server: Server, run_async: Run) -> None:
    address, client = own_server

    async def scene(both: Ends) -> None:
        await both.subscribe("c", group="g")
        one = both.opened[0]
        await eventually(lambda: not one._own_from)
        for _ in range(20):
            assert one.ping(), "a read that waits at the broker is no silence"
        client.execute_command("CLIENT", "PAUSE", 60_000, "ALL")
        await eventually(lambda: not one.ping())

    play(run_async, PATIENT, address, scene)


def test_a_paused_pod_pings(own_server: Server, run_async: Run) -> None:
    address, client = own_server

    async def scene(both: Ends) -> None:
        await both.subscribe("c", group="g", name="paused")
        one = both.opened[0]
        one.pause()
        for _ in range(20):
            await eventually(lambda: named(address, "paused")[0]["cmd"] in ("xreadgroup", "ping"))
            assert one.ping()
            await eventually(lambda: not one._replies)
        assert named(address, "paused")[0]["cmd"] == "ping"
        client.execute_command("CLIENT", "PAUSE", 60_000, "ALL")
        await eventually(lambda: not one.ping())

    play(run_async, PATIENT, address, scene)


def test_another_programs_entry_reaches_the_decoder_as_no_event(own_server: Server, run_async: Run) -> None:
    address, client = own_server

    async def scene(both: Ends) -> None:
        log = await both.subscribe("c", group="g")
        client.xadd("c", {"x": "1", "e": b"envelope"})
        client.xadd("c", {"e2": b"e"})
        await log.until(lambda: log.heard == [b"envelope", b""])

    play(run_async, PATIENT, address, scene)


def test_reads_stay_small_when_entries_are_large(own_server: Server, run_async: Run) -> None:
    address, client = own_server
    sizes: list[int] = []

    async def scene(both: Ends) -> None:
        log = Log()
        hear = log.hear
        log.hear = lambda chunk, at_ns: (sizes.append(sum(map(len, chunk.events))), hear(chunk, at_ns))[1]  # type: ignore[method-assign]
        await both.subscribe("c", group="g", log=log)
        both.opened[0].pause()
        add(client, *[bytes([65 + n % 26]) * 500_000 for n in range(60)])
        both.opened[0].resume()
        await log.until(lambda: len(log.heard) == 60)
        assert max(sizes[-3:]) <= 8 * 500_000
        assert sum(sizes) == 60 * 500_000

    play(run_async, PATIENT, address, scene)
