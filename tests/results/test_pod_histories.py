"""The life that one pod's rows tell: a freeze is no change of what the pod is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sim.record.reader import FOREVER_NS
from sim.results.opened_run import open_run
from sim.results.pod_histories import PodHistory, SilentWindow, make_history, read_pod_histories, read_ways
from tests.support.run_folders import MS, SECOND, RunFolder


def history(*rows: tuple[int, str]) -> PodHistory:
    return make_history("p", service="s", channels=["a"], at_ns=[at for at, _ in rows], states=[state for _, state in rows])


def test_a_freeze_and_its_end_are_no_states() -> None:
    told = history((1, "starting"), (2, "subscribed"), (3, "frozen"), (7, "subscribed"), (9, "stopped"))
    assert told.states == ("starting", "subscribed", "stopped")
    assert told.at_ns == (1, 2, 9)
    assert told.freezes == ((3, 7),)
    assert told.state(5) == "subscribed"
    assert told.alive(np.array([0, 1, 5, 9])).tolist() == [False, True, True, False]


def test_a_pod_that_was_killed_while_it_stood_still_has_ended() -> None:
    told = history((1, "starting"), (2, "subscribed"), (3, "frozen"), (7, "aborted"), (8, "starting"), (9, "subscribed"))
    assert told.states == ("starting", "subscribed", "aborted", "starting", "subscribed")
    assert told.freezes == ((3, 7),)


def test_a_freeze_that_does_not_end_lasts_for_ever() -> None:
    assert history((1, "starting"), (3, "frozen")).freezes == ((3, FOREVER_NS),)


def test_two_rows_of_one_state_stay_two_without_a_freeze() -> None:
    assert history((1, "starting"), (2, "subscribed"), (3, "subscribed")).states == ("starting", "subscribed", "subscribed")


def test_a_pod_is_alive_from_its_row_on_and_about_a_row_before_in_and_after_it() -> None:
    told = history((5, "starting"), (5, "subscribed"), (9, "aborted"), (9, "starting"), (9, "stopped"), (20, "starting"))
    times = np.array([4, 5, 8, 9, 10, 19, 20, 21])
    assert told.alive(times).tolist() == [False, True, True, False, False, False, True, True]
    assert told.alive_about(times).tolist() == [False, True, True, True, False, False, True, True]
    assert PodHistory("never").alive(times).tolist() == PodHistory("never").alive_about(times).tolist() == [False] * 8


def test_the_state_of_a_pod_and_whether_it_has_been_in_one() -> None:
    told = history((5, "starting"), (7, "subscribed"), (9, "aborted"))
    assert [told.state(at) for at in (4, 5, 6, 7, 9, 99)] == ["", "starting", "starting", "subscribed", "aborted", "aborted"]
    assert [told.has_been("subscribed", at) for at in (6, 7, 99)] == [False, True, True]
    assert told.has_been("stopped", 99) is False


@pytest.mark.parametrize(
    ("sent", "answered", "touched"), [(9, 10, True), (9, 9, False), (20, 25, True), (21, 25, False), (12, 13, True), (5, 30, True)]
)
def test_what_was_on_its_way_in_a_window(sent: int, answered: int, touched: bool) -> None:
    assert SilentWindow(10, 20, "deaf").touches(np.array([sent]), np.array([answered])).tolist() == [touched]


def test_histories_are_read_pod_by_pod_in_the_order_of_time(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("b-0", service="b", channels="y,x").pod("a-0", service="a", channels="")
    plan.states.insert(0, ("b-0", 12 * SECOND, "disconnected"))
    plan.pods["heard-0"] = ("", "")
    plan.foreign(7, "heard-0")
    histories = open_run(plan.write()).pod_histories
    ends = (SECOND, SECOND + MS, 30 * SECOND)
    assert histories == [
        PodHistory(
            "b-0", "b", frozenset({"x", "y"}), (*ends[:2], 12 * SECOND, ends[2]), ("starting", "subscribed", "disconnected", "stopped")
        ),
        PodHistory("a-0", "a", frozenset(), ends, ("starting", "subscribed", "stopped")),
        PodHistory("heard-0"),
    ]


@pytest.mark.parametrize(
    ("many_nodes", "transport", "ways"),
    [
        (False, "pubsub", [0, 0, 0]),
        (True, "pubsub", [0, 1, 0]),
        (True, "sharded", [0, 0, 1]),
        (False, "sharded", [0, 0, 0]),
        (False, "streams", [0, 0, 1]),
        (True, "streams", [0, 0, 1]),
    ],
)
def test_what_goes_one_way_keeps_its_order(many_nodes: bool, transport: str, ways: list[int]) -> None:
    publishes = pd.DataFrame({"channel": ["a", "a", "b"], "publisher": ["p", "q", "p"]}).astype("category")
    assert read_ways(publishes, many_nodes=many_nodes, transport=transport).tolist() == ways


def test_a_name_that_no_row_has_is_no_pod() -> None:
    """A table's names may be more than its pods: those of a part that was read with it."""
    pods = pd.DataFrame({
        "pod": pd.Categorical(["b", "d", "b"], categories=["a", "b", "c", "d"]),
        "service": ["web", "jobs", "web"],
        "channels": ["x", "y,z", "x"],
        "state": ["subscribed", "starting", "starting"],
        "at_ns": [2, 3, 1],
    })  # fmt: skip
    deliveries = pd.DataFrame({"pod": pd.Categorical(["d", "e"])})
    found = read_pod_histories(pods, deliveries)
    assert [(one.pod, one.service, sorted(one.channels), one.at_ns, one.states) for one in found] == [
        ("b", "web", ["x"], (1, 2), ("starting", "subscribed")),
        ("d", "jobs", ["y", "z"], (3,), ("starting",)),
        ("e", "", [], (), ()),
    ]
