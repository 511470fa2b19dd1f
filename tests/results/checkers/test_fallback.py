"""The checker `fallback` on runs whose outages, memory mode and blindness are planted."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.record.reader import FOREVER_NS
from sim.results.checkers import judge
from sim.results.checkers.fallback import blind_spans, check, reachability
from sim.results.checkers.verdict import Bounds, greatest, least_of
from sim.results.opened_run import Run, open_run
from sim.results.outages import read_beliefs, read_outages
from tests.support.run_folders import MS, RUN_NS, SECOND, US, RunFolder


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    plan = RunFolder(tmp_path / "run").service("web", replicas=3)
    plan.publish(20, step_ns=100 * MS, publisher="web-0")
    return plan


def down(plan: RunFolder, pod: str, left_s: float, back_s: float) -> None:
    """Let a pod lose and regain its broker; it hears 100 ms before it is connected."""
    plan.state(pod, int(left_s * SECOND), "disconnected")
    if back_s:
        plan.state(pod, int((back_s - 0.1) * SECOND), "subscribed", "mute").state(pod, int(back_s * SECOND), "subscribed")


def test_a_run_without_faults_has_nothing_to_notice(plan: RunFolder) -> None:
    result = check(open_run(plan.write()))
    assert (result.verdict, result.witnesses) == ("valid", [])
    assert result.detail == "no fault was begun; no pod called itself connected while it was blind"
    assert math.isnan(result.metrics["time_to_notice_s_max"]) and math.isnan(result.metrics["time_to_recover_s_max"])
    assert (result.metrics["truth_gap_s_max"], result.metrics["heard_only_here"]) == (0, 0)


def test_notice_recovery_and_memory_mode_are_as_planted(plan: RunFolder) -> None:
    plan.faults = [("broker_down", "broker", 13 * SECOND, 16 * SECOND)]
    down(plan, "web-0", 13.25, 16.5)
    down(plan, "web-1", 13.5, 17.75)
    down(plan, "web-2", 13.125, 15.5)  # it was back before the fault's end was done
    result = check(open_run(plan.write()))
    counts = result.counts
    assert (counts["noticed"], counts["unnoticed"], counts["unrecovered"], counts["ended"]) == (3, 0, 0, 0)
    assert (counts["notice_s.p50"], counts["notice_s.max"]) == (0.25, 0.5)
    assert (counts["recover_s.p50"], counts["recover_s.max"]) == (0.5, 1.75)
    assert (counts["memory_pods"], counts["memory_s.max"], counts["memory_s.sum"]) == (3, 4.25, 3.25 + 4.25 + 2.375)
    assert result.metrics["time_to_recover_s_max"] == 1.75
    assert result.detail.startswith("3 pods noticed the fault, at most 500 ms after it began; they were connected again at most 1.75 s")


def test_a_refusing_or_keeping_bus_has_no_memory_mode(plan: RunFolder) -> None:
    down(plan, "web-0", 13.0, 16.0)
    plan.scenario = '[bus.x]\n[[ignored]]\nname = "x"\n'
    path = plan.write()
    text = (path / "scenario.toml").read_text()
    for line, seconds in (("", 3.0), ('fallback = "no-url"\n', 0.0), ('outage_queue = "keep"\n', 0.0)):
        (path / "scenario.toml").write_text(text.replace("[load]", line + "[load]").replace("[bus.x]", ""))
        assert check(open_run(path)).counts["memory_s.max"] == seconds


@pytest.mark.parametrize(
    ("bus", "seconds"),
    [
        ("[bus]\n", 1 + 2 + 4 + 8),
        ("", 1 + 2 + 4 + 8),
        ('[bus]\nfallback = "on-failure"\noutage_queue = "none"\n', 1 + 2 + 4 + 8),
        ('[bus]\nfallback = "no-url"\n', 1),
        ('[bus]\noutage_queue = "keep"\n', 1),
    ],
)
def test_what_a_pod_believes_in_memory_mode(tmp_path: Path, bus: str, seconds: float) -> None:
    """Each belief for another time: memory-only for 1 s, connecting 2, mute 4, outage 8; what was before the run phase does not count."""
    plan = RunFolder(tmp_path / "run")
    names = ("memory-only", "connecting", "mute", "outage", "connected")
    for number, (belief, end_s) in enumerate(zip(names, (11, 12, 14, 18, 20), strict=True)):
        plan.pod(f"web-{number}")
        plan.beliefs[f"web-{number}", SECOND + MS] = belief
        plan.state(f"web-{number}", end_s * SECOND, "subscribed", "connected")
    folder = plan.write()
    text = (folder / "scenario.toml").read_text()
    (folder / "scenario.toml").write_text(text.replace('[bus]\ntransport = "pubsub"\n', bus))
    counts = check(open_run(folder)).counts
    assert (counts["memory_s.sum"], counts["memory_pods"]) == (seconds, 1 if seconds == 1 else 4)
    assert counts["memory_s.max"] == (1 if seconds == 1 else 8)


@pytest.mark.parametrize(("limit", "verdict"), [(2.0, "invalid"), (4.0, "unknown"), (3.0, "unknown")])
def test_a_pod_that_does_not_come_back_passes_no_limit(plan: RunFolder, limit: float, verdict: str) -> None:
    plan.slo = {"time_to_recover_s_max": limit}
    plan.faults = [("broker_down", "broker", 13 * SECOND, 17 * SECOND)]
    for pod in ("web-0", "web-1", "web-2"):
        down(plan, pod, 13.0, 0 if pod == "web-1" else 17.5)
    judged = judge(open_run(plan.write()), only=["fallback"])
    assert judged.checkers["fallback"].counts["unrecovered"] == 1
    assert judged.slo[0].verdict == verdict


def test_a_pod_that_dies_does_not_notice(plan: RunFolder) -> None:
    plan.faults = [("pod_kill", "web-1", 13 * SECOND, 14 * SECOND)]
    plan.end("web-1", 13 * SECOND + MS)
    counts = check(open_run(plan.write())).counts
    assert (counts["noticed"], counts["ended"], counts["unnoticed"]) == (0, 1, 0)


def test_green_while_deaf_lasts_from_the_first_to_the_last_copy_of_an_unbroken_row_of_lost_ones(plan: RunFolder) -> None:
    plan.faults = [("link_blackhole", "web-1", 14 * SECOND, 17 * SECOND)]
    lost = [plan.event(14 * SECOND + n * 500 * MS) for n in range(5)]  # until 16 s
    for event in lost:
        plan.hear(event, "web-0")
        plan.hear(event, "web-2")
    plan.state("web-1", 15 * SECOND, "disconnected").state("web-1", 18 * SECOND, "subscribed")
    result = check(open_run(plan.write()))
    assert result.counts["truth_gap_s.max"] == result.metrics["truth_gap_s_max"] == 1 - 50e-6, (
        "from the first lost copy to its belief's change"
    )
    assert (result.counts["noticed"], result.counts["notice_s.max"], result.counts["recover_s.max"]) == (1, 1.0, 1.0)
    assert result.witnesses == [f"{lost[0].id} on config.updated: web-1 called itself connected and was blind for 1 s, from then on"]


def test_who_never_notices_that_its_publishes_have_no_answer_is_unnoticed_and_passes_no_limit(plan: RunFolder) -> None:
    plan.faults = [("broker_freeze", "broker", 14 * SECOND, 17 * SECOND)]
    plan.event(14 * SECOND, publisher="web-0", sent_ns=14 * SECOND, acked_ns=17 * SECOND)
    event = plan.event(15 * SECOND, publisher="web-1", sent_ns=15 * SECOND, acked_ns=15 * SECOND + MS)
    plan.hear(event, "web-2", lag_ns=1500 * MS + 10 * US)
    plan.event(16 * SECOND, publisher="web-0", sent_ns=16 * SECOND, acked_ns=17 * SECOND, outcome="acknowledged")
    plan.probes = [(at * SECOND, "web-0", "ready", status, "") for at, status in ((12, 200), (15, 503), (16, 200))]
    plan.scenario = "[kubelet]\nenabled = true\n"
    result = check(open_run(plan.write()))
    assert result.counts["truth_gap_s.max"] == 3.0
    assert result.counts["truth_gap_s.sum"] == 3.0 + 1.5
    assert result.counts["ready_while_blind_s.sum"] == 2.0, "from 14 to 15 and from 16 to 17"
    assert (result.counts["noticed"], result.counts["unnoticed"]) == (0, 2)
    assert result.metrics["time_to_notice_s_max"] == Bounds(3.0, math.inf), "not before the fault had ended"
    assert "2 pods were blind in a fault and did not notice" in result.detail


def test_a_publish_that_is_never_answered_blinds_until_the_pod_changes_its_mind(plan: RunFolder) -> None:
    plan.event(14 * SECOND, publisher="web-0", sent_ns=14 * SECOND, acked_ns=0, outcome="unknown")
    down(plan, "web-0", 16.0, 18.0)
    assert check(open_run(plan.write())).counts["truth_gap_s.max"] == 2.0


def test_a_publish_without_an_answer_that_is_sent_as_the_pod_changes_its_mind_blinds_until_it_changes_it_again(plan: RunFolder) -> None:
    plan.event(14 * SECOND, publisher="web-0", sent_ns=14 * SECOND, acked_ns=0, outcome="unknown")
    plan.state("web-0", 14 * SECOND, "subscribed", "connected").state("web-0", 15 * SECOND, "disconnected")
    run = open_run(plan.write())
    assert blind_spans(run, read_beliefs(run))["web-0"].tolist() == [[14 * SECOND, 15 * SECOND]]


def test_a_pod_that_only_deliveries_name_believed_nothing_and_is_no_witness(plan: RunFolder) -> None:
    plan.pod("ghost-0")
    plan.states = [row for row in plan.states if row[0] != "ghost-0"]
    plan.foreign(1 << 63, "ghost-0")
    (event,) = plan.publish(1, start_ns=14 * SECOND)
    plan.delay(event, "web-1", 1500 * MS)
    result = check(open_run(plan.write()))
    assert result.witnesses == [f"{event.id} on config.updated: web-1 called itself connected and was blind for 1.5 s, from then on"]


def test_a_witness_is_an_event_that_the_blind_pod_itself_should_have_heard(plan: RunFolder) -> None:
    plan.pod("mail-0", service="mail", channels="mail.asked")
    plan.faults = [("link_blackhole", "mail-0", 14 * SECOND, 17 * SECOND)]
    lost = [plan.event(at_ns, channel="mail.asked") for at_ns in (14 * SECOND, 15 * SECOND, 16 * SECOND)]
    plan.publish(1, start_ns=14_500 * MS)
    plan.state("mail-0", 15 * SECOND, "disconnected").state("mail-0", 18 * SECOND, "subscribed")
    result = check(open_run(plan.write()))
    assert result.witnesses == [f"{lost[0].id} on mail.asked: mail-0 called itself connected and was blind for 1 s, from then on"]


def test_events_of_memory_mode_are_counted_and_a_map_shows_who_reached_whom(plan: RunFolder) -> None:
    for at in (15 * SECOND, 15 * SECOND + MS):
        event = plan.event(at, publisher="web-0", outcome="memory", receivers=1, acked_ns=at + 50 * US)
        plan.hear(event, "web-0", path="memory")
    plan.event(16 * SECOND, publisher="web-1", channel="analytics.metric.recorded", outcome="memory", receivers=0)
    run = open_run(plan.write())
    result = check(run)
    assert (result.counts["published_inside"], result.counts["heard_only_here"]) == (3, 2)
    assert "3 events were published in memory mode, 2 of them heard, each by its own pod alone" in result.detail
    rows = reachability(run).astype({"publisher": str, "hearer": str}).to_numpy().tolist()
    early = [["web-0", f"web-{pod}", float(second), 10, 10] for pod in range(3) for second in (0, 1)]
    late = [["web-0", f"web-{pod}", 5.0, 2, 2 if pod == 0 else 0] for pod in range(3)]
    assert rows == sorted(early + late)


def test_the_map_adds_up_to_the_ledger(plan: RunFolder) -> None:
    rng = np.random.default_rng(4)
    events = plan.publish(200, start_ns=RUN_NS + 3 * SECOND, step_ns=11 * MS, publisher="web-2")
    for n in rng.choice(len(events), 40, replace=False):
        plan.drop(events[n], f"web-{rng.integers(3)}")
    run = open_run(plan.write())
    counted: dict[tuple[str, str, float], list[int]] = {}
    for row in run.ledger().to_dict("records"):
        at = run.publishes.loc[run.publishes["event"] == row["event"], "intended_ns"].iloc[0]
        cell = counted.setdefault((row["publisher"], row["pod"], (at - RUN_NS) // (SECOND // 2) / 2), [0, 0])
        cell[0] += 1
        cell[1] += row["fate"] == "delivered"
    found = reachability(run, width_s=0.5)
    assert {(r["publisher"], r["hearer"], r["second"]): [r["published"], r["heard"]] for r in found.to_dict("records")} == counted


def test_the_map_of_a_run_that_begins_late_keeps_its_seconds_apart(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("web", replicas=2)
    plan.publish(3, start_ns=RUN_NS + 5 * SECOND, step_ns=SECOND, publisher="web-0")
    rows = reachability(open_run(plan.write()))
    assert rows[["second", "published", "heard"]].to_numpy().tolist() == [[at, 1, 1] for _ in range(2) for at in (5, 6, 7)]


def test_what_the_scenario_promises_and_the_run_lacks_is_unknown(plan: RunFolder) -> None:
    plan.scenario = "[kubelet]\nenabled = true\n"
    assert check(open_run(plan.write())).verdict == "unknown"
    plan.scenario = '[[faults]]\nkind = "broker_down"\n'
    result = check(open_run(plan.write()))
    assert (result.verdict, result.detail) == ("unknown", "no data: the scenario means faults, and none is recorded in the run phase")


def test_a_time_that_did_not_end_passes_no_limit() -> None:
    assert greatest([1.0, 2.0], []) == 2
    assert greatest([1.0], [3.0]) == Bounds(3.0, math.inf)
    assert greatest([5.0], [3.0]) == Bounds(5.0, math.inf)
    assert math.isnan(least_of(greatest([], [])))


def test_where_nothing_was_published_nobody_knows_how_long_a_pod_was_wrong_about_itself(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    result = check(open_run(plan.write()))
    assert all(math.isnan(value) for value in result.metrics.values())  # type: ignore[arg-type]
    assert (result.verdict, result.counts["truth_gap_s.max"]) == ("valid", 0.0)
    plan.folder = plan.folder.with_name("published")
    plan.publish(1)
    metrics = check(open_run(plan.write())).metrics
    assert (metrics["truth_gap_s_max"], metrics["heard_only_here"]) == (0.0, 0.0)


def test_the_map_of_a_single_pod_keeps_its_publishers_apart(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.publish(1, publisher="locust-0")
    plan.publish(2, publisher="web-0", start_ns=RUN_NS + SECOND)
    plan.publish(4, publisher="locust-1", start_ns=RUN_NS + 2 * SECOND)
    rows = reachability(open_run(plan.write())).astype({"publisher": str, "hearer": str}).to_numpy().tolist()
    assert rows == [["locust-0", "web-0", 0.0, 1, 1], ["web-0", "web-0", 1.0, 2, 2], ["locust-1", "web-0", 2.0, 4, 4]]


def test_a_late_copy_blinds_a_pod_whose_handlers_take_time_only_while_it_reads_nothing(plan: RunFolder) -> None:
    """Copies come 3 s late each: to one that goes on reading, and to one that reads nothing for 2.5 s."""

    def told(plan: RunFolder) -> dict[str, list[list[float]]]:
        run = open_run(plan.write())
        return {pod: ((spans - RUN_NS) / SECOND).round(3).tolist() for pod, spans in blind_spans(run, read_beliefs(run)).items()}

    for at in range(10):
        event = plan.event(RUN_NS + at * SECOND // 2)
        for pod in ("web-0", "web-1"):
            stalls = pod == "web-1" and 4 <= at < 9
            plan.hear(event, pod, lag_ns=3 * SECOND + (9 - at) * SECOND // 2 if stalls else 3 * SECOND)
    assert told(plan)["web-0"] == [[0.0, 7.5]]
    plan.folder = plan.folder.with_name("slow")
    plan.scenario = '[services.web]\nhandler_ms = 5.0\nsubscribes = ["config.updated"]\n'
    blind = told(plan)
    assert blind["web-0"] == [[1.9, 3.0]], "after what it heard before, up to the first of these"
    assert blind["web-1"] == [[1.9, 3.0], [4.5, 7.5]]


def test_a_copy_that_stood_at_its_publisher_blinds_nobody_else(plan: RunFolder) -> None:
    """web-0's way to the broker is stopped for 3 s, and web-1's publishes come through meanwhile; then Redis stands still for all."""
    for at in range(40):
        through = plan.event(RUN_NS + 2 * SECOND + at * 100 * MS, publisher="web-1", acked_ns=RUN_NS + 2 * SECOND + at * 100 * MS + MS)
        for pod in plan.pods:
            plan.hear(through, pod)
    stopped = plan.event(RUN_NS + 3 * SECOND, publisher="web-0", acked_ns=RUN_NS + 6 * SECOND)
    for pod in plan.pods:
        plan.hear(stopped, pod, lag_ns=3 * SECOND)
    run = open_run(plan.write())
    assert set(blind_spans(run, read_beliefs(run))) == {"web-0"}, "its publish had no answer"
    plan.folder = plan.folder.with_name("frozen")
    frozen = plan.event(RUN_NS + 6 * SECOND + 500 * MS, publisher="web-1", acked_ns=RUN_NS + 9 * SECOND)
    for pod in plan.pods:
        plan.hear(frozen, pod, lag_ns=2 * SECOND + 500 * MS)
    run = open_run(plan.write())
    spans = {pod: ((one - RUN_NS) / SECOND).round(3).tolist() for pod, one in blind_spans(run, read_beliefs(run)).items()}
    assert spans["web-2"] == [[6.5, 9.0]] and spans["web-1"] == [[6.5, 9.0]]


def test_in_a_cluster_each_publisher_s_node_is_asked_for_itself_whether_anybody_was_answered(plan: RunFolder) -> None:
    """The node of web-0 answers nobody. That of web-1 answers, so a copy of web-1's that came late stood at its publisher."""
    plan.info.nodes = 3
    for at in range(80):
        plan.event(RUN_NS + 2 * SECOND + at * 100 * MS, publisher="web-1", acked_ns=RUN_NS + 2 * SECOND + at * 100 * MS + MS)
    for publisher, at in (("web-0", 3), ("web-1", 5)):
        late = plan.event(RUN_NS + at * SECOND, publisher=publisher, acked_ns=RUN_NS + (at + 3) * SECOND)
        plan.hear(late, "web-2", lag_ns=3 * SECOND)
    run = open_run(plan.write())
    spans = blind_spans(run, read_beliefs(run))["web-2"]
    seconds = ((spans - RUN_NS) / SECOND).round(3).tolist()
    assert [3.0, 6.0] in seconds and all(end <= 6 or begin >= 8 for begin, end in seconds), seconds


WORDS = ("connected", "connected", "connected", "outage", "mute", "memory-only")
Rows = list[tuple[int, str, str]]  # (time, belief, state), of one pod


def often_wrong(folder: Path, seed: int) -> RunFolder:
    """Pods that believe this and that, publish, and hear or do not, all at whole tenths of a second, so that these often meet."""
    draw = random.Random(seed)
    step = 100 * MS
    plan = RunFolder(folder).service("web", replicas=3)
    at = 11 * SECOND
    while at < 19 * SECOND:
        end = at + draw.randrange(12) * step
        plan.faults.append(("broker_down", draw.choice(("broker", "web-0", "web-1,web-2")), at, end))
        at = end + draw.randrange(1, 12) * step
    for pod in plan.pods:
        for at in sorted(draw.sample(range(105, 199), 16)):
            plan.state(pod, at * step, draw.choice(("disconnected", "subscribed", "subscribed")), draw.choice(WORDS))
    plan.end("web-2", 18 * SECOND)
    for number, at in enumerate(range(105, 199)):
        outcome = draw.choice(("acknowledged", "acknowledged", "unknown", "memory"))
        answered = {"unknown": 0, "memory": at * step}.get(outcome, (at + draw.choice((0, 1, 10, 11))) * step)
        event = plan.event(at * step, publisher=f"web-{number % 3}", sent_ns=at * step, acked_ns=answered, outcome=outcome)
        for pod in plan.pods:
            if draw.random() < 0.6 and (pod != "web-2" or at < 180):
                plan.hear(event, pod, lag_ns=draw.choice((0, 5, 10, 11)) * step + 10 * US)
    return plan


def plainly_late(publishes: dict[int, Any], heard: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return when copies were over a second on their way to a pod; those that stood at their publisher count while nobody was answered."""
    prompt = {one.event for one in publishes.values() if one.outcome == "acknowledged" and one.acked_ns - one.sent_ns <= SECOND}
    answers = sorted(publishes[one].acked_ns for one in prompt)
    silences = [(a, b) for a, b in pairwise([min(one.sent_ns for one in publishes.values()), *answers, 99 * SECOND]) if b - a > SECOND]
    late = list[tuple[int, int]]()
    for event, received in heard:
        sent = publishes[event].sent_ns
        if received - sent > SECOND:
            met = [(max(sent, a), min(received, b)) for a, b in silences]
            late += [(sent, received)] if event in prompt else [(a, b) for a, b in met if a < b]
    one_by_one = list[tuple[int, int]]()
    for begin, end in sorted(late):
        joins = bool(one_by_one) and begin <= one_by_one[-1][1]
        one_by_one[len(one_by_one) - joins :] = [(one_by_one[-1][0], max(one_by_one[-1][1], end)) if joins else (begin, end)]
    return [(begin, end) for begin, end in one_by_one if end - begin > SECOND]


def plainly_blind(run: Run, pod: str, rows: Rows) -> set[int]:
    """Return the tenths of a second in which a pod was blind."""
    step, spans = SECOND // 10, list[tuple[int, int]]()
    publishes = {row.event: row for row in run.publishes.itertuples()}
    heard, now = [], None
    for copy in run.ledger().query(f"pod == '{pod}' and fate in ('delivered', 'missing')").itertuples():
        if copy.fate == "delivered" or copy.cause in ("deaf", "cut", "cut-link"):
            event = publishes[copy.event]
            heard.append((event.sent_ns, max(event.sent_ns, event.acked_ns), copy.fate == "delivered"))
    joined = [at for at, _, state in rows if state == "subscribed"]
    for sent, answered, was_heard in sorted(heard):
        if was_heard or (now and sum(at <= sent for at in joined) != now[2]):
            spans += [now[:2]] if now else []
            now = None
        if not was_heard:
            now = (now[0] if now else sent, answered, sum(at <= sent for at in joined))
    spans += [now[:2]] if now else []
    mine = run.deliveries[run.deliveries["pod"] == pod].drop_duplicates("event")
    spans += plainly_late(publishes, [(row.event, row.received_ns) for row in mine.itertuples()])
    for event in publishes.values():
        if event.publisher == pod and event.outcome == "unknown":
            spans.append((event.sent_ns, min((at for at, *_ in rows if at > event.sent_ns), default=99 * SECOND)))
        if event.publisher == pod and event.outcome == "acknowledged" and event.acked_ns - event.sent_ns > SECOND:
            spans.append((event.sent_ns, event.acked_ns))
    return {at for begin, end in spans for at in range(begin // step, min(end // step, 300))}


@pytest.mark.parametrize("seed", range(3))
def test_blindness_and_reactions_are_those_of_a_plain_loop(tmp_path: Path, seed: int) -> None:
    run = open_run(often_wrong(tmp_path / "run", seed).write())
    step, beliefs = SECOND // 10, read_beliefs(run)
    found = blind_spans(run, beliefs)
    noticed, unnoticed, back, away, ended = list[float](), list[float](), list[float](), list[float](), 0
    for pod, belief in beliefs.items():
        rows: Rows = list(zip(belief.at_ns.tolist(), belief.bus, belief.state, strict=True))
        blind = plainly_blind(run, pod, rows)
        spans = found[pod] // step
        assert {at for begin, end in spans.tolist() for at in range(begin, min(end, 300))} == blind
        at_a_time = {at: [bus for when, bus, _ in rows if when <= at * step][-1] for at in range(11, 300)}
        wrong = {at for at in blind if at_a_time[at] == "connected" and 100 <= at < 200}
        for one in read_outages(run):
            before = [bus for when, bus, _ in rows if when < one.begin_ns][-1]
            if pod not in one.pods or before != "connected":
                continue
            left = next(((when, bus) for when, bus, _ in rows if when >= one.begin_ns and bus != "connected"), (FOREVER_NS, ""))
            if left[0] >= one.until_ns:
                unnoticed += [(one.end_ns - one.begin_ns) / 1e9] * any(one.begin_ns <= at * step < one.until_ns for at in wrong)
                continue
            since = max(left[0], one.end_ns)
            then = [[bus for when, bus, _ in rows if when <= since][-1]] + [bus for when, bus, _ in rows if when > since]
            when = [since] + [when for when, _, _ in rows if when > since]
            came = next((n for n, bus in enumerate(then) if bus in ("connected", "stopped") and when[n] < one.until_ns), None)
            if left[1] == "stopped" or (came is not None and then[came] == "stopped"):
                ended += 1
                continue
            noticed.append((left[0] - one.begin_ns) / 1e9)
            if came is None:
                away.append((one.until_ns - one.end_ns) / 1e9)
            else:
                back.append((when[came] - one.end_ns) / 1e9)
    counts = check(run).counts
    names = ("noticed", "unnoticed", "unrecovered", "ended")
    assert [counts[name] for name in names] == [len(noticed), len(unnoticed), len(away), ended]
    expected = {f"{name}.p50": sorted(its)[len(its) // 2] for name, its in (("notice_s", noticed), ("recover_s", back)) if its}
    expected |= {f"{name}.max": max(its) for name, its in (("notice_s", noticed), ("recover_s", back)) if its}
    assert {name: value for name, value in counts.items() if name.startswith(("notice_s", "recover_s"))} == expected
    assert len(noticed) + len(unnoticed) > 3


def test_how_many_were_not_connected_again_is_said(plan: RunFolder) -> None:
    plan.faults = [("broker_down", "broker", 13 * SECOND, 14 * SECOND)]
    down(plan, "web-0", 13.25, 0)
    down(plan, "web-1", 13.5, 0)
    assert check(open_run(plan.write())).detail.startswith(
        "2 pods noticed the fault, at most 500 ms after it began; 2 were not connected again; "
    )


def test_the_first_event_of_all_is_a_witness_as_any_other(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("web", replicas=2)
    (event,) = plan.publish(1, start_ns=14 * SECOND)
    plan.delay(event, "web-1", 2 * SECOND)
    assert check(open_run(plan.write())).witnesses == [
        f"{event.id} on config.updated: web-1 called itself connected and was blind for 2 s, from then on"
    ]


def test_who_was_wrong_about_itself_for_longest_is_the_first_witness(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("web", replicas=5)
    (event,) = plan.publish(1, start_ns=14 * SECOND)
    for pod, late_s in enumerate((1.5, 3, 0, 2, 2.5)):
        plan.delay(event, f"web-{pod}", int(late_s * SECOND))
    assert check(open_run(plan.write())).witnesses == [
        f"{event.id} on config.updated: web-{pod} called itself connected and was blind for {late_s} s, from then on"
        for pod, late_s in ((1, 3), (4, 2.5), (3, 2))
    ]


def test_an_event_of_the_blind_pod_itself_is_a_witness_although_it_hears_none_such(tmp_path: Path) -> None:
    """Its publish had no answer for two seconds; of what it should have heard only what came later is there."""
    plan = RunFolder(tmp_path / "run").pod("web-0").pod("mail-0", service="mail", channels="mail.asked")
    own = plan.event(14 * SECOND, channel="mail.asked", publisher="web-0", acked_ns=16 * SECOND + 50 * US)
    plan.hear(own, "mail-0")
    plan.publish(1, start_ns=15 * SECOND)
    assert check(open_run(plan.write())).witnesses == [
        f"{own.id} on mail.asked: web-0 called itself connected and was blind for 2 s, from then on"
    ]
