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
from sim.faults.broker_failover import BrokerFailover
from sim.faults.broker_freeze import BrokerFreeze
from sim.faults.broker_slow import BrokerSlow
from sim.faults.broker_stop import BrokerStop
from sim.faults.buffer_limit import BufferLimit
from sim.faults.connections_refused import ConnectionsRefused
from sim.faults.keys_lost import KeysLost
from sim.faults.link_blackhole import LinkBlackhole
from sim.faults.pod_kill import PodKill
from sim.faults.publishers_cut import PublishersCut
from sim.faults.reconnect_stampede import ReconnectStampede
from sim.faults.subscribers_cut import SubscribersCut

Fault = (
    BrokerDown
    | BrokerFailover
    | BrokerFreeze
    | BrokerSlow
    | BrokerStop
    | BufferLimit
    | ConnectionsRefused
    | KeysLost
    | LinkBlackhole
    | PodKill
    | PublishersCut
    | ReconnectStampede
    | SubscribersCut
)
FAULTS: dict[str, Callable[..., Fault]] = {
    "broker_down": BrokerDown,
    "broker_failover": BrokerFailover,
    "broker_freeze": BrokerFreeze,
    "broker_slow": BrokerSlow,
    "broker_stop": BrokerStop,
    "buffer_limit": BufferLimit,
    "connections_refused": ConnectionsRefused,
    "keys_lost": KeysLost,
    "link_blackhole": LinkBlackhole,
    "pod_kill": PodKill,
    "publishers_cut": PublishersCut,
    "reconnect_stampede": ReconnectStampede,
    "subscribers_cut": SubscribersCut,
}
