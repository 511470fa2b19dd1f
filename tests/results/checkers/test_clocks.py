"""How old events seem by wall clocks: planted clocks, found exactly."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sim.results.checkers import judge
from sim.results.checkers.clocks import METRICS, check
from sim.results.opened_run import Run, open_run
from sim.results.stated_ages import read_stated_ages
from tests.support.in_pieces import judge_in_pieces
from tests.support.run_folders import MS, SECOND, US, RunFolder


@pytest.fixture(autouse=True, params=[pytest.param(False, id="together"), pytest.param(True, id="in pieces")])
def walked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether all copies are in memory or a few pods' at a time, the same is said."""
    if request.param:
        judge_in_pieces(monkeypatch)


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    """Return a run of 100 events, 250 us from their stamps to two pods, the second of which is 3 s behind from 12 to 14 s."""
    plan = RunFolder(tmp_path).service("web", replicas=2)
    for at_ns, ahead_ns in ((12 * SECOND, -3 * SECOND), (14 * SECOND, 0)):
        plan.state("web-1", at_ns, "subscribed")
        plan.clocks["web-1", at_ns] = ahead_ns
    for event in plan.publish(100, step_ns=100 * MS):
        event.stamped_ns = event.intended_ns
    return plan


def stated(run: Run) -> list[tuple[int, int, int]]:
    """Return the pod, the event and the age of every copy that has a stated age."""
    found = []
    for piece in run.pieces:
        rows, ages = read_stated_ages(run, piece)
        found += zip(piece.pod[rows].tolist(), piece.publish[rows].tolist(), ages.tolist(), strict=True)
    return found


def test_a_receiver_s_clock_that_is_behind_makes_events_come_from_the_future(plan: RunFolder) -> None:
    clocks = judge(open_run(plan.write())).checkers["clocks"]
    assert clocks.verdict == "valid"
    assert clocks.metrics == {"stated_age_ms_p99": 0.25, "stated_age_ms_max": 0.25, "from_future": 20}
    assert clocks.counts["stated_age_ms.min"] == -2999.75
    assert clocks.detail == (
        "the clock of web-1 was wrong: by their timestamps 200 copies had a median age of 250 us, at most 250 us; 20 came from the "
        "future, by up to 3 s"
    )
    assert clocks.witnesses == [f"{event.id} in web-1" for event in plan.events[20:23]]


def test_a_publisher_s_clock_that_is_behind_makes_its_events_old(plan: RunFolder) -> None:
    plan.clocks.clear()
    plan.slo = {"stated_age_ms_max": 1000, "from_future": 0}
    for event in plan.events[:7]:
        event.stamped_ns -= 2 * SECOND
    verdict = judge(open_run(plan.write()))
    assert verdict.checkers["clocks"].metrics["stated_age_ms_max"] == 2000.25
    assert verdict.checkers["clocks"].witnesses == [f"{event.id} in web-0" for event in plan.events[:3]], "the oldest"
    assert {one.metric: one.verdict for one in verdict.slo} == {"stated_age_ms_max": "invalid", "from_future": "valid"}


def test_nothing_is_computed_where_every_clock_is_right_and_nobody_asks(plan: RunFolder) -> None:
    plan.clocks.clear()
    plan.slo.clear()
    result = judge(open_run(plan.write())).checkers["clocks"]
    assert (result.verdict, result.detail, result.counts, result.witnesses) == ("valid", "no pod's wall clock was wrong", {}, [])
    assert sorted(result.metrics) == sorted(METRICS) and all(math.isnan(value) for value in result.metrics.values())


@pytest.mark.parametrize(("wrong", "word"), [(True, "unknown"), (False, "valid")])
def test_without_an_event_that_was_stamped_nobody_knows_how_old_any_seemed(plan: RunFolder, wrong: bool, word: str) -> None:
    if not wrong:
        plan.clocks.clear()
    plan.slo = {"from_future": 0}
    for event in plan.events:
        event.stamped_ns = 0
    result = judge(open_run(plan.write())).checkers["clocks"]
    assert (result.verdict, result.counts, result.witnesses) == (word, {}, [])
    assert result.detail == "no data: no event with a timestamp was delivered in the run phase"
    assert sorted(result.metrics) == sorted(METRICS) and all(math.isnan(value) for value in result.metrics.values())


def test_a_run_from_before_opens_and_a_limit_on_what_it_does_not_hold_is_unknown(plan: RunFolder) -> None:
    plan.clocks.clear()
    folder = plan.write(seal=False)
    for table, column in (("publishes", "stamped_ns"), ("pods", "clock_ahead_ns")):
        for part in (folder / "parts").glob(f"{table}-*.parquet"):
            pq.write_table(pq.read_table(part).drop_columns(column), part)
    run = open_run(folder)
    assert (run.publishes["stamped_ns"] == 0).all() and (run.pods["clock_ahead_ns"] == 0).all()
    assert len(run.publishes) == 100
    (folder / "scenario.toml").write_text((folder / "scenario.toml").read_text() + "from_future = 0\n")
    (limit,) = judge(open_run(folder)).slo
    assert (limit.metric, limit.verdict) == ("from_future", "unknown")


def test_an_event_that_is_handled_at_the_very_moment_of_its_stamp_is_not_from_the_future(plan: RunFolder) -> None:
    plan.clocks = {("web-1", 12 * SECOND): -250 * US, ("web-1", 14 * SECOND): -250 * US - 1}
    counts = judge(open_run(plan.write())).checkers["clocks"].counts
    assert (counts["stated_age_ms.min"], counts["from_future"]) == (-1e-6, 60), "from 14 s on, and none of the 20 before"


def test_two_pods_with_wrong_clocks_are_named_both(plan: RunFolder) -> None:
    plan.clocks["web-0", SECOND + MS] = SECOND
    detail = judge(open_run(plan.write())).checkers["clocks"].detail
    assert detail.startswith("the clocks of web-0, web-1 were wrong: by their timestamps 200 copies had")


def test_a_clock_counts_from_its_row_on_and_before_a_pod_s_first_row_it_was_right(tmp_path: Path) -> None:
    """Each pod's clock is its own; a delivery at the very time of a row is after it. web-2 came alive just before the first answer."""
    plan = RunFolder(tmp_path).service("web", replicas=3)
    for at_ns, lag_ns in ((12 * SECOND, 100 * US), (12 * SECOND + 500 * MS, 100 * US), (13 * SECOND, 250 * US)):
        event = plan.event(at_ns, stamped_ns=at_ns)
        for pod in plan.pods:
            plan.hear(event, pod, lag_ns=lag_ns)
    begins, steps = 12 * SECOND + 120 * US, 13 * SECOND + 250 * US
    plan.states = [row for row in plan.states if row[0] != "web-2"]
    plan.state("web-2", steps, "subscribed").state("web-2", begins, "subscribed").state("web-2", 30 * SECOND, "stopped")
    plan.clocks = {("web-2", begins): 5 * SECOND, ("web-2", steps): 6 * SECOND, ("web-2", 30 * SECOND): 1, ("web-0", SECOND): 7 * SECOND}
    plan.clocks |= {("web-1", at_ns): 1 for at_ns in (SECOND, SECOND + MS, 30 * SECOND)}  # a nanosecond ahead, all the time
    run = open_run(plan.write())
    names = [history.pod for history in run.pod_histories]
    assert [(names[pod], event, age) for pod, event, age in stated(run)] == [
        ("web-0", 0, 100 * US),
        ("web-0", 1, 100 * US),
        ("web-0", 2, 250 * US),
        ("web-1", 0, 100 * US + 1),
        ("web-1", 1, 100 * US + 1),
        ("web-1", 2, 250 * US + 1),
        ("web-2", 0, 100 * US),
        ("web-2", 1, 5 * SECOND + 100 * US),
        ("web-2", 2, 6 * SECOND + 250 * US),
    ]


def test_unstamped_and_unheard_events_and_those_of_other_phases_have_no_stated_age(plan: RunFolder) -> None:
    plan.events[3].stamped_ns, plan.events[4].stamped_ns = 0, 1
    plan.drop(plan.events[5], "web-0")
    plan.repeat(plan.events[6], "web-1")
    plan.publish(1, start_ns=9 * SECOND + 500 * MS, stamped_ns=7)
    ages = stated(open_run(plan.write()))
    assert len(ages) == 200 - 2 - 1
    assert 3 not in {event for _, event, _ in ages}
    assert max(age for *_, age in ages) > 10 * SECOND, "one that is stamped at the very beginning is stamped"


def test_a_clock_that_was_wrong_from_the_first_row_on_is_wrong_at_once(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run")
    plan.pods["web-0"] = ("web", "config.updated")
    plan.state("web-0", 9 * SECOND, "subscribed")
    plan.clocks["web-0", 9 * SECOND] = 5 * SECOND
    event = plan.event(11 * SECOND, stamped_ns=11 * SECOND)
    plan.hear(event, "web-0", lag_ns=MS)
    assert check(open_run(plan.write())).metrics == {"stated_age_ms_p99": 5001.0, "stated_age_ms_max": 5001.0, "from_future": 0.0}


@pytest.mark.parametrize(
    ("wrong", "starts"),
    [
        (0, "no pod's clock was wrong: by their timestamps 3 copies had a median age of 250 us, at most 250 us"),
        (1, "the clock of web-0 was wrong: by their timestamps 3 copies had a median age of 250 us, at most 5 s"),
        (3, "the clocks of web-0, web-1, web-2 were wrong: by their timestamps 3 copies had a median age of 5 s, at most 5 s"),
        (4, "the clocks of web-0, web-1, web-2 and others were wrong: by their timestamps 4 copies had a median age of 5 s, at most 5 s"),
    ],
)
def test_whose_clocks_were_wrong_is_said(tmp_path: Path, wrong: int, starts: str) -> None:
    plan = RunFolder(tmp_path / "run", slo={"stated_age_ms_max": 9000}).service("web", replicas=max(wrong, 3))
    plan.clocks = {(f"web-{number}", SECOND + MS): 5 * SECOND for number in range(wrong)}
    (event,) = plan.publish(1)
    event.stamped_ns = event.intended_ns
    result = check(open_run(plan.write()))
    assert (result.verdict, result.detail) == ("valid", starts)
    assert (result.counts["wrong_clocks"], result.counts["copies"], len(result.witnesses)) == (wrong, max(wrong, 3), 3)
    event.stamped_ns, plan.folder = 0, plan.folder.with_name("unstamped")
    result = check(open_run(plan.write()))
    assert (result.verdict, result.detail) == (
        "unknown" if wrong else "valid",
        "no data: no event with a timestamp was delivered in the run phase",
    )
    assert list(result.metrics) == ["stated_age_ms_p99", "stated_age_ms_max", "from_future"]
    assert all(value != value for value in result.metrics.values())
