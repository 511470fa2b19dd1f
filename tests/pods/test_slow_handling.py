"""Handlers that take time, in virtual time: how many run at once, when each begins, and when the pod reads on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from sim.bus.counters import Counters
from sim.bus.envelope import Event
from sim.bus.once import RECIPES
from sim.grounds.model.loop import JumpingLoop
from sim.machine.clock import now_ns
from sim.machine.freezer import Freezer
from sim.pods.slow_handling import DeliveryRecord, OnceClaim, Pace, SlowHandling, Work
from sim.record.durations import Duration
from sim.record.recorder import DeliveryBuffer

MS = 1_000_000
T = TypeVar("T")


def run_virtual(scene: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(scene)


class Connections:
    """What a pod's connections are to its handling: whether it reads."""

    def __init__(self) -> None:
        self.reads = True

    async def command(self, *words: str) -> Any:
        raise AssertionError("no recipe, no command")

    def pause(self) -> None:
        self.reads = False

    def resume(self) -> None:
        self.reads = True


class Scene:
    """One pod's handling; `began` says when each event's handler began and ended, in milliseconds."""

    def __init__(self, pace: Pace) -> None:
        self.connections = Connections()
        self.deliveries = DeliveryBuffer(["p-0"])
        claim = OnceClaim(RECIPES["none"], 300, str, "p-0")
        record = DeliveryRecord(self.deliveries, 0, Counters())
        self.slow = SlowHandling(self.connections, record=record, pace=pace, claim=claim, seed=1, freezer=Freezer())
        self.zero_ns = now_ns()
        self.ended: list[float] = []

    def take(self, *kinds: str) -> None:
        for number, kind in enumerate(kinds):
            event = Event(f"e{number}", "", kind, "1.0", "", "test", {})
            self.slow.take(lambda event: self.ended.append((now_ns() - self.zero_ns) / MS), event, number, now_ns())

    @property
    def began(self) -> list[float]:
        return [(at - self.zero_ns) / MS for at in self.deliveries.handled_ns]


def played(pace: Pace, *kinds: str) -> Scene:
    async def run() -> Scene:
        scene = Scene(pace)
        scene.take(*kinds)
        await scene.slow.settle()
        await asyncio.sleep(0)
        return scene

    return run_virtual(run())


@pytest.mark.parametrize(
    ("pace", "began", "ended"),
    [
        (Pace(work=Work.waiting(5)), [0, 0, 0, 0], [5, 5, 5, 5]),
        (Pace(work=Work.waiting(5), at_once=1), [0, 5, 10, 15], [5, 10, 15, 20]),
        (Pace(work=Work.waiting(5), at_once=3), [0, 0, 0, 5], [5, 5, 5, 10]),
        (Pace(work=Work(cpu=Duration(one=2))), [0, 2, 4, 6], [2, 4, 6, 8]),
        (Pace(work=Work(cpu=Duration(one=2)), cores=0.5), [0, 4, 8, 12], [4, 8, 12, 16]),
        (Pace(work=Work(cpu=Duration(one=2)), cores=4.0), [0, 2, 4, 6], [2, 4, 6, 8]),
        (Pace(work=Work(cpu=Duration(one=2), wait=Duration(one=10))), [0, 2, 4, 6], [12, 14, 16, 18]),
        (Pace(work=Work(cpu=Duration(one=2), wait=Duration(one=10)), at_once=2), [0, 2, 12, 14], [12, 14, 24, 26]),
        (Pace(work=Work.waiting(5), of_channel={"b": Work.waiting(1)}, at_once=1), [0, 5, 6, 11], [5, 6, 11, 12]),
    ],
    ids=[
        "as many as come",
        "one",
        "three",
        "a core",
        "half a core",
        "four cores",
        "a core and a wait",
        "both, two at a time",
        "by channel",
    ],
)
def test_each_event_begins_when_there_is_room_for_it(pace: Pace, began: list[float], ended: list[float]) -> None:
    scene = played(pace, "a", "b", "a", "b") if pace.of_channel else played(pace, "a", "a", "a", "a")
    assert scene.began == pytest.approx(began)
    assert scene.ended == pytest.approx(ended)


def test_what_is_drawn_is_the_same_each_time() -> None:
    pace = Pace(work=Work(wait=Duration("exponential", 5.0)), at_once=1)
    assert played(pace, *"aaaaaa").began == played(pace, *"aaaaaa").began
    assert len(set(played(pace, *"aaaaaa").began)) == 6


@pytest.mark.parametrize(
    ("pace", "events", "reads"),
    [
        (Pace(work=Work.waiting(5), at_once=3), 2, [True]),
        (Pace(work=Work.waiting(5), at_once=3), 3, [False, True, True]),  # one is done at 5 ms: there is room again
        (Pace(work=Work.waiting(5), at_once=1), 2, [False, False, True]),
        (Pace(work=Work.waiting(5), at_once=1, queue_limit=4), 3, [True]),
        (Pace(work=Work.waiting(5), at_once=1, queue_limit=4), 4, [False, False, True]),  # half of them are done at 10 ms
    ],
)
def test_a_pod_reads_on_when_there_is_room(pace: Pace, events: int, reads: list[bool]) -> None:
    async def run() -> list[bool]:
        scene = Scene(pace)
        scene.take(*"a" * events)
        seen = []
        for _ in reads:
            await asyncio.sleep(0.001)
            seen.append(scene.connections.reads)
            await asyncio.sleep(0.004)
        await scene.slow.settle()
        return seen

    assert run_virtual(run()) == reads
