"""What a transport keeps on every server: on the model, on one real server and on a cluster. Each function plays one scene."""

from __future__ import annotations

from collections.abc import Callable

from sim.wire.transports import Transport
from tests.support.scenes import Ground
from tests.support.transport_ends import ends

Scene = Callable[[Transport, Ground], None]


def receivers(transport: Transport, number: int) -> int:
    """Return what a publish is answered with when so many hear it: a stream's answer does not say."""
    return -1 if transport.one_per_service else number


def every_subscriber_hears_exactly_what_is_published_in_order(transport: Transport, ground: Ground) -> None:
    one_order = transport.any_node or len(ground.address.nodes) == 1  # else each master has an order of its own

    async def scene() -> None:
        with ends(transport, ground.address) as both:
            logs = [await both.subscribe("a", "b", name=f"s{n}") for n in range(5)]
            only_b = await both.subscribe("b")
            publisher, said = await both.publisher()
            wanted = [(b"a" if n % 3 else b"b", b"%d" % n) for n in range(3_000)]
            for n, (channel, payload) in enumerate(wanted):
                assert publisher.send(channel, payload, n)
            await said.until(lambda: len(said.answered) == len(wanted))
            for log in logs:
                await log.until(lambda log=log: len(log.heard) >= len(wanted))
                for of_channel in (b"a", b"b"):
                    kept = {payload for channel, payload in wanted if channel == of_channel}
                    assert [payload for payload in log.heard if payload in kept] == sorted(kept, key=int)
                if one_order and not transport.one_per_service:  # streams keep the order of each channel, and none between channels
                    assert log.heard == [payload for _, payload in wanted]
                assert len(log.heard) == len(wanted)
            await only_b.until(lambda: len(only_b.heard) >= 1_000)
            assert only_b.heard == [payload for channel, payload in wanted if channel == b"b"]
            answered = said.answered if one_order else sorted(said.answered)
            assert answered == [(n, receivers(transport, 5 + (channel == b"b"))) for n, (channel, _) in enumerate(wanted)]
            assert publisher.in_flight == 0

    ground.run(scene())


def two_memos_reads_never_mix(transport: Transport, ground: Ground) -> None:
    """Payloads of equal length and equal beginning on two channels: what a memo by length or prefix would confuse."""

    async def scene() -> None:
        with ends(transport, ground.address) as both:
            logs = {channel: [await both.subscribe(channel, name=f"{channel}{n}") for n in range(3)] for channel in ("left", "rght")}
            publisher, _ = await both.publisher()
            wanted = [b"%s%06d" % (b"x" * length, n) for n, length in enumerate([10, 10, 900, 900, 3_000, 3_000, 70_000, 70_000])]
            for payload in wanted:
                for channel in (b"left", b"rght"):
                    assert publisher.send(channel, payload + channel, None)
            for channel, heard in logs.items():
                for log in heard:
                    await log.until(lambda log=log: len(log.heard) >= len(wanted))
                    assert log.heard == [payload + channel.encode() for payload in wanted]

    ground.run(scene())


def who_is_given_up_is_lost_once_and_hears_no_more(transport: Transport, ground: Ground) -> None:
    async def scene() -> None:
        with ends(transport, ground.address) as both:
            log, stays = await both.subscribe("c"), await both.subscribe("c")
            publisher, said = await both.publisher()
            one = both.opened[0]
            assert one.ping() and publisher.ping()
            for _ in range(2):
                one.give_up("enough")
            publisher.give_up("enough")
            assert (log.lost, said.lost) == (["enough"], ["enough"])
            assert not publisher.send(b"c", b"late", None)
            another, _ = await both.publisher()
            assert another.send(b"c", b"1", None)
            await stays.until(lambda: stays.heard == [b"1"])
            assert log.heard == []

    ground.run(scene())


def who_pauses_hears_the_rest_later_and_in_order(transport: Transport, ground: Ground) -> None:
    async def scene() -> None:
        with ends(transport, ground.address) as both:
            paused, other = await both.subscribe("c"), await both.subscribe("c")
            publisher, _ = await both.publisher()
            wanted = [b"%d" % n for n in range(20)]
            both.opened[0].pause()
            for payload in wanted[:10]:
                assert publisher.send(b"c", payload, None)
            await other.until(lambda: len(other.heard) == 10)
            before = len(paused.heard)  # a read that was under way may still bring some
            both.opened[0].resume()
            for payload in wanted[10:]:
                assert publisher.send(b"c", payload, None)
            await paused.until(lambda: len(paused.heard) == 20)
            assert paused.heard == wanted
            assert before == 0 or transport.one_per_service

    ground.run(scene())


def finishing_ends_and_nothing_is_lost_by_it(transport: Transport, ground: Ground) -> None:
    async def scene() -> None:
        with ends(transport, ground.address) as both:
            log = await both.subscribe("c")
            publisher, _ = await both.publisher()
            assert publisher.send(b"c", b"1", None)
            await log.until(lambda: log.heard == [b"1"])
            await both.opened[0].finish()
            assert (log.lost, log.heard) == ([], [b"1"])

    ground.run(scene())


CONTRACT: list[Scene] = [
    every_subscriber_hears_exactly_what_is_published_in_order,
    two_memos_reads_never_mix,
    who_is_given_up_is_lost_once_and_hears_no_more,
    who_pauses_hears_the_rest_later_and_in_order,
    finishing_ends_and_nothing_is_lost_by_it,
]
