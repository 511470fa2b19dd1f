"""Buses to compare: the reference's, one that is as good as Pub/Sub allows, and Redis Streams, each as changes of a scenario's settings.

``reference``
    The scenario as it is: the reference's words, and its lock where a scenario uses a recipe.
``ioredis``
    The reference's words, carried out by the client library that its services use, with its defaults: publishes wait in a queue while Redis
    is away, and leave whether or not the others hear again. This is what a team gets that uses ioredis.
``hardened``
    Still Pub/Sub, with what a client can do by itself:
    a PING every second finds connections that are dead and do not say so; a lost connection is tried every half second at least;
    what is published in an outage is kept, and sent when the others have had time to subscribe again; who loses its subscription reads
    past its caches, and drops them when it is back, since it does not know what it missed; and where an event must run once, a lock
    while it runs and a marker when it is done, both of one service, so that no service takes an event from another.
    What no client can mend: what is published while a subscriber is away and the publisher is not. The broker keeps nothing.
``streams``
    One consumer group a service: the broker keeps events, and gives each to one pod of the service. Clients as in ``hardened``, but
    what was kept in an outage need not wait: it is not lost for who comes later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec.structs import fields, replace

from sim.errors import UsageError, did_you_mean
from sim.scenario.client_settings import DECIDED_BY_IOREDIS, Ioredis
from sim.scenario.settings import Bus, Scenario


@dataclass(frozen=True)
class BusProfile:
    """One bus in a sentence, and the settings of `[bus]` that make it; `once` replaces a recipe that a scenario uses."""

    text: str
    settings: Mapping[str, object] = field(default_factory=dict)
    once: str = ""


_PLAIN = {field.name: field.default for field in fields(Bus)}
_IOREDIS = {"client": "ioredis", "ioredis": Ioredis()} | {name: _PLAIN[name] for name in DECIDED_BY_IOREDIS}
_CLIENT = {
    "client": "reference",
    "ioredis": Ioredis(),
    "keep_alive_s": 1.0,
    "reconnect_max_s": 0.5,
    "outage_queue": "keep",
    "outage_queue_limit": 10_000,
}
BUSES: dict[str, BusProfile] = {
    "reference": BusProfile("as the reference describes it", once="finally-del"),
    "ioredis": BusProfile(
        "as ioredis does it with its defaults: a queue while Redis is away, each connection by itself", _IOREDIS, once="finally-del"
    ),
    "hardened": BusProfile(
        "Pub/Sub with keep-alive, quick reconnection, kept outage events, no cache while it is deaf, and a marker for what ran",
        {**_CLIENT, "outage_hold_s": 0.75, "resync": "read-through", "once_ttl_s": 300, "once_scope": "service"},
        once="two-key",
    ),
    "streams": BusProfile(
        "Redis Streams, one consumer group a service, with the same client", {**_CLIENT, "transport": "streams"}, once="none"
    ),
}


def on_bus(scenario: Scenario, bus: str) -> Scenario:
    """Return the scenario on one of `BUSES`.

    Raises
    ------
    UsageError
        There is no such bus.
    """
    if bus not in BUSES:
        raise UsageError(f"no bus {bus!r}{did_you_mean(bus, BUSES)}; there are {', '.join(BUSES)}")
    profile = BUSES[bus]
    once = profile.once if scenario.bus.once != "none" else "none"
    return replace(scenario, bus=replace(scenario.bus, **dict(profile.settings), once=once))
