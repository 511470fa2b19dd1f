"""One simulated pod on an event loop: a service, a bus node, a subscribing and a publishing connection.

The bus decides (`sim/bus`), the transport moves bytes, this file carries the decisions out and records what happened.
The receive path (`heard`) runs once a read, for every pod: it appends to typed buffers and calls handlers, nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import replace

from sim.bus.envelope import ANALYTICS, PROBE, Chunk, Event, decode_read
from sim.bus.fallback import HEARING, Fallback
from sim.bus.metrics import BusCounts
from sim.bus.node import BusNode, Send
from sim.bus.once import RECIPES, RUN_PREFIX
from sim.bus.services import ConfigReader, ServiceLogic
from sim.machine.freezer import Freezer
from sim.pods.caller import Caller
from sim.pods.connections import Connections, PodContext
from sim.pods.slow_handling import Pace, SlowHandling
from sim.record.recorder import DeliveryBuffer
from sim.wire.read_memo import Handling

__all__ = ["Pod", "PodContext"]

_PATH_BROKER = DeliveryBuffer.PATHS.index("broker")
_PATH_MEMORY = DeliveryBuffer.PATHS.index("memory")
_HANDLED = DeliveryBuffer.RESULTS.index("handled")
_FAILED = DeliveryBuffer.RESULTS.index("failed")
ENDED = ("stopped", "aborted")


def _no_handler(event: Event) -> None:
    raise KeyError(event.type)


def _broken_handler(event: Event) -> None:
    raise RuntimeError(f"a fault lets the handler of {event.type} fail")


class Pod(Caller[None]):
    """Run one replica of a service; the application's calls are those of `EventPublisher`, and never block.

    `counters` holds what it counted of itself. Behind `freezer` stands everything that it does by itself; who makes its calls asks
    the freezer first.

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
        place: PodContext,
        seed: int,
        pace: Pace = Pace(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(name, node=node, recorder=place.recorder)
        self.name = name
        self.number = number
        self.service = service
        self.logic = logic
        self.channels = channels
        self.state = "new"
        self.freezer = Freezer()
        self._place = place
        self._deliveries = place.recorder.deliveries
        self._handlers = {**logic.handlers, PROBE: self._probe}
        self._connections = Connections(self, name=name, service=service, channels=channels, place=place, seed=seed, freezer=self.freezer)
        self._seed = seed
        self._pace = pace
        self._slow = self._slow_handling(pace) if place.once != "none" or pace != Pace() else None
        self._kept: deque[Send] = deque()  # published in an outage, waiting for its end; bounded by `place.outage_queue_limit`
        self._holding: asyncio.TimerHandle | None = None  # set while they wait for the others to subscribe
        self._channel_bytes: dict[str, bytes] = {}
        self._thawed_state = ""

    @property
    def fallback(self) -> Fallback:
        """Which connections are up, and where a publish goes."""
        return self._connections.fallback

    def counts(self) -> BusCounts:
        """Return the reference's metrics as they stand now; an item that waits for the end of an outage is queued too."""
        counters = self.counters
        return BusCounts(
            event_bus_events_published_total=counters.published,
            event_bus_events_received_total=counters.received,
            event_bus_publish_errors_total=counters.publish_errors,
            event_bus_subscribe_errors_total=counters.subscribe_errors,
            event_bus_connection_status=int(self.fallback.connected),
            analytics_events_queued_total=len(self.node.batcher) + sum(s.items for s in self._kept if s.type in ANALYTICS),
            analytics_events_published_total=counters.analytics_published,
            config_cache_invalidations_total=self.logic.invalidations,
        )

    def _slow_handling(self, pace: Pace) -> SlowHandling:
        place = self._place
        return SlowHandling(
            number=self.number,
            deliveries=self._deliveries,
            counters=self.counters,
            pace=pace,
            recipe=RECIPES[place.once],
            ttl_s=place.once_ttl_s,
            scope=f"{RUN_PREFIX}{place.run_id}:{self.service}",
            token=self.name,
            seed=self._seed,
            command=self._connections.command,
            pause=self._connections.pause,
            resume=self._connections.resume,
            freezer=self.freezer,
        )

    # -- lifecycle ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect; return when the broker confirmed the subscriptions. Without an address the pod is alone from the start.

        Raises
        ------
        BrokerUnreachable, BrokerRefused
            The pod stays, and does what its policy says of a start in an outage.
        """
        self._enter("starting")
        await self._connections.start()

    async def stop(self, *, timeout_s: float) -> None:
        """Flush, wait for the answers, disconnect: what a service does on SIGTERM."""
        await self.drain(timeout_s=timeout_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._connections.finish_hearing()
        await self._finish_handling(timeout_s)
        self._end("stopped")

    def abort(self) -> None:
        """Drop both connections at once, without a flush: the items of the part-full batch are lost, and recorded as never sent."""
        self._end("aborted")

    def freeze(self) -> None:
        """Let it stand still, as SIGSTOP does; nothing when it does already, or has ended."""
        if self.state not in ("new", "frozen", *ENDED):
            self._thawed_state = self.state
            self._enter("frozen")
            self.freezer.freeze()

    def thaw(self) -> None:
        """Let it go on, as SIGCONT does; nothing when it does."""
        if self.state == "frozen":
            self._enter(self._thawed_state)
            self.freezer.thaw()

    # -- what faults change ------------------------------------------------------------------------------------

    def slow(self, *, handler_ms: float, at_once: int) -> None:
        """Let handlers take so long from now on, at most so many at a time; 0 and 0: as its pace says."""
        pace = replace(self._pace, handler_ms=handler_ms, at_once=at_once) if handler_ms or at_once else self._pace
        if self._slow is not None:
            self._slow.change(pace)
        elif pace != Pace():  # it stays until the pod ends: what is heard later may not be recorded before what waits there
            self._slow = self._slow_handling(pace)

    def fail(self, failing: bool) -> None:
        """Let every handler raise from now on, or work again; a probe of the lab is heard all the same."""
        handlers = dict.fromkeys(self.logic.handlers, _broken_handler) if failing else self.logic.handlers
        self._handlers = {**handlers, PROBE: self._probe}

    def skew(self, skew_ms: float) -> None:
        """Put the wall clock ahead by so much; what is recorded does not come from it."""
        self.node.skew_ns = int(skew_ms * 1e6)

    async def drain(self, *, timeout_s: float) -> bool:
        """Flush the batch and wait until every publish has its answer; False when time ran out."""
        deadline_ns = self._now_ns() + int(timeout_s * 1e9)
        while self._connections.full and self._now_ns() < deadline_ns:
            await asyncio.sleep(0.001)  # a batch that is flushed into a full pipe would be refused
        if self._holding:
            self._holding.cancel()
            self._send_kept()
        self.flush()
        return await self.settle(timeout_s=max(0.0, (deadline_ns - self._now_ns()) / 1e9))

    async def settle(self, *, timeout_s: float) -> bool:
        """Wait until every publish has its answer; False when time ran out."""
        deadline_ns = self._now_ns() + int(timeout_s * 1e9)
        while self._connections.in_flight:
            if self._now_ns() > deadline_ns:
                return False
            await asyncio.sleep(0.001)
        return True

    async def _finish_handling(self, timeout_s: float) -> None:
        if self._slow is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._slow.settle()

    def _end(self, state: str) -> None:
        if self.state in ("new", *ENDED):
            return
        self.freezer.end()
        if self._slow is not None:
            self._slow.abort()
        self._enter(state)  # before the sockets close, so that nothing heard later counts
        self._connections.end()
        if self._holding:
            self._holding.cancel()
        if (unsent := self.node.flush(self._now_ns())) is not None:
            self._kept.append(unsent)
        for send in self._kept:
            self._record(send, sent_ns=0, acked_ns=0, outcome="never-sent", receivers=-1)
        self._kept.clear()

    def changed(self) -> None:
        """Record that a connection came or went; a pod that hears again does not know what it missed."""
        hears = self.fallback.state in HEARING
        if self._place.resync != "none" and isinstance(self.logic, ConfigReader):
            self.logic.config.serves = hears or self._place.resync == "drop-caches"
            if hears and self.state == "disconnected":
                self.logic.config.forget()
        self._enter("subscribed" if hears else "disconnected")

    def _enter(self, state: str) -> None:
        self.state = state
        place = self._place
        channels = ",".join(self.channels)
        bus = "stopped" if state in ENDED else self.fallback.state
        place.recorder.tables["pods"].add(self.name, self.service, place.host, channels, self._now_ns(), state, bus)
        if place.entered is not None:
            place.entered(state, bus)

    # -- hearing -----------------------------------------------------------------------------------------------

    def heard(self, chunk: Chunk, received_ns: int) -> Handling | None:
        """Handle the events of one read, and record it: the path that runs once a read, for every pod.

        Returns what is still being handled, None when nothing is.
        """
        if self._slow is not None:
            return self._heard_slowly(self._slow, chunk, received_ns)
        counters = self.counters
        if chunk.refused:
            self._count_refused(chunk)
        events = chunk.events
        if not events:
            return None
        buffer = self._deliveries
        handlers = self._handlers
        started, clock = buffer.handled_ns.append, self._now_ns
        for kind, event in events:
            started(clock())
            try:
                handlers[kind](event)
            except Exception:  # a handler may raise anything; the pod goes on, as the services do
                counters.failures += 1
                buffer.odd_rows.append((len(buffer.handled_ns) - 1, _PATH_BROKER, _FAILED))
        buffer.events.extend(chunk.keys)
        buffer.reads_pod.append(self.number)
        buffer.reads_count.append(len(events))
        buffer.reads_received_ns.append(received_ns)
        counters.received += len(events)
        return None

    def _count_refused(self, chunk: Chunk) -> None:
        self.counters.malformed += chunk.malformed
        self.counters.unsupported += chunk.unsupported

    def _heard_slowly(self, slow: SlowHandling, chunk: Chunk, received_ns: int, *, path: int = _PATH_BROKER) -> Handling:
        self._count_refused(chunk)
        self.counters.received += len(chunk.events)
        handling = []
        for (kind, event), key in zip(chunk.events, chunk.keys, strict=True):
            if kind == PROBE:
                self._deliveries.add(key, self.number, received_ns, self._now_ns())
                self._probe(event)
            else:
                handling.append(slow.take(self._handlers.get(kind, _no_handler), event, key, received_ns, path=path))
        return handling

    def _probe(self, event: Event) -> None:
        self._place.probed(self.number, event.type, event.data["round"])

    # -- publishing --------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Publish the batch whose time has come."""
        self._carry_out(self.node.tick(self._now_ns()))

    def flush(self) -> None:
        """Publish the part-full batch."""
        self._carry_out(self.node.flush(self._now_ns()))

    def _carry_out(self, send: Send | None) -> None:
        if send is None:
            return
        channel = self._channel_bytes.get(send.type)
        if channel is None:
            channel = self._channel_bytes[send.type] = (self._place.channel_prefix + send.type).encode()
        route = self.fallback.route()
        if route == "broker" and self._holding:
            route = "queue"  # behind what is kept, so that events keep their order
        if route == "broker":
            sent_ns = self._now_ns()
            if not self._connections.send(channel, send.payload, (send, sent_ns)):
                self._record(send, sent_ns=0, acked_ns=0, outcome="refused", receivers=-1)
        elif route == "memory":
            self._deliver_here(send)
        elif route == "queue" and len(self._kept) < self._place.outage_queue_limit:
            self._kept.append(send)
        else:
            self._record(send, sent_ns=0, acked_ns=0, outcome="refused", receivers=-1)

    def may_publish(self) -> None:
        """Publish what was kept through the outage, in its order: now, or when the others have had time to subscribe."""
        if self._holding:
            self._holding.cancel()
            self._holding = None
        if self._kept and self._place.outage_hold_s:
            loop = asyncio.get_running_loop()
            self._holding = loop.call_later(self._place.outage_hold_s, self.freezer.then, self._send_kept)
        else:
            self._send_kept()

    def _send_kept(self) -> None:
        self._holding = None
        if self.fallback.route() != "broker":
            return  # gone again: the next return sends them
        kept, self._kept = self._kept, deque()
        for send in kept:
            self._carry_out(send)

    def _deliver_here(self, send: Send) -> None:
        """Give an event to this pod's own handler, as the reference's in-memory subscribers get it."""
        sent_ns = self._now_ns()
        self._record(send, sent_ns=sent_ns, acked_ns=sent_ns, outcome="memory", receivers=int(send.type in self.channels))
        if send.type not in self.channels:
            return
        if self._slow is not None:
            self._heard_slowly(self._slow, decode_read([send.payload]), sent_ns, path=_PATH_MEMORY)
        else:
            buffer = self._deliveries
            before = len(buffer.handled_ns)
            failures = self.counters.failures
            self.heard(decode_read([send.payload]), sent_ns)
            if self.counters.failures > failures:
                buffer.odd_rows.pop()
            buffer.odd_rows.append((before, _PATH_MEMORY, _FAILED if self.counters.failures > failures else _HANDLED))

    def answered(self, token: tuple[Send, int], receivers: int, at_ns: int) -> None:
        """Record that the broker took a publish."""
        self._record(token[0], sent_ns=token[1], acked_ns=at_ns, outcome="acknowledged", receivers=receivers)

    def refused(self, token: tuple[Send, int], reason: str, at_ns: int) -> None:
        """Record that the broker refused a publish."""
        self._record(token[0], sent_ns=token[1], acked_ns=at_ns, outcome="refused", receivers=-1)

    def unanswered(self, tokens: list[tuple[Send, int]]) -> None:
        """Record publishes of which nobody knows whether the broker took them."""
        for send, sent_ns in tokens:
            self._record(send, sent_ns=sent_ns, acked_ns=0, outcome="unknown", receivers=-1)
