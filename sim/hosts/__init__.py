"""Where pods live.

A member is a class that makes its pods in the constructor, starts none, and offers what `Host` lists. To add one: write
``sim/hosts/<name>.py`` with such a class and list it in `HOSTS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Protocol

from sim.container import Container
from sim.hosts.inline import Counts, InlineHost
from sim.load import Reads, Schedule


class Host(Protocol):
    """Hold some pods of the fleet."""

    @property
    def containers(self) -> Mapping[str, Container]:
        """Pod name -> where it runs; each is a `world.PodControl`."""

    def listening(self) -> set[int]:
        """Return the numbers of the pods that run and do not stand still."""

    async def start(self, *, timeout_s: float) -> None:
        """Start every pod; return when the broker confirmed every subscription."""

    async def drive(self, schedule: Schedule, *, zero_ns: int, end_ns: int, payload_bytes: int) -> int:
        """Let the pods make these calls at their times and send what falls due until the end; return how many were made."""

    def read(self, reads: Reads, *, zero_ns: int) -> None:
        """Let the pods read their configuration at these times, from now on, until all is read or the host ends."""

    async def settle(self, *, timeout_s: float) -> None:
        """Flush every pod's batch and wait for the answers."""

    async def stop(self, *, timeout_s: float) -> None:
        """Stop every pod gracefully."""

    def abort(self) -> None:
        """Drop every connection at once."""

    def states(self) -> Counter[str]:
        """Return how many pods are in which state."""

    def counts(self) -> Counts:
        """Return how far the pods are."""

    def forget_lag(self) -> None:
        """Start the sampled lag anew."""


__all__ = ["HOSTS", "Counts", "Host"]

HOSTS: dict[str, type[InlineHost]] = {"inline": InlineHost}
