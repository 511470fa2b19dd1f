"""One simulated pod on an event loop: a service, a bus node, a subscribing and a publishing connection.

The bus decides (`sim/bus`), the transport moves bytes, this file carries the decisions out and records what happened.
The receive path (`_heard`) runs once a read, for every pod: it appends to typed buffers and calls handlers, nothing else.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sim.address import Address
from sim.bus.envelope import PROBE, Chunk, Event
from sim.bus.node import BusNode, Send
from sim.clock import now_ns
from sim.errors import BrokerError
from sim.record import DeliveryBuffer, Recorder
from sim.services import ServiceLogic
from sim.transports import pubsub

BACKOFF_FIRST_S = 0.05
BACKOFF_LAST_S = 2.0
_PATH_BROKER = DeliveryBuffer.PATHS.index("broker")
_FAILED = DeliveryBuffer.RESULTS.index("failed")


@dataclass(frozen=True)
class Place:
    """Hold what the pods of one process share.

    Attributes
    ----------
    probed
        Called with (pod number, event type, probe round) when a pod hears a probe.
    """

    host: str
    address: Address
    channel_prefix: str
    recorder: Recorder
    memo: pubsub.ReadMemo[Chunk]
    probed: Callable[[int, str, int], None]
    run_id: str


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
    ) -> None:
        self.name = name
        self.number = number
        self.service = service
        self.logic = logic
        self.channels = channels
        self.node = node
        self.state = "new"
        self.malformed = 0
        self.failures = 0
        self._place = place
        self._deliveries = place.recorder.deliveries
        self._handlers = {**logic.handlers, PROBE: self._probe}
        self._random = random.Random(seed)
        self._subscription: pubsub.Subscription[Chunk] | None = None
        self._publisher: pubsub.Publisher | None = None
        self._repairs: set[asyncio.Task[None]] = set()
        self._channel_bytes: dict[str, bytes] = {}

    # -- lifecycle ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect and subscribe; return when the broker confirmed it.

        Raises
        ------
        BrokerUnreachable, BrokerRefused
        """
        self._enter("starting")
        await self._open_publisher()
        if self.channels:
            await self._subscribe()
        self._enter("subscribed")

    async def stop(self, *, timeout_s: float) -> None:
        """Flush, wait for the answers, disconnect: what a service does on SIGTERM."""
        self.flush()
        await self.settle(timeout_s=timeout_s)
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

    def _end(self, state: str) -> None:
        if self.state in ("new", "stopped", "aborted"):
            return
        self._enter(state)  # before the sockets close, so that nothing heard later counts
        for task in self._repairs:
            task.cancel()
        if self._subscription is not None:
            self._subscription.abort()
        if self._publisher is not None:
            for send, sent_ns in self._publisher.close():
                self._record(send, sent_ns=sent_ns, acked_ns=0, outcome="unknown", receivers=-1)
        self._subscription = self._publisher = None

    def _enter(self, state: str) -> None:
        self.state = state
        place = self._place
        place.recorder.tables["pods"].add(self.name, self.service, place.host, ",".join(self.channels), now_ns(), state)

    # -- connections -------------------------------------------------------------------------------------------

    def _client_name(self, use: str) -> str:
        return f"buslab-{self._place.run_id}-{self.name}-{use}"

    async def _subscribe(self) -> None:
        place = self._place
        self._subscription = await pubsub.subscribe(
            place.address,
            [place.channel_prefix + channel for channel in self.channels],
            client_name=self._client_name("sub"),
            memo=place.memo,
            heard=self._heard,
            lost=self._lost_subscription,
        )

    async def _open_publisher(self) -> None:
        self._publisher = await pubsub.open_publisher(
            self._place.address,
            client_name=self._client_name("pub"),
            answered=self._answered,
            refused=self._refused,
            lost=self._lost_publisher,
        )

    def _lost_subscription(self, reason: str) -> None:
        self._subscription = None
        self._enter("disconnected")
        self._repair(self._subscribe, lambda: self._enter("subscribed"))

    def _lost_publisher(self, reason: str, unanswered: list[tuple[Send, int]]) -> None:
        self._publisher = None
        for send, sent_ns in unanswered:
            self._record(send, sent_ns=sent_ns, acked_ns=0, outcome="unknown", receivers=-1)
        self._repair(self._open_publisher, lambda: None)

    def _repair(self, reopen: Callable[[], Any], then: Callable[[], None]) -> None:
        task = asyncio.get_running_loop().create_task(self._reopen(reopen, then))
        self._repairs.add(task)
        task.add_done_callback(self._repairs.discard)

    async def _reopen(self, reopen: Callable[[], Any], then: Callable[[], None]) -> None:
        """Try again with exponential backoff and full jitter until it works or the pod ends."""
        ceiling_s = BACKOFF_FIRST_S
        while True:
            await asyncio.sleep(self._random.uniform(0, ceiling_s))
            ceiling_s = min(2 * ceiling_s, BACKOFF_LAST_S)
            try:
                await reopen()
            except BrokerError:
                continue
            then()
            return

    # -- hearing -----------------------------------------------------------------------------------------------

    def _heard(self, chunk: Chunk, received_ns: int) -> None:
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
        sent_ns = now_ns()
        if self._publisher is None or not self._publisher.send(channel, send.payload, (send, sent_ns)):
            self._record(send, sent_ns=0, acked_ns=0, outcome="refused", receivers=-1)

    def _answered(self, token: tuple[Send, int], receivers: int, at_ns: int) -> None:
        self._record(token[0], sent_ns=token[1], acked_ns=at_ns, outcome="acknowledged", receivers=receivers)

    def _refused(self, token: tuple[Send, int], reason: str, at_ns: int) -> None:
        self._record(token[0], sent_ns=token[1], acked_ns=at_ns, outcome="refused", receivers=-1)

    def _record(self, send: Send, *, sent_ns: int, acked_ns: int, outcome: str, receivers: int) -> None:
        record_publish(self._place.recorder, self.name, send, sent_ns=sent_ns, acked_ns=acked_ns, outcome=outcome, receivers=receivers)
