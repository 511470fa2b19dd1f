"""A number with its 95 % interval, and the quantile of Student's t that such intervals are made with.

The costs in the file of `buslab calibrate` are a struct of their own (`sim.grounds.model.costs.CostInterval`), because the model reads
that file and must not know `results`; what is `value` here is `mean` there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import msgspec
import numpy as np

from sim.machine.words import amount


class Interval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A number and its 95 % interval; NaN where nothing is known."""

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether there is a value."""
        return not math.isnan(self.value)

    def inverse(self, over: float = 1.0) -> Interval:
        """Return `over` divided by this interval."""
        return Interval(over / self.value, over / self.high, over / self.low if self.low > 0 else math.inf)

    def __str__(self) -> str:
        if not self.known:
            return "not known"
        return amount(self.value) + ("" if math.isnan(self.low) else f" ({amount(self.low)} to {amount(self.high)})")


UNKNOWN = Interval(math.nan, math.nan, math.nan)


@lru_cache
def student_t(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t."""
    from scipy.special import stdtrit  # the same to the bit as scipy.stats.t.ppf, whose import takes half a second

    return float(stdtrit(freedom, 0.975))


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean of values that are not below 0, with its interval; of a single value only the value is known."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, math.nan, math.nan)
    half = student_t(len(values) - 1) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return Interval(mean, max(0.0, mean - half), mean + half)
