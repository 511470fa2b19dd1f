"""Set the stage for the faults of a run: which of them its ground can do, the links they need, the world they act on."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from msgspec.structs import replace

from sim.errors import UsageError
from sim.faults.timeline import Timeline
from sim.faults.world import World
from sim.grounds.broker import Broker
from sim.grounds.links import Links, ModelLinks, ProxyLinks, SharedLinks
from sim.grounds.model.ground import ModelBroker
from sim.machine.clock import now_ns
from sim.run.fleet import Fleet
from sim.scenario.file import Scenario
from sim.scenario.settings import Kubelet
from sim.wire.command_client import CommandClient
from sim.wire.connection import open_wire

PINGS = 200


FLEETS = ("ours", "none")


def peopled(scenario: Scenario, *, fleet: str) -> Scenario:
    """Return the scenario of the pods that a run starts: as it is, or for the fleet ``none`` without any.

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
    """Return the scenario as it can run in virtual time, which is that of one process, and a note where the host changes."""
    if not virtual:
        return scenario, []
    scenario = replace(scenario, load=replace(scenario.load, driver="pods"))  # Locust lives in real time
    if scenario.hosts.kind == "inline":
        return scenario, []
    note = f"virtual time is that of one process: hosts.kind = {scenario.hosts.kind!r} was not used"
    return replace(scenario, hosts=replace(scenario.hosts, kind="inline")), [note]


def check_ground(scenario: Scenario, broker: Broker) -> None:
    """Refuse a scenario that this ground cannot run.

    Raises
    ------
    UsageError
    """
    several = len(broker.address.nodes) > 1
    if scenario.transport().store is not None and several:
        name = scenario.bus.transport
        raise UsageError(
            f"{broker.ground} has several nodes, and bus.transport = {name!r} keeps events on one: use --on embedded or cluster:1"
        )
    for fault in scenario.faults:
        kind = type(fault).__struct_config__.tag
        if set(fault.needs) & {"broker", "links"} and broker.control is None:
            raise UsageError(
                f"{broker.ground} is not ours to hurt: the fault {kind} needs a broker that is; use --on embedded or --on model"
            )
        if "failover" in fault.needs and not several:
            raise UsageError(f"{broker.ground} has no replica that could take over: run {kind} with --on cluster or container-cluster")
        if "one-server" in fault.needs and several:
            raise UsageError(f"{broker.ground} has several nodes, which could not reach each other any more: run {kind} with --on embedded")
        if "links" in fault.needs and several:
            raise UsageError(f"{broker.ground} has several nodes, and a pod's link leads to one: run {kind} on embedded or model")
        if "links" in fault.needs and scenario.load.driver != "pods":
            raise UsageError(f"the fault {kind} acts on the links of pods, and Locust has links of its own: set load.driver = 'pods'")


async def open_links(scenario: Scenario, broker: Broker, *, folder: Path) -> tuple[Links | None, dict[str, float]]:
    """Return links that can be made bad, where a fault of the scenario needs them, and what they add to a round trip (`links_add_us`).

    Else the pods reach the broker directly.

    Raises
    ------
    BrokerError
        The proxy did not start.
    """
    if not any("links" in fault.needs for fault in scenario.faults):
        return None, {}
    pods = len(scenario.pods())
    links: Links
    if isinstance(broker, ModelBroker):
        links = ModelLinks(broker.network, broker.address, pods=pods)
    else:
        links = await ProxyLinks.open(broker.address, pods=pods, folder=folder, seed=scenario.seed)
    return links, await links_add_us(links, broker)


async def links_add_us(links: Links, broker: Broker) -> dict[str, float]:
    """Measure what the links add to a round trip with no fault on them, in microseconds: PINGs one by one, each way.

    Returns
    -------
    dict
        ``direct_p50``, ``direct_p99``, ``through_p50``, ``through_p99``.
    """
    found: dict[str, float] = {}
    for way, address in (("direct", broker.address), ("through", links.address(0))):
        wire = await open_wire(address, client_name="buslab-ping")
        took = []
        for _ in range(PINGS):
            began_ns = now_ns()
            await wire.command("PING")
            took.append(now_ns() - began_ns)
        wire.close()
        took.sort()
        found |= {f"{way}_p50": took[PINGS // 2] / 1e3, f"{way}_p99": took[PINGS * 99 // 100] / 1e3}
    return found


@contextlib.asynccontextmanager
async def staged(scenario: Scenario, broker: Broker, fleet: Fleet, *, links: Links | None, run_id: str) -> AsyncIterator[Timeline]:
    """Return the timeline of the scenario's faults, not started; on leaving, every fault is healed."""
    services: dict[str, list[str]] = {}
    for name, service in scenario.pods():
        services.setdefault(service, []).append(name)
    askers = [CommandClient(node, name=f"buslab-{run_id}-faults") for node in broker.address.nodes]
    pods = fleet.host.containers
    shared = None if links is None else SharedLinks(links)
    world = World(broker=broker.control, ask=askers[0].ask, pods=pods, services=services, links=shared, servers=askers)
    timeline = Timeline(scenario.faults, world, fleet.recorder, seed=scenario.seed)
    try:
        yield timeline
    finally:
        try:
            await timeline.heal()
        finally:
            for asker in askers:
                asker.close()
