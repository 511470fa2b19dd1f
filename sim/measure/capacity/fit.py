"""Fit what an event costs a broker that is full, and predict what was not measured. Pure: numbers in, numbers with intervals out.

Words
-----
*Point*: so many subscribers, payload and batch, with the broker's processor time per event in each round of measuring.
*Saturation rate*: events per second when the broker's core does nothing else: a million / microseconds per event.

The fan-out model, for events of B bytes to S subscribers::

    us per event = a + d x B + S x (b + c x B)         b and c are other numbers from `kink_bytes` on

A server that copies small replies and only refers to large ones (Valkey's min-string-size-avoid-copy-reply) has the kink; without one
the two halves are fitted as one. No number is below 0, errors are relative: non-negative least squares.

Intervals, of which 95 % should hold a new point, are made of what is known of each source of error, in quadrature on a log scale:

- the spread of the points about the fit, and what drawing that spread anew does to the fit;
- how far whole rounds lay apart, for the machine of a later hour is as far from that of the fit. One round tells nothing of that, and
  then `ASSUMED_DRIFT` is taken;
- a new point that was measured in fewer windows than those of the fit is the less certain;
- how much farther the held-out points lay from their predictions than all of that says (`CostModel.calibrated`): only for what is planned
  afterwards, as a prediction must not know what it is held against.

Each has its degrees of freedom, few where few rounds were measured, and their sum has those of Welch and Satterthwaite. Student's t for
them is the factor: an interval is as wide as the little that is known of the spread demands.

Beside it stands the Universal Scalability Law of copies per second, its rate falling with size as the model's does::

    copies/s = S / (size cost of B) / (1 + sigma (S - 1) + kappa S (S - 1))

Without kappa it is the fan-out model with one sigma for all sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from scipy.optimize import least_squares, nnls

from sim.errors import UsageError
from sim.machine.words import count
from sim.results.interval import Interval, student_t

DRAWS = 200
WIDTH = 6  # columns of the fan-out model
MIN_POINTS = 8
ASSUMED_DRIFT, ASSUMED_FREEDOM = 0.15, 4  # of rounds about each other, where there is one only

Array = np.ndarray


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One combination and its rounds.

    Attributes
    ----------
    cpu_us
        Processor time of the broker per event, one a round.
    rate_per_s
        Events per second by the wall clock.
    core
        Share of a core that the broker used; well below 1 it was not full.
    """

    pods: int
    payload_bytes: int
    batch: int
    event_bytes: int
    cpu_us: tuple[float, ...]
    rate_per_s: tuple[float, ...]
    core: tuple[float, ...]

    @property
    def cost_us(self) -> float:
        """Median of the rounds."""
        return float(np.median(self.cpu_us))

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"{count(self.pods, 'pod')}, {self.payload_bytes} B, batch {self.batch}"


class Hull(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was tested: pods and event sizes, below the kink and from it on; zeros where there was nothing."""

    small: tuple[int, int, int, int]  # least and most pods, least and most bytes
    large: tuple[int, int, int, int]

    def outside(self, pods: int, event_bytes: float, kink_bytes: int) -> str:
        """Return why a combination was not tested, or nothing."""
        if not pods:
            return ""
        few, many, least, most = self.large if event_bytes >= kink_bytes else self.small
        if not many:
            return f"events of {event_bytes:,.0f} B, none {'from' if event_bytes >= kink_bytes else 'below'} {kink_bytes:,} B was tested"
        if not few <= pods <= many:
            return f"{count(pods, 'subscriber')}, tested were {few} to {many}"
        if not least <= event_bytes <= most:
            return f"events of {event_bytes:,.0f} B, tested were {least:,} to {most:,} B"
        return ""


class CostModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fitted fan-out model.

    Attributes
    ----------
    values
        a, d, b, c, and b, c from the kink on; microseconds, per byte where it is of bytes.
    draws
        The same from residuals drawn anew, shape (draws, 6).
    residual, rounds
        Spread of the points about the fit, and of whole rounds about each other, as standard deviations of logarithms.
    freedom
        Degrees of freedom of the fit.
    rounds_freedom
        The same of `rounds`; 0 in a file of before they were told.
    noise, windows
        Spread of a point's windows about each other when whole rounds are taken out, and how many windows a point of the fit has.
    held, held_freedom
        What the held-out points add, 0 before they are known.
    """

    kink_bytes: int
    values: tuple[float, ...]
    draws: tuple[tuple[float, ...], ...]
    residual: float
    rounds: float
    freedom: int
    hull: Hull
    rounds_freedom: int = 0
    noise: float = 0.0
    windows: int = 0
    held: float = 0.0
    held_freedom: int = 0

    def value_us(self, events: Sequence[tuple[float, int, float]]) -> float:
        """Return what a mix of events costs the broker, in microseconds, without its interval."""
        return float(self._columns(events) @ np.array(self.values))

    def cost_us(self, events: Sequence[tuple[float, int, float]], *, windows: int = 0) -> Interval:
        """Return what a mix of events costs the broker, in microseconds.

        Parameters
        ----------
        events
            (how many, subscribers, bytes) of each kind.
        windows
            The interval is for a cost that is measured in so many windows; by default in as many as those of the fit.
        """
        value = self.value_us(events)
        spread, freedom = self.spread(events, windows=windows)
        half = student_t(freedom) * spread
        return Interval(value, value * math.exp(-half), value * math.exp(half))

    def spread(self, events: Sequence[tuple[float, int, float]], *, windows: int = 0) -> tuple[float, int]:
        """Return the standard deviation of the logarithm of a prediction, and its degrees of freedom."""
        drawn = np.log(np.maximum(np.array(self.draws) @ self._columns(events), 1e-12) / self.value_us(events))
        fewer = max(0.0, 1 / windows - 1 / self.windows) if windows and self.windows else 0.0
        parts = (
            (self.residual**2 + float(np.var(drawn)), self.freedom),
            (self.rounds**2 * (1 + 1 / max(1, self.windows)), self.rounds_freedom or self.freedom),  # another round, and the mean of those
            (self.noise**2 * fewer, self.freedom),
            (self.held**2, self.held_freedom),
        )
        variance = sum(part for part, _ in parts)
        doubt = sum(part**2 / freedom for part, freedom in parts if part)
        return math.sqrt(variance), max(1, int(variance**2 / doubt)) if doubt else self.freedom

    def calibrated(self, held: Sequence[HeldOut]) -> CostModel:
        """Return the same with intervals that are as wide as the errors of held-out points say, never narrower than they were."""
        if not held:
            return self
        errors, said = [], []
        for one in held:
            errors.append(math.log(one.predicted.value / one.measured) ** 2)
            said.append(self.spread([(1.0, one.point.pods, one.point.event_bytes)], windows=len(one.point.cpu_us))[0] ** 2)
        more = max(0.0, float(np.mean(errors)) - float(np.mean(said)))
        return msgspec.structs.replace(self, held=math.sqrt(more), held_freedom=len(held))

    def _columns(self, events: Sequence[tuple[float, int, float]]) -> Array:
        columns: Array = np.sum([many * columns_of(pods, size, self.kink_bytes) for many, pods, size in events], axis=0)
        return columns

    def parts(self) -> dict[str, Interval]:
        """Return the fitted numbers by name, with the intervals of the draws."""
        low, high = np.quantile(np.array(self.draws), (0.025, 0.975), axis=0)
        return {name: Interval(*each) for name, *each in zip(NAMES, self.values, low.tolist(), high.tolist(), strict=True)}


NAMES = ("event", "event_byte", "copy", "copy_byte", "large_copy", "large_copy_byte")


def columns_of(pods: int, event_bytes: float, kink_bytes: int) -> Array:
    """Return what the model multiplies its numbers with, shape (6,)."""
    large = event_bytes >= kink_bytes
    copy = (0.0, 0.0, pods, pods * event_bytes) if large else (pods, pods * event_bytes, 0.0, 0.0)
    return np.array([1.0, event_bytes, *copy])


def fit_costs(points: Sequence[Point], *, kink_bytes: int, seed: int = 1) -> CostModel:
    """Fit the fan-out model.

    Raises
    ------
    UsageError
        Too few points for the numbers and their intervals.
    """
    if len(points) < MIN_POINTS:
        raise UsageError(f"{count(len(points), 'point')}: {MIN_POINTS} are needed to fit the fan-out model")
    rows = np.array([columns_of(p.pods, p.event_bytes, kink_bytes) for p in points])
    costs = np.array([p.cost_us for p in points])
    used = rows.any(axis=0)
    values = _nnls(rows, costs)
    residuals = np.log(costs / (rows @ values))
    freedom = max(1, len(points) - int(used.sum()))
    wider = math.sqrt(len(points) / freedom)
    rng = np.random.default_rng(seed)
    drawn = [_nnls(rows, rows @ values * np.exp(wider * rng.choice(residuals, len(points)))) for _ in range(DRAWS)]
    rounds = min(len(p.cpu_us) for p in points)
    return CostModel(
        kink_bytes,
        tuple(values.tolist()),
        tuple(tuple(one.tolist()) for one in drawn),
        residual=wider * float(np.sqrt((residuals**2).mean())),
        rounds=spread_of_rounds(points) if rounds > 1 else ASSUMED_DRIFT,
        freedom=freedom,
        hull=Hull(_bounds([p for p in points if p.event_bytes < kink_bytes]), _bounds([p for p in points if p.event_bytes >= kink_bytes])),
        rounds_freedom=rounds - 1 if rounds > 1 else ASSUMED_FREEDOM,
        noise=_noise_of_windows(points),
        windows=rounds,
    )


def spread_of_rounds(points: Sequence[Point]) -> float:
    """Return how far whole rounds lay apart: the standard deviation of their median log cost against the points' medians."""
    apart = _apart(points)
    return float(np.std(np.median(apart, axis=1), ddof=1)) if len(apart) > 1 else 0.0


def _noise_of_windows(points: Sequence[Point]) -> float:
    """Return the spread of single windows about their points, when what whole rounds have in common is taken out."""
    apart = _apart(points)
    if len(apart) < 2:
        return 0.0
    left = apart - np.median(apart, axis=1, keepdims=True)
    left = left - left.mean(axis=0)
    return math.sqrt(float((left**2).sum()) / ((len(apart) - 1) * apart.shape[1]))


def _apart(points: Sequence[Point]) -> Array:
    """Return how far each window of a point lies from its median, logarithms of shape (rounds, points)."""
    rounds = min(len(p.cpu_us) for p in points)
    return np.array([[math.log(p.cpu_us[n] / p.cost_us) for p in points] for n in range(rounds)])


def _nnls(rows: Array, costs: Array) -> Array:
    relative = rows / costs[:, None]
    scale = np.abs(relative).max(axis=0)
    scale[scale == 0] = 1.0
    found: Array = nnls(relative / scale, np.ones(len(costs)))[0] / scale
    return found


def _bounds(points: Sequence[Point]) -> tuple[int, int, int, int]:
    if not points:
        return (0, 0, 0, 0)
    pods, sizes = [p.pods for p in points], [p.event_bytes for p in points]
    return (min(pods), max(pods), min(sizes), max(sizes))


class Usl(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fitted scalability law: microseconds of one subscriber's event, per byte, both again from the kink on; sigma, kappa."""

    kink_bytes: int
    values: tuple[Interval, ...]

    def rate_per_s(self, pods: int, event_bytes: float) -> float:
        """Return the saturation rate in events per second."""
        return 1e6 / float(
            _usl_cost(np.array([v.value for v in self.values]), np.array([pods]), np.array([event_bytes]), self.kink_bytes)[0]
        )

    @property
    def sigma(self) -> Interval:
        """Contention: the share of the first copy's cost that each further copy adds."""
        return self.values[4]

    @property
    def kappa(self) -> Interval:
        """Crosstalk: what grows with the square of the subscribers."""
        return self.values[5]


def fit_usl(points: Sequence[Point], *, kink_bytes: int) -> Usl:
    """Fit the scalability law to the same points, by relative errors; intervals from the curvature at the best fit."""
    pods, sizes = np.array([p.pods for p in points]), np.array([p.event_bytes for p in points])
    costs = np.array([p.cost_us for p in points])
    begin = np.array([1.0, 1e-3, 1.0, 1e-3, 0.5, 1e-6])
    done = least_squares(
        lambda free: np.log(_usl_cost(free, pods, sizes, kink_bytes) / costs), begin, bounds=(1e-12, np.inf), x_scale=begin, max_nfev=5000
    )
    freedom = max(1, len(points) - len(begin))
    variance = float((done.fun**2).sum()) / freedom
    spread = np.sqrt(np.maximum(np.diag(np.linalg.pinv(done.jac.T @ done.jac)) * variance, 0.0))
    half = student_t(freedom) * spread
    found = zip(done.x.tolist(), half.tolist(), strict=True)
    return Usl(kink_bytes, tuple(Interval(value, max(0.0, value - h), value + h) for value, h in found))


def _usl_cost(values: Array, pods: Array, sizes: Array, kink_bytes: int) -> Array:
    """Return microseconds per event: S copies at the law's rate of copies."""
    small, small_byte, large, large_byte, sigma, kappa = values
    one = np.where(sizes >= kink_bytes, large + large_byte * sizes, small + small_byte * sizes)
    cost: Array = one * (1 + sigma * (pods - 1) + kappa * pods * (pods - 1))
    return cost


class HeldOut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One point that the fit had not seen: saturation rates predicted and measured, events per second."""

    point: Point
    predicted: Interval
    usl: float
    outside: str

    @property
    def measured(self) -> float:
        """Events per second of a full core of the broker."""
        return 1e6 / self.point.cost_us

    @property
    def error(self) -> float:
        """Predicted / measured - 1."""
        return self.predicted.value / self.measured - 1

    @property
    def usl_error(self) -> float:
        """The same of the scalability law."""
        return self.usl / self.measured - 1

    @property
    def wall_error(self) -> float:
        """The same against the rate by the wall clock, with whatever neighbours took."""
        return self.predicted.value / float(np.median(self.point.rate_per_s)) - 1

    @property
    def covered(self) -> bool:
        """Whether the interval holds what was measured."""
        return self.predicted.low <= self.measured <= self.predicted.high


def hold_against(model: CostModel, usl: Usl, points: Sequence[Point]) -> list[HeldOut]:
    """Predict points that were not fitted."""
    found = []
    for point in points:
        predicted = model.cost_us([(1.0, point.pods, point.event_bytes)], windows=len(point.cpu_us)).inverse(1e6)
        outside = model.hull.outside(point.pods, point.event_bytes, model.kink_bytes)
        found.append(HeldOut(point, predicted, usl.rate_per_s(point.pods, point.event_bytes), outside))
    return found
