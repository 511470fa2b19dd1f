"""Where deliveries are kept: the same columns from memory and from files, and the parts that both are made of."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from sim.errors import RunFolderError
from sim.record.schema import FOREIGN_BIT, event_key
from sim.results import heard
from sim.results.heard import PATHS, RESULTS, EventPlaces, PodsOfTable, SortedFiles, Spool, in_threads, read_group
from sim.results.opened_run import open_run
from tests.support.run_folders import MS, SECOND, RunFolder


@pytest.mark.parametrize("keys", [[5, 6, 7, 20, 21, 40], [3], [0, 1, 2], [7, 9, 11], []])
def test_a_key_is_found_where_it_stands_among_all_and_else_nowhere(keys: list[int]) -> None:
    wanted = [*range(45), 2**63, 2**64 - 1]
    found = EventPlaces(np.array(keys, dtype=np.uint64)).of(np.array(wanted, dtype=np.uint64))
    assert found.tolist() == [keys.index(key) if key in keys else len(keys) for key in wanted]


@pytest.mark.parametrize("many", [1023, 1024, 1025])
def test_a_key_is_found_in_many_gaps_too(many: int) -> None:
    keys = np.arange(many, dtype=np.uint64) * np.uint64(3)
    assert EventPlaces(keys).of(keys).tolist() == list(range(many))
    assert set(EventPlaces(keys).of(keys + np.uint64(1)).tolist()) == {many}


def test_a_spool_keeps_numbers_at_their_places() -> None:
    spool = Spool(np.int16)
    spool.write(np.array([7, 8, 9]), 5)
    spool.write(np.arange(10, 0, -2)[1:3], 8)
    assert spool.read(5, 10).tolist() == spool.mapped(5, 10).tolist() == [7, 8, 9, 8, 6]
    assert spool.read(6, 8).tolist() == spool.mapped(6, 8).tolist() == [8, 9]
    assert spool.read(0, 1).tolist() == [0] and spool.read(7, 7).tolist() == []
    assert spool.read(5, 6).dtype == np.int16
    with pytest.raises(RunFolderError, match=r"^the deliveries sorted by pod in \S+ ended early; judge the run again$"):
        spool.read(9, 11)


def test_a_spool_that_takes_a_few_bytes_at_a_time_is_written_and_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite, preadv = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda file, rest, place: pwrite(file, rest[:3], place))
    monkeypatch.setattr(os, "preadv", lambda file, buffers, place: preadv(file, [buffers[0][:5]], place))
    spool = Spool(np.int64)
    spool.write(np.array([2**40, -5, 3]), 2)
    assert spool.read(2, 5).tolist() == [2**40, -5, 3]


def test_a_folder_without_room_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, rest: object, place: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    spool = Spool(np.int8)
    with pytest.raises(RunFolderError) as caught:
        spool.write(np.array([1]), 0)
    where = spool._folder
    assert str(caught.value) == (
        f"cannot sort the deliveries by pod in {where}: No space left on device; set TMPDIR to a folder with more room"
    )


@pytest.mark.parametrize(
    ("weights", "pieces"),
    [
        ([], []),
        ([4], [(0, 1)]),
        ([4, 6], [(0, 2)]),
        ([4, 7], [(0, 1), (1, 2)]),
        ([40, 1, 2, 7, 1, 30, 30], [(0, 1), (1, 4), (4, 5), (5, 6), (6, 7)]),
        ([0, 0, 10, 0, 1], [(0, 4), (4, 5)]),
    ],
)
def test_pods_are_looked_at_together_while_they_have_room(
    monkeypatch: pytest.MonkeyPatch, weights: list[int], pieces: list[tuple[int, int]]
) -> None:
    monkeypatch.setattr(heard, "ROWS_A_PIECE", 10)
    assert list(heard._pieces(weights)) == [range(*piece) for piece in pieces]


def test_answers_come_in_the_order_of_the_tasks_and_few_wait() -> None:
    begun: list[int] = []
    lock = threading.Lock()

    def work(task: int) -> int:
        with lock:
            begun.append(task)
        return task * task

    answers = in_threads(work, range(40))
    assert next(answers) == 0
    assert len(begun) <= 3, "a third is begun when the first is taken, and no other"
    assert list(answers) == [task * task for task in range(1, 40)] and sorted(begun) == list(range(40))
    assert list(in_threads(work, [])) == []


def test_a_table_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "deliveries.parquet").write_text("no table")
    with pytest.raises(RunFolderError, match=r"^cannot read \S+deliveries\.parquet: .*; the file is damaged, copy it again$") as caught:
        read_group(tmp_path / "deliveries.parquet", 0, ["pod"])
    assert "\n" not in str(caught.value)


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    """Three pods, one of which hears nothing; 20 events, one heard twice, some through memory, left or failed, and two of somebody else."""
    plan = RunFolder(tmp_path / "run").service("web", replicas=3, channels="a")
    plan.publish(20, step_ns=MS, channel="a")
    plan.heard = [row for row in plan.heard if row.pod != "web-1"]
    plan.repeat(plan.events[3], "web-2")
    for place, (path, outcome) in {2: ("memory", "handled"), 5: ("broker", "skipped"), 9: ("broker", "failed")}.items():
        plan.heard[place].path, plan.heard[place].outcome = path, outcome
    plan.foreign(FOREIGN_BIT | 7, "web-0").foreign(event_key("other"), "web-2", at_ns=12 * SECOND)
    return plan


def test_files_say_of_each_pod_what_memory_says(plan: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heard, "ROWS_A_PIECE", 15)
    run = open_run(plan.write())
    in_memory = run.index.heard
    keys = run.publishes["event"].to_numpy()[run.index.row[:-1]]
    names = {history.pod: number for number, history in enumerate(run.pod_histories)}
    files = SortedFiles(PodsOfTable(run.folder / "deliveries.parquet"), keys=keys, names=names, at_most=[20, 20, 20])
    assert files.rows == in_memory.rows == len(plan.heard)
    assert files.pieces == [range(0, 1), range(1, 2), range(2, 3)]
    for pod, name in enumerate(names):
        one, other = in_memory.of_pod(pod), files.of_pod(pod)
        rows, its = one.rows(pod), other.rows(pod)
        planted = [row for row in plan.heard if row.pod == name]
        assert other.handled_ns[its].tolist() == one.handled_ns[rows].tolist() == [row.handled_ns for row in planted]
        assert other.received_ns[its].tolist() == one.received_ns[rows].tolist() == [row.received_ns for row in planted]
        places = [keys.tolist().index(row.key) if row.key in keys else len(keys) for row in planted]
        assert other.event_of[its].tolist() == one.event_of[rows].tolist() == places
        assert other.path[its].tolist() == one.path[rows].tolist() == [PATHS[row.path] for row in planted]
        assert other.outcome[its].tolist() == one.outcome[rows].tolist() == [RESULTS[row.outcome] for row in planted]
        proves = [row.path == "broker" and row.key in keys for row in planted]
        assert other.proves[its].tolist() == one.proves[rows].tolist() == proves
        strangers = [(at, row.key) for at, row in enumerate(planted) if row.key not in keys]
        assert [(at, int(key)) for at, key in enumerate(other.key) if key] == strangers
    assert files.of(range(0, 3)).rows(1).tolist() == []
    assert PodsOfTable(run.folder / "deliveries.parquet").first_handled_ns(2).tolist() == [row.handled_ns for row in plan.heard[:2]]
