"""One simulated pod on an event loop: a service, a bus node, a subscribing and a publishing connection.

The bus decides (`sim/bus`), the transport moves bytes, this file carries the decisions out and records what happened.
The receive path (`_hear`) runs once a read, for every pod: it appends to typed buffers and calls handlers, nothing else.

A pod whose process may be killed has a journal (`sim.pods.pod_journal`), which is told of each thing before it is done. A pod without one
pays nothing for it where it hears: which path a read takes is chosen once a subscription.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from functools import partial

from sim.bus.envelope import ANALYTICS, PROBE, Chunk, Event
from sim.bus.fallback import HEARING, Fallback
from sim.bus.key_caches import KeyCaches
from sim.bus.metrics import BusCounts
from sim.bus.node import BusNode, Send
from sim.bus.once import find_recipe, lock_name
from sim.bus.services import ConfigReader, ServiceLogic
from sim.machine.clock import NS_PER_MS
from sim.machine.freezer import Freezer
from sim.pods.caller import Caller
from sim.pods.connections import Connections
from sim.pods.context import PodContext, PodIdentity
from sim.pods.pod_journal import PodJournal
from sim.pods.slow_handling import DeliveryRecord, OnceClaim, Pace, SlowHandling
from sim.record.recorder import DeliveryBuffer
from sim.wire.read_memo import Handling, Heard

_PATH_BROKER = DeliveryBuffer.PATHS.index("broker")
_PATH_MEMORY = DeliveryBuffer.PATHS.index("memory")
_HANDLED = DeliveryBuffer.RESULTS.index("handled")
_FAILED = DeliveryBuffer.RESULTS.index("failed")
ENDED = ("stopped", "aborted")


def _only_hear(event: Event) -> None:
    """Do nothing with an event that the service subscribes to and its behaviour has no handler for."""


def _no_handler(event: Event) -> None:
    raise KeyError(event.type)


def _broken_handler(event: Event) -> None:
    raise RuntimeError(f"a fault lets the handler of {event.type} fail")


class Pod(Caller[None]):
    """One replica of a service; the application's calls are those of `EventPublisher`, and never block.

    `counters` has what it counted of itself. Everything that it does by itself stands still while `freezer` is frozen; who makes its
    calls asks the freezer first.

    Parameters
    ----------
    caches
        What it keeps by key, which events drop.
    journal
        Is told what the pod is about to do; None where nobody would read it.
    """

    def __init__(
        self,
        identity: PodIdentity,
        *,
        logic: ServiceLogic,
        node: BusNode,
        context: PodContext,
        pace: Pace = Pace(),  # noqa: B008 - frozen
        caches: KeyCaches | None = None,
        journal: PodJournal | None = None,
    ) -> None:
        super().__init__(identity.name, node=node, recorder=context.recorder)
        self.identity = identity
        self.name = identity.name
        self.number = identity.number
        self.service = identity.service
        self.channels = identity.channels
        self.metrics_prefix = context.metrics_prefix
        self.logic = logic
        self.caches = KeyCaches({}, {}) if caches is None else caches
        self._own_handlers = {**dict.fromkeys(identity.channels, _only_hear), **logic.handlers, **self.caches.handlers(logic.handlers)}
        self.journal = journal
        self.state = "new"
        self.freezer = Freezer()
        self._context = context
        self._deliveries = context.recorder.deliveries
        self._handlers = {**self._own_handlers, PROBE: self._probe}
        self._connections = Connections(self, identity=identity, context=context, freezer=self.freezer)
        self._pace = pace
        self._slow = self._slow_handling(pace) if context.once.recipe != "none" or pace != Pace() else None
        self._kept: deque[Send] = deque()  # published in an outage, waiting for its end; at most `OutageRules.queue_limit`
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
            analytics_events_queued_total=sum(map(len, self.node.batchers.values()))
            + sum(s.items for s in self._kept if s.type in ANALYTICS or s.type in self.node.batchers),
            analytics_events_published_total=counters.analytics_published,
            config_cache_invalidations_total=self.caches.invalidations
            + getattr(self.logic, "invalidations", 0),  # one that is not ours may have none
        )

    def _slow_handling(self, pace: Pace) -> SlowHandling:
        once = self._context.once
        return SlowHandling(
            self._connections,
            record=DeliveryRecord(self._deliveries, self.number, self.counters),
            pace=pace,
            claim=OnceClaim(
                find_recipe(once.recipe, folder=once.code_folder),
                once.ttl_s,
                partial(lock_name, scope=once.scope, service=self.service, prefix=once.prefix),
                self.name,
                self._wall_ms if once.ttl_clock == "pod" else None,
            ),
            seed=self.identity.seed,
            freezer=self.freezer,
        )

    def _wall_ms(self) -> int:
        return self.node.wall_ns(self._now_ns()) // NS_PER_MS

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
        await self.finish_handling(timeout_s)
        self._end("stopped")

    def abort(self) -> None:
        """Drop both connections at once, without a flush: the items of the part-full batch are lost, and recorded as never sent."""
        self._end("aborted")

    def freeze(self) -> None:
        """Freeze the pod, as SIGSTOP does; do nothing when it is frozen already, or has ended."""
        if self.state not in ("new", "frozen", *ENDED):
            self._thawed_state = self.state
            self._enter("frozen")
            self.freezer.freeze()

    def thaw(self) -> None:
        """Thaw the pod, as SIGCONT does; do nothing when it is not frozen."""
        if self.state == "frozen":
            self._enter(self._thawed_state)
            self.freezer.thaw()

    # -- what faults change ------------------------------------------------------------------------------------

    def slow(self, *, handler_ms: float, at_once: int) -> None:
        """Slow the handlers down: so long for each event from now on, at most so many at a time; 0 and 0: as its pace says."""
        pace = self._pace.changed(handler_ms=handler_ms, at_once=at_once) if handler_ms or at_once else self._pace
        if self._slow is not None:
            self._slow.change(pace)
        elif pace != Pace():  # it stays until the pod ends: what is heard later must not be recorded before what waits there
            self._slow = self._slow_handling(pace)

    def fail(self, failing: bool) -> None:
        """Make every handler raise from now on, or work again; a probe of the lab is heard all the same."""
        handlers = dict.fromkeys(self._own_handlers, _broken_handler) if failing else self._own_handlers
        self._handlers = {**handlers, PROBE: self._probe}

    def skew(self, skew_ms: float) -> None:
        """Set the wall clock ahead by so much; recorded times do not come from it, but how far it is ahead is recorded."""
        changed, self.node.skew_ns = self.node.skew_ns, int(skew_ms * 1e6)
        if changed != self.node.skew_ns and self.state not in ("new", "frozen", *ENDED):  # else the next state says it
            self._enter(self.state)

    async def drain(self, *, timeout_s: float) -> bool:
        """Flush the batch and wait until every publish has its answer; return False when time ran out."""
        deadline_ns = self._now_ns() + int(timeout_s * 1e9)
        while self._connections.full and self._now_ns() < deadline_ns:
            await asyncio.sleep(0.001)  # a batch that is flushed into a full connection would be refused
        if self._holding:
            self._holding.cancel()
            self._send_kept()
        self.flush()
        return await self.settle(timeout_s=max(0.0, (deadline_ns - self._now_ns()) / 1e9))

    async def settle(self, *, timeout_s: float) -> bool:
        """Wait until every publish has its answer; return False when time ran out."""
        deadline_ns = self._now_ns() + int(timeout_s * 1e9)
        while self._connections.in_flight:
            if self._now_ns() > deadline_ns:
                return False
            await asyncio.sleep(0.001)
        return True

    async def finish_handling(self, timeout_s: float) -> None:
        """Wait until all that was heard is handled, or time runs out."""
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
        while (unsent := self.node.flush(self._now_ns())) is not None:
            self._kept.append(unsent)
        self.give_up_kept()

    def give_up_kept(self) -> None:
        """Record what was kept through an outage as never sent: nobody would hear it any more."""
        for send in self._kept:
            self._record(send, sent_ns=0, acked_ns=0, outcome="never-sent", receivers=-1)
        self._kept.clear()

    def changed(self) -> None:
        """Record that a connection came or went; a pod that hears again does not know what it missed."""
        hears = self.fallback.state in HEARING
        resync = self._context.outage.resync
        if resync != "none":
            for caches in (self.caches, self.logic.config) if isinstance(self.logic, ConfigReader) else (self.caches,):
                caches.serves = hears or resync == "drop-caches"
                if hears and self.state == "disconnected":
                    caches.forget()
        self._enter("subscribed" if hears else "disconnected")

    def _enter(self, state: str) -> None:
        self.state = state
        context = self._context
        channels = ",".join(self.channels)
        bus = "stopped" if state in ENDED else self.fallback.state
        row = (self.name, self.service, context.host, channels, self._now_ns(), state, bus, self.node.skew_ns)
        context.recorder.tables["pods"].add(*row)
        if context.entered is not None:
            context.entered(state, bus)

    # -- hearing -----------------------------------------------------------------------------------------------

    @property
    def heard(self) -> Heard[Chunk]:
        """What handles the events of one read and records it; with a journal, that is also written down."""
        return self._hear if self.journal is None else self._hear_and_commit

    def _hear_and_commit(self, chunk: Chunk, received_ns: int) -> Handling | None:
        assert self.journal is not None
        handling = self._hear(chunk, received_ns)
        self.journal.commit()
        return handling

    def _hear(self, chunk: Chunk, received_ns: int) -> Handling | None:
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
                if self.journal is not None:
                    self.journal.begin_handling(key, received_ns, path=path)
                handling.append(slow.take(self._handlers.get(kind, _no_handler), event, key, received_ns, path=path))
        return handling

    def _probe(self, event: Event) -> None:
        round = event.data.get("round")
        if round.__class__ is int:  # another program may call itself the lab, too
            self._context.probed(self.number, event.type, round)

    # -- publishing --------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Publish the batches whose time has come."""
        while (send := self.node.tick(self._now_ns())) is not None:
            self._carry_out(send)

    def flush(self) -> None:
        """Publish the part-full batches."""
        while (send := self.node.flush(self._now_ns())) is not None:
            self._carry_out(send)

    def _carry_out(self, send: Send | None) -> None:
        if send is None:  # an item was gathered
            if self.journal is not None:
                self._begin_batches(self.journal)
            return
        channel = self._channel_bytes.get(send.type)
        if channel is None:
            channel = self._channel_bytes[send.type] = (self._context.broker.channel_prefix + send.type).encode()
        route = self.fallback.route()
        if route == "broker" and self._holding:
            route = "queue"  # behind what is kept, so that events keep their order
        sent_ns = self._now_ns()
        if self.journal is not None:
            self.journal.begin_publish(send, sent_ns=sent_ns)
        if route == "broker":
            if not self._connections.send(channel, send.payload, (send, sent_ns)):
                self._record(send, sent_ns=0, acked_ns=0, outcome="refused", receivers=-1)
        elif route == "memory":
            self._deliver_here(send, sent_ns)
        elif route == "queue" and len(self._kept) < self._context.outage.queue_limit:
            self._keep(send)
        else:
            self._record(send, sent_ns=0, acked_ns=0, outcome="refused", receivers=-1)

    def _begin_batches(self, journal: PodJournal) -> None:
        """Write down the part-full batches."""
        for type, batcher in self.node.batchers.items():
            if len(batcher):
                journal.begin_batch(type, batcher, self.node.waiting_keys.get(type))

    def _keep(self, send: Send) -> None:
        """Keep a publish until the outage is over."""
        self._kept.append(send)
        if self.journal is not None:
            self.journal.begin_publish(send, sent_ns=0)

    def may_publish(self) -> None:
        """Publish what was kept through the outage, in its order: now, or when the others have had time to subscribe."""
        if self._holding:
            self._holding.cancel()
            self._holding = None
        if self._kept and self._context.outage.hold_s:
            loop = asyncio.get_running_loop()
            self._holding = loop.call_later(self._context.outage.hold_s, self.freezer.then, self._send_kept)
        else:
            self._send_kept()

    def _send_kept(self) -> None:
        self._holding = None
        if self.fallback.route() != "broker":
            return  # the broker is gone again; they are sent when it is back
        kept, self._kept = self._kept, deque()
        for send in kept:
            self._carry_out(send)

    def _deliver_here(self, send: Send, sent_ns: int) -> None:
        """Pass an event to this pod's own handler, as the reference's in-memory subscribers get it."""
        self._record(send, sent_ns=sent_ns, acked_ns=sent_ns, outcome="memory", receivers=int(send.type in self.channels))
        if send.type not in self.channels:
            return
        if self._slow is not None:
            self._heard_slowly(self._slow, self._decoded_here(send), sent_ns, path=_PATH_MEMORY)
        else:
            buffer = self._deliveries
            before = len(buffer.handled_ns)
            failures = self.counters.failures
            self._hear(self._decoded_here(send), sent_ns)
            if self.counters.failures > failures:
                buffer.odd_rows.pop()
            buffer.odd_rows.append((before, _PATH_MEMORY, _FAILED if self.counters.failures > failures else _HANDLED))
            if self.journal is not None:  # only now: until its path was corrected the row said that the event came from the broker
                self.journal.commit()

    def _decoded_here(self, send: Send) -> Chunk:
        memo, prefix = self._context.memo, self._context.broker.channel_prefix
        return memo.decode([((prefix + send.type).encode(), send.payload) if memo.by_channel else send.payload])

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
