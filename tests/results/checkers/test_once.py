"""How often an event was run, judged over a service or over all, as the recipe's scope says."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from sim.results.checkers import judge
from sim.results.checkers.verdict import Bounds, Result
from sim.results.opened_run import open_run
from tests.support.run_folders import RunFolder

HANDLED, SKIPPED, FAILED = "handled", "skipped", "failed"


def plan(folder: Path, *outcomes: dict[str, str], bus: dict[str, Any]) -> RunFolder:
    """Return a run of two services with two pods each; each event is heard by the pods named, with that outcome."""
    plan = RunFolder(folder, bus=bus).service("web", replicas=2).service("jobs", replicas=2)
    for number, heard in enumerate(outcomes):
        event = plan.event(11_000_000_000 + number * 1_000_000)
        for pod, outcome in heard.items():
            plan.hear(event, pod, outcome=outcome)
    return plan


def judged(plan: RunFolder) -> Result:
    return judge(open_run(plan.write())).checkers["once"]


ALL = ({"web-0": HANDLED, "web-1": SKIPPED, "jobs-0": SKIPPED, "jobs-1": SKIPPED},)
EVENT = {"once": "keep-marker", "once_scope": "event"}
SERVICE = {"once": "keep-marker", "once_scope": "service"}


def test_with_one_lock_for_all_an_event_is_handled_once_and_its_other_service_is_told(tmp_path: Path) -> None:
    once = judged(plan(tmp_path, *ALL, bus=EVENT))
    assert once.verdict == "valid"
    assert once.metrics == {"handled_twice": 0, "handled_never": 0, "handled_elsewhere": 1}
    assert (once.counts["events"], once.counts["pairs"], once.counts["once"]) == (1, 2, 1)
    assert (once.counts["elsewhere.web"], once.counts["elsewhere.jobs"]) == (0, 1)
    assert once.detail == (
        "keep-marker, one lock for all services: of 1 event 1 ran once, 0 more than once, 0 never; of 2 (event, service) pairs 1 was "
        "never run by its service: another service had the lock"
    )


@pytest.mark.parametrize("bus", [SERVICE, {"once": "keep-marker"}], ids=["service", "a run from before"])
def test_with_a_lock_for_each_service_the_same_run_lacks_one(tmp_path: Path, bus: dict[str, Any]) -> None:
    once = judged(plan(tmp_path, *ALL, bus=bus))
    assert once.metrics == {"handled_twice": 0, "handled_never": 1, "handled_elsewhere": 0}
    assert once.witnesses[0].endswith("in jobs")


def test_two_services_that_run_an_event_break_the_promise_of_a_marker_for_all(tmp_path: Path) -> None:
    both = {"web-0": HANDLED, "web-1": SKIPPED, "jobs-0": HANDLED, "jobs-1": SKIPPED}
    assert judged(plan(tmp_path / "event", both, bus=EVENT)).verdict == "invalid"
    assert judged(plan(tmp_path / "service", both, bus=SERVICE)).verdict == "valid"


@pytest.mark.parametrize(
    ("outcomes", "never", "elsewhere"),
    [
        ({"web-0": FAILED, "web-1": SKIPPED, "jobs-0": SKIPPED, "jobs-1": SKIPPED}, 1, 1),
        ({"web-0": HANDLED, "web-1": SKIPPED, "jobs-0": FAILED, "jobs-1": SKIPPED}, 0, 0),
        ({"web-0": HANDLED, "web-1": SKIPPED}, 0, 0),
    ],
    ids=["the holder raised", "its own pod raised", "its pods did not hear"],
)
def test_another_service_is_blamed_only_where_no_pod_of_the_own_had_the_lock(
    tmp_path: Path, outcomes: dict[str, str], never: int, elsewhere: int
) -> None:
    once = judged(plan(tmp_path, outcomes, bus=EVENT))
    assert (once.metrics["handled_never"], once.metrics["handled_elsewhere"]) == (never, elsewhere)


def test_a_limit_judges_what_other_services_took(tmp_path: Path) -> None:
    folder = plan(tmp_path, *ALL, bus=EVENT)
    folder.slo = {"handled_elsewhere": 0, "handled_never": 0}
    limits = {one.metric: one.verdict for one in judge(open_run(folder.write())).slo}
    assert limits == {"handled_elsewhere": "invalid", "handled_never": "valid"}


def test_where_nothing_was_published_there_is_nothing_to_count(tmp_path: Path) -> None:
    once = judged(plan(tmp_path, bus=SERVICE))
    assert (once.verdict, once.detail) == ("unknown", "no data: nothing was published in the run phase")
    assert set(once.metrics) == {"handled_twice", "handled_never", "handled_elsewhere"} and all(
        value != value for value in once.metrics.values()
    )


TWICE, NEVER = {"web-0": HANDLED, "web-1": HANDLED, "jobs-0": HANDLED}, {"web-0": SKIPPED, "web-1": FAILED, "jobs-0": HANDLED}
ONE_EACH = {"web-0": HANDLED, "web-1": SKIPPED, "jobs-0": HANDLED}


def test_what_ran_more_than_once_is_counted_for_each_service_and_named_before_what_never_ran(tmp_path: Path) -> None:
    folder = plan(tmp_path, ONE_EACH, TWICE, NEVER, TWICE, bus={"once": "finally-del"})
    once = judged(folder)
    assert once.verdict == "valid", "that recipe promises nothing"
    assert (once.counts["twice_or_more.web"], once.counts["twice_or_more.jobs"], once.counts["most_runs"]) == (2, 0, 2)
    assert (once.counts["runs_per_event.web"], once.counts["runs_per_event.jobs"]) == (1.25, 1.0)
    assert once.detail == "finally-del: of 8 (event, service) pairs 5 ran once, 2 more than once (at most twice), 1 never"
    assert once.witnesses == [f"{folder.events[1].id} in web", f"{folder.events[3].id} in web"]


def test_with_one_lock_for_all_an_event_that_ran_twice_is_named_without_a_service(tmp_path: Path) -> None:
    folder = plan(tmp_path, {"web-0": HANDLED, "web-1": SKIPPED}, TWICE, bus=EVENT)
    once = judged(folder)
    assert (once.verdict, once.witnesses) == ("invalid", [folder.events[1].id])


@pytest.mark.parametrize("scope", ["event", "service"])
def test_every_count_is_that_of_a_plain_loop(tmp_path: Path, scope: str) -> None:
    draw = random.Random(scope)
    words = (HANDLED, SKIPPED, SKIPPED, FAILED, "", "", "", "")
    outcomes = [{pod: word for pod in ("web-0", "web-1", "jobs-0", "jobs-1") if (word := draw.choice(words))} for _ in range(80)]
    folder = plan(tmp_path, *outcomes, bus={"once": "token-del", "once_scope": scope})
    doubtful = {number for number in range(80) if draw.random() < 0.5}
    for number in doubtful:
        folder.events[number].outcome, folder.events[number].acked_ns = "unknown", 0
    once = judged(folder)
    of = {
        (number, service): [word for pod, word in heard.items() if pod.startswith(service)]
        for number, heard in enumerate(outcomes)
        for service in ("jobs", "web")
    }
    elsewhere = {pair for pair, words in of.items() if scope == "event" and set(words) == {SKIPPED}}
    units = [list(heard.values()) for heard in outcomes] if scope == "event" else list(of.values())
    runs = [words.count(HANDLED) for words in units]
    counts = {
        "events": 80,
        "pairs": 160,
        "never": runs.count(0),
        "once": runs.count(1),
        "twice_or_more": sum(many > 1 for many in runs),
        "most_runs": max(runs),
        "elsewhere": len(elsewhere),
    }
    for service in ("jobs", "web"):
        its = [words.count(HANDLED) for (_, name), words in of.items() if name == service]
        counts[f"twice_or_more.{service}"] = sum(many > 1 for many in its)
        counts[f"runs_per_event.{service}"] = sum(its) / len(its)
        counts[f"elsewhere.{service}"] = sum(name == service for _, name in elsewhere)
    assert once.counts == pytest.approx(counts)
    if scope == "event":
        in_doubt = sum(not outcomes[number] for number in doubtful)
    else:
        in_doubt = sum(number in doubtful and not words for (number, _), words in of.items())
    assert once.metrics["handled_never"] == Bounds(runs.count(0) - in_doubt, runs.count(0))
    assert 0 < in_doubt < runs.count(0) and (once.metrics["handled_twice"], once.metrics["handled_elsewhere"]) == (
        counts["twice_or_more"],
        len(elsewhere),
    )
