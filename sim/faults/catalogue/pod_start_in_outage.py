"""The broker dies, and pods start while it is away: what a pod does that has never been connected decides whether it ever will be."""

from __future__ import annotations

from sim.faults.holds import end_pod, give_back, start_pod, take_down
from sim.faults.times import FaultTimes
from sim.faults.world import World


class PodStartInOutage(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="pod_start_in_outage"):
    """Pods that are killed and started anew while the broker is dead; the broker comes back, empty, when the fault ends.

    Attributes
    ----------
    pods
        Names of pods or services that start in the outage; empty = all.
    """

    pods: tuple[str, ...] = ()

    needs = ("broker", "pods")

    async def begin(self, world: World) -> None:
        """Kill the broker and the pods, and start the pods anew."""
        await take_down(world)
        for name in world.names(self.pods):
            await end_pod(world, name, lambda pod: pod.kill())
            await start_pod(world, name)

    async def end(self, world: World) -> None:
        """Start the broker again, and any pod that did not start; not what another fault keeps down."""
        await give_back(world)
        for name in world.names(self.pods):
            await start_pod(world, name)
