"""The journal: what was added is there whatever becomes of the process, whole, in order, with its words."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import RecordError
from sim.record import journal
from sim.record.journal import FIRST_BYTES, JOURNALS, MOST_BYTES, Journal, JournalFile, JournalRecorder
from sim.record.recorder import DeliveryBuffer
from sim.record.schema import TABLES

# Adds rows for ever: the n-th has the event n, a call has a word of its own each hundred rows.
ENDLESS = """
import sys
from pathlib import Path
from sim.record.journal import JournalRecorder
recorder = JournalRecorder(Path(sys.argv[1]), source="w", pods=["p-0", "p-1"])
n = 0
while True:
    n += 1
    recorder.deliveries.add(n, n % 2, n, n)
    recorder.tables["calls"].add(n, f"publisher {n // 100}", "analytics.metric.recorded", n, "ok")
    if n == 5000:
        print("on my way", flush=True)
"""


def test_a_file_grows_and_says_how_much_of_it_is_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "FIRST_BYTES", 32)
    monkeypatch.setattr(journal, "MOST_BYTES", 100)
    rows = JournalFile(tmp_path / "rows")
    assert (len(rows), list(tmp_path.iterdir())) == (0, []), "nothing is written for a table without rows"
    pieces = [bytes([n]) * (n % 7) for n in range(200)]
    for piece in pieces:
        rows += piece
    whole = b"".join(pieces)
    assert len(rows) == len(whole)
    raw = (tmp_path / "rows").read_bytes()
    assert raw[8 : 8 + len(whole)] == whole
    assert int.from_bytes(raw[:8], sys.byteorder) == len(whole)
    rows.close()


@given(st.lists(st.lists(st.tuples(st.integers(0, 2**63), st.integers(0, 1), st.integers(0, 2)), max_size=5), max_size=20))
def test_reads_come_back_as_the_rows_that_the_other_recorder_writes(reads: list[list[tuple[int, int, int]]]) -> None:
    plain = DeliveryBuffer(["p-0", "p-1"])
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as made:
        folder = Path(made)
        patch.setattr(journal, "KEPT_ROWS", 7)
        recorder = JournalRecorder(folder, source="w", pods=["p-0", "p-1"])
        for number, read in enumerate(reads):  # as `Pod.heard` appends it
            for buffer in (plain, recorder.deliveries):
                for event, path, outcome in read:
                    if path or outcome:
                        buffer.odd_rows.append((len(buffer.handled_ns), path, outcome))
                    buffer.handled_ns.append(number + 5)
                    buffer.events.append(event)
                buffer.reads_pod.append(number % 2)
                buffer.reads_count.append(len(read))
                buffer.reads_received_ns.append(number)
            recorder.journal.commit()
        recorder.close()
        assert recorder.rows("deliveries") == len(plain)
        assert Journal(folder / JOURNALS / "w").read("deliveries") == plain.take().to_pylist()


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    rows = JournalFile(tmp_path / "rows")
    rows += b"x"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(RecordError, match=r"cannot write .*rows: File too large; free some space"):
            for _ in range(200_000):
                rows += b"x" * 100
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.broker
def test_rows_of_a_process_that_was_killed_are_whole_and_none_is_missing(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    writer.stdout.readline()
    writer.kill()
    writer.wait()
    writer.stdout.close()
    left = Journal(tmp_path / JOURNALS / "w")
    heard, called = left.read("deliveries"), left.read("calls")
    assert len(heard) >= 5000
    assert len(heard) - len(called) in (0, 1), "killed between the two, or not"
    for table, rows in (("deliveries", heard), ("calls", called)):
        first = next(iter(TABLES[table]))
        assert [row[first] for row in rows] == list(range(1, len(rows) + 1))
    assert all(row["pod"] == f"p-{row['event'] % 2}" for row in heard)
    assert all(row["publisher"] == f"publisher {row['intended_ns'] // 100}" for row in called)


def test_a_journal_that_was_never_begun_is_empty(tmp_path: Path) -> None:
    nothing = Journal(tmp_path / "nobody")
    assert [nothing.read(table) for table in TABLES] == [[]] * len(TABLES)


def test_a_journal_holds_the_rows_of_every_table_and_those_under_way_each_with_its_words(tmp_path: Path) -> None:
    recorder = JournalRecorder(tmp_path, source="w", pods=["p-0"])
    assert [recorder.rows(table) for table in TABLES] == [0] * len(TABLES)
    recorder.tables["calls"].add(1, "locust-0", "a", 2, "ok")
    recorder.tables["calls"].add(3, "locust-0", "b", 4, "failed")
    recorder.under_way["calls"].add(5, "locust-1", "a", 6, "ok")
    recorder.deliveries.add(7, 0, 8, 9, path=1, outcome=2)
    assert (recorder.rows("calls"), recorder.rows("deliveries"), recorder.rows("pods"), recorder.rows_waiting()) == (2, 1, 0, 0)
    recorder.flush(at_least_rows=1)
    assert recorder.rows("calls") == 2 and not (tmp_path / "parts").exists(), "every row is in its file already"
    recorder.close()
    assert sorted(path.name for path in (tmp_path / JOURNALS / "w").iterdir()) == ["calls", "deliveries", "under-way-calls", "words"]
    left = Journal(tmp_path / JOURNALS / "w")
    columns = ("intended_ns", "publisher", "channel", "took_ns", "outcome")
    assert left.read("calls") == [
        dict(zip(columns, row, strict=True)) for row in ((1, "locust-0", "a", 2, "ok"), (3, "locust-0", "b", 4, "failed"))
    ]
    assert left.read("calls", under_way=True) == [dict(zip(columns, (5, "locust-1", "a", 6, "ok"), strict=True))]
    assert left.words("calls") == {"publisher": ["locust-0"], "channel": ["a", "b"], "outcome": ["ok", "failed"]}
    assert left.words("calls", under_way=True) == {"publisher": ["locust-1"], "channel": ["a"], "outcome": ["ok"]}
    assert left.rows("calls")["publisher"].tolist() == [0, 0] and left.rows("calls")["channel"].tolist() == [0, 1]
    assert left.words("publishes") == {"channel": [], "publisher": [], "outcome": [], "subject": []}
    assert left.read("deliveries") == [{"event": 7, "pod": "p-0", "received_ns": 8, "handled_ns": 9, "path": "memory", "outcome": "failed"}]


def test_a_word_is_written_down_once_whatever_it_holds(tmp_path: Path) -> None:
    recorder = JournalRecorder(tmp_path, source="w")
    for channel in ("ä", "line\nbreak", "ä", ""):
        recorder.tables["calls"].add(1, "p", channel, 2, "ok")
    recorder.close()
    left = Journal(tmp_path / JOURNALS / "w")
    assert left.words("calls")["channel"] == ["ä", "line\nbreak", ""]
    assert [row["channel"] for row in left.read("calls")] == ["ä", "line\nbreak", "ä", ""]


def test_a_journal_s_folder_is_begun_once(tmp_path: Path) -> None:
    JournalRecorder(tmp_path, source="w").close()
    with pytest.raises(FileExistsError):
        JournalRecorder(tmp_path, source="w")


def test_a_file_takes_its_first_space_at_once_and_doubles_as_long_as_that_is_little(tmp_path: Path) -> None:
    rows = JournalFile(tmp_path / "rows")
    rows += b"x"
    assert (tmp_path / "rows").stat().st_size == FIRST_BYTES == 65_536
    rows += b"x" * (FIRST_BYTES - 9)
    assert (tmp_path / "rows").stat().st_size == FIRST_BYTES
    rows += b"x"
    assert (tmp_path / "rows").stat().st_size == 2 * (FIRST_BYTES + 1)
    rows += b"x" * MOST_BYTES
    assert (tmp_path / "rows").stat().st_size == FIRST_BYTES + 1 + 2 * MOST_BYTES
    assert len(rows) == FIRST_BYTES + 1 + MOST_BYTES - 8
    rows.close()


def test_a_file_whose_head_is_torn_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "calls").write_bytes(b"\x01\x00\x00")
    assert Journal(tmp_path).read("calls") == []


def test_a_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    rows = JournalFile(tmp_path / "nowhere" / "rows")
    with pytest.raises(RecordError) as error:
        rows += b"x"
    assert str(error.value).startswith(f"cannot write {tmp_path}/nowhere/rows: No such file or directory")
    rows.close()


def test_each_delivery_is_written_down_once_also_when_those_in_memory_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read of three rows, of which the second is odd; from the fourth row on all are dropped from memory, and counted on."""
    monkeypatch.setattr(journal, "KEPT_ROWS", 3)
    recorder = JournalRecorder(tmp_path, source="w", pods=["p-0", "p-1"])
    deliveries = recorder.journal
    deliveries.odd_rows.append((1, 1, 1))
    for event in (1, 2, 3):
        deliveries.events.append(event)
        deliveries.handled_ns.append(10 + event)
    deliveries.reads_pod.append(1)
    deliveries.reads_count.append(3)
    deliveries.reads_received_ns.append(9)
    deliveries.commit()
    deliveries.commit()
    assert (len(deliveries), recorder.rows("deliveries"), deliveries.odd_rows) == (3, 3, [])
    deliveries.add(4, 0, 20, 21, outcome=2)
    assert (len(deliveries), recorder.rows("deliveries")) == (0, 4)
    deliveries.add(5, 1, 30, 31)
    assert (len(deliveries), recorder.rows("deliveries")) == (1, 5)
    recorder.close()
    rows = [tuple(row.values()) for row in Journal(tmp_path / JOURNALS / "w").read("deliveries")]
    assert rows == [
        (1, "p-1", 9, 11, "broker", "handled"),
        (2, "p-1", 9, 12, "memory", "skipped"),
        (3, "p-1", 9, 13, "broker", "handled"),
        (4, "p-0", 20, 21, "broker", "failed"),
        (5, "p-1", 30, 31, "broker", "handled"),
    ]
