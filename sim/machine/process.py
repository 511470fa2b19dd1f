"""Processes and signals: children that never outlive us, and an interruption that can be asked for twice.

Ctrl-C, SIGTERM and SIGHUP (the terminal is gone) mean the same, but for this: who began with SIGHUP ignored, as under nohup, goes on
ignoring it, and only the first SIGHUP counts, because a terminal that goes may send several.

Children are started in a session of their own, killed by the kernel when we die (on Linux), and noted in our lease.

A terminal's Ctrl-C reaches a whole process group, so a child in our group would die before the run could heal and
drain; in its own session it ends when we say so.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from sim.machine.lease import MARK, mark, note_process

_PR_SET_PDEATHSIG = 1
END_TIMEOUT_S = 5.0
TAIL_LINES = 12
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_seen: list[int] = []  # signals since `interruptible` was entered: a process has one set of handlers


def die_with_parent() -> Callable[[], None] | None:
    """Return what a child does before its program begins, so that the kernel kills it when we die; None where it cannot."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)  # loaded before the fork: the child must not take locks
    parent = os.getpid()

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died in between
            os.kill(os.getpid(), signal.SIGKILL)

    return prepare


def endings_heard() -> tuple[signal.Signals, ...]:
    """Return the signals that ask this process to end: SIGHUP only where it is not ignored."""
    return tuple(number for number in ENDINGS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN)


def signal_of(error: KeyboardInterrupt) -> signal.Signals:
    """Return the signal that a KeyboardInterrupt stands for: who raises one for another than SIGINT hands it its number."""
    return signal.Signals(error.args[0]) if error.args and isinstance(error.args[0], int) else signal.SIGINT


class Child:
    """One child process and the file that its output goes to."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        cwd: Path | None = None,
        name: str = "",
    ) -> None:
        self.log = log
        with log.open("ab") as output, signals_wait():
            self.process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**(os.environ if env is None else env), MARK: mark()},
                pass_fds=tuple(pass_fds),
                cwd=cwd,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )
        note_process(self.process.pid, name or Path(argv[0]).name)

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self.process.poll()

    def tail(self) -> str:
        """Return the last lines of its output as one line, for an error message."""
        with contextlib.suppress(OSError):
            lines = self.log.read_text("utf-8", "replace").strip().splitlines()[-TAIL_LINES:]
            return " | ".join(line.strip() for line in lines if line.strip()) or "it printed nothing"
        return "its log is gone"

    def end(self, *, timeout_s: float = END_TIMEOUT_S) -> int:
        """Ask it to end (SIGTERM), then make it (SIGKILL); return the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                return self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


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
