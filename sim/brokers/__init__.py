"""Where the bus runs: the grounds that `--on` names.

A member is a function that takes the text after the ground's name and returns a context manager; entering it starts (or
reaches) a server and returns a `Broker` that has answered PING, leaving it stops what was started.

To add one: write ``sim/brokers/<name>.py`` with such a function and list it in `GROUNDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from sim.address import SCHEMES, Address
from sim.brokers.cluster import cluster
from sim.brokers.embedded import embedded
from sim.brokers.external import external
from sim.errors import UsageError, did_you_mean
from sim.faults import BrokerControl


class Broker(Protocol):
    """A server that answers."""

    @property
    def address(self) -> Address:
        """Where it is; of a cluster, every node."""

    @property
    def ground(self) -> str:
        """The ground's name; never holds a secret."""

    @property
    def control(self) -> BrokerControl | None:
        """How a fault hurts and mends it, or None where it is not ours to hurt."""

    @property
    def pid(self) -> int | None:
        """Process id of the server where it is one of ours, else None."""


GROUNDS: dict[str, tuple[Callable[..., AbstractContextManager[Broker]], str]] = {
    "embedded": (embedded, "a Valkey server of our own on loopback, nothing on disk; embedded:PORT fixes its port"),
    "cluster": (
        cluster,
        "3 masters and 3 replicas of our own on loopback; cluster:N has N, cluster:1 no replica, cluster:N:PORT fixes ports",
    ),
    "redis": (external, "redis://[USER:PASSWORD@]HOST[:PORT], or rediss:// for TLS: a server that runs already"),
}


def open_broker(on: str, *, load_this_server: bool = False) -> AbstractContextManager[Broker]:
    """Return the context manager of the ground that `--on` names.

    Raises
    ------
    UsageError
        No such ground.
    """
    ground, _, rest = on.partition(":")
    if ground in SCHEMES:
        return external(on, load_this_server=load_this_server)
    if ground in ("embedded", "cluster"):
        return GROUNDS[ground][0](rest)
    known = ", ".join(name if name != "redis" else "redis://HOST:PORT" for name in GROUNDS)
    raise UsageError(f"--on {on.split('@')[-1].partition('?')[0]!r}: no such ground{did_you_mean(ground, GROUNDS)}; known: {known}")
