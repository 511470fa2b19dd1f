"""The fleet: every pod up or a clear error, and probes that prove who hears."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from sim.address import Address, free_port, parse_address
from sim.bus.envelope import CHANNEL_PREFIX
from sim.errors import BrokerError, BrokerUnreachable
from sim.fleet import Fleet
from sim.scenario import Scenario

pytestmark = pytest.mark.broker
Run = Callable[[Any], Any]
Small = Callable[..., Scenario]


def fleet_of(scenario: Scenario, address: Address, folder: Path) -> Fleet:
    return Fleet(scenario, address=address, folder=folder, nonce=1, run_id="1")


def ours(server: redis.Redis) -> list[str]:
    return [row["name"] for row in server.client_list() if row["name"].startswith("buslab-")]


def test_a_started_fleet_is_what_the_server_counts(
    small: Small, own_server: tuple[Address, redis.Redis], tmp_path: Path, run_async: Run
) -> None:
    address, server = own_server

    async def scene() -> None:
        fleet = fleet_of(small(), address, tmp_path)
        await fleet.start()
        expected = fleet.expected_subscribers()
        assert expected["config.cache.invalidate"] == 12
        assert {c.decode(): n for c, n in server.pubsub_numsub(*(CHANNEL_PREFIX + c for c in expected))} == {
            CHANNEL_PREFIX + channel: count for channel, count in expected.items()
        }
        assert fleet.host.states() == {"subscribed": 12}
        assert await fleet.probe(timeout_s=10, purpose="test") == 1
        await fleet.stop(timeout_s=10)
        fleet.recorder.close()

    run_async(scene())
    assert ours(server) == []


def test_the_first_pod_that_does_not_hear_is_named(
    small: Small, own_server: tuple[Address, redis.Redis], tmp_path: Path, run_async: Run
) -> None:
    address, server = own_server

    async def scene() -> str:
        fleet = fleet_of(small(), address, tmp_path)
        await fleet.start()
        server.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")  # no PUBLISH passes
        with pytest.raises(BrokerUnreachable) as silent:
            await fleet.probe(timeout_s=0.05, purpose="before the load")
        fleet.abort()
        return str(silent.value)

    assert "before the load: " in (said := run_async(scene()))
    assert "the first: music-service-0 on config" in said


def test_a_second_round_is_published_when_the_first_is_not_heard(
    small: Small, own_server: tuple[Address, redis.Redis], tmp_path: Path, run_async: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, server = own_server
    monkeypatch.setattr("sim.fleet.ROUND_TIMEOUT_S", 0.05)

    async def scene() -> int:
        fleet = fleet_of(small(), address, tmp_path)
        await fleet.start()
        server.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")  # no PUBLISH passes …
        asyncio.get_running_loop().call_later(0.2, lambda: server.execute_command("CLIENT", "UNPAUSE"))  # … until here
        rounds = await fleet.probe(timeout_s=20, purpose="test")
        fleet.abort()
        return rounds

    assert run_async(scene()) >= 2


@pytest.mark.parametrize("dead", [True, False], ids=["nothing listens", "too few connections are allowed"])
def test_a_fleet_that_cannot_start_says_so_and_leaves_no_connection(
    small: Small, own_server: tuple[Address, redis.Redis], tmp_path: Path, run_async: Run, dead: bool
) -> None:
    address, server = own_server
    server.config_set("maxclients", 6)

    async def scene() -> None:
        fleet = fleet_of(small(), parse_address(f"redis://127.0.0.1:{free_port()}") if dead else address, tmp_path)
        with pytest.raises(BrokerError):  # which of the two depends on whose word is faster
            await fleet.start()
        fleet.abort()
        while ours(server):
            await asyncio.sleep(0)

    run_async(scene())


def test_pods_that_start_too_slowly_are_counted(
    small: Small, own_server: tuple[Address, redis.Redis], tmp_path: Path, run_async: Run
) -> None:
    address, server = own_server

    async def scene() -> str:
        fleet = fleet_of(small("limits.start_s=0.001", "services.music-service.replicas=300"), address, tmp_path)
        with pytest.raises(BrokerUnreachable) as slow:
            await fleet.start()
        fleet.abort()
        while ours(server):
            await asyncio.sleep(0)
        return str(slow.value)

    assert "of 309 pods were subscribed within limits.start_s = 0.001 s" in run_async(scene())
