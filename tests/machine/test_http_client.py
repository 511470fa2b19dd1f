"""Asking over HTTP, over real sockets: answers, connections that are kept, and every way of getting no answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sim.machine.freezer import Freezer
from sim.machine.http_client import HttpFailure, HttpPool, ask_once
from sim.machine.http_server import HttpAnswer, HttpLimits, HttpServer, Request, as_json
from sim.record.schema import NO_ANSWER
from sim.wire.address import free_port

Run = Callable[[Any], Any]
PATIENT_S = 20.0


def size(request: Request) -> HttpAnswer:
    return as_json({"bytes": len(request.body)}, status=202)


@asynccontextmanager
async def server(**options: Any) -> AsyncIterator[HttpServer]:
    http = HttpServer({"/size": {"GET": size, "POST": size}}, **options)
    await http.start("127.0.0.1", 0)
    try:
        yield http
    finally:
        await http.close()


@asynccontextmanager
async def saying(data: bytes) -> AsyncIterator[int]:
    """A port that says this to everybody and hangs up."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(data)
        writer.close()

    listener = await asyncio.start_server(say, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()


def test_one_question_has_its_answer(run_async: Run) -> None:
    async def scene() -> None:
        async with server() as http:
            reply = await ask_once(http.port, "/size", timeout_s=PATIENT_S)
            assert (reply.status, reply.body) == (202, b'{"bytes":0}')
            assert (await ask_once(http.port, "/nowhere", timeout_s=PATIENT_S)).status == 404

    run_async(scene())


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b"SSH-2.0-nothing\r\n", b"HTTP/1.1 200 OK\r\n"])
def test_half_an_answer_is_none(run_async: Run, said: bytes) -> None:
    async def scene() -> str:
        async with saying(said) as port:
            with pytest.raises(HttpFailure) as failure:
                await ask_once(port, "/", timeout_s=PATIENT_S)
            return str(failure.value)

    assert run_async(scene()) == "closed"


def test_a_silent_server_and_an_empty_port_have_their_words(run_async: Run) -> None:
    async def scene() -> list[str]:
        words = []
        freezer = Freezer()
        freezer.freeze()
        async with server(freezer=freezer) as http:
            for port in (http.port, free_port()):
                with pytest.raises(HttpFailure) as failure:
                    await ask_once(port, "/size", timeout_s=0.05 if port == http.port else PATIENT_S)
                words.append(str(failure.value))
            freezer.end()
        return words

    assert (words := run_async(scene())) == ["timeout", "refused"]
    assert {*words, "closed"} == set(NO_ANSWER)


def test_a_frozen_server_answers_when_it_goes_on(run_async: Run) -> None:
    async def scene() -> int:
        freezer = Freezer()
        async with server(freezer=freezer) as http:
            freezer.freeze()
            asking = asyncio.create_task(ask_once(http.port, "/size", timeout_s=PATIENT_S))
            await asyncio.sleep(0.05)
            assert not asking.done()
            freezer.thaw()
            return (await asking).status

    assert run_async(scene()) == 202


def test_a_pool_keeps_its_connections_and_no_more_than_it_may(run_async: Run) -> None:
    async def scene() -> None:
        async with server(limits=HttpLimits(connections=2)) as http:  # a third at a time would be answered with 503
            pool = HttpPool(connections=2)
            asked = [pool.ask(http.port, "POST", "/size", b"x" * n, timeout_s=PATIENT_S) for n in range(50)]
            replies = await asyncio.gather(*asked)
            assert [reply.body for reply in replies] == [b'{"bytes":%d}' % n for n in range(50)]
            assert http.refused == {}
            assert len(pool._idle) == 2
            pool.close()

    run_async(scene())


def test_a_connection_that_the_server_closed_meanwhile_is_not_used_again(run_async: Run) -> None:
    async def scene() -> None:
        async with server(limits=HttpLimits(idle_s=0.05)) as http:
            pool = HttpPool(connections=2)
            for _ in range(3):
                assert (await pool.ask(http.port, "GET", "/size", timeout_s=PATIENT_S)).status == 202
                while pool._idle and not pool._idle[0].stale:
                    await asyncio.sleep(0.01)
            pool.close()

    run_async(scene())


def test_a_question_that_was_given_up_leaves_no_connection_to_misread(run_async: Run) -> None:
    async def scene() -> None:
        freezer = Freezer()
        async with server(freezer=freezer) as http:
            pool = HttpPool(connections=1)
            freezer.freeze()
            with pytest.raises(HttpFailure, match="timeout"):
                await pool.ask(http.port, "POST", "/size", b"first", timeout_s=0.05)
            freezer.thaw()
            reply = await pool.ask(http.port, "POST", "/size", b"the second", timeout_s=PATIENT_S)
            assert reply.body == b'{"bytes":10}'
            pool.close()

    run_async(scene())
