"""One simulated pod on an event loop: a service, a bus node, a subscribing and a publishing connection.

The bus decides (`sim/bus`), the transport moves bytes, this file carries the decisions out and records what happened.
The receive path (`_heard`) runs once a read, for every pod: it appends to typed buffers and calls handlers, nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sim.address import Address
from sim.bus.envelope import PROBE, Chunk, Event, decode_read
from sim.bus.fallback import HEARING, Effect, Fallback, Policy, Stimulus
from sim.bus.node import BusNode, Send
from sim.bus.once import RECIPES
from sim.clock import now_ns
from sim.errors import BrokerError
from sim.handling import Pace, SlowHandling
from sim.record import DeliveryBuffer, Recorder
from sim.services import ServiceLogic
from sim.transports import pubsub

BACKOFF_FIRST_S = 0.05
BACKOFF_LAST_S = 2.0
_PATH_BROKER = DeliveryBuffer.PATHS.index("broker")
_PATH_MEMORY = DeliveryBuffer.PATHS.index("memory")
_HANDLED = DeliveryBuffer.RESULTS.index("handled")
_FAILED = DeliveryBuffer.RESULTS.index("failed")


@dataclass(frozen=True)
class Place:
    """Hold what the pods of one process share.

    Attributes
    ----------
    address
        The broker, or None: no REDIS_URL.
    keep_alive_s
        PING this often, and give a connection up that has not answered by the next time; 0 = never, as the reference.
    probed
        Called with (pod number, event type, probe round) when a pod hears a probe.
    """

    host: str
    address: Address | None
    channel_prefix: str
    recorder: Recorder
    memo: pubsub.ReadMemo[Chunk]
    probed: Callable[[int, str, int], None]
    run_id: str
    policy: Policy
    outage_queue_limit: int = 1000
    keep_alive_s: float = 0.0
    once: str = "none"
    once_ttl_s: int = 300


def _no_handler(event: Event) -> None:
    raise KeyError(event.type)


def record_publish(recorder: Recorder, publisher: str, send: Send, *, sent_ns: int, acked_ns: int, outcome: str, receivers: int) -> None:
    """Write one row of `publishes`."""
    recorder.tables["publishes"].add(
        send.event,
        send.type,
        publisher,
        send.items,
        len(send.payload),
        send.first_item_ns,
        send.items_wait_ns,
        send.intended_ns,
        sent_ns,
        acked_ns,
        outcome,
        receivers,
    )


class Pod:
    """Run one replica of a service.

    Parameters
    ----------
    number
        Its place in the fleet, and its code in the `deliveries` table.
    channels
        Event types it subscribes to.
    seed
        For the jitter of its reconnections.
    """

    def __init__(
        self,
        name: str,
        *,
        number: int,
        service: str,
        logic: ServiceLogic,
        channels: tuple[str, ...],
        node: BusNode,
        place: Place,
        seed: int,
        pace: Pace = Pace(),  # noqa: B008 - frozen
    ) -> None:
        self.name = name
        self.number = number
        self.service = service
        self.logic = logic
        self.channels = channels
        self.node = node
        self.state = "new"
        self.fallback = Fallback(place.policy, has_url=place.address is not None)
        self.dropped = 0
        self.malformed = 0
        self.failures = 0
        self._place = place
        self._deliveries = place.recorder.deliveries
        self._handlers = {**logic.handlers, PROBE: self._probe}
        self._random = random.Random(seed)
        self._slow = self._slow_handling(seed, pace)
        self._subscription: pubsub.Subscription[Chunk] | None = None
        self._publisher: pubsub.Publisher | None = None
        self._repairs: dict[Effect, asyncio.Task[None]] = {}
        self._keep_alive: asyncio.Task[None] | None = None
        self._kept: deque[Send] = deque()  # published in an outage, waiting for its end; bounded by `place.outage_queue_limit`
        self._commands: pubsub.Wire | None = None
        self._commands_opening = asyncio.Lock()
        self._channel_bytes: dict[str, bytes] = {}

    def _slow_handling(self, seed: int, pace: Pace) -> SlowHandling | None:
        place = self._place
        if place.once == "none" and pace == Pace():
            return None
        return SlowHandling(
            number=self.number,
            deliveries=self._deliveries,
            pace=pace,
            recipe=RECIPES[place.once],
            ttl_s=place.once_ttl_s,
            scope=self.service,
            token=self.name,
            seed=seed,
            command=self._command,
            pause=lambda: self._subscription.pause() if self._subscription is not None else None,
            resume=lambda: self._subscription.resume() if self._subscription is not None else None,
        )

    async def _command(self, *words: str) -> Any:
        """Send one command on a connection of its own, opened when first needed."""
        async with self._commands_opening:
            if self._commands is None or self._commands.closed:
                assert self._place.address is not None
                self._commands = await pubsub.open_wire(self._place.address, client_name=self._client_name("cmd"))
        return await self._commands.command(*words)

    # -- lifecycle ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect; return when the broker confirmed the subscriptions. Without an address the pod is alone from the start.

        Raises
        ------
        BrokerUnreachable, BrokerRefused
            The pod stays, and does what its policy says of a start in an outage.
        """
        self._enter("starting")
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
            else:
                self._repair("open-publisher")
            raise
        self._watch()

    async def stop(self, *, timeout_s: float) -> None:
        """Flush, wait for the answers, disconnect: what a service does on SIGTERM."""
        self.flush()
        await self.settle(timeout_s=timeout_s)
        await self._finish_handling(timeout_s)
        self._end("stopped")

    def abort(self) -> None:
        """Drop both connections at once, without a flush."""
        self._end("aborted")

    async def settle(self, *, timeout_s: float) -> bool:
        """Wait until every publish has its answer; False when time ran out."""
        deadline_ns = now_ns() + int(timeout_s * 1e9)
        while self._publisher is not None and self._publisher.in_flight:
            if now_ns() > deadline_ns:
                return False
            await asyncio.sleep(0.001)
        return True

    async def _finish_handling(self, timeout_s: float) -> None:
        if self._slow is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._slow.settle()

    def _end(self, state: str) -> None:
        if self.state in ("new", "stopped", "aborted"):
            return
        self.fallback.step("stopped")
        self._enter(state)  # before the sockets close, so that nothing heard later counts
        for task in self._repairs.values():
            task.cancel()
        if self._keep_alive is not None:
            self._keep_alive.cancel()
        if self._slow is not None:
            self._slow.abort()
        if self._commands is not None:
            self._commands.abort()
        if self._subscription is not None:
            self._subscription.abort()
            self._subscription = None
        self._drop_publisher()
        for send in self._kept:
            self._record(send, sent_ns=0, acked_ns=0, outcome="never-sent", receivers=-1)
        self._kept.clear()

    def _enter(self, state: str) -> None:
        self.state = state
        place = self._place
        channels = ",".join(self.channels)
        place.recorder.tables["pods"].add(self.name, self.service, place.host, channels, now_ns(), state, self.fallback.state)

    # -- connections: the fallback table decides, this carries it out ------------------------------------------

    def _step(self, stimulus: Stimulus, *, repair: bool = True) -> None:
        effects = self.fallback.step(stimulus)
        if self.fallback.state == "stopped":
            return
        self._enter("subscribed" if self.fallback.state in HEARING else "disconnected")
        for effect in effects:
            if effect == "drop-publisher":
                self._drop_publisher()
            elif effect == "send-queue":
                self._send_kept()
            elif repair:
                self._repair(effect)

    def _repair(self, effect: Effect) -> None:
        reopen, then = {
            "subscribe": (self._subscribe, "subscribed"),
            "open-publisher": (self._open_publisher, "publisher-opened"),
        }[effect]
        task = asyncio.get_running_loop().create_task(self._reopen(reopen, then))  # type: ignore[arg-type]
        self._repairs[effect] = task
        task.add_done_callback(lambda done: self._repairs.pop(effect, None) if self._repairs.get(effect) is done else None)

    async def _reopen(self, reopen: Callable[[], Awaitable[None]], then: Stimulus) -> None:
        """Try again with exponential backoff and full jitter until it works or the pod ends."""
        ceiling_s = BACKOFF_FIRST_S
        while True:
            await asyncio.sleep(self._random.uniform(0, ceiling_s))
            ceiling_s = min(2 * ceiling_s, BACKOFF_LAST_S)
            try:
                await reopen()
            except BrokerError:
                continue
            self._step(then)
            return

    def _client_name(self, use: str) -> str:
        return f"buslab-{self._place.run_id}-{self.name}-{use}"

    async def _subscribe(self) -> None:
        place = self._place
        if not self.channels:
            return
        assert place.address is not None
        self._subscription = await pubsub.subscribe(
            place.address,
            [place.channel_prefix + channel for channel in self.channels],
            client_name=self._client_name("sub"),
            memo=place.memo,
            heard=self._heard,
            lost=self._lost_subscription,
        )

    async def _open_publisher(self) -> None:
        assert self._place.address is not None
        self._publisher = await pubsub.open_publisher(
            self._place.address,
            client_name=self._client_name("pub"),
            answered=self._answered,
            refused=self._refused,
            lost=self._lost_publisher,
        )

    def _lost_subscription(self, reason: str) -> None:
        self._subscription = None
        self._step("subscription-lost")

    def _lost_publisher(self, reason: str, unanswered: list[tuple[Send, int]]) -> None:
        self._publisher = None
        self._unanswered(unanswered)
        self._step("publisher-lost")

    def _drop_publisher(self) -> None:
        opening = self._repairs.pop("open-publisher", None)
        if opening is not None:
            opening.cancel()
        if self._publisher is not None:
            self._unanswered(self._publisher.close())
            self._publisher = None

    def _unanswered(self, waiting: list[tuple[Send, int]]) -> None:
        for send, sent_ns in waiting:
            self._record(send, sent_ns=sent_ns, acked_ns=0, outcome="unknown", receivers=-1)

    def _watch(self) -> None:
        """Begin to PING both connections; without the setting, a frozen broker or a half-open socket is never noticed."""
        if self._place.keep_alive_s > 0 and self._keep_alive is None:
            self._keep_alive = asyncio.get_running_loop().create_task(self._ping())

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(self._place.keep_alive_s)
            for connection in (self._subscription, self._publisher):
                if connection is not None and not connection.ping():
                    connection.give_up(f"no answer to PING within {self._place.keep_alive_s:g} s")

    # -- hearing -----------------------------------------------------------------------------------------------

    def _heard(self, chunk: Chunk, received_ns: int) -> None:
        if self._slow is not None:
            self._heard_slowly(self._slow, chunk, received_ns)
            return
        events = chunk.events
        if not events:
            self.malformed += chunk.malformed
            return
        buffer = self._deliveries
        handlers = self._handlers
        started = buffer.handled_ns.append
        for kind, event in events:
            started(now_ns())
            try:
                handlers[kind](event)
            except Exception:  # a handler may raise anything; the pod goes on, as the services do
                self.failures += 1
                buffer.odd_rows.append((len(buffer.handled_ns) - 1, _PATH_BROKER, _FAILED))
        buffer.events.extend(chunk.keys)
        buffer.reads_pod.append(self.number)
        buffer.reads_count.append(len(events))
        buffer.reads_received_ns.append(received_ns)
        self.malformed += chunk.malformed

    def _heard_slowly(self, slow: SlowHandling, chunk: Chunk, received_ns: int) -> None:
        self.malformed += chunk.malformed
        for (kind, event), key in zip(chunk.events, chunk.keys, strict=True):
            if kind == PROBE:
                self._deliveries.add(key, self.number, received_ns, now_ns())
                self._probe(event)
            else:
                slow.take(self._handlers.get(kind, _no_handler), event, key, received_ns)

    def _probe(self, event: Event) -> None:
        self._place.probed(self.number, event.type, event.data["round"])

    # -- publishing --------------------------------------------------------------------------------------------

    def call(self, kind: str, data: dict[str, Any], *, intended_ns: int) -> None:
        """Make one call of the application. Fire and forget: it never waits and never raises."""
        self._carry_out(self.node.call(kind, data, now_ns=now_ns(), intended_ns=intended_ns))

    def tick(self) -> None:
        """Publish the batch whose time has come."""
        self._carry_out(self.node.tick(now_ns()))

    def flush(self) -> None:
        """Publish the part-full batch."""
        self._carry_out(self.node.flush(now_ns()))

    def _carry_out(self, send: Send | None) -> None:
        if send is None:
            return
        channel = self._channel_bytes.get(send.type)
        if channel is None:
            channel = self._channel_bytes[send.type] = (self._place.channel_prefix + send.type).encode()
        route = self.fallback.route()
        if route == "broker":
            sent_ns = now_ns()
            if self._publisher is None or not self._publisher.send(channel, send.payload, (send, sent_ns)):
                self._record(send, sent_ns=0, acked_ns=0, outcome="refused", receivers=-1)
        elif route == "memory":
            self._deliver_here(send)
        elif route == "queue" and len(self._kept) < self._place.outage_queue_limit:
            self._kept.append(send)
        else:
            self.dropped += 1
            self._record(send, sent_ns=0, acked_ns=0, outcome="refused", receivers=-1)

    def _send_kept(self) -> None:
        """Publish what was kept through the outage, in its order."""
        kept, self._kept = self._kept, deque()
        for send in kept:
            self._carry_out(send)

    def _deliver_here(self, send: Send) -> None:
        """Give an event to this pod's own handler, as the reference's in-memory subscribers get it."""
        sent_ns = now_ns()
        self._record(send, sent_ns=sent_ns, acked_ns=sent_ns, outcome="memory", receivers=int(send.type in self.channels))
        if send.type in self.channels:
            buffer = self._deliveries
            before = len(buffer.handled_ns)
            failures = self.failures
            self._heard(decode_read([send.payload]), sent_ns)
            if self.failures > failures:
                buffer.odd_rows.pop()
            buffer.odd_rows.append((before, _PATH_MEMORY, _FAILED if self.failures > failures else _HANDLED))

    def _answered(self, token: tuple[Send, int], receivers: int, at_ns: int) -> None:
        self._record(token[0], sent_ns=token[1], acked_ns=at_ns, outcome="acknowledged", receivers=receivers)

    def _refused(self, token: tuple[Send, int], reason: str, at_ns: int) -> None:
        self._record(token[0], sent_ns=token[1], acked_ns=at_ns, outcome="refused", receivers=-1)

    def _record(self, send: Send, *, sent_ns: int, acked_ns: int, outcome: str, receivers: int) -> None:
        record_publish(self._place.recorder, self.name, send, sent_ns=sent_ns, acked_ns=acked_ns, outcome=outcome, receivers=receivers)
