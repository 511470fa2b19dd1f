"""When a pod could not hear, and what a fault on its link explains of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.record.reader import FOREVER_NS
from sim.results.opened_run import open_run
from sim.results.pod_histories import make_history
from sim.results.silent_windows import CUT_SAMPLING_NS, DOWN_GRACE_NS, LOSING, PodFault, read_windows
from tests.support.run_folders import MS, SECOND, US, Event, RunFolder

AT_NS = 12 * SECOND


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run").service("web", replicas=2)


def silent(plan: RunFolder, *, lost_ns: int, back_ns: int, first_ns: int) -> list[Event]:
    """Publish for a second; web-0 hears nothing from `first_ns` to `back_ns`, and notices at `lost_ns`. Return what it did not hear."""
    events = plan.publish(1000, start_ns=AT_NS)
    plan.state("web-0", lost_ns, "disconnected").state("web-0", back_ns, "subscribed")
    gone = [event for event in events if first_ns <= event.sent_ns < back_ns]
    for event in gone:
        plan.drop(event, "web-0")
    return gone


def causes(plan: RunFolder) -> Counter[str]:
    ledger = open_run(plan.write()).ledger()
    return Counter(ledger.loc[ledger["fate"] == "missing", "cause"].astype(str))


def in_fault(events: list[Event], end_ns: int) -> int:
    return sum(event.sent_ns <= end_ns for event in events)


@pytest.mark.parametrize("fault", sorted(LOSING))
def test_what_a_bad_link_lost_is_cut_link_and_what_came_before_the_pod_was_back_is_deaf(plan: RunFolder, fault: str) -> None:
    """Also what was on its way when the fault began, five milliseconds before."""
    begin_ns, end_ns = AT_NS + 200 * MS + 500 * US, AT_NS + 400 * MS + 500 * US
    plan.faults.append((fault, "web-0,api-0", begin_ns, end_ns))
    gone = silent(plan, lost_ns=begin_ns + MS, back_ns=AT_NS + 600 * MS + 500 * US, first_ns=begin_ns - 5 * MS)
    lost = in_fault(gone, end_ns)
    assert causes(plan) == {"cut-link": lost, "deaf": len(gone) - lost}
    assert lost > 200
    assert len(gone) - lost > 150


@pytest.mark.parametrize(
    ("fault", "target"), [("link_slow", "web-0"), ("pod_freeze", "web-0"), ("partition", "web-1"), ("broker_down", "broker")]
)
def test_a_fault_that_loses_nothing_on_this_link_explains_nothing(plan: RunFolder, fault: str, target: str) -> None:
    plan.faults.append((fault, target, AT_NS + 200 * MS, AT_NS + 400 * MS))
    gone = silent(plan, lost_ns=AT_NS + 201 * MS, back_ns=AT_NS + 600 * MS, first_ns=AT_NS + 201 * MS)
    assert causes(plan) == {"deaf": len(gone)}


def test_a_connection_that_was_lost_before_the_fault_was_not_lost_by_it(plan: RunFolder) -> None:
    begin_ns, end_ns = AT_NS + 300 * MS + 500 * US, AT_NS + 400 * MS + 500 * US
    plan.faults.append(("partition", "web-0", begin_ns, end_ns))
    gone = silent(plan, lost_ns=AT_NS + 200 * MS, back_ns=AT_NS + 600 * MS + 500 * US, first_ns=AT_NS + 200 * MS)
    inside = sum(event.acked_ns >= begin_ns and event.sent_ns <= end_ns for event in gone)
    assert causes(plan) == {"cut-link": inside, "deaf": len(gone) - inside}
    assert 90 < inside < 110


def test_a_bad_link_does_not_excuse_what_was_lost_before_a_later_event_was_heard(plan: RunFolder) -> None:
    events = plan.publish(100, start_ns=AT_NS)
    plan.faults.append(("link_reset", "web-0", AT_NS, AT_NS + 100 * MS))
    plan.state("web-0", events[50].sent_ns + 500 * US, "disconnected").state("web-0", events[50].sent_ns + 600 * US, "subscribed")
    plan.drop(events[40], "web-0")
    assert causes(plan) == {"unexplained": 1}


def test_without_a_lost_connection_a_bad_link_explains_nothing(plan: RunFolder) -> None:
    """TCP repeats what a black hole swallowed: it may be late, not lost."""
    events = plan.publish(100, start_ns=AT_NS)
    plan.faults.append(("link_blackhole", "web-0", AT_NS, AT_NS + 100 * MS))
    plan.drop(events[40], "web-0")
    assert causes(plan) == {"unexplained": 1}


def test_a_cut_for_a_full_buffer_is_a_cut_behind_a_bad_link_too(plan: RunFolder) -> None:
    plan.faults.append(("link_blackhole", "web-0", AT_NS + 100 * MS, AT_NS + 500 * MS))
    gone = silent(plan, lost_ns=AT_NS + 500 * MS, back_ns=AT_NS + 600 * MS, first_ns=AT_NS + 100 * MS)
    plan.broker.append((AT_NS + 300 * MS, "buffer_cuts", "web-0", 1.0))
    assert causes(plan) == {"cut": len(gone)}


def test_a_pod_that_starts_behind_a_partition_is_cut_off_as_long_as_that_lasts(plan: RunFolder) -> None:
    events = plan.publish(100, start_ns=AT_NS)
    plan.pods["new"] = ("web", "config.updated")
    plan.state("new", events[10].sent_ns - 1, "starting").state("new", events[60].sent_ns - 10 * US, "subscribed")
    plan.state("new", 30 * SECOND, "stopped")
    plan.faults.append(("partition", "new", AT_NS, events[40].sent_ns - 10 * US))
    for event in events[60:]:
        plan.hear(event, "new")
    assert causes(plan) == {"cut-link": 30, "deaf": 20}


@pytest.mark.parametrize(("answered_ms", "expected"), [(50, {"pod-down": 1}), (-50, {"unexplained": 1})])
def test_the_end_of_all_pods_excuses_only_what_had_no_answer_yet(plan: RunFolder, answered_ms: int, expected: dict[str, int]) -> None:
    """On a link so slow that the drain is over before the broker has what was sent."""
    events = plan.publish(10, start_ns=AT_NS)
    events[4].acked_ns = 21 * SECOND + answered_ms * MS
    plan.drop(events[4], "web-0").end("web-0", 21 * SECOND, "stopped")
    assert causes(plan) == Counter(expected)


def test_a_row_that_tells_of_a_pod_s_clock_ends_no_silence(plan: RunFolder) -> None:
    """A pod that starts is deaf until it has subscribed, whatever else is told of it meanwhile."""
    plan.state("web-0", AT_NS - SECOND, "aborted").state("web-0", AT_NS, "starting").state("web-0", AT_NS + 300 * MS, "starting")
    plan.clocks["web-0", AT_NS + 300 * MS] = 5 * SECOND
    plan.state("web-0", AT_NS + 600 * MS, "subscribed")
    for event in [event for event in plan.publish(1000, start_ns=AT_NS) if event.sent_ns < AT_NS + 600 * MS]:
        plan.drop(event, "web-0")
    assert causes(plan) == {"deaf": 600}


# The rules one by one, on a pod's rows as (second, state) and on what it heard as (received, sent) in seconds.

Rows = list[tuple[float, str]]
Windows = list[tuple[float, float, str]]
NEVER = FOREVER_NS / SECOND
BEGUN: Rows = [(5, "starting"), (9, "subscribed")]
FIRST = (5, 9, "deaf")


def windows(
    rows: Rows,
    *,
    heard: list[tuple[float, float]] | None = None,
    cuts: tuple[float, ...] = (),
    faults: tuple[tuple[str, float, float], ...] = (),
    drain: float = NEVER,
    is_slow: bool = False,
) -> Windows:
    def ns(seconds: float) -> int:
        return round(seconds * SECOND)

    history = make_history("p", service="web", channels=["a"], at_ns=[ns(at) for at, _ in rows], states=[state for _, state in rows])
    received, sent = (np.array([ns(pair[n]) for pair in heard or []], dtype=np.int64) for n in (0, 1))
    on_pod = [PodFault(fault, ns(begin), ns(end), frozenset(["p"])) for fault, begin, end in faults]
    found = read_windows(
        history,
        received_ns=received,
        sent_ns=sent,
        cuts_ns=[ns(cut) for cut in cuts],
        faults=on_pod,
        drain_ns=FOREVER_NS if drain == NEVER else ns(drain),
        is_slow=is_slow,
    )
    return [(one.begin_ns / SECOND, one.end_ns / SECOND, one.cause) for one in found]


@pytest.mark.parametrize(
    ("rows", "heard", "expected"),
    [
        pytest.param(BEGUN, [], [FIRST], id="until it subscribed for the first time"),
        pytest.param([(0, "starting"), (9, "subscribed")], [], [(0, 9, "deaf")], id="also from the very beginning of the clock"),
        pytest.param(
            [*BEGUN, (20, "disconnected"), (30, "subscribed")], [], [FIRST, (9, 30, "deaf")], id="since it joined, if it heard nothing"
        ),
        pytest.param(
            [*BEGUN, (20, "disconnected")], [(12, 11), (19, 15)], [FIRST, (15, NEVER, "deaf")], id="since the newest it heard was sent"
        ),
        pytest.param(
            [*BEGUN, (20, "disconnected")], [(20, 15), (21, 20)], [FIRST, (15, NEVER, "deaf")], id="what came at that moment was heard"
        ),
        pytest.param([*BEGUN, (20, "disconnected")], [(12, 11), (13, 10)], [FIRST, (11, NEVER, "deaf")], id="the newest, not the last"),
        pytest.param([*BEGUN, (20, "disconnected")], [(12, 3)], [FIRST, (9, NEVER, "deaf")], id="never from before it joined"),
        pytest.param(
            [*BEGUN, (20, "disconnected"), (21, "disconnected"), (22, "subscribed")], [(19, 18)], [FIRST, (18, 22, "deaf")], id="once"
        ),
        pytest.param(
            [*BEGUN, (20, "subscribed"), (30, "disconnected"), (40, "subscribed")],
            [],
            [FIRST, (9, 40, "deaf")],
            id="the other connection came",
        ),
        pytest.param(
            [*BEGUN, (20, "disconnected"), (30, "subscribed"), (40, "disconnected")],
            [(12, 11)],
            [FIRST, (11, 30, "deaf"), (30, NEVER, "deaf")],
            id="after the second time since it joined again",
        ),
        pytest.param(
            [*BEGUN, (20, "disconnected"), (30, "aborted")], [(19, 18)], [FIRST, (18, 30, "deaf")], id="until it ended without it"
        ),
        pytest.param([(9, "subscribed"), (20, "disconnected")], [], [(9, NEVER, "deaf")], id="of a pod whose beginning is not known"),
    ],
)
def test_a_silent_window_lasts(rows: Rows, heard: list[tuple[float, float]], expected: Windows) -> None:
    assert windows(rows, heard=heard) == expected


GRACE = DOWN_GRACE_NS / SECOND
ENDED: Rows = [*BEGUN, (20, "aborted")]


@pytest.mark.parametrize(
    ("heard", "more", "expected"),
    [
        pytest.param([(11, 10.5)], {}, (20 - GRACE - 0.5, 20), id="a grace and its last transit time before"),
        pytest.param([(20, 19.75)], {}, (19.75, 20), id="not before what it heard at that very moment"),
        pytest.param([], {}, (20 - GRACE, 20), id="a grace, if it never heard anything"),
        pytest.param([(11, 10.5)], {"faults": [("link_slow", 12, 15)]}, (12, 20), id="since any fault on it began"),
        pytest.param([(11, 10.5)], {"faults": [("link_slow", 8, 10.5), ("pod_kill", 20, 20)]}, (10.5, 20), id="at its bounds"),
        pytest.param([(11, 10.5)], {"faults": [("link_slow", 8, 10.4), ("pod_kill", 20.1, 21)]}, (18.5, 20), id="not one before or after"),
        pytest.param([(11, 10.5)], {"drain": 20.001}, (18.5, 20), id="just before the drain"),
        pytest.param([(11, 10.5)], {"drain": 20}, (20, 20), id="in the drain only what has no answer yet"),
    ],
)  # fmt: skip
def test_the_end_of_a_pod_excuses(heard: list[tuple[float, float]], more: dict[str, Any], expected: tuple[float, float]) -> None:
    assert windows(ENDED, heard=heard, **more) == [FIRST, (*expected, "pod-down")]


def test_a_freeze_excuses_from_its_beginning_what_died_with_the_pod() -> None:
    rows: Rows = [*BEGUN, (14, "frozen"), (17, "subscribed"), (20, "aborted")]
    assert windows(rows, heard=[(11, 10.5)]) == [FIRST, (14, 20, "pod-down")]
    assert windows(rows, heard=[(18, 17.5)]) == [FIRST, (20 - GRACE - 0.5, 20, "pod-down")]


@pytest.mark.parametrize(("at", "cause"), [(15, "cut"), (20 + CUT_SAMPLING_NS / SECOND, "cut"), (14.9, "deaf"), (21.1, "deaf")])
def test_a_window_is_a_cut_when_the_broker_cut_from_its_beginning_until_it_can_have_been_seen(at: float, cause: str) -> None:
    rows: Rows = [*BEGUN, (20, "disconnected"), (30, "subscribed"), (40, "disconnected"), (50, "subscribed")]
    assert windows(rows, heard=[(16, 15)], cuts=(at,)) == [FIRST, (15, 30, cause), (30, 50, "deaf")]


def test_a_pod_that_starts_anew_is_deaf_and_what_its_last_life_lost_keeps_its_cause() -> None:
    rows: Rows = [*BEGUN, (20, "disconnected"), (25, "starting"), (30, "subscribed")]
    assert windows(rows, heard=[(16, 15)], cuts=(18,)) == [FIRST, (15, 25, "cut"), (25, 30, "deaf")]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        pytest.param((16, 18), [(16, 18, "cut-link")], id="it was over when the connection ended: what it was on for"),
        pytest.param((16, 20), [(15, 20, "cut-link")], id="the connection ended in it: also what was under way before"),
        pytest.param((20, 25), [(15, 25, "cut-link")], id="and at its beginning"),
        pytest.param((21, 25), [(21, 25, "cut-link")], id="it began after the connection had ended"),
        pytest.param((10, 40), [(15, 30, "cut-link")], id="longer than the window: the window"),
        pytest.param((30, 40), [(30, 30, "cut-link")], id="from the window's end"),
        pytest.param((10, 15), [(15, 15, "cut-link")], id="to the window's beginning"),
        pytest.param((30.1, 40), [], id="after it"),
        pytest.param((10, 14.9), [], id="before it"),
    ],
)  # fmt: skip
def test_a_fault_on_the_link_explains_of_a_window(fault: tuple[float, float], expected: Windows) -> None:
    rows: Rows = [*BEGUN, (20, "disconnected"), (30, "subscribed")]
    assert windows(rows, heard=[(16, 15)], faults=(("link_cut", *fault),)) == [FIRST, *expected, (15, 30, "deaf")]
    assert windows(rows, heard=[(16, 15)], faults=(("link_slow", *fault),)) == [FIRST, (15, 30, "deaf")]


def test_the_parts_of_a_window_that_never_ended_and_of_one_that_ended_with_the_pod() -> None:
    fault = (("partition", 19, 25),)
    assert windows([*BEGUN, (20, "disconnected")], faults=fault) == [FIRST, (9, 25, "cut-link"), (9, NEVER, "deaf")]
    assert windows([*BEGUN, (20, "disconnected"), (22, "aborted")], faults=fault) == [FIRST, (9, 22, "cut-link"), (9, 22, "deaf")]
    assert windows([(15, "starting"), (22, "subscribed")], faults=fault) == [(19, 22, "cut-link"), (15, 22, "deaf")]


def test_a_second_row_of_a_pod_that_starts_opens_no_other_window() -> None:
    assert windows([(5, "starting"), (6, "starting"), (7, "starting"), (9, "subscribed")]) == [FIRST]
    again: Rows = [*BEGUN, (20, "aborted"), (21, "starting"), (22, "starting"), (23, "aborted"), (24, "starting"), (25, "subscribed")]
    assert windows(again) == [FIRST, (19, 20, "pod-down"), (21, 23, "deaf"), (24, 25, "deaf")]


def test_a_pod_that_starts_anew_behind_a_bad_link_closes_what_its_last_life_lost() -> None:
    rows: Rows = [*BEGUN, (20, "disconnected"), (25, "starting"), (30, "subscribed")]
    fault = (("link_cut", 19, 27),)
    assert windows(rows, heard=[(16, 15)], faults=fault) == [
        FIRST,
        (15, 25, "cut-link"),
        (15, 25, "deaf"),
        (25, 27, "cut-link"),
        (25, 30, "deaf"),
    ]


@pytest.mark.parametrize(
    ("heard", "drain", "is_slow", "expected"),
    [
        pytest.param([(12, 11), (19, 18.4)], 20, True, [(18.4, 20, "behind"), (20, 20, "pod-down")], id="since what it read last was sent"),
        pytest.param([(19, 18.4)], 20, True, [(18.4, 20, "behind"), (20, 20, "pod-down")], id="also if it read nothing else"),
        pytest.param([(19, 18.5)], 20, True, [(20, 20, "pod-down")], id="which had not waited for long"),
        pytest.param([(19, 18.4)], 20, False, [(20, 20, "pod-down")], id="but of a pod whose handlers take no time"),
        pytest.param([], 20, True, [(20, 20, "pod-down")], id="or that read nothing"),
        pytest.param([(19, 18.4)], 20.1, True, [(18.4, 20, "pod-down")], id="and of one that ended before the drain"),
    ],
)
def test_a_pod_whose_handlers_take_time_may_be_behind_when_it_ends_in_the_drain(
    heard: list[tuple[float, float]], drain: float, is_slow: bool, expected: Windows
) -> None:
    assert windows([*BEGUN, (20, "stopped")], heard=heard, drain=drain, is_slow=is_slow) == [FIRST, *expected]
