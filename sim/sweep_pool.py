"""Some worker processes of a sweep (see `sim.sweep_cell`): hand out tasks, gather rows, and leave no process behind.

A worker is a child that dies with this process. One that dies by itself costs its cell, whose answer is then a sentence; the next task
gets a new worker.
"""

from __future__ import annotations

import socket
import sys
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any

from sim.grid import Cell
from sim.process import Child
from sim.sweep_cell import Task

POLL_S = 1.0  # a signal is noticed at once; this only bounds the wait


class SweepPool:
    """Run at most `size` cells at a time; a context manager."""

    def __init__(self, size: int, *, log: Path) -> None:
        self._size = size
        self._log = log
        self._idle: list[tuple[Connection, Child]] = []
        self._at_work: dict[Connection, tuple[Cell, Child]] = {}

    def __enter__(self) -> SweepPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        children = [child for _, child in (*self._idle, *self._at_work.values())]
        for child in children:
            if child.poll() is None:
                child.process.terminate()  # all at once, then wait for each
        for child in children:
            child.end()
        for channel in (*(channel for channel, _ in self._idle), *self._at_work):
            channel.close()
        if self._log.exists() and not self._log.stat().st_size:
            self._log.unlink()

    @property
    def busy(self) -> int:
        """Cells that run."""
        return len(self._at_work)

    @property
    def free(self) -> int:
        """Cells that may be started."""
        return self._size - len(self._at_work)

    def start(self, cell: Cell, task: Task) -> None:
        """Hand a task to a worker."""
        channel, child = self._idle.pop() if self._idle else self._new()
        channel.send(task)
        self._at_work[channel] = (cell, child)

    def wait(self) -> list[tuple[Cell, dict[str, Any] | str]]:
        """Return what ended, after a while at most; a sentence instead of a row says why there is none."""
        ended: list[tuple[Cell, dict[str, Any] | str]] = []
        for channel in wait(list(self._at_work), POLL_S):
            assert isinstance(channel, Connection)
            cell, child = self._at_work.pop(channel)
            try:
                _, answer = channel.recv()
                self._idle.append((channel, child))
            except (EOFError, OSError):
                answer = f"its process ended with exit code {child.end()}: {child.tail()}"
                channel.close()
            ended.append((cell, answer))
        return ended

    def _new(self) -> tuple[Connection, Child]:
        ours, theirs = socket.socketpair()
        with theirs:
            child = Child([sys.executable, "-m", "sim.sweep_cell", str(theirs.fileno())], log=self._log, pass_fds=(theirs.fileno(),))
        return Connection(ours.detach()), child
