"""Faults by time, always healed.

Rules
-----
1. A fault begins at its times after the start of the run phase (`times.FaultTimes`) and ends `for_s` later. Faults may overlap,
   but two of one kind on one target only where what they do adds up (`problems`).
2. A fault that meets a broker that is away does what it can, in its window and no longer; how far that was is recorded (`felt`). One that
   cannot be ended for the same reason is ended as soon as the broker is there.
3. Whatever happens, `heal` ends every fault that began and has not ended, the last begun first, whatever the order in which they are
   listed: what it changed may rest on what an earlier one did. It may be called twice.
4. Each occasion is one row of the `faults` table: when its beginning started, when its end was done, how far it was felt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

from sim.errors import BrokerError, BuslabError
from sim.faults.catalogue import Fault
from sim.faults.catalogue.machine_down import MachineDown
from sim.faults.felt import RETRY_S, Felt
from sim.faults.own_faults import is_own
from sim.faults.server_commands import is_away
from sim.faults.world import World
from sim.machine.clock import NS_PER_S, now_ns
from sim.machine.user_code import first_line
from sim.record.recorder import Recorder

HEAL_S = 10.0  # so long a broker that is away is waited for, when every fault has ended that kept it away


@dataclass
class _Occasion:
    """One time that a fault is on."""

    fault: Fault
    at_s: float
    world: World
    begun_ns: int = 0
    whole: bool = False  # its beginning is over
    targets: tuple[str, ...] = ()  # the pods that it began on
    ended: bool = False
    ending: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def kind(self) -> str:
        return str(type(self.fault).__struct_config__.tag)

    def explain(self, error: BuslabError) -> BuslabError:
        """Return the error with the fault's name before it."""
        return type(error)(f"the fault {self.kind} of {self.at_s:g} s: {error}")


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
            self._occasions += [_Occasion(fault, at_s, replace(world, kept={}, felt=Felt())) for at_s in fault.begins_s(draw)]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, run_ns: int) -> None:
        """Schedule every fault to begin and end at its times after `run_ns`."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._live(one, run_ns)) for one in self._occasions]

    async def _live(self, one: _Occasion, run_ns: int) -> None:
        end_ns = run_ns + int((one.at_s + one.fault.for_s) * NS_PER_S)
        await _until(run_ns + int(one.at_s * NS_PER_S))
        one.begun_ns, one.targets = now_ns(), tuple(_targets(one))
        one.world.felt.until_s = asyncio.get_running_loop().time() + (end_ns - one.begun_ns) / NS_PER_S
        try:
            await one.fault.begin(one.world)
        except BuslabError as error:
            raise one.explain(error) from None
        except Exception as error:
            if not is_own(one.fault):
                raise
            raise one.explain(BuslabError(first_line(error))) from error  # the user's own code: which it was is what they need to know
        one.whole = True
        await _until(end_ns)
        while await self._put_off(one):
            await asyncio.sleep(RETRY_S)

    async def _put_off(self, one: _Occasion) -> BuslabError | None:
        """End a fault and record it; return why it must be tried again, None when it has ended."""
        async with one.ending:
            if one.ended or not one.begun_ns:
                return None
            try:
                await one.fault.end(one.world)
            except BrokerError as error:
                if is_away(error):
                    return one.explain(error)
                raise one.explain(error) from None
            except Exception as error:
                if not is_own(one.fault) or isinstance(error, BuslabError):
                    raise
                raise one.explain(BuslabError(first_line(error))) from error
            one.ended = True
        felt = one.world.felt
        if not felt.says:
            felt.at_ns = one.begun_ns
        felt.in_part |= not one.whole
        target = ",".join(dict.fromkeys((*one.targets, *_targets(one)))) or "broker"  # a rolling restart ends on other pods
        self._recorder.tables["faults"].add(one.kind, target, one.begun_ns, now_ns(), felt.word(), felt.at_ns)
        return None

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
        failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        left = sorted(self._occasions, key=lambda one: one.begun_ns)[::-1]
        for one in left:
            one.world.felt.cut_short = not one.world.felt.is_over
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + HEAL_S
        while left:
            put_off = []
            for one in left:
                try:
                    if (why := await self._put_off(one)) is not None:
                        put_off.append((one, why))
                except Exception as error:
                    failures.append(error)
            left = [one for one, _ in put_off]
            if left and loop.time() >= deadline_s:
                failures += [why for _, why in put_off]
                break
            await asyncio.sleep(RETRY_S if left else 0)
        if failures:
            raise failures[0]


def _targets(one: _Occasion) -> list[str]:
    """Return the pods that a fault is on now; none when it is on the broker."""
    if isinstance(one.fault, MachineDown):
        return one.fault.targets(one.world)
    chosen = getattr(one.fault, "pods", None)
    return [] if chosen is None else one.world.names(chosen)


async def _until(at_ns: int) -> None:
    await asyncio.sleep(max(0.0, (at_ns - now_ns()) / NS_PER_S))
