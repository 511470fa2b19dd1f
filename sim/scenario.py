"""What to run: a TOML file as frozen structs. Where it runs is an argument, not part of it.

Unknown keys are refused with their path, values are checked with their bounds, and references between parts
(a service that nobody defines, a channel without a publisher) are checked before anything starts.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
import tomli_w
from msgspec import Meta

from sim.bus.envelope import CHANNEL_PREFIX, EVENT_TYPES
from sim.errors import ScenarioError, did_you_mean
from sim.faults import FAULTS, Fault
from sim.load import SHAPES, Schedule, make_schedule
from sim.schema import SLO_METRICS
from sim.services import SERVICES
from sim.transports import TRANSPORTS, Transport, make_transport

BUILT_IN = Path(__file__).parent / "scenarios"
MAX_PODS = 20_000

Seconds = Annotated[float, Meta(ge=0, le=86_400)]


class Bus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Set how the bus behaves.

    Attributes
    ----------
    transport
        How events travel: one of `sim.transports.TRANSPORTS`; `memory` is an ideal bus without a broker.
    stream_max_len, stream_claim_s
        See `sim.transports.streams.Streams`.
    redis_url
        Whether the pods have a REDIS_URL; without one they are in memory mode for ever.
    fallback, reattach, outage_queue
        See `sim.bus.fallback`: where the reference can be read in two ways.
    outage_queue_limit
        Events that one pod keeps at most.
    keep_alive_s
        PING each connection this often and give it up without an answer; 0 = never, as in the reference.
    once, once_ttl_s
        The recipe by which one pod of a service handles an event (see `sim.bus.once`), and how long its keys live.
    """

    channel_prefix: Annotated[str, Meta(min_length=1, max_length=200)] = CHANNEL_PREFIX
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
    keep_alive_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    once: Literal["none", "finally-del", "token-del", "keep-marker", "two-key"] = "none"
    once_ttl_s: Annotated[int, Meta(ge=1, le=86_400)] = 300


class Service(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Say how many pods a service has, what they publish and hear, and how long handling takes (see `sim.handling.Pace`)."""

    replicas: Annotated[int, Meta(ge=1, le=MAX_PODS)] = 1
    handler_ms: Annotated[float, Meta(ge=0, le=600_000)] = 0.0
    skew_ms: Annotated[float, Meta(ge=0, le=600_000)] = 0.0
    publishes: tuple[str, ...] = ()
    subscribes: tuple[str, ...] = ()


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Say which calls are made, how often, and by whom."""

    driver: Literal["locust", "pods"] = "locust"
    rate_per_s: Annotated[float, Meta(gt=0, le=1_000_000)] = 100.0
    shape: str = "steady"
    arrivals: Literal["poisson", "uniform"] = "poisson"
    warm_up_s: Seconds = 2.0
    run_s: Annotated[float, Meta(gt=0, le=86_400)] = 10.0
    payload_bytes: Annotated[int, Meta(ge=0, le=1_000_000)] = 64
    mix: dict[str, Annotated[float, Meta(ge=0)]] = {}


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bound how long each step of a run may take."""

    start_s: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    probe_s: Annotated[float, Meta(gt=0, le=3600)] = 15.0
    drain_s: Annotated[float, Meta(gt=0, le=3600)] = 15.0


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Describe one experiment. `name` is the file's name."""

    name: str = ""
    title: str = ""
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 1
    services: dict[str, Service]
    load: Load = Load()
    bus: Bus = Bus()
    limits: Limits = Limits()
    slo: dict[str, float] = {}
    faults: tuple[Fault, ...] = ()

    def pods(self) -> list[tuple[str, str]]:
        """Return (pod name, service name) of every pod, in order; a pod's number is its place."""
        return [(f"{name}-{i}", name) for name, service in self.services.items() for i in range(service.replicas)]

    def transport(self) -> Transport:
        """Return the transport that `[bus]` names, with its settings."""
        return make_transport(self.bus.transport, msgspec.structs.asdict(self.bus))

    def schedule(self, *, seed_offset: int = 0) -> Schedule:
        """Return every intended call of the run; another offset draws another one of the same load."""
        pods = self.pods()
        mix = {kind: weight for kind, weight in self.load.mix.items() if weight > 0}
        return make_schedule(
            rate_per_s=self.load.rate_per_s,
            shape=self.load.shape,
            arrivals=self.load.arrivals,
            warm_up_s=self.load.warm_up_s,
            run_s=self.load.run_s,
            seed=self.seed + seed_offset,
            mix=mix,
            publishers={kind: [n for n, (_, service) in enumerate(pods) if kind in self.services[service].publishes] for kind in mix},
        )


def built_in() -> dict[str, Path]:
    """Return the built-in scenarios: name -> file."""
    return {path.stem: path for path in sorted(BUILT_IN.glob("*.toml"))}


def load_scenario(name: str, *, settings: tuple[str, ...] = ()) -> Scenario:
    """Read a built-in scenario or a file, change settings, and check it.

    Parameters
    ----------
    name
        A built-in scenario's name, or the path of a ``.toml`` file.
    settings
        ``key=value`` each; the key is a dotted TOML key, the value a TOML value or plain text.

    Raises
    ------
    ScenarioError
        Anything in it is wrong; the message names the key and the value.
    """
    path = built_in().get(name) or Path(name)
    tree = _read_toml(name, path)
    for setting in settings:
        _apply(tree, setting)
    tree["name"] = path.stem
    return check_tree(tree, where=str(name))


def check_tree(tree: dict[str, Any], *, where: str) -> Scenario:
    """Turn a TOML tree into a scenario, or say what is wrong with it."""
    faults = tree.get("faults", [])
    for place, fault in enumerate(faults if isinstance(faults, list) else []):
        kind = fault.get("kind") if isinstance(fault, dict) else None
        if kind not in FAULTS:
            known = f"no such fault{did_you_mean(str(kind), FAULTS)}; known: {', '.join(FAULTS)}"
            raise ScenarioError(f"scenario {where}: faults[{place}].kind = {kind!r}: {known}")
    try:
        scenario = msgspec.convert(tree, Scenario)
    except msgspec.ValidationError as error:
        raise ScenarioError(f"scenario {where}: {_explain(str(error), tree)}") from None
    _check_references(scenario, where)
    return scenario


def to_toml(scenario: Scenario) -> str:
    """Return the resolved scenario as TOML, every default written out."""
    return tomli_w.dumps(msgspec.to_builtins(scenario))


def _read_toml(name: str, path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        known = built_in()
        hint = did_you_mean(name, known)
        raise ScenarioError(f"no scenario {name!r}{hint}: give one of {', '.join(known)}, or the path of a .toml file") from None
    except (OSError, ValueError) as error:  # not UTF-8, or a name that no file can have
        raise ScenarioError(f"cannot read scenario {name!r}: {error}") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"scenario {name}: not valid TOML: {error}") from None


def _apply(tree: dict[str, Any], setting: str) -> None:
    key, equals, value = setting.partition("=")
    if not equals or not key.strip():
        raise ScenarioError(f"--set {setting!r}: write key=value, for example load.rate_per_s=500")
    try:
        change = tomllib.loads(f"{key} = {value}")
    except tomllib.TOMLDecodeError:
        try:
            change = tomllib.loads(f"{key} = {msgspec.json.encode(value).decode()}")
        except tomllib.TOMLDecodeError:
            raise ScenarioError(f'--set {setting!r}: {key!r} is not a key; quote parts that hold dots: load.mix."a.b"=1') from None
    _merge(tree, change, setting)


def _merge(tree: dict[str, Any], change: dict[str, Any], setting: str) -> None:
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(tree.get(key, {}), dict):
            _merge(tree.setdefault(key, {}), value, setting)
        elif isinstance(tree.get(key), dict):
            raise ScenarioError(f"--set {setting!r}: {key!r} is a table; set one of its keys: {', '.join(tree[key])}")
        else:
            tree[key] = value


def _explain(message: str, tree: dict[str, Any]) -> str:
    """Turn a msgspec message (``… - at `$.a.b` ``) into one that names the key, the value and what is allowed."""
    what, _, at = message.partition(" - at `")
    path = [part or index for part, index in re.findall(r"\.([^.\[`]+)|\[([^\]]*)\]", at)]
    value: Any = tree
    for place, part in enumerate(path):
        if part == "..." and isinstance(value, dict):
            part = path[place] = _entry_at_fault(value, Service if path[0] == "services" else Annotated[float, Meta(ge=0)])
        value = _inside(value, part)
    unknown = re.search(r"unknown field `(.+)`", what)
    if unknown:
        struct = _struct_at(path, tree)
        known = [f for f in struct.__struct_fields__ if f != "name"]
        return f"unknown key {'.'.join([*path, unknown[1]])!r}{did_you_mean(unknown[1], known)}; known keys: {', '.join(known)}"
    missing = re.search(r"missing required field `(.+)`", what)
    if missing:
        return f"{'.'.join([*path, missing[1]])!r} is missing"
    key = ".".join(path) or "the file"
    if what.startswith("Invalid enum value"):
        choices = get_args(get_type_hints(_struct_at(path, tree))[path[-1]])
        return f"{key} = {value!r}: no such {path[-1]}{did_you_mean(str(value), choices)}; known: {', '.join(choices)}"
    return f"{key} = {value!r}: {what[0].lower() + what[1:]}"


def _inside(value: Any, part: str) -> Any:
    if isinstance(value, list) and part.isdigit():
        return value[int(part)]
    return value.get(part) if isinstance(value, dict) else None


def _struct_at(path: list[str], tree: dict[str, Any]) -> Any:
    """Return the struct that the table at the beginning of a path is read as."""
    if path[:1] == ["faults"]:
        return FAULTS[tree["faults"][int(path[1])]["kind"]]
    return {"load": Load, "bus": Bus, "limits": Limits, "services": Service}.get(path[0] if path else "", Scenario)


def _entry_at_fault(table: dict[str, Any], type: Any) -> str:
    """Return the key of the entry that is not of the type: msgspec writes `...` for any key of a dict."""
    for key, value in table.items():
        try:
            msgspec.convert(value, type)
        except msgspec.ValidationError:
            return str(key)
    return "..."


def _check_references(scenario: Scenario, where: str) -> None:
    """Check what one part of the scenario says of another."""
    for problem in (*_service_problems(scenario), *_load_problems(scenario), *_slo_problems(scenario), *_fault_problems(scenario)):
        raise ScenarioError(f"scenario {where}: {problem}")


def _service_problems(scenario: Scenario) -> Iterator[str]:
    if not scenario.services:
        yield "services is empty: define at least one service"
    for name, service in scenario.services.items():
        if name not in SERVICES:
            yield f"services.{name}: nobody defines this service{did_you_mean(name, SERVICES)}; defined: {', '.join(SERVICES)}"
            return
        handled = SERVICES[name]().handlers
        for key, types in (("publishes", service.publishes), ("subscribes", service.subscribes)):
            yield from (f"services.{name}.{key}: {_unknown_channel(type)}" for type in types if type not in EVENT_TYPES)
            yield from (f"services.{name}.{key}: {type!r} stands there twice" for type in types if types.count(type) > 1)
        for type in service.subscribes:
            if type not in handled:
                yield f"services.{name}.subscribes: {name} has no handler for {type!r}; it handles {', '.join(handled)}"
    pods = sum(service.replicas for service in scenario.services.values())
    if pods > MAX_PODS:
        yield f"services ask for {pods:,} pods, more than {MAX_PODS:,}: lower replicas"


def _load_problems(scenario: Scenario) -> Iterator[str]:
    load, transport = scenario.load, scenario.bus.transport
    if transport not in TRANSPORTS:
        yield f"bus.transport = {transport!r}: no such transport{did_you_mean(transport, TRANSPORTS)}; known: {', '.join(TRANSPORTS)}"
    if load.shape not in SHAPES:
        yield f"load.shape = {load.shape!r}: no such shape{did_you_mean(load.shape, SHAPES)}; known: {', '.join(SHAPES)}"
    if load.driver == "locust" and not scenario.bus.redis_url:
        yield "bus.redis_url = false: only the pods can publish then; set load.driver = 'pods'"
    if load.driver == "locust" and transport == "memory":
        yield "bus.transport = 'memory': only the pods can publish then; set load.driver = 'pods'"
    if not any(load.mix.values()):
        yield "load.mix is empty: give at least one event type a weight above 0"
    for kind, weight in load.mix.items():
        if kind not in EVENT_TYPES:
            yield f"load.mix: {_unknown_channel(kind)}"
        elif not math.isfinite(weight):
            yield f"load.mix.{kind} = {weight}: give a number"
        elif weight > 0 and not any(kind in service.publishes for service in scenario.services.values()):
            yield f"load.mix: {kind!r} has weight {weight:g} but no service publishes it: add it to a service's publishes"


def _slo_problems(scenario: Scenario) -> Iterator[str]:
    for metric, limit in scenario.slo.items():
        if metric not in SLO_METRICS:
            yield f"slo.{metric}: no such metric{did_you_mean(metric, SLO_METRICS)}; known: {', '.join(SLO_METRICS)}"
        elif not math.isfinite(limit):
            yield f"slo.{metric} = {limit}: give a number"


def _fault_problems(scenario: Scenario) -> Iterator[str]:
    for place, fault in enumerate(scenario.faults):
        if not (fault.at_s >= 0 and fault.for_s > 0 and fault.at_s + fault.for_s <= scenario.load.run_s):
            span = f"from {fault.at_s:g} s for {fault.for_s:g} s"
            yield f"faults[{place}]: {span} is not inside the run phase of {scenario.load.run_s:g} s: change at_s, for_s or load.run_s"


def _unknown_channel(type: str) -> str:
    return f"unknown channel {type!r}{did_you_mean(type, EVENT_TYPES)}; known: {', '.join(EVENT_TYPES)}"
