"""Every checker on runs with known faults: each planted thing is reported exactly, once, and by its own checker."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from sim.errors import UsageError
from sim.record.checksum import is_whole
from sim.record.limits import SCOPED_METRICS, read_metric
from sim.record.run_info import LoadInfo, Phase
from sim.record.schema import SLO_METRICS, compose_key
from sim.results import balance, checkers
from sim.results.checkers import CHECKERS, OF_PROGRAMS, Result, Verdict, judge, write_verdict
from sim.results.opened_run import open_run
from tests.support.run_folders import MS, RUN_NS, SECOND, US, RunFolder, cooked


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run").service("web", replicas=3)


def judged(plan: RunFolder, **write: Any) -> Verdict:
    return judge(open_run(plan.write(**write)))


def words(verdict: Verdict) -> dict[str, str]:
    return {name: result.verdict for name, result in verdict.checkers.items() if result.verdict != "valid"}


def test_a_clean_run_is_valid_and_its_metrics_are_those_of_the_schema(plan: RunFolder) -> None:
    plan.publish(100)
    verdict = judged(plan)
    assert verdict.verdict == "valid"
    assert verdict.exit_code == 0
    assert words(verdict) == {}
    measured = [read_metric(metric) for result in verdict.checkers.values() for metric in result.metrics]
    assert {metric.base for metric in measured} == set(SLO_METRICS) and all(metric.known for metric in measured)
    scopes = {(metric.scope, metric.subject) for metric in measured if metric.base in SCOPED_METRICS}
    assert scopes == {("", ""), ("service", "web"), ("channel", "config.updated")}


def test_each_plant_is_reported_once_and_by_its_own_checker(plan: RunFolder) -> None:
    events = plan.publish(100)
    plan.drop(events[10], "web-0").repeat(events[20], "web-1").swap(events[30], events[31], "web-2").delay(events[99], "web-0", 7 * MS)
    verdict = judged(plan)
    counts = {name: result.counts for name, result in verdict.checkers.items()}
    assert (counts["ledger"]["missing"], counts["ledger"]["unexplained"], counts["ledger"]["duplicate"]) == (1, 1, 1)
    assert counts["duplication"]["redelivered"] == 1
    assert counts["order"]["out_of_order"] == 1
    assert counts["lag"]["lag_us.max"] == 7_250
    assert words(verdict) == {"ledger": "unknown", "duplication": "invalid", "order": "invalid"}
    assert verdict.verdict == "invalid" and verdict.exit_code == 1
    assert verdict.checkers["ledger"].witnesses == [f"{events[10].id} on config.updated: missing at web-0, unexplained"]
    assert verdict.checkers["duplication"].witnesses == [f"{events[20].id} on config.updated: heard again by web-1"]
    assert [text.split()[0] for text in verdict.checkers["order"].witnesses] == [events[30].id]


def test_losing_copies_with_a_cause_is_not_invalid(plan: RunFolder) -> None:
    plan.publish(10)
    plan.event(RUN_NS + SECOND, outcome="refused")
    verdict = judged(plan)
    assert verdict.verdict == "valid"
    assert verdict.checkers["ledger"].metrics["missing"] == 3
    assert verdict.checkers["ledger"].metrics["missing_ratio"] == 3 / 33


def test_own_unexpected_copies_are_invalid_and_strangers_are_unknown(plan: RunFolder) -> None:
    plan.publish(10)
    plan.foreign(compose_key(nonce=9, publisher=0, sequence=0), "web-0").foreign(1 << 63, "web-1")
    verdict = judged(plan)
    assert words(verdict) == {"ledger": "unknown"}
    assert verdict.checkers["ledger"].counts["foreign"] == 2
    plan.folder = plan.folder.with_name("own")
    plan.foreign(compose_key(nonce=7, publisher=0, sequence=4_000), "web-1")
    verdict = judged(plan)
    assert words(verdict) == {"ledger": "invalid"}
    assert verdict.checkers["ledger"].metrics["unexpected"] == 3


def test_only_the_run_phase_is_counted_but_an_unexplained_loss_in_the_warm_up_is_not_believed_either(plan: RunFolder) -> None:
    early = plan.publish(10, start_ns=9 * SECOND)
    plan.publish(10)
    plan.drop(early[3], "web-0")
    verdict = judged(plan)
    ledger = verdict.checkers["ledger"]
    assert (ledger.counts["events"], ledger.counts["expected"], ledger.counts["missing"]) == (10, 30, 0)
    assert ledger.verdict == "unknown"


def test_nothing_published_in_the_run_phase_is_no_data(plan: RunFolder) -> None:
    plan.publish(10, start_ns=9 * SECOND)
    assert words(judged(plan)) == dict.fromkeys(("ledger", "duplication", "order", "lag", "callers"), "unknown")


def test_nothing_heard_at_all_is_not_a_pass(plan: RunFolder) -> None:
    plan.slo = {"lag_ms_p99": 1e9}
    plan.event(RUN_NS, outcome="refused")
    verdict = judged(plan)
    assert verdict.verdict == "unknown"
    assert verdict.slo[0].measured is None


def test_what_publish_said_is_reported_beside_the_books(plan: RunFolder) -> None:
    events = plan.publish(10)
    events[0].receivers, events[1].receivers = 5, 1
    verdict = judged(plan)
    counts = verdict.checkers["ledger"].counts
    assert counts["publish_receivers"] == 8 * 3 + 5 + 1
    assert (counts["publish_said_more"], counts["publish_said_fewer"]) == (1, 1)
    assert said_more(plan) == "someone else may listen"
    assert verdict.verdict == "valid"


def said_more(plan: RunFolder) -> str:
    """Return whom the ledger names where PUBLISH said more subscribers than the fleet has."""
    warnings = judged(plan).checkers["ledger"].warnings
    (text,) = (text for text in warnings if text.startswith("PUBLISH reached more subscribers than the fleet has in 1 event: "))
    return text.partition(": ")[2]


OURS = "it may have counted connections of pods that had ended or connected again"


@pytest.mark.parametrize(
    ("state", "at_s", "says"),
    [("stopped", 14.5, OURS), ("disconnected", 14.5, OURS), ("stopped", 13.9, "someone else may listen")],
)
def test_a_pod_that_has_just_ended_may_be_who_publish_counts(plan: RunFolder, state: str, at_s: float, says: str) -> None:
    plan.end("web-0", int(at_s * SECOND), "stopped") if state == "stopped" else plan.state("web-0", int(at_s * SECOND), state)
    event = plan.event(15 * SECOND)
    for pod in ("web-1", "web-2"):
        plan.hear(event, pod)
    event.receivers = 4 if state == "disconnected" else 3
    assert said_more(plan) == says


def test_about_a_fault_connections_that_are_gone_may_be_counted(plan: RunFolder) -> None:
    plan.publish(2)[0].receivers = 4
    plan.faults.append(("link_blackhole", "web-0", RUN_NS - SECOND, RUN_NS - SECOND // 2))
    assert said_more(plan) == OURS


def test_who_subscribed_before_the_fleet_is_named(plan: RunFolder) -> None:
    plan.publish(2)[0].receivers = 4
    plan.broker += [(2 * SECOND, "numsub_foreign", "config.updated", 1.0), (int(19.95 * SECOND), "numsub", "config.updated", 4.0)]
    assert said_more(plan) == "other programs subscribe to these channels too"


def test_books_that_do_not_balance_are_unknown(plan: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    plan.pod("far-0", service="far")
    events = plan.publish(10)
    plan.end("far-0", events[5].sent_ns)
    for event in events[5:]:
        plan.drop(event, "far-0")
    run = open_run(plan.write())
    assert CHECKERS["ledger"](run).verdict == "valid"

    def told(**changes: Any) -> str:
        result = CHECKERS["ledger"](cooked(plan.folder, **changes))
        assert result.verdict == "unknown"
        return result.detail

    # the copies are changed and the services' books stay, or the other way round
    copies, books = run.copies, run.service_books
    assert "do not balance: 35 delivery rows, but 34" in told(copies=type(copies)(*(column[1:] for column in copies)), services=books)
    assert "services heard 34" in told(services=books._replace(heard=books.heard - (np.arange(len(books.heard)) == 0)))
    fewer = type(books)(*(np.delete(column, 9) for column in books))
    assert "20 events, but 19 are booked" in told(services=fewer)
    none = books._replace(fate=np.full_like(books.fate, -1))
    assert "5 events found no pod of a service, but 0 are booked so" in told(services=none)
    totals = balance._totals(run)
    monkeypatch.setattr(balance, "_totals", lambda run: totals._replace(copies=31))
    assert "31 copies were expected, but 35" in CHECKERS["ledger"](open_run(plan.folder)).detail


def test_fan_out_is_the_number_of_pods_of_a_service_and_not_duplication(plan: RunFolder) -> None:
    plan.service("api", replicas=2, channels="config.updated,a.b").pod("mute", service="mute", channels="")
    plan.publish(10)
    events = plan.publish(10, channel="a.b")
    plan.heard[-1].outcome = "skipped"
    verdict = judged(plan)
    counts = verdict.checkers["duplication"].counts
    assert counts["handled_per_event.web"] == 3
    assert counts["handled_per_event.api"] == (20 + 19) / 20
    assert counts["pods.api"] == 2
    assert "handled_per_event.mute" not in counts
    assert len(events) == 10 and verdict.verdict == "valid"


def test_order_is_per_pod_publisher_and_channel(plan: RunFolder) -> None:
    for pod in ("web-0", "web-1", "web-2"):
        plan.pods[pod] = ("web", "config.updated,a.b")
    one = plan.publish(5)
    two = plan.publish(5, publisher="locust-1")
    three = plan.publish(5, channel="a.b")
    plan.swap(one[4], two[0], "web-0")  # two publishers: no promise between them
    plan.swap(one[4], three[0], "web-1")  # two channels: no promise
    assert judged(plan).checkers["order"].counts["out_of_order"] == 0
    plan.folder = plan.folder.with_name("swapped")
    plan.swap(one[1], one[2], "web-2").swap(three[0], three[4], "web-2")  # the latter overtakes 3 and puts 1 last
    assert judged(plan).checkers["order"].counts["out_of_order"] == 1 + 4


def test_a_duplicate_is_not_also_disorder(plan: RunFolder) -> None:
    events = plan.publish(5)
    again = plan.hear(events[0], "web-0", lag_ns=9 * MS)
    verdict = judged(plan)
    assert again.pod == "web-0"
    assert verdict.checkers["order"].counts["out_of_order"] == 0
    assert verdict.checkers["duplication"].counts["redelivered"] == 1


def test_quantiles_are_exact_and_values_that_occurred(plan: RunFolder) -> None:
    plan.pods.clear()
    plan.states.clear()
    plan.pod("web-0")
    lags_us = list(range(1, 10_001))
    random.Random(1).shuffle(lags_us)
    for number, lag_us in enumerate(lags_us):
        event = plan.event(RUN_NS + number * 100 * US, sent_ns=RUN_NS + number * 100 * US, acked_ns=0)
        plan.hear(event, "web-0", lag_ns=lag_us * US)
    counts = judged(plan).checkers["lag"].counts
    quantiles = {q: counts[f"lag_us.{q}"] for q in ("p50", "p90", "p99", "p999", "p9999", "max")}
    assert quantiles == {"p50": 5_001, "p90": 9_001, "p99": 9_901, "p999": 9_991, "p9999": 10_000, "max": 10_000}
    assert counts["lag_us.channel.config.updated.p99"] == counts["lag_us.service.web.p99"] == 9_901
    assert "rows" not in judged(plan).checkers["lag"].detail


def test_a_tail_of_few_rows_says_so(plan: RunFolder) -> None:
    plan.publish(100)
    assert "p99.9 and above are the maximum (too few copies)" in judged(plan).checkers["lag"].detail


def test_lag_counts_from_the_intended_time_so_a_late_generator_shows(plan: RunFolder) -> None:
    for number in range(100):
        at = RUN_NS + number * MS
        event = plan.event(at, sent_ns=at + 80 * MS, acked_ns=at + 81 * MS)
        for pod in plan.pods:
            plan.hear(event, pod, lag_ns=82 * MS)
    verdict = judged(plan)
    lag = verdict.checkers["lag"]
    assert (lag.metrics["lag_ms_p50"], lag.metrics["send_delay_ms_p99"], lag.counts["bus_us.p50"]) == (82, 80, 2_000)
    assert any("98% of all lag passed before" in text for text in verdict.checkers["harness"].warnings)


def test_a_negative_lag_is_counted_and_makes_lag_unknown(plan: RunFolder) -> None:
    events = plan.publish(10)
    plan.delay(events[3], "web-1", -MS)
    result = judged(plan).checkers["lag"]
    assert result.verdict == "unknown"
    assert result.counts["negative"] == 1


def offer(plan: RunFolder, *, calls: int | None) -> None:
    plan.load = LoadInfo(offered_calls=calls, generators=["locust"] if calls else [])


def end_in_run(plan: RunFolder) -> None:
    plan.info.phases = [Phase("run", RUN_NS, 2 * RUN_NS)]


def claim_too_many(plan: RunFolder) -> None:
    plan.broker.append((int(19.95 * SECOND), "numsub", "config.updated", 50_000.0))


HARNESS = {
    "interrupted": (lambda plan: None, {"state": "interrupted"}, "interrupted: Ctrl-C"),
    "failed": (lambda plan: None, {"state": "failed"}, "the run was failed"),
    "generator late": (lambda plan: offer(plan, calls=102), {}, "generator saturated: it made 100 of 102"),
    "nothing offered": (lambda plan: offer(plan, calls=None), {}, "names no offered calls"),
    "generator busy": (lambda plan: plan.cpu_share.update(locust=0.95), {}, "generator saturated: locust used 95%"),
    "host busy": (lambda plan: plan.cpu_share.update(h0=0.9), {}, "measured itself: h0 used 90%"),
    "no samples": (lambda plan: setattr(plan, "hosts", []), {}, "no processor samples of h0"),
    "no numsub": (lambda plan: setattr(plan, "numsub", False), {}, "no NUMSUB was sampled for config.updated"),
    "numsub differs": (claim_too_many, {}, "50,000 subscribers, the fleet claims 3"),
    "no drain": (end_in_run, {}, "did not reach its drain phase"),
    "not sealed": (lambda plan: None, {"state": "running", "seal": False}, "was not sealed"),
}


@pytest.mark.parametrize("case", HARNESS)
def test_an_instrument_that_cannot_be_trusted_makes_the_run_unknown(case: str, plan: RunFolder) -> None:
    plan.publish(100)
    change, write, words_of_it = HARNESS[case]
    change(plan)
    verdict = judged(plan, **write)
    assert verdict.checkers["harness"].verdict == "unknown"
    assert words_of_it in verdict.checkers["harness"].detail
    assert verdict.exit_code == 2


def test_failed_publishes_are_calls_made_but_not_deliveries(plan: RunFolder) -> None:
    plan.publish(99)
    plan.event(RUN_NS + SECOND, outcome="refused")
    counts = judged(plan).checkers
    assert counts["harness"].counts["calls_made"] == 100
    assert counts["ledger"].counts["delivered"] == 99 * 3


def test_calls_that_nobody_made_because_their_pod_was_down_are_told(plan: RunFolder) -> None:
    plan.publish(100)
    plan.load = LoadInfo(offered_calls=120, calls_not_made=20, generators=["h0"])
    result = judged(plan).checkers["harness"]
    assert (result.verdict, result.counts["calls_not_made"]) == ("valid", 20)
    assert "20 more calls were due while their pods did not run" in result.warnings[0]


def test_connections_that_the_generator_found_closed_are_told(plan: RunFolder) -> None:
    plan.publish(100)
    plan.load = LoadInfo(offered_calls=100, generators=["locust"], closed_by_server=2)
    result = judged(plan).checkers["harness"]
    assert (result.verdict, result.counts["closed_by_server"]) == ("valid", 2)
    assert result.warnings[0].startswith("before 2 publishes the generator found that the server had closed its connection")


def test_strangers_that_were_there_before_are_subtracted(plan: RunFolder) -> None:
    plan.publish(10)
    plan.broker += [(2 * SECOND, "numsub_foreign", "config.updated", 4.0), (int(19.95 * SECOND), "numsub", "config.updated", 7.0)]
    result = judged(plan).checkers["harness"]
    assert result.verdict == "valid"
    assert "4 subscribers of other programs" in result.warnings[0]


def test_a_reconnecting_pod_does_not_count_as_subscribed(plan: RunFolder) -> None:
    plan.publish(10)
    plan.state("web-0", 15 * SECOND, "disconnected")
    assert "3 subscribers, the fleet claims 2" in judged(plan).checkers["harness"].detail


@pytest.mark.parametrize("again_s", [19.5, 20.5])
def test_a_count_taken_while_a_pod_subscribes_again_proves_nothing_and_an_older_one_does(plan: RunFolder, again_s: float) -> None:
    """NUMSUB came in between the broker's view of the pod and the pod's own."""
    plan.publish(10)
    plan.state("web-0", 15 * SECOND, "disconnected").state("web-0", int(again_s * SECOND), "subscribed")
    if again_s < 20:
        plan.broker.append((int(19.95 * SECOND), "numsub", "config.updated", 2.0))
    assert judged(plan).checkers["harness"].verdict == "valid"


@pytest.mark.parametrize(("end_s", "verdict"), [(0, "valid"), (19.5, "valid"), (18.5, "unknown")])
def test_a_count_taken_in_a_fault_or_shortly_after_it_is_no_proof_against_the_fleet(plan: RunFolder, end_s: float, verdict: str) -> None:
    """The broker may not know yet that a connection is gone; `0`: the fault was not over."""
    plan.publish(10)
    plan.broker.append((int(19.95 * SECOND), "numsub", "config.updated", 4.0))
    plan.faults.append(("link_blackhole", "web-0", 15 * SECOND, int(end_s * SECOND)))
    result = judged(plan).checkers["harness"]
    assert result.verdict == verdict
    assert verdict == "valid" or "4 subscribers, the fleet claims 3" in result.detail


def test_a_count_before_the_load_has_to_agree(plan: RunFolder) -> None:
    plan.publish(10)
    plan.numsub = False
    plan.broker.append((SECOND + 2 * MS, "numsub", "config.updated", 4.0))
    assert "4 subscribers, the fleet claims 3" in judged(plan).checkers["harness"].detail


@pytest.mark.parametrize(
    ("counted", "says"), [(1, "1 subscriber, the fleet claims 2"), (2, ""), (3, ""), (4, "4 subscribers, the fleet claims 3")]
)
def test_a_consumer_of_a_group_stays_counted_when_its_pod_is_gone(plan: RunFolder, counted: int, says: str) -> None:
    """Between as many as subscribe and as many as ever did: the group may have been lost and made anew meanwhile."""
    plan.transport = "streams"
    plan.publish(10)
    plan.state("web-0", 15 * SECOND, "disconnected")
    plan.broker.append((int(19.95 * SECOND), "numsub", "config.updated", float(counted)))
    result = judged(plan).checkers["harness"]
    assert result.verdict == ("unknown" if says else "valid")
    assert (says or "the broker counts the consumers that the fleet claims") in result.detail


def test_where_numsub_is_denied_it_is_publish_that_vouches_for_the_subscriptions(plan: RunFolder) -> None:
    plan.publish(10)
    plan.numsub = False
    plan.broker.append((int(8.9 * SECOND), "probe_receivers", "config.updated", 3.0))
    detail = judged(plan).checkers["harness"].detail
    assert "PUBLISH said of the probes that they reached the subscribers that the fleet claims" in detail
    assert "the broker counts" not in detail
    plan.broker[-1] = (int(8.9 * SECOND), "probe_receivers", "config.updated", 2.0)
    assert "2 subscribers, the fleet claims 3" in judged(plan).checkers["harness"].detail


@pytest.mark.parametrize(
    ("ground", "queue", "still", "says"),
    [
        ("embedded", "none", False, "the generator was late, not the bus"),
        ("embedded", "keep", False, "pods kept them in an outage, or the generator was late, not the bus"),
        ("embedded", "keep", True, "pods kept them in an outage or pods stood still, or the generator was late, not the bus"),
        ("model", "none", True, "pods stood still, not the bus"),
    ],
)
def test_who_kept_an_event_before_it_was_sent_is_said_as_far_as_it_is_known(
    plan: RunFolder, ground: str, queue: str, still: bool, says: str
) -> None:
    plan.info = msgspec.structs.replace(plan.info, ground=ground)
    plan.bus["outage_queue"] = queue
    for event in plan.publish(10, lag_ns=SECOND):
        event.sent_ns, event.acked_ns = event.intended_ns + SECOND // 2, event.intended_ns + SECOND
    if still:
        plan.state("web-0", 15 * SECOND, "frozen").state("web-0", 16 * SECOND, "subscribed")
    (text,) = (text for text in judged(plan).checkers["harness"].warnings if "of all lag" in text)
    assert text == f"50% of all lag passed before the event was sent: {says}"


def test_busy_loops_are_noted_beside_lag(plan: RunFolder) -> None:
    plan.publish(10)
    plan.hosts = [(s * SECOND, host, 0, 200 * US) for s in range(8, 23) for host in ("h0", "locust")]
    result = judged(plan).checkers["harness"]
    assert result.verdict == "valid"
    assert result.warnings == ["the loops are often 200 us late, lag p99 is 250 us: busy loops may be what is measured"]


def test_virtual_time_has_no_processor_time(plan: RunFolder) -> None:
    plan.publish(10)
    plan.info.ground, plan.hosts = "model", []
    assert judged(plan).verdict == "valid"


def limits(plan: RunFolder, **slo: object) -> dict[str, tuple[str, float | None]]:
    plan.slo = slo
    return {limit.metric: (limit.verdict, limit.measured) for limit in judged(plan).slo}


def test_limits_are_upper_bounds_unless_they_end_in_min(plan: RunFolder) -> None:
    plan.publish(100)
    found = limits(plan, lag_ms_p99=0.25, lag_ms_p50=0.2, missing=0, offered_ratio_min=1)
    assert found == {
        "lag_ms_p99": ("valid", 0.25),
        "lag_ms_p50": ("invalid", 0.25),
        "missing": ("valid", 0),
        "offered_ratio_min": ("valid", 1),
    }
    plan.folder = plan.folder.with_name("b")
    assert limits(plan, offered_ratio_min=1.5) == {"offered_ratio_min": ("invalid", 1)}


def test_a_misspelt_or_meaningless_limit_never_passes(plan: RunFolder) -> None:
    plan.publish(100)
    plan.slo = {"lag_ms_p98": 1e9, "missing": "nan", "duplicates": "true", "unexpected": "'x'"}
    verdict = judged(plan)
    assert {limit.metric: limit.verdict for limit in verdict.slo} == dict.fromkeys(plan.slo, "unknown")
    assert verdict.slo[0].detail == "lag_ms_p98 is not a metric (did you mean 'lag_ms_p99'?)"
    assert verdict.exit_code == 2


def test_a_broken_limit_measured_by_a_broken_instrument_is_unknown(plan: RunFolder) -> None:
    plan.publish(100)
    plan.slo = {"lag_ms_p99": 0.1}
    assert judged(plan).verdict == "invalid"
    plan.folder = plan.folder.with_name("busy")
    plan.cpu_share["locust"] = 0.99
    verdict = judged(plan)
    assert (verdict.verdict, verdict.slo[0].verdict, verdict.slo[0].measured) == ("unknown", "unknown", 0.25)
    assert "cannot vouch" in verdict.slo[0].detail


@pytest.mark.parametrize(
    ("driver", "sent_ms", "took_ms", "bus_ms", "word"),
    [
        ("locust", 100, 0.1, 5, "unknown"),  # the generator slept; the bus kept the limit
        ("locust", 100, 200, 5, "invalid"),  # an earlier call was held for so long by the bus
        ("locust", 100, 0.1, 60, "invalid"),  # the bus alone breaks it
        ("pods", 100, 0.1, 5, "invalid"),  # a pod that calls late is what is measured
        ("locust", 1, 0.1, 5, "valid"),
    ],
)
def test_a_limit_on_lag_is_not_broken_by_a_generator_that_is_late_of_itself(
    driver: str, sent_ms: float, took_ms: float, bus_ms: float, word: str, plan: RunFolder
) -> None:
    for event in plan.publish(50, step_ns=200 * MS, lag_ns=round((sent_ms + bus_ms) * MS)):
        event.sent_ns = event.intended_ns + round(sent_ms * MS)
        event.acked_ns = event.sent_ns + MS // 2
        plan.calls.append((event.intended_ns, "locust-0", "config.updated", round(took_ms * MS), "ok"))
        plan.calls.append((event.intended_ns + 100 * MS, "locust-0", "config.updated", round(took_ms * MS), "ok"))
    plan.slo, plan.info.driver = {"lag_ms_p99": 50}, driver
    (limit,) = judged(plan).slo
    assert limit.verdict == word
    assert ("the generator was late by itself: without that it is at most 5.1" in limit.detail) == (word == "unknown")
    if word == "unknown":
        plan.folder = plan.folder.with_name("unanswered")
        plan.events[0].outcome, plan.events[0].acked_ns = "unknown", 0  # it may have held up the next ones for as long as it liked
        assert judged(plan).slo[0].verdict == "invalid"


def test_a_broken_promise_stays_invalid_though_the_instrument_is_broken(plan: RunFolder) -> None:
    events = plan.publish(100)
    plan.repeat(events[3], "web-0")
    plan.cpu_share["locust"] = 0.99
    assert judged(plan).verdict == "invalid"


def test_a_checker_that_throws_is_unknown(plan: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(run: object) -> Result:
        raise ZeroDivisionError("boom")

    plan.publish(10)
    plan.slo = {"out_of_order": 0}
    monkeypatch.setitem(checkers.CHECKERS, "order", explode)
    verdict = judged(plan)
    assert verdict.checkers["order"].detail == "the checker failed: ZeroDivisionError: boom"
    assert (verdict.verdict, verdict.slo[0].verdict) == ("unknown", "unknown")


def test_only_some_checkers_can_be_asked(plan: RunFolder) -> None:
    plan.publish(10)
    plan.slo = {"lag_ms_p99": 1, "missing": 0}
    run = open_run(plan.write())
    verdict = judge(run, only=["lag"])
    assert (list(verdict.checkers), [limit.metric for limit in verdict.slo]) == (["lag"], ["lag_ms_p99"])
    with pytest.raises(UsageError, match="no checker 'lagg' \\(did you mean 'lag'"):
        judge(run, only=["lagg"])
    with pytest.raises(UsageError, match="no checker was named"):
        judge(run, only=[])


def test_verdict_json_has_the_keys_it_promises_and_no_nan(plan: RunFolder) -> None:
    plan.event(RUN_NS, outcome="refused")
    plan.slo = {"lag_ms_p99": 1}
    run = open_run(plan.write())
    verdict = judge(run)
    path = write_verdict(run, verdict)
    assert write_verdict(run, verdict) == path  # again, over the old one
    content = json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(word))
    assert list(content) == ["verdict", "scenario", "ground", "seed", "checkers", "slo", "crc32"]
    assert is_whole(content)
    assert set(content["checkers"]) == set(CHECKERS) - {OF_PROGRAMS}  # which is asked where some pod is a program
    for result in content["checkers"].values():
        assert {"verdict", "counts", "witnesses", "detail"} <= set(result)
    assert {key: content["slo"][0][key] for key in ("metric", "limit", "measured", "verdict")} == {
        "metric": "lag_ms_p99", "limit": 1, "measured": None, "verdict": "unknown",
    }  # fmt: skip
    assert math.isnan(verdict.checkers["lag"].metrics["lag_ms_p99"])
    assert (path.parent / "junit.xml").exists()
    assert not list(path.parent.glob("*.unfinished"))
