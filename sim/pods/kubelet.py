"""A kubelet for the pods of a fleet: it probes them over HTTP, records each answer, and restarts a pod that ended or fails.

The rules are Kubernetes' (its pages "Pod Lifecycle" and "Configure Liveness, Readiness and Startup Probes"):

1. A probe is a GET on a connection of its own, every period after an initial delay. A status from 200 to 399 in time is success.
2. A pod is *ready* after `success_threshold` successes in a row, and not after `failure_threshold` failures. At its start it is not.
3. After `failure_threshold` failed liveness probes the pod gets SIGTERM, and SIGKILL when its grace period is over, and starts again.
   A pod that ended by itself starts again too (restartPolicy Always), whatever the reason.
4. The first restart is immediate. Then a back-off of 10 s doubles with each, up to 300 s, and begins anew for a pod that ran for 600 s.

So that the probes of many pods do not come at the same moment, each pod's first probes are later by a random part, by seed, of a
tenth of their period.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Literal, Protocol

from sim.errors import BuslabError, MachineLost
from sim.machine.clock import NS_PER_S, now_ns
from sim.machine.http_client import HttpFailure, Reply, ask_once
from sim.record.recorder import Recorder
from sim.scenario.run_settings import Kubelet

JITTER = 0.1
Probe = Literal["live", "ready"]


class Probed(Protocol):
    """A pod as the kubelet sees it."""

    port: int
    ended: asyncio.Event
    wanted: asyncio.Event

    @property
    def name(self) -> str:
        """The pod's name."""

    async def stop(self, *, grace_s: float) -> None:
        """Stop it as on SIGTERM, and kill it after the grace period."""

    async def start(self) -> None:
        """Start it anew; do nothing when it runs."""


AskPod = Callable[[Probed, str, float], Awaitable[Reply]]


async def ask_here(pod: Probed, path: str, timeout_s: float) -> Reply:
    """Ask a pod of this machine; raise `HttpFailure` where no answer came in time."""
    return await ask_once(pod.port, path, timeout_s=timeout_s)


class Streak:
    """The state of one probe, good or not: it changes after so many equal outcomes in a row."""

    def __init__(self, *, good: bool, successes: int, failures: int) -> None:
        self.good = good
        self._needed = {True: successes, False: failures}
        self._last = good
        self._count = 0

    def take(self, success: bool) -> bool:
        """Count one outcome, and return the state after it."""
        self._count = self._count + 1 if success == self._last else 1
        self._last = success
        if self._count >= self._needed[success]:
            self.good = success
        return self.good


class BackOff:
    """The waits before the restarts of one container, each longer than the one before."""

    def __init__(self, settings: Kubelet) -> None:
        self._settings = settings
        self._next_s = 0.0

    def wait_s(self, *, ran_s: float) -> float:
        """Return the wait before the next restart of a container that ran for so long."""
        first_s, last_s = self._settings.back_off_s, self._settings.back_off_max_s
        wait_s = 0.0 if ran_s >= self._settings.back_off_reset_s else self._next_s
        self._next_s = min(max(first_s, 2 * wait_s), last_s)
        return wait_s


class FleetKubelet:
    """The kubelet of a fleet: it probes the pods and keeps them running.

    Attributes
    ----------
    ready
        Pod name -> whether its last readiness probes say so.
    restarts
        Pod name -> how often it was started again.
    """

    def __init__(
        self,
        settings: Kubelet,
        pods: Iterable[Probed],
        *,
        recorder: Recorder,
        seed: int,
        failed: Callable[[BuslabError], None],
        ask_pod: AskPod = ask_here,
    ) -> None:
        self.ready: dict[str, bool] = {}
        self.restarts: Counter[str] = Counter()
        self._settings = settings
        self._ask_pod = ask_pod
        self._pods = list(pods)
        self._probes = recorder.tables["probes"]
        self._seed = seed
        self._failed = failed
        self._tasks: list[asyncio.Task[None]] = []
        self._restarting: set[str] = set()  # pods that it is ending, or waits to start again
        self._closing = False

    def start(self) -> None:
        """Begin to probe every pod; each counts as started now."""
        loop = asyncio.get_running_loop()
        for place, pod in enumerate(self._pods):
            self.ready[pod.name] = False
            task = loop.create_task(self._keep(pod, random.Random(f"{self._seed}/{place}")))
            task.add_done_callback(self._ended)
            self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._failed(error if isinstance(error, BuslabError) else BuslabError(f"the kubelet failed: {type(error).__name__}: {error}"))

    def abort(self) -> None:
        """Probe and restart no more; a pod that was to end is killed, one that was to start stays down."""
        for task in self._tasks:
            task.cancel()

    async def close(self, *, finish_s: float = 0.0) -> None:
        """Probe no more and begin no restart; return when nothing is under way: a restart that is has so long to finish."""
        self._closing = True
        under_way = {task for pod, task in zip(self._pods, self._tasks, strict=False) if pod.name in self._restarting and not task.done()}
        for task in self._tasks:
            if task not in under_way:
                task.cancel()
        if under_way and finish_s:
            await asyncio.wait(under_way, timeout=finish_s)
        self.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, pod: Probed, chance: random.Random) -> None:
        """Probe one pod and restart it, until the kubelet closes; one that takes the place of another is probed when it starts."""
        settings, back_off = self._settings, BackOff(self._settings)
        while not self._closing:
            await pod.wanted.wait()
            started_ns = now_ns()
            await self._watch(pod, chance)
            self.ready[pod.name] = False
            if not pod.wanted.is_set():
                continue
            self._restarting.add(pod.name)
            if not pod.ended.is_set():
                await pod.stop(grace_s=settings.grace_s)
            ran_s = (now_ns() - started_ns) / NS_PER_S
            await asyncio.sleep(back_off.wait_s(ran_s=ran_s) + settings.restart_delay_s)
            if pod.wanted.is_set():
                await pod.start()
                self.restarts[pod.name] += 1
            self._restarting.discard(pod.name)

    async def _watch(self, pod: Probed, chance: random.Random) -> None:
        """Probe a pod until it ends or its liveness fails."""
        loop = asyncio.get_running_loop()
        ready = loop.create_task(self._probe_readiness(pod, chance.random()))
        last = {loop.create_task(self._probe_liveness(pod, chance.random())), loop.create_task(pod.ended.wait())}
        try:
            done, _ = await asyncio.wait({ready, *last}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (ready, *last):
                task.cancel()
            await asyncio.gather(ready, *last, return_exceptions=True)

    async def _probe_liveness(self, pod: Probed, jitter: float) -> None:
        """Return when the pod must be restarted."""
        settings = self._settings
        streak = Streak(good=True, successes=1, failures=settings.failure_threshold)
        clock = _Ticks(settings.live_delay_s + jitter * JITTER * settings.live_period_s, settings.live_period_s)
        while streak.good:
            await clock.tick()
            if (answer := await self._ask(pod, "live")) is not None:
                streak.take(answer)

    async def _probe_readiness(self, pod: Probed, jitter: float) -> None:
        settings = self._settings
        streak = Streak(good=False, successes=settings.success_threshold, failures=settings.failure_threshold)
        clock = _Ticks(settings.ready_delay_s + jitter * JITTER * settings.ready_period_s, settings.ready_period_s)
        while True:
            await clock.tick()
            if (answer := await self._ask(pod, "ready")) is not None:
                self.ready[pod.name] = streak.take(answer)

    async def _ask(self, pod: Probed, probe: Probe) -> bool | None:
        """Probe a pod and return whether it is well; None where nobody could ask it, because its machine does not answer."""
        at_ns = now_ns()
        try:
            reply = await self._ask_pod(pod, f"/health/{probe}", self._settings.timeout_s)
            status, body = reply.status, reply.body.decode("utf-8", "replace")
        except HttpFailure as failure:
            status, body = 0, str(failure)
        except MachineLost:
            return None
        self._probes.add(at_ns, pod.name, probe, status, body)
        return 200 <= status < 400


def next_tick_s(due_s: float, *, period_s: float, now_s: float) -> float:
    """Return when the tick after the one that was due comes: a period later, or as many as have passed since; timers may be early."""
    return due_s + period_s * max(1, math.ceil((now_s - due_s) / period_s))


class _Ticks:
    """Ticks at a fixed rate; one that was missed because the work before it took long is left out."""

    def __init__(self, delay_s: float, period_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._period_s = period_s
        self._next_s = self._loop.time() + delay_s

    async def tick(self) -> None:
        await asyncio.sleep(self._next_s - self._loop.time())
        self._next_s = next_tick_s(self._next_s, period_s=self._period_s, now_s=self._loop.time())
