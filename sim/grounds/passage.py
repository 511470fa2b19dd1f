"""What makes the proxy of links a tap: a reader beside each connection, told what has left for either side's socket.

Rules
-----
1. The reader is told bytes when the kernel has taken them (of a connection with TLS: when the TLS layer has), not when they were read.
2. Before it is told what the server said, it is told what had left for the server until then: an answer never comes before its command.
3. Who ended first ended the connection; its end is told when both sides are gone, and at the latest when the tap ends.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import monotonic_ns  # a proxy is never in virtual time

from sim.wire import tap_rows
from sim.wire.shared_reads import SharedReads
from sim.wire.tap_addresses import AddressRewriter, Nodes, UnknownNode
from sim.wire.tap_rows import Connection, Identify, TapSink
from sim.wire.tapped_connection import TappedConnection


class Passage(TappedConnection):
    """A tapped connection that knows how it ends."""

    def __init__(self, seen: Connection, *, sink: TapSink, identify: Identify, reads: SharedReads, gone: Callable[[Passage], None]) -> None:
        super().__init__(seen, sink=sink, identify=identify, reads=reads)
        self.rewriter: AddressRewriter | None = None
        self._sides = 2  # that have not ended
        self._gone = gone
        self._end: tuple[int, str] | None = None

    def rewritten(self, data: bytes, *, by_server: bool) -> bytes | None:
        """Return what is passed on of what was read; None where the connection must end."""
        if self.rewriter is None:
            return data
        try:
            return self.rewriter.from_server(data) if by_server else self.rewriter.from_client(data)
        except UnknownNode:
            self.ends("unknown-node")
            return None

    def ends(self, how: str) -> None:
        """Take how it ends, unless something ended it before."""
        if self._end is None:
            self._end = monotonic_ns(), how

    def lost(self, *, by_server: bool, reset: bool, unread: bool) -> None:
        """Take the loss of one side; `unread` says that the client had not taken what the server sent."""
        if by_server:
            self.ends("cut" if unread else "server-reset" if reset else "server")
        else:
            self.ends("client-reset" if reset else "client")
        self._lose()

    def unreached(self, how: str) -> None:
        """Take that there will be no side of the server."""
        self.ends(how)
        self._lose()

    def _lose(self) -> None:
        self._sides -= 1
        if not self._sides:
            self.tell_end()

    def tell_end(self) -> None:
        """Tell the end; the connection is of the past then."""
        self.ends("tap")
        assert self._end is not None
        self._gone(self)
        self.close(*self._end)


@dataclass
class Tapping:
    """What makes a proxy a tap: who is told, and by which rule an event is known.

    Attributes
    ----------
    names
        Of the doors, in the order of the listeners; a door without one is `tap`.
    nodes, asked
        Of a cluster: where each node's tap is, and the host of the node that this tap leads to (`sim.wire.tap_addresses`).
    numbers
        Gives each connection its number; shared by the taps of one cluster.
    """

    sink: TapSink
    identify: Identify
    names: list[str] = field(default_factory=list)
    nodes: Nodes | None = None
    asked: str = ""
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _reads: SharedReads = field(default_factory=SharedReads)
    _there: dict[Passage, None] = field(default_factory=dict)

    def meet(self, door: str) -> Passage:
        """Return the reader of a new connection."""
        seen = tap_rows.Connection(next(self.numbers), door, monotonic_ns())
        passage = Passage(seen, sink=self.sink, identify=self.identify, reads=self._reads, gone=self._forget)
        if self.nodes is not None:
            passage.rewriter = AddressRewriter(self.nodes, asked=self.asked)
        self._there[passage] = None
        return passage

    def _forget(self, passage: Passage) -> None:
        self._there.pop(passage, None)

    def end(self) -> None:
        """Tell the end of every connection that has not ended."""
        for passage in list(self._there):
            passage.tell_end()


class Outlet:
    """The way from one side to the other's socket, for a reader that is told each byte when it has left.

    Parameters
    ----------
    tell
        Takes bytes and when they left, in order.
    to_client
        Which way it leads.
    """

    def __init__(self, tell: Callable[[bytes, int], None], *, to_client: bool) -> None:
        self.to_client = to_client
        self._tell = tell
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0

    @property
    def waiting(self) -> bool:
        """Whether the socket has not taken all."""
        return bool(self._waiting)

    def write(self, transport: asyncio.Transport, data: bytes) -> None:
        """Write to the socket."""
        began_ns = monotonic_ns()
        transport.write(data)
        left = transport.get_write_buffer_size()
        if not left and not self._waiting:
            # Who hears an event may be quicker than we are here: what left for the server has left when it was begun, so that no copy is
            # heard before its event was sent.
            self._tell(data, monotonic_ns() if self.to_client else began_ns)
            return
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        self.settle(left)

    def settle(self, left: int) -> None:
        """Tell what has left, where so many bytes have not."""
        now = monotonic_ns()
        while self._waiting_bytes > left:
            data = self._waiting.popleft()
            if self._waiting_bytes - len(data) < left:  # only a part of it
                gone = self._waiting_bytes - left
                self._waiting.appendleft(data[gone:])
                data = data[:gone]
            self._waiting_bytes -= len(data)
            self._tell(data, now)
