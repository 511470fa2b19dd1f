"""Reading the files of a run folder: what is wrong with one is said in one line; and columns, taken apart and put together."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sim.errors import RunFolderError
from sim.machine.waits import Waits
from sim.record.checksum import file_checksum
from sim.record.reader import (
    categorical,
    check_files,
    check_sealed,
    codes_in,
    codes_of,
    gather,
    join_parts,
    positions,
    quantiles,
    read_scenario,
    read_table,
    take_rows,
)
from sim.record.recorder import Recorder, seal_tables
from sim.record.run_info import SealedTable
from sim.record.schema import OPTIONAL, TABLES

CHANGED = "was damaged or changed after the run: its checksum differs; copy it again or repeat the run"


def refusal(call: object, *args: object, **more: object) -> str:
    with pytest.raises(RunFolderError) as error:
        call(*args, **more)  # type: ignore[operator]
    return str(error.value)


# -- the scenario ---------------------------------------------------------------------------------------------------


def test_a_scenario_is_read_with_its_limits_flat(tmp_path: Path) -> None:
    path = tmp_path / "scenario.toml"
    path.write_text('\ufeffname = "ä"\n[slo]\nlag_ms_p99 = 5\n[slo.missing]\nall = 1\nservice.web = 0\n', encoding="utf-8")
    expected = {"name": "ä", "slo": {"lag_ms_p99": 5, "missing": 1, 'missing.service."web"': 0}}
    assert read_scenario(path) == read_scenario(path, promised=file_checksum(path)) == expected
    path.write_text('name = "x"\n')
    assert read_scenario(path) == {"name": "x", "slo": {}}


def test_a_scenario_that_cannot_be_read_or_was_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scenario.toml"
    without = "without it nothing says what the run promised"
    assert refusal(read_scenario, path) == f"cannot read {path}: [Errno 2] No such file or directory: '{path}'; {without}"
    path.write_text("name = \n")
    assert refusal(read_scenario, path) == f"cannot read {path}: Invalid value (at line 1, column 8); {without}"
    path.write_text("slo = 3\n")
    assert refusal(read_scenario, path, promised=file_checksum(path) ^ 1) == f"{path} {CHANGED}"
    assert refusal(read_scenario, path) == f"{path}: slo is 3; write [slo] and one `metric = limit` a line"
    path.write_text("[slo.missing]\nservice.web = 1\n[slo]\n'missing.service.web' = 2\n")
    assert refusal(read_scenario, path) == f'{path}: slo.missing.service."web" has two limits, 1 and 2: leave one out'


# -- files and tables -----------------------------------------------------------------------------------------------


def test_files_beside_the_tables_are_those_that_run_json_names(tmp_path: Path) -> None:
    for name in ("environment.json", "a.log"):
        (tmp_path / name).write_text(name)
    promised = {name: file_checksum(tmp_path / name) for name in ("environment.json", "a.log")}
    check_files(tmp_path, promised | {"gone.log": 1})
    assert refusal(check_files, tmp_path, promised | {"a.log": 1}) == f"{tmp_path}/a.log {CHANGED}"
    (tmp_path / "environment.json").unlink()
    missing = f"{tmp_path}/environment.json is missing; the run folder is incomplete, copy it again or repeat the run"
    assert refusal(check_files, tmp_path, promised) == missing


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("x")
    (tmp_path / "a.log").chmod(0)
    assert refusal(check_files, tmp_path, {"a.log": 1}) == f"cannot read {tmp_path}/a.log: Permission denied"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sealed folder of two samples of a process, one call and one probe."""
    recorder = Recorder(tmp_path, source="h0")
    for at_ns, waited in ((1, 5.0), (2, 6.0)):
        recorder.tables["hosts"].add(at_ns, "h0", 10, 20, *Waits(waited_ns=waited))
    recorder.tables["calls"].add(7, "locust-0", "a", 3, "ok")
    recorder.close()
    seal_tables(tmp_path)
    return tmp_path


def sealed(path: Path) -> SealedTable:
    return SealedTable(2, path.stat().st_size, file_checksum(path))


def test_a_table_is_checked_against_what_run_json_says_of_it(folder: Path) -> None:
    path = folder / "calls.parquet"
    promised = sealed(path)
    check_sealed(path, "calls", promised=promised)
    check_sealed(path, "calls", promised=SealedTable(2, promised.bytes))
    size = promised.bytes
    short = f"{path} has {size} bytes, run.json says {{}}; it was truncated or changed, copy it again"
    assert refusal(check_sealed, path, "calls", promised=None) == short.format(None)
    assert refusal(check_sealed, path, "calls", promised=SealedTable(2, size + 1)) == short.format(size + 1)
    other = f"{path} is not what run.json says: its checksum differs; it was damaged or changed, copy it again"
    assert refusal(check_sealed, path, "calls", promised=SealedTable(2, size, 0)) == other
    gone = folder / "gone.parquet"
    missing = f"{gone} is missing; the run folder is incomplete, copy it again or repeat the run"
    assert refusal(check_sealed, gone, "calls", promised=promised) == missing
    wrong = f"{path}: column at_ns is not there, expected int64; it is another table or of another version"
    assert refusal(check_sealed, path, "reads", promised=promised) == wrong


def test_a_column_of_another_type_is_named(folder: Path) -> None:
    path = folder / "calls.parquet"
    path.chmod(0o644)
    rows = pq.read_table(path)
    pq.write_table(rows.set_column(1, "publisher", pa.array(["x"])), path)
    word = "dictionary<values=string, indices=uint16, ordered=0>"
    expected = f"{path}: column publisher is string, expected {word}; it is another table or of another version"
    assert refusal(read_table, path, "calls") == expected


def test_a_file_that_is_no_table_is_damaged(folder: Path) -> None:
    path = folder / "calls.parquet"
    path.chmod(0o644)
    path.write_bytes(b"PAR1 no table PAR1")
    text = refusal(read_table, path, "calls")
    assert text.startswith(f"cannot read {path}: ") and text.endswith("; the file is damaged, copy it again") and "\n" not in text


def test_a_table_whose_rows_are_damaged_is_named(folder: Path) -> None:
    path = folder / "calls.parquet"
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[4:40] = bytes(36)
    path.write_bytes(content)
    text = refusal(read_table, path, "calls")
    assert text.startswith(f"cannot read {path}: ") and text.endswith("; the file is damaged, copy it again") and "\n" not in text


def test_a_table_has_its_columns_in_order_with_words_as_categories(folder: Path) -> None:
    hosts = read_table(folder / "hosts.parquet", "hosts")
    assert list(hosts) == list(TABLES["hosts"]) and hosts["waited_ns"].tolist() == [5.0, 6.0] and hosts["steal_ns"].isna().all()
    assert hosts["host"].tolist() == ["h0", "h0"] and hosts["host"].cat.categories.tolist() == ["h0"]
    calls = read_table(folder / "calls.parquet", "calls")
    assert calls.iloc[0].to_dict() == {"intended_ns": 7, "publisher": "locust-0", "channel": "a", "took_ns": 3, "outcome": "ok"}
    assert read_table(folder / "reads.parquet", "reads").empty


def test_what_an_older_run_did_not_record_is_not_known_or_what_was_true_then(folder: Path) -> None:
    path = folder / "hosts.parquet"
    path.chmod(0o644)
    rows = pq.read_table(path).drop_columns(["waited_ns", "steal_ns"]).append_column("newer", pa.array([1, 2]))
    pq.write_table(rows, path)
    hosts = read_table(path, "hosts")
    assert hosts["waited_ns"].isna().all() and hosts["steal_ns"].isna().all() and "newer" not in hosts
    assert set(hosts) == set(TABLES["hosts"]) and set(OPTIONAL["hosts"]) <= set(hosts)
    recorder = Recorder(folder / "older", source="h0")
    recorder.tables["faults"].add("down", "broker", 1, 2, "whole", 1)
    recorder.tables["pods"].add("web-0", "web", "h0", "a", 1, "subscribed", "connected", 0)
    recorder.close()
    for table, gone in (("faults", ["felt", "felt_ns"]), ("pods", ["clock_ahead_ns"])):
        (part,) = (folder / "older" / "parts").glob(f"{table}-*")
        pq.write_table(pq.read_table(part).drop_columns(gone), part)
        read = read_table(part, table)
        assert set(read) == set(TABLES[table])
        if table == "faults":
            assert read["felt"].dtype == "category" and len(read) == 1
        else:
            assert read["clock_ahead_ns"].tolist() == [0] and read["clock_ahead_ns"].dtype == np.int64


# -- columns --------------------------------------------------------------------------------------------------------


def test_quantiles_are_values_that_occurred() -> None:
    values = np.array([10, 40, 20, 30])
    assert quantiles(values, {"min": 0.0, "p50": 0.5, "p99": 0.99, "max": 1.0}) == {"min": 10, "p50": 30, "p99": 40, "max": 40}
    assert quantiles(values[:0], {"p50": 0.5}) == {}


def words(*texts: str) -> pd.Series[str]:
    return pd.Series(list(texts), dtype="category")


def test_codes_and_words_of_a_column() -> None:
    column = words("b", "a", "b")
    codes, known = codes_of(column)
    assert (codes.tolist(), known) == ([1, 0, 1], ["a", "b"])
    found = codes_in(column, {"b": 7, "c": 8})
    assert found.tolist() == [7, -1, 7] and found.dtype == np.int16
    missing = pd.Series(pd.Categorical.from_codes([-1, 0], categories=["a"]))
    assert codes_in(missing, {"a": 3}).tolist() == [-1, 3]
    assert codes_in(words(), {"a": 3}).tolist() == []


def test_columns_at_some_rows() -> None:
    assert take_rows(np.array([5, 6, 7]), np.array([2, -1, 0])).tolist() == [7, 0, 5]
    assert take_rows(np.array([5, 6], dtype=np.int8), np.array([-1, 1]), none=-1).tolist() == [-1, 6]
    assert take_rows(np.array([5, 6], dtype=np.int8), np.array([0])).dtype == np.int8
    found = gather(words("b", "a"), np.array([1, -1, 0]))
    assert next(iter(found)) == "a" and pd.isna(found[1]) and found[2] == "b" and list(found.categories) == ["a", "b"]
    made = categorical(np.array([1, -1, 0]), ["x", "y"])
    assert made[0] == "y" and pd.isna(made[1]) and made.categories.dtype == "str"
    assert categorical(np.array([], dtype=np.int8), []).categories.dtype == "str"


def test_where_keys_stand() -> None:
    keys = np.array([3, 5, 9], dtype=np.uint64)
    found = positions(keys, np.array([5, 4, 9, 10, 0, 3], dtype=np.uint64))
    assert found.tolist() == [1, 3, 2, 3, 3, 0] and found.dtype == np.int32
    assert positions(keys[:0], np.array([1, 2], dtype=np.uint64)).tolist() == [0, 0]


def test_parts_are_joined_with_their_words_numbered_anew() -> None:
    first, second = pd.DataFrame({"n": [1, 2], "word": words("b", "a")}), pd.DataFrame({"n": [3], "word": words("c")})
    joined = join_parts([first, second])
    assert joined["n"].tolist() == [1, 2, 3] and joined.index.tolist() == [0, 1, 2]
    assert joined["word"].tolist() == ["b", "a", "c"] and joined["word"].dtype == "category"
    assert set(joined["word"].cat.categories) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("error", "said"), [(OSError(13, "Permission denied"), "Permission denied"), (OSError("it is gone"), "it is gone")]
)
def test_a_file_that_cannot_be_read_is_named_with_the_system_s_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, said: str
) -> None:
    def fail(path: Path) -> int:
        raise error

    (tmp_path / "a.log").write_text("x")
    monkeypatch.setattr("sim.record.reader.file_checksum", fail)
    with pytest.raises(RunFolderError) as raised:
        check_files(tmp_path, {"a.log": 1})
    assert str(raised.value) == f"cannot read {tmp_path / 'a.log'}: {said}"


def test_a_table_whose_pages_are_damaged_is_named_with_the_first_line_of_what_was_found(tmp_path: Path) -> None:
    """Its columns can be told, as they stand at the end; only reading all of it shows the damage."""
    path = tmp_path / "faults.parquet"
    word = pa.array(["x"] * 3).dictionary_encode().cast(pa.dictionary(pa.uint16(), pa.string()))
    pq.write_table(pa.table({column: word if kind == "name" else [1, 2, 3] for column, kind in TABLES["faults"].items()}), path)
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\xff" * 60 + content[64:])
    try:
        pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        first = str(error).splitlines()[0]
    with pytest.raises(RunFolderError) as raised:
        read_table(path, "faults")
    assert str(raised.value) == f"cannot read {path}: {first}; the file is damaged, copy it again"


def test_a_single_part_is_a_table() -> None:
    part = pd.DataFrame({"pod": pd.Categorical(["b", "a"]), "at_ns": [1, 2]})
    joined = join_parts([part])
    assert joined.to_dict("list") == {"pod": ["b", "a"], "at_ns": [1, 2]} and joined["pod"].dtype == "category"
