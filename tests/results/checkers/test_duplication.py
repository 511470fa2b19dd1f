"""The checker `duplication`: handled copies of services of any name, and where it has nothing to say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from sim.results.checkers.duplication import check
from sim.results.opened_run import open_run
from tests.support.run_folders import MS, SECOND, RunFolder


def test_a_service_with_dots_in_its_name_keeps_all_of_it(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("api-0", service="eu.west.api").pod("api-1", service="eu.west.api")
    plan.publish(2)
    result = check(open_run(plan.write()))
    assert result.counts == {"redelivered": 0, "pods.eu.west.api": 2, "handled_per_event.eu.west.api": 2.0}
    assert result.detail == "no pod heard an event twice; handled copies per event: eu.west.api 2"


def test_where_nothing_was_published_in_the_run_phase_duplicates_are_not_measured(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.publish(1, start_ns=9 * SECOND + 500 * MS)
    result = check(open_run(plan.write()))
    assert (result.verdict, result.detail) == ("unknown", "no data: nothing was published in the run phase")
    assert list(result.metrics) == ["duplicates"] and math.isnan(result.metrics["duplicates"])  # type: ignore[arg-type]


def test_a_run_without_pods_has_no_factors(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run")
    plan.event(11 * SECOND)
    result = check(open_run(plan.write()))
    assert (result.verdict, result.counts) == ("valid", {"redelivered": 0})
    assert result.detail == "no pod heard an event twice; handled copies per event: none"


def test_what_a_pod_that_should_hear_nothing_handled_is_of_no_service_that_should(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("api", replicas=1).service("web", replicas=1).pod("mute-0", service="mute", channels="")
    for event in plan.publish(4):
        plan.hear(event, "mute-0")
    assert check(open_run(plan.write())).counts == {
        "redelivered": 0, "pods.api": 1, "pods.web": 1, "handled_per_event.api": 1.0, "handled_per_event.web": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize(("phase", "redelivered"), [(9.5, 0), (11, 1), (20.5, 0)])
def test_only_copies_of_the_run_phase_count_as_heard_again(tmp_path: Path, phase: float, redelivered: int) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.publish(1)
    (event,) = plan.publish(1, start_ns=round(phase * SECOND))
    plan.repeat(event, "web-0")
    result = check(open_run(plan.write()))
    assert (result.counts["redelivered"], result.verdict) == (redelivered, "invalid" if redelivered else "valid")
    assert result.witnesses == [f"{event.id} on config.updated: heard again by web-0"] * redelivered


def test_three_witnesses_are_enough(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    events = plan.publish(5)
    for event in events:
        plan.repeat(event, "web-0")
    result = check(open_run(plan.write()))
    assert result.detail == "5 copies were heard again by a pod that had heard them; handled copies per event: web 2"
    assert result.witnesses == [f"{event.id} on config.updated: heard again by web-0" for event in events[:3]]
    assert result.metrics == {"duplicates": 5.0, 'duplicates.service."web"': 5.0, 'duplicates.channel."config.updated"': 5.0}
    plan.folder, plan.heard = plan.folder.with_name("one"), plan.heard[1:]
    plan.heard = [row for n, row in enumerate(plan.heard) if row not in plan.heard[:n]]
    plan.repeat(events[4], "web-0")
    assert check(open_run(plan.write())).detail.startswith("1 copy was heard again by a pod that had heard it; ")


@pytest.mark.parametrize(("bus", "word"), [({"transport": "streams"}, "valid"), ({"transport": "sharded"}, "invalid"), ({}, "invalid")])
def test_only_a_transport_that_may_deliver_again_is_let_off(tmp_path: Path, bus: dict[str, str], word: str) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.repeat(plan.publish(1)[0], "web-0")
    run = open_run(plan.write())
    run.scenario["bus"] = bus
    assert check(run).verdict == word


def test_a_scenario_that_says_nothing_of_its_bus_is_of_one_that_delivers_once(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.repeat(plan.publish(1)[0], "web-0")
    run = open_run(plan.write())
    del run.scenario["bus"]
    assert check(run).verdict == "invalid"


@pytest.mark.parametrize(
    ("bus", "lost_ns", "verdict"),
    [
        ({"client": "ioredis"}, 200, "valid"),  # while it waited for its answer
        ({"client": "ioredis"}, 900, "invalid"),  # later: it had its answer, and nobody sent it again
        ({"client": "ioredis", "ioredis.autoResendUnfulfilledCommands": False}, 200, "invalid"),
        ({"client": "reference"}, 200, "invalid"),
        ({}, 200, "invalid"),
    ],
)
def test_a_client_that_sends_again_after_a_lost_connection_promises_once_at_least(
    tmp_path: Path, bus: dict[str, object], lost_ns: int, verdict: str
) -> None:
    plan = RunFolder(tmp_path / "run", bus=bus).pod("web-0").pod("pub-0", service="pub", channels="")
    began_ns = 11 * SECOND
    event = plan.event(began_ns, publisher="pub-0", acked_ns=began_ns + 500 * MS)
    plan.hear(event, "web-0")
    plan.state("pub-0", 2 * SECOND, "subscribed", "connected")
    plan.state("pub-0", began_ns + lost_ns * MS, "subscribed", "mute")
    plan.state("pub-0", began_ns + (lost_ns + 50) * MS, "subscribed", "connected")
    plan.repeat(event, "web-0")
    result = check(open_run(plan.write()))
    assert (result.counts["redelivered"], result.verdict) == (1, verdict)
    assert result.metrics["duplicates"] == 1, "a limit counts it all the same"
    if bus == {"client": "ioredis"}:
        assert result.counts["sent_again"] == int(verdict == "valid")
