"""Pods lose the connections on which they publish, again and again: they hear everything, and speak to themselves."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from sim.faults.server_commands import end_connections, keep_on, leave_off
from sim.faults.times import FaultTimes
from sim.faults.world import World


class PublishersCut(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="publishers_cut"):
    """The publishing connections of some pods, ended at the broker (CLIENT KILL) together with those that they open anew.

    Attributes
    ----------
    pods
        Names of pods or services; empty = all.
    every_ms
        How often.
    """

    pods: tuple[str, ...] = ()
    every_ms: Annotated[int, Meta(ge=10, le=60_000)] = 100

    needs = ("broker",)

    async def begin(self, world: World) -> None:
        """Begin to end connections."""
        keep_on(world, lambda: end_connections(world, self.pods, ("pub",)), every_s=self.every_ms / 1000)

    async def end(self, world: World) -> None:
        """Stop ending connections: the pods connect again by themselves."""
        await leave_off(world)
