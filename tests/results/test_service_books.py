"""The books per service on runs whose every event is known: heard by all its pods, some, none, and owed to a service without a pod."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.record.limits import MetricName
from sim.results.checkers import Verdict, judge
from sim.results.checkers.verdict import Bounds
from sim.results.opened_run import Run, open_run
from tests.support.examples import examples
from tests.support.run_folders import MS, RUN_NS, SECOND, RunFolder, causes, fates


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    """A service of two pods, and one of a single pod that is away from the fourth event of ten on until before the eighth."""
    return away(RunFolder(tmp_path / "run").service("web", replicas=2).pod("far-0", service="far"))


def away(plan: RunFolder) -> RunFolder:
    events = plan.publish(10)
    plan.state("far-0", events[3].sent_ns, "aborted").state("far-0", events[7].sent_ns - 2, "starting")
    plan.state("far-0", events[7].sent_ns - 1, "subscribed")
    for event in events[3:7]:
        plan.drop(event, "far-0")
    return plan


def metrics(run: Run) -> dict[str, float | Bounds]:
    return {name: value for result in judge(run).checkers.values() for name, value in result.metrics.items()}


def limits(plan: RunFolder) -> Verdict:
    return judge(open_run(plan.write()))


def test_an_event_for_a_service_without_a_living_pod_is_one_missing_copy_of_it(plan: RunFolder) -> None:
    plan.slo = {"missing.all": 0, 'missing.service."web"': 0, 'missing.service."far"': 3}
    plan.slo |= {"unserved.service.far": 4, "unserved_ratio.all": 0.2}
    verdict = limits(plan)
    assert {limit.metric: (limit.verdict, limit.measured) for limit in verdict.slo} == {
        "missing": ("invalid", 4),
        'missing.service."web"': ("valid", 0),
        'missing.service."far"': ("invalid", 4),
        'unserved.service."far"': ("valid", 4),
        "unserved_ratio": ("valid", 0.2),
    }
    ledger = verdict.checkers["ledger"]
    assert ledger.verdict == "valid", "the books balance"
    assert (ledger.counts["no-pod"], ledger.counts["expected"], ledger.counts["pairs"], ledger.counts["unserved"]) == (4, 30, 20, 4)
    assert ledger.detail.startswith("of 10 events that far should handle 4 reached none of its pods; of 30 expected copies 26 were")
    assert ledger.witnesses[0] == f"{plan.events[3].id} on config.updated: missing at far, no-pod"


def test_the_ledger_and_the_story_name_the_service(plan: RunFolder) -> None:
    run = open_run(plan.write())
    assert fates(run) == {"delivered": 26, "missing": 4} and causes(run) == {"no-pod": 4}
    rows = run.ledger().query("cause == 'no-pod'")
    assert rows["pod"].isna().all() and set(rows["service"]) == {"far"} and set(rows["event"]) == {event.key for event in plan.events[3:7]}
    story = run.story(plan.events[4].id)
    assert "far missing, no-pod: no pod of the service was alive" in story
    assert "(it had no pod from -950 us to +3.05 ms)" in story
    assert "no-pod" not in run.story(plan.events[2].id)


def test_half_served_is_heard_by_some_of_its_pods(plan: RunFolder) -> None:
    plan.drop(plan.events[0], "web-1").drop(plan.events[1], "web-0")
    plan.state("web-0", RUN_NS, "disconnected").state("web-0", RUN_NS + 9 * SECOND, "subscribed")
    found = metrics(open_run(plan.write()))
    assert (found["half_served"], found['half_served.service."web"'], found['half_served.service."far"']) == (2, 2, 0)
    assert (found["unserved"], found['unserved.channel."config.updated"']) == (4, 4)
    assert judge(open_run(plan.folder)).checkers["ledger"].detail.startswith("missing copies without an explanation: 1")


def test_what_its_publisher_knew_comes_before_no_pod(plan: RunFolder) -> None:
    for outcome in ("refused", "memory", "unknown"):
        plan.event(plan.events[4].intended_ns, outcome=outcome, acked_ns=0)
    plan.event(plan.events[4].intended_ns, outcome="never-sent", sent_ns=0, acked_ns=0)
    run = open_run(plan.write())
    rows = run.ledger().query("service == 'far' and fate != 'delivered'")
    assert sorted(rows["cause"].astype(str)) == ["", "never-sent", *["no-pod"] * 4, "publish-refused", "sent-in-memory-mode"]
    found = metrics(run)
    assert found['missing.service."far"'] == Bounds(7, 8) and found['unserved.service."far"'] == Bounds(7, 8)
    assert judge(run).checkers["ledger"].verdict == "valid"


def test_what_a_stream_kept_and_a_pod_read_later_is_not_missing(plan: RunFolder) -> None:
    plan.transport = "streams"
    for event in plan.events[3:6]:
        plan.hear(event, "far-0", lag_ns=SECOND)
    for event in plan.events:
        plan.drop(event, "web-1")  # a group hands an entry to one pod
    run = open_run(plan.write())
    assert causes(run) == {"no-pod": 1, "taken-by-peer": 10}
    found = metrics(run)
    assert (found["unserved"], found["half_served"], found['missing.service."far"']) == (1, 0, 1)
    assert judge(run).checkers["ledger"].detail.startswith("of 10 events that far should handle 1 reached none of its pods")


def test_a_pod_that_comes_alive_before_the_answer_and_hears_it_serves(plan: RunFolder) -> None:
    event = plan.event(RUN_NS + 5 * SECOND, acked_ns=RUN_NS + 5 * SECOND + 9 * MS)
    plan.state("far-0", event.sent_ns - MS, "aborted").state("far-0", event.sent_ns + MS, "subscribed")
    for pod in plan.pods:
        plan.hear(event, pod, lag_ns=6 * MS)
    run = open_run(plan.write())
    assert causes(run, event) == {} and judge(run).checkers["ledger"].verdict == "valid"


def test_a_service_of_the_scenario_that_never_had_a_pod_is_owed_all_the_same(plan: RunFolder) -> None:
    plan.scenario = '[services.ghost]\nsubscribes = ["config.updated"]\n[services.mute]\nsubscribes = []\n'
    run = open_run(plan.write())
    assert run.services == ["far", "ghost", "web"]
    assert metrics(run)['missing.service."ghost"'] == 10
    plan.info.fleet = "none"
    assert open_run(plan.write()).services == ["far", "web"], "who hears is not known there"


def test_an_event_counts_with_its_phase_and_once(plan: RunFolder) -> None:
    plan.state("far-0", 9 * SECOND - MS, "aborted").state("far-0", 9 * SECOND + MS, "subscribed")
    plan.event(9 * SECOND - 60_000)  # in the warm-up
    found = metrics(open_run(plan.write()))
    assert found["unserved"] == 4


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    pods=st.lists(st.lists(st.integers(0, 40), max_size=4, unique=True), min_size=1, max_size=3),
    sent=st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["acknowledged", "unknown", "refused"])), min_size=1, max_size=12),
    lost=st.sets(st.integers(0, 35), max_size=6),
)
def test_pairs_are_those_of_a_plain_loop(pods: list[list[int]], sent: list[tuple[int, str]], lost: set[int]) -> None:
    """Each pod of one service is gone and back in turn at its times; copies are lost by chance."""
    with tempfile.TemporaryDirectory() as name:
        plan = RunFolder(Path(name) / "run")
        for number, changes in enumerate(pods):
            plan.pod(f"far-{number}", service="far")
            for n, at in enumerate(sorted(changes)):
                plan.state(f"far-{number}", RUN_NS + at * MS, "subscribed" if n % 2 else "aborted")
        expected = {"unserved": 0, "half_served": 0, "alone": 0, "in_doubt": 0}
        for n, (at, outcome) in enumerate(sent):
            event = plan.event(RUN_NS + at * MS, outcome=outcome, **({} if outcome == "acknowledged" else {"acked_ns": 0}))
            due = event.intended_ns if outcome == "refused" else event.sent_ns
            alive = [p for p, changes in enumerate(pods) if not sum(RUN_NS + c * MS <= due for c in changes) % 2]
            hearing = [p for p in alive if outcome != "refused" and n * 3 + p not in lost]
            for pod in hearing:
                plan.hear(event, f"far-{pod}")
            expected["unserved"] += not hearing
            expected["half_served"] += 0 < len(hearing) < len(alive)
            expected["alone"] += not alive
            expected["in_doubt"] += not hearing and outcome == "unknown"
        run = open_run(plan.write())
        served = run.tally.served(MetricName(""))
        assert {name: served[name] for name in ("unserved", "half_served", "in_doubt")} == {
            name: expected[name] for name in ("unserved", "half_served", "in_doubt")
        }
        assert len(run.service_books.alone) == expected["alone"]
        assert "balance" not in judge(run, only=["ledger"]).checkers["ledger"].detail
