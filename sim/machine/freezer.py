"""Freeze all that one pod does, and thaw it, inside a process that goes on: what SIGSTOP and SIGCONT do to a process.

Rules
-----
1. While it is frozen, no coroutine in it takes a step, nothing is read from its sockets, and callbacks wait in their order.
2. Time goes on: a sleep or a timeout that ran out meanwhile is noticed at once when it thaws, as in a process that was stopped.
3. A pod that ends thaws its freezer for good (`end`): what waited is dropped, so that its coroutines can be cancelled.

What it cannot hold back: bytes that were handed to a socket before, and new connections to the pod's port, which a kernel takes for
a stopped process too.
"""

from __future__ import annotations

import asyncio
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
FROZEN = "frozen"  # the freezer's reason to pause a stream; others may have theirs


class Readable(Protocol):
    """Something that reads from a socket."""

    def pause(self, why: str) -> None:
        """Read no more until each reason to pause is gone."""

    def resume(self, why: str) -> None:
        """Take one reason away."""


class Freezer:
    """The coroutines, the streams and the callbacks of one pod, frozen and thawed together.

    Attributes
    ----------
    frozen
        Whether everything behind it stands still.
    ended
        Whether it will never be frozen again, and takes no callbacks any more.
    """

    def __init__(self) -> None:
        self.frozen = False
        self.ended = False
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._streams: set[Readable] = set()
        self._callbacks: deque[Callable[[], None]] = deque()

    def freeze(self) -> None:
        """Freeze everything behind it; nothing when it has ended."""
        if self.ended or self.frozen:
            return
        self.frozen = True
        self._thawed.clear()
        for stream in self._streams:
            stream.pause(FROZEN)

    def thaw(self) -> None:
        """Thaw everything: first the callbacks that wait, then what is read, then the coroutines."""
        if not self.frozen:
            return
        self.frozen = False
        while self._callbacks and not self.frozen:
            self._callbacks.popleft()()
        if self.frozen:
            return
        for stream in list(self._streams):
            stream.resume(FROZEN)
        self._thawed.set()

    def end(self) -> None:
        """Thaw for good, and forget the callbacks that wait."""
        self.frozen, self.ended = False, True
        self._callbacks.clear()
        self._streams.clear()
        self._thawed.set()

    def then(self, callback: Callable[[], None]) -> None:
        """Call now, or when it thaws, or never when it has ended."""
        if self.frozen:
            self._callbacks.append(callback)
        elif not self.ended:
            callback()

    def add(self, stream: Readable) -> None:
        """Put a stream behind the freezer, from now on."""
        if self.ended:
            return
        self._streams.add(stream)
        if self.frozen:
            stream.pause(FROZEN)

    def discard(self, stream: Readable) -> None:
        """Forget a stream: it is closed."""
        self._streams.discard(stream)

    async def hold(self, work: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **named: P.kwargs) -> T:
        """Run a coroutine function that takes its steps only while it is not frozen, and return what it returns.

        A cancellation is held back too, which is what a timeout in `work` needs; call `end` before one that must not wait.
        """
        result: T = await self._steps(work(*args, **named))
        return result

    @types.coroutine
    def _steps(self, work: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        error: BaseException | None = None
        try:
            while True:
                while self.frozen:
                    try:
                        yield from self._thawed.wait().__await__()
                    except asyncio.CancelledError as cancelled:
                        error = cancelled
                try:
                    awaited = work.send(None) if error is None else work.throw(error)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]
                error = None
                try:
                    yield awaited  # a future brings its result itself; its exception is thrown in here
                except GeneratorExit:
                    raise
                except BaseException as thrown:
                    error = thrown
        finally:
            work.close()
