"""What a consumer group had handed out when its consumer died, what it had not, and that neither excuses a loss without evidence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.record.reader import FOREVER_NS
from sim.results.checkers import judge
from sim.results.copies import _group
from sim.results.handed_out import Absence, read_absences
from sim.results.opened_run import open_run
from sim.results.pod_histories import make_history
from tests.support.run_folders import MS, RUN_NS, SECOND, US, Event, RunFolder, causes

LOST_NS = RUN_NS + 500 * MS  # when the connection of web-1 ends
BACK_NS = RUN_NS + 900 * MS


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run", transport="streams").service("web", replicas=2)


def share_out(plan: RunFolder, events: list[Event], *, to: str) -> None:
    """Let a group hand each of these events to one pod."""
    for event in events:
        for pod in plan.pods:
            if pod != to:
                plan.drop(event, pod)


def one_that_died_with_it(plan: RunFolder, *, state: str = "aborted") -> Event:
    """Plan twenty events for web-0, one of which its peer web-1 was given and did not hear before its end; return that one."""
    events = plan.publish(20)
    given = events.pop(9)
    share_out(plan, events, to="web-0")
    plan.drop(given, "web-0").drop(given, "web-1")
    if state == "aborted":
        plan.state("web-1", LOST_NS, "aborted").state("web-1", LOST_NS + MS, "starting").state("web-1", BACK_NS, "subscribed")
    else:
        plan.state("web-1", LOST_NS, "disconnected").state("web-1", BACK_NS, "subscribed")
    return given


def write(plan: RunFolder) -> dict[str, int]:
    plan.states.sort(key=lambda row: row[1])
    return {cause: many for cause, many in causes(open_run(plan.write())).items() if cause != "taken-by-peer"}


@pytest.mark.parametrize("fault", ["broker_down", "broker_stop", "keys_lost", "pod_start_in_outage"])
def test_what_was_given_to_a_pod_that_died_and_forgotten_by_the_broker_is_lost_with_its_keys(plan: RunFolder, fault: str) -> None:
    one_that_died_with_it(plan)
    plan.faults.append((fault, "web-1", LOST_NS - MS, BACK_NS - MS))
    assert write(plan) == {"pod-down": 1, "keys-lost": 1}
    run = open_run(plan.folder)
    assert judge(run, only=["ledger"]).verdict == "valid"
    ledger = run.ledger().query("cause != 'taken-by-peer' and fate == 'missing'")
    assert dict(zip(ledger["pod"], ledger["cause"], strict=True)) == {"web-0": "keys-lost", "web-1": "pod-down"}


def test_a_lost_connection_is_as_good_as_an_end(plan: RunFolder) -> None:
    one_that_died_with_it(plan, state="disconnected")
    plan.faults.append(("broker_down", "broker", LOST_NS - MS, BACK_NS - MS))
    assert write(plan) == {"deaf": 1, "keys-lost": 1}


NOT_FORGOTTEN = {
    "nothing was forgotten": [],
    "a fault that forgets nothing": [("broker_freeze", "broker", LOST_NS - MS, BACK_NS - MS)],
    "forgotten before it was published": [("broker_down", "broker", RUN_NS - 2 * SECOND, RUN_NS - SECOND)],
    "forgotten when the pod was back, which is given it again": [("broker_down", "broker", BACK_NS + MS, BACK_NS + SECOND)],
}


@pytest.mark.parametrize("case", NOT_FORGOTTEN)
def test_a_pod_that_died_does_not_excuse_what_the_broker_still_had(plan: RunFolder, case: str) -> None:
    one_that_died_with_it(plan)
    plan.faults += NOT_FORGOTTEN[case]
    assert write(plan) == {"pod-down": 1, "unexplained": 1}
    assert judge(open_run(plan.folder), only=["ledger"]).verdict == "unknown"


def test_a_loss_that_the_dead_pod_cannot_have_had_stays_unexplained(plan: RunFolder) -> None:
    """It heard a later one before it died, on a connection that keeps its order."""
    given = one_that_died_with_it(plan)
    later = next(event for event in plan.events if event.sent_ns > given.acked_ns)
    plan.hear(later, "web-1")
    plan.faults.append(("broker_down", "broker", LOST_NS - MS, BACK_NS - MS))
    assert write(plan) == {"unexplained": 2}


def test_an_event_of_a_pod_that_never_came_back_is_its_own_until_the_end(plan: RunFolder) -> None:
    given = one_that_died_with_it(plan, state="disconnected")
    plan.states.remove(("web-1", BACK_NS, "subscribed"))
    assert write(plan) == {"deaf": 1}
    assert causes(open_run(plan.folder), given) == {"deaf": 1, "taken-by-peer": 1}


def test_a_pod_s_own_absence_is_an_excuse_for_its_peers_and_not_for_itself(plan: RunFolder) -> None:
    """web-1 was given an event two seconds before it ended for good: it had all that time to hear it, and nobody else could."""
    given = one_that_died_with_it(plan)
    plan.states = [row for row in plan.states if not (row[0] == "web-1" and row[1] >= LOST_NS)]
    plan.state("web-1", given.sent_ns + 2 * SECOND, "aborted")
    plan.states.sort(key=lambda row: row[1])
    ledger = open_run(plan.write()).ledger().query(f"event == {given.key}")
    assert dict(zip(ledger["pod"], ledger["cause"], strict=True)) == {"web-0": "taken-by-peer", "web-1": "unexplained"}


def test_what_waited_in_the_stream_for_long_is_lost_with_its_keys(plan: RunFolder) -> None:
    """Both pods stood still for seconds, and nothing of it had been given to anybody."""
    share_out(plan, plan.publish(10), to="web-0")
    waiting = plan.publish(5, start_ns=RUN_NS + SECOND)
    for event in waiting:
        plan.drop(event, "web-0").drop(event, "web-1")
    plan.faults.append(("keys_lost", "broker", RUN_NS + 5 * SECOND, RUN_NS + 6 * SECOND))
    share_out(plan, plan.publish(5, start_ns=RUN_NS + 7 * SECOND), to="web-1")
    assert write(plan) == {"keys-lost": 10}


def test_what_a_later_event_was_heard_after_did_not_wait_for_the_loss_of_the_keys(plan: RunFolder) -> None:
    events = plan.publish(10)
    plan.drop(events[4], "web-0").drop(events[4], "web-1")
    share_out(plan, events[:4] + events[5:], to="web-0")
    plan.faults.append(("keys_lost", "broker", RUN_NS + 5 * SECOND, RUN_NS + 6 * SECOND))
    assert write(plan) == {"unexplained": 2}


def trim(plan: RunFolder, *, max_len: int, heard_ns: int) -> dict[str, int]:
    """Return the causes where one event is lost, twenty come after it, and the first of those is heard at a time."""
    plan.bus["stream_max_len"] = max_len
    lost, first, *later = plan.publish(21)
    plan.drop(lost, "web-0").drop(lost, "web-1")
    share_out(plan, [first, *later], to="web-0")
    for event in (first, *later):
        plan.delay(event, "web-0", heard_ns - RUN_NS)
    return write(plan)


def test_a_stream_drops_what_nobody_had_read_when_it_was_full(plan: RunFolder) -> None:
    assert trim(plan, max_len=20, heard_ns=RUN_NS + SECOND) == {"trimmed": 2}


@pytest.mark.parametrize(("max_len", "heard_ns"), [(21, RUN_NS + SECOND), (20, RUN_NS), (100_000, RUN_NS + SECOND)])
def test_a_stream_that_was_not_full_yet_dropped_nothing(plan: RunFolder, max_len: int, heard_ns: int) -> None:
    """Or was, when a later event had been handed out."""
    assert trim(plan, max_len=max_len, heard_ns=heard_ns) == {"unexplained": 2}


def test_what_a_dead_pod_was_given_may_be_trimmed_before_it_is_back(plan: RunFolder) -> None:
    plan.bus["stream_max_len"] = 5
    one_that_died_with_it(plan)
    assert write(plan) == {"pod-down": 1, "trimmed": 1}


def test_another_channel_keeps_no_order_with_this_one(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run", transport="streams").service("web", replicas=1, channels="config.updated,config.other")
    lost = plan.publish(1)[0]
    plan.drop(lost, "web-0")
    plan.publish(3, start_ns=RUN_NS + 10 * MS, channel="config.other")
    plan.state("web-0", RUN_NS + 100 * MS, "disconnected").state("web-0", RUN_NS + 200 * MS, "subscribed")
    assert write(plan) == {"deaf": 1}
    plan.transport, plan.folder = "pubsub", plan.folder.with_name("pubsub")
    assert write(plan) == {"unexplained": 1}


def test_absences_begin_at_the_last_that_was_heard_and_end_with_the_next_subscription() -> None:
    states = ["starting", "subscribed", "subscribed", "disconnected", "aborted", "starting", "subscribed", "stopped"]
    history = make_history("web-0", service="web", channels=["a"], at_ns=range(10, 90, 10), states=states)
    heard = {"received_ns": np.array([25, 35]), "sent_ns": np.array([24, 34])}
    assert read_absences(history, **heard) == [Absence(34, 40, 70), Absence(70, 80, FOREVER_NS)]
    assert read_absences(history, received_ns=np.array([], dtype=np.int64), sent_ns=np.array([], dtype=np.int64))[0] == Absence(20, 40, 70)


def test_what_a_group_knows_is_of_its_own_service_and_channel(tmp_path: Path) -> None:
    """What was refused, kept in memory or never left was not added to the stream; what nobody knows of may have been."""
    plan = RunFolder(tmp_path / "run", transport="streams", bus={"stream_max_len": 7})
    plan.service("web", replicas=2, channels="a,b").pod("jobs-0", service="jobs", channels="a")
    sent = [plan.event(RUN_NS + n * MS, channel="a", outcome=outcome) for n, outcome in enumerate(("acknowledged", "unknown"))]
    for n, outcome in enumerate(("memory", "refused")):
        plan.event(RUN_NS + (3 + n) * MS, channel="a", outcome=outcome)
    plan.event(RUN_NS + 5 * MS, channel="a", outcome="never-sent", sent_ns=0, acked_ns=0)
    plan.event(RUN_NS + 6 * MS, channel="a", outcome="unknown", sent_ns=0, acked_ns=0)
    plan.event(RUN_NS + 7 * MS, channel="b")
    plan.hear(sent[0], "web-0")
    plan.hear(sent[0], "jobs-0", lag_ns=9 * MS)
    plan.state("web-1", RUN_NS + 8 * MS, "disconnected")
    run = open_run(plan.write())
    names = [history.pod for history in run.pod_histories]
    group = _group(run, run.index, "web", int(run.index.way[0]))
    assert group.added_sent_ns.tolist() == [event.sent_ns for event in sent]
    assert group.added_answered_ns.tolist() == [event.acked_ns for event in sent]
    assert (group.heard_received_ns.tolist(), group.heard_sent_ns.tolist()) == ([sent[0].intended_ns + 240 * US], [sent[0].sent_ns])
    assert {names[pod] for pod in group.absences} == {"web-0", "web-1"} and group.max_len == 7
    assert [[absence.lost_ns for absence in group.absences[names.index(pod)]] for pod in ("web-0", "web-1")] == [[], [RUN_NS + 8 * MS]]
