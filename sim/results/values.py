"""Very many numbers of which the value at a place in rising order is asked, exactly: in memory, or sorted part by part in a file.

In a file the value at a place is found by halving the range in which it lies, and counting in each part what is not above the middle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np

from sim.record.reader import Array
from sim.results.heard import Spool


class Values:
    """Some int64 values, added part by part.

    Parameters
    ----------
    times
        How often each value of the one part stands for itself, if not once.
    """

    def __init__(self, parts: Iterable[Array] = (), *, spool: _Sorted | None = None, times: Array | None = None) -> None:
        self._parts, self._spool, self._times = list(parts), spool, times

    def add(self, values: Array) -> None:
        """Add some; where they are kept in a file, they must be sorted."""
        self._parts.append(values if self._spool is None else self._spool.keep(values))

    def __len__(self) -> int:
        return sum(map(len, self._parts)) if self._times is None else int(self._times.sum())

    @cached_property
    def _up_to(self) -> tuple[Array, Array]:
        """The values of the one part in rising order, and how many there are up to each."""
        order = np.argsort(self._parts[0], kind="stable")
        assert self._times is not None
        return self._parts[0][order], np.cumsum(self._times[order])

    @cached_property
    def _sorted(self) -> Array:
        return np.sort(np.concatenate([np.array([], dtype=np.int64), *self._parts]))

    def at(self, places: Array) -> Array:
        """Return the values at some places in rising order, from 0 on; there must be any."""
        if self._times is not None:
            values, up_to = self._up_to
            weighed: Array = values[np.searchsorted(up_to, places, side="right")]
            return weighed
        if self._spool is None:
            found: Array = self._sorted[places]
            return found
        low = np.full(len(places), min(int(part[0]) for part in self._parts if len(part)), dtype=np.int64)
        high = np.full(len(places), max(int(part[-1]) for part in self._parts if len(part)), dtype=np.int64)
        while (low < high).any():
            middle = (low & high) + ((low ^ high) >> 1)  # their mean, rounded down, where their difference may not fit
            not_above = np.sum([np.searchsorted(part, middle, side="right") for part in self._parts], axis=0)
            enough = not_above > places
            high, low = np.where(enough, middle, high), np.where(enough, low, middle + 1)
        return high

    def quantiles(self, ranks: Mapping[str, float]) -> dict[str, int]:
        """Return the values at some ranks (name -> 0 to 1), each one that occurred; empty for no values."""
        if not len(self):
            return {}
        places = np.ceil(np.array(list(ranks.values())) * (len(self) - 1)).astype(np.int64)
        return dict(zip(ranks, self.at(places).tolist(), strict=True))


class _Sorted:
    """A file that holds sorted parts of values."""

    def __init__(self) -> None:
        self._spool, self._next = Spool(np.int64), 0

    def keep(self, values: Array) -> Array:
        begin, self._next = self._next, self._next + len(values)
        if not len(values):
            return values
        self._spool.write(values, begin)
        return self._spool.mapped(begin, self._next)


def new_values(*, in_file: bool) -> Values:
    """Return no values yet, which will be kept in memory or in a file."""
    return Values(spool=_Sorted() if in_file else None)


def joined(some: Sequence[Values]) -> Values:
    """Return all of some values together."""
    return some[0] if len(some) == 1 else Values([part for one in some for part in one._parts], spool=some[0]._spool if some else None)
