"""Signals that end a process: an interruption that can be asked for twice.

Ctrl-C, SIGTERM and SIGHUP (the terminal is gone) mean the same, but for this: who began with SIGHUP ignored, as under nohup, goes on
ignoring it, and only the first SIGHUP counts, because a terminal that goes may send several.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_seen: list[int] = []  # signals since `interruptible` was entered: a process has one set of handlers


def endings_heard() -> tuple[signal.Signals, ...]:
    """Return the signals that ask this process to end: SIGHUP only where it is not ignored."""
    return tuple(number for number in ENDINGS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN)


def signal_of(error: KeyboardInterrupt) -> signal.Signals:
    """Return the signal that a KeyboardInterrupt stands for: who raises one for another than SIGINT hands it its number."""
    return signal.Signals(error.args[0]) if error.args and isinstance(error.args[0], int) else signal.SIGINT


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Delay the handlers of SIGINT, SIGTERM and SIGHUP until after the block.

    A fork calls hooks of other modules, and what a handler raises in one of those is printed and lost, as a Ctrl-C was now and then.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    heard = [number for number in ENDINGS if signal.getsignal(number) != signal.SIG_IGN]  # a child ignores what its parent does
    before = {number: signal.signal(number, lambda *one: came.append(one)) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for one, frame in came:
        handler = before[signal.Signals(one)]
        if callable(handler):
            handler(one, frame)
        elif handler == signal.SIG_DFL:
            signal.raise_signal(one)


@contextlib.contextmanager
def interruptible(interrupt: Callable[[int], None]) -> Iterator[None]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into `interrupt`; the second, if it is no SIGHUP, ends the process at once.

    Whoever blocks for long inside asks `asked_to_end` now and then. Children are killed by the kernel when this process
    ends. Outside the main thread nothing is installed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _seen.clear()

    def handle(number: int, frame: object) -> None:
        if _seen and number == signal.SIGHUP:
            return
        _seen.append(number)
        if len(_seen) > 1:
            os._exit(128 + number)
        interrupt(number)

    before = {number: signal.signal(number, handle) for number in endings_heard()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _seen.clear()


def asked_to_end() -> int | None:
    """Return the signal that has asked this process to end, while `interruptible` holds; else None."""
    return _seen[0] if _seen else None
