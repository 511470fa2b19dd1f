"""Keep what a process recorded even when it is killed (SIGKILL): its rows are in files that it maps into its memory.

Rules
-----
1. A row is in its file when `add` returns: the kernel keeps a mapped page, whatever becomes of the process.
2. A file begins with the number of bytes that are rows, written after them: a row is whole, or it is not there.
3. The words of `name` and `text` columns stand in a file of their own, in the order of their first use, before the row that uses them.
4. Disk space is taken before it is mapped: a full disk raises `RecordError`, and never ends the process by SIGBUS.

Beside the tables stand others of what is *under way*: what the process has begun, and nobody else could report if it were killed
(see `sim.pods.pod_journal`). Where nothing is killed, `sim.record.recorder` is faster and compresses.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sim.errors import RecordError
from sim.machine.files import why_not_written
from sim.record.recorder import DeliveryBuffer, Names, Recorder, TableBuffer, Texts
from sim.record.schema import TABLES

JOURNALS = "journals"
UNDER_WAY = "under-way-"
WORDS = "words"
FIRST_BYTES = 64 * 1024
MOST_BYTES = 8 * 1024 * 1024  # a file grows by at most so much at a time
KEPT_ROWS = 10_000  # deliveries that stay in memory for the display
_LENGTH = struct.Struct("=q")


class JournalFile:
    """A file that bytes are appended to through a mapping that grows; the first bytes make the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._map: mmap.mmap | None = None
        self._end = self._capacity = _LENGTH.size

    def __len__(self) -> int:
        return self._end - _LENGTH.size

    def __iadd__(self, rows: bytes) -> JournalFile:
        end = self._end + len(rows)
        if end > self._capacity or self._map is None:
            self._map = self._grow(end)
        self._map[self._end : end] = rows
        self._end = end
        _LENGTH.pack_into(self._map, 0, end - _LENGTH.size)
        return self

    def _grow(self, end: int) -> mmap.mmap:
        self._capacity = max(FIRST_BYTES, end + min(end, MOST_BYTES))
        try:
            if self._map is not None:
                self._map.close()
            with self._path.open("ab") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, self._capacity)
                else:
                    file.truncate(self._capacity)
            with self._path.open("r+b") as file:
                return mmap.mmap(file.fileno(), self._capacity)
        except OSError as error:
            raise RecordError(f"cannot write {self._path}: {why_not_written(error)}") from None

    def close(self) -> None:
        """Unmap the file; what was written stays."""
        if self._map is not None:
            self._map.close()


class JournalNames(Names):
    """Numbers for words as in `Names`, with each new word written down."""

    def __init__(self, words: JournalFile, table: str, column: str) -> None:
        super().__init__()
        self._words = words
        self._where = (table, column)

    def __missing__(self, word: str) -> int:
        code = super().__missing__(word)
        if word in self:
            self._words += json.dumps([*self._where, word]).encode() + b"\n"
        return code


class JournalTexts(Texts):
    """Numbers for texts as in `Texts`, with each new text written down."""

    def __init__(self, words: JournalFile, table: str, column: str) -> None:
        super().__init__()
        self._words = words
        self._where = (table, column)

    def __missing__(self, text: str) -> int:
        self._words += json.dumps([*self._where, text]).encode() + b"\n"
        return super().__missing__(text)


class JournalTable(TableBuffer):
    """The rows of one table in a file; `name` is the file's, where it is not the table's."""

    def __init__(self, table: str, folder: Path, words: JournalFile, *, name: str = "") -> None:
        super().__init__(table)
        self._rows: Any = JournalFile(folder / (name or table))
        for column, kind in self.names.items():
            self.names[column] = (JournalTexts if isinstance(kind, Texts) else JournalNames)(words, name or table, column)
        self._coded = tuple((place, self.names[column]) for place, column in enumerate(self.types) if column in self.names)

    def close(self) -> None:
        """Unmap the file."""
        self._rows.close()


class JournalDeliveries(DeliveryBuffer):
    """Deliveries in memory as in `DeliveryBuffer`, until `commit` writes them down; the last ones stay there for the display."""

    def __init__(self, pods: Sequence[str], rows: JournalTable) -> None:
        super().__init__(pods)
        self.rows = rows
        self._done = self._reads_done = 0

    def commit(self) -> None:
        """Write down the rows since the last time."""
        odd = {row: (path, outcome) for row, path, outcome in self.odd_rows}
        for read in range(self._reads_done, len(self.reads_pod)):
            pod, received_ns = self.pods[self.reads_pod[read]], self.reads_received_ns[read]
            for row in range(self._done, self._done + self.reads_count[read]):
                path, outcome = odd.get(row, (0, 0))
                self.rows.add(self.events[row], pod, received_ns, self.handled_ns[row], self.PATHS[path], self.RESULTS[outcome])
            self._done += self.reads_count[read]
        self._reads_done = len(self.reads_pod)
        self.odd_rows.clear()
        if self._done > KEPT_ROWS:
            self._new_columns()
            self._done = self._reads_done = 0

    def add(self, event: int, pod: int, received_ns: int, handled_ns: int, *, path: int = 0, outcome: int = 0) -> None:
        """Append one row, and write it down at once."""
        super().add(event, pod, received_ns, handled_ns, path=path, outcome=outcome)
        self.commit()


class JournalRecorder(Recorder):
    """The journal of one process, in the folder ``journals/<source>`` of a run.

    Attributes
    ----------
    under_way
        Rows of `publishes`, `keys`, `identities`, `calls` and `deliveries` as they will stand if nothing more becomes of them.
    """

    def __init__(self, folder: Path, *, source: str, pods: Sequence[str] = ()) -> None:
        super().__init__(folder, source=source, pods=pods)
        here = folder / JOURNALS / source
        here.mkdir(parents=True)
        self._words = JournalFile(here / WORDS)
        tables = {table: JournalTable(table, here, self._words) for table in TABLES if table != "deliveries"}
        began = ("publishes", "keys", "identities", "calls", "deliveries")
        self.under_way = {table: JournalTable(table, here, self._words, name=UNDER_WAY + table) for table in began}
        self.tables = dict(tables)
        self.journal = JournalDeliveries(pods, JournalTable("deliveries", here, self._words))
        self.deliveries = self.journal
        self._files: tuple[JournalTable | JournalFile, ...] = (*tables.values(), *self.under_way.values(), self.journal.rows, self._words)

    def rows(self, table: str) -> int:
        """Return how many rows of a table were recorded so far."""
        return len(self.journal.rows if table == "deliveries" else self.tables[table])

    def rows_waiting(self) -> int:
        """Return 0: no row waits to be written."""
        return 0

    def flush(self, *, at_least_rows: int = 1) -> None:
        """Do nothing: every row is written down."""

    def close(self) -> None:
        """Unmap the files."""
        for one in self._files:
            one.close()


class Journal:
    """What a process wrote down, alive, ended or killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._words: dict[tuple[str, str], list[str]] = {}
        for line in self._bytes(WORDS).splitlines():
            table, column, word = json.loads(line)
            self._words.setdefault((table, column), []).append(word)

    def _bytes(self, name: str) -> bytes:
        try:
            with (self._folder / name).open("rb") as file:
                head = file.read(_LENGTH.size)
                return file.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else b""
        except FileNotFoundError:
            return b""

    def rows(self, table: str, *, under_way: bool = False) -> np.ndarray:
        """Return the rows of a table as a structured array; `name` and `text` columns are codes into `words`."""
        return np.frombuffer(self._bytes((UNDER_WAY if under_way else "") + table), dtype=TableBuffer(table).dtype)

    def words(self, table: str, *, under_way: bool = False) -> dict[str, list[str]]:
        """Return the words of each `name` and `text` column of a table."""
        name = (UNDER_WAY if under_way else "") + table
        return {column: self._words.get((name, column), []) for column, kind in TABLES[table].items() if kind in ("name", "text")}

    def read(self, table: str, *, under_way: bool = False) -> list[dict[str, Any]]:
        """Return the rows of a table one by one, with their words."""
        rows, words = self.rows(table, under_way=under_way), self.words(table, under_way=under_way)
        return [{c: words[c][v] if c in words else v for c, v in zip(TABLES[table], row, strict=True)} for row in rows.tolist()]
