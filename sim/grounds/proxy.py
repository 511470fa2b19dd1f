"""A TCP proxy that applies `link.py` to real sockets, one listener per pod, in a process of its own.

In its own process, because a busy event loop around it would look like latency. Run as ``python -m sim.grounds.proxy``: it takes orders as
JSON lines on the socket that it inherits, answers each, and ends when that socket closes.

Rules
-----
1. What a read brought is written on at its arrival time, in order; without delay, at once.
2. A *held* direction takes in bytes up to `HELD_BYTES` and then reads no more, so the sender's kernel buffers fill, as in a black hole.
3. Of a direction that is slow at most some `UNDER_WAY_BYTES` are under way, as in the model: then too the sender's buffers fill.
4. The end of one side is the end of the other, after what is under way; a reset is passed on as a reset.
5. A *tap* is this proxy with a reader beside it (`sim.wire.tapped_connection`), which is told what was written to a socket once it has left
   this process, so that every fault of links works on it. Its write buffers have no slack: what a socket does not take stops the reading.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import heapq
import random
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sim.faults.link import Link, LinkPlan
from sim.grounds.passage import Outlet, Passage, Tapping
from sim.grounds.tap_plan import TAP, SeenDoor, TapPlan
from sim.machine.clock import Alarm, new_event_loop, now_ns
from sim.machine.line import Line, inherited_line
from sim.machine.words import count

READ_BYTES = 256 * 1024
HELD_BYTES = 64 * 1024
UNDER_WAY_BYTES = 4_000_000
CONNECT_TIMEOUT_S = 5.0
DRAIN_LOOK_S = 0.25
DRAIN_LOOKS = 8
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


class Open(msgspec.Struct, frozen=True, tag="open"):
    """An order to listen on so many ports of 127.0.0.1, each leading to the broker, as a tap where `tap` says so. Answered by `Opened`."""

    host: str
    port: int
    listeners: int
    seed: int
    tap: TapPlan | None = None


class Shape(msgspec.Struct, frozen=True, tag="shape"):
    """An order that the connections of some listeners behave so from now on."""

    ports: list[int]
    to_broker: LinkPlan
    to_pod: LinkPlan


class Reset(msgspec.Struct, frozen=True, tag="reset"):
    """An order to reset every open connection of some listeners, on both sides."""

    ports: list[int]


class Refuse(msgspec.Struct, frozen=True, tag="refuse"):
    """An order to refuse new connections of some listeners by a reset, or to accept them again; refusing resets those that are open."""

    ports: list[int]
    refusing: bool


class Cut(msgspec.Struct, frozen=True, tag="cut"):
    """An order to pass on half of the next read from the broker and then reset, in mid-frame; or to spare who had no read since."""

    ports: list[int]
    cutting: bool


class LookAtTap(msgspec.Struct, frozen=True, tag="look-at-tap"):
    """An order to say what a tap sees now."""

    ports: list[int] = []


class EndTap(msgspec.Struct, frozen=True, tag="end-tap"):
    """An order to end a tap and to write down what it has seen."""

    ports: list[int] = []


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """The answer to an order: on which ports the proxy listens, what a tap sees at each, and what went wrong, if anything."""

    ports: list[int]
    error: str = ""
    doors: list[SeenDoor] = []


Order = Open | Shape | Reset | Refuse | Cut | LookAtTap | EndTap


@dataclass(frozen=True)
class ProxyEnds:
    """How a proxy listens, and how it reaches the server.

    Attributes
    ----------
    host
        The address to listen on.
    port
        The first port; the listeners after it take the next ones. 0 = any free ones.
    tls
        What clients are met with; None: plain.
    server_tls
        What the server is met with, and the name that its certificate must have; None: plain.
    """

    host: str = "127.0.0.1"
    port: int = 0
    tls: ssl.SSLContext | None = None
    server_tls: ssl.SSLContext | None = None


@dataclass
class ProxyDoor:
    """One listener's plans and open connections."""

    name: str = TAP
    to_broker: LinkPlan = field(default_factory=LinkPlan)
    to_pod: LinkPlan = field(default_factory=LinkPlan)
    refusing: bool = False
    open: dict[ProxySide, None] = field(default_factory=dict)  # the pods' sides


class Clockwork:
    """What all connections share: the memory that they read into, and one timer, which writes pieces on at their times."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(READ_BYTES))  # what was read is copied out of it at once
        self._due: list[tuple[int, int, ProxySide]] = []
        self._order = 0
        self._alarm = Alarm(self._wake)

    def add(self, at_ns: int, side: ProxySide) -> None:
        """Set the time at which a side passes on its first waiting piece."""
        self._order += 1
        heapq.heappush(self._due, (at_ns, self._order, side))
        if self._due[0][1] == self._order:
            self._alarm.set(at_ns)

    def _wake(self) -> None:
        now = now_ns()
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2].pass_on()
        if self._due:
            self._alarm.set(self._due[0][0])


class ProxySide(asyncio.BufferedProtocol):
    """One socket of a proxied connection: what it reads goes to the other side."""

    def __init__(self, door: ProxyDoor, clockwork: Clockwork, link: Link) -> None:
        self.door = door
        self.link = link  # of what is read here
        self.other: ProxySide | None = None
        self.transport: asyncio.Transport | None = None
        self.cut_next = False
        self._was_cut = False
        self.outlet: Outlet | None = None  # where a reader is told what is passed on
        self.passage: Passage | None = None
        self._was_aborted = False
        self._read_bytes = 0
        self._drained = False  # what came since its client was gone was read for nobody
        self._clockwork = clockwork
        self._buffer = clockwork.buffer
        self._under_way: deque[bytes] = deque()
        self._under_way_bytes = 0
        self._stuck = False  # the other side does not keep up
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._ended: Exception | bool | None = None
        self._unwanted = False  # it was to be reset before there was a transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport  # type: ignore[assignment]
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._unwanted:
            self.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Lend the buffer."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on what was read, at once or at its time."""
        data: bytes | None = bytes(self._buffer[:nbytes])
        if self.passage is not None:
            self._read_bytes += nbytes
            data = self.passage.rewritten(data or b"", by_server=self._is_servers)
            if data is None:
                self.reset()
        if data:
            self._take(data)

    def _take(self, data: bytes) -> None:
        arrival_ns = None if self._held or self.other is None else self.link.arrival_ns(now_ns(), len(data))
        if arrival_ns is None:
            self._held.append(data)
            self._held_bytes += len(data)
            if self._held_bytes >= HELD_BYTES and self.transport is not None:
                self.transport.pause_reading()
        elif arrival_ns <= now_ns() and not self._under_way:
            self._write(data)
        else:
            self._under_way.append(data)
            self._under_way_bytes += len(data)
            if self._under_way_bytes >= UNDER_WAY_BYTES and self.transport is not None:
                self.transport.pause_reading()
            self._clockwork.add(arrival_ns, self)

    def _read_on(self) -> None:
        """Read again, unless something still fills up."""
        full = self._held or self._stuck or self._under_way_bytes >= UNDER_WAY_BYTES
        if not full and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def release(self) -> None:
        """Pass on what was held, as far as the link allows."""
        held, self._held, self._held_bytes = self._held, deque(), 0
        for data in held:
            self._take(data)
        self._read_on()
        self._pass_on_the_end()

    def pass_on(self) -> None:
        """Write the piece that is due."""
        if self._under_way:
            data = self._under_way.popleft()
            self._under_way_bytes -= len(data)
            self._write(data)
            self._read_on()
            self._pass_on_the_end()

    def _write(self, data: bytes) -> None:
        other = self.other
        if other is None or other.transport is None or other.transport.is_closing() or self._was_cut:
            return
        if self.cut_next:
            self._was_cut = True  # what is read until the reset would join the half to a frame that nobody sent
            self._send(other.transport, data[: max(1, len(data) // 2)])
            asyncio.get_running_loop().call_later(0.001, self.reset)  # after the half has left
        elif self.outlet is None:
            other.transport.write(data)
        else:
            self._send(other.transport, data)

    def _send(self, transport: asyncio.Transport, data: bytes) -> None:
        if self.outlet is None:
            transport.write(data)
            return
        if (back := self.other and self.other.outlet) and back.waiting and self.transport is not None:
            back.settle(self.transport.get_write_buffer_size())  # what these bytes may be the answer to has passed before them
        self.outlet.write(transport, data)

    def _settle(self, *, left: int) -> None:
        """Tell the reader what has left for this socket."""
        if self.other is not None and self.other.outlet is not None:
            self.other.outlet.settle(left)

    def pause_writing(self) -> None:
        """Read no more from the other side: this one does not keep up."""
        if self.other is not None and self.other.transport is not None:
            self.other._stuck = True
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on reading from the other side."""
        if self.other is not None:
            self._settle(left=0 if self.transport is None else self.transport.get_write_buffer_size())
            self.other._stuck = False
            self.other._read_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the other side too, after what is under way."""
        server = self.other
        if self.passage is not None and server is not None and server._is_servers and server._stuck and server._ended is None:
            server._drain(lambda: self._lose(exc))
        else:
            self._lose(exc)

    def _lose(self, exc: Exception | None) -> None:
        self._ended = exc or True
        if exc is None and not self._was_aborted:
            self._settle(left=0)
        self._pass_on_the_end()
        if self.passage is not None:
            self.passage.lost(by_server=self._is_servers, reset=exc is not None, unread=self._waits() or self._drained)

    @property
    def _is_servers(self) -> bool:
        return self.outlet is not None and self.outlet.to_client

    def _waits(self) -> bool:
        """Whether the other side's socket has not taken all that was read here."""
        return self.outlet is not None and self.outlet.waiting

    def _drain(self, then: Callable[[], None], *, looks: int = DRAIN_LOOKS, seen: int = -1) -> None:
        """Read on, for nobody, until the server has nothing more to say: only then does it show whether it had closed the connection."""
        self._drained = self._was_cut = True
        if self._ended is not None or not looks or seen == self._read_bytes or self.transport is None:
            then()
            return
        self._stuck, self._under_way_bytes = False, 0
        self._read_on()
        again = functools.partial(self._drain, then, looks=looks - 1, seen=self._read_bytes)
        asyncio.get_running_loop().call_later(DRAIN_LOOK_S, again)

    def _pass_on_the_end(self) -> None:
        if self._ended is None or self.other is None or self.other.transport is None or self.link.plan.held:
            return  # a black hole swallows the end as well
        if isinstance(self._ended, Exception):
            self.other.abort()
        elif not self._under_way and not self._held:
            self.other.transport.close()
        self.door.open.pop(self, None)

    def abort(self) -> None:
        """Close this socket with a reset."""
        self._unwanted = self.transport is None
        if self.transport is not None and not self.transport.is_closing():
            self._was_aborted = True
            with contextlib.suppress(OSError):
                self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()

    def reset(self) -> None:
        """Reset both sides."""
        if self.passage is not None:
            self.passage.ends("fault")
        self.abort()
        if self.other is not None:
            self.other.abort()


class Proxy:
    """The listeners of a proxy, changed by orders.

    Parameters
    ----------
    tapping
        Who is told what passes; None: nobody.
    """

    def __init__(self, *, ends: ProxyEnds | None = None, tapping: Tapping | None = None) -> None:
        self._ends = ends or ProxyEnds()
        self._tapping = tapping
        self._doors: dict[int, ProxyDoor] = {}
        self._servers: list[asyncio.Server] = []
        self._clockwork = Clockwork()
        self._connecting: set[asyncio.Task[None]] = set()

    async def carry_out(self, order: Order) -> Opened:
        """Carry out one order."""
        if isinstance(order, Open):
            return await self._open(order)
        if isinstance(order, LookAtTap | EndTap):
            return Opened([])
        for port in order.ports:
            door = self._doors[port]
            if isinstance(order, Shape):
                door.to_broker, door.to_pod = order.to_broker, order.to_pod
            if isinstance(order, Refuse):
                door.refusing = order.refusing
            for pod_side in list(door.open):
                self._treat(pod_side, order)
        return Opened(order.ports)

    def _treat(self, pod_side: ProxySide, order: Shape | Reset | Refuse | Cut) -> None:
        broker_side = pod_side.other
        if isinstance(order, Reset) or (isinstance(order, Refuse) and order.refusing):
            pod_side.reset()
        elif isinstance(order, Refuse):
            return
        elif isinstance(order, Cut):
            if broker_side is not None:
                broker_side.cut_next = order.cutting
        else:
            for side, plan in ((pod_side, order.to_broker), (broker_side, order.to_pod)):
                if side is not None:
                    side.link.plan = plan
                    side.release()

    async def _open(self, order: Open) -> Opened:
        draw = random.Random(order.seed).random
        loop = asyncio.get_running_loop()

        def accept(door: ProxyDoor) -> ProxySide:
            side = ProxySide(door, self._clockwork, Link(door.to_broker, draw))
            if self._tapping is not None:
                side.passage = self._tapping.meet(door.name)
                side.outlet = Outlet(side.passage.to_server, to_client=False)
            door.open[side] = None
            task = loop.create_task(self._reach(order, door, side, draw))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)
            return side

        ends, names = self._ends, [] if self._tapping is None else self._tapping.names
        port = ends.port
        try:
            for number in range(order.listeners):
                door = ProxyDoor(names[number] if number < len(names) else TAP)
                port = ends.port + number if ends.port else 0
                server = await loop.create_server(functools.partial(accept, door), ends.host, port, ssl=ends.tls)
                self._servers.append(server)
                self._doors[server.sockets[0].getsockname()[1]] = door
        except OSError as error:
            where = f"port {port}" if port else count(order.listeners, "port")
            return Opened([], f"cannot listen on {where} of {ends.host}: {error.strerror}")
        return Opened(list(self._doors))

    async def _reach(self, order: Open, door: ProxyDoor, pod_side: ProxySide, draw: Any) -> None:
        """Connect to the broker for a pod that connected; a broker that is not there resets the pod."""
        broker_side = ProxySide(door, self._clockwork, Link(door.to_pod, draw))
        passage, tls = pod_side.passage, self._ends.server_tls
        try:
            if door.refusing:
                raise ConnectionRefusedError
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await asyncio.get_running_loop().create_connection(
                    lambda: broker_side, order.host, order.port, ssl=tls, server_hostname=order.host if tls else None
                )
        except (OSError, TimeoutError):
            door.open.pop(pod_side, None)
            if passage is not None:
                passage.unreached("fault" if door.refusing else "no-server")
            pod_side.abort()
            return
        if passage is not None:
            broker_side.passage, broker_side.outlet = passage, Outlet(passage.to_client, to_client=True)
            for side in (pod_side, broker_side):
                if side.transport is not None:  # a TLS layer that may hold nothing would stand still once it holds nothing
                    side.transport.set_write_buffer_limits(high=1 if side.transport.get_extra_info("sslcontext") else 0, low=0)
        pod_side.other, broker_side.other = broker_side, pod_side
        pod_side.release()
        broker_side.release()

    async def close(self) -> None:
        """End the listeners and all connections; what was read of them is told."""
        for server in self._servers:
            server.close()
        for task in list(self._connecting):
            task.cancel()
        for door in self._doors.values():
            for side in list(door.open):
                if side.passage is not None:
                    side.passage.ends("tap")
                for one in (side, side.other):
                    if one is not None and one.transport is not None:
                        one.transport.abort()
        await asyncio.sleep(0)
        if self._tapping is not None:
            self._tapping.end()


async def serve(line: Line) -> None:
    """Take orders until the other side closes."""
    to_run = await line.to_async()
    proxy, tap = Proxy(), None
    async for order in to_run.messages(Order):
        if isinstance(order, Open) and order.tap is not None:
            from sim.grounds.tap_record import RecordingTap  # Arrow takes a third of a second to load, and only a tap writes

            tap = RecordingTap(order.tap)
            proxy = Proxy(tapping=tap.tapping)
        if isinstance(order, LookAtTap):
            to_run.send(Opened([], doors=[] if tap is None else tap.look()))
        elif isinstance(order, EndTap):
            await proxy.close()
            to_run.send(Opened([], "" if tap is None else tap.end()))
            tap = None
        else:
            to_run.send(await proxy.carry_out(order))
    if tap is not None:  # who ordered it is gone: what was seen is kept
        await proxy.close()
        tap.end()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve(inherited_line(name="the run")))
