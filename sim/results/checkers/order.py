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

from typing import NamedTuple

import numpy as np

from sim.machine.words import count
from sim.record.reader import Array, codes_of
from sim.record.schema import event_id
from sim.results.checkers.verdict import MAX_WITNESSES, Result
from sim.results.copies import FATE
from sim.results.opened_run import Run
from sim.results.pieces import Piece

NOT_MEASURED = {"out_of_order": float("nan")}


def check(run: Run) -> Result:
    """Count deliveries that came after a later event of their publisher and channel."""
    publishes = run.publishes
    key = publishes["event"].to_numpy()
    sources, source = np.unique(key >> np.uint64(32), return_inverse=True)
    channel, channels = codes_of(publishes["channel"])
    own = run.scenario.get("channels", {})
    promised = np.array([own.get(name, {}).get("order", True) for name in channels], dtype=bool)[channel]
    stream, number = _narrow(source * len(channels) + channel), (key & np.uint64(0xFFFFFFFF)).astype(np.int64)
    alike = run.alike if run.alike.any() else None
    found = list(run.pieces.each(lambda piece: _of_piece(run, piece, alike, stream=stream, number=number, promised=promised)))
    judged, late, broken = (sum(one.counts[place] for one in found) for place in range(3))
    if not judged and alike is not None:
        return Result("valid", "every event has the payload of another one and no id: their order cannot be told", metrics=NOT_MEASURED)
    if not judged:
        return Result("unknown", "no data: nothing was delivered in the run phase", metrics=NOT_MEASURED)
    counts: dict[str, int | float] = {"deliveries": judged, "out_of_order": late, "publishers": len(sources)}
    metrics = {"out_of_order": float(late)}
    if not late:
        detail = f"{'all ' if judged > 1 else ''}{count(judged, 'delivery')} kept the order of their publisher and channel"
        return Result("valid", detail, counts=counts, metrics=metrics)
    witnesses = [text for one in found for text in (one.broken if broken else one.late)][:MAX_WITNESSES]
    detail = f"{late:,} of {count(judged, 'delivery')} came after a later event of their publisher and channel"
    if broken < late:
        detail += f", {late - broken:,} of them on channels of which no order is promised"
    return Result("valid" if run.one_per_service or not broken else "invalid", detail, counts=counts, witnesses=witnesses, metrics=metrics)


class _Disorder(NamedTuple):
    """Of a piece: deliveries judged, late, and those of the late ones that break a promise; witnesses of the latter two."""

    counts: tuple[int, int, int]
    late: list[str]
    broken: list[str]


def _of_piece(run: Run, piece: Piece, alike: Array | None, *, stream: Array, number: Array, promised: Array) -> _Disorder:
    first = np.flatnonzero(piece.in_run & (piece.fate == FATE["delivered"]))
    first = first if alike is None else first[~alike[piece.publish[first]]]
    if not len(first):
        return _Disorder((0, 0, 0), [], [])
    rows, pod = piece.publish[first], piece.pod[first]
    of = stream[rows]
    # two stable sorts, the last key first: in each pod by stream, and there in the order heard (copies stand pod by pod)
    order = np.argsort(of, kind="stable")
    order = order[np.argsort(pod[order], kind="stable")] if pod[0] != pod[-1] else order
    of, rows, pod = of[order], rows[order], pod[order]
    group = np.cumsum((np.diff(of, prepend=of[:1]) != 0) | (np.diff(pod, prepend=pod[:1]) != 0))
    place = group.astype(np.int64) << 32 | number[rows]
    late = np.flatnonzero(place < np.maximum.accumulate(place))
    broken = late[promised[rows[late]]]
    told = [[_witness(run, piece, int(first[order[at]])) for at in some[:MAX_WITNESSES]] for some in (late, broken)]
    return _Disorder((len(first), len(late), len(broken)), *told)


def _narrow(codes: np.ndarray) -> np.ndarray:
    """Return the codes in 16 bits when they fit, which makes a stable sort linear."""
    words, narrow = np.unique(codes, return_inverse=True)
    return narrow.astype(np.uint16 if len(words) <= 1 << 16 else np.int64)


def _witness(run: Run, piece: Piece, copy: int) -> str:
    key, channel, publisher = run.publishes[["event", "channel", "publisher"]].iloc[piece.publish[copy]]
    return f"{event_id(int(key))} on {channel}: {run.pod_histories[piece.pod[copy]].pod} had heard a later event of {publisher}"
