"""Walk through every copy of a run a few pods at a time, so that judging needs no more memory for a hundred million copies than for one.

A *piece* is the copies of pods in succession (`sim.results.copies`) with the columns of their deliveries. A run whose deliveries are in
memory (`sim.results.heard`) is one piece, and the accounts of a longer one are kept in files as its deliveries are. Whoever asks something
of all copies asks it of each piece (`Pieces.each`) and adds up the answers, which come in the order of the pods. Several pieces are
worked on at a time, so what is asked must not change anything but its own answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TypeVar

import numpy as np

from sim.record.reader import Array
from sim.results.copies import Copies, CopyIndex, account
from sim.results.heard import HeardRows, Spool, in_threads
from sim.results.run_tables import RunTables

Found = TypeVar("Found")


class Piece:
    """The copies of pods in succession, one entry each: see `Copies`; `delivery` is a row of `heard`, whose columns are in rows too.

    `phase` numbers the run's phases: that of its event, or of its delivery when nobody published it.
    """

    def __init__(self, run: RunTables, heard: HeardRows, copies: Copies, phase: Array) -> None:
        self._run, self.heard, self.copies, self.phase = run, heard, copies, phase
        self.publish, self.delivery, self.pod, self.fate, self.cause = copies

    @property
    def pods(self) -> range:
        """Whose copies these are."""
        return self.heard.pods

    def in_phase(self, phase: str) -> Array:
        """Return which of them are of a phase; none where the run did not reach it."""
        names = list(self._run.phases)
        return self.phase == names.index(phase) if phase in names else np.zeros(len(self.publish), dtype=bool)

    @cached_property
    def in_run(self) -> Array:
        """Which of them are of the run phase."""
        return self.in_phase("run")

    @cached_property
    def bounds(self) -> Array:
        """Where the copies of each of `pods` begin, and where the last one's end."""
        return np.searchsorted(self.pod, np.arange(self.pods.start, self.pods.stop + 1))

    def of_pod(self, pod: int) -> slice:
        """Return where the copies of a pod stand."""
        return slice(int(self.bounds[pod - self.pods.start]), int(self.bounds[pod - self.pods.start + 1]))


class Pieces:
    """All copies of a run."""

    def __init__(self, run: RunTables, index: CopyIndex, *, whole: Piece | None = None, kept: _Accounts | None = None) -> None:
        self._run, self._index, self.whole, self._kept = run, index, whole, kept

    def __iter__(self) -> Iterator[Piece]:
        yield from ([self.whole] if self.whole is not None else map(self._read, range(len(self._index.heard.pieces))))

    def each(self, work: Callable[[Piece], Found]) -> Iterator[Found]:
        """Yield what the work makes of each piece."""
        if self.whole is not None:
            return iter([work(self.whole)])
        return in_threads(lambda number: work(self._read(number)), range(len(self._index.heard.pieces)))

    def of_pod(self, pod: int) -> Piece:
        """Return the piece in which a pod is."""
        places = (number for number, pods in enumerate(self._index.heard.pieces) if pod in pods)
        return self.whole if self.whole is not None else self._read(next(places))

    def _read(self, number: int) -> Piece:
        assert self._kept is not None
        return self._kept.read(self._run, self._index.heard.of(self._index.heard.pieces[number]), number)


class _Accounts:
    """The accounts of the pieces of a long run, in files."""

    def __init__(self) -> None:
        self._columns = {"publish": Spool(np.int32), "fate": Spool(np.int8), "cause": Spool(np.int8), "phase": Spool(np.int8)}
        self._places: dict[
            int, tuple[int, Array, Array]
        ] = {}  # piece -> where it begins, copies of each pod, those of them that were heard
        self._next, self._lock = 0, threading.Lock()

    def keep(self, number: int, piece: Piece) -> None:
        """Write one piece."""
        with self._lock:
            begin, self._next = self._next, self._next + len(piece.publish)
        for name, column in self._columns.items():
            column.write(getattr(piece, name), begin)
        heard = [len(piece.heard.rows(pod)) for pod in piece.pods]
        self._places[number] = begin, np.diff(piece.bounds), np.array(heard, dtype=np.int64)

    def read(self, run: RunTables, heard: HeardRows, number: int) -> Piece:
        """Return one piece."""
        begin, copies, came = self._places[number]
        ends = np.cumsum(copies)
        publish, fate, cause, phase = (column.read(begin, begin + int(ends[-1])) for column in self._columns.values())
        delivery = np.full(len(publish), -1, dtype=np.int32)
        for first, rows, many in zip((ends - copies).tolist(), (np.cumsum(came) - came).tolist(), came.tolist(), strict=True):
            delivery[first : first + many] = np.arange(rows, rows + many, dtype=np.int32)  # what it heard stands first, in that order
        pod = np.repeat(np.array(heard.pods, dtype=np.int16), copies)
        return Piece(run, heard, Copies(publish, delivery, pod, fate, cause), phase)


def account_in_pieces(run: RunTables, index: CopyIndex) -> Pieces:
    """Return every copy with its fate."""
    pieces = index.heard.pieces
    phase_of = np.append(run.phase_codes(run.meant_ns(run.publishes)), np.int8(0))

    def accounted(pods: range) -> Piece:
        heard = index.heard.of(pods)
        copies = account(run, index, heard)
        phase = phase_of[copies.publish]
        foreign = np.flatnonzero(copies.publish < 0)
        phase[foreign] = run.phase_codes(heard.received_ns[copies.delivery[foreign]])
        return Piece(run, heard, copies, phase)

    if len(pieces) == 1:
        return Pieces(run, index, whole=accounted(pieces[0]))
    kept = _Accounts()
    for _ in in_threads(lambda number: kept.keep(number, accounted(pieces[number])), range(len(pieces))):
        pass
    return Pieces(run, index, kept=kept)
