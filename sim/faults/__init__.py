"""What is broken on purpose, and mended again.

A member is a file with one frozen struct whose fields are its configuration in the scenario, with `begin(world)` and
`end(world)`. It acts on a `World` of small protocols and does not know which ground it hurts. `end` heals; it is called
whatever happened, also when `begin` failed half-way, so it must be safe to call twice.

To add one: write ``sim/faults/<name>.py`` with such a struct, tagged with its name, and list it in `FAULTS`; `Fault` is their union.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sim.faults.broker_down import BrokerDown


class BrokerControl(Protocol):
    """Hurt and mend a broker."""

    async def kill(self) -> None:
        """End it at once, as SIGKILL does."""

    async def start(self) -> None:
        """Start it again at the same address, empty; nothing when it runs. Return when it answers."""


@dataclass(frozen=True)
class World:
    """What a fault may touch."""

    broker: BrokerControl


Fault = BrokerDown
FAULTS: dict[str, Callable[..., Fault]] = {
    "broker_down": BrokerDown,
}
