"""What one server and a cluster carry: a cluster as a range, and an answer only where each node has a core."""

from __future__ import annotations

import contextlib
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sim.errors import BuslabError, MachineBusyError
from sim.grounds.cluster import cluster
from sim.measure.capacity import cluster_limits
from sim.measure.capacity.children import EventKind
from sim.measure.capacity.cluster_limits import CHANNEL, CLUSTER, MOST_WITHHELD, NAME, ONE, TRIES, Limits, compare_limits
from sim.measure.capacity.saturate import Range, Shot, payload_of


@pytest.mark.broker
def test_a_range_on_a_cluster_counts_the_hearers_of_all_its_nodes(tmp_path: Path) -> None:
    def kind(receivers: int) -> EventKind:
        return EventKind(CHANNEL, payload_of("config.cache.invalidate", payload_bytes=64, items=1), 1.0, receivers)

    with cluster("3", replicas=False) as broker:
        assert len(broker.pids) == len(broker.address.nodes) == 3
        range_ = Range(broker, tmp_path)
        before = range_._out_bytes()
        full = range_.full([kind(4)], [[CHANNEL]] * 4, connections=6, seconds=0.3, warm_up_s=0.1)
        assert full.events > 0 and full.broker_cpu_s > 0
        assert full.out_bytes > 0  # of the window: on a busy machine a node passes on what it has answered a while later
        assert range_._out_bytes() - before > full.events * 4 * 200, "every hearer was sent each, whichever node it was published at"
        assert full.waiting.startswith("the node 127.0.0.1:") and not math.isnan(full.broker_withheld)
        at = range_.at_rate([kind(4)], [[CHANNEL]] * 4, connections=6, seconds=0.5, warm_up_s=0.1, rate_per_s=500, seed=1)
        assert at.rate["heard"] == 3 * at.rate["meant"] > 0, "three watch, at three nodes, and miss none of any node"
        with pytest.raises(BuslabError, match="should be heard by 5 subscribers, and is by 4"):
            range_.full([kind(5)], [[CHANNEL]] * 4, connections=6, seconds=0.2, warm_up_s=0.05)
        range_.close()


@pytest.mark.broker
@pytest.mark.deep
def test_three_nodes_on_two_cores_get_a_share_each_which_they_use_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    affinity = sorted(os.sched_getaffinity(0))[:2]
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(affinity))
    monkeypatch.setattr(cluster_limits, "ROUNDS", 1)
    result = compare_limits(tmp_path, masters=3).checkers[NAME]
    if result.verdict == "unknown":
        assert "took_s" in result.counts and "one.1.core" not in result.counts, "no number that could be taken for an answer"
        pytest.skip(f"unknown: {result.detail}")
    counts = result.counts
    assert counts["share"] == 0.25 and result.detail.endswith("; each server had 25% of a core")
    assert all(0.5 < counts[f"{who}.{hearers}.core"] < 1.5 for who in (ONE, CLUSTER) for hearers in (1, 20)), counts
    assert counts["cluster.20.most_per_s"] > counts["one.20.least_per_s"], "three times a quarter is more than one"


@pytest.mark.broker
def test_three_nodes_on_two_cores_without_shares_are_unknown_and_who_waited_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(pids: list[int], share: float) -> None:
        assert len(pids) == 4 and share == 0.25
        raise PermissionError(13, "Permission denied", "a cgroup")

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(cluster_limits, "core_shares", refused)
    result = compare_limits(tmp_path, masters=3).checkers[NAME]
    assert result.verdict == "unknown" and set(result.counts) == {"took_s"}, "no number that could be taken for an answer"
    assert result.detail.startswith(
        "3 nodes and who publishes and drains need 4 cores, and this process may use 2 (shares of a core cannot be given here: "
        "[Errno 13] Permission denied: 'a cgroup'): "
    )
    assert " waited for a core in " in result.detail and result.detail.endswith(
        "; measure it on a machine with 4 cores or more, or as root"
    )


def test_one_core_is_too_little_for_any_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    with contextlib.ExitStack() as stack:
        assert cluster_limits._shared_out(stack, [1], 3) == (1.0, "one core is too little for servers and who publishes")


def shot(withheld: float) -> Shot:
    return Shot(1000, 1.0, 0.5, 0.1, 0.1, 0.0, 0.0, {}, 0, withheld, 0.0, "the node 127.0.0.1:7001")


def planted(*withheld: float, **more: Any) -> Limits:
    """Return limits whose windows had a core withheld for so much of them, one after another."""
    shots = iter(shot(one) for one in withheld)
    one = SimpleNamespace(share=1.0, urls=["redis://nowhere"], broker=SimpleNamespace(pids={}), full=lambda *_, **__: next(shots))
    return Limits({ONE: one, CLUSTER: one}, lambda line: None, **more)  # type: ignore[dict-item]


def test_a_node_that_waits_each_time_ends_it_and_one_that_waited_once_does_not() -> None:
    more = 2 * MOST_WITHHELD
    limits = planted(more, 0.0)
    assert limits._with_a_core(lambda: limits.full(CLUSTER, 1)).broker_withheld == 0.0
    limits = planted(*[more] * TRIES)
    with pytest.raises(MachineBusyError, match=r"^the node 127.0.0.1:7001 waited for a core in 20% of the time, .*stop .*try again$"):
        limits._with_a_core(lambda: limits.full(CLUSTER, 1))
    limits = planted(began=time.monotonic() - cluster_limits.BUDGET_S - 1)
    with pytest.raises(MachineBusyError, match="should take less than a minute has taken longer"):
        limits._with_a_core(lambda: limits.full(CLUSTER, 1))


def test_what_a_server_used_is_counted_of_what_it_may_use() -> None:
    seen = {"lag_ms_p99": 3.0, "cut": 0, "heard": 5}
    more = {"share": 0.5, "at_rate": lambda *_, **__: replace(shot(0.0), rate=seen)}
    limits = planted(*[0.0] * 12)
    for one in limits.ranges.values():
        vars(one).update(more)
    limits.measure()
    assert {name.rpartition(".")[2]: value for name, value in limits.counts.items() if name.startswith("cluster.20.")} == {
        "least_per_s": 1000,
        "most_per_s": 1000,
        "core": 1.0,
        "at_per_s": 1000 * cluster_limits.SHARE * cluster_limits.MORE,
        "lag_ms_p99": 3.0,
    }
