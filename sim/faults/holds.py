"""Which faults keep the broker, or pods, down or frozen at one time.

Rules
-----
1. What several faults take down is down while one of them holds it: the last one's end starts it again, whoever took it down.
2. Only a server that runs can be frozen, and a new one is not: a fault that freezes a broker which is down waits until it runs.
3. A server that was started anew knows nothing of what was done to the one before: `deaths` tells them apart.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from sim.errors import BrokerError, BrokerUnreachable
from sim.faults.felt import RETRY_S, Felt

if TYPE_CHECKING:
    from sim.faults.world import ClusterControl, PodControl, World


@dataclass
class Holds:
    """What the faults of one run hold now.

    Attributes
    ----------
    down
        Who keeps the broker down, and how far that was felt; in the order in which they came.
    frozen
        Who keeps it frozen, and how often a server had died by then.
    pods
        Pod -> who keeps it down, and whether it has ended.
    deaths
        How often a fault has ended servers of the broker, one or all.
    outages
        How often one has ended all of them.
    changing
        Held while the broker is ended, started or frozen, so that a start does not outlive the end that comes after it.
    """

    down: dict[int, Felt] = field(default_factory=dict)
    frozen: dict[int, int] = field(default_factory=dict)
    pods: dict[str, dict[int, bool]] = field(default_factory=dict)
    deaths: int = 0
    outages: int = 0
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def broker_away(self) -> bool:
        """Whether the broker is down, or stands still."""
        return bool(self.down) or any(deaths == self.deaths for deaths in self.frozen.values())


async def take_down(world: World, *, in_order: bool = False) -> None:
    """End the broker at once or in order, until `give_back`; where another fault holds it down already, keep it so."""
    assert world.broker is not None
    holds, felt = world.holds, world.felt
    felt.says = True
    async with holds.changing:
        already = bool(holds.down)
        holds.down[world.who] = felt
        if already:
            felt.missed()  # unless the other one ends before this one
            return
        holds.deaths += 1
        holds.outages += 1
        felt.did()
        await (world.broker.stop() if in_order else world.broker.kill())


async def give_back(world: World) -> None:
    """Start the broker again, unless another fault holds it down; nothing when this one does not."""
    assert world.broker is not None
    holds = world.holds
    if world.who not in holds.down:
        return
    async with holds.changing:
        others = [felt for who, felt in holds.down.items() if who != world.who]
        if not others:
            await world.broker.start()
        elif not others[0].at_ns:
            others[0].did(waited=True)  # from here on it is this one that keeps it down
        holds.down.pop(world.who, None)


async def replace_broker(world: World) -> None:
    """End a server that lets nobody in, and start a new one in its place."""
    assert world.broker is not None
    async with world.holds.changing:
        world.holds.deaths += 1
        world.holds.outages += 1
        await world.broker.kill()
        await world.broker.start()


async def freeze_broker(world: World) -> None:
    """Freeze the broker until `thaw_broker`: at once, or as soon as it runs."""
    assert world.broker is not None
    holds, felt, waited = world.holds, world.felt, False
    felt.says = True
    while True:
        async with holds.changing:
            if not holds.down:
                holds.frozen[world.who] = holds.deaths
                felt.did(waited=waited)
                await world.broker.freeze()
                return
        if felt.is_over:
            return
        waited = True
        await asyncio.sleep(RETRY_S)


async def thaw_broker(world: World) -> None:
    """Thaw the broker; nothing when this fault did not freeze it."""
    assert world.broker is not None
    deaths = world.holds.frozen.get(world.who)
    if deaths is None:
        return
    world.felt.in_part |= deaths != world.holds.deaths  # it was killed in its sleep
    await world.broker.thaw()
    world.holds.frozen.pop(world.who, None)


async def kill_master(world: World, channel: str) -> None:
    """Kill the master of a channel: at once, or as soon as the cluster is there and knows which one it is."""
    broker, holds, felt = cast("ClusterControl", world.broker), world.holds, world.felt
    felt.says, waited = True, False
    while True:
        async with holds.changing:
            if not holds.broker_away:
                with contextlib.suppress(BrokerError):  # nobody owns it just now
                    await broker.kill_master(channel)
                    holds.deaths += 1
                    world.kept["deaths"] = holds.deaths
                    felt.did(waited=waited)
                    return
        if felt.is_over:
            return
        waited = True
        await asyncio.sleep(RETRY_S)


async def restore_master(world: World) -> None:
    """Start the master that was killed, once a replica has its place; nothing when none was killed, or all were started anew since.

    Raises
    ------
    BrokerError
        No replica took its place in time; it was started all the same.
    BrokerUnreachable
        The cluster stands still; it may be tried again.
    """
    broker, holds = cast("ClusterControl", world.broker), world.holds
    if "deaths" not in world.kept:
        return
    if holds.broker_away and not holds.down:
        raise BrokerUnreachable("the cluster stands still")
    alone = world.kept["deaths"] == holds.deaths
    try:
        if alone and not world.felt.cut_short:
            await broker.promoted()
    except BrokerError as error:
        alone = world.kept["deaths"] == holds.deaths
        if alone and not holds.broker_away:
            raise BrokerError(f"no replica took the place of the master that was killed: {error}") from None
    finally:
        world.felt.in_part |= not alone
        async with holds.changing:
            if not holds.down:  # else who holds it down starts this one too
                await broker.start()
        del world.kept["deaths"]


async def end_pod(world: World, name: str, end: Callable[[PodControl], Awaitable[None]]) -> None:
    """End a pod, until `start_pod`."""
    held = world.holds.pods.setdefault(name, {})
    if any(held.values()):
        world.felt.missed()  # it has ended already
    else:
        world.felt.did()
    held[world.who] = False
    await end(world.pods[name])
    held[world.who] = True


async def start_pod(world: World, name: str) -> None:
    """Start a pod anew, unless another fault holds it down; nothing when it runs."""
    held = world.holds.pods.setdefault(name, {})
    held.pop(world.who, None)
    if not held:
        await world.pods[name].start()


async def freeze_pod(world: World, name: str) -> None:
    """Freeze a pod: at once, or as soon as no fault holds it down."""
    waited = False
    while any(world.holds.pods.get(name, {}).values()):
        if world.felt.is_over:
            world.felt.missed()
            return
        waited = True
        await asyncio.sleep(RETRY_S)
    world.felt.did(waited=waited)
    await world.pods[name].freeze()
