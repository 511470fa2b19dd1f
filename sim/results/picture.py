"""Gather what the picture of a run is drawn from: every copy over pods and time, and lags over time, small enough to stand in a page.

Up to `MAX_MARKS` copies each have a mark of their own, which names its event. More are counted in *cells* of a lane and an interval; a cell
keeps each fate and cause apart and names the first event of what did not arrive, so that one lost copy among a million is still there to
see. A *lane* is a pod; of more than `MAX_LANES` pods several of one service share one. A service that had no pod when an event was due
has a lane of its own for what it was owed. Times are those at which events were meant, in seconds since the run phase began.

Numbers stand in the page as base64 of little-endian arrays: `decode` of the script `run_picture.js` is their other side.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from sim.pages.colours import FATE_COLOURS, FATE_WORDS
from sim.record.reader import FOREVER_NS, Array, codes_of
from sim.record.schema import ALIVE_STATES, CAUSES, FATES
from sim.results.copies import CAUSE, FATE
from sim.results.opened_run import Run
from sim.results.outages import read_beliefs
from sim.results.over_time import POWERS, STEPS, bin_of, count_lags, lag_of_step
from sim.results.pieces import Piece
from sim.results.plots import bins, lag_limits, zero_ns

MAX_MARKS = 30_000
MAX_LANES = 120
MAX_CELLS = 40_000
LAG_STEPS = 4  # of the heat map in a doubling of lag
PEER = "taken-by-peer"
KINDS, DELIVERED = len(FATES) * len(CAUSE), FATE["delivered"] * len(CAUSE)


class _Lanes(NamedTuple):
    """What each lane is called, its service and how many pods it has; and the lane of each pod, and of each service without one."""

    names: list[str]
    services: list[str]
    pods: list[int]
    of_pod: Array
    of_service: Array


class _Marks(NamedTuple):
    """Copies, one entry each: the row of their event in `publishes` (-1: nobody's), lane, kind, when, lag, and the key of the event."""

    publish: Array
    lane: Array
    kind: Array
    at_ns: Array
    lag_ms: Array
    key: Array


class _Cells(NamedTuple):
    """Copies counted, by kind, lane and interval, and the rank in time of the first event of each cell; its length where there is none."""

    many: Array
    first: Array


def picture_of(run: Run, *, first: Sequence[str] = ()) -> dict[str, Any]:
    """Return what the page's script draws; plain values that JSON has. Empty where no event was published or heard in the time shown.

    Parameters
    ----------
    first
        The services whose lanes stand first, in this order.
    """
    edges, _ = bins(run)
    lanes = _lanes(run, [*first, *(service for service in run.services if service not in first)])
    many = sum(run.books.fates.values()) + len(run.service_books.alone)
    found = _marks_of(run, lanes, edges) if many <= MAX_MARKS else _cells_of(run, lanes, edges)
    if not found["kinds"]:
        return {}
    zero = zero_ns(run)
    begin, last = (_seconds(edge, zero) for edge in (edges[0], edges[-1]))
    return found | {
        "from": begin,
        "to": last,
        "lanes": [
            {"name": name, "service": service, "pods": pods}
            for name, service, pods in zip(lanes.names, lanes.services, lanes.pods, strict=True)
        ],
        "faults": [
            {
                "name": str(fault["fault"]),
                "target": str(fault["target"]),
                "from": _seconds(fault["begin_ns"], zero),
                "to": min(_seconds(fault["end_ns"] or FOREVER_NS, zero), last),
                "felt": str(fault["felt"]),
            }
            for fault in run.faults.to_dict("records")
        ],
        "phases": [{"name": name, "at": _seconds(begin, zero)} for name, (begin, _) in run.phases.items() if name in ("run", "drain")],
        "away": list(_away(run, lanes, edges)),
        "lag": _lags(run, edges),
    }


def _lanes(run: Run, services: Sequence[str]) -> _Lanes:
    histories = run.pod_histories
    size = -(-len(histories) // MAX_LANES) or 1
    lanes = _Lanes([], [], [], np.zeros(len(histories), dtype=np.int32), np.full(len(run.services), -1, dtype=np.int32))
    alone = set(run.service_books.service[run.service_books.alone].tolist())
    for number, service in ((run.services.index(service), service) for service in services):
        mine = np.flatnonzero(run.service_of_pod == number).tolist()
        for begin in range(0, len(mine), size):
            some = mine[begin : begin + size]
            lanes.of_pod[some] = len(lanes.names)
            name = histories[some[0]].pod
            _add(lanes, name if len(some) == 1 else f"{name} … {histories[some[-1]].pod}", service, len(some))
        if number in alone:
            lanes.of_service[number] = len(lanes.names)
            _add(lanes, f"{service} (no pod)", service, 0)
    return lanes


def _add(lanes: _Lanes, name: str, service: str, pods: int) -> None:
    lanes.names.append(name)
    lanes.services.append(service)
    lanes.pods.append(pods)


def _counted(run: Run) -> Array:
    """Return which publishes are calls of an application, with one more entry for what nobody published."""
    return np.append(run.publishes["items"].to_numpy() > 0, True)


def _marks(run: Run, piece: Piece, lanes: _Lanes, rows: Array) -> _Marks:
    """Return some copies of a piece."""
    publish, delivery = piece.publish[rows], piece.delivery[rows]
    intended = np.append(run.publishes["intended_ns"].to_numpy(), 0)
    at, lag = intended[publish], np.full(len(rows), -1.0, dtype=np.float32)
    heard = np.flatnonzero(delivery >= 0)
    foreign = np.flatnonzero(publish < 0)
    at[foreign] = piece.heard.received_ns[delivery[foreign]]
    lag[heard] = (piece.heard.handled_ns[delivery[heard]] - at[heard]) / 1e6
    key = np.append(run.publishes["event"].to_numpy(), np.uint64(0))[publish]
    if len(foreign):
        key[foreign] = piece.heard.key[delivery[foreign]]
    kind = piece.fate[rows].astype(np.uint8) * len(CAUSE) + piece.cause[rows].astype(np.uint8)
    return _Marks(publish, lanes.of_pod[piece.pod[rows]], kind, at, lag, key)


def _owed(run: Run, lanes: _Lanes, counted: Array) -> _Marks:
    """Return what services were owed that had no pod."""
    books = run.service_books
    rows = books.alone[counted[books.publish[books.alone]]]
    publish = books.publish[rows]
    kind = books.fate[rows].astype(np.uint8) * len(CAUSE) + books.cause[rows].astype(np.uint8)
    lag = np.full(len(rows), -1.0, dtype=np.float32)
    at, key = (run.publishes[column].to_numpy()[publish] for column in ("intended_ns", "event"))
    return _Marks(publish, lanes.of_service[books.service[rows]], kind, at, lag, key)


def _inside(marks: _Marks, edges: Array) -> _Marks:
    there = (marks.at_ns >= edges[0]) & (marks.at_ns <= edges[-1])
    return _Marks(*(column[there] for column in marks))


def _marks_of(run: Run, lanes: _Lanes, edges: Array) -> dict[str, Any]:
    """Return a mark for each copy."""
    counted = _counted(run)
    parts = [_marks(run, piece, lanes, np.flatnonzero(counted[piece.publish])) for piece in run.pieces] + [_owed(run, lanes, counted)]
    marks = _inside(_Marks(*(np.concatenate(column) for column in zip(*parts, strict=True))), edges)
    keys, first, place = np.unique(marks.key, return_index=True, return_inverse=True)
    return {
        "kinds": _kinds(marks.kind),
        "marks": {"event": _packed(place, "<u4"), "lane": _packed(marks.lane, "<u2"), "kind": _packed(marks.kind, "<u1")}
        | {"lag": _packed(marks.lag_ms, "<f4")},
        "cells": None,
        "events": _events(run, keys, marks.publish[first], marks.at_ns[first]),
    }


def _cells_of(run: Run, lanes: _Lanes, edges: Array) -> dict[str, Any]:
    """Return copies counted by lane, interval and kind."""
    every = -(-(len(edges) - 1) * len(lanes.names) // MAX_CELLS) or 1
    many, intended = -(-(len(edges) - 1) // every), run.publishes["intended_ns"].to_numpy()
    counted, size = _counted(run), len(lanes.names) * many
    place = np.append(bin_of(edges, intended.copy()), -1)
    place = np.where(counted & (place >= 0), place // every, -1)
    in_time = np.argsort(intended, kind="stable")
    rank = np.empty(len(in_time), dtype=np.int32)
    rank[in_time] = np.arange(len(in_time))

    def of_copies(publish: Array, lane: Array, kind: Array) -> _Cells:
        """Count copies of known events; of what did not arrive find the first event in each cell, by its rank in time."""
        bin_ = place[publish]
        shown = np.flatnonzero(bin_ >= 0)
        cell = kind[shown].astype(np.int32) * size + lane[shown] * many + bin_[shown]
        first = np.full(KINDS * size, len(rank), dtype=np.int32)
        named = np.flatnonzero(kind[shown] != DELIVERED)
        np.minimum.at(first, cell[named], rank[publish[shown[named]]])
        return _Cells(np.bincount(cell, minlength=KINDS * size), first)

    def of_piece(piece: Piece) -> tuple[_Cells, _Marks]:
        kind = piece.fate.astype(np.uint8) * len(CAUSE) + piece.cause.astype(np.uint8)
        strangers = np.flatnonzero(piece.publish < 0)
        return of_copies(piece.publish, lanes.of_pod[piece.pod], kind), _inside(_marks(run, piece, lanes, strangers), edges)

    owed = _owed(run, lanes, counted)
    cells, strange = of_copies(owed.publish, owed.lane, owed.kind), list[_Marks]()
    for some, marks in run.pieces.each(of_piece):
        cells = _Cells(cells.many + some.many, np.minimum(cells.first, some.first))
        strange.append(marks)
    used = np.flatnonzero(cells.many)
    named = np.flatnonzero(cells.first[used] < len(rank))
    rows = in_time[cells.first[used[named]]]
    foreign = _Marks(*(np.concatenate(column) for column in zip(*strange, strict=True)))
    places = foreign.kind.astype(np.int64) * size + foreign.lane * many + bin_of(edges, foreign.at_ns.copy()) // every
    theirs, begins, times = np.unique(places, return_index=True, return_counts=True)
    keys = np.concatenate([run.publishes["event"].to_numpy()[rows], foreign.key[begins]])
    keys, of, event = np.unique(keys, return_index=True, return_inverse=True)
    events = np.zeros(len(used) + len(theirs), dtype=np.int64)
    events[np.concatenate([named, len(used) + np.arange(len(theirs))])] = event
    sums, used = np.concatenate([cells.many[used], times]), np.concatenate([used, theirs])
    kind, cell = (used // size).astype(np.uint8), used % size
    publish = np.concatenate([rows, np.full(len(theirs), -1)])[of]
    at = np.concatenate([intended[rows], foreign.at_ns[begins]])[of]
    width = float(edges[1] - edges[0]) / 1e9 * every
    return {
        "kinds": _kinds(kind),
        "marks": None,
        "cells": {
            "width": width,
            "lane": _packed(cell // many, "<u2"),
            "bin": _packed(cell % many, "<u2"),
            "kind": _packed(kind, "<u1"),
            "many": _packed(sums, "<u4"),
            "event": _packed(events, "<u4"),
        },
        "events": _events(run, keys, publish, at),
    }


def _kinds(kind: Array) -> dict[str, dict[str, str]]:
    """Return what each code that occurs stands for: its fate, its cause, words and a colour."""
    causes, fates, found = list(CAUSE), list(FATES), {}
    for code in np.unique(kind).tolist():
        fate, cause = fates[code // len(CAUSE)], causes[code % len(CAUSE)]
        peer = cause == PEER
        found[str(code)] = {
            "fate": "left to another pod" if peer else FATE_WORDS[fate],
            "key": PEER if peer else fate,
            "cause": cause,
            "meaning": CAUSES.get(cause, FATES[fate]),
            "colour": "#c4c9d0" if peer else FATE_COLOURS[fate],
        }
    return found


def _events(run: Run, keys: Array, publish: Array, at_ns: Array) -> dict[str, Any]:
    """Return the events that the picture names; the last channel and publisher are of events that nobody published."""
    (channel, channels), (publisher, publishers) = (codes_of(run.publishes[column]) for column in ("channel", "publisher"))
    channel, publisher = (np.append(codes, len(words))[publish] for codes, words in ((channel, channels), (publisher, publishers)))
    return {
        "key": _packed(keys, "<u8"),
        "channel": _packed(channel, "<u2"),
        "publisher": _packed(publisher, "<u2"),
        "at": _packed((at_ns - zero_ns(run)) / 1e9, "<f8"),
        "channels": [*channels, ""],
        "publishers": [*publishers, ""],
    }


def _away(run: Run, lanes: _Lanes, edges: Array) -> Iterator[list[float | int | str]]:
    """Yield lane, begin, end and a word for each time in which a pod that has a lane to itself was not connected, or did not run."""
    zero, place = zero_ns(run), {history.pod: number for number, history in enumerate(run.pod_histories)}
    for pod, belief in read_beliefs(run).items():
        lane = int(lanes.of_pod[place[pod]])
        if lanes.pods[lane] != 1:
            continue
        begins = np.append(edges[0], belief.at_ns)
        ends = np.append(belief.at_ns, FOREVER_NS)
        words = ["no pod", *(bus if state in ALIVE_STATES else "ended" for bus, state in zip(belief.bus, belief.state, strict=True))]
        for begin, end, word in zip(begins.tolist(), ends.tolist(), words, strict=True):
            begin, end = max(begin, int(edges[0])), min(end, int(edges[-1]))
            if word != "connected" and end > begin:
                yield [lane, _seconds(begin, zero), _seconds(end, zero), word]


def _lags(run: Run, edges: Array) -> dict[str, Any]:
    """Return how many delivered copies of each interval had which lag, and the limits on it."""
    counted = count_lags(run, edges).reshape(len(edges) - 1, POWERS * LAG_STEPS, STEPS // LAG_STEPS).sum(axis=2)
    bin_, step = np.nonzero(counted)
    begins = lag_of_step(np.arange(0, POWERS * STEPS, STEPS // LAG_STEPS)) / 1e6
    low, high = (int(step.min()), int(step.max()) + 1) if len(step) else (0, 0)
    return {
        "width": float(edges[1] - edges[0]) / 1e9,
        "bin": _packed(bin_, "<u2"),
        "step": _packed(step - low, "<u1"),
        "many": _packed(counted[bin_, step], "<u4"),
        "edges_ms": [float(f"{value:.4g}") for value in np.append(begins, begins[-1] * 2)[low : high + 1].tolist()],
        "limits": [{"label": label, "ms": limit_us / 1e3} for label, _, limit_us in lag_limits(run)],
    }


def _packed(values: Array, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values).astype(kind).tobytes()).decode()


def _seconds(at_ns: int, zero_ns: int) -> float:
    return round((int(at_ns) - zero_ns) / 1e9, 6)
