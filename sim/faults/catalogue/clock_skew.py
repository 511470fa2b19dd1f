"""The wall clocks of some pods are wrong: what they say of the time, and what they compute from what others say of it, is wrong too."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from sim.faults.times import FaultTimes
from sim.faults.world import World


class ClockSkew(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="clock_skew"):
    """A wrong wall clock, ahead or behind. The lab measures with another one.

    It reaches all that a pod reads from its wall clock: the timestamp of each event that it makes; how old an event seems to it by that
    event's timestamp (the checker `clocks`); and, with `bus.once_ttl_clock = "pod"`, until when its locks and markers live. It does not
    reach what the reference counts in seconds from now, which a wrong clock cannot hurt: `EX` of the lock, the batch interval, pauses
    before a reconnection, probes. Nor does time pass at another speed.

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
