"""The bench runs for real, small: never is a speed asserted, only that it counts right and leaves nothing behind."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sim.errors import BuslabError
from sim.measure import bench
from sim.measure.bench import CLIENTS, LAB, BenchReport, bench_table, compile_drain, run_bench
from sim.measure.bench.children import Acks, events
from sim.measure.bench.measure import ClientRound, frame_bytes
from sim.wire.connection import Wire
from sim.wire.read_memo import ReadMemo

TINY: dict[str, Any] = {"pods": 3, "seconds": 0.3, "rounds": 1}


@dataclass(frozen=True)
class Payloads:
    events: tuple[bytes, ...]


def printed(report: BenchReport) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(bench_table(report))
    return capture.get()


@pytest.mark.broker
@pytest.mark.deep
def test_a_tiny_bench_measures_every_client_at_every_depth_and_leaves_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    lines: list[str] = []
    report = run_bench(depths=(1, 16), tell=lines.append, **TINY)
    clients = [name for name in CLIENTS if name != "c-drain" or not report.left_out]
    assert [(row.depth, row.client) for row in report.rows] == [(depth, client) for depth in (1, 16) for client in clients]
    assert len(lines) == len(report.rows)
    for row in report.rows:
        assert row.rate_min == row.rate == row.rate_max > 0 and row.cpu_us > 0
        assert (row.per_read is None) == (row.client == "redis-py")
        assert row.per_read is None or row.per_read <= 2 * row.depth
        assert set(row.versus) == set(row.versus_cpu) == set(clients) - {row.client}
    assert json.loads(json.dumps(report.as_dict()))["rows"][0]["client"] == clients[0]
    assert len(report.conclusions) == 2 * len({"c-drain", "redis-py"} & set(clients))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.broker
def test_without_a_compiler_the_c_program_is_left_out_and_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.measure.bench.measure.shutil.which", lambda name: None)
    report = run_bench(depths=(1,), **TINY | {"seconds": 0.05})
    assert [row.client for row in report.rows] == ["raw-drain", "buslab", "redis-py"]
    assert "c-drain is left out: there is no C compiler" in printed(report)


@pytest.mark.broker
def test_a_copy_too_few_is_an_error_and_no_process_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.measure.bench.CLIENTS", {"raw-drain": ""})
    monkeypatch.setattr("sim.measure.bench.measure.frame_bytes", lambda event_bytes: frame_bytes(event_bytes) - 1)
    with pytest.raises(BuslabError, match=r"raw-drain: \d+ events x 3 subscribers were published, .* copies received"):
        run_bench(depths=(1,), **TINY | {"seconds": 0.05})


@pytest.mark.broker
def test_a_client_that_dies_is_an_error_with_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.measure.bench.CLIENTS", {"no-such-client": ""})
    with pytest.raises(BuslabError, match=r"bench's no-such-client is gone: .*KeyError"):
        run_bench(depths=(1,), **TINY)


def test_a_compiler_that_fails_leaves_the_c_program_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho no such header >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compile_drain(tmp_path) == (None, "c-drain is left out: cc failed: no such header")


@pytest.mark.parametrize("event_bytes", [300, 2_000])
def test_events_have_the_length_asked_for_and_are_all_different(event_bytes: int) -> None:
    made = events(event_bytes)
    some = [next(made) for _ in range(100)]
    assert {len(send.payload) for send in some} == {event_bytes}
    assert len({send.event for send in some}) == 100


def test_ratios_are_taken_within_rounds_and_judged_against_the_targets() -> None:
    """The machine is ten times slower in the second round: the ratio of the medians would be wrong."""
    speeds = {"c-drain": 1000, "raw-drain": 900, LAB: 800, "redis-py": 200}
    measures = [
        ClientRound(client, 1, speed * pods, seconds, cpu_ns=1000 * pods, reads=speed * pods)
        for seconds, pods in ((1.0, 10), (10.0, 10), (1.0, 20))
        for client, speed in speeds.items()
    ]
    row = bench._row(measures, LAB, 1)
    assert row.versus == pytest.approx({"c-drain": 0.8, "raw-drain": 8 / 9, "redis-py": 4.0})
    assert (row.rate, row.rate_min, row.rate_max, row.per_read) == (8_000, 800, 16_000, 1.0)
    reached, also = bench._conclusions([row])
    assert reached.endswith("target 70 % of it: reached.") and also.endswith("target 3.5 times it: reached.")
    assert bench._conclusions([replace(row, versus={"c-drain": 0.69})])[0].endswith("target 70 % of it: NOT reached.")


def test_one_byte_says_that_a_round_was_heard() -> None:
    reading, writing = os.pipe()
    try:
        acks = Acks(writing, 10)
        acks.heard(9)
        os.set_blocking(reading, False)
        with pytest.raises(BlockingIOError):
            os.read(reading, 10)
        acks.heard(12)
        assert os.read(reading, 10) == b".."
    finally:
        os.close(reading)
        os.close(writing)


@given(st.lists(st.binary(min_size=1, max_size=3).map(lambda data: data * 300), min_size=1, max_size=20))
def test_a_read_is_handed_on_as_it_was_read_and_one_like_the_read_before_is_the_same_object(reads: list[bytes]) -> None:
    wire = Wire()
    heard: list[bytes] = []
    wire.on_read = heard.append
    for read in reads:
        wire.get_buffer(-1)[: len(read)] = read
        wire.buffer_updated(len(read))
    assert heard == reads
    assert all(one is other for one, other in pairwise(heard) if one == other)


@given(st.lists(st.sampled_from([b"a", b"b" * 1_100, b"b" * 1_100 + b"c", b"b" * 1_101]), max_size=20))
def test_the_memo_never_answers_with_the_chunk_of_other_bytes(reads: list[bytes]) -> None:
    memo = ReadMemo(lambda payloads: Payloads(tuple(payloads)))
    for read in reads:
        known = memo.get(read)
        assert known is None or known.events == (read,)
        memo.put(read, memo.decode([read]))
        remembered = memo.get(read)
        assert remembered is not None and remembered.events == (read,)
