"""The way before the bus: a pod POSTs each analytics item to an analytics-service pod and waits for the answer.

The pod keeps connections open, as a service's HTTP client does, and takes the analytics pods in turn. A call's time is from the call
until the answer was read, the wait for a free connection included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from sim.machine.clock import now_ns
from sim.machine.freezer import Freezer
from sim.machine.http_client import HttpFailure, HttpPool
from sim.pods.context import PodIdentity
from sim.pods.pod_journal import PodJournal
from sim.record.recorder import Recorder
from sim.record.schema import HTTP_CALL

PATH = "/api/events/batch"
TIMEOUT_S = 10.0
CONNECTIONS = 16  # of one pod; further calls wait for a free one


class HttpCalls:
    """The calls by HTTP of one pod.

    Parameters
    ----------
    identity
        Of the calling pod; its number says with which analytics pod it begins.
    ports
        Where the analytics pods that run now listen.
    journal
        Is told of each call before it is made; None where nobody would read it.
    """

    def __init__(
        self,
        identity: PodIdentity,
        *,
        freezer: Freezer,
        recorder: Recorder,
        ports: Callable[[], Sequence[int]],
        journal: PodJournal | None = None,
    ) -> None:
        self._name = identity.name
        self._turn = identity.number
        self._service = identity.service
        self._journal = journal
        self._freezer = freezer
        self._calls = recorder.tables["calls"]
        self._ports = ports
        self._pool = HttpPool(connections=CONNECTIONS)
        self._under_way: dict[asyncio.Task[bool], tuple[int, int]] = {}  # -> (intended_ns, began_ns)

    def post(self, item: dict[str, Any], *, intended_ns: int) -> None:
        """Begin one call; it is recorded when it is answered or has failed."""
        began_ns = now_ns()
        if self._journal is not None:
            self._journal.begin_call(intended_ns=intended_ns, began_ns=began_ns)
        task = asyncio.get_running_loop().create_task(self._freezer.hold(self._post, item))
        self._under_way[task] = (intended_ns, began_ns)
        task.add_done_callback(self._ended)

    async def _post(self, item: dict[str, Any]) -> bool:
        ports = self._ports()
        if not ports:
            return False
        self._turn += 1
        body = msgspec.json.encode({"events": [item], "source": self._service})
        try:
            reply = await self._pool.ask(ports[self._turn % len(ports)], "POST", PATH, body, timeout_s=TIMEOUT_S)
        except HttpFailure:
            return False
        return 200 <= reply.status < 300

    def _ended(self, task: asyncio.Task[bool]) -> None:
        if task in self._under_way:
            self._record(task, ok=not task.cancelled() and task.result())

    def _record(self, task: asyncio.Task[bool], *, ok: bool) -> None:
        intended_ns, began_ns = self._under_way.pop(task)
        self._calls.add(intended_ns, self._name, HTTP_CALL, now_ns() - began_ns, "ok" if ok else "failed")

    async def settle(self) -> None:
        """Return when every call that was begun has ended; each ends within its bound."""
        while self._under_way:
            await asyncio.wait(set(self._under_way))

    def abort(self) -> None:
        """Drop the connections; calls that are under way have failed."""
        for task in list(self._under_way):
            self._record(task, ok=False)
            task.cancel()
        self._pool.close()
