"""The links between each pod and the broker, to be made bad: by a proxy on real grounds, by the network of the model.

Each pod gets an address of its own that leads to the broker; what a fault does to it, the others do not feel.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from sim.address import Address, parse_address
from sim.control import CONTROL_FD
from sim.errors import BrokerError
from sim.link import LinkPlan
from sim.network import Door, Network
from sim.process import Child
from sim.proxy import Cut, Open, Opened, Order, Refuse, Reset, Shape, opened_decoder
from sim.world import LinkControl

ANSWER_TIMEOUT_S = 10.0


class Links(LinkControl, Protocol):
    """Shape the links of pods, by the pods' numbers."""

    def address(self, pod: int) -> Address:
        """Return the address by which a pod reaches the broker."""

    async def close(self) -> None:
        """End it; connections through it end too."""


class ModelLinks:
    """Shape the links of the model's network."""

    def __init__(self, network: Network, broker: Address, *, pods: int) -> None:
        self._doors = [network.door((broker.host, broker.port)) for _ in range(pods)]

    def address(self, pod: int) -> Address:
        """Return the address by which a pod reaches the broker."""
        return parse_address(f"redis://127.0.0.1:{self._doors[pod].address[1]}")

    def _of(self, pods: Iterable[int]) -> list[Door]:
        return [self._doors[pod] for pod in pods]

    async def shape(self, pods: Sequence[int], *, to_broker: LinkPlan, to_pod: LinkPlan) -> None:
        """Let these pods' links behave so."""
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
        """End the open connections of these pods in the middle of a frame, or let be those that heard nothing since."""
        for door in self._of(pods):
            door.cut(cutting)

    async def close(self) -> None:
        """Nothing to do."""


class ProxyLinks:
    """Own the proxy's process, and give it orders; use `ProxyLinks.open`."""

    def __init__(self, child: Child, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._child = child
        self._reader, self._writer = reader, writer
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
        ours, theirs = socket.socketpair()
        with theirs:
            environment = os.environ | {CONTROL_FD: str(theirs.fileno())}
            argv = [sys.executable, "-m", "sim.proxy"]
            child = Child(argv, log=folder / "proxy.log", env=environment, pass_fds=[theirs.fileno()])
        reader, writer = await asyncio.open_connection(sock=ours, limit=1 << 24)
        links = cls(child, reader, writer)
        with contextlib.ExitStack() as undo:
            undo.callback(child.kill)
            links._ports = (await links._order(Open(broker.host, broker.port, pods, seed))).ports
            undo.pop_all()
        return links

    async def _order(self, order: Order) -> Opened:
        async with self._one_order:
            try:
                self._writer.write(msgspec.json.encode(order) + b"\n")
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    line = await self._reader.readline()
            except (OSError, TimeoutError) as error:
                raise BrokerError(f"the proxy does not answer: {error or 'timeout'}; {self._child.tail()}") from None
            if not line:
                raise BrokerError(f"the proxy is gone: {self._child.tail()}")
        answer = opened_decoder.decode(line)
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
        """Let these pods' links behave so."""
        await self._order(Shape(self._of(pods), to_broker, to_pod))

    async def refuse(self, pods: Sequence[int], refusing: bool) -> None:
        """Reset these pods' connections and refuse new ones, until told otherwise."""
        await self._order(Refuse(self._of(pods), refusing))

    async def reset(self, pods: Sequence[int]) -> None:
        """Reset the open connections of these pods."""
        await self._order(Reset(self._of(pods)))

    async def cut(self, pods: Sequence[int], cutting: bool) -> None:
        """End the open connections of these pods in the middle of a frame, or let be those that heard nothing since."""
        await self._order(Cut(self._of(pods), cutting))

    async def close(self) -> None:
        """End the proxy's process."""
        self._writer.close()
        self._child.end(timeout_s=1.0)
