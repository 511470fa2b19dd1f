"""What the harness says of itself: every number and every sentence."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from sim.machine.waits import Waits
from sim.record.run_info import LoadInfo
from sim.results.checkers import Result, judge
from sim.results.checkers.verdict import result_json
from sim.results.opened_run import open_run
from tests.support.run_folders import MS, SECOND, US, RunFolder


def at(seconds: float) -> int:
    return round(seconds * SECOND)


def result_of(plan: RunFolder, checker: str) -> Result:
    return judge(open_run(plan.write())).checkers[checker]


def told(plan: RunFolder, checker: str) -> dict[str, Any]:
    """Return all of a result as verdict.json has it; what is not measured is None."""
    return result_json(result_of(plan, checker))


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    plan = RunFolder(tmp_path / "run").service("web", replicas=2)
    plan.publish(10, start_ns=at(11), step_ns=3 * MS)
    return plan


WHOLE = "the run is whole, the broker counts the subscribers that the fleet claims, and all 10 offered calls were made"
COUNTS = {
    "channels": 1, "channels_proven": 1, "calls_offered": 10, "calls_made": 10, "cpu_share.locust": 0.3, "cpu_share.h0": 0.2,
    "loop_lag_us.p50": 20.0, "loop_lag_us.p99": 20.0, "loop_lag_us.max": 20.0, "send_delay_share": 0.2, "clock_step_ns": 3 * MS,
}  # fmt: skip


def test_the_harness(plan: RunFolder) -> None:
    assert told(plan, "harness") == {
        "verdict": "valid",
        "counts": COUNTS,
        "detail": WHOLE,
        "witnesses": [],
        "metrics": {"offered_ratio_min": 1.0},
        "warnings": [],
    }


@pytest.mark.parametrize(
    ("load", "ratio", "detail"),
    [
        (LoadInfo(offered_calls=11, generators=["locust"]), 10 / 11, "generator saturated: it made 10 of 11 offered calls (90.9%)"),
        (LoadInfo(offered_calls=10, generators=[]), 1.0, "run.json names no generator process: its saturation is not known"),
        (LoadInfo(offered_calls=0, generators=["locust"]), None, "no data: run.json names no offered calls"),
        (
            LoadInfo(offered_calls=10, generators=["locust", "other"]),
            1.0,
            "no processor samples of other in the run phase: its saturation is not known",
        ),
    ],
)
def test_the_harness_on_the_load(plan: RunFolder, load: LoadInfo, ratio: float | None, detail: str) -> None:
    plan.load = load
    result = told(plan, "harness")
    assert (result["verdict"], result["detail"], result["metrics"]) == ("unknown", detail, {"offered_ratio_min": ratio})
    assert result["counts"] == COUNTS | {"calls_offered": load.offered_calls}


@pytest.mark.parametrize(("offered", "word"), [(100, "valid"), (101, "valid"), (102, "unknown")])
def test_the_harness_lets_one_call_in_a_hundred_be_missing(tmp_path: Path, offered: int, word: str) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.publish(100)
    plan.load = LoadInfo(offered_calls=offered, generators=["locust"])
    result = result_of(plan, "harness")
    assert result.verdict == word
    if word == "valid":
        share = "all 100" if offered == 100 else "100 of 101"
        assert result.detail == WHOLE.replace("all 10", share)


def test_the_harness_tells_what_was_not_called_and_which_connections_were_closed(plan: RunFolder) -> None:
    plan.load = LoadInfo(offered_calls=12, generators=["locust"], calls_not_made=2, closed_by_server=3)
    result = told(plan, "harness")
    assert result["verdict"] == "valid" and result["counts"] == COUNTS | {"calls_not_made": 2, "closed_by_server": 3}
    assert result["warnings"] == [
        "2 more calls were due while their pods did not run: nobody made them, and no copy of theirs is missing",
        "before 3 publishes the generator found that the server had closed its connection (an idle time-out, or an end of the server); "
        "it connected anew",
    ]


@pytest.mark.parametrize(
    ("shares", "detail"),
    [
        ({"locust": 0.9}, "generator saturated: locust used 90% of a core"),
        ({"h0": 0.95}, "the host measured itself: h0 used 95% of a core"),
        ({"locust": 0.91, "h0": 0.95}, "generator saturated: locust used 91% of a core; the host measured itself: h0 used 95% of a core"),
        ({"h0": 0.89, "broker": 2.0, "proxy": 1.0}, WHOLE),
    ],
)
def test_the_harness_on_processors(plan: RunFolder, shares: dict[str, float], detail: str) -> None:
    plan.cpu_share = shares
    assert result_of(plan, "harness").detail == detail


def test_the_harness_in_virtual_time_asks_for_no_processor(plan: RunFolder) -> None:
    plan.info.ground, plan.hosts = "model", []
    result = told(plan, "harness")
    assert (result["verdict"], result["detail"]) == ("valid", WHOLE)
    assert result["warnings"] == ["virtual time: processor time and loop lag mean nothing and were not judged"]
    assert result["counts"] == {name: value for name, value in COUNTS.items() if "." not in name}


@pytest.mark.parametrize(
    ("numbers", "detail"),
    [
        ([(19.8, 3.0)], "NUMSUB and the fleet differ: config.updated: 3 subscribers, the fleet claims 2"),
        ([(19.8, 1.0)], "NUMSUB and the fleet differ: config.updated: 1 subscriber, the fleet claims 2"),
        ([(19.7, 1.0), (19.8, 2.0)], WHOLE),
        ([(19.8, 2.0), (20.1, 3.0)], WHOLE),
        ([(20.1, 2.0)], "no NUMSUB was sampled for config.updated: subscriptions are not proven"),
    ],
)
def test_the_harness_on_subscriptions(plan: RunFolder, numbers: list[tuple[float, float]], detail: str) -> None:
    plan.numsub = False
    plan.broker = [(at(seconds), "numsub", "config.updated", value) for seconds, value in numbers]
    result = result_of(plan, "harness")
    assert result.detail == detail
    assert result.counts["channels_proven"] == int(detail == WHOLE)


def test_the_harness_takes_off_who_was_there_before(plan: RunFolder) -> None:
    plan.numsub = False
    plan.broker = [
        (at(1), "numsub_foreign", "config.updated", 1.0),
        (at(1), "numsub_foreign", "x", 1.0),
        (at(19), "numsub", "config.updated", 3.0),
    ]
    result = result_of(plan, "harness")
    assert (result.verdict, result.warnings) == ("valid", ["2 subscribers of other programs on these channels before the fleet"])


def test_the_harness_proves_subscriptions_by_probes_too(plan: RunFolder) -> None:
    plan.numsub = False
    plan.broker = [(at(8.5), "probe_receivers", "config.updated", 2.0)]
    text = "PUBLISH said of the probes that they reached the subscribers that the fleet claims"
    assert result_of(plan, "harness").detail == f"the run is whole, {text}, and all 10 offered calls were made"


@pytest.mark.parametrize(
    ("receivers", "detail", "warnings"),
    [
        ((2, 3), "the run is whole, the broker has subscribers, and all 2 offered calls were made", []),
        (
            (0, 3),
            "the run is whole, the broker has subscribers, and all 2 offered calls were made",
            ["1 of 2 publishes reached no subscriber"],
        ),
        ((0, 0), "no publish reached a subscriber: there is no fleet, or it listens to other channels", []),
        ((-1, -1), "the run is whole, the broker has subscribers, and all 2 offered calls were made", []),
    ],
)
def test_the_harness_where_the_fleet_is_not_ours(tmp_path: Path, receivers: tuple[int, int], detail: str, warnings: list[str]) -> None:
    plan = RunFolder(tmp_path / "run")
    plan.info.fleet = "none"
    for event, many in zip(plan.publish(2), receivers, strict=True):
        event.receivers = many
    result = result_of(plan, "harness")
    assert (result.detail, result.warnings) == (detail, warnings)
    least = {"receivers.min": min(receivers), "receivers.max": max(receivers)} if receivers[0] >= 0 else {}
    assert {name: value for name, value in result.counts.items() if name.startswith("receivers")} == least


@pytest.mark.parametrize(
    ("state", "reason", "detail"),
    [
        ("killed", "signal 9", "the run is not whole, it was killed: signal 9"),
        ("killed", "", "the run is not whole, it was killed: no reason was recorded"),
        ("interrupted", "Ctrl-C", "the run was interrupted: Ctrl-C"),
        ("failed", "", "the run was failed: no reason was recorded"),
    ],
)
def test_the_harness_on_a_run_that_did_not_reach_its_end(plan: RunFolder, state: str, reason: str, detail: str) -> None:
    folder = plan.write()
    run = open_run(folder)
    run.info.state, run.info.reason = state, reason
    assert judge(run).checkers["harness"].detail == detail


def test_the_harness_names_phases_that_were_not_reached(plan: RunFolder) -> None:
    plan.info.phases = [phase for phase in plan.info.phases if phase.name not in ("run", "drain")]
    detail = result_of(plan, "harness").detail
    assert detail.startswith("the run did not reach its run phase; the run did not reach its drain phase")


def test_the_harness_on_a_run_that_was_not_sealed(plan: RunFolder) -> None:
    assert (
        judge(open_run(plan.write(seal=False))).checkers["harness"].detail
        == "the run was not sealed: it is still going or its process was killed"
    )


@pytest.mark.parametrize(
    ("keeps", "freezes", "ground", "who"),
    [
        (False, False, "embedded", "the generator was late"),
        (True, False, "embedded", "pods kept them in an outage, or the generator was late"),
        (False, True, "embedded", "pods stood still, or the generator was late"),
        (True, True, "embedded", "pods kept them in an outage or pods stood still, or the generator was late"),
        (True, False, "model", "pods kept them in an outage"),
    ],
)
def test_the_harness_says_who_may_have_been_late(tmp_path: Path, keeps: bool, freezes: bool, ground: str, who: str) -> None:
    plan = RunFolder(tmp_path / "run", bus={"outage_queue": "keep"} if keeps else {}).pod("web-0")
    plan.publish(10, sent_ns=at(10))
    for event in plan.events:
        event.sent_ns = event.intended_ns + 80 * US
    if freezes:
        plan.state("web-0", at(15), "frozen").state("web-0", at(16), "subscribed")
    plan.info.ground = ground
    result = result_of(plan, "harness")
    assert result.counts["send_delay_share"] == 0.32
    assert f"32% of all lag passed before the event was sent: {who}, not the bus" in result.warnings


def test_the_harness_tells_of_late_loops(plan: RunFolder) -> None:
    plan.hosts = [(s * SECOND, host, s * SECOND // 10, 126 * US) for s in range(8, 23) for host in ("locust", "h0")]
    assert result_of(plan, "harness").warnings == ["the loops are often 126 us late, lag p99 is 250 us: busy loops may be what is measured"]
    plan.folder = plan.folder.with_name("half")
    plan.hosts = [(s * SECOND, host, s * SECOND // 10, 125 * US) for s in range(8, 23) for host in ("locust", "h0")]
    assert result_of(plan, "harness").warnings == []


SAMPLED = at(19.8)  # when the broker's count of a moment was taken that does not agree, after one that did


@pytest.mark.parametrize(
    ("fault", "is_proof"),
    [
        ((at(15), SAMPLED - SECOND), False),
        ((at(15), SAMPLED - SECOND - 1), True),
        ((SAMPLED, at(21)), False),
        ((SAMPLED + 1, at(21)), True),
        ((at(15), 0), False),
    ],
)
def test_a_count_proves_nothing_from_the_begin_of_a_fault_to_a_second_after_it(
    plan: RunFolder, fault: tuple[int, int], is_proof: bool
) -> None:
    plan.numsub = False
    plan.broker = [(at(8.9), "numsub", "config.updated", 2.0), (SAMPLED, "numsub", "config.updated", 3.0)]
    plan.faults = [("link_slow", "web-0", *fault)]
    differs = "NUMSUB and the fleet differ: config.updated: 3 subscribers, the fleet claims 2"
    assert result_of(plan, "harness").detail == (differs if is_proof else WHOLE)


@pytest.mark.parametrize(
    ("changed", "is_proof"),
    [(SAMPLED - SECOND, False), (SAMPLED - SECOND - 1, True), (SAMPLED + SECOND, False), (SAMPLED + SECOND + 1, True)],
)
def test_a_count_proves_nothing_within_a_second_of_a_pod_s_change(plan: RunFolder, changed: int, is_proof: bool) -> None:
    plan.numsub = False
    plan.broker = [(at(8.9), "numsub", "config.updated", 2.0), (SAMPLED, "numsub", "config.updated", 3.0)]
    plan.state("web-1", changed, "subscribed")
    assert result_of(plan, "harness").verdict == ("unknown" if is_proof else "valid")


@pytest.mark.parametrize(
    ("begin", "end", "needs_samples"),
    [
        (SECOND, at(11), True),
        (SECOND, at(11) - 1, False),
        (at(19), at(20), True),
        (at(19) + 1, at(21), False),
        (at(19), 0, True),
        (at(19) + 1, 0, False),
        (at(20), at(22), False),
    ],
)
def test_a_process_that_had_a_pod_for_a_second_of_the_run_phase_must_have_samples(
    tmp_path: Path, begin: int, end: int, needs_samples: bool
) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.states = [("web-0", begin, "subscribed")] + ([("web-0", end, "stopped")] if end else [])
    plan.hosts = [(s * SECOND, "locust", 0, 20 * US) for s in range(8, 23)]
    asked = "no processor samples of h0 in the run phase: its saturation is not known" in result_of(plan, "harness").detail
    assert asked == needs_samples


def test_processors_and_loops_are_judged_over_the_samples_that_enclose_the_run_phase(plan: RunFolder) -> None:
    mine = [(9, 0, 9), (10, 1, 9), (12, 3, 1), (19, 9, 2), (20, 31, 3), (21, 990, 9)]  # second, cpu in tenths of a second, late by ms
    plan.hosts = [(at(s), "h0", tenths * SECOND // 10, late * MS) for s, tenths, late in mine]
    plan.hosts += [(at(s), "locust", at(s) // 10, 20 * US) for s in (9.5, 14, 20.5)]
    counts = result_of(plan, "harness").counts
    assert (counts["cpu_share.h0"], counts["cpu_share.locust"]) == (0.3, 0.1)
    assert counts["loop_lag_us.max"] == 3000


def test_a_loop_is_not_late_while_its_process_was_made_to_stand_still(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.publish(10, start_ns=at(11))
    plan.state("web-0", at(15), "frozen").state("web-0", at(16), "subscribed")
    late = {14: 30 * US, 15: SECOND, 16: SECOND, 17: SECOND, 18: 40 * US}
    plan.hosts = [(at(s), host, 0, late.get(s, 20 * US) if host == "h0" else 20 * US) for s in range(8, 23) for host in ("h0", "locust")]
    assert result_of(plan, "harness").counts["loop_lag_us.max"] == 40


def test_the_first_three_parts_that_cannot_be_read_are_named(plan: RunFolder) -> None:
    run = open_run(plan.write())
    run.unreadable_parts.extend(f"calls-{number}.arrow" for number in range(4))
    detail = judge(run).checkers["harness"].detail
    assert detail == "4 parts of tables cannot be read: calls-0.arrow, calls-1.arrow, calls-2.arrow"


def test_channels_without_a_count_are_named_the_first_three(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run", numsub=False).pod("web-0", channels="d,c,b,a")
    plan.publish(10, channel="a")
    assert result_of(plan, "harness").detail == "no NUMSUB was sampled for a, b, c: subscriptions are not proven"


def test_a_fleet_that_subscribes_to_nothing_proves_nothing(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0", channels="")
    plan.publish(10)
    result = result_of(plan, "harness")
    assert (result.verdict, result.detail) == ("unknown", "no pod subscribes to anything")
    assert (result.counts["channels"], result.counts["channels_proven"]) == (0, 0)


def test_a_send_delay_of_three_tenths_of_the_lag_is_not_told_and_more_is(tmp_path: Path) -> None:
    for name, delay, warnings in (("equal", 75, 0), ("more", 76, 1)):
        plan = RunFolder(tmp_path / name).pod("web-0")
        for event in plan.publish(10):
            event.sent_ns = event.intended_ns + delay * US
        assert len(result_of(plan, "harness").warnings) == warnings


def test_what_was_withheld_is_summed_up_over_the_run_phase(plan: RunFolder) -> None:
    def waited(at_ns: int) -> Waits:
        """Return 0.4 s more after each of these seconds: one of the warm-up, one of the run phase, one of the drain."""
        return Waits(waited_ns=0.4 * sum(min(max(at_ns - at(second), 0), SECOND) for second in (9, 15, 21)))

    result = result_of(plan.starve(h0=waited), "harness")
    assert result.counts["waited_s.h0"] == 0.4
    assert "waited_s.locust" not in result.counts


@pytest.mark.parametrize("state", ["interrupted", "failed", "killed"])
def test_a_run_that_ended_early_is_not_called_saturated(plan: RunFolder, state: str) -> None:
    plan.load = LoadInfo(offered_calls=1000, generators=["locust"])
    result = judge(open_run(plan.write(state=state))).checkers["harness"]
    assert result.verdict == "unknown" and "saturated" not in result.detail
    assert result.warnings == ["the run had made 10 of the 1,000 calls of its schedule when it ended"]
    assert math.isnan(result.metrics["offered_ratio_min"]), "how many were due by then is not known"
