"""No limit and no checker says invalid where the machine may have done it; what no stall explains stays invalid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sim.machine.waits import Waits
from sim.results.checkers import judge
from sim.results.checkers.verdict import JudgedLimit, Verdict
from sim.results.opened_run import open_run
from sim.results.report import verdict_table
from tests.support.run_folders import MS, SECOND, RunFolder

Said = Callable[[int], Waits]
STOPPED = (12, 15)  # seconds, in the run phase from 10 to 20


def stands(begin_s: float = STOPPED[0], end_s: float = STOPPED[1]) -> Said:
    """Stand still for all of this time."""
    return lambda at: Waits(waited_ns=0.0, stood_ns=float(max(0, min(at, end_s * SECOND) - begin_s * SECOND)))


def waits(ms: float, begin_s: float = 8, end_s: float = 22) -> Said:
    """Wait so many milliseconds of each second of this time."""
    return lambda at: Waits(waited_ns=max(0.0, min(at, end_s * SECOND) - begin_s * SECOND) * ms / 1000, stood_ns=0.0)


def lagging(folder: Path, *, slo: dict[str, float], late_ms: float, slow_ms: float = 0.0) -> RunFolder:
    """Plan a run of 200 events: of those meant in the stop each is handled `late_ms` later, by the whole stop at most; all by `slow_ms`."""
    plan = RunFolder(folder, slo=slo).pod("web-0")
    plan.publish(200, step_ns=50 * MS)
    for event in plan.events:
        at = event.intended_ns
        in_stop = min(late_ms * MS, STOPPED[1] * SECOND - at) if STOPPED[0] * SECOND <= at < STOPPED[1] * SECOND else 0
        plan.delay(event, "web-0", int(in_stop + slow_ms * MS))
    return plan


def verdict_of(plan: RunFolder) -> Verdict:
    return judge(open_run(plan.write()))


def limit_of(plan: RunFolder) -> JudgedLimit:
    return verdict_of(plan).slo[0]


# -- lag ----------------------------------------------------------------------------------------------------------


def test_a_stopped_lab_makes_a_lag_limit_unknown_and_is_named(tmp_path: Path) -> None:
    limit = limit_of(lagging(tmp_path / "run", slo={"lag_ms_p99": 1000}, late_ms=3000).starve(h0=stands()))
    assert limit.verdict == "unknown"
    assert "h0 stood still for 3 s" in limit.detail and "let nothing stop or suspend the lab" in limit.detail


def test_without_the_stop_the_same_lag_is_invalid(tmp_path: Path) -> None:
    assert limit_of(lagging(tmp_path / "run", slo={"lag_ms_p99": 1000}, late_ms=3000).starve(h0=waits(10))).verdict == "invalid"


def test_a_folder_from_before_there_were_waits_is_judged_as_it_was(tmp_path: Path) -> None:
    assert limit_of(lagging(tmp_path / "run", slo={"lag_ms_p99": 1000}, late_ms=3000)).verdict == "invalid"


def test_what_is_late_even_without_the_stop_is_invalid(tmp_path: Path) -> None:
    assert limit_of(lagging(tmp_path / "run", slo={"lag_ms_p99": 50}, late_ms=3000, slow_ms=400).starve(h0=stands())).verdict == "invalid"


@pytest.mark.parametrize(("busy", "word"), [(0.01, "invalid"), (0.3, "unknown")])
def test_what_piled_up_while_the_lab_stood_still_is_done_one_by_one(tmp_path: Path, busy: float, word: str) -> None:
    """What was meant in the stop of 3 s is handled 100 ms after it: a process that is busy has so much to do first."""
    plan = RunFolder(tmp_path / "run", slo={"lag_ms_p99": 50}).pod("web-0")
    plan.publish(200, step_ns=50 * MS)
    for event in plan.events:
        if STOPPED[0] * SECOND <= event.intended_ns < STOPPED[1] * SECOND:
            plan.delay(event, "web-0", int(STOPPED[1] * SECOND - event.intended_ns + 100 * MS))
    assert limit_of(plan.starve(busy=busy, h0=stands())).verdict == word


@pytest.mark.parametrize("who", ["h0", "locust", "broker", "proxy", "broker 127.0.0.1:7001"])
def test_each_process_that_a_copy_passes_may_have_been_the_one(tmp_path: Path, who: str) -> None:
    limit = limit_of(lagging(tmp_path / "run", slo={"lag_ms_p99": 1000}, late_ms=3000).starve(**{who: stands()}))
    assert limit.verdict == "unknown" and f"{who} stood still" in limit.detail


def test_a_process_that_no_copy_passes_excuses_nothing(tmp_path: Path) -> None:
    limit = limit_of(lagging(tmp_path / "run", slo={"lag_ms_p99": 1000}, late_ms=3000).starve(another=stands()))
    assert limit.verdict == "invalid"


def test_a_lab_with_too_little_of_a_core_is_named_with_what_to_stop(tmp_path: Path) -> None:
    plan = lagging(tmp_path / "run", slo={"lag_ms_p99": 50}, late_ms=0, slow_ms=120).starve(h0=waits(600), broker=waits(200))
    limit = limit_of(plan)
    assert limit.verdict == "unknown"
    assert "h0 waited" in limit.detail and "broker waited" in limit.detail and "stop what else runs on this machine" in limit.detail


def test_a_slow_bus_on_a_machine_that_is_nearly_quiet_is_invalid(tmp_path: Path) -> None:
    """One percent of the time waited, everywhere: what this takes off is far from the limit."""
    quiet = {host: waits(10) for host in ("h0", "locust", "broker", "proxy")}
    assert limit_of(lagging(tmp_path / "run", slo={"lag_ms_p99": 50}, late_ms=0, slow_ms=80).starve(**quiet)).verdict == "invalid"


@pytest.mark.parametrize(("wait_ms", "word"), [(1, "invalid"), (60, "unknown")])
def test_what_was_withheld_is_given_out_once(tmp_path: Path, wait_ms: float, word: str) -> None:
    """Each of twenty copies a second is 0.2 ms over the limit: 4 ms a second of waiting could do that, one cannot."""
    plan = lagging(tmp_path / "run", slo={"lag_ms_p50": 0.3}, late_ms=0, slow_ms=0.25).starve(h0=waits(wait_ms))
    assert limit_of(plan).verdict == word


def test_a_limit_that_no_bus_can_keep_is_invalid_on_any_machine(tmp_path: Path) -> None:
    assert limit_of(lagging(tmp_path / "run", slo={"lag_ms_p50": 1e-6}, late_ms=3000).starve(h0=waits(900))).verdict == "invalid"


def test_events_that_queued_behind_the_stop_are_late_by_it_too(tmp_path: Path) -> None:
    """The queue is empty again four seconds after the stop: the events meant after it waited behind those meant in it."""
    plan = RunFolder(tmp_path / "run", slo={"lag_ms_p99": 100}).pod("web-0")
    plan.publish(200, step_ns=50 * MS)
    free = 0
    for event in plan.events:
        ready = max(event.intended_ns + MS, free, 15 * SECOND if event.intended_ns >= 12 * SECOND else 0)
        free = ready + 28 * MS
        plan.delay(event, "web-0", free - event.intended_ns - 250_000)
    plan.starve(h0=stands())
    lags = [row.handled_ns - event.intended_ns for row, event in zip(plan.heard, plan.events, strict=True)]
    assert max(lags[120:]) > SECOND, "none that was meant a second after the stop is late"
    assert limit_of(plan).verdict == "unknown"


def test_a_limit_that_holds_stays_valid_with_the_wait_beside_it(tmp_path: Path) -> None:
    verdict = verdict_of(lagging(tmp_path / "run", slo={"lag_ms_p99": 5000, "unexpected": 0}, late_ms=3000).starve(h0=stands()))
    lag, unexpected = verdict.slo
    assert lag.verdict == unexpected.verdict == "valid"
    assert lag.detail.endswith("as promised, although h0 stood still for 3 s") and "although" not in unexpected.detail
    assert any("h0 stood still for 3 s" in text for text in verdict.checkers["harness"].warnings)
    assert verdict.checkers["harness"].counts["stood_s.h0"] == 3
    assert "although h0 stood still for 3 s" in "".join(str(cell) for cell in verdict_table(verdict).columns[2].cells)


def test_a_quiet_machine_has_no_word_beside_a_limit(tmp_path: Path) -> None:
    verdict = verdict_of(lagging(tmp_path / "run", slo={"lag_ms_p99": 5000}, late_ms=0).starve(h0=waits(10)))
    assert "although" not in verdict.slo[0].detail
    assert not any("to itself" in text for text in verdict.checkers["harness"].warnings)


def test_time_on_the_model_is_virtual(tmp_path: Path) -> None:
    plan = lagging(tmp_path / "run", slo={"lag_ms_p99": 1000}, late_ms=3000).starve(h0=stands())
    plan.info.ground = "model"
    assert limit_of(plan).verdict == "invalid"


# -- other times --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("said", "word"), [(stands(), "unknown"), (waits(10), "invalid")], ids=["stopped", "quiet"])
def test_the_delay_of_sending(tmp_path: Path, said: Said, word: str) -> None:
    plan = RunFolder(tmp_path / "run", slo={"send_delay_ms_p99": 100}).pod("web-0")
    for event in plan.publish(200, step_ns=50 * MS):
        if STOPPED[0] * SECOND <= event.intended_ns < STOPPED[1] * SECOND:
            event.sent_ns = STOPPED[1] * SECOND
            event.acked_ns = event.sent_ns + MS
            plan.delay(event, "web-0", event.sent_ns - event.intended_ns)
    assert limit_of(plan.starve(locust=said)).verdict == word


@pytest.mark.parametrize(("said", "word"), [(stands(), "unknown"), (waits(10), "invalid")], ids=["stopped", "quiet"])
@pytest.mark.parametrize("metric", ["call_ms_max", "call_ms_p99"])
def test_what_calls_took(tmp_path: Path, said: Said, word: str, metric: str) -> None:
    plan = RunFolder(tmp_path / "run", slo={metric: 100}).pod("web-0")
    for event in plan.publish(200, step_ns=50 * MS):
        stop = STOPPED[0] * SECOND <= event.intended_ns < STOPPED[1] * SECOND
        plan.calls.append((event.intended_ns, "locust-0", event.channel, STOPPED[1] * SECOND - event.intended_ns if stop else MS, "ok"))
    assert limit_of(plan.starve(broker=said)).verdict == word


@pytest.mark.parametrize(("said", "word"), [(stands(), "unknown"), (waits(10), "invalid")], ids=["stopped", "quiet"])
def test_the_age_of_items(tmp_path: Path, said: Said, word: str) -> None:
    plan = RunFolder(tmp_path / "run", slo={"item_age_ms_max": 1000}).pod("web-0", channels="analytics.events.batch")
    (event,) = plan.publish(1, start_ns=12 * SECOND, channel="analytics.events.batch", items=5)
    plan.delay(event, "web-0", 3 * SECOND)
    assert limit_of(plan.starve(h0=said)).verdict == word


@pytest.mark.parametrize(("said", "word"), [(stands(), "unknown"), (waits(10), "invalid")], ids=["stopped", "quiet"])
@pytest.mark.parametrize("metric", ["stale_reads", "stale_ms_max", "stale_ms_p99"])
def test_stale_reads(tmp_path: Path, said: Said, word: str, metric: str) -> None:
    plan = RunFolder(tmp_path / "run", slo={metric: 0}, reads_per_s=1).pod("web-0", channels="config.template.invalidated")
    plan.read("web-0", "template:1", 11 * SECOND)
    (update,) = plan.publish(1, start_ns=12 * SECOND + MS, channel="config.template.invalidated", subject="template:1")
    plan.delay(update, "web-0", 3 * SECOND)
    plan.read("web-0", "template:1", 14 * SECOND, loaded_ns=11 * SECOND)
    assert limit_of(plan.starve(broker=said)).verdict == word


def test_a_stale_read_of_who_never_heard_is_no_matter_of_a_stop(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run", slo={"stale_reads": 0}, reads_per_s=1).pod("web-0", channels="config.template.invalidated")
    plan.read("web-0", "template:1", 11 * SECOND)
    (update,) = plan.publish(1, start_ns=12 * SECOND + MS, channel="config.template.invalidated", subject="template:1")
    plan.drop(update, "web-0").read("web-0", "template:1", 15 * SECOND, loaded_ns=11 * SECOND)
    assert limit_of(plan.starve(h0=stands())).verdict == "invalid"


def outage(folder: Path, *, slo: dict[str, float], back_s: float) -> RunFolder:
    """Plan a broker that is down from second 11 to 12, and one pod that is connected again at `back_s`."""
    plan = RunFolder(folder, slo=slo, scenario='[[faults]]\nkind = "broker_down"\nat_s = 1\nfor_s = 1.0\n').pod("web-0")
    plan.faults.append(("broker_down", "broker", 11 * SECOND, 12 * SECOND))
    plan.publish(200, step_ns=50 * MS)
    plan.state("web-0", 11 * SECOND + MS, "disconnected").state("web-0", int(back_s * SECOND), "subscribed")
    for event in plan.events:
        if 11 * SECOND <= event.intended_ns < back_s * SECOND:
            event.outcome = "refused" if event.intended_ns < 12 * SECOND else "acknowledged"
            plan.drop(event, "web-0")
    return plan


@pytest.mark.parametrize(("said", "word"), [(stands(12, 15), "unknown"), (waits(10), "invalid")], ids=["stopped", "quiet"])
@pytest.mark.parametrize("metric", ["time_to_recover_s_max", "deaf_s_max", "steady_s_max"])
def test_how_long_until_pods_are_back(tmp_path: Path, said: Said, word: str, metric: str) -> None:
    plan = outage(tmp_path / "run", slo={metric: 1}, back_s=15.2)
    limit = next(one for one in verdict_of(plan.starve(h0=said)).slo if one.metric == metric)
    assert limit.verdict == word, limit.detail


# -- counts -------------------------------------------------------------------------------------------------------


def test_copies_lost_after_the_fault_was_meant_to_end_may_be_of_a_stop_and_those_in_it_are_not(tmp_path: Path) -> None:
    """Twenty are lost in the second of the fault, sixty-four until the pod is back, three seconds of which the lab stood still."""
    at_least = outage(tmp_path / "loose", slo={"missing": 20}, back_s=15.2).starve(h0=stands(12, 15))
    too_few = outage(tmp_path / "tight", slo={"missing": 19}, back_s=15.2).starve(h0=stands(12, 15))
    quiet = outage(tmp_path / "quiet", slo={"missing": 20}, back_s=15.2).starve(h0=waits(10))
    assert [limit_of(plan).verdict for plan in (at_least, too_few, quiet)] == ["unknown", "invalid", "invalid"]


@pytest.mark.parametrize(("said", "word"), [(stands(), "unknown"), (waits(10), "invalid")], ids=["stopped", "quiet"])
@pytest.mark.parametrize("metric", ["missing", "missing_ratio"])
def test_copies_lost_without_a_fault(tmp_path: Path, said: Said, word: str, metric: str) -> None:
    plan = RunFolder(tmp_path / "run", slo={metric: 0}).pod("web-0")
    events = plan.publish(200, step_ns=50 * MS)
    plan.drop(events[101], "web-0").state("web-0", events[101].sent_ns - MS, "disconnected")
    plan.state("web-0", events[101].acked_ns + MS, "subscribed")
    assert limit_of(plan.starve(h0=said)).verdict == word


@pytest.mark.parametrize(("said", "word"), [(stands(), "unknown"), (waits(10), "invalid")], ids=["stopped", "quiet"])
@pytest.mark.parametrize("metric", ["unserved", "unserved_ratio", "unserved.service.web", "unserved.channel.config.updated", "half_served"])
def test_events_that_a_service_did_not_hear_without_a_fault(tmp_path: Path, said: Said, word: str, metric: str) -> None:
    plan = RunFolder(tmp_path / "run", slo={metric: 0}).service("web", replicas=2)
    event = plan.publish(200, step_ns=50 * MS)[101]
    for pod in ("web-0",) if metric == "half_served" else ("web-0", "web-1"):
        plan.drop(event, pod).state(pod, event.sent_ns - MS, "disconnected").state(pod, event.acked_ns + MS, "subscribed")
    assert limit_of(plan.starve(h0=said)).verdict == word


@pytest.mark.parametrize("metric", ["missing", "unserved", "unserved_ratio", 'unserved.service."web"'])
def test_an_event_for_a_service_without_a_pod_is_lost_on_any_machine(tmp_path: Path, metric: str) -> None:
    plan = RunFolder(tmp_path / "run", slo={metric: 0}).pod("web-0").pod("api-0", service="api")
    event = plan.publish(200, step_ns=50 * MS)[101]
    plan.drop(event, "web-0").end("web-0", event.sent_ns - MS).state("web-0", event.acked_ns + MS, "starting")
    plan.state("web-0", event.acked_ns + 2 * MS, "subscribed")
    assert limit_of(plan.starve(h0=stands())).verdict == "invalid"


@pytest.mark.parametrize(("limit", "word"), [(1, "unknown"), (0, "invalid")])
def test_of_events_that_some_pods_heard_those_count_that_no_stall_explains(tmp_path: Path, limit: int, word: str) -> None:
    """One is lost to one of two pods in a fault that was meant, the other in a stop long after it."""
    fault = '[[faults]]\nkind = "broker_down"\nat_s = 1\nfor_s = 1.0\n'
    plan = RunFolder(tmp_path / "run", slo={"half_served": limit}, scenario=fault).service("web", replicas=2)
    plan.faults.append(("broker_down", "broker", 11 * SECOND, 12 * SECOND))
    events = plan.publish(200, step_ns=50 * MS)
    for event in (events[30], events[190]):
        plan.drop(event, "web-0").state("web-0", event.sent_ns - MS, "disconnected").state("web-0", event.acked_ns + MS, "subscribed")
    assert limit_of(plan.starve(h0=stands(19, 20))).verdict == word


@pytest.mark.parametrize("said", [stands(), waits(900)], ids=["stopped", "starved"])
def test_an_event_heard_twice_and_a_wrong_order_stay_invalid_on_any_machine(tmp_path: Path, said: Said) -> None:
    plan = RunFolder(tmp_path / "run", slo={"duplicates": 0, "out_of_order": 0, "unexpected": 0}).pod("web-0").pod("web-1", channels="")
    events = plan.publish(200, step_ns=50 * MS)
    plan.repeat(events[90], "web-0").swap(events[120], events[121], "web-0")
    plan.hear(events[50], "web-1")
    verdict = verdict_of(plan.starve(h0=said, locust=said, broker=said))
    assert [limit.verdict for limit in verdict.slo] == ["invalid"] * 3
    assert [verdict.checkers[name].verdict for name in ("duplication", "order", "ledger")] == ["invalid"] * 3


@pytest.mark.parametrize(("said", "word"), [(stands(), "unknown"), (waits(10), "invalid")], ids=["stopped", "quiet"])
def test_streams_hand_an_entry_on_when_its_time_is_out(tmp_path: Path, said: Said, word: str) -> None:
    plan = RunFolder(tmp_path / "run", slo={"duplicates": 0}, transport="streams").pod("web-0")
    events = plan.publish(200, step_ns=50 * MS)
    plan.repeat(events[90], "web-0")
    assert limit_of(plan.starve(h0=said)).verdict == word


@pytest.mark.parametrize(("said", "word"), [(stands(), "unknown"), (waits(10), "invalid")], ids=["stopped", "quiet"])
def test_calls_that_nobody_made_in_time(tmp_path: Path, said: Said, word: str) -> None:
    plan = RunFolder(tmp_path / "run", slo={"offered_ratio_min": 0.999}).pod("web-0")
    plan.publish(995, step_ns=10 * MS)
    plan.load = plan.info.load.__class__(offered_calls=1000, generators=["locust"])
    assert limit_of(plan.starve(locust=said)).verdict == word


# -- once ---------------------------------------------------------------------------------------------------------


def twice(folder: Path, recipe: str, *, gap_ms: float, ttl_s: int = 300, slo: str = "handled_twice") -> RunFolder:
    """Plan one event that two pods ran, so far apart."""
    plan = RunFolder(folder, slo={slo: 0}).service("web", replicas=2)
    plan.scenario = "[services.web]\nhandler_ms = 1\n"
    (event,) = plan.publish(1, start_ns=12 * SECOND + MS)
    plan.delay(event, "web-1", int(gap_ms * MS))
    plan.bus |= {"once": recipe, "once_ttl_s": ttl_s}
    return plan


@pytest.mark.parametrize(
    ("recipe", "gap_ms", "ttl_s", "said", "word"),
    [
        ("finally-del", 2000, 300, stands(), "unknown"),
        ("finally-del", 2000, 300, waits(10), "invalid"),
        ("keep-marker", 2000, 300, stands(), "invalid"),
        ("keep-marker", 2500, 2, stands(), "unknown"),
        ("keep-marker", 2500, 2, waits(10), "invalid"),
        ("two-key", 500, 2, waits(900), "invalid"),
    ],
)
def test_an_event_that_a_service_ran_twice(tmp_path: Path, recipe: str, gap_ms: float, ttl_s: int, said: Said, word: str) -> None:
    verdict = verdict_of(twice(tmp_path / "run", recipe, gap_ms=gap_ms, ttl_s=ttl_s).starve(h0=said))
    assert verdict.slo[0].verdict == word
    assert verdict.checkers["once"].verdict == ("valid" if recipe == "finally-del" else word)


@pytest.mark.parametrize(("set_s", "word"), [(3600, "unknown"), (-3600, "invalid"), (0, "invalid")])
def test_a_marker_that_the_clock_ended_is_no_broken_promise(tmp_path: Path, set_s: int, word: str) -> None:
    said = lambda at: Waits(waited_ns=0.0, wall_offset_ns=float(set_s * SECOND * (at > 12.5 * SECOND)))  # noqa: E731
    verdict = verdict_of(twice(tmp_path / "run", "keep-marker", gap_ms=2000).starve(h0=said))
    assert verdict.checkers["once"].verdict == verdict.slo[0].verdict == word
    if word == "unknown":
        assert "the wall clock was set 1 h forward" in verdict.checkers["once"].detail
        assert "leave the clock alone" in verdict.checkers["once"].detail


# -- steady -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("said", "word"), [(stands(12, 15), "unknown"), (waits(10), "invalid")], ids=["stopped", "quiet"])
def test_a_lab_that_did_not_recover_while_it_stood_still(tmp_path: Path, said: Said, word: str) -> None:
    plan = outage(tmp_path / "run", slo={}, back_s=25)
    plan.info.recovered = False
    steady = verdict_of(plan.starve(h0=said)).checkers["steady"]
    assert steady.verdict == word
    assert ("h0 stood still for 3 s" in steady.detail) is (word == "unknown")


# -- clocks -------------------------------------------------------------------------------------------------------


def wrong_clock(folder: Path, ahead_ns: int, *, late_ms: float = 0.0) -> RunFolder:
    """Plan a run in which the clock of the pod that hears is wrong from 12 to 13 s, and copies of the stop may be late."""
    plan = lagging(folder, slo={"from_future": 0, "stated_age_ms_max": 1500}, late_ms=late_ms)
    plan.scenario = '[[faults]]\nkind = "clock_skew"\nat_s = 2\nfor_s = 1.0\nskew_ms = 1\n'
    plan.faults.append(("clock_skew", "web-0", 12 * SECOND, 13 * SECOND))
    for at_ns, ahead in ((12 * SECOND, ahead_ns), (13 * SECOND, 0)):
        plan.state("web-0", at_ns, "subscribed")
        plan.clocks["web-0", at_ns] = ahead
    for event in plan.events:
        event.stamped_ns = event.intended_ns
    return plan


def words(plan: RunFolder) -> dict[str, str]:
    return {one.metric: one.verdict for one in verdict_of(plan).slo}


@pytest.mark.parametrize("said", [stands(), waits(900), waits(10)], ids=["stopped", "starved", "quiet"])
def test_what_a_wrong_clock_makes_of_an_age_is_no_doing_of_the_machine(tmp_path: Path, said: Said) -> None:
    """Being late makes an event older, by what it is late and no more."""
    everyone = {"h0": said, "locust": said, "broker": said}
    behind = words(wrong_clock(tmp_path / "behind", -5 * SECOND).starve(**everyone))
    ahead = words(wrong_clock(tmp_path / "ahead", 5 * SECOND).starve(**everyone))
    assert behind == {"from_future": "invalid", "stated_age_ms_max": "valid"}
    assert ahead == {"from_future": "valid", "stated_age_ms_max": "invalid"}


@pytest.mark.parametrize(("said", "word"), [(stands(), "unknown"), (waits(10), "invalid")], ids=["stopped", "quiet"])
def test_an_age_that_is_of_a_stop(tmp_path: Path, said: Said, word: str) -> None:
    assert words(wrong_clock(tmp_path / "run", 0, late_ms=3000).starve(h0=said))["stated_age_ms_max"] == word


@pytest.mark.parametrize(("said", "word"), [(stands(12, 14), "unknown"), (waits(10), "invalid")], ids=["stopped", "quiet"])
def test_a_clock_that_stayed_wrong_for_longer_than_it_was_meant_to(tmp_path: Path, said: Said, word: str) -> None:
    """Only what came after the meant end may be of the stop in which the clock was to be set right."""
    plan = wrong_clock(tmp_path / "run", -5 * SECOND)
    plan.slo["from_future"] = 21
    plan.clocks["web-0", 14 * SECOND] = plan.clocks.pop(("web-0", 13 * SECOND))
    plan.states = [(pod, 14 * SECOND if at == 13 * SECOND else at, state) for pod, at, state in plan.states]
    assert words(plan.starve(h0=said))["from_future"] == word
