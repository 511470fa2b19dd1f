"""The checker of staleness: what is planted is reported exactly, and any run as a plain loop over its rows would say."""

from __future__ import annotations

import math
import random
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.record.schema import OTHERS
from sim.results.checkers import Result, judge
from sim.results.checkers.staleness import stale_for_at_best
from sim.results.checkers.verdict import CLOCKS, Bounds
from sim.results.opened_run import open_run
from tests.support.examples import examples
from tests.support.run_folders import MS, RUN_NS, SECOND, Event, RunFolder

TEMPLATE, CACHE = "config.template.invalidated", "config.cache.invalidate"
ONE, TWO = "aiponge:cache:templates:tpl_1", "aiponge:cache:templates:tpl_2"


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    return make_plan(tmp_path / "run")


def make_plan(folder: Path) -> RunFolder:
    return RunFolder(folder, reads_per_s=1.0).service("web", replicas=3, channels=f"{TEMPLATE},{CACHE}")


def staleness(plan: RunFolder) -> Result:
    return judge(open_run(plan.write()), only=["staleness"]).checkers["staleness"]


def update(plan: RunFolder, at_ns: int, subject: str = ONE, *, unheard: str = "", **columns: Any) -> Event:
    """An update of which every pod hears 250 us later, but one."""
    event = plan.event(at_ns, channel=TEMPLATE, subject=subject, **columns)
    for pod in plan.pods:
        if pod != unheard:
            plan.hear(event, pod)
    return event


def test_a_read_between_the_update_and_the_handler_is_stale_for_that_long(plan: RunFolder) -> None:
    event = update(plan, RUN_NS + SECOND)
    at = event.intended_ns
    plan.read("web-0", ONE, at - 5 * MS).read("web-0", ONE, at - MS, loaded_ns=at - 5 * MS)
    plan.read("web-0", ONE, at + MS // 5, loaded_ns=at - 5 * MS)  # before it heard
    plan.read("web-0", ONE, at + MS).read("web-0", ONE, at + 2 * MS, loaded_ns=at + MS)
    plan.read("web-0", TWO, at + 2 * MS, loaded_ns=at - 5 * MS)  # another template
    plan.read("web-1", ONE, at + MS // 5)  # loaded after the update
    result = staleness(plan)
    counts = result.counts
    assert result.verdict == "valid"
    assert (counts["reads"], counts["hits"], counts["updates"], counts["stale_reads"], counts["stale_pairs"]) == (7, 4, 1, 1, 1)
    assert result.metrics == {"stale_reads": 1, "stale_ms_p99": 0.2, "stale_ms_max": 0.2}
    assert (counts["never_heard"], counts["not_dropped"], counts["after_handling"]) == (0, 0, 0)
    assert counts["fresh_ms.max"] == 0.25
    assert result.witnesses == [f"{event.id} of {ONE}: web-0 served the old copy until 200 us after it"]


def test_a_read_that_is_nearer_to_the_update_than_the_clocks_are_known_may_have_been_stale(plan: RunFolder) -> None:
    at = update(plan, RUN_NS + SECOND, unheard="web-1").intended_ns
    for pod, after_ns in (("web-0", MS // 5), ("web-1", SECOND), ("web-2", -MS // 5), ("web-2", -SECOND)):
        plan.read(pod, ONE, at + after_ns, loaded_ns=at - 5 * SECOND)
    plan.clock("h0", ahead_ns=300 * SECOND, bound_ns=MS // 4).clock("locust", ahead_ns=-8 * SECOND, bound_ns=MS // 4)
    result = staleness(plan)
    assert result.counts["stale_reads"] == 2
    assert result.metrics["stale_reads"] == Bounds(1.0, 3.0, CLOCKS), "for sure that of a second later; perhaps also that of just before"


def test_a_pod_that_never_heard_is_stale_since_the_first_update_it_missed_and_is_named(plan: RunFolder) -> None:
    loaded = RUN_NS + SECOND
    updates = [update(plan, RUN_NS + n * SECOND, unheard="web-1") for n in (2, 3)]
    for pod, at in product(plan.pods, (loaded, loaded + SECOND // 2)):
        plan.read(pod, ONE, at, loaded_ns=None if at == loaded else loaded)
    for at in (2.5, 3.5, 5.0):
        plan.read("web-1", ONE, int(RUN_NS + at * SECOND), loaded_ns=loaded)
        plan.read("web-0", ONE, int(RUN_NS + at * SECOND), loaded_ns=int(RUN_NS + (at // 1) * SECOND + MS))
    result = staleness(plan)
    counts = result.counts
    assert (counts["stale_reads"], counts["stale_pairs"], counts["never_heard"], counts["never_heard_pods"]) == (3, 2, 2, 1)
    assert result.metrics["stale_ms_max"] == 3000, "out of date since the first update, not since the newest"
    assert result.metrics["stale_ms_p99"] == 3000
    assert "web-1 never heard of 2 updates" in result.detail
    assert [text.split()[0] for text in result.witnesses] == [event.id for event in updates]
    assert all(text.endswith("and never heard of it") for text in result.witnesses)
    assert counts["fresh_ms.max"] == 0.25, "those that heard were fresh soon"


def test_an_update_counts_whatever_became_of_its_event_and_only_templates_and_providers_are_updated(plan: RunFolder) -> None:
    for number, outcome in enumerate(("refused", "never-sent", "memory", "unknown")):
        update(plan, RUN_NS + number * SECOND, f"{ONE}{number}", outcome=outcome)
        plan.read("web-0", f"{ONE}{number}", RUN_NS + number * SECOND + MS, loaded_ns=RUN_NS - MS)
    plan.event(RUN_NS, channel=CACHE, subject=TWO)
    plan.event(RUN_NS, channel=TEMPLATE, subject=TWO, items=0)  # a probe
    plan.read("web-0", TWO, RUN_NS + MS, loaded_ns=RUN_NS - MS)
    assert staleness(plan).counts["stale_reads"] == 4


def test_updates_of_the_warm_up_count_and_its_reads_do_not(plan: RunFolder) -> None:
    event = update(plan, RUN_NS - SECOND // 2, unheard="web-0")
    plan.read("web-0", ONE, event.intended_ns + MS, loaded_ns=event.intended_ns - MS)
    plan.read("web-0", ONE, RUN_NS + MS, loaded_ns=event.intended_ns - MS)
    counts = staleness(plan).counts
    assert (counts["reads"], counts["stale_reads"], counts["updates"], counts["never_heard"]) == (1, 1, 0, 1)


def test_a_copy_loaded_at_the_time_of_the_update_is_the_new_one(plan: RunFolder) -> None:
    event = update(plan, RUN_NS + SECOND)
    plan.read("web-0", ONE, event.intended_ns).read("web-0", ONE, event.intended_ns + MS, loaded_ns=event.intended_ns)
    plan.read("web-1", ONE, event.intended_ns, loaded_ns=event.intended_ns - 1)
    assert staleness(plan).counts["stale_reads"] == 1


def test_a_delivery_that_another_pod_handled_or_that_failed_dropped_nothing(plan: RunFolder) -> None:
    event = plan.event(RUN_NS + SECOND, channel=TEMPLATE, subject=ONE)
    for pod, outcome in zip(plan.pods, ("handled", "skipped", "failed"), strict=True):
        plan.hear(event, pod, outcome=outcome)
        plan.read(pod, ONE, event.intended_ns + SECOND, loaded_ns=RUN_NS)
    counts = staleness(plan).counts
    assert (counts["stale_pairs"], counts["never_heard"], counts["not_dropped"], counts["after_handling"]) == (3, 0, 2, 1)


def test_an_event_that_stands_twice_is_one_update(plan: RunFolder) -> None:
    event = update(plan, RUN_NS + SECOND)
    plan.events.append(event)
    plan.read("web-0", ONE, event.intended_ns + MS // 5, loaded_ns=RUN_NS)
    counts = staleness(plan).counts
    assert (counts["updates"], counts["stale_pairs"], counts["never_heard"]) == (1, 1, 0)


def test_no_reads_are_unknown_when_they_were_meant_and_nothing_to_say_when_not(plan: RunFolder) -> None:
    update(plan, RUN_NS)
    result = staleness(plan)
    assert (result.verdict, result.detail) == ("unknown", "no data: the scenario means reads, and none was made in the run phase")
    assert all(math.isnan(value) for value in result.metrics.values())
    plan.folder = plan.folder.with_name("unmeant")
    plan.reads_per_s = 0.0
    result = staleness(plan)
    assert (result.verdict, result.detail) == ("valid", "the scenario means no reads of caches")
    assert set(result.metrics) == {"stale_reads", "stale_ms_p99", "stale_ms_max"}
    assert all(math.isnan(value) for value in result.metrics.values())


def test_a_scenario_without_a_load_means_no_reads(plan: RunFolder) -> None:
    folder = plan.write()
    (folder / "scenario.toml").write_text('name = "synthetic"\ntitle = ""\nseed = 1\n')
    result = judge(open_run(folder), only=["staleness"]).checkers["staleness"]
    assert (result.verdict, result.detail) == ("valid", "the scenario means no reads of caches")


@pytest.mark.parametrize("heard", [False, True])
def test_reads_and_no_update_are_fresh(plan: RunFolder, heard: bool) -> None:
    if heard:
        plan.publish(5, channel=CACHE)
    plan.read("web-0", ONE, RUN_NS, loaded_ns=RUN_NS - SECOND)
    result = staleness(plan)
    assert result.metrics == {"stale_reads": 0, "stale_ms_p99": 0, "stale_ms_max": 0}
    assert result.witnesses == []


def test_subjects_that_the_record_could_not_keep_apart_are_not_judged_and_said(plan: RunFolder) -> None:
    update(plan, RUN_NS, OTHERS)
    plan.read("web-0", OTHERS, RUN_NS + MS, loaded_ns=RUN_NS - MS)
    result = staleness(plan)
    assert result.counts["stale_reads"] == 0
    assert OTHERS in result.warnings[0]


def test_a_limit_judges_it(plan: RunFolder) -> None:
    plan.slo = {"stale_reads": 0}
    event = update(plan, RUN_NS)
    plan.read("web-0", ONE, event.intended_ns + 1, loaded_ns=RUN_NS - MS)
    verdict = judge(open_run(plan.write()), only=["staleness"])
    assert verdict.verdict == "invalid"
    assert verdict.reasons == ["stale_reads is 1, at most 0 was promised"]


# times in ms: (update at, subject, lag at each of two pods; up to 3 = never heard), (read at, pod, subject, copy older by)
few_ms, subjects = st.integers(-900, 900), st.sampled_from([ONE, TWO])
update_plans = st.lists(st.tuples(few_ms, subjects, st.lists(st.integers(0, 30), min_size=2, max_size=2)), max_size=8)
read_plans = st.lists(st.tuples(few_ms, st.integers(0, 1), subjects, st.integers(0, 1200)), min_size=1, max_size=25)


@given(update_plans, read_plans)
@settings(max_examples=examples(60))
def test_any_run_is_judged_as_a_plain_loop_would(updates: Any, reads: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        plan = make_plan(Path(name) / "run")
        for at, subject, lags in updates:
            event = plan.event(RUN_NS + at * MS, channel=TEMPLATE, subject=subject)
            for pod, lag in enumerate(lags):
                if lag > 3:
                    plan.hear(event, f"web-{pod}", lag_ns=lag * MS)
        cached: dict[tuple[int, str], tuple[int, int]] = {}  # (loaded, last served): the next copy is loaded after this one was served
        stale_for, pairs, judged = [], set(), 0
        for at, pod, subject, older in sorted(reads):
            copy, served = cached.get((pod, subject), (-3000, -3000))
            loaded = at - older if at - older > served else copy
            cached[pod, subject] = (loaded, at)
            plan.read(f"web-{pod}", subject, RUN_NS + at * MS, loaded_ns=RUN_NS + loaded * MS)
            if at < 0:
                continue
            judged += 1
            missed = [(when, n) for n, (when, about, _) in enumerate(updates) if about == subject and loaded < when <= at]
            stale_for += [at - min(missed)[0]] if missed else []
            pairs |= {(pod, n) for _, n in missed}
        result = staleness(plan)
        counts = result.counts
        assert result.verdict == ("valid" if judged else "unknown")
        if judged:
            assert (counts["reads"], counts["stale_reads"], counts["stale_pairs"]) == (judged, len(stale_for), len(pairs))
            assert counts["never_heard"] == sum(updates[n][2][pod] <= 3 for pod, n in pairs)
            assert result.metrics["stale_ms_max"] == max(stale_for, default=0)


def test_of_many_reads_every_number_is_that_of_a_plain_loop(plan: RunFolder) -> None:
    """On a clock of whole milliseconds, where updates, handlers, loads and reads meet often."""
    draw = random.Random(15)
    ms = range(-30, 70)
    events = []  # (at, subject, pod -> when its handler began, None where it did not)
    for at in draw.choices(ms, k=60):
        subject = draw.choice([ONE, TWO, "aiponge:cache:templates:unread"])
        event = plan.event(RUN_NS + at * MS, channel=TEMPLATE, subject=subject)
        heard: dict[str, int | None] = {}
        for pod in plan.pods:
            for outcome in draw.choice(((), ("skipped",), ("handled",), ("failed", "handled"), ("handled", "handled"))):
                lag = draw.randrange(1, 9)
                plan.hear(event, pod, lag_ns=lag * MS, outcome=outcome)
                before = heard.get(pod)
                heard[pod] = before if outcome != "handled" else at + lag if before is None else min(before, at + lag)
        events.append((at, subject, heard))
    reads = []  # (at, pod, subject, loaded)
    for pod, subject in product(plan.pods, (ONE, TWO)):
        loaded = -40
        for at in sorted(draw.sample(ms, k=50)):
            loaded = at if draw.random() < 0.3 else loaded
            reads.append((at, pod, subject, loaded))
            plan.read(pod, subject, RUN_NS + at * MS, loaded_ns=RUN_NS + loaded * MS)
    judged = [read for read in reads if read[0] >= 0]
    missed = [[one for one in events if one[1] == subject and loaded < one[0] <= at] for at, _, subject, loaded in judged]
    stale_for = [read[0] - min(one[0] for one in its) for read, its in zip(judged, missed, strict=True) if its]
    pairs: dict[tuple[str, int], int] = {}  # (pod, update) -> when a copy without it was last served
    for (at, pod, _, _), its in zip(judged, missed, strict=True):
        pairs |= {(pod, id(one)): max(at, pairs.get((pod, id(one)), at)) for one in its}
    of = {id(one): one for one in events}
    begun = {pair: of[pair[1]][2].get(pair[0]) for pair in pairs}
    fresh = []
    for at, subject, heard in events:
        took = []
        for pod, handled in heard.items():
            its = [read for read in reads if handled is not None and read[1:3] == (pod, subject) and read[0] <= handled]
            took += [handled - at for read in its[-1:] if handled is not None and read[3] < at]
        fresh += [max(took)] if took else []
    never = [pair for pair in pairs if pair[0] not in of[pair[1]][2]]
    expected = {
        "reads": len(judged),
        "hits": sum(loaded < at for at, _, _, loaded in judged),
        "updates": sum(at >= 0 and subject in (ONE, TWO) for at, subject, _ in events),
        "stale_reads": len(stale_for),
        "stale_pairs": len(pairs),
        "never_heard": len(never),
        "never_heard_pods": len({pod for pod, _ in never}),
        "not_dropped": sum(pair not in never and begun[pair] is None for pair in pairs),
        "after_handling": sum(at > handled for pair, at in pairs.items() if (handled := begun[pair]) is not None),
    }
    for name, values in (("stale_ms", sorted(stale_for)), ("fresh_ms", sorted(fresh))):
        expected |= {f"{name}.{word}": values[math.ceil(q * (len(values) - 1))] for word, q in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))}
    assert staleness(plan).counts == expected
    assert min(expected.values()) > 0, "each of them occurs"


def test_of_many_pods_that_never_heard_some_are_named(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run", reads_per_s=1.0).service("web", replicas=12, channels=TEMPLATE)
    event = plan.event(RUN_NS, channel=TEMPLATE, subject=ONE)
    for pod in plan.pods:
        plan.read(pod, ONE, event.intended_ns + MS, loaded_ns=RUN_NS - MS)
    assert staleness(plan).detail.endswith(" web-5, web-6, web-7 and 2 more never heard of 1 update")


def test_the_sentence_says_how_many_reads_and_for_how_long(plan: RunFolder) -> None:
    event = update(plan, RUN_NS + SECOND)
    plan.read("web-0", ONE, event.intended_ns - MS)
    assert staleness(plan).detail == "none of 1 read was stale"
    plan.folder = plan.folder.with_name("one")
    plan.read("web-0", ONE, event.intended_ns + MS // 5, loaded_ns=event.intended_ns - MS)
    assert staleness(plan).detail == "1 of 2 reads was stale, at most for 200 us"
    plan.folder = plan.folder.with_name("two")
    plan.read("web-1", ONE, event.intended_ns + MS // 10, loaded_ns=event.intended_ns - MS)
    assert staleness(plan).detail == "2 of 3 reads were stale, at most for 200 us"


def test_at_best_a_read_is_fresh_that_a_handler_on_time_would_have_made_fresh(plan: RunFolder) -> None:
    """Two templates and three pods; a handler at 3 ms, of which 2 ms were withheld, would have come at 1 ms."""
    events = {subject: plan.event(RUN_NS + SECOND, channel=TEMPLATE, subject=subject) for subject in (ONE, TWO)}
    at, withheld = RUN_NS + SECOND, {(ONE, "web-0"): 2 * MS, (TWO, "web-1"): 3 * MS - MS // 2}
    for (subject, event), pod in product(events.items(), plan.pods):
        if (subject, pod) != (TWO, "web-2"):
            plan.hear(event, pod, lag_ns=3 * MS)
        for late in (MS // 2, MS, 2 * MS):
            plan.read(pod, subject, at + late, loaded_ns=at - MS)
    plan.read("web-0", ONE, RUN_NS - SECOND, loaded_ns=RUN_NS - 2 * SECOND)
    plan.read("web-2", TWO, RUN_NS + 10 * SECOND, loaded_ns=at - MS)  # it never heard, but this is after the run phase
    run = open_run(plan.write())
    names = [history.pod for history in run.pod_histories]
    subject_of = dict(zip(run.publishes["event"], run.publishes["subject"].astype(str), strict=True))

    def of(rows: Any, pods: Any, handled: Any) -> Any:
        assert (handled == at + 3 * MS).all()
        subjects = [subject_of[run.publishes["event"].iloc[row]] for row in rows]
        return np.array([withheld.get((subject, names[pod]), 0) for subject, pod in zip(subjects, pods, strict=True)])

    every = [MS // 2, MS, 2 * MS]
    assert sorted(stale_for_at_best(run, lambda rows, pods, handled: 0 * handled)) == sorted(6 * every)
    assert sorted(stale_for_at_best(run, of)) == sorted([*(4 * every), MS // 2])
