"""Backlogs after an outage, planted: who had one, how long it took to drain, and the arithmetic that is told beside it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from sim.results.backlogs import Backlog, read_backlogs
from sim.results.checkers.batching import MOST_PUBLISHERS, check
from sim.results.checkers.verdict import Bounds
from sim.results.opened_run import open_run
from tests.support.run_folders import MS, SECOND, RunFolder

ITEMS = "shop.items"


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    """Two pods that batch, in a run from 10 to 20 s in which the broker is away from 12 to 15 s."""
    plan = RunFolder(tmp_path / "run", bus={"outage_hold_s": 0.5}, scenario=f'[channels."{ITEMS}"]\nbatched = true\n')
    plan.pod("web-0", channels="other").pod("web-1", channels="other").pod("bill-0", service="bill", channels=ITEMS)
    plan.faults.append(("broker_down", "broker", 12 * SECOND, 15 * SECOND))
    return plan


def batch(
    plan: RunFolder, meant_s: float, left_s: float | None, *, publisher: str = "web-0", items: int = 10, waited_s: float = 0.4
) -> None:
    """Publish a batch that was meant to leave at a time, and left at another, or never."""
    meant = round(meant_s * SECOND)
    never = {"outcome": "never-sent", "sent_ns": 0, "acked_ns": 0}
    left = never if left_s is None else {"sent_ns": round(left_s * SECOND) - 100_000, "acked_ns": round(left_s * SECOND)}
    plan.event(meant, channel=ITEMS, publisher=publisher, items=items, first_item_ns=meant - round(waited_s * SECOND), **left)


def keeping(plan: RunFolder, *, publisher: str = "web-0", until_s: float = 16.0) -> None:
    """A batch of ten items each half second, kept from 12 s until a time; each takes a millisecond to leave otherwise."""
    for n in range(20):
        meant = 10.25 + n / 2
        batch(plan, meant, until_s if 12 < meant < until_s else meant + 0.001, publisher=publisher)


def backlogs_of(plan: RunFolder) -> list[Backlog]:
    run = open_run(plan.write())
    return read_backlogs(run, np.flatnonzero(run.publishes["channel"] == ITEMS))


def test_a_backlog_is_what_stood_at_the_outages_end_and_drains_until_nothing_stands(plan: RunFolder) -> None:
    keeping(plan)
    plan.state("web-0", 12 * SECOND + 5, "disconnected", "outage").state("web-0", 15 * SECOND + 300 * MS, "subscribed", "connected")
    (found,) = backlogs_of(plan)
    assert (found.publisher, found.fault, found.batches, found.items, found.came) == ("web-0", "broker_down", 6, 60, 2)
    assert found.drain_s == pytest.approx(1.0) and found.outage_s == 3.0 and found.connected_s == pytest.approx(0.3)
    assert found.oldest_s == pytest.approx(15 - (12.25 - 0.4))
    assert found.items_per_s == pytest.approx(40 / 3), "four batches in the warm-up's second and two of the run"
    result = check(open_run(plan.folder))
    assert result.metrics["backlog_drain_s_max"] == pytest.approx(1.0)
    assert {name: value for name, value in result.counts.items() if name.startswith("backlog")} == {
        "backlog.publishers": 1, "backlog.batches": 6, "backlog.items": 60, "backlog.undrained": 0,
        "backlog_drain_s.web-0": pytest.approx(1.0),
    }  # fmt: skip
    told = "when broker_down ended, 6 batches of web-0 with 60 items stood (13.3 items/s before it make 40 in 3 s), the oldest 3.15 s old, "
    told += "and 1 s later what left was as young as usual: "
    assert result.detail.endswith(
        told + "300 ms until it was connected again + 500 ms of bus.outage_hold_s + 200 ms for 8 batches on the way"
    )


def test_the_worst_of_several_publishers_is_the_metric_and_each_is_counted(plan: RunFolder) -> None:
    keeping(plan)
    keeping(plan, publisher="web-1", until_s=15.6)
    assert {one.publisher: round(one.drain_s, 6) for one in backlogs_of(plan)} == {"web-0": 1.0, "web-1": 0.6}
    result = check(open_run(plan.folder))
    assert result.metrics["backlog_drain_s_max"] == pytest.approx(1.0) and result.counts["backlog.publishers"] == 2
    assert [name for name in result.counts if name.startswith("backlog_drain_s.")] == ["backlog_drain_s.web-0", "backlog_drain_s.web-1"]


def test_without_an_outage_or_with_nothing_kept_there_is_nothing_to_measure(plan: RunFolder) -> None:
    for n in range(20):
        if not 12 < 10.25 + n / 2 < 15:
            batch(plan, 10.25 + n / 2, 10.251 + n / 2)
    assert backlogs_of(plan) == []
    result = check(open_run(plan.folder))
    assert math.isnan(result.metrics["backlog_drain_s_max"]) and "stood" not in result.detail  # type: ignore[arg-type]
    plan.faults.clear()
    keeping(plan, publisher="web-1")
    assert backlogs_of(plan) == []


def test_a_batch_that_stands_no_longer_than_usual_is_no_backlog(plan: RunFolder) -> None:
    batch(plan, 10.5, 10.9)  # it took 400 ms before the outage, too
    batch(plan, 14.8, 15.2)
    assert backlogs_of(plan) == []
    batch(plan, 14.7, 15.2)
    (found,) = backlogs_of(plan)
    assert found.batches == 1 and found.drain_s == pytest.approx(0.2)


def test_a_batch_that_never_left_is_a_drain_without_an_end(plan: RunFolder) -> None:
    keeping(plan)
    batch(plan, 14.0, None)
    (found,) = backlogs_of(plan)
    assert (found.batches, found.drain_s, found.watched_s) == (7, math.inf, 5.0)
    result = check(open_run(plan.folder))
    assert result.metrics["backlog_drain_s_max"] == Bounds(5.0, math.inf, "how long what had not ended yet would have gone on")
    assert result.counts["backlog.undrained"] == 1 and "and some had not left 5 s later" in result.detail


def test_a_publisher_that_died_in_the_outage_has_no_backlog(plan: RunFolder) -> None:
    plan.end("web-0", 14 * SECOND)
    batch(plan, 10.5, 10.501)
    batch(plan, 13.0, None)
    assert backlogs_of(plan) == []


def test_many_publishers_are_counted_whole_and_the_longest_are_named(plan: RunFolder) -> None:
    for number in range(MOST_PUBLISHERS + 20):
        batch(plan, 13.0, 15.1 + number / 1000, publisher=f"other-{number}")
    counts = check(open_run(plan.write())).counts
    named = [name for name in counts if name.startswith("backlog_drain_s.")]
    assert counts["backlog.publishers"] == MOST_PUBLISHERS + 20 and len(named) == MOST_PUBLISHERS
    assert named[0] == "backlog_drain_s.other-119" and "backlog_drain_s.other-19" not in counts
