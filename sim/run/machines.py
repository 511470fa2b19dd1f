"""The other machines of a run: none, or the workers of a Dask cluster, joined before anything starts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sim.errors import UsageError
from sim.faults.catalogue.machine_down import MachineDown
from sim.machine.words import count
from sim.pods.hosts.places import Places
from sim.run.fit import OWN_FILES, files_per_pod
from sim.scenario.file import Scenario
from sim.scenario.problems import too_many_alone
from sim.wire.address import Address


@contextlib.contextmanager
def places_of(scenario: Scenario, broker: Address, *, run_id: str, parts_to: str = "") -> Iterator[Places | None]:
    """Yield where the pods of a scenario can be started, None where that is this machine; raises as `join_cluster` does."""
    if parts_to and scenario.hosts.kind != "dask":
        raise UsageError("--parts-to: only with hosts.kind = 'dask' are parts on other machines; leave it out")
    if scenario.hosts.kind != "dask" or not scenario.services:
        yield None
        return
    try:
        from sim.pods.hosts.dask_cluster import join_cluster  # heavy, and an extra: only here
    except ModuleNotFoundError as error:
        if error.name not in ("dask", "distributed"):
            raise
        raise UsageError("hosts.kind = 'dask' needs dask.distributed, which is not installed: install buslab[machines]") from None
    each = files_per_pod(scenario, nodes=len(broker.nodes))
    with join_cluster(scenario, broker=broker, run_id=run_id, files_per_pod=each, own_files=OWN_FILES, parts_to=parts_to) as places:
        check_machines(scenario, places)
        yield places


def check_machines(scenario: Scenario, places: Places) -> None:
    """Refuse faults that take a machine that is not there, or more pods than can have processes of their own.

    Raises
    ------
    UsageError
    """
    many = len(places.machines)
    for number, fault in enumerate(scenario.faults):
        if isinstance(fault, MachineDown):
            where = f"faults[{number}].machine = {fault.machine}"
            if fault.machine >= many:
                raise UsageError(f"{where}: the cluster has {count(many, 'worker')}, counted from 0: give another, or start more workers")
            if not fault.held([name for name, _ in scenario.first_pods()], places.place_of):
                raise UsageError(f"{where}: no pod is on the worker {places.machines[fault.machine]}: give another, or run more pods")
    if problem := too_many_alone(scenario, place_of=places.place_of):
        raise UsageError(f"{problem}; run fewer pods, or start more workers, so that a machine that is down takes fewer of them")
