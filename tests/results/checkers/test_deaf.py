"""The checker `deaf` on runs whose deaf windows are planted, and against a plain loop."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.results.checkers import judge
from sim.results.checkers.deaf import check
from sim.results.opened_run import open_run
from tests.support.examples import examples
from tests.support.run_folders import MS, SECOND, Event, RunFolder

BEGIN, END = 13 * SECOND, 15 * SECOND


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    plan = RunFolder(tmp_path / "run").service("web", replicas=2)
    plan.publish(30, step_ns=100 * MS)  # until 12.9 s
    plan.faults = [("broker_down", "broker", BEGIN, END)]
    return plan


def cut(plan: RunFolder, pod: str, back_ns: int, *, bus: str = "") -> None:
    plan.state(pod, BEGIN + MS, "disconnected", bus)
    if back_ns:
        plan.state(pod, back_ns, "subscribed")


def publish_from(plan: RunFolder, start_ns: int, hears_ns: dict[str, int], *, count: int = 30) -> list[Event]:
    """Publish an event every 100 ms, heard by a pod from its time on."""
    events = [plan.event(start_ns + n * 100 * MS) for n in range(count)]
    for event in events:
        for pod, at in hears_ns.items():
            if event.intended_ns >= at:
                plan.hear(event, pod)
    return events


def test_without_a_fault_nobody_is_deaf(plan: RunFolder) -> None:
    plan.faults = []
    result = check(open_run(plan.write()))
    assert (result.verdict, result.detail) == ("valid", "no fault was begun")
    assert all(math.isnan(value) for value in result.metrics.values())


def test_a_fault_that_was_meant_and_is_not_recorded_is_unknown(plan: RunFolder) -> None:
    plan.faults, plan.scenario = [], '[[faults]]\nkind = "broker_down"\n'
    assert check(open_run(plan.write())).verdict == "unknown"


def test_a_window_lasts_from_the_fault_s_end_until_the_pod_is_subscribed(plan: RunFolder) -> None:
    cut(plan, "web-0", END + 250 * MS)
    cut(plan, "web-1", END + 1000 * MS)
    events = publish_from(plan, END + 50 * MS, {"web-0": END + 250 * MS, "web-1": END + 1000 * MS})
    result = check(open_run(plan.write()))
    counts = result.counts
    assert (counts["windows"], counts["deaf"], counts["deaf_s.p50"], counts["deaf_s.max"]) == (2, 2, 1.0, 1.0)
    assert (counts["lost"], counts["lost_after"], counts["told"], counts["untold"]) == (2 + 10, 2 + 10, 2, 0)
    assert result.metrics == {"deaf_s_max": 1.0, "deaf_copies": 12.0, "deaf_untold": 0.0}
    assert result.witnesses[0].split()[0] == events[0].id
    assert "the first of 10 copies that web-1 did not hear; it was deaf for 1 s after broker_down" in result.witnesses[0]
    text = "at most for 1 s (web-1 after broker_down); 12 copies were lost by not hearing, all of them after the end"
    assert text in result.detail and result.detail.endswith("the application was told each time")


def test_a_delivery_after_the_end_proves_hearing_before_the_pod_s_own_row(plan: RunFolder) -> None:
    cut(plan, "web-0", END + 900 * MS)
    cut(plan, "web-1", 14 * SECOND)  # it heard again before the end
    publish_from(plan, END + 50 * MS, {"web-0": END + 350 * MS, "web-1": END})
    counts = check(open_run(plan.write())).counts
    assert counts["deaf_s.max"] == pytest.approx(0.35 + 240e-6)
    assert counts["deaf"] == 1


def test_copies_lost_before_the_end_are_told_apart(plan: RunFolder) -> None:
    plan.faults = [("subscribers_cut", "broker", BEGIN, END)]
    cut(plan, "web-0", END + 350 * MS)
    publish_from(plan, END - 500 * MS, {"web-0": END + 350 * MS, "web-1": 0})
    counts = check(open_run(plan.write())).counts
    assert (counts["lost"], counts["lost_after"]) == (9, 3 + 1), "at -500 to +300 ms, and the end itself is after"


def test_a_pod_that_called_itself_connected_all_the_time_was_not_told(plan: RunFolder) -> None:
    cut(plan, "web-0", END + 250 * MS, bus="connected")
    publish_from(plan, END + 50 * MS, {"web-0": END + 250 * MS, "web-1": 0})
    result = check(open_run(plan.write()))
    assert (result.counts["told"], result.counts["untold"], result.metrics["deaf_untold"]) == (0, 1, 1.0)
    assert result.witnesses[0].endswith("and its application was not told")
    assert result.detail.endswith("the application was not told in 1 of 1 cases")


@pytest.mark.parametrize(("limit", "verdict"), [(4.0, "invalid"), (6.0, "unknown")])
def test_a_pod_that_never_hears_again_passes_no_limit(plan: RunFolder, limit: float, verdict: str) -> None:
    plan.slo = {"deaf_s_max": limit}
    cut(plan, "web-0", 0)
    publish_from(plan, END + 50 * MS, {"web-1": 0})
    judged = judge(open_run(plan.write()), only=["deaf"])
    assert judged.checkers["deaf"].counts["unended"] == 1
    assert judged.slo[0].verdict == verdict


def test_a_pod_that_is_dead_at_the_end_of_the_fault_is_not_deaf(plan: RunFolder) -> None:
    plan.end("web-0", BEGIN + MS)
    counts = check(open_run(plan.write())).counts
    assert (counts["windows"], counts["deaf"]) == (1, 0)


@settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(back=st.lists(st.integers(0, 40), min_size=1, max_size=3), sent=st.lists(st.integers(-19, 45), max_size=20, unique=True))
def test_windows_are_those_of_a_plain_loop(back: list[int], sent: list[int]) -> None:
    """Each pod is subscribed again `back` steps after the fault's end, and loses what was sent before."""
    step = 100 * MS
    with TemporaryDirectory() as folder:
        plan = RunFolder(Path(folder) / "run").service("web", replicas=len(back))
        plan.publish(5, start_ns=12 * SECOND, step_ns=step)
        plan.faults = [("broker_down", "broker", BEGIN, END)]
        for pod, late in enumerate(back):
            cut(plan, f"web-{pod}", END + late * step + 50 * MS)
        times = sorted(END + at * step for at in sent)
        for at in times:
            event = plan.event(at)
            for pod, late in enumerate(back):
                if at > END + late * step + 50 * MS:
                    plan.hear(event, f"web-{pod}")
        counts = check(open_run(plan.write())).counts
    lost = lost_after = 0
    for late in back:
        missed = [at for at in times if at <= END + late * step + 50 * MS]
        lost += len(missed)
        lost_after += sum(at + 50_000 >= END for at in missed)
    assert (counts["lost"], counts["lost_after"]) == (lost, lost_after)
    assert counts["deaf_s.max"] == (max(back) * step + 50 * MS) / 1e9
