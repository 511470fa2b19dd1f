"""The life that one pod's rows tell: a freeze is no change of what the pod is."""

from __future__ import annotations

import numpy as np

from sim.record.reader import FOREVER_NS
from sim.results.pod_histories import PodHistory, make_history


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
