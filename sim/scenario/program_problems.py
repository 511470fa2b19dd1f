"""What is wrong with the services of a scenario whose pods are programs, and with what does not go together with them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from sim.errors import did_you_mean
from sim.scenario.problems import quoted, shown
from sim.scenario.programs import PLACE, PLACES, READY, STARTED, SUBSCRIBED, OwnProgram, programs_of
from sim.scenario.settings import Scenario, Service

MAX_PROGRAMS = 256  # processes that one run starts
STOP_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
OURS = ("REDIS_URL", "POD_NAME", "PORT", "BUSLAB_HANDLED_URL")  # variables that the run sets
INSIDE = ("handler_error", "slow_handler", "clock_skew")  # faults that act inside a pod of ours
BY_NAME = (
    "subscribers_cut",
    "publishers_cut",
    "reconnect_stampede",
)  # faults that find connections by the names that pods of ours give them
OF_OUR_PODS = (
    "behaviour",
    "handler_ms",
    "handler_cpu_ms",
    "concurrency",
    "when_full",
    "queue_limit",
    "cpu_limit",
    "skew_ms",
    "caches",
)  # settings of a service that say how the lab simulates its pods
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_NOT_IN_A_NAME = re.compile(r"[/\\:]")  # what the name of a pod cannot have where a file is called by it


def program_problems(scenario: Scenario) -> Iterator[str]:
    """Yield one sentence for each problem of services whose pods are programs; it names the key, the value and what to do."""
    programs = programs_of(scenario)
    for name, service in scenario.services.items():
        where = f"services.{quoted(name)}"
        yield from _problems_of(where, name, service) if service.command else _without_command(where, service)
    if programs:
        yield from _run_problems(scenario, programs)


def _without_command(where: str, service: Service) -> Iterator[str]:
    """Yield what is said of a program where there is none."""
    for field in msgspec.structs.fields(OwnProgram):
        value = getattr(service, field.name)
        if field.name != "command" and value != getattr(OwnProgram(), field.name):
            yield f"{where}.{field.name} = {shown(value)}: it is of a program, and this service has none; give it a command"


def _problems_of(where: str, name: str, service: Service) -> Iterator[str]:
    defaults = type(service)()
    if _NOT_IN_A_NAME.search(name) or name.startswith("."):
        yield f"{where}: files are called by the name of a program's pod: leave out /, \\ and :, and the dot at its beginning"
    for key in OF_OUR_PODS:
        if getattr(service, key) != getattr(defaults, key):
            value = shown(getattr(service, key))
            yield f"{where}.{key} = {value}: it says how a pod of ours is simulated, and these are programs; leave it out"
    yield from _text_problems(where, service)
    if not service.command[0].strip():
        yield f"{where}.command[0] = {shown(service.command[0])}: name the program that its pods run"
    yield from _variable_problems(where, service)
    if service.stop not in STOP_SIGNALS:
        yield f"{where}.stop = {shown(service.stop)}: no such signal{did_you_mean(service.stop, STOP_SIGNALS)}; {', '.join(STOP_SIGNALS)}"
    if service.ready not in ("", SUBSCRIBED, STARTED):
        yield from _ready_problems(where, service)
    elif service.ready == SUBSCRIBED and not service.subscribes:
        yield f"{where}.ready = 'subscribed': the service subscribes to nothing; give it subscribes, or ready = 'started'"


def _variable_problems(where: str, service: Service) -> Iterator[str]:
    for key in service.env:
        if not _VARIABLE.fullmatch(key):
            yield f"{where}.env: {shown(key)} is no name of a variable: letters, digits and _, and no digit first"
        elif key in OURS:
            yield f"{where}.env.{key}: the run sets it itself; leave it out"


def _text_problems(where: str, service: Service) -> Iterator[str]:
    """Yield what is wrong with what a program is given: its command and its variables."""
    texts = [(f"command[{place}]", text) for place, text in enumerate(service.command)]
    texts += [(f"env.{quoted_variable(key)}", text) for key, text in service.env.items()]
    for key, text in texts:
        if "\0" in text:
            yield f"{where}.{key} = {shown(text)}: no program can be given the character 0"
        for place in PLACE.findall(text):
            if place not in PLACES and re.fullmatch(r"\w+", place):
                known = f"{did_you_mean(place, PLACES)}; known: {_listed(PLACES)}"
                yield f"{where}.{key} = {shown(text)}: {{{place}}} stands for nothing{known}"


def quoted_variable(name: str) -> str:
    """Return the name of a variable as a part of a key."""
    return name if _VARIABLE.fullmatch(name) else repr(name[:80])


def _listed(places: tuple[str, ...]) -> str:
    return ", ".join(f"{{{place}}}" for place in places)


def _ready_problems(where: str, service: Service) -> Iterator[str]:
    text = f"{where}.ready = {shown(service.ready)}"
    found = READY.fullmatch(service.ready)
    if found is None:
        yield f"{text}: give 'subscribed', 'started', or an address on this machine, as http://127.0.0.1:{{port}}/health/ready"
    elif found[2] != "{port}" and int(found[2]) > 65_535:
        yield f"{text}: ports end at 65535; write {{port}} for the one that each pod gets as PORT"
    elif found[2] != "{port}" and service.replicas > 1:
        yield f"{text}: {service.replicas} replicas cannot listen on one port; write {{port}} for the one that each pod gets as PORT"


def _run_problems(scenario: Scenario, programs: list[str]) -> Iterator[str]:
    """Yield what of the rest of a scenario does not go together with programs."""
    first = f"services.{quoted(programs[0])} is a program"
    if scenario.bus.transport != "pubsub":
        yield f"bus.transport = {scenario.bus.transport!r}: {first}, and those are followed on Pub/Sub only; set 'pubsub'"
    if not scenario.bus.redis_url:
        yield f"bus.redis_url = false: {first}, which gets a REDIS_URL; set it to true"
    if scenario.hosts.kind != "inline":
        yield f"hosts.kind = {scenario.hosts.kind!r}: {first}, beside which pods of ours live in the run's process; set 'inline'"
    many = sum(service in programs for _, service in scenario.pods())
    if many > MAX_PROGRAMS:
        yield f"services ask for {many:,} programs, more than {MAX_PROGRAMS}: lower replicas"
    names = {name: service for name, service in scenario.pods() if service in programs}
    for place, fault in enumerate(scenario.faults):
        kind, chosen = type(fault).__struct_config__.tag, set(getattr(fault, "pods", ()))
        if kind not in (*INSIDE, *BY_NAME) or (chosen and not chosen & {*programs, *names}):
            continue
        hit = next((name for name in chosen if name in programs or name in names), programs[0])
        if kind in INSIDE:
            text = f"{kind} acts inside pods of ours, and {hit} is a program: name pods of ours in its pods, or leave it out"
        else:
            text = f"{kind} finds connections by the names that pods of ours give them, and {hit} is a program: name pods of ours in its "
            text += "pods, or use link_reset, which acts on taps"
        yield f"faults[{place}]: {text}"
