"""Compare how old events seem by wall clocks with how old they are, where pods' clocks were wrong.

Who reads an event's timestamp, a dashboard or a service that leaves old events out, subtracts it from a clock of its own. The lab's own
lag does not come from wall clocks, so it does not show what such a reader sees.

- **stated age** of a delivered copy: what the wall clock of the pod shows when its handler starts, minus the event's timestamp.
- **from the future**: a stated age below zero, the event seems to be made later than it is handled.

Both are of the `run` phase, and without a pod whose clock was wrong, and without a limit on them, they are not computed: then a stated age
is the age. Clocks of one machine do not differ but by a fault; those of several are taken to show the same time but for it.
"""

from __future__ import annotations

import numpy as np

from sim.machine.words import agreeing, amount, count, duration
from sim.record.reader import quantiles
from sim.record.schema import event_id
from sim.results.checkers.verdict import CLOCKS, MAX_WITNESSES, Bounds, Result, between
from sim.results.opened_run import Run
from sim.results.run_clocks import error_ns
from sim.results.stated_ages import read_stated_ages

METRICS = ("stated_age_ms_p99", "stated_age_ms_max", "from_future")
QUANTILES = {"min": 0.0, "p50": 0.5, "p99": 0.99, "max": 1.0}


def check(run: Run) -> Result:
    """Tell how old the events seemed to the pods that handled them."""
    nothing = dict.fromkeys(METRICS, float("nan"))
    wrong = run.pods[run.pods["clock_ahead_ns"] != 0]
    if wrong.empty and not set(METRICS) & set(run.slo):
        return Result("valid", "no pod's wall clock was wrong", metrics=nothing)
    rows, ages = read_stated_ages(run)
    if not len(rows):
        why = "no data: no event with a timestamp was delivered in the run phase"
        return Result("valid" if wrong.empty else "unknown", why, metrics=nothing)
    copies, names = run.copies, [history.pod for history in run.pod_histories]
    future = ages < 0
    found = quantiles(ages, QUANTILES)
    counts: dict[str, int | float] = {f"stated_age_ms.{name}": value / 1e6 for name, value in found.items()}
    pods = sorted(set(wrong["pod"].astype(str)))
    counts |= {"copies": len(rows), "from_future": int(future.sum()), "wrong_clocks": len(pods)}
    error = error_ns(run.publishes, copies.publish[rows], run.deliveries, copies.delivery[rows])
    from_future = between(float((ages < -error).sum()), float((ages < error).sum()), CLOCKS) if error.any() else float(future.sum())
    metrics: dict[str, float | Bounds] = dict(zip(METRICS, (found["p99"] / 1e6, found["max"] / 1e6, from_future), strict=True))
    first = rows[np.argsort(ages if future.any() else -ages, kind="stable")[:MAX_WITNESSES]]
    events = run.publishes["event"].to_numpy()
    witnesses = [f"{event_id(int(events[copies.publish[row]]))} in {names[copies.pod[row]]}" for row in first]
    return Result("valid", _sentence(counts, pods), counts=counts, witnesses=witnesses, metrics=metrics)


def _sentence(counts: dict[str, int | float], pods: list[str]) -> str:
    who = f"the {agreeing(len(pods), 'clock')} of {', '.join(pods[:3])}{' and others' if pods[3:] else ''}" if pods else "no pod's clock"
    text = f"{who} {'were' if pods[1:] else 'was'} wrong: by their timestamps {count(counts['copies'], 'copy')}"
    text += f" had a median age of {duration(counts['stated_age_ms.p50'] / 1e3)}, at most {duration(counts['stated_age_ms.max'] / 1e3)}"
    if future := counts["from_future"]:
        text += f"; {amount(future)} came from the future, by up to {duration(-counts['stated_age_ms.min'] / 1e3)}"
    return text
