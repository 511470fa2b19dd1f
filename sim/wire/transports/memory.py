"""An ideal bus without a broker: the pods of one process and event loop hear each other at once. The ceiling for the others.

It is not a pod's own memory mode (`sim.bus.fallback`), in which a pod hears only itself.

Rules
-----
1. Who gives the same address on the same event loop is on the same bus.
2. What is published in one turn of the loop is heard in a later one, in order, by all who subscribe then; then it is answered with how
   many they were, as PUBLISH is.
3. Everything is bounded: publishes without an answer, and what a paused subscriber has not heard; beyond that it is lost, as a broker
   cuts a slow subscriber.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from sim.errors import BrokerError
from sim.machine.clock import now_ns
from sim.machine.freezer import Freezer
from sim.wire.address import Address
from sim.wire.clients import PublishCallbacks, SubscribingClient, SubscriptionCallbacks
from sim.wire.connection import Command
from sim.wire.pipeline import MAX_IN_FLIGHT
from sim.wire.read_memo import C, ReadMemo

BUSY = "busy"  # why a subscription pauses itself
MAX_UNHEARD_BYTES = 32 * 1024 * 1024  # kept for one paused subscriber: a broker's own limit for it


class _Bus:
    """The subscriptions on one address, and what was published there in this turn of the loop."""

    def __init__(self) -> None:
        self.subscriptions: dict[Subscription[Any], frozenset[bytes]] = {}
        self._sent: list[tuple[Publisher, bytes, bytes, Any]] = []
        self._decoded: dict[tuple[int, int], Any] = {}  # (memo, payloads) -> chunk, of this turn of the loop

    def decoded(self, memo: ReadMemo[C], payloads: list[Any]) -> C:
        key = (id(memo), id(payloads))
        if key not in self._decoded:
            self._decoded[key] = memo.decode(payloads)
        known: C = self._decoded[key]
        return known

    def send(self, publisher: Publisher, channel: bytes, payload: bytes, token: Any) -> None:
        if not self._sent:
            asyncio.get_running_loop().call_soon(self._carry)
        self._sent.append((publisher, channel, payload, token))

    def _carry(self) -> None:
        sent, self._sent = self._sent, []
        sent = [one for one in sent if not one[0].closed]
        carried: dict[frozenset[bytes], list[Any]] = {}  # one list for all who hear the same, so that it is decoded once
        for subscription, channels in list(self.subscriptions.items()):
            if channels not in carried:
                here = [(channel, payload) for _, channel, payload, _ in sent if channel in channels]
                carried[channels] = here if subscription.by_channel else [payload for _, payload in here]
            if carried[channels]:
                subscription.take(carried[channels])
        self._decoded.clear()
        counts = {channel: self.count(channel) for channel in {channel for _, channel, _, _ in sent}}
        at_ns = now_ns()
        for publisher, channel, _, token in sent:
            publisher.answer(token, counts[channel], at_ns)

    def count(self, channel: bytes) -> int:
        return sum(channel in channels for channels in self.subscriptions.values())


_buses: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Bus]] = weakref.WeakKeyDictionary()


def _bus(address: Address) -> _Bus:
    nodes = " ".join(sorted(map(str, address.nodes)))  # the same bus, whichever node is first
    return _buses.setdefault(asyncio.get_running_loop(), {}).setdefault(nodes, _Bus())


class Subscription(Generic[C]):
    """A subscription to channels of one bus."""

    def __init__(self, bus: _Bus, callbacks: SubscriptionCallbacks[C]) -> None:
        self._bus = bus
        self._memo = callbacks.memo
        self.by_channel = callbacks.memo.by_channel
        self._heard, self._lost = callbacks.heard, callbacks.lost
        self._unheard: list[Any] = []
        self._unheard_bytes = 0
        self._paused_for: set[str] = set()

    def take(self, payloads: list[Any]) -> None:
        """Hear payloads, or keep them while paused."""
        if self not in self._bus.subscriptions:
            return
        if not self._paused_for and not self._unheard:
            self._heard(self._bus.decoded(self._memo, payloads), now_ns())
            return
        self._unheard += payloads
        self._unheard_bytes += sum(len(one[1]) if self.by_channel else len(one) for one in payloads)
        if self._unheard_bytes > MAX_UNHEARD_BYTES:
            self.give_up(f"paused with more than {MAX_UNHEARD_BYTES:,} bytes unheard")

    def ping(self) -> bool:
        """Return True: nothing can be lost on the way."""
        return True

    def pause(self, why: str = BUSY) -> None:
        """Stop hearing until each reason to pause is gone."""
        self._paused_for.add(why)

    def resume(self, why: str = BUSY) -> None:
        """Remove one reason to pause; after the last, what was kept is heard in a later turn."""
        self._paused_for.discard(why)
        if self._unheard and not self._paused_for:
            asyncio.get_running_loop().call_soon(self._catch_up)

    def _catch_up(self) -> None:
        if not self._paused_for and self._unheard and self in self._bus.subscriptions:
            unheard, self._unheard, self._unheard_bytes = self._unheard, [], 0
            self._heard(self._memo.decode(unheard), now_ns())

    async def finish(self) -> None:
        """Return at once: nothing that was heard waits for an acknowledgement."""

    def give_up(self, reason: str) -> None:
        """Leave the bus and call `lost`."""
        if self._bus.subscriptions.pop(self, None) is not None:
            self._lost(reason)

    def close(self) -> None:
        """Leave the bus."""
        self._bus.subscriptions.pop(self, None)

    abort = close


class Publisher:
    """An open end of one bus to publish on."""

    def __init__(self, bus: _Bus, answered: Callable[[Any, int, int], None], lost: Callable[[str, list[Any]], None]) -> None:
        self.closed = False
        self._bus = bus
        self._waiting: deque[Any] = deque()
        self._answered, self._lost = answered, lost

    @property
    def in_flight(self) -> int:
        """Publishes without an answer."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether so many have no answer that the next would be turned down."""
        return len(self._waiting) >= MAX_IN_FLIGHT

    def send(self, channel: bytes, payload: bytes, token: Any) -> bool:
        """Publish; return False when it is closed, or when too many publishes have no answer."""
        if self.closed or self.full:
            return False
        self._waiting.append(token)
        self._bus.send(self, channel, payload, token)
        return True

    def answer(self, token: Any, receivers: int, at_ns: int) -> None:
        """Tell the publisher's owner how many heard an event."""
        if not self.closed:
            self._waiting.popleft()
            self._answered(token, receivers, at_ns)

    def ping(self) -> bool:
        """Return True: nothing can be lost on the way."""
        return True

    def give_up(self, reason: str) -> None:
        """Leave the bus and call `lost`."""
        if not self.closed:
            self._lost(reason, self.close())

    def close(self) -> list[Any]:
        """Leave the bus and return the tokens that have no answer; what they stand for is not heard."""
        self.closed = True
        waiting = list(self._waiting)
        self._waiting.clear()
        return waiting

    abort = close


@dataclass(frozen=True)
class Memory:
    """The transport that hands each event to every subscriber on the same event loop."""

    one_per_service = False
    any_node = False
    store = None

    async def subscribe(
        self, address: Address, channels: Sequence[str], *, client: SubscribingClient, callbacks: SubscriptionCallbacks[C]
    ) -> Subscription[C]:
        """Subscribe; the client's name, group and consumer mean nothing here."""
        bus = _bus(address)
        subscription = Subscription(bus, callbacks)
        bus.subscriptions[subscription] = frozenset(channel.encode() for channel in channels)
        if client.freezer is not None:
            client.freezer.add(subscription)
        return subscription

    async def open_publisher(
        self, address: Address, *, client_name: str, callbacks: PublishCallbacks, freezer: Freezer | None = None
    ) -> Publisher:
        """Return a publisher; nothing it sends is refused."""
        answered = callbacks.answered
        if freezer is None:
            return Publisher(_bus(address), answered, callbacks.lost)
        return Publisher(_bus(address), lambda *answer: freezer.then(lambda: answered(*answer)), callbacks.lost)

    def publish_words(self, channel: str, payload: bytes) -> tuple[str | bytes, ...]:
        """Raise: another process is not on this bus.

        Raises
        ------
        BrokerError
        """
        raise BrokerError("the transport memory has no broker: let the pods publish, load.driver = 'pods'")

    async def subscribers(self, commands: Sequence[Command], address: Address, channels: Sequence[str]) -> list[int]:
        """Count those on the bus."""
        bus = _bus(address)
        return [bus.count(channel.encode()) for channel in channels]
