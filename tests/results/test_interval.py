"""An interval, and Student's t against the tables in books."""

from __future__ import annotations

import math

import pytest

from sim.results.interval import UNKNOWN, Interval, mean_interval, student_t


@pytest.mark.parametrize(
    ("freedom", "table"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (7, 2.365), (10, 2.228), (30, 2.042), (120, 1.980), (10**6, 1.960)],
)
def test_student_s_t_is_that_of_the_tables(freedom: int, table: float) -> None:
    assert student_t(freedom) == pytest.approx(table, abs=0.0005)


def test_an_interval_is_turned_around_with_its_ends() -> None:
    assert Interval(2, 1, 4).inverse(8) == Interval(4, 2, 8)
    assert Interval(2, 0, 4).inverse(8) == Interval(4, 2, math.inf)
    assert Interval(4, 2, 5).inverse(10) == Interval(2.5, 2, 5)
    assert Interval(4, 2, 5).inverse() == Interval(0.25, 0.2, 0.5)
    assert Interval(0.25, 0.125, 0.5).inverse() == Interval(4, 2, 8), "also of ends below 1"


def test_the_mean_of_three_has_an_interval_that_is_not_below_0() -> None:
    assert mean_interval([1.0, 2.0, 3.0]) == Interval(2.0, 0.0, pytest.approx(2 + 4.302653 / 3**0.5))
    assert mean_interval([5.0, 5.0]) == Interval(5.0, 5.0, 5.0)


def test_one_value_has_no_interval() -> None:
    one = mean_interval([1.0])
    assert one.value == 1 and one.known and math.isnan(one.low) and math.isnan(one.high)
    assert str(one) == "1"


def test_an_interval_reads_as_a_number_with_its_ends() -> None:
    assert str(Interval(1234.5, 999.0, 1500.0)) == "1,234 (999 to 1,500)"
    assert str(UNKNOWN) == "not known" and not UNKNOWN.known
