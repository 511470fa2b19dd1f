"""Count every copy once, by all that is asked about often: by service and channel, by event, and by what the handlers did."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.record.reader import Array
from sim.results.copies import FATE, CopyIndex
from sim.results.heard import RESULTS
from sim.results.pieces import Piece, Pieces
from sim.results.run_tables import RunTables
from sim.results.service_books import ServiceBooks, count_roles, keep_service_books, roles_of
from sim.results.tally import Tally, count_copies, tally_of


class Books(NamedTuple):
    """What was counted.

    Attributes
    ----------
    services, tally
        See `sim.results.service_books` and `sim.results.tally`.
    fates
        Copies of the whole run by fate, as `schema.FATES` has them.
    delivered, expected
        Of each row of `publishes`: its copies that were delivered, and these with the missing and unknown ones.
    again
        Of each row of `publishes`: deliveries that are duplicate or unexpected.
    handled
        Copies of the run phase that a handler ran, by pod; shape (pods, 2): heard for the first time or unexpected, and again.
    """

    services: ServiceBooks
    tally: Tally
    fates: dict[str, int]
    delivered: Array
    expected: Array
    again: Array
    handled: Array


class _Counted(NamedTuple):
    """The part of one piece."""

    roles: dict[int, Array]
    cells: Array
    causes: Array
    fates: Array
    again: Array
    handled: Array


def keep_books(run: RunTables, index: CopyIndex, pieces: Pieces) -> Books:
    """Return all copies of a run, counted."""
    many = len(run.publishes)
    roles = np.zeros((len(run.services), len(roles_of(run)), many), dtype=np.int16)
    expected, delivered, again = (np.zeros(many, dtype=np.int32) for _ in range(3))
    cells: Array = np.zeros((), dtype=np.int64)
    causes, fates = cells, cells
    handled: list[Array] = []
    for part in pieces.each(lambda piece: _count(run, piece)):
        for service, counted in part.roles.items():
            roles[service] += counted
            delivered += counted[0]
            expected += counted.sum(axis=0, dtype=np.int32)
        np.add.at(again, part.again, 1)
        cells, causes, fates = (whole + one for whole, one in ((cells, part.cells), (causes, part.causes), (fates, part.fates)))
        handled.append(part.handled)
    books = keep_service_books(run, index, roles)
    by_fate = dict(zip(FATE, fates.tolist(), strict=True))
    tally = tally_of(run, books, cells, causes)
    return Books(books, tally, by_fate, delivered, expected, again, np.concatenate(handled))


def _count(run: RunTables, piece: Piece) -> _Counted:
    again = piece.publish[((piece.fate == FATE["duplicate"]) | (piece.fate == FATE["unexpected"])) & (piece.publish >= 0)]
    ran = np.flatnonzero(piece.in_run & (piece.delivery >= 0) & (piece.publish >= 0))
    ran = ran[piece.heard.outcome[piece.delivery[ran]] == RESULTS["handled"]]
    cell = (piece.pod[ran].astype(np.int64) - piece.pods.start) * 2 + (piece.fate[ran] == FATE["duplicate"])
    handled = np.bincount(cell, minlength=2 * len(piece.pods)).reshape(-1, 2)
    fates = np.bincount(piece.fate, minlength=len(FATE))
    return _Counted(count_roles(run, piece), *count_copies(run, piece), fates, again, handled)
