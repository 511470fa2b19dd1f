"""A master of a cluster is killed, a replica takes its place, and the old master comes back as a replica."""

from __future__ import annotations

from sim.faults.holds import kill_master, restore_master
from sim.faults.times import FaultTimes
from sim.faults.world import World


class BrokerFailover(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="broker_failover"):
    """A cluster's master, the owner of a channel, that is killed, and started again when the fault ends and a replica was promoted.

    Attributes
    ----------
    channel
        A channel or key as the cluster sees it, with its prefix: its master is killed; empty = the master of slot 0.
    """

    channel: str = ""

    needs = ("broker", "failover")

    async def begin(self, world: World) -> None:
        """Kill the master, as soon as the cluster is there and knows which one it is."""
        await kill_master(world, self.channel)

    async def end(self, world: World) -> None:
        """Wait until a replica has its place, and start it again whether or not one has."""
        await restore_master(world)
