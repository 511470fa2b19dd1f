"""Spans of time against plain sets of instants; which faults concern which pods, and what pods believed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.record.reader import FOREVER_NS, Array
from sim.results.opened_run import Run, open_run
from sim.results.outages import (
    NO_SPANS,
    Outage,
    load_end,
    meet,
    read_beliefs,
    read_outages,
    seconds,
    told_felt,
    union,
    without_outage,
)
from tests.support.run_folders import MS, SECOND, RunFolder

SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=8)


def spans_of(pairs: list[tuple[int, int]]) -> Array:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def instants(spans: Array) -> set[int]:
    return {at for begin, end in spans.tolist() for at in range(begin, end)}


@given(SPANS)
def test_a_union_is_the_same_time_in_spans_that_do_not_touch(pairs: list[tuple[int, int]]) -> None:
    found = union(spans_of(pairs))
    assert instants(found) == instants(spans_of(pairs))
    assert (found[:, 1] > found[:, 0]).all() and (found[1:, 0] > found[:-1, 1]).all()
    assert seconds(found) == len(instants(found)) / 1e9


@given(SPANS, SPANS)
def test_what_two_share_is_the_time_in_both(first: list[tuple[int, int]], second: list[tuple[int, int]]) -> None:
    found = meet(union(spans_of(first)), union(spans_of(second)))
    assert instants(found) == instants(spans_of(first)) & instants(spans_of(second))
    assert seconds(found) == len(instants(found)) / 1e9


def test_a_fault_of_the_run_phase_reaches_to_the_next_one_or_the_drain(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("web", replicas=2)
    plan.faults = [("warm", "broker", 2 * SECOND, 9 * SECOND), ("down", "broker", 12 * SECOND, 13 * SECOND)]
    plan.faults += [("kill", "web-1", 15 * SECOND, 16 * SECOND), ("held", "web-0", 15 * SECOND + MS, 17 * SECOND)]
    outages = read_outages(open_run(plan.write()))
    assert [(one.fault, one.until_ns // SECOND, sorted(one.pods)) for one in outages] == [
        ("down", 15, ["web-0", "web-1"]),
        ("kill", 20, ["web-1"]),
        ("held", 20, ["web-0"]),
    ]


def test_a_belief_is_known_at_any_time(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0").state("web-0", 12 * SECOND, "disconnected").state("web-0", 14 * SECOND, "subscribed")
    belief = read_beliefs(open_run(plan.write()))["web-0"]
    times = (0, SECOND, 2 * SECOND, 13 * SECOND, 14 * SECOND, 31 * SECOND)
    assert [belief.at(at) for at in times] == ["", "outage", "connected", "outage", "connected", "stopped"]
    assert (belief.spans(("connected",)) // SECOND).tolist() == [[1, 12], [14, 30]]
    assert belief.spans(("mute",)).tolist() == NO_SPANS.tolist()


def test_which_faults_are_outages_and_how_far_each_reaches(tmp_path: Path) -> None:
    """The run phase is from 10 to 20 s, the drain begins at 20; a fault without an end lasts to the drain."""
    plan = RunFolder(tmp_path / "run").service("web", replicas=2)
    plan.faults = [
        ("ended at its beginning", "broker", 8 * SECOND, 10 * SECOND),
        ("ended after it", "broker", 8 * SECOND, 10 * SECOND + 1),
        ("together", "web-0", 12 * SECOND, 13 * SECOND),
        ("with it", "web-1", 12 * SECOND, 12 * SECOND + 5),
        ("next", "web-1,x", 13 * SECOND, 15 * SECOND),
        ("inside", "x", 14 * SECOND, 14 * SECOND),
        ("last", "web-0", 20 * SECOND - 1, 0),
        ("drain", "broker", 20 * SECOND, 21 * SECOND),
    ]
    both = frozenset({"web-0", "web-1"})
    assert read_outages(open_run(plan.write())) == [
        Outage("ended after it", 8 * SECOND, 10 * SECOND + 1, 12 * SECOND, both),
        Outage("together", 12 * SECOND, 13 * SECOND, 13 * SECOND, frozenset({"web-0"})),
        Outage("with it", 12 * SECOND, 12 * SECOND + 5, 13 * SECOND, frozenset({"web-1"})),
        Outage("next", 13 * SECOND, 15 * SECOND, 20 * SECOND - 1, frozenset({"web-1"})),
        Outage("inside", 14 * SECOND, 14 * SECOND, 20 * SECOND - 1, both),
        Outage("last", 20 * SECOND - 1, 20 * SECOND, 20 * SECOND, frozenset({"web-0"})),
    ]


def felt(folder: Path, *rows: tuple[str, str, float, float, str, float]) -> Run:
    """A run with faults as (kind, target, begin, end, felt, felt at), in seconds."""
    plan = RunFolder(folder).pod("web-0")
    plan.publish(1)
    run = open_run(plan.write())
    names = ("fault", "target", "begin_ns", "end_ns", "felt", "felt_ns")
    table = [dict(zip(names, (f, t, int(b * SECOND), int(e * SECOND), w, int(at * SECOND)), strict=True)) for f, t, b, e, w, at in rows]
    run.__dict__["faults"] = pd.DataFrame(table, columns=list(names))
    return run


def test_a_fault_that_was_felt_late_begins_when_it_was_and_one_that_was_not_is_no_outage(tmp_path: Path) -> None:
    run = felt(
        tmp_path / "run",
        ("late", "broker", 12, 16, "late, all", 14),
        ("first", "broker", 13, 15, "whole", 13),
        ("missed", "broker", 11, 12, "not at all", 11),
    )
    assert [(one.fault, one.begin_ns // SECOND, one.until_ns // SECOND) for one in read_outages(run)] == [
        ("first", 13, 20),
        ("late", 14, 20),
    ]


def test_what_is_told_of_faults_that_were_felt_otherwise(tmp_path: Path) -> None:
    """Seconds are of the run phase, which begins at 10."""
    run = felt(
        tmp_path / "run",
        ("cut", "web-0", 14, 15, "in part", 14),
        ("down", "broker", 12, 16, "late", 13.5),
        ("freeze", "x" * 61, 11.25, 12.5, "not at all", 11),
        ("stop", "y" * 60, 11, 12, "late and in part", 11.5),
        ("whole", "broker", 11, 12, "whole", 11),
        ("before", "broker", 11, 12, "", 11),
    )
    assert told_felt(run) == [
        f"stop of {'y' * 60} was felt late and in part: it was to begin at 1.00 s and was carried out at 1.50 s",
        f"freeze of {'x' * 60}… was felt not at all: what it hurts was away from 1.25 s, when it was to begin, to 2.50 s",
        "down of broker was felt late: it was to begin at 2.00 s and was carried out at 3.50 s",
        "cut of web-0 was felt in part: begun at 4.00 s, it was not on all that it was meant for, or not until it ended at 5.00 s",
    ]
    assert without_outage(felt(tmp_path / "none", ("down", "broker", 12, 16, "not at all", 12))) == ("no fault was felt", False)


@pytest.mark.parametrize(("meant", "drain", "expected"), [
    (True, True, ("no data: the scenario means faults, and none is recorded in the run phase", True)),
    (True, False, ("no fault was begun", False)),
    (False, True, ("no fault was begun", False)),
])  # fmt: skip
def test_what_is_said_where_no_fault_is_recorded(tmp_path: Path, meant: bool, drain: bool, expected: tuple[str, bool]) -> None:
    plan = RunFolder(tmp_path / "run", scenario='[[faults]]\nkind = "broker_down"\n' if meant else "").pod("web-0")
    plan.info.phases = [phase for phase in plan.info.phases if drain or phase.name != "drain"]
    run = open_run(plan.write())
    assert without_outage(run) == expected
    assert load_end(run) == (20 if drain else 30) * SECOND, "without a drain, the last that a pod said"


def test_the_load_of_a_run_without_drain_or_pods_ends_at_once(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run")
    plan.info.phases = plan.info.phases[:3]
    assert load_end(open_run(plan.write())) == 0


def test_beliefs_are_in_the_order_of_time_whatever_that_of_the_rows(tmp_path: Path) -> None:
    plan = (
        RunFolder(tmp_path / "run")
        .pod("web-0")
        .state("web-0", 12 * SECOND, "disconnected", "mute")
        .state("web-0", 11 * SECOND, "subscribed", "x")
    )
    belief = read_beliefs(open_run(plan.write()))["web-0"]
    assert belief.at_ns.tolist() == [SECOND, SECOND + MS, 11 * SECOND, 12 * SECOND, 30 * SECOND]
    assert belief.bus == ("outage", "connected", "x", "mute", "stopped")
    assert belief.state == ("starting", "subscribed", "subscribed", "disconnected", "stopped")
    assert [belief.row(at) for at in (0, SECOND, 11 * SECOND - 1, 99 * SECOND)] == [-1, 0, 1, 4]
    assert belief.spans(("stopped", "mute")).tolist() == [[12 * SECOND, FOREVER_NS]]


def test_what_two_share_span_by_span() -> None:
    first, second = spans_of([(5, 6), (10, 20), (30, 31)]), spans_of([(0, 1), (2, 3), (6, 7), (11, 12), (13, 30)])
    assert meet(first, second).tolist() == meet(second, first).tolist() == [[11, 12], [13, 20]]
    assert meet(first, first).tolist() == first.tolist()
    assert meet(first, NO_SPANS).tolist() == meet(NO_SPANS, first).tolist() == []


def test_spans_that_touch_are_one() -> None:
    assert union(spans_of([(5, 9), (3, 5), (20, 20), (10, 12), (4, 6), (30, 25)])).tolist() == [[3, 9], [10, 12]]
    assert seconds(spans_of([(0, 5), (10, 20)])) == 15e-9
