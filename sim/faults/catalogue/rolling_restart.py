"""Pods of a service are restarted one after another, as for a new version: between an old pod and its successor nobody hears."""

from __future__ import annotations

import asyncio
from typing import Annotated

from msgspec import Meta

from sim.faults.holds import end_pod, start_pod
from sim.faults.times import FaultTimes
from sim.faults.world import World


class RollingRestart(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="rolling_restart"):
    """Restarts of pods one after another, each once: a stop in order, a start, a pause. `for_s` may be over before the last one's turn.

    Attributes
    ----------
    pods
        Names of pods or services; empty = all.
    each_s
        From the start of a new pod to the stop of the next one.
    down_s
        From the end of a pod to the start of its successor, as for scheduling and starting a container.
    grace_s
        From SIGTERM to SIGKILL.
    """

    pods: tuple[str, ...] = ()
    each_s: Annotated[float, Meta(ge=0, le=3600)] = 1.0
    down_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    grace_s: Annotated[float, Meta(ge=0.01, le=3600)] = 30.0

    needs = ("pods",)

    async def begin(self, world: World) -> None:
        """Restart one after another; return after the last one's time."""
        for name in world.names(self.pods):
            await end_pod(world, name, lambda pod: pod.stop(grace_s=self.grace_s))
            await asyncio.sleep(self.down_s)
            await start_pod(world, name)
            await asyncio.sleep(self.each_s)

    async def end(self, world: World) -> None:
        """Start those that do not run, and that no other fault keeps down."""
        for name in world.names(self.pods):
            await start_pod(world, name)
