"""Measuring capacity for real, small: what is counted must add up, nobody stays behind, and what cannot be sized is refused."""

from __future__ import annotations

import csv
import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from sim.bus.envelope import BATCH, EVENT_TYPES, decode
from sim.errors import BuslabError, MachineBusyError, UsageError
from sim.grounds.catalogue import open_broker
from sim.measure.capacity.children import MARK, EventKind, Watched
from sim.measure.capacity.report import WINDOW
from sim.measure.capacity.run import TINY, Window, measure_capacity, why_not, with_pods, workload_of
from sim.measure.capacity.saturate import Range, Shot, payload_of
from sim.scenario.file import load_scenario
from sim.wire.resp import pack
from tests.support.scenes import BOUND_S
from tests.support.starving import BUSY

SIZES = ((0, 1), (64, 5), (64, 10), (64, 100))
SMALLEST = replace(
    TINY, most_withheld=math.inf, budget_s=5.0, full_s=0.1, rate_s=0.4, again=1, pods=(1, 6), small=SIZES, held_out=((2, 64, 1), (4, 64, 5))
)


def shot(**said: float) -> Shot:
    rate = {"meant": 1000.0, "heard": 900.0, "lag_ms_p99": 10.0, "backlog_per_s": 5.0, "cut": 0.0} | said
    return Shot(1000, 1.0, 0.5, 0.1, 0.1, 0.0, 0.0, rate)


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_an_envelope_is_a_real_one_with_the_mark_once(kind: str) -> None:
    payload = payload_of(kind, payload_bytes=64, items=7)
    assert decode(payload).type == kind and payload.count(MARK) == 1 and payload.count(b"cor_") == 1
    assert len(decode(payload).data.get("events", ())) == (7 if kind == BATCH else 0)


def test_a_workload_is_what_the_scenario_says() -> None:
    load = workload_of(load_scenario("baseline"))
    by_name = {kind.name: kind for kind in load.kinds}
    assert sum(kind.share for kind in load.kinds) == pytest.approx(1)
    assert load.receivers(by_name["config.cache.invalidate"]) == 12 and load.receivers(by_name[BATCH]) == 1
    batch = by_name[BATCH]
    hundred = len(payload_of(BATCH, payload_bytes=64, items=100))  # ids in the items have one digit more or less
    assert batch.batched and batch.head_bytes + 100 * batch.item_bytes == pytest.approx(hundred, rel=0.005)
    assert workload_of(with_pods(load_scenario("baseline"), 3)).replicas == dict.fromkeys(load.replicas, 3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("bus.transport=streams",), "bus.transport = 'streams'"),
        (("bus.redis_url=false", "load.driver=pods"), "redis_url = false"),
    ],
)
def test_a_scenario_that_is_not_one_brokers_pub_sub_is_refused(settings: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        workload_of(load_scenario("baseline", settings=settings))


@pytest.mark.parametrize(
    "on", ["model", "cluster", "cluster:1", "container-cluster", "rediss://127.0.0.1:1", "redis://127.0.0.1:1 redis://127.0.0.1:2"]
)
def test_a_ground_without_one_real_plain_broker_is_refused_before_anything_starts(on: str) -> None:
    with pytest.raises(UsageError, match="capacity"):
        measure_capacity(load_scenario("baseline"), on=on)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({}, ""),
        ({"lag_ms_p99": 50.1}, "p99 of lag is 50.1 ms, over 50 ms"),
        ({"cut": 2.0}, "the broker cut 2 of the subscribers: too slow"),
        ({"heard": 0.0}, "no watching subscriber heard anything"),
        ({"backlog_per_s": 21.0}, "the backlog grows by 21 events/s"),
        ({"meant": 1100.0}, "only 1,000 of 1,100 events/s were answered"),
    ],
)
def test_the_rule_for_a_sustained_rate(said: dict[str, float], words: str) -> None:
    assert why_not(shot(**said), 1000.0, 50.0) == words


def test_a_watcher_finds_each_number_once_however_reads_are_cut() -> None:
    class Pieces:
        def __init__(self, data: bytes, size: int) -> None:
            self.left = [data[at : at + size] for at in range(0, len(data), size)]

        def recv(self, size: int, flags: int) -> bytes:
            if not self.left:
                raise BlockingIOError
            return self.left.pop(0)

    numbers = [0, 7, 123_456_789_012]
    data = b"".join(pack(b"message", b"c", b'{"correlationId":"cor_%012d","x":1}' % number) for number in numbers)
    for size in (1, 5, 16, 40, len(data)):
        watched = Watched(Pieces(data, size))  # type: ignore[arg-type]
        found = [number for _ in range(len(data) + 1) for number in watched.read()]
        assert found == numbers


@pytest.mark.broker
def test_a_full_broker_and_a_rate_are_counted_right(tmp_path: Path) -> None:
    kind = EventKind("aiponge:events:x", payload_of(BATCH, payload_bytes=64, items=1), 1.0, 3)
    with open_broker("embedded") as broker:
        range_ = Range(broker, tmp_path)
        full = range_.full([kind], [[kind.channel]] * 3, connections=2, seconds=0.2, warm_up_s=0.05)
        assert full.events > 0 and full.broker_cpu_s > 0 and full.seconds >= 0.2 and full.rate == {}
        at = range_.at_rate([kind], [[kind.channel]] * 3, connections=2, seconds=0.5, warm_up_s=0.1, rate_per_s=1000, seed=1)
        assert at.rate["heard"] == 3 * at.rate["meant"] > 0  # all three watch
        assert 0 < at.rate["lag_ms_p50"] <= at.rate["lag_ms_p99"]
        with pytest.raises(BuslabError, match="should be heard by 3 subscribers"):
            range_.full([kind], [[kind.channel]] * 2, connections=2, seconds=0.2, warm_up_s=0.05)
        range_.close()


@pytest.mark.broker
def test_a_tiny_measurement_has_every_part_and_leaves_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    lines: list[str] = []
    windows: list[Window] = []
    found = measure_capacity(load_scenario("baseline"), lag_ms_p99=60_000, effort=SMALLEST, tell=lines.append, keep=windows.append)
    assert {str(window["what"]) for window in windows} >= {"to fit", "held out", "mix", "search", "again", "one pod down"}
    assert all(set(window) <= set(WINDOW) for window in windows)
    assert {point.pods for point in found.fitted} == {1, 12}  # the channel with most pods stretches the grid
    assert [(p.pods, p.payload_bytes, p.batch) for p in found.held_out] == list(SMALLEST.held_out)
    assert all(cost > 0 for point in found.fitted for cost in point.cpu_us)
    assert {len(point.cpu_us) for point in found.fitted} == {2} and found.model.rounds_freedom == 1  # two rounds, whatever the budget
    assert all(step.out_bytes_per_event > 0 for step in (*found.steps, *found.at_answer))
    assert found.carried is not None and len(found.at_answer) == 1 and len(found.one_down) == 1
    assert found.host_copies_per_s > 0 and found.model.kink_bytes > 1000
    assert len(lines) > len(found.fitted) and "s left" in lines[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.broker
def test_an_interruption_keeps_what_was_measured_and_an_earlier_answer(tmp_path: Path) -> None:
    (tmp_path / "capacity.json").write_text("an earlier answer")
    anywhere = "import dataclasses as d, sim.measure.capacity.run as r; r.QUICK = d.replace(r.QUICK, most_withheld=float('inf')); "
    code = f"{anywhere}from sim.cli.__main__ import main; main()"  # this is no matter of how busy the machine is
    with subprocess.Popen(
        [sys.executable, "-c", code, "capacity", "baseline", "--out", str(tmp_path)], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if "to fit, round 1" in line)
        started = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        said = process.stderr.read()
        assert process.wait(BOUND_S) == 128 + signal.SIGTERM
    assert "no answer; what 1 window measured is in" in said and said.endswith("buslab: interrupted\n")
    rows = list(csv.DictReader((tmp_path / "capacity.interrupted.csv").open()))
    assert len(rows) == 1 and float(rows[0]["us_per_event"]) > 0
    assert (tmp_path / "capacity.json").read_text() == "an earlier answer"
    assert len(started) >= 1 and psutil.wait_procs(started, timeout=BOUND_S)[1] == []


# -- no answer without a core ---------------------------------------------------------------------------------------


def test_who_waited_too_long_is_named_and_what_is_not_known_is_no_reason() -> None:
    assert replace(shot(), broker_withheld=0.3, children_withheld=0.1).starved(0.2) == "the broker waited for a core in 30% of the time"
    assert "publishes or the one that drains" in replace(shot(), broker_withheld=0.3, children_withheld=0.4).starved(0.2)
    assert replace(shot(), broker_withheld=0.1, children_withheld=0.1).starved(0.2) == ""
    assert shot().starved(0.2) == ""
    assert "publishes" in replace(shot(), children_withheld=0.4).starved(0.2)


@pytest.mark.broker
@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel keeps no account of its threads")
def test_without_a_core_there_is_no_answer_and_it_comes_early_with_what_to_stop() -> None:
    windows: list[Window] = []
    lines: list[str] = []
    core = min(os.sched_getaffinity(0))
    loops = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(4)]
    for loop in loops:  # all on the core that the broker is given
        os.sched_setaffinity(loop.pid, {core})
    try:
        with pytest.raises(MachineBusyError) as busy:
            measure_capacity(load_scenario("baseline"), effort=TINY, tell=lines.append, keep=windows.append)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    said = str(busy.value)
    waited = r"the (?:broker|process that .*) waited for a core in \d+% of the time"
    assert re.fullmatch(rf"unknown: {waited}, so .*; stop .*, and try again", said), said
    assert windows == [] and len(lines) == 3
    assert re.search(r"stop [^;]+? \(process \d+, \d+% of a core\)", said)
    assert busy.value.exit_code == 2


def test_a_workload_is_of_the_envelope_that_the_bus_has() -> None:
    sizes = {}
    for settings in ((), ("envelope.kind=cloudevents",), ("envelope.kind=plain", "envelope.correlation=/c")):
        workload = workload_of(load_scenario("baseline", settings=settings))
        sizes[settings] = sum(kind.head_bytes for kind in workload.kinds)
    assert len(set(sizes.values())) == 3 and all(size > 0 for size in sizes.values())
    with pytest.raises(UsageError, match=r"envelope.correlation is empty: capacity finds the lag by it"):
        workload_of(load_scenario("baseline", settings=("envelope.kind=plain",)))
