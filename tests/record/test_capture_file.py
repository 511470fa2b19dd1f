"""The file of a capture: what was added is read, a file that is not whole is refused in one line, and no payload is in it unasked."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sim.errors import CaptureError
from sim.record import capture_file
from sim.record.capture_file import KEY, NAME, read_capture, writing_capture
from tests.support.captures import written

EVENTS = [(10 * n, f"shop:{'ab'[n % 3 == 0]}", b"payload %d" % (n % 50)) for n in range(5000)]


def test_what_was_added_is_read_over_several_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_file, "ROWS_PER_GROUP", 700)
    capture = read_capture(written(tmp_path, EVENTS, keep=["shop:b"]))
    assert [(at, capture.channels[code], size) for at, code, size in zip(capture.at_ns, capture.channel, capture.sizes, strict=True)] == [
        (at, channel, len(payload)) for at, channel, payload in EVENTS
    ]
    assert capture.payloads == {row: payload for row, (_, channel, payload) in enumerate(EVENTS) if channel == "shop:b"}
    same = {payload: set[int]() for _, _, payload in EVENTS}
    for (_, _, payload), number in zip(EVENTS, capture.hash.tolist(), strict=True):
        same[payload].add(number)
    assert all(len(numbers) == 1 for numbers in same.values()) and len(set.union(*same.values())) == 50
    rows = capture.by_channel()
    assert [len(one) for one in rows] == [np.count_nonzero(capture.channel == code) for code in range(2)]
    assert all(np.all(np.diff(one) > 0) for one in rows)


def test_reading_one_loads_no_pandas(tmp_path: Path) -> None:
    path = written(tmp_path, EVENTS[:10], keep=["shop:a"])
    code = f"import sys; from pathlib import Path; from sim.record.capture_file import read_capture; read_capture(Path({str(path)!r})); "
    done = subprocess.run([sys.executable, "-c", code + "print('pandas' in sys.modules)"], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr


def test_a_payload_is_not_in_it_unless_its_channel_was_named_and_its_hash_tells_nobody_which_it_was(tmp_path: Path) -> None:
    secret = b"card 4111 1111 1111 1111"
    files = [written(tmp_path / name, [(0, "shop:a", secret), (1, "shop:b", b"open")], keep=["shop:b"]) for name in ("one", "two")]
    assert not any(b"4111" in file.read_bytes() for file in files)
    one, two = map(read_capture, files)
    assert one.payloads == {1: b"open"}
    assert one.hash[0] != two.hash[0], "with a key of its own nobody can hash what a payload may have been and compare"


@pytest.mark.parametrize(
    "harm",
    [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw[:-1],
        lambda raw: b"",
        lambda raw: raw[:4] + bytes(300) + raw[304:],
        lambda raw: b"at_ns,channel\n1,shop:a\n",
    ],
    ids=["half", "last byte", "empty", "overwritten", "text"],
)
def test_a_file_that_was_cut_or_damaged_is_one_clear_line(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    path = written(tmp_path, EVENTS)
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(CaptureError, match="capture") as caught:
        read_capture(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def said_in(path: Path) -> bytes:
    said: bytes = pq.ParquetFile(path).metadata.metadata[KEY]
    return said


def rewritten(path: Path, change: Callable[[dict[str, object]], dict[str, object] | None], *, drop: str = "") -> None:
    """Write a capture again with another info, or without a column."""
    rows = pq.read_table(path)
    info = change(msgspec.json.decode(said_in(path)))
    rows = rows.drop_columns([drop]) if drop else rows
    pq.write_table(rows.replace_schema_metadata({} if info is None else {KEY: msgspec.json.encode(info)}), path)


@pytest.mark.parametrize(
    ("change", "drop", "says"),
    [
        (lambda info: info | {"format": 2}, "", "of format 2, this version reads 1"),
        (lambda info: None, "", "no capture of buslab"),
        (lambda info: {"format": 1}, "", "cannot read"),
        (lambda info: info, "hash", "column hash is not there"),
        (lambda info: info | {"events": 7}, "", "was changed"),
    ],
)
def test_a_file_of_another_version_or_program_is_refused(
    tmp_path: Path, change: Callable[[dict[str, object]], dict[str, object] | None], drop: str, says: str
) -> None:
    path = written(tmp_path, EVENTS)
    rewritten(path, change, drop=drop)
    with pytest.raises(CaptureError, match=says):
        read_capture(path)


def test_times_that_go_back_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, EVENTS)
    rows = pq.read_table(path)
    backwards = rows.take(pa.array(range(len(rows) - 1, -1, -1)))
    pq.write_table(backwards.replace_schema_metadata({KEY: said_in(path)}), path)
    with pytest.raises(CaptureError, match="was changed"):
        read_capture(path)


def test_there_is_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="there is no capture"):
        read_capture(tmp_path / NAME)


@pytest.mark.parametrize("many", [100, 200_000], ids=["at the end", "meanwhile"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, many: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(CaptureError, match=r"cannot write .*capture\.parquet: .*File too large; free some space"):
            written(tmp_path, [(n, "shop:a", b"%d" % n) for n in range(many)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_who_fails_meanwhile_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no"), writing_capture(tmp_path / NAME) as writer:
        writer.add(1, b"a", b"b", keep=False)
        raise RuntimeError("no")
    assert list(tmp_path.iterdir()) == []
