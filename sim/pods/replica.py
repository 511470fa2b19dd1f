"""One place in the fleet where a pod runs: it starts, ends, and starts again, as a container of Kubernetes does.

Rules
-----
1. Every start makes a new *incarnation*: a `Pod` of the same name and number with empty caches and a sequence of events of its own.
2. HTTP answers before the bus is tried, and as long as the pod runs: a new incarnation may listen on another port.
3. What a fault says of a pod's handlers or clock (`slow`, `fail`, `skew`) holds for the incarnations to come as well, and for the pod
   that is deployed in its place.
4. `kill` and `abort` need no consent of the pod. `stop` is SIGTERM: a pod that is frozen, or does not end in its grace period, is
   killed then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from sim.bus.metrics import create_metrics, register_event_bus_metrics, register_refusals
from sim.errors import BrokerError, UsageError
from sim.machine.clock import now_ns
from sim.machine.http_server import HttpServer
from sim.pods.endpoints import PROBES, endpoints, is_ready
from sim.pods.http_calls import HttpCalls
from sim.pods.pod import ENDED, Pod
from sim.record.recorder import Recorder

GRACE_S = 30.0  # Kubernetes' terminationGracePeriodSeconds
MAX_PUBLISHERS = 32_768  # numbers in event keys; those above belong to Locust and the prober


def next_publisher(name: str, publishers: Iterator[int]) -> int:
    """Return the number in its event keys of the next incarnation of a pod.

    Raises
    ------
    UsageError
        There are no more.
    """
    publisher = next(publishers)
    if publisher >= MAX_PUBLISHERS:
        raise UsageError(f"{name} cannot start once more: event keys have room for {MAX_PUBLISHERS:,} starts of pods in a run")
    return publisher


class InlineReplica:
    """One pod of the fleet in this process: its incarnations, one after another.

    Attributes
    ----------
    pod
        The incarnation of now, or the last one.
    port
        Where it serves HTTP; 0 when it does not.
    started_ns
        When this incarnation was started.
    ended
        Set while no incarnation runs.
    stopping
        Whether this incarnation was told to end in order: its application makes no call any more.
    poster
        Makes this incarnation's calls by HTTP.
    wanted
        Set while it is one of the pods that should run: not before it is deployed, nor when it is retired, nor without a machine.
    heir
        Who was deployed in its place.

    Parameters
    ----------
    new_pod
        Makes the next incarnation.
    serves
        Whether it serves HTTP.
    ports
        Where the analytics pods that run now listen.
    fleet
        All places, by the pod's name; None for a pod that is never replaced.
    deployed
        Whether it is one of the pods that the run starts.
    hand_over
        Called with (a pod, its heir) when the heir makes its calls from now on.
    """

    def __init__(
        self,
        new_pod: Callable[[], Pod],
        *,
        recorder: Recorder,
        serves: bool = False,
        ports: Callable[[], Sequence[int]] = tuple,
        fleet: Mapping[str, InlineReplica] | None = None,
        deployed: bool = True,
        hand_over: Callable[[InlineReplica, InlineReplica], None] = lambda old, new: None,
    ) -> None:
        self.port = 0
        self.started_ns = 0
        self.ended = asyncio.Event()
        self.wanted = asyncio.Event()
        (self.wanted if deployed else self.ended).set()
        self.heir: InlineReplica | None = None
        self._fleet = fleet or {}
        self._hand_over = hand_over
        self._new_pod = new_pod
        self._recorder = recorder
        self._serves = serves
        self._ports = ports
        self._changing = asyncio.Lock()  # a start waits for a stop and the other way round; a kill waits for nothing
        self._starting: asyncio.Task[None] | None = None
        self._http: HttpServer | None = None
        self._told: dict[str, Callable[[Pod], None]] = {}
        self._take(new_pod())

    def _take(self, pod: Pod) -> None:
        self.pod = pod
        self.stopping = False
        for tell in self._told.values():
            tell(pod)
        self.poster = HttpCalls(pod.identity, freezer=pod.freezer, recorder=self._recorder, ports=self._ports, journal=pod.journal)

    @property
    def name(self) -> str:
        """The pod's name, the same for all incarnations."""
        return self.pod.name

    @property
    def running(self) -> bool:
        """Whether an incarnation runs, frozen or not."""
        return self.pod.state != "new" and self.pod.state not in ENDED

    @property
    def frozen(self) -> bool:
        """Whether it stands still."""
        return self.pod.state == "frozen"

    @property
    def ready(self) -> bool:
        """Whether it is ready, as its endpoint says."""
        return self.running and not self.frozen and is_ready(self.pod)

    async def begin(self, *, patient: bool = False) -> None:
        """Start the first incarnation; return when the broker confirmed its subscriptions or, if `patient`, when `start` would.

        Raises
        ------
        BrokerUnreachable, BrokerRefused
        """
        await self._serve()
        if patient:
            self._try_bus()
        else:
            await self.pod.start()

    async def start(self) -> None:
        """Start a new incarnation; do nothing when one runs. Return when HTTP answers; the bus is tried for as long as it takes."""
        async with self._changing:
            if not self.ended.is_set() or not self.wanted.is_set():
                return
            self._take(self._new_pod())
            await self._serve()
            self.ended.clear()
            self._try_bus()

    async def deploy(self, *, of: str) -> None:
        """Start the first incarnation, in the place of another pod: what faults told that one holds for it too."""
        old = self._fleet[of]
        self._told = dict(old._told)
        for tell in self._told.values():
            tell(self.pod)
        old.heir = self
        self.wanted.set()
        async with self._changing:
            await self._serve()
            self.ended.clear()
            self._try_bus()
        if not old.wanted.is_set():
            self._hand_over(old, self)

    async def retire(self, *, grace_s: float = GRACE_S) -> None:
        """End as on SIGTERM, for good; who was deployed in its place makes its calls from now on."""
        self.wanted.clear()
        self.stopping = True
        if self.heir is not None:
            self._hand_over(self, self.heir)
        await self.stop(grace_s=grace_s)

    def _try_bus(self) -> None:
        self._starting = asyncio.get_running_loop().create_task(self.pod.freezer.hold(self._start_bus, self.pod))

    async def _start_bus(self, pod: Pod) -> None:
        with contextlib.suppress(BrokerError):  # the pod stays, and does what its policy says
            await pod.start()

    async def _serve(self) -> None:
        self.started_ns = now_ns()
        if not self._serves:
            return
        pod, metrics = self.pod, create_metrics(self.pod.service)
        routes = endpoints(pod, metrics, call=lambda kind, data: pod.call(kind, data), admin_token="")
        http = self._http = HttpServer(routes, first=PROBES, freezer=pod.freezer)
        register_event_bus_metrics(pod.service, metrics, pod.counts, prefix=pod.metrics_prefix)
        register_refusals(metrics, lambda: http.refused)
        await http.start("127.0.0.1", 0)
        self.port = http.port

    async def stop(self, *, grace_s: float = GRACE_S) -> None:
        """End as on SIGTERM, and as on SIGKILL when that takes longer than the grace period."""
        if self._is_not_born:
            return
        async with self._changing:
            try:
                if not self.ended.is_set():
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(grace_s):
                            await self._stop_pod(grace_s)
            finally:  # also when whoever waits is cancelled: a pod that is half stopped must be one that can be started
                await self._close()

    async def _stop_pod(self, grace_s: float) -> None:
        pod = self.pod
        stopping = asyncio.get_running_loop().create_task(pod.freezer.hold(self._stop_in_order, pod, grace_s))
        try:
            await asyncio.wait({stopping})
        finally:
            if not stopping.done():  # the grace period is over
                pod.abort()
                stopping.cancel()
            await asyncio.gather(stopping, return_exceptions=True)

    async def _stop_in_order(self, pod: Pod, grace_s: float) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        self.stopping = True  # what was called after the flush would end unsent
        await self.poster.settle()
        await pod.stop(timeout_s=0.4 * grace_s)  # for each of its two waits

    @property
    def _is_not_born(self) -> bool:
        return self.pod.state == "new" and not self.wanted.is_set()

    async def kill(self) -> None:
        """End at once, as on SIGKILL."""
        if not self._is_not_born:
            await self._end()

    async def _end(self) -> None:
        self.abort()
        async with self._changing:  # a start that was under way is over by now; its pod must end too
            await self._close()

    async def lose_machine(self) -> None:
        """End at once, as on SIGKILL; nothing starts it again before `get_machine`."""
        self.wanted.clear()
        await self._end()

    def get_machine(self) -> None:
        """Be one of the pods that should run again."""
        self.wanted.set()

    async def _close(self) -> None:
        self.abort()
        if self._http is not None:
            await self._http.close()

    async def freeze(self) -> None:
        """Freeze the pod, as on SIGSTOP."""
        self.pod.freeze()

    async def thaw(self) -> None:
        """Thaw the pod, as on SIGCONT."""
        self.pod.thaw()

    async def slow(self, *, handler_ms: float, at_once: int) -> None:
        """Slow its handlers down: so long for each event, at most so many at a time; 0 and 0: as its service's settings say."""
        self._tell("slow", lambda pod: pod.slow(handler_ms=handler_ms, at_once=at_once))

    async def fail(self, failing: bool) -> None:
        """Make its handlers raise, or work again."""
        self._tell("fail", lambda pod: pod.fail(failing))

    async def skew(self, skew_ms: float) -> None:
        """Set its wall clock ahead by so much."""
        self._tell("skew", lambda pod: pod.skew(skew_ms))

    def _tell(self, what: str, tell: Callable[[Pod], None]) -> None:
        self._told[what] = tell
        tell(self.pod)
        if self.heir is not None:
            self.heir._tell(what, tell)

    async def settle(self, *, timeout_s: float, last: bool = False, handled: bool = False) -> None:
        """Flush the batch, and wait for every answer; a pod that does not run, or stands still, has nothing to wait for.

        The last time, what a pod still has to keep, as it has no connection, is given up. With `handled`, wait for its handlers too.
        """
        if self.running and not self.frozen:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self.poster.settle()
            await self.pod.drain(timeout_s=timeout_s)
            if last:
                self.pod.give_up_kept()
            if handled:
                await self.pod.finish_handling(timeout_s)

    def abort(self) -> None:
        """Drop everything at once, and wait for nothing."""
        if self._starting is not None:
            self._starting.cancel()
        self.pod.abort()
        self.poster.abort()
        if self._http is not None:
            self._http.abort()
        self.port = 0
        self.ended.set()
