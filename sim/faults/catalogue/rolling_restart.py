"""The pods of a service are restarted one after another, as for a new version: new ones first, or each in its own place."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from sim.faults.holds import end_pod, start_pod
from sim.faults.times import FaultTimes
from sim.faults.world import World

POLL_S = 0.01
Pods = Annotated[int, Meta(ge=0, le=20_000)] | Annotated[str, Meta(pattern="^[0-9]{1,3}%$")]


class RollingRestart(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="rolling_restart"):
    """Restarts of pods, service after service, each pod once, as a Kubernetes Deployment rolls out a new version.

    With `max_surge` above 0 a new pod with a new name is started first, and an old one is stopped for good when a new one is
    available. With `max_surge = 0` a pod is stopped first and starts again under its own name, as in a StatefulSet. Percentages are of
    the service's pods that are restarted; that of `max_surge` is rounded up, that of `max_unavailable` down, and when both come to 0,
    one pod may be unavailable. `for_s` may be over before the last one's turn. Where the end of the run phase comes first, a new pod
    stays and the old one in whose place it is goes, and a pod that has no successor yet stays.

    Attributes
    ----------
    pods
        Names of pods or services; empty = all.
    max_surge
        How many pods more than before there may be at a time: a number, or a percentage. Kubernetes' default.
    max_unavailable
        How many pods fewer than before may be available at a time, likewise.
    each_s
        With `max_surge`: from when a new pod is ready until it counts as available. Without: from the start of a pod to the stop of the
        next one.
    down_s
        From the decision that a pod is started, or without `max_surge` from the end of the one before it, to its start: for scheduling and
        starting a container.
    grace_s
        From SIGTERM to SIGKILL.
    """

    pods: tuple[str, ...] = ()
    max_surge: Pods = "25%"
    max_unavailable: Pods = "25%"
    each_s: Annotated[float, Meta(ge=0, le=3600)] = 1.0
    down_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    grace_s: Annotated[float, Meta(ge=0.01, le=3600)] = 30.0

    needs = ("pods",)

    def problem(self) -> str:
        """Return what is wrong with it, empty when nothing is."""
        if _share(self.max_unavailable, 100, up=True) > 100 and isinstance(self.max_unavailable, str):
            return f"max_unavailable = {self.max_unavailable!r}: give at most '100%'"
        if not _share(self.max_surge, 100, up=True) and not _share(self.max_unavailable, 100, up=True):
            return "max_surge and max_unavailable are both 0: then no pod can be restarted; raise one of them"
        return super().problem()

    def surge(self, pods: int) -> int:
        """Return how many pods more than these there may be at a time."""
        return _share(self.max_surge, pods, up=True)

    def unavailable(self, pods: int) -> int:
        """Return how many of these may be unavailable at a time."""
        return _share(self.max_unavailable, pods, up=False) or int(not self.surge(pods))

    async def begin(self, world: World) -> None:
        """Restart every pod; return after the last one's time."""
        try:
            for names in self._services(world):
                if surge := self.surge(len(names)):
                    await self._replace(world, names, surge=surge, unavailable=self.unavailable(len(names)))
                else:
                    await self._restart(world, names, at_once=self.unavailable(len(names)))
        except ExceptionGroup as several:
            raise several.exceptions[0] from None

    def _services(self, world: World) -> list[list[str]]:
        """Return the pods to restart, service by service; one that was replaced before is whoever has its place now."""
        chosen = dict.fromkeys(_holder(world, name) for name in world.names(self.pods))
        return [names for pods in world.services.values() if (names := [name for name in pods if name in chosen])]

    async def _restart(self, world: World, names: Sequence[str], *, at_once: int) -> None:
        left = deque(names)

        async def one_by_one() -> None:
            while left:
                name = left.popleft()
                await end_pod(world, name, lambda pod: pod.stop(grace_s=self.grace_s))
                await asyncio.sleep(self.down_s)
                await start_pod(world, name)
                await asyncio.sleep(self.each_s)

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(one_by_one())

    async def _replace(self, world: World, names: Sequence[str], *, surge: int, unavailable: int) -> None:
        """Start as many new pods as there is room for, and stop as many old ones as may go, until every one was replaced."""
        room, spare = asyncio.Semaphore(surge), asyncio.Semaphore(unavailable)

        async def start(old: str) -> None:
            await asyncio.sleep(self.down_s)
            if new := _deploy(world, old):
                pod = world.pods[new]
                await pod.deploy(of=old)
                while not pod.ready:
                    await asyncio.sleep(POLL_S)
                await asyncio.sleep(self.each_s)
            spare.release()

        async with asyncio.TaskGroup() as group:

            async def stop_each() -> None:
                for old in names:
                    await spare.acquire()
                    room.release()  # a pod that is stopping does not count any more
                    group.create_task(_retire(world, old, grace_s=self.grace_s))

            group.create_task(stop_each())
            for old in names:
                await room.acquire()
                group.create_task(start(old))

    async def end(self, world: World) -> None:
        """Start those that do not run and that no other fault keeps down, and stop who has a successor."""
        for names in self._services(world):
            for name in names:
                await start_pod(world, name)
        for old in list(world.kept.get("old", ())):
            if old in world.heirs:
                await _retire(world, old, grace_s=self.grace_s)


def _share(many: int | str, pods: int, *, up: bool) -> int:
    """Return a number of pods, or so many percent of them."""
    if isinstance(many, int):
        return many
    share = int(many.removesuffix("%")) * pods / 100
    return math.ceil(share) if up else math.floor(share)


def _service(world: World, pod: str) -> str:
    return next((name for name, pods in world.services.items() if pod in pods), "")


def _holder(world: World, name: str) -> str:
    """Return who has the place of a pod now."""
    while name in world.heirs and not _service(world, name):
        name = world.heirs[name]
    return name


def _deploy(world: World, old: str) -> str:
    """Make the next pod of the service one that should run, in the place of another, and return its name; empty where it has an heir."""
    service = _service(world, old) or world.kept.get("old", {}).get(old, "")
    if not service or old in world.heirs:  # another restart that is on at the same time has replaced it
        return ""
    new = world.heirs[old] = world.waiting[service].pop(0)
    world.kept.setdefault("old", {})[old] = service
    pods = world.services[service]
    assert isinstance(pods, list)
    pods.append(new)
    return new


async def _retire(world: World, old: str, *, grace_s: float) -> None:
    """Stop a pod for good; nothing when it was stopped before."""
    if service := _service(world, old):
        world.kept.setdefault("old", {})[old] = service
        pods = world.services[service]
        assert isinstance(pods, list)
        pods.remove(old)
    await world.pods[old].retire(grace_s=grace_s)
