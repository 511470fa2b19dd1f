"""The answer at the top of a page: sentences and figures, on runs whose every copy is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.results.answer import WhatHappened, answer_of, percent, promises, title_of
from sim.results.checkers import judge
from sim.results.lost import lost_events
from sim.results.opened_run import Run, open_run
from tests.support.in_pieces import judge_in_pieces
from tests.support.run_folders import MS, RUN_NS, SECOND, RunFolder


@pytest.fixture(autouse=True, params=[pytest.param(False, id="together"), pytest.param(True, id="in pieces")])
def walked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether all copies are in memory or a few pods' at a time, the same is said."""
    if request.param:
        judge_in_pieces(monkeypatch)


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    plan = RunFolder(tmp_path / "run").service("web", replicas=2).service("api", replicas=1)
    plan.publish(100, step_ns=50 * MS)
    return plan


def answered(plan: RunFolder) -> WhatHappened:
    run = open_run(plan.write())
    return answer_of(run, judge(run), lost_events(run.lost()))


def figures(plan: RunFolder) -> dict[str, tuple[str, str]]:
    return {name: (value, about) for name, value, about in answered(plan).figures}


def test_where_nothing_is_lost_it_says_so_with_the_number(plan: RunFolder) -> None:
    found = answered(plan)
    assert found.headline == "Nothing was lost: all 100 events reached every service that should handle them."
    assert [(one.service, one.events, one.lost, one.why) for one in found.services] == [("api", 100, 0, ""), ("web", 100, 0, "")]
    assert [value for _, value, _ in found.figures] == ["none", "none", "no fault", "no fault", "250 us"]


def test_the_service_that_lost_the_greatest_share_stands_first_and_its_pod_s_silence_is_told(plan: RunFolder) -> None:
    plan.state("api-0", 12 * SECOND, "disconnected").state("api-0", 13 * SECOND + 5 * MS, "subscribed")
    for event in plan.events[40:61]:
        plan.drop(event, "api-0")
    found = answered(plan)
    assert found.headline == "api lost 21 % of its events: 21 of 100. api-0 lost all that was for it for 1 s, from 2.0 to 3.0 s."
    assert (found.services[0].service, found.services[0].why) == ("api", "deaf 21")
    assert found.silence.copies == 21


def test_where_every_service_lost_something_all_are_counted(plan: RunFolder) -> None:
    for event in plan.events[10:12]:
        for pod in ("web-0", "web-1"):
            plan.drop(event, pod)
    plan.drop(plan.events[50], "api-0")
    headline = answered(plan).headline
    assert headline.startswith("All 2 services lost events, web the largest share: 2.0 %, 2 of 100. web-")
    assert headline.endswith("lost all that was for it for 50 ms, from 0.5 to 0.6 s.")


def test_an_event_that_only_some_pods_heard_is_told_where_none_is_lost(plan: RunFolder) -> None:
    plan.drop(plan.events[10], "web-0")
    found = answered(plan)
    assert found.headline == "Every event reached its services, but 1 event of web (1.0 %) did not reach all of its pods."
    assert figures(plan)["longest silence"] == ("one copy", "web-0, at 0.5 s")


def test_what_nobody_knows_is_neither_lost_nor_delivered(plan: RunFolder) -> None:
    event = plan.events[10]
    event.outcome, event.acked_ns, event.receivers = "unknown", 0, -1
    for pod in plan.pods:
        plan.drop(event, pod)
    assert answered(plan).headline == "No event is known to be lost, but of 2 events nobody knows."


def test_an_event_whose_handlers_failed_was_not_lost_and_not_handled(plan: RunFolder) -> None:
    for row in plan.heard:
        if row.pod == "api-0" and row.key == plan.events[3].key:
            row.outcome = "failed"
    found = answered(plan)
    assert found.headline == "No event was lost, but api never handled 1 of its 100 events."
    assert found.services[0].not_handled + found.services[1].not_handled == 1


def test_a_service_without_a_pod_has_its_silence_too(plan: RunFolder) -> None:
    plan.end("api-0", 12 * SECOND)
    plan.heard = [row for row in plan.heard if row.pod != "api-0" or row.received_ns < 12 * SECOND]
    assert "api (no pod) lost all that was for it for 2.95 s, from 2.0 to 5.0 s." in answered(plan).headline


def test_a_fleet_that_is_not_ours_loses_nothing_that_we_know(plan: RunFolder) -> None:
    plan.info.fleet = "none"
    assert answered(plan).headline == "The fleet is not ours: who heard, and what was lost, is not known."


@pytest.mark.parametrize(
    ("slo", "name", "about"),
    [
        ({}, "lag, p99", "no limit is set on it"),
        ({"lag_ms_p99": 5}, "lag, p99", "limit: at most 5 ms, kept"),
        ({"lag_ms_p50": 5, "lag_ms_max": 0.1}, "lag, max", "limit: at most 0.1 ms, broken"),
        ({"lag_ms_p99": '"soon"'}, "lag, p99", "limit: at most soon, not known whether kept"),
        ({"missing": 0}, "lag, p99", "no limit is set on it"),
    ],
)
def test_lag_stands_beside_the_limit_that_fares_worst(plan: RunFolder, slo: dict[str, object], name: str, about: str) -> None:
    plan.slo = slo
    assert figures(plan)[name] == ("250 us", about)


def test_the_faults_are_named_with_their_time_and_target(plan: RunFolder) -> None:
    plan.faults = [("broker_down", "broker", 12 * SECOND, 13 * SECOND)]
    assert figures(plan)["fault"] == ("broker_down", "2.0 to 3.0 s, broker")
    plan.faults += [("pod_kill", "web-0,web-1", 14 * SECOND, 0)]
    plan.folder = plan.folder.with_name("two")
    assert figures(plan)["2 faults"] == ("broker_down and 1 more", "2.0 s to the end, broker and 2 pods")


def test_the_title_says_what_was_there_and_how_it_ended(plan: RunFolder, tmp_path: Path) -> None:
    assert title_of(open_run(plan.write())) == "synthetic: 3 pods of 2 services, 100 events in 10 s, on embedded"
    plan.folder = tmp_path / "ended"
    assert title_of(open_run(plan.write(state="interrupted"))).endswith(", on embedded (interrupted)")
    empty = open_run(RunFolder(tmp_path / "empty").write())
    assert title_of(empty) == "synthetic: no pods of ours, 0 events in 10 s, on embedded"


def judged(plan: RunFolder, name: str) -> Run:
    plan.folder = plan.folder.with_name(name)
    return open_run(plan.write())


def test_limits_are_one_thing_and_what_happened_another(plan: RunFolder) -> None:
    assert promises(judge(judged(plan, "none"))) == (
        "valid", "Yes", "What the bus promises; the scenario sets no limits of its own."
    )  # fmt: skip
    plan.slo = {"lag_ms_p99": 5, "missing": 0}
    assert promises(judge(judged(plan, "kept"))) == (
        "valid",
        "Yes",
        "2 limits of the scenario (lag_ms_p99 is 0.25 ms, at most 5 ms; missing is 0, at most 0), and what the bus promises.",
    )
    plan.slo = {"lag_ms_p99": 0.1, "missing": 0}
    assert promises(judge(judged(plan, "broken"))) == (
        "invalid", "No", "1 of 2 limits of the scenario: lag_ms_p99 is 0.25 ms, at most 0.1 ms was promised."
    )  # fmt: skip


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1, "100 %"), (0.0004, "under 0.1 %"), (0.9999, "over 99.9 %"), (0.076, "7.6 %"), (0.47, "47 %"), (0.985, "98.5 %")],
)
def test_a_share_is_nothing_or_all_only_where_it_is(share: float, text: str) -> None:
    assert percent(share) == text


def test_the_time_of_the_first_and_last_lost_copy_are_those_of_their_events(plan: RunFolder) -> None:
    for event in (plan.events[20], plan.events[21], plan.events[22], plan.events[80]):
        plan.drop(event, "web-1")
    silence = answered(plan).silence
    assert (silence.pod, silence.copies) == ("web-1", 3)
    assert [round(at * 1e9) + RUN_NS for at in (silence.begin_s, silence.end_s)] == [plan.events[n].intended_ns for n in (20, 22)]
