"""Child processes that never outlive us.

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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from sim.machine.lease import MARK, mark, note_process
from sim.machine.signals import signals_wait

_PR_SET_PDEATHSIG = 1
END_TIMEOUT_S = 5.0
TAIL_LINES = 12


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


class Running(Protocol):
    """A process that we started, ours or a container's: what its line asks of it."""

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""

    def tail(self) -> str:
        """Return the last lines of its output as one line."""

    def end(self, *, timeout_s: float) -> int:
        """Ask it to end (SIGTERM), then make it (SIGKILL); return the exit code."""

    def kill(self) -> None:
        """End it at once (SIGKILL); return when it is gone."""


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
