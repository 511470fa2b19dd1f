"""Stories of events, on runs whose every copy is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.errors import RunFolderError
from sim.record.schema import CAUSES, OUTCOMES, compose_key
from sim.results.opened_run import open_run
from tests.support.in_pieces import judge_in_pieces
from tests.support.run_folders import MS, RUN_NS, SECOND, RunFolder


@pytest.fixture(autouse=True, params=[pytest.param(False, id="together"), pytest.param(True, id="in pieces")])
def walked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether all copies are in memory or a few pods' at a time, the same is said."""
    if request.param:
        judge_in_pieces(monkeypatch)


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run").service("web", replicas=3)


def test_a_story_tells_every_station(plan: RunFolder) -> None:
    events = plan.publish(10, items=4, first_item_ns=RUN_NS - 5 * MS)
    plan.state("web-1", events[4].sent_ns, "disconnected").state("web-1", events[6].sent_ns, "subscribed")
    plan.drop(events[5], "web-1")
    story = str(open_run(plan.write()).story(events[5].id))
    assert "4 items, the oldest waited 10 ms" in story
    assert "+50 us sent" in story
    assert "+150 us acknowledged" in story and "PUBLISH said 3 receivers" in story
    assert "+240 us web-0 received, handled 10 us later: delivered" in story
    assert "web-1 missing, deaf" in story and "(silent from -1.95 ms to +1.05 ms)" in story


def test_a_story_of_a_stranger_and_of_nothing(plan: RunFolder) -> None:
    first = plan.publish(1)[0]
    plan.foreign(compose_key(nonce=9, publisher=0, sequence=1), "web-0")
    run = open_run(plan.write())
    assert "nobody in this run published it" in run.story("evt_0009000000000001")
    with pytest.raises(RunFolderError, match=f"no event 'evt_nope' .* one that is there: {first.id}"):
        run.story("evt_nope")


def test_times_of_a_stranger_count_from_its_first_delivery_wherever_that_stands(plan: RunFolder) -> None:
    for second, pod in ((3, "web-0"), (1, "web-2"), (2, "web-1")):
        plan.foreign(77, pod, at_ns=RUN_NS + second * SECOND)
    assert [line.split()[:3] for line in open_run(plan.write()).story("evt_000000000000004d").splitlines()[1:]] == [
        ["+2", "s", "web-0"],
        ["+1", "s", "web-1"],
        ["+0", "s", "web-2"],
    ]


def test_a_run_without_events_has_no_story_and_says_so(plan: RunFolder) -> None:
    with pytest.raises(RunFolderError, match=r"no event 'evt_nope' in .*; it holds no events$"):
        open_run(plan.write()).story("evt_nope")


def test_an_event_that_was_only_heard_or_only_warmed_up_is_named_where_there_is_no_other(plan: RunFolder) -> None:
    key = compose_key(nonce=9, publisher=0, sequence=1)
    plan.foreign(key, "web-0")
    with pytest.raises(RunFolderError, match=r"one that is there: evt_0009000000000001$"):
        open_run(plan.write()).story("evt_nope")
    plan.folder = plan.folder.with_name("warm")
    (warm,) = plan.publish(1, start_ns=9 * SECOND + 500 * MS)
    with pytest.raises(RunFolderError, match=f"one that is there: {warm.id}$"):
        open_run(plan.write()).story("evt_nope")
    plan.folder = plan.folder.with_name("run-phase")
    (event,) = plan.publish(1)
    with pytest.raises(RunFolderError, match=f"one that is there: {event.id}$"):
        open_run(plan.write()).story("evt_nope")


def test_a_service_that_had_no_pod_yet_had_none_from_the_beginning(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0").pod("late-0", service="late")
    plan.states = [row for row in plan.states if row[0] != "late-0"]
    plan.state("late-0", 15 * SECOND, "starting").state("late-0", 15 * SECOND, "subscribed").state("late-0", 17 * SECOND, "stopped")
    early, late = plan.event(12 * SECOND), plan.event(18 * SECOND)
    plan.hear(early, "web-0"), plan.hear(late, "web-0")
    run = open_run(plan.write())
    start = "late missing, no-pod: no pod of the service was alive"
    assert run.story(early.id).splitlines()[-1].strip().startswith(start)
    assert run.story(early.id).endswith("(it had no pod from the beginning to +3 s)")
    assert run.story(late.id).endswith("(it had no pod from -1 s to the end)")


def test_the_whole_story_of_an_event_that_was_never_sent_and_of_a_single_item(plan: RunFolder) -> None:
    never = plan.event(RUN_NS, outcome="never-sent", sent_ns=0, acked_ns=0, items=1, size=300)
    (heard,) = plan.publish(1, start_ns=RUN_NS + SECOND, size=1)
    heard.receivers = 1
    plan.drop(heard, "web-1").drop(heard, "web-2")
    run = open_run(plan.write())
    assert run.story(never.id).splitlines() == [
        f"{never.id}: config.updated from locust-0, 1 item, 300 bytes, phase run",
        "            +0 s intended",
        f"            +0 s never-sent: {OUTCOMES['never-sent']}",
        *(f"{'':>16} web-{pod} missing, never-sent: {CAUSES['never-sent']}" for pod in range(3)),
    ]
    assert run.story(heard.id).splitlines() == [
        f"{heard.id}: config.updated from locust-0, 1 item, 1 byte, phase run",
        "            +0 s intended",
        "          +50 us sent",
        f"         +150 us acknowledged: {OUTCOMES['acknowledged']}; PUBLISH said 1 receiver",
        "         +240 us web-0 received, handled 10 us later: delivered",
        *(f"{'':>16} web-{pod} missing, unexplained: {CAUSES['unexplained']}" for pod in (1, 2)),
    ]


def test_a_service_whose_pod_ended_before_anything_else_was_told_of_it(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0").pod("gone-0", service="gone")
    plan.states = [row for row in plan.states if row[0] != "gone-0"]
    plan.state("gone-0", 9 * SECOND, "aborted").state("gone-0", 10 * SECOND, "stopped")
    event = plan.event(12 * SECOND, receivers=0)
    plan.hear(event, "web-0")
    story = open_run(plan.write()).story(event.id)
    assert story.endswith("(it had no pod from -3 s to the end)")
    assert "; PUBLISH said 0 receivers\n" in story


def test_a_service_that_never_had_a_pod_had_none_all_the_time(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.scenario = '[services.mail]\nsubscribes = ["config.updated"]\n'
    (event,) = plan.publish(1)
    last = open_run(plan.write()).story(event.id).splitlines()[-1]
    assert last == f"{'':>16} mail missing, no-pod: {CAUSES['no-pod']} (it had no pod from the beginning to the end)"


def test_a_service_has_no_pod_from_its_last_end_before_to_its_next_beginning_after(tmp_path: Path) -> None:
    """Two pods, never both: from 11 to 12 s none, one until 13, none until 15; one that ended twice ended the first time."""
    plan = RunFolder(tmp_path / "run").pod("web-0").pod("late-0", service="late").pod("late-1", service="late")
    plan.states = [row for row in plan.states if not row[0].startswith("late")]
    for at_s, pod, state in ((9, 0, "subscribed"), (11, 0, "aborted"), (12, 1, "subscribed"), (13, 1, "stopped"), (14, 1, "stopped")):
        plan.state(f"late-{pod}", at_s * SECOND, state)
    plan.state("late-0", 15 * SECOND, "starting")
    spans = {}
    for at_s in (11.5, 13.2, 14.5):
        event = plan.event(int(at_s * SECOND))
        plan.hear(event, "web-0")
        spans[event.id] = {11.5: ("-500 ms", "+500 ms"), 13.2: ("-200 ms", "+1.8 s"), 14.5: ("-1.5 s", "+500 ms")}[at_s]
    run = open_run(plan.write())
    for event_id, (since, until) in spans.items():
        assert run.story(event_id).endswith(f"(it had no pod from {since} to {until})")


@pytest.mark.parametrize(("outcome", "said"), [("acknowledged", True), ("memory", False), ("refused", False), ("never-sent", False)])
def test_only_of_an_event_that_the_broker_took_it_says_what_publish_said(plan: RunFolder, outcome: str, said: bool) -> None:
    (event,) = plan.publish(1)
    event.outcome, event.receivers = outcome, 1
    assert ("PUBLISH said" in open_run(plan.write()).story(event.id)) == said
