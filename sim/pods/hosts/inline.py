"""Host `inline`: all pods in this process, on this event loop."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sim.bus.node import BusNode
from sim.bus.once import RUN_PREFIX
from sim.errors import BrokerUnreachable, BuslabError
from sim.grounds.links import Links
from sim.machine.clock import wall_offset_ns
from sim.machine.words import count
from sim.pods.clocks import Clocks
from sim.pods.context import BrokerAccess, OnceRules, PodContext, PodIdentity, outage_rules, pace_of
from sim.pods.hosts.meters import Counts, LiveLag, LoopMeter
from sim.pods.pod import Pod
from sim.pods.pod_journal import PodJournal
from sim.pods.replica import InlineReplica, next_publisher
from sim.pods.scheduled_calls import ScheduledCalls
from sim.pods.scheduled_reads import ScheduledReads
from sim.record.recorder import Recorder, Tamper
from sim.record.run_info import LostProcess
from sim.record.schema import HTTP_CALL
from sim.scenario.file import Scenario
from sim.scenario.schedule import IntendedReads, Schedule
from sim.wire.address import Address
from sim.wire.read_memo import ReadMemo

CONNECTING_AT_ONCE = 100


@dataclass(frozen=True)
class HostedPods:
    """The pods of the fleet that a process of its own holds, for `sim.pods.hosts.local_child`.

    Attributes
    ----------
    name
        The process, as in the tables.
    recorder
        Takes what the pods do.
    publishers
        Pod number -> its number in event keys.
    places
        Pod number -> the number of the pod whose calls it makes, where that is not its own.
    address
        Gives the way to the broker of a pod, by its number.
    entered
        Called with (pod number, pod state, bus state) at each change of either.
    ports
        Where the analytics pods of the whole fleet listen.
    new_journal
        Gives the journal of a pod, by its name; None where nothing is killed.
    """

    name: str
    recorder: Recorder
    publishers: Mapping[int, int]
    places: Mapping[int, int]
    address: Callable[[int], Address]
    entered: Callable[[int, str, str], None]
    ports: Callable[[], Sequence[int]]
    new_journal: Callable[[str], PodJournal | None]


class InlineHost:
    """The pods of one process, their recorder and the measure of the process itself.

    `replicas`: by pod name, in the order of the pods' numbers; whoever hurts or restarts a pod does it there. Without a `share` these
    are all pods of the fleet.
    """

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
        links: Links | None = None,
        share: HostedPods | None = None,
        clocks: Clocks | None = None,
    ) -> None:
        pods = scenario.pods()
        self.name = "inline" if share is None else share.name
        names, first_pods = [name for name, _ in pods], len(scenario.first_pods())
        self.recorder = Recorder(folder, source=self.name, pods=names, tamper=tamper) if share is None else share.recorder
        self.lost: list[LostProcess] = []  # none: who holds these pods is the run itself, or is judged by it
        self._share, self._envelope = share, scenario.new_envelope()
        self._business_keys, self._cache_keys = scenario.keys(), scenario.cache_keys()
        self._live = LiveLag(self._envelope.decode_read)
        bus = scenario.bus
        self._context = PodContext(
            host=self.name,
            run_id=run_id,
            broker=BrokerAccess(address if bus.redis_url else None, bus.channel_prefix, scenario.transport()),
            recorder=self.recorder,
            memo=ReadMemo(self._live.decode, by_channel=self._envelope.by_channel),
            probed=probed,
            outage=outage_rules(bus),
            once=OnceRules(bus.once, bus.once_ttl_s, bus.once_scope, bus.once_ttl_clock, f"{RUN_PREFIX}{run_id}:", scenario.code_folder),
            metrics_prefix=bus.metrics_prefix,
        )
        self._scenario, self._batches = scenario, scenario.batches()
        self._nonce = nonce
        self._links, self._clocks = links, clocks
        self._offset_ns = wall_offset_ns()
        self._publishers = itertools.count(len(pods))  # for further incarnations, because event keys are unique in a run
        posted = any(kind == HTTP_CALL and weight > 0 for kind, weight in scenario.load.mix.items())
        self._analytics: list[InlineReplica] = []
        self.replicas: dict[str, InlineReplica] = {}
        self._by_place: dict[int, InlineReplica] = {}  # the number of a pod that the run starts -> who makes its calls now
        for number, (name, service) in enumerate(pods):
            if share is not None and number not in share.publishers:
                continue
            analytics = scenario.behaviour(service) == "analytics"
            first = number if share is None else share.publishers[number]
            self.replicas[name] = replica = InlineReplica(
                partial(self._new_pod, name, number, service, itertools.chain((first,), self._publishers)),
                recorder=self.recorder,
                serves=scenario.kubelet.enabled or (analytics and posted),
                ports=self._analytics_ports if share is None else share.ports,
                fleet=self.replicas,
                deployed=share is not None or number < first_pods,
                hand_over=self._hand_over,
            )
            if replica.wanted.is_set():
                self._by_place[number if share is None else share.places.get(number, number)] = replica
            if analytics:
                self._analytics.append(replica)
        self._driver: ScheduledCalls | None = None
        self._failed = failed
        self._meter: LoopMeter | None = None
        self._reader: ScheduledReads | None = None

    def _hand_over(self, old: InlineReplica, new: InlineReplica) -> None:
        """Give the calls and the reads of a pod to its heir; nothing when it has none to give."""
        for place, replica in self._by_place.items():
            if replica is old:
                self._by_place[place] = new

    def cease(self, name: str) -> None:
        """Make no call and no read of a pod any more."""
        self.replicas[name].stopping = True
        if self._reader is not None and len(self.replicas) == 1:
            self._reader.close()

    def _new_pod(self, name: str, number: int, service: str, publishers: Iterator[int]) -> Pod:
        scenario, publisher = self._scenario, next_publisher(name, publishers)
        settings = scenario.services[service]
        return Pod(
            PodIdentity(name, number, service, settings.subscribes, seed=scenario.seed + publisher),
            logic=scenario.new_logic(service),
            node=BusNode(
                service,
                nonce=self._nonce,
                publisher=publisher,
                batches=self._batches,
                wall_offset_ns=self._offset_ns,
                keys=self._business_keys,
                cache_keys=self._cache_keys,
                envelope=self._envelope,
            ),
            context=self._context_of(number),
            pace=pace_of(settings),
            caches=scenario.new_caches(service),
            journal=None if self._share is None else self._share.new_journal(name),
        )

    def _context_of(self, number: int) -> PodContext:
        """Return the context with the pod's own way to the broker: its link, or the nodes of a cluster from another one on.

        A client library begins at one of its seed nodes by chance.
        """
        context, address = self._context, self._context.broker.address
        if self._share is not None:
            context = replace(context, entered=partial(self._share.entered, number))
        if address is None:
            return context
        if self._share is not None:
            own = self._share.address(number)
        else:
            own = address.from_node(number) if self._links is None else self._links.address(number)
        return replace(context, broker=replace(context.broker, address=own))

    def _analytics_ports(self) -> list[int]:
        return [replica.port for replica in self._analytics if replica.running]

    async def start(self, *, timeout_s: float, patient: bool = False) -> None:
        """Start every pod, some at a time; if `patient`, return when HTTP answers, and try the bus for as long as it takes.

        Raises
        ------
        BrokerUnreachable, BrokerRefused
            A pod cannot connect or subscribe, or not in time.
        """
        self._meter = LoopMeter(self.recorder, self.name, self._failed)
        slots = asyncio.Semaphore(CONNECTING_AT_ONCE)

        async def start_one(replica: InlineReplica) -> None:
            async with slots:
                await replica.begin(patient=patient)

        try:
            async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as group:
                for replica in self._by_place.values():
                    group.create_task(start_one(replica))
        except TimeoutError:
            up = self.states()["subscribed"]
            raise BrokerUnreachable(
                f"only {up} of {count(len(self._by_place), 'pod')} were subscribed within limits.start_s = {timeout_s:g} s"
            ) from None
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from None

    async def drive(self, schedule: Schedule, *, zero_ns: int, end_ns: int) -> int:
        """Make the calls at their times, and send part-full batches when they are due, until `end_ns`.

        Returns the number of calls made: all but those of pods that did not run, unless it is cancelled.
        """
        driver = self._driver = ScheduledCalls(self._by_place, schedule, zero_ns=zero_ns, end_ns=end_ns, contents=self._scenario.contents())
        try:
            await driver.done
        finally:
            driver.close()
        return driver.made

    def read(self, reads: IntendedReads, *, zero_ns: int) -> None:
        """Read what the pods keep in caches at these times, from now on, until all is read or the host ends."""
        self._reader = ScheduledReads(self._by_place, reads, zero_ns=zero_ns, recorder=self.recorder)

    async def settle(self, *, timeout_s: float, last: bool = False, handled: bool = False) -> None:
        """Flush every pod's batch and wait for the answers, and for the handlers if wished; the last time, give up what pods still keep."""
        await asyncio.gather(*(replica.settle(timeout_s=timeout_s, last=last, handled=handled) for replica in self.replicas.values()))

    def listening(self) -> set[int]:
        """Return the numbers of the pods that run and do not stand still."""
        return {c.pod.number for c in self.replicas.values() if c.running and not c.frozen}

    async def stop(self, *, timeout_s: float) -> None:
        """Stop every pod gracefully; one that stands still is killed."""
        await asyncio.gather(*(c.kill() if c.frozen else c.stop(grace_s=2.5 * timeout_s) for c in self.replicas.values()))
        self._close_instruments()

    def abort(self) -> None:
        """Drop every connection at once."""
        for replica in self.replicas.values():
            replica.abort()
        self._close_instruments()

    def _close_instruments(self) -> None:
        for one in (self._meter, self._reader):
            if one is not None:
                one.close()

    def states(self) -> Counter[str]:
        """Return how many pods are in which state."""
        return Counter(one.pod.state for one in self.replicas.values() if one.wanted.is_set() or one.running)

    def counts(self) -> Counts:
        """Return what the display shows."""
        lags_ms = tuple(self._live.sample(self.recorder))
        if self._clocks is not None and self._clocks.differ:  # nobody here can tell how late what a process of another clock sent is
            lags_ms = ()
            self._live.clear()
        made, not_made = (self._driver.made, self._driver.not_made) if self._driver is not None else (0, 0)
        published, delivered = self.recorder.rows("publishes"), self.recorder.rows("deliveries")
        return Counts(published, delivered, made, self._live.p99_ms(), not_made, lags_ms)

    async def close(self) -> None:
        """Do nothing: the pods are in this process."""

    def forget_lag(self) -> None:
        """Start the live lag anew, at time zero."""
        self._live.clear()
