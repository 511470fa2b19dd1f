"""The line of another clock: from trips whose every leg is known it is never further from the truth than its bound."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sim.machine.clock_line import MAX_DRIFT, PIECE_NS, ClockLine, Trip, fastest, fit_line, line_of

SECOND, US = 1_000_000_000, 1_000
BEGIN = 70_000 * SECOND

legs = st.tuples(st.integers(1 * US, 400 * US), st.integers(1 * US, 400 * US))  # there and back


class Clock:
    """A clock that is ahead by `ahead_ns` at `BEGIN`, and faster by `ppm` from then on, by `later_ppm` after `turn_s`."""

    def __init__(self, ahead_ns: int, ppm: float, *, turn_s: float = 1e9, later_ppm: float = 0.0) -> None:
        self.ahead_ns, self.ppm, self.turn_ns, self.later_ppm = ahead_ns, ppm, int(turn_s * SECOND), later_ppm

    def at(self, ours_ns: int) -> int:
        passed = ours_ns - BEGIN
        first = min(passed, self.turn_ns)
        return ours_ns + self.ahead_ns + round((first * self.ppm + (passed - first) * self.later_ppm) / 1e6)

    def trip(self, sent_ns: int, there_ns: int, back_ns: int) -> Trip:
        return Trip(sent_ns, self.at(sent_ns + there_ns), sent_ns + there_ns + back_ns)


def off_by(line: ClockLine, clock: Clock, ours_ns: int) -> tuple[int, int]:
    """Return how wrong the line is at a time, and its bound there."""
    theirs = np.array([clock.at(ours_ns)])
    return abs(int(line.to_ours(theirs)[0]) - ours_ns), int(line.bound(theirs)[0])


@given(
    st.integers(-(10**14), 10**14),
    st.floats(-200, 200),
    st.lists(st.lists(legs, min_size=1, max_size=4), min_size=1, max_size=40),
    st.floats(0.2, 3),
)
def test_the_truth_is_within_the_bound_however_uneven_the_ways_are(
    ahead: int, ppm: float, bursts: list[list[tuple[int, int]]], period_s: float
) -> None:
    clock = Clock(ahead, ppm)
    times = [BEGIN + int(n * period_s * SECOND) for n in range(len(bursts))]
    points = [fastest(clock.trip(at, *one) for one in burst) for at, burst in zip(times, bursts, strict=True)]
    line = line_of(fit_line(points))
    for at in np.linspace(points[0].sent_ns + points[0].round_trip_ns, points[-1].sent_ns, 25).astype(np.int64).tolist():
        wrong, bound = off_by(line, clock, max(at, BEGIN))
        assert wrong <= bound
        assert abs(line.to_theirs(at) - clock.at(at)) <= bound + 2


def test_a_bound_is_half_the_least_round_trip_of_the_fastest_and_what_lies_beside_the_line() -> None:
    clock = Clock(12_345 * SECOND, 50.0)
    trips = [clock.trip(BEGIN + n * SECOND, 10 * US, 10 * US) for n in range(31)]
    line = line_of(fit_line(trips))
    assert [round(knot.drift_ppm, 3) for knot in line.knots] == [50.0] * 4
    assert line.bound_ns == 10 * US + 2
    trips[5] = clock.trip(BEGIN + 5 * SECOND, 12 * US, 8 * US)  # no slower, but the way there took longer: 2 us beside the line
    assert [knot.bound_ns // US for knot in line_of(fit_line(trips)).knots][:2] == [12, 10]
    trips[5] = clock.trip(BEGIN + 5 * SECOND, 5_000 * US, 10 * US)  # slow: its own round trip explains where it lies
    assert line_of(fit_line(trips)).bound_ns == line.bound_ns


def test_a_clock_that_changes_its_rate_is_followed_and_its_bound_says_how_well() -> None:
    clock = Clock(0, 50.0, turn_s=34.0, later_ppm=-100.0)
    trips = [clock.trip(BEGIN + n * SECOND, 10 * US, 10 * US) for n in range(61)]
    line = line_of(fit_line(trips))
    for ours_s in range(61):
        wrong, bound = off_by(line, clock, BEGIN + ours_s * SECOND)
        assert wrong <= bound
    bounds = [knot.bound_ns for knot in line.knots]
    assert max(bounds) > 100 * US  # in the piece with the turn
    assert sorted(bounds)[: len(bounds) - 1] == [10 * US + 2] * (len(bounds) - 1)
    assert round(line.knots[0].drift_ppm) == 50 and round(line.knots[-1].drift_ppm) == -100


def test_a_step_of_the_clock_between_trips_is_not_hidden() -> None:
    before, after = Clock(0, 0.0), Clock(3 * 1_000_000, 0.0)
    trips = [(before if n < 14 else after).trip(BEGIN + n * SECOND, 10 * US, 10 * US) for n in range(30)]
    line = line_of(fit_line(trips))
    (piece,) = (knot for knot in line.knots if knot.residual_ns)
    assert piece.bound_ns > 1_000_000


def test_outside_of_what_was_measured_the_bound_grows_as_fast_as_a_clock_may_be_set_right() -> None:
    clock = Clock(5 * SECOND, 20.0)
    line = line_of(fit_line([clock.trip(BEGIN + n * SECOND, 10 * US, 10 * US) for n in range(5)]))
    inside, after = off_by(line, clock, BEGIN + 3 * SECOND)[1], off_by(line, clock, BEGIN + 6 * SECOND)
    assert abs(after[1] - inside - 2 * SECOND * MAX_DRIFT) <= 100 * US and after[0] <= 1 * US
    assert off_by(line, clock, BEGIN - SECOND)[1] > inside


def test_one_trip_and_none() -> None:
    line = line_of(fit_line([Clock(7, 0.0).trip(BEGIN, 10 * US, 30 * US)]))
    assert line.knots[0].bound_ns == 20 * US + 1
    assert line.to_theirs(BEGIN) == BEGIN + 7 - 10 * US
    assert fit_line([]) == []


def test_an_hour_is_a_line_of_as_many_pieces_as_it_has() -> None:
    clock = Clock(0, 1.0)
    trips = [clock.trip(BEGIN + n * SECOND, 10 * US, (10 + n % 7) * US) for n in range(3600)]
    knots = fit_line(trips)
    assert 3600 * SECOND // PIECE_NS <= len(knots) <= 3600 * SECOND // PIECE_NS + 2
    assert {knot.round_trip_ns for knot in knots[:-1]} == {20 * US}
