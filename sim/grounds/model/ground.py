"""Ground `model`: the bus in virtual time, against a Redis that is a model. Nothing leaves this process, and a seed replays a run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from sim.grounds.model.commands import MODEL_COMMANDS
from sim.grounds.model.costs import GroundCosts, read_costs
from sim.grounds.model.loop import NS_PER_S, JumpingLoop
from sim.grounds.model.network import Network
from sim.grounds.model.server import ModelRedis
from sim.grounds.model.streams import STREAM_COMMANDS
from sim.wire.address import Address, parse_address

URL = "redis://127.0.0.1:6379"  # in the model's own network
START_NS = 37_000_000  # from the start of a new process to its first PONG: measured on the embedded server


class ModelBroker:
    """A model of a server, its network and the loop whose clock jumps.

    Attributes
    ----------
    server, network
        There once `new_loop` was called.
    """

    ground = "model"
    pid = None
    pids: ClassVar[dict[str, int]] = {}
    image = None

    def __init__(self, *, costs: GroundCosts, seed: int) -> None:
        self.address: Address = parse_address(URL)
        self._costs = costs
        self._seed = seed
        self.server: ModelRedis
        self.network: Network

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """Return a jumping loop with the network and the server in it."""
        loop = JumpingLoop()
        costs, here = self._costs, self.address
        self.network = Network(loop, seed=self._seed, plan=costs.link, window_bytes=costs.window_bytes)
        self.server = ModelRedis(
            self.network, host=here.host, port=here.port, commands=MODEL_COMMANDS | STREAM_COMMANDS, costs=costs.server
        )
        self.server.start()
        return loop

    @property
    def control(self) -> ModelBroker:
        """The model itself: it can be hurt and mended."""
        return self

    async def kill(self) -> None:
        """End the server at once."""
        self.server.end(at_once=True)

    async def stop(self) -> None:
        """End the server in order."""
        self.server.end(at_once=False)

    async def freeze(self) -> None:
        """Freeze the server."""
        self.server.freeze()

    async def thaw(self) -> None:
        """Thaw the server."""
        self.server.thaw()

    async def start(self) -> None:
        """Start the server again, empty; nothing when it runs. Return when it would answer."""
        if not self.server.running:
            await asyncio.sleep(START_NS / NS_PER_S)
            self.server.start()


@contextlib.contextmanager
def model(rest: str = "", *, seed: int = 1) -> Iterator[ModelBroker]:
    """Make a model; it starts with the run's loop.

    Parameters
    ----------
    rest
        Path of a file of `buslab calibrate`; by default the costs in the code, so that a seed replays a run anywhere.

    Raises
    ------
    UsageError
        The file is missing or holds no costs.
    """
    yield ModelBroker(costs=read_costs(Path(rest)) if rest else GroundCosts(), seed=seed)
