"""What some pods send, or what is sent to them, takes longer and passes no faster than a rate; nothing is lost."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from sim.faults.link import LinkLoad, LinkPlan
from sim.faults.times import FaultTimes
from sim.faults.world import World

NS_PER_MS = 1_000_000


class LinkSlow(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="link_slow"):
    """Slow links of some pods, in one direction or both.

    Attributes
    ----------
    pods
        Names of pods or services; empty = all.
    direction
        Which bytes are slow.
    delay_ms, jitter_ms
        What each piece takes longer: so much, and up to so much more by chance. Order is kept.
    bytes_per_s
        Rate of each connection; 0 = no limit. What waits when the fault ends still passes at this rate.
    """

    pods: tuple[str, ...] = ()
    direction: Literal["both", "to_broker", "to_pod"] = "both"
    delay_ms: Annotated[float, Meta(ge=0, le=60_000)] = 0.0
    jitter_ms: Annotated[float, Meta(ge=0, le=60_000)] = 0.0
    bytes_per_s: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 0

    needs = ("links",)
    adds_up = True

    def problem(self) -> str:
        """Return what is wrong with the times, or that it slows nothing; empty when nothing is wrong."""
        if not (self.delay_ms or self.jitter_ms or self.bytes_per_s):
            return "link_slow slows nothing: give delay_ms, jitter_ms or bytes_per_s"
        return super().problem()

    async def begin(self, world: World) -> None:
        """Slow the links down."""
        assert world.links is not None
        slow = LinkPlan(int(self.delay_ms * NS_PER_MS), int(self.jitter_ms * NS_PER_MS), self.bytes_per_s)
        to_broker, to_pod = (slow if self.direction in ("both", way) else LinkPlan() for way in ("to_broker", "to_pod"))
        await world.links.load(world.who, world.numbers(self.pods), LinkLoad(to_broker, to_pod))

    async def end(self, world: World) -> None:
        """Make the links as quick as before, as far as no other fault slows them."""
        assert world.links is not None
        await world.links.unload(world.who)
