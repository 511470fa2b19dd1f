"""Numbers read as a person would say them, and never as something that they are not."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.machine.words import UNITS_S, agreeing, amount, count, duration, listed, measured, multiple, times, unit_of


@pytest.mark.parametrize(
    ("time_s", "text"),
    [
        (0, "0 s"),
        (42e-9, "42 ns"),
        (0.64e-3, "640 us"),
        (102.4e-6, "102 us"),
        (999.7e-6, "1 ms"),
        (0.012, "12 ms"),
        (0.161653e-3, "162 us"),
        (0.99951, "1 s"),
        (9.3, "9.3 s"),
        (70.8734, "1 min 11 s"),
        (59.97, "1 min"),
        (60, "1 min"),
        (125, "2 min 5 s"),
        (3599.6, "1 h"),
        (3780, "1 h 3 min"),
        (26 * 3600, "26 h"),
        (-0.25, "-250 ms"),
        (math.nan, "not known"),
        (math.inf, "no end"),
    ],
)
def test_a_time_is_told_in_the_unit_that_a_person_would_choose(time_s: float, text: str) -> None:
    assert duration(time_s) == text


@given(st.floats(min_value=1e-9, max_value=1e7))
def test_a_told_time_is_the_time_to_half_of_its_last_digit(time_s: float) -> None:
    sizes = UNITS_S | {"min": 60.0, "h": 3600.0}
    words = duration(time_s).replace(",", "").split()
    parts = [(float(words[n]), words[n + 1]) for n in range(0, len(words), 2)]
    told_s = sum(value * sizes[unit] for value, unit in parts)
    coarse = {"h": 30.0, "min": 0.5}.get(parts[0][1], 0.0)
    assert abs(told_s - time_s) <= max(0.0051 * time_s, 0.51e-9, coarse * 1.0001)
    assert 1 <= parts[0][0] < 1000 or parts[0][1] in ("h", "ns")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.0, "0"), (-0.0, "0"), (0.161653, "0.162"), (80.52, "80.5"), (1.0, "1"), (100, "100"), (403.4, "403")),
        *((1234.5, "1,234"), (1e7, "10,000,000"), (0.00012345, "0.000123"), (-2.5, "-2.5"), (math.nan, "not known"), (9.999, "10")),
    ],
)
def test_a_number_has_three_digits_and_all_of_its_whole_part(value: float, text: str) -> None:
    assert amount(value) == text


def test_a_count_agrees_with_its_noun() -> None:
    assert [count(n, "pod") for n in (0, 1, 2, 1190)] == ["0 pods", "1 pod", "2 pods", "1,190 pods"]
    assert (count(1, "copy"), count(2, "copy"), count(2, "batch"), count(3, "process")) == (
        "1 copy",
        "2 copies",
        "2 batches",
        "3 processes",
    )
    assert (count(2, "delay"), count(2, "box"), count(1.5, "item")) == ("2 delays", "2 boxes", "1.5 items")
    assert [agreeing(n, "copy is", "copies are") for n in (0, 1, 2)] == ["copies are", "copy is", "copies are"]
    assert (count(1, "pod is", "pods are"), count(2, "pod is", "pods are")) == ("1 pod is", "2 pods are")
    assert [times(n) for n in (0, 1, 2, 3, 1000)] == ["0 times", "once", "twice", "3 times", "1,000 times"]
    assert [listed(["a", "b", "c"][:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]


def test_a_ratio_is_a_share_until_it_is_twice_as_much() -> None:
    ratios = [0, 0.5, 0.9984, 1, 1.17, 1.996, 2, 2580.4]
    assert [multiple(ratio) for ratio in ratios] == [
        *("0 % of", "50 % of", "99.8 % of", "100 % of", "117 % of", "200 % of", "2 times", "2,580 times"),
    ]


def test_a_measured_value_has_the_unit_of_its_metric() -> None:
    assert measured("lag_ms_p99", 0.161653) == "0.162 ms"
    assert measured("deaf_s_max", 1.2345) == "1.23 s"
    assert measured("missing", 2215.0) == "2,215"
    assert measured("offered_ratio_min", 0.98765) == "0.988"
    assert (unit_of("time_to_notice_s_max"), unit_of("items_lost"), unit_of("call_ms_p999")) == ("s", "", "ms")


def test_a_value_beside_its_limit_is_never_written_like_it_unless_it_is_equal() -> None:
    assert measured("lag_ms_p99", 50.01, beside=50) == "50.01 ms"
    assert measured("lag_ms_p99", 50.0, beside=50) == "50 ms"
    assert measured("offered_ratio_min", 0.98999, beside=0.99) == "0.98999"


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_two_values_that_differ_are_written_differently(value: float, other: float) -> None:
    texts = measured("lag_ms_p99", value, beside=other), measured("lag_ms_p99", other, beside=value)
    assert (texts[0] == texts[1]) == (value == other)
