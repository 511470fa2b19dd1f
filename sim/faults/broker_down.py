"""The broker's process is killed, and a new, empty one starts at the same address."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from sim.faults import World


class BrokerDown(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="broker_down"):
    """Kill the broker at `at_s` of the run phase and start it again `for_s` later."""

    at_s: float
    for_s: float

    target = "broker"
    needs = ("broker",)

    async def begin(self, world: World) -> None:
        """Kill the broker."""
        await world.broker.kill()

    async def end(self, world: World) -> None:
        """Start it again."""
        await world.broker.start()
