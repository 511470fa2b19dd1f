"""Whole runs on streams: no key stays behind, an outage loses nothing that reached the broker, and Locust adds to streams too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from sim.bus.envelope import CHANNEL_PREFIX
from sim.errors import BrokerUnreachable
from sim.record.run_info import read_info
from sim.results.checkers import judge
from sim.results.opened_run import open_run
from sim.run.fleet import Fleet
from sim.run.steps import run_scenario
from sim.scenario.file import Scenario, load_scenario
from sim.wire.address import Address
from sim.wire.transports import streams

pytestmark = pytest.mark.broker
Small = Callable[..., Scenario]
Server = tuple[Address, redis.Redis]
STREAMS = ("bus.transport=streams", "load.run_s=1", "slo.missing=1e9", "slo.lag_ms_p99=10000")
CACHE = CHANNEL_PREFIX + "config.cache.invalidate"


@pytest.mark.parametrize("driver", ["pods", "locust"])
def test_a_run_on_a_server_that_is_not_ours_leaves_no_key(small: Small, own_server: Server, tmp_path: Path, driver: str) -> None:
    address, client = own_server
    folder = run_scenario(small(*STREAMS, f"load.driver={driver}"), on=address.url, out=tmp_path / "run")
    verdict = judge(open_run(folder))
    assert verdict.verdict == "valid", verdict.reasons
    counts = verdict.checkers["ledger"].counts
    assert counts["missing"] == counts["taken-by-peer"] > 0
    assert client.dbsize() == 0


@pytest.mark.parametrize("groups", [[], ["somebody"]])
def test_what_was_there_before_stays_and_is_not_heard(small: Small, own_server: Server, tmp_path: Path, groups: list[str]) -> None:
    address, client = own_server
    client.xadd(CACHE, {"e": b"older than the run"})
    for group in groups:
        client.xgroup_create(CACHE, group, "0")
    folder = run_scenario(small(*STREAMS, "load.driver=pods"), on=address.url, out=tmp_path / "run")
    verdict = judge(open_run(folder))
    assert verdict.verdict == "valid", verdict.reasons
    assert client.keys("*") == [CACHE.encode()]
    assert [group["name"].decode() for group in client.xinfo_groups(CACHE)] == groups


def test_a_key_that_somebody_else_uses_by_now_is_not_removed(
    small: Small, own_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, client = own_server
    catch_up = Fleet.catch_up

    async def with_a_guest(self: Fleet, *args: object, **more: object) -> None:
        client.xgroup_create(CACHE, "guest", "0")
        await catch_up(self, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Fleet, "catch_up", with_a_guest)
    run_scenario(small(*STREAMS, "load.driver=pods"), on=address.url, out=tmp_path / "run")
    assert [group["name"] for group in client.xinfo_groups(CACHE)] == [b"guest"]
    assert client.dbsize() == 1


def test_a_run_that_fails_leaves_no_key_either(small: Small, own_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is acknowledged: the drain must say so instead of calling the run complete."""
    address, client = own_server
    monkeypatch.setattr(streams.Subscription, "_acknowledge", lambda self: None)
    with pytest.raises(BrokerUnreachable, match="not heard, or not acknowledged"):
        run_scenario(small(*STREAMS, "load.driver=pods", "limits.drain_s=3"), on=address.url, out=tmp_path / "run")
    assert read_info(tmp_path / "run" / "run.json").state == "failed"
    assert client.dbsize() == 0


def test_a_restart_of_the_broker_makes_nobody_deaf(tmp_path: Path) -> None:
    """On Pub/Sub an event is missed by whoever is still reconnecting; a stream has it for later. What the old broker held is gone."""
    scenario = load_scenario("restart_redis", settings=("bus.transport=streams",))
    run = open_run(run_scenario(scenario, out=tmp_path / "run"))
    verdict = judge(run)
    assert verdict.verdict == "valid", verdict.reasons
    counts = verdict.checkers["ledger"].counts
    assert counts["unexplained"] == 0
    assert counts["sent-in-memory-mode"] > 0
    ledger, publishes = run.ledger(), run.publishes.set_index("event")
    deaf = ledger.loc[ledger["cause"] == "deaf", "event"]
    assert (publishes.loc[deaf, "sent_ns"] <= run.faults["begin_ns"].iloc[0]).all()


def test_the_lock_is_not_needed_where_one_pod_gets_the_event(tmp_path: Path) -> None:
    settings = ("bus.transport=streams", "bus.once=none", "load.run_s=2", "slo.missing=1e9")
    run = open_run(run_scenario(load_scenario("lock_lab", settings=settings), out=tmp_path / "run"))
    verdict = judge(run)
    assert verdict.verdict == "valid", verdict.reasons
    assert verdict.checkers["duplication"].counts["handled_per_event.music-service"] == 1
