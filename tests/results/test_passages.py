"""Which processes a copy passes, what it may have lost in them, and to which times that is given back."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from sim.results.opened_run import open_run
from sim.results.passages import FASTEST_NS, Passages, by_publisher, handed_on, kept_at_best
from sim.results.withheld import Account, Withheld, read_withheld
from tests.results.test_withheld import between
from tests.support.run_folders import MS, SECOND, RunFolder

# Three rows of a second, of which the first withheld 60 ms and the last 45.
_ZERO = np.zeros(3, dtype=np.int64)
_ROWS = Account(
    np.array([0, 1, 2]) * SECOND, np.array([1, 2, 3]) * SECOND, np.array([60, 0, 45]) * MS, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
)  # fmt: skip
WITHHELD = Withheld({"h0": _ROWS}, [], SECOND)


def kept(times: list[float], lost: list[float], begins: list[float], *, limit: float = 50) -> list[float]:
    columns = (np.round(np.array(column) * MS).astype(np.int64) for column in (times, lost, begins))
    times_ns, lost_ns, begin_ns = columns
    return (kept_at_best(times_ns, lost_ns, begin_ns, limit_ns=limit * MS, withheld=WITHHELD) / MS).tolist()


@pytest.mark.parametrize(
    ("times", "lost", "begins", "expected"),
    [
        pytest.param([100], [50], [100], [50], id="what it lost makes the difference: it is on the limit"),
        pytest.param([100], [49], [100], [100], id="what it lost is too little"),
        pytest.param([50, 20], [50, 20], [100, 100], [50, 20], id="what is within the limit stays"),
        pytest.param([111], [80], [100], [111], id="it needs 61 of the 60 ms that this second withheld"),
        pytest.param([110], [80], [100], [50], id="it needs all of them"),
        pytest.param([100, 30, 70], [60, 60, 60], [100, 300, 500], [100, 30, 50], id="of two there is enough for the cheaper"),
        pytest.param([70, 30, 100], [60, 60, 60], [500, 300, 100], [50, 30, 100], id="in whatever order they stand"),
        pytest.param([100, 100], [60, 60], [500, 100], [100, 50], id="of two alike for the earlier"),
        pytest.param([100, 80], [60, 60], [100, 150], [50, 50], id="two that overlap lose the same"),
        pytest.param([100, 100], [60, 60], [100, 200], [50, 50], id="also two of which one begins when the other ends"),
        pytest.param([100, 100], [60, 60], [100, 201], [50, 100], id="but not a later one"),
        pytest.param([300, 70, 100], [260, 60, 60], [100, 150, 390], [300, 70, 100], id="those that overlap need the most of any"),
        pytest.param([100, 90, 80], [60, 60, 60], [100, 150, 500], [50, 50, 80], id="what brings two within the limit goes first"),
        pytest.param([100], [60], [950], [50], id="in the second in which it ends, what was withheld since it began"),
        pytest.param([100], [60], [951], [100], id="which was less"),
        pytest.param([100, 100, 95], [60, 60, 60], [100, 1100, 2100], [50, 100, 50], id="each second has its own"),
        pytest.param([100, 50, 100], [60, 9, 60], [100, 200, 250], [50, 50, 100], id="one on the limit needs nothing and joins nobody"),
        pytest.param([], [], [], [], id="nothing"),
    ],
)  # fmt: skip
def test_times_at_best(times: list[float], lost: list[float], begins: list[float], expected: list[float]) -> None:
    assert kept(times, lost, begins) == expected


def test_nothing_is_faster_than_a_copy_can_be() -> None:
    assert kept([1], [1], [100], limit=FASTEST_NS / MS) == [0.05]
    assert kept([1], [1], [100], limit=(FASTEST_NS - 1) / MS) == [1]
    assert kept([1], [1], [100], limit=(FASTEST_NS + 0.9) / MS) == [0.05]


def test_what_was_measured_is_left_as_it_was() -> None:
    times = np.array([100 * MS])
    kept_at_best(times, np.array([60 * MS]), np.array([0]), limit_ns=50 * MS, withheld=WITHHELD)
    assert times.tolist() == [100 * MS]


@pytest.mark.parametrize(
    ("group", "begin", "end", "lost", "expected"),
    [
        pytest.param([0, 0], [0, 4], [5, 9], [7, 1], [7, 7], id="behind one that lost more"),
        pytest.param([0, 0], [0, 5], [5, 9], [7, 1], [7, 1], id="when that was done before it began"),
        pytest.param([0, 1], [0, 4], [5, 9], [7, 1], [7, 1], id="in a queue of its own"),
        pytest.param([0, 0, 0], [0, 4, 8], [5, 9, 12], [7, 1, 8], [7, 7, 8], id="all the way, and more"),
        pytest.param([0, 0], [4, 0], [9, 5], [1, 7], [7, 7], id="in the order in which they were done"),
        pytest.param([3, 3, 2], [-9, 0, -9], [0, 2, 20], [2, 1, 5], [2, 1, 5], id="also before the clock began"),
        pytest.param([], [], [], [], [], id="nothing"),
    ],
)
def test_what_one_lost_is_handed_on(group: list[int], begin: list[int], end: list[int], lost: list[int], expected: list[int]) -> None:
    assert handed_on(*(np.array(column, dtype=np.int64) for column in (group, begin, end, lost))).tolist() == expected


@pytest.mark.parametrize("seed", range(20))
def test_what_is_handed_on_is_what_a_plain_loop_hands_on(seed: int) -> None:
    draw = random.Random(seed)
    rows = [(draw.randrange(3), begin, begin + 1 + place, draw.randrange(9)) for place, begin in enumerate(draw.sample(range(99), 30))]
    expected = {}
    for group in range(3):
        before, until = 0, -1
        for row in sorted((row for row in rows if row[0] == group), key=lambda row: row[2]):
            before, until = (max(before, row[3]) if until > row[1] else row[3]), row[2]
            expected[row] = before
    columns = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    assert handed_on(*columns).tolist() == [expected[row] for row in rows]


def test_a_publisher_is_its_pod_s_process_or_one_of_the_generator_s() -> None:
    assert by_publisher("web-0", {"web-0": ["h0", "h1"]}, ("locust",)) == ("h0", "h1")
    assert by_publisher("locust-0", {"web-0": ["h0", "h1"]}, ("locust", "locust-2")) == ("locust", "locust-2")


@pytest.fixture
def passages(tmp_path: Path) -> Passages:
    """In the quarter second from 12 s on 100 ms were withheld from the generator, from 13 s on 40 from the broker, from 14 s on 20 from h0.

    Events: 0 and 1 wait in the generator, 2 is on time, 3 is a pod's, 4 never left, 5 passes the broker's and 6 the pod's bad time.
    """
    plan = RunFolder(tmp_path / "run").pod("web-0").pod("web-1")
    plan.starve(locust=between(12, 12.25, 400), broker=between(13, 13.25, 160), h0=between(14, 14.25, 80))

    def at(seconds: float) -> int:
        return round(seconds * SECOND)

    plan.event(at(12.0), sent_ns=at(12.62), acked_ns=at(12.65))
    plan.event(at(12.6), sent_ns=at(12.68), acked_ns=at(12.7))
    plan.event(at(12.9), sent_ns=at(12.9), acked_ns=at(12.91))
    plan.event(at(12.0), sent_ns=at(12.2), acked_ns=at(12.21), publisher="web-0")
    plan.event(at(12.1), sent_ns=0, acked_ns=0, outcome="never-sent", publisher="locust-1")
    plan.event(at(13.05), sent_ns=at(13.06), acked_ns=at(13.2))
    plan.event(at(14.0), sent_ns=at(14.001), acked_ns=at(14.002))
    run = open_run(plan.write())
    return Passages(run, read_withheld(run))


def ms(found: np.ndarray) -> list[float]:
    return (found / MS).tolist()


def test_an_event_passes_its_publisher_and_the_servers(passages: Passages) -> None:
    rows = np.array([0, 3, 4, 5, 6])
    begin, end = (np.full(5, at * SECOND, dtype=np.int64) for at in (11, 15))
    assert ms(passages.to_servers(rows, begin, end)) == [140, 60, 140, 140, 140]  # 3 is of h0
    assert ms(passages.to_servers(rows[:2], begin[:2], begin[:2] + SECOND + 50 * MS)) == [50, 0]
    assert passages.to_servers(rows[:0], begin[:0], end[:0]).tolist() == []


def test_a_copy_passes_its_pod_s_process_too(passages: Passages) -> None:
    rows, pods = np.array([0, 3, 6]), np.array([0, 1, 1])
    begin, end = (np.full(3, at * SECOND, dtype=np.int64) for at in (11, 15))
    assert ms(passages.to_pods(rows, pods, begin, end)) == [160, 60, 160]
    assert ms(passages.to_pods(rows, pods, begin, begin + 2 * SECOND)) == [100, 0, 100]


def test_a_late_sending_is_laid_to_the_machine_as_far_as_it_withheld_something_and_handed_on(passages: Passages) -> None:
    assert ms(passages.sending()) == [100, 80, 0, 0, 0, 10, 0]


def test_what_never_left_keeps_nobody_waiting_and_hides_nobody_s_wait(tmp_path: Path) -> None:
    """What waited behind the first is late because of that, whatever else was to be sent meanwhile and was not."""
    plan = RunFolder(tmp_path / "run").pod("web-0").starve(locust=between(12, 12.25, 400))
    plan.event(12 * SECOND, sent_ns=12 * SECOND + 600 * MS, acked_ns=12 * SECOND + 620 * MS)
    plan.event(12 * SECOND + 610 * MS, sent_ns=12 * SECOND + 690 * MS, acked_ns=12 * SECOND + 700 * MS)
    plan.event(12 * SECOND + 650 * MS, sent_ns=0, acked_ns=0, outcome="never-sent")
    run = open_run(plan.write())
    assert ms(Passages(run, read_withheld(run)).sending()) == [100, 80, 0]


def test_an_arrival_is_at_least_as_late_as_its_sending_and_no_later_than_it_is(passages: Passages) -> None:
    end = np.array([12.7, 12.75, 12.95, 12.3, 13.25, 14.03])
    rows = np.array([0, 1, 2, 3, 5, 6])
    assert ms(passages.arriving(rows, np.zeros(6, dtype=np.int64), np.round(end * SECOND).astype(np.int64))) == [100, 100, 0, 0, 40, 20]
    assert ms(passages.arriving(rows[:1], np.array([1]), np.array([12 * SECOND + 30 * MS]))) == [30]


def test_a_pod_that_only_deliveries_name_passes_no_process_of_its_own(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0").pod("ghost-0")
    plan.states = [row for row in plan.states if row[0] != "ghost-0"]
    plan.starve(locust=between(12, 13, 100), h0=between(12, 13, 200))
    (event,) = plan.publish(1, start_ns=12 * SECOND)
    run = open_run(plan.write())
    pods = np.array([[history.pod for history in run.pod_histories].index(pod) for pod in ("web-0", "ghost-0")])
    found = Passages(run, read_withheld(run)).to_pods(np.array([0, 0]), pods, np.full(2, 11 * SECOND), np.full(2, 15 * SECOND))
    assert event.receivers == 2 and ms(found) == pytest.approx([300, 100])
