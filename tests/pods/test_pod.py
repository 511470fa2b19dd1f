"""A pod: what it hears is handled and recorded, what breaks is repaired, what it was asked to publish has an outcome."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from sim.bus.cache import PROVIDERS, TEMPLATES
from sim.bus.envelope import BATCH, CHANNEL_PREFIX, PROBER, Event, decode_read, encode
from sim.bus.node import BusNode
from sim.machine.clock import now_ns
from sim.pods.context import BrokerAccess, PodContext, PodIdentity
from sim.pods.pod import Pod
from sim.record.recorder import Recorder
from sim.record.schema import compose_key, event_id
from sim.wire.read_memo import ReadMemo
from tests.support.reference import SERVICES, batches
from tests.support.scenes import Ground, on_both, until

TEMPLATE, CACHE = "config.template.invalidated", "config.cache.invalidate"


@dataclass
class Stage:
    """One pod, and what it recorded."""

    ground: Ground
    recorder: Recorder
    probed: list[tuple[int, str, int]] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def pod(self, service: str = "music-service", channels: tuple[str, ...] = (TEMPLATE, CACHE)) -> AsyncIterator[Pod]:
        context = PodContext(
            host="test",
            run_id="1",
            broker=BrokerAccess(self.ground.address, CHANNEL_PREFIX),
            recorder=self.recorder,
            memo=ReadMemo(decode_read),
            probed=lambda *what: self.probed.append(what),
        )
        node = BusNode(service, nonce=1, publisher=0, batches=batches(3, 1000), wall_offset_ns=0)
        pod = Pod(PodIdentity("p-0", 0, service, channels, seed=1), logic=SERVICES[service](), node=node, context=context)
        await pod.start()
        try:
            yield pod
        finally:
            pod.abort()

    def states(self) -> list[str]:
        """The states it went through; it records one again when its other connection changes."""
        return [state for state, _ in groupby(row["state"] for row in self.recorder.tables["pods"].take().to_pylist())]

    def heard(self) -> list[tuple[int, str]]:
        return [(row["event"], row["outcome"]) for row in self.recorder.deliveries.take().to_pylist()]

    def published(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.recorder.tables["publishes"].take().to_pylist()
        return rows

    async def send(self, kind: str, number: int, data: dict[str, Any], *, source: str = "test") -> int:
        """Publish an event as another process would, and return its key."""
        key = compose_key(nonce=1, publisher=9, sequence=number)
        payload = encode(Event(event_id(key), "", kind, "1.0", "", source, data))
        await self.ground.ask("PUBLISH", CHANNEL_PREFIX + kind, payload.decode())
        return key


@pytest.fixture
def stage(ground: Ground, tmp_path: Path) -> Stage:
    return Stage(ground, Recorder(tmp_path, source="test", pods=["p-0"]))


def test_what_it_hears_is_handled_and_recorded_in_order(stage: Stage) -> None:
    async def scene() -> None:
        async with stage.pod() as pod:
            logic: Any = pod.logic
            logic.config.read(f"{TEMPLATES}t1", now_ns=1)
            keys = [await stage.send(TEMPLATE, n, {"templateId": f"t{n}"}) for n in range(5)]
            await until(lambda: len(stage.recorder.deliveries) == 5)
            assert logic.config.templates.get(f"{TEMPLATES}t1") is None
            assert logic.config.invalidations == 5
            assert stage.heard() == [(key, "handled") for key in keys]

    stage.ground.run(scene())


def test_an_invalidation_published_twice_leaves_the_cache_that_once_leaves(stage: Stage) -> None:
    """Two events, published by the pod itself: the second finds nothing, changes nothing, and is handled all the same."""

    async def scene() -> None:
        async with stage.pod() as pod:
            config = pod.logic.config  # type: ignore[attr-defined]
            for _ in range(2):
                for n, key in enumerate([f"{TEMPLATES}t{n}" for n in range(4)] + [f"{PROVIDERS}p"]):
                    config.read(key, now_ns=n + 1)
                left = []
                for sent in (1, 2):
                    for call in (lambda: pod.invalidate_template("t1"), lambda: pod.invalidate_cache("aiponge:*:templates:t[23]")):
                        call()
                    await until(lambda: len(stage.recorder.deliveries) == 2 * sent)  # noqa: B023 - waited for here
                    left.append([list(cache._entries.items()) for cache in (config.templates, config.providers)])
                assert left[0] == left[1] == [[(f"{TEMPLATES}t0", 1)], [(f"{PROVIDERS}p", 5)]]
                assert {outcome for _, outcome in stage.heard()} == {"handled"}
                assert await pod.settle(timeout_s=10)
                subjects = [row["subject"] for row in stage.published()]
                assert subjects == [f"{TEMPLATES}t1", "aiponge:*:templates:t[23]"] * 2

    stage.ground.run(scene())


def test_a_handler_that_fails_is_recorded_and_the_next_event_is_handled(stage: Stage) -> None:
    async def scene() -> None:
        async with stage.pod() as pod:
            await stage.ground.ask("PUBLISH", CHANNEL_PREFIX + TEMPLATE, "no event")
            keys = []
            for number, (kind, fails) in enumerate([(TEMPLATE, True), (TEMPLATE, False), (CACHE, True)]):
                pod.fail(fails)
                keys.append(await stage.send(kind, number, {"templateId": "t"}))
                await until(lambda: len(stage.recorder.deliveries) == number + 1)  # noqa: B023 - waited for here
            assert stage.heard() == list(zip(keys, ["failed", "handled", "failed"], strict=True))
            assert (pod.counters.failures, pod.counters.malformed, pod.state) == (2, 1, "subscribed")

    stage.ground.run(scene())


def test_a_probe_reaches_the_prober_and_not_the_service(stage: Stage) -> None:
    async def scene() -> None:
        async with stage.pod() as pod:
            logic: Any = pod.logic
            await stage.send(TEMPLATE, 0, {"round": 7}, source=PROBER)
            await until(lambda: stage.probed != [])
            assert (stage.probed, logic.config.invalidations) == ([(0, TEMPLATE, 7)], 0)

    stage.ground.run(scene())


@on_both
def test_a_killed_subscription_is_repaired_and_hears_again(stage: Stage) -> None:
    async def scene() -> None:
        async with stage.pod() as pod:
            await stage.ground.ask("CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda: pod.state == "disconnected")
            await until(lambda: pod.state == "subscribed")
            key = await stage.send(TEMPLATE, 0, {"templateId": "t"})
            await until(lambda: len(stage.recorder.deliveries) == 1)
            assert stage.heard() == [(key, "handled")]
        assert stage.states() == ["starting", "subscribed", "disconnected", "subscribed", "aborted"]

    stage.ground.run(scene())


@on_both
def test_publishes_stay_in_the_pod_while_the_connection_is_gone_and_are_taken_when_it_is_back(stage: Stage) -> None:
    async def scene() -> list[str]:
        async with stage.pod() as pod:
            await stage.ground.ask("CLIENT", "KILL", "TYPE", "normal")
            for sequence in range(1_000_000):
                pod.call(CACHE, {"pattern": "*"}, intended_ns=now_ns())
                await pod.settle(timeout_s=10)
                rows = stage.published()
                if rows[-1]["outcome"] == "acknowledged" and sequence > 0:
                    break
                outcomes.update(row["outcome"] for row in rows)
                await asyncio.sleep(0.001)
            await pod.stop(timeout_s=10)
        return stage.states()

    outcomes: set[str] = set()
    assert stage.ground.run(scene())[-1] == "stopped"
    assert outcomes <= {"acknowledged", "refused", "unknown", "memory"}
    assert outcomes & {"unknown", "memory"}


@on_both
def test_stopping_sends_the_part_full_batch_and_waits_for_its_answer(stage: Stage) -> None:
    async def scene() -> None:
        async with stage.pod() as pod:
            pod.call(BATCH, {"eventType": "a"}, intended_ns=now_ns())
            await pod.stop(timeout_s=10)
            await pod.stop(timeout_s=10)
        assert [(row["items"], row["outcome"]) for row in stage.published()] == [(1, "acknowledged")]
        assert stage.states() == ["starting", "subscribed", "stopped"]

    stage.ground.run(scene())


def test_what_has_no_answer_when_a_pod_ends_is_unknown(stage: Stage) -> None:
    async def scene() -> None:
        async with stage.pod() as pod:
            await stage.ground.ask("CLIENT", "PAUSE", "60000", "WRITE")
            pod.call(CACHE, {"pattern": "*"}, intended_ns=now_ns())
            assert not await pod.settle(timeout_s=0.01)
            pod.abort()
        assert [(row["outcome"], row["receivers"], row["sent_ns"] > 0) for row in stage.published()] == [("unknown", -1, True)]

    stage.ground.run(scene())


@on_both
def test_an_aborted_pod_repairs_nothing_and_leaves_no_connection(stage: Stage) -> None:
    async def scene() -> None:
        async with stage.pod() as pod:
            await stage.ground.ask("CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda: pod.state == "disconnected")
            pod.abort()
            pod.call(CACHE, {"pattern": "*"}, intended_ns=now_ns())
            while await stage.ground.clients():
                await asyncio.sleep(0.001)
        assert stage.states()[-1] == "aborted"
        assert [row["outcome"] for row in stage.published()] == ["refused"]

    stage.ground.run(scene())


def test_a_pod_without_channels_only_publishes(stage: Stage) -> None:
    async def scene() -> None:
        async with stage.pod(channels=()):
            assert [row["name"] for row in await stage.ground.clients()] == ["buslab-1-p-0-pub"]

    stage.ground.run(scene())
