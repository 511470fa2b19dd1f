"""What a tap told, kept as it came, and a tap in a thread for tests whose clients may wait."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sim.bus.event_rule import EventRule
from sim.grounds.proxy import Ends, Order
from sim.grounds.tap import Tap
from sim.machine.clock import new_event_loop
from sim.wire.address import Address
from sim.wire.tap_rows import Connection, Publish, Push


class Told:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.connections: dict[int, Connection] = {}
        self.publishes: list[tuple[int, Publish]] = []
        self.pushes: list[tuple[int, int, Push]] = []
        self.subscriptions: list[tuple[int, str, bytes, bool]] = []
        self.handled: list[tuple[bytes, bytes, tuple[bytes, ...]]] = []
        self.ends: dict[int, str] = {}

    def opened(self, connection: Connection) -> None:
        self.connections[connection.number] = connection

    def published(self, connection: Connection, publishes: Sequence[Publish]) -> None:
        assert connection.number not in self.ends
        self.publishes += [(connection.number, one) for one in publishes]

    def pushed(self, connection: Connection, written_ns: int, pushes: Sequence[Push]) -> None:
        assert connection.number not in self.ends
        self.pushes += [(connection.number, written_ns, one) for one in pushes]

    def subscribed(self, connection: Connection, at_ns: int, kind: str, channel: bytes, on: bool) -> None:
        assert ((kind, channel) in connection.channels) == on
        self.subscriptions.append((connection.number, kind, channel, on))

    def acknowledged(self, connection: Connection, passed_ns: int, stream: bytes, group: bytes, ids: Sequence[bytes]) -> None:
        self.handled.append((stream, group, tuple(ids)))

    def closed(self, connection: Connection, at_ns: int, end: str) -> None:
        self.ends[connection.number] = end


@contextlib.contextmanager
def tapping(to: Address, *, pointer: str = "/eventId", ends: Ends | None = None) -> Iterator[tuple[int, Told, Callable[[Order], None]]]:
    """Run a tap in a thread: its port, what it tells, and what gives it an order; what it told is whole on leaving."""
    told = Told()
    ready: queue.Queue[tuple[asyncio.AbstractEventLoop, Tap, asyncio.Event]] = queue.Queue()

    async def hold() -> None:
        tap = await Tap.open(to, sink=told, identify=EventRule(pointer), ends=ends)
        ended = asyncio.Event()
        ready.put((asyncio.get_running_loop(), tap, ended))
        await ended.wait()
        await tap.close()

    def run() -> None:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(hold())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    loop, tap, ended = ready.get(timeout=30)
    try:
        yield tap.ports[0], told, lambda order: asyncio.run_coroutine_threadsafe(tap.order(order), loop).result(30)
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(30)


def until(reached: Callable[[], Any], *, timeout_s: float = 30.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.005)
