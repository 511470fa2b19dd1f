"""What a cell of the matrix runs: the fault's own scenario, or the fault on a scenario of somebody's, on one of the buses.

On another scenario a fault hurts the services that stand where the reference's do: those that hear something, in their order, as often
round as there are names. Its times stay; the load lasts as long as the fault's own scenario at least.
"""

from __future__ import annotations

from msgspec.structs import replace

from sim.errors import UsageError
from sim.faults.catalogue import Fault
from sim.scenario.buses import on_bus
from sim.scenario.file import load_scenario
from sim.scenario.problems import problems
from sim.scenario.settings import Scenario

READS_PER_S = 300.0
TEMPLATES = 50  # few enough that each is read several times a second
COST_SETTINGS = ("load.rate_per_s=500", "load.run_s=5", "load.warm_up_s=1", "load.driver=pods")


def cell_scenario(fault: str, bus: str, *, seed: int, base: Scenario | None = None) -> Scenario:
    """Return what a cell runs: the fault's scenario, or the fault on `base`, on a bus, with reads, without limits.

    Raises
    ------
    UsageError
        The fault does not fit `base`.
    """
    own = load_scenario(fault, settings=("load.driver=pods", f"load.templates={TEMPLATES}"))
    if base is not None:
        own = _on_scenario(own, base)
    reads = READS_PER_S if any(own.behaviour(name) == "config-cache" for name in own.services) else 0.0
    cell = on_bus(replace(own, slo={}, seed=seed, load=replace(own.load, reads_per_s=reads)), bus)
    for problem in problems(cell) if base is not None else ():
        raise UsageError(f"{fault} does not fit {cell.name}: {problem}")
    return cell


def cost_scenario(bus: str, *, seed: int, base: Scenario | None = None) -> Scenario:
    """Return what a bus' cost is measured with: the scenario `baseline`, or `base`, without faults and limits."""
    scenario = load_scenario("baseline", settings=COST_SETTINGS)
    if base is not None:
        scenario = replace(base, faults=(), load=replace(base.load, driver="pods"))
    return on_bus(replace(scenario, seed=seed, slo={}), bus)


def _on_scenario(own: Scenario, base: Scenario) -> Scenario:
    """Return `base` with what the scenario of a fault breaks."""
    hearing = [name for name, service in base.services.items() if service.subscribes] or list(base.services)
    theirs = [name for name, service in own.services.items() if service.subscribes]
    stands_for = {name: hearing[place % len(hearing)] for place, name in enumerate(theirs)}
    load = replace(base.load, driver="pods", run_s=max(own.load.run_s, base.load.run_s))
    return replace(base, faults=tuple(_aimed(fault, stands_for, base) for fault in own.faults), load=load, kubelet=own.kubelet)


def _aimed(fault: Fault, stands_for: dict[str, str], base: Scenario) -> Fault:
    """Return a fault that hurts the services of `base` in place of the reference's."""
    pods: tuple[str, ...] = getattr(fault, "pods", ())
    if not pods:
        return fault
    aimed: dict[str, None] = {}
    for name in pods:
        service, _, number = name.rpartition("-")
        if name in stands_for:
            aimed[stands_for[name]] = None
        else:
            other = stands_for[service]
            aimed[f"{other}-{min(int(number), base.services[other].replicas - 1)}"] = None
    whole = {name for name in aimed if name in base.services}
    changed: Fault = replace(fault, **{"pods": tuple(name for name in aimed if name in whole or name.rpartition("-")[0] not in whole)})
    return changed
