"""Classic Redis Pub/Sub over our own asyncio protocol.

Why not redis-py here: with hundreds of pods in one process its listener would be most of the lag that is measured.

Rules
-----
1. A PUBLISH reaches every subscriber as the same bytes, so a read that another pod has had is not parsed again:
   `ReadMemo` maps the bytes of a whole read to its decoded chunk. Reads that end inside a frame are never memoised.
   It removes work that production pods do, so a lab process's CPU is never a pod's CPU.
2. Publishing never waits: answers come back in order and are matched to what was sent.
3. Everything is bounded: the memo, the publishes without an answer, the time to connect.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import hiredis

from sim.address import Address
from sim.clock import now_ns
from sim.errors import BrokerUnreachable
from sim.refusals import refusal
from sim.wire import CONNECT_TIMEOUT_S, Wire, open_wire, pack, wire_size

MAX_IN_FLIGHT = 10_000  # publishes of one connection without an answer
PING = object()  # stands for a PING among the publishes that wait for their answer


class ChunkLike(Protocol):
    """What a decoder makes of the payloads of one read."""

    @property
    def events(self) -> Sequence[Any]:
        """What was heard, in order."""


C = TypeVar("C", bound=ChunkLike)
Decode = Callable[[Iterable[bytes]], C]


class ReadMemo(Generic[C]):
    """Remember the chunk of each recent read, for all connections of this process."""

    MAX_READS = 512
    MAX_BYTES = 64 * 1024  # of one read
    WHOLE_BYTES = 1024  # up to here the read itself is the key; hashing more costs more than comparing it

    def __init__(self, decode: Decode[C]) -> None:
        self.decode = decode
        self._chunks: dict[Any, tuple[bytes, C]] = {}
        self._last: tuple[bytes | None, C | None] = (None, None)

    def get(self, data: bytes) -> C | None:
        """Return the chunk of the same bytes, or None."""
        last = self._last
        if data is last[0]:
            return last[1]
        entry = self._chunks.get(data if len(data) <= self.WHOLE_BYTES else (data[:192], len(data)))
        if entry is None or entry[0] != data:
            return None
        self._last = (data, entry[1])
        return entry[1]

    def put(self, data: bytes, chunk: C) -> None:
        """Remember a read that held whole frames only."""
        if len(data) <= self.MAX_BYTES:
            if len(self._chunks) >= self.MAX_READS:
                self._chunks.clear()
            self._chunks[data if len(data) <= self.WHOLE_BYTES else (data[:192], len(data))] = (data, chunk)


class Denied(Exception):
    """Say which channel the broker refused, in its own words; it does not leave this file."""

    def __init__(self, channel: str, reply: str) -> None:
        super().__init__(reply)
        self.channel, self.reply = channel, reply


class Subscription(Generic[C]):
    """Hear channels on one connection."""

    def __init__(self, wire: Wire, memo: ReadMemo[C], heard: Callable[[C, int], None]) -> None:
        self._wire = wire
        self._memo = memo
        self._heard = heard
        self._reader = hiredis.Reader()
        self._unread_bytes = 0  # fed to the reader and not yet part of a whole frame
        self._pinged = False
        self._unconfirmed: deque[bytes] = deque()
        self._confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def subscribe(self, channels: Sequence[str]) -> None:
        """Subscribe and return when the broker has confirmed every channel.

        One command a channel: answers come in their order, so a refusal has its channel.
        """
        self._unconfirmed = deque(sorted({channel.encode() for channel in channels}))
        wire = self._wire
        wire.on_read, wire.on_lost = self._read, self._lost_early
        assert wire.transport is not None
        wire.transport.write(b"".join(pack(b"SUBSCRIBE", channel) for channel in self._unconfirmed))
        await self._confirmed

    def _lost_early(self, reason: str) -> None:
        if not self._confirmed.done():
            self._confirmed.set_exception(BrokerUnreachable(reason))

    def _read(self, data: bytes) -> None:
        received_ns = now_ns()
        if self._unread_bytes:
            chunk, _ = self._parse(data)
        else:
            known = self._memo.get(data)
            if known is not None:
                self._heard(known, received_ns)
                return
            chunk, only_messages = self._parse(data)
            if only_messages and not self._unread_bytes:
                self._memo.put(data, chunk)
        self._heard(chunk, received_ns)

    def _parse(self, data: bytes) -> tuple[C, bool]:
        reader = self._reader
        reader.feed(data)
        # Counted, because hiredis' has_data() is false between two elements of a frame.
        self._unread_bytes += len(data)
        payloads = []
        only_messages = True
        while (frame := reader.gets()) is not False:
            self._unread_bytes -= wire_size(frame)
            if isinstance(frame, list) and frame[0] == b"message":
                payloads.append(frame[2])
            else:
                only_messages = False
                self._other(frame)
        return self._memo.decode(payloads), only_messages

    def _other(self, frame: Any) -> None:
        if isinstance(frame, hiredis.ReplyError):
            self._pinged = False  # refused, but answered
            if not self._confirmed.done():
                self._confirmed.set_exception(Denied(self._unconfirmed[0].decode(), str(frame)))
        elif isinstance(frame, list) and frame[0] == b"subscribe":
            if self._unconfirmed:
                self._unconfirmed.popleft()
            if not self._unconfirmed and not self._confirmed.done():
                self._confirmed.set_result(None)
        elif isinstance(frame, list) and frame[0] == b"pong":
            self._pinged = False

    def ping(self) -> bool:
        """Send PING; False when the one before has no answer yet."""
        if self._pinged or self._wire.transport is None:
            return False
        self._pinged = True
        self._wire.transport.write(pack(b"PING"))
        return True

    def give_up(self, reason: str) -> None:
        """Drop the connection and call `lost`."""
        self._wire.give_up(reason)

    def pause(self) -> None:
        """Read no more for now; the broker's output buffer fills meanwhile."""
        if self._wire.transport is not None:
            self._wire.transport.pause_reading()

    def resume(self) -> None:
        """Go on reading."""
        if self._wire.transport is not None and not self._wire.transport.is_closing():
            self._wire.transport.resume_reading()

    def close(self) -> None:
        """Close the connection."""
        self._wire.close()

    def abort(self) -> None:
        """Drop the connection at once."""
        self._wire.abort()


async def subscribe(
    address: Address,
    channels: Sequence[str],
    *,
    client_name: str,
    memo: ReadMemo[C],
    heard: Callable[[C, int], None],
    lost: Callable[[str], None],
) -> Subscription[C]:
    """Open a connection that hears channels; return once the broker confirmed them all.

    Raises
    ------
    BrokerUnreachable, BrokerRefused
    """
    wire = await open_wire(address, client_name=client_name)
    subscription = Subscription(wire, memo, heard)
    with contextlib.ExitStack() as undo:
        undo.callback(wire.abort)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await subscription.subscribe(channels)
        except TimeoutError:
            raise BrokerUnreachable(f"{address} does not confirm subscriptions within {CONNECT_TIMEOUT_S:g} s") from None
        except Denied as error:
            raise refusal(address, f"SUBSCRIBE to {error.channel}", error.reply) from None
        except BrokerUnreachable as error:
            raise BrokerUnreachable(f"{address}: cannot subscribe: {error}") from None
        if wire.is_gone:
            raise BrokerUnreachable(f"{address} closed the connection after subscribing")
        undo.pop_all()
    wire.on_lost = lost
    return subscription


class Publisher:
    """Publish on one connection without waiting."""

    def __init__(
        self,
        wire: Wire,
        *,
        answered: Callable[[Any, int, int], None],
        refused: Callable[[Any, str, int], None],
        lost: Callable[[str, list[Any]], None],
    ) -> None:
        self._wire = wire
        self._reader = hiredis.Reader()
        self._waiting: deque[Any] = deque()
        self._pinged = False
        self._answered, self._refused, self._lost = answered, refused, lost
        wire.on_read, wire.on_lost = self._read, self._gone

    @property
    def in_flight(self) -> int:
        """Publishes without an answer."""
        return len(self._waiting)

    def send(self, channel: bytes, payload: bytes, token: Any) -> bool:
        """Send one PUBLISH; False when the connection is closing or has too many without an answer."""
        transport = self._wire.transport
        if transport is None or transport.is_closing() or len(self._waiting) >= MAX_IN_FLIGHT:
            return False
        self._waiting.append(token)
        transport.write(b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(channel), channel, len(payload), payload))
        return True

    def _read(self, data: bytes) -> None:
        at_ns = now_ns()
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if not self._waiting:
                continue
            token = self._waiting.popleft()
            if token is PING:
                self._pinged = False
            elif isinstance(reply, int):
                self._answered(token, reply, at_ns)
            else:
                self._refused(token, str(reply), at_ns)

    def _gone(self, reason: str) -> None:
        self._lost(reason, self._unanswered())

    def _unanswered(self) -> list[Any]:
        waiting = [token for token in self._waiting if token is not PING]
        self._waiting.clear()
        return waiting

    def ping(self) -> bool:
        """Send PING; False when the one before has no answer yet."""
        if self._pinged or self._wire.transport is None:
            return False
        self._pinged = True
        self._waiting.append(PING)
        self._wire.transport.write(pack(b"PING"))
        return True

    def give_up(self, reason: str) -> None:
        """Drop the connection and call `lost`."""
        self._wire.give_up(reason)

    def close(self) -> list[Any]:
        """Close the connection and return the tokens that have no answer."""
        self._wire.close()
        return self._unanswered()

    def abort(self) -> list[Any]:
        """Drop the connection at once and return the tokens that have no answer."""
        self._wire.abort()
        return self._unanswered()


async def open_publisher(
    address: Address,
    *,
    client_name: str,
    answered: Callable[[Any, int, int], None],
    refused: Callable[[Any, str, int], None],
    lost: Callable[[str, list[Any]], None],
) -> Publisher:
    """Open a connection to publish on.

    Parameters
    ----------
    answered
        Called with (token, receivers, at_ns) for each PUBLISH that the broker took.
    refused
        Called with (token, the broker's words, at_ns) for each that it did not.
    lost
        Called once with (reason, tokens without an answer).

    Raises
    ------
    BrokerUnreachable, BrokerRefused
    """
    wire = await open_wire(address, client_name=client_name)
    if wire.is_gone:  # it went between its last answer and now: nobody would be told
        raise BrokerUnreachable(f"{address} closed the connection after letting us in")
    return Publisher(wire, answered=answered, refused=refused, lost=lost)
