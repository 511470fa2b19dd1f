"""Tell the story of one event: the stations of its life, and what became of each of its copies."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from sim.errors import RunFolderError
from sim.machine.words import count, duration
from sim.record.reader import FOREVER_NS, Array
from sim.record.schema import CAUSES, EVENT_ID_PREFIX, OUTCOMES, event_id, event_key
from sim.results.copies import CAUSE, FATE, KNOWN_CAUSE, CopyIndex, silent_windows
from sim.results.pieces import Piece, Pieces
from sim.results.run_tables import RunTables
from sim.results.service_books import ServiceBooks


class _Copy(NamedTuple):
    """One copy of an event; `key` is of one that nobody published, `received_ns` and `handled_ns` are 0 where it was not heard."""

    publish: int
    key: int
    pod: int
    fate: str
    cause: str
    heard: bool
    received_ns: int
    handled_ns: int


def story_of(run: RunTables, index: CopyIndex, pieces: Pieces, books: ServiceBooks, event: str) -> str:
    """Return the stations of one event's life, one a line; raise `RunFolderError` where nobody published or heard it."""
    return stories_of(run, index, pieces, books, [event])[0]


def stories_of(run: RunTables, index: CopyIndex, pieces: Pieces, books: ServiceBooks, events: list[str]) -> list[str]:
    """Return the story of each of some events, whose copies are looked for together."""
    keys = [np.array(_keys(event), dtype=np.uint64) for event in events]
    rows = [np.flatnonzero(np.isin(run.publishes["event"].to_numpy(), mine)) for mine in keys]
    every, of_all = (np.concatenate([*some, np.array([], dtype=kind)]) for some, kind in ((rows, np.int64), (keys, np.uint64)))
    copies = [copy for some in pieces.each(lambda piece: _copies(piece, every, of_all)) for copy in some]
    told = []
    for event, mine, wanted in zip(events, rows, keys, strict=True):
        own, names = set(mine.tolist()), set(wanted.tolist())
        told.append(_story(run, index, pieces, books, event, mine, [one for one in copies if one.publish in own or one.key in names]))
    return told


def _story(run: RunTables, index: CopyIndex, pieces: Pieces, books: ServiceBooks, event: str, rows: Array, copies: list[_Copy]) -> str:
    heard = [copy.received_ns for copy in copies if copy.heard]
    if not len(rows) + len(heard):
        meant = run.publishes[(run.publishes["phase"] == "run").to_numpy()]
        some = [event_id(int(one)) for table in (meant, run.publishes) for one in table["event"][:1]] or list(
            map(event_id, _strangers(pieces))
        )
        raise RunFolderError(f"no event {event!r} in {run.folder}; {f'one that is there: {some[0]}' if some else 'it holds no events'}")
    zero = int(run.publishes["intended_ns"].iloc[rows[0]]) if len(rows) else min(heard)
    lines = [] if len(rows) else [f"{event}: nobody in this run published it; times from its first delivery"]
    for row in run.publishes.iloc[rows].to_dict("records"):
        size = f"{count(row['items'], 'item')}, {count(row['bytes'], 'byte')}"
        lines += [f"{event}: {row['channel']} from {row['publisher']}, {size}, phase {row['phase']}"]
        lines += [f"{_at(row['intended_ns'], zero)} intended"]
        waited = duration((row["intended_ns"] - row["first_item_ns"]) / 1e9)
        lines += [f"{'':>16} batched: {row['items']} items, the oldest waited {waited}"] if row["items"] > 1 else []
        lines += [f"{_at(row['sent_ns'], zero)} sent"] if row["sent_ns"] else []
        said = (
            f"; PUBLISH said {count(row['receivers'], 'receiver')}" if row["receivers"] >= 0 and row["outcome"] not in KNOWN_CAUSE else ""
        )
        at = max(row["acked_ns"], row["sent_ns"]) or row["intended_ns"]
        lines += [f"{_at(at, zero)} {row['outcome']}: {OUTCOMES.get(row['outcome'], 'not a known outcome')}{said}"]
    for copy in copies:
        pod = run.pod_histories[copy.pod].pod
        if copy.heard:
            took = duration((copy.handled_ns - copy.received_ns) / 1e9)
            lines += [f"{_at(copy.received_ns, zero)} {pod} received, handled {took} later: {copy.fate}"]
        else:
            lines += [f"{'':>16} {pod} {copy.fate}{_evidence(run, index, copy, zero)}"]
    for pair in books.alone[np.isin(books.publish[books.alone], rows)]:
        service, fate, cause = run.services[books.service[pair]], list(FATE)[books.fate[pair]], list(CAUSE)[books.cause[pair]]
        due_ns = int(index.due_ns[np.flatnonzero(index.row == books.publish[pair])[0]])
        lines += [f"{'':>16} {service} {fate}{f', {cause}: {CAUSES[cause]}' if cause else ''}{_absence(run, service, due_ns, zero)}"]
    return "\n".join(lines)


def _strangers(pieces: Pieces) -> list[int]:
    """Return the key of an event that was heard and that nobody published, in a list; none where there is none."""
    for piece in pieces:
        if len(nobodys := _nobodys(piece)):
            return [int(piece.heard.key[piece.delivery[nobodys[0]]])]
    return []


def _nobodys(piece: Piece) -> Array:
    """Return the copies of a piece that are of events that nobody published."""
    found: Array = np.flatnonzero((piece.publish < 0) & (piece.delivery >= 0))
    return found


def _copies(piece: Piece, rows: Array, keys: Array) -> list[_Copy]:
    """Return the copies in a piece of an event that stands in some rows of `publishes`, or, where nobody published it, has these keys."""
    nobodys = _nobodys(piece)
    nobodys = nobodys[np.isin(piece.heard.key[piece.delivery[nobodys]], keys)] if len(nobodys) else nobodys
    published = np.flatnonzero((piece.publish >= 0) & np.isin(piece.publish, rows))
    found = []
    for copy in np.sort(np.concatenate([published, nobodys])).tolist():
        delivery = int(piece.delivery[copy])
        times = [int(column[delivery]) for column in (piece.heard.received_ns, piece.heard.handled_ns)] if delivery >= 0 else [0, 0]
        words = list(FATE)[piece.fate[copy]], list(CAUSE)[piece.cause[copy]]
        key = int(piece.heard.key[delivery]) if piece.publish[copy] < 0 else 0
        found.append(_Copy(int(piece.publish[copy]), key, int(piece.pod[copy]), *words, delivery >= 0, *times))
    return found


def _keys(event: str) -> list[int]:
    """Return the keys that an id may mean: of another program's event the id that it gave it, or the one that a verdict names it by."""
    shown = re.fullmatch(f"{EVENT_ID_PREFIX}([0-9a-f]{{16}})", event)
    return [event_key(event), *([int(shown[1], 16)] if shown else [])]


def _evidence(run: RunTables, index: CopyIndex, copy: _Copy, zero_ns: int) -> str:
    at = int(np.flatnonzero(index.row == copy.publish)[0])
    windows = silent_windows(run, index, copy.pod, int(index.way[at])) + index.hurt
    touched = [window for window in windows if window.cause == copy.cause and window.touches(index.sent_ns[at], index.answered_ns[at])]
    words = f", {copy.cause}: {CAUSES[copy.cause]}" if copy.cause else ""
    if not touched:
        return words
    return f"{words} (silent from {_at(touched[0].begin_ns, zero_ns).strip()} to {_at(touched[0].end_ns, zero_ns).strip()})"


def _absence(run: RunTables, service: str, due_ns: int, zero_ns: int) -> str:
    """Return from when to when no pod of a service was alive, around a time at which none was."""
    changes = sorted({at for one in run.pod_histories if one.service == service for at in one.at_ns})
    times = np.array(changes, dtype=np.int64)
    none = ~np.any([one.alive(times) for one in run.pod_histories if one.service == service], axis=0)
    place = int(np.searchsorted(times, due_ns, side="right"))
    begin, end = place - 1, place
    while begin > 0 and none[begin - 1]:
        begin -= 1
    while end < len(times) and none[end]:
        end += 1
    since = f"from {_at(changes[begin], zero_ns).strip()}" if begin >= 0 and none[begin] else "from the beginning"
    return f" (it had no pod {since} to {_at(changes[end], zero_ns).strip() if end < len(changes) else 'the end'})"


def _at(at_ns: int, zero_ns: int) -> str:
    if at_ns == FOREVER_NS:
        return "the end"
    told = duration((int(at_ns) - zero_ns) / 1e9)
    return f"{told if told.startswith('-') else f'+{told}':>16}"
