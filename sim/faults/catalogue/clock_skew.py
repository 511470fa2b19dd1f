"""The wall clocks of some pods are wrong: their events say that they were made earlier or later than they were."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from sim.faults.times import FaultTimes
from sim.faults.world import World


class ClockSkew(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="clock_skew"):
    """A wrong wall clock for the envelopes' timestamps, ahead or behind; the lab measures with another one.

    Attributes
    ----------
    pods
        Names of pods or services; empty = all.
    skew_ms
        How far it is ahead; negative = behind.
    """

    pods: tuple[str, ...] = ()
    skew_ms: Annotated[float, Meta(ge=-86_400_000, le=86_400_000)]

    needs = ("pods",)

    async def begin(self, world: World) -> None:
        """Skew the clocks."""
        for pod in world.chosen(self.pods):
            await pod.skew(self.skew_ms)

    async def end(self, world: World) -> None:
        """Set the clocks right."""
        for pod in world.chosen(self.pods):
            await pod.skew(0.0)
