"""Set the stage for the faults of a run: the links that they need, what those add to a round trip, and the world that they act on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from sim.faults.timeline import Timeline
from sim.faults.world import World
from sim.grounds.broker import Broker
from sim.grounds.links import Links, ModelLinks, ProxyLinks, SharedLinks
from sim.grounds.model.ground import ModelBroker
from sim.machine.clock import to_the_end
from sim.pods.hosts.places import Places
from sim.pods.programs.taps import ProgramTaps
from sim.run.fleet import Fleet
from sim.scenario.file import Scenario
from sim.scenario.programs import id_pointer
from sim.wire.command_client import CommandClient


async def open_links(
    scenario: Scenario, broker: Broker, *, folder: Path, places: Places | None = None
) -> tuple[Links | None, dict[str, float]]:
    """Open links that can be made bad, and return them with what they add to a round trip (`Links.add_us`).

    Where no fault of the scenario needs them there are none: the pods reach the broker directly. Programs always have taps.

    Raises
    ------
    BrokerError, HostError
        A proxy did not start.
    """
    programs = [number for number, (_, service) in enumerate(scenario.pods()) if scenario.services[service].command]
    pods = len(scenario.pods())
    links: Links | None = None
    if not any("links" in fault.needs for fault in scenario.faults):
        pass
    elif isinstance(broker, ModelBroker):
        links = ModelLinks(broker.network, broker.address, pods=pods)
    elif places is not None:
        links = await places.open_links(broker.address, seed=scenario.seed)
    elif len(programs) < pods:
        links = await ProxyLinks.open(broker.address, pods=pods, folder=folder, seed=scenario.seed)
    if programs:
        links = await _open_taps(scenario, broker, programs=programs, folder=folder, others=links)
    return (None, {}) if links is None else (links, await links.add_us())


async def _open_taps(scenario: Scenario, broker: Broker, *, programs: list[int], folder: Path, others: Links | None) -> ProgramTaps:
    """Open a tap for each program; the other links are ended where that cannot be done."""
    try:
        return await ProgramTaps.open(
            broker.address,
            pods=programs,
            pointer=id_pointer(scenario.envelope),
            channel_prefix=scenario.bus.channel_prefix,
            folder=folder,
            seed=scenario.seed,
            others=others,
        )
    except BaseException:
        if others is not None:
            await others.close()
        raise


@contextlib.asynccontextmanager
async def staged(
    scenario: Scenario, broker: Broker, fleet: Fleet, *, links: Links | None, places: Places | None, run_id: str
) -> AsyncIterator[Timeline]:
    """Yield the timeline of the scenario's faults, not started; at the end every fault is healed."""
    services: dict[str, list[str]] = {name: [] for name in scenario.services}
    waiting: dict[str, list[str]] = {name: [] for name in scenario.services}
    first_pods = len(scenario.first_pods())
    for place, (name, service) in enumerate(scenario.pods()):
        (services if place < first_pods else waiting)[service].append(name)
    command_clients = [CommandClient(node, name=f"buslab-{run_id}-faults") for node in broker.address.nodes]
    pods = fleet.host.replicas
    shared = None if links is None else SharedLinks(links)
    world = World(
        broker=broker.control,
        ask=command_clients[0].ask,
        pods=pods,
        services=services,
        links=shared,
        servers=command_clients,
        waiting=waiting,
        machines=places,
    )
    timeline = Timeline(scenario.faults, world, fleet.recorder, seed=scenario.seed)
    task = asyncio.current_task()
    assert task is not None
    cancelled = 0
    try:
        yield timeline
    finally:
        cancelled = task.cancelling()
        try:
            await to_the_end(timeline.heal())
        finally:
            for command_client in command_clients:
                command_client.close()
    if task.cancelling() > cancelled:
        raise asyncio.CancelledError  # a Ctrl-C while faults were healed: they are healed all the same
