"""Pods stand still (SIGSTOP, a long pause of the garbage collector): subscribed as before, holding their locks; then they go on."""

from __future__ import annotations

import asyncio

from sim.faults.holds import freeze_pod
from sim.faults.times import FaultTimes
from sim.faults.world import World


class PodFreeze(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="pod_freeze"):
    """Pods that stand still until the fault ends.

    Attributes
    ----------
    pods
        Names of pods or services; empty = all.
    """

    pods: tuple[str, ...] = ()

    needs = ("pods",)

    async def begin(self, world: World) -> None:
        """Freeze them; one that is down as soon as it runs."""
        world.kept["frozen"] = world.names(self.pods)
        await asyncio.gather(*(freeze_pod(world, name) for name in world.kept["frozen"]))

    async def end(self, world: World) -> None:
        """Thaw them, also those that a restart has replaced meanwhile: they are still to end in order."""
        for name in world.kept.get("frozen", ()):
            await world.pods[name].thaw()
