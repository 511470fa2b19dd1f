"""The line between two processes of ours: how a child is started, and how both ends speak.

Rules
-----
1. A line is a pair of sockets. The parent keeps one; the child inherits the other, and finds its number in `CONTROL_FD`.
2. A message is a msgspec struct, on the line one line of JSON. Which there are stands beside who speaks them.
3. `send` never fails: that the other side is gone, the next `receive` says.
4. What ends a line is one error of the class that the line was made with. It names the other side and ends with the last lines of its
   log: of a child that died, what it died of.
5. Who may wait uses a `Line`; who runs an event loop, the `AsyncLine` that it turns into.
6. The child's modules are ours, whatever lies in the working directory (`sim.machine.import_path`).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, overload

import msgspec

from sim.errors import BuslabError
from sim.machine.import_path import child_environment, python_child
from sim.machine.process import Child, Running
from sim.machine.words import duration

CONTROL_FD = "BUSLAB_CONTROL_FD"
LINE_BYTES = 1 << 24
READ_BYTES = 1 << 16
SEND_TIMEOUT_S = 10.0
LAST_WORDS_S = 5.0  # a child closes its line before it has written down why
LOOK_S = 0.005
SHOWN_BYTES = 100

T = TypeVar("T", bound=msgspec.Struct)
_encoder = msgspec.json.Encoder()


def pack_line(message: msgspec.Struct) -> bytes:
    """Return a message as one line."""
    return _encoder.encode(message) + b"\n"


@functools.cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


@overload
def read_line(line: bytes, kind: type[T]) -> T: ...
@overload
def read_line(line: bytes, kind: UnionType) -> Any: ...
def read_line(line: bytes, kind: Any) -> Any:
    """Return the message of a kind, or of one of several, that a line is; raise `msgspec.MsgspecError` when it is none."""
    return _decoder(kind).decode(line)


class _End:
    """What both forms of an end have in common: who is at the other one, and what is said when that fails.

    Attributes
    ----------
    name
        The other side, in the words of an error.
    """

    def __init__(self, *, name: str, child: Running | None, error: type[BuslabError]) -> None:
        self.name = name
        self._child = child
        self._error = error

    @property
    def child(self) -> Child:
        """The process at the other end, where we started it."""
        assert isinstance(self._child, Child), f"{self.name} was not started by us"
        return self._child

    def tail(self) -> str:
        """Return ``: `` and the last lines of the child's log; nothing where the other side is no child of ours."""
        return "" if self._child is None else f": {self._child.tail()}"

    def _is_gone(self) -> BuslabError:
        code = None if self._child is None else self._child.poll()
        return self._error(f"{self.name} is gone{self.tail()}" + ("" if code is None else f" (exit code {code})"))

    def _is_silent(self, timeout_s: float) -> BuslabError:
        return self._error(f"{self.name} did not answer within {duration(timeout_s)}{self.tail()}")

    def _read(self, line: bytes, kind: Any) -> Any:
        try:
            return read_line(line, kind)
        except msgspec.MsgspecError:
            shown = "" if self._child is None else f": {line[:SHOWN_BYTES]!r}"  # not a parent's: it may hold a password, and logs stay
            raise self._error(f"{self.name} sent what is not expected of it{shown}{self.tail()}") from None

    def _is_too_long(self) -> BuslabError:
        return self._error(f"{self.name} sent a line of more than {LINE_BYTES:,} bytes{self.tail()}")


class Line(_End):
    """One end of a line, for who may wait; `socket` may be watched for what comes."""

    def __init__(self, end: socket.socket, *, name: str, child: Running | None = None, error: type[BuslabError] = BuslabError) -> None:
        super().__init__(name=name, child=child, error=error)
        self.socket = end
        self._unread = bytearray()

    def send(self, message: msgspec.Struct) -> None:
        """Send a message, if there is still who reads it."""
        with contextlib.suppress(OSError):
            self.socket.settimeout(SEND_TIMEOUT_S)
            self.socket.sendall(pack_line(message))

    @overload
    def receive(self, kind: type[T], *, timeout_s: float | None) -> T: ...
    @overload
    def receive(self, kind: UnionType, *, timeout_s: float | None) -> Any: ...
    def receive(self, kind: Any, *, timeout_s: float | None) -> Any:
        """Return the next message; only a child that waits for its orders has no bound, as it ends with its parent.

        Raises
        ------
        BuslabError
            Of the line's class: the other side is gone, says nothing in time, or something else.
        """
        line = self._next_line(timeout_s)
        if line is None:
            raise self.gone()
        return self._read(line, kind)

    @overload
    def messages(self, kind: type[T]) -> Iterator[T]: ...
    @overload
    def messages(self, kind: UnionType) -> Iterator[Any]: ...
    def messages(self, kind: Any) -> Iterator[Any]:
        """Yield what comes until the other side is gone."""
        while (line := self._next_line(None)) is not None:
            yield self._read(line, kind)

    def _next_line(self, timeout_s: float | None) -> bytes | None:
        """Return the next line, None at the end; half a line is no message."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        looked_at = 0
        while (end := self._unread.find(b"\n", looked_at)) < 0:
            looked_at = len(self._unread)
            if looked_at > LINE_BYTES:
                raise self._is_too_long()
            left_s = None if deadline_s is None else deadline_s - time.monotonic()
            if timeout_s is not None and left_s is not None and left_s <= 0:
                raise self._is_silent(timeout_s)
            self.socket.settimeout(left_s)
            try:
                data = self.socket.recv(READ_BYTES)
            except TimeoutError:
                continue
            except OSError:  # reset: it died with something unread
                return None
            if not data:
                return None
            self._unread += data
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        return line

    def gone(self) -> BuslabError:
        """Return the error that says that the other side is gone, and why: a child has a while to write that down, and must then end."""
        if self._child is not None:
            deadline_s = time.monotonic() + LAST_WORDS_S
            while self._child.poll() is None and time.monotonic() < deadline_s:
                time.sleep(LOOK_S)
            self._child.end(timeout_s=1.0)
        return self._is_gone()

    async def to_async(self) -> AsyncLine:
        """Return this end for the running event loop; the line is no longer used in its old form."""
        try:
            reader, writer = await asyncio.open_connection(sock=self.socket, limit=LINE_BYTES)
        except BaseException:
            if self._child is not None:
                self._child.kill()
            raise
        return AsyncLine(reader, writer, name=self.name, child=self._child, error=self._error)

    def close(self) -> None:
        """Close this end; a child that waits for orders ends."""
        self.socket.close()


class AsyncLine(_End):
    """One end of a line, for an event loop; see `Line.to_async`."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, name: str, child: Running | None, error: type[BuslabError]
    ) -> None:
        super().__init__(name=name, child=child, error=error)
        self._reader, self._writer = reader, writer

    def send(self, message: msgspec.Struct) -> None:
        """Send a message, if there is still who reads it."""
        if not self._writer.is_closing():
            self._writer.write(pack_line(message))

    @overload
    async def receive(self, kind: type[T], *, timeout_s: float | None) -> T: ...
    @overload
    async def receive(self, kind: UnionType, *, timeout_s: float | None) -> Any: ...
    async def receive(self, kind: Any, *, timeout_s: float | None) -> Any:
        """Return the next message; raise as `Line.receive` does."""
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._next_line()
        except TimeoutError:
            raise self._is_silent(timeout_s or 0.0) from None
        if line is None:
            raise await self.gone()
        return self._read(line, kind)

    @overload
    def messages(self, kind: type[T]) -> AsyncIterator[T]: ...
    @overload
    def messages(self, kind: UnionType) -> AsyncIterator[Any]: ...
    async def messages(self, kind: Any) -> AsyncIterator[Any]:
        """Yield what comes until the other side is gone."""
        while (line := await self._next_line()) is not None:
            yield self._read(line, kind)

    async def _next_line(self) -> bytes | None:
        try:
            line = await self._reader.readline()
        except ValueError:
            raise self._is_too_long() from None
        except OSError:
            return None
        return line[:-1] if line.endswith(b"\n") else None

    async def gone(self) -> BuslabError:
        """Return the error that says that the other side is gone, and why: a child has a while to write that down."""
        deadline_s = time.monotonic() + LAST_WORDS_S
        while self._child is not None and self._child.poll() is None and time.monotonic() < deadline_s:
            await asyncio.sleep(LOOK_S)
        return self._is_gone()

    def end_sending(self) -> None:
        """Tell the other side that no more will be sent; what it says is still heard."""
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.write_eof()

    def close(self) -> None:
        """Close this end; a child that waits for orders ends."""
        self._writer.close()

    async def finish(self) -> None:
        """Close this end when what was sent has left, or nobody reads it any more."""
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self._writer.wait_closed()


def open_line(*, name: str, error: type[BuslabError] = BuslabError) -> tuple[Line, socket.socket]:
    """Return our end, and the socket that a child is to inherit: for who must start it in a way of its own."""
    ours, theirs = socket.socketpair()
    return Line(ours, name=name, error=error), theirs


def start_child(
    module: str,
    *args: object,
    name: str,
    log: Path,
    error: type[BuslabError] = BuslabError,
    pass_fds: Sequence[int] = (),
    env: dict[str, str] | None = None,
) -> Line:
    """Start a Python child with a line to it.

    Parameters
    ----------
    module
        What it runs, as `python -m` would, with `args`.
    name
        How errors name it.
    log
        The file that its output goes to, whose last lines errors end with.
    error
        The class of those errors.
    pass_fds, env
        What it inherits besides the line, and what its environment has besides ours.
    """
    argv = python_child(module, *args)
    return start_program(argv, name=name, log=log, error=error, pass_fds=pass_fds, env=env, module=module)


def start_program(
    argv: Sequence[str],
    *,
    name: str,
    log: Path,
    error: type[BuslabError] = BuslabError,
    pass_fds: Sequence[int] = (),
    env: dict[str, str] | None = None,
    module: str = "",
) -> Line:
    """Start a program of any language with a line to it; the rest as `start_child`."""
    line, theirs = open_line(name=name, error=error)
    with contextlib.ExitStack() as undo, theirs:
        undo.callback(line.close)
        environment = child_environment(**env or {}) | {CONTROL_FD: str(theirs.fileno())}
        line._child = Child(argv, log=log, env=environment, pass_fds=(theirs.fileno(), *pass_fds), name=module)
        undo.pop_all()
    return line


def inherited_line(*, name: str, error: type[BuslabError] = BuslabError) -> Line:
    """Return the child's end of the line that it was started with; its own children will not find it."""
    return Line(socket.socket(fileno=int(os.environ.pop(CONTROL_FD))), name=name, error=error)
