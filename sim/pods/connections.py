"""The two connections of a pod, and what becomes of them: `bus.fallback` decides, this file carries it out.

It opens, watches and repairs; it gives the pod what was heard and answered, and tells it when the state changes. Errors of a
broker end here: the pod only sees states.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from sim.bus.envelope import Chunk
from sim.bus.fallback import Effect, Fallback, Policy, Stimulus
from sim.errors import BrokerError
from sim.machine.freezer import Freezer
from sim.record.recorder import Recorder
from sim.wire.address import Address
from sim.wire.key_commands import KeyCommands
from sim.wire.read_memo import Handling, ReadMemo
from sim.wire.refusals import NO_WORDS
from sim.wire.transports import TRANSPORTS, Publisher, Subscription, Transport

BACKOFF_FIRST_S = 0.05


@dataclass(frozen=True)
class PodContext:
    """Hold what the pods of one process share.

    Attributes
    ----------
    address
        The broker, or None: no REDIS_URL.
    keep_alive_s
        PING this often, and give a connection up that has not answered by the next time; 0 = never, as the reference.
    reconnect_max_s, outage_hold_s, resync
        See `sim.scenario.settings.Bus`.
    probed
        Called with (pod number, event type, probe round) when a pod hears a probe.
    entered
        Called with (pod state, bus state) at each change of either, if given.
    """

    host: str
    address: Address | None
    channel_prefix: str
    recorder: Recorder
    memo: ReadMemo[Chunk]
    probed: Callable[[int, str, int], None]
    run_id: str
    policy: Policy = field(default_factory=Policy)
    outage_queue_limit: int = 1000
    reconnect_max_s: float = 2.0
    outage_hold_s: float = 0.0
    resync: str = "none"
    keep_alive_s: float = 0.0
    once: str = "none"
    once_ttl_s: int = 300
    entered: Callable[[str, str], None] | None = None
    transport: Transport = field(default_factory=TRANSPORTS["pubsub"])


def group_name(run_id: str, service: str) -> str:
    """Return the name under which the pods of a service share events, where the transport shares them; no other run has it."""
    return f"buslab-{run_id}-{service}"


class ConnectionOwner(Protocol):
    """What the connections tell the pod that owns them."""

    def heard(self, chunk: Chunk, received_ns: int) -> Handling | None:
        """Take the events of one read; return what of them is still being handled."""

    def answered(self, token: Any, receivers: int, at_ns: int) -> None:
        """Take the broker's answer to one publish."""

    def refused(self, token: Any, reason: str, at_ns: int) -> None:
        """Take the broker's refusal of one publish."""

    def unanswered(self, tokens: list[Any]) -> None:
        """Take publishes whose answer will never come."""

    def changed(self) -> None:
        """Take note that the state changed."""

    def may_publish(self) -> None:
        """Publish what was kept through an outage."""


class Connections:
    """Own the connections of one pod: one to hear, one to speak, and one for commands where a recipe needs it.

    Parameters
    ----------
    name
        The pod's, for the names under which the broker lists its clients.
    service
        Whose events it shares with its other pods, where the transport shares them.
    channels
        Event types to subscribe to; without any, nothing is opened for hearing.
    seed
        For the jitter of reconnections.
    freezer
        While it is frozen, nothing is read, repaired or pinged.
    """

    def __init__(
        self, owner: ConnectionOwner, *, name: str, service: str, channels: tuple[str, ...], place: PodContext, seed: int, freezer: Freezer
    ) -> None:
        self._freezer = freezer
        self.fallback = Fallback(place.policy, has_url=place.address is not None)
        self._owner = owner
        self._name = name
        self._group = group_name(place.run_id, service)
        self._channels = [place.channel_prefix + channel for channel in channels]
        self._place = place
        self._random = random.Random(seed)
        self._subscription: Subscription | None = None
        self._has_subscribed = False
        self._publisher: Publisher | None = None
        self._commands: KeyCommands | None = None
        self._repairs: dict[Effect, asyncio.Task[None]] = {}
        self._keep_alive: asyncio.Task[None] | None = None

    @property
    def in_flight(self) -> int:
        """Publishes without an answer."""
        return self._publisher.in_flight if self._publisher is not None else 0

    @property
    def full(self) -> bool:
        """Whether so many publishes have no answer that the next would be refused."""
        return self._publisher is not None and self._publisher.full

    @property
    def repairing(self) -> bool:
        """Whether a lost connection is being opened again."""
        return bool(self._repairs)

    async def start(self) -> None:
        """Connect; return when the broker confirmed the subscriptions. Without an address there is nothing to do.

        Raises
        ------
        BrokerUnreachable, BrokerRefused
            What the policy says of a start in an outage goes on all the same.
        """
        if self._place.address is None:
            return
        try:
            await self._subscribe()
            self._step("subscribed", repair=False)
            await self._open_publisher()
            self._step("publisher-opened")
        except BrokerError:
            if self.fallback.state == "connecting":
                self._step("connect-failed")
            elif self.fallback.state == "mute":
                self._repair("open-publisher")
            raise
        finally:
            if self._place.keep_alive_s > 0 and self.fallback.state != "stopped":
                self._keep_alive = asyncio.get_running_loop().create_task(self._freezer.hold(self._ping))

    async def finish_hearing(self) -> None:
        """Hear no more; return when all that was heard is handled and, where the transport does so, acknowledged."""
        if self._subscription is not None:
            await self._subscription.finish()

    def end(self) -> None:
        """Close everything; publishes without an answer are handed to the owner."""
        self.fallback.step("stopped")
        for task in (*self._repairs.values(), *([self._keep_alive] if self._keep_alive else [])):
            task.cancel()
        if self._subscription is not None:
            self._subscription.abort()
            self._subscription = None
        if self._commands is not None:
            self._commands.abort()
        self._drop_publisher()

    def send(self, channel: bytes, payload: bytes, token: Any) -> bool:
        """Send one PUBLISH; False when it cannot be sent now."""
        return self._publisher is not None and self._publisher.send(channel, payload, token)

    async def command(self, *words: str) -> Any:
        """Send one command on a connection of its own, opened when first needed, and return the reply.

        Raises
        ------
        BrokerUnreachable, BrokerRefused
        """
        if self._commands is None:
            if self._place.address is None:
                raise BrokerError("there is no broker: the pod has no REDIS_URL")
            self._commands = KeyCommands(self._place.address, client_name=self._client_name("cmd"), freezer=self._freezer)
        return await self._commands.command(*words)

    def pause(self) -> None:
        """Read no more for now."""
        if self._subscription is not None:
            self._subscription.pause()

    def resume(self) -> None:
        """Go on reading."""
        if self._subscription is not None:
            self._subscription.resume()

    def _step(self, stimulus: Stimulus, *, repair: bool = True) -> None:
        effects = self.fallback.step(stimulus)
        if self.fallback.state == "stopped":
            return
        self._owner.changed()
        for effect in effects:
            if effect == "drop-publisher":
                self._drop_publisher()
            elif effect == "send-queue":
                self._owner.may_publish()
            elif repair:
                self._repair(effect)

    def _repair(self, effect: Effect) -> None:
        reopen, then = {
            "subscribe": (self._subscribe, "subscribed"),
            "open-publisher": (self._open_publisher, "publisher-opened"),
        }[effect]
        task = asyncio.get_running_loop().create_task(self._freezer.hold(self._reopen, reopen, then))  # type: ignore[arg-type]
        self._repairs[effect] = task
        task.add_done_callback(lambda done: self._repairs.pop(effect, None) if self._repairs.get(effect) is done else None)

    async def _reopen(self, reopen: Callable[[], Awaitable[None]], then: Stimulus) -> None:
        """Try again with exponential backoff and full jitter until it works or the pod ends."""
        NO_WORDS.set(True)  # in this task alone
        ceiling_s = min(BACKOFF_FIRST_S, self._place.reconnect_max_s)
        while True:
            await asyncio.sleep(self._random.uniform(0, ceiling_s))
            ceiling_s = min(2 * ceiling_s, self._place.reconnect_max_s)
            try:
                await reopen()
            except BrokerError:
                continue
            self._step(then)
            return

    def _client_name(self, use: str) -> str:
        return f"buslab-{self._place.run_id}-{self._name}-{use}"

    async def _subscribe(self) -> None:
        place = self._place
        if not self._channels:
            return
        assert place.address is not None
        self._subscription = await place.transport.subscribe(
            place.address,
            self._channels,
            client_name=self._client_name("sub"),
            group=self._group,
            consumer=self._name,
            returning=self._has_subscribed,
            memo=place.memo,
            heard=self._owner.heard,
            lost=self._lost_subscription,
            freezer=self._freezer,
        )
        self._has_subscribed = True

    async def _open_publisher(self) -> None:
        assert self._place.address is not None
        self._publisher = await self._place.transport.open_publisher(
            self._place.address,
            client_name=self._client_name("pub"),
            answered=self._owner.answered,
            refused=self._owner.refused,
            lost=self._lost_publisher,
            freezer=self._freezer,
        )

    def _lost_subscription(self, reason: str) -> None:
        self._subscription = None
        self._step("subscription-lost")

    def _lost_publisher(self, reason: str, unanswered: list[Any]) -> None:
        self._publisher = None
        self._owner.unanswered(unanswered)
        self._step("publisher-lost")

    def _drop_publisher(self) -> None:
        opening = self._repairs.pop("open-publisher", None)
        if opening is not None:
            opening.cancel()
        if self._publisher is not None:
            self._owner.unanswered(self._publisher.close())
            self._publisher = None

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(self._place.keep_alive_s)
            for connection in (self._subscription, self._publisher):
                if connection is not None and not connection.ping():
                    connection.give_up(f"no answer to PING within {self._place.keep_alive_s:g} s")
