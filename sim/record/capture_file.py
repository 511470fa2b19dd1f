"""The file of a capture: what passed on some channels of a server, row by row, and under which circumstances it was heard.

Columns: `at_ns` (nanoseconds since the capture began), `channel` (its whole name), `bytes` of the payload, `hash` of the payload, and the
`payload` itself of the channels for which that was asked; else null.

Rules
-----
1. Rows stand in the order in which they were heard; their times do not decrease.
2. A hash tells equal payloads from others within one capture. Its key is thrown away, so that nobody can try what a payload may have been.
3. Memory is bounded: rows are written in groups by one thread, and whoever is two groups ahead of it waits.
4. The file appears whole or not at all. What is true of all of it (`CaptureInfo`) stands at its end, so a file that was cut has none.
5. No secret is in it: of the server's URL only scheme, host and port are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sim.errors import CaptureError
from sim.machine.files import whole_file, why_not_written

NAME = "capture.parquet"  # of the file in its folder
FORMAT = 1
KEY = b"buslab-capture"  # of the info in the file's metadata
ROWS_PER_GROUP = 1 << 16
BYTES_PER_GROUP = 16 * 1024 * 1024  # of payloads
MAX_PENDING_GROUPS = 2
SCHEMA = pa.schema(
    [
        ("at_ns", pa.int64()),
        ("channel", pa.dictionary(pa.int32(), pa.string())),
        ("bytes", pa.uint32()),
        ("hash", pa.uint64()),
        ("payload", pa.large_binary()),
    ]
)
ENDS = ("time", "events", "bytes", "channels", "interrupted", "buffer", "server")

Many = Annotated[int, msgspec.Meta(ge=0)]


class CaptureInfo(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is true of a whole capture.

    Attributes
    ----------
    server
        Its URL without user and password.
    heard_by, names
        The command of the subscription, and its pattern or channels.
    started_at, seconds
        ISO time in UTC, and how long it lasted.
    wanted_s
        How long it was meant to last.
    ended, reason
        One of `ENDS`; and in words where that was not as it was meant to end.
    probes
        Events of a prober of this lab, which were left out.
    forms
        Form of an event (an envelope of `sim.bus.envelopes`, or ``other``) -> how many of those that were looked at have it.
    with_payload
        The channels whose payloads were kept.
    buffer_bytes_max
        The most that waited in the server for the capture; None where the server does not tell.
    cpu_share
        Of a core, what the server used meanwhile; None where it does not tell.
    """

    format: int
    server: str
    heard_by: str
    names: tuple[str, ...]
    started_at: str
    seconds: float
    wanted_s: float
    ended: str
    events: Many
    reason: str = ""
    probes: Many = 0
    forms: dict[str, int] = {}
    with_payload: tuple[str, ...] = ()
    buffer_bytes_max: int | None = None
    cpu_share: float | None = None


@dataclass(frozen=True)
class Capture:
    """What was heard, in the order of its times.

    Attributes
    ----------
    at_ns
        int64, shape (events,): nanoseconds since the capture began.
    channel
        int32, shape (events,): index into `channels`.
    sizes
        uint32, shape (events,): bytes of the payload.
    hash
        uint64, shape (events,): equal where payloads are.
    payloads
        Row -> payload, of those that were kept.
    """

    info: CaptureInfo
    channels: tuple[str, ...]
    at_ns: np.ndarray
    channel: np.ndarray
    sizes: np.ndarray
    hash: np.ndarray
    payloads: dict[int, bytes]

    def __len__(self) -> int:
        return len(self.at_ns)

    def by_channel(self) -> list[np.ndarray]:
        """Return the rows of each channel, in their order."""
        if not self.channels:
            return []
        order = np.argsort(self.channel, kind="stable")
        return np.split(order, np.searchsorted(self.channel[order], np.arange(1, len(self.channels))))


class CaptureWriter:
    """The rows of a capture on their way to its file; made by `writing_capture`.

    Attributes
    ----------
    events, payload_bytes
        How many rows there are so far, and how many bytes of payloads were kept.
    channels
        Name -> number of each channel that was heard, as its bytes.
    """

    def __init__(self, path: Path, writer: Any, pool: ThreadPoolExecutor) -> None:
        self.events = self.payload_bytes = 0
        self.channels: dict[bytes, int] = {}
        self._names: list[str] = []
        self._path, self._writer, self._pool = path, writer, pool
        self._pending: list[Future[None]] = []
        self._hash = hash_function()
        self._begin_group()

    def _begin_group(self) -> None:
        self._at, self._channel = array("q"), array("i")
        self._sizes, self._hashes = array("I"), array("Q")
        self._payloads: list[tuple[int, bytes]] = []
        self._group_bytes = 0

    def add(self, at_ns: int, channel: bytes, payload: bytes, *, keep: bool) -> None:
        """Append one event; `keep`: its payload too.

        Raises
        ------
        CaptureError
            An earlier group could not be written.
        """
        code = self.channels.get(channel)
        if code is None:
            code = self.channels[channel] = len(self.channels)
            self._names.append(channel.decode("utf-8", "backslashreplace"))
        if keep:
            self._payloads.append((len(self._at), payload))
            self._group_bytes += len(payload)
            self.payload_bytes += len(payload)
        self._at.append(at_ns)
        self._channel.append(code)
        self._sizes.append(len(payload))
        self._hashes.append(self._hash(payload))
        self.events += 1
        if len(self._at) >= ROWS_PER_GROUP or self._group_bytes >= BYTES_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        while len(self._pending) > MAX_PENDING_GROUPS or (self._pending and self._pending[0].done()):
            self._wait(self._pending.pop(0))
        if len(self._at):
            rows = _group(self._at, self._channel, list(self._names), self._sizes, self._hashes, self._payloads)
            self._pending.append(self._pool.submit(self._writer.write_table, rows))
            self._begin_group()

    def _wait(self, group: Future[None]) -> None:
        try:
            group.result()
        except OSError as error:
            raise CaptureError(f"cannot write {self._path}: {why_not_written(error)}") from None

    def finish(self, info: CaptureInfo) -> None:
        """Write what is left, and what is true of all of it.

        Raises
        ------
        CaptureError
            It could not be written.
        """
        self._flush()
        while self._pending:
            self._wait(self._pending.pop(0))
        self._writer.add_key_value_metadata({KEY: msgspec.json.encode(info)})


@contextlib.contextmanager
def writing_capture(path: Path) -> Iterator[CaptureWriter]:
    """Open a capture's file for writing; it is there once the block ends, and not at all when that fails.

    Raises
    ------
    CaptureError
        The file could not be written.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="capture")
    try:
        with whole_file(path) as unfinished:
            parquet = pq.ParquetWriter(unfinished, SCHEMA, compression="zstd", use_dictionary=["channel"], write_page_checksum=True)
            try:
                yield CaptureWriter(path, parquet, pool)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
                parquet.close()
    except OSError as error:
        raise CaptureError(f"cannot write {path}: {why_not_written(error)}") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def hash_function() -> Callable[[bytes], int]:
    """Return what gives equal payloads equal numbers of 64 bits, by a key that nobody keeps."""
    keyed = hashlib.blake2b(key=secrets.token_bytes(32), digest_size=8)

    def hashed(payload: bytes) -> int:
        one = keyed.copy()
        one.update(payload)
        return int.from_bytes(one.digest(), "little")

    return hashed


# `pa.array` would do, but its first call imports pandas: a stall of a quarter second while events come in.
def _group(
    at: array[int], channel: array[int], names: list[str], sizes: array[int], hashes: array[int], payloads: list[tuple[int, bytes]]
) -> pa.Table:
    many = len(at)
    encoded = [name.encode() for name in names]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    words = pa.StringArray.from_buffers(len(encoded), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))
    codes = pa.Array.from_buffers(pa.int32(), many, [None, pa.py_buffer(channel)])
    known, lengths = np.zeros(many, dtype=bool), np.zeros(many + 1, dtype=np.int64)
    for row, payload in payloads:
        known[row], lengths[row + 1] = True, len(payload)
    kept = [
        pa.py_buffer(np.packbits(known, bitorder="little")),
        pa.py_buffer(np.cumsum(lengths)),
        pa.py_buffer(b"".join(one for _, one in payloads)),
    ]
    columns = [
        pa.Array.from_buffers(pa.int64(), many, [None, pa.py_buffer(at)]),
        pa.DictionaryArray.from_arrays(codes, words),
        pa.Array.from_buffers(pa.uint32(), many, [None, pa.py_buffer(sizes)]),
        pa.Array.from_buffers(pa.uint64(), many, [None, pa.py_buffer(hashes)]),
        pa.Array.from_buffers(pa.large_binary(), many, kept),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def capture_path(named: Path) -> Path:
    """Return the file of a capture that was named by its folder or by itself."""
    return named / NAME if named.is_dir() else named


def read_capture(path: str | Path) -> Capture:
    """Read a capture, named by its file or its folder.

    Raises
    ------
    CaptureError
        There is no such file, or it was cut, damaged, or written by another program or version.
    """
    path = capture_path(Path(path))
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            info = _info_of(path, file)
            rows = file.read().unify_dictionaries()
    except FileNotFoundError:
        raise CaptureError(f"there is no capture {path}: make one with buslab capture") from None
    except (OSError, pa.ArrowException) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CaptureError(f"{path} is no capture, or was cut or damaged: {why}; copy it again, or capture anew") from None
    channels, codes = _words_of(rows.column("channel"))
    at_ns = _numbers(rows.column("at_ns"))
    if len(rows) != info.events or (len(at_ns) and (at_ns[0] < 0 or np.any(np.diff(at_ns) < 0))):
        raise CaptureError(f"{path} was changed: its rows are not those of which it tells; capture anew")
    return Capture(
        info=info,
        channels=channels,
        at_ns=at_ns,
        channel=codes,
        sizes=_numbers(rows.column("bytes")),
        hash=_numbers(rows.column("hash")),
        payloads=_payloads_of(rows.column("payload")),
    )


def _info_of(path: Path, file: pq.ParquetFile) -> CaptureInfo:
    said = (file.metadata.metadata or {}).get(KEY)
    if said is None:
        raise CaptureError(f"{path} is no capture of buslab: make one with buslab capture")
    try:
        written = msgspec.json.decode(said)
        number = written.get("format") if isinstance(written, dict) else None
        if number != FORMAT:
            raise CaptureError(f"{path} is a capture of format {number!r}, this version reads {FORMAT}; use the version that wrote it")
        info = msgspec.convert(written, CaptureInfo)
    except msgspec.MsgspecError as error:
        raise CaptureError(f"cannot read {path}: {error}; the file is damaged, copy it again") from None
    for field in SCHEMA:
        there = file.schema_arrow.field(field.name).type if field.name in file.schema_arrow.names else "not there"
        if there != field.type:
            raise CaptureError(f"{path}: column {field.name} is {there}, expected {field.type}; it is of another version")
    return info


# arrow's own ways to numpy import pandas, which takes every process that plays a capture a second.
def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column without nulls."""
    kind = np.dtype(str(column.type))
    parts = [np.frombuffer(one.buffers()[1], kind)[one.offset : one.offset + len(one)] for one in column.chunks if len(one)]
    return np.concatenate(parts) if parts else np.zeros(0, kind)


def _words_of(column: pa.ChunkedArray) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the words of a column whose chunks have one dictionary, and the code of each row."""
    chunks = [one for one in column.chunks if len(one)]
    words = tuple(one.as_py() for one in chunks[0].dictionary) if chunks else ()
    return words, _numbers(pa.chunked_array([one.indices for one in chunks], type=pa.int32()))


def _payloads_of(column: pa.ChunkedArray) -> dict[int, bytes]:
    found, first = dict[int, bytes](), 0
    for chunk in column.chunks:
        if chunk.null_count < len(chunk):
            bits = None if chunk.null_count == 0 else np.frombuffer(chunk.buffers()[0], np.uint8)
            known = np.ones(len(chunk), bool) if bits is None else np.unpackbits(bits, bitorder="little")[chunk.offset :][: len(chunk)]
            found |= {first + row: chunk[row].as_py() for row in np.flatnonzero(known).tolist()}
        first += len(chunk)
    return found
