"""Time for the live half: one clock for all processes of a machine, timers finer than a millisecond, and the event loop.

`now_ns` reads CLOCK_MONOTONIC, which every process of one machine shares, so times of the broker's side, the pods and Locust can
be subtracted from one another. Processes whose `clock_identity` differs read different clocks, which are compared (`sim.pods.clocks`). On a
`JumpingLoop` it reads that loop's virtual time instead.

epoll, and so asyncio, uvloop and gevent, wakes on whole milliseconds. A publisher that is up to 1 ms late would hide
a Redis that answers in 0.1 ms, so `PreciseTimer` uses a Linux timerfd: a file descriptor that becomes readable at
the nanosecond asked for. Where there is none (macOS) it says so and the loops' own timers serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
VIRTUAL_EPOCH_S = 1_767_225_600  # 2026-01-01: every run in virtual time has this date

_CLOCK_MONOTONIC = 1
_TFD_FLAGS = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)
_TFD_TIMER_ABSTIME = 1


def running_clock() -> Callable[[], int]:
    """Return what reads the time of the running event loop: its own virtual clock, or CLOCK_MONOTONIC.

    For whoever reads it often and lives on one loop: asking the loop each time costs more than the reading.
    """
    virtual: Callable[[], int] | None = getattr(asyncio._get_running_loop(), "now_ns", None)
    return time.monotonic_ns if virtual is None else virtual


def in_a_loop() -> bool:
    """Return whether an event loop runs in this thread."""
    return asyncio._get_running_loop() is not None


def now_ns() -> int:
    """Return the time in nanoseconds: CLOCK_MONOTONIC, or the virtual time of a running `JumpingLoop`."""
    return running_clock()()


def is_virtual() -> bool:
    """Return whether the running event loop's time is virtual."""
    return running_clock() is not time.monotonic_ns


def wall_offset_ns() -> int:
    """Return (wall clock - `now_ns`) in nanoseconds, to turn a run's times into dates. Virtual time begins at `VIRTUAL_EPOCH_S`."""
    return VIRTUAL_EPOCH_S * NS_PER_S if is_virtual() else time.time_ns() - time.monotonic_ns()


def clock_identity() -> str:
    """Return what processes that read the same CLOCK_MONOTONIC have in common: the boot of their kernel, and their time namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
    except OSError:
        return socket.gethostname()
    with contextlib.suppress(OSError):  # a kernel without time namespaces
        boot += f" {os.readlink('/proc/self/ns/time')}"
    return boot


def utc_now() -> datetime:
    """Return the wall clock as an aware datetime in UTC."""
    return datetime.now(UTC)


class PreciseTimer:
    """One timerfd: `fd` becomes readable at the time given to `set`; call `clear` after it did.

    Raises
    ------
    OSError
        The platform has no timerfd: use the event loop's own timers.
    """

    def __init__(self) -> None:
        if not sys.platform.startswith("linux"):
            raise OSError("no timerfd on this platform")
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = self._libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_FLAGS)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")

    def set(self, at_ns: int) -> None:
        """Arm for an absolute `now_ns` time; a time that has passed fires at once."""
        at_ns = max(at_ns, 1)  # zero would disarm
        spec = struct.pack("@qqqq", 0, 0, at_ns // NS_PER_S, at_ns % NS_PER_S)
        if self._libc.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, spec, None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")

    def clear(self) -> None:
        """Take the expiry off the descriptor, so that it is no longer readable."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 8)

    def close(self) -> None:
        """Close the descriptor; may be called twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a uvloop event loop where uvloop exists, asyncio's own elsewhere."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class Alarm:
    """One call of a function on an event loop at a `now_ns` time, to the microsecond where the platform can.

    One alarm holds one time: `set` replaces the time before.
    """

    def __init__(self, callback: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        self._timer: PreciseTimer | None = None
        self._set_virtual: Callable[..., None] | None = getattr(self._loop, "at_ns", None)
        self._newest = 0  # the newest time that was set, in virtual time, where a timer cannot be cancelled
        if self._set_virtual is not None:
            return
        try:
            self._timer = PreciseTimer()
            self._loop.add_reader(self._timer.fd, self._fired)
        except OSError:
            pass

    def set(self, at_ns: int) -> None:
        """Ask for one call at that time, or at once when it has passed."""
        if self._timer is not None:
            self._timer.set(at_ns)
            return
        if self._set_virtual is not None:
            self._newest += 1
            self._set_virtual(at_ns, self._came, self._newest)
            return
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_later(max(0.0, (at_ns - now_ns()) / NS_PER_S), self._callback)

    def _came(self, number: int) -> None:
        if number == self._newest:
            self._callback()

    def _fired(self) -> None:
        assert self._timer is not None
        self._timer.clear()
        self._callback()

    def close(self) -> None:
        """Cancel the call; may be called twice."""
        self._newest += 1
        if self._handle is not None:
            self._handle.cancel()
        if self._timer is not None and self._timer.fd >= 0:
            self._loop.remove_reader(self._timer.fd)
            self._timer.close()


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Finish what must not be left half done, although this task is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    task.result()
