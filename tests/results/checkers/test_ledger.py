"""What the ledger makes of PUBLISH's own count, and of copies whose publishes nobody wrote down."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.record.run_info import LoadInfo
from sim.record.schema import FOREIGN_BIT, compose_key
from sim.results.checkers.ledger import WHY, _sentence, check
from sim.results.opened_run import open_run
from tests.support.run_folders import MS, SECOND, US, RunFolder

OURS = "it may have counted connections of pods that had ended or connected again"
OTHERS = "someone else may listen"
SENT, ANSWERED = 15 * SECOND + 50 * US, 15 * SECOND + 150 * US  # of the event that more were said to hear


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    plan = RunFolder(tmp_path / "run").service("web", replicas=2).pod("far-0", service="far", channels="config.cache.invalidate")
    (event,) = plan.publish(1, start_ns=15 * SECOND)
    event.receivers = 3
    return plan


def who(plan: RunFolder, *, events: str = "1 event") -> str:
    (text,) = check(open_run(plan.write())).warnings
    start = f"PUBLISH reached more subscribers than the fleet has in {events}: "
    assert text.startswith(start)
    return text.removeprefix(start)


def test_without_a_fault_or_a_change_it_is_someone_else(plan: RunFolder) -> None:
    assert who(plan) == OTHERS


@pytest.mark.parametrize(
    ("begin", "end", "says"),
    [
        (ANSWERED, 17 * SECOND, OURS),
        (ANSWERED + 1, 17 * SECOND, OTHERS),
        (13 * SECOND, SENT - SECOND, OURS),
        (13 * SECOND, SENT - SECOND - 1, OTHERS),
        (13 * SECOND, 0, OURS),
    ],
)
def test_from_the_begin_of_a_fault_to_a_second_after_its_end_it_may_be_ours(plan: RunFolder, begin: int, end: int, says: str) -> None:
    plan.faults = [("link_blackhole", "web-0", begin, end)]
    assert who(plan) == says


@pytest.mark.parametrize(
    ("pod", "changed", "says"),
    [
        ("web-0", SENT - SECOND, OURS),
        ("web-0", SENT - SECOND - 1, OTHERS),
        ("web-0", ANSWERED, OURS),
        ("web-0", ANSWERED + 1, OTHERS),
        ("far-0", SENT, OTHERS),
    ],
)
def test_for_a_second_after_a_pod_of_the_channel_changed_it_may_be_ours(plan: RunFolder, pod: str, changed: int, says: str) -> None:
    plan.state(pod, changed, "subscribed")
    assert who(plan) == says


def test_one_event_that_nothing_of_ours_explains_is_enough_for_someone_else(plan: RunFolder) -> None:
    plan.faults = [("link_blackhole", "web-0", 14 * SECOND, 16 * SECOND)]
    (other,) = plan.publish(1, start_ns=18 * SECOND)
    other.receivers = 3
    assert who(plan, events="2 events") == OTHERS
    plan.folder = plan.folder.with_name("both")
    plan.faults.append(("link_slow", "web-1", 18 * SECOND, 18 * SECOND + MS))
    assert who(plan, events="2 events") == OURS


@pytest.mark.parametrize(("before", "says"), [(1.0, "other programs subscribe to these channels too"), (0.0, OTHERS)])
def test_who_was_counted_before_the_fleet_came_is_said(plan: RunFolder, before: float, says: str) -> None:
    plan.broker = [(2 * SECOND, "numsub_foreign", "config.updated", before)]
    assert who(plan) == says


def test_what_was_refused_or_left_unanswered_says_nothing_of_subscribers(plan: RunFolder) -> None:
    plan.events[0].receivers = -1
    (refused,) = plan.publish(1, start_ns=16 * SECOND, outcome="refused")
    refused.receivers = 9
    result = check(open_run(plan.write()))
    said = {name: value for name, value in result.counts.items() if name.startswith("publish_")}
    assert said["publish_said_more"] == said["publish_receivers"] == said["publish_delivered"] == 0
    assert not [text for text in result.warnings if "subscribers" in text]


def test_a_publish_that_reached_nobody_and_was_heard_is_told(plan: RunFolder) -> None:
    plan.events[0].receivers = 0
    result = check(open_run(plan.write()))
    counts = [result.counts[f"publish_{name}"] for name in ("receivers", "delivered", "said_more", "said_fewer")]
    assert counts == [0, 2, 0, 1]
    assert result.warnings == ["PUBLISH said fewer receivers than pods heard it in 1 event"]


@pytest.mark.parametrize(
    ("kept", "strays", "verdict", "detail", "foreign"),
    [
        (False, "", "unknown", "copies of events whose publishes are not recorded: 2; the generator ended without its record", 0),
        (False, "foreign", "unknown", "copies of events whose publishes are not recorded: 2; the generator ended without its record", 1),
        (False, "unasked", "invalid", "copies heard that nobody should have heard: 1", 0),
        (True, "", "invalid", "copies heard that nobody should have heard: 2", 0),
        (None, "foreign", "invalid", "copies heard that nobody should have heard: 2", 1),
    ],
)
def test_copies_of_a_generator_that_ended_without_its_record(
    plan: RunFolder, kept: bool | None, strays: str, verdict: str, detail: str, foreign: int
) -> None:
    """Two pods heard the second event, whose publish nobody wrote down; and one of them something else."""
    (first,) = plan.events
    first.receivers = 2
    plan.publish(1, start_ns=16 * SECOND)
    del plan.events[1]
    if strays == "foreign":
        plan.foreign(FOREIGN_BIT | 1, "web-0")
    if strays == "unasked":
        plan.hear(first, "far-0")
    plan.load = LoadInfo(offered_calls=2, generators=["locust"], record_kept=kept)
    result = check(open_run(plan.write()))
    assert (result.verdict, result.detail, result.counts["foreign"]) == (verdict, detail, foreign)
    assert result.counts.get("unrecorded") == (2 if kept is False else None)


@pytest.mark.parametrize(
    ("fates", "causes", "text"),
    [
        ((2, 0, 0), {}, "all 2 expected copies were delivered"),
        ((1, 0, 0), {}, "of 1 expected copy 1 was delivered, none is missing"),
        ((0, 1, 0), {"deaf": 1, "cut": 0}, "of 1 expected copy 0 were delivered, 1 is missing (1 deaf)"),
        ((2, 1, 0), {"": 9, "deaf": 1}, "of 3 expected copies 2 were delivered, 1 is missing (1 deaf)"),
        ((1, 1200, 0), {"deaf": 1199, "cut": 1}, "of 1,201 expected copies 1 was delivered, 1,200 are missing (1,199 deaf, 1 cut)"),
        ((2, 0, 1), {}, "of 3 expected copies 2 were delivered, 0 to 1 are missing: nobody knows whether 1 had been published"),
        (
            (1, 2, 1500),
            {"behind": 2},
            "of 1,503 expected copies 1 was delivered, 2 to 1,502 are missing (2 behind): nobody knows whether 1,500 had been published",
        ),
    ],
)
def test_the_sentence_of_copies(fates: tuple[int, int, int], causes: dict[str, int], text: str) -> None:
    assert _sentence(sum(fates), dict(zip(("delivered", "missing", "unknown"), fates, strict=True)), causes, WHY) == text


def test_the_first_event_of_all_is_a_witness_as_any_other(tmp_path: Path) -> None:
    """Of the first row of the publishes a copy is missing; of a record that was lost, the first that was heard stands in the second row."""
    plan = RunFolder(tmp_path / "run").pod("web-0").pod("far-0", service="far", channels="other")
    events = plan.publish(2)
    plan.drop(events[0], "web-0")
    assert check(open_run(plan.write())).witnesses == [f"{events[0].id} on config.updated: missing at web-0, unexplained"]
    plan.folder = plan.folder.with_name("unasked")
    plan.hear(events[0], "far-0")
    plan.load = LoadInfo(offered_calls=2, generators=["locust"], record_kept=False)
    result = check(open_run(plan.write()))
    assert (result.verdict, result.counts["unrecorded"], result.counts["foreign"]) == ("invalid", 0, 0)


def test_what_was_heard_as_often_again_as_at_all_was_heard(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    (event,) = plan.publish(1)
    plan.repeat(event, "web-0")
    assert check(open_run(plan.write())).metrics["unexpected"] == 0.0


@pytest.mark.parametrize("key", [FOREIGN_BIT | 1, compose_key(nonce=9, publisher=0, sequence=0)], ids=["another program", "another run"])
def test_what_nobody_of_this_run_published_is_traffic_of_others(tmp_path: Path, key: int) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.publish(1)
    plan.foreign(key, "web-0")
    result = check(open_run(plan.write()))
    assert (result.verdict, result.counts["foreign"]) == ("unknown", 1)
    assert result.detail == "deliveries that are traffic of another program or run on the same broker: 1"
    assert result.warnings == ["another program or run publishes on these channels: give this run its own channel prefix or broker"]


@pytest.mark.parametrize(
    ("unexplained", "unexpected", "alone", "told"),
    [
        (True, True, True, ["unexplained"]),
        (True, False, True, ["unexplained"]),
        (False, True, True, ["unexpected"]),
        (False, False, True, ["alone", "refused"]),
        (False, False, False, ["refused"]),
    ],
)
def test_witnesses_are_of_what_is_worst(tmp_path: Path, unexplained: bool, unexpected: bool, alone: bool, told: list[str]) -> None:
    """What has no explanation comes before what is nobody's, and that before what a service without a pod missed, and what was lost."""
    plan = RunFolder(tmp_path / "run").pod("web-0").pod("far-0", service="far", channels="other")
    plan.publish(5)
    refused = plan.event(12 * SECOND, outcome="refused")
    words = {"refused": f"{refused.id} on config.updated: missing at web-0, publish-refused"}
    early = plan.event(9 * SECOND + 500 * MS, outcome="refused")  # of the warm-up: no witness
    if unexplained:
        plan.drop(plan.events[2], "web-0")
        words["unexplained"] = f"{plan.events[2].id} on config.updated: missing at web-0, unexplained"
    if unexpected:
        plan.hear(plan.events[3], "far-0")
        words["unexpected"] = f"{plan.events[3].id} on config.updated: unexpected at far-0"
    if alone:
        plan.scenario = '[services.mail]\nsubscribes = ["mail"]\n'
        words["alone"] = f"{plan.event(13 * SECOND, channel='mail').id} on mail: missing at mail, no-pod"
        early = plan.event(9 * SECOND + 500 * MS, channel="mail")
    witnesses = check(open_run(plan.write())).witnesses
    assert witnesses == [words[one] for one in told] and not any(early.id in text for text in witnesses)
