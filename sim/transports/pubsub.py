"""Classic Redis Pub/Sub over our own asyncio protocol: every subscriber hears every event, if it is connected at that moment.

Why not redis-py here: with hundreds of pods in one process its listener would be most of the lag that is measured.

Rules
-----
1. A read that another pod has had is not parsed again (`sim.memo`). Reads that end inside a frame are never memoised.
2. Everything is bounded: the memo, the publishes without an answer, the time to connect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import hiredis

from sim.address import Address
from sim.clock import now_ns
from sim.errors import BrokerRefused, BrokerUnreachable
from sim.memo import C, Heard, ReadMemo
from sim.pipeline import Pipeline, open_pipeline
from sim.wire import Command, Wire, open_confirmed, pack, wire_size


def frame(channel: bytes, payload: bytes) -> bytes:
    """Return one PUBLISH as RESP."""
    return b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(channel), channel, len(payload), payload)


class Subscription(Generic[C]):
    """Hear channels on one connection."""

    def __init__(self, wire: Wire, memo: ReadMemo[C], heard: Heard[C]) -> None:
        self._wire = wire
        self._memo = memo
        self._heard = heard
        self._reader = hiredis.Reader()
        self._unread_bytes = 0  # fed to the reader and not yet part of a whole frame
        self._pinged = False
        self._unconfirmed: set[bytes] = set()
        self._confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def subscribe(self, channels: Sequence[str]) -> None:
        """Subscribe and return when the broker has confirmed every channel."""
        self._unconfirmed = {channel.encode() for channel in channels}
        wire = self._wire
        wire.on_read, wire.on_lost = self._read, self._lost_early
        assert wire.transport is not None
        wire.transport.write(pack(b"SUBSCRIBE", *sorted(self._unconfirmed)))
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
            if not self._confirmed.done():
                self._confirmed.set_exception(BrokerRefused(str(frame)))
        elif isinstance(frame, list) and frame[0] == b"subscribe":
            self._unconfirmed.discard(frame[1])
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


@dataclass(frozen=True)
class PubSub:
    """Copy each event to every subscriber."""

    one_per_service = False
    any_node = True
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
    ) -> Subscription[C]:
        """Subscribe; return once the broker confirmed every channel. Group and consumer mean nothing here."""
        wire, subscription = await open_confirmed(
            address, client_name=client_name, confirm=lambda wire: self._confirmed(Subscription(wire, memo, heard), channels)
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
    ) -> Pipeline:
        """Open a connection to publish on; the answer is how many subscribers of that node the event was queued for."""
        return await open_pipeline(address, client_name=client_name, frame=frame, answered=answered, refused=refused, lost=lost)

    def publish_words(self, channel: str, payload: bytes) -> tuple[str | bytes, ...]:
        """Return the command that publishes."""
        return ("PUBLISH", channel, payload)

    async def subscribers(self, commands: Sequence[Command], address: Address, channels: Sequence[str]) -> list[int]:
        """Ask every node PUBSUB NUMSUB: each counts its own subscribers."""
        replies = [await command("PUBSUB", "NUMSUB", *channels) for command in commands]
        return [sum(map(int, counts)) for counts in zip(*(reply[1::2] for reply in replies), strict=True)]
