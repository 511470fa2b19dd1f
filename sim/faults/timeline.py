"""Faults by time, always healed.

Rules
-----
1. A fault begins at its times after the start of the run phase (`times.FaultTimes`) and ends `for_s` later. Faults may overlap,
   but two of one kind on one target only where what they do adds up (`problems`).
2. Whatever happens, `heal` ends every fault that began and has not ended; it may be called twice.
3. Each occasion is one row of the `faults` table: when its beginning started, when its end was done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

from sim.faults.catalogue import Fault
from sim.faults.world import World
from sim.machine.clock import NS_PER_S, now_ns
from sim.record.recorder import Recorder


@dataclass
class _Occasion:
    """One time that a fault is on."""

    fault: Fault
    at_s: float
    world: World
    begun_ns: int = 0
    targets: tuple[str, ...] = ()  # the pods that it began on
    ended: bool = False
    ending: asyncio.Lock = field(default_factory=asyncio.Lock)


class Timeline:
    """The faults of one run, each begun and ended at its times.

    Parameters
    ----------
    world
        What they may touch.
    seed
        Decides the drawn times.
    """

    def __init__(self, faults: Sequence[Fault], world: World, recorder: Recorder, *, seed: int) -> None:
        self._recorder = recorder
        self._occasions: list[_Occasion] = []
        for place, fault in enumerate(faults):
            draw = Random(f"{seed}/{place}")
            self._occasions += [_Occasion(fault, at_s, replace(world, kept={})) for at_s in fault.begins_s(draw)]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, run_ns: int) -> None:
        """Schedule every fault to begin and end at its times after `run_ns`."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._live(one, run_ns)) for one in self._occasions]

    async def _live(self, one: _Occasion, run_ns: int) -> None:
        await _until(run_ns + int(one.at_s * NS_PER_S))
        one.begun_ns, one.targets = now_ns(), tuple(_targets(one))
        await one.fault.begin(one.world)
        await _until(run_ns + int((one.at_s + one.fault.for_s) * NS_PER_S))
        await self._end(one)

    async def _end(self, one: _Occasion) -> None:
        async with one.ending:
            if one.ended or not one.begun_ns:
                return
            await one.fault.end(one.world)
            one.ended = True
        name = type(one.fault).__struct_config__.tag
        target = ",".join(dict.fromkeys((*one.targets, *_targets(one)))) or "broker"  # a rolling restart ends on other pods
        self._recorder.tables["faults"].add(name, target, one.begun_ns, now_ns())

    async def heal(self) -> None:
        """End every fault that has not ended, and begin no more.

        Raises
        ------
        BuslabError
            A fault could not begin or could not be healed; the others are healed all the same.
        """
        for task in self._tasks:
            task.cancel()
        outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        for one in reversed(self._occasions):  # the last begun first: what it changed may rest on what an earlier one did
            outcomes += await asyncio.gather(self._end(one), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome


def _targets(one: _Occasion) -> list[str]:
    """Return the pods that a fault is on now; none when it is on the broker."""
    chosen = getattr(one.fault, "pods", None)
    return [] if chosen is None else one.world.names(chosen)


async def _until(at_ns: int) -> None:
    await asyncio.sleep(max(0.0, (at_ns - now_ns()) / NS_PER_S))
