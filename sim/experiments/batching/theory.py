"""What batching by size or age costs, by theory: waits, items at risk, publishes and bytes. Pure functions; exact for an idle bus.

A batch begins with its first item, at time 0. It leaves when it holds n items, or when it is T old (`sim.bus.batcher`). Items come at a
rate r into one publisher; N(t) is how many more have come by t, and D when the batch leaves.

Poisson arrivals. A batch is still open at t < T while N(t) <= n - 2, so with P_m(t) = P(Poisson(r t) <= m)::

    E[D]     = integral from 0 to T of P_{n-2}(t) dt                   open time
    E[K]     = 1 + r E[D]                                              items of a batch: N(t) - r t is a martingale, stopped at D
    E[W]     = integral from 0 to T of E[(1 + N(t)); N(t) <= n-2] dt   what all its items wait together: 1 + N(t) of them wait at t
             = integral from 0 to T of P_{n-2}(t) + r t P_{n-3}(t) dt
    cycle    = E[D] + 1/r                                              until the next batch begins: Poisson has no memory

The integrals are sums, for the integral from 0 to T of P(Poisson(r t) = k) dt is P(Poisson(r T) > k) / r, and of r t times it
(k + 1) P(Poisson(r T) > k + 1) / r. With n = 1 nothing waits.

Uniform arrivals, 1/r apart: K = min(n, ceil(r T)), as a batch that is due leaves before a call at that very time joins it; it leaves at
D = (K - 1)/r when K = n, else at T; its items wait K D - K (K - 1)/(2 r) together; the next begins K/r after it.

In both cases by renewal: publishes/s = 1/cycle, mean wait = E[W]/E[K], items that wait at a time = E[W]/cycle (Little's law), and that is
also what a crash at a random time loses on average; at most it loses n - 1.

Assumed: the publisher lives, nothing is flushed, and an item waits for nothing but its batch. Several publishers, each with a rate of its
own, are added up by the caller.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sim.errors import UsageError


@dataclass(frozen=True)
class BatchCosts:
    """What one publisher's batches come to in the long run.

    Attributes
    ----------
    wait_ms_mean
        The wait of an item, from its call until its batch leaves.
    items_per_batch
        Mean.
    publishes_per_s, bytes_per_s
        Of batches; bytes are NaN without sizes.
    at_risk_mean, at_risk_max
        Items that a crash at a random time loses, and at most.
    """

    wait_ms_mean: float
    items_per_batch: float
    publishes_per_s: float
    at_risk_mean: float
    at_risk_max: float
    bytes_per_s: float = math.nan


def batch_costs(
    *,
    rate_per_s: float,
    size: int,
    interval_ms: float,
    arrivals: str = "poisson",
    head_bytes: float = math.nan,
    item_bytes: float = math.nan,
) -> BatchCosts:
    """Return what batching costs one publisher, see the module.

    Parameters
    ----------
    rate_per_s
        Items per second into this publisher.
    size, interval_ms
        As in `[bus]`.
    arrivals
        ``poisson`` or ``uniform``.
    head_bytes, item_bytes
        An event is `head_bytes` and `item_bytes` for each of its items.

    Raises
    ------
    UsageError
        A number is not positive, or there is no such kind of arrivals.
    """
    if arrivals not in ("poisson", "uniform"):
        raise UsageError(f"arrivals {arrivals!r}: the theory knows poisson and uniform")
    if not (rate_per_s > 0 and size >= 1 and interval_ms > 0):
        raise UsageError(f"rate {rate_per_s}/s, size {size}, interval {interval_ms} ms: each must be greater than 0")
    interval_s = interval_ms / 1e3
    compute = _poisson if arrivals == "poisson" else _uniform
    items, waits_s, cycle_s = compute(rate_per_s, size, interval_s)
    most = size - 1 if arrivals == "poisson" else min(size - 1, items)
    return BatchCosts(
        wait_ms_mean=waits_s / items * 1e3,
        items_per_batch=items,
        publishes_per_s=1 / cycle_s,
        at_risk_mean=waits_s / cycle_s,
        at_risk_max=float(most),
        bytes_per_s=(head_bytes + item_bytes * items) / cycle_s,
    )


def _poisson(rate_per_s: float, size: int, interval_s: float) -> tuple[float, float, float]:
    """Return (items, what they wait together in seconds, cycle in seconds), each the mean of a batch."""
    beyond = _poisson_beyond(rate_per_s * interval_s, size)
    open_s = float(beyond[: size - 1].sum()) / rate_per_s
    more = np.arange(1, size - 1) * beyond[1 : size - 1]  # k + 1 for k = 0 .. n-3
    waits_s = open_s + float(more.sum()) / rate_per_s
    return 1 + rate_per_s * open_s, waits_s, open_s + 1 / rate_per_s


def _poisson_beyond(mean: float, count: int) -> np.ndarray:
    """Return P(Poisson(mean) > k) for k = 0 .. count - 1."""
    k = np.arange(count)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.maximum(k[1:], 1)))])
    beyond: np.ndarray = np.clip(1 - np.cumsum(np.exp(k * math.log(mean) - mean - log_factorial)), 0, 1)
    return beyond


def _uniform(rate_per_s: float, size: int, interval_s: float) -> tuple[float, float, float]:
    items = min(size, math.ceil(round(rate_per_s * interval_s, 9)))
    open_s = (items - 1) / rate_per_s if items == size else interval_s
    return items, items * open_s - items * (items - 1) / (2 * rate_per_s), items / rate_per_s
