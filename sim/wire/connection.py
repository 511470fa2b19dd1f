"""One socket to a broker: opened, let in, and read with as little as possible between the kernel and who reads.

One read buffer is shared by all sockets of the process (`BufferedProtocol`): asyncio's `Protocol` allocates 256 KiB a read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

import hiredis

from sim.errors import BrokerError, BrokerUnreachable
from sim.machine.freezer import Freezer
from sim.machine.words import duration
from sim.wire.address import Address
from sim.wire.refusals import explain, keeps_out, refusal, silent
from sim.wire.reply_reader import BadReply, ReplyReader
from sim.wire.resp import pack

CONNECT_TIMEOUT_S = 5.0
OPEN_WITHIN_S: ContextVar[float | None] = ContextVar("OPEN_WITHIN_S", default=None)  # in place of CONNECT_TIMEOUT_S, for one task
READ_BYTES = 256 * 1024
T = TypeVar("T")
Command = Callable[..., Awaitable[Any]]  # sends the words of one command and gives its reply; raises BrokerError, also for a refusal

_bytes = bytearray(READ_BYTES)
_buffer = memoryview(_bytes)
_last_read = b""  # equal reads in a row are handed on as one object: no copy, and a reader knows it by its identity


class Wire(asyncio.BufferedProtocol):
    """One socket: each read goes to `on_read`, its end once to `on_lost`. With a freezer, neither is called while that is frozen.

    Attributes
    ----------
    unnamed
        The broker's words where it does not list this connection under its name, because it refuses or lacks CLIENT SETNAME; else empty.
    """

    def __init__(self, freezer: Freezer | None = None) -> None:
        self.unnamed = ""
        self.transport: asyncio.Transport | None = None
        self._freezer = freezer or Freezer()
        self._paused_for: set[str] = set()
        self.on_read: Callable[[bytes], None] = self._read_reply
        self.on_lost: Callable[[str], None] = lambda reason: None
        self._reader = ReplyReader()
        self._replies: deque[asyncio.Future[Any]] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport  # type: ignore[assignment]
        self._freezer.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Lend the shared buffer; it is read out in `buffer_updated`, before any other read."""
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Hand over what was read."""
        global _last_read
        if nbytes != len(_last_read) or not _bytes.startswith(_last_read):
            _last_read = bytes(_buffer[:nbytes])
        self.data_received(_last_read)

    def data_received(self, data: bytes) -> None:
        """Hand over what was read; whatever reads it, a server that answers nonsense is a lost connection and no traceback."""
        try:
            self.on_read(data)
        except (BadReply, hiredis.ProtocolError) as error:
            self._fail_replies(str(error), error)
            self.give_up(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what waits and tell the owner."""
        self._freezer.discard(self)
        reason = str(exc) if exc else "closed by the broker"
        self._fail_replies(reason, exc)
        self._freezer.then(lambda: self.on_lost(reason))  # looked up when it is called: whoever aborted it meanwhile is not told

    def _fail_replies(self, reason: str, cause: Exception | None) -> None:
        for reply in self._replies:
            if not reply.done():
                lost = BrokerUnreachable(reason)
                lost.__cause__ = cause  # TLS tells here why it failed
                reply.set_exception(lost)
        self._replies.clear()

    def pause(self, why: str) -> None:
        """Read no more until each reason to pause is gone; the other side's buffer fills meanwhile."""
        self._paused_for.add(why)
        if not self.is_gone:
            assert self.transport is not None
            self.transport.pause_reading()

    def resume(self, why: str) -> None:
        """Remove one reason to pause, and go on reading when it was the last."""
        self._paused_for.discard(why)
        if not self._paused_for and not self.is_gone:
            assert self.transport is not None
            self.transport.resume_reading()

    @property
    def is_gone(self) -> bool:
        """Whether the connection is closed or closing."""
        return self.transport is None or self.transport.is_closing()

    async def command(self, *words: str) -> Any:
        """Send one command and return its reply; only before `on_read` is given to a subscription or publisher."""
        return (await self.commands(words))[0]

    async def commands(self, *commands: Sequence[str]) -> list[Any]:
        """Send commands in one write, so that the broker runs them with nothing in between, and return their replies."""
        if self.transport is None or self.transport.is_closing():
            raise BrokerUnreachable("the connection is gone")
        replies = [asyncio.get_running_loop().create_future() for _ in commands]
        self._replies.extend(replies)
        self.transport.write(b"".join(pack(*(word.encode() for word in words)) for words in commands))
        return await asyncio.gather(*replies)

    def _read_reply(self, data: bytes) -> None:
        self._reader.feed(data)
        while self._replies and (reply := self._reader.gets()) is not False:
            waiting = self._replies.popleft()
            if not waiting.done():
                waiting.set_result(reply)

    def close(self) -> None:
        """Close the connection; `on_lost` is not called any more."""
        self.on_lost = lambda reason: None
        if self.transport is not None:
            self.transport.close()

    def give_up(self, reason: str) -> None:
        """Drop a connection that seems dead, and tell the owner as if the broker had closed it."""
        lost = self.on_lost
        self.abort()
        lost(reason)

    def abort(self) -> None:
        """Drop the connection at once, unsent bytes included; `on_lost` is not called any more."""
        self.on_lost = lambda reason: None
        self._freezer.discard(self)  # of a connection that is given up while it opens, uvloop never says that it was lost
        if self.transport is not None:
            self.transport.abort()


async def open_wire(address: Address, *, client_name: str, freezer: Freezer | None = None) -> Wire:
    """Connect, authenticate and name the connection; where the address has several nodes, to the first that can be reached.

    With a freezer, it is read only while that is not frozen.

    Raises
    ------
    BrokerUnreachable, BrokerRefused
    """
    *first, last = address.nodes
    for node in first:
        with contextlib.suppress(BrokerUnreachable):
            return await _open_one(node, client_name=client_name, freezer=freezer)
    return await _open_one(last, client_name=client_name, freezer=freezer)


async def _open_one(address: Address, *, client_name: str, freezer: Freezer | None) -> Wire:
    loop = asyncio.get_running_loop()
    wire, within_s = Wire(freezer), OPEN_WITHIN_S.get() or CONNECT_TIMEOUT_S
    with contextlib.ExitStack() as undo:
        undo.callback(wire.abort)  # however the attempt ends: a broker that is silent for long must not collect connections
        context = address.ssl_context
        try:
            async with asyncio.timeout(within_s):
                await loop.create_connection(lambda: wire, address.host, address.port, ssl=context)
                await _let_in(wire, address, client_name)
        except TimeoutError:
            raise silent(address, within_s, secured=wire.transport is not None) from None  # which is there after the handshake
        except (BrokerUnreachable, OSError, RuntimeError) as error:  # uvloop raises RuntimeError on a transport that was reset
            raise await explain(address, error) from None
        undo.pop_all()
    return wire


class Denied(Exception):
    """The broker's refusal of one channel, in its own words; `open_confirmed` turns it into a `BrokerRefused`."""

    def __init__(self, channel: str, reply: str) -> None:
        super().__init__(reply)
        self.channel, self.reply = channel, reply


async def open_confirmed(
    address: Address, *, client_name: str, confirm: Callable[[Wire], Awaitable[T]], freezer: Freezer | None = None
) -> tuple[Wire, T]:
    """Connect, and return the connection and what `confirm` made of it: a subscription that the broker has confirmed.

    Raises
    ------
    BrokerUnreachable, BrokerRefused
        Also when confirming takes too long; the connection is closed then.
    """
    wire = await open_wire(address, client_name=client_name, freezer=freezer)
    within_s = OPEN_WITHIN_S.get() or CONNECT_TIMEOUT_S
    with contextlib.ExitStack() as undo:
        undo.callback(wire.abort)
        try:
            async with asyncio.timeout(within_s):
                confirmed = await confirm(wire)
        except TimeoutError:
            raise BrokerUnreachable(f"{address} does not confirm subscriptions within {duration(within_s)}") from None
        except Denied as error:
            raise refusal(address, f"SUBSCRIBE to {error.channel}", error.reply) from None
        except BrokerError as error:
            raise type(error)(f"{address}: cannot subscribe: {error}") from None
        if wire.is_gone:
            raise BrokerUnreachable(f"{address} closed the connection after subscribing")
        undo.pop_all()
    return wire, confirmed


async def _let_in(wire: Wire, address: Address, client_name: str) -> None:
    commands: list[tuple[str, ...]] = [("CLIENT", "SETNAME", client_name)]
    if address.db:
        commands.insert(0, ("SELECT", str(address.db)))
    if address.credentials:
        commands.insert(0, ("AUTH", *address.credentials))
    for command in commands:
        reply = await wire.command(*command)
        if command[0] == "AUTH" and "wrong number of arg" in str(reply):  # before Redis 6 there are no users; redis-py asks so too
            reply = await wire.command("AUTH", command[-1])
        if isinstance(reply, hiredis.ReplyError):
            if command[0] == "CLIENT" and not keeps_out(str(reply)):
                wire.unnamed = str(reply)  # only people who read CLIENT LIST need the name
                continue
            raise refusal(address, command[0], str(reply))
