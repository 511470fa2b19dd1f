"""The theory of batching against the real batcher, fed with drawn arrivals, and against itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.bus.batcher import Batch, Batcher
from sim.errors import UsageError
from sim.experiments.batching.theory import batch_costs


def batches(times_s: np.ndarray, *, size: int, interval_ms: int) -> list[Batch]:
    batcher, left = Batcher(size=size, interval_ms=interval_ms), []
    for at_ns in (times_s * 1e9).astype(np.int64).tolist():
        due = batcher.due_ns
        left += [batcher.tick(at_ns)] if due is not None and due <= at_ns else []
        left += [batcher.add(None, intended_ns=at_ns)]
    return [batch for batch in left if batch is not None]


@pytest.mark.parametrize(("rate", "size", "interval_ms"), [(1, 100, 30_000), (20, 100, 5000), (20, 10, 5000), (3, 2, 400), (50, 30, 600)])
@pytest.mark.parametrize("arrivals", ["poisson", "uniform"])
def test_the_real_batcher_costs_what_theory_says(rate: float, size: int, interval_ms: int, arrivals: str) -> None:
    count = 60_000
    gaps = np.random.default_rng(1).exponential(1 / rate, count) if arrivals == "poisson" else np.full(count, 1 / rate)
    left = batches(np.cumsum(gaps), size=size, interval_ms=interval_ms)
    items, seconds = sum(len(batch.items) for batch in left), float(gaps.sum())
    waited_s = sum(batch.items_wait_ns for batch in left) / 1e9
    costs = batch_costs(rate_per_s=rate, size=size, interval_ms=interval_ms, arrivals=arrivals, head_bytes=200, item_bytes=100)
    assert waited_s / items * 1e3 == pytest.approx(costs.wait_ms_mean, rel=0.03)
    assert items / len(left) == pytest.approx(costs.items_per_batch, rel=0.02)
    assert len(left) / seconds == pytest.approx(costs.publishes_per_s, rel=0.03)
    assert waited_s / seconds == pytest.approx(costs.at_risk_mean, rel=0.04)
    assert (200 * len(left) + 100 * items) / seconds == pytest.approx(costs.bytes_per_s, rel=0.03)


def test_the_default_at_one_item_per_second_waits_near_15_s() -> None:
    assert batch_costs(rate_per_s=1, size=100, interval_ms=30_000).wait_ms_mean == pytest.approx(480 / 31 * 1e3, rel=1e-6)
    assert batch_costs(rate_per_s=1, size=100, interval_ms=30_000, arrivals="uniform").wait_ms_mean == 15_500


rates, sizes, intervals = st.floats(0.01, 1e4), st.integers(1, 2000), st.floats(1, 1e5)


@given(rates, sizes, intervals, st.sampled_from(["poisson", "uniform"]))
def test_theory_keeps_its_own_laws(rate: float, size: int, interval_ms: float, arrivals: str) -> None:
    costs = batch_costs(rate_per_s=rate, size=size, interval_ms=interval_ms, arrivals=arrivals)
    assert 0 <= costs.wait_ms_mean <= interval_ms * (1 + 1e-6)
    assert 1 <= costs.items_per_batch <= size * (1 + 1e-6)
    assert costs.publishes_per_s * costs.items_per_batch == pytest.approx(rate, rel=1e-6), "every item leaves once"
    assert costs.at_risk_mean == pytest.approx(rate * costs.wait_ms_mean / 1e3, rel=1e-6, abs=1e-9), "Little's law"
    assert costs.at_risk_mean <= costs.at_risk_max + 1 + 1e-6


@given(rates, sizes, intervals)
def test_a_longer_interval_or_a_greater_size_never_publishes_more_nor_waits_less(rate: float, size: int, interval_ms: float) -> None:
    one = batch_costs(rate_per_s=rate, size=size, interval_ms=interval_ms)
    for other in (
        batch_costs(rate_per_s=rate, size=size + 1, interval_ms=interval_ms),
        batch_costs(rate_per_s=rate, size=size, interval_ms=interval_ms * 1.5),
    ):
        assert other.publishes_per_s <= one.publishes_per_s * (1 + 1e-6)
        assert other.at_risk_mean >= one.at_risk_mean * (1 - 1e-6) - 1e-9


def test_a_batch_of_one_waits_for_nothing() -> None:
    costs = batch_costs(rate_per_s=5, size=1, interval_ms=1000)
    assert (costs.wait_ms_mean, costs.publishes_per_s, costs.at_risk_mean, costs.at_risk_max) == (0, 5, 0, 0)


@pytest.mark.parametrize("wrong", [{"rate_per_s": 0}, {"size": 0}, {"interval_ms": -1}, {"arrivals": "bursty"}])
def test_what_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        batch_costs(**({"rate_per_s": 1, "size": 10, "interval_ms": 10} | wrong))  # type: ignore[arg-type]
