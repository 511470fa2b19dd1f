"""When a pod could not hear, and what a fault on its link explains of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from sim.results.opened_run import open_run
from sim.results.silent_windows import LOSING
from tests.support.run_folders import MS, SECOND, US, Event, RunFolder

AT_NS = 12 * SECOND


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run").service("web", replicas=2)


def silent(plan: RunFolder, *, lost_ns: int, back_ns: int, first_ns: int) -> list[Event]:
    """Publish for a second; web-0 hears nothing from `first_ns` to `back_ns`, and notices at `lost_ns`. Return what it did not hear."""
    events = plan.publish(1000, start_ns=AT_NS)
    plan.state("web-0", lost_ns, "disconnected").state("web-0", back_ns, "subscribed")
    gone = [event for event in events if first_ns <= event.sent_ns < back_ns]
    for event in gone:
        plan.drop(event, "web-0")
    return gone


def causes(plan: RunFolder) -> Counter[str]:
    ledger = open_run(plan.write()).ledger()
    return Counter(ledger.loc[ledger["fate"] == "missing", "cause"].astype(str))


def in_fault(events: list[Event], end_ns: int) -> int:
    return sum(event.sent_ns <= end_ns for event in events)


@pytest.mark.parametrize("fault", sorted(LOSING))
def test_what_a_bad_link_lost_is_cut_link_and_what_came_before_the_pod_was_back_is_deaf(plan: RunFolder, fault: str) -> None:
    """Also what was on its way when the fault began, five milliseconds before."""
    begin_ns, end_ns = AT_NS + 200 * MS + 500 * US, AT_NS + 400 * MS + 500 * US
    plan.faults.append((fault, "web-0,api-0", begin_ns, end_ns))
    gone = silent(plan, lost_ns=begin_ns + MS, back_ns=AT_NS + 600 * MS + 500 * US, first_ns=begin_ns - 5 * MS)
    lost = in_fault(gone, end_ns)
    assert causes(plan) == {"cut-link": lost, "deaf": len(gone) - lost}
    assert lost > 200
    assert len(gone) - lost > 150


@pytest.mark.parametrize(
    ("fault", "target"), [("link_slow", "web-0"), ("pod_freeze", "web-0"), ("partition", "web-1"), ("broker_down", "broker")]
)
def test_a_fault_that_loses_nothing_on_this_link_explains_nothing(plan: RunFolder, fault: str, target: str) -> None:
    plan.faults.append((fault, target, AT_NS + 200 * MS, AT_NS + 400 * MS))
    gone = silent(plan, lost_ns=AT_NS + 201 * MS, back_ns=AT_NS + 600 * MS, first_ns=AT_NS + 201 * MS)
    assert causes(plan) == {"deaf": len(gone)}


def test_a_connection_that_was_lost_before_the_fault_was_not_lost_by_it(plan: RunFolder) -> None:
    begin_ns, end_ns = AT_NS + 300 * MS + 500 * US, AT_NS + 400 * MS + 500 * US
    plan.faults.append(("partition", "web-0", begin_ns, end_ns))
    gone = silent(plan, lost_ns=AT_NS + 200 * MS, back_ns=AT_NS + 600 * MS + 500 * US, first_ns=AT_NS + 200 * MS)
    inside = sum(event.acked_ns >= begin_ns and event.sent_ns <= end_ns for event in gone)
    assert causes(plan) == {"cut-link": inside, "deaf": len(gone) - inside}
    assert 90 < inside < 110


def test_a_bad_link_does_not_excuse_what_was_lost_before_a_later_event_was_heard(plan: RunFolder) -> None:
    events = plan.publish(100, start_ns=AT_NS)
    plan.faults.append(("link_reset", "web-0", AT_NS, AT_NS + 100 * MS))
    plan.state("web-0", events[50].sent_ns + 500 * US, "disconnected").state("web-0", events[50].sent_ns + 600 * US, "subscribed")
    plan.drop(events[40], "web-0")
    assert causes(plan) == {"unexplained": 1}


def test_without_a_lost_connection_a_bad_link_explains_nothing(plan: RunFolder) -> None:
    """TCP repeats what a black hole swallowed: it may be late, not lost."""
    events = plan.publish(100, start_ns=AT_NS)
    plan.faults.append(("link_blackhole", "web-0", AT_NS, AT_NS + 100 * MS))
    plan.drop(events[40], "web-0")
    assert causes(plan) == {"unexplained": 1}


def test_a_cut_for_a_full_buffer_is_a_cut_behind_a_bad_link_too(plan: RunFolder) -> None:
    plan.faults.append(("link_blackhole", "web-0", AT_NS + 100 * MS, AT_NS + 500 * MS))
    gone = silent(plan, lost_ns=AT_NS + 500 * MS, back_ns=AT_NS + 600 * MS, first_ns=AT_NS + 100 * MS)
    plan.broker.append((AT_NS + 300 * MS, "buffer_cuts", "web-0", 1.0))
    assert causes(plan) == {"cut": len(gone)}


def test_a_pod_that_starts_behind_a_partition_is_cut_off_as_long_as_that_lasts(plan: RunFolder) -> None:
    events = plan.publish(100, start_ns=AT_NS)
    plan.pods["new"] = ("web", "config.updated")
    plan.state("new", events[10].sent_ns - 1, "starting").state("new", events[60].sent_ns - 10 * US, "subscribed")
    plan.state("new", 30 * SECOND, "stopped")
    plan.faults.append(("partition", "new", AT_NS, events[40].sent_ns - 10 * US))
    for event in events[60:]:
        plan.hear(event, "new")
    assert causes(plan) == {"cut-link": 30, "deaf": 20}


@pytest.mark.parametrize(("answered_ms", "expected"), [(50, {"pod-down": 1}), (-50, {"unexplained": 1})])
def test_the_end_of_all_pods_excuses_only_what_had_no_answer_yet(plan: RunFolder, answered_ms: int, expected: dict[str, int]) -> None:
    """On a link so slow that the drain is over before the broker has what was sent."""
    events = plan.publish(10, start_ns=AT_NS)
    events[4].acked_ns = 21 * SECOND + answered_ms * MS
    plan.drop(events[4], "web-0").end("web-0", 21 * SECOND, "stopped")
    assert causes(plan) == Counter(expected)


def test_a_row_that_tells_of_a_pod_s_clock_ends_no_silence(plan: RunFolder) -> None:
    """A pod that starts is deaf until it has subscribed, whatever else is told of it meanwhile."""
    plan.state("web-0", AT_NS - SECOND, "aborted").state("web-0", AT_NS, "starting").state("web-0", AT_NS + 300 * MS, "starting")
    plan.clocks["web-0", AT_NS + 300 * MS] = 5 * SECOND
    plan.state("web-0", AT_NS + 600 * MS, "subscribed")
    for event in [event for event in plan.publish(1000, start_ns=AT_NS) if event.sent_ns < AT_NS + 600 * MS]:
        plan.drop(event, "web-0")
    assert causes(plan) == {"deaf": 600}
