"""Copies and lags by intervals of time, each number worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from sim.results.opened_run import open_run
from sim.results.over_time import bin_of, bincount, count_over_time, lag_quantiles_over_time
from tests.support.run_folders import MS, SECOND, US, RunFolder

EDGES = np.array([10, 11, 12, 13]) * SECOND


def test_a_time_is_in_the_interval_that_begins_with_it_and_the_end_of_all_in_the_last() -> None:
    found = bin_of(np.array([0, 10, 20, 30]), np.array([-11, -1, 0, 9, 10, 19, 20, 29, 30, 31, 40]))
    assert (found.tolist(), found.dtype) == ([-1, -1, 0, 0, 1, 1, 2, 2, 2, -1, -1], np.int32)
    assert bin_of(np.array([5, 12]), np.array([4, 5, 11, 12, 13])).tolist() == [-1, 0, 0, 0, -1]


def test_what_is_outside_of_all_intervals_does_not_count() -> None:
    assert bincount(np.array([-1, 0, 2, 2, -1]), 4).tolist() == [1, 0, 2, 0]
    assert bincount(np.array([], dtype=np.int32), 2).tolist() == [0, 0]


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    """Two pods; events meant for 10, 11, 12 and 13 s, heard by web-0 a second later; web-1 hears the second and the last after 1 ms."""
    plan = RunFolder(tmp_path / "run").service("web", replicas=2)
    for number in range(4):
        event = plan.event((10 + number) * SECOND)
        plan.hear(event, "web-0", lag_ns=SECOND)
        if number % 2:
            plan.hear(event, "web-1", lag_ns=MS)
    return plan


def test_copies_count_when_they_were_handled_and_missing_ones_when_they_were_meant(plan: RunFolder) -> None:
    delivered, missing = count_over_time(open_run(plan.write()), EDGES)
    assert (delivered.tolist(), missing.tolist()) == ([0, 2, 2], [1, 0, 1]), "handled at 13 s is in the last, at 13.001 and 14 in none"


def middle_of_step(lag_ns: int) -> float:
    """Return the middle of the step, of 256 between two powers of two, in which a lag is counted."""
    mantissa, power = math.frexp(lag_ns)
    step = math.floor(mantissa * 512)
    return (step + 0.5) / 512 * 2.0**power


def test_quantiles_are_the_middles_of_the_steps_of_lags_that_occurred(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("web", replicas=1)
    lags = [250 * US, 3 * MS, 70 * US, 12_345_678, 400 * MS]
    for number, lag in enumerate(lags):
        plan.hear(plan.event(10 * SECOND + number * MS), "web-0", lag_ns=lag)
    plan.hear(plan.event(12 * SECOND), "web-0", lag_ns=MS)
    plan.hear(plan.event(13 * SECOND), "web-0", lag_ns=2 * MS)  # meant for the end of the last interval: in none
    found = lag_quantiles_over_time(open_run(plan.write()), EDGES, (0.0, 0.5, 0.51, 1.0))
    by_rank = [middle_of_step(lag) for lag in (70 * US, 3 * MS, 12_345_678, 400 * MS)]
    assert found[:, 0].tolist() == by_rank
    assert np.isnan(found[:, 1]).all() and found[:, 2].tolist() == [middle_of_step(MS)] * 4
    assert found.shape == (4, 3)
    for lag, seen in zip(sorted(lags), found[:, 0][[0, 0, 1, 2, 3]], strict=True):
        assert lag == 250 * US or seen == pytest.approx(lag, rel=0.002)


def test_a_lag_that_is_none_and_one_that_is_longer_than_all_steps(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("web", replicas=1)
    for second, lag in ((10, -MS), (11, 1), (12, 2**47)):
        plan.hear(plan.event(second * SECOND, sent_ns=second * SECOND - 2 * MS), "web-0", lag_ns=lag)
    found = lag_quantiles_over_time(open_run(plan.write()), EDGES, (0.5,))
    assert found[0].tolist() == [0.0, middle_of_step(1), middle_of_step(2**45 + 254 * 2**37)], "a lag below 0 counts as none"
    plan.folder = plan.folder.with_name("none")
    plan.heard[1].handled_ns -= 1
    plan.heard[1].received_ns -= 1
    assert lag_quantiles_over_time(open_run(plan.write()), EDGES, (0.5,))[0, 1] == 0.0
