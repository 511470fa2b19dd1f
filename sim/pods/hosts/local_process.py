"""The run's end of a process that holds pods: started, given orders, stopped, killed or frozen by signals, and never left behind."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from sim.errors import BrokerRefused, BrokerUnreachable, BuslabError, HostError, MachineLost
from sim.machine.line import AsyncLine, start_child
from sim.pods.clocks import Clocks, OtherClock
from sim.pods.hosts.local_messages import (
    Answer,
    Cease,
    Drive,
    Failed,
    Failing,
    Handlers,
    Hold,
    Order,
    PodProgress,
    Read,
    Settle,
    Skew,
    Word,
)
from sim.record.journal import JOURNALS

POLL_S = 0.002

Lost = Callable[["HostProcess", BuslabError], None]
Asking = Hold | Handlers | Failing | Skew | Cease | Drive | Settle  # orders that are answered


def process_name(name: str) -> str:
    """Return how errors name a process of pods."""
    return f"the process {name} of pods"


def _fail(waiting: asyncio.Future[Answer], error: BuslabError) -> None:
    if not waiting.done():
        waiting.set_exception(error)
        waiting.exception()  # read here, so that asyncio does not warn when nobody else reads it


class ProcessEnd(Protocol):
    """A process of pods as the run reaches it: the line to it, and what happens to it.

    `where` is its machine's name, empty where it is this one; `folder` is where it records there, and `code_folder` where the user's own
    modules are, empty where the scenario says that; `echo_at` is its machine's address, where it may answer for its clock; `lost_with` is
    why its machine is lost.
    """

    where: str
    folder: str
    code_folder: str
    echo_at: str
    pid: int
    lost_with: MachineLost | None

    def send(self, message: msgspec.Struct) -> None:
        """Send a message, if there is still who reads it."""

    def messages(self, kind: Any) -> AsyncIterator[Any]:
        """Yield what it says until it is gone."""

    async def gone(self) -> BuslabError:
        """Return the error that says that it is gone, and why."""

    def end_sending(self) -> None:
        """Tell it that no more will be sent; what it says is still heard."""

    def close(self) -> None:
        """Close the line."""

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""

    def tail(self) -> str:
        """Return the last lines of its log as one."""

    def terminate(self) -> None:
        """Ask it to end (SIGTERM)."""

    def kill(self) -> None:
        """End it (SIGKILL)."""

    async def freeze(self) -> None:
        """Freeze it (SIGSTOP); return when it stands still."""

    async def thaw(self) -> None:
        """Thaw it (SIGCONT)."""

    async def handed_over(self) -> None:
        """Return when it is gone, and what it wrote down for the case that it is killed can be read here."""


class Start(Protocol):
    """What starts a process on this machine that waits for its first order."""

    async def __call__(self, name: str, *, folder: Path) -> ProcessEnd:
        """Start one; `folder` is the run's."""


class LocalEnd:
    """A child of ours and the line to it; use `LocalEnd.start`."""

    where = ""
    echo_at = "127.0.0.1"
    lost_with: MachineLost | None = None  # it is on this machine

    def __init__(self, line: AsyncLine, *, folder: Path) -> None:
        self.folder, self.code_folder = str(folder.resolve()), ""
        self.pid = line.child.pid
        self._child = line.child
        self._line = line
        self.send, self.messages, self.gone = line.send, line.messages, line.gone
        self.end_sending, self.close = line.end_sending, line.close
        self.poll, self.tail, self.kill = self._child.poll, self._child.tail, self._child.kill

    @classmethod
    async def start(cls, name: str, *, folder: Path) -> LocalEnd:
        """Start a child that waits for its first order."""
        log = folder / JOURNALS / f"{name}.log"
        log.parent.mkdir(exist_ok=True)
        line = start_child("sim.pods.hosts.local_child", name=process_name(name), log=log, error=HostError)
        return cls(await line.to_async(), folder=folder)

    def terminate(self) -> None:
        """Ask it to end (SIGTERM)."""
        self._child.process.terminate()

    async def freeze(self) -> None:
        """Freeze it (SIGSTOP); return when it stands still."""
        os.kill(self.pid, signal.SIGSTOP)
        while self._child.poll() is None and not os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT):
            await asyncio.sleep(POLL_S)

    async def thaw(self) -> None:
        """Thaw it (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    async def handed_over(self) -> None:
        """Return at once: whoever kills it waits for it, and its journal is in the run folder."""


class HostProcess:
    """One process of pods, with the orders that it was given; use `HostProcess.open`.

    Attributes
    ----------
    name
        The process, as in the tables.
    killable
        Whether it keeps a journal, so that nothing is lost when it is killed.
    progress
        How far its pods said they are.
    ending
        Whether it was told to go, or is gone.
    driven
        Done when its pods have made their calls; None before it was told to make them.
    reading
        Whether it was told to read.
    """

    def __init__(self, hold: Hold, end: ProcessEnd, clocks: Clocks) -> None:
        self.name = hold.name
        self._clocks = clocks
        self.killable = hold.killable
        self.progress = PodProgress()
        self.ending = False
        self._end = end
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._gone: BuslabError | None = None
        self._listening: asyncio.Task[None] | None = None
        self.driven: asyncio.Future[Answer] | None = None
        self.reading = False
        self._start = self._ask(hold)

    @classmethod
    async def open(cls, hold: Hold, *, end: ProcessEnd, take: Callable[[Word], None], lost: Lost, clocks: Clocks) -> HostProcess:
        """Send a process that waits the order to make its pods; `started` says when its pods run.

        Parameters
        ----------
        take
            Called with each message of the child but its answers and its progress.
        lost
            Called once when it is gone although it was not told to go.
        clocks
            Compares its clock, if that is not the run's.
        """
        process = cls(msgspec.structs.replace(hold, clock=clocks.identity), end, clocks)
        process._listening = asyncio.get_running_loop().create_task(process._listen(take, lost))
        return process

    @property
    def pid(self) -> int:
        """The process id."""
        return self._end.pid

    async def _listen(self, take: Callable[[Word], None], lost: Lost) -> None:
        try:
            async for word in self._end.messages(Word):
                if isinstance(word, Answer):
                    self._answers.pop(word.id).set_result(word)
                elif isinstance(word, PodProgress):
                    self.progress = word
                elif isinstance(word, Failed) and self._end.where:
                    take(Failed(f"{word.error} ({self.name} on {self._end.where})"))
                elif isinstance(word, OtherClock):
                    self._clocks.compare(word, mirror=self.send)
                else:
                    take(word)
            self._gone = await self._end.gone()
        except BuslabError as error:  # the child speaks garbage
            self._gone = error
        self._clocks.left(self.name)
        for waiting in self._answers.values():
            _fail(waiting, self._gone)
        self._answers.clear()
        if not self.ending:
            self.ending = True
            lost(self, self._gone)

    def send(self, order: Order) -> None:
        """Send an order that has no answer."""
        self._end.send(order)

    async def ask(self, order: Asking) -> Answer:
        """Send an order and return its answer.

        Raises
        ------
        HostError
            The process is gone.
        BrokerUnreachable, BrokerRefused
            As its pods said.
        """
        return await self._answer(self._ask(order))

    def _ask(self, order: Asking) -> asyncio.Future[Answer]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        if self._gone is not None:
            _fail(answer, self._gone)
        self.send(msgspec.structs.replace(order, id=number))
        return answer

    async def _answer(self, waiting: asyncio.Future[Answer]) -> Answer:
        answer = await asyncio.shield(waiting)
        if answer.error:
            raise (BrokerRefused if answer.refused else BrokerUnreachable)(answer.error)
        return answer

    @property
    def has_started(self) -> bool:
        """Whether its pods ran."""
        start = self._start
        return start.done() and not start.cancelled() and start.exception() is None and not start.result().error

    def tail(self) -> str:
        """Return the last lines of its log as one."""
        return self._end.tail()

    async def started(self) -> Answer:
        """Return when its pods run and its clock is known; raise as `ask` does."""
        answer = await self._answer(self._start)
        await self._clocks.known(self.name)
        return answer

    def drive(self, order: Drive) -> None:
        """Send the order that its pods make their calls; its times are of the run's clock."""
        self.driven = self._ask(msgspec.structs.replace(order, **self._times(order, "zero_ns", "end_ns", "since_ns")))

    def read(self, order: Read) -> None:
        """Send the order that its pods read configuration; its times are of the run's clock."""
        self.reading = True
        self.send(msgspec.structs.replace(order, **self._times(order, "zero_ns", "since_ns")))

    def _times(self, order: Drive | Read, *names: str) -> dict[str, int]:
        """Return times of an order in the clock of this process; 0, which means from the beginning on, stays."""
        return {name: self._clocks.theirs(self.name, at_ns) for name in names if (at_ns := getattr(order, name))}

    # -- signals -----------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """Kill it (SIGKILL)."""
        self.ending = True
        self._end.kill()

    async def handed_over(self) -> None:
        """Return when it is gone, and what it wrote down can be read here."""
        await self._end.handed_over()

    async def freeze(self) -> None:
        """Freeze it (SIGSTOP); return when it stands still."""
        await self._end.freeze()

    async def thaw(self) -> None:
        """Thaw it (SIGCONT)."""
        await self._end.thaw()

    async def stop(self, *, timeout_s: float) -> bool:
        """Stop it in order (SIGTERM), and kill it when time is up; return whether it ended in order."""
        self.ending = True
        if self._end.poll() is None:
            self._end.terminate()
        return await self.gone(timeout_s)

    def drop(self) -> None:
        """End the line: it drops its connections at once and writes its record."""
        self.ending = True
        self._end.end_sending()

    async def gone(self, timeout_s: float) -> bool:
        """Wait until it is gone, and kill it when time is up; return whether it ended in order."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while (code := self._end.poll()) is None and loop.time() < deadline:
            await asyncio.sleep(POLL_S)
        if code is None:
            self._end.kill()
        return code == 0

    @property
    def lost(self) -> MachineLost | None:
        """Why it is gone with its machine, so that nobody knows how it ended; None where that is not so."""
        return self._end.lost_with

    async def close(self) -> None:
        """Read what it said last, and close the line; it is gone."""
        if self._listening is not None:
            await asyncio.wait({self._listening}, timeout=1.0)
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        self._end.close()
