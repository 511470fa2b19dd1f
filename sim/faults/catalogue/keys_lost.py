"""The broker forgets every key: locks are free again, and markers of what was handled are gone."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from sim.faults.server_commands import each_master, keep_on, leave_off
from sim.faults.times import FaultTimes
from sim.faults.world import World


class KeysLost(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="keys_lost"):
    """The loss of every key (FLUSHALL), once or again and again. Subscriptions are no keys and stay.

    Attributes
    ----------
    every_ms
        How often while the fault is on; 0 = once, when it begins.
    """

    every_ms: Annotated[int, Meta(ge=0, le=60_000)] = 0

    needs = ("broker",)

    async def begin(self, world: World) -> None:
        """Delete every key."""
        if self.every_ms:
            keep_on(world, lambda: each_master(world, "FLUSHALL"), every_s=self.every_ms / 1000)
        else:
            await each_master(world, "FLUSHALL", waiting=True)

    async def end(self, world: World) -> None:
        """Stop deleting; what is lost stays lost."""
        await leave_off(world)
