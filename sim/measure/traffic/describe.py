"""Describe traffic by channel: rates, sizes, bursts, repeats; of a capture, and of a load that was made to resemble it.

Rules
-----
1. *Dispersion* is the variance of the counts of equal windows over their mean, windows of `WINDOW_S` or so long that `EVENTS` come in the
   mean: 1 for events that come independently at one rate (Poisson), 0 for evenly spaced ones, more for bursts, and for a rate that moves.
2. *Gap variation* is the standard deviation of the time between two events over its mean: 1, 0 and more in the same way.
3. A *repeat* is an event whose payload came on its channel before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.record.capture_file import Capture

WINDOW_S = 0.1
EVENTS = 2.0  # in a window, in the mean
LEAST_WINDOWS = 8
SECOND_S = 1.0


@dataclass(frozen=True)
class ChannelTraffic:
    """The traffic of one channel.

    Attributes
    ----------
    per_s, busiest_second
        Events a second in the mean, and the most in any second that begins with a whole one.
    dispersion, gap_variation
        See the module; nan where there are too few events.
    bytes_p50, bytes_p99, bytes_max
        Of a whole event.
    repeats
        Share of the events; nan where payloads are not known.
    """

    name: str
    events: int
    per_s: float
    busiest_second: int
    dispersion: float
    gap_variation: float
    bytes_p50: float
    bytes_p99: float
    bytes_max: int
    repeats: float


def describe_capture(capture: Capture) -> list[ChannelTraffic]:
    """Return the traffic of each channel of a capture, the busiest first."""
    found = []
    for name, rows in zip(capture.channels, capture.by_channel(), strict=True):
        repeats = 1 - len(np.unique(capture.hash[rows])) / max(1, len(rows))
        found.append(channel_traffic(name, capture.at_ns[rows] / 1e9, capture.sizes[rows], seconds=capture.info.seconds, repeats=repeats))
    return sorted(found, key=lambda one: (-one.events, one.name))


def channel_traffic(name: str, at_s: np.ndarray, sizes: np.ndarray, *, seconds: float, repeats: float = math.nan) -> ChannelTraffic:
    """Return the traffic of one channel.

    Parameters
    ----------
    at_s
        float64, shape (events,): when each came, in order.
    sizes
        Shape (some events,): bytes of events.
    """
    seconds = max(seconds, 1e-9)
    gaps = np.diff(at_s)
    return ChannelTraffic(
        name=name,
        events=len(at_s),
        per_s=len(at_s) / seconds,
        busiest_second=int(np.bincount((at_s / SECOND_S).astype(np.int64)).max()) if len(at_s) else 0,
        dispersion=dispersion_of(at_s, seconds),
        gap_variation=float(gaps.std() / gaps.mean()) if len(gaps) > 1 and gaps.mean() > 0 else math.nan,
        bytes_p50=float(np.percentile(sizes, 50)) if len(sizes) else math.nan,
        bytes_p99=float(np.percentile(sizes, 99)) if len(sizes) else math.nan,
        bytes_max=int(sizes.max()) if len(sizes) else 0,
        repeats=repeats,
    )


def dispersion_of(at_s: np.ndarray, seconds: float) -> float:
    """Return the variance of the counts of equal windows over their mean; nan where there are too few."""
    if not len(at_s):
        return math.nan
    window_s = max(WINDOW_S, EVENTS * seconds / len(at_s))
    many = int(seconds / window_s)
    if many < LEAST_WINDOWS:
        return math.nan
    counts = np.histogram(at_s, bins=many, range=(0.0, many * window_s))[0]
    mean = counts.mean()
    return float(counts.var() / mean) if mean else math.nan


def shares_of_time(at_s: np.ndarray, seconds: float, parts: int) -> Sequence[float]:
    """Return the events a second of each of so many equal parts of the time."""
    counts = np.histogram(at_s, bins=parts, range=(0.0, seconds))[0]
    return [float(one) for one in counts * (parts / seconds)]
