"""What each metric would have been at best, as a number, of small runs in which it is known what was withheld, and when.

A *moment* is a stall: a process stands still for the quarter second up to that time. It touches what is due from a second before its
row until the window of a second behind it is over.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.machine.waits import Waits
from sim.record.run_info import Phase
from sim.record.schema import HTTP_CALL
from sim.results.at_best import AtBest
from sim.results.opened_run import open_run
from sim.results.passages import Passages
from tests.support.in_pieces import judge_in_pieces
from tests.support.run_folders import MS, SECOND, US, Event, RunFolder

Said = Callable[[int], Waits]
BATCH = "analytics.events.batch"


def at(seconds: float) -> int:
    return round(seconds * SECOND)


def moments(*ends: float, ms: float = 250, column: str = "stood_ns") -> Said:
    """Withhold so many milliseconds in the quarter second up to each of these times."""
    return lambda now: Waits(waited_ns=0.0)._replace(**{column: sum(ms * MS for end in ends if now >= at(end))})


def best_of(plan: RunFolder, *, stale: Callable[[Any], np.ndarray] = lambda arriving: np.array([], dtype=np.int64)) -> AtBest:
    return AtBest(open_run(plan.write()), stale)


@pytest.fixture(autouse=True, params=[pytest.param(False, id="together"), pytest.param(True, id="in pieces")])
def walked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether all copies are in memory or a few pods' at a time, the same is said."""
    if request.param:
        judge_in_pieces(monkeypatch)


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    """Two services, web on channel `a` and jobs on `b`; h0 holds all pods, locust publishes."""
    return RunFolder(tmp_path / "run").pod("web-0", channels="a").pod("jobs-0", service="jobs", channels="b")


def starved(plan: RunFolder, **hosts: Said) -> RunFolder:
    return plan.starve(**(hosts or {"h0": moments(15.25)}))


# -- which metrics at all -------------------------------------------------------------------------------------------


def test_no_machine_makes_pub_sub_hear_an_event_twice_or_in_another_order(plan: RunFolder) -> None:
    plan.publish(1, channel="a")
    best = best_of(starved(plan))
    names = ("unexpected", "duplicates", 'duplicates.channel."a"', "out_of_order", "missing", "lag_ms_p99", "duplicated")
    assert [best.concerns(name) for name in names] == [False, False, False, False, True, True, True]
    assert [best.value(name, 7.0, 3.0) for name in names[:4]] == [7.0] * 4
    plan.transport, plan.folder = "streams", plan.folder.with_name("streams")
    best = best_of(plan)
    assert [best.concerns(name) for name in names] == [False, True, True, True, True, True, True]
    assert best.value("duplicates", 7.0, 3.0) == -math.inf


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ({"h0": moments(15.25)}, -math.inf),
        ({"h0": moments(15.25, ms=99)}, 7.0),
        ({"h0": moments(8.75)}, 7.0),
        ({"h0": moments(9.25)}, -math.inf),
        ({"h0": moments(21.25)}, 7.0),
    ],
)
def test_of_what_is_not_known_better_a_stall_in_the_run_phase_may_have_made_anything(
    plan: RunFolder, hosts: dict[str, Said], expected: float
) -> None:
    plan.publish(1, channel="a")
    best = best_of(starved(plan, **hosts))
    assert best.value("truth_gap_s_max", 7.0, 3.0) == expected
    assert best.value("handled_never_min", 7.0, 9.0) == -expected if expected < 0 else 7.0


@pytest.mark.parametrize(("transport", "expected"), [("pubsub", 7.0), ("streams", -math.inf)])
def test_a_step_of_the_wall_clock_may_have_made_a_stream_hand_an_entry_on(plan: RunFolder, transport: str, expected: float) -> None:
    plan.publish(1, channel="a")
    plan.transport = transport
    best = best_of(starved(plan, h0=lambda now: Waits(waited_ns=0.0, wall_offset_ns=float(SECOND * (now > at(15))), suspended_ns=0.0)))
    assert best.value("truth_gap_s_max", 7.0, 3.0) == expected


# -- times ----------------------------------------------------------------------------------------------------------


def test_lag_loses_what_was_withheld_on_its_way(plan: RunFolder) -> None:
    """Five copies: 0.25, 100, 300, 250 and 400 ms; h0 stood still for 250 ms while the third and fourth were on their way."""
    lags = (0.25, 100, 300, 250, 400)
    for number, lag in enumerate(lags):
        event = plan.event(at(11 + number), channel="b" if number == 3 else "a")
        plan.hear(event, "jobs-0" if number == 3 else "web-0", lag_ns=round(lag * MS))
    plan.publish(1, channel="a", start_ns=at(9.5), lag_ns=at(0.4))  # in the warm-up
    best = best_of(starved(plan, h0=moments(13.25, 14.25)))
    assert [best.value(f"lag_ms_{q}", 0, 120) for q in ("p50", "p90", "p99", "p999", "p9999", "max")] == [120, 400, 400, 400, 400, 400]
    assert [best.value(f"lag_ms_{q}", 0, 20) for q in ("p50", "p90")] == [100, 400], "250 ms are not enough for the third"
    assert best.value('lag_ms_max.channel."b"', 0, 20) == 20
    assert best.value('lag_ms_max.service."jobs"', 0, 20) == 20
    assert best.value('lag_ms_max.service."web"', 0, 500) == 400
    assert best.value('lag_ms_p50.channel."a"', 0, 60) == 100
    assert best.value('lag_ms_max.channel."c"', 7, 60) == -math.inf


def test_the_send_delay_loses_what_was_withheld_from_the_publisher(plan: RunFolder) -> None:
    plan.event(at(11), channel="a", sent_ns=at(11.3), acked_ns=at(11.31))
    plan.event(at(12), channel="a", sent_ns=at(12.2), acked_ns=at(12.21))
    plan.event(at(13), channel="a", sent_ns=at(15), acked_ns=at(15), outcome="memory")
    plan.event(at(9.5), channel="a", sent_ns=at(9.9))
    plan.event(at(13), channel="a", sent_ns=0, acked_ns=0, outcome="never-sent")
    best = best_of(starved(plan, locust=moments(11.25), h0=moments(12.25)))
    assert best.value("send_delay_ms_max", 300, 100) == 200
    assert best.value("send_delay_ms_max", 300, 250) == 250
    assert best.value("send_delay_ms_p50", 300, 100) == 200


def test_a_call_loses_what_was_withheld_from_its_publisher_and_the_servers_also_before_it_began_late(plan: RunFolder) -> None:
    plan.publish(1, channel="a")
    plan.calls = [
        (at(11), "locust-0", "a", 200 * MS, "ok"),  # locust stood still
        (at(12), "locust-0", "a", 200 * MS, "ok"),  # the broker did
        (at(13), "web-0", "a", 200 * MS, "ok"),  # h0 did
        (at(14), "locust-0", "a", 200 * MS, "ok"),  # h0 did, which is not its process
        (at(9.9), "locust-0", "a", 900 * MS, "ok"),
        (at(20), "locust-0", "a", 900 * MS, "ok"),
        (at(15), "locust-0", HTTP_CALL, 900 * MS, "ok"),
    ]
    best = best_of(starved(plan, locust=moments(11.25), broker=moments(12.25), h0=moments(13.25, 14.25)))
    quantiles = [best.value(f"call_ms_{q}", 0, 100) for q in ("p50", "p90", "max")]
    assert quantiles == [100, 200, 200]
    assert best.value("call_ms_max", 0, 150) == 200


def test_a_call_that_began_late_loses_what_was_withheld_until_it_ended(plan: RunFolder) -> None:
    """It was due at 11 s; the loop of its process was 300 ms late then, so it ran until 11.5."""
    plan.publish(1, channel="a")
    plan.calls = [(at(11), "locust-0", "a", 200 * MS, "ok")]
    starved(plan, locust=moments(11.5, ms=150))
    late = [(*row[:3], 300 * MS if row[:2] == (at(11), "locust") else 20 * US, *row[4:]) for row in plan.hosts or []]
    assert best_of(plan).value("call_ms_max", 200, 50) == 200
    plan.hosts, plan.folder = late, plan.folder.with_name("late")
    assert best_of(plan).value("call_ms_max", 200, 50) == 50


def test_the_age_of_items_loses_what_was_withheld_since_the_oldest(plan: RunFolder) -> None:
    """Three batches, of each the pod that began last counts; the second is not among the analytics batches but has several items."""
    plan.pod("web-1", channels=f"a,{BATCH}").pod("web-2", channels=f"a,{BATCH}")

    def batch(begin: float, lags: tuple[float, ...], *, channel: str = BATCH, items: int = 1, **columns: Any) -> None:
        event = plan.event(at(begin) + 100 * MS, channel=channel, items=items, first_item_ns=at(begin), **columns)
        for pod, lag in zip(("web-1", "web-2"), lags, strict=False):
            plan.hear(event, pod, lag_ns=round(lag * SECOND))

    batch(11, (0.05, 0.4))
    batch(13, (0.5,), channel="a", items=2)
    batch(15, (0.1, 0.6))
    batch(16, (2.0,), channel="a", items=1)  # no batch
    batch(17, (2.0,), items=0)  # of the bus itself
    batch(9.8, (2.0,))  # left before the run phase
    batch(20, (2.0,))  # began after it
    batch(18, ())  # nobody heard it
    best = best_of(starved(plan, h0=moments(11.25, 13.5)))
    assert [best.value(f"item_age_ms_{q}", 0, 1000) for q in ("p50", "max")] == [600, 700]
    assert [best.value(f"item_age_ms_{q}", 0, 350) for q in ("p50", "max")] == [350, 700]
    assert [best.value(f"item_age_ms_{q}", 0, 250) for q in ("p50", "max")] == [600, 700]


def test_stale_reads_are_asked_with_the_passages_of_this_run(plan: RunFolder) -> None:
    asked: list[Any] = []

    def stale(arriving: Any) -> np.ndarray:
        asked.append(arriving)
        return np.array([5, 1, 2, 9]) * MS

    plan.publish(1, channel="a")
    best = best_of(starved(plan), stale=stale)
    assert best.value("stale_reads", 9, 0) == 4.0
    assert (best.value("stale_ms_p50", 9, 0), best.value("stale_ms_max", 9, 0)) == (5.0, 9.0)
    assert all(isinstance(one.__self__, Passages) and one.__name__ == "arriving" for one in asked)
    assert best_of(plan).value("stale_ms_p50", 9, 0) == -math.inf, "of no stale read there is no time"


# -- since a fault --------------------------------------------------------------------------------------------------


def test_a_reaction_loses_what_was_withheld_in_it_and_one_more_try(plan: RunFolder) -> None:
    """The fault lasts from 12 to 14 s. From its beginning 250 ms were withheld from h0, and 100 from locust; later 40 from the broker."""
    plan.publish(1, channel="a")
    plan.faults = [("broker_down", "broker", at(12), at(14))]
    starved(plan, h0=moments(12.5), locust=moments(12.75, ms=100), broker=moments(14.5, ms=40))
    best = best_of(plan)
    assert best.value("time_to_notice_s_max", 1.5, 1.0) == 1.25, "to the nanosecond"
    for metric in ("time_to_recover_s_max", "deaf_s_max", "steady_s_max"):
        assert best.value(metric, 1.5, 1.0) == pytest.approx(1.5 - 0.04)
    plan.bus, plan.folder = {"reconnect_max_s": 0.5}, plan.folder.with_name("pause")
    best = best_of(plan)
    assert best.value("time_to_notice_s_max", 1.5, 1.0) == pytest.approx(1.5 - 0.25 - 0.5)
    assert best.value("time_to_recover_s_max", 1.5, 1.0) == pytest.approx(1.5 - 0.04 - 0.5), "the stall was in the fault"
    assert best.value("time_to_notice_s_max", 0.3, 0.1) == 0.0


def test_the_fault_in_which_most_was_withheld_says_what_it_would_have_been(plan: RunFolder) -> None:
    plan.publish(1, channel="a")
    plan.faults = [("broker_down", "broker", at(12), at(13)), ("broker_down", "broker", at(16), at(17))]
    best = best_of(starved(plan, h0=moments(16.5, ms=90)))
    assert best.value("time_to_notice_s_max", 1.5, 1.0) == pytest.approx(1.41)
    plan.faults, plan.folder = [], plan.folder.with_name("none")
    assert best_of(plan).value("time_to_notice_s_max", 1.5, 1.0) == 1.5


def test_a_server_and_a_process_stand_in_the_way_one_after_the_other(plan: RunFolder) -> None:
    plan.publish(1, channel="a")
    plan.faults = [("broker_down", "broker", at(12), at(14))]
    best = best_of(starved(plan, h0=moments(12.5, ms=90), broker=moments(12.5, ms=60), locust=moments(12.5, ms=50)))
    assert best.value("time_to_notice_s_max", 1.5, 1.0) == pytest.approx(1.5 - 0.15)
    assert best.value("time_to_notice_s_max", 0.2, 0.05) == 0.2, "which was over before that"


# -- counts ---------------------------------------------------------------------------------------------------------


def unheard(plan: RunFolder, *seconds: float, **columns: Any) -> list[Event]:
    return [plan.event(at(second), sent_ns=at(second), acked_ns=at(second), **columns) for second in seconds]


def test_a_loss_has_a_stall_at_most_ten_seconds_before_it_or_a_second_after(plan: RunFolder) -> None:
    """The stall at 15.25 s spans from 14.25 to 16."""
    unheard(plan, 13.24, 13.25, 15, 19.9, channel="a")
    unheard(plan, 9.99, 20, channel="a")
    assert best_of(starved(plan)).value("missing", 4, 0) == 1.0
    plan.folder = plan.folder.with_name("before")  # from 8 s to 9.25: rows begin at 8
    assert best_of(starved(plan, h0=moments(8.5))).value("missing", 4, 0) == 1.0
    plan.folder = plan.folder.with_name("bound")
    plan.events = []
    unheard(plan, 19.25, 19.26, channel="a")
    assert best_of(plan).value("missing", 2, 0) == 1.0


def test_missing_copies_of_a_service_and_of_a_channel_and_their_share(plan: RunFolder) -> None:
    plan.publish(3, channel="a", start_ns=at(11))
    unheard(plan, 12, 15, 16, channel="a")
    unheard(plan, 12, 12.5, 15, channel="b")
    unheard(plan, 12.2, channel="a", outcome="unknown")
    best = best_of(starved(plan))
    values = {'.channel."a"': (1.0, 7), '.channel."b"': (2.0, 3), '.service."web"': (1.0, 7), '.service."jobs"': (2.0, 3), "": (3.0, 10)}
    for scope, (left, owed) in values.items():
        assert best.value(f"missing{scope}", 9, 0) == left
        assert best.value(f"missing_ratio{scope}", 9, 0) == left / owed
    assert best.value('missing.channel."c"', 9, 0) == 0.0
    assert math.isnan(best.value('missing_ratio.channel."c"', 9, 0))


def test_an_event_that_found_no_pod_of_its_service_is_no_stall_s_doing(plan: RunFolder) -> None:
    plan.scenario = '[services.mail]\nsubscribes = ["a"]\n'
    unheard(plan, 15, 16, channel="a")
    assert best_of(starved(plan)).value("missing", 4, 0) == 2.0


def test_a_copy_that_was_due_when_it_was_meant_because_it_never_left(plan: RunFolder) -> None:
    plan.event(at(12), channel="a", sent_ns=0, acked_ns=0, outcome="never-sent")
    plan.event(at(15), channel="a", sent_ns=0, acked_ns=0, outcome="never-sent")
    assert best_of(starved(plan)).value("missing", 2, 0) == 1.0


def test_what_a_peer_took_is_no_stall_s_doing(plan: RunFolder) -> None:
    plan.transport = "streams"
    plan.pod("web-1", channels="a")
    for event in unheard(plan, 15, 16, channel="a"):
        plan.hear(event, "web-0")
    assert best_of(starved(plan)).value("missing", 2, 0) == 2.0


def in_fault(folder: Path, *, kind: str, target: str, for_s: float | None, other: str = "") -> AtBest:
    """Lose a copy of each pod every second from 11 to 19; a fault is on from 13 to 16 s, and h0 stalls about 13.25 s, to 14."""
    plan = RunFolder(folder).pod("web-0", channels="a").pod("web-1", channels="a")
    unheard(plan, *(11.1 + n for n in range(9)), channel="a")
    plan.faults = [(kind, target, at(13), at(16))]
    lasts = f"for_s = {for_s}\n" if for_s is not None else ""
    plan.scenario = f'[[faults]]\nkind = "{kind}"\n{lasts}{other}'
    return best_of(starved(plan, h0=moments(13.25)))


def test_in_a_fault_copies_are_lost_anyway_and_after_it_a_stall_in_it_counts_however_long_ago(tmp_path: Path) -> None:
    """Of each pod the first copy (11.1) is before the stall's touch, which begins at 11.25; the fault has those at 13.1, 14.1 and 15.1."""
    assert in_fault(tmp_path / "broker", kind="broker_down", target="broker", for_s=None).value("missing", 18, 0) == 2 + 2 * 3
    assert in_fault(tmp_path / "one", kind="pod_freeze", target="web-1", for_s=None).value("missing", 18, 0) == 2 + 3
    assert in_fault(tmp_path / "meant", kind="broker_down", target="broker", for_s=1.2).value("missing", 18, 0) == 2 + 2 * 2
    longer = "".join(
        f'[[faults]]\nkind = "{kind}"\nfor_s = {s}\n' for kind, s in (("broker_down", 2.2), ("x", 9), ("broker_down", '"4 s"'))
    )
    assert in_fault(tmp_path / "longest", kind="broker_down", target="broker", for_s=1.2, other=longer).value("missing", 18, 0) == 2 + 2 * 3
    assert in_fault(tmp_path / "done", kind="broker_down", target="broker", for_s=9).value("missing", 18, 0) == 2 + 2 * 3


def test_after_a_fault_a_stall_in_it_counts_however_long_ago(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0", channels="a", end_ns=at(41)).pod("web-1", channels="a", end_ns=at(41))
    plan.info.phases = [Phase("run", at(10), at(40)), Phase("drain", at(40), at(42))]
    unheard(plan, 30, 39, channel="a")
    plan.faults = [("pod_freeze", "web-0", at(13), at(29))]
    plan.numsub = False
    assert best_of(starved(plan, h0=moments(13.25))).value("missing", 4, 0) == 2.0, "those of web-1 are of no stall, those of web-0 are"


def test_items_that_were_lost_after_a_stall(plan: RunFolder) -> None:
    """The stall at 15.25 s may have made what was due from 13.25 s on; a pod's own fault has its batches."""
    for second, items, channel in (
        (12, 3, BATCH),
        (12.5, 1, BATCH),
        (13, 5, "a"),
        (15, 7, BATCH),
        (16, 11, "a"),
        (12.2, 1, "a"),
        (12.25, 1, "a"),
        (12.3, 0, BATCH),
    ):
        plan.event(at(second), channel=channel, items=items, outcome="refused")
    plan.publish(2, channel="a", start_ns=at(11), items=13)
    plan.event(at(9.9), channel=BATCH, items=17, first_item_ns=at(9))
    plan.event(at(10), channel=BATCH, items=19, first_item_ns=at(9))
    plan.event(at(20.5), channel=BATCH, items=23, first_item_ns=at(20))
    plan.event(at(15.5), channel=BATCH, items=29, publisher="web-0", outcome="never-sent", sent_ns=0, acked_ns=0)
    plan.event(at(15.5), channel=BATCH, items=31, publisher="jobs-0", outcome="never-sent", sent_ns=0, acked_ns=0)
    plan.faults = [("pod_stop", "web-0", at(15.1), at(16))]
    assert best_of(starved(plan)).value("items_lost", 99, 0) == 3 + 1 + 5 + 19 + 29


def test_what_a_generator_lost_while_the_broker_was_away_was_lost_anyway(plan: RunFolder) -> None:
    plan.event(at(15.5), channel=BATCH, items=37, outcome="refused")
    plan.faults = [("broker_down", "broker", at(15.1), at(16))]
    assert best_of(starved(plan)).value("items_lost", 99, 0) == 37


def test_calls_that_failed_after_a_stall(plan: RunFolder) -> None:
    plan.publish(1, channel="a")
    plan.calls = [
        (at(second), publisher, channel, MS, outcome)
        for second, publisher, channel, outcome in (
            (12, "locust-0", "a", "failed"),
            (12.5, "locust-0", "a", "failed"),
            (12.6, "locust-0", "a", "ok"),
            (12.7, "locust-0", HTTP_CALL, "failed"),
            (15, "locust-0", "a", "failed"),
            (15.5, "web-0", "a", "failed"),
            (15.5, "jobs-0", "a", "failed"),
            (9.99, "locust-0", "a", "failed"),
            (10, "locust-0", "a", "failed"),
            (20, "locust-0", "a", "failed"),
        )
    ]
    plan.faults = [("pod_stop", "web-0", at(15.1), at(16))]
    assert best_of(starved(plan)).value("calls_failed", 99, 0) == 4.0


def test_what_the_generator_could_not_offer(plan: RunFolder) -> None:
    """Of ten seconds it stood still for one."""
    plan.publish(1, channel="a")
    best = best_of(starved(plan, locust=moments(12, 12.25, 12.5, 12.75), h0=moments(14, 14.25, 14.5, 14.75, 15, 15.25)))
    assert best.value("offered_ratio_min", 0.8, 0.99) == pytest.approx(0.9)
    assert best.value("offered_ratio_min", 0.95, 0.99) == 1.0
    plan.folder = plan.folder.with_name("waits")
    assert best_of(starved(plan, locust=moments(*range(11, 19), ms=90), h0=moments(14))).value("offered_ratio_min", 0.8, 0.99) == 0.8
    plan.folder, plan.load = plan.folder.with_name("none"), None
    run = open_run(plan.write())
    run.info.load.generators.clear()
    assert AtBest(run, lambda arriving: np.array([])).value("offered_ratio_min", 0.8, 0.99) == 0.8


def test_in_a_run_phase_of_no_length_nothing_was_withheld(plan: RunFolder) -> None:
    plan.publish(1, channel="a", start_ns=at(12))
    plan.info.phases = [Phase("run", at(12), at(12)), Phase("drain", at(12), at(14))]
    assert best_of(starved(plan, locust=moments(12, 12.25))).value("offered_ratio_min", 0.8, 0.99) == 0.8


# -- once -----------------------------------------------------------------------------------------------------------


def ran(plan: RunFolder, *events: tuple[float, dict[str, float]], **bus: Any) -> AtBest:
    """Let pods handle events so many milliseconds after the second in which each was meant."""
    plan.bus |= bus
    for second, handled in events:
        event = plan.event(at(second), channel="a")
        for pod, ms in handled.items():
            plan.hear(event, pod, lag_ns=round(ms * MS))
    return best_of(starved(plan, h0=moments(12.25, ms=100)))


@pytest.fixture
def twice(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run").service("web", replicas=3, channels="a").pod("jobs-0", service="jobs", channels="a")


@pytest.mark.parametrize(
    ("second", "gap_ms", "handler_ms", "fault_ms", "left"),
    [
        pytest.param(15, 5, 9, 0, 1, id="nothing was withheld on its way"),
        pytest.param(12.1, 101, 0, 0, 1, id="100 ms were, and it is 101 late"),
        pytest.param(12.1, 101, 1, 0, 0, id="then the first still ran"),
        pytest.param(12.1, 101, 0.9, 0, 1, id="then it did not any more"),
        pytest.param(12.1, 101, 0, 1, 0, id="a fault may make handlers slow"),
        pytest.param(12.1, 101, 1, 0.5, 0, id="the slower of both counts"),
    ],
)
def test_a_second_run_of_a_lock_that_is_held_while_the_handler_runs(
    twice: RunFolder, second: float, gap_ms: float, handler_ms: float, fault_ms: float, left: int
) -> None:
    faults = f'[[faults]]\nkind = "slow_handler"\nhandler_ms = {fault_ms}\n[[faults]]\nkind = "pod_kill"\n' if fault_ms else ""
    twice.scenario = (f"[services.web]\nhandler_ms = {handler_ms}\n" if handler_ms else "") + faults
    event = (second, {"web-0": 1, "web-1": 1 + gap_ms})
    assert ran(twice, event, once="finally-del").value("handled_twice", 1, 0) == left


@pytest.mark.parametrize(
    ("second", "gap_ms", "ttl_s", "left"),
    [
        pytest.param(12.1, 150, 0.15, 0, id="its time ran out, and without 100 of these 150 ms it had not"),
        pytest.param(12.1, 150, 0.16, 1, id="its time had not run out"),
        pytest.param(12.1, 150, 0.05, 1, id="it had even without them"),
        pytest.param(15, 150, 0.15, 1, id="nothing was withheld between the two"),
        pytest.param(12.1, 150, None, 1, id="it lasts for ever"),
    ],
)
def test_a_second_run_of_a_marker(twice: RunFolder, second: float, gap_ms: float, ttl_s: float | None, left: int) -> None:
    bus = {"once": "keep-marker"} | ({"once_ttl_s": ttl_s} if ttl_s else {})
    assert ran(twice, (second, {"web-0": 1, "web-1": 1 + gap_ms}), **bus).value("handled_twice", 1, 0) == left


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        ({12.1: 10}, 0),
        ({12.1: 9}, 1),
        ({12.1: -20}, 1),
        ({11.9: 20}, 1),
        ({12.9: 20}, 0),
        ({13.2: 20}, 1),
        ({14.3: 20}, 1),
        ({12.1: 6, 12.6: 6}, 0),
    ],
)
def test_a_marker_whose_time_the_wall_clock_ended(twice: RunFolder, steps: dict[float, float], left: int) -> None:
    """The two runs are 200 ms apart, from 12 s on, and the marker was to last 10.2 s; rows are told every quarter second."""
    event = twice.event(at(12), channel="a")
    for pod, ms in (("web-0", 10), ("web-1", 210)):
        twice.hear(event, pod, lag_ns=ms * MS)
    twice.bus = {"once": "two-key", "once_ttl_s": 10.2}

    def said(now: int) -> Waits:
        return Waits(
            waited_ns=0.0, wall_offset_ns=float(sum(by * SECOND for second, by in steps.items() if now > at(second))), suspended_ns=0.0
        )

    assert best_of(starved(twice, h0=said)).handled_twice() == left


@pytest.mark.parametrize(("scope", "left"), [("service", 1), ("event", 3)])
def test_which_runs_are_two_of_one_lock(twice: RunFolder, scope: str, left: int) -> None:
    """Two services that run an event are two of it only where one lock is for all."""
    best = ran(
        twice,
        (11, {"web-0": 1, "web-1": 2, "web-2": 3, "jobs-0": 1}),
        (12, {"web-0": 1, "jobs-0": 2}),
        (13, {"web-0": 1}),
        (14, {"jobs-0": 3, "web-1": 1}),
        (9.5, {"web-0": 1, "web-1": 2}),
        once="keep-marker",
        once_scope=scope,
    )
    assert best.handled_twice() == left
    assert best.may_be_made("once") is False


def test_only_handlers_that_ran_count(twice: RunFolder) -> None:
    event = twice.event(at(11), channel="a")
    for pod, outcome in (("web-0", "handled"), ("web-1", "skipped"), ("web-2", "failed")):
        twice.hear(event, pod, outcome=outcome)
    best = best_of(starved(twice))
    assert best.handled_twice() == 0
    assert best.may_be_made("once") is True


# -- checkers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stall", "expected"),
    [(13.5, False), (14.25, True), (17, True), (22.5, True)],
)
def test_the_lab_may_not_have_recovered_because_it_stalled_after_the_last_fault(plan: RunFolder, stall: float, expected: bool) -> None:
    """Faults end at 13 and 15 s, the drain at 22; a stall spans from a second before its row's end."""
    plan.publish(1, channel="a")
    plan.faults = [("broker_down", "broker", at(14), at(15)), ("pod_freeze", "web-0", at(11), at(13))]
    best = best_of(starved(plan, h0=moments(stall)))
    assert best.may_be_made("steady") is expected
    assert best.may_be_made("order") is best.may_be_made("ledger") is False


def test_a_run_that_never_came_to_its_drain_may_have_stalled_until_its_end(plan: RunFolder) -> None:
    plan.publish(1, channel="a")
    plan.faults = [("broker_down", "broker", at(14), at(15))]
    plan.info.phases = [phase for phase in plan.info.phases if phase.name != "drain"]
    assert best_of(starved(plan, h0=moments(22.5))).may_be_made("steady") is True
    plan.folder = plan.folder.with_name("quiet")
    assert best_of(starved(plan, h0=moments(12.5))).may_be_made("steady") is False
