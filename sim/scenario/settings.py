"""What a scenario can set: its tables as frozen structs, with their bounds and the reference's words as defaults."""

from __future__ import annotations

import json
import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from sim.bus.batcher import BatchRule
from sim.bus.envelope import BATCH, CHANNEL_PREFIX
from sim.bus.metrics import PREFIX
from sim.bus.once import Scope
from sim.bus.services import ConfigReader, ServiceLogic, find_behaviour
from sim.errors import ScenarioError
from sim.faults.catalogue import KILLS_PODS, Fault
from sim.faults.catalogue.rolling_restart import RollingRestart
from sim.record.schema import HTTP_CALL
from sim.scenario.payloads import Content, make_content
from sim.scenario.schedule import TEMPLATE_COUNT, IntendedReads, Schedule, make_reads, make_schedule, no_schedule
from sim.wire.transports import Transport, make_transport

MAX_SEED = 2**63 - 1
MAX_PODS = 20_000
MAX_PROCESSES = 64  # of pods; each takes some 80 MB and half a second of a core to start
REFERENCE_FILE = Path(__file__).parent / "bus_files" / "aiponge.bus.toml"

Seconds = Annotated[float, Meta(ge=0, le=86_400)]


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


class Bus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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
    """

    payload: Annotated[int, Meta(ge=0, le=1_000_000)] | Annotated[str, Meta(max_length=200)] | dict[str, Any] | None = None
    batched: bool = False
    batch_size: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    batch_interval_ms: Annotated[int, Meta(ge=1, le=86_400_000)] | None = None
    rate_per_s: Annotated[float, Meta(ge=0, le=1_000_000)] | None = None


class Service(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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
        How long a handler takes for one event.
    skew_ms
        A pod begins up to so much later than the event came, drawn for each event: replicas do not hear at one moment.
    publishes, subscribes
        Event types that its pods send, and those that they hear.
    """

    behaviour: str = ""
    must_not_double: bool = False
    replicas: Annotated[int, Meta(ge=1, le=MAX_PODS)] = 1
    handler_ms: Annotated[float, Meta(ge=0, le=600_000)] = 0.0
    skew_ms: Annotated[float, Meta(ge=0, le=600_000)] = 0.0
    publishes: tuple[str, ...] = ()
    subscribes: tuple[str, ...] = ()


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The calls that are made: which, how often, and by whom.

    Attributes
    ----------
    driver
        Who makes the calls: `locust`, as a child or as what started the run, or the `pods` themselves.
    rate_per_s
        Calls a second, over all publishers; the shape changes it over time.
    shape
        How the rate moves over the run: one of `sim.scenario.schedule.SHAPES`.
    arrivals
        Whether calls come at random times or evenly spaced.
    warm_up_s, run_s
        Load that is not judged, and load that is.
    payload_bytes
        About how much data a call carries.
    mix
        Event type and weight: which share of the calls is of that type.
    reads_per_s
        Reads of templates and providers, over all pods of the services that keep a cache of them (see `sim.pods.scheduled_reads`).
    templates
        How many templates there are to read and to invalidate.
    locustfile
        A locustfile of your own, whose users make the calls in a closed loop; then nothing else here says which calls are made.
    users
        How many users it has; 0 = one for each pod of a service that publishes.
    """

    driver: Literal["locust", "pods"] = "locust"
    rate_per_s: Annotated[float, Meta(gt=0, le=1_000_000)] = 100.0
    shape: str = "steady"
    arrivals: Literal["poisson", "uniform"] = "poisson"
    warm_up_s: Seconds = 2.0
    run_s: Annotated[float, Meta(gt=0, le=86_400)] = 10.0
    payload_bytes: Annotated[int, Meta(ge=0, le=1_000_000)] = 64
    reads_per_s: Annotated[float, Meta(ge=0, le=1_000_000)] = 0.0
    templates: Annotated[int, Meta(ge=1, le=50_000)] = TEMPLATE_COUNT
    locustfile: str = ""
    users: Annotated[int, Meta(ge=0, le=100_000)] = 0
    mix: dict[str, Annotated[float, Meta(ge=0)]] = {}


class StepLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The longest that each step of a run may take.

    Attributes
    ----------
    start_s
        Until every pod has connected and subscribed.
    probe_s
        Until every pod has heard one event of each of its channels.
    drain_s
        Until publishers have flushed and subscribers have heard what was on its way.
    """

    start_s: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    probe_s: Annotated[float, Meta(gt=0, le=3600)] = 15.0
    drain_s: Annotated[float, Meta(gt=0, le=3600)] = 15.0


class Kubelet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A kubelet that probes the pods and restarts them (see `sim.pods.kubelet`); periods and delays are the reference's YAML.

    Attributes
    ----------
    enabled
        Without it nobody probes, and a pod that ended stays down.
    live_delay_s, live_period_s
        When `GET /health/live` is asked first after a pod's start, and how often then.
    ready_delay_s, ready_period_s
        The same of `GET /health/ready`.
    timeout_s, failure_threshold, success_threshold
        Kubernetes' defaults; the success threshold is that of readiness, for liveness it is always 1.
    grace_s
        terminationGracePeriodSeconds: from SIGTERM to SIGKILL.
    restart_delay_s
        How long a container takes to start, beside the back-off.
    back_off_s, back_off_max_s, back_off_reset_s
        Kubernetes' restart back-off: before the second restart, at most, and forgotten after so long a run.
    """

    enabled: bool = False
    live_delay_s: Seconds = 10.0
    live_period_s: Annotated[float, Meta(ge=0.01, le=86_400)] = 15.0
    ready_delay_s: Seconds = 5.0
    ready_period_s: Annotated[float, Meta(ge=0.01, le=86_400)] = 10.0
    timeout_s: Annotated[float, Meta(ge=0.01, le=3600)] = 1.0
    failure_threshold: Annotated[int, Meta(ge=1, le=1000)] = 3
    success_threshold: Annotated[int, Meta(ge=1, le=1000)] = 1
    grace_s: Annotated[float, Meta(ge=0.01, le=3600)] = 30.0
    restart_delay_s: Seconds = 1.0
    back_off_s: Seconds = 10.0
    back_off_max_s: Seconds = 300.0
    back_off_reset_s: Annotated[float, Meta(gt=0, le=86_400)] = 600.0


class Hosts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The place where pods live (see `sim.pods.hosts`).

    Attributes
    ----------
    kind
        `inline`: all in the run's own process; `local`: in child processes.
    processes
        Of `local`: over how many processes the pods are spread that no fault ends or freezes; each of the others has one of its own.
    """

    kind: Literal["inline", "local"] = "inline"
    processes: Annotated[int, Meta(ge=1, le=MAX_PROCESSES)] = 2


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
    channels, services, load, bus, limits, kubelet, hosts
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
        later = {name: self.successors(name) for name in self.services} if self.faults else {}
        return self.first_pods() + [
            (f"{name}-{self.services[name].replicas + i}", name) for name, many in later.items() for i in range(many)
        ]

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

    def killable_pods(self) -> set[str]:
        """Return the pods that a fault, or the kubelet, may end or freeze; who takes the place of another in a restart is one of them."""
        kills = [fault for fault in self.faults if isinstance(fault, KILLS_PODS) or getattr(fault, "kills_pods", False)]
        chosen = [getattr(fault, "pods", ()) for fault in kills] + ([()] if self.kubelet.enabled else [])
        killable = {name for pods in chosen for name, service in self.pods() if not pods or {name, service} & set(pods)}
        return killable | {name for name, _ in self.pods()[len(self.first_pods()) :]}

    @property
    def calls(self) -> tuple[str, ...]:
        """What an application may call."""
        return (*self.channels, HTTP_CALL)

    def behaviour(self, service: str) -> str:
        """Return the name of what a service does with what it hears."""
        return self.services[service].behaviour or reference_behaviours().get(service, "hears")

    def new_logic(self, service: str) -> ServiceLogic:
        """Return what one new pod of a service does with what it hears.

        Raises
        ------
        UsageError
            The code of a behaviour that is not ours cannot be imported.
        """
        return find_behaviour(self.behaviour(service), folder=self.code_folder)()

    def batches(self) -> dict[str, BatchRule]:
        """Return the rule of each batched event type."""
        return {
            name: BatchRule(one.batch_size or self.bus.batch_size, one.batch_interval_ms or self.bus.batch_interval_ms)
            for name, one in self.channels.items()
            if one.batched
        }

    def content(self, name: str) -> Content:
        """Return what makes the content of a call of one event type.

        Raises
        ------
        ScenarioError
            A payload that cannot be made.
        """
        load, one = self.load, self.channels.get(BATCH if name == HTTP_CALL else name, Channel())
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
        """Return every intended call of the run, none where users of a locustfile decide; another offset draws another one."""
        if self.load.locustfile:
            return no_schedule()
        pods = self.first_pods()
        publishes = {name: set(service.publishes) for name, service in self.services.items()}
        mix = {kind: weight for kind, weight in self.load.mix.items() if weight > 0}
        return make_schedule(
            rate_per_s=self.load.rate_per_s,
            shape=self.load.shape,
            arrivals=self.load.arrivals,
            warm_up_s=self.load.warm_up_s,
            run_s=self.load.run_s,
            seed=self.seed + seed_offset,
            mix=mix,
            publishers={kind: [n for n, (_, service) in enumerate(pods) if kind in publishes[service]] for kind in mix},
        )

    def reads(self) -> IntendedReads:
        """Return every intended read of configuration in warm-up and run."""
        readers = {name for name in self.services if isinstance(self.new_logic(name), ConfigReader)} if self.load.reads_per_s else set()
        return make_reads(
            rate_per_s=self.load.reads_per_s,
            seconds=self.load.warm_up_s + self.load.run_s,
            seed=self.seed,
            pods=[number for number, (_, service) in enumerate(self.first_pods()) if service in readers],
            templates=self.load.templates,
        )
