"""Pods die at once: the part-full batch is gone, nothing is said to the broker, and new pods start when the fault ends."""

from __future__ import annotations

import asyncio

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
        for pod in world.chosen(self.pods):
            await pod.kill()

    async def end(self, world: World) -> None:
        """Start them anew, all at the same time."""
        await asyncio.gather(*(pod.start() for pod in world.chosen(self.pods)))
