"""How many calls a batch holds in the mean.

One pod's batch is open from its first item until its size or its interval ends it. So it holds 1 + the least of size - 1 and the calls that
come in the interval: Poisson, or binomial where calls are evenly spaced and drawn among channels and pods.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

SIGMAS = 12.0  # beyond so many standard deviations nothing happens


@lru_cache(maxsize=4096)
def items_of_batch(calls_per_s: float, *, size: int, interval_s: float, share: float = 0.0) -> float:
    """Return how many calls a batch of one publisher holds in the mean.

    Parameters
    ----------
    calls_per_s
        Into this publisher; at infinity every batch is full.
    size, interval_s
        What ends a batch, whichever comes first.
    share
        Where calls are evenly spaced: which share of all of them come to this publisher and are of this channel; 0 = Poisson arrivals.
    """
    mean, most = calls_per_s * interval_s, size - 1
    if math.isinf(mean):
        return float(size)
    if share >= 1:
        return float(min(size, max(1, math.ceil(round(mean, 9)))))
    wide = SIGMAS * math.sqrt(mean) + SIGMAS
    first, last = max(0, math.floor(mean - wide)), math.ceil(mean + wide)
    counts = np.arange(min(first, most), min(last, most))
    return 1 + min(first, most) + float(_beyond(counts, mean, share).sum())


def _beyond(counts: np.ndarray, mean: float, share: float) -> np.ndarray:
    """Return P(N > k) for each k: N is Poisson of this mean, or binomial of it and the share."""
    from scipy import special  # takes a third of a second

    if not share:
        return np.asarray(special.pdtrc(counts, mean))
    trials = max(1, round(mean / share))
    inside = counts < trials
    return np.where(inside, special.bdtrc(np.minimum(counts, trials), trials, share), 0.0)
