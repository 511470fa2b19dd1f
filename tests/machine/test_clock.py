"""Clocks: timers fire at their time, once, and let go of what they hold."""

from __future__ import annotations

import asyncio
import os
import select
import time
from collections.abc import Callable
from typing import Any

import pytest

from sim.machine.clock import NS_PER_MS, NS_PER_S, Alarm, PreciseTimer, new_event_loop, now_ns, utc_now, wall_offset_ns


def readable(timer: PreciseTimer, timeout_s: float) -> bool:
    return bool(select.select([timer.fd], [], [], timeout_s)[0])


def test_a_timer_fires_at_its_time_and_not_before() -> None:
    timer = PreciseTimer()
    at_ns = now_ns() + 2 * NS_PER_MS
    timer.set(at_ns)
    assert readable(timer, 10)
    assert now_ns() >= at_ns
    timer.clear()
    assert not readable(timer, 0)
    timer.close()
    timer.close()


@pytest.mark.parametrize("at_ns", [-5, 0, 1])
def test_a_time_that_has_passed_fires_at_once(at_ns: int) -> None:
    timer = PreciseTimer()
    timer.set(at_ns)
    assert readable(timer, 10)
    timer.close()


def test_a_later_time_replaces_the_one_before() -> None:
    timer = PreciseTimer()
    timer.set(now_ns())
    timer.set(now_ns() + 3_600 * NS_PER_S)
    assert not readable(timer, 0)
    timer.close()


def test_timers_leave_no_descriptor_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        PreciseTimer().close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture(params=["uvloop", "asyncio", "asyncio without timerfd"])
def loop_factory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], asyncio.AbstractEventLoop]:
    if request.param == "asyncio without timerfd":
        monkeypatch.setattr("sim.machine.clock.sys.platform", "darwin")
    return new_event_loop if request.param == "uvloop" else asyncio.new_event_loop


def test_an_alarm_calls_once_at_the_time_set_last(loop_factory: Any) -> None:
    async def scene() -> list[int]:
        called: list[int] = []
        rang = asyncio.Event()
        alarm = Alarm(lambda: (called.append(now_ns()), rang.set()))
        alarm.set(now_ns() + 3_600 * NS_PER_S)
        at_ns = now_ns() + 3 * NS_PER_MS
        alarm.set(at_ns)
        async with asyncio.timeout(10):
            await rang.wait()
        alarm.close()
        alarm.close()
        return [ns - at_ns for ns in called]

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        late = runner.run(scene())
    assert len(late) == 1
    assert late[0] > -NS_PER_MS, "an event loop's own timer may be early by its resolution"


def test_a_closed_alarm_does_not_call(loop_factory: Any) -> None:
    async def scene() -> list[str]:
        called: list[str] = []
        silent = Alarm(lambda: called.append("silent"))
        silent.set(now_ns())
        silent.close()
        rang = asyncio.Event()
        later = Alarm(rang.set)
        later.set(now_ns() + NS_PER_MS)
        async with asyncio.timeout(10):
            await rang.wait()
        later.close()
        return called

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(scene()) == []


def test_the_wall_offset_turns_the_monotonic_clock_into_dates() -> None:
    assert abs(now_ns() + wall_offset_ns() - time.time_ns()) < NS_PER_S
    assert abs(utc_now().timestamp() - time.time()) < 1
