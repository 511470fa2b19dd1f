"""Ask over HTTP/1.1: one request at a time on a connection, and a few connections that are kept open.

Rules
-----
1. Every wait has a bound; whatever is not a whole answer in time is an `HttpFailure` with one of `schema.NO_ANSWER`.
2. A connection that failed, or that the server closes, is not used again. A request is sent once: it may have been carried out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass

import h11

READ_BYTES = 64 * 1024
MAX_BODY_BYTES = 1024 * 1024
HOST = "127.0.0.1"


class HttpFailure(Exception):
    """The reason why there was no answer: a word of `schema.NO_ANSWER`."""


@dataclass(frozen=True)
class Reply:
    """One answer."""

    status: int
    body: bytes


class HttpConnection:
    """One connection to a port of this machine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        self.port = port
        self.reusable = True
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT)

    @classmethod
    async def open(cls, port: int) -> HttpConnection:
        """Connect.

        Raises
        ------
        HttpFailure
            ``refused``: nothing listens there.
        """
        try:
            reader, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            raise HttpFailure("refused") from None
        return cls(reader, writer, port)

    @property
    def stale(self) -> bool:
        """Whether the server has closed it meanwhile."""
        return self._reader.at_eof() or self._writer.is_closing()

    async def ask(self, method: str, path: str, body: bytes = b"", *, keep: bool = False) -> Reply:
        """Send one request and return its answer; the caller sets the bound in time.

        Parameters
        ----------
        keep
            Whether the server is asked to keep the connection; `reusable` then says if it does.

        Raises
        ------
        HttpFailure
            ``closed``: the connection ended before the answer did, or what came is not HTTP.
        """
        self.reusable = False  # and stays so until a whole answer was read, also when the caller gives up
        headers = [("Host", HOST), ("Content-Length", str(len(body))), *(() if keep else (("Connection", "close"),))]
        request = self._http.send(h11.Request(method=method, target=path, headers=headers))
        data = self._http.send(h11.Data(data=body))
        end = self._http.send(h11.EndOfMessage())
        try:
            self._writer.write(b"".join(part for part in (request, data, end) if part))
            reply = await self._answer()
        except (OSError, RuntimeError, h11.RemoteProtocolError):  # uvloop's word for a transport that is gone is RuntimeError
            raise HttpFailure("closed") from None
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self.reusable = True
        return reply

    async def _answer(self) -> Reply:
        status, body = 0, bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._reader.read(READ_BYTES))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_BODY_BYTES:
                    raise HttpFailure("closed")
            elif isinstance(event, h11.EndOfMessage):
                return Reply(status, bytes(body))
            elif isinstance(event, h11.ConnectionClosed):
                raise HttpFailure("closed")

    def close(self) -> None:
        """Drop the connection."""
        self.reusable = False
        with contextlib.suppress(RuntimeError):  # its loop is gone, and so is it
            self._writer.transport.abort()


class HttpPool:
    """Connections that are kept open and used again, a bounded number of them for all ports together.

    Parameters
    ----------
    connections
        How many requests may be under way at a time; more wait for their turn.
    """

    def __init__(self, *, connections: int) -> None:
        self._slots = asyncio.Semaphore(connections)
        self._idle: deque[HttpConnection] = deque()
        self._limit = connections
        self._closed = False

    async def ask(self, port: int, method: str, path: str, body: bytes = b"", *, timeout_s: float) -> Reply:
        """Send one request to a port of this machine and return its answer.

        Raises
        ------
        HttpFailure
        """
        connection: HttpConnection | None = None
        try:
            async with asyncio.timeout(timeout_s), self._slots:
                connection = self._take(port) or await HttpConnection.open(port)
                return await connection.ask(method, path, body, keep=True)
        except TimeoutError:
            raise HttpFailure("timeout") from None
        finally:
            if connection is not None:
                self._give_back(connection)

    def _take(self, port: int) -> HttpConnection | None:
        for connection in [idle for idle in self._idle if idle.port == port]:
            self._idle.remove(connection)
            if not connection.stale:
                return connection
            connection.close()
        return None

    def _give_back(self, connection: HttpConnection) -> None:
        if self._closed or not connection.reusable:
            connection.close()
            return
        self._idle.append(connection)
        while len(self._idle) > self._limit:  # to ports that are gone
            self._idle.popleft().close()

    def close(self) -> None:
        """Drop every connection; one that is in use is dropped when its request ends."""
        self._closed = True
        while self._idle:
            self._idle.popleft().close()


async def ask_once(port: int, path: str, *, timeout_s: float) -> Reply:
    """Ask on a connection of its own, as a kubelet does, and return the answer.

    Raises
    ------
    HttpFailure
    """
    connection: HttpConnection | None = None
    try:
        async with asyncio.timeout(timeout_s):
            connection = await HttpConnection.open(port)
            return await connection.ask("GET", path)
    except TimeoutError:
        raise HttpFailure("timeout") from None
    finally:
        if connection is not None:
            connection.close()
