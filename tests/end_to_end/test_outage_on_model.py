"""Two real runs on the model, where theory says what the checkers of outages must find: a killed broker, and a frozen one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from sim.results.checkers import judge
from sim.results.checkers.fallback import reachability
from sim.results.checkers.verdict import Bounds
from sim.results.opened_run import Run
from sim.scenario.file import load_scenario
from tests.support.ran import ran

HOUR_S, EVERY_S, DOWN_S, SETTLED_S = 3_600, 300, 5, 3


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return ran(load_scenario("restart_redis"), folder=tmp_path_factory.mktemp("killed") / "run")


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("frozen")
    text = Path(str(load_scenario.__globals__["__file__"])).with_name("built_in").joinpath("restart_redis.toml").read_text()
    (folder / "freeze.toml").write_text(text.replace("broker_down", "broker_freeze"))
    return ran(load_scenario(str(folder / "freeze.toml")), folder=folder / "run")


def test_a_killed_broker_is_noticed_within_a_trip_of_the_network_and_every_pod_comes_back(killed: Run) -> None:
    result = judge(killed, only=["fallback"]).checkers["fallback"]
    counts = result.counts
    assert (result.verdict, counts["noticed"], counts["unnoticed"], counts["unrecovered"]) == ("valid", 12, 0, 0)
    assert 0 < result.metrics["time_to_notice_s_max"] < 1e-3
    begin, end = killed.faults[["begin_ns", "end_ns"]].iloc[0]
    rows = killed.pods[killed.pods["at_ns"] > begin].sort_values("at_ns", kind="stable")
    back = [int(mine.loc[mine["bus"] == "connected", "at_ns"].iloc[0]) - end for _, mine in rows.groupby("pod", observed=True)]
    assert result.metrics["time_to_recover_s_max"] == max(back) / 1e9
    deaf_at_first = 2 * 7e-6 * 12  # a pod whose hearing ends first still speaks for a trip
    assert counts["memory_s.sum"] == pytest.approx(sum(at + end - begin for at in back) / 1e9, abs=deaf_at_first)
    assert counts["truth_gap_s.max"] == 0
    assert counts["published_inside"] == (killed.publishes["outcome"] == "memory").sum()
    assert counts["heard_only_here"] == (killed.deliveries["path"] == "memory").sum() > 0


def test_after_a_restart_pods_are_deaf_until_they_subscribe_and_lose_what_the_first_ones_publish(killed: Run) -> None:
    checkers = judge(killed, only=["deaf", "ledger", "fallback"]).checkers
    deaf, ledger = checkers["deaf"], checkers["ledger"]
    assert (deaf.counts["windows"], deaf.counts["deaf"], deaf.counts["unended"], deaf.counts["untold"]) == (12, 12, 0, 0)
    assert deaf.counts["lost"] == deaf.counts["lost_after"] == ledger.counts["deaf"] > 0, (
        "in the outage nobody publishes through the broker"
    )
    assert 0 < deaf.metrics["deaf_s_max"] < checkers["fallback"].metrics["time_to_recover_s_max"], "a pod hears before it may speak"
    assert all(text.startswith("evt_") for text in deaf.witnesses)


def test_in_the_outage_a_pod_reaches_only_itself(killed: Run) -> None:
    rows = reachability(killed)
    inside = rows[(rows["second"] >= 3) & (rows["second"] < 5)]
    itself = inside["publisher"].astype(str) == inside["hearer"].astype(str)
    assert (inside.loc[itself, "heard"] == inside.loc[itself, "published"]).all() and itself.any()
    assert inside.loc[~itself, "heard"].sum() == 0 < inside.loc[~itself, "published"].sum()
    before = rows[(rows["second"] >= 0) & (rows["second"] < 2)]
    assert (before["heard"] == before["published"]).all()
    ledger = killed.ledger()
    ledger = ledger[ledger["publisher"] != "buslab"]  # whose probes prove subscriptions
    assert rows["published"].sum() == len(ledger)
    assert rows["heard"].sum() == (ledger["fate"] == "delivered").sum()


def test_batches_wait_and_calls_do_not(killed: Run) -> None:
    checkers = judge(killed, only=["batching", "callers"]).checkers
    batching, callers = checkers["batching"].counts, checkers["callers"].counts
    assert batching["at_risk.max"] <= 100, "the reference's batch size"
    assert batching["oldest_wait_ms.max"] <= 30_000, "the reference's interval"
    assert batching["age_ms.max"] >= batching["oldest_wait_ms.max"] or batching["lost"] > 0
    assert (callers["failed"], callers["took_us.max"]) == (0, 0), "code takes no time there and a pod's call never waits"
    assert callers["calls"] == callers["calls.in.broker_down"] + callers["calls.outside"]


def test_a_frozen_broker_is_noticed_by_nobody_and_every_publisher_is_wrong_for_almost_as_long(frozen: Run) -> None:
    checkers = judge(frozen, only=["fallback", "deaf", "ledger"]).checkers
    fallback, deaf = checkers["fallback"], checkers["deaf"]
    fault_s = float((frozen.faults["end_ns"] - frozen.faults["begin_ns"]).iloc[0]) / 1e9
    assert (fallback.counts["noticed"], fallback.counts["memory_s.sum"]) == (0, 0)
    assert fallback.counts["unnoticed"] == 12, "pods that publish have no answer, and analytics hears over a second late"
    assert fault_s - 1 < fallback.metrics["truth_gap_s_max"] < fault_s + 0.1
    assert fallback.metrics["time_to_notice_s_max"] == Bounds(fault_s, math.inf), "a limit cannot be kept by never noticing"
    assert all(text.startswith("evt_") for text in fallback.witnesses) and len(fallback.witnesses) == 3
    assert (checkers["ledger"].counts["missing"], deaf.counts["lost"], deaf.counts["deaf"]) == (0, 0, 0)


@pytest.mark.deep
def test_in_an_hour_of_virtual_time_every_outage_is_accounted_for_and_between_them_nothing_is_lost(tmp_path: Path) -> None:
    begins = range(60, HOUR_S - EVERY_S // 2, EVERY_S)
    faults = ",".join(f'{{kind="broker_down",at_s={at},for_s={DOWN_S}}}' for at in begins)
    settings = (f"faults=[{faults}]", f"load.run_s={HOUR_S}", "load.rate_per_s=20", "slo={}")
    run = ran(load_scenario("broker_down", settings=settings), folder=tmp_path / "run")
    verdict = judge(run)
    assert verdict.verdict == "valid", verdict.reasons
    counts = verdict.checkers["ledger"].counts
    assert counts["unexplained"] == counts["unexpected"] == counts["duplicate"] == 0 < counts["missing"]
    assert len(run.faults) == len(begins)
    intended = run.publishes.drop_duplicates("event").set_index("event")["intended_ns"]
    rows = run.ledger()
    gone_s = (rows.loc[rows["fate"] == "missing", "event"].map(intended) - run.phases["run"][0]) / 1e9
    assert ((gone_s - 60) % EVERY_S < DOWN_S + SETTLED_S).all()
    assert len(((gone_s - 60) // EVERY_S).unique()) == len(begins), "each outage lost something"
