"""Who makes the calls of a run: Locust, in a child process or as what started the run, or the pods themselves.

Both offer the same steps: `ready` (connected, waiting), `go` (time zero is set), `finished` (every call made and every batch
flushed), `close`. `hosts` are the names under which the generator's processes record what they use; Locust may have several.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec

from sim.errors import BuslabError, GeneratorError
from sim.machine.clock import NS_PER_S, now_ns
from sim.machine.line import AsyncLine, Line, start_child
from sim.machine.process import Child
from sim.machine.words import duration
from sim.pods.clocks import Clocks, MirrorClock, OtherClock
from sim.pods.hosts import Host
from sim.run.locust_messages import (
    OWN_LOCUSTFILE,
    Done,
    Go,
    LagSample,
    LoadJob,
    LoadProgress,
    Message,
    MirrorOf,
    PartHome,
    Ready,
    Stop,
)
from sim.scenario.file import Scenario
from sim.wire.address import Address

LOCUSTFILE = Path(__file__).parents[2] / "locustfiles" / "bus_user.py"
OWN = "own_users.py"  # beside it
READY_TIMEOUT_S = 60.0
CALLER_READY_TIMEOUT_S = 3600.0  # the Locust that started us may have been told to add users and workers slowly
LAGS_AT_ONCE = 100
STOP_TIMEOUT_S = 5.0
FINISH_GRACE_S = 15.0


class Generator(Protocol):
    """What makes the calls of a run."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names of the processes that make the calls."""

    @property
    def calls(self) -> int:
        """Calls made so far."""

    @property
    def calls_not_made(self) -> int:
        """Calls whose time has come and that nobody made, because their pod did not run."""

    @property
    def closed_by_server(self) -> int:
        """How often it found a connection closed by the server before a publish."""

    @property
    def published(self) -> int:
        """Events published so far that the fleet does not count itself."""

    @property
    def kept(self) -> bool:
        """Whether all that it recorded is in the run folder; to be asked once it is closed."""

    def heard(self, lags_ms: tuple[float, ...]) -> None:
        """Take some lags of what was delivered lately, to be shown."""

    async def ready(self) -> None:
        """Return when every publisher is connected."""

    async def go(self, zero_ns: int) -> None:
        """Start the schedule at that time."""

    async def finished(self) -> None:
        """Return when every call was made or given up, and every batch flushed."""

    async def close(self) -> None:
        """Stop early if need be, keep the record, and leave nothing behind."""


class PodsGenerator:
    """The fleet's own pods, which make the calls themselves."""

    kept = True  # the fleet's recorder writes it all
    closed_by_server = 0  # a pod reads all the time, so it hears at once when a connection ends

    def __init__(self, scenario: Scenario, host: Host) -> None:
        self.hosts = (host.name,)
        self._scenario = scenario
        self._fleet_host = host
        self._task: asyncio.Task[int] | None = None

    @property
    def calls(self) -> int:
        """Calls made so far."""
        return self._fleet_host.counts().calls

    @property
    def calls_not_made(self) -> int:
        """Calls whose time has come while their pod did not run."""
        return self._fleet_host.counts().calls_not_made

    @property
    def published(self) -> int:
        """Events published by this generator beside those the fleet counts: none."""
        return 0

    def heard(self, lags_ms: tuple[float, ...]) -> None:
        """Show nothing: the pods have no tables of their own."""

    async def ready(self) -> None:
        """Return at once: the pods are connected."""

    async def go(self, zero_ns: int) -> None:
        """Start the schedule at that time."""
        load = self._scenario.load
        end_ns = zero_ns + round((load.warm_up_s + load.run_s) * NS_PER_S)
        drive = self._fleet_host.drive(self._scenario.schedule(), zero_ns=zero_ns, end_ns=end_ns)
        self._task = asyncio.get_running_loop().create_task(drive)

    async def finished(self) -> None:
        """Return when every call was made; one that is late by more than the grace is given up."""
        assert self._task is not None
        done, _ = await asyncio.wait([self._task], timeout=self._scenario.load.warm_up_s + self._scenario.load.run_s + FINISH_GRACE_S)
        for task in done:
            task.result()

    async def close(self) -> None:
        """Make no more calls."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class LocustGenerator:
    """A Locust: a headless child of ours, or, over `caller`, the one that started this run.

    A child's users follow the schedule (`locustfiles/bus_user.py`), or are the user's own (`locustfiles/own_users.py`).
    """

    calls_not_made = 0  # its users run on, whatever becomes of the pods

    def __init__(
        self,
        scenario: Scenario,
        *,
        address: Address,
        folder: Path,
        nonce: int,
        run_id: str,
        clocks: Clocks | None = None,
        caller: socket.socket | None = None,
    ) -> None:
        self.hosts: tuple[str, ...] = ("locust",)
        self.calls = 0
        self.published = 0
        self.closed_by_server = 0
        self._scenario = scenario
        self._folder = folder
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._job = LoadJob(address.urls, str(folder.resolve()), nonce, run_id, msgspec.to_builtins(scenario))
        self._caller = caller
        self._clocks = clocks or Clocks(address, run_id=run_id)
        self._elsewhere: list[str] = []  # processes that read another clock
        self._home_s = 0.0  # when a part of a record came last
        self._line: AsyncLine | None = None
        self._listening: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the child, unless there is a caller, and send the job; `ready` says when every user is connected."""
        caller = self._caller
        line = self._start_child() if caller is None else Line(caller, name="the Locust that started this run", error=GeneratorError)
        self._line = await line.to_async()
        self._line.send(self._job)
        self._listening = asyncio.get_running_loop().create_task(self._listen(self._line))

    def _start_child(self) -> Line:
        users, own = self._scenario.users(), self._scenario.load.locustfile
        args = ["-f", str(LOCUSTFILE.with_name(OWN) if own else LOCUSTFILE), "--headless", "-u", str(users), "-r", str(users)]
        args += ["--only-summary", "--exit-code-on-error", "0", "--stop-timeout", "5"]
        log, env = self._folder / "locust.log", {"LOCUST_SKIP_UPDATE_CHECK": "1"} | ({OWN_LOCUSTFILE: own} if own else {})
        return start_child("locust", *args, name="the Locust process", log=log, error=GeneratorError, env=env)

    async def _listen(self, line: AsyncLine) -> None:
        try:
            async for message in line.messages(Message):
                self._take(message)
            self._fail(await line.gone())
        except BuslabError as error:  # Locust speaks garbage
            self._fail(error)

    def _take(self, message: Message) -> None:
        if isinstance(message, Ready):
            self.hosts = message.hosts
            if not self._ready.done():
                self._ready.set_result(None)
        elif isinstance(message, OtherClock):
            self._elsewhere.append(message.host)
            self._clocks.compare(message, mirror=partial(self._mirror, message.host))
        elif isinstance(message, PartHome):
            self._home_s = asyncio.get_running_loop().time()
        elif isinstance(message, LoadProgress):
            self.calls, self.published = message.calls, message.published
        elif isinstance(message, Done):
            self.calls, self.closed_by_server = message.calls, message.closed_by_server
            if message.error:
                self._fail(GeneratorError(message.error))
            elif not self._done.done():
                self._done.set_result(None)

    def _mirror(self, host: str, order: MirrorClock) -> None:
        if self._line is not None:
            self._line.send(MirrorOf(host, order.channel))

    def _fail(self, error: BuslabError) -> None:
        for future in (self._ready, self._done):
            if not future.done():
                future.set_exception(error)
                future.exception()  # read here, so that asyncio does not warn when nobody else reads it

    def _tail(self) -> str:
        return "" if self._line is None else self._line.tail()

    @property
    def kept(self) -> bool:
        """Whether Locust said that it wrote every row."""
        return self._done.done() and self._done.exception() is None

    def heard(self, lags_ms: tuple[float, ...]) -> None:
        """Send Locust some of them, for its tables."""
        if self._caller is not None and lags_ms and self._line is not None and not self._done.done():
            self._line.send(LagSample(lags_ms[:: max(1, len(lags_ms) // LAGS_AT_ONCE)]))

    async def ready(self) -> None:
        """Return when every user is connected, and the clock of every process that has users is known.

        Raises
        ------
        GeneratorError
            The child died or did not get there in time; the message ends with its log.
        HostError
            The clock of a worker cannot be compared.
        """
        bound_s = READY_TIMEOUT_S if self._caller is None else CALLER_READY_TIMEOUT_S
        try:
            async with asyncio.timeout(bound_s):
                await asyncio.shield(self._ready)
        except TimeoutError:
            raise GeneratorError(f"Locust was not ready within {duration(bound_s)}{self._tail()}") from None
        for host in self._elsewhere:
            await self._clocks.known(host)

    async def go(self, zero_ns: int) -> None:
        """Send time zero."""
        assert self._line is not None
        self._line.send(Go(zero_ns, {host: self._clocks.theirs(host, zero_ns) for host in self._elsewhere}))

    async def finished(self) -> None:
        """Return when the child has made its calls and written its record.

        Raises
        ------
        GeneratorError
            It died, or could not write.
        """
        bound_s = self._scenario.load.warm_up_s + self._scenario.load.run_s + FINISH_GRACE_S
        try:
            await self._over(asyncio.get_running_loop().time() + bound_s, FINISH_GRACE_S)
        except TimeoutError:
            raise GeneratorError(f"Locust did not finish {duration(FINISH_GRACE_S)} after the load's end{self._tail()}") from None

    async def _over(self, until_s: float, grace_s: float) -> None:
        """Return when Locust is done; raise TimeoutError when it is not by then, and no part of a record came for so long."""
        loop = asyncio.get_running_loop()
        while not self._done.done() and (left_s := max(until_s, self._home_s + grace_s) - loop.time()) > 0:
            await asyncio.wait([self._done], timeout=left_s)
        if not self._done.done():
            raise TimeoutError
        self._done.result()

    async def close(self) -> None:
        """Ask Locust to stop and keep its record; then make a child of ours."""
        if self._line is not None and not self._done.done():
            self._line.send(Stop())
            with contextlib.suppress(TimeoutError, GeneratorError):
                await self._over(asyncio.get_running_loop().time() + STOP_TIMEOUT_S, STOP_TIMEOUT_S)
        if self._line is not None and self._caller is None:
            await self._end(self._line.child)
        if self._listening is not None:
            self._listening.cancel()
        if self._line is not None:
            self._line.close()

    async def _end(self, child: Child) -> None:
        deadline = asyncio.get_running_loop().time() + STOP_TIMEOUT_S
        while child.poll() is None and self._done.done() and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        child.end(timeout_s=0.5)


async def start_generator(
    scenario: Scenario,
    host: Host,
    *,
    address: Address,
    folder: Path,
    nonce: int,
    run_id: str,
    clocks: Clocks | None,
    caller: socket.socket | None,
) -> Generator:
    """Return who makes the calls of a scenario: the pods, or Locust, started or called."""
    load = scenario.load
    alone = load.driver == "pods" or not (load.locustfile or len(scenario.schedule()))  # Locust does not start for no users
    if caller is None and alone:
        return PodsGenerator(scenario, host)
    locust = LocustGenerator(scenario, address=address, folder=folder, nonce=nonce, run_id=run_id, clocks=clocks, caller=caller)
    try:
        await locust.start()
    except BaseException:  # such as a Ctrl-C: nobody else knows of the child yet, to end it
        await locust.close()
        raise
    return locust


async def until(at_ns: int, generator: Generator) -> None:
    """Wait for a time; a generator that ends before it with an error ends the wait."""
    left_s = (at_ns - now_ns()) / NS_PER_S
    finished = asyncio.ensure_future(generator.finished())
    try:
        await asyncio.wait([finished], timeout=max(0.0, left_s))
        if finished.done():
            finished.result()
            await asyncio.sleep(max(0.0, (at_ns - now_ns()) / NS_PER_S))
    finally:
        finished.cancel()
        await asyncio.gather(finished, return_exceptions=True)
