"""Measure what batching costs: items that wait, items at risk when a pod dies, items lost; and what it saves: publishes and bytes.

A *batch* is an event of a batched channel, or any other that carries several items. Judged are those that waited in the run phase:
the oldest item is not younger than its end, and the batch was not meant to leave before its start. So a batch that leaves in the drain is
judged with the load that filled it. Rates are of what was meant to leave in the run phase.

- **wait**: from an item's intended time until its batch was meant to leave. The table holds the sum over a batch and that of its oldest
  item; so `wait_ms.mean` is over items, and the quantiles of `oldest_wait_ms` are over batches.
- **age**: of a delivered batch, from its oldest item's intended time until the last pod that heard it began to handle it.
- **at risk**: items that wait in part-full batches and die with their publisher. `at_risk.mean` is their number over all publishers, on
  average over the time in which the judged batches waited (the sum of all items' waits divided by it: Little's law), `at_risk.max` the
  greatest number in one publisher.
- **lost**: items of batches that no pod heard, by what their publisher knew of the batch: `never-sent` died with a pod (or whoever
  published), `refused`, `unknown`, `memory` (the pod had no handler for its own batch), `acknowledged` (nobody was subscribed). Where
  the fleet has no subscriber to it, only a `never-sent` or `refused` batch is lost. An `unknown` one may never have been published, so
  the metric is an interval, with these or without.
- **backlog drain**: after an outage, from the broker's return until no batch stands longer than usual any more, for each publisher that
  had batches standing then (`sim.results.backlogs`), with the arithmetic beside it.

Waiting and losing are no broken promises, so this is valid without a limit in `[slo]`; batches that the load's mix means and the run
does not have are unknown.
"""

from __future__ import annotations

import math

import numpy as np

from sim.machine.words import amount, count, duration
from sim.record.reader import FOREVER_NS, Array, codes_in, codes_of, quantiles
from sim.record.schema import event_id
from sim.results.backlogs import Backlog, read_backlogs
from sim.results.checkers.verdict import MAX_WITNESSES, Bounds, Result, between, greatest
from sim.results.copies import FATE, OUTCOME
from sim.results.opened_run import Run
from sim.results.pieces import Piece

QUANTILES = {"p50": 0.5, "p99": 0.99, "max": 1.0}
REASONS = {  # a reason in the singular and in the plural
    "never-sent": ("died with its publisher", "died with their publisher"),
    "refused": ("was refused", "were refused"),
    "unknown": ("had no answer", "had no answer"),
    "memory": ("was published in memory mode", "were published in memory mode"),
    "acknowledged": ("was taken by the broker and reached no pod", "were taken by the broker and reached no pod"),
}
METRICS = {"p99": "item_age_ms_p99", "max": "item_age_ms_max"}
DRAIN = "backlog_drain_s_max"
MOST_PUBLISHERS = 100  # whose drain stands in the counts; of more, those with the longest


def check(run: Run) -> Result:
    """Measure waits, ages, losses and rates of the batches that waited in the run phase."""
    publishes = run.publishes
    start_ns, end_ns = run.run_span
    once = np.sort(run.index.row[:-1])  # an event that stands twice is one batch
    items = publishes["items"].to_numpy()
    of_batches = codes_in(publishes["channel"], dict.fromkeys(run.batched, 1))[once] == 1
    batches = once[(of_batches & (items[once] > 0)) | (items[once] > 1)]
    first = publishes["first_item_ns"].to_numpy()[batches]
    rows = batches[(first < end_ns) & (publishes["intended_ns"].to_numpy()[batches] >= start_ns)]
    nothing = dict.fromkeys(("items_lost", *METRICS.values(), DRAIN), float("nan"))
    if not len(rows):
        if _meant(run):
            return Result("unknown", "no data: the load's mix means batches, and none waited in the run phase", metrics=nothing)
        return Result("valid", "the load has no batches", metrics=nothing)
    intended, first = publishes["intended_ns"].to_numpy(), publishes["first_item_ns"].to_numpy()
    last_heard = _last_handled(run, rows)
    heard = last_heard[rows] > 0
    lost = rows[~heard & _counts_as_lost(run, rows)]
    whole = max((min(end_ns, int(intended.max()) + 1) if end_ns == FOREVER_NS else end_ns) - start_ns, 1) / 1e9
    in_run = batches[(intended[batches] >= start_ns) & (intended[batches] < end_ns)]
    published = once[(intended[once] >= start_ns) & (intended[once] < end_ns) & (items[once] > 0)]
    waits = publishes["items_wait_ns"].to_numpy()[rows]
    waited_ns = max(int(intended[rows].max() - first[rows].min()), 1)
    size = publishes["bytes"].to_numpy()
    counts: dict[str, int | float] = {
        "batches": len(rows),
        "items": int(items[rows].sum()),
        "items_per_batch": float(items[rows].mean()),
        "batches_per_s": len(in_run) / whole,
        "publishes_per_s": len(published) / whole,
        "batch_bytes_per_s": float(size[in_run].sum()) / whole,
        "bytes_per_item": float(size[rows].sum() / items[rows].sum()),
        "wait_ms.mean": float(waits.sum() / items[rows].sum()) / 1e6,
        "at_risk.mean": float(waits.sum() / waited_ns),
        "at_risk.max": int(items[rows].max()),
    }
    ages = last_heard[rows[heard]] - first[rows[heard]]
    counts |= _quantiles("oldest_wait_ms", intended[rows] - first[rows]) | _quantiles("age_ms", ages)
    counts |= {"lost": int(items[lost].sum())} | _by_outcome(run, lost)
    open_ = counts.get("lost.unknown", 0)
    why = "whether batches that no pod heard had been published"
    metrics: dict[str, float | Bounds] = {"items_lost": between(counts["lost"] - open_, counts["lost"], why)}
    metrics |= {name: float(counts.get(f"age_ms.{q}", "nan")) for q, name in METRICS.items()}
    backlogs = read_backlogs(run, batches)
    metrics[DRAIN] = _drain_of(backlogs)
    counts |= _of_backlogs(backlogs)
    detail = _sentence(counts) + _of_drain(run, backlogs)
    return Result("valid", detail, counts=counts, witnesses=_witnesses(run, lost), metrics=metrics)


def _meant(run: Run) -> bool:
    """Return whether the scenario's load means batches, and its run phase ended."""
    load = run.scenario.get("load", {})
    if load.get("locustfile"):  # users decide what they call, not the mix
        return False
    return any(load.get("mix", {}).get(name, 0) for name in run.batched) and load.get("rate_per_s", 0) > 0 and "drain" in run.phases


def _last_handled(run: Run, rows: Array) -> Array:
    """Return for each of some publishes, by its row, when the last pod that heard it first began to handle it, 0 when none did."""
    last, wanted = np.zeros(len(run.publishes), dtype=np.int64), np.zeros(len(run.publishes), dtype=bool)
    wanted[rows] = True

    def of_piece(piece: Piece) -> Array:
        mine = np.zeros(len(last), dtype=np.int64)
        heard = np.flatnonzero((piece.fate == FATE["delivered"]) & np.append(wanted, False)[piece.publish])
        np.maximum.at(mine, piece.publish[heard], piece.heard.handled_ns[piece.delivery[heard]])
        return mine

    for found in run.pieces.each(of_piece):
        np.maximum(last, found, out=last)
    return last


def _counts_as_lost(run: Run, rows: Array) -> Array:
    """Return which of these batches are lost when nobody heard them."""
    channel, words = codes_of(run.publishes["channel"])
    subscribed = np.array([*(any(word in history.channels for history in run.pod_histories) for word in words), False])[channel[rows]]
    kept_back = np.isin(codes_in(run.publishes["outcome"], OUTCOME)[rows], [OUTCOME["never-sent"], OUTCOME["refused"]])
    either: Array = subscribed | kept_back
    return either


def _by_outcome(run: Run, lost: Array) -> dict[str, int | float]:
    outcome = codes_in(run.publishes["outcome"], OUTCOME)[lost]
    items = run.publishes["items"].to_numpy()[lost]
    sums = {word: int(items[outcome == code].sum()) for word, code in OUTCOME.items()}
    return {f"lost.{word}": count for word, count in sums.items() if count}


def _quantiles(name: str, values_ns: Array) -> dict[str, int | float]:
    return {f"{name}.{quantile}": value / 1e6 for quantile, value in quantiles(values_ns, QUANTILES).items()}


def _sentence(counts: dict[str, int | float]) -> str:
    text = f"{count(counts['items'], 'item')} left in {count(counts['batches'], 'batch')} of {amount(counts['items_per_batch'])}"
    if counts["oldest_wait_ms.max"]:
        middle, most = (duration(counts[f"oldest_wait_ms.{quantile}"] / 1e3) for quantile in ("p50", "max"))
        text += f"; the oldest of a batch waited {middle} in the median, {most} at most; "
        text += f"on average {count(counts['at_risk.mean'], 'item')} waited at a time"
    else:
        text += "; no item waited for its batch"
    if not counts["lost"]:
        return text + "; none was lost"
    reasons = ", ".join(count(counts[f"lost.{word}"], *told) for word, told in REASONS.items() if f"lost.{word}" in counts)
    return text + f"; no pod heard {counts['lost']:,} of them: {reasons}"


def _drain_of(backlogs: list[Backlog]) -> float | Bounds:
    """Return the longest drain, NaN where no outage left a backlog."""
    ended = [one.drain_s for one in backlogs if math.isfinite(one.drain_s)]
    return greatest(ended, [one.watched_s for one in backlogs if math.isinf(one.drain_s)])


def _of_backlogs(backlogs: list[Backlog]) -> dict[str, int | float]:
    """Return what stood at the ends of outages, in all, and the longest drain of each publisher."""
    if not backlogs:
        return {}
    longest: dict[str, float] = {}
    for one in backlogs:
        longest[one.publisher] = max(longest.get(one.publisher, 0.0), one.drain_s)
    counts: dict[str, int | float] = {
        "backlog.publishers": len(longest),
        "backlog.batches": sum(one.batches for one in backlogs),
        "backlog.items": sum(one.items for one in backlogs),
        "backlog.undrained": sum(math.isinf(drain) for drain in longest.values()),
    }
    ended = sorted(((drain, name) for name, drain in longest.items() if math.isfinite(drain)), key=lambda one: -one[0])
    return counts | {f"backlog_drain_s.{name}": drain for drain, name in ended[:MOST_PUBLISHERS]}


def _of_drain(run: Run, backlogs: list[Backlog]) -> str:
    """Return what the worst publisher's backlog was and how long it took, with the arithmetic."""
    if not backlogs:
        return ""
    worst = max(backlogs, key=lambda one: (one.drain_s, one.items))
    text = f"; when {worst.fault} ended, {count(worst.batches, 'batch')} of {worst.publisher} with {count(worst.items, 'item')} stood"
    if math.isfinite(worst.items_per_s):
        made = worst.items_per_s * worst.outage_s
        text += f" ({amount(worst.items_per_s)} items/s before it make {amount(made)} in {duration(worst.outage_s)})"
    text += f", the oldest {duration(worst.oldest_s)} old"
    if math.isinf(worst.drain_s):
        return text + f", and some had not left {duration(worst.watched_s)} later"
    text += f", and {duration(worst.drain_s)} later what left was as young as usual"
    return text + _arithmetic(worst, hold_s=float(run.scenario.get("bus", {}).get("outage_hold_s", 0.0)))


def _arithmetic(worst: Backlog, *, hold_s: float) -> str:
    """Return the drain as the sum of its parts, where it is known when the publisher was connected again."""
    sent = f"{count(worst.batches + worst.came, 'batch')} on the way"
    rest_s = worst.drain_s - worst.connected_s
    if math.isnan(rest_s) or rest_s < 0:
        return f" ({sent})"
    held_s = min(hold_s, rest_s)  # a loop that stood still when it was connected again begins to count too early
    parts = [f"{duration(worst.connected_s)} until it was connected again"]
    parts += [f"{duration(held_s)} of bus.outage_hold_s"] if hold_s else []
    return f": {' + '.join(parts)} + {duration(rest_s - held_s)} for {sent}"


def _witnesses(run: Run, lost: Array) -> list[str]:
    """Return the lost batches with the most items."""
    if not len(lost):
        return []
    table = run.publishes[["event", "channel", "publisher", "items", "outcome"]]
    worst = lost[np.argsort(-table["items"].to_numpy()[lost].astype(np.int64), kind="stable")][:MAX_WITNESSES]
    rows = table.iloc[worst].to_dict("records")
    return [f"{event_id(int(r['event']))} on {r['channel']}: {count(r['items'], 'item')} of {r['publisher']}, {r['outcome']}" for r in rows]
