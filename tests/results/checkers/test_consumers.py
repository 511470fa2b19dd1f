"""How the handlers of a pod kept up: counted by hand from what came and what was begun when."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.record.reader import FOREVER_NS
from sim.record.run_info import Phase
from sim.results.checkers import judge
from sim.results.checkers.verdict import Bounds, Result
from sim.results.consumers import PodLoad, _queue, read_loads
from sim.results.handling import handling_of, longest_ms
from sim.results.opened_run import open_run
from sim.results.queueing import mean_wait_s
from tests.support.run_folders import MS, RUN_NS, SECOND, US, RunFolder

WEB = '[services.web]\nsubscribes = ["order"]\nhandler_ms = 5\nconcurrency = 1\n'
SENT = 50 * US  # after the intended time


def folder(tmp_path: Path, *, services: str = WEB, load: str = "") -> RunFolder:
    plan = RunFolder(tmp_path / "run", scenario=services)
    plan.pod("web-0", channels="order").pod("other-0", service="other", channels="order")
    return plan


def one_after_another(plan: RunFolder, many: int, *, step_ns: int, takes_ns: int) -> None:
    """Add events that the web pod begins one after another, each as soon as the one before is done, and the other pod at once."""
    free_ns = 0
    for number in range(many):
        event = plan.event(RUN_NS + number * step_ns, channel="order")
        begin_ns = max(event.sent_ns, free_ns)
        free_ns = begin_ns + takes_ns
        plan.hear(event, "web-0", lag_ns=begin_ns - event.intended_ns)
        plan.hear(event, "other-0")


def result(plan: RunFolder) -> tuple[Result, list[PodLoad]]:
    run = open_run(plan.write())
    return judge(run, only=["consumers"]).checkers["consumers"], read_loads(run)


def test_only_pods_whose_handlers_take_time_are_judged(tmp_path: Path) -> None:
    plan = folder(tmp_path, services='[services.web]\nsubscribes = ["order"]\n')
    plan.publish(3, channel="order")
    found, loads = result(plan)
    assert (found.verdict, found.detail, loads) == ("valid", "no service's handlers take time", [])
    assert all(isinstance(value, float) and math.isnan(value) for value in found.metrics.values())


def test_a_pod_that_falls_behind_is_told_by_how_much(tmp_path: Path) -> None:
    plan = folder(tmp_path)
    one_after_another(plan, 2000, step_ns=5 * MS // 2, takes_ns=5 * MS)  # 400/s for 5 s, of which it can do 200
    found, (load,) = result(plan)
    span_s = 10  # of the run phase
    assert (load.pod, load.events, load.per_s, load.can_per_s) == ("web-0", 2000, 2000 / span_s, 200)
    assert load.utilisation == 1.0
    # the n-th begins n x 2.5 ms after it was sent; when the last comes, half of them have begun
    assert load.wait_mean_s == pytest.approx(1999 / 2 * 0.0025)
    assert load.queue_max == 1000
    assert (load.queue_end, load.drain_s) == (0, 0.0), "the load's phase is longer than the load"
    assert math.isnan(load.theory_s), "evenly spaced calls are no random arrivals"
    assert found.metrics == {"utilisation_max": 1.0, "queue_max": 1000.0, "drain_s_max": 0.0}
    assert found.detail.endswith("and at most 1,000 events waited at a time"), "it was asked for all that it can, and no more"


def test_what_waits_at_the_end_of_the_load_takes_its_time(tmp_path: Path) -> None:
    plan = folder(tmp_path)
    one_after_another(plan, 400, step_ns=25 * MS, takes_ns=30 * MS)  # to the end of the phase of 10 s
    found, (load,) = result(plan)
    assert load.utilisation == pytest.approx(0.2), "the settings say 5 ms"
    assert load.drain_s == pytest.approx((399 * 30 - 10_000) / 1000, abs=0.001)
    assert load.queue_end == 400 - math.floor((10_000 - SENT / 1e6) / 30) - 1
    assert "waited at the end of the load and took" in found.detail


def test_copies_that_were_never_read_count_as_asked_and_the_end_of_the_drain_is_not_known(tmp_path: Path) -> None:
    plan = folder(tmp_path)
    one_after_another(plan, 100, step_ns=100 * MS, takes_ns=150 * MS)
    unread = [row for row in plan.heard if row.pod == "web-0"][80:]
    for row in unread:
        plan.heard.remove(row)
    plan.end("web-0", 30 * SECOND, "stopped")
    found, (load,) = result(plan)
    run = open_run(plan.folder)
    causes = run.ledger().query("fate == 'missing'")["cause"].value_counts()
    assert causes[causes > 0].to_dict() == {"behind": 20}
    assert (load.events, load.per_s) == (80, 10.0)
    assert load.queue_end == 100 - 67 and math.isinf(load.drain_s)
    drain = found.metrics["drain_s_max"]
    assert isinstance(drain, Bounds) and drain.low == pytest.approx(79 * 0.15 - 10, abs=0.001) and math.isinf(drain.high)
    assert "the run ended before all were handled" in found.detail


def test_a_pod_without_handler_times_has_no_such_excuse(tmp_path: Path) -> None:
    plan = folder(tmp_path, services='[services.web]\nsubscribes = ["order"]\n')
    one_after_another(plan, 100, step_ns=100 * MS, takes_ns=150 * MS)
    for row in [row for row in plan.heard if row.pod == "web-0"][80:]:
        plan.heard.remove(row)
    causes = open_run(plan.write()).ledger().query("fate == 'missing'")["cause"].value_counts()
    assert causes[causes > 0].to_dict() == {"unexplained": 20}


@pytest.mark.parametrize(
    ("settings", "can_per_s", "longest"),
    [
        ({"handler_ms": 5, "concurrency": 1}, 200, 5),
        ({"handler_ms": 5, "concurrency": 3}, 600, 5),
        ({"handler_ms": 5}, math.inf, 5),
        ({"handler_cpu_ms": 2}, 500, 2),
        ({"handler_cpu_ms": 2, "cpu_limit": 0.5}, 250, 4),
        ({"handler_cpu_ms": 2, "cpu_limit": 4}, 500, 2),
        ({"handler_cpu_ms": 2, "handler_ms": 8, "concurrency": 1}, 100, 10),
        ({"handler_cpu_ms": 2, "handler_ms": 8, "concurrency": 10}, 500, 10),
        ({"handler_ms": {"order": 5, "other": 10}, "concurrency": 1}, 1000 / 7.5, 10),
        ({"handler_ms": "exponential(5)", "concurrency": 1}, 200, 5 * math.log(10_000)),
    ],
    ids=str,
)
def test_what_handlers_can_do_and_the_longest_they_take(settings: dict[str, object], can_per_s: float, longest: float) -> None:
    service = settings | {"subscribes": ["order", "price"]}
    assert handling_of(service).can_per_s({"order": 0.5, "price": 0.5}) == pytest.approx(can_per_s)
    assert longest_ms(service) == pytest.approx(longest)


def test_theory_is_for_one_limit_only() -> None:
    one = handling_of({"subscribes": ["order"], "handler_cpu_ms": 2, "handler_ms": 8, "concurrency": 10})
    assert math.isnan(one.theory_s({"order": 1.0}, 100))
    core = handling_of({"subscribes": ["order"], "handler_cpu_ms": 2, "handler_ms": 8})
    assert core.theory_s({"order": 1.0}, 250) == pytest.approx(0.001), "M/D/1 at one half"
    mixed = handling_of({"subscribes": ["order", "price"], "handler_ms": {"order": 2, "price": 6}, "concurrency": 1})
    assert mixed.theory_s({"order": 0.5, "price": 0.5}, 125) == pytest.approx(125 * 20e-6 / 2 / 0.5)


def test_the_sentence_of_a_pod_that_is_asked_for_more_than_it_can(tmp_path: Path) -> None:
    plan = folder(tmp_path)
    one_after_another(plan, 3000, step_ns=10 * MS // 3, takes_ns=5 * MS)  # 300/s for 10 s, of which it can do 200
    found, _ = result(plan)
    assert (found.verdict, found.counts["pods"], found.counts["utilisation.web"]) == ("valid", 1, 1.5)
    assert found.detail == (
        "web-0 was asked for 150% of what its handlers can do (300 of 200 events/s); an event was begun 2.5 s after it was sent on "
        "average, p99 4.95 s, and at most 1,000 events waited at a time: it falls behind for as long as this goes on; 1,000 events waited "
        "at the end of the load and took 5 s"
    )


def test_a_pod_that_handles_as_many_as_it_reads_says_so(tmp_path: Path) -> None:
    plan = folder(tmp_path, services='[services.web]\nsubscribes = ["order"]\nhandler_ms = 5\n')
    plan.publish(4, channel="order")
    found, (load,) = result(plan)
    assert math.isinf(load.can_per_s) and load.utilisation == 0
    assert found.detail.startswith(
        "web-0 handled 4 events, as many at a time as it read; an event was begun 200 us after it was sent on average"
    )


def test_no_event_at_all_is_nothing_measured(tmp_path: Path) -> None:
    found, loads = result(folder(tmp_path))
    assert (found.verdict, len(loads)) == ("valid", 1) and "no pod whose handlers take time heard an event" in found.detail
    assert all(isinstance(value, float) and math.isnan(value) for value in found.metrics.values()), "a limit on it is unknown"
    assert (loads[0].per_s, loads[0].events, loads[0].queue_max) == (0.0, 0, 0)


def test_a_run_phase_of_no_length_asked_for_nothing(tmp_path: Path) -> None:
    plan = folder(tmp_path)
    plan.publish(2, channel="order")
    plan.info.phases = [Phase("run", RUN_NS, RUN_NS), Phase("drain", RUN_NS + SECOND, 0)]
    found, (load,) = result(plan)
    assert (load.events, load.per_s, load.utilisation, found.verdict) == (2, 0.0, 0.0, "valid")


@pytest.mark.parametrize("seed", range(20))
def test_what_waited_is_what_a_plain_loop_counts(seed: int) -> None:
    """At every moment those that had been sent and not begun; what begins at a moment has left before the next comes."""
    draw = random.Random(seed)
    sent = [draw.randrange(20) for _ in range(seed)]
    begun = [FOREVER_NS if draw.random() < 0.2 else at + draw.randrange(9) for at in sent]
    waiting, most = 0, 0
    for at in range(30):
        waiting -= sum(begin == at > was for begin, was in zip(begun, sent, strict=True))
        waiting += sum(was == at < begin for begin, was in zip(begun, sent, strict=True))
        at_once = sum(was == begin == at for begin, was in zip(begun, sent, strict=True))
        most = max(most, waiting)
        assert at_once >= 0
    end = 12
    left = sum(was <= end < begin for begin, was in zip(begun, sent, strict=True))
    found = _queue(np.array(sent, dtype=np.int64), np.array(begun, dtype=np.int64), end)
    assert found == (most, left)


@pytest.mark.parametrize(
    ("load", "other", "holds"),
    [
        ({}, {}, True),
        ({"arrivals": "even"}, {}, False),
        ({"shape": "ramp"}, {}, False),
        ({}, {"channels": {"order": {"batched": True}}}, False),
        ({}, {"channels": {"order": {}, "other": {"batched": True}}}, True),
        ({}, {"bus": {"transport": "streams"}}, False),
        ({}, {"faults": [("broker_freeze", "broker", 11 * SECOND, 12 * SECOND)]}, False),
    ],
    ids=str,
)
def test_the_wait_that_theory_predicts_stands_where_its_conditions_hold(
    tmp_path: Path, load: dict[str, str], other: dict[str, Any], holds: bool
) -> None:
    """100 events in 10 s, each of which takes 5 ms."""
    plan = folder(tmp_path)
    one_after_another(plan, 100, step_ns=100 * MS, takes_ns=5 * MS)
    plan.faults = other.pop("faults", [])
    run = open_run(plan.write())
    run.scenario["load"] = {"arrivals": "poisson", "shape": "steady"} | load
    run.scenario |= other
    (theory,) = (one.theory_s for one in read_loads(run))
    assert theory == pytest.approx(mean_wait_s(10, mean_s=0.005, square_s2=25e-6)) if holds else math.isnan(theory)
    counts = judge(run, only=["consumers"]).checkers["consumers"].counts
    assert counts.get("wait_us_theory.web") == (theory * 1e6 if holds else None)
    del run.scenario["load"]
    assert math.isnan(read_loads(run)[0].theory_s)


def test_of_several_pods_the_one_that_was_asked_most_of_stands_for_its_service(tmp_path: Path) -> None:
    """web-1 was asked as much as web-0, and more waited at a time; jobs-0 has nobody beside it."""
    plan = RunFolder(tmp_path / "run", scenario=WEB + '[services.jobs]\nsubscribes = ["order"]\nhandler_ms = 1\nconcurrency = 1\n')
    plan.service("web", replicas=2, channels="order").pod("jobs-0", service="jobs", channels="order")
    for number in range(4):
        event = plan.event(RUN_NS + number * MS, channel="order")
        plan.hear(event, "web-0")
        plan.hear(event, "web-1", lag_ns=SECOND)
        plan.hear(event, "jobs-0", lag_ns=2 * MS + 50 * US)
    found, loads = result(plan)
    assert [(load.pod, load.queue_max) for load in loads] == [("web-0", 1), ("web-1", 4), ("jobs-0", 2)]
    assert found.counts == {
        "pods": 3,
        "utilisation.jobs": pytest.approx(0.4 / 1000),
        "queue_max.jobs": 2,
        "wait_us_mean.jobs": pytest.approx(2000.0),
        "wait_us_p99.jobs": pytest.approx(2000.0),
        "drain_s.jobs": 0.0,
        "utilisation.web": pytest.approx(0.4 / 200),
        "queue_max.web": 4,
        "wait_us_mean.web": pytest.approx(999_950.0),
        "wait_us_p99.web": pytest.approx(999_950.0),
        "drain_s.web": 0.0,
    }
    assert found.metrics == {"utilisation_max": pytest.approx(0.002), "queue_max": 4.0, "drain_s_max": 0.0}
    assert found.detail == (
        "web-1 was asked for 0% of what its handlers can do (0.4 of 200 events/s); an event was begun 1 s after it was sent on average, "
        "p99 1 s, and at most 4 events waited at a time; jobs-0 was asked for 0% of what its handlers can do (0.4 of 1,000 events/s); "
        "an event was begun 2 ms after it was sent on average, p99 2 ms, and at most 2 events waited at a time"
    )
