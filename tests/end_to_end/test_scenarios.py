"""Every built-in scenario ends as theory says: on the model in virtual time, and once on a real server with the same expectation."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from sim.bus.envelope import BATCH
from sim.bus.services import BEHAVIOURS
from sim.bus.services.analytics import AnalyticsService
from sim.record.schema import HTTP_CALL
from sim.results.checkers import judge
from sim.results.opened_run import Run
from sim.scenario.file import built_in, load_scenario
from tests.support.faults_of_pods_and_links import (
    clock_skew,
    handler_error,
    link_blackhole,
    link_cut,
    link_reset,
    link_slow,
    machine_down,
    partition,
    pod_freeze,
    pod_kill,
    pod_start_in_outage,
    pod_stop,
    rolling_restart,
    slow_handler,
)
from tests.support.ran import ran
from tests.support.unknown import Starvation

UPDATES = ("config.template.invalidated", "config.provider.invalidated")
CLEAR_ALL = "aiponge:*:templates:*"
SHORT = {
    "baseline": ("load.run_s=3", "load.warm_up_s=0.5", "slo.lag_ms_p99=10000"),  # a busy machine must not fail a test
    "batch_size": ("load.rate_per_s=200", "load.run_s=2"),
    "broker_down": (),
    "broker_failover": (),
    "broker_freeze": (),
    "broker_slow": (),
    "broker_stop": (),
    "buffer_limit": (),
    "cache_invalidation": (),
    "clock_skew": (),
    "cluster_fanout": ("load.run_s=2",),
    "connections_refused": (),
    "graceful_shutdown": (),
    "handler_error": (),
    "http_vs_bus": (),
    "keys_lost": (),
    "link_blackhole": (),
    "link_cut": (),
    "link_reset": (),
    "link_slow": (),
    "lock_lab": (),
    "machine_down": (),
    "memory_mode": ("load.run_s=3", "load.warm_up_s=0.5"),
    "partition": (),
    "pod_freeze": (),
    "pod_kill": (),
    "pod_start_in_outage": (),
    "pod_stop": (),
    "publishers_cut": (),
    "reconnect_stampede": (),
    "restart_redis": (),
    "rolling_restart": (),
    "slow_handler": (),
    "streams_vs_pubsub": ("load.run_s=3", "bus.batch_interval_ms=200"),
    "subscribers_cut": (),
}


def baseline(run: Run, counts: dict[str, float]) -> None:
    assert counts["delivered"] == counts["expected"] > 0


def cache_invalidation(run: Run, counts: dict[str, float]) -> None:
    """Without a fault a copy is served stale only until its own pod heard of the update, and every pod hears."""
    assert counts["delivered"] == counts["expected"] > 1000
    assert CLEAR_ALL in set(run.publishes["subject"]), "pattern clears are mixed in"
    assert run.reads.groupby("pod", observed=True)["subject"].nunique().max() > 500, "more templates than a cache holds"
    judged = judge(run).checkers["staleness"].counts
    in_virtual_time = run.info.ground == "model"  # elsewhere a busy machine reads less, and a copy is stale as long as its pod is late
    assert judged["reads"] > (30_000 if in_virtual_time else 3_000)
    assert 0 < judged["hits"] < judged["reads"]
    assert judged["updates"] > 200
    assert judged["never_heard"] == judged["not_dropped"] == judged["after_handling"] == 0
    stale = stale_reads(run)
    assert len(stale) == judged["stale_reads"] < judged["reads"] / (100 if in_virtual_time else 1)
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


def batch_size(run: Run, counts: dict[str, float]) -> None:
    """Full batches leave while the load runs, the rest with the flush; no item is lost."""
    batches = run.publishes[(run.publishes["channel"] == BATCH) & (run.publishes["items"] > 0)]
    assert batches["items"].sum() == run.info.load.offered_calls
    assert set(batches["items"].iloc[:-1]) == {100}


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
    assert len(calls) == run.info.load.offered_calls
    assert set(calls["outcome"]) == {"ok"}
    assert counts["missing"] == 0
    assert (run.ledger()["fate"] == "delivered").all()


def http_vs_bus(run: Run, counts: dict[str, float]) -> None:
    """A caller by HTTP waits for a round trip, one by the bus for its own code; both ways every call is made and succeeds."""
    calls = run.calls
    assert set(calls["outcome"]) == {"ok"}
    assert len(calls) == run.info.load.offered_calls
    took_ns = calls.groupby("channel", observed=True)["took_ns"].median()
    assert set(took_ns.index) == {BATCH, HTTP_CALL}
    assert took_ns[HTTP_CALL] > 3 * took_ns[BATCH]
    assert (took_ns[BATCH] == 0) == (run.info.ground == "model"), "in virtual time a pod's own code takes none"
    assert counts["delivered"] == counts["expected"] > 0


def lock_lab(run: Run, counts: dict[str, float]) -> None:
    """The reference's snippet runs most events more than once when pods hear them further apart than the handler takes.

    A busy machine makes handlers take longer: how many is certain in virtual time only.
    """
    once = judge(run).checkers["once"].counts
    assert once["twice_or_more"] > once["pairs"] * (0.9 if run.info.ground == "model" else 0.1)
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
    for _, history in run.pods.groupby("pod", observed=True):
        assert history["bus"].tolist()[:3] == ["connecting", "mute", "connected"]
        assert "outage" in history["bus"].tolist()
        assert history["bus"].tolist()[-2:] == ["connected", "stopped"]
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


def only(counts: dict[str, float], *causes: str) -> None:
    """What is missing has one of these causes."""
    assert counts["missing"] == sum(counts[cause] for cause in causes)


def all_is_heard_again(run: Run) -> None:
    """What was published three seconds after the last fault, when every pod has had time to come back, all arrives."""
    after = run.publishes["intended_ns"].to_numpy() > run.faults["end_ns"].max() + 3_000_000_000
    late = run.publishes[after & (run.publishes["phase"] == "run")]
    assert len(late) > 0
    ledger = run.ledger()
    assert (ledger.loc[ledger["event"].isin(late["event"]), "fate"] == "delivered").all()


def told(run: Run) -> dict[str, list[str]]:
    """Return what each pod believed of its connections since it was connected first."""
    return {str(pod): history["bus"].tolist()[2:] for pod, history in run.pods.groupby("pod", observed=True)}


def nobody_noticed(run: Run) -> bool:
    return all(history == ["connected", "stopped"] for history in told(run).values())


def broker_down(run: Run, counts: dict[str, float]) -> None:
    """Every pod notices and speaks to itself; nothing but that, deafness and a refusal at the kill explains what is missing."""
    only(counts, "sent-in-memory-mode", "deaf", "publish-refused")
    assert min(counts["sent-in-memory-mode"], counts["deaf"]) > 0
    assert all("outage" in history for history in told(run).values())
    all_is_heard_again(run)


def broker_stop(run: Run, counts: dict[str, float]) -> None:
    """To a pod an orderly end is as sudden as a kill: the reference says goodbye to nobody."""
    broker_down(run, counts)


def broker_freeze(run: Run, counts: dict[str, float]) -> None:
    """Nobody gets an error, so nobody falls back; all is heard, as late as the broker stood still."""
    assert nobody_noticed(run)
    assert counts["delivered"] == counts["expected"] > 1000
    assert run.ledger()["lag_us"].max() > 2_000_000


def broker_slow(run: Run, counts: dict[str, float]) -> None:
    """What waits behind the slow command is late by what is left of it; nothing is lost, and nobody notices."""
    assert nobody_noticed(run)
    assert counts["delivered"] == counts["expected"] > 1000
    ledger = run.ledger().merge(run.publishes[["event", "intended_ns"]], on="event")
    before = ledger["intended_ns"] < run.faults["begin_ns"].min()
    assert ledger.loc[~before, "lag_us"].max() > 200_000


def broker_failover(run: Run, counts: dict[str, float]) -> None:
    """The channels of the dead master have nobody until a replica is promoted; the others go on."""
    only(counts, "sent-in-memory-mode", "deaf", "publish-refused", "not-whole")
    assert counts["missing"] > 0
    pod_histories = told(run).values()
    assert any("connected" not in state for history in pod_histories for state in history[1:-1])
    all_is_heard_again(run)


def subscribers_cut(run: Run, counts: dict[str, float]) -> None:
    """The pods publish all the time and never fall back: all that is missing was published to the deaf."""
    only(counts, "deaf")
    assert counts["deaf"] > 0
    assert set(run.publishes["outcome"]) == {"acknowledged"}
    assert all(set(history) == {"connected", "deaf", "stopped"} for history in told(run).values())
    all_is_heard_again(run)


def publishers_cut(run: Run, counts: dict[str, float]) -> None:
    """The pods hear all the time, and what they say meanwhile stays inside them."""
    only(counts, "sent-in-memory-mode", "publish-refused")
    assert counts["sent-in-memory-mode"] > 0
    assert all(set(history) == {"connected", "mute", "stopped"} for history in told(run).values())
    assert "disconnected" not in set(run.pods["state"])
    all_is_heard_again(run)


def reconnect_stampede(run: Run, counts: dict[str, float]) -> None:
    """The broker is there all the time, and takes events of pods that are back for pods that are not."""
    only(counts, "sent-in-memory-mode", "deaf", "publish-refused")
    assert len(run.faults) == 3
    lost = run.pods[run.pods["state"] == "disconnected"].groupby("pod", observed=True).size()
    assert len(lost) == 11
    assert (lost >= 3).all()
    assert counts["sent-in-memory-mode"] > 0
    if run.info.ground == "model":  # elsewhere it is a matter of milliseconds who is first
        assert counts["deaf"] > 0
    all_is_heard_again(run)


def buffer_limit(run: Run, counts: dict[str, float]) -> None:
    """Whoever hears analytics is cut after each stall; most of what is missing is missing there."""
    only(counts, "cut", "deaf", "sent-in-memory-mode", "publish-refused")
    ledger = run.ledger()
    cut = ledger[ledger["cause"] == "cut"].groupby("service", observed=True).size()
    assert set(cut[cut > 0].index) >= {"analytics-service"}
    lost = (ledger["fate"] == "missing").groupby(ledger["service"], observed=True).mean()
    assert lost["analytics-service"] > lost["api-gateway"]
    all_is_heard_again(run)


def connections_refused(run: Run, counts: dict[str, float]) -> None:
    """The broker is well and lets nobody in: to a pod that is an outage, from the loss of its connections to the end of the fault."""
    broker_down(run, counts)
    fault = run.faults.iloc[0]
    clients = run.broker[run.broker["metric"] == "connected_clients"]
    meant_ns = run.phases["run"][0] + 5_000_000_000
    during = clients[clients["at_ns"].between(fault["begin_ns"] + 1_000_000_000, meant_ns)]
    assert 0 < during["value"].max() < 7 <= clients["value"].max(), "fewer than there are pods"
    back = run.pods[(run.pods["bus"] == "connected") & (run.pods["at_ns"] > fault["begin_ns"])]
    assert (back["at_ns"] >= meant_ns).all(), "nobody came back in it"


def keys_lost(run: Run, counts: dict[str, float]) -> None:
    """While keys are there the slow service runs each event once; without its lock an event runs again in another pod."""
    assert counts["delivered"] == counts["expected"] > 0
    fault = run.faults.iloc[0]
    heard = run.deliveries[(run.deliveries["outcome"] == "handled") & run.deliveries["pod"].astype(str).str.startswith("music-service")]
    runs = heard.merge(run.publishes[run.publishes["items"] > 0], on="event").groupby("event")
    count, began, last = runs.size(), runs["handled_ns"].min(), runs["handled_ns"].max()
    untouched = (last < fault["begin_ns"]) | (began > fault["end_ns"])
    assert count[~untouched].max() > 1
    assert set(count[untouched]) == {1}


EXPECTED = {
    check.__name__: check
    for check in (
        baseline,
        batch_size,
        broker_down,
        broker_failover,
        broker_freeze,
        broker_slow,
        broker_stop,
        buffer_limit,
        cache_invalidation,
        clock_skew,
        cluster_fanout,
        connections_refused,
        graceful_shutdown,
        handler_error,
        http_vs_bus,
        keys_lost,
        link_blackhole,
        link_cut,
        link_reset,
        link_slow,
        lock_lab,
        machine_down,
        memory_mode,
        partition,
        pod_freeze,
        pod_kill,
        pod_start_in_outage,
        pod_stop,
        publishers_cut,
        reconnect_stampede,
        restart_redis,
        rolling_restart,
        slow_handler,
        streams_vs_pubsub,
        subscribers_cut,
    )
}


def test_every_scenario_has_an_expectation() -> None:
    assert set(EXPECTED) == set(built_in()) == set(SHORT)


CLUSTER_ONLY = ("broker_failover",)
REAL = [*((name, "cluster" if name in CLUSTER_ONLY else "embedded") for name in sorted(EXPECTED)), ("cluster_fanout", "cluster")]
# One of each kind, for each change: what a real server, kernel or loop does otherwise than the model would show in one of them.
REAL_IN_CI = {
    ("baseline", "embedded"),
    ("broker_freeze", "embedded"),
    ("cache_invalidation", "embedded"),
    ("http_vs_bus", "embedded"),
    ("memory_mode", "embedded"),
    ("streams_vs_pubsub", "embedded"),
}
IN_CI = [
    *((name, "model") for name in sorted(EXPECTED) if name not in CLUSTER_ONLY),
    *(pytest.param(*one, marks=pytest.mark.broker) for one in REAL if one in REAL_IN_CI),
    pytest.param("restart_redis", "container", marks=[pytest.mark.broker, pytest.mark.container]),
]
LATE_S = 0.25  # at once: as much as theory gives a pod, a probe or a load to come back, and a phase of a fault to show


def ends_as_theory_says(name: str, ground: str, settings: tuple[str, ...], folder: Path) -> None:
    """Run a scenario; the books must balance on any machine, what depends on time is unknown where the machine withheld too much of it."""
    starved = Starvation()
    run = ran(load_scenario(name, settings=settings), on=ground, folder=folder)
    verdict = judge(run)
    counts = verdict.checkers["ledger"].counts
    assert verdict.verdict != "invalid", verdict.reasons
    assert counts["unexplained"] == counts["unexpected"] == counts["duplicate"] == 0
    with starved.excuses(LATE_S, run=run):
        assert verdict.verdict == "valid", verdict.reasons
        EXPECTED[name](run, counts)


@pytest.mark.parametrize(("name", "ground"), IN_CI)
def test_a_scenario_ends_as_theory_says(name: str, ground: str, tmp_path: Path) -> None:
    ends_as_theory_says(name, ground, SHORT[name], tmp_path / "run")


FULL = {  # else as built in
    "baseline": ("slo.lag_ms_p99=10000",),  # a busy machine must not fail a test
    "batch_size": ("load.rate_per_s=100", "load.run_s=60"),  # as many items in a fifth of its five minutes
}


def test_what_runs_for_each_change_is_among_what_there_is() -> None:
    assert set(REAL) > REAL_IN_CI


@pytest.mark.deep
@pytest.mark.broker
@pytest.mark.parametrize(("name", "ground"), REAL)
def test_a_scenario_ends_as_theory_says_on_a_real_server_and_in_full_length(name: str, ground: str, tmp_path: Path) -> None:
    ends_as_theory_says(name, ground, FULL.get(name, ()), tmp_path / "run")


@pytest.mark.parametrize(("replicas", "on"), [(1, "model"), (2, "model"), pytest.param(2, "embedded", marks=pytest.mark.broker)])
def test_analytics_counts_every_item_of_both_ways(replicas: int, on: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By HTTP one pod counts an item, by the bus every pod does."""
    pods: list[AnalyticsService] = []

    def remembered() -> AnalyticsService:
        pods.append(AnalyticsService())
        return pods[-1]

    monkeypatch.setitem(BEHAVIOURS, "analytics", remembered)
    settings = (f"services.analytics-service.replicas={replicas}", "load.run_s=2")
    scenario = load_scenario("http_vs_bus", settings=settings)
    run = ran(scenario, on=on, folder=tmp_path / "run")
    assert judge(run).verdict == "valid"
    made = run.calls["channel"].value_counts()
    counted = [sum(pod.items.values()) for pod in pods if pod.items]  # checks of the scenario made some that heard nothing
    assert len(counted) == replicas
    assert sum(counted) == made[HTTP_CALL] + replicas * made[BATCH]
    by_http = [count - made[BATCH] for count in counted]
    assert max(by_http) - min(by_http) <= 4, "in turn: each of four pods begins with its own"


@pytest.mark.parametrize(("recipe", "handler_ms"), [("keep-marker", 0.5), ("two-key", 0.5), ("finally-del", 20), ("token-del", 20)])
def test_a_marker_or_a_handler_slower_than_the_skew_makes_it_once(recipe: str, handler_ms: float, tmp_path: Path) -> None:
    """Whether a handler is slower than the skew is certain in virtual time only; on a busy machine the skew has no bound."""
    settings = (f"bus.once={recipe}", f"services.music-service.handler_ms={handler_ms}", "load.run_s=2")
    run = ran(load_scenario("lock_lab", settings=settings), folder=tmp_path / "run")
    verdict = judge(run)
    assert verdict.verdict == "valid", verdict.reasons
    once = verdict.checkers["once"].counts
    assert once["once"] == once["pairs"] > 100
    assert set(run.deliveries["outcome"]) == {"handled", "skipped"}, "the others looked and left it"


def test_copies_that_were_updated_in_an_outage_are_served_until_something_else_clears_them(tmp_path: Path) -> None:
    """Claim: every pod's cache is fresh after an invalidation. Not in the pods that did not hear it."""
    settings = ('faults=[{kind="broker_down", at_s=1.0, for_s=3.0}]', "slo.missing=1e9")
    run = ran(load_scenario("cache_invalidation", settings=settings), folder=tmp_path / "run")
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


@pytest.mark.parametrize(("transport", "on"), [("pubsub", "model"), pytest.param("memory", "embedded", marks=pytest.mark.broker)])
def test_without_groups_every_pod_gets_each_event_and_two_analytics_pods_count_twice(transport: str, on: str, tmp_path: Path) -> None:
    """In virtual time a copy in memory takes none, and the last are heard in the nanosecond in which the pods stop: that one is real."""
    settings = (*SHORT["streams_vs_pubsub"], f"bus.transport={transport}")
    run = ran(load_scenario("streams_vs_pubsub", settings=settings), on=on, folder=tmp_path / "run")
    verdict = judge(run)
    assert verdict.verdict == "valid", verdict.reasons
    counts = verdict.checkers["ledger"].counts
    assert counts["delivered"] == counts["expected"] == counts["publish_receivers"] > 0
    assert handled_per_event(run) == {"ai-config-service": 1, "analytics-service": 2, "music-service": 3}
