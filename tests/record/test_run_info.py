"""run.json: what is written is read again, what older runs wrote too, and what is not known stays out of the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import RunFolderError
from sim.record.checksum import with_checksum
from sim.record.run_info import LoadInfo, Phase, RunInfo, SealedTable, content_of, read_info
from sim.record.schema import FORMAT, PHASES, RUN_STATES

# What a run of this format wrote when it was new: no nodes, no fleet, one generator, tables without a checksum, nor one of the whole.
OLDEST = """{"format": 3, "scenario": "baseline", "ground": "embedded", "seed": 1, "driver": "locust", "nonce": 7, "state": "complete",
"reason": "", "started_at": "2026-01-01T00:00:00.000+00:00", "wall_offset_ns": 5,
"phases": [{"name": "run", "start_ns": 1, "end_ns": 2}], "load": {"offered_calls": 9, "generator": "locust", "calls": 9},
"notes": ["n"], "recovered": true, "tables": {"pods": {"rows": 3, "bytes": 4}}}"""


def new(**changes: Any) -> RunInfo:
    """What a run says before its first phase."""
    known: dict[str, Any] = dict(
        format=FORMAT,
        scenario="baseline",
        ground="model",
        nodes=1,
        seed=1,
        driver="pods",
        nonce=2,
        state="running",
        reason="",
        started_at="2026-01-01T00:00:00.000+00:00",
        wall_offset_ns=3,
        phases=[],
        load=LoadInfo(),
        fleet="ours",
        notes=[],
    )
    return RunInfo(**known | changes)


def sealed() -> RunInfo:
    """What a whole run says."""
    return new(
        state="complete",
        phases=[Phase("run", 1, 2)],
        load=LoadInfo(offered_calls=4, generators=["inline"], offered_reads=0, calls=3, calls_not_made=1, record_kept=True),
        links_us={},
        recovered=False,
        tables={"pods": SealedTable(1, 2, 3)},
        scenario_crc32=4,
        files={"environment.json": 5},
    )


def write(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_the_keys_and_their_order_are_those_of_a_run_before_and_after_it(tmp_path: Path) -> None:
    head = ["format", "scenario", "ground", "nodes", "seed", "driver", "nonce", "state", "reason", "started_at", "wall_offset_ns"]
    head += ["phases", "load", "fleet", "notes"]
    content = content_of(new(phases=[Phase("provision", 1)]))
    assert list(content) == [*head, "crc32"]
    assert (content["phases"], content["load"], content["notes"], content["nodes"]) == ([{"name": "provision", "start_ns": 1}], {}, [], 1)
    content = content_of(sealed())
    assert list(content) == [*head, "links_us", "recovered", "tables", "scenario_crc32", "files", "crc32"]
    assert list(content["load"]) == ["offered_calls", "generators", "offered_reads", "calls", "calls_not_made", "record_kept"]
    assert content["tables"] == {"pods": {"rows": 1, "bytes": 2, "crc32": 3}}
    assert (content["links_us"], content["recovered"], content["load"]["offered_reads"]) == ({}, False, 0)


phases = st.lists(st.builds(Phase, st.sampled_from(sorted(PHASES)), st.integers(1, 2**62), st.none() | st.integers(1, 2**62)), max_size=4)
counts = st.none() | st.integers(0, 2**40)
loads = st.builds(
    LoadInfo,
    offered_calls=counts,
    generators=st.lists(st.text(max_size=5), max_size=3),
    offered_reads=counts,
    calls=counts,
    calls_not_made=counts,
    record_kept=st.none() | st.booleans(),
)
infos = st.builds(
    new,
    state=st.sampled_from(sorted(RUN_STATES)),
    phases=phases,
    load=loads,
    notes=st.lists(st.text(max_size=9), max_size=3),
    links_us=st.none() | st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    recovered=st.none() | st.booleans(),
    tables=st.none()
    | st.dictionaries(st.text(max_size=5), st.builds(SealedTable, st.integers(0, 9), st.integers(0, 9), counts), max_size=3),
    scenario_crc32=counts,
    files=st.none() | st.dictionaries(st.text(max_size=5), st.integers(0, 2**32 - 1), max_size=3),
)


@given(info=infos)
def test_what_is_written_is_read_again(info: RunInfo, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write(tmp_path_factory.mktemp("run") / "run.json", content_of(info))
    assert read_info(path) == info


def test_the_oldest_run_of_this_format_is_read_as_what_was_true_then(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(OLDEST)
    info = read_info(tmp_path / "run.json")
    assert (info.nodes, info.fleet, info.load.generators, info.load.record_kept) == (1, "ours", ["locust"], None)
    assert (info.links_us, info.recovered, info.scenario_crc32, info.files) == (None, True, None, None)
    assert info.tables == {"pods": SealedTable(3, 4)}


def test_keys_that_a_newer_run_has_are_passed_over_and_guarded_by_the_checksum(tmp_path: Path) -> None:
    content = content_of(sealed())
    del content["crc32"]
    content["load"]["new"] = content["new"] = [1]
    path = write(tmp_path / "run.json", with_checksum(content))
    assert read_info(path) == sealed()
    path.write_text(path.read_text().replace('"new": [1]', '"new": [2]'))
    with pytest.raises(RunFolderError, match="checksum differs"):
        read_info(path)


@pytest.mark.parametrize("key", [key for key in content_of(new()) if key not in ("nodes", "fleet", "crc32")])
def test_a_key_that_every_run_writes_must_be_there(tmp_path: Path, key: str) -> None:
    content = content_of(sealed())
    del content[key], content["crc32"]
    with pytest.raises(RunFolderError, match=key) as error:
        read_info(write(tmp_path / "run.json", content))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", [key for key in content_of(sealed()) if key != "crc32"])
def test_a_value_of_another_type_is_named(tmp_path: Path, key: str) -> None:
    content = content_of(sealed())
    del content["crc32"]
    with pytest.raises(RunFolderError, match=rf"run\.json.*{key}|is of format") as error:
        read_info(write(tmp_path / "run.json", content | {key: 1.5 if key != "state" else [1]}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"phases": [{"name": "run", "start_ns": 2**63, "end_ns": 2}]}, r"`int` <= 9223372036854775807 - at `\$.phases\[0\].start_ns`"),
        ({"phases": [{"name": "run", "start_ns": 1, "end_ns": -(10**30)}]}, r"phases\[0\].end_ns"),
        ({"wall_offset_ns": 10**30}, "wall_offset_ns"),
        ({"load": {"offered_calls": -1, "generators": []}}, r"`int` >= 0 - at `\$.load.offered_calls`"),
        ({"load": {"calls_not_made": 10**30, "generators": []}}, "calls_not_made"),
        ({"tables": {"pods": {"rows": -1, "bytes": 4}}}, "`int` >= 0"),
        ({"notes": ["half a pair: \ud800"]}, "surrogates not allowed"),
    ],
)
def test_a_number_that_no_run_can_have_and_a_text_that_is_none_are_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = write(tmp_path / "run.json", with_checksum({**content_of(sealed()), **change}))
    with pytest.raises(RunFolderError, match=says):
        read_info(path)


def refusal(path: Path) -> str:
    with pytest.raises(RunFolderError) as error:
        read_info(path)
    return str(error.value)


def test_each_refusal_says_what_is_wrong_and_what_to_do(tmp_path: Path) -> None:
    path, content = tmp_path / "run.json", content_of(sealed())
    again = "copy it again or repeat the run"
    write(path, content | {"seed": 99})
    assert refusal(path) == f"{path} was damaged or changed after the run: its checksum differs; {again}"
    write(path, with_checksum(content | {"format": 99}))
    assert refusal(path) == f"{path} is of format 99, this version reads {FORMAT}; use the version that wrote it"
    write(path, with_checksum({}))
    assert refusal(path) == f"{path} is of format None, this version reads {FORMAT}; use the version that wrote it"
    write(path, with_checksum(content | {"seed": "x"}))
    assert refusal(path) == f"cannot read {path}: Expected `int`, got `str` - at `$.seed`; the file is damaged, {again}"
    write(path, with_checksum(content | {"state": "asleep"}))
    words = "running, killed, complete, interrupted, failed"
    assert refusal(path) == f"{path}: state is 'asleep', not one of {words}; the file is damaged"


def test_a_run_that_named_one_generator_had_that_one(tmp_path: Path) -> None:
    content = content_of(sealed())
    old = {key: value for key, value in content.items() if key not in ("nodes", "fleet")}
    old["load"] = {"generator": "locust", "offered_calls": 3}
    info = read_info(write(tmp_path / "run.json", with_checksum(old)))
    assert (info.load.generators, info.load.offered_calls, info.nodes, info.fleet) == (["locust"], 3, 1, "ours")
    old["load"] = {"generator": "locust", "generators": ["a", "b"]}
    assert read_info(write(tmp_path / "run.json", with_checksum(old))).load.generators == ["a", "b"]
    old["load"] = {}
    assert read_info(write(tmp_path / "run.json", with_checksum(old))).load.generators == []
    old["load"] = "generator"
    assert refusal(write(tmp_path / "run.json", with_checksum(old))).endswith(
        "Expected `object`, got `str` - at `$.load`; the file is damaged, copy it again or repeat the run"
    )
