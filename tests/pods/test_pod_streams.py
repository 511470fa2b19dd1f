"""Pods on streams: what a pod that is away, slow or dying means for its service, beside the same on Pub/Sub."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sim.bus.envelope import CHANNEL_PREFIX, Event, decode_read, encode
from sim.bus.node import BusNode
from sim.machine.clock import now_ns
from sim.pods.context import BrokerAccess, PodContext, PodIdentity, group_name
from sim.pods.pod import Pod
from sim.pods.slow_handling import Pace, Work
from sim.record.recorder import Recorder
from sim.wire.connection import open_wire
from sim.wire.read_memo import ReadMemo
from sim.wire.transports import Transport
from sim.wire.transports.pubsub import PubSub
from sim.wire.transports.streams import Streams
from tests.support.reference import SERVICES, batches
from tests.support.scenes import Ground, on_both, until

METRIC = "analytics.metric.recorded"
KEY = CHANNEL_PREFIX + METRIC
GROUP = group_name("1", "analytics-service")


@dataclass
class Service:
    """Pods of analytics-service, and one that publishes to them; by default in one record."""

    ground: Ground
    folder: Path
    transport: Transport

    def __post_init__(self) -> None:
        self.recorder = Recorder(self.folder, source="test", pods=["a-0", "a-1", "publisher"])
        self.pods: list[Pod] = []

    async def start(self, number: int, *, service: str = "analytics-service", handler_ms: float = 0.0) -> Pod:
        context = PodContext(
            host="test",
            run_id="1",
            broker=BrokerAccess(self.ground.address, CHANNEL_PREFIX, self.transport),
            recorder=self.recorder,
            memo=ReadMemo(decode_read),
            probed=lambda *what: None,
        )
        pod = Pod(
            PodIdentity(self.recorder.deliveries.pods[number], number, service, (METRIC,) if number < 2 else (), seed=number),
            logic=SERVICES[service](),
            node=BusNode(service, nonce=1, publisher=number, batches=batches(1, 1000), wall_offset_ns=0),
            context=context,
            pace=Pace(work=Work.waiting(handler_ms)),
        )
        self.pods.append(pod)
        await pod.start()
        return pod

    async def publish(self, count: int) -> None:
        """Publish metrics from a pod of another service, and wait for the answers."""
        publisher = await self.start(2, service="music-service")
        for n in range(count):
            publisher.call(METRIC, {"name": "m", "value": n}, intended_ns=now_ns())
        await publisher.stop(timeout_s=5)

    def heard(self) -> list[tuple[str, str]]:
        return [(row["pod"], row["outcome"]) for row in self.recorder.deliveries.take().to_pylist()]


@contextlib.asynccontextmanager
async def service(ground: Ground, folder: Path, transport: Transport) -> AsyncIterator[Service]:
    one = Service(ground, folder, transport)
    try:
        yield one
    finally:
        for pod in one.pods:
            pod.abort()


async def pending(ground: Ground) -> int:
    ((_, _, *rest),) = [row for row in await ground.ask("XINFO", "GROUPS", KEY) if row[1] == GROUP.encode()]
    return int(dict(zip(rest[::2], rest[1::2], strict=True))[b"pending"])


def publishing(transport: Transport, number: int) -> list[str]:
    event = Event(f"evt_{number:016x}", "", METRIC, "1.0", "", "x", {"name": "m", "value": 1})
    return [word if isinstance(word, str) else word.decode() for word in transport.publish_words(KEY, encode(event))]


both_transports = pytest.mark.parametrize(("transport", "kept"), [(Streams(), 5), (PubSub(), 0)], ids=["streams", "pubsub"])


@both_transports
@pytest.mark.parametrize("end", ["stop", "abort"])
def test_a_service_whose_only_pod_was_replaced_still_gets_the_events(
    tmp_path: Path, ground: Ground, transport: Transport, kept: int, end: str
) -> None:
    async def scene() -> None:
        async with service(ground, tmp_path, transport) as one:
            first = await one.start(0)
            if end == "stop":
                await first.stop(timeout_s=5)
            else:
                first.abort()
            await one.publish(5)
            second = await one.start(1)
            await one.publish(1)  # heard by both kinds: what comes after it on its way has come
            await until(lambda: second.counters.received >= 1 + kept)
            assert one.heard() == [("a-1", "handled")] * (1 + kept)

    ground.run(scene())


@on_both
@both_transports
def test_a_pod_whose_connection_was_cut_gets_what_it_missed(tmp_path: Path, ground: Ground, transport: Transport, kept: int) -> None:
    async def scene() -> None:
        async with service(ground, tmp_path, transport) as one:
            pod = await one.start(0)
            (cut,) = await ground.named("buslab-1-a-0-sub")
            told = await open_wire(ground.address, client_name="cutting")
            at_once = [["CLIENT", "KILL", "ID", cut["id"]], *(publishing(transport, n) for n in range(5))]
            await told.commands(*at_once)  # cut, and published before it can be back
            told.close()
            await until(lambda: pod.fallback.state != "connected")
            await until(lambda: pod.fallback.connected)
            await one.publish(1)
            await until(lambda: pod.counters.received >= 1 + kept)
            assert one.heard() == [("a-0", "handled")] * (1 + kept)

    ground.run(scene())


@on_both
def test_a_pod_that_dies_in_its_handlers_leaves_the_events_to_its_peer(tmp_path: Path, ground: Ground) -> None:
    """Handled twice by the service, and visible as that: a failed delivery at one pod, a handled one at the other."""

    async def scene() -> None:
        async with service(ground, tmp_path, Streams(stream_claim_s=0.1)) as one:
            dying = await one.start(0, handler_ms=60_000)
            await one.publish(5)
            await until(lambda: dying.counters.received == 5)
            assert await pending(ground) == 5
            dying.abort()
            peer = await one.start(1)
            await until(lambda: peer.counters.received == 5)
            while await pending(ground):
                await asyncio.sleep(0.002)
            await until(lambda: len(one.recorder.deliveries) == 10)
            assert sorted(one.heard()) == [("a-0", "failed")] * 5 + [("a-1", "handled")] * 5

    ground.run(scene())


def test_a_graceful_stop_handles_and_acknowledges_all_that_the_pod_was_given(tmp_path: Path, ground: Ground) -> None:
    async def scene() -> None:
        async with service(ground, tmp_path, Streams()) as one:
            pod = await one.start(0, handler_ms=100)
            await one.publish(50)
            await until(lambda: pod.counters.received == 50)
            assert await pending(ground) == 50
            await pod.stop(timeout_s=20)
            assert await pending(ground) == 0
            assert one.heard() == [("a-0", "handled")] * 50

    ground.run(scene())
