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
from sim.faults.clock_skew import ClockSkew
from sim.faults.handler_error import HandlerError
from sim.faults.link_blackhole import LinkBlackhole
from sim.faults.link_cut import LinkCut
from sim.faults.link_reset import LinkReset
from sim.faults.link_slow import LinkSlow
from sim.faults.partition import Partition
from sim.faults.pod_freeze import PodFreeze
from sim.faults.pod_kill import PodKill
from sim.faults.pod_start_in_outage import PodStartInOutage
from sim.faults.pod_stop import PodStop
from sim.faults.rolling_restart import RollingRestart
from sim.faults.slow_handler import SlowHandler

Fault = (
    BrokerDown
    | BrokerFreeze
    | ClockSkew
    | HandlerError
    | LinkBlackhole
    | LinkCut
    | LinkReset
    | LinkSlow
    | Partition
    | PodFreeze
    | PodKill
    | PodStartInOutage
    | PodStop
    | RollingRestart
    | SlowHandler
)
FAULTS: dict[str, Callable[..., Fault]] = {
    "broker_down": BrokerDown,
    "broker_freeze": BrokerFreeze,
    "clock_skew": ClockSkew,
    "handler_error": HandlerError,
    "link_blackhole": LinkBlackhole,
    "link_cut": LinkCut,
    "link_reset": LinkReset,
    "link_slow": LinkSlow,
    "partition": Partition,
    "pod_freeze": PodFreeze,
    "pod_kill": PodKill,
    "pod_start_in_outage": PodStartInOutage,
    "pod_stop": PodStop,
    "rolling_restart": RollingRestart,
    "slow_handler": SlowHandler,
}
