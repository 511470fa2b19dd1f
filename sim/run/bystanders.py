"""Sample the processes of ours that do not sample themselves: the servers of the broker and the proxy of the links.

Their rows stand in the table `hosts` beside those of the processes that hold pods and make calls: processor time, and how long each could
have run and did not (`sim.machine.waits`). A server that a fault kills has no rows until it runs again; its account goes on then.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping

from sim.grounds.broker import Broker
from sim.grounds.links import Links
from sim.machine.clock import NS_PER_S, now_ns
from sim.machine.waits import OtherWaits
from sim.pods.hosts.meters import LAG_ROW_NS
from sim.record.recorder import Recorder
from sim.record.schema import BROKER

NO_LOOP = -1  # in place of a lateness


class Bystanders:
    """The accounts of processes that are looked at from outside, every quarter of a second.

    Parameters
    ----------
    pids
        Gives the process ids of now, by the name that the process has in the table `hosts`.
    """

    def __init__(self, recorder: Recorder, pids: Callable[[], Mapping[str, int]]) -> None:
        self._recorder = recorder
        self._pids = pids
        self._accounts: dict[str, OtherWaits] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Sample until `close`."""
        self._task = asyncio.get_running_loop().create_task(self._sample())

    async def _sample(self) -> None:
        while True:
            self.take()
            await asyncio.sleep(LAG_ROW_NS / NS_PER_S)

    def take(self) -> None:
        """Take one sample of each."""
        for name, pid in self._pids().items():
            at_ns = now_ns()
            cpu_ns, waits = self._accounts.setdefault(name, OtherWaits()).sample(pid, at_ns)
            if not math.isnan(cpu_ns):
                self._recorder.tables["hosts"].add(at_ns, name, int(cpu_ns), NO_LOOP, *waits)

    def close(self) -> None:
        """End sampling; may be called twice."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        for account in self._accounts.values():
            account.close()


def bystanders_of(broker: Broker, links: Links | None) -> dict[str, int]:
    """Return the process ids of the servers and the proxies of a run, by their names in the table `hosts`."""
    several = len(broker.address.nodes) > 1
    names = {f"{BROKER} {node}" if several else BROKER: pid for node, pid in broker.pids.items()}
    return names | dict(links.pids if links is not None else {})
