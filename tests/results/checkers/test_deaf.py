"""The checker `deaf` on runs whose deaf windows are planted, and against a plain loop."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.record.reader import FOREVER_NS
from sim.results.checkers import judge
from sim.results.checkers.deaf import check, windows
from sim.results.checkers.verdict import Bounds
from sim.results.opened_run import open_run
from sim.results.outages import read_outages
from tests.support.examples import examples
from tests.support.run_folders import MS, SECOND, US, Event, RunFolder

BEGIN, END = 13 * SECOND, 15 * SECOND


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    plan = RunFolder(tmp_path / "run").service("web", replicas=2)
    plan.publish(30, step_ns=100 * MS)  # until 12.9 s
    plan.faults = [("broker_down", "broker", BEGIN, END)]
    return plan


def cut(plan: RunFolder, pod: str, back_ns: int, *, bus: str = "") -> None:
    plan.state(pod, BEGIN + MS, "disconnected", bus)
    if back_ns:
        plan.state(pod, back_ns, "subscribed")


def publish_from(plan: RunFolder, start_ns: int, hears_ns: dict[str, int], *, count: int = 30) -> list[Event]:
    """Publish an event every 100 ms, heard by a pod from its time on."""
    events = [plan.event(start_ns + n * 100 * MS) for n in range(count)]
    for event in events:
        for pod, at in hears_ns.items():
            if event.intended_ns >= at:
                plan.hear(event, pod)
    return events


def test_without_a_fault_nobody_is_deaf(plan: RunFolder) -> None:
    plan.faults = []
    result = check(open_run(plan.write()))
    assert (result.verdict, result.detail) == ("valid", "no fault was begun")
    assert all(math.isnan(value) for value in result.metrics.values())


def test_a_fault_that_was_meant_and_is_not_recorded_is_unknown(plan: RunFolder) -> None:
    plan.faults, plan.scenario = [], '[[faults]]\nkind = "broker_down"\n'
    assert check(open_run(plan.write())).verdict == "unknown"


def test_a_window_lasts_from_the_fault_s_end_until_the_pod_is_subscribed(plan: RunFolder) -> None:
    cut(plan, "web-0", END + 250 * MS)
    cut(plan, "web-1", END + 1000 * MS)
    events = publish_from(plan, END + 50 * MS, {"web-0": END + 250 * MS, "web-1": END + 1000 * MS})
    result = check(open_run(plan.write()))
    counts = result.counts
    assert (counts["windows"], counts["deaf"], counts["deaf_s.p50"], counts["deaf_s.max"]) == (2, 2, 1.0, 1.0)
    assert (counts["lost"], counts["lost_after"], counts["told"], counts["untold"]) == (2 + 10, 2 + 10, 2, 0)
    assert result.metrics == {"deaf_s_max": 1.0, "deaf_copies": 12.0, "deaf_untold": 0.0}
    assert result.witnesses[0].split()[0] == events[0].id
    assert "the first of 10 copies that web-1 did not hear; it was deaf for 1 s after broker_down" in result.witnesses[0]
    text = "at most for 1 s (web-1 after broker_down); 12 copies were lost by not hearing, all of them after the end"
    assert text in result.detail and result.detail.endswith("the application was told each time")


def test_a_delivery_after_the_end_proves_hearing_before_the_pod_s_own_row(plan: RunFolder) -> None:
    cut(plan, "web-0", END + 900 * MS)
    cut(plan, "web-1", 14 * SECOND)  # it heard again before the end
    publish_from(plan, END + 50 * MS, {"web-0": END + 350 * MS, "web-1": END})
    counts = check(open_run(plan.write())).counts
    assert counts["deaf_s.max"] == pytest.approx(0.35 + 240e-6)
    assert counts["deaf"] == 1


def test_copies_lost_before_the_end_are_told_apart(plan: RunFolder) -> None:
    plan.faults = [("subscribers_cut", "broker", BEGIN, END)]
    cut(plan, "web-0", END + 350 * MS)
    publish_from(plan, END - 500 * MS, {"web-0": END + 350 * MS, "web-1": 0})
    counts = check(open_run(plan.write())).counts
    assert (counts["lost"], counts["lost_after"]) == (9, 3 + 1), "at -500 to +300 ms, and the end itself is after"


def test_a_pod_that_called_itself_connected_all_the_time_was_not_told(plan: RunFolder) -> None:
    cut(plan, "web-0", END + 250 * MS, bus="connected")
    publish_from(plan, END + 50 * MS, {"web-0": END + 250 * MS, "web-1": 0})
    result = check(open_run(plan.write()))
    assert (result.counts["told"], result.counts["untold"], result.metrics["deaf_untold"]) == (0, 1, 1.0)
    assert result.witnesses[0].endswith("and its application was not told")
    assert result.detail.endswith("the application was not told in 1 of 1 cases")


@pytest.mark.parametrize(("limit", "verdict"), [(4.0, "invalid"), (6.0, "unknown")])
def test_a_pod_that_never_hears_again_passes_no_limit(plan: RunFolder, limit: float, verdict: str) -> None:
    plan.slo = {"deaf_s_max": limit}
    cut(plan, "web-0", 0)
    publish_from(plan, END + 50 * MS, {"web-1": 0})
    judged = judge(open_run(plan.write()), only=["deaf"])
    assert judged.checkers["deaf"].counts["unended"] == 1
    assert judged.slo[0].verdict == verdict


def test_a_pod_that_is_dead_at_the_end_of_the_fault_is_not_deaf(plan: RunFolder) -> None:
    plan.end("web-0", BEGIN + MS)
    counts = check(open_run(plan.write())).counts
    assert (counts["windows"], counts["deaf"]) == (1, 0)


def test_copies_that_were_lost_in_the_fault_alone_leave_nobody_deaf(plan: RunFolder) -> None:
    """Three of web-1 are lost in the fault, and it is back before its end; of web-0 nothing is lost."""
    cut(plan, "web-1", END - 50 * MS)
    publish_from(plan, END - 350 * MS, {"web-0": 0, "web-1": END - 50 * MS})
    result = check(open_run(plan.write()))
    assert result.detail == (
        "no pod was deaf after a fault had ended; 3 copies were lost by not hearing, while the fault was on; "
        "the application was told each time"
    )
    assert result.witnesses[0].endswith("the first of 3 copies that web-1 did not hear; it was deaf for 0 s after broker_down")
    assert (result.counts["deaf"], result.counts["lost"], result.counts["lost_after"], result.counts["told"]) == (0, 3, 0, 1)


@pytest.mark.parametrize(
    ("lost", "after", "said"),
    [
        (1, 1, "1 copy was lost by not hearing, after the end"),
        (1, 0, "1 copy was lost by not hearing, while the fault was on"),
        (2, 2, "2 copies were lost by not hearing, all of them after the end"),
        (2, 1, "2 copies were lost by not hearing, 1 of them after the end"),
        (2, 0, "2 copies were lost by not hearing, while the fault was on"),
    ],
)
def test_how_many_of_the_lost_copies_came_after_the_end(plan: RunFolder, lost: int, after: int, said: str) -> None:
    cut(plan, "web-0", END + 250 * MS)
    first = END + 50 * MS - 100 * MS * (lost - after)
    publish_from(plan, first, {"web-0": first + lost * 100 * MS, "web-1": 0})
    result = check(open_run(plan.write()))
    assert f"; {said}; " in result.detail
    which = f"the first of {lost} copies" if lost > 1 else "the one copy"
    assert f" on config.updated: {which} that web-0 did not hear; it was deaf for " in result.witnesses[0]


def test_a_subscription_and_a_copy_at_the_very_end_of_the_fault(plan: RunFolder) -> None:
    """Who is subscribed at the end is not deaf; what was sent then counts as after the end."""
    cut(plan, "web-0", END)
    cut(plan, "web-1", END + 500 * MS)
    sent = {"sent_ns": END, "acked_ns": END + 100 * US}
    plan.hear(plan.event(END, **sent), "web-0", lag_ns=10 * US)
    plan.hear(plan.event(END + 600 * MS), "web-1")
    counts = check(open_run(plan.write())).counts
    assert (counts["windows"], counts["deaf"], counts["deaf_s.max"]) == (2, 1, 0.5)
    assert (counts["lost"], counts["lost_after"]) == (1, 1), "that of web-1 at the end"


@pytest.mark.parametrize(("received", "deaf_s"), [(END, 0.25), (END + MS, 0.001)])
def test_only_what_was_received_after_the_fault_s_end_proves_that_a_pod_hears(plan: RunFolder, received: int, deaf_s: float) -> None:
    cut(plan, "web-0", END + 250 * MS)
    event = plan.event(END - 100 * MS)
    for pod in plan.pods:
        plan.hear(event, pod, lag_ns=received + 10 * US - event.intended_ns)
    assert check(open_run(plan.write())).counts["deaf_s.max"] == deaf_s


def test_of_two_faults_each_has_what_was_lost_from_its_beginning_until_it_was_over(plan: RunFolder) -> None:
    """web-0 loses copies in both; what it loses before the first, while no fault was on, is put down to none."""
    plan.faults = [("broker_down", "broker", BEGIN, END), ("subscribers_cut", "broker", 17 * SECOND, 17 * SECOND + MS)]
    plan.drop(plan.events[29], "web-0")
    cut(plan, "web-0", END + 250 * MS)
    publish_from(plan, END + 50 * MS, {"web-0": END + 250 * MS, "web-1": 0}, count=10)
    plan.state("web-0", 17 * SECOND, "disconnected").state("web-0", 17 * SECOND + 451 * MS, "subscribed")
    publish_from(plan, 17 * SECOND + 50 * MS, {"web-0": 17 * SECOND + 451 * MS, "web-1": 0}, count=10)
    found = windows(open_run(plan.write()), read_outages(open_run(plan.folder)))
    told = [(one.pod, one.fault, one.deaf_s, len(one.lost), one.lost_after) for one in found if one.pod == "web-0"]
    assert told == [("web-0", "broker_down", 0.25, 2, 2), ("web-0", "subscribers_cut", 0.45, 5, 5)]


def test_where_pods_were_owed_nothing_from_the_fault_on_nobody_knows_whether_they_would_have_heard_it(plan: RunFolder) -> None:
    cut(plan, "web-0", END + 250 * MS)
    plan.event(END + MS, channel="nobody.hears.this")
    result = check(open_run(plan.write()))
    assert result.counts["windows"] == 2 and all(math.isnan(value) for value in result.metrics.values())  # type: ignore[arg-type]
    plan.folder = plan.folder.with_name("owed")
    plan.hear(plan.event(END + 300 * MS), "web-0")
    assert check(open_run(plan.write())).metrics == {"deaf_s_max": 0.25, "deaf_copies": 0.0, "deaf_untold": 0.0}


def test_where_no_copy_at_all_can_be_vouched_for_every_end_is_told(plan: RunFolder) -> None:
    plan.events, plan.heard = [], []
    cut(plan, "web-0", END + 250 * MS, bus="connected")
    plan.event(END + 100 * MS, outcome="unknown", acked_ns=0)
    metrics = check(open_run(plan.write())).metrics
    assert metrics == {"deaf_s_max": Bounds(0.25, math.inf), "deaf_copies": Bounds(0.0, 2.0), "deaf_untold": Bounds(0.0, 2.0)}
    whys = {name: value.why for name, value in metrics.items() if isinstance(value, Bounds)}
    assert whys["deaf_copies"] == whys["deaf_untold"] == "whether what was not heard had been published"


@settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(back=st.lists(st.integers(0, 40), min_size=1, max_size=3), sent=st.lists(st.integers(-19, 45), max_size=20, unique=True))
def test_windows_are_those_of_a_plain_loop(back: list[int], sent: list[int]) -> None:
    """Each pod is subscribed again `back` steps after the fault's end, and loses what was sent before."""
    step = 100 * MS
    with TemporaryDirectory() as folder:
        plan = RunFolder(Path(folder) / "run").service("web", replicas=len(back))
        plan.publish(5, start_ns=12 * SECOND, step_ns=step)
        plan.faults = [("broker_down", "broker", BEGIN, END)]
        for pod, late in enumerate(back):
            cut(plan, f"web-{pod}", END + late * step + 50 * MS)
        times = sorted(END + at * step for at in sent)
        for at in times:
            event = plan.event(at)
            for pod, late in enumerate(back):
                if at > END + late * step + 50 * MS:
                    plan.hear(event, f"web-{pod}")
        counts = check(open_run(plan.write())).counts
    lost = lost_after = 0
    for late in back:
        missed = [at for at in times if at <= END + late * step + 50 * MS]
        lost += len(missed)
        lost_after += sum(at + 50_000 >= END for at in missed)
    assert (counts["lost"], counts["lost_after"]) == (lost, lost_after)
    assert counts["deaf_s.max"] == (max(back) * step + 50 * MS) / 1e9


def often_away(folder: Path, seed: int) -> RunFolder:
    """Faults, pods that come and go, and copies that are heard or not, all at whole tenths of a second, so that they often meet."""
    draw = random.Random(seed)
    step = 100 * MS
    plan = RunFolder(folder).service("web", replicas=3).pod("mute", service="mute", channels="")
    at = 11 * SECOND
    while at < 19 * SECOND:
        end = at + draw.randrange(8) * step
        plan.faults.append(("broker_down", draw.choice(("broker", "web-0", "web-1,web-2")), at, end))
        at = end + draw.randrange(1, 9) * step
    for pod in plan.pods:
        for at in sorted(draw.sample(range(110, 200), 10)):
            state = draw.choice(("disconnected", "disconnected", "subscribed", "subscribed", "frozen", "aborted"))
            plan.state(pod, at * step, state, draw.choice(("connected", "outage", "")))
    for at in range(110, 200):
        event = plan.event(at * step, sent_ns=at * step, acked_ns=at * step)
        for pod in plan.pods:
            if draw.random() < 0.5 and pod != "mute":
                plan.hear(event, pod, lag_ns=draw.choice((0, step)) + 10 * US, path=draw.choice(("broker", "broker", "memory")))
    return plan


@pytest.mark.parametrize("seed", range(4))
def test_windows_are_those_of_a_plain_loop_also_where_things_meet(tmp_path: Path, seed: int) -> None:
    run = open_run(often_away(tmp_path / "run", seed).write())
    sent = dict(zip(run.publishes["event"], run.publishes["sent_ns"], strict=True))
    ledger = run.ledger().query("fate == 'missing' and cause in ('deaf', 'cut', 'cut-link')")
    expected = []
    for outage in read_outages(run):
        for pod in sorted(outage.pods - {"mute"}):
            rows = run.pods[run.pods["pod"] == pod].sort_values("at_ns", kind="stable")
            rows = [(int(row.at_ns), str(row.state), str(row.bus)) for row in rows.itertuples()]
            now = max(number for number, row in enumerate(rows) if row[0] <= outage.end_ns)
            if rows[now][1] not in ("starting", "subscribed", "disconnected", "frozen"):
                continue
            heard = run.deliveries[(run.deliveries["pod"] == pod) & (run.deliveries["path"] == "broker")]["received_ns"]
            lost = sorted(sent[event] for event in ledger[ledger["pod"] == pod]["event"])
            hears = outage.end_ns
            if rows[now][1] not in ("subscribed", "frozen") or any(outage.end_ns <= one < outage.until_ns for one in lost):
                back = [b[0] for a, b in pairwise(rows[now:]) if b[1] == "subscribed" != a[1]]
                hears = min([*(int(one) for one in heard if one > outage.end_ns), *back], default=FOREVER_NS)
            until = min(hears, outage.until_ns)
            mine = [one for one in lost if outage.begin_ns <= one < until]
            words = [
                bus
                for (at, _, bus), (end, *_) in zip(rows, [*rows[1:], (FOREVER_NS,)], strict=True)
                if at <= until and end > outage.begin_ns
            ]
            expected.append(
                (pod, (until - outage.end_ns) / 1e9, hears < outage.until_ns, len(mine), sum(one >= outage.end_ns for one in mine),
                 set(words) != {"connected"})
            )  # fmt: skip
    found = windows(run, read_outages(run))
    assert [(one.pod, one.deaf_s, one.ended, len(one.lost), one.lost_after, one.told) for one in found] == expected
    assert len(found) > 9 and {one.ended for one in found} == {one.told for one in found} == {True, False}


@pytest.mark.parametrize(("sent", "owed"), [(BEGIN - 1, False), (BEGIN, True), (20 * SECOND - 1, True), (20 * SECOND, False)])
def test_pods_are_owed_something_from_the_fault_s_beginning_until_its_time_is_over(plan: RunFolder, sent: int, owed: bool) -> None:
    plan.events, plan.heard = [], []
    for pod in plan.pods:
        plan.hear(plan.event(sent, sent_ns=sent, acked_ns=sent), pod)
    metrics = check(open_run(plan.write())).metrics
    assert all(math.isnan(value) is not owed for value in metrics.values())  # type: ignore[arg-type]


def test_a_pod_that_only_just_began_when_the_fault_ended_is_deaf_until_it_has_subscribed(plan: RunFolder) -> None:
    plan.pods["late-0"] = ("web", "config.updated")
    plan.state("late-0", END, "starting").state("late-0", END + 300 * MS, "subscribed")
    plan.pods["later-0"] = ("web", "config.updated")
    plan.state("later-0", END + 1, "starting").state("later-0", END + 300 * MS, "subscribed")
    found = windows(open_run(plan.write()), read_outages(open_run(plan.folder)))
    assert [(one.pod, one.deaf_s) for one in found] == [("late-0", 0.3), ("web-0", 0.0), ("web-1", 0.0)]
