"""A run against a baseline: what is the same, what is worse and named, and what cannot be compared."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from sim.cli.commands.compare import compare as command
from sim.errors import RunFolderError, UsageError
from sim.experiments.compare.bootstrap import BLOCKS, quantile, ratio, welch
from sim.experiments.compare.compare import DRIFT, METRICS, Comparison, _differences, _in_turn, _milli, compare, find_runs, read_tolerances
from sim.experiments.compare.table import compare_table, write_comparison
from sim.machine.waits import Waits
from sim.results.opened_run import open_run
from sim.run.steps import run_scenario
from sim.scenario.file import load_scenario
from tests.support.run_folders import MS, SECOND, RunFolder

SHORT = ("load.run_s=6", "load.rate_per_s=100", "load.reads_per_s=0")
SLOW = 'faults=[{kind="link_slow",pods=["music-service"],at_s=0.5,for_s=5,delay_ms=5}]'


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Eight plain runs on the model, with seeds of their own, and some that differ."""
    folder = tmp_path_factory.mktemp("runs")
    plans = {f"plain{seed}": ("baseline", (*SHORT, f"seed={seed}")) for seed in range(1, 9)}
    plans |= {
        "slow": ("baseline", (*SHORT, "seed=9", SLOW)),
        "small": ("baseline", (*SHORT, "seed=9", "bus.batch_size=1")),
        "busy": ("baseline", (*SHORT, "load.rate_per_s=150")),
    }
    return {name: run_scenario(load_scenario(s, settings=settings), on="model", out=folder / name) for name, (s, settings) in plans.items()}


def words(comparison: Comparison) -> dict[str, str]:
    return {one.metric: one.verdict for one in comparison.differences}


def test_runs_of_other_seeds_are_not_worse_than_each_other(runs: dict[str, Path]) -> None:
    for seed in range(2, 9):
        comparison = compare(runs[f"plain{seed}"], runs["plain1"])
        assert comparison.exit_code == 0, comparison
        assert "spread between runs is not known" in comparison.note


def test_a_slow_link_is_found_and_named(runs: dict[str, Path]) -> None:
    comparison = compare(runs["slow"], runs["plain1"])
    assert comparison.exit_code == 1
    assert {name for name, word in words(comparison).items() if word == "worse"} == {"lag_ms_p90", "lag_ms_p99", "lag_ms_p999"}
    assert any(text.startswith("faults") for text in comparison.differs)
    assert words(compare(runs["plain1"], runs["slow"]))["lag_ms_p99"] == "better"
    tolerant = compare(runs["slow"], runs["plain1"], tolerance=("lag_ms_p90=9999%", "lag_ms_p99=9999%", "lag_ms_p999=9999%"))
    assert tolerant.exit_code == 0


def test_a_smaller_batch_publishes_more_and_waits_less(runs: dict[str, Path]) -> None:
    found = words(compare(runs["small"], runs["plain1"]))
    assert found["publishes_per_s"] == "worse"
    assert "bus.batch_size: 1 against 100" in compare(runs["small"], runs["plain1"]).differs


def test_several_runs_a_side_hold_the_spread_between_runs(runs: dict[str, Path]) -> None:
    first, second = ([runs[f"plain{n}"] for n in numbers] for numbers in ((1, 2, 3, 4), (5, 6, 7, 8)))
    comparison = compare(first, second)
    assert comparison.exit_code == 0 and "hold the spread" in comparison.note
    assert len(comparison.runs) == 4
    assert all(math.isfinite(one.low) for one in comparison.differences if one.metric == "item_age_ms_p99")


def test_another_load_cannot_be_compared(runs: dict[str, Path]) -> None:
    comparison = compare(runs["busy"], runs["plain1"])
    assert comparison.exit_code == 2 and comparison.differences == ()
    assert comparison.cannot == ("load.rate_per_s is 150.0 in busy and 100.0 in plain1",)


def test_an_unknown_verdict_cannot_be_compared(tmp_path: Path) -> None:
    good, bad = (RunFolder(tmp_path / name).service("web", replicas=2) for name in ("good", "bad"))
    good.publish(2000)
    events = bad.publish(2000)
    bad.drop(events[5], "web-0")  # nothing explains it
    comparison = compare(bad.write(), good.write())
    assert comparison.exit_code == 2
    assert "verdict of bad is unknown" in comparison.cannot[0]


def test_a_verdict_that_became_invalid_is_worse(tmp_path: Path) -> None:
    good, bad = (RunFolder(tmp_path / name).service("web", replicas=2) for name in ("good", "bad"))
    good.publish(2000)
    bad.repeat(bad.publish(2000)[7], "web-1")
    comparison = compare(bad.write(), good.write())
    assert comparison.exit_code == 1
    assert words(comparison)["verdict"] == "worse" and words(comparison)["duplicates"] == "maybe worse"


@pytest.mark.parametrize(("stood_s", "word", "code"), [(3, "unknown", 2), (0, "worse", 1)], ids=["stopped", "quiet"])
def test_a_run_on_a_starved_machine_is_not_worse_by_what_was_withheld(tmp_path: Path, stood_s: int, word: str, code: int) -> None:
    """In the run, copies meant in three seconds are handled when these are over; nothing else differs."""
    folders = []
    for name, until_s in (("run", 15), ("baseline", 0)):
        plan = RunFolder(tmp_path / name).pod("web-0")
        for event in plan.publish(200, step_ns=50 * MS):
            if event.intended_ns >= 12 * SECOND:
                plan.delay(event, "web-0", max(until_s * SECOND - event.intended_ns, 0))
        stood = stood_s if until_s else 0
        plan.starve(h0=lambda at, most=stood: Waits(waited_ns=0.0, stood_ns=float(min(max(0, at - 12 * SECOND), most * SECOND))))
        folders.append(plan.write())
    comparison = compare(*folders)
    lag = next(one for one in comparison.differences if one.metric == "lag_ms_p99")
    assert (lag.verdict, comparison.exit_code) == (word, code)
    assert ("in run h0 stood still for 3 s, which may have made it: repeat the run" in lag.detail) is (word == "unknown")
    assert compare(folders[1], folders[0]).exit_code == 0


def in_doubt(folder: Path, *, refused: int = 0, unknown: int = 0) -> Path:
    """Return a run of 2,000 events for two pods, of which some more were refused, and some had no answer."""
    plan = RunFolder(folder).service("web", replicas=2)
    plan.publish(2000)
    for number in range(refused + unknown):
        plan.event(plan.events[number * 3].intended_ns + 1, outcome="unknown" if number < unknown else "refused", acked_ns=0)
    return plan.write()


@pytest.mark.parametrize(
    ("run", "baseline", "word", "code"),
    [
        ({"unknown": 90}, {}, "unknown", 2),  # none of them may be lost, or all
        ({}, {"unknown": 90}, "unknown", 2),
        ({"unknown": 90}, {"unknown": 90}, "same", 0),
        ({"refused": 900, "unknown": 90}, {"refused": 1}, "worse", 1),
        ({"refused": 1}, {"refused": 900, "unknown": 90}, "better", 0),
        ({"refused": 900, "unknown": 90}, {"refused": 1, "unknown": 900}, "unknown", 2),  # the baseline may have lost as many
    ],
)
def test_of_an_interval_both_ends_are_compared(tmp_path: Path, run: dict[str, int], baseline: dict[str, int], word: str, code: int) -> None:
    comparison = compare(in_doubt(tmp_path / "run", **run), in_doubt(tmp_path / "baseline", **baseline))
    of = {one.metric: one for one in comparison.differences}
    assert (of["missing_ratio"].verdict, of["unserved_ratio"].verdict, comparison.exit_code) == (word, word, code)
    one = of["missing_ratio"]
    lost, doubtful = run.get("refused", 0), run.get("unknown", 0)
    assert one.run == pytest.approx(lost / (2000 + lost + doubtful))
    assert one.run_most == pytest.approx((lost + doubtful) / (2000 + lost + doubtful))
    assert json.loads(json.dumps(comparison.to_json()))["differences"][0]["run_most"] is None, "a point has no second end"
    if word == "unknown":
        assert "nobody knows whether what was not heard had been published" in one.detail
        console = Console(width=200)
        with console.capture() as shown:
            console.print(compare_table(comparison))
        assert " to " in next(line for line in shown.get().splitlines() if "missing_ratio" in line)


def test_an_event_for_a_service_without_a_pod_is_in_the_comparison(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("web", replicas=1).pod("far-0", service="far")
    events = plan.publish(2000)
    plan.state("far-0", events[1000].sent_ns, "aborted").state("far-0", events[1500].sent_ns - 1, "subscribed")
    for event in events[1000:1500]:
        plan.drop(event, "far-0")
    whole = RunFolder(tmp_path / "whole").service("web", replicas=1).pod("far-0", service="far")
    whole.publish(2000)
    of = {one.metric: one for one in compare(plan.write(), whole.write()).differences}
    assert (of["missing_ratio"].run, of["unserved_ratio"].run) == (0.125, 0.125)
    assert of["unserved_ratio"].verdict == "maybe worse", "one burst of losses"


@pytest.mark.parametrize("text", ["10", "lag_ms_p98=5%", "-5%", "lag_ms_p99=", "x%"])
def test_a_tolerance_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--tolerance"):
        read_tolerances([text])
    assert read_tolerances(["5%", "lag_ms_p99=20%"]) == {"": 0.05, "lag_ms_p99": 0.2}


def test_what_the_command_writes_for_ci(runs: dict[str, Path], tmp_path: Path) -> None:
    comparison = compare(runs["slow"], runs["plain1"])
    written = json.loads(write_comparison(comparison, tmp_path).read_text())
    assert written["exit_code"] == 1
    assert {row["metric"] for row in written["differences"]} <= {*METRICS, "verdict"}
    suite = ET.parse(tmp_path / "compare.xml").getroot()
    assert (suite.get("failures"), suite.get("errors")) == ("3", "0")
    (tmp_path / "half" / "compare.xml").mkdir(parents=True)
    with pytest.raises(UsageError, match="choose another folder with --out"):
        write_comparison(comparison, tmp_path / "half")
    assert [path.name for path in (tmp_path / "half").iterdir()] == ["compare.xml"], "no half of a result stays"
    shown = CliRunner().invoke(command, [str(runs["plain2"]), str(runs["plain1"]), "--out", str(tmp_path)], standalone_mode=False)
    assert shown.return_value == 0 and "lag_ms_p99" in shown.output


@pytest.mark.parametrize(
    ("factor", "drift", "word"),
    [
        (1.6, 0, "worse"),
        (1.6, DRIFT, "maybe worse"),
        (2.5, DRIFT, "worse"),
        (1, DRIFT, "same"),
        (0.7, 0, "better"),
        (0.7, DRIFT, "same"),
        (0.3, DRIFT, "better"),
    ],
)
def test_where_times_drift_only_a_doubled_one_is_worse_and_a_count_is_at_once(factor: float, drift: float, word: str) -> None:
    rng = np.random.default_rng(7)
    block = np.repeat(np.arange(BLOCKS), 100)
    lag = rng.normal(50e6, 5e6, len(block)).astype(np.int64)
    many, few = (ratio(rng.poisson(mean, BLOCKS).astype(float), np.full(BLOCKS, 1.0)) for mean in (800, 500))
    run = {"lag_ms_p50": _milli(quantile((lag * factor).astype(np.int64), block, 0.5, blocks=BLOCKS)), "publishes_per_s": many}
    base = {"lag_ms_p50": _milli(quantile(lag, block, 0.5, blocks=BLOCKS)), "publishes_per_s": few}
    found = {one.metric: one.verdict for one in _differences([run], [base], {"": 0.1}, drift)}
    assert found == {"lag_ms_p50": word, "publishes_per_s": "worse"}


@pytest.mark.parametrize("name", [name for name in METRICS if name != "offered_ratio"])
def test_nothing_is_said_to_fall_by_more_than_all_of_it(name: str) -> None:
    """Few runs that differ much: their interval would reach below zero, where no time and no count can be."""
    runs, baselines = ([{name: value} for value in side] for side in ((0.1, 8.0), (9.0, 21.0)))
    (found,) = _differences(runs, baselines, {"": 0.1}, 0.0)
    assert (found.low, found.change) == (-1.0, pytest.approx(4.05 / 15 - 1)) and found.high > 0
    assert "95 % interval -100.0% to +" in found.detail


def test_a_run_is_no_baseline_of_itself(runs: dict[str, Path]) -> None:
    comparison = compare((runs["plain1"], runs["plain2"]), (runs["plain3"], runs["plain2"]))
    assert comparison.exit_code == 2 and comparison.cannot == ("plain2 is on both sides: a run is no baseline of itself",)


def test_only_runs_made_in_turn_hold_the_drift_of_a_machine(runs: dict[str, Path]) -> None:
    first, second, third, fourth = (open_run(runs[f"plain{n}"]) for n in range(1, 5))
    assert _in_turn([first, third], [second, fourth])
    assert not _in_turn([first, second], [third, fourth]) and not _in_turn([third, fourth], [first, second])
    assert not _in_turn([first], [second])


def test_a_folder_of_runs_is_all_of_them(runs: dict[str, Path], tmp_path: Path) -> None:
    assert set(find_runs(runs["slow"].parent)) == {path.resolve() for path in runs.values()}
    with pytest.raises(RunFolderError):
        compare(tmp_path, runs["slow"])


def test_a_drawn_quantile_is_near_the_raw_one_and_its_interval_is_honest() -> None:
    """Of many samples of one distribution, 95 % of the intervals hold its true quantile; a few less for a block bootstrap."""
    rng, held, rounds = np.random.default_rng(3), 0, 100
    for _ in range(rounds):
        values = (rng.exponential(size=6000) * 1e6).astype(np.int64)
        drawn = quantile(values, np.arange(6000) % BLOCKS, 0.9, blocks=BLOCKS).drawn(rng)
        low, high = np.quantile(drawn, (0.025, 0.975))
        held += low <= -math.log(0.1) * 1e6 <= high
    assert 0.87 <= held / rounds <= 1.0


def test_blocks_that_move_together_widen_the_interval() -> None:
    rng = np.random.default_rng(5)
    block = np.repeat(np.arange(BLOCKS), 200)
    alone = rng.exponential(size=len(block))
    together = alone * rng.uniform(0.2, 1.8, BLOCKS)[block]
    widths = [
        np.ptp(np.quantile(quantile((v * 1e6).astype(np.int64), block, 0.5, blocks=BLOCKS).drawn(rng), (0.025, 0.975)))
        for v in (alone, together)
    ]
    assert widths[1] > 2 * widths[0]


def test_a_ratio_of_nothing_is_not_a_number() -> None:
    assert math.isnan(ratio(np.zeros(3), np.zeros(3)).value)
    assert ratio(np.array([1, 2]), np.array([2, 4])).value == 0.5


def test_welch_needs_two_runs_a_side() -> None:
    assert math.isnan(welch([1.0], [1.0, 2.0]))
    assert welch([1.0, 1.0], [1.0, 1.0]) == 0
    assert welch([1.0, 2.0], [1.0, 2.0]) == pytest.approx(4.302653 * math.sqrt(0.5), rel=1e-6)
