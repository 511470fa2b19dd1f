"""The recorder: what is added is what is read back, in order, and what cannot be written is said."""

from __future__ import annotations

import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.errors import RecordError
from sim.record.arrow import arrow_schema
from sim.record.reader import codes_of, read_table
from sim.record.recorder import PARTS, DeliveryBuffer, Names, Recorder, TableBuffer, _one_thread, seal_tables, write_json
from sim.record.run_info import SealedTable
from sim.record.schema import MAX_WORDS, OPTIONAL, OTHERS, TABLES
from tests.support.examples import examples

PODS = ["a-0", "a-1", "b-0"]
RANGES = {"uint64": (0, 2**64 - 1), "int64": (-(2**63), 2**63 - 1), "uint32": (0, 2**32 - 1), "int32": (-(2**31), 2**31 - 1)}
VALUES: dict[str, st.SearchStrategy[Any]] = {kind: st.integers(*bounds) for kind, bounds in RANGES.items()}
VALUES |= {"float64": st.floats(allow_nan=False), "name": st.text(st.characters(exclude_categories=["Cs"]), max_size=6)}
VALUES |= {"text": VALUES["name"]}


def rows_of(table: str) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    return st.lists(st.tuples(*(VALUES[kind] for kind in TABLES[table].values())), max_size=12)


def as_rows(table: pa.Table) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in table.to_pylist()]


def read_sealed(folder: Path, table: str) -> list[tuple[Any, ...]]:
    sealed = pq.ParquetFile(folder / f"{table}.parquet").read()
    assert sealed.schema.equals(arrow_schema(table))
    return as_rows(sealed)


@pytest.mark.parametrize("table", [table for table in TABLES if table != "deliveries"])
@given(st.data())
@settings(max_examples=examples(25))
def test_rows_of_a_table_come_back_as_they_were_added(table: str, data: st.DataObject) -> None:
    buffer = TableBuffer(table)
    for _ in range(2):  # the second time words are known already
        rows = data.draw(rows_of(table))
        for row in rows:
            buffer.add(*row)
        assert len(buffer) == len(rows)
        assert as_rows(buffer.take()) == rows
        assert len(buffer) == 0


# one read: (pod, received, [(event, handled, failed)])
events = st.tuples(VALUES["uint64"], st.integers(0, 2**62), st.booleans())
reads = st.lists(st.tuples(st.integers(0, len(PODS) - 1), st.integers(0, 2**62), st.lists(events, min_size=1, max_size=4)), max_size=10)
Reads = list[tuple[int, int, list[tuple[int, int, bool]]]]


def hear(buffer: DeliveryBuffer, reads: Reads) -> list[tuple[Any, ...]]:
    """Add reads as a pod does; return the rows they must become."""
    rows = []
    for pod, received_ns, heard in reads:
        for event, handled_ns, failed in heard:
            buffer.events.append(event)
            buffer.handled_ns.append(handled_ns)
            if failed:
                buffer.odd_rows.append((len(buffer.handled_ns) - 1, 0, 2))
            rows.append((event, PODS[pod], received_ns, handled_ns, "broker", "failed" if failed else "handled"))
        buffer.reads_pod.append(pod)
        buffer.reads_count.append(len(heard))
        buffer.reads_received_ns.append(received_ns)
    return rows


@given(st.lists(reads, min_size=1, max_size=3))
def test_reads_expand_to_one_row_a_delivery_odd_ones_in_their_place(parts: list[Reads]) -> None:
    buffer = DeliveryBuffer(PODS)
    for part in parts:
        rows = hear(buffer, part)
        assert len(buffer) == len(rows)
        assert as_rows(buffer.take()) == rows


@given(st.lists(st.tuples(st.sampled_from(["inline", "locust"]), reads, st.booleans()), max_size=6))
@settings(max_examples=examples(20), deadline=None)
def test_parts_of_several_sources_are_sealed_without_loss_and_in_order(steps: list[tuple[str, Reads, bool]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recorders = {source: Recorder(folder, source=source, pods=PODS) for source in ("inline", "locust")}
        wanted: dict[str, list[tuple[Any, ...]]] = {"inline": [], "locust": []}
        for source, reads, flush in steps:
            wanted[source] += hear(recorders[source].deliveries, reads)
            assert recorders[source].rows("deliveries") == len(wanted[source])
            if flush:
                recorders[source].flush()
        for recorder in recorders.values():
            recorder.close()
        sealed = seal_tables(folder)
        assert read_sealed(folder, "deliveries") == wanted["inline"] + wanted["locust"]
        assert sealed["deliveries"].rows == len(wanted["inline"] + wanted["locust"])


@pytest.mark.parametrize("links", [True, False])
def test_a_table_of_one_part_has_the_bytes_that_joining_would_write(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only part of a table becomes the table, and stays until all are sealed; a file system without links gets a copy."""

    def no_link(part: Path, path: Path) -> None:
        raise OSError(95, "Operation not supported")

    if not links:
        monkeypatch.setattr(os, "link", no_link)
    recorder = Recorder(tmp_path, source="inline", pods=PODS)
    hear(recorder.deliveries, [(1, 10, [(1, 11, False), (2, 12, True)]), (0, 20, [(1, 21, False)])])
    for number in range(3):
        recorder.tables["reads"].add(*read_row(number, f"tpl_{number % 2}"))
    recorder.close()
    parts = {path.name.partition("-")[0]: path.read_bytes() for path in (tmp_path / PARTS).glob("*.parquet")}
    assert set(parts) == {"deliveries", "reads"}
    sealed = seal_tables(tmp_path)
    for table, written in parts.items():
        path = tmp_path / f"{table}.parquet"
        assert path.read_bytes() == written and sealed[table].rows == 3
        assert path.stat().st_mode & 0o777 == 0o444 and path.stat().st_nlink == 1
    assert not (tmp_path / PARTS).exists()


def pod_row(number: int) -> tuple[Any, ...]:
    return (f"p-{number}", "service", "inline", "a,b", number, "starting", "connecting", 0)


def read_row(number: int, word: str) -> tuple[Any, ...]:
    return (number, "p-0", word, number, "miss")


def test_words_beyond_those_that_fit_become_one(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, source="inline")
    count = 66_000  # more than 16 bits number
    for number in range(count):
        recorder.tables["reads"].add(*read_row(number, f"tpl_{number}"))
        if number == MAX_WORDS - 10:
            recorder.flush()
    recorder.tables["reads"].add(*read_row(count, "tpl_7"))
    recorder.close()
    seal_tables(tmp_path)
    words = [row[2] for row in read_sealed(tmp_path, "reads")]
    assert words == [f"tpl_{n}" if n < MAX_WORDS else OTHERS for n in range(count)] + ["tpl_7"]
    frame = read_table(tmp_path / "reads.parquet", "reads")
    assert codes_of(frame["subject"])[1][-1] == OTHERS
    assert frame["subject"].astype(str).tolist() == words


def test_words_that_fit_one_process_but_not_all_of_them_together_become_one_when_the_run_is_sealed(tmp_path: Path) -> None:
    for source in ("a", "b"):
        recorder = Recorder(tmp_path, source=source)
        for number in range(40_000):
            recorder.tables["reads"].add(*read_row(number, f"{source}_{number}"))
        recorder.tables["reads"].add(*read_row(40_000, "both"))
        recorder.close()
    seal_tables(tmp_path)
    rows = read_sealed(tmp_path, "reads")
    words = [row[2] for row in rows]
    kept = MAX_WORDS - 40_001
    assert words[:40_001] == [*(f"a_{n}" for n in range(40_000)), "both"]
    assert words[40_001:] == [*(f"b_{n}" if n < kept else OTHERS for n in range(40_000)), "both"]
    assert [row[0] for row in rows] == [*range(40_001)] * 2, "the other columns are as they were"
    assert {row[1] for row in rows} == {"p-0"}


def test_more_than_ten_thousand_words_and_a_hundred_parts_keep_their_order(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, source="inline")
    for number in range(12_000):
        recorder.tables["pods"].add(*pod_row(number))
        if number % 100 == 0:
            recorder.flush()
    recorder.close()
    seal_tables(tmp_path)
    assert read_sealed(tmp_path, "pods") == [pod_row(number) for number in range(12_000)]


def test_a_sealed_folder_holds_every_table_read_only_and_no_parts(tmp_path: Path) -> None:
    Recorder(tmp_path, source="inline").close()
    sealed = seal_tables(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"{table}.parquet" for table in TABLES}
    for table in TABLES:
        path = tmp_path / f"{table}.parquet"
        assert path.stat().st_mode & 0o777 == 0o444
        assert sealed[table] == SealedTable(rows=0, bytes=path.stat().st_size, crc32=zlib.crc32(path.read_bytes()))
        assert read_sealed(tmp_path, table) == []


def test_a_flush_leaves_small_buffers_alone_when_asked_to(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, source="inline")
    recorder.tables["pods"].add(*pod_row(1))
    recorder.flush(at_least_rows=2)
    assert len(recorder.tables["pods"]) == 1
    recorder.close()
    assert len(list((tmp_path / PARTS).iterdir())) == 1


def test_closing_twice_writes_nothing_twice(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, source="inline")
    recorder.tables["pods"].add(*pod_row(1))
    recorder.close()
    recorder.close()
    assert seal_tables(tmp_path)["pods"].rows == 1


@pytest.fixture(params=["a file in the way", "a folder that is gone and cannot be made"])
def unwritable(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Give a folder in which nobody, not even root, can make a file."""
    if request.param == "a file in the way":
        (tmp_path / PARTS).write_text("not a folder")
        return tmp_path
    return Path("/proc/self/nowhere")


def test_a_folder_that_cannot_be_written_is_named(unwritable: Path) -> None:
    recorder = Recorder(unwritable, source="inline")
    recorder.tables["pods"].add(*pod_row(1))
    with pytest.raises(RecordError, match=f"cannot write {unwritable}"):
        recorder.close()


@pytest.mark.parametrize("write", [lambda f: write_json(f / "run.json", {}), seal_tables], ids=["run.json", "a sealed table"])
def test_a_missing_folder_is_named(tmp_path: Path, write: Callable[[Path], object]) -> None:
    folder = tmp_path / "file"
    folder.write_text("")
    with pytest.raises(RecordError, match=f"cannot write {folder}"):
        write(folder)


FULL_DISK = """
import random, sys
from pathlib import Path
from sim.errors import RecordError
from sim.record.recorder import Recorder, seal_tables
folder = Path(sys.argv[1])
rng = random.Random(1)
recorder = Recorder(folder, source="inline", pods=["a-0"])
try:
    for part in range(100):
        buffer = recorder.deliveries
        for _ in range(10_000):
            buffer.events.append(rng.getrandbits(64)); buffer.handled_ns.append(rng.getrandbits(60))
        buffer.reads_pod.append(0); buffer.reads_count.append(10_000); buffer.reads_received_ns.append(1)
        recorder.flush()
    recorder.close()
except RecordError as error:
    print(error)
else:
    sys.exit("a full disk went unnoticed")
try:
    recorder.close()
except RecordError:
    pass
print("parts:", len(list((folder / "parts").glob("*.parquet"))))
"""


@pytest.mark.broker
def test_a_full_disk_is_said_in_one_line_and_keeps_the_parts_that_fitted(tmp_path: Path) -> None:
    script = tmp_path / "fill.py"
    script.write_text(FULL_DISK)
    disk = tmp_path / "disk"
    disk.mkdir()
    in_a_small_disk = f"mount -t tmpfs -o size=1m small {disk} && exec {sys.executable} {script} {disk}"
    if shutil.which("unshare") and subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0:
        command = ["unshare", "-rm", "sh", "-c", in_a_small_disk]
    else:  # no namespaces: a limit on the size of each file fills nothing but fails alike
        command = ["sh", "-c", f"ulimit -f 100; exec {sys.executable} {script} {disk}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=os.environ | {"PYTHONFAULTHANDLER": "0"})
    assert done.returncode == 0, done
    said, parts = done.stdout.strip().splitlines()
    assert said.startswith(f"cannot write {disk}/parts/deliveries-inline-")
    assert "free some space or choose another --out" in said
    assert int(parts.split()[1]) >= 1


def test_names_are_numbered_by_first_use_whatever_the_order() -> None:
    words = [random.Random(3).choice("abc") for _ in range(50)]
    buffer = TableBuffer("faults")
    for number, word in enumerate(words):
        buffer.add(word, word, number, number, word, number)
    assert [row[0] for row in as_rows(buffer.take())] == words


def test_what_a_platform_does_not_tell_is_null_in_the_file_and_zero_is_zero(tmp_path: Path) -> None:
    table = TableBuffer("hosts")
    table.add(1, "h0", 2, 3, *(math.nan for _ in OPTIONAL["hosts"]))
    table.add(4, "h0", 5, 6, *(0.0 for _ in OPTIONAL["hosts"]))
    rows = as_rows(table.take())
    assert rows == [(1, "h0", 2, 3, *(None for _ in OPTIONAL["hosts"])), (4, "h0", 5, 6, *(0.0 for _ in OPTIONAL["hosts"]))]


def test_rows_are_counted_whether_they_wait_or_were_handed_on(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, source="h0", pods=["p-0"])
    assert (recorder.rows_waiting(), recorder.rows("calls"), recorder.rows("deliveries")) == (0, 0, 0)
    for number in range(3):
        recorder.tables["calls"].add(number, "p", "a", 1, "ok")
        recorder.tables["reads"].add(number, "p-0", "s", 1, "hit")
    recorder.deliveries.add(1, 0, 2, 3)
    recorder.tables["probes"].add(1, "p-0", "ready", 200, "")
    assert (recorder.rows_waiting(), recorder.rows("calls"), recorder.rows("deliveries")) == (3, 3, 1)
    recorder.flush(at_least_rows=2)
    recorder.tables["calls"].add(3, "p", "a", 1, "ok")
    assert (recorder.rows_waiting(), recorder.rows("calls"), recorder.rows("deliveries"), recorder.rows("probes")) == (1, 4, 1, 1)
    recorder.close()
    assert sorted(path.name for path in (tmp_path / PARTS).iterdir()) == [
        "calls-h0-00001.parquet", "calls-h0-00004.parquet", "deliveries-h0-00003.parquet", "probes-h0-00005.parquet",
        "reads-h0-00002.parquet",
    ]  # fmt: skip
    assert recorder.rows("calls") == 4 and recorder.rows_waiting() == 0


def test_what_nobody_will_read_is_dropped(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, source="h0", pods=["p-0"])
    recorder.tables["calls"].add(1, "p", "a", 1, "ok")
    recorder.deliveries.add(1, 0, 2, 3, path=1)
    recorder.forget()
    assert (recorder.rows("calls"), recorder.rows("deliveries"), recorder.rows_waiting(), recorder.deliveries.odd_rows) == (0, 0, 0, [])
    recorder.close()
    assert not (tmp_path / PARTS).exists()


def test_errors_are_planted_into_the_tables_that_are_meant_and_no_other(tmp_path: Path) -> None:
    asked: list[int] = []

    def first_row(rows: pa.Table) -> pa.Table:
        asked.append(rows.num_rows)
        return rows.slice(0, 1)

    def record(folder: Path) -> dict[str, int]:
        recorder = Recorder(folder, source="h0", pods=["p-0"], tamper=first_row)
        for number in range(2):
            recorder.deliveries.add(number, 0, 2, 3)
            recorder.tables["calls"].add(number, "p", "a", 1, "ok")
        recorder.close()
        return {table: one.rows for table, one in seal_tables(folder).items() if one.rows}

    assert record(tmp_path / "deliveries") == {"deliveries": 1, "calls": 2}
    first_row.tables = ("calls",)  # type: ignore[attr-defined]
    assert record(tmp_path / "calls") == {"deliveries": 2, "calls": 1}
    assert asked == [2, 2]


class Late(Executor):
    """An executor that does its work when somebody waits for it, and counts how much was never waited for."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []
        self.ended = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **more: Any) -> Future[Any]:
        late = self

        class One(Future[Any]):
            def result(self, timeout: float | None = None) -> Any:
                late.waiting.remove(self)
                return fn(*args, **more)

        self.waiting.append(One())
        return self.waiting[-1]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.ended = wait


def test_a_writer_that_falls_behind_is_waited_for(tmp_path: Path) -> None:
    """Up to two parts may wait when the next is handed on, so there are three at most."""
    writer = Late()
    recorder = Recorder(tmp_path, source="h0", new_writer=lambda: writer)
    waiting = []
    for number in range(6):
        recorder.tables["calls"].add(number, "p", "a", 1, "ok")
        recorder.flush()
        waiting.append(len(writer.waiting))
    assert waiting == [1, 2, 3, 3, 3, 3]
    recorder.close()
    assert writer.waiting == [] and writer.ended
    assert len(list((tmp_path / PARTS).iterdir())) == 6


def test_a_part_that_could_not_be_written_is_said_at_the_next_one_and_the_writer_is_ended(tmp_path: Path) -> None:
    (tmp_path / PARTS).write_text("in the way")
    recorder = Recorder(tmp_path, source="h0")
    recorder.tables["calls"].add(1, "p", "a", 1, "ok")
    recorder.flush()
    with pytest.raises(RecordError) as error:
        recorder.close()
    assert str(error.value).startswith(f"cannot write {tmp_path}/parts/calls-h0-00001.parquet: ")


def test_what_is_sealed_is_as_long_and_as_the_file_says(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, source="h0")
    recorder.tables["calls"].add(1, "p", "a", 1, "ok")
    recorder.close()
    for table, one in seal_tables(tmp_path).items():
        path = tmp_path / f"{table}.parquet"
        content = path.read_bytes()
        assert one == SealedTable(int(table == "calls"), len(content), zlib.crc32(content))
        assert path.stat().st_mode & 0o777 == 0o444
    assert not (tmp_path / PARTS).exists()
    column = pq.ParquetFile(tmp_path / "calls.parquet").metadata.row_group(0)
    kinds = {column.column(n).path_in_schema: (column.column(n).compression, set(column.column(n).encodings)) for n in range(5)}
    assert all(kind == "ZSTD" for kind, _ in kinds.values())
    assert "DELTA_BINARY_PACKED" in kinds["intended_ns"][1] and "DELTA_BINARY_PACKED" in kinds["took_ns"][1]
    assert "RLE_DICTIONARY" in kinds["channel"][1] and "RLE_DICTIONARY" not in kinds["took_ns"][1]


def test_json_is_written_whole_with_a_line_end_or_its_file_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1]})
    assert (tmp_path / "a.json").read_text() == '{\n  "b": [\n    1\n  ]\n}\n'
    with pytest.raises(RecordError) as error:
        write_json(tmp_path / "nowhere" / "a.json", {})
    assert str(error.value).startswith(f"cannot write {tmp_path}/nowhere/a.json: No such file or directory")


def test_the_last_word_that_fits_has_a_number_of_its_own() -> None:
    names = Names({str(number): number for number in range(MAX_WORDS - 1)})
    assert names["fits"] == MAX_WORDS - 1
    assert names["does not"] == names["nor this"] == names[OTHERS] == MAX_WORDS
    assert names["fits"] == MAX_WORDS - 1 and len(names) == MAX_WORDS + 1


def test_in_virtual_time_parts_are_written_at_once_and_else_by_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    def write(folder: Path) -> None:
        recorder = Recorder(folder, source="h0", tamper=lambda rows: rows)
        for number in range(3):
            recorder.tables["calls"].add(number, "p", "a", 1, "ok")
            recorder.flush()
        recorder.close()

    def noted(path: Path, table: str, rows: pa.Table) -> None:
        threads.append(threading.current_thread().name)
        if "fails" in str(path):
            raise RecordError("no room")

    monkeypatch.setattr("sim.record.recorder.write_table", noted)
    write(tmp_path / "thread")
    assert threads == ["record_0"] * 3
    monkeypatch.setattr("sim.record.recorder.is_virtual", lambda: True)
    write(tmp_path / "virtual")
    assert threads[3:] == [threading.current_thread().name] * 3
    with pytest.raises(RecordError, match="no room"):
        write(tmp_path / "fails")


def test_a_recorder_writes_one_part_after_another() -> None:
    """Two at once would take the core of what is measured, and end in another order than they were handed over in."""
    at_once, most = 0, 0
    lock = threading.Lock()

    def write() -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.01)
        with lock:
            at_once -= 1

    with _one_thread() as writer:
        for part in [writer.submit(write) for _ in range(4)]:
            part.result()
    assert most == 1


def test_a_table_takes_more_texts_than_words_and_forgets_them_with_its_rows(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, source="inline")
    many = MAX_WORDS + 10
    for part in range(2):
        for number in range(many):
            recorder.tables["keys"].add(number, "order.created", 0, f"order_{part}_{number}")
        recorder.flush()
        assert not recorder.tables["keys"].names["key"]
    recorder.close()
    seal_tables(tmp_path)
    assert [row[3] for row in read_sealed(tmp_path, "keys")] == [f"order_{part}_{number}" for part in range(2) for number in range(many)]
