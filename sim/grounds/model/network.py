"""TCP between programs of one jumping loop: connect, listen, bytes in order, windows, resets. The model's network.

A `Network` gives a `JumpingLoop` its `create_connection` and `create_server`, so that pods, HTTP servers and the model broker
speak over it unchanged. Bytes cross a `link.Link` per direction.

Rules
-----
1. A piece that was written in one call arrives in one read, as the same bytes object: no copy; one of more than `READ_BYTES` in several.
2. At most `window_bytes` of a direction are under way or unread; what is written beyond them waits at the sender, in order. A reader
   that pauses so fills first the window and then the sender's own buffer, as with kernel buffers.
3. `close` sends what waits and then ends the direction; `abort` drops what the window has no room for. The other side reads what was
   sent, after a black hole too, and then sees the end, as with a kernel; a reset only where bytes of its own had come and were not read.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from sim.faults.link import Link, LinkPlan, that_fit
from sim.grounds.model.costs import WINDOW_BYTES
from sim.grounds.model.loop import JumpingLoop, Series
from sim.wire.connection import READ_BYTES

FIRST_FREE_PORT = 40_000

Address = tuple[str, int]
Factory = Callable[[], Any]
_END = None  # stands for the end of a direction among its pieces


class Network:
    """The listeners and the connections of one loop.

    Attributes
    ----------
    plan
        How links behave that are made from now on.
    window_bytes
        What the kernels of both sides of a connection hold of a direction.
    """

    def __init__(self, loop: JumpingLoop, *, seed: int, plan: LinkPlan, window_bytes: int = WINDOW_BYTES) -> None:
        self.loop = loop
        self.plan = plan
        self.window_bytes = window_bytes
        self._draw = random.Random(seed).random
        self._listeners: dict[Address, Listener] = {}
        self._free_port = FIRST_FREE_PORT
        self._doors: dict[Address, ModelDoor] = {}
        loop.connect, loop.listen = self._connect, self.listen

    async def _connect(self, factory: Factory, host: str, port: int) -> tuple[Peer, Any]:
        door = self._doors.get((host, port))
        await asyncio.sleep(2 * self.plan.delay_ns / 1e9)
        listener = self._listeners.get((host, port) if door is None else door.leads_to)
        if listener is None or (door is not None and door.refusing):
            raise ConnectionRefusedError(111, "Connection refused")
        here, there = Peer(self, (host, port)), Peer(self, (host, port))
        here.other, there.other = there, here
        if door is not None:
            door.take(here)
        protocol = factory()
        here.protocol = protocol
        protocol.connection_made(here)
        listener.accept(there)
        return here, protocol

    def listen(self, factory: Factory, host: str, port: int) -> Listener:
        """Accept connections to an address; port 0 takes a free one.

        Raises
        ------
        OSError
            The address is taken.
        """
        if not port:
            self._free_port += 1
            port = self._free_port
        if (host, port) in self._listeners:
            raise OSError(98, "address already in use")
        listener = self._listeners[host, port] = Listener(self, (host, port), factory)
        return listener

    def door(self, leads_to: Address) -> ModelDoor:
        """Return a further address of a listener, whose links can be shaped apart from all others."""
        self._free_port += 1
        door = self._doors[leads_to[0], self._free_port] = ModelDoor(self, (leads_to[0], self._free_port), leads_to)
        return door

    def forget(self, listener: Listener) -> None:
        """Accept no more connections."""
        self._listeners.pop(listener.address, None)

    def link(self) -> Link:
        """Return one direction of a new connection."""
        return Link(self.plan, self._draw)


class Listener(asyncio.AbstractServer):
    """A listener at one address: the part of `asyncio.Server` that servers use."""

    def __init__(self, network: Network, address: Address, factory: Factory) -> None:
        self._network = network
        self.address = address
        self._factory = factory
        self._accepted: set[Peer] = set()
        self.sockets = (_Name(address),)

    def accept(self, peer: Peer) -> None:
        """Give a new connection to a protocol of its own."""
        peer.protocol = self._factory()
        peer.protocol.connection_made(peer)

    def is_serving(self) -> bool:
        """Return whether connections are accepted."""
        return self._network._listeners.get(self.address) is self

    def close(self) -> None:
        """Accept no more connections; those that are open stay."""
        self._network.forget(self)

    async def wait_closed(self) -> None:
        """Return at once."""

    async def start_serving(self) -> None:
        """Do nothing: it serves since it was made."""

    async def serve_forever(self) -> None:
        """Return when cancelled."""
        await asyncio.get_running_loop().create_future()

    def get_loop(self) -> JumpingLoop:
        """Return the loop that it serves on."""
        return self._network.loop


class ModelDoor:
    """A further address that leads to a listener, as a proxy's port does.

    Attributes
    ----------
    address
        Where to connect to.
    refusing
        Whether new connections are refused.
    """

    def __init__(self, network: Network, address: Address, leads_to: Address) -> None:
        self.address = address
        self.leads_to = leads_to
        self._network = network
        self._to_listener = self._from_listener = LinkPlan()
        self._open: dict[Peer, None] = {}
        self.refusing = False

    def take(self, here: Peer) -> None:
        """Shape the links of a new connection."""
        self._open = {peer: None for peer in self._open if not peer.over}
        self._open[here] = None
        self._apply(here)

    def shape(self, *, to_listener: LinkPlan, from_listener: LinkPlan) -> None:
        """Make every connection through this door behave so, those that are open and those to come."""
        self._to_listener, self._from_listener = to_listener, from_listener
        for here in self._open:
            self._apply(here)

    def _apply(self, here: Peer) -> None:
        for peer, plan in ((here, self._to_listener), (here.other, self._from_listener)):
            peer.link.plan = plan.over(self._network.plan)
            peer.flush()

    def reset(self) -> None:
        """Reset every open connection, on both sides."""
        for here in self._open:
            here.reset()

    def cut(self, cutting: bool) -> None:
        """Pass on half of the next piece from the listener, then reset the connection; or spare those that had no piece since."""
        for here in self._open:
            here.other.cut_next = cutting or here.other.was_cut


class _Name:
    """What a server asks of its listening socket."""

    def __init__(self, address: Address) -> None:
        self._address = address

    def getsockname(self) -> Address:
        """Return host and port."""
        return self._address


class Peer(asyncio.Transport):
    """One side of a connection, as a transport for asyncio protocols.

    Attributes
    ----------
    room
        Called when what waited at this side has left; for a server that bounds its own buffers.
    """

    __slots__ = (
        "_closing", "_ended", "_loop", "_network", "_paused", "_under_way", "_unread", "_waiting", "_window_bytes",
        "cut_next", "link", "other", "protocol", "room", "waiting_bytes", "was_cut",
    )  # fmt: skip

    def __init__(self, network: Network, address: Address) -> None:
        super().__init__({"peername": address, "sockname": address})
        self._network = network
        self._loop = network.loop
        self._window_bytes = network.window_bytes
        self.link = network.link()
        self.protocol: Any = None
        self.other: Peer  # set once both are there
        self.room: Callable[[], None] | None = None
        self._waiting: deque[bytes | None] = deque()  # written, beyond the window or while the link is held
        self.waiting_bytes = 0  # read only from outside
        self._under_way = 0  # bytes sent and not yet read by the other side
        self._unread: deque[bytes | None] = deque()  # arrived, and the protocol has paused
        self._paused = False
        self.cut_next = False  # pass on half of the next piece, then reset
        self.was_cut = False  # what is sent until the reset would join the half to a frame that nobody sent
        self._closing = False
        self._ended = False  # the protocol was told that the connection is lost

    # -- writing -----------------------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        """Send bytes."""
        self.write_at(bytes(data), self._loop.now_ns())

    def write_at(self, data: bytes, at_ns: int, flight: Series | None = None) -> None:
        """Send bytes that leave at a time not before those sent so far, by a timer of their own or as part of a flight."""
        if self._closing or self._ended or not data:
            return
        size = len(data)
        if self.cut_next and self._cut(data, at_ns):
            return
        if not self._waiting and self._under_way < self._window_bytes:
            arrival_ns = self.link.arrival_ns(at_ns, size)
            if arrival_ns is not None:
                self._under_way += size
                if flight is None:
                    self._loop.at_ns(arrival_ns, self.other.arrive, data)
                else:
                    flight.append((arrival_ns, len(flight), self.other.arrive, data))
                return
        self._waiting.append(data)
        self.waiting_bytes += size

    def _send(self, data: bytes | None) -> bool:
        """Send what waited, or the end, now; return False while the link is held."""
        size = len(data) if data is not None else 0
        if self.cut_next and data is not None:
            return self._cut(data, self._loop.now_ns())
        if (arrival_ns := self.link.arrival_ns(self._loop.now_ns(), size)) is None:
            return False
        self._under_way += size
        self._loop.at_ns(arrival_ns, self.other.arrive, data)
        return True

    def _cut(self, data: bytes, at_ns: int) -> bool:
        """Pass on half of a piece, then reset, and nothing of any further one; return False while the link is held."""
        if self.was_cut:
            return True
        half = data[: len(data) // 2]
        if (arrival_ns := self.link.arrival_ns(at_ns, len(half))) is None:
            return False
        self.was_cut = True
        self._under_way += len(half)
        self._loop.at_ns(arrival_ns, self.other.arrive, half)
        self._loop.at_ns(arrival_ns + 1, lambda _: self.reset(), None)
        return True

    def reset(self) -> None:
        """Reset the connection in its middle: both sides are told."""
        for side in (self, self.other):
            side._reset(None)

    def flush(self) -> None:
        """Send what waits, as far as the window and the link allow."""
        waiting = self._waiting
        if not waiting:
            return
        while waiting and self._under_way < self._window_bytes and self._send(waiting[0]):
            piece = waiting.popleft()
            self.waiting_bytes -= len(piece) if piece is not None else 0
        if not waiting and self.room is not None:
            self.room()

    def get_write_buffer_size(self) -> int:
        """Return the bytes that wait at this side."""
        return self.waiting_bytes

    def can_write_eof(self) -> bool:
        """Return False: a connection is closed as a whole."""
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing: writing is never refused."""

    # -- reading -----------------------------------------------------------------------------------------------

    def arrive(self, data: bytes | None) -> None:
        """Take a piece that has crossed the link."""
        if self._ended:
            return
        if self._paused or self._unread:
            self._unread.append(data)
        elif data is _END:
            self._lose(None)
        elif (size := len(data)) > READ_BYTES:
            self._unread.append(data)
            self._read_on()
        else:
            self._read(data, size)

    def _read(self, data: bytes, size: int) -> None:
        other = self.other
        other._under_way -= size
        if other._waiting:
            other.flush()
        try:
            self.protocol.data_received(data)
        except Exception as error:  # as on asyncio's own transports: told to the loop's handler, and the connection is dropped
            self._loop.call_exception_handler({"message": "a protocol's data_received failed", "exception": error, "transport": self})
            self.abort()

    def pause_reading(self) -> None:
        """Read no more for now; the window fills meanwhile."""
        self._paused = True

    def resume_reading(self) -> None:
        """Go on reading; what arrived meanwhile comes in as few reads as a client's buffer allows."""
        if self._paused:
            self._paused = False
            if self._unread:
                self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        """Read what has arrived, so much at a time as a client's buffer takes."""
        unread = self._unread
        if self._paused or self._ended or not unread:
            return
        pieces, room = list[bytes](), READ_BYTES
        while unread and room and (piece := unread[0]) is not _END:
            pieces.append(piece[:room])
            room -= len(pieces[-1])
            if len(pieces[-1]) < len(piece):
                unread[0] = piece[len(pieces[-1]) :]
            else:
                unread.popleft()
        if pieces:
            joined = b"".join(pieces)
            self._read(joined, len(joined))
        else:
            unread.clear()
            self._lose(None)
        if unread:
            self._loop.call_soon(self._read_on)

    def is_reading(self) -> bool:
        """Return whether the protocol reads."""
        return not self._paused

    # -- the end -----------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether this side has ended and nothing of it is left to send."""
        return self._ended and not self._waiting

    def is_closing(self) -> bool:
        """Return whether this side has closed, or lost the connection."""
        return self._closing or self._ended

    def close(self) -> None:
        """Send what waits, then end the connection."""
        if self.is_closing():
            return
        self._closing = True
        if self._waiting or not self._send(_END):
            self._waiting.append(_END)
        self._loop.call_soon(self._lose, None)

    def abort(self, *, unread: bool = False) -> None:
        """Drop the connection and what waits in its program; `unread`: bytes which the protocol took were never looked at."""
        if self._ended:
            return
        self._closing = True
        taken = list(that_fit((piece for piece in self._waiting if piece is not None), self._window_bytes - self._under_way))
        self._waiting.clear()
        self.waiting_bytes = 0
        if unread or self._unread:
            if (arrival_ns := self.link.arrival_ns(self._loop.now_ns(), 0)) is not None:
                self._loop.at_ns(arrival_ns, self.other._reset, None)
        elif taken or not self._send(_END):  # what a black hole holds, the end as well, arrives when it heals
            self._waiting.extend((*taken, _END))
        self._loop.call_soon(self._lose, None)

    def _reset(self, _: None) -> None:
        self._lose(ConnectionResetError(104, "Connection reset by peer"))

    def _lose(self, error: Exception | None) -> None:
        if self._ended:
            return
        if error is not None or not self._closing:  # the other side ended it; what waits here has nowhere to go
            self._waiting.clear()
            self.waiting_bytes = 0
        self._ended = True
        self._unread.clear()
        self._loop.call_soon(self.protocol.connection_lost, error)

    def set_protocol(self, protocol: Any) -> None:
        """Give the connection to another protocol."""
        self.protocol = protocol
