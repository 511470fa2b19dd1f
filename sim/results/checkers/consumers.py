"""Measure whether the handlers of services kept up with what came: utilisation, queue, wait and drain time of each pod.

It judges nothing by itself, as to fall behind for a time is no broken promise: limits on `utilisation_max`, `queue_max` and
`drain_s_max` do. What each of them is stands in `sim.results.consumers`.
Where the conditions of an M/G/c queue hold, the mean wait that it predicts stands beside the one that was measured.
"""

from __future__ import annotations

import math

from sim.machine.words import amount, count, duration
from sim.results.checkers.verdict import Bounds, Result, greatest
from sim.results.consumers import PodLoad, read_loads
from sim.results.opened_run import Run

METRICS = ("utilisation_max", "queue_max", "drain_s_max")
FULL = 1.0  # of what a pod can handle


def check(run: Run) -> Result:
    """Measure each pod whose handlers take time; none is valid with nothing measured."""
    loads = read_loads(run)
    nothing: dict[str, float | Bounds] = dict.fromkeys(METRICS, math.nan)
    if not loads:
        return Result("valid", "no service's handlers take time", metrics=nothing)
    heard = [load for load in loads if load.events]
    if not heard:
        return Result("valid", "no pod whose handlers take time heard an event in the run phase", metrics=nothing)
    counts: dict[str, int | float] = {"pods": len(loads)}
    sentences = []
    for service in dict.fromkeys(load.service for load in heard):
        worst = max((load for load in heard if load.service == service), key=lambda load: (load.utilisation, load.queue_max))
        counts |= {f"utilisation.{service}": worst.utilisation, f"queue_max.{service}": worst.queue_max}
        counts |= {f"wait_us_mean.{service}": worst.wait_mean_s * 1e6, f"wait_us_p99.{service}": worst.wait_p99_s * 1e6}
        if math.isfinite(worst.drain_s):
            counts[f"drain_s.{service}"] = worst.drain_s
        if math.isfinite(worst.theory_s):
            counts[f"wait_us_theory.{service}"] = worst.theory_s * 1e6
        sentences.append(_sentence(worst))
    metrics: dict[str, float | Bounds] = {
        "utilisation_max": max(load.utilisation for load in heard),
        "queue_max": float(max(load.queue_max for load in heard)),
        "drain_s_max": greatest(
            [load.drain_s for load in heard if math.isfinite(load.drain_s)], [load.watched_s for load in heard if math.isinf(load.drain_s)]
        ),
    }
    return Result("valid", "; ".join(sentences), counts=counts, metrics=metrics)


def _sentence(load: PodLoad) -> str:
    if math.isinf(load.can_per_s):
        text = f"{load.pod} handled {count(load.events, 'event')}, as many at a time as it read"
    else:
        asked = f"{amount(load.per_s)} of {amount(load.can_per_s)} events/s"
        text = f"{load.pod} was asked for {load.utilisation:.0%} of what its handlers can do ({asked})"
    text += f"; an event was begun {duration(load.wait_mean_s)} after it was sent on average, p99 {duration(load.wait_p99_s)}"
    if math.isfinite(load.theory_s):
        text += f" (waiting alone, by an M/G/c queue: {duration(load.theory_s)} on average)"
    text += f", and at most {count(load.queue_max, 'event')} waited at a time"
    if load.utilisation > FULL:
        text += ": it falls behind for as long as this goes on"
    if load.drain_s:
        text += f"; {count(load.queue_end, 'event')} waited at the end of the load"
        text += f" and took {duration(load.drain_s)}" if math.isfinite(load.drain_s) else ", and the run ended before all were handled"
    return text
