"""An event loop whose clock jumps: virtual time for the pods of ground `model`.

Rules
-----
1. Nothing waits. When no callback is ready, the clock jumps to the next timer; time passes only so.
2. Time is whole nanoseconds. Timers of the same nanosecond run in the order in which they were set, so a run has one order.
3. There is no socket, no thread and no wall clock: an executor's work is done at once, and addresses are those of a `Network`.
4. A loop with nothing ready and no timer would wait for ever; it raises `Stuck` instead, because it is a bug.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Any

NS_PER_S = 1_000_000_000
START_NS = 1_000 * NS_PER_S  # zero means "did not happen" in the tables

Connect = Callable[..., Any]
Series = list[tuple[int, int, Callable[[Any], Any], Any]]
"""Calls that belong together: when each is made, its place, what to call, with what. A publish to thousands is one timer."""


class Stuck(RuntimeError):
    """The error of a virtual time that cannot go on: nothing is ready and no timer is set."""


class JumpingLoop(asyncio.BaseEventLoop):
    """An event loop that runs callbacks, tasks and timers in virtual time.

    Attributes
    ----------
    connect, listen
        Carry out `create_connection` and `create_server`; set by the network of this loop.
    aside
        Called every `ASIDE_EVERY` turns, or calls of series, for a display or a look at signals. It must not touch what the loop runs.
    """

    ASIDE_EVERY = 1024
    ASIDE_EVERY_CALLS = 16 * ASIDE_EVERY

    def __init__(self) -> None:
        super().__init__()
        self._at_ns = START_NS
        self._timers: list[tuple[int, int, Callable[..., Any] | None, Any]] = []
        self._set = 0
        self._called = 0  # callbacks that were ready at once
        self._in_series = 0  # calls of series, which are no timers
        self._calls_left = 0  # of series, until the next look aside
        self.connect: Connect | None = None
        self.listen: Connect | None = None
        self.aside: Callable[[], None] = lambda: None

    # -- time --------------------------------------------------------------------------------------------------

    def now_ns(self) -> int:
        """Return the virtual time in nanoseconds."""
        return self._at_ns

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._at_ns / NS_PER_S

    def at_ns(self, at_ns: int, call: Callable[[Any], Any], argument: Any) -> None:
        """Call a function once at a time, with one argument; cheaper than `call_at`, and it cannot be cancelled."""
        self._set += 1
        heapq.heappush(self._timers, (at_ns, self._set, call, argument))

    def series(self, calls: Series) -> None:
        """Make each of the calls at its time, as timers would, but with one entry in the heap."""
        if calls:
            calls.sort()
            self._in_series += len(calls)
            self.at_ns(calls[0][0], self._go_on, (calls, 0, self._set + 1))

    def _go_on(self, rest: tuple[Series, int, int]) -> None:
        """Make the calls of a series until something else comes before the next: then that is first.

        The series keeps its number: at the same nanosecond, what was set later must not overtake its calls.
        """
        calls, place, number = rest
        ready, timers = self._ready, self._timers  # type: ignore[attr-defined]
        last, first = len(calls) - 1, place
        at_ns, _, call, argument = calls[place]
        while True:
            if at_ns > self._at_ns:
                self._at_ns = at_ns
            call(argument)
            if place == last:
                break
            place += 1
            at_ns, _, call, argument = calls[place]
            if ready or (timers and timers[0][0] <= at_ns):
                heapq.heappush(timers, (at_ns, number, self._go_on, (calls, place, number)))
                break
        self._calls_left -= place - first

    @property
    def events(self) -> int:
        """How many timers, calls of series and ready callbacks there were so far: what a loop's speed is counted in."""
        return self._set + self._called + self._in_series

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """Call back at a time in seconds."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._set += 1
        heapq.heappush(self._timers, (round(when * NS_PER_S), self._set, None, handle))
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """Call back after some seconds."""
        return self.call_at(self._at_ns / NS_PER_S + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Do nothing: it stays in the heap, and is skipped when its time comes."""

    # -- turns ----------------------------------------------------------------------------------------------

    def _run_once(self) -> None:
        """Take some turns: what is ready, or else the next timer."""
        self.aside()
        self._calls_left = self.ASIDE_EVERY_CALLS
        ready, timers, pop = self._ready, self._timers, heapq.heappop  # type: ignore[attr-defined]
        for _ in range(self.ASIDE_EVERY):
            if ready:
                self._run_ready()
                if self._stopping:  # type: ignore[attr-defined]
                    return
                continue
            try:
                at_ns, _, call, argument = pop(timers)
            except IndexError:
                raise Stuck("virtual time cannot go on: everything waits for something that no timer will bring") from None
            if at_ns > self._at_ns:
                self._at_ns = at_ns
            if call is not None:
                call(argument)
                if self._calls_left < 0:
                    return
            elif not argument._cancelled:
                argument._run()

    def _run_ready(self) -> None:
        """Run what is ready now; what that makes ready has its turn next."""
        ready = self._ready  # type: ignore[attr-defined]
        self._called += len(ready)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _process_events(self, events: Any) -> None:
        raise AssertionError("a jumping loop watches no descriptor")

    def _write_to_self(self) -> None:
        """Do nothing: the loop never sleeps, so there is nothing to wake."""

    # -- what would leave virtual time -------------------------------------------------------------------------

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Do the work at once, in no time."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **more: Any) -> Any:
        """Connect over the network of this loop."""
        if self.connect is None:
            raise ConnectionRefusedError(f"there is no network in this loop to reach {host}:{port} by")
        return await self.connect(protocol_factory, host, port)

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **more: Any) -> Any:
        """Listen on the network of this loop."""
        if self.listen is None:
            raise OSError(f"there is no network in this loop to listen on {host}:{port}")
        return self.listen(protocol_factory, host, port)
