"""What nobody can vouch for helps no limit: every metric that it could move is an interval, and what never happened is not measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from sim.record.limits import read_metric
from sim.record.schema import SLO_METRICS
from sim.results.checkers import Verdict, judge
from sim.results.checkers.verdict import Bounds, JudgedLimit, between, least_of, told, united
from sim.results.judged_run import judge_folder
from sim.results.opened_run import open_run
from sim.results.report import sentence, verdict_table, write_report
from tests.support.run_folders import MS, RUN_NS, SECOND, RunFolder

BATCH = "analytics.events.batch"


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    """Two pods, 100 events that both heard, and two that nobody heard and whose publisher had no answer."""
    plan = RunFolder(tmp_path / "run").service("web", replicas=2)
    plan.publish(100)
    for at in (5, 6):
        plan.event(RUN_NS + at * SECOND, outcome="unknown", acked_ns=0)
    return plan


def metrics(plan: RunFolder) -> dict[str, float | Bounds]:
    return {name: value for result in judge(open_run(plan.write())).checkers.values() for name, value in result.metrics.items()}


@pytest.mark.parametrize(
    ("metric", "limits"),
    [
        ("missing", {0: "unknown", 3: "unknown", 4: "valid", 5: "valid"}),
        ("missing_ratio", {0.0: "unknown", 0.0196: "unknown", 0.0197: "valid"}),
        ("unserved", {1: "unknown", 2: "valid"}),
        ('unserved.service."web"', {0: "unknown", 2: "valid"}),
        ('missing.channel."config.updated"', {0: "unknown", 4: "valid"}),
    ],
)
def test_a_limit_inside_the_interval_is_unknown_and_one_above_it_is_kept(plan: RunFolder, metric: str, limits: dict[float, str]) -> None:
    for number, (limit, word) in enumerate(limits.items()):
        plan.folder = plan.folder.with_name(f"run-{number}")
        plan.slo = {metric: limit}
        verdict = judge(open_run(plan.write()))
        assert (verdict.slo[0].verdict, verdict.verdict) == (word, word), limit
        assert verdict.slo[0].measured is None and verdict.slo[0].interval is not None and verdict.slo[0].interval.low == 0


def test_a_limit_that_even_the_lower_end_breaks_is_invalid(plan: RunFolder) -> None:
    for at in (7, 8, 9):
        plan.event(RUN_NS + at * SECOND, outcome="refused")
    plan.slo = {"missing": 5}
    limit = judge(open_run(plan.write())).slo[0]
    assert (limit.verdict, limit.interval, limit.detail) == ("invalid", Bounds(6, 10), "missing is 6 to 10, at most 5 was promised")


def test_a_least_is_kept_by_the_lower_end_and_broken_by_the_upper_one() -> None:
    def word(limit: float) -> str:
        from sim.results.checkers import _limit

        return _limit("offered_ratio_min", limit, {"offered_ratio_min": Bounds(0.5, 0.8)}, doubt=lambda metric, measured, limit: "").verdict

    assert [word(limit) for limit in (0.5, 0.6, 0.8, 0.9)] == ["valid", "unknown", "unknown", "invalid"]


def test_both_ends_stand_wherever_the_verdict_is_shown(plan: RunFolder) -> None:
    plan.slo = {"missing": 0}
    folder = plan.write()
    judged = judge_folder(folder)
    content = json.loads((folder / "verdict.json").read_text())
    assert content["slo"] == [
        {
            "metric": "missing", "limit": 0, "measured": None, "verdict": "unknown", "interval": [0, 4],
            "detail": "missing is 0 to 4, at most 0 was promised: nobody knows whether what was not heard had been published",
        }
    ]  # fmt: skip
    ledger = content["checkers"]["ledger"]
    assert (ledger["metrics"]["missing"], ledger["intervals"]["missing"], ledger["metrics"]["half_served"]) == (None, [0, 4], 0)
    assert "0 to 4 are missing: nobody knows whether 4 had been published" in ledger["detail"]
    assert "0 to 2 reached none of its pods" in ledger["detail"]
    again = Verdict.from_json(content)
    assert again.slo == judged.verdict.slo and again.checkers["ledger"].metrics["missing"] == Bounds(0, 4)
    error = ET.parse(folder / "junit.xml").find("testcase[@name='missing']/error")
    assert error is not None and "0 to 4" in (error.get("message") or "")
    assert "0 to 4" in write_report(judged.run, judged.verdict).read_text("utf-8")
    assert any("0 to 4" in str(cell) for cell in verdict_table(judged.verdict).columns[2].cells)
    assert "0 to 4" in sentence(judged.verdict) and "0 to 2 reached none of its pods" in sentence(judged.verdict)


def test_a_verdict_of_before_there_were_intervals_is_read(plan: RunFolder) -> None:
    plan.events = plan.events[:100]
    plan.slo = {"missing": 0}
    content = judge(open_run(plan.write())).to_json()
    assert all("intervals" not in one for one in content["checkers"].values()) and "interval" not in content["slo"][0]
    assert Verdict.from_json(content).slo[0] == JudgedLimit("missing", 0, 0.0, "valid", "missing is 0, at most 0 as promised")


def test_every_metric_that_doubt_could_move_is_an_interval(plan: RunFolder) -> None:
    """In the fault both pods stay connected; nobody knows whether what they did not hear in it and after it was there to be heard."""
    plan.faults = [("broker_freeze", "broker", RUN_NS + 4 * SECOND, RUN_NS + 5 * SECOND + 500 * MS)]
    plan.pod("batch-0", service="batch", channels=BATCH)
    plan.event(RUN_NS + 5 * SECOND, channel=BATCH, items=7, outcome="unknown", acked_ns=0)
    heard = plan.event(RUN_NS + 7 * SECOND)
    for pod in ("web-0", "web-1"):
        plan.hear(heard, pod)
    plan.scenario = "[bus.x]\n"
    path = plan.write()
    text = (path / "scenario.toml").read_text()
    (path / "scenario.toml").write_text(text.replace("[load]", 'once = "two-key"\n[load]').replace("[bus.x]", ""))
    verdict = judge(open_run(path))
    found = {name: value for result in verdict.checkers.values() for name, value in result.metrics.items()}
    moved = {name for name, value in found.items() if isinstance(value, Bounds) and read_metric(name).base == name}
    of_faults = {"steady_s_max", "deaf_s_max", "deaf_copies", "deaf_untold", "truth_gap_s_max", "time_to_notice_s_max"}
    assert moved == {"missing", "missing_ratio", "unserved", "unserved_ratio", "handled_never", "items_lost"} | of_faults
    assert found["items_lost"] == Bounds(0, 7) and found["handled_never"] == Bounds(0, 3)
    assert (found["deaf_copies"], found["deaf_untold"]) == (Bounds(0, 2), Bounds(0, 3))
    assert found["steady_s_max"] == Bounds(0.0, 0.5), "the last that may be lost is half a second after the fault's end"


NOTHING = {"offered_ratio_min", "send_delay_ms_p99"}


def test_a_limit_on_something_of_which_nothing_happened_is_unknown(tmp_path: Path) -> None:
    """Nothing was published in the run phase; of a fault, the pods' memory and configuration nothing happened either."""
    plan = RunFolder(tmp_path / "run").service("web", replicas=2)
    plan.publish(10, start_ns=9 * SECOND)
    plan.faults = [("broker_freeze", "broker", 12 * SECOND, 13 * SECOND)]
    plan.slo = {metric: 0.0 if metric.endswith("_min") else 1e9 for metric in SLO_METRICS}
    verdict = judge(open_run(plan.write()))
    kept = {limit.metric for limit in verdict.slo if limit.verdict != "unknown"}
    assert kept == {"steady_s_max", "offered_ratio_min"}, "the pods rested, and the calls of the warm-up were made"
    assert verdict.slo[0].detail == "lag_ms_p50 was not measured: no data"


@pytest.mark.parametrize(
    ("metric", "plant"),
    [
        ("duplicates", {"outcome": "refused"}),
        ("out_of_order", {"outcome": "refused"}),
        ("unexpected", {"outcome": "refused"}),
        ("missing", {"channel": "nobody.hears"}),
        ("unserved", {"channel": "nobody.hears"}),
        ('missing.channel."a.b"', {}),
        ('duplicates.service."other"', {}),
        ('lag_ms_p99.channel."a.b"', {}),
    ],
)
def test_nothing_of_it_is_not_zero_of_it(tmp_path: Path, metric: str, plant: dict[str, Any]) -> None:
    plan = RunFolder(tmp_path / "run", slo={metric: 9}).service("web", replicas=2, channels="config.updated")
    plan.pod("other-0", service="other", channels="a.b")
    event = plan.event(RUN_NS, **plant)
    for pod in ("web-0", "web-1") if not plant else ():
        plan.hear(event, pod)
    (limit,) = judge(open_run(plan.write())).slo
    assert (limit.verdict, limit.measured, limit.interval) == ("unknown", None, None)


def test_ends_as_people_read_them() -> None:
    assert told("missing", Bounds(0, 94)) == "0 to 94"
    assert told("deaf_s_max", Bounds(1.25, 3)) == "1.25 to 3 s"
    assert told("deaf_s_max", Bounds(1.25, math.inf)) == "at least 1.25 s"
    assert told("missing_ratio", Bounds(0.123401, 0.123402)) == "0.123401 to 0.123402"
    assert told('lag_ms_p99.service."x_s"', 5) == "5 ms"
    assert between(3, 3, "") == 3 and between(3, 4, "") == Bounds(3, 4)
    assert united(Bounds(2, math.inf), 5.0, "") == Bounds(2, math.inf) and united(math.nan, 5.0, "") == 5.0
    assert math.isnan(least_of(united(math.nan, math.nan, "")))
