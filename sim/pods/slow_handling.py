"""Handle events that take time or must be handled once: several at a time in one pod, as an async service does.

The receive path of a pod calls handlers at once and in line. This file is for the rest: a scenario that gives a service a
handler time or a start skew, or the bus a recipe for once-only handling (`sim.bus.once`).

What a handler takes of a core is taken of a core of the pod's own, which is simulated: its events stand behind each other there, and no
core of this machine is used, which many pods share.

Rules
-----
1. At most `MAX_AT_ONCE` events of a pod are between heard and handled; then the pod stops reading until half of them are done. A pod
   that handles so many at a time reads on when one of them is done; one that queues, when half of its full queue is. What one read
   brought beyond that waits for its turn, in order.
2. Rows are written in the order in which the pod heard, whatever the order in which handlers end.
3. An event whose turn comes when another one ends begins at the end of that one, not when a timer of this machine woke up, which is up to
   `LATE_NS` later: else each event would add its lateness to all that wait. Later than that, the pod really stood still.
4. A lock that cannot be had because the broker does not answer is a failed handling, as an exception in the reference's snippet.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import hiredis

from sim.bus.counters import Counters
from sim.bus.envelope import Event
from sim.bus.once import RUN, Command, Outcome, Recipe, WallMs
from sim.errors import BrokerError
from sim.machine.clock import running_clock
from sim.machine.freezer import Freezer
from sim.machine.words import duration
from sim.record.durations import Duration
from sim.record.recorder import DeliveryBuffer

MAX_AT_ONCE = 1000
COMMAND_TIMEOUT_S = 2.0
LATE_NS = 20_000_000  # event loops count in milliseconds, and a busy machine adds some
_FAILED = DeliveryBuffer.RESULTS.index("failed")


@dataclass(frozen=True)
class Work:
    """What one event costs its handler: so much of a core of the pod, then so long a wait, as for a query of its own."""

    cpu: Duration = Duration()  # noqa: RUF009 - frozen
    wait: Duration = Duration()  # noqa: RUF009 - frozen

    @staticmethod
    def waiting(ms: float) -> Work:
        """Return a wait of always the same length."""
        return Work(wait=Duration(one=ms))


@dataclass(frozen=True)
class Pace:
    """How long handling takes.

    Attributes
    ----------
    work
        Of one event.
    of_channel
        Of one event of these types, instead.
    skew_ms
        Greatest time between hearing and beginning; each event draws its own, uniform from 0.
    at_once
        How many events a pod handles at a time; 0 = as many as it reads.
    queue_limit
        How many events it reads ahead while it handles others, 0 = none: it stops reading.
    cores
        How much of a core it may use.
    """

    work: Work = Work()
    of_channel: Mapping[str, Work] = field(default_factory=dict)
    skew_ms: float = 0.0
    at_once: int = 0
    queue_limit: int = 0
    cores: float = 1.0

    def changed(self, *, handler_ms: float, at_once: int) -> Pace:
        """Return the same with so long a wait for each event, and so many at a time."""
        return replace(self, work=Work.waiting(handler_ms), of_channel={}, at_once=at_once)


class HandlingConnections(Protocol):
    """The connections of a pod, as far as handling needs them."""

    async def command(self, *words: str) -> Any:
        """Send one command to the broker and return its reply; raise `BrokerError` when there is none."""

    def pause(self) -> None:
        """Read no more for now."""

    def resume(self) -> None:
        """Go on reading."""


@dataclass(frozen=True)
class DeliveryRecord:
    """Where a pod records what it handled: the table, its number there, and its counters."""

    deliveries: DeliveryBuffer
    number: int
    counters: Counters


@dataclass(frozen=True)
class OnceClaim:
    """How a pod claims an event for itself, so that no other pod handles it.

    Attributes
    ----------
    name
        Gives what stands in the keys for an event id (`sim.bus.once.lock_name`).
    token
        Who claims it: the pod.
    wall_ms
        The pod's wall clock, where keys expire by it.
    """

    recipe: Recipe
    ttl_s: int
    name: Callable[[str], str]
    token: str
    wall_ms: WallMs | None = None

    def steps(self, event_id: str) -> Generator[Command, Any, Outcome]:
        """Return the steps by which one event is claimed and handled."""
        return self.recipe(self.name(event_id), token=f"{self.token}:{event_id}", ttl_s=self.ttl_s, wall_ms=self.wall_ms)


@dataclass
class _HeldRow:
    key: int
    received_ns: int
    path: int
    handled_ns: int = 0
    ended_ns: int = 0
    outcome: int = -1  # not known yet


class SlowHandling:
    """The events of one pod that are being handled.

    Parameters
    ----------
    seed
        For the start skew.
    freezer
        While it is frozen, no handler goes on.
    """

    def __init__(
        self, connections: HandlingConnections, *, record: DeliveryRecord, pace: Pace, claim: OnceClaim, seed: int, freezer: Freezer
    ) -> None:
        self._freezer = freezer
        self._number = record.number
        self._deliveries = record.deliveries
        self._counters = record.counters
        self._pace = pace
        self._steps = claim.steps
        self._random = random.Random(seed)
        self._works = random.Random(f"work {seed}")
        self._core_free_ns = 0
        self._command = connections.command
        self._pause, self._resume = connections.pause, connections.resume
        self._rows: deque[_HeldRow] = deque()
        self._tasks: dict[asyncio.Task[None], None] = {}  # in the order in which they began; a set would have another order in each run
        self._waiting: deque[asyncio.Future[int]] = deque()  # one for each event that waits for its turn
        self._begun = 0
        self._paused = False
        self._now_ns = running_clock()

    def __len__(self) -> int:
        return len(self._tasks)

    def take(self, handler: Callable[[Event], None], event: Event, key: int, received_ns: int, *, path: int = 0) -> asyncio.Task[None]:
        """Begin to handle one event, and return what ends when it is handled; `path` is a place in `DeliveryBuffer.PATHS`."""
        row = _HeldRow(key, received_ns, path)
        self._rows.append(row)
        task = asyncio.get_running_loop().create_task(self._freezer.hold(self._handle, handler, event, row))
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._finished(done, row))
        if len(self._tasks) >= self._limit:
            self._paused = True
            self._pause()  # each time, because the connection may be a new one
        return task

    @property
    def _limit(self) -> int:
        return self._pace.queue_limit or self._pace.at_once or MAX_AT_ONCE

    @property
    def _enough(self) -> int:
        """How many are few enough to read on: half, or one less than it handles at a time, where it reads nothing ahead."""
        return self._limit - 1 if self._pace.at_once and not self._pace.queue_limit else self._limit // 2

    def change(self, pace: Pace) -> None:
        """Handle at another pace from now on; a handler that has begun takes the time that it began with."""
        self._pace = pace
        self._go_on(self._now_ns())

    def _go_on(self, free_ns: int) -> None:
        """Begin the events whose turn it is, at a time, and read on when few are left."""
        while self._waiting and (not self._pace.at_once or self._begun < self._pace.at_once):
            turn = self._waiting.popleft()
            if not turn.done():
                self._begun += 1
                turn.set_result(free_ns)
        if self._paused and len(self._tasks) <= self._enough:
            self._paused = False
            self._resume()

    async def _turn(self) -> int:
        """Return when the event's turn is, once it is."""
        if self._waiting or (self._pace.at_once and self._begun >= self._pace.at_once):
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            free_ns, now_ns = await turn, self._now_ns()
            return free_ns if now_ns - free_ns <= LATE_NS else now_ns
        self._begun += 1
        return self._now_ns()

    async def _handle(self, handler: Callable[[Event], None], event: Event, row: _HeldRow) -> None:
        turn_ns = max(await self._turn(), row.received_ns)  # it may have come after the end that makes room for it
        try:
            await self._handle_now(handler, event, row, turn_ns)
        finally:
            self._begun -= 1

    async def _handle_now(self, handler: Callable[[Event], None], event: Event, row: _HeldRow, at_ns: int) -> None:
        if self._pace.skew_ms:
            await asyncio.sleep(self._random.uniform(0, self._pace.skew_ms / 1000))
            at_ns = self._now_ns()
        steps = self._steps(event.event_id)
        row.handled_ns = at_ns
        outcome = "failed"
        try:
            want = next(steps)
            while True:
                if want == RUN:
                    answer: Any = await self._run(handler, event, row, at_ns)
                else:
                    answer = await self._answer(want)
                    at_ns, row.ended_ns = self._now_ns(), 0  # it is over when it is, and not when its handler was
                want = steps.send(answer)
        except StopIteration as end:
            outcome = end.value if end.value in DeliveryBuffer.RESULTS else "failed"
        except Exception:  # the broker does not answer, or a recipe of the user's own raises
            pass
        row.outcome = DeliveryBuffer.RESULTS.index(outcome)

    async def _run(self, handler: Callable[[Event], None], event: Event, row: _HeldRow, begin_ns: int) -> bool:
        pace = self._pace
        work = pace.of_channel.get(event.type, pace.work)
        end_ns = begin_ns
        if work.cpu:
            begin_ns = max(begin_ns, self._core_free_ns)
            end_ns = self._core_free_ns = begin_ns + int(work.cpu.draw(self._works) * 1e6 / min(1.0, pace.cores))
        if work.wait:
            end_ns += int(work.wait.draw(self._works) * 1e6)
        row.handled_ns, row.ended_ns = begin_ns, end_ns
        if end_ns > begin_ns:
            await asyncio.sleep(max(0, end_ns - self._now_ns()) / 1e9)
        try:
            handler(event)
        except Exception:  # a handler may raise anything; the recipe is told
            return False
        return True

    async def _answer(self, command: tuple[str, ...]) -> Any:
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                reply = await self._command(*command)
        except TimeoutError:
            raise BrokerError(f"no answer to {command[0]} within {duration(COMMAND_TIMEOUT_S)}") from None
        if isinstance(reply, hiredis.ReplyError):
            raise BrokerError(str(reply))
        return reply

    def _finished(self, task: asyncio.Task[None], row: _HeldRow) -> None:
        self._tasks.pop(task, None)
        if row.outcome < 0:  # the pod ended inside the handler
            row.outcome = _FAILED
            row.handled_ns = min(row.handled_ns or row.received_ns, self._now_ns())
        while self._rows and self._rows[0].outcome >= 0:
            done = self._rows.popleft()
            self._counters.failures += done.outcome == _FAILED
            self._deliveries.add(done.key, self._number, done.received_ns, done.handled_ns, path=done.path, outcome=done.outcome)
        self._go_on(row.ended_ns or self._now_ns())

    async def settle(self) -> None:
        """Return when every event that was begun is done."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    def abort(self) -> None:
        """Cancel every handler; an event that it had begun counts as failed."""
        for task in list(self._tasks):
            task.cancel()
