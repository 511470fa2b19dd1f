"""What some pods send, or what is sent to them, vanishes; no connection ends. With keep-alive off, they never notice."""

from __future__ import annotations

from typing import Literal

from sim.faults.link import LinkLoad, LinkPlan
from sim.faults.times import FaultTimes
from sim.faults.world import World


class LinkBlackhole(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="link_blackhole"):
    """Links of some pods on which bytes vanish, in one direction or both.

    Attributes
    ----------
    pods
        Names of pods or services; empty = all.
    direction
        Which bytes vanish. What TCP repeats arrives when the fault ends.
    """

    pods: tuple[str, ...] = ()
    direction: Literal["both", "to_broker", "to_pod"] = "both"

    needs = ("links",)
    adds_up = True

    async def begin(self, world: World) -> None:
        """Block the links."""
        assert world.links is not None
        held, free = LinkPlan(held=True), LinkPlan()
        to_broker, to_pod = (held if self.direction in ("both", way) else free for way in ("to_broker", "to_pod"))
        await world.links.load(world.who, world.numbers(self.pods), LinkLoad(to_broker, to_pod))

    async def end(self, world: World) -> None:
        """Unblock the links, as far as no other fault blocks them."""
        assert world.links is not None
        await world.links.unload(world.who)
