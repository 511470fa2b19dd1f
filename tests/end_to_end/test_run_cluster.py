"""Whole runs on a cluster: the same scenario, classic and sharded, whole and with a master that dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from sim.errors import UsageError
from sim.grounds.catalogue import open_broker
from sim.grounds.cluster import ClusterBroker
from sim.grounds.cluster_formation import await_whole, owner
from sim.results.checkers import judge
from sim.results.opened_run import open_run
from sim.run.steps import run_scenario
from sim.scenario.file import Scenario, load_scenario
from sim.wire.slots import slot_of

pytestmark = pytest.mark.broker
Small = Callable[..., Scenario]
both = pytest.mark.parametrize("transport", ["pubsub", "sharded"])


@both
@pytest.mark.parametrize("driver", ["pods", "locust"])
def test_nothing_is_lost_on_a_whole_cluster_and_every_node_is_sampled(tmp_path: Path, small: Small, transport: str, driver: str) -> None:
    folder = run_scenario(small(f"bus.transport={transport}", f"load.driver={driver}"), on="cluster", out=tmp_path / "run")
    run = open_run(folder)
    verdict = judge(run)
    ledger = verdict.checkers["ledger"]
    assert (verdict.verdict, run.info.ground, run.info.nodes) == ("valid", "cluster", 6)
    assert ledger.counts["delivered"] == ledger.counts["expected"] > 0 and ledger.warnings == []
    cpu = run.broker[run.broker["metric"] == "node_used_cpu_user_s"]
    assert cpu["subject"].nunique() == 6
    whole = run.broker[run.broker["metric"] == "used_cpu_user_s"].set_index("at_ns")["value"]
    assert whole.iloc[-1] == pytest.approx(cpu[cpu["at_ns"] <= whole.index[-1]].groupby("subject", observed=True)["value"].last().sum())
    said, heard = ledger.counts["publish_receivers"], ledger.counts["publish_delivered"]
    assert said == heard if transport == "sharded" else said < heard, "a classic PUBLISH counts its own node's subscribers only"


@both
def test_when_a_master_dies_every_loss_has_a_cause_and_all_is_heard_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    async def kill_one(broker: ClusterBroker) -> None:
        await broker.kill_master("aiponge:events:config.template.invalidated")
        await broker.promoted()

    monkeypatch.setattr(ClusterBroker, "kill", kill_one)
    settings = (f"bus.transport={transport}", "load.run_s=7", "faults=[{kind = 'broker_down', at_s = 1, for_s = 2.5}]")
    run = open_run(run_scenario(load_scenario("restart_redis", settings=settings), on="cluster", out=tmp_path / "run"))
    ledger = run.ledger()
    assert judge(run).verdict == "valid" and run.info.notes == []
    later = ledger[(ledger["phase"] == "drain") | (ledger["phase"] == "heal")]
    assert len(later) and set(later["fate"]) == {"delivered"}
    assert "unexplained" not in set(ledger["cause"])
    lost = ledger[ledger["fate"].isin(["missing", "unknown"])]
    assert "disconnected" in set(run.pods["state"]), "the kill hit nobody: this test shows nothing"
    (fault,) = run.faults.to_dict("records")
    sent = run.publishes.set_index("event")["intended_ns"].loc[lost["event"].unique()]
    assert (sent < fault["end_ns"]).all(), "what was published after the cluster was whole again was heard"


def load_and_copies(ground: str, folder: Path) -> tuple[list[tuple[str, str, int]], dict[str, float]]:
    """Return each event of the load (publisher, channel, intended time), and how the ledger counts copies."""
    run = open_run(run_scenario(load_scenario("cluster_fanout", settings=("load.run_s=1",)), on=ground, out=folder))
    verdict = judge(run)
    assert (verdict.verdict, verdict.ground) == ("valid", ground), verdict.reasons
    events = run.publishes[run.publishes["items"] > 0].sort_values("intended_ns", kind="stable")
    since = events["intended_ns"] - events["intended_ns"].iloc[0]
    counts = verdict.checkers["ledger"].counts
    return list(zip(events["publisher"], events["channel"], since, strict=True)), {name: counts[name] for name in ("expected", "delivered")}


@pytest.fixture(scope="module")
def on_one_server(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[tuple[str, str, int]], dict[str, float]]:
    return load_and_copies("embedded", tmp_path_factory.mktemp("embedded") / "run")


CONTAINERS = [pytest.param(name, marks=pytest.mark.container) for name in ("container", "container-cluster")]


@pytest.mark.parametrize("ground", ["cluster", "cluster:1", *CONTAINERS])
def test_the_same_scenario_and_seed_are_the_same_on_every_ground(ground: str, tmp_path: Path, on_one_server: object) -> None:
    assert load_and_copies(ground, tmp_path / "run") == on_one_server


@pytest.mark.container
def test_in_containers_a_master_fails_over_and_comes_back() -> None:
    async def scene(broker: ClusterBroker) -> None:
        dead = await broker.kill_master("c")
        await broker.promoted()
        await broker.start()
        await_whole(broker.address.nodes, replicas=3)
        assert owner(broker.address.nodes, slot_of(b"c")) != dead

    with open_broker("container-cluster") as broker:
        assert isinstance(broker, ClusterBroker) and broker.image is not None
        asyncio.run(scene(broker))


def test_what_keeps_events_on_one_node_is_refused_on_several(tmp_path: Path, small: Small) -> None:
    with pytest.raises(UsageError, match=r"several nodes.*'streams'.*cluster:1"):
        run_scenario(small("bus.transport=streams", "load.driver=pods"), on="cluster", out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_for_once_finds_the_master_of_each_key(tmp_path: Path, small: Small) -> None:
    scenario = small("load.driver=pods", "bus.once=two-key", "services.music-service.handler_ms=1", "slo.lag_ms_p99=5000")
    run = open_run(run_scenario(scenario, on="cluster", out=tmp_path / "run"))
    assert judge(run).verdict == "valid"
    music = run.deliveries[run.deliveries["pod"].astype(str).str.startswith("music")]
    counts = music["outcome"].value_counts()
    assert counts["handled"] > 0 and counts["skipped"] > 0 and counts.get("failed", 0) == 0
