"""Classic Redis Pub/Sub over our own asyncio protocol: every subscriber hears every event, if it is connected at that moment.

Why not redis-py here: with hundreds of pods in one process its listener would be most of the lag that is measured.

Rules
-----
1. A read that another pod has had is not parsed again (`sim.memo`). Reads that end inside a frame are never memoised.
2. Everything is bounded: the memo, the publishes without an answer, the time to connect.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import hiredis

from sim.address import Address
from sim.clock import running_clock
from sim.errors import BrokerUnreachable
from sim.gate import Gate
from sim.memo import C, Heard, ReadMemo
from sim.pipeline import NOT_SAID, Pipeline, open_pipeline
from sim.wire import Command, Denied, Wire, message_size, open_confirmed, pack, wire_size

BUSY = "busy"  # why a subscription pauses its wire
MAX_CREDIBLE = 1_000_000  # subscribers of a channel


def frame(channel: bytes, payload: bytes) -> bytes:
    """Return one PUBLISH as RESP."""
    return b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(channel), channel, len(payload), payload)


class Subscription(Generic[C]):
    """Hear channels on one connection."""

    def __init__(self, wire: Wire, memo: ReadMemo[C], heard: Heard[C]) -> None:
        self._now_ns = running_clock()
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
        received_ns = self._now_ns()
        if self._unread_bytes:
            chunk, _ = self._parse(data)
        else:
            last = self._memo.last
            known = last[1] if data is last[0] else self._memo.get(data)
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
            if isinstance(frame, list) and frame[0] == b"message":
                self._unread_bytes -= message_size(frame[1], frame[2])
                payloads.append(frame[2])
            else:
                self._unread_bytes -= wire_size(frame)
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

    async def finish(self) -> None:
        """Return at once: nothing that was heard waits for an acknowledgement."""

    def give_up(self, reason: str) -> None:
        """Drop the connection and call `lost`."""
        self._wire.give_up(reason)

    def pause(self) -> None:
        """Read no more for now; the broker's output buffer fills meanwhile."""
        self._wire.pause(BUSY)

    def resume(self) -> None:
        """Go on reading."""
        self._wire.resume(BUSY)

    def close(self) -> None:
        """Close the connection."""
        self._wire.close()

    def abort(self) -> None:
        """Drop the connection at once."""
        self._wire.abort()


@dataclass(frozen=True)
class PubSub:
    """Copy each event to every subscriber."""

    one_per_service = False
    store = None

    async def subscribe(
        self,
        address: Address,
        channels: Sequence[str],
        *,
        client_name: str,
        group: str,
        consumer: str,
        returning: bool,
        memo: ReadMemo[C],
        heard: Heard[C],
        lost: Callable[[str], None],
        gate: Gate | None = None,
    ) -> Subscription[C]:
        """Subscribe; return once the broker confirmed every channel. Group and consumer mean nothing here."""
        wire, subscription = await open_confirmed(
            address, client_name=client_name, gate=gate, confirm=lambda wire: self._confirmed(Subscription(wire, memo, heard), channels)
        )
        wire.on_lost = lost
        return subscription

    async def _confirmed(self, subscription: Subscription[C], channels: Sequence[str]) -> Subscription[C]:
        await subscription.subscribe(channels)
        return subscription

    async def open_publisher(
        self,
        address: Address,
        *,
        client_name: str,
        answered: Callable[[Any, int, int], None],
        refused: Callable[[Any, str, int], None],
        lost: Callable[[str, list[Any]], None],
        gate: Gate | None = None,
    ) -> Pipeline:
        """Open a connection to publish on; the answer to a PUBLISH is how many subscribers it was queued for."""
        return await open_pipeline(address, client_name=client_name, frame=frame, answered=answered, refused=refused, lost=lost, gate=gate)

    def publish_words(self, channel: str, payload: bytes) -> tuple[str | bytes, ...]:
        """Return the command that publishes."""
        return ("PUBLISH", channel, payload)

    async def subscribers(self, command: Command, address: Address, channels: Sequence[str]) -> list[int]:
        """Ask PUBSUB NUMSUB. Valkey 9.1.2 answers with nonsense of nine digits for 8, 15, 16 and 29 to 32 subscribers: then -1."""
        reply = await command("PUBSUB", "NUMSUB", *channels)
        counts = [int(count) for count in reply[1::2]]
        return [count if 0 <= count <= MAX_CREDIBLE else NOT_SAID for count in counts]
