"""Runs whose processes of pods read clocks that are off by hours, which nothing tells the code: time namespaces play other machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sim.errors import HostError
from sim.machine.echo import EchoClient
from sim.machine.import_path import python_child
from sim.machine.line import Line, start_program
from sim.results.checkers import judge
from sim.results.checkers.verdict import Bounds
from sim.results.opened_run import Run, open_run
from sim.run.steps import run_scenario
from sim.scenario.file import Scenario
from tests.support.time_namespaces import ahead_by

Small = Callable[..., Scenario]
SECOND = 1_000_000_000
AHEAD_S = 12_345
LOCAL = ("hosts.kind=local", "load.driver=pods", "load.run_s=2", "load.rate_per_s=300", "slo={}")
KILLED = "music-service-0"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Start processes of pods in turn with the run's clock and with one that is ahead; give how far each is."""
    prefix, given = ahead_by(AHEAD_S), []

    def start(module: str, *args: object, **more: Any) -> Line:
        given.append(AHEAD_S * (len(given) % 2))
        return start_program([*(prefix if given[-1] else ()), *python_child(module, *args)], module=module, **more)

    monkeypatch.setattr("sim.pods.hosts.local_process.start_child", start)
    yield given


def recovered(run: Run) -> list[str]:
    """Return the processes that were compared, each within the bound that it states."""
    for row in run._rows("clocks")[0].to_dict("records"):
        assert abs(row["offset_ns"] - AHEAD_S * SECOND) <= row["bound_ns"]
    return list(run.clocks.lines)


@pytest.mark.broker
def test_pods_hours_apart_are_heard_and_their_lag_carries_how_well_that_is_known(
    small: Small, tmp_path: Path, elsewhere: list[int]
) -> None:
    run = open_run(run_scenario(small(*LOCAL), out=tmp_path / "run"))
    assert elsewhere == [0, AHEAD_S]
    assert recovered(run) == ["local-1"] and set(run.clocks.ways.values()) == {"echo"}
    verdict = judge(run)
    assert {name: one.detail for name, one in verdict.checkers.items() if one.verdict == "invalid"} == {}
    ledger, lag = verdict.checkers["ledger"], verdict.checkers["lag"]
    assert (ledger.verdict, lag.verdict, ledger.counts["missing"]) == ("valid", "valid", 0)
    median, bound_ms = lag.metrics["lag_ms_p50"], run.clocks.worst_ns / 1e6
    assert isinstance(median, Bounds) and 0 < median.high - median.low <= 2 * bound_ms + 1e-9
    assert lag.counts["lag_us.max"] < 60 * 1e6, "not hours"
    assert "between machines a lag is exact to" in lag.detail
    (note,) = run.info.notes
    assert note.startswith("the clock of local-1 is not the run's; it was compared directly: its times are exact to ")
    assert run.publishes["intended_ns"].between(*run.run_span).sum() > 150


@pytest.mark.broker
def test_what_a_killed_pod_of_another_clock_left_is_put_right_too(small: Small, tmp_path: Path, elsewhere: list[int]) -> None:
    fault = f'faults=[{{kind="pod_kill",pods=["{KILLED}"],at_s=0.7,for_s=0.5}}]'
    run = open_run(run_scenario(small(*LOCAL, "bus.batch_interval_ms=60000", fault), out=tmp_path / "run"))
    assert elsewhere[:3] == [0, AHEAD_S, 0] and AHEAD_S in elsewhere[3:]
    assert {"local-0", f"{KILLED}.2"} <= set(recovered(run))
    counts = judge(run).checkers["ledger"].counts
    assert counts["unexplained"] == counts["unexpected"] == 0, judge(run).checkers["ledger"].detail
    assert counts["delivered"] > 400
    assert "balance" not in judge(run).checkers["ledger"].detail


@pytest.mark.broker
def test_where_a_process_cannot_be_reached_the_broker_is_the_mirror(
    small: Small, tmp_path: Path, elsewhere: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: EchoClient, *args: object, **more: object) -> None:
        raise ConnectionRefusedError("a wall between the two")

    monkeypatch.setattr(EchoClient, "__init__", refuse)
    run = open_run(run_scenario(small(*LOCAL, "load.run_s=1"), out=tmp_path / "run"))
    assert recovered(run) == ["local-1"] and set(run.clocks.ways.values()) == {"broker"}
    assert judge(run).checkers["ledger"].verdict == "valid"
    assert "it was compared through the broker" in run.info.notes[0]


@pytest.mark.broker
def test_a_clock_that_cannot_be_compared_ends_the_run_before_the_load(
    small: Small, tmp_path: Path, elsewhere: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object, *args: object, **more: object) -> None:
        raise ConnectionRefusedError("a wall between the two")

    monkeypatch.setattr("sim.pods.clocks.EchoClient", refuse)
    monkeypatch.setattr("sim.pods.clocks.MirrorClient", refuse)
    with pytest.raises(HostError, match=r"the clock of local-1 cannot be compared with the run's: no echo at 127\.0\.0\.1:\d+, and a wall"):
        run_scenario(small(*LOCAL), out=tmp_path / "run")
    assert open_run(tmp_path / "run").info.state == "failed"


@pytest.mark.broker
def test_where_all_read_one_clock_there_is_no_comparison(small: Small, tmp_path: Path) -> None:
    run = open_run(run_scenario(small(*LOCAL, "load.run_s=0.5"), out=tmp_path / "run"))
    assert not run.clocks.differ and run.info.notes == []
    assert {table.sources for table in (run.info.tables or {}).values()} == {None}
