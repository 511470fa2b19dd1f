"""A Redis server in virtual time: one thread, an event loop, output buffers with limits, and what each step costs.

It speaks RESP over a `Network`, so that clients cannot tell it from a server but by its speed.

What it models of a real server
-------------------------------
1. One turn of the event loop: read what arrived from every client, carry the commands out one after another, then write each
   client's replies in one write. What arrives meanwhile waits for the next turn, so a loaded server batches by itself.
2. Each step takes time (`Costs`); the thread is busy for their sum, and `used_cpu` grows by it.
3. PUBLISH queues one copy per subscriber and returns how many: queued, not heard.
4. A subscriber that does not read fills the kernel's window and then its output buffer; at the limit it is cut. So is one for whom a
   single turn queues more than the hard limit, however fast it reads: nothing is written before the turn's end.

PUBLISH is carried out here; every other command is a function of (server, client, words) that it is given (`commands`).
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Container, Mapping
from dataclasses import asdict
from typing import Any

import hiredis

from sim.grounds.model.costs import COLD_MAX_MS, READ_BYTES, Costs, OutputBufferLimit
from sim.grounds.model.keys import Keys
from sim.grounds.model.loop import NS_PER_S, JumpingLoop, Series
from sim.grounds.model.network import Listener, Network, Peer
from sim.wire.resp import NIL, Reply, encode, error

Command = Callable[["ModelRedis", "Client", list[bytes]], Reply]
OWN_BYTES = 16 * 1024  # a client's own output, which no limit counts: only what does not fit in there is its output buffer


class Client(asyncio.Protocol):
    """One connection, as the server sees it."""

    __slots__ = (
        "_server",
        "blocked",
        "channels",
        "ended",
        "gone",
        "id",
        "let_in",
        "name",
        "out",
        "peer",
        "postponed",
        "reader",
        "soft_since_ns",
        "unread",
    )

    def __init__(self, server: ModelRedis) -> None:
        self._server = server
        self.id = 0
        self.name = ""
        self.peer: Peer
        self.unread: deque[bytes] = deque()
        self.reader = hiredis.Reader()
        self.channels: dict[bytes, None] = {}
        self.out: list[bytes] = []
        self.soft_since_ns = 0
        self.let_in = True
        self.blocked = False  # waits for an answer; what it says meanwhile waits too
        self.postponed: list[bytes] = []  # the command that a pause keeps from being carried out
        self.ended = False  # the client has closed; it leaves when what it sent before is read, as its end comes behind that
        self.gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the server's clients."""
        assert isinstance(transport, Peer)
        self.peer = transport
        self._server.accepted(self)

    def data_received(self, data: bytes) -> None:
        """Keep what arrived for the next turn."""
        self.unread.append(data)
        self._server.readable(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the server's clients, once all is read that came before the end."""
        self.ended = True
        if exc is not None or not self.unread:
            self._server.left(self)

    @property
    def buffered_bytes(self) -> int:
        """Bytes that the client has not taken: what CLIENT LIST calls omem."""
        return sum(map(len, self.out)) + self.peer.waiting_bytes


class ModelRedis:
    """A server at one address.

    Attributes
    ----------
    costs, limit
        May be changed while it runs.
    stats
        Counters as INFO names them.
    """

    def __init__(self, network: Network, *, host: str, port: int, commands: Mapping[str, Command], costs: Costs) -> None:
        self.network = network
        self.loop: JumpingLoop = network.loop
        self.host, self.port = host, port
        self._commands = commands
        self.costs = costs
        self._given_costs = costs
        self._listener: Listener | None = None
        self._frozen = False
        self._reset()

    def _reset(self) -> None:
        self.clients: dict[int, Client] = {}
        self.subscribers: dict[bytes, dict[Client, None]] = {}
        self.keys: Keys = Keys(self.loop.now_ns)
        self.limit = OutputBufferLimit()
        self.max_clients = 100_000  # as a big fleet needs it: the default of 10,000 is a fault to inject
        self.password = b""
        self._paused: object = None  # which pause there is
        self._paused_commands: Container[str] | None = None  # that wait for its end; None = every one
        self.busy_ns = 0
        self.spent_ns = 0  # what commands took beyond their cost, until the turn counts it
        self.stats = dict.fromkeys(("commands", "cuts", "bytes_in", "bytes_out", "accepted", "publishes", "copies"), 0)
        self.blocked: dict[bytes, list[Any]] = {}  # key -> reads that wait for it, see `streams`
        self._ready: dict[Client, None] = {}
        self._to_write: dict[Client, None] = {}
        self._turning = False  # the next turn is on its way
        self._busy_until_ns = self.loop.now_ns()
        self._full: dict[Client, None] = {}  # clients that did not take all that was written to them, some of them since
        self._life = object()  # of the process: a turn that was planned before the process died does nothing
        self._joined: tuple[list[bytes], bytes] = ([], b"")
        self.roster_changed()

    # -- the process -------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._listener is not None

    def start(self) -> None:
        """Start the process, empty; nothing when it runs."""
        if self._listener is None:
            self._reset()
            self._frozen = False
            self._listener = self.network.listen(lambda: Client(self), self.host, self.port)

    def end(self, *, at_once: bool) -> None:
        """End the process: at once as by SIGKILL, where what waits in output buffers is lost, or closing each connection."""
        if self._listener is None:
            return
        self._listener.close()
        self._listener = None
        for client in list(self.clients.values()):
            client.gone = True
            if at_once:
                client.peer.abort(unread=bool(client.unread))
            else:
                client.peer.close()
        self._reset()

    def freeze(self) -> None:
        """Stop working until `thaw`; the kernel goes on accepting connections and bytes, as after SIGSTOP."""
        self._frozen = True

    def thaw(self) -> None:
        """Go on after `freeze`."""
        self._frozen = False
        self._turn_soon()

    def slow_down(self, factor: float) -> None:
        """Make every step take so many times as long; 1 = as fast as at first."""
        self.costs = Costs(**{name: cost * factor for name, cost in asdict(self._given_costs).items()})

    # -- clients -----------------------------------------------------------------------------------------------

    def roster_changed(self) -> None:
        """Forget what was said of the clients: one came, left, took a name, or hears other channels."""
        self.listings: dict[tuple[bytes, ...], dict[Client, bytes]] = {}  # the filters of CLIENT LIST -> its lines while nothing waits
        self._hearing: int | None = None

    @property
    def hearing(self) -> int:
        """How many clients hear a channel."""
        if self._hearing is None:
            self._hearing = len(set().union(*self.subscribers.values()))
        return self._hearing

    def accepted(self, client: Client) -> None:
        """Take a connection in."""
        self.stats["accepted"] += 1
        client.id = self.stats["accepted"]
        client.let_in = not self.password
        if len(self.clients) >= self.max_clients:
            client.gone = True
            client.peer.write(error("max number of clients reached"))
            client.peer.close()
            return
        self.clients[client.id] = client
        self.roster_changed()

    def left(self, client: Client) -> None:
        """Forget a connection."""
        client.gone = True
        self.roster_changed()
        self.clients.pop(client.id, None)
        for channel in client.channels:
            heard_by = self.subscribers.get(channel)
            if heard_by is not None:
                heard_by.pop(client, None)
                if not heard_by:
                    del self.subscribers[channel]
        client.channels.clear()
        self._full.pop(client, None)
        self._ready.pop(client, None)
        self._to_write.pop(client, None)

    def cut(self, client: Client) -> None:
        """Close a connection from this side, as CLIENT KILL does."""
        self.left(client)
        client.peer.abort(unread=bool(client.unread))

    def readable(self, client: Client) -> None:
        """Read from a client in the next turn."""
        if not client.gone:
            self._ready[client] = None
            self._turn_soon()

    def wake(self, client: Client, data: bytes) -> None:
        """Answer a client that was blocked, outside of a turn of its own."""
        client.blocked = False
        self.reply(client, data)
        self.readable(client)

    def serve_blocked(self, *keys: bytes) -> None:
        """Answer whoever waits for a key that changed or is gone and can be answered now; whoever has gone himself gets nothing."""
        for key in keys:
            waiting = [one for one in self.blocked.pop(key, ()) if not one.over and not one.client.gone]
            for one in waiting:
                if (answer := one.again()) is not NIL:
                    one.over = True
                    self.wake(one.client, encode(answer))
            self.blocked[key] = [one for one in waiting if not one.over]

    def pause(self, for_ns: int, *, only: Container[str] | None = None) -> None:
        """Carry out no command for a while, or none of those named; whoever sends one waits, with all that he sends after it."""
        self._paused = pause = object()
        self._paused_commands = only
        self.loop.at_ns(self.loop.now_ns() + for_ns, lambda _: self.unpause() if self._paused is pause else None, None)

    def unpause(self) -> None:
        """End a pause before its time."""
        self._paused = None
        for client in self.clients.values():
            if client.postponed:
                client.blocked = False
                self.readable(client)

    def _postpones(self, words: list[bytes]) -> bool:
        return self._paused_commands is None or words[0].upper().decode("latin-1") in self._paused_commands

    def waiting(self) -> dict[Client, None]:
        """Return the clients that may have output waiting, without a look at each of thousands; all others have none."""
        self._full = {client: None for client in self._full if client.peer.waiting_bytes}
        return self._to_write | self._full

    @property
    def buffered_bytes(self) -> int:
        """Bytes that wait in output buffers."""
        return sum(client.buffered_bytes for client in self.waiting())

    # -- one turn of the event loop ----------------------------------------------------------------------------

    def _turn_soon(self) -> None:
        if self._ready and not self._turning and not self._frozen:
            self._turning = True
            self.loop.at_ns(max(self.loop.now_ns(), self._busy_until_ns), self._turn, self._life)

    def _turn(self, life: object) -> None:
        if life is not self._life:
            return
        if self._frozen:
            self._turning = False
            return
        began_ns = self.loop.now_ns()
        slept_ms = min((began_ns - self._busy_until_ns) / 1e6, COLD_MAX_MS)
        at_ns = began_ns + int(self.costs.turn_ns + self.costs.cold_ns * math.sqrt(slept_ms))
        ready, self._ready = self._ready, {}
        for client in ready:
            at_ns = self._read(client, at_ns)
        self._busy_until_ns = at_ns = self._write(at_ns)
        self.busy_ns += at_ns - began_ns
        self._turning = False
        self._turn_soon()

    def _read(self, client: Client, at_ns: int) -> int:
        """Carry out the commands that one client sent, and return when they are done."""
        size = 0
        while client.unread and size < READ_BYTES:
            piece = client.unread.popleft()
            size += len(piece)
            client.reader.feed(piece)
        self.stats["bytes_in"] += size
        at_ns += int(self.costs.read_ns)
        if client.unread:
            self._ready[client] = None
        try:
            while not client.blocked and (words := client.postponed or client.reader.gets()) is not False:
                if self._paused is not None and self._postpones(words):
                    client.postponed, client.blocked = words, True
                    break
                client.postponed = []
                self.stats["commands"] += 1
                at_ns += int(self.costs.command_ns)
                at_ns = self._carry_out(client, words, at_ns)
        except hiredis.ProtocolError:
            client.out.append(error("Protocol error"))
            self._to_write[client] = None
        if client.ended and not client.unread:
            self.left(client)
        return at_ns

    def _carry_out(self, client: Client, words: list[bytes], at_ns: int) -> int:
        if words[0] == b"PUBLISH" and client.let_in:
            return self._publish(client, words, at_ns)
        name = words[0].upper()
        if not client.let_in and name != b"AUTH":
            self.reply(client, error("Authentication required.", code="NOAUTH"))
            return at_ns
        command = self._commands.get(name.decode("latin-1"))
        if command is None:
            self.reply(client, error(f"unknown command '{name.decode('latin-1')}'"))
            return at_ns
        answer: Reply = command(self, client, words)
        if answer is not None:
            self.reply(client, encode(answer))
        spent_ns, self.spent_ns = self.spent_ns, 0
        return at_ns + spent_ns

    def _publish(self, client: Client, words: list[bytes], at_ns: int) -> int:
        _, channel, payload = words
        heard_by = self.subscribers.get(channel, {})
        if heard_by:
            size = len(payload)
            copy = b"*3\r\n$7\r\nmessage\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(channel), channel, size, payload)
            for subscriber in heard_by:
                subscriber.out.append(copy)
            self._to_write |= heard_by
            at_ns += int(len(heard_by) * self.costs.copy_ns)
        self.reply(client, b":%d\r\n" % len(heard_by))
        self.stats["publishes"] += 1
        self.stats["copies"] += len(heard_by)
        return at_ns

    def reply(self, client: Client, data: bytes) -> None:
        """Queue bytes for a client, to be written at the end of the turn."""
        client.out.append(data)
        self._to_write[client] = None

    def _check_limit(self, client: Client) -> None:
        """Cut a subscriber whose buffer is beyond the limit, as after each write that could not be completed."""
        limit, size, now = self.limit, client.buffered_bytes, self.loop.now_ns()
        if not 0 < limit.soft_bytes < size:
            client.soft_since_ns = 0
        elif not client.soft_since_ns:
            client.soft_since_ns = now
        too_long = client.soft_since_ns and now - client.soft_since_ns > limit.soft_s * NS_PER_S
        if too_long or 0 < limit.hard_bytes < size:
            self.stats["cuts"] += 1
            self.cut(client)

    def _write(self, at_ns: int) -> int:
        """Write each client's replies, and return when the last is written."""
        to_write, self._to_write = self._to_write, {}
        flight: Series = []
        write_ns, byte_ns, own_bytes = self.costs.write_ns, self.costs.byte_ns, OWN_BYTES
        joined, data = self._joined
        bytes_out = 0
        for client in to_write:
            if client.gone:
                continue
            out, client.out = client.out, []
            if out != joined:  # the same copies for every subscriber: one object for all
                joined, data = out, out[0] if len(out) == 1 else b"".join(out)
            size = len(data)
            if size > own_bytes and client.channels and 0 < self.limit.hard_bytes < size - own_bytes:
                self.stats["cuts"] += 1
                self.cut(client)
                continue
            at_ns += int(write_ns + byte_ns * size)
            bytes_out += size
            peer = client.peer
            peer.write_at(data, at_ns, flight)
            if peer.waiting_bytes:
                self._full[client] = None
                if client.channels:
                    self._check_limit(client)
        self._joined = (joined, data)
        self.stats["bytes_out"] += bytes_out
        self.loop.series(flight)
        return at_ns
