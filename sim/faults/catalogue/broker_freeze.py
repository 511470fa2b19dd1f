"""The broker stands still: connections stay open, nothing is answered, and nobody gets an error."""

from __future__ import annotations

from sim.faults.holds import freeze_broker, thaw_broker
from sim.faults.times import FaultTimes
from sim.faults.world import World


class BrokerFreeze(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="broker_freeze"):
    """A broker whose process stands still (SIGSTOP) until the fault ends."""

    needs = ("broker",)

    async def begin(self, world: World) -> None:
        """Freeze the broker; one that is down as soon as it runs."""
        await freeze_broker(world)

    async def end(self, world: World) -> None:
        """Thaw the broker."""
        await thaw_broker(world)
