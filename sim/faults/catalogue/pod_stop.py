"""Pods end in order (SIGTERM): they publish the part-full batch, wait for the answers and leave; new pods start when the fault ends."""

from __future__ import annotations

import asyncio
from typing import Annotated

from msgspec import Meta

from sim.faults.holds import end_pod, start_pod
from sim.faults.times import FaultTimes
from sim.faults.world import World


class PodStop(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="pod_stop"):
    """Pods that are stopped in order, all at the same time, and started anew when the fault ends.

    Attributes
    ----------
    pods
        Names of pods or services; empty = all.
    grace_s
        From SIGTERM to SIGKILL, Kubernetes' terminationGracePeriodSeconds.
    """

    pods: tuple[str, ...] = ()
    grace_s: Annotated[float, Meta(ge=0.01, le=3600)] = 30.0

    needs = ("pods",)

    async def begin(self, world: World) -> None:
        """Stop them; return when the last has ended."""
        await asyncio.gather(*(end_pod(world, name, lambda pod: pod.stop(grace_s=self.grace_s)) for name in world.names(self.pods)))

    async def end(self, world: World) -> None:
        """Start them anew, all at the same time, but for those that another fault keeps down."""
        await asyncio.gather(*(start_pod(world, name) for name in world.names(self.pods)))
