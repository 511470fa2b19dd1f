"""Tell the story of one event: the stations of its life, and what became of each of its copies."""

from __future__ import annotations

import re

import numpy as np

from sim.errors import RunFolderError
from sim.machine.words import count, duration
from sim.record.reader import FOREVER_NS
from sim.record.schema import CAUSES, EVENT_ID_PREFIX, OUTCOMES, event_id, event_key
from sim.results.copies import CAUSE, FATE, Copies, CopyIndex, silent_windows
from sim.results.run_tables import RunTables
from sim.results.service_books import ServiceBooks


def story_of(run: RunTables, index: CopyIndex, copies: Copies, books: ServiceBooks, event: str) -> str:
    """Return the stations of one event's life, one a line; raise `RunFolderError` where nobody published or heard it."""
    keys, deliveries = np.array(_keys(event), dtype=np.uint64), run.deliveries
    rows, heard = (np.flatnonzero(np.isin(table["event"].to_numpy(), keys)) for table in (run.publishes, deliveries))
    if not len(rows) + len(heard):
        meant = run.publishes[(run.publishes["phase"] == "run").to_numpy()]
        some = [event_id(int(one)) for table in (meant, run.publishes, deliveries) for one in table["event"][:1]]
        raise RunFolderError(f"no event {event!r} in {run.folder}; {f'one that is there: {some[0]}' if some else 'it holds no events'}")
    zero = int(run.publishes["intended_ns"].iloc[rows[0]] if len(rows) else deliveries["received_ns"].iloc[heard[0]])
    lines = [] if len(rows) else [f"{event}: nobody in this run published it; times from its first delivery"]
    for row in run.publishes.iloc[rows].to_dict("records"):
        size = f"{count(row['items'], 'item')}, {count(row['bytes'], 'byte')}"
        lines += [f"{event}: {row['channel']} from {row['publisher']}, {size}, phase {row['phase']}"]
        lines += [f"{_at(row['intended_ns'], zero)} intended"]
        waited = duration((row["intended_ns"] - row["first_item_ns"]) / 1e9)
        lines += [f"{'':>16} batched: {row['items']} items, the oldest waited {waited}"] if row["items"] > 1 else []
        lines += [f"{_at(row['sent_ns'], zero)} sent"] if row["sent_ns"] else []
        said = f"; PUBLISH said {count(row['receivers'], 'receiver')}" if row["receivers"] >= 0 else ""
        at = max(row["acked_ns"], row["sent_ns"]) or row["intended_ns"]
        lines += [f"{_at(at, zero)} {row['outcome']}: {OUTCOMES.get(row['outcome'], 'not a known outcome')}{said}"]
    for copy in np.flatnonzero(((copies.publish >= 0) & np.isin(copies.publish, rows)) | np.isin(copies.delivery, heard)):
        pod, fate = run.pod_histories[copies.pod[copy]].pod, list(FATE)[copies.fate[copy]]
        if copies.delivery[copy] >= 0:
            received, handled = deliveries[["received_ns", "handled_ns"]].iloc[copies.delivery[copy]]
            lines += [f"{_at(received, zero)} {pod} received, handled {duration((handled - received) / 1e9)} later: {fate}"]
        else:
            lines += [f"{'':>16} {pod} {fate}{_evidence(run, index, copies, int(copy), zero)}"]
    for pair in books.alone[np.isin(books.publish[books.alone], rows)]:
        service, fate, cause = run.services[books.service[pair]], list(FATE)[books.fate[pair]], list(CAUSE)[books.cause[pair]]
        due_ns = int(index.due_ns[np.flatnonzero(index.row == books.publish[pair])[0]])
        lines += [f"{'':>16} {service} {fate}{f', {cause}: {CAUSES[cause]}' if cause else ''}{_absence(run, service, due_ns, zero)}"]
    return "\n".join(lines)


def _keys(event: str) -> list[int]:
    """Return the keys that an id may mean: of another program's event the id that it gave it, or the one that a verdict names it by."""
    shown = re.fullmatch(f"{EVENT_ID_PREFIX}([0-9a-f]{{16}})", event)
    return [event_key(event), *([int(shown[1], 16)] if shown else [])]


def _evidence(run: RunTables, index: CopyIndex, copies: Copies, copy: int, zero_ns: int) -> str:
    cause = list(CAUSE)[copies.cause[copy]]
    at = int(np.flatnonzero(index.row == copies.publish[copy])[0])
    windows = silent_windows(run, index, int(copies.pod[copy]), int(index.way[at])) + index.hurt
    touched = [window for window in windows if window.cause == cause and window.touches(index.sent_ns[at], index.answered_ns[at])]
    words = f", {cause}: {CAUSES[cause]}" if cause else ""
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
