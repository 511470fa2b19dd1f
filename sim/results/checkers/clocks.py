"""Compare how old events seem by wall clocks with how old they are, where pods' clocks were wrong.

Who reads an event's timestamp, a dashboard or a service that leaves old events out, subtracts it from a clock of its own. The lab's own
lag does not come from wall clocks, so it does not show what such a reader sees.

- **stated age** of a delivered copy: what the wall clock of the pod shows when its handler starts, minus the event's timestamp.
- **from the future**: a stated age below zero, the event seems to be made later than it is handled.

Both are of the `run` phase, and without a pod whose clock was wrong, and without a limit on them, they are not computed: then a stated age
is the age. Clocks of one machine do not differ but by a fault; those of several are taken to show the same time but for it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.machine.words import agreeing, amount, count, duration
from sim.record.reader import Array
from sim.record.schema import event_id
from sim.results.checkers.verdict import CLOCKS, MAX_WITNESSES, Bounds, Result, between
from sim.results.lags import errors_ns
from sim.results.opened_run import Run
from sim.results.pieces import Piece
from sim.results.stated_ages import read_stated_ages
from sim.results.values import new_values

METRICS = ("stated_age_ms_p99", "stated_age_ms_max", "from_future")
QUANTILES = {"min": 0.0, "p50": 0.5, "p99": 0.99, "max": 1.0}


class _StatedAges(NamedTuple):
    """The stated ages of one piece: sorted, how many were surely, seemed and may have been below zero, and those at both ends.

    `youngest` and `oldest` are the ages, events (rows of `publishes`) and pods of `MAX_WITNESSES` copies, one row each.
    """

    ages: Array
    future: Array
    youngest: Array
    oldest: Array


def check(run: Run) -> Result:
    """Tell how old the events seemed to the pods that handled them."""
    nothing = dict.fromkeys(METRICS, float("nan"))
    wrong = run.pods[run.pods["clock_ahead_ns"] != 0]
    if wrong.empty and not set(METRICS) & set(run.slo):
        return Result("valid", "no pod's wall clock was wrong", metrics=nothing)
    ages, future = new_values(in_file=run.pieces.whole is None), np.zeros(3, dtype=np.int64)
    youngest, oldest = np.zeros((2, 0, 3), dtype=np.int64)
    for part in run.pieces.each(lambda piece: _of_piece(run, piece)):
        ages.add(part.ages)
        future += part.future
        youngest, oldest = np.concatenate([youngest, part.youngest]), np.concatenate([oldest, part.oldest])
    if not len(ages):
        why = "no data: no event with a timestamp was delivered in the run phase"
        return Result("valid" if wrong.empty else "unknown", why, metrics=nothing)
    found = ages.quantiles(QUANTILES)
    counts: dict[str, int | float] = {f"stated_age_ms.{name}": value / 1e6 for name, value in found.items()}
    pods = sorted(set(wrong["pod"].astype(str)))
    least, seeming, most = future.tolist()
    counts |= {"copies": len(ages), "from_future": seeming, "wrong_clocks": len(pods)}
    from_future = between(float(least), float(most), CLOCKS) if run.clocks.differ else float(seeming)
    metrics: dict[str, float | Bounds] = dict(zip(METRICS, (found["p99"] / 1e6, found["max"] / 1e6, from_future), strict=True))
    witnesses = _witnesses(run, _first(youngest[:, 0], youngest) if seeming else _first(-oldest[:, 0], oldest))
    return Result("valid", _sentence(counts, pods), counts=counts, witnesses=witnesses, metrics=metrics)


def _of_piece(run: Run, piece: Piece) -> _StatedAges:
    rows, ages = read_stated_ages(run, piece)
    error = errors_ns(run, piece, rows)
    future = np.array([(ages < -error).sum(), (ages < 0).sum(), (ages < error).sum()])
    copies = np.column_stack([ages, piece.publish[rows], piece.pod[rows]])
    return _StatedAges(np.sort(ages), future, _first(ages, copies), _first(-ages, copies))


def _first(by: Array, copies: Array) -> Array:
    """Return `MAX_WITNESSES` of some copies by a number of theirs, the least first; of those that are alike the one that stands first."""
    found: Array = copies[np.argsort(by, kind="stable")[:MAX_WITNESSES]]
    return found


def _witnesses(run: Run, copies: Array) -> list[str]:
    events = run.publishes["event"].to_numpy()
    return [f"{event_id(int(events[publish]))} in {run.pod_histories[pod].pod}" for _, publish, pod in copies.tolist()]


def _sentence(counts: dict[str, int | float], pods: list[str]) -> str:
    who = f"the {agreeing(len(pods), 'clock')} of {', '.join(pods[:3])}{' and others' if pods[3:] else ''}" if pods else "no pod's clock"
    text = f"{who} {'were' if pods[1:] else 'was'} wrong: by their timestamps {count(counts['copies'], 'copy')}"
    text += f" had a median age of {duration(counts['stated_age_ms.p50'] / 1e3)}, at most {duration(counts['stated_age_ms.max'] / 1e3)}"
    if future := counts["from_future"]:
        text += f"; {amount(future)} came from the future, by up to {duration(-counts['stated_age_ms.min'] / 1e3)}"
    return text
