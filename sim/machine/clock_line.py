"""How the clock of another process went against ours, from round trips: a line in pieces, and how far it may be wrong.

A round trip asks the other for its clock. It was read between the sending and the answer, so its difference to the middle of the two is
wrong by at most half the round trip, however unlike the two ways are. So the fastest trips know most.

Rules
-----
1. Of each burst of trips only the fastest is kept: a *point*.
2. The line goes through the *knots*: the fastest point of each `PIECE_NS`, and the first and the last of all.
3. The *bound* of a piece is half the slower round trip of its two knots, plus its *residual*: how far the points between them lie from the
   line, where they are about as fast; a slower one only as far as its own round trip cannot explain.
4. Before the first knot and behind the last the line goes on, and the bound grows by `MAX_DRIFT`: no clock is set right faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

PIECE_NS = 10_000_000_000
MAX_DRIFT = 500e-6  # a kernel corrects its clock by at most so much (adjtimex)
AS_FAST = 2.0  # a point whose round trip is at most so many times the knots' says how straight the line is

Times = npt.NDArray[np.int64]


class Trip(NamedTuple):
    """One round trip: when it left and when the answer came by our clock, and what the other's clock showed in between."""

    sent_ns: int
    there_ns: int
    back_ns: int

    @property
    def round_trip_ns(self) -> int:
        """How long it took."""
        return self.back_ns - self.sent_ns

    @property
    def offset_ns(self) -> int:
        """How far the other's clock is ahead of ours, as this trip shows it."""
        return self.there_ns - self.sent_ns - self.round_trip_ns // 2


class Knot(NamedTuple):
    """One knot of the line, in the other's time; drift, residual and bound hold until the next one.

    `drift_ppm` is by how many millionths the other clock is faster than ours.
    """

    at_ns: int
    offset_ns: int
    drift_ppm: float
    round_trip_ns: int
    residual_ns: int
    bound_ns: int


def fastest(trips: Iterable[Trip]) -> Trip:
    """Return the fastest of some trips, of which there is at least one."""
    return min(trips, key=lambda trip: trip.round_trip_ns)


def fit_line(points: Sequence[Trip]) -> list[Knot]:
    """Return the knots of the line through some points; none for no points."""
    points = sorted(points, key=lambda point: point.there_ns)
    if not points:
        return []
    begin = points[0].there_ns
    pieces: dict[int, list[Trip]] = {}
    for point in points:
        pieces.setdefault((point.there_ns - begin) // PIECE_NS, []).append(point)
    through = sorted({points[0], *map(fastest, pieces.values()), points[-1]}, key=lambda point: point.there_ns)
    knots = [_knot(one, other, points) for one, other in pairwise(through) if other.there_ns > one.there_ns]
    last = through[-1]
    bound = last.round_trip_ns // 2 + 1
    drift, residual, bound = (knots[-1].drift_ppm, knots[-1].residual_ns, max(bound, knots[-1].bound_ns)) if knots else (0.0, 0, bound)
    return [*knots, Knot(last.there_ns, last.offset_ns, drift, last.round_trip_ns, residual, bound)]


def _knot(one: Trip, other: Trip, points: Sequence[Trip]) -> Knot:
    slope = (other.offset_ns - one.offset_ns) / (other.there_ns - one.there_ns)
    slower, quick = max(one.round_trip_ns, other.round_trip_ns), min(one.round_trip_ns, other.round_trip_ns)
    residual = 0.0
    for point in points:
        if one.there_ns < point.there_ns < other.there_ns:
            off = abs(point.offset_ns - one.offset_ns - slope * (point.there_ns - one.there_ns))
            residual = max(residual, off if point.round_trip_ns <= AS_FAST * quick else off - point.round_trip_ns / 2)
    bound = slower // 2 + int(residual) + 2  # what was cut off by whole nanoseconds
    drift_ppm = slope / (1 - slope) * 1e6 if slope < 1 else 0.0
    return Knot(one.there_ns, one.offset_ns, drift_ppm, one.round_trip_ns, int(residual), bound)


@dataclass(frozen=True)
class ClockLine:
    """The line of one clock; it has at least one knot."""

    knots: tuple[Knot, ...]

    @cached_property
    def _at(self) -> npt.NDArray[np.float64]:
        return np.array([knot.at_ns - self.knots[0].at_ns for knot in self.knots], dtype=np.float64)

    @cached_property
    def _offsets(self) -> npt.NDArray[np.float64]:
        return np.array([knot.offset_ns - self.knots[0].offset_ns for knot in self.knots], dtype=np.float64)

    def offset(self, theirs_ns: Times) -> Times:
        """Return how far the other's clock is ahead of ours at times of its own, nanoseconds."""
        at = (theirs_ns - self.knots[0].at_ns).astype(np.float64)
        found = np.interp(at, self._at, self._offsets)
        if len(self.knots) > 1:
            slope = self._offsets[-1] / self._at[-1]
            found += slope * (np.minimum(at - self._at[0], 0.0) + np.maximum(at - self._at[-1], 0.0))
        whole: Times = np.rint(found).astype(np.int64) + self.knots[0].offset_ns
        return whole

    def to_ours(self, theirs_ns: Times) -> Times:
        """Return times of the other's clock in ours."""
        return theirs_ns - self.offset(theirs_ns)

    def to_theirs(self, ours_ns: int) -> int:
        """Return a time of our clock in the other's."""
        theirs = ours_ns + self.knots[-1].offset_ns
        for _ in range(3):  # each time the error shrinks by the drift
            theirs = ours_ns + int(self.offset(np.array([theirs], dtype=np.int64))[0])
        return theirs

    def bound(self, theirs_ns: Times) -> Times:
        """Return by how much `to_ours` may be wrong at times of the other's clock, nanoseconds."""
        at = (theirs_ns - self.knots[0].at_ns).astype(np.float64)
        piece = np.clip(np.searchsorted(self._at, at, side="right") - 1, 0, len(self.knots) - 1)
        bounds = np.array([knot.bound_ns for knot in self.knots], dtype=np.int64)
        outside = np.maximum(self._at[0] - at, 0.0) + np.maximum(at - self._at[-1], 0.0)
        found: Times = bounds[piece] + np.ceil(outside * MAX_DRIFT).astype(np.int64)
        return found

    @property
    def bound_ns(self) -> int:
        """The greatest bound between its first and its last knot."""
        return max(knot.bound_ns for knot in self.knots)


def line_of(rows: Iterable[Any]) -> ClockLine:
    """Return the line of some knots, in any order."""
    return ClockLine(tuple(sorted(rows)))
