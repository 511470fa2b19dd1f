"""Every built-in scenario runs, and ends as theory says."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
from faults_of_pods_and_links import (
    clock_skew,
    handler_error,
    link_blackhole,
    link_cut,
    link_reset,
    link_slow,
    partition,
    pod_freeze,
    pod_kill,
    pod_start_in_outage,
    pod_stop,
    rolling_restart,
    slow_handler,
)

from sim.bus.envelope import BATCH
from sim.checkers import judge
from sim.results import Run, open_run
from sim.run import run_scenario
from sim.scenario import built_in, load_scenario
from sim.schema import HTTP_CALL
from sim.services import SERVICES
from sim.services.analytics import AnalyticsService

pytestmark = pytest.mark.broker
UPDATES = ("config.template.invalidated", "config.provider.invalidated")
CLEAR_ALL = "aiponge:*:templates:*"
SHORT = {
    "baseline": ("load.run_s=3", "load.warm_up_s=0.5", "slo.lag_ms_p99=10000"),  # a busy machine must not fail a test
    "cache_invalidation": (),
    "clock_skew": (),
    "cluster_fanout": ("load.run_s=2",),
    "graceful_shutdown": (),
    "handler_error": (),
    "http_vs_bus": (),
    "link_blackhole": (),
    "link_cut": (),
    "link_reset": (),
    "link_slow": (),
    "lock_lab": (),
    "memory_mode": ("load.run_s=3", "load.warm_up_s=0.5"),
    "partition": (),
    "pod_freeze": (),
    "pod_kill": (),
    "pod_start_in_outage": (),
    "pod_stop": (),
    "restart_redis": (),
    "rolling_restart": (),
    "slow_handler": (),
    "streams_vs_pubsub": ("load.run_s=3", "bus.batch_interval_ms=200"),
}


def baseline(run: Run, counts: dict[str, float]) -> None:
    assert counts["delivered"] == counts["expected"] > 0


def cache_invalidation(run: Run, counts: dict[str, float]) -> None:
    """Without a fault a copy is served stale only until its own pod heard of the update, and every pod hears."""
    assert counts["delivered"] == counts["expected"] > 1000
    assert CLEAR_ALL in set(run.publishes["subject"]), "pattern clears are mixed in"
    assert run.reads.groupby("pod", observed=True)["subject"].nunique().max() > 500, "more templates than a cache holds"
    judged = judge(run).checkers["staleness"].counts
    assert judged["reads"] > 30_000
    assert 0 < judged["hits"] < judged["reads"]
    assert judged["updates"] > 200
    assert judged["never_heard"] == judged["not_dropped"] == judged["after_handling"] == 0
    stale = stale_reads(run)
    assert len(stale) == judged["stale_reads"] < judged["reads"] / 100
    lag_us = run.ledger().set_index(["event", "pod"])["lag_us"]
    for event, pod, for_us in stale:
        assert for_us <= lag_us[event, pod], "no longer than the lag of the copy that dropped it"


def stale_reads(run: Run) -> list[tuple[int, str, float]]:
    """Return (first update that was missed, pod, microseconds after it) of the stale reads, by a plain loop over the tables."""
    updates = defaultdict(list)
    published = run.publishes[run.publishes["channel"].isin(UPDATES) & (run.publishes["items"] > 0)]
    for row in published.sort_values("intended_ns").to_dict("records"):
        updates[row["subject"]].append((row["intended_ns"], row["event"]))
    found = []
    start_ns, end_ns = run.phases["run"]
    for row in run.reads.to_dict("records"):
        missed = [one for one in updates[row["subject"]] if row["loaded_ns"] < one[0] <= row["at_ns"]]
        if missed and start_ns <= row["at_ns"] < end_ns:
            found.append((missed[0][1], row["pod"], (row["at_ns"] - missed[0][0]) / 1e3))
    return found


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


def http_vs_bus(run: Run, counts: dict[str, float]) -> None:
    """A caller by HTTP waits for a round trip, one by the bus for its own code; both ways every call is made and succeeds."""
    calls = run.calls
    assert set(calls["outcome"]) == {"ok"}
    assert len(calls) == run.info["load"]["offered_calls"]
    took_ns = calls.groupby("channel", observed=True)["took_ns"].median()
    assert set(took_ns.index) == {BATCH, HTTP_CALL}
    assert took_ns[HTTP_CALL] > 3 * took_ns[BATCH] > 0
    assert counts["delivered"] == counts["expected"] > 0


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
    for check in (
        baseline,
        cache_invalidation,
        clock_skew,
        cluster_fanout,
        graceful_shutdown,
        handler_error,
        http_vs_bus,
        link_blackhole,
        link_cut,
        link_reset,
        link_slow,
        lock_lab,
        memory_mode,
        partition,
        pod_freeze,
        pod_kill,
        pod_start_in_outage,
        pod_stop,
        restart_redis,
        rolling_restart,
        slow_handler,
        streams_vs_pubsub,
    )
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


@pytest.mark.parametrize("replicas", [1, 2])
def test_analytics_counts_every_item_of_both_ways(replicas: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By HTTP one pod counts an item, by the bus every pod does."""
    pods: list[AnalyticsService] = []

    def remembered() -> AnalyticsService:
        pods.append(AnalyticsService())
        return pods[-1]

    monkeypatch.setitem(SERVICES, "analytics-service", remembered)
    settings = (f"services.analytics-service.replicas={replicas}", "load.run_s=2")
    scenario = load_scenario("http_vs_bus", settings=settings)
    run = open_run(run_scenario(scenario, out=tmp_path / "run"))
    assert judge(run).verdict == "valid"
    made = run.calls["channel"].value_counts()
    counted = [sum(pod.items.values()) for pod in pods if pod.items]  # checks of the scenario made some that heard nothing
    assert len(counted) == replicas
    assert sum(counted) == made[HTTP_CALL] + replicas * made[BATCH]
    by_http = [count - made[BATCH] for count in counted]
    assert max(by_http) - min(by_http) <= 4, "in turn: each of four pods begins with its own"


@pytest.mark.parametrize(("recipe", "handler_ms"), [("keep-marker", 0.5), ("two-key", 0.5), ("finally-del", 20), ("token-del", 20)])
def test_a_marker_or_a_handler_slower_than_the_skew_makes_it_once(recipe: str, handler_ms: float, tmp_path: Path) -> None:
    settings = (f"bus.once={recipe}", f"services.music-service.handler_ms={handler_ms}", "load.run_s=2")
    run = open_run(run_scenario(load_scenario("lock_lab", settings=settings), out=tmp_path / "run"))
    verdict = judge(run)
    assert verdict.verdict == "valid", verdict.reasons
    once = verdict.checkers["once"].counts
    assert once["once"] == once["pairs"] > 100
    assert set(run.deliveries["outcome"]) == {"handled", "skipped"}, "the others looked and left it"


def test_copies_that_were_updated_in_an_outage_are_served_until_something_else_clears_them(tmp_path: Path) -> None:
    """Claim: every pod's cache is fresh after an invalidation. Not in the pods that did not hear it."""
    settings = ('faults=[{kind="broker_down", at_s=1.0, for_s=3.0}]', "slo.missing=1e9")
    run = open_run(run_scenario(load_scenario("cache_invalidation", settings=settings), out=tmp_path / "run"))
    verdict = judge(run)
    assert verdict.verdict == "valid", verdict.reasons
    ledger = verdict.checkers["ledger"].counts
    assert ledger["unexplained"] == ledger["unexpected"] == 0
    assert ledger["missing"] > 0
    result = verdict.checkers["staleness"]
    counts = result.counts
    assert counts["stale_reads"] == len(stale_reads(run)) > counts["reads"] / 100, "many more than without a fault"
    assert counts["never_heard"] > counts["stale_pairs"] / 2
    assert counts["after_handling"] == 0
    readers = {f"music-service-{n}" for n in range(3)} | {f"ai-content-service-{n}" for n in range(2)}
    assert counts["never_heard_pods"] in (5, 6), "the pod that publishes hears itself, but for what was on its way when Redis died"
    assert all(pod in result.detail for pod in readers)
    assert all(text.startswith("evt_") and text.endswith("never heard of it") for text in result.witnesses)
    all_back_ns = run.pods.loc[run.pods["state"] == "subscribed", "at_ns"].max()
    assert all_back_ns > run.faults["end_ns"].max()
    intended = run.publishes.set_index("event")["intended_ns"]
    late = {pod for event, pod, for_us in stale_reads(run) if intended[event] + for_us * 1e3 > all_back_ns}
    assert late & readers, "every pod is connected again, and still serves what was updated in the outage"


@pytest.mark.parametrize("transport", ["pubsub", "memory"])
def test_without_groups_every_pod_gets_each_event_and_two_analytics_pods_count_twice(transport: str, tmp_path: Path) -> None:
    settings = (*SHORT["streams_vs_pubsub"], f"bus.transport={transport}")
    run = open_run(run_scenario(load_scenario("streams_vs_pubsub", settings=settings), out=tmp_path / "run"))
    verdict = judge(run)
    assert verdict.verdict == "valid", verdict.reasons
    counts = verdict.checkers["ledger"].counts
    assert counts["delivered"] == counts["expected"] == counts["publish_receivers"] > 0
    assert handled_per_event(run) == {"ai-config-service": 1, "analytics-service": 2, "music-service": 3}
