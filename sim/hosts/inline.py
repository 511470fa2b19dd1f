"""Host `inline`: all pods in this process, on this event loop."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sim.address import Address
from sim.bus.envelope import Chunk, decode_read, intended_ns
from sim.bus.fallback import Policy
from sim.bus.node import BusNode
from sim.clock import NS_PER_MS, NS_PER_S, Alarm, now_ns, wall_offset_ns
from sim.errors import BrokerUnreachable, BuslabError
from sim.handling import Pace
from sim.load import Schedule, content
from sim.pod import Place, Pod
from sim.record import ROWS_PER_PART, Recorder, Tamper
from sim.scenario import Scenario
from sim.services import SERVICES
from sim.transports import pubsub

CONNECTING_AT_ONCE = 100
FLUSH_PERIOD_NS = 2 * NS_PER_S
LAG_PERIOD_NS = 20 * NS_PER_MS  # how often the loop's own lateness is measured
LAG_ROW_NS = 250 * NS_PER_MS  # one row of `hosts` per
BURST = 64  # calls made before the loop may read again


@dataclass(frozen=True)
class Counts:
    """Say how far the pods of a host are; `lag_ms_p99` is sampled, for the eye only, and None before anything was heard."""

    published: int = 0
    delivered: int = 0
    calls: int = 0
    lag_ms_p99: float | None = None


class InlineHost:
    """Own the pods of one process, their recorder and the measure of the process itself."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        address: Address,
        folder: Path,
        nonce: int,
        run_id: str,
        probed: Callable[[int, str, int], None],
        failed: Callable[[BuslabError], None],
        tamper: Tamper | None = None,
    ) -> None:
        pods = scenario.pods()
        self.name = "inline"
        self.recorder = Recorder(folder, source=self.name, pods=[name for name, _ in pods], tamper=tamper)
        self._live = LiveLag()
        place = Place(
            host=self.name,
            address=address if scenario.bus.redis_url else None,
            channel_prefix=scenario.bus.channel_prefix,
            recorder=self.recorder,
            memo=pubsub.ReadMemo(self._live.decode),
            probed=probed,
            run_id=run_id,
            policy=Policy(scenario.bus.fallback, scenario.bus.reattach, scenario.bus.outage_queue),
            outage_queue_limit=scenario.bus.outage_queue_limit,
            keep_alive_s=scenario.bus.keep_alive_s,
            once=scenario.bus.once,
            once_ttl_s=scenario.bus.once_ttl_s,
        )
        offset_ns = wall_offset_ns()
        self.pods = [
            Pod(
                name,
                number=number,
                service=service,
                logic=SERVICES[service](),
                channels=scenario.services[service].subscribes,
                node=BusNode(
                    service,
                    nonce=nonce,
                    publisher=number,
                    batch_size=scenario.bus.batch_size,
                    batch_interval_ms=scenario.bus.batch_interval_ms,
                    wall_offset_ns=offset_ns,
                ),
                place=place,
                seed=scenario.seed + number,
                pace=Pace(scenario.services[service].handler_ms, scenario.services[service].skew_ms),
            )
            for number, (name, service) in enumerate(pods)
        ]
        self._calls = 0
        self._failed = failed
        self._meter: LoopMeter | None = None

    async def start(self, *, timeout_s: float) -> None:
        """Start every pod, some at a time.

        Raises
        ------
        BrokerUnreachable, BrokerRefused
            A pod cannot connect or subscribe, or not in time.
        """
        self._meter = LoopMeter(self.recorder, self.name, self._failed)
        slots = asyncio.Semaphore(CONNECTING_AT_ONCE)

        async def start_one(pod: Pod) -> None:
            async with slots:
                await pod.start()

        try:
            async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as group:
                for pod in self.pods:
                    group.create_task(start_one(pod))
        except TimeoutError:
            up = self.states()["subscribed"]
            raise BrokerUnreachable(f"only {up} of {len(self.pods)} pods were subscribed within limits.start_s = {timeout_s:g} s") from None
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from None

    async def drive(self, schedule: Schedule, *, zero_ns: int, end_ns: int, payload_bytes: int) -> int:
        """Make the calls at their times, and send part-full batches when they are due, until `end_ns`.

        Returns the number of calls made: all of them, unless it is cancelled.
        """
        driver = PodsDriver(self, schedule, zero_ns=zero_ns, end_ns=end_ns, payload_bytes=payload_bytes)
        try:
            await driver.done
        finally:
            driver.close()
        return driver.made

    async def settle(self, *, timeout_s: float) -> None:
        """Flush every pod's batch and wait until every publish has its answer."""
        await asyncio.gather(*(pod.drain(timeout_s=timeout_s) for pod in self.pods))

    async def stop(self, *, timeout_s: float) -> None:
        """Stop every pod gracefully."""
        await asyncio.gather(*(pod.stop(timeout_s=timeout_s) for pod in self.pods))
        if self._meter is not None:
            self._meter.close()

    def abort(self) -> None:
        """Drop every connection at once."""
        for pod in self.pods:
            pod.abort()
        if self._meter is not None:
            self._meter.close()

    def states(self) -> Counter[str]:
        """Return how many pods are in which state."""
        return Counter(pod.state for pod in self.pods)

    def made_call(self) -> None:
        """Count one call."""
        self._calls += 1

    def counts(self) -> Counts:
        """Return what the display shows."""
        self._live.sample(self.recorder)
        return Counts(self.recorder.rows("publishes"), self.recorder.rows("deliveries"), self._calls, self._live.p99_ms())

    def forget_lag(self) -> None:
        """Start the live lag anew, at time zero."""
        self._live.clear()


class PodsDriver:
    """Let pods make scheduled calls at their intended times, by one precise alarm for all of them."""

    def __init__(self, host: InlineHost, schedule: Schedule, *, zero_ns: int, end_ns: int, payload_bytes: int) -> None:
        self._host = host
        self._end_ns = end_ns
        self._at_ns = (schedule.offset_ns + zero_ns).tolist()
        self._kind = schedule.kind.tolist()
        self._pod = schedule.pod.tolist()
        self._kinds = schedule.kinds
        self._payload_bytes = payload_bytes
        self._due: list[tuple[int, int]] = []  # one (time, pod) for each batch that was begun
        self.made = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._alarm = Alarm(self._wake)
        self._arm()

    def _wake(self) -> None:
        now = now_ns()
        pods, at_ns = self._host.pods, self._at_ns
        for _ in range(BURST):
            if self.made == len(at_ns) or at_ns[self.made] > now:
                break
            row = self.made
            self.made += 1
            pod, kind = pods[self._pod[row]], self._kinds[self._kind[row]]
            due_before = pod.node.due_ns
            pod.call(kind, content(kind, row, self._payload_bytes), intended_ns=at_ns[row])
            self._host.made_call()
            if due_before is None and pod.node.due_ns is not None:
                heapq.heappush(self._due, (pod.node.due_ns, pod.number))
        while self._due and self._due[0][0] <= now:
            pods[heapq.heappop(self._due)[1]].tick()  # does nothing when that batch left because it was full
        self._arm()

    def _arm(self) -> None:
        made_all = self.made == len(self._at_ns)
        if made_all and now_ns() >= self._end_ns:
            if not self.done.done():
                self.done.set_result(None)
            return
        next_ns = self._end_ns if made_all else self._at_ns[self.made]  # batches fall due after the last call too
        self._alarm.set(min(next_ns, self._due[0][0]) if self._due else next_ns)

    def close(self) -> None:
        """Make no more calls."""
        self._alarm.close()


class LoopMeter:
    """Measure how late this process's event loop is, and what processor time it uses."""

    def __init__(self, recorder: Recorder, host: str, failed: Callable[[BuslabError], None]) -> None:
        self._recorder = recorder
        self._failed = failed
        self._host = host
        self._worst_ns = 0
        self._row_ns = self._flush_ns = now_ns()
        self._expected_ns = self._row_ns + LAG_PERIOD_NS
        self._alarm = Alarm(self._wake)
        self._alarm.set(self._expected_ns)

    def _wake(self) -> None:
        now = now_ns()
        next_ns = now + LAG_PERIOD_NS  # before the work below: what that takes is lateness too
        self._worst_ns = max(self._worst_ns, now - self._expected_ns)
        if now - self._row_ns >= LAG_ROW_NS:
            self._recorder.tables["hosts"].add(now, self._host, time.process_time_ns(), self._worst_ns)
            self._row_ns, self._worst_ns = now, 0
        if now - self._flush_ns >= FLUSH_PERIOD_NS or self._recorder.rows_waiting() >= ROWS_PER_PART:
            self._flush_ns = now
            try:
                self._recorder.flush()
            except BuslabError as error:
                self._failed(error)
                return
        self._expected_ns = next_ns
        self._alarm.set(next_ns)

    def close(self) -> None:
        """Measure no more; may be called twice."""
        self._alarm.close()


class LiveLag:
    """Estimate the lag so far for the display, from a sample of what was heard. The checkers use every row instead."""

    SAMPLE = 400
    REMEMBERED = 20_000

    def __init__(self) -> None:
        self._intended: dict[int, int] = {}
        self._older: dict[int, int] = {}
        self._seen = 0
        self.clear()

    def clear(self) -> None:
        """Forget the lags so far."""
        self._buckets = np.zeros(512, dtype=np.int64)  # of 1/16 octave, from 1 us

    def decode(self, payloads: Iterable[bytes]) -> Chunk:
        """Decode a read and remember when its events were meant to be published."""
        chunk = decode_read(payloads)
        for (_, event), key in zip(chunk.events, chunk.keys, strict=True):
            intended = intended_ns(event.correlation_id)
            if intended is not None:
                self._intended[key] = intended
        if len(self._intended) > self.REMEMBERED:
            self._older, self._intended = self._intended, {}
        return chunk

    def sample(self, recorder: Recorder) -> None:
        """Add the lags of some deliveries that came since the last time."""
        buffer, total = recorder.deliveries, recorder.rows("deliveries")
        fresh = min(total - self._seen, len(buffer))
        self._seen = total
        for row in range(len(buffer) - fresh, len(buffer), max(1, fresh // self.SAMPLE)):
            key = buffer.events[row]
            intended = self._intended.get(key) or self._older.get(key)
            if intended is not None:
                lag_us = max(1.0, (buffer.handled_ns[row] - intended) / 1000)
                self._buckets[min(511, int(np.log2(lag_us) * 16))] += 1

    def p99_ms(self) -> float | None:
        """Return the 99th percentile in milliseconds, to about 4 %, or None before anything was heard."""
        total = int(self._buckets.sum())
        if not total:
            return None
        bucket = int(np.searchsorted(np.cumsum(self._buckets), 0.99 * total))
        return float(2 ** ((bucket + 1) / 16) / 1000)
