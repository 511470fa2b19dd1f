"""Deliveries of events without an id: each has the key of its publish, and equal payloads are told apart by their times."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.record.schema import FOREIGN_BIT
from sim.results.checkers import judge
from sim.results.identities import _matched
from sim.results.opened_run import open_run
from tests.support.run_folders import MS, RUN_NS, Event, RunFolder, fates

SAME, ALONE = FOREIGN_BIT | 7, FOREIGN_BIT | 8


def hidden(plan: RunFolder, events: list[Event], hashes: list[int]) -> None:
    """Let the pods have heard the events by hashes."""
    known = dict(zip((event.key for event in events), hashes, strict=True))
    plan.identities = list(known.items())
    for row in plan.heard:
        row.key = known[row.key]


def test_equal_payloads_that_all_arrived_are_each_its_own(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("web", replicas=2)
    events = plan.publish(5)
    wanted = [(event.key, pod) for event in events for pod in ("web-0", "web-1")]
    hidden(plan, events, [SAME, ALONE, SAME, SAME, SAME])
    run = open_run(plan.write())
    assert [tuple(row) for row in run.deliveries[["event", "pod"]].itertuples(index=False)] == wanted
    assert (fates(run)["delivered"], fates(run).get("missing", 0), fates(run).get("duplicate", 0)) == (10, 0, 0)


def test_of_equal_payloads_as_many_are_missing_as_were_lost(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("web", replicas=2)
    events = plan.publish(4)
    plan.drop(events[1], "web-0")
    hidden(plan, events, [SAME] * 4)
    ledger = open_run(plan.write()).ledger()
    missing = ledger[ledger["fate"] == "missing"]
    assert missing[["event", "pod"]].to_numpy().tolist() == [[events[1].key, "web-0"]], "told by the times, as they lie far apart"


def test_what_stayed_in_a_pod_is_of_its_own_publishes(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("web", replicas=2)
    left = plan.event(RUN_NS, publisher="web-0")
    stayed = plan.event(RUN_NS + MS, publisher="web-0", outcome="memory")
    plan.hear(left, "web-0"), plan.hear(left, "web-1"), plan.hear(stayed, "web-0", path="memory")
    hidden(plan, [left, stayed], [SAME, SAME])
    run = open_run(plan.write())
    assert run.deliveries["event"].tolist() == [left.key, left.key, stayed.key]


def test_what_nobody_published_keeps_its_hash(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("web", replicas=1)
    events = plan.publish(1)
    hidden(plan, events, [ALONE])
    plan.foreign(SAME, "web-0")
    assert fates(open_run(plan.write()))["unexpected"] == 1


@pytest.mark.parametrize(
    ("sent", "received", "found"),
    [
        ([1, 5, 9], [2, 6, 10], [0, 1, 2]),
        ([1, 5, 9], [2, 10], [0, 2]),
        ([1, 5, 9], [12], [2]),
        ([1, 2, 3], [10, 11, 12], [0, 1, 2]),
        ([1, 2, 3], [10, 11], [1, 2]),
        ([5], [9, 10], [0, 0]),
    ],
)
def test_the_last_that_was_heard_is_the_last_that_was_sent(sent: list[int], received: list[int], found: list[int]) -> None:
    assert _matched(np.array(sent), np.array(received)) == found


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30, unique=True), st.integers(0, 1000))
def test_nothing_lost_is_nothing_lost(times: list[int], lag: int) -> None:
    sent = np.array(sorted(times))
    assert _matched(sent, sent + lag) == list(range(len(sent)))


def test_the_order_of_equal_payloads_is_not_judged(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("web", replicas=1)
    events = plan.publish(6)
    plan.swap(events[0], events[1], "web-0").swap(events[3], events[4], "web-0")
    hidden(plan, events, [SAME, SAME, ALONE, ALONE + 1, ALONE + 2, ALONE + 3])
    order = judge(open_run(plan.write()), only=["order"]).checkers["order"]
    assert (order.verdict, order.counts["deliveries"], order.counts["out_of_order"]) == ("invalid", 4, 1)
    alike = RunFolder(tmp_path / "alike").service("web", replicas=1)
    hidden(alike, alike.publish(3), [SAME] * 3)
    order = judge(open_run(alike.write()), only=["order"]).checkers["order"]
    assert order.verdict == "valid" and "their order cannot be told" in order.detail and order.metrics["out_of_order"] != 0


@pytest.mark.parametrize("transport", ["pubsub", "streams"])
def test_whatever_the_order_of_the_rows_each_delivery_is_of_its_publish(tmp_path: Path, transport: str) -> None:
    """Nothing is lost. On streams two pods of a service share its events, so they hear together."""
    draw = random.Random(15)
    plan = RunFolder(tmp_path / "run", transport=transport).service("web", replicas=2).pod("jobs-0", service="jobs")
    events = [plan.event(RUN_NS + at * MS) for at in sorted(draw.sample(range(1000), 60))]
    for event in events:
        for pod in ("jobs-0", draw.choice(("web-0", "web-1"))) if transport == "streams" else plan.pods:
            plan.hear(event, pod, lag_ns=300 * MS)
    draw.shuffle(plan.heard)
    wanted = [row.key for row in plan.heard]
    draw.shuffle(events)
    hidden(plan, events, [draw.choice((SAME, ALONE, ALONE + 1, ALONE + 2 + number)) for number in range(60)])
    run = open_run(plan.write())
    assert run.deliveries["event"].tolist() == wanted
    alike = {event for event, hashed in plan.identities if [one for _, one in plan.identities].count(hashed) > 1}
    assert run.publishes["event"][run.alike].tolist() == [event.key for event in plan.events if event.key in alike]


def test_what_never_left_was_not_heard_whoever_else_sent_the_same(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("web", replicas=1)
    never, left = plan.event(RUN_NS, outcome="never-sent", sent_ns=0, acked_ns=0), plan.event(RUN_NS + MS)
    for lag in (2, 3):
        plan.hear(left, "web-0", lag_ns=lag * MS)
    hidden(plan, [never, left], [SAME, SAME])
    plan.foreign(ALONE, "web-0", at_ns=RUN_NS + 9 * MS)
    plan.identities.append((plan.event(RUN_NS + 5 * MS, outcome="never-sent", sent_ns=0, acked_ns=0).key, ALONE))
    assert open_run(plan.write()).deliveries["event"].tolist() == [left.key, left.key, ALONE]
