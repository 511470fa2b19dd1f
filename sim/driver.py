"""Make scheduled calls at their intended times, from inside the process that holds the pods."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Sequence

from sim.clock import Alarm, now_ns
from sim.load import Schedule, content
from sim.pod import Pod

BURST = 64  # calls made before the loop may read again


class PodsDriver:
    """Let pods make scheduled calls at their intended times, by one precise alarm for all of them."""

    def __init__(
        self,
        pods: Sequence[Pod],
        schedule: Schedule,
        *,
        zero_ns: int,
        end_ns: int,
        payload_bytes: int,
        made_call: Callable[[], None],
    ) -> None:
        self._pods = pods
        self._made_call = made_call
        self._end_ns = end_ns
        self._at_ns = (schedule.offset_ns + zero_ns).tolist()
        self._kind = schedule.kind.tolist()
        self._pod = schedule.pod.tolist()
        self._kinds = schedule.kinds
        self._templates = schedule.templates
        self._payload_bytes = payload_bytes
        self._due: list[tuple[int, int]] = []  # one (time, pod) for each batch that was begun
        self.made = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._alarm = Alarm(self._wake)
        self._arm()

    def _wake(self) -> None:
        now = now_ns()
        pods, at_ns = self._pods, self._at_ns
        for _ in range(BURST):
            if self.made == len(at_ns) or at_ns[self.made] > now:
                break
            row = self.made
            self.made += 1
            pod, kind = pods[self._pod[row]], self._kinds[self._kind[row]]
            due_before = pod.node.due_ns
            pod.call(kind, content(kind, row, self._payload_bytes, templates=self._templates), intended_ns=at_ns[row])
            self._made_call()
            if due_before is None and pod.node.due_ns is not None:
                heapq.heappush(self._due, (pod.node.due_ns, pod.number))
        while self._due and self._due[0][0] <= now:
            pods[heapq.heappop(self._due)[1]].tick()  # does nothing when that batch left because it was full
        self._arm()

    def _arm(self) -> None:
        made_all = self.made == len(self._at_ns)
        if made_all and now_ns() >= self._end_ns:
            if not self.done.done():
                self.done.set_result(None)
            return
        next_ns = self._end_ns if made_all else self._at_ns[self.made]  # batches fall due after the last call too
        self._alarm.set(min(next_ns, self._due[0][0]) if self._due else next_ns)

    def close(self) -> None:
        """Make no more calls."""
        self._alarm.close()
