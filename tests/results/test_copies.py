"""The ledger's words on runs whose every copy is known."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.record.schema import compose_key, event_key
from sim.results.checkers import judge
from sim.results.opened_run import open_run
from tests.support.examples import examples
from tests.support.run_folders import MS, RUN_NS, SECOND, US, Event, RunFolder, causes, fates


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run").service("web", replicas=3)


def test_the_ledger_has_one_row_a_copy_and_categorical_words(plan: RunFolder) -> None:
    plan.publish(10)
    ledger = open_run(plan.write()).ledger()
    assert list(ledger) == ["event", "channel", "publisher", "phase", "pod", "service", "fate", "cause", "lag_us", "path"]
    assert len(ledger) == 30
    assert ledger["event"].dtype == np.uint64
    assert all(
        isinstance(ledger[c].dtype, pd.CategoricalDtype) for c in ("channel", "publisher", "phase", "pod", "service", "fate", "cause")
    )
    assert set(ledger["lag_us"]) == {250.0}
    assert set(ledger["phase"]) == {"run"}


def test_duplicates_do_not_hide_losses(plan: RunFolder) -> None:
    events = plan.publish(10)
    plan.drop(events[3], "web-0").repeat(events[3], "web-1").repeat(events[4], "web-0")
    run = open_run(plan.write())
    assert fates(run) == {"delivered": 29, "duplicate": 2, "missing": 1}
    row = run.ledger().query("fate == 'missing'").iloc[0]
    assert (row["event"], row["pod"], row["service"]) == (events[3].key, "web-0", "web")
    assert np.isnan(row["lag_us"])


def test_every_further_delivery_is_a_duplicate(plan: RunFolder) -> None:
    events = plan.publish(3)
    plan.repeat(events[1], "web-2", times=4)
    assert fates(open_run(plan.write())) == {"delivered": 9, "duplicate": 4}


def test_a_pod_is_expected_to_hear_only_its_channels(plan: RunFolder) -> None:
    plan.pod("analytics-0", service="analytics", channels="a.b,config.updated").pod("mute", channels="")
    plan.publish(5)
    plan.publish(7, channel="a.b", publisher="other")
    assert fates(open_run(plan.write())) == {"delivered": 5 * 4 + 7}


@pytest.mark.parametrize(
    ("outcome", "cause"), [("never-sent", "never-sent"), ("refused", "publish-refused"), ("memory", "sent-in-memory-mode")]
)
def test_what_the_publisher_knew_is_the_cause(plan: RunFolder, outcome: str, cause: str) -> None:
    times = {"sent_ns": 0, "acked_ns": 0} if outcome == "never-sent" else {}
    plan.event(RUN_NS, outcome=outcome, **times)
    run = open_run(plan.write())
    assert fates(run) == {"missing": 3}
    assert causes(run) == {cause: 3}


@pytest.mark.parametrize("outcome", ["never-sent", "refused"])
def test_hearing_what_was_not_published_is_unexpected_and_missing(plan: RunFolder, outcome: str) -> None:
    event = plan.event(RUN_NS, outcome=outcome)
    plan.hear(event, "web-1")
    assert fates(open_run(plan.write())) == {"missing": 3, "unexpected": 1}


def test_an_unknown_outcome_is_neither_lost_nor_hidden(plan: RunFolder) -> None:
    event = plan.event(RUN_NS, outcome="unknown", acked_ns=0)
    plan.hear(event, "web-0")
    run = open_run(plan.write())
    assert fates(run) == {"delivered": 1, "unknown": 2}
    assert causes(run) == {}


def test_unexpected_are_strangers_and_events_of_other_channels(plan: RunFolder) -> None:
    plan.pod("analytics-0", channels="a.b")
    events = plan.publish(4)
    plan.hear(events[0], "analytics-0")
    plan.foreign(event_key("somebody-elses-id"), "web-0").foreign(compose_key(nonce=9, publisher=0, sequence=0), "web-1")
    run = open_run(plan.write())
    assert fates(run) == {"delivered": 12, "unexpected": 3}
    assert run.ledger()["channel"].isna().sum() == 2


def test_a_pod_that_is_not_running_is_not_expected_to_hear(plan: RunFolder) -> None:
    events = plan.publish(10)
    plan.end("web-2", events[5].sent_ns)  # running up to, not at, the moment it was sent
    for event in events[5:]:
        plan.drop(event, "web-2")
    assert fates(open_run(plan.write())) == {"delivered": 25}


def test_a_copy_heard_by_a_pod_that_came_alive_before_the_answer_is_expected(plan: RunFolder) -> None:
    plan.pods["late"] = ("web", "config.updated")
    event = plan.event(RUN_NS, acked_ns=RUN_NS + 5 * MS)
    plan.state("late", RUN_NS + MS, "starting").state("late", RUN_NS + 2 * MS, "subscribed")
    for pod in plan.pods:
        plan.hear(event, pod, lag_ns=6 * MS)
    run = open_run(plan.write())
    assert fates(run) == {"delivered": 4}
    assert judge(run, only=["ledger"]).verdict == "valid"


@pytest.mark.parametrize(("outcome", "fate"), [("unknown", "delivered"), ("acknowledged", "unexpected")])
def test_what_a_link_held_back_may_be_heard_by_who_came_later(plan: RunFolder, outcome: str, fate: str) -> None:
    """An event without an answer may reach the broker at any time; one that was answered was with all who hear it by then."""
    plan.pods["late"] = ("web", "config.updated")
    event = plan.event(RUN_NS, outcome=outcome, acked_ns=0 if outcome == "unknown" else RUN_NS + MS)
    plan.state("late", RUN_NS + 100 * MS, "starting").state("late", RUN_NS + 102 * MS, "subscribed")
    for pod in plan.pods:
        plan.hear(event, pod, lag_ns=700 * MS)
    found = fates(open_run(plan.write()))
    assert (found[fate], found["delivered"]) == ((4, 4) if fate == "delivered" else (1, 3))


@pytest.mark.parametrize(
    ("nodes", "transport", "fate"), [(6, "pubsub", "delivered"), (6, "sharded", "unexpected"), (1, "pubsub", "unexpected")]
)
def test_a_node_may_be_told_of_an_event_after_its_publisher_had_another_s_answer(
    plan: RunFolder, nodes: int, transport: str, fate: str
) -> None:
    """A pod that subscribes in between hears it there. A shard has one node, and its answer comes when all who hear have it."""
    plan.info.nodes, plan.transport = nodes, transport
    plan.pods["late"] = ("web", "config.updated")
    event = plan.event(RUN_NS, acked_ns=RUN_NS + MS)
    plan.state("late", RUN_NS + 2 * MS, "starting").state("late", RUN_NS + 20 * MS, "subscribed")
    for pod in plan.pods:
        plan.hear(event, pod, lag_ns=40 * MS)
    found = fates(open_run(plan.write()))
    assert (found[fate], found["delivered"]) == ((4, 4) if fate == "delivered" else (1, 3))


def test_a_pod_is_deaf_from_the_last_it_heard_to_its_next_subscription(plan: RunFolder) -> None:
    events = plan.publish(100)
    plan.state("web-1", events[50].sent_ns + 100 * US, "disconnected").state("web-1", events[70].sent_ns - 10 * US, "subscribed")
    for event in events[48:70]:  # the connection died before the pod knew
        plan.drop(event, "web-1")
    run = open_run(plan.write())
    assert causes(run) == {"deaf": 22}


def test_the_loss_of_the_other_connection_is_no_new_subscription(plan: RunFolder) -> None:
    """A pod that slept through an outage first notices that it cannot publish, and says once more that it is subscribed."""
    events = plan.publish(100)
    plan.state("web-1", events[60].sent_ns, "subscribed")
    plan.state("web-1", events[65].sent_ns, "disconnected").state("web-1", events[70].sent_ns - 10 * US, "subscribed")
    for event in events[48:70]:
        plan.drop(event, "web-1")
    assert causes(open_run(plan.write())) == {"deaf": 22}


def test_what_came_while_a_pod_stood_still_died_with_it(plan: RunFolder) -> None:
    events = plan.publish(3000)
    plan.state("web-1", events[100].sent_ns + 500 * US, "frozen").end("web-1", events[2900].sent_ns + 500 * US)
    for event in events[101:]:
        plan.drop(event, "web-1")
    run = open_run(plan.write())
    assert causes(run) == {"pod-down": 2800}, "also what was sent long before its end; afterwards nothing is expected"


def test_a_pod_that_stood_still_and_went_on_explains_no_loss(plan: RunFolder) -> None:
    events = plan.publish(100)
    plan.state("web-1", events[10].sent_ns, "frozen").state("web-1", events[40].sent_ns, "subscribed")
    plan.drop(events[20], "web-1")
    assert causes(open_run(plan.write())) == {"unexplained": 1}


def test_a_loss_before_the_last_event_heard_is_not_excused_by_deafness(plan: RunFolder) -> None:
    events = plan.publish(100)
    plan.state("web-1", events[50].sent_ns + 500 * US, "disconnected").state("web-1", events[50].sent_ns + 600 * US, "subscribed")
    plan.drop(events[40], "web-1").drop(events[60], "web-1")
    assert causes(open_run(plan.write())) == {"unexplained": 2}


def test_a_pod_that_starts_in_the_run_is_deaf_until_it_subscribed(plan: RunFolder) -> None:
    events = plan.publish(10)
    plan.pods["new"] = ("web", "config.updated")
    plan.state("new", events[3].sent_ns - 1, "starting").state("new", events[6].sent_ns - 1, "subscribed")
    for event in events[6:]:
        plan.hear(event, "new")
    run = open_run(plan.write())
    assert fates(run) == {"delivered": 34, "missing": 3}
    assert causes(run) == {"deaf": 3}


def test_a_buffer_cut_takes_precedence_over_deaf(plan: RunFolder) -> None:
    events = plan.publish(10)
    plan.state("web-0", events[4].sent_ns, "disconnected").state("web-0", events[6].sent_ns, "subscribed")
    plan.state("web-1", events[4].sent_ns, "disconnected").state("web-1", events[6].sent_ns, "subscribed")
    plan.drop(events[5], "web-0").drop(events[5], "web-1")
    plan.broker.append((events[4].sent_ns + MS, "buffer_cuts", "web-0", 1.0))
    assert causes(open_run(plan.write())) == {"cut": 1, "deaf": 1}


def test_a_pod_that_died_before_it_could_hear_explains_the_loss(plan: RunFolder) -> None:
    events = plan.publish(10)
    plan.end("web-2", events[9].sent_ns + 100 * US)
    plan.drop(events[8], "web-2").drop(events[9], "web-2")
    assert causes(open_run(plan.write())) == {"pod-down": 2}


def test_a_death_does_not_excuse_what_was_lost_before_a_later_event_was_heard(plan: RunFolder) -> None:
    events = plan.publish(10)
    plan.end("web-2", events[9].sent_ns + 500 * US)
    plan.drop(events[8], "web-2")
    assert causes(open_run(plan.write())) == {"unexplained": 1}


def test_a_death_long_after_does_not_excuse_a_loss_unless_a_fault_held_the_pod(plan: RunFolder) -> None:
    events = plan.publish(10)
    plan.end("web-2", events[9].sent_ns + 5 * SECOND)
    plan.drop(events[9], "web-2")
    assert causes(open_run(plan.write())) == {"unexplained": 1}
    plan.folder = plan.folder.with_name("frozen")
    plan.faults.append(("freeze", "web-2", events[9].sent_ns - 10 * US, events[9].sent_ns + 5 * SECOND))
    assert causes(open_run(plan.write())) == {"pod-down": 1}


def test_how_all_pods_end_excuses_nothing(plan: RunFolder) -> None:
    event = plan.publish(1, start_ns=20 * SECOND - MS)[0]
    plan.end("web-2", 20 * SECOND + MS, "stopped").drop(event, "web-2")
    assert causes(open_run(plan.write())) == {"unexplained": 1}


def test_an_event_that_stands_twice_counts_once_with_its_best_outcome(plan: RunFolder) -> None:
    event = plan.publish(1)[0]
    plan.events.insert(0, Event(event.key, event.channel, event.publisher, RUN_NS, RUN_NS, RUN_NS, outcome="refused"))
    run = open_run(plan.write())
    assert fates(run) == {"delivered": 3}
    assert "stands more than once" in " ".join(judge(run).checkers["ledger"].warnings)


def test_a_phase_is_the_one_of_the_intended_time_and_nothing_falls_out(plan: RunFolder) -> None:
    for at in (0, 9 * SECOND, RUN_NS - 1, RUN_NS, 20 * SECOND, 40 * SECOND):
        plan.event(at, sent_ns=RUN_NS + SECOND)
    run = open_run(plan.write())
    assert list(run.publishes["phase"]) == ["provision", "warm-up", "warm-up", "run", "drain", "drain"]
    assert run.phase("run") == (RUN_NS, 2 * RUN_NS)
    assert run.phase("heal") is None


PLANTS = st.lists(st.tuples(st.sampled_from(["drop", "repeat", "foreign"]), st.integers(0, 19), st.integers(0, 2)), max_size=25)


@settings(max_examples=examples(30), deadline=None)
@given(plants=PLANTS)
def test_the_ledger_equals_what_was_planted(plants: list[tuple[str, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plan = RunFolder(Path(folder) / "run").service("web", replicas=3)
        events = plan.publish(20)
        dropped, repeated, strangers = set(), 0, 0
        for kind, number, pod in plants:
            copy = (number, f"web-{pod}")
            if kind == "foreign":
                plan.foreign((1 << 63) + number, copy[1])
                strangers += 1
            elif kind == "drop" and copy not in dropped:
                plan.heard = [row for row in plan.heard if (row.key, row.pod) != (events[number].key, copy[1])]
                dropped.add(copy)
        for kind, number, pod in plants:
            if kind == "repeat" and (number, f"web-{pod}") not in dropped:
                plan.repeat(events[number], f"web-{pod}")
                repeated += 1
        run = open_run(plan.write())
        found = {"delivered": 60 - len(dropped), "duplicate": repeated, "missing": len(dropped), "unexpected": strangers}
        assert fates(run) == {fate: count for fate, count in found.items() if count}
        counts = judge(run).checkers["ledger"].counts
        assert {fate: counts[fate] for fate in found} == found
        assert "books" not in judge(run).checkers["ledger"].detail


def test_a_run_that_never_came_to_its_drain_is_accounted_for_like_another(plan: RunFolder) -> None:
    """A pod that ends explains what it did not hear, as there was no drain in which all pods end."""
    events = plan.publish(10)
    plan.info.phases = [phase for phase in plan.info.phases if phase.name != "drain"]
    plan.drop(events[9], "web-0").end("web-0", events[9].sent_ns + MS)
    assert causes(open_run(plan.write())) == {"pod-down": 1}


def test_what_a_pod_hears_of_itself_does_not_prove_that_its_connection_lived(plan: RunFolder) -> None:
    events = plan.publish(20)
    for event in events[10:]:
        plan.drop(event, "web-1")
    own = plan.event(events[18].sent_ns, publisher="web-1", sent_ns=events[18].sent_ns, acked_ns=events[18].sent_ns, outcome="memory")
    plan.hear(own, "web-1", path="memory")
    plan.state("web-1", events[19].sent_ns + MS, "disconnected").state("web-1", events[19].sent_ns + 2 * MS, "subscribed")
    assert causes(open_run(plan.write())) == {"deaf": 10, "sent-in-memory-mode": 2}


@pytest.mark.parametrize(("cuts", "cause"), [(0.0, "deaf"), (1.0, "cut"), (2.0, "cut")])
def test_a_sample_that_counts_no_cut_is_none(plan: RunFolder, cuts: float, cause: str) -> None:
    events = plan.publish(10)
    plan.state("web-0", events[4].sent_ns, "disconnected").state("web-0", events[6].sent_ns, "subscribed")
    plan.drop(events[5], "web-0")
    plan.broker.append((events[5].sent_ns, "buffer_cuts", "web-0", cuts))
    assert causes(open_run(plan.write())) == {cause: 1}
