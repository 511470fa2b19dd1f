"""How old events seem by wall clocks: planted clocks, found exactly."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sim.results.checkers import judge
from sim.results.opened_run import open_run
from tests.support.run_folders import MS, SECOND, RunFolder


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


def test_a_receiver_s_clock_that_is_behind_makes_events_come_from_the_future(plan: RunFolder) -> None:
    clocks = judge(open_run(plan.write())).checkers["clocks"]
    assert clocks.verdict == "valid"
    assert clocks.metrics == {"stated_age_ms_p99": 0.25, "stated_age_ms_max": 0.25, "from_future": 20}
    assert clocks.counts["stated_age_ms.min"] == -2999.75
    assert clocks.detail == (
        "the clock of web-1 was wrong: by their timestamps 200 copies had a median age of 250 us, at most 250 us; 20 came from the "
        "future, by up to 3 s"
    )
    assert all(witness.endswith("in web-1") for witness in clocks.witnesses)


def test_a_publisher_s_clock_that_is_behind_makes_its_events_old(plan: RunFolder) -> None:
    plan.clocks.clear()
    plan.slo = {"stated_age_ms_max": 1000, "from_future": 0}
    for event in plan.events[:7]:
        event.stamped_ns -= 2 * SECOND
    verdict = judge(open_run(plan.write()))
    assert verdict.checkers["clocks"].metrics["stated_age_ms_max"] == 2000.25
    assert {one.metric: one.verdict for one in verdict.slo} == {"stated_age_ms_max": "invalid", "from_future": "valid"}


def test_nothing_is_computed_where_every_clock_is_right_and_nobody_asks(plan: RunFolder) -> None:
    plan.clocks.clear()
    assert judge(open_run(plan.write())).checkers["clocks"].detail == "no pod's wall clock was wrong"


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
