"""How clients try again: the lab's own, with jitter, and that of ioredis, as version 5.11.1 does it."""

from __future__ import annotations

import random

import pytest

from sim.bus.tries import LATE_S, IoredisTries, JitteredTries


def test_a_jittered_pause_doubles_from_50_ms_to_the_longest_and_any_part_of_it_is_drawn() -> None:
    tries = JitteredTries(most_s=2.0)
    assert [tries.pause_s(attempt, 1.0) for attempt in range(1, 9)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert (tries.pause_s(3, 0.0), tries.pause_s(3, 0.25), tries.pause_s(10_000, 1.0)) == (0.0, 0.05, 2.0)
    assert JitteredTries(most_s=0.01).pause_s(1, 1.0) == 0.01
    assert not any(tries.rejects(attempt) for attempt in range(1, 100))


def test_a_jittered_pause_is_what_uniform_draws() -> None:
    ours, theirs = random.Random(7), random.Random(7)
    assert [JitteredTries().pause_s(2, ours.random()) for _ in range(9)] == [theirs.uniform(0, 0.1) for _ in range(9)]


def test_pauses_of_ioredis_grow_by_50_ms_up_to_2_s_and_have_no_jitter_but_a_timer_s_lateness() -> None:
    tries = IoredisTries()
    assert [round(tries.pause_s(attempt, 0.0), 6) for attempt in (1, 2, 3, 39, 40, 41, 1000)] == [0.05, 0.1, 0.15, 1.95, 2.0, 2.0, 2.0]
    assert tries.pause_s(1, 1.0) - tries.pause_s(1, 0.0) == pytest.approx(LATE_S)
    assert sum(tries.pause_s(attempt, 0.0) for attempt in range(1, 21)) == pytest.approx(10.5), "after which what waits is rejected"


@pytest.mark.parametrize(("most", "rejecting"), [(20, [21, 42, 63]), (0, [1, 2, 3, 4]), (1, [2, 4]), (-1, [])])
def test_ioredis_rejects_what_waits_after_so_many_retries_and_again_after_as_many(most: int, rejecting: list[int]) -> None:
    tries = IoredisTries(most_retries=most)
    assert [attempt for attempt in range(1, 64) if tries.rejects(attempt)][: len(rejecting) or None] == rejecting
