"""Connections of some pods are reset (RST), once or again and again; what was on its way is lost, and both sides are told."""

from __future__ import annotations

import asyncio
from typing import Annotated

from msgspec import Meta

from sim.errors import BrokerError
from sim.faults.times import FaultTimes
from sim.faults.world import World


class LinkReset(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="link_reset"):
    """Resets of the open connections of some pods; a new connection works at once.

    Attributes
    ----------
    pods
        Names of pods or services; empty = all.
    every_ms
        How often the connections that are open then are reset again, while the fault is on; 0 = not again.
    """

    pods: tuple[str, ...] = ()
    every_ms: Annotated[float, Meta(ge=0, le=86_400_000)] = 0.0

    needs = ("links",)
    adds_up = True

    def problem(self) -> str:
        """Return what is wrong with the times; empty when nothing is."""
        if 0 < self.every_ms < 10:
            return f"every_ms = {self.every_ms:g} leaves no time to connect in between: give 0 for once, or at least 10"
        return super().problem()

    async def begin(self, world: World) -> None:
        """Reset the connections, and go on resetting them where that is asked for."""
        assert world.links is not None
        await world.links.reset(world.numbers(self.pods))
        if self.every_ms:
            world.kept["resets"] = asyncio.get_running_loop().create_task(self._keep_on(world))

    async def _keep_on(self, world: World) -> None:
        assert world.links is not None
        while True:
            await asyncio.sleep(self.every_ms / 1000)
            await world.links.reset(world.numbers(self.pods))

    async def end(self, world: World) -> None:
        """Stop resetting.

        Raises
        ------
        BrokerError
            Resetting had ended by itself: the links are gone.
        """
        resets: asyncio.Task[None] | None = world.kept.pop("resets", None)
        if resets is None:
            return
        resets.cancel()
        (outcome,) = await asyncio.gather(resets, return_exceptions=True)
        if isinstance(outcome, BrokerError):
            raise outcome
