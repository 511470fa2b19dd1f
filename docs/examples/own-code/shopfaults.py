"""What can go wrong in the shop, and in no other bus."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from sim.faults.times import FaultTimes
from sim.faults.world import World


class BillingChokes(FaultTimes, kw_only=True):
    """A tax service that answers late: billing handles one order at a time, slowly."""

    handler_ms: Annotated[float, Meta(gt=0, le=60_000)] = 20.0
    pods: tuple[str, ...] = ("billing",)

    needs = ("pods",)

    async def begin(self, world: World) -> None:
        """Slow billing down."""
        for pod in world.chosen(self.pods):
            await pod.slow(handler_ms=self.handler_ms, at_once=1)

    async def end(self, world: World) -> None:
        """Let billing work as usual; called whatever happened, so it may be called twice."""
        for pod in world.chosen(self.pods):
            await pod.slow(handler_ms=0, at_once=0)
