"""A pod through outages: what it notices, where its events go, and how it comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sim.bus.envelope import decode_read
from sim.bus.fallback import Policy
from sim.bus.node import BusNode
from sim.errors import BrokerError
from sim.machine.clock import now_ns
from sim.pods.context import BrokerAccess, OutageRules, PodContext, PodIdentity
from sim.pods.pod import Pod
from sim.record.recorder import Recorder, seal_tables
from sim.wire.read_memo import ReadMemo
from tests.support.reference import SERVICES, batches
from tests.support.scenes import BOUND_S, Ground, on_both

CHANNEL = "config.cache.invalidate"
DATA = {"pattern": "aiponge:cache:templates:1"}


@dataclass
class Lab:
    """One pod of system-service, which publishes and hears one channel, on a server that can be hurt."""

    ground: Ground
    folder: Path
    keep_alive_s: float = 0.0
    policy: Policy = field(default_factory=Policy)
    limit: int = 3
    rules: OutageRules | None = None  # in place of the three above

    def __post_init__(self) -> None:
        self.recorder = Recorder(self.folder, source="test", pods=["system-service-0"])
        self.pod = Pod(
            PodIdentity("system-service-0", 0, "system-service", (CHANNEL,), seed=1),
            logic=SERVICES["system-service"](),
            node=BusNode("system-service", nonce=1, publisher=0, batches=batches(10, 1000), wall_offset_ns=0),
            context=PodContext(
                host="test",
                run_id="test",
                broker=BrokerAccess(self.ground.address, "aiponge:events:"),
                recorder=self.recorder,
                memo=ReadMemo(decode_read),
                probed=lambda pod, channel, round: None,
                outage=self.rules or OutageRules(self.policy, queue_limit=self.limit, keep_alive_s=self.keep_alive_s),
            ),
        )

    def publish(self) -> None:
        self.pod.call(CHANNEL, DATA, intended_ns=now_ns())

    async def until(self, state: str) -> None:
        while self.pod.fallback.state != state:
            await asyncio.sleep(0.002)

    async def kill_clients(self, kind: str) -> None:
        """Close every connection of a kind but our own: connections that never subscribed are of type normal."""
        await self.ground.ask("CLIENT", "KILL", "TYPE", kind)

    def written(self) -> tuple[list[str], list[str], list[tuple[str, str]]]:
        """What the record says: the bus's states, the publishes' outcomes, and (path, outcome) of the deliveries."""
        self.recorder.close()
        seal_tables(self.folder)
        tables = {name: pq.read_table(self.folder / f"{name}.parquet").to_pydict() for name in ("pods", "publishes", "deliveries")}
        heard = tables["deliveries"]
        return tables["pods"]["bus"], tables["publishes"]["outcome"], list(zip(heard["path"], heard["outcome"], strict=True))


@asynccontextmanager
async def lab(ground: Ground, folder: Path, **settings: object) -> AsyncIterator[Lab]:
    one = Lab(ground, folder, **settings)  # type: ignore[arg-type]
    try:
        await one.pod.start()
        yield one
    finally:
        await one.pod.stop(timeout_s=BOUND_S)


def test_a_cut_subscription_is_deaf_and_still_publishes(tmp_path: Path, ground: Ground) -> None:
    async def story() -> Lab:
        async with lab(ground, tmp_path) as one:
            await one.kill_clients("pubsub")
            await one.until("deaf")
            one.publish()
            await one.pod.settle(timeout_s=BOUND_S)
            await one.until("connected")
        return one

    states, outcomes, heard = ground.run(story()).written()
    assert states == ["connecting", "mute", "connected", "deaf", "connected", "stopped"]
    assert outcomes == ["acknowledged"]
    assert heard == [], "Pub/Sub keeps nothing for who was away"


@on_both
def test_a_cut_publisher_is_mute_and_its_events_stay_in_the_pod(tmp_path: Path, ground: Ground) -> None:
    async def story() -> Lab:
        async with lab(ground, tmp_path) as one:
            await one.kill_clients("normal")
            await one.until("mute")
            one.publish()
            await one.until("connected")
        return one

    states, outcomes, heard = ground.run(story()).written()
    assert states == ["connecting", "mute", "connected", "mute", "connected", "stopped"]
    assert outcomes == ["memory"]
    assert heard == [("memory", "handled")]


@pytest.mark.parametrize(
    ("policy", "outcomes", "heard"),
    [
        (Policy(), ["memory"] * 5, [("memory", "handled")] * 5),
        (Policy(fallback="no-url"), ["refused"] * 5, []),
        (Policy(outage_queue="keep"), ["refused"] * 2 + ["acknowledged"] * 3, [("broker", "handled")] * 3),
    ],
    ids=["memory", "refuse", "keep"],
)
@on_both
def test_a_dead_broker_comes_back_and_the_policy_decides_about_what_was_published_meanwhile(
    tmp_path: Path, ground: Ground, policy: Policy, outcomes: list[str], heard: list[tuple[str, str]]
) -> None:
    async def story() -> Lab:
        async with lab(ground, tmp_path, policy=policy) as one:
            await ground.control.kill()
            await one.until("outage")
            for _ in range(5):
                one.publish()
            await ground.control.start()
            await one.until("connected")
            await one.pod.settle(timeout_s=BOUND_S)
            while one.recorder.rows("deliveries") < len(heard):
                await asyncio.sleep(0.002)
        return one

    states, told, got = ground.run(story()).written()
    assert states[:3] == ["connecting", "mute", "connected"]
    assert states[-4:] == ["outage", "mute", "connected", "stopped"], "it hears before it publishes again"
    assert told == outcomes
    assert got == heard


def test_a_pod_that_may_not_come_back_stays_alone(tmp_path: Path, ground: Ground) -> None:
    async def story() -> Lab:
        async with lab(ground, tmp_path, policy=Policy(reattach="restart")) as one:
            await ground.control.kill()
            await one.until("outage")
            await ground.control.start()
            assert not one.pod._connections.repairing
            one.publish()
        return one

    states, outcomes, _ = ground.run(story()).written()
    assert states[-2:] == ["outage", "stopped"]
    assert outcomes == ["memory"]


@on_both
def test_a_frozen_broker_is_noticed_by_the_keep_alive_and_by_nothing_else(tmp_path: Path, ground: Ground) -> None:
    async def story(keep_alive_s: float, folder: Path) -> Lab:
        one = Lab(ground, folder, keep_alive_s=keep_alive_s)
        await one.pod.start()
        await ground.control.freeze()
        try:
            if keep_alive_s:
                await one.until("outage")
            else:
                one.publish()
                assert not await one.pod.settle(timeout_s=0.5)
                assert one.pod.fallback.connected, "green while nothing is heard: the truth gap"
        finally:
            await ground.control.thaw()
        if keep_alive_s:
            await one.until("connected")
        await one.pod.stop(timeout_s=BOUND_S)
        return one

    blind = ground.run(story(0.0, tmp_path / "blind")).written()
    seeing = ground.run(story(0.4, tmp_path / "seeing")).written()
    assert blind[0] == ["connecting", "mute", "connected", "stopped"]
    assert blind[1] == ["acknowledged"], "a frozen broker answers once it thaws"
    assert "outage" in seeing[0]
    assert seeing[0][-2:] == ["connected", "stopped"]


def test_a_pod_that_starts_in_an_outage_is_alone_until_the_broker_is_there(tmp_path: Path, ground: Ground) -> None:
    async def story() -> Lab:
        await ground.control.kill()
        one = Lab(ground, tmp_path)
        with pytest.raises(BrokerError):
            await one.pod.start()
        one.publish()
        await ground.control.start()
        await one.until("connected")
        await one.pod.stop(timeout_s=BOUND_S)
        return one

    states, outcomes, heard = ground.run(story()).written()
    assert states == ["connecting", "outage", "mute", "connected", "stopped"]
    assert (outcomes, heard) == (["memory"], [("memory", "handled")])
