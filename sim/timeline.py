"""Faults by time, always healed.

Rules
-----
1. A fault begins at its time after the start of the run phase and ends `for_s` later.
2. Whatever happens, `heal` ends every fault that began and has not ended; it may be called twice.
3. Each fault is one row of the `faults` table: when it had begun, when it had ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sim.clock import NS_PER_S, now_ns
from sim.faults import Fault, World
from sim.record import Recorder


class Timeline:
    """Own the faults of one run."""

    def __init__(self, faults: Sequence[Fault], world: World | None, recorder: Recorder) -> None:
        self._faults = faults
        self._world = world
        self._recorder = recorder
        self._begun: dict[int, int] = {}  # place in `faults` -> begin_ns
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, run_ns: int) -> None:
        """Let every fault begin and end at its time after `run_ns`."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._live(place, run_ns)) for place in range(len(self._faults))]

    async def _live(self, place: int, run_ns: int) -> None:
        fault = self._faults[place]
        await _until(run_ns + int(fault.at_s * NS_PER_S))
        assert self._world is not None
        self._begun[place] = now_ns()
        await fault.begin(self._world)
        await _until(run_ns + int((fault.at_s + fault.for_s) * NS_PER_S))
        await self._end(place)

    async def _end(self, place: int) -> None:
        fault = self._faults[place]
        assert self._world is not None
        await fault.end(self._world)
        begin_ns = self._begun.pop(place)
        self._recorder.tables["faults"].add(type(fault).__struct_config__.tag, fault.target, begin_ns, now_ns())

    async def heal(self) -> None:
        """End every fault that has not ended, and let none begin any more.

        Raises
        ------
        BuslabError
            A fault could not begin or could not be healed; the others are healed all the same.
        """
        for task in self._tasks:
            task.cancel()
        outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        outcomes += await asyncio.gather(*(self._end(place) for place in list(self._begun)), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome


async def _until(at_ns: int) -> None:
    await asyncio.sleep(max(0.0, (at_ns - now_ns()) / NS_PER_S))
