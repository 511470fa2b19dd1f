"""What turns on less than clocks are known by, nanosecond by nanosecond."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sim.results.clock_doubt import causes_in_doubt, own_error_ns, pod_error_ns, windows_in_doubt
from sim.results.pod_histories import SilentWindow

DEAF, CUT = SilentWindow(10, 20, "deaf"), SilentWindow(15, 30, "cut")


def doubts(windows: list[SilentWindow], *events: tuple[int, int], error: int = 2) -> list[bool]:
    sent, answered = (np.array(column) for column in zip(*events, strict=True))
    return windows_in_doubt(windows, sent, answered, np.full(len(sent), error)).tolist()


def test_an_event_near_the_edge_of_a_window_is_in_doubt_and_one_well_inside_or_outside_is_not() -> None:
    times = [7, 8, 11, 12, 18, 19, 22, 23]
    assert doubts([DEAF], *((at, at) for at in times)) == [False, True, True, False, False, True, True, False]
    assert doubts([DEAF], *((at, at) for at in times), error=0) == [False, False] + [False] * 6, "exact clocks leave no doubt"


def test_an_event_that_was_long_under_way_surely_touched_a_window_where_both_its_ends_say_so() -> None:
    assert doubts([DEAF], (5, 12), (5, 11), (18, 40), (19, 40), (1, 99)) == [False, True, False, True, False]


def test_the_first_window_that_it_may_have_touched_says_why_unless_it_did_not_surely() -> None:
    assert doubts([DEAF, CUT], (16, 16), (21, 21), (25, 25), (31, 31)) == [False, True, False, True]
    assert doubts([DEAF, CUT._replace(cause="deaf")], (21, 21), (31, 31)) == [False, True], "whichever it was, the cause is the same"
    assert doubts([CUT, DEAF], (14, 14), (16, 16), (18, 18), (11, 11)) == [True, True, False, True]


def test_what_a_window_settled_no_later_one_puts_in_doubt() -> None:
    later = [CUT, SilentWindow(0, 99, "pod-down"), SilentWindow(0, 99, "behind")]
    assert doubts([DEAF, *later], (15, 15), (50, 50), (9, 9)) == [False, False, True]
    assert doubts([SilentWindow(0, 11, "cut"), DEAF, SilentWindow(0, 99, "cut")], (12, 12)) == [True], "three windows, two causes"
    assert doubts([], (12, 12)) == [False]


def run_of(rows: list[tuple[str, int, int]], *, differ: bool = True) -> Any:
    return SimpleNamespace(pods=pd.DataFrame(rows, columns=["pod", "clock", "bound_ns"]), clocks=SimpleNamespace(differ=differ))


ONE_CLOCK = [("web-0", 1, 5), ("web-0", 1, 7), ("web-1", 2, 90)]
TWO_CLOCKS = [*ONE_CLOCK, ("web-0", 0, 3)]


def test_a_pod_s_times_are_exact_against_events_of_its_own_clock_and_else_wrong_by_both_bounds() -> None:
    clock, bound = np.array([0, 1, 2]), np.array([0, 10, 20])
    assert pod_error_ns(run_of(ONE_CLOCK), "web-0", clock, bound).tolist() == [0 + 7, 0, 20 + 7]
    assert pod_error_ns(run_of(TWO_CLOCKS), "web-0", clock, bound).tolist() == [7, 17, 27], "the run wrote some of them by its own"
    assert pod_error_ns(run_of(ONE_CLOCK), "web-1", clock, bound).tolist() == [90, 100, 0]
    assert pod_error_ns(run_of(ONE_CLOCK), "nobody", clock, bound).tolist() == [0, 10, 20]


@pytest.mark.parametrize(
    ("rows", "pod", "differ", "error"),
    [(ONE_CLOCK, "web-0", True, 0), (TWO_CLOCKS, "web-0", True, 7), (TWO_CLOCKS, "web-0", False, 0), (TWO_CLOCKS, "web-1", True, 0)],
)
def test_a_pod_s_states_are_exact_against_what_it_heard_where_one_clock_wrote_them(
    rows: list[tuple[str, int, int]], pod: str, differ: bool, error: int
) -> None:
    assert own_error_ns(run_of(rows, differ=differ), pod) == error


def test_a_cause_is_in_doubt_where_times_a_bit_earlier_or_later_would_have_another() -> None:
    def causes(sent: np.ndarray, answered: np.ndarray) -> np.ndarray:
        return np.where(sent < 10, "early", np.where(answered > 20, "late", ""))

    sent, answered, error = np.array([7, 8, 12, 11, 13, 5]), np.array([30, 30, 18, 12, 19, 6]), np.array([2, 2, 2, 2, 2, 4])
    assert causes_in_doubt(causes, sent, answered, error).tolist() == [False, True, False, True, True, False]
