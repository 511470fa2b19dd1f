"""What is broken on purpose, and mended again.

A member is a file with one frozen struct, an `Occasion`, whose further fields are its configuration in the scenario, with
`begin(world)` and `end(world)` and `needs`: which parts of a `World` it touches. It does not know which ground it hurts. `end` heals;
it is called whatever happened, also when `begin` failed half-way, so it must be safe to call twice. What it must remember
in between goes into `world.kept`.

To add one: write ``sim/faults/<name>.py`` with such a struct, tagged with its name; list it in `FAULTS` and in `Fault`, their union; and
write a scenario of the same name that shows what it does.
"""

from __future__ import annotations

from collections.abc import Callable

from sim.faults.broker_down import BrokerDown
from sim.faults.broker_freeze import BrokerFreeze
from sim.faults.link_blackhole import LinkBlackhole
from sim.faults.pod_kill import PodKill

Fault = BrokerDown | BrokerFreeze | LinkBlackhole | PodKill
FAULTS: dict[str, Callable[..., Fault]] = {
    "broker_down": BrokerDown,
    "broker_freeze": BrokerFreeze,
    "link_blackhole": LinkBlackhole,
    "pod_kill": PodKill,
}
