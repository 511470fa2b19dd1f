"""The processes of a bench: the publisher and the clients that are written in Python.

``python -m sim.measure.bench KIND PORT ...``, started with a line to the parent. Every one says `Prepared`; then

- a client is told how much to `Expect`, and answers what it `Heard`;
- the publisher is told to `Begin`, and answers what was `PublishedInAll`.

Through a pipe the client tells the publisher what it heard, one byte a round.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import select
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from sim.bus.envelope import CHANNEL_PREFIX, Event
from sim.bus.node import BusNode, Send
from sim.bus.services import BEHAVIOURS
from sim.machine.clock import new_event_loop, now_ns, wall_offset_ns
from sim.machine.line import AsyncLine, Line, inherited_line
from sim.machine.words import count
from sim.measure.child_messages import Begin, Prepared
from sim.pods.context import BrokerAccess, PodContext, PodIdentity
from sim.pods.hosts.meters import LiveLag
from sim.pods.pod import Pod
from sim.record.recorder import Recorder
from sim.wire.address import parse_address
from sim.wire.read_memo import ReadMemo
from sim.wire.resp import pack

C, RAW, LAB, REDIS_PY = "c-drain", "raw-drain", "buslab", "redis-py"
SERVICE, BEHAVIOUR = "analytics-service", "analytics"
EVENT_TYPE = "analytics.metric.recorded"
CHANNEL = (CHANNEL_PREFIX + EVENT_TYPE).encode()
EVENTS_MADE_BEFORE = 40_000
READ_BYTES = 256 * 1024
PATIENCE_S = 10.0  # for copies that are still on their way when the publisher has ended


class Expect(msgspec.Struct, frozen=True, tag="expect"):
    """How much was published in all, in the client's unit: it goes on until all of it is there."""

    count: int


class Heard(msgspec.Struct, frozen=True, tag="heard"):
    """What a client received in all; `reads` is 0 when not known."""

    count: int
    reads: int
    cpu_ns: int


class PublishedInAll(msgspec.Struct, frozen=True, tag="published"):
    """What the publisher published, and how long that took until all of it was heard."""

    count: int
    took_ns: int


def events(event_bytes: int) -> Iterator[Send]:
    """Make events without end, all of one length: `event_bytes`, or the least there is."""
    node = BusNode(SERVICE, nonce=1, publisher=1, batches={}, wall_offset_ns=wall_offset_ns())
    start_ns = now_ns()
    data = {"name": "request.duration", "value": 125, "note": ""}
    least = len(node.publish(EVENT_TYPE, data, now_ns=start_ns, intended_ns=start_ns).payload)
    data["note"] = "x" * max(0, event_bytes - least)
    while True:
        yield node.publish(EVENT_TYPE, data, now_ns=now_ns(), intended_ns=start_ns)


class Acks:
    """The client's end of the pipe to the publisher: a byte for each round that was heard."""

    def __init__(self, fd: int, per_ack: int) -> None:
        self._fd, self._per_ack = fd, per_ack
        self._left = per_ack

    def heard(self, count: int) -> None:
        """Count what an acknowledging subscriber heard."""
        self._left -= count
        while self._left <= 0:
            self._left += self._per_ack
            os.write(self._fd, b".")


def _publish(port: int, line: Line, words: list[str]) -> None:
    """Publish in rounds for some seconds, wait until everything was heard, and report how much and how long."""
    acks, depth, event_bytes, pods = map(int, words[:4])
    made = events(event_bytes)
    before = [_round(made, depth) for _ in range(EVENTS_MADE_BEFORE // depth)]
    answers = b":%d\r\n" % pods * depth
    server = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    line.send(Prepared())
    line.receive(Begin, timeout_s=None)
    sent = heard = 0
    start_ns = now_ns()
    end_ns = start_ns + int(float(words[4]) * 1e9)
    while now_ns() < end_ns or not sent:
        server.sendall(before[sent] if sent < len(before) else _round(made, depth))
        sent += 1
        got = b""
        while len(got) < len(answers):
            got += server.recv(len(answers) - len(got)) or sys.exit("the server closed the connection")
        if got != answers:
            sys.exit(f"PUBLISH should be heard by {count(pods, 'subscriber')}: {got[:80]!r}")
        while heard < sent:
            heard += _read_acks(acks)
    line.send(PublishedInAll(sent * depth, now_ns() - start_ns))


def _round(made: Iterator[Send], depth: int) -> bytes:
    return b"".join(pack(b"PUBLISH", CHANNEL, next(made).payload) for _ in range(depth))


def _read_acks(acks: int) -> int:
    if not select.select([acks], [], [], PATIENCE_S)[0]:
        sys.exit("the client does not hear what is published")
    return len(os.read(acks, 4096)) or sys.exit("the client has ended")


def _drain_raw(port: int, line: Line, words: list[str]) -> None:
    """Read and drop, as `drain.c` does."""
    said, per_ack, acknowledging, *fds = map(int, words)
    acks = Acks(said, per_ack)
    buffer = memoryview(bytearray(READ_BYTES))
    receive = {fd: socket.socket(fileno=fd).recv_into for fd in fds}
    watched = set(fds[:acknowledging])
    got = reads = 0
    expected = None
    epoll = select.epoll()
    for fd in (*fds, line.socket.fileno()):
        epoll.register(fd, select.EPOLLIN)
    gc.freeze()
    line.send(Prepared())
    before_ns = time.process_time_ns()
    while expected is None or got < expected:
        ready = epoll.poll(None if expected is None else PATIENCE_S)
        if not ready:
            break
        for fd, _ in ready:
            if fd not in receive:
                expected = line.receive(Expect, timeout_s=PATIENCE_S).count
                continue
            count = receive[fd](buffer)
            got += count
            reads += 1
            if fd in watched:
                acks.heard(count)
    line.send(Heard(got, reads, time.process_time_ns() - before_ns))


class _Acknowledging:
    """The service of a pod, which also tells the publisher what was heard."""

    def __init__(self, acks: Acks) -> None:
        service = BEHAVIOURS[BEHAVIOUR]()
        handle = service.handlers[EVENT_TYPE]

        def acknowledged(event: Event) -> None:
            handle(event)
            acks.heard(1)

        self.handlers = {**service.handlers, EVENT_TYPE: acknowledged}
        self.invalidations = 0


async def _hear_lab(port: int, line: AsyncLine, words: list[str]) -> None:
    """Receive as a run does: pods, their service, the recorder."""
    said, watched, per_ack, many = map(int, words[:4])
    acks = Acks(said, per_ack)
    names = [f"{SERVICE}-{number}" for number in range(many)]
    recorder = Recorder(Path(words[4]), source="bench", pods=names)
    address = parse_address(f"redis://127.0.0.1:{port}")
    memo = ReadMemo(LiveLag().decode)
    context = PodContext("bench", "bench", BrokerAccess(address, CHANNEL_PREFIX), recorder, memo, lambda pod, kind, number: None)
    pods = []
    for number, name in enumerate(names):
        logic = _Acknowledging(acks) if number < watched else BEHAVIOURS[BEHAVIOUR]()
        node = BusNode(SERVICE, nonce=2, publisher=number, batches={}, wall_offset_ns=0)
        pod = Pod(PodIdentity(name, number, SERVICE, (EVENT_TYPE,), seed=number), logic=logic, node=node, context=context)
        await pod.start()
        pods.append(pod)
    cpu_ns = await _until_all_heard(line, lambda: len(recorder.deliveries))
    reads = len(recorder.deliveries.reads_count)
    table = recorder.deliveries.take()
    copies = np.unique(table["event"].to_numpy() << np.uint64(16) | table["pod"].combine_chunks().indices.to_numpy())  # sequence | pod
    failed = sum(pod.counters.subscribe_errors for pod in pods)
    for pod in pods:
        pod.abort()
    if failed or len(copies) != table.num_rows:
        sys.exit(f"{count(failed, 'delivery')} failed, {count(table.num_rows - len(copies), 'row is', 'rows are')} recorded twice")
    line.send(Heard(table.num_rows, reads, cpu_ns))


async def _hear_redis_py(port: int, line: AsyncLine, words: list[str]) -> None:
    """Receive as redis-py's documentation shows."""
    from redis.asyncio import Redis

    said, watched, per_ack, count = map(int, words[:4])
    acks = Acks(said, per_ack)
    heard: list[list[Any]] = [[] for _ in range(count)]
    confirmed = asyncio.Semaphore(0)
    client = Redis(host="127.0.0.1", port=port)

    async def listen(number: int) -> None:
        mine = heard[number]
        async with client.pubsub() as subscription:
            await subscription.subscribe(CHANNEL)
            async for message in subscription.listen():
                if message["type"] != "message":
                    confirmed.release()
                    continue
                mine.append(json.loads(message["data"]))
                if number < watched:
                    acks.heard(1)

    tasks = [asyncio.create_task(listen(number)) for number in range(count)]
    for _ in tasks:
        await confirmed.acquire()
    cpu_ns = await _until_all_heard(line, lambda: sum(map(len, heard)))
    line.send(Heard(sum(map(len, heard)), 0, cpu_ns))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.aclose()


async def _until_all_heard(line: AsyncLine, heard: Callable[[], int]) -> int:
    """Report that all is prepared, wait for the end of the window and the last copies, and return the processor time that took."""
    gc.collect()
    gc.freeze()  # as a run does
    line.send(Prepared())
    before_ns = time.process_time_ns()
    expected = (await line.receive(Expect, timeout_s=None)).count
    deadline_ns = now_ns() + int(PATIENCE_S * 1e9)
    while heard() < expected and now_ns() < deadline_ns:
        await asyncio.sleep(0.001)
    return time.process_time_ns() - before_ns


def main(argv: Sequence[str]) -> None:
    """Run one child of a bench: the client or publisher that the arguments name."""
    kind, port, *words = argv
    line = inherited_line(name="the bench")
    if kind == LAB:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_on_a_loop(_hear_lab, int(port), line, words))
    elif kind == REDIS_PY:
        asyncio.run(_on_a_loop(_hear_redis_py, int(port), line, words))
    else:
        {RAW: _drain_raw, "publisher": _publish}[kind](int(port), line, words)


async def _on_a_loop(hear: Callable[[int, AsyncLine, list[str]], Awaitable[None]], port: int, line: Line, words: list[str]) -> None:
    to_bench = await line.to_async()
    await hear(port, to_bench, words)
    await to_bench.finish()
