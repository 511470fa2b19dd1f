"""Pods that read their configuration: through their own caches, at the intended times, while they live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.bus.cache import PROVIDERS, TEMPLATES
from sim.bus.envelope import decode_read
from sim.bus.node import BusNode
from sim.machine.clock import NS_PER_MS, now_ns
from sim.pods.context import BrokerAccess, PodContext, PodIdentity
from sim.pods.pod import Pod
from sim.pods.replica import InlineReplica
from sim.pods.scheduled_reads import BURST, ScheduledReads
from sim.record.recorder import Recorder
from sim.scenario.schedule import IntendedReads
from sim.wire.read_memo import ReadMemo
from tests.support.reference import SERVICES, batches

Run = Callable[[Any], Any]
KEYS = [f"{TEMPLATES}tpl_0", f"{TEMPLATES}tpl_1", f"{PROVIDERS}prov_0"]
SUBJECTS = tuple(("", key) for key in KEYS)


def reads(*rows: tuple[int, int, int]) -> IntendedReads:
    """Rows of (offset in ms, pod, subject)."""
    at, pod, subject = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    return IntendedReads(at * NS_PER_MS, pod, subject, SUBJECTS)


def alone(recorder: Recorder, service: str, number: int) -> Pod:
    """A pod without a REDIS_URL: what it publishes, it hears itself."""
    context = PodContext(
        host="test",
        run_id="1",
        broker=BrokerAccess(None, ""),
        recorder=recorder,
        memo=ReadMemo(decode_read),
        probed=lambda *what: None,
    )
    node = BusNode(service, nonce=1, publisher=number, batches=batches(1, 1000), wall_offset_ns=0)
    channels = ("config.template.invalidated", "config.cache.invalidate")
    return Pod(PodIdentity(f"p-{number}", number, service, channels, seed=1), logic=SERVICES[service](), node=node, context=context)


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path, source="test", pods=["p-0", "p-1", "p-2"])


async def pods_of(recorder: Recorder) -> list[InlineReplica]:
    services = ("music-service", "ai-content-service", "api-gateway")
    pods = [InlineReplica(partial(alone, recorder, service, number), recorder=recorder) for number, service in enumerate(services)]
    for pod in pods:
        await pod.begin()
    return pods


async def recorded(recorder: Recorder, count: int) -> list[dict[str, Any]]:
    while len(recorder.tables["reads"]) < count:
        await asyncio.sleep(0.001)
    rows: list[dict[str, Any]] = recorder.tables["reads"].take().to_pylist()
    return rows


def test_each_pod_reads_through_its_own_cache_and_a_copy_is_as_old_as_its_load(recorder: Recorder, run_async: Run) -> None:
    async def scene() -> None:
        pods = await pods_of(recorder)
        zero_ns = now_ns()
        plan = reads((1, 0, 0), (2, 0, 0), (3, 1, 0), (4, 0, 2), (5, 0, 2), (6, 0, 0))
        reader = ScheduledReads(pods, plan, zero_ns=zero_ns, recorder=recorder)
        rows = await recorded(recorder, 6)
        reader.close()
        assert [(row["pod"], row["subject"], row["outcome"]) for row in rows] == [
            ("p-0", KEYS[0], "miss"),
            ("p-0", KEYS[0], "hit"),
            ("p-1", KEYS[0], "miss"),
            ("p-0", KEYS[2], "miss"),
            ("p-0", KEYS[2], "hit"),
            ("p-0", KEYS[0], "hit"),
        ]
        at = [row["at_ns"] for row in rows]
        assert all(made >= zero_ns + meant for made, meant in zip(at, plan.offset_ns.tolist(), strict=True)), "never before its time"
        assert [row["loaded_ns"] for row in rows] == [at[0], at[0], at[2], at[3], at[3], at[0]]

    run_async(scene())


def test_an_invalidation_makes_the_next_read_load_again(recorder: Recorder, run_async: Run) -> None:
    async def scene() -> None:
        pods = await pods_of(recorder)
        for call, second in (
            (lambda: None, "hit"),
            (lambda: pods[0].pod.invalidate_template("tpl_0"), "miss"),
            (lambda: pods[0].pod.invalidate_template("tpl_1"), "hit"),
            (lambda: pods[0].pod.invalidate_cache("aiponge:*:templates:*"), "miss"),
            (lambda: pods[1].pod.invalidate_template("tpl_0"), "hit"),  # in memory mode nobody else hears it
        ):
            ScheduledReads(pods, reads((0, 0, 0)), zero_ns=now_ns(), recorder=recorder)
            await recorded(recorder, 1)
            call()
            ScheduledReads(pods, reads((0, 0, 0)), zero_ns=now_ns(), recorder=recorder)
            assert [row["outcome"] for row in await recorded(recorder, 1)] == [second]

    run_async(scene())


def test_a_pod_that_ended_reads_no_more(recorder: Recorder, run_async: Run) -> None:
    async def scene() -> None:
        pods = await pods_of(recorder)
        pods[0].abort()
        ScheduledReads(pods, reads((0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)), zero_ns=now_ns(), recorder=recorder)
        assert [row["pod"] for row in await recorded(recorder, 2)] == ["p-1", "p-1"]

    run_async(scene())


def test_more_reads_than_a_burst_are_all_made_and_a_closed_reader_makes_none(recorder: Recorder, run_async: Run) -> None:
    async def scene() -> None:
        pods = await pods_of(recorder)
        count = 3 * BURST + 1
        plan = reads(*[(0, n % 2, n % 3) for n in range(count)])
        ScheduledReads(pods, plan, zero_ns=now_ns() - NS_PER_MS, recorder=recorder)
        assert len(await recorded(recorder, count)) == count
        closed = ScheduledReads(pods, plan, zero_ns=now_ns(), recorder=recorder)
        closed.close()
        closed.close()
        ScheduledReads(pods, reads((5, 0, 0)), zero_ns=now_ns(), recorder=recorder)
        assert len(await recorded(recorder, 1)) == 1, "only the open one's"

    run_async(scene())


def test_a_frozen_pod_reads_when_it_goes_on(recorder: Recorder, run_async: Run) -> None:
    async def scene() -> None:
        pods = await pods_of(recorder)
        await pods[0].freeze()
        ScheduledReads(pods, reads((0, 0, 0), (0, 1, 0)), zero_ns=now_ns(), recorder=recorder)
        assert [row["pod"] for row in await recorded(recorder, 1)] == ["p-1"]
        thawed_ns = now_ns()
        await pods[0].thaw()
        rows = await recorded(recorder, 1)
        assert rows[0]["pod"] == "p-0"
        assert rows[0]["at_ns"] >= thawed_ns

    run_async(scene())
