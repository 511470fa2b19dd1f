"""What a scenario can set: its tables as frozen structs, with their bounds and the reference's words as defaults."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from sim.bus.batcher import BatchRule
from sim.bus.envelope import BATCH, CHANNEL_PREFIX
from sim.bus.envelopes import Envelope, make_envelope
from sim.bus.key_caches import KeyCaches, KeyRule
from sim.bus.metrics import PREFIX
from sim.bus.once import Scope
from sim.bus.pointer import Pointer
from sim.bus.services import ConfigReader, ServiceLogic, make_logic
from sim.errors import ScenarioError
from sim.faults.catalogue import KILLS_PODS, Fault
from sim.faults.catalogue.machine_down import MachineDown
from sim.faults.catalogue.rolling_restart import RollingRestart
from sim.record.durations import MOST_MS, OTHER_CHANNELS, Duration, duration_of
from sim.record.schema import HTTP_CALL
from sim.scenario.caches import Cache, make_key
from sim.scenario.client_settings import ClientSettings
from sim.scenario.keys import business_keys, cache_keys
from sim.scenario.payloads import Content, make_content
from sim.scenario.programs import OwnProgram
from sim.scenario.replay import replayed_calls, replayed_content
from sim.scenario.run_settings import REPLAY, Hosts, Kubelet, Load, StepLimits
from sim.scenario.schedule import TEMPLATE_COUNT, IntendedReads, Schedule, make_cache_reads, make_reads, make_schedule, no_schedule
from sim.wire.transports import Transport, make_transport

MAX_SEED = 2**63 - 1
MAX_PODS = 20_000
REFERENCE_FILE = Path(__file__).parent / "bus_files" / "aiponge.bus.toml"

Time = Annotated[float, Meta(ge=0, le=MOST_MS)] | Annotated[str, Meta(max_length=200)]
HandlerTime = Time | dict[str, Time]


@cache
def _reference() -> dict[str, Any]:
    return tomllib.loads(REFERENCE_FILE.read_text("utf-8"))


@cache
def reference_channels() -> dict[str, Channel]:
    """Return the reference's channels."""
    return msgspec.convert(_reference()["channels"], dict[str, Channel])


@cache
def reference_behaviours() -> dict[str, str]:
    """Return what the reference's services do with what they hear: service -> behaviour."""
    return {name: one["behaviour"] for name, one in _reference()["services"].items()}


def reference_contents(*, payload_bytes: int = 64, templates: int = TEMPLATE_COUNT) -> dict[str, Content]:
    """Return what makes the content of a call of each of the reference's channels."""
    return {
        name: make_content(one.payload, seed=1, payload_bytes=payload_bytes, templates=templates)
        for name, one in reference_channels().items()
        if one.payload is not None
    }


class Bus(ClientSettings, frozen=True, forbid_unknown_fields=True):
    """The behaviour of the bus.

    Attributes
    ----------
    channel_prefix
        What stands before the event type in the name of a channel.
    metrics_prefix
        What the names of a pod's metrics begin with, before the service; what such a name may not hold is replaced.
    batch_size, batch_interval_ms
        A batch leaves when it has so many items, or when its oldest item is so old.
    transport
        How events travel: one of `sim.wire.transports.TRANSPORTS`; `memory` is an ideal bus without a broker.
    stream_max_len, stream_claim_s
        See `sim.wire.transports.streams.Streams`.
    redis_url
        Whether the pods have a REDIS_URL; without one they are in memory mode for ever.
    fallback, reattach, outage_queue
        See `sim.bus.fallback`: where the reference can be read in two ways.
    outage_queue_limit
        Events that one pod keeps at most.
    reconnect_max_s
        Longest pause before a lost connection is tried again; pauses grow from 50 ms, with full jitter.
    outage_hold_s
        How long a pod that is connected again keeps them still, so that the others can subscribe first; 0 = it sends at once.
    resync
        `drop-caches`: a pod that subscribes again drops every cached template and provider, as it does not know what it missed.
        `read-through`: it also serves nothing from its caches while it is not subscribed.
        The reference does nothing.
    keep_alive_s
        PING each connection this often and give it up without an answer; 0 = never, as in the reference.
    once, once_ttl_s
        The recipe by which one pod handles an event, one of `sim.bus.once.RECIPES` or a function of your own as `module:name`, and how
        long its keys live.
    once_scope
        Among whom: `event`: of all pods, as the reference's key `aiponge:locks:<eventId>` is one for all services; `service`: of each
        service.
    once_ttl_clock
        Who counts how long the keys live: the `server` (EX), as in the reference, or the `pod`, which says until when by its own wall
        clock (PXAT).
    """

    channel_prefix: Annotated[str, Meta(min_length=1, max_length=200)] = CHANNEL_PREFIX
    metrics_prefix: Annotated[str, Meta(max_length=100)] = PREFIX
    batch_size: Annotated[int, Meta(ge=1, le=100_000)] = 100
    batch_interval_ms: Annotated[int, Meta(ge=1, le=86_400_000)] = 30_000
    transport: str = "pubsub"
    stream_max_len: Annotated[int, Meta(ge=1, le=100_000_000)] = 100_000
    stream_claim_s: Annotated[float, Meta(ge=0.01, le=3600)] = 5.0
    redis_url: bool = True
    fallback: Literal["on-failure", "no-url"] = "on-failure"
    reattach: Literal["automatic", "if-connected-once", "restart"] = "automatic"
    outage_queue: Literal["none", "keep"] = "none"
    outage_queue_limit: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    reconnect_max_s: Annotated[float, Meta(ge=0.01, le=3600)] = 2.0
    outage_hold_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    resync: Literal["none", "drop-caches", "read-through"] = "none"
    keep_alive_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    once: str = "none"
    once_ttl_s: Annotated[int, Meta(ge=1, le=86_400)] = 300
    once_scope: Scope = "event"
    once_ttl_clock: Literal["server", "pod"] = "server"


class Channel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One event type: what a call of it carries, and how calls become events. The channel's name at the broker has the bus' prefix.

    Attributes
    ----------
    payload
        What a call carries (`sim.scenario.payloads`): a size in bytes, a distribution of sizes such as `lognormal(p50=900, p99=4000)`, or
        a table that is a template. Without it, so much as `load.payload_bytes` says.
    batched
        Whether calls are items that wait for a batch.
    batch_size, batch_interval_ms
        When a batch leaves; without them as `bus.batch_size` and `bus.batch_interval_ms` say.
    rate_per_s
        Calls a second, where `load.mix` is silent: then these are the mix, and their sum is the rate unless `load.rate_per_s` says it.
    key
        Where in an event its business key stands, as a JSON pointer such as `/data/orderId`; of a batched channel, in the event as it
        would be with that item alone. Each call's key is in the table `keys`, and `buslab lost` lists the keys that a service never
        handled.
    order
        Whether its events are promised to come in their publisher's order: then one that overtakes another makes the run invalid. Else such
        events are counted only.
    invalidates
        The key of a cache that its events make stale, with JSON pointers into the event in braces, such as `price:{/data/sku}`. With a `*`
        in it, it means every key that matches; an event that lacks what a pointer asks for means all keys (see `services.X.caches`).
    """

    payload: Annotated[int, Meta(ge=0, le=1_000_000)] | Annotated[str, Meta(max_length=200)] | dict[str, Any] | None = None
    batched: bool = False
    batch_size: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    batch_interval_ms: Annotated[int, Meta(ge=1, le=86_400_000)] | None = None
    rate_per_s: Annotated[float, Meta(ge=0, le=1_000_000)] | None = None
    key: Annotated[str, Meta(max_length=200)] = ""
    order: bool = True
    invalidates: Annotated[str, Meta(max_length=200)] = ""


class EnvelopeForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The form in which events travel (see `sim.bus.envelopes`).

    Attributes
    ----------
    kind
        `aiponge`: the reference's. `cloudevents`: CloudEvents 1.0, structured JSON. `plain`: any JSON object, with the pointers below.
        `raw`: no envelope, only what a call carries; an event's type is its channel, and it is known by the hash of its payload.
    id, type, time, source
        Of `plain`: where in the object these stand, as JSON pointers such as `/meta/id`. Without them `/id`, `/type`, `/time`, `/source`.
    data
        Of `plain`: where what a call carries stands, without it `/data`. Empty: its fields stand in the object itself.
    correlation
        Of `plain`: where a correlation id stands; empty, there is none, and a run cannot show the lag while it goes on.
    version, versions
        Of `plain`: where the version stands, empty for none, and which are read: the first is written, `1.*` stands for 1 and 1.N. An
        event of another version is counted as unsupported, and not heard.
    """

    kind: Literal["aiponge", "cloudevents", "plain", "raw"] = "aiponge"
    id: str | None = None
    type: str | None = None
    time: str | None = None
    source: str | None = None
    data: str | None = None
    correlation: str | None = None
    version: str | None = None
    versions: tuple[str, ...] | None = None


class Service(OwnProgram, frozen=True, forbid_unknown_fields=True):
    """One service: how many pods, what they publish and hear, and how long handling takes (see `sim.pods.slow_handling.Pace`).

    Attributes
    ----------
    behaviour
        What its pods do with what they hear: one of `sim.bus.services.BEHAVIOURS`, or a class of your own as `module:Class`. Without it,
        what the reference's service of this name does, and a service that the reference has not only hears.
    must_not_double
        Whether two pods that handle one event do harm: a plan of capacity does not give it a second replica for safety.
    replicas
        How many pods it has.
    handler_ms
        How long a handler waits for one event, as for a query of its own: milliseconds, a distribution such as
        `lognormal(p50=5, p99=40)`, or a table of event types with either, in which `other` is of those that are not named.
    handler_cpu_ms
        How much of a core of its pod's own a handler takes for one event before that, in the same words. The core is simulated: events
        stand behind each other there, and no core of this machine is used.
    concurrency
        How many events a pod handles at a time; 0 = as many as it reads.
    when_full
        What a pod does while so many are being handled: `stop-reading`, so that the broker's output buffer for it grows, or `queue`: it
        reads on, and they wait in its own memory, as with ioredis.
    queue_limit
        How many events a pod that queues reads ahead at most; then it stops reading.
    cpu_limit
        How much of a core a pod may use: with 0.5 what `handler_cpu_ms` says takes twice as long. More than 1 brings nothing: a pod runs
        its handlers on one core.
    skew_ms
        A pod begins up to so much later than the event came, drawn for each event: replicas do not hear at one moment.
    publishes, subscribes
        Event types that its pods send, and those that they hear. What they hear may be patterns, as `order.*`, which stand for the channels
        of the bus that match (see `sim.scenario.patterns`).
    caches
        What each of its pods keeps by key, as `[services.X.caches.NAME]` (see `sim.scenario.caches`): reads that are served an old copy are
        counted by the checker `staleness`.
    """

    behaviour: str = ""
    must_not_double: bool = False
    replicas: Annotated[int, Meta(ge=1, le=MAX_PODS)] = 1
    handler_ms: HandlerTime = 0.0
    handler_cpu_ms: HandlerTime = 0.0
    concurrency: Annotated[int, Meta(ge=0, le=1000)] = 0
    when_full: Literal["stop-reading", "queue"] = "stop-reading"
    queue_limit: Annotated[int, Meta(ge=1, le=100_000)] = 10_000
    cpu_limit: Annotated[float, Meta(ge=0.01, le=64)] = 1.0
    skew_ms: Annotated[float, Meta(ge=0, le=600_000)] = 0.0
    publishes: tuple[str, ...] = ()
    subscribes: tuple[str, ...] = ()
    caches: dict[str, Cache] = {}

    def wait_time(self, channel: str) -> Duration:
        """Return how long a handler waits for one event of a type.

        Raises
        ------
        ValueError
            What is wrong with it, in words.
        """
        return duration_of(self.handler_ms, channel)

    def cpu_time(self, channel: str) -> Duration:
        """Return how much of a core a handler takes for one event of a type; raises as `wait_time` does."""
        return duration_of(self.handler_cpu_ms, channel)

    def timed_channels(self) -> list[str]:
        """Return the event types that have a time of their own."""
        named = [time for time in (self.handler_ms, self.handler_cpu_ms) if isinstance(time, dict)]
        return list(dict.fromkeys(channel for time in named for channel in time if channel != OTHER_CHANNELS))


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One experiment.

    Attributes
    ----------
    name
        The file's name, without its ending; it is not written in the file.
    title
        What the scenario asks, in one sentence.
    seed
        What every draw comes from: intended times, payloads, times of faults. The same seed means the same load.
    code_folder
        Where modules of your own are, which are named as `module:Name`; they are looked for there after all other places. Without it, the
        folder of the bus file, else that of the scenario.
    channels, envelope, services, load, bus, limits, kubelet, hosts
        The tables below. Without `channels` they are the reference's.
    slo
        Limits that the run must keep: a metric and its bound; of one service or channel, in nested tables (`sim.record.limits`).
    faults
        What is broken, and when: a list of tables, each with its `kind`, which may be a fault of your own as `module:Name`.
    checkers
        Checkers of your own that judge the run too, as `module:name`.
    """

    name: str = ""
    title: str = ""
    seed: Annotated[int, Meta(ge=0, le=MAX_SEED)] = 1
    code_folder: str = ""
    channels: dict[str, Channel] = msgspec.field(default_factory=lambda: dict(reference_channels()))
    envelope: EnvelopeForm = EnvelopeForm()
    services: dict[str, Service]
    load: Load = Load()
    bus: Bus = Bus()
    limits: StepLimits = StepLimits()
    kubelet: Kubelet = Kubelet()
    hosts: Hosts = Hosts()
    slo: dict[str, float] = {}
    faults: tuple[Fault, ...] = ()
    checkers: tuple[str, ...] = ()

    def first_pods(self) -> list[tuple[str, str]]:
        """Return (pod name, service name) of every pod that a run starts, in order; a pod's number is its place."""
        return [(f"{name}-{i}", name) for name, service in self.services.items() for i in range(service.replicas)]

    def pods(self) -> list[tuple[str, str]]:
        """Return the pods that a run starts, then those that take their places in a rolling restart, which have names of their own."""
        later = [(name, self.successors(name)) for name in self.services] if self.faults else []
        return self.first_pods() + [(f"{name}-{self.services[name].replicas + i}", name) for name, many in later for i in range(many)]

    def successors(self, service: str) -> int:
        """Return how many new pods rolling restarts start in a service."""
        return sum(one.times * sum(rolled) for one, rolled in self._rolled(service) if one.surge(sum(rolled)))

    def surge(self, service: str) -> int:
        """Return how many pods more than its replicas a service may have at a time, in a rolling restart."""
        return max((one.surge(sum(rolled)) for one, rolled in self._rolled(service)), default=0)

    def _rolled(self, service: str) -> list[tuple[RollingRestart, list[bool]]]:
        """Return the rolling restarts that concern a service, and for each of its first pods whether it is restarted."""
        names = [f"{service}-{i}" for i in range(self.services[service].replicas)]
        rolling = [one for one in self.faults if isinstance(one, RollingRestart)]
        found = [(one, [not one.pods or bool({name, service} & set(one.pods)) for name in names]) for one in rolling]
        return [(one, rolled) for one, rolled in found if any(rolled)]

    def killable_pods(self, place_of: Callable[[str], int] | None = None) -> set[str]:
        """Return the pods that a fault, or the kubelet, may end or freeze, and successors; `place_of`: the machine of a pod, if known."""
        pods, machines = self.pods(), [fault for fault in self.faults if isinstance(fault, MachineDown)]
        kills = [fault for fault in self.faults if isinstance(fault, KILLS_PODS) or getattr(fault, "kills_pods", False)]
        chosen = [getattr(fault, "pods", ()) for fault in kills if fault not in machines] + ([()] if self.kubelet.enabled else [])
        killable = {name for some in chosen for name, service in pods if not some or {name, service} & set(some)}
        killable |= {name for one in machines for name in one.held([name for name, _ in pods], place_of)}
        return killable | {name for name, _ in pods[len(self.first_pods()) :]}

    @property
    def calls(self) -> tuple[str, ...]:
        """What an application may call."""
        return (*self.channels, HTTP_CALL)

    def behaviour(self, service: str) -> str:
        """Return the name of what a service does with what it hears."""
        return self.services[service].own_behaviour or reference_behaviours().get(service, "hears")

    def new_logic(self, service: str) -> ServiceLogic:
        """Return what one new pod of a service does with what it hears.

        Raises
        ------
        UsageError
            The code of a behaviour that is not ours cannot be imported, or raised for this pod.
        """
        return make_logic(self.behaviour(service), folder=self.code_folder, where=f"services.{json.dumps(service, ensure_ascii=False)}")

    def batches(self) -> dict[str, BatchRule]:
        """Return the rule of each batched event type."""
        return {
            name: BatchRule(one.batch_size or self.bus.batch_size, one.batch_interval_ms or self.bus.batch_interval_ms)
            for name, one in self.channels.items()
            if one.batched
        }

    def new_envelope(self) -> Envelope:
        """Return the form in which events travel.

        Raises
        ------
        ScenarioError
            A setting that its kind does not have, or settings that do not fit together.
        """
        form = self.envelope
        given = {name: value for name in form.__struct_fields__ if name != "kind" and (value := getattr(form, name)) is not None}
        if given and form.kind != "plain":
            name = next(iter(given))
            raise ScenarioError(
                f"envelope.{name} = {given[name]!r}: {form.kind!r} has its own; leave it out, or set envelope.kind = 'plain'"
            )
        if "versions" in given and not given.get("version"):
            told = f"envelope.versions = {list(given['versions'])!r}"
            raise ScenarioError(f"{told}: nothing says where a version stands; give envelope.version, as /version, or leave versions out")
        if form.kind == "raw":
            given["channel_prefix"] = self.bus.channel_prefix
        try:
            return make_envelope(form.kind, given)
        except ValueError as error:
            raise ScenarioError(f"envelope: {error}") from None

    def keys(self) -> dict[str, Pointer]:
        """Return where in the data of a call its business key stands, by event type, of those that have one.

        Raises
        ------
        ScenarioError
            A key that is no pointer into the data of an event.
        """
        return business_keys({name: one.key for name, one in self.channels.items()}, self.new_envelope().data_at)

    def cache_keys(self) -> dict[str, KeyRule]:
        """Return which key of a cache the events of a channel make stale, as pointers into its data; raises as `keys` does."""
        return cache_keys({name: one.invalidates for name, one in self.channels.items()}, self.new_envelope().data_at)

    def new_caches(self, service: str) -> KeyCaches | None:
        """Return the caches of one new pod of a service, None where it has none."""
        one = self.services[service]
        if not one.caches:
            return None
        rules = {name: rule for name, rule in self.cache_keys().items() if name in one.subscribes}
        return KeyCaches({name: cache.entries for name, cache in one.caches.items()}, rules)

    def content(self, name: str) -> Content:
        """Return what makes the content of a call of one event type.

        Raises
        ------
        ScenarioError
            A payload that cannot be made.
        """
        load, one = self.load, self.channels.get(BATCH if name == HTTP_CALL else name, Channel())
        if load.shape == REPLAY and load.mix.get(name, 0) > 0:
            source = next((service for service, its in self.services.items() if name in its.publishes), "")
            return replayed_content(load, name, prefix=self.bus.channel_prefix, envelope=self.new_envelope(), source=source)
        payload = load.payload_bytes if one.payload is None else one.payload
        try:
            return make_content(payload, seed=self.seed, payload_bytes=load.payload_bytes, templates=load.templates)
        except ValueError as error:
            raise ScenarioError(f"channels.{json.dumps(name, ensure_ascii=False)}.payload: {error}") from None

    def contents(self) -> dict[str, Content]:
        """Return what makes the content of a call, by event type, of those that are called."""
        return {name: self.content(name) for name, weight in self.load.mix.items() if weight > 0}

    def transport(self) -> Transport:
        """Return the transport that `[bus]` names, with its settings."""
        return make_transport(self.bus.transport, msgspec.structs.asdict(self.bus))

    def users(self) -> int:
        """Return how many users Locust has: one for each pod that makes calls, or as many as the load says of a locustfile."""
        if self.load.locustfile:
            return self.load.users or sum(one.replicas for one in self.services.values() if one.publishes)
        return len(set(self.schedule().pod.tolist()))

    def schedule(self, *, seed_offset: int = 0) -> Schedule:
        """Return every intended call of the run, none where a locustfile's users, or programs, decide; another offset draws another."""
        if self.load.locustfile or not any(self.load.mix.values()):
            return no_schedule()
        pods, load, seed = self.first_pods(), self.load, self.seed + seed_offset
        publishes = {name: set(service.called) for name, service in self.services.items()}
        mix = {kind: weight for kind, weight in load.mix.items() if weight > 0}
        publishers = {kind: [n for n, (_, service) in enumerate(pods) if kind in publishes[service]] for kind in mix}
        if load.shape == REPLAY:
            return replayed_calls(load, prefix=self.bus.channel_prefix, seed=seed, publishers=publishers)
        times: dict[str, Any] = {"warm_up_s": load.warm_up_s, "run_s": load.run_s, "seed": seed}
        return make_schedule(rate_per_s=load.rate_per_s, shape=load.shape, arrivals=load.arrivals, mix=mix, publishers=publishers, **times)

    def reads(self) -> IntendedReads:
        """Return every intended read of configuration and of caches in warm-up and run."""
        readers = {name for name in self.services if isinstance(self.new_logic(name), ConfigReader)} if self.load.reads_per_s else set()
        seconds, places = self.load.warm_up_s + self.load.run_s, dict[str, list[int]]()
        for number, (_, service) in enumerate(self.first_pods()):
            places.setdefault(service, []).append(number)
        reads = make_reads(
            rate_per_s=self.load.reads_per_s,
            seconds=seconds,
            seed=self.seed,
            pods=[number for service in places if service in readers for number in places[service]],
            templates=self.load.templates,
        )
        caches = [(service, name, one) for service, of in self.services.items() for name, one in of.caches.items()]
        for number, (service, name, one) in enumerate(caches):
            key, seed = self.read_key(service, name), (self.seed, 3, number)
            own = make_cache_reads(name, rate_per_s=one.reads_per_s, seconds=seconds, seed=seed, pods=places[service], key=key)
            reads = reads.with_others(own)
        return reads

    def read_key(self, service: str, cache: str) -> Callable[[int], str]:
        """Return what makes the key of a read of a cache.

        Raises
        ------
        ScenarioError
            Keys that cannot be made.
        """
        reads, load = self.services[service].caches[cache].reads, self.load
        try:
            return make_key(reads, seed=self.seed, payload_bytes=load.payload_bytes, templates=load.templates)
        except ValueError as error:
            where = f"services.{json.dumps(service, ensure_ascii=False)}.caches.{json.dumps(cache, ensure_ascii=False)}"
            raise ScenarioError(f"{where}.reads = {reads!r}: {error}") from None
