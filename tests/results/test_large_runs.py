"""A run with too many deliveries for the memory is judged a few pods at a time: to the same last number, with every defect found."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from sim.errors import RunFolderError
from sim.record import recorder
from sim.record.run_info import LostProcess
from sim.record.schema import event_id
from sim.results import heard, outage_plots, plots
from sim.results.checkers.fallback import reachability
from sim.results.judged_run import JudgedRun, judge_folder
from sim.results.lost import lost_in_short
from tests.support.large_runs import LargeRun, Planted, found_otherwise
from tests.support.run_folders import MS, NONCE, RUN_NS, SECOND, US, RunFolder

FOREIGN = 1 << 63 | 9
LIMIT_MB = 125


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Planted]:
    folder = tmp_path_factory.mktemp("large") / "run"
    return folder, LargeRun(40_000, pods=20, defects=8).write(folder)


def in_pieces(folder: Path, monkeypatch: pytest.MonkeyPatch, copies: int) -> JudgedRun:
    """Judge a folder as one with too many deliveries is judged, so many copies at a time."""
    monkeypatch.setattr(heard, "ROWS_IN_MEMORY", -1)
    monkeypatch.setattr(heard, "ROWS_A_PIECE", copies)
    judged = judge_folder(folder, write=False)
    assert judged.run.many_deliveries is not None
    return judged


def told(judged: JudgedRun) -> dict[str, Any]:
    """Return all that is said of a run."""
    tables = {"lost": judged.run.lost(), "reached": reachability(judged.run), "copies": judged.run.ledger()}
    return judged.verdict.to_json() | {name: table.to_csv() for name, table in tables.items()}


def test_every_planted_defect_is_found_and_nothing_else(large: tuple[Path, Planted], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, planted = large
    assert planted.duplicates == planted.swaps == planted.missing["unexplained"] == 8
    assert min(planted.missing.values()) > 0, planted.missing
    for judged in (judge_folder(folder, write=False), in_pieces(folder, monkeypatch, 4_000)):
        results = judged.verdict.checkers
        assert found_otherwise(folder, {name: result.counts for name, result in results.items()}) == []
        ledger = judged.run.ledger()
        for kind, fate, cause in (("lost", "missing", "unexplained"), ("twice", "duplicate", "")):
            rows = ledger[(ledger["fate"] == fate) & (ledger["cause"] == cause)]
            assert sorted(zip(rows["event"], rows["pod"].astype(str), strict=True)) == sorted(planted.copies[kind])
        ids = {event_id(key) for key, _ in planted.copies["swapped"]}
        assert len(results["order"].witnesses) == 3 and all(one.split()[0] in ids for one in results["order"].witnesses)
        assert {name: results[name].verdict for name in ("ledger", "duplication", "order", "steady", "harness")} == {
            "ledger": "unknown", "duplication": "invalid", "order": "invalid", "steady": "valid", "harness": "valid",
        }  # fmt: skip


@pytest.mark.parametrize("copies", [1, 4_000])
def test_in_pieces_the_same_is_said_to_the_last_number(large: tuple[Path, Planted], monkeypatch: pytest.MonkeyPatch, copies: int) -> None:
    whole = judge_folder(large[0], write=False)
    assert whole.run.many_deliveries is None and len(list(whole.run.pieces)) == 1
    pieces = in_pieces(large[0], monkeypatch, copies)
    assert len(list(pieces.run.pieces)) == (20 if copies == 1 else 14)
    assert told(pieces) == told(whole)


def test_in_pieces_the_same_is_said_of_every_kind_of_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heard twice, late, from oneself, unpublished or another program's; refused or in doubt; and of a service without a pod."""
    plan = RunFolder(tmp_path / "run", slo={'lag_ms_p99.service."web"': 5.0, "missing": 3})
    plan.service("web", replicas=3).service("api", replicas=2, channels="config.updated,a.b").pod("far-0", service="far")
    events = [*plan.publish(200, items=2), *plan.publish(50, channel="a.b", publisher="api-0")]
    plan.repeat(events[3], "web-1", times=2).drop(events[9], "web-2").swap(events[20], events[21], "api-0")
    plan.foreign(5, "web-0").foreign(FOREIGN, "api-0").delay(events[80], "web-0", 2 * SECOND)
    events[30].outcome, events[50].outcome, events[60].outcome = "unknown", "refused", "memory"
    plan.drop(events[30], "api-1").drop(events[60], "web-0")
    plan.hear(events[210], "web-1", outcome="failed")
    plan.hear(events[61], "api-0", path="memory", outcome="skipped")
    plan.state("web-0", RUN_NS + 100 * MS, "disconnected").state("web-0", RUN_NS + 150 * MS, "subscribed")
    plan.end("far-0", events[100].sent_ns)
    plan.faults = [("broker_stop", "broker", RUN_NS + 100 * MS, RUN_NS + 140 * MS)]
    folder = plan.write(parts=3)
    whole = told(judge_folder(folder, write=False))
    assert whole["checkers"]["ledger"]["counts"]["foreign"] == 2
    assert told(in_pieces(folder, monkeypatch, 1)) == whole


def test_in_pieces_the_same_is_said_where_one_pod_of_a_service_hears_an_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = RunFolder(tmp_path / "run", transport="streams").service("web", replicas=3)
    for number in range(60):
        plan.hear(plan.event(RUN_NS + number * MS), f"web-{number % 3}")
    plan.repeat(plan.events[4], "web-1").drop(plan.events[31], "web-1")
    plan.state("web-1", RUN_NS + 31 * MS + 60 * US, "disconnected")
    folder = plan.write()
    whole = told(judge_folder(folder, write=False))
    assert whole["checkers"]["ledger"]["counts"]["taken-by-peer"] > 100
    assert told(in_pieces(folder, monkeypatch, 1)) == whole


def several_clocks(folder: Path) -> RunFolder:
    """Return a plan of pods and publishers minutes apart, with every loss, and with what turns on less than their clocks are known by."""
    plan = RunFolder(folder, slo={'lag_ms_p99.channel."a.b"': 5.0, "half_served": 0, "missing": 3}).service("web", replicas=3)
    plan.service("api", replicas=2, channels="config.updated,a.b").pod("far-0", service="far")
    events = [*plan.publish(100), *plan.publish(40, channel="a.b", publisher="api-0")]
    plan.repeat(events[3], "web-1").drop(events[9], "web-2").swap(events[20], events[21], "api-0").foreign(5, "web-0")
    plan.drop(events[99], "web-1").end("web-1", events[99].sent_ns + 5 * US).end("far-0", events[60].sent_ns - 5 * US)
    events[30].outcome, events[50].outcome = "unknown", "refused"
    plan.drop(events[30], "api-1").drop(events[70], "web-0")
    plan.state("web-0", events[69].acked_ns + 300 * US, "disconnected").state("web-0", events[70].sent_ns + 5 * US, "subscribed")
    plan.faults = [("broker_stop", "broker", RUN_NS + 100 * MS, RUN_NS + 140 * MS)]
    return plan.clock("h0", ahead_ns=300 * SECOND, wrong_ns=-9 * US).clock("locust", ahead_ns=-8 * SECOND, bound_ns=30 * US)


@pytest.mark.parametrize("rows", [1 << 20, 41])
def test_in_pieces_the_same_is_said_where_processes_read_clocks_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """Times are put into the run's clock group by group of rows, wherever the next one begins."""
    monkeypatch.setattr(recorder, "ROWS_PER_GROUP", rows)
    folder = several_clocks(tmp_path / "run").write(parts=3)
    before = judge_folder(folder, write=False)
    whole, first = told(before), before.run.first_handled_ns(30).tolist()
    counts = whole["checkers"]["ledger"]["counts"]
    assert counts["half_in_doubt"] == 2 and counts["unknown"] > counts["half_in_doubt"]
    assert whole["checkers"]["lag"]["counts"]["clock_error_us.max"] == 40
    pieces = in_pieces(folder, monkeypatch, 1)
    assert pieces.run.first_handled_ns(30).tolist() == first and told(pieces) == whole
    assert pieces.run.many_deliveries is not None and len(pieces.run.many_deliveries.rows) == (1 if rows > 1000 else 17)


def test_in_pieces_it_is_said_too_that_nobody_knows_whose_clock_wrote_the_deliveries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = several_clocks(tmp_path / "run").write()
    info = json.loads((folder / "run.json").read_text())
    del info["tables"]["deliveries"]["sources"]
    (folder / "run.json").write_text(json.dumps(info))
    whole = told(judge_folder(folder, write=False))
    assert "which clock which rows of deliveries are of" in whole["checkers"]["harness"]["detail"]
    assert told(in_pieces(folder, monkeypatch, 1)) == whole


def test_in_pieces_the_same_is_said_of_pods_whose_record_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = RunFolder(tmp_path / "run", slo={"missing": 0, "half_served": 0}).service("web", replicas=2).service("api", replicas=2)
    events = plan.publish(200)
    plan.heard = [row for row in plan.heard if row.pod not in ("web-1", "api-1")]
    plan.drop(events[5], "api-0").foreign(NONCE << 48 | 7 << 32 | 1, "web-0").foreign(NONCE << 48 | 6 << 32 | 1, "web-0")
    events[8].outcome = "unknown"
    plan.info.lost = [LostProcess("dask-1", ["web-1", "api-1"], [7], 3, 15 * SECOND, "the worker is gone")]
    folder = plan.write(parts=2)
    whole = told(judge_folder(folder, write=False))
    counts = whole["checkers"]["ledger"]["counts"]
    assert (counts["of_lost_publishers"], counts["half_in_doubt"], counts["in_doubt"]) == (1, 397, 1)
    assert told(in_pieces(folder, monkeypatch, 1)) == whole


def test_in_pieces_the_same_is_said_of_who_was_blind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies that were late at their publisher, on their way, and because handlers take time."""
    plan = RunFolder(tmp_path / "run").service("web", replicas=3).service("slow", replicas=2)
    plan.scenario = "[services.web]\n[services.slow]\nhandler_ms = 5.0\n"
    events = plan.publish(150, step_ns=50 * MS)
    for event in events[40:60]:
        event.acked_ns = event.sent_ns + 1500 * MS
        for pod in ("web-0", "slow-0", "slow-1"):
            plan.delay(event, pod, 1600 * MS)
    for event in events[90:110]:
        plan.delay(event, "web-1", 1200 * MS).delay(event, "slow-1", 1300 * MS)
    folder = plan.write()
    whole = told(judge_folder(folder, write=False))
    assert whole["checkers"]["fallback"]["counts"]["truth_gap_s.max"] > 1
    assert told(in_pieces(folder, monkeypatch, 1)) == whole


def drawn(judged: JudgedRun) -> list[tuple[str, list[list[float]]]]:
    """Return the title of each figure of the report, and the heights of its lines."""
    axes = [draw(judged.run, Figure().subplots()) for draw in (*plots.FIGURES, *outage_plots.FIGURES)]
    return [(ax.get_title(), [np.nan_to_num(np.asarray(line.get_ydata(), dtype=float)).tolist() for line in ax.lines]) for ax in axes]


def test_figures_and_sentences_of_the_report_are_the_same_in_pieces(large: tuple[Path, Planted], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = judge_folder(large[0], write=False)
    before, lost = drawn(whole), lost_in_short(whole.run, whole.run.lost())
    judged = in_pieces(large[0], monkeypatch, 4_000)
    assert drawn(judged) == before and len(before) == 9
    assert lost_in_short(judged.run, judged.run.lost()) == lost and len(lost) == 3
    assert "copies" not in judged.run.__dict__ and "deliveries" not in judged.run.__dict__, "neither was ever in memory as a whole"


def judged_within(folder: Path, megabytes: int, rows_in_memory: int, *only: str) -> subprocess.CompletedProcess[str]:
    """Judge a folder in a process that may have so much more memory than it has when everything is imported."""
    program = f"""
import resource, sys
from pathlib import Path
from sim.results import heard, outage_plots, plots
from sim.results.judged_run import judge_folder
from sim.results.checkers import at_best_of
from tests.support.large_runs import found_otherwise
import sim.results.interval
heard.ROWS_IN_MEMORY, heard.ROWS_A_PIECE = {rows_in_memory}, 100_000
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) << 10
resource.setrlimit(resource.RLIMIT_DATA, (used + {megabytes << 20},) * 2)
judged = judge_folder(sys.argv[1], write=False, only={only or None})
failed = [result.detail for result in judged.verdict.checkers.values() if result.detail.startswith("the checker failed")]
best, event = at_best_of(judged.run), judged.run.publishes["event"].iloc[0]
for metric in () if {bool(only)} else ("lag_ms_p99", "item_age_ms_p99", "missing", "half_served", "items_lost", "from_future"):
    best.value(metric, 9.0, 0.2)
judged.run.story(f"evt_{{event:016x}}")
print(failed or {bool(only)} or found_otherwise(Path(sys.argv[1]), {{name: one.counts for name, one in judged.verdict.checkers.items()}}))
"""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "2"}
    return subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit on a process's data is Linux's")
def test_memory_does_not_grow_with_the_deliveries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is enough for so many in pieces is not enough for them all together."""
    monkeypatch.setattr(recorder, "ROWS_PER_GROUP", 1 << 16)
    LargeRun(1_800_000, pods=60).write(tmp_path)
    assert judged_within(tmp_path, LIMIT_MB, 0).stdout == "[]\n"
    together = judged_within(tmp_path, LIMIT_MB, 10_000_000, "ledger")
    assert "MemoryError" in together.stdout + together.stderr, "with the same limit all of them together have no room"


def test_without_room_to_sort_them_one_line_says_what_to_do(large: tuple[Path, Planted], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(
        RunFolderError, match=r"cannot sort the deliveries by pod in .*: No space left on device; set TMPDIR to a folder with"
    ):
        in_pieces(large[0], monkeypatch, 4_000)


def test_places_are_computed_where_keys_have_no_gap_and_searched_where_they_have() -> None:
    rng = np.random.default_rng(5)
    dense = np.concatenate([np.arange(first, first + many) for first, many in ((3, 4), (90, 1), (1 << 40, 50))]).astype(np.uint64)
    for keys in (dense, np.sort(rng.choice(1 << 20, 5_000, replace=False)).astype(np.uint64), dense[:0], dense[:1]):
        wanted = np.concatenate([keys, keys + np.uint64(1), keys - np.uint64(1), np.array([0, 1 << 63, (1 << 64) - 1], dtype=np.uint64)])
        known = {key: place for place, key in enumerate(keys.tolist())}
        assert heard.EventPlaces(keys).of(wanted).tolist() == [known.get(key, len(keys)) for key in wanted.tolist()]
