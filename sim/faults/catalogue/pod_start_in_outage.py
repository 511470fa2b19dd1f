"""The broker dies, and pods start while it is away: what a pod does that has never been connected decides whether it ever will be."""

from __future__ import annotations

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
        assert world.broker is not None
        await world.broker.kill()
        for pod in world.chosen(self.pods):
            await pod.kill()
            await pod.start()

    async def end(self, world: World) -> None:
        """Start the broker again, and any pod that did not start."""
        assert world.broker is not None
        await world.broker.start()
        for pod in world.chosen(self.pods):
            await pod.start()
