"""Runs whose processes read clocks of their own: what is judged is what would be of one clock, and says where that is not known."""

from __future__ import annotations

import json
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.record.reader import read_table
from sim.record.schema import COLUMNS, NOT_COMPARED_NS, TIMES
from sim.results.checkers import judge
from sim.results.checkers.verdict import Bounds, JudgedLimit
from sim.results.opened_run import Run, open_run
from sim.results.run_clocks import RunClocks
from tests.support.examples import examples
from tests.support.run_folders import MS, RUN_NS, SECOND, US, Event, RunFolder, causes, fates

MINUTES = 300 * SECOND
DURATIONS = {
    ("publishes", "items_wait_ns"),
    ("calls", "took_ns"),
    ("pods", "clock_ahead_ns"),
    ("hosts", "cpu_ns"),
    ("hosts", "loop_lag_ns"),
}
LAG_MS = 0.25


def planned(folder: Path, **limits: float) -> tuple[RunFolder, list[Event]]:
    """Return a plan with losses, a duplicate and a pod that was away, and its events."""
    plan = RunFolder(folder, slo=limits).service("web", replicas=2)
    plan.state("web-1", RUN_NS + 40 * MS, "disconnected").state("web-1", RUN_NS + 60 * MS, "subscribed")
    events = plan.publish(100)
    for event in events[41:60]:
        plan.drop(event, "web-1")
    plan.repeat(events[7], "web-0")
    return plan, events


def off(plan: RunFolder, *, wrong_ns: int = 0, bound_ns: int = 10 * US) -> RunFolder:
    """Let pods and publisher be minutes apart, and from the run too."""
    plan.clock("h0", ahead_ns=MINUTES, wrong_ns=wrong_ns, bound_ns=bound_ns)
    return plan.clock("locust", ahead_ns=-8 * SECOND, bound_ns=bound_ns)


def limit_of(run: Run) -> JudgedLimit:
    (limit,) = judge(run).slo
    return limit


def test_every_column_of_nanoseconds_is_a_time_or_a_duration() -> None:
    """One that is forgotten would be judged in the wrong clock."""
    found = {
        (table, column)
        for table, columns in COLUMNS.items()
        for column, (kind, _) in columns.items()
        if kind == "int64" and column.endswith("_ns") and table != "clocks"
    }
    times = {(table, column) for table, columns in TIMES.items() for column in columns}
    assert times | DURATIONS == found and not times & DURATIONS


def test_clocks_minutes_apart_are_put_right_and_the_rows_stay_as_they_were_written(tmp_path: Path) -> None:
    alone = open_run(planned(tmp_path / "one")[0].write())
    plan, events = planned(tmp_path / "several")
    run = open_run(off(plan).write())
    told, expected = judge(run), judge(alone)
    assert (told.verdict, fates(run), causes(run)) == (expected.verdict, fates(alone), causes(alone))
    assert fates(run) == {"delivered": 181, "duplicate": 1, "missing": 19}
    for table in ("publishes", "deliveries", "pods", "calls"):
        for column in TIMES[table]:
            assert getattr(run, table)[column].tolist() == getattr(alone, table)[column].tolist()
    raw = read_table(run.folder / "deliveries.parquet", "deliveries")
    assert raw["handled_ns"].min() == events[0].intended_ns + 250 * US + MINUTES
    assert told.checkers["lag"].counts["lag_us.p50"] == expected.checkers["lag"].counts["lag_us.p50"] == 250
    assert told.checkers["harness"].counts["clock_bound_us.h0"] == 10
    assert "between machines a lag is exact to 20 us" in told.checkers["lag"].detail
    assert set(run.ledger()["lag_error_us"].dropna()) == {20.0}
    assert "lag_error_us" not in alone.ledger()


def test_a_run_that_was_not_sealed_is_put_right_too(tmp_path: Path) -> None:
    plan, _ = planned(tmp_path / "run")
    run = open_run(off(plan).write(seal=False, parts=2))
    assert fates(run) == {"delivered": 181, "duplicate": 1, "missing": 19}
    assert causes(run) == {"deaf": 19}


def test_what_one_clock_wrote_has_no_sources_and_no_bound(tmp_path: Path) -> None:
    run = open_run(planned(tmp_path / "run")[0].write())
    assert {table.sources for table in (run.info.tables or {}).values()} == {None}
    assert not {"clock", "bound_ns"} & set(run.publishes) and not run.clocks.differ
    verdict = judge(run)
    assert not any(isinstance(value, Bounds) for value in verdict.checkers["lag"].metrics.values())
    assert "clock" not in json.dumps({name: one.counts for name, one in verdict.checkers.items() if name == "lag"}).replace(
        "clock_step", ""
    )


def test_a_folder_from_before_there_was_the_table_opens(tmp_path: Path) -> None:
    folder = planned(tmp_path / "run")[0].write()
    (folder / "clocks.parquet").unlink()
    info = json.loads((folder / "run.json").read_text())
    del info["tables"]["clocks"]
    (folder / "run.json").write_text(json.dumps(info))
    run = open_run(folder)
    assert fates(run) == {"delivered": 181, "duplicate": 1, "missing": 19} and not run.clocks.differ


@pytest.mark.parametrize(
    ("limit_ms", "verdict"),
    [(LAG_MS - 0.021, "invalid"), (LAG_MS - 0.019, "unknown"), (LAG_MS + 0.019, "unknown"), (LAG_MS + 0.021, "valid")],
)
def test_a_limit_nearer_than_the_bound_is_unknown_and_says_so(tmp_path: Path, limit_ms: float, verdict: str) -> None:
    plan = RunFolder(tmp_path / "run", slo={"lag_ms_p99": limit_ms}).service("web", replicas=2)
    plan.info.driver = "pods"
    plan.publish(50)
    limit = limit_of(open_run(off(plan, bound_ns=10 * US).write()))
    assert limit.verdict == verdict
    assert limit.interval == Bounds(LAG_MS - 0.02, LAG_MS + 0.02)
    assert ("nobody knows the clocks of its machines better than that" in limit.detail) == (verdict == "unknown")


def test_between_processes_of_one_clock_a_lag_is_exact_although_it_is_not_the_run_s(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run", slo={"lag_ms_p99": LAG_MS}).service("web", replicas=2)
    plan.publish(50)
    plan.clock("h0", ahead_ns=MINUTES, bound_ns=5 * MS).clock("locust", ahead_ns=MINUTES, bound_ns=5 * MS)
    folder = plan.write(seal=False)
    for part in (folder / "parts").glob("clocks-*.parquet"):
        rows = pq.ParquetFile(part).read()
        same = rows.column("clock").combine_chunks()
        shared = same.from_arrays(same.indices.fill_null(0).cast("uint16"), ["one clock"] * len(same.dictionary))
        pq.write_table(rows.set_column(rows.schema.get_field_index("clock"), "clock", shared), part)
    limit = limit_of(open_run(folder))
    assert (limit.verdict, limit.measured) == ("valid", LAG_MS)


def test_a_lag_may_be_negative_by_as_much_as_the_clocks_are_unknown_and_no_more(tmp_path: Path) -> None:
    for wrong_us, verdict in ((560, "unknown"), (490, "valid")):  # the pods' times seem so much earlier than they are
        plan = RunFolder(tmp_path / f"run-{wrong_us}").service("web", replicas=1)
        plan.publish(50)
        run = open_run(off(plan, wrong_ns=wrong_us * US, bound_ns=150 * US).write())
        assert judge(run).checkers["lag"].verdict == verdict
        assert judge(run).checkers["ledger"].verdict == judge(run).checkers["order"].verdict == "valid"


def test_neither_order_nor_what_was_heard_turns_on_a_clock(tmp_path: Path) -> None:
    """Five milliseconds wrong, at an event a millisecond: by its times each event was heard before it was sent."""
    plan, events = planned(tmp_path / "run")
    plan.swap(events[90], events[91], "web-0")
    run = open_run(off(plan, wrong_ns=5 * MS, bound_ns=6 * MS).write())
    verdict = judge(run)
    assert verdict.checkers["order"].counts["out_of_order"] == 1
    found = fates(run)
    assert (found["delivered"], found["duplicate"], found.get("unexpected", 0)) == (181, 1, 0)
    assert found.get("missing", 0) + found["unknown"] == 19
    assert "balance" not in verdict.checkers["ledger"].detail


@pytest.mark.parametrize(("after_us", "cause"), [(-25, {"no-pod": 1}), (-15, {}), (15, {}), (25, {"deaf": 1})])
def test_a_copy_that_was_expected_or_not_by_less_than_the_bound_is_unknown(tmp_path: Path, after_us: int, cause: dict[str, int]) -> None:
    """The pod begins about the time at which an event is sent that it does not hear."""
    plan = RunFolder(tmp_path / "run").service("web", replicas=1).pod("late-0", service="late")
    (event,) = plan.publish(1)
    plan.drop(event, "late-0")
    begin_ns = event.sent_ns - after_us * US
    plan.states = [row for row in plan.states if row[0] != "late-0"]
    plan.state("late-0", begin_ns, "starting").state("late-0", begin_ns + MS, "subscribed").state("late-0", 30 * SECOND, "stopped")
    later = plan.publish(1, start_ns=RUN_NS + 10 * MS)
    run = open_run(off(plan, bound_ns=10 * US).write())
    assert causes(run) == cause
    assert fates(run) == {"delivered": 1 + 2 * len(later), "missing" if cause else "unknown": 1}
    ledger = judge(run).checkers["ledger"]
    assert ledger.verdict == "valid", ledger.detail
    missing = ledger.metrics["missing"]
    assert missing == (1 if cause else Bounds(0, 1))
    assert ("or was to be heard" in ledger.detail) == (not cause)


@pytest.mark.parametrize("after_us", [-15, 15])
def test_a_copy_that_was_heard_was_expected_whatever_the_clocks_say(tmp_path: Path, after_us: int) -> None:
    plan = RunFolder(tmp_path / "run").service("web", replicas=1)
    events = plan.publish(10)
    plan.end("web-0", events[-1].sent_ns + after_us * US)
    run = open_run(off(plan, bound_ns=10 * US).write())
    assert fates(run) == {"delivered": 10}
    assert judge(run).checkers["ledger"].verdict == "valid"


@pytest.mark.parametrize(("inside_us", "found"), [(25, {"deaf": 1}), (15, {}), (-15, {}), (-25, {"unexplained": 1})])
def test_a_cause_that_turns_on_less_than_the_bound_is_none(tmp_path: Path, inside_us: int, found: dict[str, int]) -> None:
    """The pod is back so long after, or before, the sending of an event that it did not hear."""
    plan = RunFolder(tmp_path / "run").service("web", replicas=1)
    events = plan.publish(100)
    lost = events[50]
    plan.drop(lost, "web-0")
    plan.state("web-0", events[49].acked_ns + 300 * US, "disconnected").state("web-0", lost.sent_ns + inside_us * US, "subscribed")
    run = open_run(off(plan, bound_ns=10 * US).write())
    assert causes(run) == found
    assert fates(run) == {"delivered": 99, "missing" if found else "unknown": 1}
    assert judge(run).checkers["ledger"].verdict == ("unknown" if "unexplained" in found else "valid")


def test_a_half_served_event_is_in_doubt_where_nobody_knows_who_should_have_heard_it(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run", slo={"half_served": 0}).service("web", replicas=2)
    events = plan.publish(10)
    plan.drop(events[-1], "web-1").end("web-1", events[-1].sent_ns + 5 * US)
    run = open_run(off(plan, bound_ns=10 * US).write())
    limit = limit_of(run)
    assert (limit.verdict, limit.interval) == ("unknown", Bounds(0, 1))


def test_a_clock_that_was_compared_with_nothing_leaves_no_time_to_judge(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run", slo={"lag_ms_p99": 1000.0}).service("web", replicas=1)
    plan.publish(20)
    plan.clock("h0", ahead_ns=MINUTES, wrong_ns=-MINUTES, bound_ns=NOT_COMPARED_NS)
    verdict = judge(open_run(plan.write()))
    assert verdict.verdict == "unknown"
    assert "the clock of h0 was compared with nothing" in verdict.checkers["harness"].detail
    assert limit_of(open_run(plan.folder)).verdict == "unknown"


@given(
    st.lists(st.tuples(st.sampled_from(["h0", "h1", "run"]), st.integers(0, 6)), max_size=6),
    st.lists(st.integers(0, 40), max_size=5),
)
def test_times_are_put_into_the_runs_clock_wherever_rows_are_cut_in_two(sources: list[tuple[str, int]], cuts: list[int]) -> None:
    lines = [("h0", "one", 7 * SECOND, 100), ("h1", "other", -3 * SECOND, 900)]
    knots = [(*line[:2], "echo", at, line[2] + at // 1000, 1000.0, 2 * line[3], 0, line[3]) for line in lines for at in (0, 40 * SECOND)]
    clocks = RunClocks(pd.DataFrame(knots, columns=list(COLUMNS["clocks"])))
    many = sum(rows for _, rows in sources) + 2  # of the last rows nothing is known
    times = {"received_ns": np.arange(many) * SECOND, "handled_ns": np.arange(many) * SECOND + MS}
    whole = clocks.translated_times(times, sources)
    places = [0, *sorted(min(cut, many) for cut in cuts), many]
    parts = [
        clocks.translated_times({column: values[one:other] for column, values in times.items()}, sources, first=one)
        for one, other in pairwise(places)
    ]
    for column, values in whole.items():
        assert np.concatenate([part[column] for part in parts]).tolist() == values.tolist()
    plain = [host for host, rows in sources for _ in range(rows)] + ["run"] * 2
    assert whole["clock"].tolist() == [clocks.code_of.get(host, 0) for host in plain]
    for row, host in enumerate(plain):
        theirs = times["handled_ns"][row : row + 1]
        assert whole["handled_ns"][row] == (clocks.lines[host].to_ours(theirs)[0] if host in clocks.lines else theirs[0])
        assert whole["bound_ns"][row] == (clocks.lines[host].bound(theirs)[0] if host in clocks.lines else 0)


@settings(max_examples=examples(20))
@given(st.integers(-100, 100), st.integers(-100, 100), st.sets(st.integers(0, 99), max_size=20), st.integers(30, 70))
def test_what_is_said_for_sure_is_what_one_clock_would_say(pods_us: int, users_us: int, lost: set[int], away: int) -> None:
    """Whatever a line is wrong by within its bound: what is not unknown has the fate and the cause that it truly has."""
    found = []
    for wrong in (None, (pods_us, users_us)):
        with tempfile.TemporaryDirectory() as folder:
            plan = RunFolder(Path(folder) / "run").service("web", replicas=1)
            events = plan.publish(100, step_ns=150 * US)
            for number in lost:
                plan.drop(events[number], "web-0")
            plan.state("web-0", events[away].sent_ns + 220 * US, "disconnected").state(
                "web-0", events[away].sent_ns + 900 * US, "subscribed"
            )
            if wrong is not None:
                plan.clock("h0", ahead_ns=MINUTES, wrong_ns=wrong[0] * US, bound_ns=100 * US)
                plan.clock("locust", ahead_ns=-SECOND, wrong_ns=wrong[1] * US, bound_ns=100 * US)
            run = open_run(plan.write())
            assert "balance" not in judge(run, only=["ledger"]).checkers["ledger"].detail
            rows = run.ledger().sort_values("event")[["fate", "cause"]].astype(str)
            found.append(rows.to_numpy().tolist())
    true, told = found
    assert len(true) == len(told)
    assert all(one == other or other[0] == "unknown" for one, other in zip(true, told, strict=True))
    assert sum(other[0] == "delivered" for other in told) == 100 - len(lost)


def test_rows_of_which_nobody_knows_the_clock_are_not_judged_by_a_guess(tmp_path: Path) -> None:
    folder = off(planned(tmp_path / "run")[0]).write()
    info = json.loads((folder / "run.json").read_text())
    del info["tables"]["deliveries"]["sources"]
    (folder / "run.json").write_text(json.dumps(info))
    harness = judge(open_run(folder)).checkers["harness"]
    assert harness.verdict == "unknown"
    assert "nobody wrote down which clock which rows of deliveries are of" in harness.detail
