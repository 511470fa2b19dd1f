"""A machine is gone: its pods die at once, nothing starts on it, and after a time they may start on the other machines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

from msgspec import Meta

from sim.faults.holds import end_pod, start_pod
from sim.faults.times import FaultTimes
from sim.faults.world import World


class MachineDown(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="machine_down"):
    """A machine that is away until the fault ends, as a node of Kubernetes that is switched off.

    Its pods end at the same time and without a word to anybody (SIGKILL). While it is away neither the kubelet nor another fault starts
    them on it. With `elsewhere_s` they start on the other machines after that time, each under its own name, and stay there; a pod for
    which none of them has room waits, as a pending one does. Who waits, and without `elsewhere_s` all of them, starts on the machine when
    it is back.

    Attributes
    ----------
    machine
        Which one, counted from 0. On a Dask cluster the machines are its workers, in the order of their addresses.
    machines
        How many there are where the hosts do not say, which is everywhere but on a Dask cluster: the pods are dealt out to them one by
        one, in the order of the scenario, so that the pods of one service are on as many machines as can be.
    elsewhere_s
        After how long its pods start on other machines; 0 = never. Kubernetes needs more than five minutes for it, by its defaults.
    """

    machine: Annotated[int, Meta(ge=0, le=9999)] = 0
    machines: Annotated[int, Meta(ge=1, le=10_000)] = 3
    elsewhere_s: Annotated[float, Meta(ge=0, le=86_400)] = 0.0

    needs = ("pods", "machines")

    def problem(self) -> str:
        """Return what is wrong with it, empty when nothing is."""
        if self.elsewhere_s >= self.for_s:
            return f"elsewhere_s = {self.elsewhere_s:g}: the machine is back after for_s = {self.for_s:g}; give less, or 0 for never"
        return super().problem()

    def held(self, pods: Sequence[str], place_of: Callable[[str], int] | None = None) -> list[str]:
        """Return which pods, given in the order of their numbers, are on the machine; `place_of` knows it, where the hosts do."""
        if place_of is None:
            return list(pods[self.machine :: self.machines]) if self.machine < self.machines else []
        return [name for name in pods if place_of(name) == self.machine]

    def targets(self, world: World) -> list[str]:
        """Return the pods that it takes, or took, with it: of those that should run."""
        if "pods" not in world.kept:
            should_run = set(world.names(()))
            on_it = self.held(list(world.pods), world.machines.place_of if world.machines is not None else None)
            return [name for name in on_it if name in should_run]
        taken: list[str] = world.kept["pods"]
        return taken

    async def begin(self, world: World) -> None:
        """Take the machine with its pods; where they are to start elsewhere, return when they do."""
        names = world.kept["pods"] = self.targets(world)
        if world.machines is not None:
            world.machines.take_down(self.machine)
        await asyncio.gather(*(end_pod(world, name, lambda pod: pod.lose_machine()) for name in names))
        if self.elsewhere_s:
            await asyncio.sleep(self.elsewhere_s)
            await _start(world, [name for name in names if world.machines is None or world.machines.move(name)])

    async def end(self, world: World) -> None:
        """Bring the machine back, and start those of its pods that do not run, but for what another fault keeps down."""
        if "pods" in world.kept:
            if world.machines is not None:
                world.machines.bring_back(self.machine)
            await _start(world, world.kept["pods"])


async def _start(world: World, names: Iterable[str]) -> None:
    """Start pods that have a machine now, all at the same time; one that was retired meanwhile stays down."""
    should_run = set(world.names(()))
    starting = [name for name in names if name in should_run]
    for name in starting:
        if world.who in world.holds.pods.get(name, {}):  # else it has started since, and another fault may have taken its new machine
            world.pods[name].get_machine()
    await asyncio.gather(*(start_pod(world, name) for name in starting))
