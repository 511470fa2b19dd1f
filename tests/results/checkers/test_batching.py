"""The checker `batching` on batches whose waits, ages and losses are planted, and against a plain loop."""

from __future__ import annotations

import math
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.bus.envelope import BATCH
from sim.results.checkers.batching import check
from sim.results.checkers.verdict import Bounds
from sim.results.opened_run import open_run
from tests.support.examples import examples
from tests.support.run_folders import MS, SECOND, Event, RunFolder


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run").pod("analytics-0", service="analytics", channels=BATCH).pod("web-0", channels="config.updated")


def batch(plan: RunFolder, at_ns: int, *, items: int, waited_ns: int, heard: bool = True, **columns: object) -> Event:
    """Publish a batch whose items all came at the same time, `waited_ns` before it left."""
    event = plan.event(at_ns, channel=BATCH, items=items, first_item_ns=at_ns - waited_ns, **columns)
    if heard:
        plan.hear(event, "analytics-0")
    return event


def test_waits_ages_rates_and_bytes_are_as_planted(plan: RunFolder) -> None:
    for n in range(10):
        batch(plan, (11 + n) * SECOND - 500 * MS, items=4, waited_ns=(n + 1) * 10 * MS, publisher="web-0", size=1000)
    plan.publish(20, step_ns=100 * MS)
    counts = (result := check(open_run(plan.write()))).counts
    assert (result.verdict, counts["batches"], counts["items"], counts["items_per_batch"]) == ("valid", 10, 40, 4.0)
    assert (counts["batches_per_s"], counts["publishes_per_s"], counts["batch_bytes_per_s"], counts["bytes_per_item"]) == (
        1.0,
        3.0,
        1000.0,
        250.0,
    )
    assert (counts["oldest_wait_ms.p50"], counts["oldest_wait_ms.p99"], counts["oldest_wait_ms.max"]) == (60.0, 100.0, 100.0)
    assert counts["wait_ms.mean"] == 55.0
    assert (counts["age_ms.max"], result.metrics["item_age_ms_max"]) == (100.25, 100.25)
    assert counts["at_risk.mean"] == pytest.approx(4 * 0.55 / 9.01), "item-seconds of waiting, over 9.01 s"
    assert (counts["at_risk.max"], counts["lost"], result.metrics["items_lost"]) == (4, 0, 0)
    assert result.detail.endswith("none was lost")


def test_items_lost_stand_by_what_their_publisher_knew(plan: RunFolder) -> None:
    plan.publish(5)
    batch(plan, 12 * SECOND, items=100, waited_ns=SECOND)
    never = batch(plan, 13 * SECOND, items=7, waited_ns=SECOND, heard=False, outcome="never-sent", sent_ns=0, acked_ns=0, publisher="web-0")
    for items, outcome in ((11, "refused"), (13, "unknown"), (17, "memory"), (19, "acknowledged")):
        batch(plan, 14 * SECOND, items=items, waited_ns=SECOND, heard=False, outcome=outcome, publisher="web-0")
    batch(plan, 15 * SECOND, items=23, waited_ns=SECOND, outcome="unknown")  # no answer, and heard all the same
    plan.event(16 * SECOND, outcome="refused")  # no batch
    result = check(open_run(plan.write()))
    lost = {name: value for name, value in result.counts.items() if name.startswith("lost")}
    assert lost == {"lost": 67, "lost.acknowledged": 19, "lost.unknown": 13, "lost.memory": 17, "lost.refused": 11, "lost.never-sent": 7}
    assert result.metrics["items_lost"] == Bounds(54, 67), "13 may never have been published"
    assert "19 were taken by the broker and reached no pod" in result.detail
    assert len(result.witnesses) == 3 and all(text.startswith("evt_") for text in result.witnesses)
    assert result.witnesses[0].endswith("on analytics.events.batch: 19 items of web-0, acknowledged")
    assert never.id not in "".join(result.witnesses)


def test_where_nobody_subscribes_only_what_never_left_is_lost(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0", channels="config.updated")
    batch(plan, 12 * SECOND, items=5, waited_ns=SECOND, heard=False)
    batch(plan, 13 * SECOND, items=3, waited_ns=SECOND, heard=False, outcome="never-sent", sent_ns=0, acked_ns=0)
    result = check(open_run(plan.write()))
    assert result.metrics["items_lost"] == 3
    assert math.isnan(result.metrics["item_age_ms_max"])


def test_a_batch_belongs_to_the_run_while_it_waits_in_it(plan: RunFolder) -> None:
    for at, waited in ((9.9, 0.5), (10.5, 1.0), (20.5, 1.0), (21.0, 0.5)):  # before; across each end; after
        batch(plan, int(at * SECOND), items=2, waited_ns=int(waited * SECOND))
    counts = check(open_run(plan.write())).counts
    assert (counts["batches"], counts["batches_per_s"]) == (2, 0.1)


def test_a_load_without_batches_is_valid_and_one_that_means_them_is_not(plan: RunFolder) -> None:
    plan.publish(5)
    result = check(open_run(plan.write()))
    assert (result.verdict, result.detail) == ("valid", "the load has no batches")
    path = plan.write()
    text = (path / "scenario.toml").read_text()
    (path / "scenario.toml").write_text(text.replace("[load]", f'[load]\nrate_per_s = 5\nmix = {{ "{BATCH}" = 3 }}'))
    assert check(open_run(path)).verdict == "unknown"


@settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 9_999), st.integers(2, 50), st.integers(0, 500), st.booleans()), min_size=1, max_size=30))
def test_figures_are_those_of_a_plain_loop(rows: list[tuple[int, int, int, bool]]) -> None:
    with TemporaryDirectory() as folder:
        plan = RunFolder(Path(folder) / "run").pod("analytics-0", service="analytics", channels=BATCH)
        for at, items, waited, heard in rows:
            batch(plan, 10 * SECOND + at * MS, items=items, waited_ns=waited * MS, heard=heard)
        counts = check(open_run(plan.write())).counts
    assert counts["items"] == sum(items for _, items, _, _ in rows)
    assert counts["lost"] == sum(items for _, items, _, heard in rows if not heard)
    assert counts["oldest_wait_ms.max"] == max(waited for _, _, waited, _ in rows)
    ranks = sorted(waited for _, _, waited, _ in rows)
    assert counts["oldest_wait_ms.p50"] == ranks[math.ceil(0.5 * (len(ranks) - 1))]
    ages = [waited + 0.25 for _, _, waited, heard in rows if heard]
    assert counts.get("age_ms.max") == (max(ages) if ages else None)


def test_every_figure_is_that_of_a_plain_loop(tmp_path: Path) -> None:
    """Batches before, in and after the run phase, of every outcome, heard by two pods, one or none; and events that are no batch."""
    draw = random.Random(14)
    plan = RunFolder(tmp_path / "run").service("analytics", replicas=2, channels=f"{BATCH},a").pod("web-0", channels="a,b")
    span = range(10_000, 20_000)
    every, sent = [], 0
    for _ in range(150):
        at = draw.choice((draw.randrange(9000, 21_500, 100), 10_000, 20_000))
        waited, items = draw.choice((0, 100, 1000)), draw.randrange(1, 9)
        channel = draw.choice((BATCH, "a", "b"))
        outcome = draw.choice(("acknowledged", "acknowledged", "refused", "unknown", "memory"))
        event = plan.event(at * MS, channel=channel, items=items, first_item_ns=(at - waited) * MS, outcome=outcome, size=items * 100 + 7)
        pods = [
            pod for pod, (_, heard) in plan.pods.items() if channel in heard.split(",") and outcome != "refused" and draw.random() < 0.5
        ]
        lags = [draw.randrange(1, 900) for _ in pods]
        for pod, lag in zip(pods, lags, strict=True):
            plan.hear(event, pod, lag_ns=lag * MS)
        sent += at in span
        if channel == BATCH or items > 1:
            every.append((at, waited, items, outcome, lags))
    plan.event(12 * SECOND, channel=BATCH, items=0)  # a probe
    rows = [one for one in every if one[0] - one[1] < 20_000 and one[0] >= 10_000]
    in_run = [one for one in every if one[0] in span]
    lost = [one for one in rows if not one[4]]
    ranks = {"p50": 0.5, "p99": 0.99, "max": 1.0}

    def of(values: list[int]) -> dict[str, float]:
        return {name: sorted(values)[math.ceil(q * (len(values) - 1))] for name, q in ranks.items()}

    items = sum(one[2] for one in rows)
    waits = sum(one[1] * one[2] for one in rows)  # all items of a batch came together
    length = max(one[0] for one in rows) - min(one[0] - one[1] for one in rows)
    expected = {
        "batches": len(rows),
        "items": items,
        "items_per_batch": items / len(rows),
        "batches_per_s": len(in_run) / 10,
        "publishes_per_s": sent / 10,
        "batch_bytes_per_s": sum(one[2] * 100 + 7 for one in in_run) / 10,
        "bytes_per_item": sum(one[2] * 100 + 7 for one in rows) / items,
        "wait_ms.mean": waits / items,
        "at_risk.mean": waits / length,
        "at_risk.max": 8,
        "lost": sum(one[2] for one in lost),
        **{f"oldest_wait_ms.{name}": value for name, value in of([one[1] for one in rows]).items()},
        **{f"age_ms.{name}": value for name, value in of([one[1] + max(one[4]) for one in rows if one[4]]).items()},
        **{f"lost.{word}": sum(one[2] for one in lost if one[3] == word) for word in ("acknowledged", "refused", "unknown", "memory")},
    }
    assert check(open_run(plan.write())).counts == pytest.approx(expected)


@pytest.mark.parametrize(
    ("load", "drain", "word"),
    [
        ({"rate_per_s": 1, "mix": {BATCH: 1}}, True, "unknown"),
        ({"rate_per_s": 0, "mix": {BATCH: 1}}, True, "valid"),
        ({"mix": {BATCH: 1}}, True, "valid"),
        ({"rate_per_s": 1, "mix": {BATCH: 0}}, True, "valid"),
        ({"rate_per_s": 1, "mix": {"config.updated": 1}}, True, "valid"),
        ({"rate_per_s": 1}, True, "valid"),
        ({"rate_per_s": 1, "mix": {BATCH: 1}, "locustfile": "users.py"}, True, "valid"),
        ({"rate_per_s": 1, "mix": {BATCH: 1}}, False, "valid"),
        (None, True, "valid"),
    ],
    ids=str,
)
def test_batches_are_missed_where_the_load_means_them(plan: RunFolder, load: dict[str, object] | None, drain: bool, word: str) -> None:
    plan.publish(1)
    plan.info.phases = [phase for phase in plan.info.phases if drain or phase.name != "drain"]
    run = open_run(plan.write())
    run.scenario.pop("load")
    if load is not None:
        run.scenario["load"] = load
    result = check(run)
    detail = {"unknown": "no data: the load's mix means batches, and none waited in the run phase", "valid": "the load has no batches"}
    assert (result.verdict, result.detail) == (word, detail[word])
    assert list(result.metrics) == ["items_lost", "item_age_ms_p99", "item_age_ms_max", "backlog_drain_s_max"]
