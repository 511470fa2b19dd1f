"""What is broken on purpose, and mended again.

A member is a file with one frozen struct, a `FaultTimes`, whose further fields are its configuration in the scenario, with
`begin(world)` and `end(world)` and `needs`: which parts of a `World` it touches. It does not know which ground it hurts. `end` heals;
it is called whatever happened, also when `begin` failed half-way, so it must be safe to call twice. What it must remember
in between goes into `world.kept`. `adds_up = True` says that several of the kind may be on at once on one target.

To add one: write ``sim/faults/catalogue/<name>.py`` with such a struct, tagged with its name; list it in `FAULTS` and in `Fault`, their
union; and write a scenario of the same name that shows what it does. One that ends, freezes or starts pods is listed in `KILLS_PODS` too.
One that is not ours is found without being listed (`sim.faults.own_faults`).
"""

from __future__ import annotations

from collections.abc import Callable

from sim.faults.catalogue.broker_down import BrokerDown
from sim.faults.catalogue.broker_failover import BrokerFailover
from sim.faults.catalogue.broker_freeze import BrokerFreeze
from sim.faults.catalogue.broker_slow import BrokerSlow
from sim.faults.catalogue.broker_stop import BrokerStop
from sim.faults.catalogue.buffer_limit import BufferLimit
from sim.faults.catalogue.clock_skew import ClockSkew
from sim.faults.catalogue.connections_refused import ConnectionsRefused
from sim.faults.catalogue.handler_error import HandlerError
from sim.faults.catalogue.keys_lost import KeysLost
from sim.faults.catalogue.link_blackhole import LinkBlackhole
from sim.faults.catalogue.link_cut import LinkCut
from sim.faults.catalogue.link_reset import LinkReset
from sim.faults.catalogue.link_slow import LinkSlow
from sim.faults.catalogue.machine_down import MachineDown
from sim.faults.catalogue.partition import Partition
from sim.faults.catalogue.pod_freeze import PodFreeze
from sim.faults.catalogue.pod_kill import PodKill
from sim.faults.catalogue.pod_start_in_outage import PodStartInOutage
from sim.faults.catalogue.pod_stop import PodStop
from sim.faults.catalogue.publishers_cut import PublishersCut
from sim.faults.catalogue.reconnect_stampede import ReconnectStampede
from sim.faults.catalogue.rolling_restart import RollingRestart
from sim.faults.catalogue.slow_handler import SlowHandler
from sim.faults.catalogue.subscribers_cut import SubscribersCut

Fault = (
    BrokerDown
    | BrokerFailover
    | BrokerFreeze
    | BrokerSlow
    | BrokerStop
    | BufferLimit
    | ClockSkew
    | ConnectionsRefused
    | HandlerError
    | KeysLost
    | LinkBlackhole
    | LinkCut
    | LinkReset
    | LinkSlow
    | MachineDown
    | Partition
    | PodFreeze
    | PodKill
    | PodStartInOutage
    | PodStop
    | PublishersCut
    | ReconnectStampede
    | RollingRestart
    | SlowHandler
    | SubscribersCut
)
FAULTS: dict[str, Callable[..., Fault]] = {
    "broker_down": BrokerDown,
    "broker_failover": BrokerFailover,
    "broker_freeze": BrokerFreeze,
    "broker_slow": BrokerSlow,
    "broker_stop": BrokerStop,
    "buffer_limit": BufferLimit,
    "clock_skew": ClockSkew,
    "connections_refused": ConnectionsRefused,
    "handler_error": HandlerError,
    "keys_lost": KeysLost,
    "link_blackhole": LinkBlackhole,
    "link_cut": LinkCut,
    "link_reset": LinkReset,
    "link_slow": LinkSlow,
    "machine_down": MachineDown,
    "partition": Partition,
    "pod_freeze": PodFreeze,
    "pod_kill": PodKill,
    "pod_start_in_outage": PodStartInOutage,
    "pod_stop": PodStop,
    "publishers_cut": PublishersCut,
    "reconnect_stampede": ReconnectStampede,
    "rolling_restart": RollingRestart,
    "slow_handler": SlowHandler,
    "subscribers_cut": SubscribersCut,
}
KILLS_PODS = (MachineDown, PodFreeze, PodKill, PodStartInOutage, PodStop, RollingRestart)  # those that end, freeze or start pods
