"""Spans of time against plain sets of instants; which faults concern which pods, and what pods believed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sim.record.reader import Array
from sim.results.opened_run import open_run
from sim.results.outages import NO_SPANS, meet, read_beliefs, read_outages, seconds, union
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
