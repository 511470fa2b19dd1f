"""The checker `steady` on runs whose lab is planted at rest or not, before the first fault and after the last."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from sim.record.schema import FOREIGN_BIT
from sim.results.checkers.steady import check
from sim.results.checkers.verdict import Bounds
from sim.results.opened_run import Run, open_run
from tests.support.run_folders import MS, RUN_NS, SECOND, US, RunFolder

BEGIN, END = 13 * SECOND, 15 * SECOND


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    plan = RunFolder(tmp_path / "run").service("web", replicas=2)
    plan.publish(90, step_ns=100 * MS)  # from 10 to 18.9 s
    plan.faults = [("broker_down", "broker", BEGIN, END)]
    return plan


def judged(plan: RunFolder, *, reattach: str = "automatic", recovered: bool | None = True) -> Run:
    plan.info.recovered = recovered
    folder = plan.write()
    scenario = folder / "scenario.toml"
    scenario.write_text(scenario.read_text().replace("[bus]", f'[bus]\nreattach = "{reattach}"'))
    return open_run(folder)


def test_a_lab_at_rest_before_and_after_is_valid_and_its_return_is_timed(plan: RunFolder) -> None:
    plan.state("web-1", BEGIN + MS, "disconnected", "outage")
    plan.state("web-1", END + 700 * MS, "subscribed", "connected")
    result = check(judged(plan))
    assert result.verdict == "valid"
    assert result.metrics["steady_s_max"] == pytest.approx(0.7)
    assert result.counts["copies_before"] == 56, "of two pods, to a quarter of a second before the fault"


def test_a_copy_lost_after_the_fault_keeps_it_from_being_steady(plan: RunFolder) -> None:
    event = next(e for e in plan.events if e.intended_ns == END + 1500 * MS)
    plan.drop(event, "web-0")
    result = check(judged(plan))
    assert (result.verdict, result.counts["lost_after"]) == ("valid", 1)
    assert result.metrics["steady_s_max"] == pytest.approx(1.5)


def test_a_loss_before_the_fault_leaves_nothing_to_conclude(plan: RunFolder) -> None:
    event = plan.events[5]
    plan.drop(event, "web-0")
    result = check(judged(plan))
    assert result.verdict == "unknown"
    assert "not in its steady state before the first fault: 1 of 56 copies" in result.detail
    assert result.witnesses == [f"{event.id} for web-0"]
    assert math.isnan(result.metrics["steady_s_max"])


def test_what_was_on_its_way_when_the_fault_began_may_have_met_it(plan: RunFolder) -> None:
    event = next(e for e in plan.events if e.intended_ns == BEGIN - 100 * MS)
    plan.drop(event, "web-0")
    assert check(judged(plan)).verdict == "valid"


def test_a_pod_that_comes_and_goes_before_the_fault_is_not_at_rest(plan: RunFolder) -> None:
    plan.state("web-1", 11 * SECOND, "disconnected", "outage")
    plan.state("web-1", 11 * SECOND + MS, "subscribed", "connected")
    result = check(judged(plan))
    assert result.verdict == "unknown" and "web-1 was not at rest" in result.detail


@pytest.mark.parametrize(("reattach", "word"), [("automatic", "invalid"), ("restart", "valid")])
def test_a_lab_that_did_not_recover_says_so_unless_its_policy_lets_pods_be(plan: RunFolder, reattach: str, word: str) -> None:
    plan.state("web-1", BEGIN + MS, "disconnected", "outage")
    result = check(judged(plan, reattach=reattach, recovered=False))
    assert result.verdict == word
    policy = "" if word == "invalid" else ", as bus.reattach = 'restart' lets them be"
    assert result.detail == f"the lab did not recover after the last fault: 1 pod is away, web-1 first{policy}"
    assert result.counts == {"copies_before": 56, "lost_before": 0, "restless_before": 0, "away_after": 1}
    assert list(result.metrics) == ["steady_s_max"] and math.isnan(result.metrics["steady_s_max"])
    assert result.warnings == []


@pytest.mark.parametrize(
    ("retries", "hears", "word"), [(20, False, "valid"), (0, False, "valid"), (-1, False, "invalid"), (20, True, "invalid")]
)
def test_a_pod_whose_first_subscribe_was_rejected_is_let_be_and_one_that_heard_before_is_not(
    plan: RunFolder, retries: int, hears: bool, word: str
) -> None:
    plan.bus = {"client": "ioredis", "ioredis.maxRetriesPerRequest": retries}
    plan.state("web-1", BEGIN + MS, "aborted", "stopped")
    plan.state("web-1", BEGIN + 2 * MS, "starting", "connecting")
    if hears:
        plan.state("web-1", BEGIN + 3 * MS, "subscribed", "connected")
    plan.state("web-1", BEGIN + 4 * MS, "disconnected", "deaf")
    result = check(judged(plan, recovered=False))
    why = ", as bus.ioredis.maxRetriesPerRequest lets them be" if word == "valid" else ""
    assert (result.verdict, result.detail) == (word, f"the lab did not recover after the last fault: 1 pod is away, web-1 first{why}")


def test_with_nobody_away_it_is_not_the_policy_that_keeps_the_lab_from_recovering(plan: RunFolder) -> None:
    result = check(judged(plan, reattach="restart", recovered=False))
    assert result.verdict == "invalid"
    assert "did not recover after the last fault: 0 pods are away" in result.detail and "reattach" not in result.detail


@pytest.mark.parametrize(("redis_url", "word"), [(False, "valid"), (True, "unknown")])
def test_pods_that_never_had_a_broker_hear_themselves_in_their_steady_state(plan: RunFolder, redis_url: bool, word: str) -> None:
    if not redis_url:  # True is what a bus has without the setting
        plan.bus["redis_url"] = False
    event = plan.events[5]
    event.outcome = "memory"
    plan.drop(event, "web-1")
    assert check(judged(plan)).verdict == word


@pytest.mark.parametrize(("later", "restless"), [(11 * SECOND, True), (BEGIN - 1, True), (BEGIN, False), (0, False)])
def test_a_pod_of_which_there_is_only_its_beginning_rests_while_it_stays_so(plan: RunFolder, later: int, restless: bool) -> None:
    plan.pods["late-0"] = ("web", "other")
    plan.state("late-0", 9 * SECOND, "starting", "connected")
    if later:
        plan.state("late-0", later, "subscribed", "connected")
    counts = check(judged(plan)).counts
    assert counts["restless_before"] == int(restless) and counts.get("away_after", 0) == 0


def test_a_pod_that_began_after_the_fault_and_never_connected_is_away(plan: RunFolder) -> None:
    plan.pods["late-0"] = ("web", "other")
    plan.state("late-0", END + SECOND, "starting", "outage")
    assert check(judged(plan)).counts["away_after"] == 1


def test_how_many_faults_were_felt_otherwise_is_said(plan: RunFolder) -> None:
    plan.faults.append(("broker_freeze", "broker", BEGIN + SECOND, END))
    run = judged(plan)
    run.__dict__["faults"] = run.faults.assign(felt=["whole", "in part"])
    start = "steady before the first fault, and again 0 s after the last one's end; "
    result = check(run)
    assert result.detail == f"{start}1 of 2 faults was felt late, in part or not at all"
    assert len(result.warnings) == result.counts["felt_otherwise"] == 1
    run.__dict__["faults"] = run.faults.assign(felt=["late", "in part"])
    assert check(run).detail == f"{start}2 of 2 faults were felt late, in part or not at all"


def test_without_a_fault_there_is_nothing_to_say_and_an_early_end_is_unknown(plan: RunFolder) -> None:
    assert check(judged(plan, recovered=None)).verdict == "unknown"
    plan.faults = []
    plan.folder = plan.folder.with_name("quiet")
    assert check(judged(plan)).detail == "no fault was begun"


def test_what_another_program_said_has_no_part_in_the_steady_state(plan: RunFolder) -> None:
    plan.foreign(FOREIGN_BIT | 1, "web-0", at_ns=11 * SECOND)
    result = check(judged(plan))
    assert (result.verdict, result.counts["copies_before"], result.counts["lost_before"]) == ("valid", 56, 0)


@pytest.mark.parametrize(
    ("early_loss", "away", "reattach", "recovered", "word"),
    [
        (True, False, "automatic", True, "unknown"),
        (False, False, "automatic", None, "unknown"),
        (False, True, "automatic", False, "invalid"),
        (False, True, "restart", False, "valid"),
        (False, False, "automatic", True, "valid"),
    ],
)
def test_however_it_ends_faults_that_were_felt_otherwise_are_warned_of(
    plan: RunFolder, early_loss: bool, away: bool, reattach: str, recovered: bool | None, word: str
) -> None:
    if early_loss:
        plan.drop(plan.events[5], "web-0")
    if away:
        plan.state("web-1", BEGIN + MS, "disconnected", "outage")
    run = judged(plan, reattach=reattach, recovered=recovered)
    run.__dict__["faults"] = run.faults.assign(felt=["in part"])
    result = check(run)
    assert (result.verdict, list(result.metrics), result.counts["felt_otherwise"]) == (word, ["steady_s_max"], 1)
    assert result.warnings == [
        "broker_down of broker was felt in part: begun at 3.00 s, it was not on all that it was meant for, or not until it ended at 5.00 s"
    ]
    assert math.isnan(result.metrics["steady_s_max"]) == (word != "valid" or away)
    assert ("away_after" in result.counts) == (not early_loss)


def test_a_run_without_an_outage_warns_of_faults_that_nobody_felt(plan: RunFolder) -> None:
    run = judged(plan)
    run.__dict__["faults"] = run.faults.assign(felt=["not at all"])
    result = check(run)
    assert (result.verdict, result.detail, result.counts) == ("valid", "no fault was felt", {})
    assert [text.partition(":")[0] for text in result.warnings] == ["broker_down of broker was felt not at all"]
    assert math.isnan(result.metrics["steady_s_max"])


@pytest.mark.parametrize(("before_us", "copies"), [(15, 56), (0, 58)])
def test_what_was_meant_before_the_run_phase_began_is_not_of_its_steady_state(plan: RunFolder, before_us: int, copies: int) -> None:
    """By a clock that is known to 10 us what was meant up to 20 us earlier belongs to the run phase; its first copies count for sure."""
    plan.clock("locust", ahead_ns=0, bound_ns=10 * US)
    event = plan.event(RUN_NS - before_us * US, publisher="locust-1")
    for pod in plan.pods:
        plan.hear(event, pod)
    run = judged(plan)
    assert (run.publishes["phase"] == "run").sum() == 91
    assert check(run).counts["copies_before"] == copies


def test_of_several_faults_the_longest_return_counts_and_not_the_last(plan: RunFolder) -> None:
    plan.faults = [("broker_down", "broker", BEGIN, END), ("broker_down", "broker", 17 * SECOND, 18 * SECOND)]
    plan.state("web-1", BEGIN + MS, "disconnected", "outage").state("web-1", END + 1200 * MS, "subscribed", "connected")
    plan.state("web-1", 17 * SECOND, "disconnected", "outage").state("web-1", 18 * SECOND + 300 * MS, "subscribed", "connected")
    result = check(judged(plan))
    assert result.detail == "steady before the first fault, and again at most 1.2 s after a fault's end, of 2 that were apart"
    assert result.metrics == {"steady_s_max": pytest.approx(1.2)} and result.counts["steady_s"] == pytest.approx(1.2)


def test_a_pod_that_is_not_back_when_the_next_fault_begins_would_have_taken_at_least_so_long(plan: RunFolder) -> None:
    plan.faults = [("broker_down", "broker", BEGIN, END), ("broker_freeze", "broker", 17 * SECOND, 18 * SECOND)]
    plan.state("web-1", BEGIN + MS, "disconnected", "outage").state("web-1", 18 * SECOND + 300 * MS, "subscribed", "connected")
    result = check(judged(plan))
    assert result.detail.endswith("at most 300 ms after a fault's end, of 2 that were apart; once not before the next began")
    assert result.metrics["steady_s_max"] == Bounds(2.0, math.inf) and result.counts["not_steady_between"] == 1


def test_a_copy_lost_between_two_faults_is_put_down_to_the_first_and_faults_on_together_are_one(plan: RunFolder) -> None:
    plan.faults = [
        ("link_slow", "web-0", BEGIN, END),
        ("broker_freeze", "broker", BEGIN + SECOND, END - MS),
        ("broker_down", "broker", 17 * SECOND, 18 * SECOND),
    ]
    plan.drop(next(e for e in plan.events if e.intended_ns == END + 1500 * MS), "web-0")
    plan.drop(next(e for e in plan.events if e.intended_ns == 17 * SECOND + 500 * MS), "web-0")
    result = check(judged(plan))
    assert "of 2 that were apart" in result.detail
    assert result.metrics["steady_s_max"] == pytest.approx(1.5), "a copy lost in the second fault is of no calm"
