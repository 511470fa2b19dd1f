"""What the checkers of handlers, batches, callers and clocks say of small runs: every number and every sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sim.results.checkers import Result, judge
from sim.results.checkers.verdict import Bounds, result_json
from sim.results.opened_run import open_run
from tests.support.run_folders import MS, SECOND, US, RunFolder

EVENT = "evt_000700000000000"  # and its number: of the first publisher


def at(seconds: float) -> int:
    return round(seconds * SECOND)


def result_of(plan: RunFolder, checker: str) -> Result:
    return judge(open_run(plan.write())).checkers[checker]


def told(plan: RunFolder, checker: str) -> dict[str, Any]:
    """Return all of a result as verdict.json has it; what is not measured is None."""
    return result_json(result_of(plan, checker))


# -- once -----------------------------------------------------------------------------------------------------------


def once(folder: Path, **bus: Any) -> RunFolder:
    """Five events: web ran them once, never, twice, never (one pod failed), and the last nobody heard, nor knows if it was published."""
    plan = RunFolder(folder, bus=bus).service("web", replicas=2).pod("jobs-0", service="jobs")
    outcomes = [
        {"web-0": "handled", "web-1": "skipped", "jobs-0": "handled"},
        {"web-0": "skipped", "web-1": "skipped", "jobs-0": "handled"},
        {"web-0": "handled", "web-1": "handled", "jobs-0": "handled"},
        {"web-0": "failed", "web-1": "skipped", "jobs-0": "skipped"},
    ]
    for number, heard in enumerate(outcomes):
        event = plan.event(at(11 + number))
        for pod, outcome in heard.items():
            plan.hear(event, pod, outcome=outcome)
    plan.event(at(16), outcome="unknown", acked_ns=0)
    plan.publish(1, start_ns=at(9.5))  # in the warm-up
    return plan


def test_once_with_a_lock_for_each_service(tmp_path: Path) -> None:
    assert told(once(tmp_path, once="keep-marker", once_scope="service"), "once") == {
        "verdict": "invalid",
        "counts": {
            "events": 5, "pairs": 10, "never": 5, "once": 4, "twice_or_more": 1, "most_runs": 2, "elsewhere": 0,
            "twice_or_more.web": 1, "runs_per_event.web": 0.6, "elsewhere.web": 0,
            "twice_or_more.jobs": 0, "runs_per_event.jobs": 0.6, "elsewhere.jobs": 0,
        },
        "detail": "keep-marker: of 10 (event, service) pairs 4 ran once, 1 more than once (at most twice), 5 never",
        "witnesses": [f"{EVENT}2 in web"],
        "metrics": {"handled_twice": 1.0, "handled_never": None, "handled_elsewhere": 0.0},
        "intervals": {"handled_never": [3, 5]},
        "warnings": [],
    }  # fmt: skip


def test_once_with_one_lock_for_all_services(tmp_path: Path) -> None:
    """The third event was run by three pods, the second by jobs alone: its pods of web skipped it."""
    plan = once(tmp_path, once="finally-del", once_scope="event")
    assert told(plan, "once") == {
        "verdict": "valid",
        "counts": {
            "events": 5, "pairs": 10, "never": 2, "once": 1, "twice_or_more": 2, "most_runs": 3, "elsewhere": 2,
            "twice_or_more.web": 1, "runs_per_event.web": 0.6, "elsewhere.web": 1,
            "twice_or_more.jobs": 0, "runs_per_event.jobs": 0.6, "elsewhere.jobs": 1,
        },
        "detail": "finally-del, one lock for all services: of 5 events 1 ran once, 2 more than once (at most 3 times), 2 never; "
        "of 10 (event, service) pairs 2 were never run by their service: another service had the lock",
        "witnesses": [f"{EVENT}0", f"{EVENT}2"],
        "metrics": {"handled_twice": 2.0, "handled_never": None, "handled_elsewhere": 2.0},
        "intervals": {"handled_never": [1, 2]},
        "warnings": [],
    }  # fmt: skip
    plan.folder = tmp_path / "why"
    (never,) = (value for value in result_of(plan, "once").metrics.values() if isinstance(value, Bounds))
    assert never.why == "whether events that no pod ran had been published"


@pytest.mark.parametrize(
    ("recipe", "word"), [("keep-marker", "invalid"), ("two-key", "invalid"), ("token-del", "valid"), ("finally-del", "valid")]
)
def test_which_recipes_promise_never_more_than_once(tmp_path: Path, recipe: str, word: str) -> None:
    assert result_of(once(tmp_path, once=recipe), "once").verdict == word


def test_once_where_every_event_ran_at_most_once(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path, bus={"once": "two-key"}).pod("web-0").pod("idle-0", service="idle", channels="")
    events = plan.publish(5)
    for event in events[1:]:
        plan.drop(event, "web-0")
    assert told(plan, "once") == {
        "verdict": "valid",
        "counts": {
            "events": 5, "pairs": 5, "never": 4, "once": 1, "twice_or_more": 0, "most_runs": 1, "elsewhere": 0,
            "twice_or_more.web": 0, "runs_per_event.web": 0.2, "elsewhere.web": 0,
        },
        "detail": "two-key: of 5 (event, service) pairs 1 ran once, 0 more than once, 4 never",
        "witnesses": [f"{EVENT}1 in web", f"{EVENT}2 in web", f"{EVENT}3 in web"],
        "metrics": {"handled_twice": 0.0, "handled_never": 4, "handled_elsewhere": 0.0},
        "warnings": [],
    }  # fmt: skip


def test_once_has_nothing_to_say_without_a_recipe_or_without_events(tmp_path: Path) -> None:
    nothing = {
        "counts": {},
        "witnesses": [],
        "warnings": [],
        "metrics": dict.fromkeys(("handled_twice", "handled_never", "handled_elsewhere")),
    }
    plan = RunFolder(tmp_path / "none").pod("web-0")
    plan.publish(1)
    text = "the bus has no recipe for handling once: every pod that hears an event handles it"
    assert told(plan, "once") == {"verdict": "valid", "detail": text} | nothing
    plan = RunFolder(tmp_path / "early", bus={"once": "two-key"}).pod("web-0")
    plan.publish(1, start_ns=at(9.5))
    assert told(plan, "once") == {"verdict": "unknown", "detail": "no data: nothing was published in the run phase"} | nothing


def test_once_of_events_that_nobody_heard(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "none", bus={"once": "two-key"}).pod("web-0")
    plan.event(at(11), outcome="refused")
    assert told(plan, "once")["metrics"] == {"handled_twice": None, "handled_never": 1, "handled_elsewhere": None}


# -- batching -------------------------------------------------------------------------------------------------------

BATCH = "analytics.events.batch"


@pytest.fixture
def batches(tmp_path: Path) -> RunFolder:
    """Batches of 4 and 2 items are heard by two pods; of 3, 5, 1 and 6 items by none, for four reasons; and one event of the bus itself."""
    plan = RunFolder(tmp_path / "run").service("web", replicas=2, channels=BATCH)

    def batch(number: int, items: int, **columns: Any) -> Any:
        begin = at(11) + number * SECOND
        return plan.event(begin + 100 * MS, channel=BATCH, items=items, size=items * 100, first_item_ns=begin, **columns)

    for event, lags in ((batch(0, 4), (MS, 3 * MS)), (batch(1, 2), (2 * MS, MS))):
        for pod, lag in zip(("web-0", "web-1"), lags, strict=True):
            plan.hear(event, pod, lag_ns=lag)
    batch(2, 3, outcome="never-sent", sent_ns=0, acked_ns=0)
    batch(3, 5, outcome="unknown", acked_ns=0)
    batch(4, 1, outcome="refused")
    batch(5, 6, outcome="memory")
    plan.event(at(18), channel="config.updated", items=1, size=50)
    plan.event(at(18.5), channel="config.updated", items=0, size=7)
    return plan


def test_batching(batches: RunFolder) -> None:
    """21 items waited 100 ms each, between 11 and 16.1 s. (The test's table says that every item of a batch waited as long.)"""
    assert told(batches, "batching") == {
        "verdict": "valid",
        "counts": {
            "batches": 6, "items": 21, "items_per_batch": 3.5,
            "batches_per_s": 0.6, "publishes_per_s": 0.7, "batch_bytes_per_s": 210.0, "bytes_per_item": 100.0,
            "wait_ms.mean": pytest.approx(100), "at_risk.mean": pytest.approx(2.1 / 5.1), "at_risk.max": 6,
            "oldest_wait_ms.p50": 100.0, "oldest_wait_ms.p99": 100.0, "oldest_wait_ms.max": 100.0,
            "age_ms.p50": 103.0, "age_ms.p99": 103.0, "age_ms.max": 103.0,
            "lost": 15, "lost.never-sent": 3, "lost.unknown": 5, "lost.refused": 1, "lost.memory": 6,
        },
        "detail": "21 items left in 6 batches of 3.5; the oldest of a batch waited 100 ms in the median, 100 ms at most; on average "
        "0.412 items waited at a time; no pod heard 15 of them: 3 died with their publisher, 1 was refused, 5 had no answer, "
        "6 were published in memory mode",
        "witnesses": [
            f"{EVENT}5 on {BATCH}: 6 items of locust-0, memory",
            f"{EVENT}3 on {BATCH}: 5 items of locust-0, unknown",
            f"{EVENT}2 on {BATCH}: 3 items of locust-0, never-sent",
        ],
        "metrics": {"items_lost": None, "item_age_ms_p99": 103.0, "item_age_ms_max": 103.0, "backlog_drain_s_max": None},
        "intervals": {"items_lost": [10, 15]},
        "warnings": [],
    }  # fmt: skip
    (lost,) = (value for value in result_of(batches, "batching").metrics.values() if isinstance(value, Bounds))
    assert lost.why == "whether batches that no pod heard had been published"


def test_batches_at_the_bounds_of_the_run_phase(tmp_path: Path) -> None:
    """Judged is what waited in it: meant to leave at its start or later, with a first item before its end."""
    plan = RunFolder(tmp_path / "run").pod("web-0", channels=BATCH)
    for first, leaves, items in ((9, 9.999, 1), (9.5, 10, 2), (19.9, 20.5, 4), (20, 20.5, 8)):
        plan.event(at(leaves), channel=BATCH, items=items, first_item_ns=at(first))
    counts = result_of(plan, "batching").counts
    assert (counts["batches"], counts["items"], counts["batches_per_s"], counts["publishes_per_s"]) == (2, 6, 0.1, 0.1)


def test_batches_without_a_subscriber_are_lost_only_where_they_were_not_published(batches: RunFolder) -> None:
    batches.pods = dict.fromkeys(batches.pods, ("web", "config.updated"))
    batches.heard.clear()
    counts = result_of(batches, "batching").counts
    assert {name: value for name, value in counts.items() if name.startswith("lost")} == {
        "lost": 4,
        "lost.never-sent": 3,
        "lost.refused": 1,
    }


def test_an_event_that_stands_twice_is_one_batch(batches: RunFolder) -> None:
    batches.events.append(batches.events[0])
    counts = result_of(batches, "batching").counts
    assert (counts["batches"], counts["items"], counts["publishes_per_s"]) == (6, 21, 0.7)


def test_batches_that_did_not_wait_and_were_not_lost(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0", channels="a")
    plan.publish(1, channel="a", items=3)
    assert result_of(plan, "batching").detail == "3 items left in 1 batch of 3; no item waited for its batch; none was lost"


@pytest.mark.parametrize(("mix", "rate", "word"), [(1, 5.0, "unknown"), (0, 5.0, "valid"), (1, 0.0, "valid")])
def test_batches_that_were_meant_and_are_not_there_are_unknown(tmp_path: Path, mix: int, rate: float, word: str) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.publish(1)
    plan.scenario = f'[load]\nrate_per_s = {rate}\nmix = {{"{BATCH}" = {mix}}}\n'
    folder = plan.write()
    text = (folder / "scenario.toml").read_text().replace("[load]\nreads_per_s = 0.0\n", "", 1)
    (folder / "scenario.toml").write_text(text)
    result = judge(open_run(folder)).checkers["batching"]
    missing = "no data: the load's mix means batches, and none waited in the run phase"
    assert (result.verdict, result.detail) == (word, missing if word == "unknown" else "the load has no batches")
    assert result_json(result)["metrics"] == dict.fromkeys(("items_lost", "item_age_ms_p99", "item_age_ms_max", "backlog_drain_s_max"))


# -- callers --------------------------------------------------------------------------------------------------------


def quantiles(name: str, middle: float, most: float) -> dict[str, float]:
    return {f"{name}.p50": middle} | {f"{name}.{q}": most for q in ("p99", "p999", "max")}


def test_callers(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0", channels="a")
    events = plan.publish(3, channel="a", start_ns=at(11), step_ns=SECOND)
    plan.faults = [("broker_down", "broker", at(12), at(12.5))]
    plan.calls = [(event.intended_ns, "locust-0", "a", took * US, "ok") for event, took in zip(events, (5, 80, 0), strict=True)]
    plan.calls += [
        (at(14), "locust-0", "b", 20 * US, "failed"),
        (at(9.9), "locust-0", "a", SECOND, "failed"),
        (at(20), "locust-0", "a", SECOND, "ok"),
    ]
    assert told(plan, "callers") == {
        "verdict": "valid",
        "counts": {
            "calls": 4, "failed": 1, **quantiles("took_us", 20, 80),
            "calls.in.broker_down": 1, "failed.in.broker_down": 0, **quantiles("took_us.in.broker_down", 80, 80),
            "calls.outside": 3, "failed.outside": 1, **quantiles("took_us.outside", 5, 20),
            **quantiles("took_us.channel.a", 5, 80), **quantiles("took_us.channel.b", 20, 20),
        },
        "detail": "1 of 4 calls failed; the caller waited 20 us in the median, p99.9 80 us, max 80 us; in broker_down at most 80 us, "
        "outside at most 20 us",
        "witnesses": [
            "a call of b: locust-0 waited 20 us, failed", f"{EVENT}1 on a: locust-0 waited 80 us", f"{EVENT}0 on a: locust-0 waited 5 us",
        ],
        "metrics": {"call_ms_p99": 0.08, "call_ms_p999": 0.08, "call_ms_max": 0.08, "calls_failed": 1.0},
        "warnings": [],
    }  # fmt: skip


def test_callers_in_virtual_time(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.calls = [(at(11), "locust-0", "a", 0, "ok")]
    plan.info.ground = "model"
    result = told(plan, "callers")
    assert result["detail"] == "none of 1 call failed; none waited (in virtual time code takes no time, so only waiting would show)"
    assert result["witnesses"] == []
    plan.folder, plan.calls = tmp_path / "waited", [(at(11), "locust-0", "a", MS, "ok")]
    assert result_of(plan, "callers").detail == "none of 1 call failed; the caller waited 1 ms in the median, p99.9 1 ms, max 1 ms"


# -- clocks ---------------------------------------------------------------------------------------------------------


def test_clocks(tmp_path: Path) -> None:
    """Five events, 250 us old when they are handled. The clock of web-1 is 2 s behind from 12 s on, and 1 s ahead from 14."""
    plan = RunFolder(tmp_path / "run").service("web", replicas=2)
    for seconds, ahead in ((14, SECOND), (12, -2 * SECOND)):
        plan.state("web-1", at(seconds), "subscribed")
        plan.clocks["web-1", at(seconds)] = ahead
    for event in plan.publish(5, start_ns=at(10.5), step_ns=SECOND):
        event.stamped_ns = event.intended_ns
    plan.publish(1, start_ns=at(16))  # without a timestamp
    plan.publish(1, start_ns=at(9.5), stamped_ns=1)
    assert told(plan, "clocks") == {
        "verdict": "valid",
        "counts": {
            "stated_age_ms.min": -1999.75, "stated_age_ms.p50": 0.25, "stated_age_ms.p99": 1000.25, "stated_age_ms.max": 1000.25,
            "copies": 10, "from_future": 2, "wrong_clocks": 1,
        },
        "detail": "the clock of web-1 was wrong: by their timestamps 10 copies had a median age of 250 us, at most 1 s; "
        "2 came from the future, by up to 2 s",
        "witnesses": [f"{EVENT}2 in web-1", f"{EVENT}3 in web-1", f"{EVENT}0 in web-0"],
        "metrics": {"stated_age_ms_p99": 1000.25, "stated_age_ms_max": 1000.25, "from_future": 2.0},
        "warnings": [],
    }  # fmt: skip


def test_the_oldest_are_the_witnesses_where_none_came_from_the_future_and_three_pods_are_named(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("web", replicas=4)
    for pod in plan.pods:
        plan.clocks[pod, SECOND + MS] = SECOND
    for event in plan.publish(2, start_ns=at(11)):
        event.stamped_ns = event.intended_ns
    plan.delay(plan.events[1], "web-2", MS)
    result = result_of(plan, "clocks")
    assert (
        result.detail
        == "the clocks of web-0, web-1, web-2 and others were wrong: by their timestamps 8 copies had a median age of 1 s, at most 1 s"
    )
    assert result.witnesses == [f"{EVENT}1 in web-2", f"{EVENT}0 in web-0", f"{EVENT}1 in web-0"]


def test_clocks_without_timestamps_are_no_data(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.publish(1)
    nothing = {
        "counts": {},
        "witnesses": [],
        "warnings": [],
        "metrics": dict.fromkeys(("stated_age_ms_p99", "stated_age_ms_max", "from_future")),
    }
    assert told(plan, "clocks") == {"verdict": "valid", "detail": "no pod's wall clock was wrong"} | nothing
    plan.folder, plan.slo = tmp_path / "asked", {"from_future": 0}
    no_data = "no data: no event with a timestamp was delivered in the run phase"
    assert told(plan, "clocks") == {"verdict": "valid", "detail": no_data} | nothing
    plan.folder, plan.clocks = tmp_path / "wrong", {("web-0", SECOND + MS): 7}
    assert told(plan, "clocks") == {"verdict": "unknown", "detail": no_data} | nothing
    plan.folder, plan.clocks, plan.events[0].stamped_ns = tmp_path / "right", {}, at(10)
    assert (
        result_of(plan, "clocks").detail
        == "no pod's clock was wrong: by their timestamps 1 copy had a median age of 250 us, at most 250 us"
    )
