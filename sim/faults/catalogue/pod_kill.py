"""Pods die at once: the part-full batch is gone, nothing is said to the broker, and new pods start when the fault ends."""

from __future__ import annotations

import asyncio

from sim.faults.holds import end_pod, start_pod
from sim.faults.times import FaultTimes
from sim.faults.world import World


class PodKill(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="pod_kill"):
    """Pods that are killed (SIGKILL), and started anew when the fault ends.

    Attributes
    ----------
    pods
        Names of pods or services; empty = all.
    """

    pods: tuple[str, ...] = ()

    needs = ("pods",)

    async def begin(self, world: World) -> None:
        """Kill them."""
        for name in world.names(self.pods):
            await end_pod(world, name, lambda pod: pod.kill())

    async def end(self, world: World) -> None:
        """Start them anew, all at the same time, but for those that another fault keeps down."""
        await asyncio.gather(*(start_pod(world, name) for name in world.names(self.pods)))
