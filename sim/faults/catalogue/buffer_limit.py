"""The broker keeps less output for a subscriber than before: who falls behind by that much is cut."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from sim.faults.server_commands import change_setting, restore_settings
from sim.faults.times import FaultTimes
from sim.faults.world import World

Bytes = Annotated[int, Meta(ge=0, le=1 << 40)]


class BufferLimit(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="buffer_limit"):
    """A lower `client-output-buffer-limit` of class pubsub, set back to what it was when the fault ends.

    Attributes
    ----------
    hard_bytes
        A subscriber with more output than this is cut at once; 0 = no such limit. A server keeps 16 KB more that it does not count.
    soft_bytes, soft_s
        One with more than this for so long is cut too; 0 = no such limit.
    """

    hard_bytes: Bytes
    soft_bytes: Bytes = 0
    soft_s: Annotated[int, Meta(ge=0, le=86_400)] = 0

    needs = ("broker",)

    async def begin(self, world: World) -> None:
        """Lower the limit."""
        await change_setting(world, "client-output-buffer-limit", f"pubsub {self.hard_bytes} {self.soft_bytes} {self.soft_s}")

    async def end(self, world: World) -> None:
        """Set it to what it was, as soon as the server is there."""
        await restore_settings(world)
