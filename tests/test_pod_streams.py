"""Pods on streams: what a pod that is away, slow or dying means for its service, beside the same on Pub/Sub."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from sim.address import Address
from sim.bus.envelope import CHANNEL_PREFIX, decode_read
from sim.bus.node import BusNode
from sim.clock import now_ns
from sim.connections import group_name
from sim.handling import Pace
from sim.memo import ReadMemo
from sim.pod import Place, Pod
from sim.record import Recorder
from sim.services import SERVICES
from sim.transports import Transport
from sim.transports.pubsub import PubSub
from sim.transports.streams import Streams

pytestmark = pytest.mark.broker
Run = Callable[[Any], Any]
Server = tuple[Address, redis.Redis]
METRIC = "analytics.metric.recorded"
KEY = CHANNEL_PREFIX + METRIC
GROUP = group_name("1", "analytics-service")


@dataclass
class Service:
    """Pods of analytics-service, and one that publishes to them; by default in one record."""

    address: Address
    folder: Path
    transport: Transport

    def __post_init__(self) -> None:
        self.recorder = Recorder(self.folder, source="test", pods=["a-0", "a-1", "publisher"])
        self.pods: list[Pod] = []

    async def start(self, number: int, *, service: str = "analytics-service", handler_ms: float = 0.0) -> Pod:
        place = Place(
            host="test",
            address=self.address,
            channel_prefix=CHANNEL_PREFIX,
            recorder=self.recorder,
            memo=ReadMemo(decode_read),
            probed=lambda *what: None,
            run_id="1",
            transport=self.transport,
        )
        pod = Pod(
            self.recorder.deliveries.pods[number],
            number=number,
            service=service,
            logic=SERVICES[service](),
            channels=(METRIC,) if number < 2 else (),
            node=BusNode(service, nonce=1, publisher=number, batch_size=1, batch_interval_ms=1000, wall_offset_ns=0),
            place=place,
            seed=number,
            pace=Pace(handler_ms=handler_ms),
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
async def service(address: Address, folder: Path, transport: Transport) -> AsyncIterator[Service]:
    one = Service(address, folder, transport)
    try:
        yield one
    finally:
        for pod in one.pods:
            pod.abort()


async def eventually(reached: Callable[[], bool]) -> None:
    while not reached():
        await asyncio.sleep(0.002)


def pending(client: redis.Redis) -> int:
    return int(client.xpending(KEY, GROUP)["pending"])


both_transports = pytest.mark.parametrize(("transport", "kept"), [(Streams(), 5), (PubSub(), 0)], ids=["streams", "pubsub"])


@both_transports
@pytest.mark.parametrize("end", ["stop", "abort"])
def test_a_service_whose_only_pod_was_replaced_still_gets_the_events(
    own_server: Server, tmp_path: Path, run_async: Run, transport: Transport, kept: int, end: str
) -> None:
    async def scene() -> None:
        async with service(own_server[0], tmp_path, transport) as one:
            first = await one.start(0)
            if end == "stop":
                await first.stop(timeout_s=5)
            else:
                first.abort()
            await one.publish(5)
            second = await one.start(1)
            await one.publish(1)  # heard by both kinds: what comes after it on its way has come
            await eventually(lambda: second.counters.received >= 1 + kept)
            assert one.heard() == [("a-1", "handled")] * (1 + kept)

    run_async(scene())


@both_transports
def test_a_pod_whose_connection_was_cut_gets_what_it_missed(
    own_server: Server, tmp_path: Path, run_async: Run, transport: Transport, kept: int
) -> None:
    address, client = own_server

    async def scene() -> None:
        async with service(address, tmp_path, transport) as one:
            pod = await one.start(0)
            wire = redis.Redis.from_url(address.url, single_connection_client=True)
            cut = next(row["id"] for row in client.client_list() if row["name"] == "buslab-1-a-0-sub")
            with wire.pipeline(transaction=True) as at_once:  # cut, and published before it can be back
                at_once.execute_command("CLIENT", "KILL", "ID", cut)
                for n in range(5):
                    words = transport.publish_words(KEY, b'{"eventId":"evt_%016x","correlationId":"","type":"%b","version":"1.0","timestamp":"","source":"x","data":{"name":"m","value":1}}' % (n, METRIC.encode()))  # fmt: skip # noqa: E501
                    at_once.execute_command(*words)
                at_once.execute()
            wire.close()
            await eventually(lambda: pod.fallback.state != "connected")
            await eventually(lambda: pod.fallback.connected)
            await one.publish(1)
            await eventually(lambda: pod.counters.received >= 1 + kept)
            assert one.heard() == [("a-0", "handled")] * (1 + kept)

    run_async(scene())


def test_a_pod_that_dies_in_its_handlers_leaves_the_events_to_its_peer(own_server: Server, tmp_path: Path, run_async: Run) -> None:
    """Handled twice by the service, and visible as that: a failed delivery at one pod, a handled one at the other."""
    address, client = own_server

    async def scene() -> None:
        async with service(address, tmp_path, Streams(stream_claim_s=0.1)) as one:
            dying = await one.start(0, handler_ms=60_000)
            await one.publish(5)
            await eventually(lambda: dying.counters.received == 5)
            assert pending(client) == 5
            dying.abort()
            peer = await one.start(1)
            await eventually(lambda: peer.counters.received == 5)
            await eventually(lambda: pending(client) == 0)
            await eventually(lambda: len(one.recorder.deliveries) == 10)
            assert sorted(one.heard()) == [("a-0", "failed")] * 5 + [("a-1", "handled")] * 5

    run_async(scene())


def test_a_graceful_stop_handles_and_acknowledges_all_that_the_pod_was_given(own_server: Server, tmp_path: Path, run_async: Run) -> None:
    address, client = own_server

    async def scene() -> None:
        async with service(address, tmp_path, Streams()) as one:
            pod = await one.start(0, handler_ms=100)
            await one.publish(50)
            await eventually(lambda: pod.counters.received == 50)
            assert pending(client) == 50
            await pod.stop(timeout_s=20)
            assert pending(client) == 0
            assert one.heard() == [("a-0", "handled")] * 50

    run_async(scene())
