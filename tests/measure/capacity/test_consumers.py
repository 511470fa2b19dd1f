"""What services' handlers carry, by hand arithmetic; and the answer of broker, link and handlers together."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from sim.measure.capacity.answer import CapacityAnswer, answer
from sim.measure.capacity.consumers import ServiceLoad, consumer_sentence, plan_consumers
from sim.measure.capacity.fit import CostModel, Hull
from sim.measure.capacity.plan import make_plan
from sim.measure.capacity.workload import EventType, Workload
from sim.results.handling import handling_of
from sim.results.queueing import mean_wait_s

ORDER = EventType("order", 0.9, False, 1100, 0, ("billing", "search"), ("orders",))
PRICE = EventType("price", 0.1, False, 300, 0, ("search",), ("orders",))
SHOP = Workload((ORDER, PRICE), {"orders": 6, "billing": 2, "search": 10}, 100, 30.0)
HEARS = {"billing": ["order"], "search": ["order", "price"], "orders": []}
MODEL = CostModel(
    16_384, (2.0, 0.001, 0.5, 0.0005, 1.0, 0.0003), ((2.0, 0.001, 0.5, 0.0005, 1.0, 0.0003),) * 3, 0.05, 0.0, 10,
    Hull((1, 72, 250, 16_000), (6, 72, 20_000, 80_000)),
)  # fmt: skip


def planned(
    *, rate: float = 500.0, limit_ms: float = 50.0, workload: Workload = SHOP, **services: dict[str, Any]
) -> dict[str, ServiceLoad]:
    tables = {name: {"subscribes": heard} | services.get(name, {}) for name, heard in HEARS.items()}
    return {load.service: load for load in plan_consumers(tables, workload, calls_per_s=rate, lag_ms_p99=limit_ms)}


def test_each_pod_hears_everything_however_many_there_are() -> None:
    loads = planned(billing={"handler_ms": 1, "concurrency": 1}, search={"handler_cpu_ms": {"order": 1, "price": 2}})
    assert (loads["billing"].events_per_s, loads["billing"].can_per_s) == (450, 1000)
    assert loads["search"].events_per_s == 500
    assert loads["search"].can_per_s == pytest.approx(1000 / 1.1)
    more = msgspec.structs.replace(SHOP, replicas=SHOP.replicas | {"billing": 20})
    assert planned(billing={"handler_ms": 1, "concurrency": 1}, workload=more)["billing"].utilisation == loads["billing"].utilisation


def test_the_wait_is_that_of_the_queue_and_its_tail_is_within_the_limit() -> None:
    load = planned(billing={"handler_ms": "exponential(1)", "concurrency": 1})["billing"]
    assert load.wait_s == pytest.approx(mean_wait_s(450, mean_s=0.001, square_s2=2e-6))
    assert load.wait_p99_s == pytest.approx(0.001 / 0.55 * math.log(0.45 / 0.01)), "M/M/1: P(W > t) = rho exp(-(1 - rho) t / s)"
    assert load.keeps_up and load.carries == pytest.approx(_most_of_mm1(0.001, 0.05) / 450, rel=0.01)


def _most_of_mm1(service_s: float, limit_s: float) -> float:
    """Return the rate at which one in a hundred waits as long as the limit, by bisection of the formula itself."""
    low, high = 0.0, 1 / service_s
    for _ in range(60):
        middle = (low + high) / 2
        rho = middle * service_s
        late = rho * math.exp(-(1 - rho) * limit_s / service_s)
        low, high = (middle, high) if late <= 0.01 else (low, middle)
    return low


def test_a_service_that_falls_behind_says_what_would_help() -> None:
    load = planned(billing={"handler_ms": 5, "concurrency": 1})["billing"]
    assert (load.keeps_up, load.utilisation, load.wait_p99_s) == (False, 2.25, math.inf)
    shared, at_once, cheaper = load.changes
    assert shared.startswith("its events shared among 3 pods") and "it has 2 replicas, which share nothing on Pub/Sub" in shared
    assert at_once == "3 events at a time in place of 1"
    assert cheaper.startswith("handlers that take 2") and cheaper.endswith("in place of 5 ms")
    text = consumer_sentence(load, lag_ms_p99=50)
    assert text.startswith(
        "billing does not keep up: each pod of billing is asked for 225% of what its handlers can do (450 events/s of 200)"
    )


def test_more_at_a_time_does_not_help_a_full_core() -> None:
    load = planned(billing={"handler_cpu_ms": 3, "handler_ms": 1, "concurrency": 4})["billing"]
    assert not load.keeps_up and "more events at a time does not help: the core is full" in load.changes


def test_what_keeps_up_but_is_late_is_told_with_the_limit() -> None:
    load = planned(billing={"handler_ms": "exponential(2)", "concurrency": 1}, limit_ms=10)["billing"]
    assert load.utilisation == pytest.approx(0.9) and not load.keeps_up and math.isfinite(load.wait_p99_s)
    assert "one event in a hundred waits longer than" in consumer_sentence(
        load, lag_ms_p99=10
    ) and "10 ms is the limit" in consumer_sentence(load, lag_ms_p99=10)


def test_handlers_that_nothing_limits_or_that_take_no_time_say_so() -> None:
    loads = planned(billing={"handler_ms": 50})
    assert list(loads) == ["billing"] and loads["billing"].keeps_up
    assert consumer_sentence(loads["billing"], lag_ms_p99=50) == "billing keeps up: it handles as many events at a time as it reads."


def test_a_handling_changes_one_thing_at_a_time() -> None:
    one = handling_of({"subscribes": ["order"], "handler_cpu_ms": 2, "handler_ms": "exponential(8)", "concurrency": 2})
    assert one.at_once(10).can_per_s({"order": 1.0}) == pytest.approx(500)
    assert one.cheaper(0.5).can_per_s({"order": 1.0}) == pytest.approx(400)


def answered(*, rate: float, link: float = 0.0, **services: dict[str, Any]) -> CapacityAnswer:
    plan = make_plan(MODEL, SHOP, target_calls_per_s=rate, link_mbit_per_s=link)
    return answer(plan, SHOP, list(planned(rate=rate, **services).values()), link_mbit_per_s=link)


def test_the_answer_names_what_ends_first() -> None:
    carried = answered(rate=500, link=1000, billing={"handler_ms": 1, "concurrency": 1})
    assert carried.carried and carried.limits[0].name == "billing's handlers"
    assert str(carried).startswith("500 calls/s are carried: the first limit is billing's handlers, at 2")
    assert "the broker's link would carry" in str(carried) and "the broker would be at" in str(carried)
    behind = answered(rate=500, billing={"handler_ms": 5, "concurrency": 1})
    assert not behind.carried
    assert "500 calls/s are not carried: the first limit is billing's handlers, at 0.347 times" in str(behind)
    assert "What would have to change: for billing its events shared among 3 pods" in str(behind)


def test_a_thin_link_is_the_first_limit_and_then_the_others() -> None:
    thin = answered(rate=500, link=60, billing={"handler_ms": 5, "concurrency": 1})
    assert [limit.name for limit in thin.limits] == ["the broker's link", "billing's handlers", "the broker"]
    # 450 orders to 12 pods and 50 prices to 10, a frame each with its headers and acknowledgement: about 6.9 MB/s
    assert thin.limits[0].times == pytest.approx(60e6 / 8 * (1 - 0.712) / 7.3e6, rel=0.06)
    assert ", then billing's handlers" in str(thin)


def test_what_was_not_tested_is_not_promised() -> None:
    far = msgspec.structs.replace(SHOP, replicas=SHOP.replicas | {"search": 200})
    plan = make_plan(MODEL, far, target_calls_per_s=100)
    said = str(answer(plan, far, [], link_mbit_per_s=0.0))
    assert said.startswith("100 calls/s cannot be promised as it is: not tested: order has")


def test_what_was_kept_in_an_outage_drains_beside_what_comes() -> None:
    load = planned(rate=500, billing={"handler_ms": 1, "concurrency": 1})["billing"]
    assert load.drain_s(60) == pytest.approx(450 * 60 / (1000 - 450))
    assert "; what is kept in an outage of 1 min it works off in 49.1 s." in consumer_sentence(load, lag_ms_p99=50, kept=True)
    assert "outage" not in consumer_sentence(load, lag_ms_p99=50)
    assert math.isinf(planned(rate=5000, billing={"handler_ms": 1, "concurrency": 1})["billing"].drain_s(60))
