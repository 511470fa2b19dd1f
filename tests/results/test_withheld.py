"""What the machine withheld from a process, row by row, and how much of a time may have been lost to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.machine.waits import Waits
from sim.results.opened_run import open_run
from sim.results.passages import handed_on
from sim.results.withheld import Account, Step, Withheld, _evenly, _settled, read_withheld
from tests.support.run_folders import MS, SECOND, RunFolder

Said = Callable[[int], Waits]


def between(begin_s: float, end_s: float, ms: float, *, column: str = "waited_ns") -> Said:
    """Withhold so many milliseconds of each second of this time."""
    return lambda at: Waits(waited_ns=0.0)._replace(**{column: max(0, min(at, int(end_s * SECOND)) - int(begin_s * SECOND)) * ms / 1000})


def withheld(folder: Path, *, plan: Callable[[RunFolder], object] = lambda plan: None, busy: float = 0.0, **waits: Said) -> Withheld:
    made = RunFolder(folder).pod("web-0").starve(busy=busy, **waits)
    made.publish(1)
    plan(made)
    return read_withheld(open_run(made.write()))


def of(found: Withheld, host: str, begin_s: float, end_s: float) -> float:
    return int(found.of(host, np.array([int(begin_s * SECOND)]), np.array([int(end_s * SECOND)]))[0]) / SECOND


def test_a_wait_is_laid_to_the_rows_in_which_it_was(tmp_path: Path) -> None:
    found = withheld(tmp_path / "run", h0=between(12, 13, 400))
    assert of(found, "h0", 11, 14) == pytest.approx(0.4)
    assert of(found, "h0", 8.5, 11.9) == 0
    assert of(found, "h0", 13.26, 20) == 0  # a row later, when it has caught up
    assert of(found, "locust", 11, 14) == of(found, "nobody", 11, 14) == 0


def test_a_short_time_may_lie_in_the_worst_of_its_row_and_loses_no_more_than_it_is_long(tmp_path: Path) -> None:
    found = withheld(tmp_path / "run", h0=between(12, 13, 400))
    assert of(found, "h0", 12.3, 12.32) == pytest.approx(0.02)
    assert of(found, "h0", 12.3, 12.45) == pytest.approx(0.15)  # 100 ms of this row, and of the row before what may be left of it


def test_nobody_is_said_to_have_waited_longer_than_the_time_was(tmp_path: Path) -> None:
    """Many threads that wait at once: as long as that was, and at most a row before it, in which it may have begun."""
    found = withheld(tmp_path / "run", busy=0.2, h0=between(12, 13, 28_000))
    assert 1 <= found.sums("h0", 8 * SECOND, 23 * SECOND)["waited"] < 1.25


def test_a_wait_that_the_kernel_counts_when_it_is_over_lies_in_the_rows_before(tmp_path: Path) -> None:
    """A server that waited from 12.1 to 13.2 s, seen from outside four times a second."""
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.publish(1)
    plan.hosts = []
    cpu = 0.0
    for row in range(8 * 4, 23 * 4):
        at = row * SECOND // 4
        cpu += 0 if 12.25 * SECOND < at <= 13 * SECOND else 40 * MS
        plan.hosts.append((at, "broker", int(cpu), -1, *Waits(waited_ns=1100.0 * MS if at >= 13.25 * SECOND else 0.0)))
    found = read_withheld(open_run(plan.write()))
    assert of(found, "broker", 12.1, 13.2) == pytest.approx(1.1, abs=0.04)  # the row of the end computed for so long, nobody knows when
    assert of(found, "broker", 8.5, 11.9) == of(found, "broker", 13.8, 20) == 0


def test_who_has_no_moment_to_catch_up_carries_on_what_it_lost(tmp_path: Path) -> None:
    """All that is not withheld is computed: the work of the starved second waits behind it."""
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.publish(1)
    plan.hosts = []
    waited = cpu = 0.0
    for row in range(8 * 4, 23 * 4):
        at = row * SECOND // 4
        starved, full = 12 * 4 < row <= 13 * 4, 13 * 4 < row <= 15 * 4
        waited += 200 * MS if starved else 0
        cpu += 50 * MS if starved else 250 * MS if full else 20 * MS
        plan.hosts.append((at, "h0", int(cpu), 0, *Waits(waited_ns=waited)))
    found = read_withheld(open_run(plan.write()))
    assert found.accounts["h0"].carried_ns.max() == 800 * MS
    assert of(found, "h0", 14.5, 15.4) == pytest.approx(0.9), "with what piled up meanwhile all of the time"
    assert of(found, "h0", 15.6, 16.5) == 0


@pytest.mark.parametrize("column", ["waited_ns", "stood_ns", "throttled_ns"])
def test_waiting_standing_still_and_throttling_count(tmp_path: Path, column: str) -> None:
    assert of(withheld(tmp_path / "run", h0=between(12, 13, 400, column=column)), "h0", 11, 14) == pytest.approx(0.4)


def test_what_is_throttled_waits_and_is_not_counted_twice(tmp_path: Path) -> None:
    both = lambda at: between(12, 13, 400)(at)._replace(throttled_ns=between(12, 13, 300)(at).waited_ns)  # noqa: E731
    assert of(withheld(tmp_path / "run", h0=both), "h0", 11, 14) == pytest.approx(0.4)


def test_a_core_taken_by_the_hypervisor_is_withheld_from_all(tmp_path: Path) -> None:
    steal = lambda at: Waits(waited_ns=0.0, wall_offset_ns=0.0, steal_ns=between(12, 13, 100)(at).waited_ns)  # noqa: E731
    found = withheld(tmp_path / "run", h0=steal)
    assert of(found, "h0", 11, 14) == pytest.approx(0.1) == of(found, "locust", 11, 14)


def test_where_waits_are_not_known_those_of_the_whole_machine_are_a_bound(tmp_path: Path) -> None:
    said = lambda at: Waits(wall_offset_ns=0.0, pressure_ns=between(12, 13, 300)(at).waited_ns)  # noqa: E731
    assert of(withheld(tmp_path / "run", h0=said), "h0", 11, 14) == pytest.approx(0.3)


@pytest.mark.parametrize(("faults", "swapped", "lost"), [(1, 1, 0.25), (1, 0, 0), (0, 1, 0)])
def test_a_row_with_pages_from_swap_is_withheld_whole(tmp_path: Path, faults: int, swapped: int, lost: float) -> None:
    """Where the machine read some, and this process waited for a page."""

    def said(at: int) -> Waits:
        since = float(at > 12 * SECOND)
        return Waits(waited_ns=0.0, wall_offset_ns=0.0, major_faults=since * faults, swapped_in=since * swapped)

    assert of(withheld(tmp_path / "run", h0=said), "h0", 11, 14) == pytest.approx(lost)


def test_a_process_that_a_fault_froze_had_nothing_withheld(tmp_path: Path) -> None:
    stood = between(12, 13, 1000, column="stood_ns")

    def freeze(plan: RunFolder) -> None:
        plan.state("web-0", 12 * SECOND, "frozen").state("web-0", 13 * SECOND, "subscribed")

    assert of(withheld(tmp_path / "lab", h0=stood), "h0", 11, 14) == pytest.approx(1)
    assert of(withheld(tmp_path / "fault", plan=freeze, h0=stood), "h0", 11, 14) == 0


def test_a_server_that_a_fault_froze_had_nothing_withheld(tmp_path: Path) -> None:
    stood = between(12, 13, 1000, column="stood_ns")
    fault = lambda plan: plan.faults.append(("broker_freeze", "broker", 12 * SECOND, 13 * SECOND))  # noqa: E731
    assert of(withheld(tmp_path / "lab", broker=stood), "broker", 11, 14) == pytest.approx(1)
    assert of(withheld(tmp_path / "fault", plan=fault, broker=stood), "broker", 11, 14) == 0


def test_steps_of_the_wall_clock_and_suspensions_are_seen_and_slewing_is_not(tmp_path: Path) -> None:
    def said(at: int) -> Waits:
        wall = 3_600 * SECOND * (at > 12 * SECOND) - 5 * SECOND * (at > 14 * SECOND) + at // 10_000
        slept = 9.0 * SECOND * (at > 16 * SECOND)
        return Waits(waited_ns=0.0, wall_offset_ns=float(wall + slept), suspended_ns=slept)

    steps = withheld(tmp_path / "run", h0=said).steps
    assert [(round(step.by_ns / SECOND), step.suspended) for step in steps] == [(3600, False), (-5, False), (9, True)]


def test_a_stall_is_a_tenth_of_a_second_within_one(tmp_path: Path) -> None:
    found = withheld(tmp_path / "run", h0=between(12, 13, 110), locust=between(12, 16, 90))
    times = np.array([10, 12, 15]) * SECOND
    assert found.stalled(["h0"], times, times + MS).tolist() == [False, True, False]
    assert not found.stalled(["locust"], times, times + MS).any()


def test_a_folder_from_before_says_nothing(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.publish(1)
    found = read_withheld(open_run(plan.write()))
    assert of(found, "h0", 8, 22) == 0 and not found.steps and not len(found.stalls["h0"])


@given(st.lists(st.integers(0, 250), min_size=2, max_size=40), st.data())
def test_it_is_never_less_than_what_was_withheld_inside(ms: list[int], data: st.DataObject) -> None:
    """Rows of a quarter second, each with one wait somewhere: whatever part of the waits lies in an interval is in the bound."""
    starts = [data.draw(st.integers(0, 250 - wait)) for wait in ms]
    rows = np.arange(len(ms)) * 250
    begin = data.draw(st.integers(0, len(ms) * 250 - 1))
    end = data.draw(st.integers(begin, len(ms) * 250))
    inside = sum(max(0, min(end, row + at + wait) - max(begin, row + at)) for row, at, wait in zip(rows, starts, ms, strict=True))
    waits = np.array(ms)
    account = Account(rows, rows + 250, waits, np.zeros(len(ms), dtype=np.int64), waits, waits, waits * 0, waits * 0)
    bound = int(Withheld({"h0": account}, [], 100).of("h0", np.array([begin]), np.array([end]))[0])
    assert inside <= bound <= min(end - begin, sum(ms))


def test_who_is_behind_loses_what_the_one_before_lost_until_the_queue_is_empty() -> None:
    begin, end = np.array([0, 2, 8, 20, 0]), np.array([5, 9, 12, 21, 3])
    lost = handed_on(np.array([1, 1, 1, 1, 2]), begin, end, np.array([4, 1, 0, 0, 0]))
    assert lost.tolist() == [4, 4, 4, 0, 0]


# Four rows of a tenth of a second, in milliseconds, worked out by hand.
ROWS = Account(
    begin_ns=np.array([0, 100, 200, 300]),
    end_ns=np.array([100, 200, 300, 400]),
    withheld_ns=np.array([10, 20, 40, 5]),
    carried_ns=np.array([10, 30, 40, 7]),
    late_ns=np.array([3, -1, 8, 2]),
    waited_ns=np.array([10, 20, 0, 5]),
    stood_ns=np.array([0, 0, 40, 0]),
    throttled_ns=np.array([1, 2, 3, 4]),
)
NOTHING = Account(*(np.array([], dtype=np.int64),) * 8)


@pytest.mark.parametrize(
    ("begin", "end", "lost"),
    [
        pytest.param(20, 80, 10, id="inside the first row: all of it"),
        pytest.param(20, 28, 8, id="never more than it is long"),
        pytest.param(120, 180, 10 + 20, id="and what is carried out of the row before"),
        pytest.param(200, 290, 30 + 40 - 20, id="a row holds its end, so nothing of the second, and all of the third"),
        pytest.param(50, 250, 10 + 20 + 40, id="a row in between counts whole"),
        pytest.param(95, 210, 5 + 20 + 10, id="of the first and the last row no more than lies inside"),
        pytest.param(150, 350, 10 + 20 + 40 + 5, id="from one row to the next but one"),
        pytest.param(350, 900, 40 + 5, id="beyond the last row nothing is known"),
        pytest.param(450, 500, 7, id="behind the last row what is carried out of it"),
        pytest.param(-50, -20, 10, id="before the first row as in it"),
        pytest.param(250, 250, 0, id="no time"),
        pytest.param(250, 200, 0, id="a time that ends before it begins"),
    ],
)  # fmt: skip
def test_what_may_have_been_withheld_from_a_process_in_a_time(begin: int, end: int, lost: int) -> None:
    found = Withheld({"h0": ROWS, "none": NOTHING}, [], 30)
    times = np.array([begin, 0]), np.array([end, 400])
    assert found.of("h0", *times).tolist() == [lost, 75]
    assert found.of("none", *times).tolist() == found.of("nobody", *times).tolist() == [0, 0]
    assert found.of("nobody", *times).dtype == np.int64


def test_what_passes_several_processes_loses_what_each_of_them_lost_and_no_more_than_it_is_long() -> None:
    found = Withheld({"h0": ROWS, "h1": ROWS, "none": NOTHING}, [], 30)
    times = np.array([20, 120, 300]), np.array([80, 160, 200])
    assert found.over(["h0"], *times).tolist() == [10, 30, 0]
    assert found.over(["h0", "h1", "h0", "nobody"], *times).tolist() == [20, 40, 0]
    assert found.over([], *times).tolist() == [0, 0, 0]
    assert (found.total(20, 80), found.total(120, 180), found.total(0, 400)) == (20, 60, 150)


def test_a_stall_spans_the_window_before_the_rows_that_made_it() -> None:
    """A second is the window: all four rows lie in it, and from the third on 30 or more are withheld."""
    found = Withheld({"h0": ROWS, "none": NOTHING}, [], 30)
    assert found.stalls["h0"].tolist() == [[200 - SECOND, 400]] and not len(found.stalls["none"])
    assert Withheld({"h0": ROWS}, [], 76).stalls["h0"].tolist() == []
    assert Withheld({"h0": ROWS}, [], 75).stalls["h0"].tolist() == [[400 - SECOND, 400]]
    begin = np.array([-2 * SECOND, -2 * SECOND, 300, 400, 401])
    end = np.array([199 - SECOND, 200 - SECOND, 301, 500, 500])
    assert found.stalled(["none", "nobody", "h0"], begin, end).tolist() == [False, True, True, True, False]
    assert found.stalled(["none", "nobody"], begin, end).tolist() == [False] * 5
    long = Account(ROWS.begin_ns * 4 * MS, ROWS.end_ns * 4 * MS, *ROWS[2:])  # rows of 0.4 s: two or three of them in a second
    assert Withheld({"h0": long}, [], 60).stalls["h0"].tolist() == [[int(0.2 * SECOND), int(1.6 * SECOND)]]


def test_what_piled_up_meanwhile_makes_late_too_and_no_time_loses_more_than_it_is_long() -> None:
    found = Withheld({"h0": ROWS._replace(busy=0.25)}, [], 30)
    idle = Withheld({"h0": ROWS}, [], 30)
    for time, lost, more in (((0, 400), 75, 93), ((210, 290), 70, 80), ((310, 330), 20, 20)):
        begin, end = (np.array([at]) for at in time)
        assert (idle.of("h0", begin, end).tolist(), found.of("h0", begin, end).tolist()) == ([lost], [more])


def test_a_row_that_is_longer_than_the_window_is_a_stall_from_its_beginning() -> None:
    long = Account(ROWS.begin_ns * 20 * MS, ROWS.end_ns * 20 * MS, *ROWS[2:])  # rows of two seconds
    assert Withheld({"h0": long}, [], 40).stalls["h0"].tolist() == [[4 * SECOND, 6 * SECOND]]


def test_how_late_a_loop_was_and_what_a_process_waited_for_come_from_the_rows_that_touch_a_time() -> None:
    found = Withheld({"h0": ROWS}, [Step(150, 7, False)], 30)
    assert found.late_ns("h0", np.array([0, 100, 150, 201, 400, 401])).tolist() == [3, 3, 0, 8, 2, 0]
    assert found.late_ns("nobody", np.array([0, 100])).tolist() == [0, 0]
    expected = {"waited": 20e-9, "stood": 40e-9, "throttled": 5e-9, "withheld": 60e-9, "late": 8e-9}
    assert found.sums("h0", 100, 300) == pytest.approx(expected) and found.sums("h0", 199, 201) == pytest.approx(expected)
    assert found.sums("h0", 500, 600) == dict.fromkeys(expected, 0.0)
    assert [found.stepped(*time) for time in ((150, 200), (100, 150), (151, 200), (100, 149))] == [True, True, False, False]


def test_servers_of_ours_and_the_proxy_are_looked_at_and_a_process_that_only_sounds_like_one_is_not() -> None:
    found = Withheld(
        dict.fromkeys(("h0", "broker", "proxy", "broker 127.0.0.1:7001", "brokers", "proxy tcp://10.0.0.2:41", "proxies"), NOTHING), [], 30
    )
    assert found.servers == ["broker", "proxy", "broker 127.0.0.1:7001", "proxy tcp://10.0.0.2:41"]


def test_the_accounts_of_a_run_row_by_row(tmp_path: Path) -> None:
    """Seconds 8 to 13: a second each waits, is throttled for longer, stands still, pays steal, and is all of it at once."""
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.publish(1)
    waited, throttled, stood = (300, 400, 400, 400, 5400), (0, 400, 400, 400, 700), (0, 0, 300, 300, 600)
    steal, cpu, late = (0, 0, 0, 200, 200), (100, 200, 851, 1601, 1601), (5, 6, 7, 8, 9)
    plan.hosts = [(8 * SECOND, "h0", 0, 0, *Waits(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0))]
    for row in range(5):
        said = Waits(waited[row] * MS, stood[row] * MS, throttled[row] * MS, 0.0, steal[row] * MS, 0.0, 0.0, 0.0, 0.0)
        plan.hosts.append(((9 + row) * SECOND, "h0", cpu[row] * MS, late[row] * MS, *said))
    account = read_withheld(open_run(plan.write())).accounts["h0"]
    assert account.busy == 1601 / (5000 - 2450), "of what it was left it used so much"
    ms = {name: (column / MS).tolist() for name, column in account._asdict().items() if name != "busy"}
    assert ms == {
        "begin_ns": [8000, 9000, 10_000, 11_000, 12_000],
        "end_ns": [9000, 10_000, 11_000, 12_000, 13_000],
        "withheld_ns": [300, 400, 300, 450, 1000],  # of the last wait, too long for its row, 250 ms fit into the row before
        "carried_ns": [300, 400, 700, 1150, 2150],  # less than 50 ms to catch up in: the last three
        "late_ns": [5, 6, 7, 8, 9],
        "waited_ns": [300, 100, 0, 250, 1000],
        "stood_ns": [0, 0, 300, 0, 300],
        "throttled_ns": [0, 400, 0, 0, 300],
    }


@pytest.mark.parametrize(("keep_alive_s", "stall_ms"), [(0, 100), (0.03, 30), (5, 100)])
def test_a_stall_is_as_short_as_what_the_bus_lets_a_connection_be_silent(tmp_path: Path, keep_alive_s: float, stall_ms: int) -> None:
    plan = RunFolder(tmp_path / "run", bus={"keep_alive_s": keep_alive_s}).pod("web-0").starve(h0=between(12, 12.25, 4 * (stall_ms + 0.01)))
    plan.publish(1)
    assert len(read_withheld(open_run(plan.write())).stalls["h0"]) == 1
    plan = RunFolder(tmp_path / "less", bus={"keep_alive_s": keep_alive_s}).pod("web-0").starve(h0=between(12, 12.25, 4 * (stall_ms - 1)))
    plan.publish(1)
    assert len(read_withheld(open_run(plan.write())).stalls["h0"]) == 0


def test_in_virtual_time_nothing_is_withheld(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0").starve(h0=between(12, 13, 400))
    plan.publish(1)
    plan.info.ground = "model"
    found = read_withheld(open_run(plan.write()))
    assert (found.accounts, found.steps, found.stalls) == ({}, [], {})


def test_rows_up_to_a_second_before_a_suspension_was_seen_are_withheld_whole(tmp_path: Path) -> None:
    """Rows of a quarter second; the machine slept twice, seen at 12.25 and 16.25 s, and at 18 s the wall clock was only set."""

    def said(at: int) -> Waits:
        slept = 9.0 * SECOND * (at > 12 * SECOND) + 2.0 * SECOND * (at > 16 * SECOND)
        return Waits(waited_ns=0.0, wall_offset_ns=slept + 3_600.0 * SECOND * (at > 18 * SECOND), suspended_ns=slept)

    account = withheld(tmp_path / "run", h0=said).accounts["h0"]
    whole = [(int(end), int(ns)) for end, ns in zip(account.end_ns, account.withheld_ns, strict=True) if ns]
    ends = [11.25, 11.5, 11.75, 12.0, 12.25, 15.25, 15.5, 15.75, 16.0, 16.25]
    assert whole == [(int(end * SECOND), SECOND // 4) for end in ends]


@pytest.mark.parametrize(
    ("waited", "cpu", "settled"),
    [
        pytest.param([0, 400], [0, 0], [150, 250], id="what is more than a row lies in the one before, also in the first"),
        pytest.param([400], [0], [250], id="and what is more than the first row is long was before all"),
        pytest.param([400, 0], [0, 0], [250, 0], id="never in a row after"),
        pytest.param([20, 0, 0, 700], [0, 0, 0, 0], [0 + 20, 200, 250, 250], id="as far back as it takes"),
        pytest.param([0, 0, 0, 700], [0, 0, 100, 0], [0, 0, 150, 250], id="and no farther than it ran"),
        pytest.param([0, 0, 0, 700], [0, 0, 12, 0], [0, 212 + 0, 238, 250], id="a row that ran for less than a twentieth is gone through"),
        pytest.param([0, 200, 0, 700], [0, 0, 0, 0], [150 - 0, 250, 250, 250], id="what a row waited itself takes its room"),
        pytest.param([0, 0, 350], [0, 0, 50], [0, 150, 250], id="what a row computed is no room for what it waited"),
        pytest.param([0, 0, 250], [0, 0, 250], [0, 0, 250], id="a row that is full is as it should be"),
        pytest.param([0, 260, 250], [0, 0, 0], [10, 250, 250], id="each row has its own too much"),
    ],
)  # fmt: skip
def test_waits_are_settled_into_the_rows_in_which_they_were(waited: list[float], cpu: list[float], settled: list[float]) -> None:
    given = np.array(waited, dtype=np.float64)
    assert _settled(given, np.full(len(waited), 250.0), np.array(cpu, dtype=np.float64)).tolist() == settled
    assert given.tolist() == waited, "and what was told stays as it was told"


@pytest.mark.parametrize(
    ("readings", "rises"),
    [
        pytest.param([(0, 0.0), (400, 40.0)], [10.0, 10.0, 10.0, 10.0], id="two readings are enough"),
        pytest.param([(0, 0.0)], [0.0] * 4, id="one is not"),
        pytest.param([], [0.0] * 4, id="nor none"),
        pytest.param([(0, 0.0), (200, np.nan), (400, 40.0)], [10.0] * 4, id="what is not known is passed over"),
        pytest.param([(0, np.nan), (100, 5.0), (200, np.nan)], [0.0] * 4, id="and is no reading"),
        pytest.param([(0, 50.0), (100, 70.0), (400, 10.0)], [20.0, 0.0, 0.0, 0.0], id="a counter that falls was begun anew"),
        pytest.param([(150, 0.0), (250, 10.0)], [0.0, 5.0, 5.0, 0.0], id="outside of the readings nothing rises"),
    ],
)
def test_what_the_machine_counted_is_laid_evenly_over_the_rows(readings: list[tuple[int, float]], rises: list[float]) -> None:
    machine = pd.DataFrame({"at_ns": [at for at, _ in readings], "steal_ns": [value for _, value in readings]}, dtype=np.float64)
    begin = np.array([0, 100, 200, 300])
    assert _evenly(machine, "steal_ns", begin, begin + 100).tolist() == pytest.approx(rises)


def test_a_scenario_that_says_nothing_of_its_bus_has_the_usual_stalls(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0").starve(h0=between(12, 12.25, 4 * 100.01))
    plan.publish(1)
    run = open_run(plan.write())
    del run.scenario["bus"]
    assert len(read_withheld(run).stalls["h0"]) == 1


def test_of_a_process_with_a_single_sample_nothing_is_known(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.publish(1)
    plan.hosts = [(11 * SECOND, "h0", 0, 0, 0.0)] + [(at * SECOND, "locust", 0, 0, 0.0) for at in (11, 12)]
    assert list(read_withheld(open_run(plan.write())).accounts) == ["locust"]
