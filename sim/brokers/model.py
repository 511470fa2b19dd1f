"""Ground `model`: the bus in virtual time, against a Redis that is a model. Nothing leaves this process, and a seed replays a run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from sim.address import Address, parse_address
from sim.costs import Costs
from sim.errors import UsageError
from sim.jumping import NS_PER_S, JumpingLoop
from sim.link import LinkPlan
from sim.model_commands import COMMANDS
from sim.network import Network
from sim.redis_model import ModelRedis

URL = "redis://127.0.0.1:6379"  # in the model's own network
LINK = LinkPlan(delay_ns=30_000, jitter_ns=20_000)
START_NS = 37_000_000  # from SIGKILL's successor to PONG: measured on the embedded server


class ModelBroker:
    """Own a model of a server, its network and the loop whose clock jumps.

    Attributes
    ----------
    server, network
        There once `new_loop` was called.
    """

    ground = "model"
    pid = None

    def __init__(self, *, costs: Costs, link: LinkPlan, seed: int) -> None:
        self.address: Address = parse_address(URL)
        self._costs = costs
        self._link = link
        self._seed = seed
        self.server: ModelRedis
        self.network: Network

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """Return a jumping loop with the network and the server in it."""
        loop = JumpingLoop()
        self.network = Network(loop, seed=self._seed, plan=self._link)
        self.server = ModelRedis(self.network, host=self.address.host, port=self.address.port, commands=COMMANDS, costs=self._costs)
        self.server.start()
        return loop

    @property
    def control(self) -> ModelBroker:
        """The model can be hurt and mended."""
        return self

    async def kill(self) -> None:
        """End the server at once."""
        self.server.end(at_once=True)

    async def stop(self) -> None:
        """End the server in order."""
        self.server.end(at_once=False)

    async def freeze(self) -> None:
        """Let the server stand still."""
        self.server.freeze()

    async def thaw(self) -> None:
        """Let it go on."""
        self.server.thaw()

    async def start(self) -> None:
        """Start the server again, empty; nothing when it runs. Return when it would answer."""
        if not self.server.running:
            await asyncio.sleep(START_NS / NS_PER_S)
            self.server.start()


@contextlib.contextmanager
def model(rest: str = "", *, seed: int = 1) -> Iterator[ModelBroker]:
    """Make a model; it starts with the run's loop.

    Raises
    ------
    UsageError
        Something stands after the ground's name.
    """
    if rest:
        raise UsageError(f"--on model:{rest}: the model takes nothing after its name; write --on model")
    yield ModelBroker(costs=Costs(), link=LINK, seed=seed)
