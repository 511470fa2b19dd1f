"""A small HTTP/1.1 server for pods: h11 speaks the protocol, asyncio moves the bytes, this file sets the limits.

h11 because httpx has it installed already and it refuses what is not HTTP; a web framework would be more than six routes need.

Rules
-----
1. A request is answered, or its connection is closed; nothing that a client sends ends the server.
2. Everything is bounded: head, body, time for a request, idle time, connections, what is read of a refused body, and what is done in one
   turn of the event loop (`sim.machine.http_crowd`), in which the probes of health come first.
3. Every refusal is counted by its status; 0 counts connections closed without an answer, because nobody could be answered, or because
   their client was slow and there were too many.
4. Where two servers could take one head for two different requests it is refused, and the connection closed: a length said twice, a length
   beside chunks, a line that ends in LF alone or goes on in the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import h11
import msgspec

from sim.errors import UsageError
from sim.machine.freezer import Freezer
from sim.machine.http_crowd import Crowd, Rota, State, client_of

READ_BYTES = 16 * 1024
UNREADABLE = 0  # a refusal without an answer
EVENTS_PER_TURN = 64  # of a body: one byte of it may be an event
MOST_LINES = 128  # of a head
WIRE_PER_BODY = 2  # bytes on the wire for one of a body in chunks; more is chunks of next to nothing
_END_OF_HEAD = re.compile(rb"\n\r?\n")
_LENGTHS = re.compile(rb"^content-length[ \t]*:", re.I | re.M)


@dataclass(frozen=True)
class HttpLimits:
    """The bounds on what one client, and all together, may take.

    Attributes
    ----------
    request_s
        From the first byte of a request to its last, and for sending the answer.
    idle_s
        Between two requests of a connection.
    connections, connections_of_client
        At one time, of all and of one address; for one more, another one is closed.
    lingering_bytes
        Read and thrown away after a refusal, so that the client reads the answer and not a reset.
    """

    head_bytes: int = 16 * 1024
    body_bytes: int = 1024 * 1024
    request_s: float = 10.0
    idle_s: float = 60.0
    connections: int = 256
    connections_of_client: int = 128
    lingering_bytes: int = 4 * 1024 * 1024


@dataclass(frozen=True)
class Request:
    """One request; header names are in lower case, and of a repeated header the last counts."""

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    body: bytes


@dataclass(frozen=True)
class HttpAnswer:
    """One answer."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class Refusal(Exception):
    """A request refused with an error status and one sentence for the client."""

    def __init__(self, status: int, reason: str, *, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(reason)
        self.answer = as_json({"error": reason}, status=status, headers=headers)


Endpoint = Callable[[Request], HttpAnswer]
Routes = Mapping[str, Mapping[str, Endpoint]]  # path -> method -> endpoint


def as_json(content: Any, *, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> HttpAnswer:
    """Return an answer with a JSON body."""
    return HttpAnswer(status, msgspec.json.encode(content), headers=headers)


def from_json(body: bytes) -> Any:
    """Return what a JSON body says, whatever its Content-Type: curl's -d calls it a form.

    Raises
    ------
    Refusal
        400: it is not JSON.
    """
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is not JSON: {error}") from None


class HttpServer:
    """A server of routes on one port; while the freezer is frozen, connections are taken and not answered.

    Paths of `first` are answered before all others.

    Attributes
    ----------
    refused
        Status -> how often; see the rules.
    failures
        Endpoints that raised what they should not; each was answered with 500.
    """

    def __init__(
        self, routes: Routes, *, first: Collection[str] = (), limits: HttpLimits | None = None, freezer: Freezer | None = None
    ) -> None:
        self.refused: Counter[int] = Counter()
        self.failures = 0
        self.port = 0
        self._routes = routes
        self._limits = limits or HttpLimits()
        self._freezer = freezer or Freezer()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._crowd: Crowd[_Connection] = Crowd(most=self._limits.connections, most_of_client=self._limits.connections_of_client)
        self.turns = Rota()
        self.first = tuple(path.encode() for path in first)

    async def start(self, host: str, port: int) -> None:
        """Listen; return when connections are taken. Port 0 takes any free one, which `port` then tells.

        Raises
        ------
        UsageError
            The port is taken, not allowed, or the host is not an address of this machine.
        """
        try:
            self._server = await asyncio.start_server(self._connected, host, port, limit=4 * READ_BYTES)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UsageError(f"port {port} on {host} is taken: choose another with --port, or 0 for any free one") from None
            raise UsageError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Take no more connections and drop those that are open."""
        self.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def abort(self) -> None:
        """Do as `close`, and do not wait for the connections' ends."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._freezer.hold(self._serve, reader, writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = _Connection(self, reader, writer, self._limits, task)
        if (goes := self._crowd.enter(connection)) is not None:
            goes.give_up()
        try:
            await connection.serve()
        except (OSError, TimeoutError, RuntimeError):  # the client is gone, or does not read; uvloop's word for it is RuntimeError
            self.refused[UNREADABLE] += 1
        except asyncio.CancelledError:  # asked by `close` and `give_up` alone; asyncio's streams would report it as an error
            pass
        finally:
            self._tasks.discard(task)
            self._crowd.leave(connection)
            writer.transport.abort() if connection.broken else writer.close()

    def answer(self, request: Request) -> HttpAnswer:
        """Return what the routes say to one request; never raises."""
        try:
            return self._endpoint(request)(request)
        except Refusal as refusal:
            return refusal.answer
        except Exception as error:  # an endpoint may have a fault; the server goes on
            self.failures += 1
            return Refusal(500, f"unexpected {type(error).__name__}").answer

    def _endpoint(self, request: Request) -> Endpoint:
        methods = self._routes.get(request.path)
        if methods is None:
            raise Refusal(404, "no such path")
        endpoint = methods.get("GET" if request.method == "HEAD" else request.method)
        if endpoint is None:
            allowed = ", ".join([*methods, *(["HEAD"] if "GET" in methods else [])])
            raise Refusal(405, f"allowed here: {allowed}", headers=(("Allow", allowed),))
        return endpoint


@dataclass(eq=False)
class _Connection:
    """One connection, whose requests are read and answered one after another."""

    server: HttpServer
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    limits: HttpLimits
    task: asyncio.Task[None]
    client: str = field(default="", init=False)
    state: State = field(default=State.RECEIVES, init=False)
    broken: bool = field(default=False, init=False)
    _wire_bytes: int = field(default=0, init=False)  # received since a request began
    _bodiless: bool = field(default=False, init=False)  # the answer to a HEAD
    _events: int = field(default=0, init=False)  # of a request

    def __post_init__(self) -> None:
        self.client = client_of(self.writer.get_extra_info("peername"))
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=self.limits.head_bytes)

    async def serve(self) -> None:
        """Serve until either side closes."""
        while True:
            try:
                if not await self._wait_for_bytes():
                    return
                async with asyncio.timeout(self.limits.request_s):
                    request = await self._read_request()
            except h11.RemoteProtocolError as error:
                await self.refuse(Refusal(error.error_status_hint, str(error)).answer)
                return
            except TimeoutError:
                await self.refuse(Refusal(408, f"the request took more than {self.limits.request_s:g} s").answer)
                return
            except Refusal as refusal:
                await self.refuse(refusal.answer)
                return
            if request is None:
                return
            await self._send(self.server.answer(request))
            self.state = State.RESTS
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    def give_up(self) -> None:
        """Close it for the sake of a new one."""
        if self.state is not State.RESTS:
            self.broken = True
            self.server.refused[UNREADABLE] += 1
        self.task.cancel()

    async def _wait_for_bytes(self) -> bool:
        """Return False when the client closed, or was idle for too long."""
        self._wire_bytes = len(self._http.trailing_data[0])
        if self._wire_bytes:
            return True
        try:
            async with asyncio.timeout(self.limits.idle_s):
                data = await self.reader.read(READ_BYTES)
        except TimeoutError:
            return False
        self._wire_bytes = len(data)
        self._http.receive_data(data)
        return bool(data)

    async def _read_request(self) -> Request | None:
        head = await self._read_head()
        if not isinstance(head, h11.Request):
            return None  # closed before a request
        self._bodiless = head.method == b"HEAD"
        headers = dict(head.headers)
        path = _path(head.target)
        _check_framing(head, headers)
        announced = headers.get(b"content-length", b"0")
        if int(announced) > self.limits.body_bytes:
            raise Refusal(413, f"the body is larger than {self.limits.body_bytes} bytes")
        if self._http.they_are_waiting_for_100_continue:
            await self._write(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))
        body = bytearray()
        while isinstance(event := await self._next_event(), h11.Data):
            body += event.data
            if len(body) > self.limits.body_bytes or self._wire_bytes > WIRE_PER_BODY * self.limits.body_bytes + 4 * READ_BYTES:
                raise Refusal(413, f"the body is larger than {self.limits.body_bytes} bytes, or in chunks of next to nothing")
        if not isinstance(event, h11.EndOfMessage):
            return None
        return Request(head.method.decode("ascii"), path, headers, bytes(body))

    async def _read_head(self) -> Any:
        while True:
            await self._take_turn()
            _check_head(self._http.trailing_data[0], self.limits)
            if (event := self._http.next_event()) is not h11.NEED_DATA:
                self._events = 0
                return event
            await self._read_more()

    async def _next_event(self) -> Any:
        """Return the next event of a body."""
        while True:
            self._events += 1
            if self._events % EVENTS_PER_TURN == 0:
                await self._take_turn()
            if (event := self._http.next_event()) is not h11.NEED_DATA:
                return event
            await self._read_more()
            await self._take_turn()

    async def _read_more(self) -> None:
        self.state = State.RECEIVES
        data = await self.reader.read(READ_BYTES)
        self._wire_bytes += len(data)
        self._http.receive_data(data)

    async def _take_turn(self) -> None:
        self.state = State.WAITS_FOR_US
        await self.server.turns.take(first=_target(self._http.trailing_data[0]) in self.server.first)

    async def _send(self, answer: HttpAnswer) -> None:
        if answer.status >= 400:
            self.server.refused[answer.status] += 1
        headers = [("Content-Type", answer.content_type), ("Content-Length", str(len(answer.body))), *answer.headers]
        reason = HTTPStatus(answer.status).phrase
        head = self._http.send(h11.Response(status_code=answer.status, headers=headers, reason=reason))
        data = None if self._bodiless else self._http.send(h11.Data(data=answer.body))
        await self._write(b"".join(filter(None, (head, data, self._http.send(h11.EndOfMessage())))))

    async def _write(self, data: bytes | None) -> None:
        self.state = State.SENDS
        self.broken = True  # until all has left: a client that does not read is cut off
        self.writer.write(data or b"")
        async with asyncio.timeout(self.limits.request_s):
            await self.writer.drain()
        self.broken = False

    async def refuse(self, answer: HttpAnswer) -> None:
        """Answer if that is still possible, then hear the client out, within bounds, so that it can read the answer."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.server.refused[UNREADABLE] += 1
            return
        await self._send(HttpAnswer(answer.status, answer.body, headers=(*answer.headers, ("Connection", "close"))))
        if self.writer.can_write_eof():
            self.writer.write_eof()
        self.state = State.RECEIVES
        left = self.limits.lingering_bytes
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(1.0, self.limits.request_s)):
                while left > 0 and (data := await self.reader.read(READ_BYTES)):
                    left -= len(data)


def _check_head(received: bytes, limits: HttpLimits) -> None:
    """Check what has come of a request's head, all of it or not.

    Raises
    ------
    Refusal
        431: it is too long. 400: another server could read it in another way.
    """
    end = _END_OF_HEAD.search(received)
    head = received[: end.end()] if end else received
    if len(head) > limits.head_bytes or head.count(b"\n") > MOST_LINES:
        raise Refusal(431, f"the head is longer than {limits.head_bytes} bytes or {MOST_LINES} lines")
    if head.count(b"\n") != head.count(b"\r\n"):
        raise Refusal(400, "a line of the head ends in LF alone")
    if b"\n " in head or b"\n\t" in head:
        raise Refusal(400, "a line of the head goes on in the next one")
    if len(_LENGTHS.findall(head)) > 1:
        raise Refusal(400, "more than one Content-Length")


def _check_framing(head: h11.Request, headers: Mapping[bytes, bytes]) -> None:
    """Check that the head says in one way where the body ends; raise `Refusal` 400 when it does not."""
    if b"transfer-encoding" not in headers:
        return
    if b"content-length" in headers:
        raise Refusal(400, "both Content-Length and Transfer-Encoding")
    if head.http_version < b"1.1":
        raise Refusal(400, "Transfer-Encoding is not of HTTP/1.0")


def _target(received: bytes) -> bytes:
    """Return the path that a head, which may not be whole, begins with; empty where there is none."""
    words = received[:256].split(b" ", 2)
    return words[1].partition(b"?")[0] if len(words) > 2 else b""


def _path(target: bytes) -> str:
    """Return the path of a request target, of either form that a server must take."""
    try:
        path = urlsplit(target.decode("ascii")).path if b"://" in target.split(b"?")[0] else target.split(b"?")[0].decode("ascii")
    except ValueError:
        raise Refusal(400, "the target is no path") from None
    return path or "/"
