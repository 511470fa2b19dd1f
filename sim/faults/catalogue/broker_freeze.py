"""The broker stands still: connections stay open, nothing is answered, and nobody gets an error."""

from __future__ import annotations

from sim.faults.times import FaultTimes
from sim.faults.world import World


class BrokerFreeze(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="broker_freeze"):
    """Stop the broker's process (SIGSTOP), and let it go on when the fault ends."""

    needs = ("broker",)

    async def begin(self, world: World) -> None:
        """Freeze the broker."""
        assert world.broker is not None
        await world.broker.freeze()

    async def end(self, world: World) -> None:
        """Let it go on."""
        assert world.broker is not None
        await world.broker.thaw()
