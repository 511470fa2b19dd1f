"""Ground `cluster`: masters and as many replicas as server processes of our own on loopback, nothing of the events on disk.

`cluster` is three masters with a replica each, `cluster:N` N of them, `cluster:1` one master alone, in cluster mode;
`cluster:N:PORT` fixes the first of the consecutive ports. The nodes are servers like those of the ground `embedded`.

Rules
-----
1. A killed node keeps its place: started again, it comes back as what the others have meanwhile made it.
2. `kill` and `start` without more mean the whole cluster, as for any broker; `kill_master` is for failovers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from sim.errors import BrokerError, UsageError
from sim.grounds.cluster_formation import ARGUMENTS, await_whole, form, owner
from sim.grounds.embedded import FOLDER_PREFIX, EmbeddedBroker, await_answer, launch, sweep
from sim.machine.clock import new_event_loop
from sim.wire.address import Address, PortTaken, join_nodes
from sim.wire.slots import slot_of

MASTERS = 3
MAX_MASTERS = 10
FIRST_PORT, LAST_PORT = 10_000, 22_700  # the cluster bus listens 10,000 above, and must stay below the ports of outgoing connections
_TRIES = 5


class Node(Protocol):
    """A server of the cluster."""

    @property
    def address(self) -> Address:
        """Where it is."""

    @property
    def pids(self) -> dict[str, int]:
        """Its process id, by its address, while it runs as a process that we can see."""

    async def kill(self) -> None:
        """End it at once."""

    async def stop(self) -> None:
        """End it in order."""

    async def freeze(self) -> None:
        """Freeze it."""

    async def thaw(self) -> None:
        """Thaw it."""

    async def start(self) -> None:
        """Start it again; nothing when it runs. Return when it answers."""


class ClusterBroker:
    """A cluster of our own nodes; a fault may kill all of them or one master, and start again what does not run."""

    pid: None = None  # there are several
    new_loop = staticmethod(new_event_loop)

    def __init__(self, nodes: Sequence[Node], *, masters: int, ground: str, image: dict[str, str] | None) -> None:
        self.ground = ground
        self.image = image
        self.address = join_nodes([node.address for node in nodes])
        self.masters = masters
        self._nodes = nodes
        self._dead: list[Node] = []

    @property
    def pids(self) -> dict[str, int]:
        """Process id of each node that runs."""
        return {node: pid for one in self._nodes for node, pid in one.pids.items()}

    @property
    def control(self) -> ClusterBroker:
        """The cluster itself: it can be hurt and mended."""
        return self

    async def kill(self) -> None:
        """End every node at once (SIGKILL)."""
        self._dead = list(self._nodes)
        await asyncio.gather(*(node.kill() for node in self._nodes))

    async def stop(self) -> None:
        """End every node in order (SIGTERM)."""
        self._dead = list(self._nodes)
        await asyncio.gather(*(node.stop() for node in self._nodes))

    async def freeze(self) -> None:
        """Freeze every node (SIGSTOP)."""
        await asyncio.gather(*(node.freeze() for node in self._nodes))

    async def thaw(self) -> None:
        """Thaw every node; return when all serve as one cluster again, unless some do not run."""
        await asyncio.gather(*(node.thaw() for node in self._nodes))
        if not self._dead:
            await asyncio.to_thread(await_whole, self.address.nodes, replicas=len(self._nodes) - self.masters)

    async def start(self) -> None:
        """Start every node that does not run; return when all serve as one cluster again."""
        await asyncio.gather(*(node.start() for node in self._nodes))
        self._dead = []
        await asyncio.to_thread(await_whole, self.address.nodes, replicas=len(self._nodes) - self.masters)

    async def kill_master(self, channel: str = "") -> Address:
        """End at once the master that owns a channel (with its prefix), and return where it was."""
        living = [node.address for node in self._living()]
        where = await asyncio.to_thread(owner, living, slot_of(channel.encode()))
        node = next(node for node in self._nodes if node.address == where)
        self._dead.append(node)
        await node.kill()
        return where

    async def promoted(self) -> None:
        """Return when the living nodes serve all slots: a replica has taken the place of each master that was killed.

        Raises
        ------
        BrokerError
            It does not come to that in time; without a replica it never does.
        """
        await asyncio.to_thread(await_whole, [node.address for node in self._living()])

    def _living(self) -> list[Node]:
        return [node for node in self._nodes if node not in self._dead]


@contextlib.contextmanager
def cluster(text: str = "", *, replicas: bool = True) -> Iterator[ClusterBroker]:
    """Start a cluster and stop it on leaving.

    Parameters
    ----------
    text
        ``""``, ``MASTERS`` or ``MASTERS:PORT``, see the module.
    replicas
        Whether each of several masters has one.

    Raises
    ------
    UsageError
        It is none of these.
    BrokerError
        A port is taken, a node did not start, or the cluster is not whole in time.
    """
    sweep()
    with tempfile.TemporaryDirectory(prefix=f"{FOLDER_PREFIX}{os.getpid()}-") as folder, contextlib.ExitStack() as started:
        yield on_ports(text, ground="cluster", start=lambda ports: _start(Path(folder), ports, until=started), replicas=replicas)


def _start(folder: Path, ports: range, *, until: contextlib.ExitStack) -> list[Node]:
    """Start all nodes at once and return them when each answers; closing `until` ends them, a failed attempt ends its own now."""
    with contextlib.ExitStack() as mine:
        nodes = []
        for port in ports:
            own = folder / str(port)
            own.mkdir(exist_ok=True)
            server = launch(port, folder=own, extra=ARGUMENTS)
            node = EmbeddedBroker(server, port, own, extra=ARGUMENTS)
            mine.callback(node.close, at_once=True)  # SIGKILL: on SIGTERM each master would wait for its replica
            nodes.append((node, server))
        for node, server in nodes:
            await_answer(server, node.address.port)
        until.push(mine.pop_all())
    return [node for node, _ in nodes]


def on_ports(
    text: str,
    *,
    ground: str,
    start: Callable[[range], Sequence[Node]],
    image: dict[str, str] | None = None,
    replicas: bool = True,
) -> ClusterBroker:
    """Start nodes on the ports that the text fixes, or on free ones, and make a whole cluster of them.

    Parameters
    ----------
    start
        Starts a server on each port and returns them all when they answer, or raises `PortTaken` and leaves none.

    Raises
    ------
    UsageError, BrokerError
        As in `cluster`.
    """
    masters, fixed = read_shape(text, ground=ground)
    count = nodes_of(masters) if replicas else masters
    for _ in range(1 if fixed else _TRIES):
        first = fixed or random.randint(FIRST_PORT, LAST_PORT - count + 1)
        with contextlib.suppress(PortTaken):
            nodes = start(range(first, first + count))
            form([node.address for node in nodes], masters=masters)
            return ClusterBroker(nodes, masters=masters, ground=ground if masters == MASTERS else f"{ground}:{masters}", image=image)
    ports = f"{first} to {first + count - 1}"
    hint = f"choose others with --on {ground}:MASTERS:PORT"
    raise BrokerError(f"one of the ports {ports} on 127.0.0.1, or of the cluster bus 10,000 above, is taken: {hint}")


def nodes_of(masters: int) -> int:
    """Return how many nodes a cluster of so many masters has: one alone has no replica, a failover needs a majority of masters."""
    return 1 if masters == 1 else 2 * masters


def read_shape(text: str, *, ground: str) -> tuple[int, int | None]:
    """Return masters and the first port, None for any.

    Raises
    ------
    UsageError
        The text is not as the module says.
    """
    masters, colon, port = text.partition(":")
    if not text:
        return MASTERS, None
    if not _is_number(masters, 1, MAX_MASTERS) or masters == "2":
        raise UsageError(
            f"--on {ground}:{text}: the number of masters must be 1, or from 3 to {MAX_MASTERS}: of two, the one that is left cannot elect"
        )
    last = LAST_PORT - nodes_of(int(masters)) + 1
    if colon and not _is_number(port, FIRST_PORT, last):
        raise UsageError(f"--on {ground}:{text}: the first port must be a number between {FIRST_PORT} and {last}")
    return int(masters), int(port) if colon else None


def _is_number(text: str, least: int, most: int) -> bool:
    return text.isascii() and text.isdigit() and least <= int(text) <= most
