"""What handlers can do, and how long they take, by hand from their settings."""

from __future__ import annotations

import math

import pytest

from sim.results.handling import handling_of, longest_ms
from sim.results.queueing import mean_wait_s

SHARES = {"order": 0.25, "price": 0.75}
# On half a core, work of 2 and 4 ms takes 4 and 8; an order waits for 8 ms more, and three are handled at a time.
BOTH = {
    "subscribes": ["order", "price"],
    "handler_cpu_ms": {"order": 2, "other": 4},
    "handler_ms": {"order": 8},
    "concurrency": 3,
    "cpu_limit": 0.5,
}


def test_the_queues_of_a_service_are_its_core_s_and_that_of_its_handlers() -> None:
    core = (0.25 * 4 + 0.75 * 8) / 1e3, (0.25 * 4**2 + 0.75 * 8**2) / 1e6
    whole = (0.25 * 12 + 0.75 * 8) / 1e3, (0.25 * 12**2 + 0.75 * 8**2) / 1e6
    found = handling_of(BOTH)
    assert found.queues(SHARES) == [pytest.approx((*core, 1)), pytest.approx((*whole, 3))]
    assert found.can_per_s(SHARES) == pytest.approx(1 / core[0])
    assert found.at_once(1).queues(SHARES)[1] == pytest.approx((*whole, 1))
    assert found.at_once(1).can_per_s(SHARES) == pytest.approx(1 / whole[0])
    assert found.at_once(0).queues(SHARES) == [pytest.approx((*core, 1))]
    assert handling_of(BOTH | {"handler_cpu_ms": 0}).queues(SHARES) == [pytest.approx((0.002, 0.25 * 64e-6, 3))]
    assert handling_of({"subscribes": ["order"]}).queues({"order": 1.0}) == []


def test_times_that_vary_have_their_own_mean_square() -> None:
    service = {
        "subscribes": ["order"],
        "handler_cpu_ms": "exponential(2)",
        "handler_ms": "uniform(0, 6)",
        "concurrency": 1,
        "cpu_limit": 0.5,
    }
    (core, whole) = handling_of(service).queues({"order": 1.0})
    assert core == pytest.approx((0.004, 2 * 4**2 / 1e6, 1))
    assert whole == pytest.approx((0.007, (2 * 4**2 + 2 * 4 * 3 + 12) / 1e6, 1))


def test_what_is_cheaper_takes_its_share_of_every_time() -> None:
    found = handling_of(BOTH)
    cheaper = found.cheaper(0.5)
    assert [queue[0] for queue in cheaper.queues(SHARES)] == pytest.approx([queue[0] / 2 for queue in found.queues(SHARES)])
    assert [queue[1] for queue in cheaper.queues(SHARES)] == pytest.approx([queue[1] / 4 for queue in found.queues(SHARES)])
    assert (cheaper.concurrency, cheaper.cores) == (3, 0.5)


@pytest.mark.parametrize(
    ("settings", "takes", "can"),
    [
        ({}, False, math.inf),
        ({"concurrency": 2}, False, math.inf),
        ({"handler_cpu_ms": 1}, True, 1000),
        ({"handler_ms": 1}, True, math.inf),
        ({"handler_ms": {"price": 1}, "concurrency": 2}, True, 2000 / 0.75),
        ({"handler_ms": {"nobody": 1}, "concurrency": 2}, False, math.inf),
        ({"handler_cpu_ms": 1, "cpu_limit": 1}, True, 1000),
        ({"handler_cpu_ms": 1, "cpu_limit": 2}, True, 1000),
        ({"handler_cpu_ms": 1, "cpu_limit": 0.25}, True, 250),
        ({"handler_cpu_ms": 1, "concurrency": 1}, True, 1000),
    ],
    ids=str,
)
def test_a_service_can_do_what_its_core_and_its_number_at_a_time_let_it(settings: dict[str, object], takes: bool, can: float) -> None:
    found = handling_of({"subscribes": ["order", "price"]} | settings)
    assert (found.takes_time, found.can_per_s(SHARES)) == (takes, pytest.approx(can))


def test_the_mean_wait_is_that_of_the_one_queue_there_is() -> None:
    at_a_time = handling_of({"subscribes": ["order"], "handler_ms": 8, "concurrency": 4})
    assert at_a_time.theory_s({"order": 1.0}, 400) == mean_wait_s(400, mean_s=0.008, square_s2=64e-6, servers=4)
    one = handling_of({"subscribes": ["order"], "handler_ms": 3, "handler_cpu_ms": 2, "concurrency": 1})
    assert one.theory_s({"order": 1.0}, 100) == pytest.approx(mean_wait_s(100, mean_s=0.005, square_s2=25e-6))
    assert math.isnan(one.at_once(2).theory_s({"order": 1.0}, 100))
    assert one.at_once(0).theory_s({"order": 1.0}, 100) == pytest.approx(mean_wait_s(100, mean_s=0.002, square_s2=4e-6))


@pytest.mark.parametrize(
    ("settings", "longest"),
    [
        ({}, 0.0),
        ({"handler_ms": 5, "handler_cpu_ms": 2}, 7.0),
        ({"handler_ms": 5, "handler_cpu_ms": 2, "cpu_limit": 0.5}, 9.0),
        ({"handler_ms": 5, "handler_cpu_ms": 2, "cpu_limit": 3}, 7.0),
        ({"handler_ms": {"order": 5, "other": 1}, "handler_cpu_ms": {"price": 3}}, 5.0),
        ({"handler_ms": {"other": 9, "order": 1, "price": 1}}, 9.0),
        ({"handler_ms": 1, "handler_cpu_ms": {"price": 9}}, 10.0),
        ({"handler_ms": {"price": 1}, "handler_cpu_ms": {"order": 1, "price": 9}}, 10.0),
        ({"handler_ms": "uniform(0, 10)"}, 9.999),
    ],
    ids=str,
)
def test_the_longest_time_is_that_of_any_event(settings: dict[str, object], longest: float) -> None:
    """Also of one that another program sends under a name that the service does not subscribe to."""
    assert longest_ms({"subscribes": ["order", "price"]} | settings) == pytest.approx(longest)
