"""The broker's process is killed, and a new, empty one starts at the same address."""

from __future__ import annotations

from sim.faults.holds import give_back, take_down
from sim.faults.times import FaultTimes
from sim.faults.world import World


class BrokerDown(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="broker_down"):
    """A broker that is killed, and started again when the fault ends."""

    needs = ("broker",)

    async def begin(self, world: World) -> None:
        """Kill the broker."""
        await take_down(world)

    async def end(self, world: World) -> None:
        """Start it again, unless another fault keeps it down."""
        await give_back(world)
