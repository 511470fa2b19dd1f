"""The links between each pod and the broker, to be made bad: by a proxy on real grounds, by the network of the model.

Each pod gets an address of its own that leads to the broker; what a fault does to it, the others do not feel. Faults lay loads on links
through `SharedLinks`, which composes what lies on one link at a time (`link.LinkLoad.over`); a ground's `Links` only carry out the sum.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Protocol

from sim.errors import BrokerError
from sim.faults.link import FREE, LinkLoad, LinkPlan
from sim.grounds.model.network import ModelDoor, Network
from sim.grounds.proxy import Cut, EndTap, LookAtTap, Open, Opened, Order, Refuse, Reset, Shape
from sim.grounds.tap_plan import SeenDoor, TapPlan
from sim.machine.clock import now_ns
from sim.machine.line import AsyncLine, start_child
from sim.machine.process import Child
from sim.record.schema import PROXY
from sim.wire.address import Address, parse_address
from sim.wire.connection import open_wire

ANSWER_TIMEOUT_S = 10.0
PINGS = 200


class Links(Protocol):
    """The links of pods, shaped by the pods' numbers; each call replaces what was asked before."""

    @property
    def pids(self) -> Mapping[str, int]:
        """The process ids of the proxies on this machine, by their names in the table `hosts`."""

    async def add_us(self) -> dict[str, float]:
        """Measure what the links add to a round trip with no fault on them, in microseconds.

        Returns
        -------
        dict
            ``direct_p50``, ``direct_p99``, ``through_p50``, ``through_p99``.
        """

    async def shape(self, pods: Sequence[int], *, to_broker: LinkPlan, to_pod: LinkPlan) -> None:
        """Make these pods' links behave so, later connections included."""

    async def refuse(self, pods: Sequence[int], refusing: bool) -> None:
        """Reset these pods' connections and refuse new ones, until told otherwise."""

    async def reset(self, pods: Sequence[int]) -> None:
        """Reset the open connections of these pods, on both sides."""

    async def cut(self, pods: Sequence[int], cutting: bool) -> None:
        """End the open connections of these pods in the middle of what the broker sends next; or spare those that heard nothing since."""

    def address(self, pod: int) -> Address:
        """Return the address by which a pod reaches the broker."""

    async def close(self) -> None:
        """Close all links; connections through them end."""


class SharedLinks:
    """The loads of several faults on each link, which may be taken off one by one, in any order."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._laid: dict[int, tuple[frozenset[int], LinkLoad]] = {}
        self._now: dict[int, LinkLoad | None] = {}  # what was carried out last, per pod that was ever loaded; None: not known
        self._one_at_a_time = asyncio.Lock()

    async def load(self, who: int, pods: Sequence[int], load: LinkLoad) -> None:
        """Lay a load of `who` on these pods' links; it replaces who's own and adds to those of others.

        Raises
        ------
        BrokerError
            It was not carried out, or only on some: `unload` takes it off all the same.
        """
        async with self._one_at_a_time:
            before, _ = self._laid.get(who, (frozenset(), FREE))
            self._laid[who] = frozenset(pods), load
            await self._carry_out({*before, *pods})
            if load.cutting:  # also where another one cuts already: connections have been opened since
                await self._links.cut(pods, True)

    async def unload(self, who: int) -> None:
        """Take off what `who` laid on links; nothing when it was taken off before.

        Raises
        ------
        BrokerError
            It was not carried out; it may be tried again.
        """
        async with self._one_at_a_time:
            pods, load = self._laid.pop(who, (frozenset(), FREE))
            try:
                await self._carry_out(pods)
            except BaseException:
                self._laid[who] = pods, load
                raise

    async def reset(self, pods: Sequence[int]) -> None:
        """Reset the open connections of these pods, on both sides."""
        await self._links.reset(pods)

    async def _carry_out(self, pods: Collection[int]) -> None:
        """Bring these pods' links to the sum of what lies on each; one order for all that change alike."""
        changes: dict[tuple[LinkLoad | None, LinkLoad], list[int]] = {}
        unsure = [pod for pod, was in self._now.items() if was is None]
        for pod in sorted({*pods, *unsure}):
            wanted, was = self._sum(pod), self._now.get(pod, FREE)
            if wanted != was:
                changes.setdefault((was, wanted), []).append(pod)
        for alike in changes.values():
            self._now.update(dict.fromkeys(alike))  # not known until every order was answered
        for (was, wanted), alike in changes.items():
            if was is None or (wanted.to_broker, wanted.to_pod) != (was.to_broker, was.to_pod):
                await self._links.shape(alike, to_broker=wanted.to_broker, to_pod=wanted.to_pod)
            if was is None or wanted.refusing != was.refusing:
                await self._links.refuse(alike, wanted.refusing)
            if (was is None or was.cutting) and not wanted.cutting:
                await self._links.cut(alike, False)
            self._now.update(dict.fromkeys(alike, wanted))

    def _sum(self, pod: int) -> LinkLoad:
        return reduce(LinkLoad.over, (load for pods, load in self._laid.values() if pod in pods), FREE)


class ModelLinks:
    """The links of the model's network."""

    pids: Mapping[str, int] = {}

    def __init__(self, network: Network, broker: Address, *, pods: int) -> None:
        self._broker = broker
        self._doors = [network.door((broker.host, broker.port)) for _ in range(pods)]

    def address(self, pod: int) -> Address:
        """Return the address by which a pod reaches the broker."""
        return parse_address(f"redis://127.0.0.1:{self._doors[pod].address[1]}")

    async def add_us(self) -> dict[str, float]:
        """Measure what the links add to a round trip."""
        return added_us(await round_trips_us(self._broker), await round_trips_us(self.address(0)))

    def _of(self, pods: Iterable[int]) -> list[ModelDoor]:
        return [self._doors[pod] for pod in pods]

    async def shape(self, pods: Sequence[int], *, to_broker: LinkPlan, to_pod: LinkPlan) -> None:
        """Make these pods' links behave so."""
        for door in self._of(pods):
            door.shape(to_listener=to_broker, from_listener=to_pod)

    async def refuse(self, pods: Sequence[int], refusing: bool) -> None:
        """Reset these pods' connections and refuse new ones, until told otherwise."""
        for door in self._of(pods):
            door.refusing = refusing
            if refusing:
                door.reset()

    async def reset(self, pods: Sequence[int]) -> None:
        """Reset the open connections of these pods."""
        for door in self._of(pods):
            door.reset()

    async def cut(self, pods: Sequence[int], cutting: bool) -> None:
        """End the open connections of these pods in the middle of a frame, or spare those that heard nothing since."""
        for door in self._of(pods):
            door.cut(cutting)

    async def close(self) -> None:
        """Do nothing: the links end with the loop."""


class ProxyProcess:
    """The process of a proxy, and the line to it; use `ProxyProcess.start`."""

    def __init__(self, child: Child, line: AsyncLine) -> None:
        self._child = child
        self._line = line
        self._one_order = asyncio.Lock()
        self.pid = child.pid

    @classmethod
    async def start(cls, *, log: Path) -> ProxyProcess:
        """Start one, which listens nowhere yet."""
        line = start_child("sim.grounds.proxy", name="the proxy", log=log, error=BrokerError)
        return cls(line.child, await line.to_async())

    async def ask(self, order: Order) -> Opened:
        """Give it an order and return its answer; raise `BrokerError`, ending with its log, when it does not give one."""
        async with self._one_order:
            self._line.send(order)
            return await self._line.receive(Opened, timeout_s=ANSWER_TIMEOUT_S)

    async def close(self) -> None:
        """End it."""
        self._line.close()
        self._child.end(timeout_s=1.0)


class ProxyLinks:
    """The links through a proxy; use `ProxyLinks.open`.

    Parameters
    ----------
    ask
        Gives the proxy an order and returns its answer.
    pids
        As of `Links`.
    end
        Ends the proxy.
    """

    def __init__(
        self, broker: Address, *, ask: Callable[[Order], Awaitable[Opened]], pids: Mapping[str, int], end: Callable[[], Awaitable[None]]
    ) -> None:
        self._broker = broker
        self._ask = ask
        self.pids = pids
        self._end = end
        self._ports: list[int] = []

    @classmethod
    async def open(cls, broker: Address, *, pods: int, folder: Path, seed: int, tap: TapPlan | None = None) -> ProxyLinks:
        """Start a proxy on this machine, with a listener for each pod.

        Parameters
        ----------
        tap
            Makes it a tap, which keeps the books of what passes: one door a pod, in the order of their numbers.

        Raises
        ------
        BrokerError
            It did not start; the message ends with its log.
        """
        process = await ProxyProcess.start(log=folder / "proxy.log")
        links = cls(broker, ask=process.ask, pids={PROXY: process.pid}, end=process.close)
        await links.listen(pods=pods, seed=seed, tap=tap)
        return links

    async def listen(self, *, pods: int, seed: int, tap: TapPlan | None = None) -> None:
        """Open a listener for each pod; end the proxy when that cannot be done, and raise as `open` does."""
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(self._end)
            self._ports = (await self._order(Open(self._broker.host, self._broker.port, pods, seed, tap))).ports
            undo.pop_all()

    async def _order(self, order: Order) -> Opened:
        answer = await self._ask(order)
        if answer.error:
            raise BrokerError(f"the proxy {answer.error}")
        return answer

    def address(self, pod: int) -> Address:
        """Return the address by which a pod reaches the broker, to be let in there as without the proxy."""
        return self._broker.at("127.0.0.1", self._ports[pod])

    async def add_us(self) -> dict[str, float]:
        """Measure what the links add to a round trip."""
        return added_us(await round_trips_us(self._broker), await round_trips_us(self.address(0)))

    def _of(self, pods: Iterable[int]) -> list[int]:
        return [self._ports[pod] for pod in pods]

    async def shape(self, pods: Sequence[int], *, to_broker: LinkPlan, to_pod: LinkPlan) -> None:
        """Make these pods' links behave so."""
        await self._order(Shape(self._of(pods), to_broker, to_pod))

    async def refuse(self, pods: Sequence[int], refusing: bool) -> None:
        """Reset these pods' connections and refuse new ones, until told otherwise."""
        await self._order(Refuse(self._of(pods), refusing))

    async def reset(self, pods: Sequence[int]) -> None:
        """Reset the open connections of these pods."""
        await self._order(Reset(self._of(pods)))

    async def cut(self, pods: Sequence[int], cutting: bool) -> None:
        """End the open connections of these pods in the middle of a frame, or spare those that heard nothing since."""
        await self._order(Cut(self._of(pods), cutting))

    async def look(self) -> list[SeenDoor]:
        """Return what a tap sees now, a door each; of a proxy that is none, nothing."""
        return (await self._order(LookAtTap())).doors

    async def end_tap(self) -> None:
        """End a tap and every connection through it, and have it write down what it has seen: before the run folder is sealed.

        Raises
        ------
        BrokerError
            It could not be written, or the tap is gone.
        """
        await self._order(EndTap())

    async def close(self) -> None:
        """End the proxy's process."""
        await self._end()


async def round_trips_us(address: Address) -> tuple[float, float]:
    """Return the median and the 99th percentile of PINGs one by one, in microseconds; raise as `open_wire` does."""
    wire = await open_wire(address, client_name="buslab-ping")
    took = []
    for _ in range(PINGS):
        began_ns = now_ns()
        await wire.command("PING")
        took.append(now_ns() - began_ns)
    wire.close()
    took.sort()
    return took[PINGS // 2] / 1e3, took[PINGS * 99 // 100] / 1e3


def added_us(direct: tuple[float, float], through: tuple[float, float]) -> dict[str, float]:
    """Return what `Links.add_us` does, of round trips without the links and through them."""
    return {"direct_p50": direct[0], "direct_p99": direct[1], "through_p50": through[0], "through_p99": through[1]}
