"""Every built-in scenario runs, and ends as theory says."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.bus.envelope import BATCH
from sim.checkers import judge
from sim.results import Run, open_run
from sim.run import run_scenario
from sim.scenario import built_in, load_scenario

pytestmark = pytest.mark.broker
SHORT = {
    "baseline": ("load.run_s=3", "load.warm_up_s=0.5", "slo.lag_ms_p99=10000"),  # a busy machine must not fail a test
    "cluster_fanout": ("load.run_s=2",),
    "graceful_shutdown": (),
    "lock_lab": (),
    "memory_mode": ("load.run_s=3", "load.warm_up_s=0.5"),
    "restart_redis": (),
    "streams_vs_pubsub": ("load.run_s=3", "bus.batch_interval_ms=200"),
}


def baseline(run: Run, counts: dict[str, float]) -> None:
    assert counts["delivered"] == counts["expected"] > 0


def graceful_shutdown(run: Run, counts: dict[str, float]) -> None:
    """Every item waits for the flush, and arrives: once, at the one pod that counts them."""
    batches = run.publishes[(run.publishes["channel"] == BATCH) & (run.publishes["items"] > 0)]  # without the probes
    assert set(batches["publisher"]) == {f"music-service-{n}" for n in range(3)} | {f"api-gateway-{n}" for n in range(2)}
    assert len(batches) == 5, "one part-full batch a publisher"
    assert batches["items"].max() < 1000
    heard = run.deliveries.merge(batches, on="event", suffixes=("", "_publish"))
    assert set(heard["pod"]) == {"analytics-service-0"}
    calls = run.calls
    offered = calls[calls["channel"] == BATCH]
    assert heard["items"].sum() == len(offered) > 500
    assert len(calls) == run.info["load"]["offered_calls"]
    assert set(calls["outcome"]) == {"ok"}
    assert counts["missing"] == 0
    assert (run.ledger()["fate"] == "delivered").all()


def lock_lab(run: Run, counts: dict[str, float]) -> None:
    """The reference's snippet runs most events more than once when pods hear them further apart than the handler takes."""
    once = judge(run).checkers["once"].counts
    assert once["twice_or_more"] > once["pairs"] / 2
    assert once["never"] == 0


def memory_mode(run: Run, counts: dict[str, float]) -> None:
    """Only the publisher's own pod hears, where it subscribes; all else is missing with that cause."""
    ledger = run.ledger()
    own = ledger["pod"].astype(str) == ledger["publisher"].astype(str)
    assert (ledger.loc[own, "fate"] == "delivered").all()
    assert (ledger.loc[own, "path"] == "memory").all()
    assert (ledger.loc[~own, "fate"] == "missing").all()
    assert counts["missing"] == counts["sent-in-memory-mode"] == counts["expected"] - counts["delivered"] > 0


def restart_redis(run: Run, counts: dict[str, float]) -> None:
    """Every pod notices, falls back, and comes back; what is missing was in the pod only, its hearer was deaf, or it was refused."""
    refused = run.publishes[run.publishes["outcome"] == "refused"]
    assert (refused["intended_ns"] < run.faults["end_ns"][0]).all(), "only between the kill and when its publisher notices"
    assert counts["missing"] == counts["sent-in-memory-mode"] + counts["deaf"] + counts.get("publish-refused", 0)
    assert min(counts["sent-in-memory-mode"], counts["deaf"]) > 0
    for _, life in run.pods.groupby("pod", observed=True):
        assert life["bus"].tolist()[:3] == ["connecting", "mute", "connected"]
        assert "outage" in life["bus"].tolist()
        assert life["bus"].tolist()[-2:] == ["connected", "stopped"]
    fault = run.faults.iloc[0]
    assert (fault["fault"], fault["target"]) == ("broker_down", "broker")
    assert fault["end_ns"] - fault["begin_ns"] >= 3_000_000_000
    ledger = run.ledger()
    after = run.publishes["intended_ns"].to_numpy() > fault["end_ns"] + 3_000_000_000
    late = set(run.publishes["event"].to_numpy()[after].tolist())
    assert (ledger.loc[ledger["event"].isin(late), "fate"] == "delivered").all(), "after recovery nothing is lost"


def streams_vs_pubsub(run: Run, counts: dict[str, float]) -> None:
    """One pod of each service gets an event: an invalidation leaves the other caches stale, and analytics counts once."""
    assert counts["expected"] - counts["delivered"] == counts["missing"] == counts["taken-by-peer"] > 0
    assert set(handled_per_event(run).values()) == {1}
    ledger = run.ledger()
    ledger = ledger[ledger["phase"] != "probe"]
    heard = ledger[ledger["fate"] == "delivered"].groupby(["event", "service"], observed=True).size()
    assert (heard == 1).all()
    assert len(heard) == len(ledger.groupby(["event", "service"], observed=True))
    stale = ledger[(ledger["service"] == "music-service") & (ledger["fate"] == "missing")]
    invalidations = run.publishes[run.publishes["channel"].astype(str).str.startswith("config.") & (run.publishes["phase"] != "probe")]
    invalidations = invalidations[invalidations["items"] > 0]
    assert len(stale[stale["event"].isin(invalidations["event"])]) == 2 * len(invalidations) > 0, "two of three caches, each time"
    assert set(run.publishes.loc[run.publishes["outcome"] == "acknowledged", "receivers"]) == {-1}


def handled_per_event(run: Run) -> dict[str, float]:
    counts = judge(run).checkers["duplication"].counts
    return {name.partition(".")[2]: count for name, count in counts.items() if name.startswith("handled_per_event.")}


def cluster_fanout(run: Run, counts: dict[str, float]) -> None:
    """Twenty pods hear every event of the load, on one server as on a cluster."""
    loaded = run.publishes[(run.publishes["phase"] == "run") & (run.publishes["items"] > 0)]
    assert counts["delivered"] == counts["expected"] == 20 * len(loaded) > 20_000


EXPECTED = {
    check.__name__: check
    for check in (baseline, cluster_fanout, graceful_shutdown, lock_lab, memory_mode, restart_redis, streams_vs_pubsub)
}


def test_every_scenario_has_an_expectation() -> None:
    assert set(EXPECTED) == set(built_in()) == set(SHORT)


EVERYWHERE = [*((name, "embedded") for name in sorted(EXPECTED)), ("cluster_fanout", "cluster")]


@pytest.mark.parametrize(("name", "ground"), [*EVERYWHERE, pytest.param("restart_redis", "container", marks=pytest.mark.container)])
def test_a_scenario_ends_as_theory_says(name: str, ground: str, tmp_path: Path) -> None:
    run = open_run(run_scenario(load_scenario(name, settings=SHORT[name]), on=ground, out=tmp_path / "run"))
    verdict = judge(run)
    assert verdict.verdict == "valid", verdict.reasons
    counts = verdict.checkers["ledger"].counts
    assert counts["unexplained"] == counts["unexpected"] == counts["duplicate"] == 0
    EXPECTED[name](run, counts)


@pytest.mark.parametrize(("recipe", "handler_ms"), [("keep-marker", 0.5), ("two-key", 0.5), ("finally-del", 20), ("token-del", 20)])
def test_a_marker_or_a_handler_slower_than_the_skew_makes_it_once(recipe: str, handler_ms: float, tmp_path: Path) -> None:
    settings = (f"bus.once={recipe}", f"services.music-service.handler_ms={handler_ms}", "load.run_s=2")
    run = open_run(run_scenario(load_scenario("lock_lab", settings=settings), out=tmp_path / "run"))
    verdict = judge(run)
    assert verdict.verdict == "valid", verdict.reasons
    once = verdict.checkers["once"].counts
    assert once["once"] == once["pairs"] > 100
    assert set(run.deliveries["outcome"]) == {"handled", "skipped"}, "the others looked and left it"


@pytest.mark.parametrize("transport", ["pubsub", "memory"])
def test_without_groups_every_pod_gets_each_event_and_two_analytics_pods_count_twice(transport: str, tmp_path: Path) -> None:
    settings = (*SHORT["streams_vs_pubsub"], f"bus.transport={transport}")
    run = open_run(run_scenario(load_scenario("streams_vs_pubsub", settings=settings), out=tmp_path / "run"))
    verdict = judge(run)
    assert verdict.verdict == "valid", verdict.reasons
    counts = verdict.checkers["ledger"].counts
    assert counts["delivered"] == counts["expected"] == counts["publish_receivers"] > 0
    assert handled_per_event(run) == {"ai-config-service": 1, "analytics-service": 2, "music-service": 3}
