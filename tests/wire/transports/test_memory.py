"""The ideal bus: who is on it, and what bounds it. No server is needed; what it shares with the others is in test_transports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sim.wire.address import parse_address
from sim.wire.transports import memory
from sim.wire.transports.memory import Memory
from tests.support.transport_ends import ends

Run = Callable[[Any], Any]
HERE, THERE = parse_address("redis://127.0.0.1:1"), parse_address("redis://127.0.0.1:2")


def test_another_address_is_another_bus_and_another_event_loop_too(run_async: Run) -> None:
    async def scene() -> None:
        with ends(Memory(), HERE) as here, ends(Memory(), THERE) as there:
            near, far = await here.subscribe("c"), await there.subscribe("c")
            publisher, said = await here.publisher()
            assert publisher.send(b"c", b"1", "token")
            assert near.heard == [], "never in the publisher's own turn"
            await said.until(lambda: said.answered == [("token", 1)])
            assert (near.heard, far.heard) == ([b"1"], [])

    async def leave_one_behind() -> None:
        await ends(Memory(), HERE).__enter__().subscribe("c")

    run_async(leave_one_behind())
    for _ in range(2):
        run_async(scene())


def test_what_several_hear_alike_is_decoded_once(run_async: Run) -> None:
    async def scene() -> None:
        with ends(Memory(), HERE) as both:
            decode, decoded = both.memo.decode, []
            both.memo.decode = lambda payloads: decoded.append(payloads) or decode(payloads)
            logs = [await both.subscribe("c") for _ in range(5)]
            publisher, said = await both.publisher()
            for n in range(3):
                assert publisher.send(b"c", b"%d" % n, n)
            await said.until(lambda: len(said.answered) == 3)
            assert [log.heard for log in logs] == [[b"0", b"1", b"2"]] * 5
            assert len(decoded) == 1

    run_async(scene())


def test_who_pauses_for_too_long_is_cut_as_a_broker_would(run_async: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_UNHEARD_BYTES", 100)

    async def scene() -> None:
        with ends(Memory(), HERE) as both:
            log = await both.subscribe("c")
            publisher, said = await both.publisher()
            both.opened[0].pause()
            for n in range(11):
                assert publisher.send(b"c", b"x" * 10, n)
                await said.until(lambda n=n: len(said.answered) == n + 1)
                assert bool(log.lost) == (n == 10)
            both.opened[0].resume()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert (len(log.lost), log.heard) == (1, [])

    run_async(scene())


def test_what_comes_right_after_resuming_is_heard_after_what_was_kept(run_async: Run) -> None:
    async def scene() -> None:
        with ends(Memory(), HERE) as both:
            log = await both.subscribe("c")
            publisher, said = await both.publisher()
            both.opened[0].pause()
            assert publisher.send(b"c", b"1", None)
            await said.until(lambda: len(said.answered) == 1)
            assert publisher.send(b"c", b"2", None)  # carried before what was kept
            both.opened[0].resume()
            await log.until(lambda: len(log.heard) == 2)
            assert log.heard == [b"1", b"2"]

    run_async(scene())
