"""Pods handle slowly, one event after another: they stop reading, and what they do not take waits in the broker's output buffer."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from sim.faults.times import FaultTimes
from sim.faults.world import World


class SlowHandler(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="slow_handler"):
    """Handlers of some pods that take long; when the fault ends, those that have begun finish, and the rest is handled as before.

    Attributes
    ----------
    pods
        Names of pods or services; empty = all.
    handler_ms
        How long each handling takes, in place of the service's own time.
    at_once
        How many events a pod handles at a time; while so many wait, it reads no more.
    """

    pods: tuple[str, ...] = ()
    handler_ms: Annotated[float, Meta(gt=0, le=600_000)] = 100.0
    at_once: Annotated[int, Meta(ge=1, le=1000)] = 1

    needs = ("pods",)

    async def begin(self, world: World) -> None:
        """Slow the handlers down."""
        for pod in world.chosen(self.pods):
            await pod.slow(handler_ms=self.handler_ms, at_once=self.at_once)

    async def end(self, world: World) -> None:
        """Make the handlers as quick as before."""
        for pod in world.chosen(self.pods):
            await pod.slow(handler_ms=0.0, at_once=0)
