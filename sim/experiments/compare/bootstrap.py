"""How sure a difference between two measurements is: a bootstrap over blocks of time, and the spread from run to run. Pure functions.

Copies of one event are not independent: they share its send delay and the broker's turn. Nor are events that follow each other: a stall
delays all that wait. So single rows must not be drawn. The run phase is cut into `BLOCKS` equal blocks of time; whole blocks are drawn
with replacement, all rows in them together, and the statistic is worked out from those. What lasts longer than a block is not seen.

Nor does one run see what changes between runs (which core, which cache, what else the machine did). With at least two runs on each side
the interval is the wider of the bootstrap's and of Welch's by the runs' own values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sim.record.reader import Array
from sim.results.interval import student_t

BLOCKS = 30
RESAMPLES = 1000
GRID = 2000  # steps of rank in each decade of the tail: how fine a drawn quantile is
LEVEL = (0.025, 0.975)


@dataclass(frozen=True)
class Blocked:
    """One side's data by block: what to draw, and the statistic of a draw.

    Attributes
    ----------
    blocks
        float64, shape (blocks, columns): what is summed over the blocks of a draw.
    statistic
        Of sums, shape (draws, columns): one value each.
    value
        The statistic of the raw rows.
    """

    blocks: Array
    statistic: Callable[[Array], Array]
    value: float

    def drawn(self, rng: np.random.Generator) -> Array:
        """Return the statistic of `RESAMPLES` draws of the blocks."""
        count = len(self.blocks)
        weights: Array = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
        sums: Array = weights.astype(np.float64) @ self.blocks
        return self.statistic(sums)


def ratio(above: Array, below: Array) -> Blocked:
    """Return a ratio of sums, from what each block holds; NaN where a draw holds nothing below."""

    def statistic(sums: Array) -> Array:
        quotient: Array = np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)
        return quotient

    blocks = np.column_stack([above, below]).astype(np.float64)
    return Blocked(blocks, statistic, float(statistic(blocks.sum(axis=0, keepdims=True))[0]))


def quantile(values: Array, block: Array, rank: float, *, blocks: int) -> Blocked:
    """Return a quantile of raw values, each in a block; draws are of values grouped by rank, finer towards the tail."""
    ordered = np.sort(values)
    tail = np.concatenate([1 - np.geomspace(1, 1e-4, 4 * GRID), [1.0]])
    edges = np.unique(ordered[np.ceil(tail * (len(ordered) - 1)).astype(np.int64)])
    place = np.searchsorted(edges, values)  # the first edge that is not below the value
    counts = np.bincount(block.astype(np.int64) * len(edges) + place, minlength=blocks * len(edges)).reshape(blocks, len(edges))

    def statistic(sums: Array) -> Array:
        so_far = np.cumsum(sums, axis=1)
        total = so_far[:, -1:]
        at = (so_far < np.ceil(rank * (total - 1)) + 1).sum(axis=1)
        found: Array = np.where(total[:, 0] > 0, edges[np.minimum(at, len(edges) - 1)].astype(np.float64), np.nan)
        return found

    return Blocked(counts.astype(np.float64), statistic, float(np.quantile(values, rank, method="higher")))


def block_of(at_ns: Array, phase: tuple[int, int]) -> Array:
    """Return the block of each time in a phase."""
    begin, end = phase
    block: Array = np.clip((at_ns - begin) * BLOCKS // max(end - begin, 1), 0, BLOCKS - 1).astype(np.int64)
    return block


def draw(runs: Sequence[Blocked], rng: np.random.Generator) -> Array:
    """Return draws of the mean over runs."""
    mean: Array = np.mean([run.drawn(rng) for run in runs], axis=0)
    return mean


def welch(first: Sequence[float], second: Sequence[float]) -> float:
    """Return half the width of the 95 % interval of the difference of means; NaN for fewer than two values on a side."""
    if min(len(first), len(second)) < 2:
        return math.nan
    parts = [float(np.var(side, ddof=1)) / len(side) for side in (first, second)]
    if not sum(parts):
        return 0.0
    freedom = sum(parts) ** 2 / sum(part**2 / (len(side) - 1) for part, side in zip(parts, (first, second), strict=True))
    return student_t(max(1, int(freedom))) * math.sqrt(sum(parts))
