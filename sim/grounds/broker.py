"""What every ground gives a run: a server that answers, and how a fault reaches it."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from typing import Protocol

from sim.faults.world import BrokerControl
from sim.wire.address import Address


class Broker(Protocol):
    """A server that answers."""

    @property
    def address(self) -> Address:
        """Where it is; of a cluster, every node."""

    @property
    def ground(self) -> str:
        """The ground's name, without any secret."""

    @property
    def control(self) -> BrokerControl | None:
        """How a fault hurts and mends it, or None where it is not ours to hurt."""

    def new_loop(self) -> AbstractEventLoop:
        """Return the event loop that a run on this ground needs."""

    @property
    def pid(self) -> int | None:
        """Process id of the server where it is one process of ours, else None."""

    @property
    def pids(self) -> dict[str, int]:
        """Process id of each server that runs now and is a process of ours, by its node (HOST:PORT); empty where none is."""

    @property
    def image(self) -> dict[str, str] | None:
        """Name, id and digest of the image where the server is a container, else None."""
