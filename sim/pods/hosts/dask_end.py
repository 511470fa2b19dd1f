"""The run's end of one process of pods on a worker of a Dask cluster: its line and its signals, by way of the worker's keeper.

Orders leave in the order in which they were given, one question to the keeper at a time. What the process says comes from the keeper in
the same way (`DaskEnd.feed`), until it has ended, or its worker is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from sim.errors import BuslabError, HostError, MachineLost
from sim.machine.line import LINE_BYTES, pack_line, read_line

LOOK_S = 0.002
GONE = -1  # in the place of an exit code: the worker is lost, and nobody knows how the process ended

Ask = Callable[..., Awaitable[dict[str, Any]]]
Bring = Callable[[str], Awaitable[None]]


class DaskEnd:
    """One process of pods on a worker.

    Parameters
    ----------
    process
        Its name.
    ask
        Asks the keeper of its worker: `sim.pods.hosts.dask_client.DaskClient.ask` without the worker and the operation.
    bring
        Brings the journal of the process into the run folder.

    Attributes
    ----------
    where
        The name of its machine.
    folder
        Where it records, on its machine.
    code_folder
        Where the user's own modules are, on its machine; empty where there are none.
    echo_at
        The address of its machine, where it may answer for its clock.
    pid
        Its process id, on its machine.
    """

    def __init__(self, process: str, *, where: str, folder: str, code_folder: str, echo_at: str, pid: int, ask: Ask, bring: Bring) -> None:
        self.name = f"the process {process} of pods on {where}"
        self.where = where
        self.folder = folder
        self.code_folder = code_folder
        self.echo_at = echo_at
        self.pid = pid
        self._process = process
        self._ask = ask
        self._bring = bring
        self._code: int | None = None
        self._handed_over = False
        self._handing_over = asyncio.Lock()
        self._tail = ""
        self.lost_with: MachineLost | None = None
        self._said = asyncio.StreamReader(limit=LINE_BYTES)
        self._orders: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self._sending = asyncio.get_running_loop().create_task(self._keep_sending())

    # -- what the keeper tells -----------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take in what the process said."""
        self._said.feed_data(data)

    def ended(self, code: int, tail: str) -> None:
        """Take in that it ended, how, and the last lines of its log."""
        if self._code is None:
            self._code, self._tail = code, tail
            self._said.feed_eof()

    def lost(self, why: MachineLost) -> None:
        """Take in that its worker is lost."""
        if self._code is None:
            self._code, self.lost_with = GONE, why
            self._said.feed_eof()

    # -- the line ------------------------------------------------------------------------------------------------

    def send(self, message: msgspec.Struct) -> None:
        """Send a message, if there is still who reads it."""
        self._order("send", data=pack_line(message))

    async def messages(self, kind: Any) -> AsyncIterator[Any]:
        """Yield what the process says until it is gone."""
        while (line := await self._said.readline()).endswith(b"\n"):
            try:
                yield read_line(line, kind)
            except msgspec.MsgspecError:
                raise HostError(f"{self.name} sent what is not expected of it") from None

    async def gone(self) -> BuslabError:
        """Return the error that says that it is gone, and why."""
        if self.lost_with is not None:
            return self.lost_with
        return HostError(f"{self.name} is gone: {self._tail} (exit code {self._code})")

    def end_sending(self) -> None:
        """Tell it that no more will be sent: it drops its connections and writes its record."""
        self._order("end_sending")

    def close(self) -> None:
        """Send no order any more."""
        self._sending.cancel()

    def _order(self, do: str, **what: Any) -> None:
        if self._code is None:
            self._orders.put_nowait((do, what))

    async def _keep_sending(self) -> None:
        while True:
            do, what = await self._orders.get()
            while do == "send" and not self._orders.empty() and len(what["data"]) < LINE_BYTES:  # more of them in one question
                then, more = self._orders.get_nowait()
                if then != "send":
                    await self._try(do, what)
                    do, what = then, more
                else:
                    what = {"data": what["data"] + more["data"]}
            await self._try(do, what)

    async def _try(self, do: str, what: dict[str, Any]) -> None:
        with contextlib.suppress(HostError):  # that the worker is lost, whoever listens to it says
            await self._ask(do, process=self._process, **what)

    # -- the process ---------------------------------------------------------------------------------------------

    def poll(self) -> int | None:
        """Return the exit code, `GONE` when its worker is lost, or None while it runs."""
        return self._code

    def tail(self) -> str:
        """Return the last lines of its log as one, once it has ended."""
        return self._tail or (str(self.lost_with) if self.lost_with is not None else "its log is on its machine")

    def terminate(self) -> None:
        """Ask it to end (SIGTERM)."""
        self._order("signal", number=int(signal.SIGTERM))

    def kill(self) -> None:
        """End it (SIGKILL); `poll` says when it is gone."""
        self._order("signal", number=int(signal.SIGKILL))

    async def freeze(self) -> None:
        """Freeze it (SIGSTOP); return when it stands still."""
        await self._ask("freeze", process=self._process)

    async def thaw(self) -> None:
        """Thaw it (SIGCONT)."""
        await self._ask("signal", process=self._process, number=int(signal.SIGCONT))

    async def handed_over(self) -> None:
        """Return when it is gone, and what it wrote down for the case that it is killed can be read here.

        Raises
        ------
        HostError
            That did not come.
        """
        while self._code is None:
            await asyncio.sleep(LOOK_S)
        async with self._handing_over:
            if self.lost_with is None and not self._handed_over:
                await self._bring(self._process)
                self._handed_over = True
