"""The load a run means to offer: who calls what, when, by seed.

A *call* is one use of the bus by an application: one analytics item recorded, one metric, one invalidation.
The schedule fixes every call before the run starts, so the same seed means the same intended load on every ground and
with either driver, and a late generator cannot hide its lateness.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from sim.bus.cache import PROVIDERS, TEMPLATES
from sim.errors import ScenarioError

MAX_CALLS = 20_000_000
_GRID = 4096  # points at which a shape's cumulative rate is tabulated

# shape -> (share of the run passed, share of the peak rate) points, joined by straight lines
SHAPES: dict[str, tuple[tuple[float, float], ...]] = {
    "steady": ((0.0, 1.0), (1.0, 1.0)),
    "ramp": ((0.0, 0.1), (1.0, 1.0)),
    "steps": ((0.0, 0.25), (0.25, 0.25), (0.25, 0.5), (0.5, 0.5), (0.5, 0.75), (0.75, 0.75), (0.75, 1.0), (1.0, 1.0)),
    "spike": ((0.0, 0.2), (0.4, 0.2), (0.4, 1.0), (0.6, 1.0), (0.6, 0.2), (1.0, 0.2)),
    "day": ((0.0, 0.2), (0.2, 0.1), (0.35, 0.6), (0.5, 0.8), (0.6, 0.7), (0.85, 1.0), (1.0, 0.2)),
}
ARRIVALS = ("poisson", "uniform")
TEMPLATE_COUNT = 600  # unless the scenario says otherwise; more than a cache of 500 holds
PROVIDER_COUNT = 7
PROVIDER_READS = 0.1  # share of the reads that are of a provider


def share_of_peak(shape: str, passed: float) -> float:
    """Return the share of the peak rate that a shape has when a share of the run has passed, 0 to 1; at a step, what comes after it."""
    before, after = next(((a, b) for a, b in pairwise(SHAPES[shape]) if a[0] <= passed < b[0]), SHAPES[shape][-2:])
    return before[1] + (after[1] - before[1]) * min(1.0, (passed - before[0]) / (after[0] - before[0]))


@dataclass(frozen=True)
class Schedule:
    """Every intended call of a run, in time order.

    Attributes
    ----------
    offset_ns
        int64, shape (calls,): nanoseconds after time zero.
    kind
        uint16, shape (calls,): index into `kinds`.
    pod
        uint16, shape (calls,): number of the pod that makes the call.
    kinds
        Event types, in the order of the scenario's mix.
    number
        int64, shape (calls,): of a replay, which event of its channel each is; None where calls are numbered as they come.
    """

    offset_ns: np.ndarray
    kind: np.ndarray
    pod: np.ndarray
    kinds: tuple[str, ...]
    number: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.offset_ns)

    def numbers(self) -> Sequence[int]:
        """Return the number of each call, from which what it carries is made."""
        return range(len(self)) if self.number is None else self.number.tolist()

    def _of_rows(self, rows: np.ndarray | slice) -> Schedule:
        number = None if self.number is None else self.number[rows]
        return Schedule(self.offset_ns[rows], self.kind[rows], self.pod[rows], self.kinds, number)

    def of_pods(self, pods: list[int], *, part: int = 0, parts: int = 1) -> Schedule:
        """Return the calls of some pods; with `parts`, every parts-th of them, starting at `part`."""
        return self._of_rows(np.flatnonzero(np.isin(self.pod, np.asarray(pods, dtype=np.uint16)))[part::parts])

    def since(self, offset_ns: int) -> Schedule:
        """Return the calls at that time and later."""
        return self._of_rows(slice(int(np.searchsorted(self.offset_ns, offset_ns)), None))


@dataclass(frozen=True)
class IntendedReads:
    """Every intended read of configuration, in time order.

    Attributes
    ----------
    offset_ns
        int64, shape (reads,): nanoseconds after time zero.
    pod
        uint16, shape (reads,): number of the pod that reads.
    subject
        int64, shape (reads,): index into `subjects`.
    subjects
        Cache and key of each: a service's own cache (`services.X.caches`), or "" where it reads configuration as the reference's do.
    """

    offset_ns: np.ndarray
    pod: np.ndarray
    subject: np.ndarray
    subjects: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.offset_ns)

    def of_pods(self, pods: list[int]) -> IntendedReads:
        """Return the reads of some pods."""
        return self._of_rows(np.flatnonzero(np.isin(self.pod, np.asarray(pods, dtype=np.uint16))))

    def since(self, offset_ns: int) -> IntendedReads:
        """Return the reads at that time and later."""
        return self._of_rows(slice(int(np.searchsorted(self.offset_ns, offset_ns)), None))

    def _of_rows(self, rows: np.ndarray | slice) -> IntendedReads:
        return IntendedReads(self.offset_ns[rows], self.pod[rows], self.subject[rows], self.subjects)

    def with_others(self, others: IntendedReads) -> IntendedReads:
        """Return these reads and others, in time order."""
        offset_ns = np.concatenate([self.offset_ns, others.offset_ns])
        pod, subject = np.concatenate([self.pod, others.pod]), np.concatenate([self.subject, others.subject + len(self.subjects)])
        order = np.argsort(offset_ns, kind="stable")
        return IntendedReads(offset_ns[order], pod[order], subject[order], self.subjects + others.subjects)


def make_reads(*, rate_per_s: float, seconds: float, seed: int, pods: list[int], templates: int) -> IntendedReads:
    """Draw the reads of a warm-up and a run, as a Poisson process from a random stream of its own.

    Each read is by any of the pods with the same chance, of a provider with the chance `PROVIDER_READS`, else of a template: the
    n-th one n times as rarely as the first (Zipf).

    Raises
    ------
    ScenarioError
        More than `MAX_CALLS` reads.
    """
    keys = (*(f"{TEMPLATES}tpl_{n}" for n in range(templates)), *(f"{PROVIDERS}prov_{n}" for n in range(PROVIDER_COUNT)))
    if rate_per_s * seconds > MAX_CALLS:
        raise ScenarioError(f"the load means {rate_per_s * seconds:,.0f} reads, more than {MAX_CALLS:,}: lower load.reads_per_s")
    rng = np.random.default_rng([seed, 2])
    count = int(rng.poisson(rate_per_s * seconds)) if pods else 0
    offset_ns = np.sort(rng.random(count) * seconds * 1e9).astype(np.int64)
    ranked = 1 / np.arange(1, templates + 1)
    of_template = ranked / ranked.sum() * (1 - PROVIDER_READS)
    of_provider = np.full(PROVIDER_COUNT, PROVIDER_READS / PROVIDER_COUNT)
    subject = rng.choice(len(keys), size=count, p=np.concatenate([of_template, of_provider]))
    pod = rng.choice(np.asarray(pods, dtype=np.uint16), size=count) if count else np.zeros(0, dtype=np.uint16)
    return IntendedReads(offset_ns, pod, subject, tuple(("", key) for key in keys))


def make_cache_reads(
    cache: str, *, rate_per_s: float, seconds: float, seed: Sequence[int], pods: list[int], key: Callable[[int], str]
) -> IntendedReads:
    """Draw the reads of one cache of a service in a warm-up and a run, as a Poisson process; each is by any of its pods.

    Parameters
    ----------
    seed
        What the stream of random numbers comes from.
    key
        The key of the n-th read, from 0.
    """
    rng = np.random.default_rng(list(seed))
    count = int(rng.poisson(rate_per_s * seconds))
    offset_ns = np.sort(rng.random(count) * seconds * 1e9).astype(np.int64)
    pod = rng.choice(np.asarray(pods, dtype=np.uint16), size=count) if count else np.zeros(0, dtype=np.uint16)
    places = dict[str, int]()
    subject = np.fromiter((places.setdefault(key(number), len(places)) for number in range(count)), dtype=np.int64, count=count)
    return IntendedReads(offset_ns, pod, subject, tuple((cache, one) for one in places))


def no_schedule() -> Schedule:
    """Return a schedule without a call."""
    return Schedule(np.zeros(0, np.int64), np.zeros(0, np.uint16), np.zeros(0, np.uint16), ())


def make_schedule(
    *,
    rate_per_s: float,
    shape: str,
    arrivals: str,
    warm_up_s: float,
    run_s: float,
    seed: int,
    mix: dict[str, float],
    publishers: dict[str, list[int]],
) -> Schedule:
    """Draw the calls of a warm-up and a run.

    Parameters
    ----------
    rate_per_s
        Peak rate, calls per second over the whole fleet.
    shape
        One of `SHAPES`; the warm-up runs at the shape's first rate.
    mix
        Event type -> weight.
    publishers
        Event type -> numbers of the pods that may publish it; each is drawn with the same chance.

    Raises
    ------
    ScenarioError
        More than `MAX_CALLS` calls.
    """
    times_s = _arrival_times(rate_per_s=rate_per_s, shape=shape, arrivals=arrivals, warm_up_s=warm_up_s, run_s=run_s, seed=seed)
    rng = np.random.default_rng([seed, 1])
    kinds = tuple(mix)
    weights = np.array([mix[kind] for kind in kinds], dtype=np.float64)
    kind = rng.choice(len(kinds), size=len(times_s), p=weights / weights.sum()).astype(np.uint16)
    pod = draw_pods(kind, rng.random(len(times_s)), kinds, publishers)
    return Schedule((times_s * 1e9).astype(np.int64), kind, pod, kinds)


def draw_pods(kind: np.ndarray, draw: np.ndarray, kinds: Sequence[str], publishers: Mapping[str, list[int]]) -> np.ndarray:
    """Return the pod that makes each call, from a number from 0 to 1 of each; the other parameters as of `make_schedule`."""
    pod = np.zeros(len(kind), dtype=np.uint16)
    order = np.argsort(kind, kind="stable")
    bounds = np.searchsorted(kind[order], np.arange(len(kinds) + 1))
    for number in np.unique(kind).tolist():
        rows, pods = order[bounds[number] : bounds[number + 1]], np.asarray(publishers[kinds[number]], dtype=np.uint16)
        pod[rows] = pods[(draw[rows] * len(pods)).astype(np.int64)]
    return pod


@lru_cache(8)  # a run asks several times for the same
def _offered(rate_per_s: float, shape: str, warm_up_s: float, run_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Return times in seconds and how many calls are meant until then, on the grid of a shape."""
    points = SHAPES[shape]
    grid_s, calls = [np.zeros(1)], [np.zeros(1)]
    if warm_up_s > 0:
        grid_s.append(np.array([warm_up_s]))
        calls.append(np.array([warm_up_s * rate_per_s * points[0][1]]))
    for (from_u, from_rate), (to_u, to_rate) in pairwise(points):
        steps = max(1, round(_GRID * (to_u - from_u)))
        if to_u == from_u:
            continue
        done = np.arange(1, steps + 1) / steps
        mean_rate = from_rate + (to_rate - from_rate) * (done - 0.5 / steps)
        grid_s.append(warm_up_s + run_s * (from_u + (to_u - from_u) * done))
        calls.append(mean_rate * rate_per_s * run_s * (to_u - from_u) / steps)
    return np.concatenate(grid_s), np.cumsum(np.concatenate(calls))


def _arrival_times(*, rate_per_s: float, shape: str, arrivals: str, warm_up_s: float, run_s: float, seed: int) -> np.ndarray:
    """Return sorted arrival times in seconds: a unit-rate process mapped through the inverse of the cumulative rate."""
    grid_s, calls = _offered(rate_per_s, shape, warm_up_s, run_s)
    total = float(calls[-1])
    if total > MAX_CALLS:
        raise ScenarioError(f"the load means {total:,.0f} calls, more than {MAX_CALLS:,}: lower load.rate or load.run_s")
    rng = np.random.default_rng([seed, 0])
    poisson = arrivals == "poisson"
    units: np.ndarray = np.cumsum(rng.exponential(size=int(total + 10 * total**0.5 + 10))) if poisson else np.arange(int(total)) + 0.5
    times_s: np.ndarray = np.interp(units[units < total], calls, grid_s)
    return times_s
