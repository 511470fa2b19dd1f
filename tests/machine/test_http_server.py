"""The HTTP server over real sockets: answers, limits, and whatever bytes a client may send."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.errors import UsageError
from sim.machine.clock import new_event_loop
from sim.machine.http_crowd import Crowd, State, client_of
from sim.machine.http_server import UNREADABLE, HttpAnswer, HttpLimits, HttpServer, Refusal, Request, Routes, as_json, from_json
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


def said_length(text: bytes) -> bytes:
    """A request whose Content-Length is this, and one after it, which is not to be answered."""
    return b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %s\r\n\r\nhello" % text + GET


TWO_WAYS = b"POST /json HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"


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
        (TWO_WAYS + GET, [400]),
        (TWO_WAYS.replace(b"1.1", b"1.0") + GET, [400]),
        (b"POST /json HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n" + GET, [400]),
        (CHUNKED.replace(b"1.1", b"1.0") + GET, [400]),
        (CHUNKED.replace(b"chunked", b"gzip, chunked") + GET, [501]),
        (CHUNKED.replace(b"chunked", b"xchunked") + GET, [501]),
        (CHUNKED.replace(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked\r\n" * 2) + GET, [501]),
        (CHUNKED.replace(b"Encoding:", b"Encoding :") + GET, [400]),
        (CHUNKED.replace(b"\r\n3\r\n", b"\r\n-3\r\n") + GET, [400]),
        (CHUNKED.replace(b"\r\n3\r\n", b"\r\n0x3\r\n") + GET, [400]),
        (CHUNKED.replace(b"\r\n3\r\n", b"\r\n" + b"F" * 16 + b"\r\n") + b"x" * 2000, [413]),
        (CHUNKED.replace(b"\r\n3\r\n", b"\r\n" + b"F" * 30 + b"\r\n") + GET, [400]),
        (CHUNKED.replace(b"\r\n3\r\n", b"\r\n3;" + b"x" * 50_000 + b"\r\n") + GET, [431]),
        (CHUNKED[:-2] + b"".join(b"A%d: b\r\n" % n for n in range(2000)), [431]),
        (said_length(b"+5"), [400]),
        (said_length(b"-5"), [400]),
        (said_length(b"5 5"), [400]),
        (said_length(b"5, 6"), [400]),
        (said_length(b"0x5"), [400]),
        (said_length(b"\xb2"), [400]),
        (said_length(b"9" * 30), [400]),
        (said_length(b"9" * 1900), [400]),
        (said_length(b"5\r\nContent-Length: 5"), [400]),
        (said_length(b"5\r\nContent-Length: 6"), [400]),
        (said_length(b"\r\n 5"), [400]),
        (GET.replace(b"Host: x", b"Host: x\r\nHost: y"), [400]),
        (GET.replace(b"Host: x", b"Host: x\r\nA: b\r\n\tc"), [400]),
        (GET.replace(b"\r\n", b"\n"), [400]),
        (GET.replace(b"Host: x", b"Host: x\nA: b"), [400]),
        (GET.replace(b"Host: x", b"Host: x\rA: b"), [400]),
        (GET.replace(b"Host: x", b"Host: x\x00"), [400]),
        (GET.replace(b"Host: x", b"Host: x\r\n" + b"A:\r\n" * 200), [431]),
        (GET.replace(b"Host: x", b"Host: x\r\n" + b"A: " + b"b" * 2040), [431]),
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


SLOW = b"GET /echo HTTP/1.1\r\nHost:"  # and no more
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(server: HttpServer, sent: bytes, *, host: str = "127.0.0.1") -> Streams:
    """Connect from an address, and send; where that is a whole request, return when it is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, local_addr=(host, 0))
    writer.write(sent)
    if sent == GET:
        await reader.readuntil(b"}")
    return reader, writer


@asynccontextmanager
async def serving(routes: Routes = ROUTES, **more: Any) -> AsyncIterator[HttpServer]:
    server = HttpServer(routes, **more)
    await server.start("127.0.0.1", 0)
    yield server
    await server.close()


async def ended(*those: Streams) -> list[bool]:
    """Whether the server has closed each of some connections: where it has not, there is nothing to read."""
    said = []
    for reader, _ in those:
        try:
            async with asyncio.timeout(0.2):
                said.append(await reader.read() == b"")
        except ConnectionError:
            said.append(True)
        except TimeoutError:
            said.append(False)
    return said


@pytest.mark.parametrize("sent", [GET, b"", SLOW, length(10) + b"x"], ids=["idle", "silent", "slow head", "slow body"])
def test_for_a_new_connection_the_oldest_one_that_waits_is_closed(run_async: Run, sent: bytes) -> None:
    async def story() -> tuple[list[int], list[bool]]:
        async with serving(limits=LIMITS) as server:
            held = [await connect(server, sent) for _ in range(LIMITS.connections)]
            answered = statuses(await exchange(server.port, GET))
            gone = await ended(*held)
            for _, writer in held:
                writer.close()
            assert server.refused[UNREADABLE] == (0 if sent == GET else 1)
            return answered, gone

    assert run_async(story()) == ([200], [True, False, False, False])


def test_one_that_rests_goes_before_one_whose_request_has_begun(run_async: Run) -> None:
    async def story() -> list[bool]:
        async with serving(limits=LIMITS) as server:
            held = [await connect(server, sent) for sent in (SLOW, GET, SLOW, GET)]
            assert statuses(await exchange(server.port, GET)) == [200]
            gone = await ended(*held)
            for _, writer in held:
                writer.close()
            return gone

    assert run_async(story()) == [False, True, False, False]


def test_one_address_takes_no_room_from_another(run_async: Run) -> None:
    async def story() -> list[bool]:
        async with serving(limits=HttpLimits(connections=8, connections_of_client=6)) as server:
            other = await connect(server, GET, host="127.0.0.2")
            held = [await connect(server, GET) for _ in range(20)]
            third = [await connect(server, GET, host="127.0.0.3") for _ in range(2)]
            gone = await ended(other, *third, *held)
            for _, writer in (other, *held, *third):
                writer.close()
            return gone

    gone = run_async(story())
    assert gone[:3] == [False, False, False]
    assert gone[3:] == [True] * 15 + [False] * 5, "six of one address, and one of those made room for the third address"


def test_many_that_hold_connections_do_not_keep_a_probe_from_its_answer(run_async: Run) -> None:
    """As many as the server takes and more, at its own limits."""

    async def story() -> list[int]:
        answered = []
        for sent in (b"", SLOW):
            async with serving() as server:
                held = [await connect(server, sent) for _ in range(300)]
                answered += statuses(await exchange(server.port, GET))
                for _, writer in held:
                    writer.transport.abort()
        return answered

    assert run_async(story()) == [200, 200]


def counting(server_did: list[str], *, takes_s: float = 0.0) -> Routes:
    """Routes that write down in which order they were asked; the slow one keeps the loop busy."""

    def work(request: Request) -> HttpAnswer:
        server_did.append("work")
        until_s = time.perf_counter() + takes_s
        while time.perf_counter() < until_s:
            pass
        return as_json(request.path)

    def probe(request: Request) -> HttpAnswer:
        server_did.append("probe")
        return as_json(request.path)

    return {"/work": {"GET": work, "POST": work}, "/health": {"GET": probe}}


WORK, HEALTH = GET.replace(b"/echo", b"/work"), GET.replace(b"/echo", b"/health")


@pytest.mark.parametrize("clients", [1, 20])
def test_a_client_that_sends_ahead_keeps_neither_a_probe_nor_the_loop_waiting(run_async: Run, clients: int) -> None:
    did: list[str] = []

    async def tick() -> None:
        while True:
            did.append("tick")
            await asyncio.sleep(0)

    async def flood(server: HttpServer) -> None:
        with suppress(OSError, RuntimeError):
            await exchange(server.port, WORK * 4000, end=False)

    async def story() -> None:
        async with serving(counting(did, takes_s=0.0005), first=["/health"]) as server:
            floods = [asyncio.ensure_future(flood(server)) for _ in range(clients)]
            while did.count("work") < 10:
                await asyncio.sleep(0)
            began, ticking = len(did), asyncio.ensure_future(tick())
            assert statuses(await exchange(server.port, HEALTH)) == [200]
            assert did[began:].count("work") < 40, "of thousands that were there before it"
            seen = "".join(one[0] for one in did[began:])
            assert "ww" not in seen, "one piece in a turn of the loop"
            for one in (ticking, *floods):
                one.cancel()
            await asyncio.gather(*floods, ticking, return_exceptions=True)

    run_async(story())


def test_probes_that_come_in_a_stream_leave_the_others_their_turn(run_async: Run) -> None:
    did: list[str] = []

    async def story() -> None:
        async with serving(counting(did), first=["/health"]) as server:
            flood = asyncio.ensure_future(exchange(server.port, HEALTH * 20_000, end=False))
            while did.count("probe") < 10:
                await asyncio.sleep(0)
            assert statuses(await exchange(server.port, WORK)) == [200]
            assert did.count("probe") < 10_000
            flood.cancel()
            await asyncio.gather(flood, return_exceptions=True)

    run_async(story())


def test_a_body_in_chunks_of_one_byte_is_given_up_and_keeps_no_probe_waiting(run_async: Run) -> None:
    did: list[str] = []
    head = b"POST /work HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

    async def story() -> list[int]:
        async with serving(counting(did), first=["/health"], limits=HttpLimits(body_bytes=100_000)) as server:
            sending = asyncio.ensure_future(exchange(server.port, head + b"1\r\nx\r\n" * 90_000 + b"0\r\n\r\n"))
            for _ in range(5):
                assert statuses(await exchange(server.port, HEALTH)) == [200]
                assert not sending.done()
            return statuses(await sending)

    assert run_async(story()) == [413]
    assert did == ["probe"] * 5


class _Guest:
    def __init__(self, client: str, state: State) -> None:
        self.client, self.state = client, state


def test_who_must_go_is_of_the_client_that_has_most_in_the_order_of_what_they_do() -> None:
    crowd: Crowd[_Guest] = Crowd(most=4, most_of_client=3)
    a, b, c = (_Guest("a", state) for state in (State.WAITS_FOR_US, State.SENDS, State.RECEIVES))
    other = _Guest("b", State.RESTS)
    assert [crowd.enter(one) for one in (a, b, c, other)] == [None] * 4
    first = _Guest("c", State.RECEIVES)
    assert crowd.enter(first) is c
    more = [_Guest("a", State.RESTS) for _ in range(2)]
    assert crowd.enter(more[0]) is b
    assert crowd.enter(more[1]) is more[0]
    assert list(crowd) == [a, other, first, more[1]]


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        (("10.0.0.1", 5), "10.0.0.1"),
        (("::ffff:10.0.0.1", 5, 0, 0), "10.0.0.1"),
        (("2001:db8:0:1::7", 5, 0, 0), "2001:db8:0:1::/64"),
        (("2001:db8:0:1:9::7%eth0", 5, 0, 0), "2001:db8:0:1::/64"),
        (("::1", 5, 0, 0), "::1"),
        (None, ""),
        ("", ""),
    ],
)
def test_a_client_is_an_address_or_a_network_of_64_bits(peer: Any, client: str) -> None:
    assert client_of(peer) == client


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
