"""The gate: what stands behind it takes no step while it is shut, and loses nothing by that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sim.machine.freezer import FROZEN, Freezer

Run = Callable[[Any], Any]


class Stream:
    def __init__(self) -> None:
        self.paused_for: list[str] = []

    def pause(self, why: str) -> None:
        self.paused_for.append(why)

    def resume(self, why: str) -> None:
        self.paused_for.remove(why)


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def count_up(steps: list[int]) -> str:
    for step in range(5):
        steps.append(step)
        await asyncio.sleep(0)
    return "done"


def test_a_coroutine_behind_it_stands_still_and_goes_on(run_async: Run) -> None:
    async def scene() -> None:
        freezer, steps = Freezer(), []
        task = asyncio.create_task(freezer.hold(count_up, steps))
        await turns(2)
        freezer.freeze()
        seen = list(steps)
        await turns()
        assert steps == seen != []
        assert not task.done()
        freezer.thaw()
        assert await task == "done"
        assert steps == [0, 1, 2, 3, 4]

    run_async(scene())


@pytest.mark.parametrize("fails", [False, True])
def test_what_was_awaited_is_taken_when_it_thaws(run_async: Run, fails: bool) -> None:
    async def scene() -> None:
        freezer, answer = Freezer(), asyncio.get_running_loop().create_future()

        async def wait() -> str:
            try:
                return str(await answer)
            except OSError:
                return "failed"

        task = asyncio.create_task(freezer.hold(wait))
        await turns()
        freezer.freeze()
        answer.set_exception(OSError()) if fails else answer.set_result("answer")
        await turns()
        assert not task.done()
        freezer.thaw()
        assert await task == ("failed" if fails else "answer")

    run_async(scene())


def test_a_timeout_that_ran_out_meanwhile_is_noticed_when_it_thaws(run_async: Run) -> None:
    async def scene() -> None:
        freezer, noticed = Freezer(), []

        async def wait() -> None:
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.Event().wait()
            except TimeoutError:
                noticed.append(True)

        task = asyncio.create_task(freezer.hold(wait))
        await turns()
        freezer.freeze()
        await asyncio.sleep(0.05)
        assert noticed == []
        assert not task.done()
        freezer.thaw()
        await task
        assert noticed == [True]

    run_async(scene())


def test_an_ended_gate_lets_a_cancelled_coroutine_end(run_async: Run) -> None:
    async def scene() -> None:
        freezer, cleaned = Freezer(), []

        async def wait() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cleaned.append(True)

        task = asyncio.create_task(freezer.hold(wait))
        await turns()
        freezer.freeze()
        task.cancel()
        await turns()
        assert not task.done(), "a cancellation is held back too"
        freezer.end()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        assert cleaned == [True]

    run_async(scene())


def test_callbacks_wait_in_their_order_and_come_before_what_is_read(run_async: Run) -> None:
    async def scene() -> None:
        freezer, stream, order = Freezer(), Stream(), []
        freezer.add(stream)
        freezer.then(lambda: order.append("at once"))
        freezer.freeze()
        late = Stream()
        freezer.add(late)
        assert stream.paused_for == late.paused_for == [FROZEN]
        for number in range(3):
            freezer.then(lambda number=number: order.append((number, list(stream.paused_for))))
        assert order == ["at once"]
        freezer.thaw()
        assert order[1:] == [(0, [FROZEN]), (1, [FROZEN]), (2, [FROZEN])]
        assert stream.paused_for == late.paused_for == []

    run_async(scene())


def test_an_ended_gate_calls_nothing_and_is_never_shut_again(run_async: Run) -> None:
    async def scene() -> None:
        freezer, called = Freezer(), []
        freezer.freeze()
        freezer.then(lambda: called.append(1))
        freezer.end()
        freezer.freeze()
        freezer.thaw()
        freezer.then(lambda: called.append(2))
        assert (called, freezer.frozen) == ([], False)

    run_async(scene())


def test_a_callback_may_shut_it_again_and_the_rest_waits(run_async: Run) -> None:
    async def scene() -> None:
        freezer, called = Freezer(), []
        freezer.freeze()
        freezer.then(freezer.freeze)
        freezer.then(lambda: called.append(1))
        freezer.thaw()
        assert called == []
        freezer.thaw()
        assert called == [1]

    run_async(scene())
