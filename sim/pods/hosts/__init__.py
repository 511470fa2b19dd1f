"""Where pods live.

A member is a class that makes its pods in the constructor, starts none, and offers what `Host` lists, or a function that returns one. To
add one: write ``sim/pods/hosts/<name>.py`` with it and list it in `HOSTS`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

from sim.faults.world import PodControl
from sim.pods.hosts.containers import containers
from sim.pods.hosts.inline import InlineHost
from sim.pods.hosts.local import LocalHost
from sim.pods.hosts.meters import Counts
from sim.pods.hosts.programs import ProgramsHost
from sim.record.recorder import Recorder
from sim.record.run_info import LostProcess
from sim.scenario.schedule import IntendedReads, Schedule


class Replica(PodControl, Protocol):
    """One place in the fleet where a pod runs: to be hurt, probed (`sim.pods.kubelet.Probed`) and restarted."""

    port: int
    ended: asyncio.Event
    wanted: asyncio.Event

    @property
    def name(self) -> str:
        """The pod's name."""


class Host(Protocol):
    """Where the pods of the fleet live.

    Attributes
    ----------
    name
        The process that makes the pods' calls, as in the table `hosts`.
    recorder
        The recorder of this process.
    lost
        The processes that the run has gone on without, and what their pods recorded with them.
    """

    name: str
    recorder: Recorder
    lost: list[LostProcess]

    @property
    def replicas(self) -> Mapping[str, Replica]:
        """Pod name -> where it runs, in the order of the pods' numbers."""

    def listening(self) -> set[int]:
        """Return the numbers of the pods that run and do not stand still."""

    async def start(self, *, timeout_s: float) -> None:
        """Start every pod; return when the broker confirmed every subscription."""

    async def drive(self, schedule: Schedule, *, zero_ns: int, end_ns: int) -> int:
        """Make these calls of the pods at their times, and send what falls due until the end; return how many were made."""

    def read(self, reads: IntendedReads, *, zero_ns: int) -> None:
        """Read the pods' configuration at these times, from now on, until all is read or the host ends."""

    async def settle(self, *, timeout_s: float, last: bool = False, handled: bool = False) -> None:
        """Flush every pod's batch and wait for the answers; the last time, give up what pods without a connection keep.

        With `handled`, wait too until the handlers have done all that was heard.
        """

    async def stop(self, *, timeout_s: float) -> None:
        """Stop every pod gracefully."""

    def abort(self) -> None:
        """Drop every connection at once."""

    async def close(self) -> None:
        """End every process that is left, and write what was recorded in other processes than this one."""

    def states(self) -> Counter[str]:
        """Return how many pods are in which state."""

    def counts(self) -> Counts:
        """Return how far the pods are."""

    def forget_lag(self) -> None:
        """Start the sampled lag anew."""


__all__ = ["HOSTS", "Counts", "Host", "ProgramsHost"]

HOSTS: dict[str, Callable[..., Host]] = {  # `dask` with places
    "inline": InlineHost,
    "local": LocalHost,
    "dask": LocalHost,
    "containers": containers,
}  # a fleet with programs has `ProgramsHost`, beside whose programs our own pods live `inline`
