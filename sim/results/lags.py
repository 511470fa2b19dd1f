"""How late every delivered copy of the run phase was handled, by channel and service: what the verdict and the figures ask of it.

- **lag**: intended time of the event to the start of its handler.
- **bus**: sent to handled, the lag without the send delay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from sim.record.limits import read_metric
from sim.record.reader import Array, codes_of
from sim.results.copies import FATE
from sim.results.pieces import Piece, Pieces
from sim.results.run_tables import RunTables
from sim.results.values import Values, joined, new_values

SORTED_FAST = 1 << 16  # numbers below it are sorted digit by digit


@dataclass(frozen=True)
class Lags:
    """Lags in nanoseconds.

    Attributes
    ----------
    channels, services
        Their names.
    lag, bus
        By the numbers of channel and service; `bus` is by them only where a limit is on a channel or a service, else all is at (0, 0).
    least, most
        The least and the most that each lag may have been, and `errors` the most that one may be wrong by; only where processes read
        several clocks, else empty.
    negative
        Copies that were handled before their event was meant or sent, by more than their clocks may be wrong.
    lag_ns, delay_ns
        All lags, and all times until the events were sent, summed over copies.
    """

    channels: list[str]
    services: list[str]
    lag: dict[tuple[int, int], Values]
    bus: dict[tuple[int, int], Values]
    least: dict[tuple[int, int], Values]
    most: dict[tuple[int, int], Values]
    errors: dict[tuple[int, int], int]
    negative: int
    lag_ns: int
    delay_ns: int

    def of(self, values: dict[tuple[int, int], Values], kind: str = "", word: str = "") -> Values:
        """Return those of a channel or a service (`kind`), or all."""
        return joined(list(values.values()) if not kind else [values[cell] for cell in self._cells.get((kind, word), ()) if cell in values])

    def error_ns(self, kind: str = "", word: str = "") -> int:
        """Return by how much a lag of a channel or a service (`kind`), or any, may be wrong at most; 0 where clocks do not differ."""
        return max((self.errors.get(cell, 0) for cell in (self._cells.get((kind, word), ()) if kind else self.errors)), default=0)

    @cached_property
    def _cells(self) -> dict[tuple[str, str], list[tuple[int, int]]]:
        """The numbers of channel and service at which those of a channel or a service are."""
        found = dict[tuple[str, str], list[tuple[int, int]]]()
        for cell in self.lag:
            for kind, word in (("channel", self.channels[cell[0]]), ("service", self.services[cell[1]])):
                found.setdefault((kind, word), []).append(cell)
        return found

    @property
    def copies(self) -> int:
        """How many copies these are of."""
        return sum(map(len, self.lag.values()))


class _Part(NamedTuple):
    lag: dict[tuple[int, int], Array]
    bus: dict[tuple[int, int], Array]
    least: dict[tuple[int, int], Array]
    most: dict[tuple[int, int], Array]
    errors: dict[tuple[int, int], int]
    negative: int
    lag_ns: int
    delay_ns: int


def read_lags(run: RunTables, pieces: Pieces) -> Lags:
    """Return the lags of a run."""
    channel, channels = codes_of(run.publishes["channel"])
    services = sorted({history.service for history in run.pod_histories})
    service = np.array([services.index(history.service) for history in run.pod_histories], dtype=np.int16)
    in_file, scoped = pieces.whole is None, any(read_metric(name).scope for name in run.slo)
    found = Lags(channels, services, {}, {}, {}, {}, {}, 0, 0, 0)
    for part in pieces.each(lambda piece: _of_piece(run, piece, channel, service, scoped=scoped, in_order=in_file)):
        for kept, values in ((found.lag, part.lag), (found.bus, part.bus), (found.least, part.least), (found.most, part.most)):
            for cell, some in values.items():
                kept.setdefault(cell, new_values(in_file=in_file)).add(some)
        for cell, error in part.errors.items():
            found.errors[cell] = max(error, found.errors.get(cell, 0))
        sums = (found.negative + part.negative, found.lag_ns + part.lag_ns, found.delay_ns + part.delay_ns)
        found = replace(found, negative=sums[0], lag_ns=sums[1], delay_ns=sums[2])
    return found


def _of_piece(run: RunTables, piece: Piece, channel: Array, service: Array, *, scoped: bool, in_order: bool) -> _Part:
    intended, sent = (run.publishes[column].to_numpy() for column in ("intended_ns", "sent_ns"))
    first = np.flatnonzero(piece.in_run & (piece.fate == FATE["delivered"]))
    rows, handled = piece.publish[first], piece.heard.handled_ns[piece.delivery[first]]
    lag, bus = handled - intended[rows], handled - sent[rows]
    many = int(service.max(initial=0)) + 1
    cell = channel[rows].astype(np.int32) * many + service[piece.pod[first]]
    if cell.max(initial=0) < SORTED_FAST:
        cell = cell.astype(np.uint16)
    order = np.argsort(cell, kind="stable")
    cells, begins = np.unique(cell[order], return_index=True)
    parts = np.split(order, begins[1:]) if len(first) else []
    spans = {divmod(one, many): span for one, span in zip(cells.tolist(), parts, strict=True)}

    def parted(values: Array, places: dict[tuple[int, int], Array]) -> dict[tuple[int, int], Array]:
        return {one: np.sort(values[span]) if in_order else values[span] for one, span in places.items()}

    by_cell = parted(bus, spans) if scoped else {(0, 0): np.sort(bus) if in_order else bus}
    sums = int(lag.sum()), int(lag.sum() - bus.sum())
    if not run.clocks.differ:
        return _Part(parted(lag, spans), by_cell, {}, {}, {}, int(((lag < 0) | (bus < 0)).sum()), *sums)
    error = errors_ns(run, piece, first)
    errors = {one: int(error[span].max()) for one, span in spans.items()}
    negative = int(((lag < -error) | (bus < -error)).sum())
    return _Part(parted(lag, spans), by_cell, parted(lag - error, spans), parted(lag + error, spans), errors, negative, *sums)


def errors_ns(run: RunTables, piece: Piece, copies: Array) -> Array:
    """Return by how much the lag of each of these copies, entries of a piece, may be wrong; 0 where clocks do not differ."""
    if not run.clocks.differ:
        return np.zeros(len(copies), dtype=np.int64)
    publish, delivery = piece.publish[copies], piece.delivery[copies]
    clock, bound = (run.publishes[column].to_numpy()[publish] for column in ("clock", "bound_ns"))
    error: Array = np.where(clock == piece.heard.clock[delivery], 0, bound + piece.heard.bound_ns[delivery])
    return error
