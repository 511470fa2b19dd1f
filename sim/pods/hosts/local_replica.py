"""One pod of the host `local`, as the run sees it: hurt and mended by signals to its process, told things over the line.

The rules are those of `sim.pods.replica`, where a pod is in the run's own process. Only a pod in a process of its own can be
ended or frozen.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

import msgspec

from sim.errors import HostError, UsageError
from sim.machine.clock import now_ns, to_the_end
from sim.machine.files import file_name
from sim.pods.hosts.local_messages import Cease, Failing, Handlers, Skew, Told
from sim.pods.hosts.local_process import HostProcess
from sim.pods.replica import GRACE_S

CEASE_TIMEOUT_S = 1.0


class ReplicaOwner(Protocol):
    """A host as its pods see it."""

    closing: bool

    @property
    def replicas(self) -> dict[str, LocalReplica]:
        """All pods, by their names."""

    def hand_over(self, old: LocalReplica) -> None:
        """Give the calls and reads of a pod to its heir, if it has one."""

    async def launch(self, pods: list[LocalReplica], *, name: str, killable: bool, patient: bool) -> HostProcess:
        """Start a process that holds these pods."""

    async def up(self, process: HostProcess) -> None:
        """Return when the pods of a process run."""

    def buried(self, pod: LocalReplica, process: HostProcess, died_ns: int) -> None:
        """Record that the process of a pod is gone."""

    def record_state(self, pod: LocalReplica, state: str, at_ns: int) -> None:
        """Record a state that the pod cannot record itself; empty: the one that it recorded last."""


class LocalReplica:
    """One pod in a process of its own, or in one that it shares: then only its handlers and its clock can be changed.

    Attributes
    ----------
    port
        Where it serves HTTP; 0 when it does not.
    ended
        Set while it does not run.
    state
        As it said last.
    ready
        Whether its readiness endpoint would say so, as it said last.
    process
        That of its incarnation of now, or of the last one.
    wanted, heir
        As of `sim.pods.replica.InlineReplica`.
    seen
        When the run heard of each state of this incarnation: time, state, bus; for a pod whose own record may be lost.
    place, calls
        The number of the pod whose calls it makes, and whether it makes them now.
    """

    def __init__(self, host: ReplicaOwner, name: str, *, number: int, service: str, channels: str, deployed: bool) -> None:
        self.name = name
        self.number = number
        self.service = service
        self.channels = channels
        self.port = 0
        self.ended = asyncio.Event()
        self.wanted = asyncio.Event()
        (self.wanted if deployed else self.ended).set()
        self.heir: LocalReplica | None = None
        self.place, self.calls = number, deployed
        self.ready = False
        self.state = "new"
        self.frozen = False
        self.seen: list[tuple[int, str, str]] = []
        self.process: HostProcess | None = None
        self.first_key = 0
        self.told: dict[str, Told] = {}
        self._host = host
        self._starts = 0
        self._changing = asyncio.Lock()  # a start waits for a stop and the other way round; a kill waits for nothing

    @property
    def running(self) -> bool:
        """Whether an incarnation runs, frozen or not."""
        return self.state != "new" and not self.ended.is_set()

    def _own(self) -> HostProcess:
        if self.process is None or not self.process.killable:
            raise UsageError(f"{self.name} shares a process: it cannot be ended or frozen alone")
        return self.process

    async def begin(self, *, patient: bool = False) -> HostProcess:
        """Start an incarnation in a process of its own; `LocalHost.up` waits for it."""
        self._starts += 1
        self.state, self.seen = "starting", []
        process = await self._host.launch([self], name=f"{file_name(self.name)}.{self._starts}", killable=True, patient=patient)
        self.ended.clear()
        return process

    async def start(self) -> None:
        """Start a new incarnation; do nothing when one runs. Return when HTTP answers; the bus is tried for as long as it takes."""
        async with self._changing:
            if not self.ended.is_set() or not self.wanted.is_set() or self._host.closing:
                return
            process = await self.begin(patient=True)
            try:
                await self._host.up(process)
            except HostError:
                if not self.ended.is_set():  # else it was killed meanwhile
                    raise

    async def deploy(self, *, of: str) -> None:
        """Start it for the first time, in the place of another pod: what faults told that one holds for it too."""
        old = self._host.replicas[of]
        self.told = {kind: msgspec.structs.replace(told, pod=self.name) for kind, told in old.told.items()}
        self.place, old.heir = old.place, self
        self.wanted.set()
        await self.start()
        if not old.wanted.is_set():
            self._host.hand_over(old)

    async def retire(self, *, grace_s: float = GRACE_S) -> None:
        """Stop it for good; who was deployed in its place makes its calls from now on."""
        self.wanted.clear()
        if self.running and not self.frozen and self.process is not None:
            with contextlib.suppress(HostError, TimeoutError):  # one that is gone, or does not answer, makes no call either
                async with asyncio.timeout(min(CEASE_TIMEOUT_S, grace_s)):
                    await self.process.ask(Cease(self.name))
        self._host.hand_over(self)
        await self.stop(grace_s=grace_s)

    async def kill(self) -> None:
        """Kill it (SIGKILL)."""
        await self._kill()
        async with self._changing:  # a start that was under way is over by now; its pod must end too
            await self._kill()

    async def lose_machine(self) -> None:
        """Kill it (SIGKILL); nothing starts it again before `get_machine`."""
        self.wanted.clear()
        await self.kill()

    def get_machine(self) -> None:
        """Be one of the pods that should run again."""
        self.wanted.set()

    async def _kill(self) -> None:
        """Kill it (SIGKILL), and wait for nothing but the kernel of its machine, and the way there."""
        if not self.ended.is_set() and self.process is not None:
            process = self._own()
            process.kill()
            await process.handed_over()
            if self.process is process:
                self.bury("aborted")

    def bury(self, state: str) -> None:
        """Mark it as ended, because its process is gone, and tell its host."""
        if not self.ended.is_set():
            self.ended.set()
            self.port, self.frozen, self.state, self.ready = 0, False, state, False
            self._host.buried(self, self._own(), now_ns())

    async def stop(self, *, grace_s: float = GRACE_S) -> None:
        """Stop it in order (SIGTERM), and kill it when that takes longer than the grace period."""
        async with self._changing:
            if self.ended.is_set():
                return
            try:
                in_order = await self._own().stop(timeout_s=grace_s)
                await self._own().handed_over()
            except asyncio.CancelledError:
                await to_the_end(self._kill())  # a pod that is half stopped must be one that can be started
                raise
            self.bury("stopped" if in_order else "aborted")

    async def freeze(self) -> None:
        """Freeze it (SIGSTOP); do nothing when it is frozen, or does not run."""
        if not self.ended.is_set() and not self.frozen:
            await self._own().freeze()
            self.frozen = True
            self._host.record_state(self, "frozen", now_ns())

    async def thaw(self) -> None:
        """Thaw it (SIGCONT)."""
        if not self.ended.is_set() and self.frozen:
            self._host.record_state(self, "", now_ns())
            self.frozen = False
            await self._own().thaw()

    async def slow(self, *, handler_ms: float, at_once: int) -> None:
        """Slow its handlers down: so long for each event, at most so many at a time; 0 and 0: as its service's settings say."""
        await self._tell(Handlers(self.name, handler_ms, at_once))

    async def fail(self, failing: bool) -> None:
        """Make its handlers raise, or work again."""
        await self._tell(Failing(self.name, failing))

    async def skew(self, skew_ms: float) -> None:
        """Set its wall clock ahead by so much."""
        await self._tell(Skew(self.name, skew_ms))

    async def _tell(self, told: Told) -> None:
        self.told[type(told).__name__] = told
        if self.heir is not None:
            await self.heir._tell(msgspec.structs.replace(told, pod=self.heir.name))
        if self.process is not None and not self.ended.is_set() and not self.frozen:
            await self.process.ask(told)
