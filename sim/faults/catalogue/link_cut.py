"""Connections of some pods end in the middle of a frame: half of what the broker sends next arrives, then a reset."""

from __future__ import annotations

from sim.faults.link import LinkLoad
from sim.faults.times import FaultTimes
from sim.faults.world import World


class LinkCut(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="link_cut"):
    """A cut of each connection that is open when the fault begins, in the middle of what the broker sends next on it.

    Attributes
    ----------
    pods
        Names of pods or services; empty = all.
    """

    pods: tuple[str, ...] = ()

    needs = ("links",)

    async def begin(self, world: World) -> None:
        """Cut each open connection at what comes next."""
        assert world.links is not None
        await world.links.load(world.who, world.numbers(self.pods), LinkLoad(cutting=True))

    async def end(self, world: World) -> None:
        """Spare the connections on which nothing came meanwhile."""
        assert world.links is not None
        await world.links.unload(world.who)
