"""The fleet: every pod up or a clear error, and probes that prove who hears."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from sim.bus.envelope import CHANNEL_PREFIX
from sim.errors import BrokerError, BrokerUnreachable
from sim.run.fleet import Fleet
from sim.scenario.file import Scenario
from sim.wire.address import Address, free_port, parse_address
from tests.support.scenes import Ground, on_both

Small = Callable[..., Scenario]


def fleet_of(scenario: Scenario, address: Address, folder: Path) -> Fleet:
    return Fleet(scenario, address=address, folder=folder, nonce=1, run_id="1")


async def ours(ground: Ground) -> list[str]:
    return [row["name"] for row in await ground.clients() if row["name"].startswith("buslab-")]


@on_both
def test_a_started_fleet_is_what_the_server_counts(small: Small, ground: Ground, tmp_path: Path) -> None:
    async def scene() -> None:
        fleet = fleet_of(small(), ground.address, tmp_path)
        await fleet.start()
        expected = fleet.expected_subscribers()
        assert expected["config.cache.invalidate"] == 12
        counted = await ground.ask("PUBSUB", "NUMSUB", *(CHANNEL_PREFIX + channel for channel in expected))
        assert {channel.decode(): count for channel, count in zip(counted[::2], counted[1::2], strict=True)} == {
            CHANNEL_PREFIX + channel: count for channel, count in expected.items()
        }
        assert fleet.host.states() == {"subscribed": 12}
        assert await fleet.probe(timeout_s=10, purpose="test") == 1
        await fleet.stop(timeout_s=10)
        fleet.recorder.close()
        while await ours(ground):
            await asyncio.sleep(0.001)

    ground.run(scene())


def test_the_first_pod_that_does_not_hear_is_named(small: Small, ground: Ground, tmp_path: Path) -> None:
    async def scene() -> str:
        fleet = fleet_of(small(), ground.address, tmp_path)
        await fleet.start()
        await ground.ask("CLIENT", "PAUSE", "60000", "WRITE")  # no PUBLISH passes
        with pytest.raises(BrokerUnreachable) as silent:
            await fleet.probe(timeout_s=0.05, purpose="before the load")
        fleet.abort()
        return str(silent.value)

    assert "before the load: " in (said := ground.run(scene()))
    assert "the first: music-service-0 on config" in said


def test_a_second_round_is_published_when_the_first_is_not_heard(
    small: Small, ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sim.run.fleet.ROUND_TIMEOUT_S", 0.05)

    async def scene() -> int:
        fleet = fleet_of(small(), ground.address, tmp_path)
        await fleet.start()
        await ground.ask("CLIENT", "PAUSE", "60000", "WRITE")  # no PUBLISH passes …

        async def go_on() -> None:
            await asyncio.sleep(0.2)
            await ground.ask("CLIENT", "UNPAUSE")  # … until here

        going_on = asyncio.create_task(go_on())
        rounds = await fleet.probe(timeout_s=20, purpose="test")
        await going_on
        fleet.abort()
        return rounds

    assert ground.run(scene()) >= 2


@on_both
@pytest.mark.parametrize("dead", [True, False], ids=["nothing listens", "too few connections are allowed"])
def test_a_fleet_that_cannot_start_says_so_and_leaves_no_connection(small: Small, ground: Ground, tmp_path: Path, dead: bool) -> None:
    async def scene() -> None:
        await ground.ask("CONFIG", "SET", "maxclients", "6")
        fleet = fleet_of(small(), parse_address(f"redis://127.0.0.1:{free_port()}") if dead else ground.address, tmp_path)
        with pytest.raises(BrokerError):  # which of the two depends on whose word is faster
            await fleet.start()
        fleet.abort()
        while await ours(ground):
            await asyncio.sleep(0.001)

    ground.run(scene())


def test_pods_that_start_too_slowly_are_counted(small: Small, ground: Ground, tmp_path: Path) -> None:
    async def scene() -> str:
        fleet = fleet_of(small("limits.start_s=0.001", "services.music-service.replicas=300"), ground.address, tmp_path)
        with pytest.raises(BrokerUnreachable) as slow:
            await fleet.start()
        fleet.abort()
        while await ours(ground):
            await asyncio.sleep(0.001)
        return str(slow.value)

    assert "of 309 pods were subscribed within limits.start_s = 0.001 s" in ground.run(scene())
