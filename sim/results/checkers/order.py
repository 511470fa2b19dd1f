"""Check that each pod heard the events of a publisher and channel in the order in which they were published.

A publisher numbers its events (the low half of the event key; the high half names the publisher's incarnation). A delivery
is **out of order** when its number is lower than one that the same pod heard before it, of the same publisher and channel. Only
first deliveries count, so a duplicate is not also disorder, and of two swapped neighbours exactly one is counted. Gaps are the
ledger's business. One broken order makes the run invalid, except on a channel of which the scenario promises no order
(`channels.X.order = false`), and on a transport that may hand an entry on late (streams: what a pod left without acknowledging is claimed
by another, or read again by itself); there they are counted. Events without an id that have equal payloads are told apart by their times
alone, so their order is not judged.
"""

from __future__ import annotations

import numpy as np

from sim.machine.words import count
from sim.record.reader import codes_of
from sim.record.schema import event_id
from sim.results.checkers.verdict import MAX_WITNESSES, Result
from sim.results.copies import FATE
from sim.results.opened_run import Run

NOT_MEASURED = {"out_of_order": float("nan")}


def check(run: Run) -> Result:
    """Count deliveries that came after a later event of their publisher and channel."""
    copies, publishes = run.copies, run.publishes
    first = np.flatnonzero(run.copies_in("run") & (copies.fate == FATE["delivered"]))
    first = first[~run.alike[copies.publish[first]]] if run.alike.any() else first
    if not len(first) and run.alike.any():
        return Result("valid", "every event has the payload of another one and no id: their order cannot be told", metrics=NOT_MEASURED)
    if not len(first):
        return Result("unknown", "no data: nothing was delivered in the run phase", metrics=NOT_MEASURED)
    key = publishes["event"].to_numpy()
    sources, source = np.unique(key >> np.uint64(32), return_inverse=True)
    channel, channels = codes_of(publishes["channel"])
    stream = _narrow(source * len(channels) + channel)[copies.publish[first]]
    # two stable sorts, the last key first: in each pod by stream, and there in the order heard (copies stand pod by pod)
    order = np.argsort(stream, kind="stable")
    order = order[np.argsort(copies.pod[first][order], kind="stable")]
    stream, rows = stream[order], copies.publish[first][order]
    group = np.cumsum((np.diff(stream, prepend=stream[:1]) != 0) | (np.diff(copies.pod[first][order], prepend=copies.pod[first[:1]]) != 0))
    place = group.astype(np.int64) << 32 | (key[rows] & np.uint64(0xFFFFFFFF)).astype(np.int64)
    late = np.flatnonzero(place < np.maximum.accumulate(place))
    own = run.scenario.get("channels", {})
    promised = np.array([own.get(name, {}).get("order", True) for name in channels], dtype=bool)
    broken = late[promised[channel[rows[late]]]]
    counts: dict[str, int | float] = {"deliveries": len(first), "out_of_order": len(late), "publishers": len(sources)}
    metrics = {"out_of_order": float(len(late))}
    if not len(late):
        detail = f"{'all ' if len(first) > 1 else ''}{count(len(first), 'delivery')} kept the order of their publisher and channel"
        return Result("valid", detail, counts=counts, metrics=metrics)
    witnesses = [_witness(run, int(first[order[at]])) for at in (broken if len(broken) else late)[:MAX_WITNESSES]]
    detail = f"{len(late):,} of {count(len(first), 'delivery')} came after a later event of their publisher and channel"
    if len(broken) < len(late):
        detail += f", {len(late) - len(broken):,} of them on channels of which no order is promised"
    return Result(
        "valid" if run.one_per_service or not len(broken) else "invalid", detail, counts=counts, witnesses=witnesses, metrics=metrics
    )


def _narrow(codes: np.ndarray) -> np.ndarray:
    """Return the codes in 16 bits when they fit, which makes a stable sort linear."""
    words, narrow = np.unique(codes, return_inverse=True)
    return narrow.astype(np.uint16 if len(words) <= 1 << 16 else np.int64)


def _witness(run: Run, copy: int) -> str:
    row = run.copies.publish[copy]
    key, channel, publisher = run.publishes[["event", "channel", "publisher"]].iloc[row]
    return f"{event_id(int(key))} on {channel}: {run.pod_histories[run.copies.pod[copy]].pod} had heard a later event of {publisher}"
