"""The run's end of a process that holds pods: started, given orders, stopped, killed or frozen by signals, and never left behind."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec

from sim.errors import BrokerRefused, BrokerUnreachable, BuslabError, HostError
from sim.machine.line import AsyncLine, start_child
from sim.machine.process import Child
from sim.pods.clocks import Clocks, OtherClock
from sim.pods.hosts.local_messages import (
    Answer,
    Cease,
    Drive,
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

POLL_S = 0.002

Lost = Callable[["HostProcess", BuslabError], None]
Asking = Hold | Handlers | Failing | Skew | Cease | Drive | Settle  # orders that are answered


def _fail(waiting: asyncio.Future[Answer], error: BuslabError) -> None:
    if not waiting.done():
        waiting.set_exception(error)
        waiting.exception()  # read here, so that asyncio does not warn when nobody else reads it


class HostProcess:
    """One child and the line to it; use `HostProcess.open`.

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

    def __init__(self, hold: Hold, child: Child, line: AsyncLine, clocks: Clocks) -> None:
        self.name = hold.name
        self._clocks = clocks
        self.killable = hold.killable
        self.progress = PodProgress()
        self.ending = False
        self._child = child
        self._line = line
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._gone: BuslabError | None = None
        self._listening: asyncio.Task[None] | None = None
        self.driven: asyncio.Future[Answer] | None = None
        self.reading = False
        self._start = self._ask(hold)

    @classmethod
    async def open(cls, hold: Hold, *, log: Path, take: Callable[[Word], None], lost: Lost, clocks: Clocks) -> HostProcess:
        """Start a child and send it the order to make its pods; `started` says when its pods run.

        Parameters
        ----------
        take
            Called with each message of the child but its answers and its progress.
        lost
            Called once when it is gone although it was not told to go.
        clocks
            Compares its clock, if that is not the run's.
        """
        line = start_child("sim.pods.hosts.local_child", name=f"the process {hold.name} of pods", log=log, error=HostError)
        process = cls(msgspec.structs.replace(hold, clock=clocks.identity), line.child, await line.to_async(), clocks)
        process._listening = asyncio.get_running_loop().create_task(process._listen(take, lost))
        return process

    @property
    def pid(self) -> int:
        """The process id."""
        return self._child.pid

    async def _listen(self, take: Callable[[Word], None], lost: Lost) -> None:
        try:
            async for word in self._line.messages(Word):
                if isinstance(word, Answer):
                    self._answers.pop(word.id).set_result(word)
                elif isinstance(word, PodProgress):
                    self.progress = word
                elif isinstance(word, OtherClock):
                    self._clocks.compare(word, mirror=self.send)
                else:
                    take(word)
            self._gone = await self._line.gone()
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
        self._line.send(order)

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
        return self._child.tail()

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
        """Kill it (SIGKILL); return when it is gone."""
        self.ending = True
        self._child.kill()

    async def freeze(self) -> None:
        """Freeze it (SIGSTOP); return when it stands still."""
        os.kill(self.pid, signal.SIGSTOP)
        while self._child.poll() is None and not os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT):
            await asyncio.sleep(POLL_S)

    def thaw(self) -> None:
        """Thaw it (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    async def stop(self, *, timeout_s: float) -> bool:
        """Stop it in order (SIGTERM), and kill it when time is up; return whether it ended in order."""
        self.ending = True
        if self._child.poll() is None:
            self._child.process.terminate()
        return await self.gone(timeout_s)

    def drop(self) -> None:
        """End the line: it drops its connections at once and writes its record."""
        self.ending = True
        self._line.end_sending()

    async def gone(self, timeout_s: float) -> bool:
        """Wait until it is gone, and kill it when time is up; return whether it ended in order."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while (code := self._child.poll()) is None and loop.time() < deadline:
            await asyncio.sleep(POLL_S)
        if code is None:
            self._child.kill()
        return code == 0

    async def close(self) -> None:
        """Read what it said last, and close the line; it is gone."""
        if self._listening is not None:
            await asyncio.wait({self._listening}, timeout=1.0)
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        self._line.close()
