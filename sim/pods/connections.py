"""The two connections of a pod, and what becomes of them: `bus.fallback` decides, this file carries it out.

It opens, watches and repairs; it gives the pod what was heard and answered, and tells it when the state changes. Errors of a
broker end here: the pod only sees states.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any, Protocol

from sim.bus.envelope import Chunk
from sim.bus.fallback import Effect, Fallback, Stimulus
from sim.errors import BrokerError
from sim.machine.freezer import Freezer
from sim.machine.words import duration
from sim.pods.context import PodContext, PodIdentity, group_name
from sim.wire.clients import PublishCallbacks, SubscribingClient, SubscriptionCallbacks
from sim.wire.connection import OPEN_WITHIN_S
from sim.wire.key_commands import KeyCommands
from sim.wire.read_memo import Heard
from sim.wire.refusals import NO_WORDS
from sim.wire.transports import Publisher, Subscription

_REPAIRS: dict[Effect, tuple[str, Stimulus]] = {
    "subscribe": ("subscriber", "subscribed"),
    "open-publisher": ("publisher", "publisher-opened"),
}


class ConnectionOwner(Protocol):
    """A pod as its connections see it: whom they tell what they hear and what changes."""

    @property
    def heard(self) -> Heard[Chunk]:
        """What takes the events of one read; asked for once a subscription."""

    def answered(self, token: Any, receivers: int, at_ns: int) -> None:
        """Record the broker's answer to one publish."""

    def refused(self, token: Any, reason: str, at_ns: int) -> None:
        """Record the broker's refusal of one publish."""

    def unanswered(self, tokens: list[Any]) -> None:
        """Record publishes whose answer will never come."""

    def changed(self) -> None:
        """Record that the state changed."""

    def may_publish(self) -> None:
        """Publish what was kept through an outage."""

    def reject_kept(self) -> None:
        """Give up what was kept through an outage, which goes on."""


class Connections:
    """The connections of one pod: one to hear, one to speak, and one for commands where a recipe needs it.

    Parameters
    ----------
    freezer
        While it is frozen, nothing is read, repaired or pinged.
    """

    def __init__(self, owner: ConnectionOwner, *, identity: PodIdentity, context: PodContext, freezer: Freezer) -> None:
        self._freezer = freezer
        self._broker = context.broker
        self._outage = context.outage
        self.fallback = Fallback(context.outage.policy, has_url=context.broker.address is not None)
        self._owner = owner
        self._name = identity.name
        self._group = group_name(context.run_id, identity.service)
        self._channels = [context.broker.channel_prefix + channel for channel in identity.channels]
        self._run_id = context.run_id
        self._memo = context.memo
        self._random = random.Random(identity.seed)
        self._subscription: Subscription | None = None
        self._has_subscribed = False
        self._publisher: Publisher | None = None
        self._commands: KeyCommands | None = None
        self._repairs: dict[Effect, asyncio.Task[None]] = {}
        self._keep_alive: asyncio.Task[None] | None = None
        self._reconnecting = context.reconnecting

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
        if self._broker.address is None:
            return
        try:
            if self._outage.policy.recovery == "each-alone":
                await self._start_each()
                return
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
            if self._outage.keep_alive_s > 0 and self.fallback.state != "stopped":
                self._keep_alive = asyncio.get_running_loop().create_task(self._freezer.hold(self._ping))

    async def _start_each(self) -> None:
        """Open both connections at once; one that cannot be opened is tried again by itself."""
        effects: tuple[Effect, ...] = ("subscribe", "open-publisher")
        told = await asyncio.gather(*map(self._first_attempt, effects), return_exceptions=True)
        failed = [effect for effect, error in zip(effects, told, strict=True) if isinstance(error, BrokerError)]
        if failed and self.fallback.state == "connecting":
            self._step("connect-failed")
        for effect in failed:
            self._repair(effect)
        for error in told:
            if isinstance(error, BaseException):
                raise error

    async def _first_attempt(self, effect: Effect) -> None:
        await self._reopen(effect)
        self._step(_REPAIRS[effect][1])

    async def finish_hearing(self) -> None:
        """Stop hearing; return when all that was heard is handled and, where the transport does so, acknowledged."""
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
        """Send one PUBLISH; return False when it cannot be sent now."""
        return self._publisher is not None and self._publisher.send(channel, payload, token)

    async def command(self, *words: str) -> Any:
        """Send one command on a connection of its own, opened when first needed, and return the reply.

        Raises
        ------
        BrokerUnreachable, BrokerRefused
        """
        if self._commands is None:
            if self._broker.address is None:
                raise BrokerError("there is no broker: the pod has no REDIS_URL")
            self._commands = KeyCommands(self._broker.address, client_name=self._client_name("cmd"), freezer=self._freezer)
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
        task = asyncio.get_running_loop().create_task(self._freezer.hold(self._try_again, effect))
        self._repairs[effect] = task
        task.add_done_callback(lambda done: self._repairs.pop(effect, None) if self._repairs.get(effect) is done else None)

    async def _try_again(self, effect: Effect) -> None:
        """Try again, as the client does, until it works or the pod ends."""
        NO_WORDS.set(True)  # for this task alone
        what, then = _REPAIRS[effect]
        tries, error = self._outage.tries, ""
        for attempt in itertools.count(1):
            if tries.rejects(attempt) and self._reject(effect):
                return
            pause_s = tries.pause_s(attempt, self._random.random())
            if self._reconnecting is not None:
                self._reconnecting(what, attempt, pause_s * 1000, error)
            await asyncio.sleep(pause_s)
            try:
                await self._reopen(effect)
            except BrokerError as failed:
                error = str(failed)
                continue
            self._step(then)
            return

    async def _reopen(self, effect: Effect) -> None:
        OPEN_WITHIN_S.set(self._outage.open_within_s)  # for this task alone
        await (self._subscribe() if effect == "subscribe" else self._open_publisher())

    def _reject(self, effect: Effect) -> bool:
        """Reject what waits for a connection; return whether that was all that it is needed for."""
        if effect == "open-publisher":
            self._owner.reject_kept()
            return False
        return not self._has_subscribed  # a first SUBSCRIBE waits as any command does; later ones are the client's own

    def _client_name(self, use: str) -> str:
        return f"buslab-{self._run_id}-{self._name}-{use}"

    async def _subscribe(self) -> None:
        if not self._channels:
            return
        assert self._broker.address is not None
        client = SubscribingClient(self._client_name("sub"), self._group, self._name, self._has_subscribed, self._freezer)
        callbacks = SubscriptionCallbacks(self._memo, self._owner.heard, self._lost_subscription)
        self._subscription = await self._broker.transport.subscribe(
            self._broker.address, self._channels, client=client, callbacks=callbacks
        )
        self._has_subscribed = True

    async def _open_publisher(self) -> None:
        assert self._broker.address is not None
        callbacks = PublishCallbacks(self._owner.answered, self._owner.refused, self._lost_publisher)
        self._publisher = await self._broker.transport.open_publisher(
            self._broker.address, client_name=self._client_name("pub"), callbacks=callbacks, freezer=self._freezer
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
            await asyncio.sleep(self._outage.keep_alive_s)
            for connection in (self._subscription, self._publisher):
                if connection is not None and not connection.ping():
                    connection.give_up(f"no answer to PING within {duration(self._outage.keep_alive_s)}")
