"""What the checkers of faults and of stale reads say of small runs: every number, every sentence, every witness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.record.schema import OTHERS
from sim.results.checkers import CHECKERS, Result
from sim.results.checkers.fallback import blind_spans, reachability
from sim.results.checkers.staleness import stale_for_at_best
from sim.results.checkers.steady import MARGIN_NS
from sim.results.checkers.verdict import Bounds, result_json
from sim.results.opened_run import open_run
from sim.results.outages import read_beliefs
from tests.support.run_folders import MS, SECOND, US, RunFolder

EVENT = "evt_000700000000000"  # and its number: of the first publisher
DOUBT = "whether what was not heard had been published"


def at(seconds: float) -> int:
    return round(seconds * SECOND)


def result_of(plan: RunFolder, checker: str) -> Result:
    return CHECKERS[checker](open_run(plan.write()))


def told(plan: RunFolder, checker: str) -> dict[str, Any]:
    """Return all of a result as verdict.json has it; what is not measured is None."""
    return result_json(result_of(plan, checker))


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    """Three pods; the broker is down from 13 to 15 s. web-0 notices after 250 ms and is back at 15.5, web-1 after 500 ms and at 16.5.

    web-2 never notices, and stands still from 17 to 17.5. Of an event every 200 ms from 14.8 to 16.6 s each hears what comes after it is
    back, web-2 all. web-0 hears one of its own in memory mode, web-1 none; nobody knows of one of web-2's.
    """
    plan = RunFolder(tmp_path / "run").service("web", replicas=3)
    plan.publish(6, start_ns=at(11), step_ns=300 * MS)
    plan.faults = [("broker_down", "broker", at(13), at(15)), ("pod_freeze", "web-2", at(17), at(17.5))]
    for pod, lost, back in (("web-0", 13.25, 15.5), ("web-1", 13.5, 16.5)):
        plan.state(pod, at(lost), "disconnected").state(pod, at(back), "subscribed")
    for number in range(10):
        event = plan.event(at(14.8 + 0.2 * number))
        for pod, back in (("web-0", 15.5), ("web-1", 16.5), ("web-2", 0)):
            if event.intended_ns >= at(back):
                plan.hear(event, pod)
    plan.hear(plan.event(at(14), publisher="web-0", outcome="memory", receivers=1), "web-0", path="memory")
    plan.event(at(14.1), publisher="web-1", outcome="memory", receivers=0)
    plan.event(at(14.5), publisher="web-2", outcome="unknown", acked_ns=0)
    return plan


# -- steady ---------------------------------------------------------------------------------------------------------

QUIET = {"copies_before": 18, "lost_before": 0, "restless_before": 0}


def test_steady_where_all_were_back_between_two_faults_and_before_the_last_one_s_end(plan: RunFolder) -> None:
    assert told(plan, "steady") == {
        "verdict": "valid",
        "counts": {**QUIET, "away_after": 0, "copies_after": 0, "lost_after": 0, "steady_s": 1.5},
        "detail": "steady before the first fault, and again at most 1.5 s after a fault's end, of 2 that were apart",
        "witnesses": [],
        "metrics": {"steady_s_max": 1.5},
        "warnings": [],
    }


def test_steady_is_when_the_last_copy_was_lost_and_the_last_pod_was_back(plan: RunFolder) -> None:
    """web-1 is back 1.5 s after the fault; then a copy is lost, and one of which nobody knows whether it was published."""
    plan.faults.pop()
    counts = told(plan, "steady")["counts"]
    assert counts == {**QUIET, "away_after": 0, "copies_after": 3, "lost_after": 11, "steady_s": 1.5}
    plan.folder = plan.folder.with_name("later")
    plan.event(at(17), publisher="locust-1")
    plan.event(at(18), publisher="locust-1", outcome="unknown", acked_ns=0)
    plan.hear(plan.event(at(18.5), publisher="locust-1"), "web-0")
    assert told(plan, "steady") == {
        "verdict": "valid",
        "counts": {**QUIET, "away_after": 0, "copies_after": 0, "lost_after": 11 + 3 + 3 + 2, "steady_s": 3.5},
        "detail": "steady before the first fault, and again 3.5 s after the last one's end",
        "witnesses": [],
        "metrics": {"steady_s_max": 3.5},
        "warnings": [],
    }
    plan.folder, plan.events = plan.folder.with_name("doubt"), plan.events[:-1]
    plan.heard = [row for row in plan.heard if row.handled_ns < at(18.5)]
    result = result_of(plan, "steady")
    assert result.metrics == {"steady_s_max": Bounds(2.0, 3.0)} and result.counts["steady_s"] == 3.0
    assert [value.why for value in result.metrics.values() if isinstance(value, Bounds)] == [DOUBT]


def test_what_a_service_without_a_pod_missed_keeps_the_lab_from_being_steady(plan: RunFolder) -> None:
    plan.faults.pop()
    plan.scenario = '[services.mail]\nsubscribes = ["mail"]\n'
    plan.event(at(12), channel="mail", publisher="locust-1")
    plan.event(at(19), channel="mail", publisher="locust-1")
    plan.event(at(20.5), channel="mail", publisher="locust-1")
    counts = result_of(plan, "steady").counts
    assert (counts["steady_s"], counts["lost_after"], counts["copies_after"]) == (4.0, 12, 0)
    plan.folder = plan.folder.with_name("at the end")
    plan.event(at(15), channel="mail", publisher="locust-1")
    assert result_of(plan, "steady").counts["lost_after"] == 13, "what was meant at the very end of the fault is after it"


@pytest.mark.parametrize(("before_ms", "word"), [(251, "unknown"), (250, "valid"), (249, "valid")])
def test_a_copy_counts_as_before_the_fault_when_it_was_answered_a_margin_before(plan: RunFolder, before_ms: int, word: str) -> None:
    event = plan.event(at(12), publisher="locust-1", sent_ns=at(12), acked_ns=at(13) - before_ms * MS)
    plan.hear(event, "web-0")
    result = result_of(plan, "steady")
    assert result.verdict == word and MARGIN_NS == 250 * MS
    if word == "unknown":
        assert result_json(result) == {
            "verdict": "unknown",
            "counts": {"copies_before": 21, "lost_before": 2, "restless_before": 0},
            "detail": "the lab was not in its steady state before the first fault: 2 of 21 copies were lost; what the faults did "
            "cannot be told from that",
            "witnesses": [f"{event.id} for web-1", f"{event.id} for web-2"],
            "metrics": {"steady_s_max": None},
            "warnings": [],
        }


def test_who_was_not_at_rest_before_the_fault_is_named(plan: RunFolder) -> None:
    plan.state("web-2", at(12), "disconnected").state("web-2", at(12.1), "subscribed")
    plan.state("web-1", at(12.99), "subscribed", "x")
    result = result_of(plan, "steady")
    assert result.counts["restless_before"] == 2
    assert (
        result.detail
        == "the lab was not in its steady state before the first fault: web-1 was not at rest; what the faults did cannot be told from that"
    )


def test_a_change_at_the_fault_s_beginning_or_in_the_warm_up_is_none_before_it(plan: RunFolder) -> None:
    plan.state("web-1", at(13), "subscribed", "x").state("web-1", at(9.5), "subscribed", "connected").state(
        "web-1", at(10), "subscribed", "connected"
    )
    assert result_of(plan, "steady").counts["restless_before"] == 0


@pytest.mark.parametrize(
    ("recovered", "policy", "away", "word", "detail"),
    [
        (None, "automatic", False, "unknown", "the run ended before it was seen whether the lab recovers"),
        (False, "automatic", True, "invalid", "the lab did not recover after the last fault: 1 pod is away, web-2 first"),
        (False, "automatic", False, "invalid", "the lab did not recover after the last fault: 0 pods are away"),
        (
            False,
            "restart",
            True,
            "valid",
            "the lab did not recover after the last fault: 1 pod is away, web-2 first, as bus.reattach = 'restart' lets them be",
        ),
    ],
)
def test_a_lab_that_did_not_recover(plan: RunFolder, recovered: bool | None, policy: str, away: bool, word: str, detail: str) -> None:
    plan.info.recovered, plan.bus = recovered, {"reattach": policy}
    if away:
        plan.state("web-2", at(18), "disconnected")
    result = told(plan, "steady")
    assert (result["verdict"], result["detail"], result["metrics"]) == (word, detail, {"steady_s_max": None})
    assert result["counts"] == {**QUIET, "away_after": int(away)} and (result["witnesses"], result["warnings"]) == ([], [])


# -- deaf -----------------------------------------------------------------------------------------------------------


def test_deaf(plan: RunFolder) -> None:
    """web-0 lost what was sent at 14.8 and until 15.4 s, web-1 until 16.4; that of web-2 may have been lost, and it was not told."""
    assert told(plan, "deaf") == {
        "verdict": "valid",
        "counts": {
            "faults": 2, "windows": 4, "deaf": 2, "unended": 0, "told": 2, "untold": 0, "lost": 4 + 9, "lost_after": 3 + 8,
            "deaf_s.p50": 0.5, "deaf_s.max": 1.5,
        },
        "detail": "pods were deaf twice after a fault had ended, at most for 1.5 s (web-1 after broker_down); 13 copies were lost by not "
        "hearing, 11 of them after the end; the application was told each time",
        "witnesses": [
            f"{EVENT}6 on config.updated: the first of 9 copies that web-1 did not hear; it was deaf for 1.5 s after broker_down",
            f"{EVENT}6 on config.updated: the first of 4 copies that web-0 did not hear; it was deaf for 500 ms after broker_down",
        ],
        "metrics": {"deaf_s_max": 1.5, "deaf_copies": 11.0, "deaf_untold": None},
        "intervals": {"deaf_untold": [0.0, 1.0]},
        "warnings": [],
    }  # fmt: skip


def test_deaf_pods_that_were_not_told_and_did_not_hear_again(plan: RunFolder) -> None:
    plan.states = [row for row in plan.states if row[2] != "subscribed" or row[1] < at(10)]
    plan.beliefs = {(pod, at_ns): "connected" for pod, at_ns, state in plan.states if state == "disconnected"}
    plan.heard = [row for row in plan.heard if row.pod == "web-2" or row.handled_ns < at(13)]
    plan.faults.pop()
    plan.events = plan.events[:-1]
    result = told(plan, "deaf")
    assert result["detail"] == (
        "pods were deaf twice after a fault had ended, at most for 5 s (web-0 after broker_down); 20 copies were lost by not hearing, "
        "18 of them after the end; a pod did not hear again twice; the application was not told in 2 of 2 cases"
    )
    assert (result["counts"]["unended"], result["counts"]["untold"], result["counts"]["told"]) == (2, 2, 0)
    assert result["witnesses"][0].endswith("it was deaf for 5 s after broker_down, and its application was not told")
    assert result["intervals"] == {"deaf_s_max": [5.0, None]}


def test_nobody_was_deaf(plan: RunFolder) -> None:
    plan.faults = [("broker_down", "broker", at(11.5), at(12))]
    plan.events, plan.states = plan.events[:6], [row for row in plan.states if not at(10) < row[1] < at(20)]
    plan.heard = [row for row in plan.heard if row.handled_ns < at(13)]
    result = told(plan, "deaf")
    assert result["detail"] == "every pod heard as soon as the fault had ended, and none lost a copy by not hearing"
    assert result["metrics"] == {"deaf_s_max": 0.0, "deaf_copies": 0.0, "deaf_untold": 0.0}
    assert result["counts"]["deaf_s.max"] == 0.0
    plan.folder = plan.folder.with_name("gone")
    plan.states = [(pod, min(at_ns, at(11)), state) for pod, at_ns, state in plan.states]
    assert told(plan, "deaf")["detail"] == "no pod that hears anything lived at the end of a fault"


# -- fallback -------------------------------------------------------------------------------------------------------


def test_fallback(plan: RunFolder) -> None:
    """web-2 is blind from its publish without an answer, sent 50 us after 14.5 s, to the end of the run phase."""
    assert told(plan, "fallback") == {
        "verdict": "valid",
        "counts": {
            "faults": 2, "noticed": 2, "unnoticed": 2, "unrecovered": 0, "ended": 0,
            "notice_s.p50": 0.5, "notice_s.max": 0.5, "recover_s.p50": 1.5, "recover_s.max": 1.5,
            "memory_pods": 2, "memory_s.max": 3.0, "memory_s.sum": 5.25, "published_inside": 2, "heard_only_here": 1,
            "truth_gap_s.sum": 5.49995, "truth_gap_s.max": 5.49995,
        },
        "detail": "pods noticed 2 faults twice, at most 500 ms after it began; they were connected again at most 1.5 s after its end; "
        "2 pods were blind in a fault and did not notice; 2 events were published in memory mode, 1 of them heard, each by its own pod "
        "alone; web-2 called itself connected for 5.5 s while it was blind, longer than any other pod",
        "witnesses": ["evt_0007000300000000 on config.updated: web-2 called itself connected and was blind for 5.5 s, from then on"],
        "metrics": {"time_to_notice_s_max": None, "time_to_recover_s_max": 1.5, "truth_gap_s_max": 5.49995, "heard_only_here": 1.0},
        "intervals": {"time_to_notice_s_max": [2.0, None]},
        "warnings": [],
    }  # fmt: skip


def test_fallback_of_one_fault_that_one_pod_noticed(plan: RunFolder) -> None:
    plan.faults = [("pod_freeze", "web-0", at(13), at(15))]
    plan.events, plan.heard = plan.events[:6], plan.heard[:18]
    plan.states = [row for row in plan.states if not (row[0] == "web-1" and at(10) < row[1] < at(20))]
    assert result_of(plan, "fallback").detail == (
        "1 pod noticed the fault, at most 250 ms after it began; they were connected again at most 500 ms after its end; "
        "no pod called itself connected while it was blind"
    )
    plan.folder = plan.folder.with_name("gone")
    plan.states = [row for row in plan.states if row[:2] != ("web-0", at(15.5))]
    assert result_of(plan, "fallback").detail == (
        "1 pod noticed the fault, at most 250 ms after it began; 1 was not connected again; "
        "no pod called itself connected while it was blind"
    )


def test_a_fault_that_nobody_noticed(plan: RunFolder) -> None:
    plan.faults = [("pod_freeze", "web-2", at(13), at(15))]
    plan.events, plan.heard = plan.events[:6], plan.heard[:18]
    assert result_of(plan, "fallback").detail == "no pod noticed the fault; no pod called itself connected while it was blind"
    plan.faults.append(("pod_freeze", "web-2", at(16), at(17)))
    plan.folder = plan.folder.with_name("two")
    assert result_of(plan, "fallback").detail == "no pod noticed a fault; no pod called itself connected while it was blind"


def test_when_a_pod_was_blind(tmp_path: Path) -> None:
    """A row of lost copies, one that took over a second, a publish that did: each for its pod; a copy between the lost ones ends a row."""
    plan = RunFolder(tmp_path / "run").service("web", replicas=3)
    events = plan.publish(8, start_ns=at(12), step_ns=SECOND, publisher="locust-0")
    plan.state("web-0", at(12.5), "disconnected").state("web-0", at(16.5), "subscribed")
    for number in (1, 2, 3, 4):
        plan.drop(events[number], "web-0")
    plan.delay(events[5], "web-1", SECOND + 60 * US).delay(events[6], "web-1", SECOND - 200 * US)
    plan.event(at(15), publisher="web-2", sent_ns=at(15), acked_ns=at(16) + 1)
    plan.event(at(17), publisher="web-2", sent_ns=at(17), acked_ns=at(18))
    plan.event(at(18.5), publisher="web-2", sent_ns=at(18.5), acked_ns=0, outcome="unknown")
    plan.heard += [
        type(plan.heard[0])(event.key, pod, event.sent_ns + 1, event.sent_ns + 2) for event in plan.events[8:] for pod in plan.pods
    ]
    run = open_run(plan.write())
    spans = {pod: found.tolist() for pod, found in blind_spans(run, read_beliefs(run)).items()}
    assert spans == {
        "web-0": [[events[1].sent_ns, events[2].acked_ns], [events[3].sent_ns, events[4].acked_ns]],
        "web-1": [[events[5].sent_ns, events[5].sent_ns + SECOND + 250 * US]],
        "web-2": [[at(15), at(16) + 1], [at(18.5), at(30)]],
    }


def test_the_map_of_who_reached_whom(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("web", replicas=2)
    events = plan.publish(2, start_ns=at(11.2), step_ns=SECOND, publisher="web-1")
    plan.publish(1, start_ns=at(9.9), publisher="locust-0")
    plan.publish(1, start_ns=at(11.3), publisher="web-1", items=0)  # a probe
    plan.drop(events[1], "web-0")
    found = reachability(open_run(plan.write()), width_s=0.5)
    assert [tuple(row) for row in found.astype({"publisher": str, "hearer": str}).itertuples(index=False)] == [
        ("web-1", "web-0", 1.0, 1, 1),
        ("web-1", "web-0", 2.0, 1, 0),
        ("web-1", "web-1", 1.0, 1, 1),
        ("web-1", "web-1", 2.0, 1, 1),
        ("locust-0", "web-0", -0.5, 1, 1),
        ("locust-0", "web-1", -0.5, 1, 1),
    ]
    nobody = reachability(open_run(RunFolder(tmp_path / "nobody").write()))
    assert nobody.empty and list(nobody) == ["publisher", "hearer", "second", "published", "heard"]


def test_pods_that_were_ready_while_they_were_blind(plan: RunFolder) -> None:
    """web-2 is blind from 14.50005 s on; its last readiness probe before 16 s and from 18 s to the drain was answered 200."""
    plan.probes = [
        (at(seconds), "web-2", probe, status, "")
        for seconds, probe, status in ((18, "ready", 200), (12, "ready", 200), (16, "ready", 503), (19, "live", 503))
    ]
    assert result_of(plan, "fallback").counts["ready_while_blind_s.sum"] == pytest.approx(16 - 14.50005 + 2)


@pytest.mark.parametrize(
    ("scenario", "pods", "detail"),
    [
        ("", False, "no data: the pods table is empty, so nothing says what any pod believed"),
        ('[[faults]]\nkind = "x"\n', True, "no data: the scenario means faults, and none is recorded in the run phase"),
        ("[kubelet]\nenabled = true\n", True, "no data: the scenario means a kubelet, and no probe is recorded"),
    ],
)
def test_what_the_fallback_needs_and_is_not_there(tmp_path: Path, scenario: str, pods: bool, detail: str) -> None:
    plan = RunFolder(tmp_path / "run", scenario=scenario)
    if pods:
        plan.pod("web-0").publish(1)
    result = told(plan, "fallback")
    assert (result["verdict"], result["detail"], result["witnesses"]) == ("unknown", detail, [])
    assert result["counts"]["faults"] == 0 and set(result["metrics"]) >= {"truth_gap_s_max", "heard_only_here"}


# -- staleness ------------------------------------------------------------------------------------------------------

TEMPLATE = "config.template.invalidated"
KEY = "aiponge:cache:templates:tpl_1"


@pytest.fixture
def reads(tmp_path: Path) -> RunFolder:
    """Updates at 12 and 14 s. web-0 hears of both after 250 us, web-1 of the second alone, web-2 of none; each loaded its copy at 11 s."""
    plan = RunFolder(tmp_path / "run", reads_per_s=1.0).service("web", replicas=3, channels=TEMPLATE)
    for seconds, hearers in ((12, ("web-0",)), (14, ("web-0", "web-1"))):
        event = plan.event(at(seconds), channel=TEMPLATE, subject=KEY)
        for pod in hearers:
            plan.hear(event, pod)
    for pod in plan.pods:
        plan.read(pod, KEY, at(11))
    plan.read("web-0", KEY, at(12.0001), loaded_ns=at(11)).read("web-0", KEY, at(13)).read("web-0", KEY, at(13.5), loaded_ns=at(13))
    plan.read("web-0", KEY, at(15))
    plan.read("web-1", KEY, at(13), loaded_ns=at(11)).read("web-1", KEY, at(14.5), loaded_ns=at(11))
    plan.read("web-2", KEY, at(16), loaded_ns=at(11))
    return plan


def test_staleness(reads: RunFolder) -> None:
    """Stale were web-0 for 100 us, web-1 for 1 and 2.5 s and web-2 for 4 s; web-1 even after it had handled the second update."""
    assert told(reads, "staleness") == {
        "verdict": "valid",
        "counts": {
            "reads": 10, "hits": 5, "updates": 2, "stale_reads": 4, "stale_pairs": 5, "never_heard": 3, "never_heard_pods": 2,
            "not_dropped": 0, "after_handling": 1,
            "stale_ms.p50": 2500.0, "stale_ms.p99": 4000.0, "stale_ms.max": 4000.0,
            "fresh_ms.p50": 0.25, "fresh_ms.p99": 0.25, "fresh_ms.max": 0.25,
        },
        "detail": "4 of 10 reads were stale, at most for 4 s; web-1, web-2 never heard of 2 updates",
        "witnesses": [
            f"{EVENT}0 of {KEY}: web-2 served the old copy until 4 s after it, and never heard of it",
            f"{EVENT}0 of {KEY}: web-1 served the old copy until 2.5 s after it, and never heard of it",
            f"{EVENT}1 of {KEY}: web-2 served the old copy until 2 s after it, and never heard of it",
        ],
        "metrics": {"stale_reads": 4.0, "stale_ms_p99": 4000.0, "stale_ms_max": 4000.0},
        "warnings": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("lost_ms", "left"), [(0, [0.1, 1000, 4000]), (0.1499, [0.1, 1000, 4000]), (0.15, [1000, 4000]), (10, [1000, 4000])]
)
def test_reads_that_would_have_been_fresh_had_nothing_been_withheld(reads: RunFolder, lost_ms: float, left: list[float]) -> None:
    """web-0 handled the first update 150 us after it read the old copy; web-1 had handled the second before it did."""
    asked: list[list[Any]] = []

    def withheld(publish: np.ndarray, pod: np.ndarray, handled: np.ndarray) -> np.ndarray:
        asked.append([publish.tolist(), pod.tolist(), handled.tolist()])
        return np.full(len(publish), round(lost_ms * MS))

    found = stale_for_at_best(open_run(reads.write()), withheld)
    assert sorted((found / MS).tolist()) == left
    assert asked == [[[0, 1, 1], [0, 0, 1], [at(12) + 250 * US, at(14) + 250 * US, at(14) + 250 * US]]]


def test_no_read_was_stale(reads: RunFolder) -> None:
    reads.reads = reads.reads[:3]
    result = told(reads, "staleness")
    assert (result["detail"], result["witnesses"]) == ("none of 3 reads was stale", [])
    assert result["metrics"] == {"stale_reads": 0.0, "stale_ms_p99": 0.0, "stale_ms_max": 0.0}


def test_subjects_beyond_those_that_the_record_keeps_apart(reads: RunFolder) -> None:
    reads.event(at(15), channel=TEMPLATE, subject=OTHERS)
    reads.read("web-0", OTHERS, at(16), loaded_ns=at(11))
    result = told(reads, "staleness")
    assert result["warnings"] == [f"more subjects than the record keeps apart: what it calls {OTHERS} is left out of the updates"]
    assert (result["counts"]["reads"], result["counts"]["stale_reads"], result["counts"]["updates"]) == (11, 4, 2)


def test_many_pods_that_never_heard_are_named_as_far_as_there_is_room(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run", reads_per_s=1.0).service("web", replicas=12, channels=TEMPLATE)
    plan.event(at(12), channel=TEMPLATE, subject=KEY)
    for pod in plan.pods:
        plan.read(pod, KEY, at(13), loaded_ns=at(11))
    names = "web-0, web-1, web-10, web-11, web-2, web-3, web-4, web-5, web-6, web-7"
    assert result_of(plan, "staleness").detail == f"12 of 12 reads were stale, at most for 1 s; {names} and 2 more never heard of 1 update"
    plan.folder, plan.reads = tmp_path / "one", plan.reads[:1]
    assert result_of(plan, "staleness").detail == "1 of 1 read was stale, at most for 1 s; web-0 never heard of 1 update"


def test_reads_that_nobody_made(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    nothing = {"counts": {}, "witnesses": [], "warnings": [], "metrics": dict.fromkeys(("stale_reads", "stale_ms_p99", "stale_ms_max"))}
    assert told(plan, "staleness") == {"verdict": "valid", "detail": "the scenario means no reads of caches"} | nothing
    plan.folder, plan.reads_per_s = tmp_path / "meant", 0.5
    plan.read("web-0", KEY, at(9.99)).read("web-0", KEY, at(20))
    no_data = "no data: the scenario means reads, and none was made in the run phase"
    assert told(plan, "staleness") == {"verdict": "unknown", "detail": no_data} | nothing
