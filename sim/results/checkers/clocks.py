"""Compare how old events seem by wall clocks with how old they are, where pods' clocks were wrong.

Who reads an event's timestamp, a dashboard or a service that leaves old events out, subtracts it from a clock of its own. The lab's own
lag does not come from wall clocks, so it does not show what such a reader sees.

- **stated age** of a delivered copy: what the wall clock of the pod shows when its handler starts, minus the event's timestamp.
- **from the future**: a stated age below zero, the event seems to be made later than it is handled.

Both are of the `run` phase, and without a pod whose clock was wrong, and without a limit on them, they are not computed: then a stated age
is the age. Clocks of one machine do not differ but by a fault.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from sim.machine.words import agreeing, amount, count, duration
from sim.record.reader import Array, codes_in, quantiles
from sim.record.schema import event_id
from sim.results.checkers.verdict import MAX_WITNESSES, Result
from sim.results.copies import FATE
from sim.results.opened_run import Run

METRICS = ("stated_age_ms_p99", "stated_age_ms_max", "from_future")
QUANTILES = {"min": 0.0, "p50": 0.5, "p99": 0.99, "max": 1.0}


def check(run: Run) -> Result:
    """Tell how old the events seemed to the pods that handled them."""
    nothing = dict.fromkeys(METRICS, float("nan"))
    wrong = run.pods[run.pods["clock_ahead_ns"] != 0]
    if wrong.empty and not set(METRICS) & set(run.slo):
        return Result("valid", "no pod's wall clock was wrong", metrics=nothing)
    copies, publishes = run.copies, run.publishes
    stamped = publishes["stamped_ns"].to_numpy()
    rows = np.flatnonzero((copies.fate == FATE["delivered"]) & run.copies_in("run"))
    rows = rows[stamped[copies.publish[rows]] > 0]
    if not len(rows):
        return Result("valid" if wrong.empty else "unknown", "no data: no event with a timestamp was delivered", metrics=nothing)
    handled = run.deliveries["handled_ns"].to_numpy()[copies.delivery[rows]]
    names = [history.pod for history in run.pod_histories]
    ages = handled + _ahead(run.pods, names, copies.pod[rows], handled) - stamped[copies.publish[rows]]
    future = ages < 0
    found = quantiles(ages, QUANTILES)
    counts: dict[str, int | float] = {f"stated_age_ms.{name}": value / 1e6 for name, value in found.items()}
    pods = sorted(set(wrong["pod"].astype(str)))
    counts |= {"copies": len(rows), "from_future": int(future.sum()), "wrong_clocks": len(pods)}
    metrics = dict(zip(METRICS, (found["p99"] / 1e6, found["max"] / 1e6, float(future.sum())), strict=True))
    first = rows[np.argsort(ages if future.any() else -ages, kind="stable")[:MAX_WITNESSES]]
    events = publishes["event"].to_numpy()
    witnesses = [f"{event_id(int(events[copies.publish[row]]))} in {names[copies.pod[row]]}" for row in first]
    return Result("valid", _sentence(counts, pods), counts=counts, witnesses=witnesses, metrics=metrics)


def _sentence(counts: dict[str, int | float], pods: list[str]) -> str:
    who = f"the {agreeing(len(pods), 'clock')} of {', '.join(pods[:3])}{' and others' if pods[3:] else ''}" if pods else "no pod's clock"
    text = f"{who} {'were' if pods[1:] else 'was'} wrong: by their timestamps {count(counts['copies'], 'copy')}"
    text += f" had a median age of {duration(counts['stated_age_ms.p50'] / 1e3)}, at most {duration(counts['stated_age_ms.max'] / 1e3)}"
    if future := counts["from_future"]:
        text += f"; {amount(future)} came from the future, by up to {duration(-counts['stated_age_ms.min'] / 1e3)}"
    return text


def _ahead(pods: pd.DataFrame, names: list[str], pod: Array, at_ns: Array) -> Array:
    """Return for each (pod, time) how far the pod's clock was ahead then, in nanoseconds."""
    ahead = np.zeros(len(at_ns), dtype=np.int64)
    number, times, values = (
        codes_in(pods["pod"], {name: place for place, name in enumerate(names)}),
        *(pods[column].to_numpy() for column in ("at_ns", "clock_ahead_ns")),
    )
    for one in np.unique(number[values != 0]):
        mine = np.flatnonzero(number == one)
        mine = mine[np.argsort(times[mine], kind="stable")]
        here = np.flatnonzero(pod == one)
        place = np.searchsorted(times[mine], at_ns[here], side="right") - 1
        ahead[here] = np.where(place >= 0, values[mine][np.maximum(place, 0)], 0)
    return ahead
