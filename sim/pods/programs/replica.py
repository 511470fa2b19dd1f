"""One place in the fleet where a program runs: it is started, hurt and ended as a container of Kubernetes is.

Rules
-----
1. Every start is a new process, with the same name, port and tap. It gets REDIS_URL, POD_NAME, PORT and BUSLAB_HANDLED_URL.
2. Its states are made of evidence: `starting` when its process is, `subscribed` when the broker has confirmed all that it is meant to hear,
   `disconnected` when it is not subscribed to all of it any more, `frozen` when the kernel says so, `stopped` and `aborted` when it is
   gone.
3. A connection that ends with its process is not its loss: whether the process ends too is waited for a moment (`SETTLES_S`). A program
   that was told to stop has stopped when its subscriptions have ended, if they end before its process.
4. What it believes of its connections (`bus`) is what its readiness says: `connected` or `not-ready`; without an address to ask, `untold`.
5. A kill, a freeze and a stop are signals: SIGKILL and SIGSTOP to its group, the scenario's own to the process itself, and SIGKILL after
   the grace period. Whoever waits for it to be up waits as long as the scenario's start may take.
"""

from __future__ import annotations

import asyncio
import fnmatch
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sim.errors import HostError
from sim.machine.bounded_log import BoundedLog
from sim.machine.clock import now_ns, to_the_end
from sim.machine.process_group import GroupGuard, ProcessGroup
from sim.machine.words import duration
from sim.pods.programs.books import FOREVER_NS, PodBook
from sim.pods.programs.readiness import ReadinessWatch
from sim.pods.programs.reports import WORD, ReportReader
from sim.record.run_info import ProgramLife
from sim.record.schema import PROGRAM
from sim.scenario.programs import STARTED, SUBSCRIBED, filled, ready_address
from sim.scenario.settings import Service

SETTLES_S = 0.3
ON_THE_WAY_NS = 250_000_000  # what was given to it so shortly before it was told to stop may not have been read
POLL_S = 0.01
END_TIMEOUT_S = 10.0  # for the kernel to end what was killed


@dataclass(frozen=True)
class ProgramPod:
    """What a program is told when it is started.

    Attributes
    ----------
    name, number, service
        The pod.
    settings
        Of its service.
    port
        Where it may listen.
    variables
        Of its environment, those that the run sets.
    logs
        The folder of its output.
    channel_prefix
        Of every channel of the bus.
    """

    name: str
    number: int
    service: str
    settings: Service
    port: int
    variables: Mapping[str, str]
    logs: Path
    channel_prefix: str


@dataclass(frozen=True)
class ProgramEvents:
    """Who is told of a program.

    Attributes
    ----------
    entered
        Called with (replica, time, state) at each change.
    handled
        Called with (pod number, event id, time) at each report.
    ended
        Called with a replica whose process is gone and its output read, before its life is written down: returns what its tap told of it.
    lived
        Takes the account of its life.
    """

    entered: Callable[[ProgramReplica, int, str], None]
    handled: Callable[[int, str, int], None]
    ended: Callable[[ProgramReplica], PodBook]
    lived: Callable[[ProgramLife], None]


class ProgramReplica:
    """One program of the fleet: its processes, one after another.

    Attributes
    ----------
    port
        Where it may serve HTTP; 0 while it does not run.
    ended, wanted
        As of `sim.pods.replica.InlineReplica`.
    state
        Of the pods table; empty before its first start.
    heir
        Who was deployed in its place.
    """

    def __init__(
        self,
        pod: ProgramPod,
        *,
        events: ProgramEvents,
        guard: GroupGuard,
        deployed: bool,
        start_s: float,
        fleet: Mapping[str, ProgramReplica],
    ) -> None:
        self.pod = pod
        self.port = 0
        self.state = ""
        self.frozen = False
        self.stopping = False
        self.ended, self.wanted = asyncio.Event(), asyncio.Event()
        self.ended.set()
        if deployed:
            self.wanted.set()
        self.heir: ProgramReplica | None = None
        self.unread = 0  # bytes that its tap could not read, of this incarnation
        self.round_tap: list[str] = []
        self._events, self._guard, self._start_s, self._fleet = events, guard, start_s, fleet
        self._changing = asyncio.Lock()
        self._group: ProcessGroup | None = None
        self._log: BoundedLog | None = None
        self._watch: ReadinessWatch | None = None
        self._number = 0
        self._started_ns = self._up_ns = self._told_ns = 0
        self._end = ""  # why it is going to end; empty: nobody has told it to
        self._joined: dict[int, tuple[set[str], set[str]]] = {}  # connection -> event types and patterns
        self._silent_ns = 0  # when it was not subscribed to all any more, as long as that is not written down
        self._silence: asyncio.TimerHandle | None = None
        self._last_words = ""

    # -- what it is --------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The pod's name."""
        return self.pod.name

    @property
    def in_time_ns(self) -> int:
        """Until when what was given to it was given in time to be handled before it ended, where it was told to stop."""
        return self._told_ns - ON_THE_WAY_NS if self._end == "in-order" else FOREVER_NS

    @property
    def running(self) -> bool:
        """Whether its process runs, frozen or not."""
        return not self.ended.is_set()

    @property
    def host(self) -> str:
        """Its process, as in the table `hosts`."""
        return f"{PROGRAM} {self.name}.{self._number}"

    @property
    def pid(self) -> int:
        """The process id of its process; 0 when it does not run."""
        return self._group.pid if self._group is not None and not self._group.died_ns else 0

    @property
    def ready(self) -> bool:
        """Whether it is up by the scenario's rule, now."""
        if not self.running or self.frozen:
            return False
        if self._watch is not None:
            return self._watch.ready
        return self.pod.settings.is_ready_when == STARTED or self.state == "subscribed"

    @property
    def bus(self) -> str:
        """What it believes of its connections."""
        if self.state in ("stopped", "aborted"):
            return "stopped"
        if self._watch is None:
            return "untold"
        return "connected" if self._watch.ready else "connecting" if not self._up_ns else "not-ready"

    # -- start -------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Start its first process, and return when it is up.

        Raises
        ------
        HostError
            It cannot be started, ended before it was up, or is not up in time; the message ends with its last output.
        """
        async with self._changing:
            self._launch()
        deadline_ns = self._started_ns + int(self._start_s * 1e9)
        while not self.ready:
            if self.ended.is_set():
                raise HostError(f"{self.name} ended before it was up, {self._last_words}")
            if now_ns() > deadline_ns:
                raise HostError(f"{self.name} was not up within limits.start_s = {self._start_s:g} s: {self._not_up()}{self._tail()}")
            await asyncio.sleep(POLL_S)

    def _not_up(self) -> str:
        """Return why it is not up, in words."""
        rule = self.pod.settings.is_ready_when
        if self._watch is not None:
            return f"{filled(rule, {'port': str(self.pod.port)})}: {self._watch.last}"
        missing = [channel for channel in self.pod.settings.subscribes if not self._hears(channel)]
        shown = f"{', '.join(missing[:3])}{f' and {len(missing) - 3} more' if len(missing) > 3 else ''}"
        return f"it has not subscribed to {shown} through its REDIS_URL"

    def _tail(self) -> str:
        return "" if self._log is None else f"; it said: {self._log.last(but=WORD.decode())}"

    async def start(self) -> None:
        """Start a new process; do nothing when one runs, or it should not. Return when it was started."""
        async with self._changing:
            if self.ended.is_set() and self.wanted.is_set():
                self._launch()

    def _launch(self) -> None:
        pod, settings = self.pod, self.pod.settings
        self._number += 1
        self._end, self.stopping, self.frozen, self._up_ns = "", False, False, 0
        self.unread, self.round_tap, self._joined, self._silent_ns = 0, [], {}, 0
        values = {name.lower(): value for name, value in pod.variables.items()} | {"pod": pod.name, "python": sys.executable}
        argv = [filled(word, values) for word in settings.command]
        env = {**os.environ, **{name: filled(value, values) for name, value in settings.env.items()}, **pod.variables}
        log = self._log = BoundedLog(pod.logs / f"{pod.name}.{self._number}.log")
        reports = ReportReader(lambda event, at_ns: self._events.handled(pod.number, event, at_ns))

        def took(data: bytes) -> None:
            log.write(data)
            if settings.reports_handled:
                reports.take(data, now_ns())

        try:
            self._started_ns = now_ns()  # before it can do anything
            folder = Path(settings.folder) if settings.folder else Path.cwd()
            self._group = ProcessGroup.start(argv, folder=folder, env=env, name=pod.name, took=took, guard=self._guard)
        except HostError:
            log.close()
            raise
        self._group.gone.add_done_callback(self._gone)
        self.ended.clear()
        self.port = pod.port
        if (asked := ready_address(settings.is_ready_when, port=pod.port)) is not None:
            self._watch = ReadinessWatch(*asked, asleep=lambda: self.frozen, changed=self._readiness)
        self._enter("starting", self._started_ns)
        if settings.is_ready_when == STARTED:
            self._is_up(self._started_ns)
        if not settings.subscribes:  # there is nothing to wait for
            self._enter("subscribed", self._started_ns)

    def _is_up(self, at_ns: int) -> None:
        self._up_ns = self._up_ns or at_ns

    def _readiness(self, ready: bool) -> None:
        """Take what it says of itself now."""
        if ready:
            self._is_up(now_ns())
        if self.stopping and self._silent_ns:  # it has stopped by then, as it will turn out
            return
        self._settle_silence()  # a process that answers has outlived its connection
        if self.state in ("starting", "subscribed", "disconnected"):
            self._enter(self.state, now_ns())

    def _enter(self, state: str, at_ns: int) -> None:
        self.state = state
        self._events.entered(self, at_ns, state)

    # -- what its tap tells ------------------------------------------------------------------------------------

    def joined(self, connection: int, at_ns: int, channels: set[str], patterns: set[str]) -> None:
        """Take what a connection of its own is subscribed to from now on; nothing, when it has ended."""
        if not self.running:
            return
        self._joined[connection] = channels, patterns
        self._look(at_ns)

    def left(self, connection: int, at_ns: int) -> None:
        """Take the end of a connection."""
        if self._joined.pop(connection, None) is not None and self.running:
            self._look(at_ns)

    def _hears(self, channel: str) -> bool:
        return any(channel in channels for channels, _ in self._joined.values()) or any(
            matches(pattern, self.pod.channel_prefix + channel) for _, patterns in self._joined.values() for pattern in patterns
        )

    def _look(self, at_ns: int) -> None:
        """Write down that it hears all, or does not any more."""
        wanted = self.pod.settings.subscribes
        if not wanted:
            return
        hears = all(map(self._hears, wanted))
        if (hears and self.state in ("starting", "disconnected")) or (hears and self._silent_ns):
            self._settle_silence()
            self._enter("subscribed", at_ns)
            if self.pod.settings.is_ready_when == SUBSCRIBED:
                self._is_up(at_ns)
        elif not hears and self.state == "subscribed" and not self._silent_ns:
            self._silent_ns = at_ns
            if not self.stopping:
                self._silence = asyncio.get_running_loop().call_later(SETTLES_S, self._settle_silence)

    def _settle_silence(self) -> None:
        """Write down a loss of subscriptions that its process has outlived."""
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        if self._silent_ns and self.running and not self.stopping:
            if self.state == "subscribed":
                self._enter("disconnected", self._silent_ns)
            self._silent_ns = 0

    # -- end ---------------------------------------------------------------------------------------------------

    def _gone(self, done: asyncio.Future[int]) -> None:
        """Take the end of its process: write down its state, its life, and what it had not handled."""
        assert self._group is not None and self._log is not None
        died_ns, code = self._group.died_ns, done.result()
        end = self._end or "by-itself"
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        at_ns = self._silent_ns if self.stopping and self._silent_ns else died_ns
        self._silent_ns = 0
        self.port, self.frozen = 0, False
        self.ended.set()
        self._enter("stopped" if end == "in-order" else "aborted", at_ns)
        self._log.close()
        self._last_words = f"{_exit_in_words(code)}, and said: {self._log.last(but=WORD.decode())}"
        book = self._events.ended(self)
        self._events.lived(
            ProgramLife(
                pod=self.name,
                number=self._number,
                started_ns=self._started_ns,
                up_ns=self._up_ns,
                ended_ns=died_ns,
                end=end,
                code=code,
                why=self._last_words if end == "by-itself" else "",
                log=f"{self._log.path.parent.name}/{self._log.path.name}",
                left_out=self._log.left_out,
                heard=book.heard,
                handled=book.handled,
                published=book.published,
                unhandled=book.unhandled if self.pod.settings.reports_handled else None,
                on_the_way=book.on_the_way,
                unknown_reports=book.unknown_reports,
                unread=self.unread,
                round_tap=list(self.round_tap),
            )
        )

    async def _wait(self, timeout_s: float) -> bool:
        """Wait until its process is gone; return whether it is."""
        assert self._group is not None
        await asyncio.wait([self._group.gone], timeout=timeout_s)
        await asyncio.sleep(0)  # its callback has its turn
        return self.ended.is_set()

    async def kill(self) -> None:
        """Kill it (SIGKILL), with all that it has started."""
        await self._kill()
        async with self._changing:  # a start that was under way is over by now
            await self._kill()

    async def _kill(self, end: str = "killed") -> None:
        if self.ended.is_set() or self._group is None:
            return
        self._end = self._end or end
        self._group.kill()
        if not await self._wait(END_TIMEOUT_S):
            where = f"the kernel holds its process {self._group.pid}"
            raise HostError(f"{self.name} is still there {duration(END_TIMEOUT_S)} after SIGKILL: {where}")

    async def stop(self, *, grace_s: float | None = None) -> None:
        """Ask it to end by its service's signal, and kill it after the grace period, of its service unless given."""
        async with self._changing:
            if self.ended.is_set() or self._group is None:
                return
            own_s = self.pod.settings.grace_s
            try:
                self.stopping, self._end, self._told_ns = True, "in-order", now_ns()
                self._group.ask(self.pod.settings.stop_signal)
                if not await self._wait(own_s if grace_s is None else min(grace_s, own_s)):
                    self._end = "after-grace"
                    await self._kill()
            except asyncio.CancelledError:
                await to_the_end(self._kill())
                raise

    async def lose_machine(self) -> None:
        """Kill it; nothing starts it again before `get_machine`."""
        self.wanted.clear()
        await self.kill()

    def get_machine(self) -> None:
        """Be one of the pods that should run again."""
        self.wanted.set()

    async def deploy(self, *, of: str) -> None:
        """Start it for the first time, in the place of another program."""
        self._fleet[of].heir = self
        self.wanted.set()
        await self.start()

    async def retire(self, *, grace_s: float | None = None) -> None:
        """Stop it for good."""
        self.wanted.clear()
        await self.stop(grace_s=grace_s)

    def abort(self) -> None:
        """Kill it, and wait for nothing."""
        self.wanted.clear()
        if not self.ended.is_set() and self._group is not None:
            self._end = self._end or "killed"
            self._group.kill()

    async def finish(self) -> None:
        """Return when its process is gone."""
        await self._kill()

    # -- freeze ------------------------------------------------------------------------------------------------

    async def freeze(self) -> None:
        """Freeze it (SIGSTOP), with all that it has started; nothing when it is frozen, or does not run."""
        if not self.ended.is_set() and not self.frozen and self._group is not None:
            self._settle_silence()
            self.frozen = True
            await self._group.freeze()
            if not self.ended.is_set():
                self._events.entered(self, now_ns(), "frozen")

    async def thaw(self) -> None:
        """Thaw it (SIGCONT)."""
        if not self.ended.is_set() and self.frozen and self._group is not None:
            self._events.entered(self, now_ns(), self.state)
            self.frozen = False
            self._group.thaw()

    # -- what acts inside pods of ours only; a scenario that asks a program for it is refused --------------------

    async def slow(self, *, handler_ms: float, at_once: int) -> None:
        """Refuse: nobody can slow the handlers of a program down."""
        raise HostError(f"{self.name} is a program: its handlers cannot be slowed down from outside")

    async def fail(self, failing: bool) -> None:
        """Refuse: nobody can make the handlers of a program fail."""
        raise HostError(f"{self.name} is a program: its handlers cannot be made to fail from outside")

    async def skew(self, skew_ms: float) -> None:
        """Refuse: nobody can set the clock of a program."""
        raise HostError(f"{self.name} is a program: its clock cannot be set from outside")


def matches(pattern: str, channel: str) -> bool:
    """Return whether a pattern of PSUBSCRIBE is one of a channel: `*`, `?`, and sets in brackets, as Redis reads them."""
    return fnmatch.fnmatchcase(channel, pattern.replace("[^", "[!"))


def _exit_in_words(code: int) -> str:
    if code >= 0:
        return f"with exit code {code}"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"
