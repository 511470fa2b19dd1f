"""What each checker says of one small run, whole: every number, every sentence, every witness.

Three services should hear channel `a` or `b`: `web` (two pods) both, `api` (one pod) `a`, and `mail`, which never had a pod, `b`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sim.results.checkers import Result, judge, lag
from sim.results.checkers.verdict import Bounds, result_json
from sim.results.opened_run import Run, open_run
from tests.support.run_folders import MS, SECOND, US, RunFolder

KNOWN_OF = "whether what was not heard had been published"
EVENT = "evt_000700000000000"  # and its number: of publisher locust-0
OTHER = "evt_000700010000000"  # of locust-1


def at(seconds: float) -> int:
    return round(seconds * SECOND)


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    """Eleven events: four of `a` and three of `b` are heard by all that live, then one each is refused, kept, never sent and in doubt."""
    plan = RunFolder(tmp_path / "run").service("web", replicas=2, channels="a,b").pod("api-0", service="api", channels="a")
    plan.scenario = '[services.mail]\nsubscribes = ["b"]\n'
    plan.publish(4, start_ns=at(12), channel="a")
    plan.publish(3, start_ns=at(13), channel="b", publisher="locust-1")
    plan.event(at(14), channel="a", outcome="refused")
    plan.event(at(14.1), channel="b", outcome="memory")
    plan.event(at(14.2), channel="a", outcome="never-sent", sent_ns=0, acked_ns=0)
    doubtful = plan.event(at(14.3), channel="a", outcome="unknown", acked_ns=0)
    plan.hear(doubtful, "web-0")
    return plan


def result_of(plan: RunFolder, checker: str) -> Result:
    return judge(open_run(plan.write())).checkers[checker]


def told(result: Result) -> dict[str, Any]:
    """Return all of a result, what is not measured as None."""
    return result_json(result)


def scoped(base: str, whole: Any, **of: Any) -> dict[str, Any]:
    """Return a metric of the run, and of each service and channel."""
    return {base: whole} | {f'{base}.{"channel" if name in "ab" else "service"}."{name}"': value for name, value in of.items()}


def split(metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the metrics of a result as they stand in verdict.json: intervals, given as lists, are null among the numbers."""
    return {
        "metrics": {name: None if isinstance(value, list) else value for name, value in metrics.items()},
        "intervals": {name: value for name, value in metrics.items() if isinstance(value, list)},
    }


def test_the_ledger(plan: RunFolder) -> None:
    """Copies owed: 7 x 3 of `a`; 4 x 3 of `b`, one each to mail, which has no pod. Pairs of event and service: 7 x 2 and 4 x 2."""
    result = result_of(plan, "ledger")
    metrics = {
        **scoped("missing", [12, 14], a=[6, 8], b=6, web=[6, 7], api=[2, 3], mail=4),
        **scoped("missing_ratio", [12 / 33, 14 / 33], a=[6 / 21, 8 / 21], b=6 / 12, web=[6 / 22, 7 / 22], api=[2 / 7, 3 / 7], mail=1.0),
        **scoped("unserved", [9, 10], a=[4, 5], b=5, web=3, api=[2, 3], mail=4),
        **scoped("unserved_ratio", [9 / 22, 10 / 22], a=[4 / 14, 5 / 14], b=5 / 8, web=3 / 11, api=[2 / 7, 3 / 7], mail=1.0),
        **scoped("half_served", 1.0, a=1.0, b=0.0, web=1.0, api=0.0, mail=0.0),
        "unexpected": 0.0,
    }
    causes = dict.fromkeys(
        ("behind", "cut", "cut-link", "deaf", "keys-lost", "not-whole", "pod-down", "taken-by-peer", "trimmed", "unexplained"), 0
    )
    causes |= {"never-sent": 3, "publish-refused": 3, "sent-in-memory-mode": 3, "no-pod": 3}
    fates = {"delivered": 19, "duplicate": 0, "missing": 12, "unexpected": 0, "unknown": 2}
    pairs = {"pairs": 22, "unserved": 10, "in_doubt": 1, "half_served": 1}
    said = {"publish_receivers": 18, "publish_delivered": 18, "publish_said_more": 0, "publish_said_fewer": 0}
    assert told(result) == {
        "verdict": "valid",
        "counts": {"events": 11, "expected": 33, "foreign": 0, **fates, **causes, **pairs, **said},
        "detail": (
            "of 4 events that mail should handle 4 reached none of its pods, and 2 more services lack some; of 33 expected copies "
            "19 were delivered, 12 to 14 are missing (3 never-sent, 3 publish-refused, 3 sent-in-memory-mode, 3 no-pod): nobody knows "
            "whether 2 had been published"
        ),
        "witnesses": [
            f"{EVENT}5 on b: missing at mail, sent-in-memory-mode",
            f"{OTHER}0 on b: missing at mail, no-pod",
            f"{OTHER}1 on b: missing at mail, no-pod",
        ],
        "warnings": [],
        **split(metrics),
    }
    assert {value.why for value in result.metrics.values() if isinstance(value, Bounds)} == {KNOWN_OF}


def test_the_ledger_of_a_run_without_a_loss(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("web", replicas=2, channels="a").pod("idle-0", service="idle", channels="")
    plan.publish(2, channel="a")
    result = told(result_of(plan, "ledger"))
    assert (
        result["detail"]
        == "all 2 events reached every living pod of every service that should handle them; all 4 expected copies were delivered"
    )
    nothing = {"missing": 0, "missing_ratio": 0.0, "unserved": 0, "unserved_ratio": 0.0, "half_served": 0.0}
    assert result["metrics"] == {"unexpected": 0.0} | {
        name: value for base, value in nothing.items() for name in scoped(base, 0, web=0, a=0) for value in [value]
    }
    assert (result["witnesses"], result["warnings"]) == ([], []) and "intervals" not in result


def test_the_ledger_of_one_event(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    (event,) = plan.publish(1)
    assert result_of(plan, "ledger").detail == (
        "the one event reached every living pod of every service that should handle it; of 1 expected copy 1 was delivered, none is missing"
    )
    plan.folder, event.outcome = tmp_path / "refused", "refused"
    plan.heard.clear()
    result = result_of(plan, "ledger")
    assert result.detail == (
        "of 1 event that web should handle 1 reached none of its pods; "
        "of 1 expected copy 0 were delivered, 1 is missing (1 publish-refused)"
    )
    assert result.witnesses == [f"{event.id} on config.updated: missing at web-0, publish-refused"]


def test_the_ledger_names_who_heard_only_some(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("web", replicas=2, channels="a").service("api", replicas=2, channels="a")
    events = plan.publish(4, channel="a")
    plan.end("web-0", events[1].sent_ns + 300 * US).drop(events[1], "web-0").drop(events[2], "web-0").drop(events[3], "web-0")
    plan.pods["web-2"] = ("web", "a")
    assert result_of(plan, "ledger").detail == (
        "of 4 events that web should handle 1 reached only some of its pods; "
        "of 14 expected copies 13 were delivered, 1 is missing (1 pod-down)"
    )


def test_duplication(plan: RunFolder) -> None:
    again = plan.events[2]
    plan.repeat(again, "api-0", times=2)
    assert told(result_of(plan, "duplication")) == {
        "verdict": "invalid",
        "counts": {"redelivered": 2, "pods.api": 1, "pods.web": 2, "handled_per_event.api": 6 / 7, "handled_per_event.web": 15 / 11},
        "detail": "2 copies were heard again by a pod that had heard them; handled copies per event: api 0.857, web 1.36",
        "witnesses": [f"{EVENT}2 on a: heard again by api-0"] * 2,
        "metrics": scoped("duplicates", 2.0, a=2.0, b=0.0, web=0.0, api=2.0, mail=None),
        "warnings": [],
    }
    plan.folder = plan.folder.with_name("streams")
    plan.transport = "streams"
    assert result_of(plan, "duplication").verdict == "valid"


def test_duplication_where_none_was_heard_twice(plan: RunFolder) -> None:
    plan.heard[0].outcome, plan.heard[1].outcome = "skipped", "failed"
    plan.foreign(1 << 63, "web-0")
    assert told(result_of(plan, "duplication")) == {
        "verdict": "valid",
        "counts": {"redelivered": 0, "pods.api": 1, "pods.web": 2, "handled_per_event.api": 4 / 7, "handled_per_event.web": 13 / 11},
        "detail": "no pod heard an event twice; handled copies per event: api 0.571, web 1.18",
        "witnesses": [],
        "metrics": scoped("duplicates", 0.0, a=0.0, b=0.0, web=0.0, api=0.0, mail=None),
        "warnings": [],
    }


def test_order(plan: RunFolder) -> None:
    plan.swap(plan.events[0], plan.events[3], "web-1").swap(plan.events[4], plan.events[5], "web-0")
    assert told(result_of(plan, "order")) == {
        "verdict": "invalid",
        "counts": {"deliveries": 19, "out_of_order": 4, "publishers": 2},
        "detail": "4 of 19 deliveries came after a later event of their publisher and channel",
        "witnesses": [
            f"{OTHER}0 on b: web-0 had heard a later event of locust-1",
            f"{EVENT}1 on a: web-1 had heard a later event of locust-0",
            f"{EVENT}2 on a: web-1 had heard a later event of locust-0",
        ],
        "metrics": {"out_of_order": 4.0},
        "warnings": [],
    }


def test_order_that_was_kept(plan: RunFolder) -> None:
    whole = told(result_of(plan, "order"))
    assert whole == {
        "verdict": "valid",
        "counts": {"deliveries": 19, "out_of_order": 0, "publishers": 2},
        "detail": "all 19 deliveries kept the order of their publisher and channel",
        "witnesses": [],
        "metrics": {"out_of_order": 0.0},
        "warnings": [],
    }
    plan.folder, plan.heard = plan.folder.with_name("one"), plan.heard[:1]
    assert result_of(plan, "order").detail == "1 delivery kept the order of their publisher and channel"


@pytest.mark.parametrize("checker", ["ledger", "duplication", "order", "lag", "callers"])
def test_without_events_there_is_no_data(tmp_path: Path, checker: str) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.event(at(9.5))
    result = result_of(plan, checker)
    what = {"order": "delivered", "lag": "delivered", "callers": "called"}.get(checker, "published")
    words = {"callers": "no data: calls were meant, and none is recorded in the run phase"}
    assert (result.verdict, result.detail) == ("unknown", words.get(checker, f"no data: nothing was {what} in the run phase"))
    assert all(value is None for name, value in told(result)["metrics"].items())


# -- lag ------------------------------------------------------------------------------------------------------------

QUANTILES = ("p50", "p90", "p99", "p999", "p9999", "max")


def quantiles(name: str, *values: float) -> dict[str, float]:
    """Return the quantiles under this name: the median, the p90, and what the others are."""
    return {f"{name}.{q}": float(value) for q, value in zip(QUANTILES, [*values, *[values[-1]] * 6], strict=False)}


def of_metric(values: dict[str, float], scope: str = "") -> dict[str, float]:
    return {f"lag_ms_{name.rpartition('.')[2]}{scope}": value / 1e3 for name, value in values.items()}


def test_lag(plan: RunFolder) -> None:
    """19 copies at 250 us, but one of `a` at 3.25 ms and one of `b` at 4.25; all were sent 50 us after they were meant.

    Calls took 5 us, which holds up the publish that they are; only the last of `b` had to wait for a slow answer before it, for 500 us.
    """
    plan.delay(plan.events[3], "web-1", 3 * MS).delay(plan.events[6], "web-1", 4 * MS)
    plan.events[5].acked_ns = plan.events[5].sent_ns + MS + 495 * US
    lags = {
        "": quantiles("lag_us", 250, 3250, 4250),
        ".channel.a": quantiles("lag_us.channel.a", 250, 250, 3250),
        ".channel.b": quantiles("lag_us.channel.b", 250, 4250),
        ".service.api": quantiles("lag_us.service.api", 250),
        ".service.web": quantiles("lag_us.service.web", 250, 3250, 4250),
    }
    found = told(result_of(plan, "lag"))
    metrics: dict[str, float] = {"send_delay_ms_p99": 0.05}
    for scope, values in lags.items():
        _, kind, name = scope.split(".") if scope else ("", "", "")
        metrics |= of_metric(values, f'.{kind}."{name}"' if scope else "")
    rest = quantiles("send_delay_us", 50) | quantiles("bus_us", 200, 3200, 4200) | quantiles("held_up_us", 5, 5, 505)
    assert found["counts"] == {"copies": 19, "negative": 0, "unanswered": 4, **rest} | {
        k: v for one in lags.values() for k, v in one.items()
    }
    assert found["metrics"] == pytest.approx(metrics)
    assert found["detail"] == "median lag 250 us, p99 4.25 ms, max 4.25 ms over 19 copies; p99 and above are the maximum (too few copies)"
    assert (found["verdict"], found["witnesses"], found["warnings"]) == ("valid", [], [])


@pytest.mark.parametrize(
    ("copies", "caution"),
    [
        (1, "; p50 and above are the maximum (too few copies)"),
        (2, "; p90 and above are the maximum (too few copies)"),
        (99, "; p99 and above are the maximum (too few copies)"),
        (100, "; p99.9 and above are the maximum (too few copies)"),
        (1000, "; p99.99 is the maximum (too few copies)"),
        (9999, "; p99.99 is the maximum (too few copies)"),
        (10_000, ""),
    ],
)
def test_which_quantiles_are_the_maximum(copies: int, caution: str) -> None:
    assert lag._caution(copies) == caution


@pytest.mark.parametrize(
    ("lag_us", "sent_us", "many"), [(10, 50, 1), (-10, -50, 1), (-10, 50, 1), (0, -50, 0), (50, 50, 0)]
)  # a handler may start in the nanosecond in which its event was meant and sent
def test_a_copy_handled_before_it_was_meant_or_before_it_was_sent_shows_that_clocks_disagree(
    tmp_path: Path, lag_us: int, sent_us: int, many: int
) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.publish(5)
    event = plan.event(at(11), sent_ns=at(11) + sent_us * US)
    plan.hear(event, "web-0", lag_ns=lag_us * US)
    result = result_of(plan, "lag")
    assert result.counts["negative"] == many
    assert result.verdict == ("unknown" if many else "valid")
    if many:
        assert result.detail == "1 copy was handled before it was meant or sent: the clocks or the record are wrong"
        plan.hear(plan.event(at(12)), "web-0", lag_ns=-SECOND)
        plan.folder = tmp_path / "two"
        assert result_of(plan, "lag").detail == "2 copies were handled before they were meant or sent: the clocks or the record are wrong"


def opened(plan: RunFolder) -> Run:
    return open_run(plan.write())


def test_a_call_is_held_up_by_those_before_it_of_its_publisher(tmp_path: Path) -> None:
    """Calls 1 ms apart. The first takes 2.5 ms and holds up the next two, the fourth is free again; another publisher has its own queue.

    Publishes hold up like calls, for as long as their answer took; those of other phases do too, but are not among what is returned.
    """
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.calls = [(at(11) + n * MS, "locust-0", "a", took, "ok") for n, took in enumerate((2500 * US, 0, 0, 0))]
    plan.calls += [(at(11), "locust-1", "a", 0, "ok"), (at(11) + 1, "locust-1", "a", 0, "ok")]
    plan.event(at(9.9), publisher="locust-2", sent_ns=at(9.9), acked_ns=at(10.25))
    plan.event(at(10), publisher="locust-2", sent_ns=at(10.25), acked_ns=at(10.26))
    plan.event(at(10.3), publisher="locust-2", sent_ns=at(10.3), acked_ns=0, outcome="unknown")
    plan.event(at(10.4), publisher="locust-2")
    plan.event(at(20), publisher="locust-2")
    waits = lag.held_up(opened(plan))
    assert (waits / US).tolist() == [0, 1500, 500, 0, 0, 0, 250_000, 0, 0]


def test_who_never_called_was_not_held_up(tmp_path: Path) -> None:
    assert lag.held_up(opened(RunFolder(tmp_path / "run").pod("web-0"))).tolist() == []


def test_the_send_delay_is_of_what_was_handed_to_a_socket_in_the_run_phase(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.event(at(9.9), sent_ns=at(9.9) + 7)
    plan.event(at(11), sent_ns=at(11) + 1)
    plan.event(at(12), sent_ns=at(12) + 2, outcome="refused")
    plan.event(at(13), sent_ns=at(13) + 3, outcome="unknown", acked_ns=0)
    plan.event(at(14), sent_ns=at(14) + 4, outcome="memory")
    plan.event(at(15), sent_ns=0, acked_ns=0, outcome="never-sent")
    plan.event(at(20), sent_ns=at(20) + 5)
    assert lag.send_delays(opened(plan)).tolist() == [1, 2, 3]


def test_lag_without_a_fleet_of_ours(plan: RunFolder) -> None:
    plan.info.fleet = "none"
    found = told(result_of(plan, "lag"))
    assert found["detail"] == (
        "the fleet is not ours: who heard, and how late, is not known; 9 events were sent, p99 50 us after the time that was meant"
    )
    assert found["counts"] == {"publishes": 9} | quantiles("send_delay_us", 50)
    assert found["verdict"] == "valid" and found["metrics"]["send_delay_ms_p99"] == 0.05
    plan.folder = plan.folder.with_name("none")
    plan.events = []
    result = result_of(plan, "lag")
    assert (result.verdict, result.detail) == ("unknown", "no data: nothing was published in the run phase")


COUNTS = {"bus_us.p99": 4000.0, "bus_us.service.web.p99": 3000.0, "bus_us.max": 9000.0, "held_up_us.p99": 500.0, "unanswered": 0}


@pytest.mark.parametrize(
    ("metric", "limit", "at_most"),
    [
        ("lag_ms_p99", 5, "4.5 ms"),
        ("lag_ms_p99", 4.5, "4.5 ms"),
        ("lag_ms_p99", 4.49, None),
        ('lag_ms_p99.service."web"', 4, "3.5 ms"),
        ("lag_ms_max", 10, "9 ms"),
        ("lag_ms_p50", 10, None),
        ('lag_ms_p99.service."api"', 10, None),
    ],
)
def test_what_the_generator_added_to_a_broken_limit(metric: str, limit: float, at_most: str | None) -> None:
    text = f"the generator was late by itself: without that it is at most {at_most}" if at_most else ""
    assert lag.generator_s_own(metric, limit, COUNTS) == text
    assert lag.generator_s_own(metric, limit, COUNTS | {"unanswered": 1}) == ""
