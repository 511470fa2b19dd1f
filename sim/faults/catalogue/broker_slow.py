"""The broker stands still for moments, again and again: everything waits behind what keeps it busy, and arrives late together."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated, Literal

from msgspec import Meta

from sim.errors import BrokerError
from sim.faults.server_commands import MAX_SPIN_MS, SPIN, each, keep_on, leave_off
from sim.faults.times import FaultTimes
from sim.faults.world import World


class BrokerSlow(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="broker_slow"):
    """Stalls of every server of the broker, again and again.

    Attributes
    ----------
    every_ms, stall_ms
        How far apart the beginnings of stalls are, and how long each is.
    how
        `script`: a script keeps the server's thread busy, as a slow command does, for `stall_ms` of processor time: on a busy machine
        that takes longer. `pause`: CLIENT PAUSE, where the server waits idly for just that long.
    """

    every_ms: Annotated[int, Meta(ge=10, le=60_000)] = 500
    stall_ms: Annotated[int, Meta(ge=1, le=MAX_SPIN_MS)] = 200
    how: Literal["script", "pause"] = "script"

    needs = ("broker",)

    def problem(self) -> str:
        """Return what is wrong with the times, empty when nothing is."""
        if self.stall_ms >= self.every_ms:
            return f"stall_ms = {self.stall_ms} leaves no time between stalls: give every_ms (now {self.every_ms}) more than that"
        return super().problem()

    async def begin(self, world: World) -> None:
        """Begin to stall."""
        stall = ("EVAL", SPIN, "0", str(self.stall_ms)) if self.how == "script" else ("CLIENT", "PAUSE", str(self.stall_ms), "ALL")

        async def act() -> None:
            await each(world, *stall)

        keep_on(world, act, every_s=self.every_ms / 1000)

    async def end(self, world: World) -> None:
        """Stop stalling, and return when a stall that had begun is over."""
        await leave_off(world)
        if not world.holds.broker_away:
            with contextlib.suppress(BrokerError):  # a server that fails to answer for another reason is not stalled by us
                await asyncio.gather(*(server.ask("PING") for server in world.servers))
