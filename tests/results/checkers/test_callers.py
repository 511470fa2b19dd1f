"""The checker `callers` on calls whose times, faults and failures are planted, and against a plain loop."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.record.run_info import LoadInfo
from sim.record.schema import HTTP_CALL
from sim.results.checkers import judge
from sim.results.checkers.callers import check
from sim.results.opened_run import open_run
from tests.support.examples import examples
from tests.support.run_folders import MS, SECOND, US, RunFolder


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.publish(10)
    return plan


def test_times_stand_by_channel_and_inside_and_outside_each_fault(plan: RunFolder) -> None:
    plan.faults = [("broker_down", "broker", 12 * SECOND, 14 * SECOND), ("broker_down", "broker", 16 * SECOND, 17 * SECOND)]
    plan.faults += [("pod_kill", "web-0", 13 * SECOND, 15 * SECOND), ("early", "broker", SECOND, 2 * SECOND)]
    times = {11: 5, 12.5: 50, 13.5: 70, 14.5: 90, 16.5: 60, 18: 7}  # second -> us
    plan.calls = [(int(at * SECOND), "locust-0", "config.updated", us * US, "ok") for at, us in times.items()]
    plan.calls += [(11 * SECOND, "locust-0", HTTP_CALL, 30 * MS, "ok"), (9 * SECOND, "locust-0", "config.updated", SECOND, "failed")]
    result = check(open_run(plan.write()))
    counts = result.counts
    assert (counts["calls"], counts["failed"], counts["took_us.max"]) == (6, 0, 90)
    assert (counts["calls.in.broker_down"], counts["took_us.in.broker_down.max"]) == (3, 70)
    assert (counts["calls.in.pod_kill"], counts["took_us.in.pod_kill.p50"], counts["took_us.in.pod_kill.max"]) == (2, 90, 90)
    assert (counts["calls.outside"], counts["took_us.outside.max"]) == (2, 7)
    assert (counts["took_us.channel.config.updated.max"], counts[f"took_us.channel.{HTTP_CALL}.max"]) == (90, 30_000)
    assert result.metrics == {"call_ms_p99": 0.09, "call_ms_p999": 0.09, "call_ms_max": 0.09, "calls_failed": 0.0}
    assert "none of 6 calls failed; the caller waited 60 us in the median" in result.detail
    assert result.detail.endswith("; in broker_down at most 70 us; in pod_kill at most 90 us, outside at most 7 us")


def test_a_call_that_lasts_into_a_fault_is_in_it(plan: RunFolder) -> None:
    plan.faults = [("broker_freeze", "broker", 12 * SECOND, 14 * SECOND)]
    plan.calls = [(12 * SECOND - MS, "locust-0", "config.updated", took, "ok") for took in (2 * MS, MS, MS - 1)]
    counts = check(open_run(plan.write())).counts
    assert (counts["calls.in.broker_freeze"], counts["calls.outside"]) == (2, 1)


def test_failed_calls_come_first_among_the_witnesses_and_name_their_event(plan: RunFolder) -> None:
    plan.slo = {"calls_failed": 0}
    events = plan.events
    plan.calls = [(event.intended_ns, "locust-0", "config.updated", (n + 1) * US, "ok") for n, event in enumerate(events)]
    plan.calls[2] = (*plan.calls[2][:4], "failed")
    plan.calls.append((11 * SECOND, "locust-0", "config.updated", SECOND, "ok"))  # it queued an item, or its event was never recorded
    verdict = judge(open_run(plan.write()), only=["callers"])
    result = verdict.checkers["callers"]
    assert result.witnesses == [
        f"{events[2].id} on config.updated: locust-0 waited 3 us, failed",
        "a call of config.updated: locust-0 waited 1 s",
        f"{events[9].id} on config.updated: locust-0 waited 10 us",
    ]
    assert result.detail.startswith("1 of 11 calls failed")
    assert (result.verdict, verdict.verdict) == ("valid", "invalid")


def test_calls_that_were_meant_and_are_not_recorded_are_unknown(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    assert check(open_run(plan.write())).detail == "the load means no calls"
    plan.load = LoadInfo(offered_calls=5, generators=["locust"])
    result = check(open_run(plan.write()))
    assert result.verdict == "unknown"
    assert all(math.isnan(value) for value in result.metrics.values())


@pytest.mark.parametrize(
    ("ground", "took", "says"),
    [
        ("model", 0, "none of 1 call failed; none waited (in virtual time code takes no time, so only waiting would show)"),
        ("model", 3 * US, "none of 1 call failed; the caller waited 3 us in the median, p99.9 3 us, max 3 us"),
        ("embedded", 0, "none of 1 call failed; the caller waited 0 s in the median, p99.9 0 s, max 0 s"),
    ],
)
def test_in_virtual_time_only_a_wait_says_anything(plan: RunFolder, ground: str, took: int, says: str) -> None:
    plan.info.ground = ground
    plan.calls = [(11 * SECOND, "locust-0", "config.updated", took, "ok")]
    assert check(open_run(plan.write())).detail == says


def test_posts_alone_are_in_no_metric(plan: RunFolder) -> None:
    plan.calls = [(11 * SECOND, "locust-0", HTTP_CALL, 30 * MS, "failed")]
    result = check(open_run(plan.write()))
    assert result.verdict == "valid" and all(math.isnan(value) for value in result.metrics.values())
    assert result.detail == "every call of the run phase was a POST, none was fire and forget"
    assert list(result.metrics) == ["call_ms_p99", "call_ms_p999", "call_ms_max", "calls_failed"]
    assert (result.counts["calls"], result.counts["failed"], result.counts[f"took_us.channel.{HTTP_CALL}.p50"]) == (0, 0, 30_000)


def test_a_fault_that_only_touches_the_run_phase_is_outside_it(plan: RunFolder) -> None:
    """One ended as the phase began and one began as it ended; one that never ended goes on to the end."""
    plan.faults = [("early", "broker", 9 * SECOND, 10 * SECOND), ("late", "broker", 20 * SECOND, 0), ("on", "broker", 19 * SECOND, 0)]
    plan.calls = [(at, "locust-0", "config.updated", SECOND, "ok") for at in (10 * SECOND, 18 * SECOND - 1, 18 * SECOND, 20 * SECOND - 1)]
    counts = check(open_run(plan.write())).counts
    assert {name: value for name, value in counts.items() if name.startswith("calls.")} == {"calls.in.on": 2, "calls.outside": 2}


@settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 9_999), st.integers(0, 10**9), st.booleans()), min_size=1, max_size=50))
def test_quantiles_are_those_of_a_plain_loop(rows: list[tuple[int, int, bool]]) -> None:
    begin, end = 13 * SECOND, 15 * SECOND
    with TemporaryDirectory() as folder:
        plan = RunFolder(Path(folder) / "run").pod("web-0")
        plan.faults = [("down", "broker", begin, end)]
        plan.calls = [(10 * SECOND + at * MS, "locust-0", "config.updated", took, "failed" if bad else "ok") for at, took, bad in rows]
        counts = check(open_run(plan.write())).counts
    inside = sorted(took for at, took, _ in rows if 10 * SECOND + at * MS <= end and 10 * SECOND + at * MS + took >= begin)
    every = sorted(took for _, took, _ in rows)
    for name, q in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)):
        assert counts[f"took_us.{name}"] == every[math.ceil(q * (len(every) - 1))] / 1e3
        if inside:
            assert counts[f"took_us.in.down.{name}"] == inside[math.ceil(q * (len(inside) - 1))] / 1e3
    assert (counts["failed"], counts["calls.in.down"]) == (sum(bad for _, _, bad in rows), len(inside))


def test_a_call_is_named_by_the_event_that_its_publisher_sent_on_its_channel_then(plan: RunFolder) -> None:
    at = 12 * SECOND
    events = [plan.event(at, channel=channel, publisher=publisher) for publisher, channel in (("p", "a"), ("p", "b"), ("q", "a"))]
    plan.calls = [(at, event.publisher, event.channel, (3 - number) * US, "ok") for number, event in enumerate(events)]
    plan.calls += [(at, "q", "b", MS, "ok")]
    assert check(open_run(plan.write())).witnesses == [
        "a call of b: q waited 1 ms",
        f"{events[0].id} on a: p waited 3 us",
        f"{events[1].id} on b: p waited 2 us",
    ]
