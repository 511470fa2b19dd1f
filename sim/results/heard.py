"""Keep a run's deliveries pod by pod, so that whoever walks through them needs no more of them in memory than those of a few pods.

Up to `ROWS_IN_MEMORY` of them stay in memory as the table has them. More are read from the sealed table group by group and sorted by pod
into files without a name (in the folder for temporary files), which are gone with the process, however it ends: some 21 bytes a delivery,
and ten more where processes read several clocks. Beside them, memory grows with the number of publishes and of pods, not of deliveries.
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sim.errors import RunFolderError
from sim.record.reader import Array, codes_in, positions
from sim.record.schema import TIMES

ROWS_IN_MEMORY = 6_000_000
ROWS_A_PIECE = 1_000_000
THREADS = 2
PATHS = {"broker": 1, "memory": 2}
RESULTS = {"handled": 1, "skipped": 2, "failed": 3}
HOW = 4  # a path and an outcome are kept as path * HOW + outcome

Task = TypeVar("Task")
Found = TypeVar("Found")


class HeardRows:
    """The deliveries of some pods in succession, column by column; `pods` numbers `RunTables.pod_histories`.

    Attributes
    ----------
    event_of
        The place of each one's event in `CopyIndex`; the last where nobody published it.
    received_ns, handled_ns
        As in the table.
    path, outcome
        Codes of `PATHS` and `RESULTS`.
    """

    def __init__(self, pods: range, *, bounds: Array, by_pod: Array | None, read: Callable[[str], Array], nobody: int) -> None:
        self.pods, self._bounds, self._by_pod, self._read, self._nobody = pods, bounds, by_pod, read, nobody

    def rows(self, pod: int) -> Array:
        """Return which of these are of a pod, in the order in which it heard them."""
        begin, end = self._bounds[pod - self.pods.start], self._bounds[pod - self.pods.start + 1]
        return np.arange(begin, end, dtype=np.int32) if self._by_pod is None else self._by_pod[begin:end]

    @cached_property
    def event_of(self) -> Array:
        """The place of each one's event."""
        return self._read("event_of")

    @cached_property
    def received_ns(self) -> Array:
        """When the read that brought it returned."""
        return self._read("received_ns")

    @cached_property
    def handled_ns(self) -> Array:
        """When its handler started."""
        return self._read("handled_ns")

    @cached_property
    def clock(self) -> Array:
        """The number of the clock of `received_ns` and `handled_ns`; only where a run has several, as `bound_ns`."""
        return self._read("clock")

    @cached_property
    def bound_ns(self) -> Array:
        """By how much they may be wrong in the run's clock."""
        return self._read("bound_ns")

    @cached_property
    def path(self) -> Array:
        """How it came."""
        return self._read("path")

    @cached_property
    def outcome(self) -> Array:
        """What the handler did."""
        return self._read("outcome")

    @cached_property
    def key(self) -> Array:
        """The key of each one's event; of some stores only where nobody published it."""
        return self._read("event")

    @cached_property
    def proves(self) -> Array:
        """Whether it came through the broker and its event was published."""
        through: Array = (self.event_of < self._nobody) & (self.path == PATHS["broker"])
        return through


class Deliveries(Protocol):
    """All deliveries of a run."""

    rows: int
    pieces: list[range]  # pods whose deliveries are looked at together

    def of(self, pods: range) -> HeardRows:
        """Return what the pods of one of `pieces` heard."""

    def of_pod(self, pod: int) -> HeardRows:
        """Return what one pod heard, maybe among others."""


class EventPlaces:
    """Where keys stand among those of all events; computed where each publisher's are without a gap, else searched."""

    def __init__(self, keys: Array) -> None:
        self._keys = keys
        first = np.flatnonzero(np.diff(keys, prepend=keys[:1] - np.uint64(2)) != 1) if len(keys) else np.array([], dtype=np.int64)
        self._first, self._start = first.astype(np.int64), keys[first]
        self._many = np.diff(np.append(first, len(keys))).astype(np.uint64)

    def of(self, wanted: Array) -> Array:
        """Return the place of each wanted key, the number of all where it is none of them."""
        if not len(self._first) or len(self._first) > 1024:
            return positions(self._keys, wanted)
        one = np.searchsorted(self._start, wanted, side="right") - 1
        one = np.maximum(one, 0)
        beyond = wanted - self._start[one]  # of a key before the first one it is a huge number
        return np.where(beyond < self._many[one], beyond.astype(np.int64) + self._first[one], len(self._keys)).astype(np.int32)


class InMemory:
    """Deliveries as the table has them."""

    def __init__(self, deliveries: pd.DataFrame, *, keys: Array, names: Mapping[str, int]) -> None:
        self._table, self.rows = deliveries, len(deliveries)
        pod = codes_in(deliveries["pod"], names)
        self.by_pod = np.argsort(pod, kind="stable").astype(np.int32)
        self.bounds = np.searchsorted(pod[self.by_pod], np.arange(len(names) + 1))
        self.pieces = [range(len(names))]
        self._keys = keys
        self._heard = HeardRows(self.pieces[0], bounds=self.bounds, by_pod=self.by_pod, read=self._read, nobody=len(keys))

    def of(self, pods: range) -> HeardRows:
        """Return all."""
        return self._heard

    def of_pod(self, pod: int) -> HeardRows:
        """Return all."""
        return self._heard

    def _read(self, name: str) -> Array:
        if name == "event_of":
            return EventPlaces(self._keys).of(self._table["event"].to_numpy())
        if name in ("path", "outcome"):
            return codes_in(self._table[name], PATHS if name == "path" else RESULTS)
        return self._table[name].to_numpy()


class Spool:
    """One column of numbers in a file without a name.

    Raises
    ------
    RunFolderError
        It could not be written.
    """

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._dtype = np.dtype(dtype)
        self._folder = tempfile.gettempdir()
        self._file = tempfile.TemporaryFile(prefix="buslab-", dir=self._folder)  # noqa: SIM115 - it lives as long as this

    def write(self, values: Array, at: int) -> None:
        """Write values from a place on."""
        kept: Array = np.ascontiguousarray(values, dtype=self._dtype)
        rest, place = kept.data.cast("B"), at * self._dtype.itemsize
        try:
            while rest:
                done = os.pwrite(self._file.fileno(), rest, place)
                rest, place = rest[done:], place + done
        except OSError as error:
            raise RunFolderError(
                f"cannot sort the deliveries by pod in {self._folder}: {error.strerror or error}; set TMPDIR to a folder with more room"
            ) from error

    def read(self, begin: int, end: int) -> Array:
        """Return the values from one place to another."""
        values: Array = np.empty(end - begin, dtype=self._dtype)
        rest, place = values.data.cast("B"), begin * self._dtype.itemsize
        while rest:
            done = os.preadv(self._file.fileno(), [rest], place)
            if not done:
                raise RunFolderError(f"the deliveries sorted by pod in {self._folder} ended early; judge the run again")
            rest, place = rest[done:], place + done
        return values

    def mapped(self, begin: int, end: int) -> Array:
        """Return the values from one place to another, read from the file when they are looked at."""
        return np.memmap(self._file, dtype=self._dtype, mode="r", offset=begin * self._dtype.itemsize, shape=(end - begin,))


Translated = Callable[[Mapping[str, Array], int], dict[str, Array]]


class PodsOfTable:
    """Which pods a deliveries table names, and how many rows each has in each group of it.

    Parameters
    ----------
    translated
        Where processes read several clocks: puts the times of rows in succession, of which the first has this number in the table, into
        the run's clock, and adds the columns `clock` and `bound_ns`.
    """

    def __init__(self, path: Path, *, translated: Translated | None = None) -> None:
        self.path, self.translated = path, translated
        groups = _file(path).metadata.num_row_groups
        counted = list(in_threads(self._count, range(groups)))
        self.words = list(dict.fromkeys(word for words, _ in counted for word in words))
        place = {word: number for number, word in enumerate(self.words)}
        self.rows = np.zeros((groups, len(self.words)), dtype=np.int64)
        for group, (words, many) in enumerate(counted):
            self.rows[group, [place[word] for word in words]] = many

    def read_times(self, group: int, rows: pa.Table) -> dict[str, Array]:
        """Return the times of one group of rows; these are its columns, as many as are asked for."""
        times = {column: rows.column(column).to_numpy() for column in TIMES["deliveries"] if column in rows.column_names}
        return times if self.translated is None else self.translated(times, int(self.rows[:group].sum()))

    def first_handled_ns(self, many: int) -> Array:
        """Return when the handlers of so many deliveries started, those that stand first in the table."""
        return self.read_times(0, read_group(self.path, 0, ["handled_ns"]))["handled_ns"][:many]

    def _count(self, group: int) -> tuple[list[str], Array]:
        column = read_group(self.path, group, ["pod"]).column("pod").combine_chunks()
        words: list[str] = column.dictionary.to_pylist()
        return words, np.bincount(column.indices.to_numpy(), minlength=len(words))


class SortedFiles:
    """Deliveries sorted by pod, in files."""

    def __init__(self, table: PodsOfTable, *, keys: Array, names: Mapping[str, int], at_most: Sequence[int]) -> None:
        self._nobody, self._places = len(keys), EventPlaces(keys)
        self._pod = np.array([names[word] for word in table.words], dtype=np.uint16)
        rows = np.zeros((len(table.rows), len(names)), dtype=np.int64)
        rows[:, self._pod] = table.rows
        self._bounds = np.append(0, np.cumsum(rows.sum(axis=0)))
        self._begin = self._bounds[:-1] + np.cumsum(rows, axis=0) - rows  # of each pod's rows of each group
        self.rows = int(self._bounds[-1])
        self.pieces = list(_pieces(np.maximum(np.diff(self._bounds), at_most).tolist()))
        self._columns = {"event_of": Spool(np.int32), "received_ns": Spool(np.int64), "handled_ns": Spool(np.int64), "how": Spool(np.int8)}
        if table.translated is not None:
            self._columns |= {"clock": Spool(np.int16), "bound_ns": Spool(np.int64)}
        self._table = table
        self._unknown: dict[int, list[tuple[Array, Array]]] = {}  # pod -> rows and keys of what nobody published
        for _ in in_threads(self._sort, range(len(table.rows))):
            pass

    def _sort(self, group: int) -> None:
        rows = read_group(self._table.path, group, ["event", "pod", "path", "outcome", *TIMES["deliveries"]])
        columns = {column: rows.column(column).combine_chunks() for column in ("event", "pod", "path", "outcome")}
        place = {word: number for word, number in zip(self._table.words, self._pod.tolist(), strict=True)}
        pod, path, outcome = (_codes(columns[name], words) for name, words in (("pod", place), ("path", PATHS), ("outcome", RESULTS)))
        order = np.argsort(pod.astype(np.uint16), kind="stable")
        key = columns["event"].to_numpy()[order]
        values = {
            "event_of": self._places.of(key),
            "how": (path * HOW + outcome).astype(np.int8)[order],
            **{column: times[order] for column, times in self._table.read_times(group, rows).items()},
        }
        pods, first = np.unique(pod[order], return_index=True)
        bounds = np.append(first, len(order)).tolist()
        for number, begin, end in zip(pods.tolist(), bounds[:-1], bounds[1:], strict=True):
            at = int(self._begin[group, number])
            for name, column in values.items():
                self._columns[name].write(column[begin:end], at)
            unknown = np.flatnonzero(values["event_of"][begin:end] == self._nobody)
            if len(unknown):
                self._unknown.setdefault(number, []).append((at + unknown, key[begin:end][unknown]))

    def of(self, pods: range) -> HeardRows:
        """Return what some pods in succession heard."""
        bounds = self._bounds[pods.start : pods.stop + 1]
        begin, end = int(bounds[0]), int(bounds[-1])

        def read(name: str) -> Array:
            if name == "event":
                return self._keys(pods, begin, end)
            if name in ("path", "outcome"):
                how = self._columns["how"].read(begin, end)
                return how // HOW if name == "path" else how % HOW
            return self._columns[name].read(begin, end)

        return HeardRows(pods, bounds=bounds - begin, by_pod=None, read=read, nobody=self._nobody)

    def of_pod(self, pod: int) -> HeardRows:
        """Return what one pod heard."""
        return self.of(range(pod, pod + 1))

    def _keys(self, pods: range, begin: int, end: int) -> Array:
        keys = np.zeros(end - begin, dtype=np.uint64)
        for pod in pods:
            for rows, unknown in self._unknown.get(pod, ()):
                keys[rows - begin] = unknown
        return keys


def in_threads(work: Callable[[Task], Found], tasks: Iterable[Task]) -> Iterator[Found]:
    """Yield what the work makes of each task, in their order; `THREADS` at a time, as numpy and arrow do theirs at the same time.

    Only a few answers wait for whoever takes them, so large ones can be added up.
    """
    with ThreadPoolExecutor(THREADS, thread_name_prefix="judge") as pool:
        waiting: deque[Future[Found]] = deque()
        for task in tasks:
            waiting.append(pool.submit(work, task))
            if len(waiting) > THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def read_group(path: Path, group: int, columns: Sequence[str]) -> pa.Table:
    """Return some columns of one group of rows of a table, or raise `RunFolderError`."""
    try:
        return _file(path).read_row_group(group, columns=list(columns), use_threads=False)
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, MemoryError):
            raise
        raise RunFolderError(f"cannot read {path}: {str(error).splitlines()[0]}; the file is damaged, copy it again") from error


def _file(path: Path) -> pq.ParquetFile:
    return pq.ParquetFile(path, read_dictionary=["pod", "path", "outcome"])


def _codes(column: pa.DictionaryArray, words: Mapping[str, int]) -> Array:
    codes: Array = np.array([words.get(word, 0) for word in column.dictionary.to_pylist()], dtype=np.int32)[column.indices.to_numpy()]
    return codes


def _pieces(weights: Sequence[int]) -> Iterator[range]:
    """Yield pods in succession that weigh at most `ROWS_A_PIECE` together, or one that weighs more."""
    begin, together = 0, 0
    for pod, weight in enumerate(weights):
        if pod > begin and together + weight > ROWS_A_PIECE:
            yield range(begin, pod)
            begin, together = pod, 0
        together += weight
    if begin < len(weights):
        yield range(begin, len(weights))
