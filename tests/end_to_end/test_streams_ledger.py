"""The ledger's words where a consumer group hands an event to one pod of each service."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.results.checkers import judge
from sim.results.opened_run import open_run
from tests.support.run_folders import MS, US, RunFolder, causes, fates


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run", transport="streams").service("web", replicas=3).service("audit", replicas=1)


def test_what_one_pod_of_a_service_heard_the_others_miss_with_that_cause(plan: RunFolder) -> None:
    for n, event in enumerate(plan.publish(9)):
        for pod in {"web-0", "web-1", "web-2"} - {f"web-{n % 3}"}:
            plan.drop(event, pod)
    run = open_run(plan.write())
    assert fates(run) == {"delivered": 18, "missing": 18}
    assert causes(run) == {"taken-by-peer": 18}
    verdict = judge(run)
    assert verdict.verdict == "valid", verdict.reasons
    assert verdict.checkers["duplication"].counts["handled_per_event.web"] == 1
    assert "another pod of its service took it" in run.story(plan.events[0].id)


def test_the_same_losses_on_pubsub_are_unexplained(plan: RunFolder) -> None:
    plan.transport = "pubsub"
    event = plan.publish(9)[4]
    plan.drop(event, "web-0").drop(event, "web-1")
    assert causes(open_run(plan.write())) == {"unexplained": 2}


def test_another_services_pod_is_no_peer(plan: RunFolder) -> None:
    event = plan.publish(9)[4]
    plan.drop(event, "audit-0")
    run = open_run(plan.write())
    assert causes(run) == {"unexplained": 1}
    assert judge(run).verdict == "unknown"


def test_a_silent_window_explains_only_what_no_pod_of_the_service_heard(plan: RunFolder) -> None:
    events = plan.publish(10)
    for number in range(3):
        plan.state(f"web-{number}", events[4].sent_ns, "disconnected").state(f"web-{number}", events[6].sent_ns, "subscribed")
        plan.drop(events[5], f"web-{number}")
    plan.drop(events[4], "web-0").drop(events[4], "web-1")
    run = open_run(plan.write())
    assert causes(run, events[5]) == {"deaf": 3}
    assert causes(run, events[4]) == {"taken-by-peer": 2}


def test_who_heard_proves_that_it_was_published(plan: RunFolder) -> None:
    events = plan.publish(10)
    for event in events[4:6]:
        event.outcome, event.acked_ns = "unknown", 0
    for pod in ("web-0", "web-1"):
        plan.drop(events[4], pod)
    for pod in ("web-0", "web-1", "web-2"):
        plan.drop(events[5], pod)
    run = open_run(plan.write())
    assert causes(run) == {"taken-by-peer": 2}
    assert fates(run)["unknown"] == 3


def test_what_a_pod_heard_of_itself_in_memory_mode_no_peer_took(plan: RunFolder) -> None:
    event = plan.event(plan.publish(3)[-1].intended_ns + MS, outcome="memory")
    plan.hear(event, "web-0", path="memory")
    run = open_run(plan.write())
    assert causes(run, event) == {"sent-in-memory-mode": 3}


def test_what_the_publisher_calls_refused_no_peer_took(plan: RunFolder) -> None:
    event = plan.event(plan.publish(3)[-1].intended_ns + MS, outcome="refused")
    plan.hear(event, "web-0")
    run = open_run(plan.write())
    assert causes(run, event) == {"publish-refused": 4}
    assert fates(run)["unexpected"] == 1


def test_a_pod_that_came_later_may_hear_what_was_kept(plan: RunFolder) -> None:
    events = plan.publish(10)
    plan.pods["late-0"] = ("late", "config.updated")
    plan.state("late-0", events[-1].acked_ns + MS, "starting").state("late-0", events[-1].acked_ns + 2 * MS, "subscribed")
    for event in events[5:]:
        plan.hear(event, "late-0", lag_ns=40 * MS)
    run = open_run(plan.write())
    assert fates(run) == {"delivered": 45, "missing": 5}, "the first five found no pod of its service, and it never read them"
    assert causes(run) == {"no-pod": 5}
    ledger = judge(run, only=["ledger"]).checkers["ledger"]
    assert ledger.verdict == "valid", ledger.detail
    plan.transport, plan.folder = "pubsub", plan.folder.with_name("pubsub")
    assert fates(open_run(plan.write())) == {"delivered": 40, "unexpected": 5, "missing": 10}, "by Pub/Sub nobody kept the ten for it"


@pytest.mark.parametrize(("transport", "verdict"), [("streams", "valid"), ("pubsub", "invalid")])
def test_a_claimed_entry_comes_late_and_twice_and_is_counted(plan: RunFolder, transport: str, verdict: str) -> None:
    plan.transport = transport
    events = plan.publish(10)
    plan.swap(events[2], events[7], "web-0").repeat(events[5], "web-1")
    found = judge(open_run(plan.write()), only=["order", "duplication"])
    assert found.checkers["order"].counts["out_of_order"] > 0
    assert found.checkers["duplication"].counts["redelivered"] == 1
    assert {result.verdict for result in found.checkers.values()} == {verdict}


def test_a_peer_that_handled_it_again_is_two_handlings_of_one_event(plan: RunFolder) -> None:
    events = plan.publish(10)
    for event in events:
        plan.drop(event, "web-2")
    for event in events[1:]:
        plan.drop(event, "web-1")
    plan.delay(events[0], "web-1", 100 * US)
    run = open_run(plan.write())
    assert fates(run) == {"delivered": 21, "missing": 19}
    assert judge(run).checkers["duplication"].counts["handled_per_event.web"] == 1.1
