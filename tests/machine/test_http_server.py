"""The HTTP server over real sockets: answers, limits, and whatever bytes a client may send."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.errors import UsageError
from sim.machine.clock import new_event_loop
from sim.machine.http_server import UNREADABLE, HttpAnswer, HttpLimits, HttpServer, Refusal, Request, as_json, from_json
from tests.support.examples import examples

LIMITS = HttpLimits(head_bytes=2048, body_bytes=1000, connections=4, lingering_bytes=100_000)
GET = b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /json HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n" + b'{"a": 1}'
CHUNKED = b"POST /json HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[1,\r\n2\r\n2]\r\n0\r\n\r\n"

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def echo(request: Request) -> HttpAnswer:
    return as_json({"path": request.path, "bytes": len(request.body)})


def json_of(request: Request) -> HttpAnswer:
    return as_json(from_json(request.body))


def fault(request: Request) -> HttpAnswer:
    raise LookupError("a fault of ours")


ROUTES = {"/echo": {"GET": echo, "POST": echo}, "/json": {"POST": json_of}, "/fault": {"GET": fault}}


def statuses(data: bytes, method: bytes = b"GET") -> list[int]:
    """The status of each answer in the bytes, which must be whole answers of HTTP and nothing else."""
    if not data:
        return []
    found = []
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    client.receive_data(b"")
    while True:
        event = client.next_event()
        if isinstance(event, h11.Response):
            found.append(event.status_code)
        elif isinstance(event, h11.EndOfMessage):
            rest = client.trailing_data[0]
            return found + (statuses(rest, method) if rest else [])
        elif isinstance(event, h11.ConnectionClosed):
            return found


async def exchange(port: int, *parts: bytes, end: bool = True) -> bytes:
    """Send, end the sending side, and return all that comes back; a reset counts as closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    with suppress(ConnectionError, RuntimeError):
        for part in parts:
            writer.write(part)
            await writer.drain()
        if end:
            writer.write_eof()
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            answer += data
    writer.transport.abort()
    return answer


@dataclass
class Live:
    """A server and the loop that it lives on."""

    runner: asyncio.Runner
    server: HttpServer
    unhandled: list[dict[str, Any]]

    def send(self, *parts: bytes, end: bool = True) -> bytes:
        async def bounded() -> bytes:
            async with asyncio.timeout(30):
                return await exchange(self.server.port, *parts, end=end)

        return self.runner.run(bounded())


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    unhandled: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        server = HttpServer(ROUTES, limits=LIMITS)

        async def start() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: unhandled.append(context))
            await server.start("127.0.0.1", 0)

        runner.run(start())
        yield Live(runner, server, unhandled)
        runner.run(server.close())
    assert unhandled == []


def length(count: int) -> bytes:
    return b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % count


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (GET, [200]),
        (GET * 3, [200, 200, 200]),
        (GET + POST + CHUNKED, [200, 200, 200]),
        (b"GET http://x/echo?q=1 HTTP/1.1\r\nHost: x\r\n\r\n", [200]),
        (b"GET /echo HTTP/1.0\r\n\r\n", [200]),
        (b"GET /echo HTTP/1.1\r\n\r\n", [400]),
        (b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", [404]),
        (b"DELETE /echo HTTP/1.1\r\nHost: x\r\n\r\n", [405]),
        (b"GET /fault HTTP/1.1\r\nHost: x\r\n\r\n" + GET, [500, 200]),
        (b"POST /json HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{", [400]),
        (b"POST /json HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n" + b"[" * 900, [400]),
        (length(1000) + b"x" * 1000, [200]),
        (length(1001), [413]),
        (length(10**18), [413]),
        (length(3) + b"x", [400]),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"64\r\n" + b"x" * 100 + b"\r\n") * 11, [413]),
        (b"GET /echo HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000, [431]),
        (b"GET /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx", [200]),
        (b"GET http://[/ HTTP/1.1\r\nHost: x\r\n\r\n", [400]),
        (b"\x16\x03\x01\x02\x00\x01", [400]),
        (b"GET /ec", [400]),
        (b"", []),
    ],
)
def test_each_request_has_its_answer_and_refusals_are_counted(live: Live, sent: bytes, expected: list[int]) -> None:
    before = live.server.refused.copy()
    assert statuses(live.send(sent)) == expected
    refused = live.server.refused - before
    assert sorted(refused.elements()) == sorted(status for status in expected if status >= 400)


def test_a_head_has_the_headers_of_a_get_and_no_body(live: Live) -> None:
    answer = live.send(GET.replace(b"GET", b"HEAD"))
    assert statuses(answer, b"HEAD") == [200]
    assert answer.endswith(b"\r\n\r\n")
    assert b"content-length: 26" in answer.lower()


def test_a_method_that_is_not_allowed_is_told_which_are(live: Live) -> None:
    assert b"allow: get, post, head" in live.send(b"PUT /echo HTTP/1.1\r\nHost: x\r\n\r\n").lower()


def test_too_large_a_body_is_answered_though_the_client_goes_on_sending(live: Live) -> None:
    assert statuses(live.send(length(50_000), *[b"x" * 10_000] * 5)) == [413]


def test_too_many_connections_are_refused_and_the_others_served(run_async: Run) -> None:
    async def story() -> tuple[list[int], list[int], int]:
        server = HttpServer(ROUTES, limits=LIMITS)
        await server.start("127.0.0.1", 0)
        held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(LIMITS.connections)]
        for reader, writer in held:  # each is served once: the server knows of them
            writer.write(GET)
            await reader.readuntil(b"}")
        refused = statuses(await exchange(server.port, end=False))
        held[0][1].close()
        await held[0][1].wait_closed()
        after: list[int] = []
        while after != [200]:
            after = statuses(await exchange(server.port, GET))
        for _, writer in held[1:]:
            writer.close()
        await server.close()
        return refused, after, server.refused[503]

    refused, after, counted = run_async(story())
    assert (refused, after) == ([503], [200])
    assert counted >= 1


@pytest.mark.parametrize(("sent", "expected"), [(b"GET /ec", [408]), (length(10) + b"x", [408])])
def test_a_request_that_does_not_end_is_given_up(run_async: Run, sent: bytes, expected: list[int]) -> None:
    async def story() -> bytes:
        server = HttpServer(ROUTES, limits=HttpLimits(request_s=0.02))
        await server.start("127.0.0.1", 0)
        answer = await exchange(server.port, sent, end=False)
        assert server.refused[408] == 1
        await server.close()
        return answer

    assert statuses(run_async(story())) == expected


def test_an_idle_connection_is_closed_without_a_word(run_async: Run) -> None:
    async def story() -> bytes:
        server = HttpServer(ROUTES, limits=HttpLimits(idle_s=0.02))
        await server.start("127.0.0.1", 0)
        answer = await exchange(server.port, GET, end=False)
        assert not server.refused
        await server.close()
        return answer

    assert statuses(run_async(story())) == [200]


def test_a_client_that_does_not_read_is_cut_off_and_counted(run_async: Run) -> None:
    async def story() -> int:
        big = HttpAnswer(200, b"x" * 50_000_000)
        server = HttpServer({"/big": {"GET": lambda request: big}}, limits=HttpLimits(request_s=0.05))
        await server.start("127.0.0.1", 0)
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(GET.replace(b"echo", b"big"))
        while not server.refused[UNREADABLE]:
            await asyncio.sleep(0.005)
        writer.transport.abort()
        await server.close()
        return server.refused[UNREADABLE]

    assert run_async(story()) == 1


def test_closing_drops_open_connections_and_a_taken_port_is_one_clear_error(run_async: Run) -> None:
    async def story() -> str:
        server, other = HttpServer(ROUTES), HttpServer(ROUTES)
        await server.start("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(GET)
        await reader.readuntil(b"}")
        with pytest.raises(UsageError) as caught:
            await other.start("127.0.0.1", server.port)
        await server.close()
        assert await reader.read() == b""
        writer.close()
        return str(caught.value)

    assert "is taken" in run_async(story())


def test_a_host_that_is_not_ours_is_one_clear_error(run_async: Run) -> None:
    with pytest.raises(UsageError, match=r"cannot listen on 192\.0\.2\.1"):
        run_async(HttpServer(ROUTES).start("192.0.2.1", 0))


def test_a_refusal_carries_its_reason_as_json() -> None:
    assert Refusal(403, "no").answer == HttpAnswer(403, b'{"error":"no"}')


WORDS = [b"\r\n", b"\r\n\r\n", b"\x00", b" ", b":", b"HTTP/1.1", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"\xff" * 9]
WORDS += [
    b"Connection: close\r\n",
    b"Upgrade: h2c\r\nConnection: upgrade\r\n",
    b"CONNECT",
    b"HEAD",
    b"Expect: 100-continue\r\n",
    b"0\r\n\r\n",
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Requests, cut, doubled, and with words put where they do not belong."""
    data = b"".join(draw(st.lists(st.sampled_from([GET, POST, CHUNKED]), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(1, 5))):
        at, to = sorted(draw(st.tuples(st.integers(0, len(data)), st.integers(0, len(data)))))
        piece = draw(st.sampled_from([b"", data[at:to], data[at:to] * 2, *WORDS]) | st.binary(max_size=8))
        data = data[:at] + piece + data[draw(st.sampled_from([at, to])) :]
    return data


@settings(max_examples=examples(300))
@given(sent=st.binary(max_size=3000) | mutated(), cut=st.integers(0, 3000))
def test_whatever_is_sent_is_answered_in_http_or_closed_and_the_server_lives(live: Live, sent: bytes, cut: int) -> None:
    answer = live.send(sent[:cut], sent[cut:])
    assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
    assert statuses(live.send(GET)) == [200]
    assert live.unhandled == []
