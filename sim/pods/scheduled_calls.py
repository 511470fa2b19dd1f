"""Make scheduled calls at their intended times, from inside the process that holds the pods.

A pod that is frozen makes its calls when it goes on, in their order. A pod that has ended makes none: its application is gone too,
and ends first when a pod ends in order.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Mapping
from functools import partial

from sim.machine.clock import Alarm, running_clock
from sim.pods.pod import ENDED, Pod
from sim.pods.replica import InlineReplica
from sim.record.schema import HTTP_CALL
from sim.scenario.payloads import Content
from sim.scenario.schedule import Schedule

BURST = 64  # calls made before the loop may read again
AWAY = frozenset(("new", "frozen", *ENDED))  # states in which a pod makes no call


class ScheduledCalls:
    """The scheduled calls of the pods of one process, each made at its intended time by one precise alarm for all.

    Attributes
    ----------
    made
        Calls made so far.

    Parameters
    ----------
    replicas
        Who makes the calls of each pod of the schedule, by its number: the pod, or who has its place now.
    contents
        Event type -> what makes what a call of it carries.
    """

    def __init__(
        self,
        replicas: Mapping[int, InlineReplica],
        schedule: Schedule,
        *,
        zero_ns: int,
        end_ns: int,
        contents: Mapping[str, Content],
    ) -> None:
        self._replicas = replicas
        self._end_ns = end_ns
        self._at_ns = (schedule.offset_ns + zero_ns).tolist()
        self._kind = schedule.kind.tolist()
        self._pod = schedule.pod.tolist()
        self._kinds = schedule.kinds
        self._contents = [contents[kind] for kind in schedule.kinds]
        self._due: list[tuple[int, int]] = []  # one (time, place) for each batch that was begun
        self._next = 0
        self.made = 0
        self._now_ns = running_clock()
        self._closed = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._alarm = Alarm(self._wake)
        self._arm()

    @property
    def not_made(self) -> int:
        """Calls whose time has come and that no pod made."""
        return self._next - self.made

    def _wake(self) -> None:
        now = self._now_ns()
        replicas, at_ns, due = self._replicas, self._at_ns, self._due
        for row in range(self._next, min(self._next + BURST, len(at_ns))):
            if (called_ns := at_ns[row]) > now:
                break
            if due and due[0][0] <= called_ns:
                self._tick_until(called_ns)  # a batch that was due before this call leaves without its item, even when this loop is late
            self._next = row + 1
            replica = replicas[self._pod[row]]
            if replica.pod.state not in AWAY and not replica.stopping:
                self._make(replica, row)
            elif replica.frozen:
                replica.pod.freezer.then(partial(self._make_late, replica, row))
        if due and due[0][0] <= now:
            self._tick_until(now)
        self._arm()

    def _tick_until(self, at_ns: int) -> None:
        while self._due and self._due[0][0] <= at_ns:
            place = heapq.heappop(self._due)[1]
            pod = self._replicas[place].pod
            pod.freezer.then(partial(self._tick, pod, place))

    def _tick(self, pod: Pod, place: int) -> None:
        due_before = pod.node.due_ns
        pod.tick()  # does nothing when that batch left because it was full
        self._note_due(pod, place, due_before)

    def _make(self, replica: InlineReplica, row: int) -> None:
        place = self._kind[row]
        kind, at_ns, content = self._kinds[place], self._at_ns[row], self._contents[place](row)
        self.made += 1
        if kind == HTTP_CALL:
            replica.poster.post(content, intended_ns=at_ns)
            return
        pod = replica.pod
        due_before = pod.node.due_ns
        pod.call(kind, content, intended_ns=at_ns)
        if pod.node.due_ns != due_before:
            self._note_due(pod, self._pod[row], due_before)

    def _note_due(self, pod: Pod, place: int, due_before: int | None) -> None:
        if (due_ns := pod.node.due_ns) is not None and due_ns != due_before:
            heapq.heappush(self._due, (due_ns, place))

    def _make_late(self, replica: InlineReplica, row: int) -> None:
        self._make(replica, row)
        if not self._closed:
            self._arm()

    def _arm(self) -> None:
        if self._next < len(self._at_ns):
            next_ns = self._at_ns[self._next]
        else:
            next_ns = self._end_ns  # batches fall due after the last call too
            if self._now_ns() >= next_ns:
                if not self.done.done():
                    self.done.set_result(None)
                return
        due = self._due
        self._alarm.set(due[0][0] if due and due[0][0] < next_ns else next_ns)

    def close(self) -> None:
        """Stop making calls, save for those that frozen pods make when they thaw."""
        self._closed = True
        self._alarm.close()
