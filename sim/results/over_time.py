"""Count copies by intervals of time, and lags in each, for the figures: from counts alone, however many copies there are.

A lag is counted in one of `STEPS` steps between two powers of two, so a quantile read from the counts is right to 0.2 %, which nobody can
see in a figure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim.record.reader import Array
from sim.results.copies import CAUSE, FATE
from sim.results.opened_run import Run
from sim.results.pieces import Piece

STEPS_BITS = 8  # of a float's mantissa
STEPS = 1 << STEPS_BITS
POWERS = 46  # 2 ** 46 ns are 19 hours; what is longer counts as that
_SHIFT = 52 - STEPS_BITS
_ONE = 1023 * STEPS  # the bits of 1.0, shifted


def bin_of(edges: Array, times: Array) -> Array:
    """Return in which interval each time is, -1 outside of all; the last one holds its end too. Edges are equally far apart."""
    width = int(edges[1] - edges[0])
    place = (times - edges[0]) // width
    place[times == edges[-1]] = len(edges) - 2
    place[(place < 0) | (place > len(edges) - 2)] = -1
    found: Array = place.astype(np.int32)
    return found


def bincount(place: Array, many: int) -> Array:
    """Return how often each place from 0 on stands there; others do not count."""
    return np.bincount(place[place >= 0], minlength=many)


def is_lost(piece: Piece) -> Array:
    """Return which copies of a piece are missing, but for those that another pod of the service took instead: that is no loss."""
    lost: Array = (piece.fate == FATE["missing"]) & (piece.cause != CAUSE["taken-by-peer"])
    return lost


def count_over_time(run: Run, edges: Array) -> tuple[Array, Array]:
    """Return how many delivered copies were handled in each interval, and how many lost copies were meant in it (`is_lost`)."""
    many, meant = len(edges) - 1, bin_of(edges, run.publishes["intended_ns"].to_numpy())

    def of_piece(piece: Piece) -> tuple[Array, Array]:
        handled = piece.heard.handled_ns[piece.delivery[piece.fate == FATE["delivered"]]]
        return bincount(bin_of(edges, handled), many), bincount(meant[piece.publish[is_lost(piece)]], many)

    delivered = missing = np.zeros(many, dtype=np.int64)
    for one, other in run.pieces.each(of_piece):
        delivered, missing = delivered + one, missing + other
    return delivered, missing


def lag_quantiles_over_time(run: Run, edges: Array, ranks: Sequence[float]) -> Array:
    """Return quantiles of the lag, in nanoseconds, of the delivered copies meant in each interval; NaN where there are none."""
    return quantiles_of_counts(count_lags(run, edges), ranks)


def count_lags(run: Run, edges: Array) -> Array:
    """Return how many delivered copies meant in each interval had which lag: (intervals, `POWERS` * `STEPS`), see `lag_of_step`."""
    many, cells, intended = len(edges) - 1, POWERS * STEPS, run.publishes["intended_ns"].to_numpy()
    # as in a search for the edge at or before it: the last edge itself is beyond all intervals
    meant = np.where(intended == edges[-1], -1, bin_of(edges, intended))

    def of_piece(piece: Piece) -> tuple[Array, Array]:
        heard = np.flatnonzero(piece.fate == FATE["delivered"])
        rows = piece.publish[heard]
        place = meant[rows]
        lag = (piece.heard.handled_ns[piece.delivery[heard]] - intended[rows])[place >= 0]
        step = (np.maximum(lag, 1).astype(np.float64).view(np.int64) >> _SHIFT) - _ONE + 1
        step[lag <= 0] = 0
        found = np.bincount(place[place >= 0] * cells + np.minimum(step, cells - 1), minlength=many * cells)
        used = np.flatnonzero(found)
        return used, found[used]

    counted = np.zeros(many * cells, dtype=np.int64)
    for used, times in run.pieces.each(of_piece):
        counted[used] += times
    return counted.reshape(many, cells)


def quantiles_of_counts(counted: Array, ranks: Sequence[float]) -> Array:
    """Return quantiles of lags, in nanoseconds, from what `count_lags` counted; NaN in an interval without any."""
    up_to = np.cumsum(counted, axis=1)
    values = np.full((len(ranks), len(counted)), np.nan)
    for n in np.flatnonzero(up_to[:, -1]).tolist():
        places = np.ceil(np.array(ranks) * (up_to[n, -1] - 1))
        values[:, n] = lag_of_step(np.searchsorted(up_to[n], places, side="right"))
    return values


def lag_of_step(step: Array) -> Array:
    """Return the middle of each step of lags, in nanoseconds; the first is for 0 and less."""
    low, high = (((step - 1 + more + _ONE) << _SHIFT).view(np.float64) for more in (0, 1))
    middle: Array = np.where(step > 0, (low + high) / 2, 0.0)
    return middle
