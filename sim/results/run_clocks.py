"""The clocks of a run's processes: their times in the run's clock, and by how much two times may be wrong against each other.

Rows stay in the files as their process wrote them. Where processes read other clocks than the run, the table `clocks` has a line for each
(`sim.machine.clock_line`), and run.json says which process wrote which rows; so the times are translated here, whenever they are read.

Rules
-----
1. Two times of one clock are exact against each other, whichever clock it is. Two of different clocks may be wrong by both their bounds;
   the run's own clock has none.
2. Where all processes read the run's clock there is nothing in the table, nothing is translated, and every error is 0.
3. A process whose clock was compared with nothing has a bound that nothing is within: `NOT_COMPARED`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import pandas as pd

from sim.machine.clock_line import ClockLine, Knot
from sim.record.reader import Array
from sim.record.schema import NOT_COMPARED_NS, TIMES

RUNS = 0  # the code of the run's own clock


class RunClocks:
    """The lines of the processes of one run that read other clocks; made from the table `clocks`."""

    def __init__(self, table: pd.DataFrame) -> None:
        self._table = table
        self.differ = len(table) > 0

    @cached_property
    def lines(self) -> dict[str, ClockLine]:
        """The line of each process that reads another clock than the run."""
        found: dict[str, list[Knot]] = {}
        if not self.differ:
            return {}
        for row in self._table.to_dict("records"):
            found.setdefault(str(row["host"]), []).append(Knot(*(row[field] for field in Knot._fields)))
        return {host: ClockLine(tuple(sorted(knots))) for host, knots in found.items()}

    @cached_property
    def code_of(self) -> dict[str, int]:
        """The number of the clock that each of these processes reads, from 1 on."""
        clocks = list(dict.fromkeys(self._table["clock"].astype(str)))
        pairs = zip(self._table["host"].astype(str), self._table["clock"].astype(str), strict=True)
        return {host: clocks.index(clock) + 1 for host, clock in pairs}

    @cached_property
    def ways(self) -> dict[str, str]:
        """How each of these processes was compared with the run."""
        return dict(zip(self._table["host"].astype(str), self._table["way"].astype(str), strict=True))

    @cached_property
    def worst_ns(self) -> int:
        """The greatest bound of any of them while it was compared; 0 where all processes read the run's clock."""
        return max((line.bound_ns for line in self.lines.values()), default=0)

    @property
    def greatest_error_ns(self) -> int:
        """By how much two times of this run may be wrong against each other at most."""
        clocks = {self.code_of[host] for host in self.lines}
        return self.worst_ns * min(2, len(clocks))

    def translated(self, rows: pd.DataFrame, table: str, sources: Sequence[tuple[str, int]]) -> pd.DataFrame:
        """Return the rows of a table with their times in the run's clock, and two more columns.

        These are `clock`, the number of the clock that wrote the row (`RUNS`: the run's), and `bound_ns`, by how much its last time may be
        wrong. Tables without times are returned as they are; a time that is 0, so did not happen, stays 0.

        Parameters
        ----------
        sources
            Which process wrote how many of the rows, in their order.
        """
        columns = TIMES.get(table, ())
        if not (self.differ and columns):
            return rows
        return rows.assign(**self.translated_times({column: rows[column].to_numpy() for column in columns}, sources))

    def translated_times(self, times: Mapping[str, Array], sources: Sequence[tuple[str, int]], *, first: int = 0) -> dict[str, Array]:
        """Return all times of some rows of a table in succession in the run's clock, with the columns `clock` and `bound_ns`.

        Parameters
        ----------
        times
            The columns of the table that are times.
        sources
            Which process wrote how many of the rows of the whole table, in their order.
        first
            Which row of the table is the first of these.
        """
        found = {column: values.copy() for column, values in times.items()}
        many = len(next(iter(found.values())))
        clock, bound = np.zeros(many, dtype=np.int16), np.zeros(many, dtype=np.int64)
        at = -first
        for source, written in sources:
            part, at = slice(max(at, 0), min(max(at + written, 0), many)), at + written
            line = self.lines.get(source)
            if line is None or part.start >= part.stop:
                continue
            clock[part] = self.code_of[source]
            bound[part] = line.bound(np.max([values[part] for values in found.values()], axis=0))
            for values in found.values():
                values[part] = np.where(values[part] == 0, 0, line.to_ours(values[part]))
        return {**found, "clock": clock, "bound_ns": np.minimum(bound, NOT_COMPARED_NS)}


def error_ns(one: pd.DataFrame, one_rows: Array, other: pd.DataFrame, other_rows: Array) -> Array:
    """Return by how much times of rows of one table may be wrong against those of another's, pair by pair; 0 where clocks do not differ."""
    if "clock" not in one or "clock" not in other:
        return np.zeros(len(one_rows), dtype=np.int64)
    same = one["clock"].to_numpy()[one_rows] == other["clock"].to_numpy()[other_rows]
    found: Array = np.where(same, 0, one["bound_ns"].to_numpy()[one_rows] + other["bound_ns"].to_numpy()[other_rows])
    return found
