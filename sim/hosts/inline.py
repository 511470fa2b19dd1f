"""Host `inline`: all pods in this process, on this event loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from sim.address import Address
from sim.bus.fallback import Policy
from sim.bus.node import BusNode
from sim.clock import wall_offset_ns
from sim.driver import PodsDriver
from sim.errors import BrokerUnreachable, BuslabError
from sim.handling import Pace
from sim.load import Schedule
from sim.memo import ReadMemo
from sim.meters import LiveLag, LoopMeter
from sim.pod import Place, Pod
from sim.record import Recorder, Tamper
from sim.scenario import Scenario
from sim.services import SERVICES

CONNECTING_AT_ONCE = 100


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
            memo=ReadMemo(self._live.decode),
            probed=probed,
            run_id=run_id,
            policy=Policy(scenario.bus.fallback, scenario.bus.reattach, scenario.bus.outage_queue),
            outage_queue_limit=scenario.bus.outage_queue_limit,
            keep_alive_s=scenario.bus.keep_alive_s,
            once=scenario.bus.once,
            once_ttl_s=scenario.bus.once_ttl_s,
            transport=scenario.transport(),
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
                # Of a cluster, each pod's own node first: a client library begins at one of its seed nodes by chance.
                place=replace(place, address=place.address.from_node(number)) if place.address is not None else place,
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
        driver = PodsDriver(self.pods, schedule, zero_ns=zero_ns, end_ns=end_ns, payload_bytes=payload_bytes, made_call=self._made_call)
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

    def _made_call(self) -> None:
        self._calls += 1

    def counts(self) -> Counts:
        """Return what the display shows."""
        self._live.sample(self.recorder)
        return Counts(self.recorder.rows("publishes"), self.recorder.rows("deliveries"), self._calls, self._live.p99_ms())

    def forget_lag(self) -> None:
        """Start the live lag anew, at time zero."""
        self._live.clear()
