"""What a pod is told when it is made: which pod of the fleet it is, and what all pods of its process share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from sim.bus.envelope import Chunk
from sim.bus.fallback import Policy
from sim.bus.metrics import PREFIX
from sim.bus.once import Scope
from sim.bus.tries import IoredisTries, JitteredTries, Tries
from sim.pods.slow_handling import Pace, Work
from sim.record.recorder import Recorder
from sim.scenario.settings import Bus, Service
from sim.wire.address import Address
from sim.wire.read_memo import ReadMemo
from sim.wire.transports import TRANSPORTS, Transport

IOREDIS_QUEUE = 1_000_000  # events that one pod keeps; ioredis has no limit but its memory


@dataclass(frozen=True)
class PodIdentity:
    """One pod of the fleet, the same in all its incarnations but for the seed.

    Attributes
    ----------
    number
        Its index in the fleet, and its code in the `deliveries` table.
    service
        Whose events it shares with its other pods, where the transport shares them.
    channels
        Event types it subscribes to; without any, nothing is opened for hearing.
    seed
        For the jitter of its reconnections, and for the start skew of its handlers.
    """

    name: str
    number: int
    service: str
    channels: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class BrokerAccess:
    """The way of a pod to its broker.

    Attributes
    ----------
    address
        The broker, or None: no REDIS_URL.
    channel_prefix
        Of every channel's name at the broker.
    """

    address: Address | None
    channel_prefix: str
    transport: Transport = field(default_factory=TRANSPORTS["pubsub"])


@dataclass(frozen=True)
class OutageRules:
    """What a pod does when the broker is away, and when it is back (`sim.scenario.settings.Bus` describes each).

    Attributes
    ----------
    queue_limit
        Publishes that are kept through an outage, where the policy keeps any.
    tries
        How it tries a lost connection again.
    hold_s
        How long they wait after it, so that the others can subscribe first.
    resync
        What a pod that hears again does with its caches.
    keep_alive_s
        PING this often, and give a connection up that has not answered by the next time; 0 = never, as the reference.
    resend
        Whether what had no answer when the connection was lost is sent again.
    open_within_s
        How long an attempt to connect may take; None: as long as any of the lab's.
    """

    policy: Policy = field(default_factory=Policy)
    queue_limit: int = 1000
    tries: Tries = field(default_factory=JitteredTries)
    hold_s: float = 0.0
    resync: str = "none"
    keep_alive_s: float = 0.0
    resend: bool = False
    open_within_s: float | None = None


def pace_of(service: Service) -> Pace:
    """Return how long the handlers of a service take."""
    return Pace(
        Work(service.cpu_time(""), service.wait_time("")),
        {channel: Work(service.cpu_time(channel), service.wait_time(channel)) for channel in service.timed_channels()},
        service.skew_ms,
        service.concurrency,
        service.queue_limit if service.when_full == "queue" else 0,
        service.cpu_limit,
    )


def outage_rules(bus: Bus) -> OutageRules:
    """Return what the settings of a bus say of an outage."""
    if bus.client == "ioredis":
        options = bus.ioredis
        return OutageRules(
            policy=Policy(bus.fallback, outage_queue="keep" if options.enableOfflineQueue else "none", recovery="each-alone"),
            queue_limit=IOREDIS_QUEUE,
            tries=IoredisTries(options.retryStepMs / 1e3, options.retryMaxMs / 1e3, options.maxRetriesPerRequest),
            resync=bus.resync,
            keep_alive_s=bus.keep_alive_s,
            resend=options.autoResendUnfulfilledCommands,
            open_within_s=options.connectTimeout / 1e3,
        )
    return OutageRules(
        policy=Policy(bus.fallback, bus.reattach, bus.outage_queue),
        queue_limit=bus.outage_queue_limit,
        tries=JitteredTries(bus.reconnect_max_s),
        hold_s=bus.outage_hold_s,
        resync=bus.resync,
        keep_alive_s=bus.keep_alive_s,
    )


@dataclass(frozen=True)
class OnceRules:
    """How pods see to it that only one of them handles an event (`sim.bus.once`).

    Attributes
    ----------
    recipe
        Its name.
    ttl_s
        How long its keys live.
    scope
        Among whom an event is handled once: all pods, or those of one service.
    ttl_clock
        Who counts that time: the server, or the pod by its own wall clock.
    prefix
        What tells the keys of one run from those of another; empty: the reference's own keys.
    code_folder
        Where the module of a recipe of the user's own is.
    """

    recipe: str = "none"
    ttl_s: int = 300
    scope: Scope = "event"
    ttl_clock: Literal["server", "pod"] = "server"
    prefix: str = ""
    code_folder: str = ""


@dataclass(frozen=True)
class PodContext:
    """What the pods of one process share.

    Attributes
    ----------
    host
        The process, as in the tables.
    probed
        Called with (pod number, event type, probe round) when a pod hears a probe.
    entered
        Called with (pod state, bus state) at each change of either, if given.
    reconnecting
        Called before each pause after which a connection is tried again, if given: with ``subscriber`` or ``publisher``, the attempt,
        which counts from 1 at each loss, the pause in milliseconds, and why the attempt before failed, empty for the first.
    metrics_prefix
        What the names of their metrics begin with.
    """

    host: str
    run_id: str
    broker: BrokerAccess
    recorder: Recorder
    memo: ReadMemo[Chunk]
    probed: Callable[[int, str, int], None]
    entered: Callable[[str, str], None] | None = None
    reconnecting: Callable[[str, int, float, str], None] | None = None
    outage: OutageRules = field(default_factory=OutageRules)
    once: OnceRules = field(default_factory=OnceRules)
    metrics_prefix: str = PREFIX


def group_name(run_id: str, service: str) -> str:
    """Return the name under which the pods of a service share events, where the transport shares them; no other run has it."""
    return f"buslab-{run_id}-{service}"
