"""A ground for a test's scene: the model in virtual time, or a real server; the same scene runs on both, each on its own loop.

The fixture `ground` is the model; a test marked `on_both` runs on a real server too, one of each kind, so that the model is no
world of its own. A scene asks the server by `Ground.ask`, never by a blocking client, and waits by `until`, which lets virtual time pass.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from sim.faults.world import BrokerControl
from sim.grounds.broker import Broker
from sim.grounds.catalogue import open_broker
from sim.wire.address import Address
from sim.wire.command_client import CommandClient

T = TypeVar("T")
BOUND_S = 60.0  # of a scene, in its own time; reached only when the test fails
ON_REAL = pytest.param("embedded", marks=pytest.mark.broker)
on_both = pytest.mark.parametrize("ground", ["model", ON_REAL], indirect=True)


class Ground:
    """A broker that scenes run with, and can ask meanwhile.

    Attributes
    ----------
    broker
        What `open_broker` gives.
    address
        Where it listens.
    """

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.address: Address = broker.address
        self._asker: CommandClient | None = None

    @property
    def is_model(self) -> bool:
        """Whether the scene runs in virtual time; its server is then empty at the beginning of each."""
        return self.broker.ground == "model"

    @property
    def control(self) -> BrokerControl:
        """How to hurt and mend the server."""
        control = self.broker.control
        assert control is not None
        return control

    def run(self, scene: Coroutine[Any, Any, T]) -> T:
        """Run a scene on this ground's loop, bounded; an unhandled error in a callback fails the test."""
        unhandled: list[dict[str, Any]] = []

        async def bounded() -> T:
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: unhandled.append(context))
            self._asker = CommandClient(self.address, name="asking")
            try:
                async with asyncio.timeout(BOUND_S):
                    return await scene
            finally:
                self._asker.close()

        with asyncio.Runner(loop_factory=self.broker.new_loop) as runner:
            result = runner.run(bounded())
        assert unhandled == []
        return result

    async def ask(self, *words: str) -> Any:
        """Send one command on a connection named `asking` and return the reply.

        Raises
        ------
        BrokerError
            As `CommandClient.ask`.
        """
        assert self._asker is not None, "only within a scene"
        return await self._asker.ask(*words)

    async def clients(self) -> list[dict[str, str]]:
        """Return what CLIENT LIST says of each connection but the one that asks."""
        listed = (await self.ask("CLIENT", "LIST")).decode().splitlines()
        rows = [dict(pair.partition("=")[::2] for pair in line.split()) for line in listed]
        return [row for row in rows if row["name"] != "asking"]

    async def named(self, name: str) -> list[dict[str, str]]:
        """Return what CLIENT LIST says of the connections of a name."""
        return [row for row in await self.clients() if row["name"] == name]


@contextlib.contextmanager
def ground_of(on: str) -> Iterator[Ground]:
    """Open a ground of its own for one test."""
    with open_broker(on) as broker:
        yield Ground(broker)


async def until(reached: Callable[[], bool]) -> None:
    """Wait until something is so."""
    while not reached():
        await asyncio.sleep(0.001)
