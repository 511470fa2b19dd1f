"""Listen to channels of Pub/Sub without being a pod: each message with its channel, by PSUBSCRIBE, SUBSCRIBE or SSUBSCRIBE.

A pod's subscription (`sim.wire.subscription`) is written for speed and knows its channels; whoever listens here may know a pattern only,
and parses each message once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import hiredis

from sim.errors import BrokerUnreachable
from sim.machine.clock import running_clock
from sim.wire.address import Address
from sim.wire.connection import Denied, Wire, open_confirmed
from sim.wire.reply_reader import BadReply, ReplyReader
from sim.wire.resp import pack
from sim.wire.subscription import CLASSIC, SHARDED, PubSubWords

PATTERNS = PubSubWords(b"psubscribe", b"pmessage", b"punsubscribe")
LISTENING = {"PSUBSCRIBE": PATTERNS, "SUBSCRIBE": CLASSIC, "SSUBSCRIBE": SHARDED}

Messages = list[tuple[bytes, bytes]]  # channel and payload of each, in order


class ChannelListener:
    """One connection that hears channels, or what matches a pattern.

    Attributes
    ----------
    client_id
        What the broker calls the connection in CLIENT LIST; None where it does not say.
    pinged_ns
        When the PING was sent that has no answer yet; None when there is none.
    """

    def __init__(self, wire: Wire, kind: PubSubWords, heard: Callable[[Messages, int], None]) -> None:
        self.client_id: int | None = None
        self.pinged_ns: int | None = None
        self._now_ns = running_clock()
        self._wire, self._kind, self._heard = wire, kind, heard
        self._reader = ReplyReader()
        self._unconfirmed: list[str] = []
        self._confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def subscribe(self, names: Sequence[str]) -> None:
        """Subscribe and return when the broker has confirmed each name."""
        said = await self._wire.command("CLIENT", "ID")
        self.client_id = said if isinstance(said, int) else None
        self._unconfirmed = list(names)
        self._wire.on_read, self._wire.on_lost = self._read, self._lost_early
        assert self._wire.transport is not None
        self._wire.transport.write(b"".join(pack(self._kind.subscribe.upper(), name.encode()) for name in names))
        await self._confirmed

    def _lost_early(self, reason: str) -> None:
        if not self._confirmed.done():
            self._confirmed.set_exception(BrokerUnreachable(reason))

    def _read(self, data: bytes) -> None:
        received_ns = self._now_ns()
        reader, word = self._reader, self._kind.message
        reader.feed(data)
        messages: Messages = []
        while (frame := reader.gets()) is not False:
            if isinstance(frame, list) and len(frame) >= 3 and frame[0] == word:
                messages.append((frame[-2], frame[-1]))
            else:
                self._other(frame)
        if messages:
            self._heard(messages, received_ns)

    def _other(self, frame: Any) -> None:
        word = frame[0] if isinstance(frame, list) and frame else None
        if isinstance(frame, hiredis.ReplyError):
            if self._confirmed.done():
                self.pinged_ns = None  # refused, but answered
            else:
                self._confirmed.set_exception(Denied(self._unconfirmed[0], str(frame)))
        elif word == self._kind.subscribe:
            self._unconfirmed = self._unconfirmed[1:]
            if not self._unconfirmed and not self._confirmed.done():
                self._confirmed.set_result(None)
        elif word == b"pong":
            self.pinged_ns = None
        elif word == self._kind.taken:
            raise BadReply("the server ended the subscription: the slot of its channel moved")

    def on_lost(self, lost: Callable[[str], None]) -> None:
        """Set who is told when the connection is gone."""
        self._wire.on_lost = lost

    def ping(self) -> None:
        """Send PING, unless one waits for its answer: that comes behind every message that waits in the broker."""
        if self.pinged_ns is None and self._wire.transport is not None:
            self.pinged_ns = self._now_ns()
            self._wire.transport.write(pack(b"PING"))

    def abort(self) -> None:
        """Drop the connection at once; nothing is heard any more."""
        self._wire.abort()


async def open_listener(
    address: Address, command: str, names: Sequence[str], *, client_name: str, heard: Callable[[Messages, int], None]
) -> ChannelListener:
    """Connect and subscribe by one of `LISTENING`; return once the broker has confirmed each name.

    Parameters
    ----------
    heard
        Called with the messages of a read and when it was read (`now_ns`).

    Raises
    ------
    BrokerUnreachable, BrokerRefused
    """

    async def confirm(wire: Wire) -> ChannelListener:
        listener = ChannelListener(wire, LISTENING[command], heard)
        await listener.subscribe(names)
        return listener

    return (await open_confirmed(address, client_name=client_name, confirm=confirm))[1]
