"""Which client library the pods' connections behave as, and its options."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

if TYPE_CHECKING:
    from sim.scenario.settings import Bus

DECIDED_BY_IOREDIS = {  # what ioredis decides itself, and by which of its options
    "reattach": "it always connects again",
    "outage_queue": "bus.ioredis.enableOfflineQueue says it",
    "outage_queue_limit": "its queue has no limit",
    "reconnect_max_s": "bus.ioredis.retryMaxMs says it",
    "outage_hold_s": "it sends what waited as soon as it is connected",
}


class Ioredis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of ioredis under their own names, with the defaults of version 5.11; only where `bus.client = "ioredis"`.

    Attributes
    ----------
    enableOfflineQueue
        Whether what is published while the connection is away waits for it. If not, it is rejected at once, and `bus.fallback` says whether
        the pod then keeps it to itself.
    maxRetriesPerRequest
        How many attempts to connect again may fail until all that waits is rejected, also a first SUBSCRIBE, which nobody repeats: such a
        pod stays deaf. -1 stands for `null`: it waits for ever.
    autoResendUnfulfilledCommands
        Whether what had no answer when the connection was lost is sent again, before what waits: the broker may carry it out twice. If not,
        nobody learns what became of it.
    connectTimeout
        Milliseconds until an attempt to connect is given up.
    retryStepMs, retryMaxMs
        Of `retryStrategy`, `times => Math.min(times * 50, 2000)`: milliseconds by which each pause is longer than the one before, and the
        longest. It has no jitter; the lab adds how late Node's timers are, up to 4 ms, as that decides which connection is back first.
    """

    enableOfflineQueue: bool = True
    maxRetriesPerRequest: Annotated[int, Meta(ge=-1, le=1_000_000)] = 20
    autoResendUnfulfilledCommands: bool = True
    connectTimeout: Annotated[int, Meta(ge=1, le=3_600_000)] = 10_000
    retryStepMs: Annotated[int, Meta(ge=1, le=3_600_000)] = 50
    retryMaxMs: Annotated[int, Meta(ge=1, le=3_600_000)] = 2000


class ClientSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which client the pods have.

    Attributes
    ----------
    client
        What becomes of lost connections, and of events meanwhile. `reference`: as the reference's text says; a pod goes into memory mode at
        once, and hears again before it publishes. `ioredis`: as that library does, which the reference's services use; events wait in a
        queue without a limit, each connection comes back by itself, and what leaves before a pod hears again is lost to it. Of the pods
        alone: Locust's users publish without a queue.
    ioredis
        The table of that library's options.
    """

    client: Literal["reference", "ioredis"] = "reference"
    ioredis: Ioredis = Ioredis()


def keeps_events(bus: Bus) -> bool:
    """Return whether a pod keeps what is published in an outage until it is over."""
    return bus.ioredis.enableOfflineQueue if bus.client == "ioredis" else bus.outage_queue == "keep"


def client_problems(bus: Bus) -> Iterator[str]:
    """Yield one sentence for each setting that the client of a bus does not have."""
    given = msgspec.structs.asdict(bus.ioredis)
    for name, plain in msgspec.structs.asdict(Ioredis()).items():
        if bus.client != "ioredis" and given[name] != plain:
            told = str(given[name]).lower() if isinstance(plain, bool) else given[name]
            yield f"bus.ioredis.{name} = {told}: bus.client = {bus.client!r} has no options; set bus.client = 'ioredis', or leave it out"
    plain_bus = {field.name: field.default for field in msgspec.structs.fields(type(bus))}
    for name, why in DECIDED_BY_IOREDIS.items() if bus.client == "ioredis" else ():
        if getattr(bus, name) != plain_bus[name]:
            yield f"bus.{name} = {getattr(bus, name)!r}: with bus.client = 'ioredis' {why}; leave it out"
