"""What a scenario means: `check_scenario` gathers it, `sim.measure.meaning.table` shows it, `msgspec` writes it as JSON.

Nothing is started, and no broker is asked. Rates and sizes are of the load; what faults do to them, a run finds out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np

from sim.faults.catalogue.machine_down import MachineDown
from sim.machine.words import count, duration
from sim.measure.meaning.channels import ChannelLoad, channel_loads, has_broker, link_bytes, shares_of_peak
from sim.measure.meaning.machine import ResourceNeed, carried_here
from sim.record.schema import HTTP_CALL
from sim.scenario.notes import notes_of
from sim.scenario.problems import quoted
from sim.scenario.run_settings import REPLAY
from sim.scenario.schedule import SHAPES
from sim.scenario.settings import Scenario

FORMAT = 1
COUNTED_CALLS = 1_000_000
OWN_CONNECTIONS = 2  # of the run itself: the prober's and the sampler's


class ServiceMeaning(msgspec.Struct, frozen=True):
    """One service: its pods, and what each of them is asked, in the mean of the run.

    Attributes
    ----------
    copies_per_s
        That one pod hears.
    calls_per_s
        That one pod is made to make.
    """

    name: str
    pods: int
    behaviour: str
    publishes: tuple[str, ...]
    subscribes: tuple[str, ...]
    copies_per_s: float
    calls_per_s: float


class ConnectionCounts(msgspec.Struct, frozen=True):
    """The connections to one server, all up; in a cluster, where an end has one to each master, more.

    Attributes
    ----------
    hearing, speaking
        One a pod that subscribes to anything, and one a pod.
    locking
        One a pod that hears, where a recipe of handling once asks the server; opened with its first lock.
    locust
        One a pod for which Locust makes a call; one that is called so seldom that its turn never comes has none.
    own
        The run's own: it probes and it samples.
    """

    hearing: int
    speaking: int
    locking: int
    locust: int
    own: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.hearing + self.speaking + self.locking + self.locust + self.own


class FaultMeaning(msgspec.Struct, frozen=True):
    """One fault: when it may be on, in seconds of the run phase, and on which pods: empty = all, None = the broker."""

    kind: str
    spans_s: tuple[tuple[float, float], ...]
    pods: tuple[str, ...] | None
    settings: dict[str, object]


class Meaning(msgspec.Struct, frozen=True):
    """What a scenario means.

    Attributes
    ----------
    peak_rate_per_s, mean_rate_per_s
        Calls a second over all publishers, at the peak of the shape and in the mean of the run.
    http_calls_per_s
        Those of them that go by HTTP and not over the bus.
    channels
        Those that something is called of, most copies first.
    link_bytes_per_s
        All channels on the broker's link in its fuller direction, as of each of them; None where frames are not counted.
    connections
        None where there is no broker.
    faults
        In the order of their beginnings.
    limits
        Metric -> bound.
    machine, not_measured
        What this machine carries, and what nobody measured here.
    notes
        What is odd and not wrong.
    """

    format: int
    name: str
    title: str
    transport: str
    driver: str
    shape: str
    warm_up_s: float
    run_s: float
    peak_rate_per_s: float
    mean_rate_per_s: float
    http_calls_per_s: float
    pods: int
    services: tuple[ServiceMeaning, ...]
    channels: tuple[ChannelLoad, ...]
    link_bytes_per_s: tuple[float, float] | None
    connections: ConnectionCounts | None
    faults: tuple[FaultMeaning, ...]
    limits: dict[str, float]
    machine: tuple[ResourceNeed, ...]
    not_measured: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def events_per_s(self) -> float:
        """Over all channels, in the mean of the run."""
        return sum(one.events_per_s for one in self.channels)

    @property
    def copies_per_s(self) -> float:
        """Over all channels, in the mean of the run."""
        return sum(one.copies_per_s for one in self.channels)


def check_scenario(scenario: Scenario, *, measured: Path | None = None) -> Meaning:
    """Return what a scenario means.

    Parameters
    ----------
    measured
        The folder of `costs.json` and `capacity.json` (`buslab calibrate`, `buslab capacity`); by default the reports' folder, as far as
        they are of this machine.

    Raises
    ------
    ScenarioError
        A payload cannot be made, also one that nothing is called of and that a run does not need.
    UsageError
        What was measured cannot be read.
    """
    load = scenario.load
    for name in scenario.channels:
        if not load.mix.get(name):  # the others were tried when the scenario was read
            scenario.content(name)
    loads = channel_loads(scenario)
    machine, not_measured = carried_here(scenario, loads, measured=measured)
    mean = load.rate_per_s * _mean_share(scenario)
    mix = {name: weight for name, weight in load.mix.items() if weight > 0}
    return Meaning(
        format=FORMAT,
        name=scenario.name,
        title=scenario.title,
        transport=scenario.bus.transport,
        driver=load.driver,
        shape=load.shape,
        warm_up_s=load.warm_up_s,
        run_s=load.run_s,
        peak_rate_per_s=load.rate_per_s,
        mean_rate_per_s=mean,
        http_calls_per_s=mean * mix.get(HTTP_CALL, 0.0) / sum(mix.values()),
        pods=len(scenario.first_pods()),
        services=tuple(_services(scenario, loads)),
        channels=tuple(loads),
        link_bytes_per_s=link_bytes(scenario, loads),
        connections=connections_of(scenario),
        faults=tuple(_faults(scenario)),
        limits=dict(scenario.slo),
        machine=tuple(machine),
        not_measured=tuple(not_measured),
        notes=(*notes_of(scenario), *_load_notes(scenario, loads)),
    )


def connections_of(scenario: Scenario) -> ConnectionCounts | None:
    """Return the connections that a run opens to one server; None where its events go through none."""
    if not has_broker(scenario):
        return None
    services = scenario.services.values()
    hearing = sum(service.replicas for service in services if service.subscribes)
    return ConnectionCounts(
        hearing=hearing,
        speaking=len(scenario.first_pods()),
        locking=hearing if scenario.bus.once != "none" else 0,
        locust=_called_pods(scenario) if scenario.load.driver == "locust" else 0,
        own=OWN_CONNECTIONS,
    )


def _called_pods(scenario: Scenario) -> int:
    """Return how many pods a call is made for: counted in the schedule, or, where that is long, all that publish anything called."""
    load = scenario.load
    if load.rate_per_s * (load.warm_up_s + load.run_s) <= COUNTED_CALLS:
        return len(np.unique(scenario.schedule().pod))
    called = {name for name, weight in load.mix.items() if weight > 0}
    return sum(service.replicas for service in scenario.services.values() if called & set(service.publishes))


def _mean_share(scenario: Scenario) -> float:
    """Return the mean of a shape over the run, as a share of its peak."""
    if scenario.load.shape == REPLAY:
        shares = shares_of_peak(scenario)
        return sum(shares) / len(shares)
    points = SHAPES[scenario.load.shape]
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))


def _services(scenario: Scenario, loads: Sequence[ChannelLoad]) -> list[ServiceMeaning]:
    found = []
    by_name = {one.name: one for one in loads}
    one_per_service = scenario.bus.redis_url and scenario.transport().one_per_service
    for name, service in scenario.services.items():
        heard = sum(by_name[channel].events_per_s for channel in service.subscribes if channel in by_name)
        if not scenario.bus.redis_url:  # a pod hears what it publishes itself
            both = [by_name[channel] for channel in service.subscribes if channel in by_name and channel in service.publishes]
            heard = sum(one.events_per_s / one.publishers for one in both)
        calls = sum(by_name[channel].calls_per_s / by_name[channel].publishers for channel in service.publishes if channel in by_name)
        found.append(
            ServiceMeaning(
                name=name,
                pods=service.replicas,
                behaviour=scenario.behaviour(name),
                publishes=service.publishes,
                subscribes=service.subscribes,
                copies_per_s=heard / service.replicas if one_per_service else heard,
                calls_per_s=calls,
            )
        )
    return found


def _faults(scenario: Scenario) -> list[FaultMeaning]:
    found = []
    for fault in scenario.faults:
        settings: dict[str, object] = msgspec.to_builtins(fault)
        for name in ("kind", "pods", "at_s", "for_s", "within_s", "times", "every_s"):
            settings.pop(name, None)
        kind = type(fault).__struct_config__.tag
        pods = tuple(fault.pods) if hasattr(fault, "pods") else None
        if isinstance(fault, MachineDown):
            far = scenario.hosts.kind == "dask"  # there the cluster says which pods are on it
            pods = ("a worker with its pods",) if far else tuple(fault.held([name for name, _ in scenario.pods()]))
        found.append(FaultMeaning(str(kind), tuple(fault.spans_s()), pods, settings))
    return sorted(found, key=lambda one: one.spans_s)


def _load_notes(scenario: Scenario, loads: Sequence[ChannelLoad]) -> list[str]:
    """Return what is odd about rates and sizes."""
    found, rules = [], scenario.batches()
    for one in loads:
        where = f"channels.{quoted(one.name)}"
        if one.failed:
            found.append(f"{where}.payload: {one.failed:,} of {count(one.tried, 'call')} that were tried cannot be made, and fail in a run")
        if one.batched and one.items_per_event < rules[one.name].size and rules[one.name].interval_ms / 1000 > scenario.load.run_s:
            wait = duration(rules[one.name].interval_ms / 1000)
            found.append(
                f"{where}: a batch waits for up to {wait}, longer than the run of {duration(scenario.load.run_s)}: most leave after its end"
            )
    return found
