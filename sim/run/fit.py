"""What of a scenario can run here: with which pods, in which kind of time, and on this ground at all."""

from __future__ import annotations

from msgspec.structs import replace

from sim.errors import UsageError
from sim.faults.catalogue import Fault
from sim.grounds.broker import Broker
from sim.machine.open_files import raise_open_files
from sim.machine.words import count
from sim.pods.hosts.containers import check_engine
from sim.record.schema import HTTP_CALL
from sim.scenario.file import Scenario
from sim.scenario.own_code import own_code_notes
from sim.scenario.programs import no_program, programs_of
from sim.scenario.run_settings import Kubelet

FLEETS = ("ours", "none")
OWN_FILES = 30  # of a process of ours that holds no pod: its libraries, tables, lines, and the connections by which it asks the broker
SERVER_FILES = 48  # of a server of ours without a pod: its own, those that it keeps back, and the connections that ask it


def peopled(scenario: Scenario, *, fleet: str) -> Scenario:
    """Return the scenario with the pods that the run starts: all of them, or none for the fleet ``none``.

    Raises
    ------
    UsageError
        The fleet is neither, or the scenario wants something of pods that are not ours.
    """
    if fleet not in FLEETS:
        raise UsageError(f"the fleet {fleet!r} is none of {', '.join(FLEETS)}")
    if fleet == "ours":
        return scenario
    if scenario.load.driver == "pods":
        raise UsageError("load.driver = 'pods' and no fleet: nobody would publish; use load.driver = 'locust'")
    if scenario.faults:
        raise UsageError("faults are for a fleet of ours: leave them out with --set 'faults=[]', or start the fleet with --fleet ours")
    return replace(scenario, services={}, load=replace(scenario.load, reads_per_s=0.0), kubelet=Kubelet())


def fit_time(scenario: Scenario, *, virtual: bool) -> tuple[Scenario, list[str]]:
    """Return the scenario as it can run in virtual time, which only one process can have, and notes on what of it is not used.

    Raises
    ------
    UsageError
        It is of real time only.
    """
    notes = own_code_notes(scenario)
    if not virtual:
        return scenario, notes
    if scenario.load.locustfile:
        raise UsageError("--on model: the users of load.locustfile live in real time: use --on embedded")
    if programs := programs_of(scenario):
        raise UsageError(f"--on model: services.{programs[0]} is a program, which lives in real time: use --on embedded")
    scenario = replace(scenario, load=replace(scenario.load, driver="pods"))  # Locust lives in real time
    if scenario.hosts.kind == "inline":
        return scenario, notes
    note = f"virtual time is that of one process: hosts.kind = {scenario.hosts.kind!r} was not used"
    return replace(scenario, hosts=replace(scenario.hosts, kind="inline")), [*notes, note]


def check_ground(scenario: Scenario, broker: Broker) -> None:
    """Refuse a scenario that this ground cannot run.

    Raises
    ------
    UsageError
    """
    several = len(broker.address.nodes) > 1
    _check_taps(scenario, broker)
    if scenario.transport().store is not None and several:
        name = scenario.bus.transport
        raise UsageError(
            f"{broker.ground} has several nodes, and bus.transport = {name!r} keeps events on one: use --on embedded or cluster:1"
        )
    for fault in scenario.faults:
        kind = type(fault).__struct_config__.tag
        far = scenario.hosts.kind == "dask"  # pods on other machines need a broker that is not ours, and their links are
        own_links = far or _of_programs(scenario, fault)  # a tap's connections are ours, whose broker it may be
        if set(fault.needs) & ({"broker"} if own_links else {"broker", "links"}) and broker.control is None:
            raise UsageError(
                f"{broker.ground} is not ours to hurt: the fault {kind} needs a broker that is; use --on embedded or --on model"
            )
        if "links" in fault.needs and broker.address.tls is not None and not _of_programs(scenario, fault):
            raise UsageError(
                f"{broker.ground} speaks TLS, and a proxy on the way would be taken for another server: leave the fault {kind} out"
            )
        if "failover" in fault.needs and not several:
            raise UsageError(f"{broker.ground} has no replica that could take over: run {kind} with --on cluster or container-cluster")
        if "one-server" in fault.needs and several:
            raise UsageError(f"{broker.ground} has several nodes, which could not reach each other any more: run {kind} with --on embedded")
        if broker.ground == "model" and (why := fault.not_on_model()):
            raise UsageError(f"{why}: run the fault {kind} with --on embedded")
        if "links" in fault.needs and several:
            raise UsageError(f"{broker.ground} has several nodes, and a pod's link leads to one: run {kind} on embedded or model")
        if "links" in fault.needs and scenario.load.driver != "pods" and not _of_programs(scenario, fault):
            raise UsageError(f"the fault {kind} acts on the links of pods, and Locust has links of its own: set load.driver = 'pods'")


def _check_taps(scenario: Scenario, broker: Broker) -> None:
    """Refuse programs where one tap for each cannot be all of its way to the broker."""
    if len(broker.address.nodes) > 1 and (programs := programs_of(scenario)):
        raise UsageError(
            f"{broker.ground} has several nodes, and a program's tap leads to one: run services.{programs[0]} with --on embedded"
        )


def _of_programs(scenario: Scenario, fault: Fault) -> bool:
    """Return whether a fault is of pods that are programs alone: their links are taps, whoever makes the calls."""
    chosen, programs = set(getattr(fault, "pods", ())), programs_of(scenario)
    named = {name for name, service in scenario.pods() if not chosen or {name, service} & chosen}
    return bool(named) and all(service in programs for name, service in scenario.pods() if name in named)


def check_hosts(scenario: Scenario) -> None:
    """Refuse a scenario whose pods cannot live here where it says.

    Raises
    ------
    UsageError
        There is no such program.
    BrokerError
        They are to be containers, and there is no engine or no image for them.
    """
    if scenario.hosts.kind == "containers" and scenario.services:
        check_engine()
    for name in programs_of(scenario):
        service = scenario.services[name]
        if problem := no_program(service.command[0], folder=service.folder, env=service.env):
            raise UsageError(f"services.{name}.command[0] = {service.command[0]!r}: {problem}")


def files_per_pod(scenario: Scenario, *, nodes: int = 1) -> int:
    """Return how many files a pod opens; `nodes`: of the broker."""
    ends = nodes if scenario.bus.transport == "sharded" else 1
    each = 2 * ends + (nodes if scenario.bus.once != "none" else 0)  # to hear, to speak, to lock
    return each + (2 if scenario.load.mix.get(HTTP_CALL) or scenario.kubelet.enabled else 0)


def files_needed(scenario: Scenario, *, nodes: int = 1, server_is_ours: bool = True) -> int:
    """Return about how many files that process needs which opens most: with the pods, the proxy of their links, Locust, or the server.

    Parameters
    ----------
    nodes
        Of the broker; a sharded end has a connection to each that is a master.
    """
    pods = len(scenario.pods())
    ends = nodes if scenario.bus.transport == "sharded" else 1
    each = files_per_pod(scenario, nodes=nodes)
    kinds = {kind for kind, weight in scenario.load.mix.items() if weight > 0}
    publishing = sum(service.replicas for service in scenario.services.values() if kinds & set(service.publishes))
    locusts = publishing if scenario.load.driver == "locust" else 0
    if scenario.load.locustfile:
        locusts = scenario.users() * sum(bool(service.publishes) for service in scenario.services.values())
    # A container holds one pod; the workers of a Dask cluster are asked for theirs.
    holds = {"inline": pods, "local": -(-pods // scenario.hosts.processes), "containers": min(1, pods), "dask": 0}
    here = holds[scenario.hosts.kind]
    needs = [OWN_FILES + here * each, OWN_FILES + locusts * ends]
    if any("links" in fault.needs for fault in scenario.faults) and scenario.hosts.kind != "dask":  # there a proxy is on each worker
        needs.append(OWN_FILES + pods * (1 + 2 * each))
    if server_is_ours and scenario.bus.transport != "memory":
        needs.append(SERVER_FILES + pods * each + locusts)
    return max(needs)


def check_open_files(scenario: Scenario, *, on: str = "embedded", nodes: int = 1) -> Scenario:
    """Raise the limit of open files as far as it goes, and return the scenario where that is enough on this ground.

    Raises
    ------
    UsageError
        It needs more; nothing has been started yet.
    """
    ground = on.partition(":")[0]
    may, needed = raise_open_files(), files_needed(scenario, nodes=nodes, server_is_ours=ground == "embedded")
    if ground != "model" and needed > may:
        raise UsageError(
            f"{count(len(scenario.pods()), 'pod')} need about {needed:,} open files in one process, and this shell allows {may:,}: "
            f"run `ulimit -n {needed}` first (where the hard limit is lower, root must raise it), or run fewer pods"
        )
    return scenario
