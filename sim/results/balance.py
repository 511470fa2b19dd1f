"""Balance the books: copy by copy and pair by pair against what totals say, which share no code with them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.record.reader import Array, codes_of
from sim.record.schema import ALIVE_STATES
from sim.results.copies import FATE
from sim.results.opened_run import Run
from sim.results.pieces import Piece
from sim.results.pod_histories import PodHistory


class _Totals(NamedTuple):
    """What the pods table and the publishes say: copies that pods were to hear, pairs of event and service, those without a pod."""

    copies: int
    pairs: int
    alone: int


def unbalanced(run: Run) -> str:
    """Return how the two accounts differ, empty when they agree."""
    fates = run.books.fates
    heard, rows = fates["delivered"] + fates["duplicate"] + fates["unexpected"], run.index.heard.rows
    if heard != rows:
        return f"the books do not balance: {rows:,} delivery rows, but {heard:,} copies delivered, duplicate or unexpected"
    distinct = list(run.pieces.each(lambda piece: _distinct(run, piece)))
    pairs, once = sum(one for one, _ in distinct), fates["delivered"] + sum(stray for _, stray in distinct)
    if pairs != once:
        return f"the books do not balance: {pairs:,} pairs of event and pod in the deliveries, but {once:,} copies heard once or more"
    booked, totals = fates["delivered"] + fates["missing"] + fates["unknown"], _totals(run)
    late = 0 if totals.copies == booked else _came_alive_late(run)
    if totals.copies + late != booked:
        return f"the books do not balance: {totals.copies:,} copies were expected, but {booked:,} are delivered, missing or unknown"
    return _services_unbalanced(run, totals, booked=booked, delivered=fates["delivered"])


def _services_unbalanced(run: Run, totals: _Totals, *, booked: int, delivered: int) -> str:
    books = run.service_books
    heard, alone = int(books.heard.sum(dtype=np.int64)), len(books.alone)
    if heard != delivered or booked < heard + int(books.unheard.sum(dtype=np.int64)):
        return f"the books do not balance: {delivered:,} copies were delivered, but services heard {heard:,}"
    if len(books.publish) != totals.pairs:
        return f"the books do not balance: services should hear {totals.pairs:,} events, but {len(books.publish):,} are booked"
    late = 0 if totals.alone == alone else _served_late(run)
    if totals.alone != alone + late:
        return f"the books do not balance: {totals.alone:,} events found no pod of a service, but {alone:,} are booked so"
    return ""


def _distinct(run: Run, piece: Piece) -> tuple[int, int]:
    """Return the pairs of event and pod in the deliveries of a piece's pods, and those of its unexpected copies."""
    nobody, pairs = len(run.index.row) - 1, 0
    heard = np.zeros(nobody + 1, dtype=bool)
    for pod in piece.pods:
        events = piece.heard.event_of[piece.heard.rows(pod)]
        heard[events] = True
        heard[nobody] = False
        pairs += int(np.count_nonzero(heard))
        heard[events] = False
    stray = np.flatnonzero((piece.fate == FATE["unexpected"]) & (piece.publish >= 0))
    return pairs, len(np.unique(np.column_stack([piece.publish[stray], piece.pod[stray]]), axis=0))


def _totals(run: Run) -> _Totals:
    """Return the totals: event by event and service by service, pods of its channel that had begun minus those that had ended."""
    index, copies, pairs, alone = run.index, 0, 0, 0
    of_service = [[one for one in run.pod_histories if one.service == service] for service in run.services]
    for code, channel in enumerate(codes_of(run.publishes["channel"])[1]):
        due = index.due_ns[:-1][index.channel[:-1] == code]
        for histories, channels in zip(of_service, run.service_channels, strict=True):
            if channel in channels:
                alive = _alive(histories, channel, due)
                copies, pairs, alone = copies + int(alive.sum()), pairs + len(due), alone + int((alive == 0).sum())
    return _Totals(copies, pairs, alone)


def _alive(histories: list[PodHistory], channel: str, due_ns: Array) -> Array:
    """Return how many of these pods were alive at each time."""
    begins, ends = [], []
    for history in histories:
        was = False
        for at, state in zip(history.at_ns, history.states, strict=True) if channel in history.channels else ():
            alive = state in ALIVE_STATES
            begins += [at] if alive and not was else []
            ends += [at] if was and not alive else []
            was = alive
    return np.searchsorted(np.sort(begins), due_ns, side="right") - np.searchsorted(np.sort(ends), due_ns, side="right")


def _came_alive_late(run: Run) -> int:
    """Return the number of copies of pods that were not alive when the event was due and yet have one.

    Those that were heard, by pods that came alive between sending and answer, or lived for a part of its nanosecond; and those of which
    nobody knows whether they were expected, because clocks are not known well enough.
    """
    due = _due_of_row(run)

    def of_piece(piece: Piece) -> int:
        late = 0
        for number in piece.pods:
            own = piece.of_pod(number)
            mine = piece.publish[own][np.isin(piece.fate[own], (FATE["delivered"], FATE["unknown"]))]
            late += int((~run.pod_histories[number].alive(due[mine])).sum())
        return late

    return sum(run.pieces.each(of_piece))


def _served_late(run: Run) -> int:
    """Return the number of events that have copies for a service of which no pod was alive when they were due (`_came_alive_late`)."""
    books, due, late = run.service_books, _due_of_row(run), 0
    for service in range(len(run.services)):
        served = books.publish[(books.service == service) & ((books.heard > 0) | (books.unheard > 0))]
        alive = np.zeros(len(served), dtype=bool)
        channel, words = codes_of(run.publishes["channel"])
        for history in run.pod_histories:
            if history.service == run.services[service]:
                alive |= history.alive(due[served]) & np.array([word in history.channels for word in words], dtype=bool)[channel[served]]
        late += int((~alive).sum())
    return late


def _due_of_row(run: Run) -> Array:
    due = np.zeros(len(run.publishes) + 1, dtype=np.int64)
    due[run.index.row] = run.index.due_ns
    return due
