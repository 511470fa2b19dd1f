"""The broker loses every key, deleted or evicted: locks are free again, and markers of what was handled are gone."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from msgspec import Meta

from sim.faults.eviction import delete_filler, evict_keys, limit_memory
from sim.faults.server_commands import each_master, keep_on, leave_off, restore_settings
from sim.faults.times import FaultTimes
from sim.faults.world import World


class KeysLost(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="keys_lost"):
    """The loss of every key, once or again and again. Subscriptions are no keys and stay.

    Attributes
    ----------
    how
        `flush`: FLUSHALL. `evict`: memory runs short, as on a server that others fill: `maxmemory` is set a little above what is used,
        with the policy `allkeys-random`, and keys of the fault's own are written until those that were there are evicted; at its end both
        settings are what they were and its own keys are deleted. Only on real servers: the model keeps no account of memory.
    every_ms
        How often while the fault is on; 0 = once, when it begins.
    """

    how: Literal["flush", "evict"] = "flush"
    every_ms: Annotated[int, Meta(ge=0, le=60_000)] = 0

    needs = ("broker",)

    def not_on_model(self) -> str:
        """Return why the model cannot do it, empty when it can."""
        return "the model keeps no account of memory, so how = 'evict' would evict nothing" if self.how == "evict" else ""

    async def begin(self, world: World) -> None:
        """Lose every key."""
        if self.how == "evict" and not await limit_memory(world):
            return
        lose = partial(evict_keys, world) if self.how == "evict" else partial(each_master, world, "FLUSHALL")
        if self.every_ms:
            keep_on(world, lose, every_s=self.every_ms / 1000)
        else:
            await (lose() if self.how == "evict" else each_master(world, "FLUSHALL", waiting=True))

    async def end(self, world: World) -> None:
        """Stop losing keys, and give the memory back; what is lost stays lost."""
        try:
            await leave_off(world)
        finally:
            if self.how == "evict":
                await restore_settings(world)
                await delete_filler(world)
