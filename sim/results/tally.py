"""Count the books of the run phase by service and channel: copies by fate and cause, and events as services heard them.

Whatever asks how much of something there was takes it from here, so the run, a service and a channel are counted alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sim.record.limits import MetricName
from sim.record.reader import Array, codes_of
from sim.record.schema import CAUSES
from sim.results.copies import CAUSE, FATE
from sim.results.pieces import Piece
from sim.results.run_tables import RunTables
from sim.results.service_books import NO_COPY, ServiceBooks

PAIRS = ("pairs", "unserved", "in_doubt", "half_served", "half_in_doubt")


class Tally(NamedTuple):
    """Counts of the run phase.

    Attributes
    ----------
    services, channels
        Their names; the last channel is empty: of events that nobody published.
    copies
        Shape (services, channels, fates), as `schema.FATES` has them. A service without a pod counts with the copy that it is owed.
    pairs
        Shape (services, channels, `PAIRS`): events that the service should hear; of them those that no pod of it heard, those of these
        that may never have been published, those that only some of its pods heard, and of the latter those of which nobody knows whether
        the others should have.
    causes
        Missing copies by cause; the causes that there are none of too.
    events
        How many different events some service should hear.
    """

    services: list[str]
    channels: list[str]
    copies: Array
    pairs: Array
    causes: dict[str, int]
    events: int

    def fates(self, of: MetricName) -> dict[str, int]:
        """Return copies by fate, of the run, or of a metric's service or channel."""
        return dict(zip(FATE, self._within(self.copies, of), strict=True))

    def served(self, of: MetricName) -> dict[str, int]:
        """Return events by how services heard them: `PAIRS`, of the run, or of a metric's service or channel.

        The last of them, which only a run of several clocks can have, is left out where there is none.
        """
        served = dict(zip(PAIRS, self._within(self.pairs, of), strict=True))
        return served if served[PAIRS[-1]] else {kind: served[kind] for kind in PAIRS[:-1]}

    def _within(self, cells: Array, of: MetricName) -> list[int]:
        names, axis = (self.services, 0) if of.scope == "service" else (self.channels, 1)
        rows = cells if not of.scope else np.take(cells, [names.index(of.subject)] if of.subject in names else [], axis=axis)
        found: list[int] = rows.sum(axis=(0, 1)).tolist()
        return found

    def scopes(self) -> Iterator[MetricName]:
        """Yield the run, each service that hears something, and each channel; without a metric."""
        yield MetricName("")
        yield from (MetricName("", "service", name) for n, name in enumerate(self.services) if self.pairs[n].any() or self.copies[n].any())
        yield from (MetricName("", "channel", name) for name in self.channels[:-1])


def count_copies(run: RunTables, piece: Piece) -> tuple[Array, Array]:
    """Return the copies of the run phase in a piece: by service, channel and fate, flat; and the missing ones by cause."""
    channel, channels = codes_of(run.publishes["channel"])
    many = len(channels) + 1
    place = np.append(channel, len(channels)).astype(np.int32)
    own = np.flatnonzero(piece.in_run)
    base = run.service_of_pod.astype(np.int32) * (many * len(FATE))
    cells = base[piece.pod[own]] + (place * len(FATE))[piece.publish[own]] + piece.fate[own]
    return np.bincount(cells, minlength=len(run.services) * many * len(FATE)), np.bincount(piece.cause[own], minlength=len(CAUSE))


def tally_of(run: RunTables, books: ServiceBooks, cells: Array, causes: Array) -> Tally:
    """Count the run phase, from what `count_copies` counted of all pieces and the books of the services."""
    channel, channels = codes_of(run.publishes["channel"])
    shape = (len(run.services), len(channels) + 1)
    place, size = np.append(channel, len(channels)).astype(np.int32), shape[0] * shape[1]
    of_run = (run.publishes["phase"] == "run").to_numpy()
    pairs = np.flatnonzero(of_run[books.publish])
    pair = books.service[pairs].astype(np.int32) * shape[1] + place[books.publish[pairs]]
    alone = books.fate[pairs] != NO_COPY
    cells = cells + np.bincount(pair[alone] * len(FATE) + books.fate[pairs][alone], minlength=len(cells))
    causes = causes + np.bincount(books.cause[pairs][alone], minlength=len(CAUSE))
    which = (books.unserved, books.in_doubt, books.half_served, books.half_in_doubt)
    kinds = (pair, *(pair[some[pairs]] for some in which))
    return Tally(
        run.services,
        [*channels, ""],
        cells.reshape(*shape, len(FATE)),
        np.stack([np.bincount(kind, minlength=size).reshape(shape) for kind in kinds], axis=-1),
        dict(zip(CAUSES, causes[1:].tolist(), strict=True)),
        int(np.count_nonzero(np.bincount(books.publish[pairs], minlength=1))),
    )
