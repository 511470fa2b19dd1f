"""Virtual time: the clock jumps, order is one, and what would wait for ever is said."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.grounds.model.loop import NS_PER_S, START_NS, JumpingLoop, Stuck
from sim.machine.clock import Alarm, is_virtual, now_ns, running_clock, wall_offset_ns


def run(coroutine):  # type: ignore[no-untyped-def]
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(coroutine)


def test_a_day_passes_in_no_time_and_to_the_nanosecond() -> None:
    async def scene() -> int:
        assert now_ns() == START_NS
        await asyncio.sleep(86_400)
        return now_ns() - START_NS

    began = time.monotonic()
    assert run(scene()) == 86_400 * NS_PER_S
    assert time.monotonic() - began < 30, "a day was really waited for"


def test_the_clock_of_the_live_half_follows_the_running_loop() -> None:
    assert not is_virtual()
    assert running_clock() is time.monotonic_ns

    async def scene() -> tuple[bool, int]:
        first = wall_offset_ns()
        await asyncio.sleep(5)
        return is_virtual(), wall_offset_ns() - first

    assert run(scene()) == (True, 0)
    assert abs(now_ns() - time.monotonic_ns()) < 10 * NS_PER_S


@given(st.lists(st.integers(0, 50), max_size=40))
def test_timers_fire_by_time_and_those_of_one_time_in_the_order_set(delays: list[int]) -> None:
    fired: list[tuple[int, int]] = []

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        for place, delay in enumerate(delays):
            how = (loop.at_ns, lambda at_ns, call, place: loop.call_at(at_ns / NS_PER_S, call, place))[place % 2]
            how(START_NS + delay, lambda place: fired.append((now_ns() - START_NS, place)), place)
        await asyncio.sleep(1)

    run(scene())
    assert fired == sorted((delay, place) for place, delay in enumerate(delays))


def test_a_cancelled_timer_does_not_fire_and_an_alarm_holds_one_time() -> None:
    async def scene() -> list[int]:
        fired: list[int] = []
        loop = asyncio.get_running_loop()
        loop.call_later(1, fired.append, 1).cancel()
        alarm = Alarm(lambda: fired.append(now_ns() - START_NS))
        alarm.set(START_NS + 7)
        alarm.set(START_NS + 1_000_003)
        await asyncio.sleep(2)
        alarm.set(now_ns() + 1)
        alarm.close()
        await asyncio.sleep(2)
        return fired

    assert run(scene()) == [1_000_003]


def test_tasks_timeouts_and_executors_work() -> None:
    async def scene() -> tuple[list[int], str]:
        async def later(n: int) -> int:
            await asyncio.sleep(n)
            return n

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(later(n)) for n in (3, 1, 2)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await later(10)
        return [task.result() for task in tasks], await asyncio.to_thread(lambda: "done at once")

    assert run(scene()) == ([3, 1, 2], "done at once")


def test_an_error_in_work_for_an_executor_is_its_futures() -> None:
    async def scene() -> None:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 / 0)

    run(scene())


def test_a_loop_in_which_nothing_can_happen_says_so() -> None:
    async def scene() -> None:
        await asyncio.get_running_loop().create_future()

    loop = JumpingLoop()
    try:
        with pytest.raises(Stuck, match="everything waits"):
            loop.run_until_complete(scene())
    finally:
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def test_there_is_no_way_out_of_virtual_time() -> None:
    async def scene() -> None:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", 80)
        with pytest.raises(OSError, match="no network"):
            await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)

    run(scene())


def test_a_signal_from_another_thread_is_taken_between_turns() -> None:
    import threading

    async def scene() -> str:
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        assert task is not None
        threading.Timer(0.05, lambda: loop.call_soon_threadsafe(task.cancel)).start()
        try:
            while True:
                await asyncio.sleep(1)
        except asyncio.CancelledError:
            return "interrupted"

    assert run(scene()) == "interrupted"


@given(st.lists(st.integers(0, 20), max_size=30), st.lists(st.integers(0, 20), max_size=10), st.sets(st.integers(0, 29)))
def test_a_series_is_as_good_as_timers(calls: list[int], timers: list[int], that_call_soon: set[int]) -> None:
    """Every call comes once, at its time, in the order given; what is ready or due meanwhile is not kept waiting."""
    fired: list[tuple[int, str, int]] = []

    async def scene() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        for place, delay in enumerate(timers):
            loop.at_ns(START_NS + delay, lambda place: fired.append((now_ns() - START_NS, "timer", place)), place)

        def call(place: int) -> None:
            fired.append((now_ns() - START_NS, "call", place))
            if place in that_call_soon:
                loop.call_soon(lambda: fired.append((now_ns() - START_NS, "soon", place)))

        before = loop.events
        loop.series([(START_NS + delay, place, call, place) for place, delay in enumerate(calls)])
        await asyncio.sleep(1)
        return before, loop.events

    before, after = run(scene())
    assert [at_ns for at_ns, _, _ in fired] == sorted(at_ns for at_ns, _, _ in fired)
    assert [(at_ns, place) for at_ns, what, place in fired if what == "call"] == sorted((d, p) for p, d in enumerate(calls))
    assert sorted(place for _, what, place in fired if what == "soon") == sorted(p for p in that_call_soon if p < len(calls))
    for place, (_, what, which) in enumerate(fired):
        if what == "call" and which in that_call_soon:
            assert fired[place + 1][1:] == ("soon", which)
    assert after - before >= len(calls)


def test_series_of_one_nanosecond_run_in_the_order_in_which_they_were_set() -> None:
    """Also when the first was interrupted before: two messages of one connection may arrive at the same time, by jitter, in order."""
    fired: list[str] = []

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        loop.series([(START_NS + 1, 0, fired.append, "first at 1"), (START_NS + 9, 1, fired.append, "first at 9")])
        loop.series([(START_NS + 5, 0, fired.append, "second at 5"), (START_NS + 9, 1, fired.append, "second at 9")])
        loop.at_ns(START_NS + 9, fired.append, "timer at 9")
        await asyncio.sleep(1)

    run(scene())
    assert fired == ["first at 1", "second at 5", "first at 9", "second at 9", "timer at 9"]


def test_a_display_is_not_kept_waiting_by_series_of_thousands() -> None:
    asides: list[int] = []

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        await asyncio.sleep(1)
        loop.aside = lambda: asides.append(now_ns())
        for second in range(10):
            loop.series(
                [(now_ns() + second * NS_PER_S + delay, delay, lambda argument: None, None) for delay in range(loop.ASIDE_EVERY_CALLS + 2)]
            )
        await asyncio.sleep(20)

    run(scene())
    assert len(asides) >= 10
