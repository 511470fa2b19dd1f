"""Write what happened: column buffers in memory, parquet parts on disk, one sealed table at the end.

Rules
-----
1. A delivery costs a few appends to typed buffers: no object, no await, no branch on its content.
2. Memory is bounded: full buffers become a numbered *part* (``parts/<table>-<source>-<n>.parquet``), written by one
   background thread; a thread that falls two parts behind makes the caller wait.
3. Rows keep the order in which they were added; that order is evidence (see `schema`).
4. A row that cannot be written raises `RecordError`; nothing is dropped in silence.
"""

from __future__ import annotations

import json
import os
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sim.errors import RecordError
from sim.machine.clock import is_virtual
from sim.machine.files import whole_file, why_not_written, write_whole
from sim.record.arrow import arrow_schema
from sim.record.checksum import file_checksum
from sim.record.run_info import SealedTable
from sim.record.schema import MAX_WORDS, OPTIONAL, OTHERS, TABLES, source_of

PARTS = "parts"
ROWS_PER_PART = 1_000_000
ROWS_PER_GROUP = 1 << 20  # of a table: so much of it is read at a time
MAX_PENDING_PARTS = 2

# numpy type -> the struct module's code of the same width
_CODES = {"uint64": "Q", "int64": "q", "uint32": "I", "int32": "i", "float64": "d", "name": "H", "text": "I"}
_DTYPES = {"name": np.dtype(np.uint16), "text": np.dtype(np.uint32)}  # of the codes of words


class Names(dict[str, int]):
    """The words of one `name` column, numbered in the order of their first use: ``names[word]`` adds a word that is new."""

    def __missing__(self, word: str) -> int:
        if len(self) >= MAX_WORDS and word != OTHERS:
            return self[OTHERS]
        code = self[word] = len(self)
        return code


class Texts(dict[str, int]):
    """The texts of one `text` column, numbered in the order of their first use; there may be any number of them."""

    def __missing__(self, text: str) -> int:
        code = self[text] = len(self)
        return code


class TableBuffer:
    """The rows of one table, packed one after another, until they are taken as one arrow table."""

    def __init__(self, table: str) -> None:
        self.table = table
        self.types = TABLES[table]
        self.names: dict[str, Names | Texts] = {
            column: Names() if kind == "name" else Texts() for column, kind in self.types.items() if kind in _DTYPES
        }
        self._coded = tuple((place, self.names[column]) for place, column in enumerate(self.types) if column in self.names)
        self._pack = struct.Struct("=" + "".join(_CODES[kind] for kind in self.types.values()))
        self.dtype = np.dtype([(column, _DTYPES.get(kind) or np.dtype(kind)) for column, kind in self.types.items()])
        self._rows: Any = bytearray()  # or what is appended to like one (`sim.record.journal`)

    def clear(self) -> None:
        """Drop the rows."""
        self._rows = bytearray()

    def __len__(self) -> int:
        return len(self._rows) // self._pack.size

    def add(self, *values: Any) -> None:
        """Append one row; values in the table's column order, words for `name` and `text` columns."""
        row = list(values)
        for place, names in self._coded:
            row[place] = names[row[place]]
        self._rows += self._pack.pack(*row)

    def add_coded(self, *values: Any) -> None:
        """Append one row whose words are numbers of `names` already, for who adds many of the same words."""
        self._rows += self._pack.pack(*values)

    def take(self) -> pa.Table:
        """Return the rows as an arrow table and start anew."""
        rows = np.frombuffer(self._rows, dtype=self.dtype)
        self._rows = bytearray()
        words = {column: list(names) for column, names in self.names.items()}
        for names in self.names.values():
            if isinstance(names, Texts):  # of these rows only, so that memory stays bounded
                names.clear()
        return arrow_table(self.table, {column: rows[column] for column in self.types}, words)


class DeliveryBuffer:
    """The deliveries of some pods, kept read by read and made into rows when they are taken."""

    table = "deliveries"
    PATHS = ("broker", "memory")
    RESULTS = ("handled", "skipped", "failed")

    def __init__(self, pods: Sequence[str]) -> None:
        self.pods = list(pods)
        self._new_columns()

    def clear(self) -> None:
        """Drop the rows."""
        self._new_columns()

    def _new_columns(self) -> None:
        self.events = array("Q")
        self.handled_ns = array("q")
        # one entry a read
        self.reads_pod = array("H")
        self.reads_count = array("I")
        self.reads_received_ns = array("q")
        # (row, path, outcome) of the few rows that are not `broker, handled`
        self.odd_rows: list[tuple[int, int, int]] = []

    def __len__(self) -> int:
        return len(self.events)

    def add(self, event: int, pod: int, received_ns: int, handled_ns: int, *, path: int = 0, outcome: int = 0) -> None:
        """Append one row; `path` and `outcome` are places in `PATHS` and `RESULTS`."""
        if path or outcome:
            self.odd_rows.append((len(self.events), path, outcome))
        self.events.append(event)
        self.handled_ns.append(handled_ns)
        self.reads_pod.append(pod)
        self.reads_count.append(1)
        self.reads_received_ns.append(received_ns)

    def take(self) -> pa.Table:
        """Return the rows as an arrow table and start anew."""
        events, handled = self.events, self.handled_ns
        pod, count, received = self.reads_pod, self.reads_count, self.reads_received_ns
        odd_rows = self.odd_rows
        self._new_columns()
        counts = np.frombuffer(count, dtype=np.uint32)
        paths = np.zeros(len(events), dtype=np.uint16)
        outcomes = np.zeros(len(events), dtype=np.uint16)
        for row, path, outcome in odd_rows:
            paths[row], outcomes[row] = path, outcome
        return arrow_table(
            self.table,
            {
                "event": np.frombuffer(events, dtype=np.uint64),
                "pod": np.repeat(np.frombuffer(pod, dtype=np.uint16), counts),
                "received_ns": np.repeat(np.frombuffer(received, dtype=np.int64), counts),
                "handled_ns": np.frombuffer(handled, dtype=np.int64),
                "path": paths,
                "outcome": outcomes,
            },
            {"pod": self.pods, "path": list(self.PATHS), "outcome": list(self.RESULTS)},
        )


Tamper = Callable[[pa.Table], pa.Table]


class _AtOnce(Executor):
    """An executor that does the work at once, in the caller: in virtual time a thread would be a second clock."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **more: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **more))
        except Exception as error:
            done.set_exception(error)
        return done


def _one_thread() -> Executor:
    return _AtOnce() if is_virtual() else ThreadPoolExecutor(1, thread_name_prefix="record")


class Recorder:
    """The buffers of one process, which become parts of a run folder.

    Parameters
    ----------
    folder
        The run folder.
    source
        Which process this is; part of the parts' file names, so unique in a run.
    pods
        Names of the pods whose deliveries are recorded here, by number.
    new_writer
        Makes the executor that writes parts; under gevent it must be one of real threads.
    tamper
        Changes the deliveries of a part before they are written, or the tables that its attribute `tables` names: how the self-audit plants
        errors. Never set in a real run.
    """

    def __init__(
        self,
        folder: Path,
        *,
        source: str,
        pods: Sequence[str] = (),
        new_writer: Callable[[], Executor] = _one_thread,
        tamper: Tamper | None = None,
    ) -> None:
        self.folder = folder
        self._new_writer = new_writer
        self._tamper = tamper
        self.source = source
        self.deliveries = DeliveryBuffer(pods)
        self.tables = {table: TableBuffer(table) for table in TABLES if table != "deliveries"}
        self._parts = 0
        self._rows_flushed = dict.fromkeys(TABLES, 0)
        self._writer: Executor | None = None
        self._pending: list[Future[None]] = []
        self._keep: Callable[[str, pa.Table], None] | None = None

    def keep_parts(self, keep: Callable[[str, pa.Table], None]) -> None:
        """Give each part (its table, its rows) to `keep` from now on, and write none."""
        self._keep = keep

    def rows(self, table: str) -> int:
        """Return how many rows of a table were recorded so far."""
        return self._rows_flushed[table] + len(self.deliveries if table == "deliveries" else self.tables[table])

    def rows_waiting(self) -> int:
        """Return how many rows the fullest buffer holds."""
        return max(len(self.deliveries), *(len(self.tables[table]) for table in ("publishes", "keys", "calls", "reads")))

    def flush(self, *, at_least_rows: int = 1) -> None:
        """Hand every buffer of at least so many rows to the writer thread.

        Raises
        ------
        RecordError
            An earlier part could not be written.
        """
        self._reap(wait_for_room=True)
        buffers: list[DeliveryBuffer | TableBuffer] = [self.deliveries, *self.tables.values()]
        for buffer in buffers:
            if len(buffer) >= at_least_rows:
                self._parts += 1
                self._rows_flushed[buffer.table] += len(buffer)
                rows = buffer.take()
                if self._tamper is not None and buffer.table in getattr(self._tamper, "tables", ("deliveries",)):
                    rows = self._tamper(rows)
                if self._keep is not None:
                    self._keep(buffer.table, rows)
                    continue
                path = self.folder / PARTS / f"{buffer.table}-{self.source}-{self._parts:05d}.parquet"
                if self._writer is None:
                    self._writer = self._new_writer()
                self._pending.append(self._writer.submit(write_table, path, buffer.table, rows))

    def forget(self) -> None:
        """Drop every row that waits, for a pod whose record nobody will read."""
        self.deliveries.clear()
        for table in self.tables.values():
            table.clear()

    def _reap(self, *, wait_for_room: bool) -> None:
        while self._pending and (self._pending[0].done() or (wait_for_room and len(self._pending) > MAX_PENDING_PARTS)):
            self._pending.pop(0).result()

    def close(self) -> None:
        """Write what is left and end the writer thread.

        Raises
        ------
        RecordError
            A part could not be written.
        """
        try:
            self.flush()
            while self._pending:
                self._pending.pop(0).result()
        finally:
            if self._writer is not None:
                self._writer.shutdown(wait=True)
                self._writer = None


def arrow_table(table: str, columns: Mapping[str, np.ndarray], words: Mapping[str, list[str]]) -> pa.Table:
    """Build an arrow table of `schema.TABLES`; `name` and `text` columns are codes into `words`, NaN in an optional column is null."""
    arrays, optional = [], OPTIONAL.get(table, ())
    for field in arrow_schema(table):
        values = columns[field.name]
        if field.type == pa.string():
            arrays.append(_arrow_words([words[field.name][code] for code in values.tolist()]))
        elif field.name in words:
            codes = _arrow_array(pa.uint16(), values.astype(np.uint16, copy=False))
            arrays.append(pa.DictionaryArray.from_arrays(codes, _arrow_words(words[field.name])))
        else:
            arrays.append(_arrow_array(field.type, values, known=~np.isnan(values) if field.name in optional else None))
    return pa.Table.from_arrays(arrays, schema=arrow_schema(table))


# `pa.array` would do for both, but its first call imports pandas: a stall of a quarter second in the middle of a run. So would
# `Schema.empty_table` where a table is sealed.
def _arrow_array(kind: pa.DataType, values: np.ndarray, *, known: np.ndarray | None = None) -> pa.Array:
    nulls = None if known is None else pa.py_buffer(np.packbits(known, bitorder="little"))
    return pa.Array.from_buffers(kind, len(values), [nulls, pa.py_buffer(np.ascontiguousarray(values))])


def _arrow_words(words: Sequence[str]) -> pa.StringArray:
    encoded = [word.encode() for word in words]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))


def write_table(path: Path, table: str, rows: pa.Table) -> None:
    """Write rows as one parquet file that appears whole or not at all.

    Raises
    ------
    RecordError
        The file could not be written.
    """
    _write_groups(path, table, [rows])


def _write_groups(path: Path, table: str, groups: Iterable[pa.Table]) -> None:
    names = [column for column, kind in TABLES[table].items() if kind == "name"]
    deltas = {c: "DELTA_BINARY_PACKED" for c, kind in TABLES[table].items() if kind not in ("name", "text", "float64")}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as unfinished:
            options = {"compression": "zstd", "use_dictionary": names, "column_encoding": deltas}
            with pq.ParquetWriter(unfinished, arrow_schema(table), **options) as writer:
                for rows in groups:
                    writer.write_table(rows, row_group_size=ROWS_PER_GROUP)
    except OSError as error:
        raise RecordError(f"cannot write {path}: {why_not_written(error)}") from error


def seal_tables(folder: Path) -> dict[str, SealedTable]:
    """Join the parts of each table into one read-only file and return rows, bytes and checksum (CRC-32) of each.

    Parts are joined in the order of source and number, so the rows of a pod keep their order; no more of them is in memory than a part and
    a group of rows. Their times stay as they were written: where processes had several clocks, it is kept which of them wrote which rows,
    so that whoever judges can translate them, by a line that can still be looked at and doubted. What was translated here could not be
    taken back.

    Raises
    ------
    RecordError
        A table could not be written; the parts are kept.
    """
    sealed = {}
    several_clocks = any((folder / PARTS).glob("clocks-*.parquet"))
    for table in TABLES:
        parts = sorted((folder / PARTS).glob(f"{table}-*.parquet"))
        path = folder / f"{table}.parquet"
        if len(parts) != 1 or not _take_over(parts[0], path):
            _write_groups(path, table, _in_groups(table, parts))
        path.chmod(0o444)
        rows = [_rows_of(part) for part in parts]
        sources = [(source_of(part.stem, table), many) for part, many in zip(parts, rows, strict=True)] if several_clocks else None
        sealed[table] = SealedTable(sum(rows), path.stat().st_size, file_checksum(path), sources)
    for part in (folder / PARTS).glob("*"):
        part.unlink()
    if (folder / PARTS).exists():
        (folder / PARTS).rmdir()
    return sealed


def joined_parts(parts: Sequence[pa.Table]) -> pa.Table:
    """Return the parts of a table of one process as one, its words numbered as in a sealed file."""
    return parts[0] if len(parts) == 1 else pa.concat_tables(parts).unify_dictionaries().combine_chunks()


def _take_over(part: Path, path: Path) -> bool:
    """Make the only part of a table the table, which would be written with the same bytes; return False where there are no links.

    The part stays as well until every table is sealed.
    """
    try:
        with whole_file(path) as unfinished:
            os.link(part, unfinished)
    except OSError:
        return False
    return True


def _rows_of(part: Path) -> int:
    rows: int = pq.read_metadata(part).num_rows
    return rows


def _in_groups(table: str, parts: Sequence[Path]) -> Iterator[pa.Table]:
    """Yield the rows of some parts as groups of `ROWS_PER_GROUP`, all with the same words; at least one, which may be empty."""
    names = [column for column, kind in TABLES[table].items() if kind == "name"]
    words = _words_of(parts, names) if len(parts) > 1 else {}
    waiting, yielded = pa.Table.from_batches([], schema=arrow_schema(table)), False
    for part in parts:
        rows = pq.ParquetFile(part).read()
        for name in words:
            rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), _recoded(rows.column(name), words[name]))
        waiting = pa.concat_tables([waiting, rows]) if waiting.num_rows else rows
        while waiting.num_rows >= ROWS_PER_GROUP:
            yield waiting.slice(0, ROWS_PER_GROUP).combine_chunks()
            waiting, yielded = waiting.slice(ROWS_PER_GROUP), True
    if waiting.num_rows or not yielded:
        yield waiting.combine_chunks()


def _words_of(parts: Sequence[Path], columns: Sequence[str]) -> dict[str, Names]:
    """Return the words of all parts in the order of their first use: at most `MAX_WORDS` and `OTHERS`, which the parts of several
    processes may exceed together."""
    known = {column: Names() for column in columns}
    for part in parts if columns else ():
        rows = pq.ParquetFile(part).read(columns=list(columns))
        for column, names in known.items():
            for chunk in rows.column(column).chunks:
                for word in chunk.dictionary.to_pylist():
                    names[word]
    return known


def _recoded(column: pa.ChunkedArray, names: Names) -> pa.ChunkedArray:
    """Return a column with its words numbered as `names` does."""
    words, chunks = _arrow_words(list(names)), []
    for chunk in column.chunks:
        codes = np.array([names[word] for word in chunk.dictionary.to_pylist()], dtype=np.uint16)[chunk.indices.to_numpy()]
        chunks.append(pa.DictionaryArray.from_arrays(_arrow_array(pa.uint16(), codes), words))
    return pa.chunked_array(chunks, type=column.type)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file that appears whole or not at all.

    Raises
    ------
    RecordError
        It could not be written.
    """
    try:
        write_whole(path, json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise RecordError(f"cannot write {path}: {why_not_written(error)}") from None
