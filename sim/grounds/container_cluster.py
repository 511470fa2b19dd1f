"""Ground `container-cluster`: the ground `cluster` with each node in a container of its own, with host networking.

The nodes find each other on the ports that clients use, and 10,000 above, so all must share one loopback with us.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from sim.errors import BrokerError
from sim.grounds.cluster import ClusterBroker, on_ports
from sim.grounds.cluster_formation import ARGUMENTS
from sim.grounds.container import ContainerBroker, start_server
from sim.grounds.container_engine import DEFAULT_IMAGE, IMAGE_ENV, engine, ensure_image, ensure_reaper, shares_loopback, sweep
from sim.machine.variables import read_variable

if TYPE_CHECKING:
    from docker import DockerClient


@contextlib.contextmanager
def container_cluster(
    text: str = "", *, image: str | None = None, tell: Callable[[str], None] = lambda text: None
) -> Iterator[ClusterBroker]:
    """Start a cluster in containers and remove them on leaving (parameters as in `cluster` and `container`).

    Raises
    ------
    UsageError, BrokerError
        As there; also when containers of this engine do not share our loopback.
    """
    with engine() as client, contextlib.ExitStack() as started:
        if not shares_loopback(client):
            raise BrokerError("container-cluster needs host networking, which this container engine does not give us: use --on cluster")
        sweep(client)
        about = ensure_image(client, image or read_variable(IMAGE_ENV) or DEFAULT_IMAGE, tell=tell)
        ensure_reaper(client, tell=tell)
        yield on_ports(text, ground="container-cluster", start=lambda ports: _start(client, about, ports, until=started), image=about)


def _start(client: DockerClient, image: dict[str, str], ports: Sequence[int], *, until: contextlib.ExitStack) -> list[ContainerBroker]:
    """Start all nodes at once and return them when each answers; closing `until` removes them, a failed attempt removes its own now."""

    def start(port: int) -> tuple[ContainerBroker, contextlib.ExitStack]:
        with contextlib.ExitStack() as mine:
            server = start_server(client, image["name"], port, until=mine, extra=ARGUMENTS)
            broker = ContainerBroker(server, port, image)
            mine.callback(broker.close)
            return broker, mine.pop_all()

    with contextlib.ExitStack() as all_of_them, ThreadPoolExecutor(len(ports)) as pool:
        failures, nodes = [], []
        for starting in [pool.submit(start, port) for port in ports]:
            if failure := starting.exception():
                failures.append(failure)
            else:
                node, mine = starting.result()
                all_of_them.push(mine)
                nodes.append(node)
        if failures:
            raise failures[0]
        until.push(all_of_them.pop_all())
    return nodes
