"""Standard output and error that end no command: whoever read them may be gone, the disk full, the terminal closed, the text not ASCII.

Python ends with its own codes where a stream fails (1 in the middle, 120 at the end), and rich with 1; of this lab 1 means an invalid run.

Rules
-----
1. Writing never fails. What cannot be written any more is dropped, and the command goes on to its end and to its own exit code.
2. A reader that has gone is no error: it has read what it wanted. Any other failure of standard output is told at the end, and what would
   end with 0 ends with 2, because what was to be told was not.
3. A character that the stream's encoding does not have is written as an escape.
4. A stream that was closed before the start is opened to nowhere: else the next file or socket would have its number, and get its text.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from typing import Any, TextIO

GONE = (errno.EPIPE, errno.ECONNRESET, errno.EIO, errno.ENXIO, errno.EBADF)  # EIO: of a terminal that was closed
FULL_S = 60.0  # a reader that takes nothing for so long is no reader


class _Writer(io.RawIOBase):
    """A descriptor to which writing never fails; `failure` is why nothing is written any more."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write all of it, or drop it."""
        left = memoryview(data)
        while left and self.failure is None:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError as error:  # somebody has made the pipe not wait: it is his, too
                if not select.select((), (self._descriptor,), (), FULL_S)[1]:
                    self.failure = error
            except OSError as error:
                self.failure = error
        return len(data)

    def writable(self) -> bool:
        """Return that it takes bytes."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return os.isatty(self._descriptor)


class StandardStreams:
    """The two streams of this process, once they are taken over."""

    def __init__(self, out: _Writer | None) -> None:
        self._out = out

    def finish(self, code: int) -> int:
        """Write what is still to be written; return the exit code, or 2 in the place of 0 where standard output could not be written."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        failure = None if self._out is None else self._out.failure
        if failure is None or failure.errno in GONE:
            return code
        sys.stderr.write(f"buslab: cannot write to standard output: {failure.strerror}; free the disk, or send it elsewhere\n")
        sys.stderr.flush()
        return code or 2


def take_over_streams() -> StandardStreams:
    """Put streams that do not fail in the place of this process's own; those of a test or a notebook, which are no descriptors, stay."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(descriptor, True)
    sys.stdout, out = _taken_over(sys.stdout, 1)
    sys.stderr, _ = _taken_over(sys.stderr, 2)
    return StandardStreams(out)


def _taken_over(usual: TextIO | None, descriptor: int) -> tuple[TextIO, _Writer | None]:
    if usual is not None:
        try:
            if usual.fileno() != descriptor:
                return usual, None
        except (OSError, ValueError, AttributeError):
            return usual, None
        with contextlib.suppress(OSError, ValueError):
            usual.flush()
    writer = _Writer(descriptor)
    encoding = getattr(usual, "encoding", None) or "utf-8"
    at_once = descriptor == 2 or writer.isatty()
    return io.TextIOWrapper(io.BufferedWriter(writer), encoding, "backslashreplace", line_buffering=at_once), writer
