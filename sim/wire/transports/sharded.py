"""Sharded Redis Pub/Sub: a channel lives on the master that owns its slot, and only there is it published and heard.

Rules
-----
1. A pod hears on one connection to each master that owns one of its channels, and speaks on one to each master. They are one end: when
   one of them is lost all are, and the owner is told once; opening again asks the cluster anew who owns what.
2. A slot that moves ends the hearing end (the old owner says ``sunsubscribe``). The speaking end follows MOVED where it leads to a
   master it knows, and is lost where it does not. A publish answered with MOVED has not happened, so sending it again repeats nothing.
3. The order of a channel is kept: once a publish was answered with MOVED, its channel's later ones wait until the old owner has
   answered all it was given.
4. A channel has one owner at a time, so between channels there is no order, and a server outside a cluster owns all. Replicas are left
   alone: one would take an event and pass it on, but answer with the number of its own subscribers.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NamedTuple

from sim.errors import BrokerRefused, BrokerUnreachable
from sim.machine.freezer import Freezer
from sim.wire.address import Address
from sim.wire.clients import PublishCallbacks, SubscribingClient, SubscriptionCallbacks
from sim.wire.connection import Command
from sim.wire.pipeline import MAX_IN_FLIGHT, Pipeline, open_pipeline
from sim.wire.read_memo import C
from sim.wire.slots import Moved, Owners, find_owners, read_moved
from sim.wire.subscription import SHARDED, counted, open_subscription
from sim.wire.subscription import ChannelSubscription as Part

MAX_MOVES = 5  # how often one publish, or one subscribing, is sent on to another node


def frame(channel: bytes, payload: bytes) -> bytes:
    """Return one SPUBLISH as RESP."""
    return b"*3\r\n$8\r\nSPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(channel), channel, len(payload), payload)


class Subscription(Generic[C]):
    """A subscription that has one connection to each master of its channels."""

    def __init__(self, parts: Sequence[Part[C]], lost: Callable[[str], None]) -> None:
        self._parts = parts
        self._lost: Callable[[str], None] | None = lost
        for part in parts:
            part.on_lost(self.give_up)

    def ping(self) -> bool:
        """Send PING to each master; return False when one of them has not answered the one before."""
        return all([part.ping() for part in self._parts])

    async def finish(self) -> None:
        """Return at once: nothing that was heard waits for an acknowledgement."""

    def give_up(self, reason: str) -> None:
        """Drop every connection, and call `lost` unless it was called before."""
        lost, self._lost = self._lost, None
        self.abort()
        if lost is not None:
            lost(reason)

    def pause(self) -> None:
        """Read no more for now."""
        for part in self._parts:
            part.pause()

    def resume(self) -> None:
        """Go on reading."""
        for part in self._parts:
            part.resume()

    def close(self) -> None:
        """Close every connection."""
        for part in self._parts:
            part.close()

    def abort(self) -> None:
        """Drop every connection at once."""
        for part in self._parts:
            part.abort()


class _Sent(NamedTuple):
    """One publish without an answer; it may have to be sent again, to another master."""

    channel: bytes
    payload: bytes
    token: Any
    moves: int = 0


class _Moving(NamedTuple):
    """The publishes of a channel that wait until its old owner has answered all it was given: first those it sent back."""

    to: Pipeline
    again: list[_Sent]
    later: list[_Sent]


class Publisher:
    """An end to publish on that has one connection to each master.

    Parameters
    ----------
    lines
        (host, port) of each master and the connection to it; may be filled after this was made, but before anything is sent.
    answered, refused
        As in `PublishCallbacks`.
    """

    def __init__(
        self,
        owners: Owners,
        lines: Mapping[tuple[str, int], Pipeline],
        *,
        answered: Callable[[Any, int, int], None],
        refused: Callable[[Any, str, int], None],
    ) -> None:
        self._owners = owners
        self._lines = lines
        self._line_of: dict[bytes, Pipeline] = {}  # channel -> the connection to its master
        self._out: Counter[bytes] = Counter()  # publishes of a channel that its master has not answered
        self._moving: dict[bytes, _Moving] = {}
        self._tell_answered, self._tell_refused = answered, refused
        self._tell_lost: Callable[[str, list[Any]], None] | None = None
        self._is_gone = False

    def on_lost(self, lost: Callable[[str, list[Any]], None]) -> None:
        """Set who is told when a connection is gone."""
        self._tell_lost = lost

    @property
    def in_flight(self) -> int:
        """Publishes without an answer."""
        return sum(line.in_flight for line in self._lines.values()) + sum(
            len(moving.again) + len(moving.later) for moving in self._moving.values()
        )

    @property
    def full(self) -> bool:
        """Whether so many have no answer that the next would be turned down."""
        return self.in_flight >= MAX_IN_FLIGHT

    def send(self, channel: bytes, payload: bytes, token: Any) -> bool:
        """Send one publish to the channel's master; return False when it cannot be sent now."""
        sent = _Sent(channel, payload, token)
        moving = self._moving.get(channel)
        if moving is None:
            return self._send(sent)
        if self._is_gone or self.full:
            return False
        moving.later.append(sent)
        return True

    def _send(self, sent: _Sent) -> bool:
        line = self._line_of.get(sent.channel)
        if line is None:
            try:
                master = self._owners.of(sent.channel.decode())
            except BrokerUnreachable:
                return False
            line = self._line_of[sent.channel] = self._lines[master.host, master.port]
        if not line.send(sent.channel, sent.payload, sent):
            return False
        self._out[sent.channel] += 1
        return True

    def answered(self, sent: _Sent, receivers: int, at_ns: int) -> None:
        """Pass a master's answer on."""
        self._out[sent.channel] -= 1
        self._tell_answered(sent.token, receivers, at_ns)
        if self._moving:
            self._go_on(sent.channel, at_ns)

    def refused(self, sent: _Sent, reason: str, at_ns: int) -> None:
        """Send the publish to where a master says that the channel is now; pass any other refusal on."""
        self._out[sent.channel] -= 1
        moved = read_moved(reason)
        if moved is None or sent.moves >= MAX_MOVES:
            self._tell_refused(sent.token, reason, at_ns)
        else:
            self._follow(sent, moved, reason, at_ns)
        self._go_on(sent.channel, at_ns)

    def _follow(self, sent: _Sent, moved: Moved, reason: str, at_ns: int) -> None:
        known = self._owners.ranges[0][2]
        to = self._lines.get((moved.host or known.host, moved.port))
        if to is None:
            self._tell_refused(sent.token, reason, at_ns)
            self.give_up(f"slot {moved.slot} is on a master that was none: {moved.host}:{moved.port}")
            return
        moving = self._moving.setdefault(sent.channel, _Moving(to, [], []))
        moving.again.append(sent._replace(moves=sent.moves + 1))

    def _go_on(self, channel: bytes, at_ns: int) -> None:
        """Send what waited for a channel's old owner, once that has answered all."""
        if self._out[channel] or channel not in self._moving:
            return
        moving = self._moving.pop(channel)
        self._line_of[channel] = moving.to
        for sent in (*moving.again, *moving.later):
            if not self._send(sent):
                self._tell_refused(sent.token, "the connection to the channel's new master is gone", at_ns)

    def lost(self, reason: str, unanswered: list[Any]) -> None:
        """Give up all connections because one is lost."""
        tell, self._tell_lost = self._tell_lost, None
        tokens = [sent.token for sent in unanswered] + self.abort()
        if tell is not None:
            tell(reason, tokens)

    def ping(self) -> bool:
        """Send PING to each master; return False when one of them has not answered the one before."""
        return all([line.ping() for line in self._lines.values()])

    def give_up(self, reason: str) -> None:
        """Drop every connection, and call `lost` unless it was called before."""
        self.lost(reason, [])

    def close(self) -> list[Any]:
        """Close every connection and return the tokens that have no answer."""
        return self._end(Pipeline.close)

    def abort(self) -> list[Any]:
        """Drop every connection at once and return the tokens that have no answer."""
        return self._end(Pipeline.abort)

    def _end(self, end: Callable[[Pipeline], list[Any]]) -> list[Any]:
        self._is_gone = True
        held = [sent for moving in self._moving.values() for sent in (*moving.again, *moving.later)]
        self._moving.clear()
        return [sent.token for line in self._lines.values() for sent in end(line)] + [sent.token for sent in held]


@dataclass(frozen=True)
class Sharded:
    """The transport that copies each event to every subscriber of its channel's master."""

    one_per_service = False
    any_node = False
    store = None

    async def subscribe(
        self, address: Address, channels: Sequence[str], *, client: SubscribingClient, callbacks: SubscriptionCallbacks[C]
    ) -> Subscription[C]:
        """Subscribe at every channel's master; return once all are confirmed. Group and consumer mean nothing here."""
        owners = await find_owners(address, client_name=client.name, freezer=client.freezer)
        open_one = partial(open_subscription, kind=SHARDED, client=client, callbacks=callbacks)
        for _ in range(MAX_MOVES):
            with contextlib.ExitStack() as undo:
                parts = []
                try:
                    for master, own in owners.grouped(channels):
                        part = await open_one(master, own)
                        undo.callback(part.abort)
                        parts.append(part)
                except BrokerRefused as error:
                    moved = read_moved(str(error))
                    if moved is None:
                        raise
                    owners = owners.after(moved)
                    continue
                if any(part.is_gone for part in parts):
                    raise BrokerUnreachable(f"{address}: a master closed the connection while the others were opened")
                undo.pop_all()
                return Subscription(parts, callbacks.lost)
        raise BrokerUnreachable(f"{address}: no master has the channels, each says that another one does")

    async def open_publisher(
        self, address: Address, *, client_name: str, callbacks: PublishCallbacks, freezer: Freezer | None = None
    ) -> Publisher:
        """Open a connection to every master; the answer is how many subscribers the event was queued for."""
        owners = await find_owners(address, client_name=client_name, freezer=freezer)
        lines: dict[tuple[str, int], Pipeline] = {}
        publisher = Publisher(owners, lines, answered=callbacks.answered, refused=callbacks.refused)
        to_publisher = PublishCallbacks(publisher.answered, publisher.refused, publisher.lost)
        open_one = partial(open_pipeline, client_name=client_name, frame=frame, callbacks=to_publisher, freezer=freezer)
        with contextlib.ExitStack() as undo:
            undo.callback(publisher.abort)
            for master in owners.masters:
                lines[master.host, master.port] = await open_one(master)
            if any(line.is_gone for line in lines.values()):
                raise BrokerUnreachable(f"{address}: a master closed the connection while the others were opened")
            undo.pop_all()
        publisher.on_lost(callbacks.lost)
        return publisher

    def publish_words(self, channel: str, payload: bytes) -> tuple[str | bytes, ...]:
        """Return the command that publishes."""
        return ("SPUBLISH", channel, payload)

    async def subscribers(self, commands: Sequence[Command], address: Address, channels: Sequence[str]) -> list[int]:
        """Ask every node PUBSUB SHARDNUMSUB: each counts its own subscribers."""
        return await counted(commands, "SHARDNUMSUB", channels)
