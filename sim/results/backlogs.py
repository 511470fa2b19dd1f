"""Measure how long the batches that an outage kept back took to drain, per publisher.

A batch *stands* from the time when it was meant to leave until the broker answers for it. After an outage those stand that their
publisher kept (`bus.outage_queue = "keep"`), or that were on their way to a broker which did not answer.

- **backlog**: batches that were meant to leave before the fault's end and stood longer than usual at it, with their items and the age of
  the oldest item.
- **usual**: the longest that a batch of that publisher stood before the fault began; without one, no time at all.
- **drain**: from the fault's end, when the broker is back, until no batch of the publisher stands longer than usual any more: then the age
  of what leaves is its usual one. A batch that is made meanwhile and stands too belongs to it. Infinite where a batch of the backlog
  never left.

Beside it stands the arithmetic: the items that the publisher's rate before the fault makes in the fault's time, and the drain as the sum
of the time until the publisher was connected again, `bus.outage_hold_s`, and what sending took.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sim.record.reader import FOREVER_NS, Array, codes_in, codes_of
from sim.results.copies import OUTCOME
from sim.results.opened_run import Run
from sim.results.outages import Belief, Outage, load_end, read_beliefs, read_outages, union


@dataclass(frozen=True)
class Backlog:
    """What one publisher's batches did after one outage; times are seconds.

    Attributes
    ----------
    batches, items
        That stood at the outage's end.
    oldest_s
        How old the oldest of these items was then.
    came
        Batches that were meant to leave later, and stood too before all was drained.
    drain_s
        How long it took; infinite where it did not end.
    watched_s
        How long it was looked at, where it did not end.
    connected_s
        From the outage's end until the publisher believed to be connected; NaN where its beliefs are not recorded, or it never did.
    outage_s
        How long the fault was on.
    items_per_s
        What the publisher's batches carried before the fault; NaN where none left before it.
    """

    publisher: str
    fault: str
    batches: int
    items: int
    oldest_s: float
    came: int
    drain_s: float
    watched_s: float
    connected_s: float
    outage_s: float
    items_per_s: float


def read_backlogs(run: Run, batches: Array) -> list[Backlog]:
    """Return the backlog of each publisher after each outage that left it one, in the order of outages.

    Parameters
    ----------
    batches
        Which rows of `publishes` are batches.
    """
    outages = read_outages(run)
    if not outages or not len(batches):
        return []
    table, beliefs = run.publishes, read_beliefs(run)
    publisher, names = codes_of(table["publisher"])
    outcome = codes_in(table["outcome"], OUTCOME)
    lived = {history.pod: history.at_ns[-1] for history in run.pod_histories if history.at_ns}
    order = batches[np.argsort(publisher[batches], kind="stable")]
    cuts = np.flatnonzero(np.diff(publisher[order])) + 1
    found = []
    for outage in outages:
        for mine in np.split(order, cuts):
            name = names[publisher[mine[0]]]
            left = mine[outcome[mine] == OUTCOME["acknowledged"]]
            kept = mine[outcome[mine] == OUTCOME["never-sent"]]
            if lived.get(name, FOREVER_NS) > outage.end_ns:
                end_ns = min(lived.get(name, FOREVER_NS), max(load_end(run), outage.end_ns))
                found += _backlog_of(run, outage, name, left, kept, beliefs.get(name), end_ns)
    return found


def _backlog_of(run: Run, outage: Outage, name: str, left: Array, kept: Array, belief: Belief | None, last_ns: int) -> list[Backlog]:
    """Return what stood after an outage; no element where nothing did. `left` and `kept` are the batches that left and never did."""
    table = run.publishes
    meant, acked, first, items = (table[column].to_numpy() for column in ("intended_ns", "acked_ns", "first_item_ns", "items"))
    before = left[acked[left] < outage.begin_ns]
    usual_ns = int((acked[before] - meant[before]).max(initial=0))
    late = left[acked[left] - meant[left] > usual_ns]
    standing = late[(meant[late] < outage.end_ns) & (acked[late] > outage.end_ns)]
    never = kept[meant[kept] < outage.end_ns]
    both = np.concatenate([standing, never])
    if not len(both):
        return []
    spans = union(np.column_stack([meant[late], acked[late]]))
    over = spans[(spans[:, 0] < outage.end_ns) & (spans[:, 1] > outage.end_ns)]
    drained_ns = int(over[0, 1]) if len(over) else outage.end_ns
    came = late[(meant[late] >= outage.end_ns) & (meant[late] < drained_ns)]
    begun_ns = int(run.phases["warm-up"][0]) if "warm-up" in run.phases else run.run_span[0]
    calm_s = (outage.begin_ns - begun_ns) / 1e9
    connected = belief and np.flatnonzero((np.array(belief.bus) == "connected") & (np.append(belief.at_ns[1:], FOREVER_NS) > outage.end_ns))
    connected_s = math.nan
    if belief is not None and connected is not None and len(connected):
        connected_s = max(0.0, float(belief.at_ns[connected[0]] - outage.end_ns) / 1e9)
    return [
        Backlog(
            publisher=name,
            fault=outage.fault,
            batches=len(both),
            items=int(items[both].sum()),
            oldest_s=float(outage.end_ns - first[both].min()) / 1e9,
            came=len(came),
            drain_s=math.inf if len(never) else (drained_ns - outage.end_ns) / 1e9,
            watched_s=max(0.0, (last_ns - outage.end_ns) / 1e9),
            connected_s=connected_s,
            outage_s=(outage.end_ns - outage.begin_ns) / 1e9,
            items_per_s=float(items[before].sum()) / calm_s if len(before) and calm_s > 0 else math.nan,
        )
    ]
