"""The fit finds what it was made from, its intervals hold new points, and it says where nothing was tested."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import UsageError
from sim.measure.capacity.fit import (
    ASSUMED_DRIFT,
    CostModel,
    HeldOut,
    Hull,
    Point,
    Usl,
    columns_of,
    fit_costs,
    fit_usl,
    hold_against,
    spread_of_rounds,
)
from sim.results.interval import Interval

KINK = 16_384
TRUE = (1.5, 0.001, 0.5, 0.0006, 1.0, 0.00025)
SIZES = (360, 1_800, 14_000, 30_000, 70_000)


def point(pods: int, size: int, *, noise: float = 0.0, seed: int = 1, truth: tuple[float, ...] = TRUE, rounds: int = 3) -> Point:
    rng = np.random.default_rng([seed, pods, size])
    cost = float(columns_of(pods, size, KINK) @ np.array(truth))
    costs = tuple(float(cost * np.exp(noise * rng.standard_normal())) for _ in range(rounds))
    return Point(pods, 64, 1, size, costs, tuple(1e6 / c for c in costs), (1.0,) * rounds)


def grid(**how: float) -> list[Point]:
    return [point(pods, size, **how) for pods in (1, 6, 24, 72) for size in SIZES]  # type: ignore[arg-type]


def test_without_noise_the_fit_is_what_it_was_made_from() -> None:
    model = fit_costs(grid(), kink_bytes=KINK)
    assert model.values == pytest.approx(TRUE, rel=1e-6)
    assert model.residual == pytest.approx(0, abs=1e-9) and model.rounds == 0
    assert model.cost_us([(2.0, 12, 555)]).value == pytest.approx(2 * (1.5 + 0.555 + 12 * (0.5 + 0.0006 * 555)))


def test_costs_of_a_mix_add_up_and_units_are_microseconds() -> None:
    model = fit_costs(grid(noise=0.05), kink_bytes=KINK)
    parts = [(0.5, 3, 400.0), (0.1, 40, 20_000.0)]
    assert model.cost_us(parts).value == pytest.approx(sum(model.cost_us([one]).value for one in parts))
    assert model.cost_us([(1.0, 3, 400.0)]).inverse(1e6).value == pytest.approx(1e6 / model.cost_us([(1.0, 3, 400.0)]).value)


def test_intervals_hold_nineteen_of_twenty_new_points_and_are_no_wider_than_needed() -> None:
    """Twelve grids with 8 % noise, eight new points each."""
    inside, widths = [], []
    for seed in range(12):
        points = grid(noise=0.08, seed=seed)
        model, usl = fit_costs(points, kink_bytes=KINK), fit_usl(points, kink_bytes=KINK)
        new = [point(pods, size, noise=0.08, seed=seed + 1_000) for pods in (3, 40) for size in (555, 5_000, 12_000, 40_000)]
        for one in hold_against(model, usl, new):
            inside.append(one.covered)
            widths.append(math.log(one.predicted.high / one.predicted.low))
    assert 0.9 <= np.mean(inside) <= 1
    assert np.mean(widths) < 2 * 3 * 0.08


def test_a_machine_that_is_slower_in_one_round_widens_the_intervals() -> None:
    steady = grid()
    drifting = [
        Point(
            p.pods,
            p.payload_bytes,
            p.batch,
            p.event_bytes,
            tuple(c * f for c, f in zip(p.cpu_us, (0.8, 1, 1.3), strict=True)),
            p.rate_per_s,
            p.core,
        )
        for p in steady
    ]
    assert spread_of_rounds(steady) == 0
    assert spread_of_rounds(drifting) == pytest.approx(np.std(np.log([0.8, 1, 1.3]), ddof=1))
    wide, narrow = (fit_costs(points, kink_bytes=KINK).cost_us([(1.0, 6, 400.0)]) for points in (drifting, steady))
    assert wide.high / wide.low > narrow.high / narrow.low


@given(
    truth=st.tuples(*(st.floats(0.01, 10) for _ in range(2)), *(st.floats(1e-5, 0.01) for _ in range(2))),
    pods=st.integers(1, 500),
    more=st.integers(0, 500),
    size=st.integers(1, 100_000),
)
def test_more_pods_or_bytes_never_cost_less_whatever_was_measured(truth: tuple[float, ...], pods: int, more: int, size: int) -> None:
    event, copy, event_byte, copy_byte = truth
    model = CostModel(
        1 << 30,
        (event, event_byte, copy, copy_byte, 0, 0),
        ((event, event_byte, copy, copy_byte, 0, 0),) * 3,
        0.1,
        0.0,
        5,
        Hull((1, 72, 1, 1), (0, 0, 0, 0)),
    )
    least, most = model.cost_us([(1.0, pods, size)]), model.cost_us([(1.0, pods + more, size + more)])
    assert most.value >= least.value and most.low >= least.low
    assert 0 < least.low <= least.value <= least.high


def test_no_number_is_negative_even_where_noise_would_have_it() -> None:
    points = [point(pods, size, noise=0.5, seed=3, truth=(0.0, 0.0, 0.5, 0.0, 0.5, 0.0)) for pods in (1, 6, 24) for size in SIZES]
    model = fit_costs(points, kink_bytes=KINK)
    assert min(model.values) >= 0 and min(min(one) for one in model.draws) >= 0


def test_what_was_tested_has_two_halves_and_says_what_lies_outside() -> None:
    points = [point(pods, size) for pods in (1, 72) for size in SIZES[:3]] + [point(pods, size) for pods in (6, 72) for size in SIZES[3:]]
    hull = fit_costs(points, kink_bytes=KINK).hull
    assert hull.outside(1, 400, KINK) == "" == hull.outside(6, 30_000, KINK)
    assert hull.outside(100, 400, KINK) == "100 subscribers, tested were 1 to 72"
    assert hull.outside(1, 30_000, KINK) == "1 subscriber, tested were 6 to 72"
    assert hull.outside(6, 15_000, KINK) == "events of 15,000 B, tested were 360 to 14,000 B"
    assert hull.outside(0, 1, KINK) == ""  # nobody hears: there is no copy
    small = fit_costs([p for p in grid() if p.event_bytes < KINK], kink_bytes=KINK)
    assert small.hull.outside(6, 30_000, KINK) == f"events of 30,000 B, none from {KINK:,} B was tested"


def test_too_few_points_are_refused() -> None:
    with pytest.raises(UsageError, match="3 points: 8 are needed"):
        fit_costs(grid()[:3], kink_bytes=KINK)


def test_the_scalability_law_finds_its_own_numbers_and_predicts_other_sizes() -> None:
    def law(pods: int, size: int) -> Point:
        cost = (2 + 0.002 * size) * (1 + 0.3 * (pods - 1) + 0.002 * pods * (pods - 1))
        return Point(pods, 64, 1, size, (cost,), (1e6 / cost,), (1.0,))

    usl = fit_usl([law(pods, size) for pods in (1, 6, 24, 72) for size in SIZES], kink_bytes=1 << 30)
    assert usl.sigma.value == pytest.approx(0.3, rel=0.01) and usl.kappa.value == pytest.approx(0.002, rel=0.01)
    assert usl.rate_per_s(12, 5_000) == pytest.approx(law(12, 5_000).rate_per_s[0], rel=0.01)


def test_errors_are_predicted_over_measured_in_the_same_unit() -> None:
    points = grid()
    model, usl = fit_costs(points, kink_bytes=KINK), fit_usl(points, kink_bytes=KINK)
    slow = point(12, 555)
    twice = Point(12, 64, 1, 555, tuple(2 * c for c in slow.cpu_us), tuple(r / 2 for r in slow.rate_per_s), slow.core)
    (held,) = hold_against(model, usl, [twice])
    assert held.error == pytest.approx(1.0, rel=1e-6) and held.wall_error == pytest.approx(1.0, rel=1e-6) and not held.covered
    assert held.measured == pytest.approx(1e6 / twice.cost_us)


LAW = Usl(KINK, (Interval(1.0, 1.0, 1.0),) * 6)
HELD = ((3, 363), (12, 555), (48, 995), (40, 4_945), (12, 6_085), (3, 9_085), (12, 48_688), (48, 42_625))
LATER = ((5, 400), (20, 900), (60, 3_000), (30, 12_000), (8, 20_000), (40, 60_000))


class Machine:
    """A machine whose costs are known, with what keeps a measurement from them: noise, bursts, rounds apart, and a model that bends."""

    def __init__(self, seed: int, *, noise: float, drift: float, bursts: float, bend: float, wanders: bool = False) -> None:
        self.rng = np.random.default_rng([seed, 7])
        self.noise, self.drift, self.bursts, self.bend, self.wanders = noise, drift, bursts, bend, wanders
        self.bent: dict[tuple[int, int], float] = {}
        self.at = 0.0

    def points(self, combinations: tuple[tuple[int, int], ...], rounds: int) -> list[Point]:
        logs: dict[tuple[int, int], list[float]] = {one: [] for one in combinations}
        for _ in range(rounds):
            self.at = (self.at if self.wanders else 0.0) + self.drift * self.rng.standard_normal()
            for one in combinations:
                burst = self.rng.exponential(0.5) if self.rng.random() < self.bursts else 0.0
                logs[one].append(self.at + self.noise * self.rng.standard_normal() + burst)
        found = []
        for (pods, size), its in logs.items():
            bend = self.bent.setdefault((pods, size), self.bend * self.rng.standard_normal())
            costs = tuple(float(columns_of(pods, size, KINK) @ np.array(TRUE) * np.exp(bend + one)) for one in its)
            found.append(Point(pods, 64, 1, size, costs, tuple(1e6 / cost for cost in costs), (1.0,) * rounds))
        return found


GRID = (
    *((pods, size) for pods in (1, 6, 24, 72) for size in (299, 1_785, 16_028)),
    *((p, s) for p in (1, 12, 72) for s in (16_823, 72_968)),
)


@pytest.mark.parametrize(
    ("machine", "rounds", "windows"),
    [
        ({"noise": 0.04, "drift": 0.0, "bursts": 0.0, "bend": 0.05}, 3, 3),
        ({"noise": 0.05, "drift": 0.06, "bursts": 0.0, "bend": 0.1}, 3, 3),
        ({"noise": 0.1, "drift": 0.25, "bursts": 0.0, "bend": 0.1}, 3, 3),
        ({"noise": 0.15, "drift": 0.2, "bursts": 0.1, "bend": 0.1}, 2, 1),
        ({"noise": 0.05, "drift": 0.05, "bursts": 0.25, "bend": 0.05}, 2, 1),
        ({"noise": 0.1, "drift": 0.12, "bursts": 0.05, "bend": 0.1, "wanders": True}, 3, 2),
    ],
    ids=["quiet", "as measured", "rounds far apart", "busy", "bursts", "wandering"],
)
def test_intervals_hold_what_they_say_on_machines_of_every_kind(machine: dict[str, float], rounds: int, windows: int) -> None:
    """Forty measurements of each machine, whose costs are known: eight held-out points, then six that a plan would be of."""
    held, planned, half, off = [], [], [], []
    for seed in range(40):
        one = Machine(seed, **machine)  # type: ignore[arg-type]
        model = fit_costs(one.points(GRID, rounds), kink_bytes=KINK)
        said = hold_against(model, LAW, one.points(HELD, windows))
        later = hold_against(model.calibrated(said), LAW, one.points(LATER, windows))
        held += [each.covered for each in said]
        planned += [each.covered for each in later]
        half += [math.log(each.predicted.high / each.predicted.low) / 2 for each in later]
        off += [abs(math.log1p(each.error)) for each in later]
    least = 0.85 if machine.get("wanders") else 0.9  # a machine that wanders off is ever farther from the rounds that it was fitted to
    assert least <= np.mean(held) <= 0.995 and least <= np.mean(planned) <= 0.995
    assert np.median(half) < 2 * np.quantile(off, 0.95)  # and no wider than it takes


def test_one_round_tells_nothing_of_how_far_rounds_lie_apart() -> None:
    model = fit_costs(grid(rounds=1), kink_bytes=KINK)
    assert model.rounds == ASSUMED_DRIFT and model.cost_us([(1.0, 12, 555)]).high > model.value_us([(1.0, 12, 555)]) * (1 + ASSUMED_DRIFT)


def test_fewer_windows_make_a_wider_interval() -> None:
    model = fit_costs(grid(noise=0.1), kink_bytes=KINK)
    one, three, by_default = (model.cost_us([(1.0, 12, 555)], windows=windows) for windows in (1, 3, 0))
    assert one.high / one.low > three.high / three.low == by_default.high / by_default.low


def test_held_out_errors_widen_what_is_planned_and_never_narrow_it() -> None:
    model = fit_costs(grid(noise=0.05), kink_bytes=KINK)

    def errors(off: float) -> list[HeldOut]:
        points = [point(pods, size) for pods in (3, 40) for size in (555, 5_000, 12_000, 40_000)]
        far = [Point(p.pods, 64, 1, p.event_bytes, tuple(off * c for c in p.cpu_us), p.rate_per_s, p.core) for p in points]
        return hold_against(model, LAW, far)

    event = [(1.0, 12, 555)]
    before, near, far = (one.cost_us(event) for one in (model, model.calibrated(errors(1.0)), model.calibrated(errors(1.62))))
    assert near == before == model.calibrated([]).cost_us(event)
    assert far.low < before.low / 1.2 and far.high > before.high * 1.2 and far.low * 1.62 < far.value * 1.62 < far.high * 1.1
