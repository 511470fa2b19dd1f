"""The output of a program in a file that cannot grow without bound: its beginning, and its end."""

from __future__ import annotations

from collections import deque
from pathlib import Path

HEAD_BYTES = 4 * 1024 * 1024
TAIL_BYTES = 256 * 1024
LAST_BYTES = 4 * 1024  # for the message of an error
LAST_LINES = 6


class BoundedLog:
    """A log: the first `head_bytes` are written as they come, of the rest the last `tail_bytes` when it is closed.

    Attributes
    ----------
    left_out
        Bytes between the two that were not kept; known once it is closed.

    Raises
    ------
    OSError
        The file cannot be made.
    """

    def __init__(self, path: Path, *, head_bytes: int = HEAD_BYTES, tail_bytes: int = TAIL_BYTES) -> None:
        self.path = path
        self.left_out = 0
        self._file = path.open("wb", buffering=0)
        self._room = head_bytes
        self._most = tail_bytes
        self._tail: deque[bytes] = deque()
        self._held = 0
        self._last = b""

    def write(self, data: bytes) -> None:
        """Take some output; what the disk has no room for is left out too."""
        self._last = (self._last + data)[-LAST_BYTES:] if len(data) < LAST_BYTES else data[-LAST_BYTES:]
        head, rest = data[: self._room], data[self._room :]
        if head:
            self._room -= len(head)
            self._put(head)
        if rest:
            self._tail.append(rest)
            self._held += len(rest)
            while self._held - len(self._tail[0]) >= self._most:
                gone = len(self._tail.popleft())
                self._held -= gone
                self.left_out += gone

    def _put(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError:
            self.left_out += len(data)

    def last(self, *, but: str = "\n") -> str:
        """Return the last lines of the output as one line, for the message of an error; not those that begin with `but`."""
        lines = [line.strip() for line in self._last.decode("utf-8", "replace").splitlines() if line.strip() and not line.startswith(but)]
        return " | ".join(lines[-LAST_LINES:]) or "it printed nothing"

    def close(self) -> None:
        """Write the end of the output, and close the file; may be called twice."""
        if self._file.closed:
            return
        tail = b"".join(self._tail)
        self._tail.clear()
        if over := max(0, len(tail) - self._most):
            self.left_out += over
            tail = tail[over:]
        if self.left_out:
            self._put(f"\n[{self.left_out:,} bytes of output were left out here]\n".encode())
        self._put(tail)
        self._file.close()
