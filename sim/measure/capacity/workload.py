"""What a scenario asks of a bus, as numbers: who hears what, and what a call of the application makes of it. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from sim.bus.envelope import CHANNEL_PREFIX
from sim.measure.capacity.batches import items_of_batch
from sim.measure.capacity.frames import Sent


class EventType(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One event type of a workload.

    Attributes
    ----------
    share
        Of the application's calls; the shares of all kinds sum to 1.
    batched
        Whether calls are items that wait for a batch.
    head_bytes, item_bytes
        An event has ``head + items x item`` bytes.
    heard_by, published_by
        Services.
    payload_bytes
        How many of an item's bytes (of an event's, where calls are not batched) are payload that could be smaller.
    channel
        The channel's whole name; empty = the reference's prefix and the name of the type.
    """

    name: str
    share: float
    batched: bool
    head_bytes: float
    item_bytes: float
    heard_by: tuple[str, ...]
    published_by: tuple[str, ...]
    payload_bytes: float = 0.0
    channel: str = ""

    @property
    def channel_bytes(self) -> int:
        """Bytes of the channel's name, which travels with every copy."""
        return len((self.channel or CHANNEL_PREFIX + self.name).encode())


class Workload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a scenario asks of a bus.

    `adding_up` are services of which two replicas would count every event twice; `evenly`: calls are evenly spaced, and not Poisson.
    """

    kinds: tuple[EventType, ...]
    replicas: dict[str, int]
    batch_size: int
    batch_interval_s: float
    adding_up: tuple[str, ...] = ()
    evenly: bool = False

    @property
    def is_batched(self) -> bool:
        """Whether anything waits for a batch, so that a batch has a size."""
        return any(kind.batched for kind in self.kinds)

    def with_pods(self, pods_per_service: int) -> Workload:
        """Return the same with so many replicas of every service."""
        return msgspec.structs.replace(self, replicas=dict.fromkeys(self.replicas, pods_per_service))

    def with_at_least(self, replicas: int) -> Workload:
        """Return the same with at least so many replicas of every service but those that add up, which stay as they are."""
        return msgspec.structs.replace(
            self, replicas={name: pods if name in self.adding_up else max(pods, replicas) for name, pods in self.replicas.items()}
        )

    def with_at_most(self, replicas: int) -> Workload:
        """Return the same with at most so many replicas of every service."""
        return msgspec.structs.replace(self, replicas={name: min(pods, replicas) for name, pods in self.replicas.items()})

    def with_payloads(self, share: float) -> Workload:
        """Return the same with so much of every payload."""
        return msgspec.structs.replace(self, kinds=tuple(_with_payload(kind, share) for kind in self.kinds))

    def one_down(self) -> Workload:
        """Return the same with one pod less of the service that hears most."""
        heard = {name: sum(name in kind.heard_by for kind in self.kinds) for name in self.replicas}
        name = max(heard, key=lambda one: (heard[one], self.replicas[one]))
        return msgspec.structs.replace(self, replicas=self.replicas | {name: self.replicas[name] - 1})

    def receivers(self, kind: EventType) -> int:
        """Return how many pods hear an event of this kind."""
        return sum(self.replicas[name] for name in kind.heard_by)

    def items(self, kind: EventType, calls_per_s: float) -> float:
        """Return how many items a batch has at this rate in the mean: the size ends it, or the interval, whichever comes first."""
        if not kind.batched:
            return 1.0
        share = kind.share / max(1, sum(self.replicas[name] for name in kind.published_by))
        drawn = share if self.evenly else 0.0
        return items_of_batch(share * calls_per_s, size=self.batch_size, interval_s=self.batch_interval_s, share=drawn)

    def events(self, calls_per_s: float, kinds: Sequence[EventType] | None = None) -> list[tuple[float, int, float]]:
        """Return (events, subscribers, bytes) that one call makes on average, of each kind."""
        found = []
        for kind in self.kinds if kinds is None else kinds:
            items = self.items(kind, calls_per_s)
            found.append((kind.share / items, self.receivers(kind), kind.head_bytes + items * kind.item_bytes))
        return found

    def events_per_call(self, calls_per_s: float) -> float:
        """Return how many events a call makes on average."""
        return sum(many for many, _, _ in self.events(calls_per_s))

    def copies_per_call(self, calls_per_s: float) -> float:
        """Return how many copies a call makes on average."""
        return sum(many * pods for many, pods, _ in self.events(calls_per_s))

    def sent(self, calls_per_s: float, kinds: Sequence[EventType] | None = None) -> list[Sent]:
        """Return what a call sends on average, of each kind, as a link sees it."""
        chosen = self.kinds if kinds is None else kinds
        events = self.events(calls_per_s, chosen)
        return [Sent(many, pods, size, kind.channel_bytes) for kind, (many, pods, size) in zip(chosen, events, strict=True)]

    def bytes_per_call(self, calls_per_s: float) -> float:
        """Return how many bytes leave the broker for a call on average, as it counts them itself: frames, and answers to publishers."""
        return sum(one.counted_bytes for one in self.sent(calls_per_s))


def same_load(one: Workload, other: Workload, calls_per_s: float) -> bool:
    """Return whether two workloads ask the same of a broker at a rate: the same events, as large, for as many pods."""
    if one.replicas != other.replicas or [kind.name for kind in one.kinds] != [kind.name for kind in other.kinds]:
        return False
    pairs = zip(one.events(calls_per_s), other.events(calls_per_s), strict=True)
    return all(math.isclose(mine, theirs, rel_tol=1e-6) for pair in pairs for mine, theirs in zip(*pair, strict=True))


def hearing_alone(workload: Workload) -> list[str]:
    """Return the services that hear events with one replica."""
    return [name for name, pods in workload.replicas.items() if pods < 2 and any(name in kind.heard_by for kind in workload.kinds)]


def _with_payload(kind: EventType, share: float) -> EventType:
    payload = kind.payload_bytes * share
    less = kind.payload_bytes - payload
    if kind.batched:
        return msgspec.structs.replace(kind, item_bytes=kind.item_bytes - less, payload_bytes=payload)
    return msgspec.structs.replace(kind, head_bytes=kind.head_bytes - less, payload_bytes=payload)
