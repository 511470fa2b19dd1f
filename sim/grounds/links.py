"""The links between each pod and the broker, to be made bad: by a proxy on real grounds, by the network of the model.

Each pod gets an address of its own that leads to the broker; what a fault does to it, the others do not feel. Faults lay loads on links
through `SharedLinks`, which composes what lies on one link at a time (`link.LinkLoad.over`); a ground's `Links` only carry out the sum.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterable, Sequence
from functools import reduce
from pathlib import Path
from typing import Protocol

from sim.errors import BrokerError
from sim.faults.link import FREE, LinkLoad, LinkPlan
from sim.grounds.model.network import ModelDoor, Network
from sim.grounds.proxy import Cut, Open, Opened, Order, Refuse, Reset, Shape
from sim.machine.line import AsyncLine, start_child
from sim.machine.process import Child
from sim.wire.address import Address, parse_address

ANSWER_TIMEOUT_S = 10.0


class Links(Protocol):
    """The links of pods, shaped by the pods' numbers; each call replaces what was asked before."""

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

    def __init__(self, network: Network, broker: Address, *, pods: int) -> None:
        self._doors = [network.door((broker.host, broker.port)) for _ in range(pods)]

    def address(self, pod: int) -> Address:
        """Return the address by which a pod reaches the broker."""
        return parse_address(f"redis://127.0.0.1:{self._doors[pod].address[1]}")

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


class ProxyLinks:
    """The links through a proxy, and the proxy's process; use `ProxyLinks.open`."""

    def __init__(self, child: Child, line: AsyncLine) -> None:
        self._child = child
        self._line = line
        self._one_order = asyncio.Lock()
        self._ports: list[int] = []

    @classmethod
    async def open(cls, broker: Address, *, pods: int, folder: Path, seed: int) -> ProxyLinks:
        """Start a proxy with a listener for each pod.

        Raises
        ------
        BrokerError
            It did not start; the message ends with its log.
        """
        line = start_child("sim.grounds.proxy", name="the proxy", log=folder / "proxy.log", error=BrokerError)
        links = cls(line.child, await line.to_async())
        with contextlib.ExitStack() as undo:
            undo.callback(links._child.kill)
            links._ports = (await links._order(Open(broker.host, broker.port, pods, seed))).ports
            undo.pop_all()
        return links

    async def _order(self, order: Order) -> Opened:
        async with self._one_order:
            self._line.send(order)
            answer = await self._line.receive(Opened, timeout_s=ANSWER_TIMEOUT_S)
        if answer.error:
            raise BrokerError(f"the proxy {answer.error}")
        return answer

    @property
    def pid(self) -> int:
        """Process id of the proxy."""
        return self._child.pid

    def address(self, pod: int) -> Address:
        """Return the address by which a pod reaches the broker."""
        return parse_address(f"redis://127.0.0.1:{self._ports[pod]}")

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

    async def close(self) -> None:
        """End the proxy's process."""
        self._line.close()
        self._child.end(timeout_s=1.0)
