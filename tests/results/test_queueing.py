"""The M/G/c queue against what is known of it."""

from __future__ import annotations

import math

import pytest

from sim.results.queueing import busy_wait, mean_wait_s


@pytest.mark.parametrize(
    ("load", "servers", "waits"),
    [(0.5, 1, 0.5), (0.0, 3, 0.0), (2.0, 3, 4 / 9), (8.0, 10, 0.40918), (1.0, 1, 1.0), (5.0, 3, 1.0), (90.0, 100, 0.21694)],
)
def test_the_share_that_waits_is_erlang_s(load: float, servers: int, waits: float) -> None:
    assert busy_wait(load, servers) == pytest.approx(waits, abs=1e-5)


def test_the_wait_of_one_server_is_that_of_pollaczek_and_khinchine() -> None:
    assert mean_wait_s(160, mean_s=0.005, square_s2=0.005**2) == pytest.approx(160 * 0.005**2 / (2 * (1 - 0.8)))  # M/D/1
    assert mean_wait_s(160, mean_s=0.005, square_s2=2 * 0.005**2) == pytest.approx(0.8 * 0.005 / 0.2)  # M/M/1
    assert mean_wait_s(160, mean_s=0.02, square_s2=2 * 0.02**2, servers=4) == pytest.approx(0.59648 * 0.02 / (4 * 0.2), rel=1e-4)  # M/M/4


def test_more_than_can_be_done_waits_for_ever_and_no_work_not_at_all() -> None:
    assert mean_wait_s(200, mean_s=0.005, square_s2=0.005**2) == math.inf
    assert mean_wait_s(200, mean_s=0.0, square_s2=0.0) == 0.0
