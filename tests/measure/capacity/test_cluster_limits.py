"""What one server and a cluster carry: a cluster as a range, and an answer only where each node has a core."""

from __future__ import annotations

import math
import os
import time
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
        full = range_.full([kind(4)], [[CHANNEL]] * 4, connections=6, seconds=0.3, warm_up_s=0.1)
        assert full.events > 0 and full.broker_cpu_s > 0
        assert full.out_bytes > full.events * 4 * 200  # every hearer was sent each, whichever node it was published at
        assert full.waiting.startswith("the node 127.0.0.1:") and not math.isnan(full.broker_withheld)
        at = range_.at_rate([kind(4)], [[CHANNEL]] * 4, connections=6, seconds=0.5, warm_up_s=0.1, rate_per_s=500, seed=1)
        assert at.rate["heard"] == 3 * at.rate["meant"] > 0, "three watch, at three nodes, and miss none of any node"
        with pytest.raises(BuslabError, match="should be heard by 5 subscribers, and is by 4"):
            range_.full([kind(5)], [[CHANNEL]] * 4, connections=6, seconds=0.2, warm_up_s=0.05)
        range_.close()


@pytest.mark.broker
def test_three_nodes_on_two_cores_are_unknown_and_who_waited_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    result = compare_limits(tmp_path, masters=3).checkers[NAME]
    assert result.verdict == "unknown" and set(result.counts) == {"took_s"}, "no number that could be taken for an answer"
    assert result.detail.startswith("3 nodes and who publishes and drains need 4 cores, and this process may use 2: ")
    assert " waited for a core in " in result.detail and result.detail.endswith("; measure it on a machine with 4 cores or more")


def shot(withheld: float) -> Shot:
    return Shot(1000, 1.0, 0.5, 0.1, 0.1, 0.0, 0.0, {}, 0, withheld, 0.0, "the node 127.0.0.1:7001")


def planted(*withheld: float, **more: Any) -> Limits:
    """Return limits whose windows had a core withheld for so much of them, one after another."""
    shots = iter(shot(one) for one in withheld)
    one = SimpleNamespace(urls=["redis://nowhere"], broker=SimpleNamespace(pids={}), full=lambda *_, **__: next(shots))
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
