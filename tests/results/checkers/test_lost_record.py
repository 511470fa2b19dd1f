"""A machine was lost, and with it what its pods had recorded: a gap that is stated, in which nothing is unexplained."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.record.run_info import LostProcess
from sim.results.checkers import judge
from sim.results.checkers.ledger import LOST, check
from sim.results.checkers.verdict import Bounds
from sim.results.opened_run import open_run
from tests.support.run_folders import NONCE, SECOND, RunFolder

AT = 15 * SECOND
CALLS = 3


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    """Two services of two pods; `web-1` and `api-1` were on the machine that was lost in the middle of the run."""
    plan = RunFolder(tmp_path / "run", slo={"missing": 0, "duplicates": 0, "unexpected": 0})
    plan.service("web", replicas=2).service("api", replicas=2)
    plan.publish(10_000)
    for pod in ("web-1", "api-1"):
        plan.heard = [row for row in plan.heard if row.pod != pod]
        plan.end(pod, AT)
    plan.info.lost = [LostProcess("dask-1", ["web-1", "api-1"], [7], CALLS, AT, "the worker tcp://w:1 is gone")]
    return plan


def of_lost(number: int) -> int:
    """Return the key of an event that a lost pod published."""
    return NONCE << 48 | 7 << 32 | number


def test_what_lost_pods_heard_is_unknown_and_nothing_is_unexplained(plan: RunFolder) -> None:
    run = open_run(plan.write())
    result = check(run)
    counts = result.counts
    assert (counts["unexplained"], counts["missing"], counts["delivered"]) == (0, 0, 20_000)
    assert counts["unknown"] == 2 * 5000, "what was sent until it was noticed; later the pods were gone"
    assert result.verdict == "valid"
    assert "because what pods recorded was lost with their machine" in result.detail
    assert result.metrics["missing"] == Bounds(0, 10_000 + CALLS * 4, LOST)
    assert (counts["unserved"], counts["half_served"], counts["half_in_doubt"]) == (0, 10_000, 10_000)
    half = result.metrics["half_served"]
    assert isinstance(half, Bounds) and (half.low, half.high) == (0, 10_000 + CALLS * 4)


def test_limits_that_the_gap_could_have_broken_are_unknown_and_the_gap_is_told(plan: RunFolder) -> None:
    verdict = judge(open_run(plan.write()))
    assert {one.metric: one.verdict for one in verdict.slo} == {"missing": "unknown", "duplicates": "valid", "unexpected": "valid"}
    told = "what dask-1 recorded (2 pods) was lost with its machine: the worker tcp://w:1 is gone"
    assert told in verdict.checkers["harness"].warnings


def test_a_service_all_of_whose_pods_were_lost_is_in_doubt_and_not_unserved(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("web", replicas=2).pod("far-0", service="far")
    plan.publish(100)
    plan.heard = [row for row in plan.heard if row.pod != "far-0"]
    plan.info.lost = [LostProcess("dask-1", ["far-0"], [], 0, 21 * SECOND, "gone")]
    result = check(open_run(plan.write()))
    assert (result.counts["unserved"], result.counts["in_doubt"]) == (100, 100)
    unserved = result.metrics["unserved"]
    assert isinstance(unserved, Bounds) and (unserved.low, unserved.high) == (0, 100)


def test_what_others_heard_of_lost_pods_is_theirs_and_what_they_heard_of_nobody_is_not(plan: RunFolder) -> None:
    for number in range(5):
        plan.foreign(of_lost(number), "web-0")
    run = open_run(plan.write())
    result = check(run)
    assert (result.verdict, result.counts["of_lost_publishers"], result.metrics["unexpected"]) == ("valid", 5, 0)
    plan.foreign((NONCE << 48) | 8 << 32, "web-0")
    plan.folder = plan.folder.with_name("other")
    result = check(open_run(plan.write()))
    assert (result.verdict, result.counts["of_lost_publishers"], result.metrics["unexpected"]) == ("invalid", 5, 1)
    assert result.detail == "copies heard that nobody should have heard: 1"


def test_a_run_that_lost_nothing_says_nothing_of_it(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("web", replicas=2)
    plan.publish(10)
    run = open_run(plan.write())
    assert "of_lost_publishers" not in check(run).counts and "half_in_doubt" not in check(run).counts
    assert not run.unrecorded_pods.any()
    assert "lost" not in (tmp_path / "run" / "run.json").read_text("utf-8")
