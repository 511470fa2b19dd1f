"""What is wrong with a scenario although each value is within its bounds: one part of it does not fit another."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations, pairwise
from pathlib import Path

from sim.bus.envelope import BATCH
from sim.bus.services import BEHAVIOURS, ConfigReader
from sim.errors import ScenarioError, did_you_mean
from sim.faults.catalogue import Fault
from sim.faults.catalogue.machine_down import MachineDown
from sim.faults.catalogue.rolling_restart import RollingRestart
from sim.record.durations import OTHER_CHANNELS, duration_of
from sim.record.limits import SCOPED_METRICS, SCOPES, read_metric
from sim.record.schema import HTTP_CALL, SLO_METRICS
from sim.scenario.client_settings import client_problems
from sim.scenario.own_code import behaviour_problem, checker_problem, recipe_problem
from sim.scenario.run_settings import MAX_PROCESSES, REPLAY, Hosts, Load
from sim.scenario.schedule import MAX_CALLS, SHAPES
from sim.scenario.settings import MAX_PODS, Scenario, Service, reference_behaviours
from sim.wire.transports import TRANSPORTS

MAX_SHOWN = 20  # names in one message
SHOWN_CHARACTERS = 120  # of a value in a message
MAX_NAME = 200  # characters of a channel's or a service's name
_PLAIN = re.compile(r"[\w-]+(\.[\w-]+)*", re.ASCII)
_CHANNEL = re.compile(r"[^,\x00-\x1f\x7f\u2028\u2029\ud800-\udfff]+")  # a list of channels is separated by commas in the record
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u2028\u2029\ud800-\udfff]")
_SCHEDULER = re.compile(r"(tcp|tls)://(\[[0-9A-Fa-f:.]{2,45}\]|[\w.-]{1,253}):[1-9][0-9]{0,4}", re.ASCII)
_SERVICE = re.compile(r"[^\s,\x00-\x1f\x7f\ud800-\udfff]+")  # the names of its pods are clients' names, and stand in lists


def quoted(name: str) -> str:
    """Return one part of a key for a message: as it is where it reads as a name, as event types do; else in quotes, as TOML has it."""
    return name if _PLAIN.fullmatch(name) else json.dumps(name, ensure_ascii=not name.isprintable())


def limit_name(metric: str) -> str:
    """Return the name of a limit as a key in TOML: ``slo.missing.service."web"``."""
    base, scope, subject = read_metric(metric)
    return f"slo.{quoted(base)}" + (f".{quoted(scope)}.{json.dumps(subject, ensure_ascii=not subject.isprintable())}" if scope else "")


def shown(value: object) -> str:
    """Return a value in Python's words, cut short where it is long."""
    try:
        text = repr(value)
    except ValueError:  # hexadecimal digits by the thousand
        return "a number of thousands of digits"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def problems(scenario: Scenario) -> Iterator[str]:
    """Yield one sentence for each problem; it names the key, the value and what to do."""
    yield from bus_problems(scenario)
    yield from _load_problems(scenario)
    yield from _mix_problems(scenario)
    yield from _http_problems(scenario)
    yield from _kubelet_problems(scenario)
    yield from _hosts_problems(scenario)
    yield from _slo_problems(scenario)
    yield from _checker_problems(scenario)
    yield from _fault_problems(scenario)
    yield from _overlap_problems(scenario)


def bus_problems(scenario: Scenario) -> Iterator[str]:
    """Yield one sentence for each problem of a bus by itself: of its envelope, its channels, its services, and its `[bus]`."""
    yield from _envelope_problems(scenario)
    yield from _channel_problems(scenario)
    yield from _service_problems(scenario)
    prefix, transport = scenario.bus.channel_prefix, scenario.bus.transport
    if _CONTROL.search(prefix):
        yield f"bus.channel_prefix = {shown(prefix)}: a channel has no control among its characters"
    if transport not in TRANSPORTS:
        yield f"bus.transport = {transport!r}: no such transport{did_you_mean(transport, TRANSPORTS)}; known: {', '.join(TRANSPORTS)}"
    yield from client_problems(scenario.bus)
    if problem := recipe_problem(scenario.bus.once, folder=scenario.code_folder):
        yield f"bus.once = {shown(scenario.bus.once)}: {problem}"


def _envelope_problems(scenario: Scenario) -> Iterator[str]:
    try:
        scenario.new_envelope()
        scenario.keys()
        scenario.cache_keys()
    except ScenarioError as error:
        yield str(error)


def _channel_problems(scenario: Scenario) -> Iterator[str]:
    if not scenario.channels:
        yield "channels is empty: define at least one channel"
    for name in scenario.channels:
        if not name or len(name) > MAX_NAME or not _CHANNEL.fullmatch(name):
            yield f"channels.{shown(name)}: a name has 1 to {MAX_NAME} characters, and no comma and no control among them"
        if name == HTTP_CALL:
            yield f"channels.{quoted(name)}: this is the name of a call that does not go over the bus: choose another"
    for name, weight in scenario.load.mix.items():
        if name in scenario.channels or name == HTTP_CALL:
            try:
                if weight > 0:
                    scenario.content(name)
            except ScenarioError as error:
                yield str(error)


def _service_problems(scenario: Scenario) -> Iterator[str]:
    if not scenario.services:
        yield "services is empty: define at least one service"
    for name, service in scenario.services.items():
        where = f"services.{quoted(name)}"
        if not name or len(name) > MAX_NAME or not _SERVICE.fullmatch(name):
            yield f"services.{shown(name)}: a name has 1 to {MAX_NAME} characters, and no blank, comma or control among them"
        behaviour, folder = service.behaviour, scenario.code_folder
        if behaviour and (problem := behaviour_problem(behaviour, heard=service.subscribes, folder=folder)):
            yield f"{where}.behaviour = {shown(behaviour)}: {problem}"
            return
        if name not in reference_behaviours() and not (service.publishes or service.subscribes):
            hint = did_you_mean(name, [*reference_behaviours(), *(other for other in scenario.services if other != name)])
            yield f"{where}: this service publishes nothing and subscribes to nothing{hint}; give it publishes or subscribes"
        yield from _time_problems(where, service)
        known = tuple(scenario.channels)
        for key, types, may in (("publishes", service.publishes, scenario.calls), ("subscribes", service.subscribes, known)):
            wrong = set(types) - set(may)
            yield from (f"{where}.{key}: {_unknown_channel(type, may)}" for type in types if type in wrong)
            yield from (f"{where}.{key}: {type!r} stands there twice" for type, times in Counter(types).items() if times > 1)
    pods = len(scenario.pods())
    if pods > MAX_PODS:
        yield f"services ask for {pods:,} pods, more than {MAX_PODS:,}: lower replicas"


def _time_problems(where: str, service: Service) -> Iterator[str]:
    for key, time in (("handler_ms", service.handler_ms), ("handler_cpu_ms", service.handler_cpu_ms)):
        for channel, one in time.items() if isinstance(time, dict) else (("", time),):
            at = f"{where}.{key}" + (f".{json.dumps(channel, ensure_ascii=not channel.isprintable())}" if channel else "")
            if channel and channel != OTHER_CHANNELS and channel not in service.subscribes:
                hint = did_you_mean(channel, (*service.subscribes, OTHER_CHANNELS))
                yield f"{at}: the service does not hear it{hint}; name what it subscribes to, or {OTHER_CHANNELS!r}"
            try:
                duration_of(time, channel)
            except ValueError as error:
                yield f"{at}: {error}" if isinstance(one, str) else f"{at} = {shown(one)}: {error}"  # an error names the text itself
    if service.when_full == "queue" and service.concurrency > service.queue_limit:
        yield f"{where}.queue_limit = {service.queue_limit} is less than concurrency = {service.concurrency}: raise it"


def _load_problems(scenario: Scenario) -> Iterator[str]:
    load, transport = scenario.load, scenario.bus.transport
    shapes = (*SHAPES, REPLAY)
    if load.shape not in shapes:
        yield f"load.shape = {load.shape!r}: no such shape{did_you_mean(load.shape, shapes)}; known: {', '.join(shapes)}"
    yield from _replay_problems(scenario)
    if load.driver == "locust" and not scenario.bus.redis_url:
        yield "bus.redis_url = false: only the pods can publish then; set load.driver = 'pods'"
    reads = load.reads_per_s * (load.warm_up_s + load.run_s)
    if reads > MAX_CALLS:
        yield f"load.reads_per_s = {load.reads_per_s:g} means {reads:,.0f} reads, more than {MAX_CALLS:,}: lower it or load.run_s"
    yield from _cache_problems(scenario)
    readers = {name for name, make in BEHAVIOURS.items() if isinstance(make(), ConfigReader)}
    if reads and not any(isinstance(scenario.new_logic(name), ConfigReader) for name in scenario.services):
        known = [name for name, behaviour in reference_behaviours().items() if behaviour in readers]
        fitting = f"add one of {', '.join(known)}, give a service behaviour = {' or '.join(map(repr, sorted(readers)))}"
        yield f"load.reads_per_s = {load.reads_per_s:g}, but no service keeps templates: {fitting}, or set it to 0"
    if load.driver == "locust" and transport == "memory":
        yield "bus.transport = 'memory': only the pods can publish then; set load.driver = 'pods'"


def _replay_problems(scenario: Scenario) -> Iterator[str]:
    load = scenario.load
    if load.shape != REPLAY:
        for key in ("capture", "speed"):
            if getattr(load, key) != getattr(Load(), key):
                of = f"it is of load.shape = 'replay', and this is {load.shape!r}"
                yield f"load.{key} = {shown(getattr(load, key))}: {of}; leave it out, or set load.shape = 'replay'"
        return
    if load.locustfile:
        yield "load.shape = 'replay' and load.locustfile: a capture says which calls are made, or users do: leave one of the two out"
    if scenario.hosts.kind in ("dask", "containers"):
        yield f"hosts.kind = {scenario.hosts.kind!r}: its pods may not have the file of load.capture; set hosts.kind = 'inline' or 'local'"
    for name, channel in scenario.channels.items():
        if channel.batched and load.mix.get(name, 0) > 0:
            why = "a capture has whole events, and these would be put into batches once more"
            yield f"channels.{quoted(name)}.batched: {why}: set it to false"


def _cache_problems(scenario: Scenario) -> Iterator[str]:
    seconds = scenario.load.warm_up_s + scenario.load.run_s
    for service, one in scenario.services.items():
        for name, cache in one.caches.items():
            where = f"services.{quoted(service)}.caches.{quoted(name)}"
            if not name:
                yield f"{where}: a cache needs a name"
            if cache.reads_per_s * seconds > MAX_CALLS:
                means = f"means {cache.reads_per_s * seconds:,.0f} reads, more than {MAX_CALLS:,}"
                yield f"{where}.reads_per_s = {cache.reads_per_s:g} {means}: lower it or load.run_s"
            try:
                scenario.read_key(service, name)
            except ScenarioError as error:
                yield str(error)
    for channel, settings in scenario.channels.items():
        if settings.invalidates and settings.batched:
            where = f"channels.{quoted(channel)}"
            yield f"{where}.invalidates: events of a batched channel carry many calls, and name no key: leave one of the two out"


def _mix_problems(scenario: Scenario) -> Iterator[str]:
    load = scenario.load
    if load.locustfile:
        yield from _locustfile_problems(scenario)
    elif not any(load.mix.values()) and not any(one.command and one.publishes for one in scenario.services.values()):
        yield "load.mix is empty: give at least one event type a weight above 0, or a channel a rate_per_s"
    calls, published = set(scenario.calls), {kind for service in scenario.services.values() for kind in service.called}
    programs = {kind for service in scenario.services.values() if service.command for kind in service.publishes}
    for kind, weight in load.mix.items():
        if kind not in calls:
            yield f"load.mix: {_unknown_channel(kind, scenario.calls)}"
        elif not math.isfinite(weight):
            yield f"load.mix.{quoted(kind)} = {shown(weight)}: give a number"
        elif weight > 0 and kind in programs - published:
            yield f"load.mix: {kind!r} is published by programs, which decide by themselves when: leave it out, or set its weight to 0"
        elif weight > 0 and kind not in published:
            hint = did_you_mean(kind, published)
            yield f"load.mix: {kind!r} has weight {weight:g} but no service publishes it{hint}: add it to a service's publishes"


def _locustfile_problems(scenario: Scenario) -> Iterator[str]:
    file, where = Path(scenario.load.locustfile), f"load.locustfile = {shown(scenario.load.locustfile)}"
    if file.suffix != ".py" or not file.is_file():
        yield f"{where}: {'a locustfile is a .py file' if file.suffix != '.py' else 'there is no such file'}"
    if scenario.load.driver != "locust":
        yield f"{where}: its users are Locust's: set load.driver = 'locust'"
    if not any(service.publishes for service in scenario.services.values()):
        yield f"{where}: no service publishes anything, so no user may: give one publishes"


def _http_problems(scenario: Scenario) -> Iterator[str]:
    if scenario.load.mix.get(HTTP_CALL):
        if scenario.load.driver != "pods":
            yield f"load.mix: {HTTP_CALL!r} is a call that pods make themselves; set load.driver = 'pods'"
        if "analytics" not in {scenario.behaviour(name) for name in scenario.services}:
            yield f"load.mix: {HTTP_CALL!r} is answered by analytics-service, and the scenario has none: add services.analytics-service"
        if BATCH not in scenario.channels:
            yield f'load.mix: {HTTP_CALL!r} carries what {BATCH} carries, and the scenario has no such channel: add channels."{BATCH}"'


def _kubelet_problems(scenario: Scenario) -> Iterator[str]:
    kubelet = scenario.kubelet
    if kubelet.back_off_max_s < kubelet.back_off_s:
        yield f"kubelet.back_off_max_s = {kubelet.back_off_max_s:g} is less than kubelet.back_off_s = {kubelet.back_off_s:g}: raise it"


def _hosts_problems(scenario: Scenario) -> Iterator[str]:
    hosts = scenario.hosts
    kind = f"hosts.kind = {hosts.kind!r}"
    if hosts.kind != "dask":
        for name in ("scheduler", "per_worker", "on_loss"):
            if getattr(hosts, name) != getattr(Hosts(), name):
                value = "" if name == "scheduler" else f" = {getattr(hosts, name)!r}"  # an address may hold a secret
                yield f"hosts.{name}{value}: it is of hosts.kind = 'dask', and this is {kind}; leave it out, or set hosts.kind = 'dask'"
    elif hosts.scheduler and not _SCHEDULER.fullmatch(hosts.scheduler):
        yield "hosts.scheduler is not an address of a Dask scheduler: write tcp://HOST:PORT or tls://HOST:PORT, without user and password"
    if hosts.kind == "inline":
        return
    if scenario.bus.transport == "memory":
        yield f"{kind}: bus.transport = 'memory' carries events inside one process only; set hosts.kind = 'inline'"
    if hosts.kind == "containers":
        yield from _container_problems(scenario)
        return
    if problem := too_many_alone(scenario, place_of=None if hosts.kind != "dask" else lambda pod: -1):  # a cluster is not joined yet
        yield f"{problem}; name fewer pods, or set hosts.kind = 'inline'"
    if hosts.kind == "dask":
        yield from _far_problems(scenario)


def too_many_alone(scenario: Scenario, *, place_of: Callable[[str], int] | None) -> str:
    """Return what is wrong where too many pods need a process of their own, empty when nothing is; `place_of` as of `killable_pods`."""
    first = {name for name, _ in scenario.first_pods()}
    alone = len(scenario.killable_pods(place_of) & first) + sum(map(scenario.surge, scenario.services))
    if alone <= MAX_PROCESSES:
        return ""
    why = "the kubelet" if scenario.kubelet.enabled else "a fault"
    each = f"hosts.kind = {scenario.hosts.kind!r} gives each pod that {why} may end or freeze a process of its own"
    return f"{each}: {alone:,} are more than {MAX_PROCESSES}"


def _container_problems(scenario: Scenario) -> Iterator[str]:
    """Yield what pods in containers cannot do."""
    if (pods := len(scenario.pods())) > MAX_PROCESSES:
        yield f"hosts.kind = 'containers' gives each pod a container of its own: {pods:,} are more than {MAX_PROCESSES}; use 'local'"


def _far_problems(scenario: Scenario) -> Iterator[str]:
    """Yield what pods on the workers of a Dask cluster cannot do."""
    if scenario.load.mix.get(HTTP_CALL):
        yield f"load.mix: {HTTP_CALL!r} is a call from pod to pod on one machine; set hosts.kind = 'local' or 'inline'"


def _slo_problems(scenario: Scenario) -> Iterator[str]:
    heard = {name: service.subscribes for name, service in scenario.services.items() if service.subscribes}
    subjects = {"service": list(heard), "channel": sorted({channel for channels in heard.values() for channel in channels})}
    for metric, limit in scenario.slo.items():
        base, scope, subject = read_metric(metric)
        if base not in SLO_METRICS:
            known = f"no such metric{did_you_mean(base, SLO_METRICS)}; known: {', '.join(SLO_METRICS)}"
            yield f'{limit_name(metric)}: {known}; of a service or a channel: slo.missing.service."NAME", slo.missing.channel."NAME"'
        elif scope and base not in SCOPED_METRICS:
            yield f"slo.{metric}: {base} is of the whole run only; of a service or a channel are {', '.join(SCOPED_METRICS)}"
        elif scope and scope not in SCOPES:
            yield f"slo.{metric}: a limit is of the run, a service or a channel{did_you_mean(scope, SCOPES)}; write slo.{base}.{SCOPES[0]}"
        elif scope and subject not in subjects[scope]:
            hint = did_you_mean(subject, subjects[scope])
            hears = "no service of the scenario that hears anything is called" if scope == "service" else "no service subscribes to"
            yield f"slo.{metric}: {hears} {subject!r}{hint}; there are {', '.join(subjects[scope]) or 'none'}"
        elif not math.isfinite(limit):
            yield f"{limit_name(metric)} = {shown(limit)}: give a number"


def _checker_problems(scenario: Scenario) -> Iterator[str]:
    for place, name in enumerate(scenario.checkers):
        if problem := checker_problem(name, folder=scenario.code_folder):
            yield f"checkers[{place}] = {shown(name)}: {problem}"
        elif name in scenario.checkers[:place]:
            yield f"checkers[{place}] = {shown(name)}: it stands there twice"


def _fault_problems(scenario: Scenario) -> Iterator[str]:
    services, first, later = set(scenario.services), *({name for name, _ in pods} for pods in (scenario.first_pods(), scenario.pods()))
    for place, fault in enumerate(scenario.faults):
        names = services | (first if isinstance(fault, RollingRestart) else later)  # who was replaced is found by its first name
        if problem := fault.problem():
            yield f"faults[{place}]: {problem}"
        if isinstance(fault, MachineDown) and scenario.hosts.kind != "dask" and not fault.held(sorted(first)):
            yield f"faults[{place}].machine = {fault.machine}: {_no_machine(fault, len(first))}"
        if "links" in fault.needs and scenario.bus.transport == "memory":
            kind = type(fault).__struct_config__.tag
            yield f"faults[{place}]: {kind} is of links to a broker, and bus.transport = 'memory' has none: leave it out, or set 'pubsub'"
        if not fault.last_end_s <= scenario.load.run_s:
            span = f"from {fault.at_s:g} s to {fault.last_end_s:g} s"
            yield f"faults[{place}]: {span} is not inside the run phase of {scenario.load.run_s:g} s: change its times or load.run_s"
        for name in getattr(fault, "pods", ()):
            if name not in names:
                hint = did_you_mean(name, names)
                yield f"faults[{place}].pods: no pod and no service is called {name!r}{hint}; write music-service or music-service-0"


def _no_machine(fault: MachineDown, pods: int) -> str:
    """Return why no pod is on the machine of a fault."""
    if fault.machine >= fault.machines:
        return f"machines are counted from 0, and there are {fault.machines} of them (machines); give another"
    return f"no pod is on it, as there are {pods} for {fault.machines} machines; give another, or fewer machines"


def _overlap_problems(scenario: Scenario) -> Iterator[str]:
    """Yield two of one kind at once on one target, unless what they do adds up: the first end would heal both, unseen by the record."""
    pods = scenario.pods()
    touched = [_touched(scenario, fault) for fault in scenario.faults]
    for (n, one), (m, other) in combinations(enumerate(scenario.faults), 2):
        if type(one) is type(other) and not getattr(one, "adds_up", False) and (both := touched[n] & touched[m]):
            spans = sorted([*one.spans_s(), *other.spans_s()])
            for (_, end_s), (begin_s, _) in pairwise(spans):
                if begin_s < end_s:
                    kind = type(one).__struct_config__.tag
                    target = next((name for name, _ in pods if name in both), min(both))
                    yield f"faults[{n}] and faults[{m}]: {kind} of {target} twice at one time, {begin_s:g} s: change their times"
                    break


def _touched(scenario: Scenario, fault: Fault) -> set[str]:
    """Return what a fault touches, by name: pods, the broker, or a worker of a cluster."""
    pods = scenario.pods()
    if isinstance(fault, MachineDown):
        return {f"machine {fault.machine}"} if scenario.hosts.kind == "dask" else set(fault.held([name for name, _ in pods]))
    chosen = getattr(fault, "pods", None)
    return {"broker"} if chosen is None else {name for name, service in pods if not chosen or {name, service} & set(chosen)}


def _unknown_channel(type: str, may: tuple[str, ...]) -> str:
    known = tuple(name for name in may if name != HTTP_CALL or BATCH in may)  # where nothing carries that call, nobody means it
    more = f" and {len(known) - MAX_SHOWN:,} more" if len(known) > MAX_SHOWN else ""
    return f"unknown channel {type!r}{did_you_mean(type, known)}; known: {', '.join(known[:MAX_SHOWN])}{more}"
