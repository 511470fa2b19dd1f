"""What a scenario puts on each channel: calls, events, copies and bytes a second, in the mean of its run and at its peak.

Rules
-----
1. Calls come at `load.rate_per_s` times the shape, each of a channel by its weight in the mix, each from any pod that may publish it.
2. A batched channel's events follow from its calls (`sim.measure.capacity.batches`). A batch that would be open longer than the run
   leaves in its drain: what stands here is the long run's.
3. A copy is one event for one pod that hears its channel: of each service's pods on Pub/Sub, for one of them on Streams, for the
   publishing pod alone where there is no broker.
4. Sizes are measured and not computed: calls are made as the run makes them, with numbers drawn from those of the run, and encoded as its
   publishers do. Bytes are those of `sim.measure.capacity.frames`: what the broker counts, and what the link carries with TCP and IP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from sim.bus.batcher import BatchRule
from sim.bus.envelopes import Envelope
from sim.bus.node import BusNode
from sim.errors import NotEncodable
from sim.measure.capacity.batches import items_of_batch
from sim.measure.capacity.frames import Sent, on_link
from sim.record.schema import HTTP_CALL
from sim.scenario.replay import replayed_shares
from sim.scenario.run_settings import REPLAY
from sim.scenario.schedule import share_of_peak
from sim.scenario.settings import Scenario

TRIES = 20_000  # calls that are made to learn sizes, over all channels
LEAST_TRIES, MOST_TRIES = 5, 5000  # of one channel
TRIED_BYTES = 8_000_000  # of one channel at most
AT_NS = 1 << 48  # when they are made: after three days, as a time has more digits later
SLICES = 64  # of a shape that is not steady
FRAMED = ("pubsub", "sharded")  # transports whose frames are counted


class ChannelLoad(msgspec.Struct, frozen=True):
    """What a scenario puts on one channel; a second's worth, in the mean of the run, and at the peak of its shape.

    Attributes
    ----------
    published_by, heard_by
        Services.
    publishers, hearers
        Their pods.
    copies_per_event
        How many pods get a copy of an event; a mean where that depends on who publishes it.
    items_per_event
        Calls that one event carries, in the mean.
    event_bytes
        Bytes of an event as it is published, its envelope included, in the mean.
    tried, failed
        How many calls were made to learn that, and how many of them cannot be made.
    out_bytes_per_s, in_bytes_per_s
        What the broker counts as sent (copies, and its answers) and as received; None where frames are not counted (Streams).
    link_bytes_per_s
        On the broker's link in its fuller direction, with TCP and IP: with full segments, and with one event a segment.
    """

    name: str
    batched: bool
    published_by: tuple[str, ...]
    heard_by: tuple[str, ...]
    publishers: int
    hearers: int
    copies_per_event: float
    calls_per_s: float
    events_per_s: float
    copies_per_s: float
    events_per_s_peak: float
    copies_per_s_peak: float
    items_per_event: float
    event_bytes: float
    tried: int
    failed: int
    out_bytes_per_s: float | None
    in_bytes_per_s: float | None
    link_bytes_per_s: tuple[float, float] | None


class Sizes(msgspec.Struct, frozen=True):
    """Bytes of an event: `head` and `item` for each call that it carries; and from how many calls that is known."""

    head: float
    item: float
    tried: int
    failed: int

    def of(self, items: float) -> float:
        """Return the bytes of an event with so many items."""
        return self.head + items * self.item


def channel_loads(scenario: Scenario) -> list[ChannelLoad]:
    """Return what a scenario puts on each channel that something is called of, most copies first."""
    mix = {name: weight for name, weight in scenario.load.mix.items() if weight > 0}
    total = sum(mix.values())
    names = [name for name in mix if name != HTTP_CALL]
    tries = min(MOST_TRIES, max(LEAST_TRIES, TRIES // max(1, len(names))))
    rules = scenario.batches()
    publishing, hearing = _by_channel(scenario, "publishes"), _by_channel(scenario, "subscribes")
    found = [
        _load_of(scenario, name, mix[name] / total, rules.get(name), publishing.get(name, ()), hearing.get(name, ()), tries=tries)
        for name in names
    ]
    return sorted(found, key=lambda one: (-one.copies_per_s, -one.events_per_s))


def _by_channel(scenario: Scenario, way: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for service, its in scenario.services.items():
        for name in getattr(its, way):
            found[name] = (*found.get(name, ()), service)
    return found


def _load_of(
    scenario: Scenario,
    name: str,
    share: float,
    rule: BatchRule | None,
    published_by: tuple[str, ...],
    heard_by: tuple[str, ...],
    *,
    tries: int,
) -> ChannelLoad:
    load, services = scenario.load, scenario.services
    weights = {service: services[service].replicas for service in published_by}
    publishers = sum(weights.values())
    drawn = share / publishers if load.arrivals == "uniform" else 0.0

    def events(calls_per_s: float) -> float:
        """Return the events a second that so many calls a second become."""
        if rule is None:
            return calls_per_s
        return calls_per_s / items_of_batch(calls_per_s / publishers, size=rule.size, interval_s=rule.interval_ms / 1000, share=drawn)

    peak, shares = load.rate_per_s * share, shares_of_peak(scenario)
    calls_per_s = peak * sum(shares) / len(shares)
    events_per_s = sum(events(peak * one) for one in shares) / len(shares)
    copies, items = copies_of_event(scenario, published_by, heard_by), calls_per_s / events_per_s
    sizes = sizes_of(scenario, name, weights, batched=rule is not None, tries=tries)
    sent = Sent(events_per_s, round(copies), sizes.of(items), _name_bytes(scenario, name))
    counted = is_framed(scenario)
    return ChannelLoad(
        name=name,
        batched=rule is not None,
        published_by=published_by,
        heard_by=heard_by,
        publishers=publishers,
        hearers=sum(services[service].replicas for service in heard_by),
        copies_per_event=copies,
        calls_per_s=calls_per_s,
        events_per_s=events_per_s,
        copies_per_s=events_per_s * copies,
        events_per_s_peak=events(peak),
        copies_per_s_peak=events(peak) * copies,
        items_per_event=items,
        event_bytes=sizes.of(items),
        tried=sizes.tried,
        failed=sizes.failed,
        out_bytes_per_s=None if counted is None else counted * sent.counted_bytes,
        in_bytes_per_s=None if counted is None else counted * sent.events * sent.frame_bytes,
        link_bytes_per_s=_on_link(counted, [sent]),
    )


def shares_of_peak(scenario: Scenario) -> list[float]:
    """Return the share of the peak rate in each of some equal parts of a run."""
    shape = scenario.load.shape
    if shape == REPLAY:
        return replayed_shares(scenario.load, scenario.bus.channel_prefix)
    return [1.0] if shape == "steady" else [share_of_peak(shape, (at + 0.5) / SLICES) for at in range(SLICES)]


def sent_of(scenario: Scenario, one: ChannelLoad, *, events: float) -> Sent:
    """Return so many events of a channel as a link sees them."""
    return Sent(events, round(one.copies_per_event), one.event_bytes, _name_bytes(scenario, one.name))


def link_bytes(scenario: Scenario, loads: Sequence[ChannelLoad]) -> tuple[float, float] | None:
    """Return what all channels together put on the broker's link in its fuller direction, as `ChannelLoad.link_bytes_per_s`."""
    return _on_link(is_framed(scenario), [sent_of(scenario, one, events=one.events_per_s) for one in loads])


def _on_link(counted: float | None, sent: list[Sent]) -> tuple[float, float] | None:
    if counted is None:
        return None
    link = on_link(sent)
    return counted * link.fewest, counted * link.most


def _name_bytes(scenario: Scenario, name: str) -> int:
    return len((scenario.bus.channel_prefix + name).encode())


def is_framed(scenario: Scenario) -> float | None:
    """Return 1 where the frames of a broker are counted, None where they are not (Streams), 0 without a broker."""
    return 0.0 if not has_broker(scenario) else 1.0 if scenario.bus.transport in FRAMED else None


def has_broker(scenario: Scenario) -> bool:
    """Return whether events go through a broker at all."""
    return scenario.bus.redis_url and scenario.bus.transport != "memory"


def copies_of_event(scenario: Scenario, published_by: tuple[str, ...], heard_by: tuple[str, ...]) -> float:
    """Return how many copies an event makes; without a REDIS_URL it stays in its pod, and that is a mean over the publishing pods."""
    if not scenario.bus.redis_url:
        replicas = {service: scenario.services[service].replicas for service in published_by}
        return sum(many for service, many in replicas.items() if service in heard_by) / max(1, sum(replicas.values()))
    if scenario.transport().one_per_service:
        return len(heard_by)
    return sum(scenario.services[service].replicas for service in heard_by)


def sizes_of(scenario: Scenario, name: str, publishers: Mapping[str, int], *, batched: bool, tries: int) -> Sizes:
    """Return the bytes of a channel's events, from calls made and encoded as its publishers do.

    Parameters
    ----------
    publishers
        Service -> pods: whose names stand in the envelope, by how often.
    tries
        Calls to make; fewer where they are large.
    """
    content, envelope = scenario.content(name), scenario.new_envelope()
    calls = max(1, int(scenario.load.rate_per_s * (scenario.load.warm_up_s + scenario.load.run_s)))
    numbers = np.random.default_rng(scenario.seed).integers(0, calls, tries)
    source = "x" * round(sum(len(one) * many for one, many in publishers.items()) / max(1, sum(publishers.values())))
    made: list[Any] = []
    failed = bytes_made = 0
    for number in numbers.tolist():
        data = content(number)
        try:
            bytes_made += len(_encoded(name, [data], source, envelope, batched=batched))
        except NotEncodable:
            failed += 1
            continue
        made.append(data)
        if bytes_made > TRIED_BYTES:
            break
    if not made:
        return Sizes(0.0, 0.0, failed, failed)
    mean = bytes_made / len(made)
    if not batched or len(made) == 1:
        return Sizes(mean, 0.0, len(made) + failed, failed)
    item = (len(_encoded(name, made, source, envelope, batched=True)) - mean) / (len(made) - 1)  # with the comma before it
    return Sizes(mean - item, item, len(made) + failed, failed)


def _encoded(name: str, calls: list[Any], source: str, envelope: Envelope, *, batched: bool) -> bytes:
    """Return the event that these calls become, as a publisher encodes it: one batch of them, or the last as an event of its own."""
    rules = {name: BatchRule(len(calls), 1)} if batched else {}
    node = BusNode(source, nonce=1, publisher=1, batches=rules, wall_offset_ns=0, envelope=envelope)
    sent = [node.call(name, data, now_ns=AT_NS, intended_ns=AT_NS) for data in calls]
    assert sent[-1] is not None
    return sent[-1].payload
