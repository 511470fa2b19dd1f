"""Hear channels of Pub/Sub on one connection: classic or sharded, by our own asyncio protocol.

Rules
-----
1. A read that another pod has had is not parsed again (`sim.wire.read_memo`). Reads that end inside a frame are never memoised.
2. Everything is bounded: the memo, the time to connect.
3. A channel that the broker takes away is a lost connection: nobody may believe that it still hears.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple

import hiredis

from sim.errors import BrokerRefused, BrokerUnreachable
from sim.machine.clock import running_clock
from sim.wire.address import Address
from sim.wire.clients import SubscribingClient, SubscriptionCallbacks
from sim.wire.connection import Command, Denied, Wire, open_confirmed
from sim.wire.pipeline import MAX_CREDIBLE, NOT_SAID
from sim.wire.read_memo import C, Heard, ReadMemo
from sim.wire.refusals import in_short
from sim.wire.reply_reader import BadReply, ReplyReader
from sim.wire.resp import pack


class PubSubWords(NamedTuple):
    """The words of one kind of Pub/Sub; `taken` is what a broker says when it ends a subscription by itself."""

    subscribe: bytes
    message: bytes
    taken: bytes


NO_MESSAGE = rb"(?!)"  # before there are channels
MESSAGE = rb"\*3\r\n\$%d\r\n%b\r\n\$(?:%b)\r\n\$([0-9]{1,8})\r\n"  # kind and channels; the number is the payload's length
BUSY = "busy"  # why a subscription pauses its wire
CLASSIC = PubSubWords(b"subscribe", b"message", b"unsubscribe")
SHARDED = PubSubWords(b"ssubscribe", b"smessage", b"sunsubscribe")


class ChannelSubscription(Generic[C]):
    """One connection that hears channels."""

    def __init__(self, wire: Wire, kind: PubSubWords, memo: ReadMemo[C], heard: Heard[C]) -> None:
        self._now_ns = running_clock()
        self._wire = wire
        self._kind = kind
        self._memo = memo
        self._heard = heard
        self._reader = ReplyReader()
        self._is_whole = True  # what was read so far ends with a frame; `reader.whole`, one look-up nearer
        self._message = re.compile(NO_MESSAGE).match
        self._pinged = False
        self._taken = b""  # the channel that the broker took away
        self._unconfirmed: deque[bytes] = deque()
        self._confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def subscribe(self, channels: Sequence[str]) -> None:
        """Subscribe and return when the broker has confirmed every channel.

        One command a channel: answers come in their order, so a refusal has its channel; and in a cluster a shard channel may not
        share a command with one of another slot.
        """
        self._unconfirmed = deque(sorted({channel.encode() for channel in channels}))
        names = b"|".join(b"%d\r\n%b" % (len(name), re.escape(name)) for name in self._unconfirmed)
        self._message = re.compile(MESSAGE % (len(self._kind.message), self._kind.message, names)).match
        wire = self._wire
        wire.on_read, wire.on_lost = self._read, self._lost_early
        assert wire.transport is not None
        wire.transport.write(b"".join(pack(self._kind.subscribe.upper(), channel) for channel in self._unconfirmed))
        await self._confirmed

    def _lost_early(self, reason: str) -> None:
        if not self._confirmed.done():
            self._confirmed.set_exception(BrokerUnreachable(reason))

    def _read(self, data: bytes) -> None:
        received_ns = self._now_ns()
        if not self._is_whole:
            chunk, _ = self._parse(data)
        else:
            last = self._memo.last
            known = last[1] if data is last[0] else self._memo.get(data)
            if known is not None:
                self._heard(known, received_ns)
                return
            chunk, only_messages = self._parse(data)
            if only_messages and self._is_whole:
                self._memo.put(data, chunk)
        self._heard(chunk, received_ns)
        if self._taken:
            self.give_up(f"the broker took the channel {self._taken.decode('utf-8', 'replace')} away: its slot moved")

    def _parse(self, data: bytes) -> tuple[C, bool]:
        reader, message = self._reader, self._message
        payloads: list[Any] = []
        by_channel = self._memo.by_channel
        # Whole messages are cut out here, with no object made of their other two words; hiredis gets what is left.
        if reader.whole:
            place, end = 0, len(data)
            while found := message(data, place):
                begin = found.end()
                behind = begin + int(found[1]) + 2
                if behind > end:
                    break
                payload = data[begin : behind - 2]
                payloads.append((data[place:begin].split(b"\r\n", 5)[4], payload) if by_channel else payload)
                place = behind
            if place == end:
                return self._memo.decode(payloads), True
            data = data[place:]
        reader.feed(data)
        only_messages = True
        while (frame := reader.gets()) is not False:
            if isinstance(frame, list) and len(frame) == 3 and frame[0] == self._kind.message and isinstance(frame[2], bytes):
                payloads.append((frame[1], frame[2]) if by_channel else frame[2])
            else:
                only_messages = False
                self._other(frame)
        self._is_whole = reader.whole
        return self._memo.decode(payloads), only_messages

    def _other(self, frame: Any) -> None:
        word = frame[0] if isinstance(frame, list) and frame else None
        if isinstance(frame, hiredis.ReplyError):
            self._pinged = False  # refused, but answered
            if not self._confirmed.done():
                self._confirmed.set_exception(Denied(self._unconfirmed[0].decode(), str(frame)))
        elif word == self._kind.subscribe:
            if self._unconfirmed:
                self._unconfirmed.popleft()
            if not self._unconfirmed and not self._confirmed.done():
                self._confirmed.set_result(None)
        elif word == self._kind.taken:
            self._taken = frame[1] if len(frame) > 1 and isinstance(frame[1], bytes) else b"?"
        elif word == b"pong":
            self._pinged = False
        elif word == self._kind.message:
            raise BadReply(f"the server says a message of another form: {in_short(frame)}")

    @property
    def is_gone(self) -> bool:
        """Whether the connection is closed or closing."""
        return self._wire.is_gone

    def on_lost(self, lost: Callable[[str], None]) -> None:
        """Set who is told when the connection is gone."""
        self._wire.on_lost = lost

    def ping(self) -> bool:
        """Send PING; return False when the one before has no answer yet."""
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


async def open_subscription(
    address: Address,
    channels: Sequence[str],
    *,
    kind: PubSubWords,
    client: SubscribingClient,
    callbacks: SubscriptionCallbacks[C],
) -> ChannelSubscription[C]:
    """Connect and subscribe; return once the broker confirmed every channel.

    Nobody is told yet when the connection is lost: whoever opens it calls `ChannelSubscription.on_lost`.

    Raises
    ------
    BrokerUnreachable, BrokerRefused
    """

    async def confirm(wire: Wire) -> ChannelSubscription[C]:
        subscription = ChannelSubscription(wire, kind, callbacks.memo, callbacks.heard)
        await subscription.subscribe(channels)
        return subscription

    _, subscription = await open_confirmed(address, client_name=client.name, confirm=confirm, freezer=client.freezer)
    return subscription


async def counted(commands: Sequence[Command], ask: str, channels: Sequence[str]) -> list[int]:
    """Return how many subscribers all nodes together count on each channel, by one of PUBSUB's commands.

    Valkey 9.1.2 answers with nonsense of nine digits for 8, 15, 16 and 29 to 32 subscribers: then -1.

    Raises
    ------
    BrokerUnreachable, BrokerRefused
        Also where an answer is not what it should be: each channel and a number behind it.
    """
    replies = [_counts(await command("PUBSUB", ask, *channels), f"PUBSUB {ask}", channels) for command in commands]
    sums = []
    for counts in zip(*replies, strict=True):
        sums.append(sum(counts) if all(0 <= count <= MAX_CREDIBLE for count in counts) else NOT_SAID)
    return sums


def _counts(reply: Any, asked: str, channels: Sequence[str]) -> list[int]:
    """Return the numbers of an answer, in the order of the channels that were asked for."""
    names = [channel.encode() for channel in channels]
    if isinstance(reply, list) and len(reply) == 2 * len(names) and reply[::2] == names and all(type(one) is int for one in reply[1::2]):
        return reply[1::2]
    raise BrokerRefused(f"its answer to {asked} is not the channels with a number each: {in_short(reply)}")
