"""Some services cannot reach the broker, the others can: each side goes on with a truth of its own."""

from __future__ import annotations

from sim.faults.link import LinkLoad
from sim.faults.times import FaultTimes
from sim.faults.world import World


class Partition(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="partition"):
    """Pods that are cut off: their connections are reset, and new ones refused until the fault ends.

    Attributes
    ----------
    pods
        Names of pods or services that are cut off; empty = all.
    """

    pods: tuple[str, ...] = ()

    needs = ("links",)
    adds_up = True

    async def begin(self, world: World) -> None:
        """Cut them off."""
        assert world.links is not None
        await world.links.load(world.who, world.numbers(self.pods), LinkLoad(refusing=True))

    async def end(self, world: World) -> None:
        """Accept their connections again, as far as no other fault keeps them out."""
        assert world.links is not None
        await world.links.unload(world.who)
