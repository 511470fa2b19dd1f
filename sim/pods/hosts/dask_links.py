"""The links of pods on the workers of a Dask cluster: a proxy on each worker, beside its pods, which the worker's keeper starts.

Every proxy has a listener for every pod, and every order goes to all of them: so a link is as it was made also for a pod that has moved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.errors import HostError, MachineLost
from sim.faults.link import LinkPlan
from sim.grounds.links import ProxyLinks, added_us
from sim.grounds.proxy import Opened, Order
from sim.machine.line import pack_line, read_line
from sim.record.schema import PROXY
from sim.wire.address import Address

PROGRAM = b"sim.grounds.proxy"
Ask = Callable[..., Awaitable[dict[str, Any]]]


@dataclass(frozen=True)
class FarProxy:
    """The proxy on one worker: how its keeper is asked, and whether its processes are processes of this machine."""

    worker: str
    ask: Ask
    is_here: bool


class DaskLinks:
    """The links of pods on several workers; use `DaskLinks.open`.

    Parameters
    ----------
    proxies
        The links through the proxy of each worker, in the order of the workers.
    place_of
        Gives the worker of a pod, by the pod's number.

    Attributes
    ----------
    pids
        As of `sim.grounds.links.Links`; the proxies of other machines are not among them.
    """

    def __init__(self, broker: Address, far: Sequence[FarProxy], proxies: Sequence[ProxyLinks], place_of: Callable[[int], int]) -> None:
        self._broker, self._far, self._proxies, self._place_of = broker, far, proxies, place_of
        self.pids: Mapping[str, int] = {name: pid for one in proxies for name, pid in one.pids.items()}

    @classmethod
    async def open(cls, broker: Address, far: Sequence[FarProxy], *, place_of: Callable[[int], int], pods: int, seed: int) -> DaskLinks:
        """Start a proxy on each worker, with a listener for each pod.

        Raises
        ------
        BrokerError, HostError
            One did not start, or its worker is gone; those that did are ended with the run's keepers.
        """
        return cls(broker, far, [await _open(broker, one, pods=pods, seed=seed) for one in far], place_of)

    def address(self, pod: int) -> Address:
        """Return the address by which a pod reaches the broker, on the machine where it has its place now."""
        return self._proxies[self._place_of(pod)].address(pod)

    async def add_us(self) -> dict[str, float]:
        """Measure what the links add to a round trip, on the machine of the first pod."""
        ask = self._far[self._place_of(0)].ask
        direct, through = [await ask("ping", urls=address.url) for address in (self._broker, self.address(0))]
        return added_us(direct["us"], through["us"])

    async def shape(self, pods: Sequence[int], *, to_broker: LinkPlan, to_pod: LinkPlan) -> None:
        """Make these pods' links behave so."""
        await self._each(lambda links: links.shape(pods, to_broker=to_broker, to_pod=to_pod))

    async def refuse(self, pods: Sequence[int], refusing: bool) -> None:
        """Reset these pods' connections and refuse new ones, until told otherwise."""
        await self._each(lambda links: links.refuse(pods, refusing))

    async def reset(self, pods: Sequence[int]) -> None:
        """Reset the open connections of these pods."""
        await self._each(lambda links: links.reset(pods))

    async def cut(self, pods: Sequence[int], cutting: bool) -> None:
        """End the open connections of these pods in the middle of a frame, or spare those that heard nothing since."""
        await self._each(lambda links: links.cut(pods, cutting))

    async def _each(self, order: Callable[[ProxyLinks], Awaitable[None]]) -> None:
        """Give an order to every proxy; what becomes of the run when a worker is lost, its host says."""
        for outcome in await asyncio.gather(*(order(one) for one in self._proxies), return_exceptions=True):
            if isinstance(outcome, BaseException) and not (isinstance(outcome, MachineLost) and not outcome.every):
                raise outcome

    async def close(self) -> None:
        """End the proxies; that of a worker that is lost has ended with it."""
        for outcome in await asyncio.gather(*(one.close() for one in self._proxies), return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, HostError):
                raise outcome


async def _open(broker: Address, far: FarProxy, *, pods: int, seed: int) -> ProxyLinks:
    pids: dict[str, int] = {}

    async def ask(order: Order) -> Opened:
        answered = await far.ask("order_proxy", order=pack_line(order))
        if far.is_here and _runs_here(answered["pid"]):
            pids[f"{PROXY} {far.worker}"] = answered["pid"]
        return read_line(bytes(answered["answer"]), Opened)

    async def end() -> None:
        await far.ask("end_proxy")

    links = ProxyLinks(broker, ask=ask, pids=pids, end=end)
    await links.listen(pods=pods, seed=seed)
    return links


def _runs_here(pid: int) -> bool:
    """Return whether a process of this machine with this number is a proxy: a container may have numbers of its own."""
    try:
        return PROGRAM in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
