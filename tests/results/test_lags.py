"""Lags of delivered copies, by channel and service, each by value; and what of them is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.results.lags import Lags
from sim.results.opened_run import open_run
from sim.results.values import Values
from tests.support.run_folders import MS, RUN_NS, SECOND, US, RunFolder


def values(*numbers: int) -> Values:
    return Values([np.array(numbers, dtype=np.int64)])


def sorted_of(some: Values) -> list[int]:
    return some.at(np.arange(len(some))).tolist()


CELLS = {(0, 0): values(1), (0, 1): values(2, 3), (1, 1): values(4)}
LAGS = Lags(["a", "b"], ["api", "web"], CELLS, {}, {}, {}, {(0, 0): 5, (0, 1): 9, (1, 1): 7}, 0, 0, 0)


@pytest.mark.parametrize(
    ("kind", "word", "found", "error"),
    [
        ("", "", [1, 2, 3, 4], 9),
        ("channel", "a", [1, 2, 3], 9),
        ("channel", "b", [4], 7),
        ("service", "api", [1], 5),
        ("service", "web", [2, 3, 4], 9),
        ("service", "a", [], 0),
    ],
)
def test_lags_of_all_of_a_channel_and_of_a_service(kind: str, word: str, found: list[int], error: int) -> None:
    assert sorted_of(LAGS.of(LAGS.lag, kind, word)) == found
    assert LAGS.error_ns(kind, word) == error
    assert LAGS.copies == 4


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    """`web` hears `a` and `b`, `api` only `b`; all are sent 50 us after they were meant, one event of the warm-up is not counted."""
    plan = RunFolder(tmp_path / "run").service("web", replicas=2, channels="a,b").pod("api-0", service="api", channels="b")
    plan.publish(1, start_ns=9 * SECOND + SECOND // 2, channel="a", lag_ns=SECOND // 4)
    plan.publish(2, channel="a")
    plan.publish(1, start_ns=RUN_NS + SECOND, channel="b", lag_ns=3 * MS)
    return plan


def test_lags_and_sums_are_of_the_delivered_copies_of_the_run_phase(plan: RunFolder) -> None:
    plan.repeat(plan.events[1], "web-0").drop(plan.events[2], "web-1").delay(plan.events[2], "web-0", MS)
    lags = open_run(plan.write()).lags
    assert (lags.channels, lags.services, lags.copies) == (["a", "b"], ["api", "web"], 6)
    assert {cell: sorted_of(some) for cell, some in lags.lag.items()} == {
        (0, 1): [250 * US, 250 * US, 250 * US + MS],
        (1, 0): [3 * MS],
        (1, 1): [3 * MS, 3 * MS],
    }
    assert {cell: sorted_of(some) for cell, some in lags.bus.items()} == {
        (0, 0): [200 * US, 200 * US, 200 * US + MS, 2950 * US, 2950 * US, 2950 * US]
    }
    assert (lags.least, lags.most, lags.errors, lags.error_ns()) == ({}, {}, {}, 0)
    assert (lags.negative, lags.lag_ns, lags.delay_ns) == (0, 750 * US + MS + 9 * MS, 6 * 50 * US)


def test_the_lag_without_the_send_delay_is_kept_apart_where_a_limit_asks_for_a_part_of_it(plan: RunFolder) -> None:
    plan.slo = {'"lag_ms_p99.service.web"': 5}
    lags = open_run(plan.write()).lags
    assert {cell: sorted_of(some) for cell, some in lags.bus.items()} == {
        (0, 1): [200 * US] * 4,
        (1, 0): [2950 * US],
        (1, 1): [2950 * US] * 2,
    }
    plan.folder, plan.slo = plan.folder.with_name("whole"), {"lag_ms_p99": 5}
    assert list(open_run(plan.write()).lags.bus) == [(0, 0)]


@pytest.mark.parametrize(("lag_us", "sent_us", "negative"), [(0, 0, 0), (-1, -2, 1), (1, 2, 1), (0, 1, 1), (-1, -1, 1), (2, 2, 0)])
def test_what_was_handled_before_it_was_meant_or_sent_is_counted(tmp_path: Path, lag_us: int, sent_us: int, negative: int) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.hear(plan.event(RUN_NS + SECOND, sent_ns=RUN_NS + SECOND + sent_us * US), "web-0", lag_ns=lag_us * US)
    lags = open_run(plan.write()).lags
    assert (lags.negative, lags.lag_ns, lags.delay_ns) == (negative, lag_us * US, sent_us * US)


def test_by_several_clocks_a_lag_may_be_so_much_less_or_more_and_negative_by_so_much(plan: RunFolder) -> None:
    """Both processes read clocks of their own, known to 10 and 30 us: a lag may be wrong by 40 and one by 41 us below 0 is negative."""
    plan.clock("h0", ahead_ns=5 * SECOND, bound_ns=10 * US).clock("locust", ahead_ns=-3 * SECOND, bound_ns=30 * US)
    exact, beyond = (plan.event(RUN_NS + 2 * SECOND + n * MS, channel="b", sent_ns=RUN_NS + 2 * SECOND + n * MS) for n in range(2))
    plan.hear(exact, "api-0", lag_ns=-40 * US)
    plan.hear(beyond, "api-0", lag_ns=-41 * US)
    lags = open_run(plan.write()).lags
    assert lags.errors == {(0, 1): 40 * US, (1, 0): 40 * US, (1, 1): 40 * US} and lags.error_ns("channel", "a") == 40 * US
    assert sorted_of(lags.of(lags.lag, "service", "api")) == [-41 * US, -40 * US, 3 * MS]
    assert sorted_of(lags.of(lags.least, "service", "api")) == [-81 * US, -80 * US, 3 * MS - 40 * US]
    assert sorted_of(lags.of(lags.most, "service", "api")) == [-1 * US, 0, 3 * MS + 40 * US]
    assert lags.negative == 1


def test_lags_of_thousands_of_channels_and_many_services_stay_apart(tmp_path: Path) -> None:
    names = [f"c{number:04}" for number in range(2_300)]
    plan = RunFolder(tmp_path / "run")
    for number in range(29):
        plan.service(f"s{number:02}", replicas=1, channels="")
    plan.service("s29", replicas=1, channels=",".join(names))
    for number, name in enumerate(names):
        plan.publish(1, start_ns=RUN_NS + number * MS, channel=name, lag_ns=(number + 1) * US)
    lags = open_run(plan.write()).lags
    assert len(lags.channels) * len(lags.services) > 1 << 16
    found = {name: lags.of(lags.lag, "channel", name).quantiles({"least": 0, "most": 1}) for name in names}
    assert found == {name: {"least": (number + 1) * US, "most": (number + 1) * US} for number, name in enumerate(names)}
    assert len(lags.of(lags.lag, "service", "s29")) == lags.copies == len(names)
    assert len(lags.of(lags.lag, "service", "s00")) == len(lags.of(lags.lag, "channel", "nowhere")) == 0
