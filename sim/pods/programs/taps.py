"""The run's end of the taps of its programs: their addresses, what they tell, and the faults of links, which act on them too."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sim.errors import BrokerError, BuslabError
from sim.faults.link import LinkPlan
from sim.grounds.links import ANSWER_TIMEOUT_S, Links, added_us, round_trips_us
from sim.grounds.proxy import Cut, Opened, Refuse, Reset, Shape
from sim.machine.line import AsyncLine, start_child
from sim.machine.process import Child
from sim.pods.programs.tap_messages import Doors, Flush, Flushed, FromTaps, LinkOrder, TapRows
from sim.record.schema import PROXY
from sim.wire.address import Address, parse_address

NAME = f"{PROXY} taps"  # of the process in the table `hosts`
LOG = "taps.log"


class ProgramTaps:
    """The taps of the programs of a run, and the links of its other pods where a fault needs them; use `ProgramTaps.open`.

    Attributes
    ----------
    others
        The links of the pods that are no programs; None where they reach the broker directly.
    take
        Is given what the taps tell; set by who keeps the books, before the first program starts.
    failed
        Is given why the process of the taps is gone.
    """

    def __init__(self, broker: Address, child: Child, line: AsyncLine, *, others: Links | None) -> None:
        self.others = others
        self.take: Callable[[TapRows], None] = lambda rows: None
        self.failed: Callable[[BuslabError], None] = lambda error: None
        self._broker, self._child, self._line = broker, child, line
        self._one_order = asyncio.Lock()
        self._answer: asyncio.Future[Opened | Flushed] | None = None
        self._ports: dict[int, int] = {}
        self._listening = asyncio.get_running_loop().create_task(self._listen())
        self._closing = False

    @classmethod
    async def open(
        cls,
        broker: Address,
        *,
        pods: Sequence[int],
        pointer: str,
        channel_prefix: str,
        folder: Path,
        seed: int,
        others: Links | None,
    ) -> ProgramTaps:
        """Start the process of the taps, with one for each of these pods, by their numbers.

        Raises
        ------
        BrokerError
            It did not start; the message ends with its log.
        """
        line = start_child("sim.pods.programs.tap_process", name="the process of the taps", log=folder / LOG, error=BrokerError)
        taps = cls(broker, line.child, await line.to_async(), others=others)
        try:
            opened = await taps._order(Doors(broker.url, list(pods), pointer, channel_prefix, seed))
        except BaseException:
            await taps.close()
            raise
        taps._ports = dict(zip(pods, opened.ports, strict=True))
        return taps

    async def _listen(self) -> None:
        try:
            async for message in self._line.messages(FromTaps):
                if isinstance(message, TapRows):
                    self.take(message)
                elif self._answer is not None and not self._answer.done():
                    self._answer.set_result(message)
            error = await self._line.gone()
        except BuslabError as wrong:
            error = wrong
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        if not self._closing:
            self.failed(error)

    async def _ask(self, order: Doors | LinkOrder | Flush) -> Opened | Flushed:
        async with self._one_order:
            self._answer = asyncio.get_running_loop().create_future()
            self._line.send(order)
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    return await self._answer
            except TimeoutError:
                raise BrokerError(f"the process of the taps did not answer within {ANSWER_TIMEOUT_S:g} s{self._line.tail()}") from None

    async def _order(self, order: Doors | LinkOrder) -> Opened:
        answer = await self._ask(order)
        assert isinstance(answer, Opened)
        if answer.error:
            raise BrokerError(f"the tap {answer.error}")
        return answer

    async def flush(self) -> None:
        """Return when everything was told that has passed by now; at once where the process is gone."""
        with contextlib.suppress(BuslabError):
            await self._ask(Flush())

    # -- as links ----------------------------------------------------------------------------------------------

    @property
    def pids(self) -> Mapping[str, int]:
        """The process ids of the taps and of the proxy of the other links, by their names in the table `hosts`."""
        return {NAME: self._child.pid} | dict(self.others.pids if self.others is not None else {})

    def address(self, pod: int) -> Address:
        """Return the address by which a pod reaches the broker: a program by its tap, without TLS, which the tap itself speaks."""
        if pod in self._ports:
            plain = self._broker.url.partition("?")[0].replace("rediss://", "redis://", 1) if self._broker.tls else self._broker.url
            return parse_address(plain).at("127.0.0.1", self._ports[pod])
        return self._broker if self.others is None else self.others.address(pod)

    async def add_us(self) -> dict[str, float]:
        """Measure what the taps add to a round trip, in microseconds."""
        return added_us(await round_trips_us(self._broker), await round_trips_us(self.address(next(iter(self._ports)))))

    def _mine(self, pods: Sequence[int]) -> list[int]:
        return [self._ports[pod] for pod in pods if pod in self._ports]

    def _theirs(self, pods: Sequence[int]) -> list[int]:
        return [pod for pod in pods if pod not in self._ports] if self.others is not None else []

    async def shape(self, pods: Sequence[int], *, to_broker: LinkPlan, to_pod: LinkPlan) -> None:
        """Make these pods' links behave so."""
        if mine := self._mine(pods):
            await self._order(Shape(mine, to_broker, to_pod))
        if self.others is not None and (theirs := self._theirs(pods)):
            await self.others.shape(theirs, to_broker=to_broker, to_pod=to_pod)

    async def refuse(self, pods: Sequence[int], refusing: bool) -> None:
        """Reset these pods' connections and refuse new ones, until told otherwise."""
        if mine := self._mine(pods):
            await self._order(Refuse(mine, refusing))
        if self.others is not None and (theirs := self._theirs(pods)):
            await self.others.refuse(theirs, refusing)

    async def reset(self, pods: Sequence[int]) -> None:
        """Reset the open connections of these pods."""
        if mine := self._mine(pods):
            await self._order(Reset(mine))
        if self.others is not None and (theirs := self._theirs(pods)):
            await self.others.reset(theirs)

    async def cut(self, pods: Sequence[int], cutting: bool) -> None:
        """End the open connections of these pods in the middle of a frame, or spare those that heard nothing since."""
        if mine := self._mine(pods):
            await self._order(Cut(mine, cutting))
        if self.others is not None and (theirs := self._theirs(pods)):
            await self.others.cut(theirs, cutting)

    async def close(self) -> None:
        """End the process of the taps, and the other links."""
        self._closing = True
        self._listening.cancel()
        self._line.close()
        self._child.end(timeout_s=1.0)
        if self.others is not None:
            await self.others.close()
