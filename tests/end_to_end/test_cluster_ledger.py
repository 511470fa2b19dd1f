"""Why copies are missing on a cluster: what came another way proves nothing, and a cluster that is not whole is a cause."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from sim.results.checkers.ledger import check
from sim.results.opened_run import Run, open_run
from tests.support.run_folders import MS, RUN_NS, SECOND, RunFolder


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    """Two publishers on two channels, heard by two pods; web-0 loses its connections at 12 s for a second."""
    plan = RunFolder(tmp_path / "run").service("web", replicas=2, channels="config.updated,template.updated")
    plan.info.nodes = 6
    plan.state("web-0", 12 * SECOND, "disconnected").state("web-0", 13 * SECOND, "subscribed")
    return plan


def missing(run: Run) -> Counter[tuple[str, str]]:
    ledger = run.ledger()
    rows = ledger[ledger["fate"] == "missing"]
    return Counter(zip(rows["channel"], rows["cause"], strict=True))


def lose_one_before_the_connection_went(plan: RunFolder, *, with_newer_of: dict[str, str]) -> None:
    """web-0 misses an event of 11.99 s, and hears a newer one at 11.995 s that shares some of its way."""
    lost = {"channel": "config.updated", "publisher": "locust-0"}
    plan.publish(5, start_ns=RUN_NS, **lost)
    (event,) = plan.publish(1, start_ns=12 * SECOND - 10 * MS, **lost)
    plan.drop(event, "web-0")
    plan.publish(1, start_ns=12 * SECOND - 5 * MS, **(lost | with_newer_of))


@pytest.mark.parametrize(
    ("transport", "newer", "cause"),
    [
        ("sharded", {"channel": "template.updated"}, "deaf"),  # another master's connection proves nothing
        ("sharded", {"publisher": "locust-1"}, "unexplained"),  # the same master's does
        ("pubsub", {"publisher": "locust-1"}, "deaf"),  # it may have come through another node
        ("pubsub", {"channel": "template.updated"}, "unexplained"),  # the same publisher's came the same way
    ],
)
def test_only_what_came_the_same_way_proves_that_a_pod_still_heard(
    plan: RunFolder, transport: str, newer: dict[str, str], cause: str
) -> None:
    plan.transport = transport
    lose_one_before_the_connection_went(plan, with_newer_of=newer)
    assert missing(open_run(plan.write())) == {("config.updated", cause): 1}


@pytest.mark.parametrize("newer", [{"channel": "template.updated"}, {"publisher": "locust-1"}])
def test_one_node_has_one_way(plan: RunFolder, newer: dict[str, str]) -> None:
    plan.info.nodes = 1
    lose_one_before_the_connection_went(plan, with_newer_of=newer)
    assert missing(open_run(plan.write())) == {("config.updated", "unexplained"): 1}


@pytest.mark.parametrize(("nodes", "cause"), [(6, "not-whole"), (1, "unexplained")])
def test_what_a_hurt_cluster_did_not_pass_on_has_a_cause(plan: RunFolder, nodes: int, cause: str) -> None:
    plan.info.nodes = nodes
    events = plan.publish(3, start_ns=15 * SECOND, step_ns=SECOND)
    plan.faults.append(("broker_down", "broker", 15 * SECOND - MS, 15 * SECOND + MS))
    for event in events[:2]:
        plan.drop(event, "web-1")
    run = open_run(plan.write())
    assert missing(run) == Counter([("config.updated", cause), ("config.updated", "unexplained")])
    assert f", {cause}: " in run.story(events[0].id)


@pytest.mark.parametrize(("nodes", "transport", "fewer"), [(6, "pubsub", 0), (6, "sharded", 1), (1, "pubsub", 1)])
def test_that_publish_said_fewer_is_a_finding_only_where_it_counts_all(plan: RunFolder, nodes: int, transport: str, fewer: int) -> None:
    plan.info.nodes, plan.transport = nodes, transport
    events = plan.publish(10)
    events[0].receivers = 1
    result = check(open_run(plan.write()))
    assert result.counts["publish_said_fewer"] == fewer
    assert bool(result.warnings) is bool(fewer)
