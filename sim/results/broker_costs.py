"""What a publish and a copy cost the broker in processor time, worked out from what it said of itself in its samples.

The broker's processor time rises in each window between two samples by what it did there::

    CPU = idle share x length + per publish x publishes + per copy x copies + what else it did

Publishes are counted at their answer, copies as what PUBLISH returned; in a cluster, where that is one node's count, and on streams,
where it is none, as what was heard. Least squares over the windows of the run phase gives the
three numbers, with 95 % intervals by Student's t. Whatever else the broker does (locks of once-recipes, our own questions, other
programs) goes into the idle share where it is steady, and widens the intervals where it is not.

`joint_copy_us` is what a copy costs with its part of the publish: a fit on copies alone. When every publish has the same number of
receivers nobody can tell a publish from its copies, and this is the only one that is given. A steady load varies little from window
to window, so its intervals are wide, and may hold values below 0; a ramp or steps give narrower ones. A broker that wakes up for each
command does less of that per command when it is busy, so these are slopes at this load, and the idle share is where the line meets
zero.

With fewer than `MIN_WINDOWS` windows, or windows that are all alike, everything fitted is NaN. `cpu_share` and `all_in_copy_us` need
no fit: all processor time over all time, and over all copies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from sim.record.reader import Array
from sim.results.interval import UNKNOWN, Interval, student_t
from sim.results.opened_run import Run

MIN_WINDOWS = 10
MAX_CORRELATION = 0.995  # of publishes with copies over the windows: above it their costs cannot be told apart
METRICS = ("used_cpu_user_s", "used_cpu_sys_s")


@dataclass(frozen=True)
class BrokerCosts:
    """What the broker's processor time went into.

    Attributes
    ----------
    windows, publishes, copies
        Over how many windows, acknowledged publishes and receivers.
    cpu_share
        Processor seconds per second; with one thread, 1 is a full core.
    all_in_copy_us
        All processor time / copies, microseconds.
    publish_us, copy_us
        Microseconds of each, told apart.
    joint_copy_us
        Microseconds of a copy with its part of the publish.
    idle_share
        Processor seconds per second without any publish.
    fan_out
        Copies per publish.
    reason
        Why something is not known; empty when all is.
    """

    windows: int = 0
    publishes: int = 0
    copies: int = 0
    cpu_share: float = math.nan
    all_in_copy_us: float = math.nan
    publish_us: Interval = UNKNOWN
    copy_us: Interval = UNKNOWN
    joint_copy_us: Interval = UNKNOWN
    idle_share: Interval = UNKNOWN
    fan_out: float = math.nan
    reason: str = ""


def broker_costs(run: Run, *, phase: str = "run") -> BrokerCosts:
    """Work out the broker's costs over one phase, see the module."""
    at_s, cpu_s = cpu_samples(run, phase)
    if len(at_s) < 2 or (np.diff(cpu_s) < 0).any():
        reason = "the broker was started again in this phase" if len(at_s) >= 2 else f"no samples of the broker's CPU in phase {phase}"
        return BrokerCosts(reason=reason)
    publishes, copies = work_between(run, at_s)
    seconds, cpu = np.diff(at_s), np.diff(cpu_s)
    total = BrokerCosts(
        windows=len(cpu),
        publishes=int(publishes.sum()),
        copies=int(copies.sum()),
        cpu_share=float(cpu.sum() / seconds.sum()),
        all_in_copy_us=float(cpu.sum() * 1e6 / copies.sum()) if copies.sum() else math.nan,
        fan_out=float(copies.sum() / publishes.sum()) if publishes.sum() else math.nan,
    )
    return _fitted(total, seconds, cpu * 1e6, publishes, copies)


def _fitted(total: BrokerCosts, seconds: Array, cpu_us: Array, publishes: Array, copies: Array) -> BrokerCosts:
    if total.windows < MIN_WINDOWS:
        return replace(total, reason=f"only {total.windows} windows between samples, {MIN_WINDOWS} are needed")
    rates = publishes / seconds, copies / seconds
    if np.ptp(rates[1]) == 0:
        return replace(total, reason="every window held the same number of copies")
    idle, joint = least_squares(np.column_stack((seconds, copies)), cpu_us)
    publish, copy, reason = UNKNOWN, UNKNOWN, ""
    correlation = float(np.corrcoef(*rates)[0, 1]) if np.ptp(rates[0]) else 1.0
    if abs(correlation) <= MAX_CORRELATION:
        idle, publish, copy = least_squares(np.column_stack((seconds, publishes, copies)), cpu_us)
    else:
        reason = f"publishes and copies rise and fall together (correlation {correlation:.3f}): only their joint cost is known"
    share = Interval(idle.value / 1e6, idle.low / 1e6, idle.high / 1e6)
    return replace(total, publish_us=publish, copy_us=copy, joint_copy_us=joint, idle_share=share, reason=reason)


def cpu_samples(run: Run, phase: str) -> tuple[Array, Array]:
    """Return the times in seconds and the processor seconds so far, of the samples in a phase."""
    begin, end = run.phases.get(phase, (0, -1))
    rows = run.broker[run.broker["at_ns"].between(begin, end)]
    user, system = (rows[rows["metric"] == metric].drop_duplicates("at_ns").set_index("at_ns")["value"] for metric in METRICS)
    both = (user + system).dropna().sort_index()
    return both.index.to_numpy(dtype=np.int64) / 1e9, both.to_numpy(dtype=np.float64)


def work_between(run: Run, at_s: Array) -> tuple[Array, Array]:
    """Return how many publishes were answered in each window, and how many copies they made."""
    rows = run.publishes.assign(copies=_copies(run))
    rows = rows[rows["outcome"] == "acknowledged"]
    window = np.searchsorted(at_s, rows["acked_ns"].to_numpy() / 1e9, side="right") - 1
    inside = (window >= 0) & (window < len(at_s) - 1)
    copies = rows["copies"].to_numpy()[inside].astype(np.float64)
    count = len(at_s) - 1
    return np.bincount(window[inside], minlength=count).astype(np.float64), np.bincount(window[inside], copies, minlength=count)


def _copies(run: Run) -> Array:
    """Return how many copies each publish made: what PUBLISH returned, or what was heard where that is of one node or says nothing."""
    said = run.publishes["receivers"].to_numpy()
    if run.info.nodes == 1 and (said >= 0).any():
        counted: Array = np.maximum(said, 0)
        return counted
    counts: Array = run.books.delivered + run.books.again
    return counts


def least_squares(columns: Array, values: Array) -> list[Interval]:
    """Return one interval a column; all unknown when the columns depend on each other or there are too few rows."""
    rows, wanted = columns.shape
    scale = np.linalg.norm(columns, axis=0)
    if rows <= wanted or not scale.all() or np.linalg.matrix_rank(columns / scale, tol=1e-6) < wanted:
        return [UNKNOWN] * wanted
    inverse = np.linalg.inv((columns / scale).T @ (columns / scale))
    found = inverse @ (columns / scale).T @ values
    freedom = rows - wanted
    variance = float(((values - (columns / scale) @ found) ** 2).sum()) / freedom
    half = student_t(freedom) * np.sqrt(np.diag(inverse) * variance) / scale
    return [Interval(float(v), float(v - h), float(v + h)) for v, h in zip(found / scale, half, strict=True)]
