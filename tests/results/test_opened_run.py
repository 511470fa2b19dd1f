"""Run folders that are whole, unsealed, or not what they should be."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from sim.errors import RunFolderError
from sim.record.checksum import file_checksum, with_checksum
from sim.record.reader import FOREVER_NS
from sim.record.run_info import Phase
from sim.record.schema import OPTIONAL, TABLES
from sim.results.checkers import judge
from sim.results.opened_run import open_run
from tests.support.run_folders import SECOND, RunFolder, fates


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run").service("web", replicas=3)


def test_a_link_is_followed(plan: RunFolder, tmp_path: Path) -> None:
    plan.publish(1)
    (tmp_path / "latest").symlink_to(plan.write().name)
    assert open_run(tmp_path / "latest").folder == (tmp_path / "run").resolve()


def test_an_unsealed_folder_is_read_from_the_parts_that_are_whole(plan: RunFolder) -> None:
    plan.publish(30)
    folder = plan.write(seal=False, state="running", parts=3)
    run = open_run(folder)
    assert not run.sealed
    assert fates(run) == {"delivered": 90}
    assert judge(run).checkers["harness"].verdict == "unknown"
    broken = sorted((folder / "parts").glob("deliveries-*"))[1]
    broken.write_bytes(broken.read_bytes()[:100])
    run = open_run(folder)
    assert len(run.deliveries) == 60
    assert run.unreadable_parts == [broken.name]


def test_an_unsealed_folder_without_any_part_is_empty_not_an_error(plan: RunFolder) -> None:
    folder = plan.write(seal=False, state="running")
    for part in (folder / "parts").glob("*"):
        part.unlink()
    run = open_run(folder)
    assert len(run.ledger()) == 0
    assert judge(run).verdict == "unknown"


def break_json(folder: Path, **changes: object) -> None:
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**info, **changes}))


def drop_key(folder: Path, key: str) -> None:
    info = json.loads((folder / "run.json").read_text())
    del info[key]
    (folder / "run.json").write_text(json.dumps(info))


def rewrite(folder: Path, table: str, content: bytes) -> None:
    path = folder / f"{table}.parquet"
    path.unlink()
    path.write_bytes(content)


def flip(folder: Path, table: str) -> None:
    content = bytearray((folder / f"{table}.parquet").read_bytes())
    content[len(content) // 3] ^= 1
    rewrite(folder, table, bytes(content))


def edit(folder: Path, old: str, new: str) -> None:
    """Change one word of a run.json that holds its checksum, as a run's does."""
    info = json.loads((folder / "run.json").read_text()) | {"seed": 1}
    text = json.dumps(with_checksum(info))
    assert text.count(old) == 1
    (folder / "run.json").write_text(text)
    open_run(folder)
    (folder / "run.json").write_text(text.replace(old, new))


BROKEN = {
    "not JSON": (lambda f: (f / "run.json").write_text("{oops"), "cannot read .*run.json"),
    "not an object": (lambda f: (f / "run.json").write_text("[1]"), "holds a list"),
    "another program's": (lambda f: (f / "run.json").write_text('{"name": "x"}'), "format None"),
    "another format": (lambda f: break_json(f, format=99), "format 99"),
    "another state": (lambda f: break_json(f, state="fine"), "state is 'fine'"),
    "garbled phases": (lambda f: break_json(f, phases=[{"name": "run"}]), r"missing required field `start_ns` - at `\$\.phases\[0\]`"),
    "garbled tables": (lambda f: break_json(f, tables=3), r"Expected `object \| null`, got `int` - at `\$\.tables`"),
    "garbled seal": (lambda f: break_json(f, tables={"pods": {"rows": 1}}), "missing required field `bytes`"),
    "no seal of a table": (lambda f: break_json(f, tables={}), "publishes.parquet has .* bytes, run.json says None"),
    "a key is missing": (lambda f: drop_key(f, "seed"), "cannot read .*run.json: Object missing required field `seed`"),
    "another type": (lambda f: break_json(f, seed="1"), r"cannot read .*run.json: Expected `int`, got `str` - at `\$\.seed`"),
    "load of another type": (lambda f: break_json(f, load={"calls": "many"}), r"got `str` - at `\$\.load\.calls`"),
    "no run.json": (lambda f: (f / "run.json").unlink(), "not a run folder"),
    "no scenario": (lambda f: (f / "scenario.toml").unlink(), "scenario.toml"),
    "garbled scenario": (lambda f: (f / "scenario.toml").write_text("= 3"), "scenario.toml"),
    "slo is no table": (lambda f: (f / "scenario.toml").write_text("slo = 3"), r"write \[slo\]"),
    "garbled environment": (lambda f: (f / "environment.json").write_text("x"), "environment.json"),
    "missing table": (lambda f: (f / "pods.parquet").unlink(), "pods.parquet is missing"),
    "truncated table": (lambda f: rewrite(f, "hosts", (f / "hosts.parquet").read_bytes()[:-9]), "run.json says"),
    "garbled table": (
        lambda f: rewrite(f, "hosts", b"x" * (f / "hosts.parquet").stat().st_size),
        "hosts.parquet is not what run.json says",
    ),
    "one bit of a table": (lambda f: flip(f, "calls"), "calls.parquet is not what run.json says"),
    "edited run.json": (lambda f: edit(f, '"seed": 1', '"seed": 2'), "run.json was damaged or changed"),
    "nested run.json": (lambda f: (f / "run.json").write_text("[" * 5000), "cannot read .*run.json"),
    "cut scenario": (lambda f: (f / "scenario.toml").write_text(""), "scenario.toml was damaged or changed"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_bad_folder_is_refused_in_one_line(case: str, plan: RunFolder) -> None:
    plan.publish(2)
    folder = plan.write()
    damage, message = BROKEN[case]
    if case == "cut scenario":
        break_json(folder, scenario_crc32=file_checksum(folder / "scenario.toml"))
    damage(folder)
    with pytest.raises(RunFolderError, match=message) as error:
        open_run(folder)
    assert "\n" not in str(error.value)


def test_a_file_beside_the_tables_that_was_changed_or_an_environment_that_is_gone_is_refused(plan: RunFolder) -> None:
    folder = plan.write()
    names = ("environment.json", "proxy.log", "journals/pod-1.log")
    (folder / "journals").mkdir()
    for name in names:
        (folder / name).write_text('{"python": "3.11.7"}')
    break_json(folder, files={name: file_checksum(folder / name) for name in names})
    assert open_run(folder).environment == {"python": "3.11.7"}
    for name in names:
        (folder / name).write_text('{"python": "3.12.7"}')
        with pytest.raises(RunFolderError, match=f"{name} was damaged or changed after the run"):
            open_run(folder)
        (folder / name).unlink()
        if name == "environment.json":
            with pytest.raises(RunFolderError, match=r"environment\.json is missing"):
                open_run(folder)
            (folder / name).write_text('{"python": "3.11.7"}')
        else:
            assert open_run(folder).environment == {"python": "3.11.7"}, "nobody judges by a log"


@pytest.mark.parametrize("change", ["other columns", "other type"])
def test_a_table_with_the_wrong_columns_is_refused(change: str, plan: RunFolder) -> None:
    folder = plan.write()
    if change == "other columns":
        rewrite(folder, "pods", (folder / "hosts.parquet").read_bytes())
    else:
        table = pd.read_parquet(folder / "pods.parquet").astype({"at_ns": "float64"})
        os.remove(folder / "pods.parquet")
        table.to_parquet(folder / "pods.parquet")
    sizes = {name: {"rows": 1, "bytes": (folder / f"{name}.parquet").stat().st_size} for name in TABLES}
    break_json(folder, tables=sizes)
    with pytest.raises(RunFolderError, match=r"pods\.parquet: column"):
        open_run(folder)


def test_a_folder_from_before_a_column_was_there_opens_and_the_column_is_not_known(plan: RunFolder) -> None:
    plan.publish(2)
    folder = plan.write()
    whole = pq.read_table(folder / "hosts.parquet")
    (folder / "hosts.parquet").chmod(0o644)
    pq.write_table(whole.drop_columns(list(OPTIONAL["hosts"])), folder / "hosts.parquet")
    (folder / "hosts.parquet").chmod(0o444)
    size = (folder / "hosts.parquet").stat().st_size
    content = json.loads((folder / "run.json").read_text())
    content["tables"]["hosts"] |= {"bytes": size, "crc32": None}
    (folder / "run.json").write_text(json.dumps(content))
    hosts = open_run(folder).hosts
    assert list(hosts) == list(TABLES["hosts"]) and len(hosts) == whole.num_rows
    assert hosts[list(OPTIONAL["hosts"])].isna().all(axis=None)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"no run folder at .*nowhere"):
        open_run(tmp_path / "nowhere")


def test_the_folder_above_the_runs_hints_at_latest(plan: RunFolder) -> None:
    folder = plan.write()
    (folder.parent / "latest").symlink_to(folder.name)
    with pytest.raises(RunFolderError, match=r"did you mean .*/latest"):
        open_run(folder.parent)


def test_what_is_no_run_folder_is_named_with_what_to_do(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    with pytest.raises(RunFolderError) as error:
        open_run(nowhere)
    assert str(error.value) == f"no run folder at {nowhere}; look into reports/runs for those there are"
    (nowhere / "latest").mkdir(parents=True)
    with pytest.raises(RunFolderError) as error:
        open_run(nowhere)
    assert str(error.value) == f"{nowhere} is not a run folder, it holds no run.json; did you mean {nowhere}/latest?"
    (nowhere / "latest").rmdir()
    with pytest.raises(RunFolderError) as error:
        open_run(nowhere)
    hint = "give the folder that `buslab run` printed"
    assert str(error.value) == f"{nowhere} is not a run folder, it holds no run.json; {hint}"


def test_what_stands_in_a_run_beside_its_tables(tmp_path: Path) -> None:
    plan = (
        RunFolder(tmp_path / "run", slo={"missing": 3}, transport="streams")
        .service("web", replicas=2, channels="a")
        .pod("b-0", service="b")
    )
    plan.scenario = '[services.mail]\nsubscribes = ["m"]\n[services.mute]\nsubscribes = []\n[services.web]\nsubscribes = ["x"]\n'
    plan.info.nodes = 2
    run = open_run(plan.write())
    assert (run.slo, run.transport, run.one_per_service, run.many_nodes, run.sealed) == ({"missing": 3}, "streams", True, True, True)
    assert (run.run_span, run.phase("drain"), run.phase("heal")) == ((10 * SECOND, 20 * SECOND), (20 * SECOND, 22 * SECOND), None)
    assert run.services == ["b", "mail", "web"]
    assert run.service_of_pod.tolist() == [2, 2, 0] and run.service_of_pod.dtype.name == "int16"
    assert run.service_channels == [frozenset({"config.updated"}), frozenset({"m"}), frozenset({"a"})]
    assert run.phase_codes(np.array([0, 9, 10, 20, 21, 99]) * SECOND).tolist() == [0, 3, 4, 5, 5, 5]
    assert run.phase_codes(np.array([10 * SECOND - 1, -5])).tolist() == [3, 0] and run.phase_codes(np.array([0])).dtype.name == "int8"
    assert run.unreadable_parts == []
    plan.folder, plan.info.fleet, plan.info.nodes = tmp_path / "none", "none", 1
    plan.info.phases = [Phase("start", SECOND, 0)]
    run = open_run(plan.write())
    assert (run.services, run.many_nodes, run.run_span, run.phases) == (["b", "web"], False, (0, 0), {"start": (SECOND, FOREVER_NS)})
    assert not run.copies_in("run").any()


def test_a_fault_that_was_not_felt_at_all_is_not_among_those_that_were(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.faults = [("down", "broker", SECOND, 2 * SECOND), ("cut", "web-0", 3 * SECOND, 0)]
    run = open_run(plan.write())
    assert [row["fault"] for row in run.felt_faults()] == ["down", "cut"]
    assert run.felt_faults()[1] == {
        "fault": "cut",
        "target": "web-0",
        "begin_ns": 3 * SECOND,
        "end_ns": 0,
        "felt": "whole",
        "felt_ns": 3 * SECOND,
    }
    run = open_run(plan.folder)
    run.__dict__["faults"] = run.faults.assign(felt=["not at all", "in part"])
    assert [row["fault"] for row in run.felt_faults()] == ["cut"]


def test_the_parts_of_an_unsealed_run_are_read_together_and_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.publish(10)
    whole = open_run(plan.write()).publishes
    plan.folder = tmp_path / "parts"
    folder = plan.write(seal=False, parts=3)
    run = open_run(folder)
    assert not run.sealed
    assert sorted(run.publishes["event"]) == sorted(whole["event"]) and len(run.deliveries) == 10
    (folder / "parts" / "probes-h9-0.parquet").write_bytes(b"PAR1")
    assert run.probes.empty and run.unreadable_parts == ["probes-h9-0.parquet"]
    assert list(run.probes) == list(TABLES["probes"])


def test_a_scenario_without_limits_has_none(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    folder = plan.write()
    (folder / "scenario.toml").write_text('name = "synthetic"\n')
    assert open_run(folder).slo == {}


@pytest.mark.parametrize(("state", "seal", "sealed"), [("complete", True, True), ("running", True, False), ("complete", False, False)])
def test_a_run_is_sealed_when_its_tables_are_promised_and_it_is_over(tmp_path: Path, state: str, seal: bool, sealed: bool) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    assert open_run(plan.write(state=state, seal=seal)).sealed is sealed


def test_a_later_table_that_goes_while_the_run_is_open_is_an_error_and_one_that_never_was_is_empty(plan: RunFolder) -> None:
    plan.publish(1)
    folder = plan.write()
    run = open_run(folder)
    (folder / "keys.parquet").unlink()
    with pytest.raises(RunFolderError, match=r"keys\.parquet"):
        run.keys  # noqa: B018
    assert run.info.tables is not None
    del run.info.tables["keys"]
    assert run.keys.empty and list(run.keys) == list(TABLES["keys"])
