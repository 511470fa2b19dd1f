"""Times as a scenario says them: what is drawn has the mean and the spread that are computed."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest

from sim.record.durations import MOST_MS, Duration, duration_of, parse_duration


@pytest.mark.parametrize(
    ("text", "mean", "square"),
    [
        (5, 5, 25),
        ("fixed(5)", 5, 25),
        ("exponential(5)", 5, 50),
        ("exponential(mean=5)", 5, 50),
        ("uniform(2, 8)", 5, 28),
        ("uniform(high=8, low=2)", 5, 28),
        ("lognormal(5, 5)", 5, 25),
        ("lognormal(p50=5, p99=20)", 5 * math.exp(0.59590**2 / 2), 25 * math.exp(2 * 0.59590**2)),
        ("exponential(400000)", 400_000 * (1 - math.exp(-1.5)), 2 * 400_000**2 * (1 - math.exp(-1.5) * 2.5)),  # cut off at the most
    ],
)
def test_a_distribution_has_its_moments(text: float | str, mean: float, square: float) -> None:
    one = parse_duration(text)
    assert (one.mean_ms, one.square_ms2) == (pytest.approx(mean, rel=1e-3), pytest.approx(square, rel=1e-3))
    random = Random(7)
    drawn = np.array([one.draw(random) for _ in range(200_000)])
    spread = math.sqrt(max(0.0, one.square_ms2 - one.mean_ms**2) / len(drawn))
    assert drawn.mean() == pytest.approx(one.mean_ms, abs=5 * spread + 1e-9)
    assert drawn.min() >= 0 and drawn.max() <= MOST_MS
    assert np.mean(drawn <= one.quantile(0.5) + 1e-9) == pytest.approx(0.5 if one.quantile(0.1) < one.quantile(0.9) else 1.0, abs=0.005)


def test_no_time_draws_nothing_and_is_false() -> None:
    random = Random(3)
    before = random.getstate()
    assert parse_duration(4).draw(random) == 4 and random.getstate() == before
    assert not parse_duration(0) and parse_duration(0) == Duration() and parse_duration("exponential(1)")


def test_a_table_has_a_time_for_each_event_type() -> None:
    table = {"order": "exponential(3)", "other": 2}
    assert duration_of(table, "order") == parse_duration("exponential(3)")
    assert duration_of(table, "price") == parse_duration(2)
    assert duration_of({"order": 3}, "price") == Duration()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("5 ms", "is no time: give milliseconds, or one of fixed"),
        ("", "is no time"),
        ("gauss(5, 1)", "no distribution 'gauss'"),
        ("lognormall(5, 6)", "did you mean 'lognormal'"),
        ("lognormal(5)", "lognormal takes p50, p99"),
        ("lognormal(p50=5, p50=6)", "each once"),
        ("lognormal(p50=5, p98=6)", "each once"),
        ("lognormal(5, 4)", "p99 is not less"),
        ("lognormal(0, 4)", "p50 is more than 0"),
        ("exponential(x)", "'x' is no number"),
        ("exponential(inf)", "from 0 to 600,000 ms"),
        ("exponential(nan)", "from 0 to 600,000 ms"),
        ("uniform(8, 2)", "low = 8 is more than high = 2"),
        ("fixed(-1)", "from 0 to 600,000 ms"),
    ],
)
def test_what_is_no_time_is_said_in_words(text: str, why: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_duration(text)
    assert why in str(refused.value)


@pytest.mark.parametrize(("text", "shown"), [(5, "5 ms"), ("lognormal(5,40)", "lognormal(p50=5, p99=40) ms")])
def test_a_time_is_shown_as_it_is_written(text: float | str, shown: str) -> None:
    assert str(parse_duration(text)) == shown
