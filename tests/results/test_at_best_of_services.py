"""What metrics of services, of stated ages and of a scenario that says little would have been at best."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from sim.machine.waits import Waits
from sim.record.run_info import Phase
from sim.results.at_best import AtBest
from sim.results.opened_run import open_run
from tests.support.run_folders import MS, SECOND, Event, RunFolder


def at(seconds: float) -> int:
    return round(seconds * SECOND)


def best_of(plan: RunFolder, *ends: float) -> AtBest:
    """Let h0 stand still for the quarter second up to each of these times."""
    plan.starve(h0=lambda now: Waits(waited_ns=0.0, stood_ns=sum(250.0 * MS for end in ends if now >= at(end))))
    return AtBest(open_run(plan.write()), lambda arriving: np.array([], dtype=np.int64))


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run").service("web", replicas=3, channels="a").pod("jobs-0", service="jobs", channels="b")


def heard(plan: RunFolder, second: float, *pods: str, channel: str = "a", **columns: int | str) -> Event:
    event = plan.event(at(second), channel=channel, sent_ns=at(second), acked_ns=at(second), **columns)
    for pod in pods:
        plan.hear(event, pod)
    return event


def test_an_event_is_half_served_where_some_copy_of_it_would_have_been_lost_even_so(plan: RunFolder) -> None:
    """The stall at 15.25 s may have made what was lost from 13.25 s on; web-2's own fault has what it lost from 16 to 17 s."""
    heard(plan, 12, "web-0")  # two copies were lost, and it is one event
    heard(plan, 12.5, "web-0", "web-1", "web-2")
    heard(plan, 12.6)  # unserved, not half
    heard(plan, 15, "web-0")
    heard(plan, 16.5, "web-0", "web-1")
    heard(plan, 16.6, "web-0")  # web-1's copy is of the stall, that of web-2 is not
    heard(plan, 16.7, "web-2")
    plan.faults = [("pod_freeze", "web-2", at(16), at(17))]
    best = best_of(plan, 15.25)
    assert best.value("half_served", 5, 0) == 3.0
    assert best.value('half_served.service."web"', 5, 0) == 3.0
    assert best.value('half_served.service."jobs"', 0, 0) == best.value('half_served.channel."b"', 0, 0) == 0.0


def test_an_event_is_unserved_where_no_copy_of_it_was_lost_by_a_stall(plan: RunFolder) -> None:
    """What nobody can vouch for is not counted as unserved at best, whether there was a stall or not."""
    heard(plan, 12)
    heard(plan, 12.2, channel="b")
    heard(plan, 15)  # three copies of one pair, which the stall may have made
    heard(plan, 15.5, "web-1")
    heard(plan, 12.4, outcome="unknown")
    heard(plan, 15.6, outcome="unknown")
    heard(plan, 15.7, channel="b")
    best = best_of(plan, 15.25)
    assert [best.value(f"unserved{scope}", 6, 0) for scope in ("", '.service."web"', '.channel."b"')] == [2.0, 1.0, 1.0]
    assert [best.value(f"unserved_ratio{scope}", 1, 0) for scope in ("", '.service."web"', '.channel."b"')] == [2 / 7, 1 / 5, 1 / 2]
    assert math.isnan(best.value('unserved_ratio.channel."c"', 1, 0))


def test_a_stated_age_loses_what_was_withheld_on_the_way_that_was_really_gone(plan: RunFolder) -> None:
    """web-1's clock is 1 s ahead: an event that was 400 ms on its way seems 1.4 s old, and 250 of these ms were withheld."""
    plan.clocks["web-1", SECOND + MS] = SECOND
    event = plan.event(at(15), channel="a", stamped_ns=at(15))
    plan.hear(event, "web-1", lag_ns=400 * MS)
    best = best_of(plan, 15.25)
    assert [best.value("stated_age_ms_max", 1400, limit) for limit in (1150, 1300, 1149)] == [1150.0, 1300.0, 1400.0], (
        "as much is given out as keeps the limit, where that can be"
    )
    assert best.value("stated_age_ms_p99", 1400, 1150) == 1150.0
    plan.folder = plan.folder.with_name("unstamped")
    event.stamped_ns = 0
    assert best_of(plan, 15.25).value("stated_age_ms_max", 1400, 100) == -math.inf


def test_copies_from_the_future_are_of_a_stall_where_no_clock_was_meant_to_be_wrong(plan: RunFolder) -> None:
    """The fault is on from 12 to 13 s by what the scenario says; h0 stalls at 15.25 s, which may have made what was due from 13.25 s on."""
    plan.clocks["web-1", SECOND + MS] = -SECOND
    for second in (11.5, 12, 13, 13.001, 13.3, 19):
        plan.hear(plan.event(at(second), channel="a", stamped_ns=at(second)), "web-1")
    plan.hear(plan.event(at(14), channel="a", stamped_ns=at(14)), "web-0")  # not from the future
    plan.hear(plan.event(at(11), channel="a", stamped_ns=at(11) + 250_000), "web-0")  # made at the very moment
    plan.faults = [("clock_skew", "web-1", at(12), at(19))]
    plan.scenario = '[[faults]]\nkind = "clock_skew"\nfor_s = 1.0\n'
    assert best_of(plan, 15.25).value("from_future", 6, 0) == 4.0, "11.5, 12, 13 and, before the stall's reach, 13.001"
    plan.folder, plan.scenario = plan.folder.with_name("for ever"), ""
    assert best_of(plan, 15.25).value("from_future", 6, 0) == 6.0, "no time is told, so all since it began were meant"
    plan.folder, plan.faults = plan.folder.with_name("none"), []
    assert best_of(plan, 15.25).value("from_future", 6, 0) == 4.0


def test_a_scenario_that_says_nothing_of_bus_services_and_faults_is_judged_all_the_same(plan: RunFolder) -> None:
    """Two runs of one event 300 ms apart, 250 of which were withheld: without a lock's time and a handler's, no lock outlived them."""
    event = heard(plan, 15)
    plan.hear(event, "web-0", lag_ns=10 * MS)
    plan.hear(event, "web-1", lag_ns=310 * MS)
    plan.hear(heard(plan, 16), "web-0")
    plan.faults = [("broker_down", "broker", at(15), at(15.25))]
    best = best_of(plan, 15.25)
    for name in ("bus", "services", "faults"):
        best.run.scenario.pop(name, None)
    assert best.handled_twice() == 1 and best.may_be_made("once") is False
    assert best.value("time_to_notice_s_max", 1.5, 1.0) == pytest.approx(1.25), "and no pause between tries is known"


@pytest.mark.parametrize(("stall", "expected"), [(8.75, True), (21.5, True), (22.6, False)])
def test_without_a_fault_the_lab_may_be_unsteady_by_any_stall_until_its_drain_ended(plan: RunFolder, stall: float, expected: bool) -> None:
    """The drain ends at 21.5 s; a stall spans the second before it."""
    heard(plan, 11)
    plan.info.phases = [*plan.info.phases[:-1], Phase("drain", at(20), at(21.5))]
    assert best_of(plan, stall).may_be_made("steady") is expected


def test_what_was_lost_in_any_of_several_faults_was_lost_anyway(tmp_path: Path) -> None:
    """A copy is lost every second from 11.1 to 19.1 s; faults are on from 13 to 16 and from 17 to 18, and h0 stalls about 13.25 s."""
    plan = RunFolder(tmp_path / "run").pod("web-0", channels="a")
    for number in range(9):
        plan.event(at(11.1 + number), channel="a")
    plan.faults = [("broker_down", "broker", at(13), at(16)), ("pod_freeze", "web-0", at(17), at(18))]
    best = best_of(plan, 13.25)
    assert best.value("missing", 9, 0) == 1 + 3 + 1, "that of 11.1 s was before the stall"
