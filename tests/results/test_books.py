"""The copies, the books of services, the tally, the ledger and the stories of one small run, whole.

Services `web` (two pods, channels a and b), `api` (one pod, a) and `mail` (b), which never had a pod.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sim.machine.waits import Waits
from sim.record.limits import MetricName
from sim.record.run_info import Phase
from sim.results import balance
from sim.results.at_best import AtBest
from sim.results.checkers import judge
from sim.results.checkers.verdict import result_json
from sim.results.copies import CAUSE, FATE, Copies
from sim.results.opened_run import Run, open_run
from sim.results.service_books import ServiceBooks
from tests.support.run_folders import MS, RUN_NS, SECOND, US, RunFolder, causes, cooked, fates


def at(seconds: float) -> int:
    return round(seconds * SECOND)


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    """Events 0 and 1 of `a` and 2 of `b` are heard, 0 twice by api-0; 3 is refused, 4 kept in memory, 5 never sent, 6 in doubt.

    web-0 also heard the one that was never sent, and api-0 one of another run.
    """
    plan = RunFolder(tmp_path / "run").service("web", replicas=2, channels="a,b").pod("api-0", service="api", channels="a")
    plan.scenario = '[services.mail]\nsubscribes = ["b"]\n'
    first, _ = plan.publish(2, start_ns=at(12), channel="a")
    plan.repeat(first, "api-0")
    plan.publish(1, start_ns=at(13), channel="b", publisher="locust-1")
    plan.event(at(14), channel="a", outcome="refused")
    plan.event(at(14.1), channel="b", outcome="memory")
    plan.hear(plan.event(at(14.2), channel="a", outcome="never-sent", sent_ns=0, acked_ns=0), "web-0")
    plan.hear(plan.event(at(14.3), channel="a", outcome="unknown", acked_ns=0), "web-0")
    return plan.foreign(1 << 63, "api-0")


@pytest.fixture
def run(plan: RunFolder) -> Run:
    return open_run(plan.write())


def words(codes: np.ndarray, names: dict[str, int]) -> list[str]:
    return [list(names)[code] for code in codes]


def test_every_copy(run: Run) -> None:
    copies = run.copies
    rows = zip(
        copies.pod.tolist(),
        copies.publish.tolist(),
        copies.delivery.tolist(),
        words(copies.fate, FATE),
        words(copies.cause, CAUSE),
        strict=True,
    )
    assert list(rows) == [
        (0, 0, 0, "delivered", ""),
        (0, 1, 4, "delivered", ""),
        (0, 2, 7, "delivered", ""),
        (0, 5, 9, "unexpected", ""),
        (0, 6, 10, "delivered", ""),
        (0, 3, -1, "missing", "publish-refused"),
        (0, 4, -1, "missing", "sent-in-memory-mode"),
        (0, 5, -1, "missing", "never-sent"),
        (1, 0, 1, "delivered", ""),
        (1, 1, 5, "delivered", ""),
        (1, 2, 8, "delivered", ""),
        (1, 3, -1, "missing", "publish-refused"),
        (1, 4, -1, "missing", "sent-in-memory-mode"),
        (1, 5, -1, "missing", "never-sent"),
        (1, 6, -1, "unknown", ""),
        (2, 0, 2, "delivered", ""),
        (2, 0, 3, "duplicate", ""),
        (2, 1, 6, "delivered", ""),
        (2, -1, 11, "unexpected", ""),
        (2, 3, -1, "missing", "publish-refused"),
        (2, 5, -1, "missing", "never-sent"),
        (2, 6, -1, "unknown", ""),
    ]


def test_the_books_take_eleven_bytes_and_more_only_where_they_must(run: Run) -> None:
    """A hundred million copies must fit: rows in 32 bits, pods and services in 16, codes in 8."""
    assert [column.dtype.name for column in run.copies] == ["int32", "int32", "int16", "int8", "int8"]
    assert [column.dtype.name for column in run.service_books] == ["int32", "int16", "int16", "int16", "bool", "bool", "int8", "int8"]
    whole = run.pieces.whole
    assert whole is not None
    empty = open_run(RunFolder(run.folder.with_name("empty")).write())
    assert [column.dtype.name for column in empty.copies] == ["int32", "int32", "int16", "int8", "int8"]
    assert [column.dtype.name for column in empty.service_books] == ["int32", "int16", "int16", "int16", "bool", "bool", "int8", "int8"]
    assert [column.dtype.name for column in (run.index.row, whole.heard.rows(0))] == ["int32", "int32"]


def test_what_is_known_of_every_event(run: Run) -> None:
    """One entry more than there are events, for what nobody published."""
    index = run.index
    assert index.row.tolist() == [0, 1, 3, 4, 5, 6, 2, -1]
    assert index.channel.tolist() == [0, 0, 0, 1, 0, 0, 1, -1]
    assert index.outcome.tolist() == [0, 0, 3, 2, 4, 1, 0, -1]
    sent = [at(12) + 50 * US, at(12) + MS + 50 * US, at(14) + 50 * US, at(14.1) + 50 * US, 0, at(14.3) + 50 * US, at(13) + 50 * US, 0]
    assert index.sent_ns.tolist() == sent
    assert index.due_ns.tolist() == [sent[0], sent[1], at(14), sent[3], at(14.2), sent[5], sent[6], 0], "refused: it never left"
    answered = [sent[0] + 100 * US, sent[1] + 100 * US, sent[2] + 100 * US, sent[3] + 100 * US, 0, sent[5], sent[6] + 100 * US, 0]
    assert index.answered_ns.tolist() == answered
    assert (index.cuts, index.faults, index.hurt, index.heard_by) == ({}, [], [], {})
    assert index.way.tolist() == [0] * 7 + [-1]
    (pods,) = index.heard.pieces
    heard = index.heard.of(pods)
    assert heard.proves.tolist() == [True] * 11 + [False]
    assert [len(heard.rows(pod)) for pod in pods] == [5, 3, 4]


def test_every_event_at_every_service(run: Run) -> None:
    books = run.service_books
    assert run.services == ["api", "mail", "web"]
    rows = zip(*(column.tolist() for column in books[:5]), strict=True)
    alone = {pair: (list(FATE)[books.fate[pair]], list(CAUSE)[books.cause[pair]]) for pair in books.alone.tolist()}
    assert list(rows) == [
        (0, 0, 1, 0, False),
        (1, 0, 1, 0, False),
        (3, 0, 0, 1, False),
        (5, 0, 0, 1, False),
        (6, 0, 0, 1, True),
        (4, 1, 0, 0, False),
        (2, 1, 0, 0, False),
        (0, 2, 2, 0, False),
        (1, 2, 2, 0, False),
        (3, 2, 0, 2, False),
        (4, 2, 0, 2, False),
        (5, 2, 0, 2, False),
        (6, 2, 1, 1, False),
        (2, 2, 2, 0, False),
    ]
    assert alone == {5: ("missing", "sent-in-memory-mode"), 6: ("missing", "no-pod")}
    assert np.flatnonzero(books.unserved).tolist() == [2, 3, 4, 5, 6, 9, 10, 11]
    assert np.flatnonzero(books.half_served).tolist() == [12]
    assert set(books.cause[np.flatnonzero(books.fate < 0)].tolist()) == {0}


@pytest.mark.parametrize(
    ("of", "fates", "served"),
    [
        (MetricName(""), [9, 1, 10, 2, 2], [14, 8, 1, 1]),
        (MetricName("", "service", "web"), [7, 0, 6, 1, 1], [7, 3, 0, 1]),
        (MetricName("", "service", "api"), [2, 1, 2, 1, 1], [5, 3, 1, 0]),
        (MetricName("", "service", "mail"), [0, 0, 2, 0, 0], [2, 2, 0, 0]),
        (MetricName("", "channel", "a"), [7, 1, 6, 1, 2], [10, 5, 1, 1]),
        (MetricName("", "channel", "b"), [2, 0, 4, 0, 0], [4, 3, 0, 0]),
        (MetricName("", "channel", ""), [0, 0, 0, 1, 0], [0, 0, 0, 0]),
        (MetricName("", "channel", "c"), [0, 0, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_the_tally(run: Run, of: MetricName, fates: list[int], served: list[int]) -> None:
    """Fates: delivered, duplicate, missing, unexpected, unknown. Events: owed, unserved, in doubt, half served."""
    assert run.tally.fates(of) == dict(zip(("delivered", "duplicate", "missing", "unexpected", "unknown"), fates, strict=True))
    assert run.tally.served(of) == dict(zip(("pairs", "unserved", "in_doubt", "half_served"), served, strict=True))


def test_the_tally_s_causes_events_and_scopes(run: Run) -> None:
    tally = run.tally
    assert {cause: many for cause, many in tally.causes.items() if many} == {
        "never-sent": 3, "publish-refused": 3, "sent-in-memory-mode": 3, "no-pod": 1,
    }  # fmt: skip
    assert list(tally.causes) == list(CAUSE)[1:]
    assert tally.events == 7
    assert list(map(str, tally.scopes())) == ["", '.service."api"', '.service."mail"', '.service."web"', '.channel."a"', '.channel."b"']


def test_only_the_run_phase_is_tallied(plan: RunFolder) -> None:
    plan.publish(3, start_ns=at(9.5), channel="a")
    plan.publish(3, start_ns=at(20), channel="b", publisher="locust-1")
    tally = open_run(plan.write()).tally
    assert (tally.fates(MetricName(""))["delivered"], tally.served(MetricName(""))["pairs"], tally.events) == (9, 14, 7)
    assert tally.causes["no-pod"] == 1


def test_a_service_that_hears_nothing_has_no_numbers_of_its_own(plan: RunFolder) -> None:
    plan.pod("idle-0", service="idle", channels="")
    assert '.service."idle"' not in map(str, open_run(plan.write()).tally.scopes())
    plan.folder = plan.folder.with_name("heard")
    plan.foreign(1 << 63, "idle-0")
    assert '.service."idle"' in map(str, open_run(plan.write()).tally.scopes())


def test_the_ledger_is_a_table_of_every_copy_and_of_what_services_without_a_pod_are_owed(run: Run) -> None:
    ledger = run.ledger()
    assert list(ledger) == ["event", "channel", "publisher", "phase", "pod", "service", "fate", "cause", "lag_us", "path"]
    assert len(ledger) == 22 + 2
    keys = [event.key for event in plan_events(run)]
    rows = [tuple(None if pd.isna(value) else value for value in row) for row in ledger.astype(object).itertuples(index=False)]
    assert rows[3] == (keys[5], "a", "locust-0", "run", "web-0", "web", "unexpected", "", 250.0, "broker")
    assert rows[7] == (keys[5], "a", "locust-0", "run", "web-0", "web", "missing", "never-sent", None, None)
    assert rows[18] == (1 << 63, None, None, "run", "api-0", "api", "unexpected", "", None, "broker")
    assert rows[21] == (keys[6], "a", "locust-0", "run", "api-0", "api", "unknown", "", None, None)
    assert rows[22:] == [
        (keys[4], "b", "locust-0", "run", None, "mail", "missing", "sent-in-memory-mode", None, None),
        (keys[2], "b", "locust-1", "run", None, "mail", "missing", "no-pod", None, None),
    ]
    assert ledger["phase"].cat.categories.tolist() == ["provision", "start", "probe", "warm-up", "run", "drain"]
    assert ledger["fate"].cat.categories.tolist() == list(FATE) and ledger["cause"].cat.categories.tolist() == list(CAUSE)


def plan_events(run: Run) -> list[pd.Series]:
    return [row for _, row in run.publishes.rename(columns={"event": "key"}).iterrows()]


def test_copies_have_the_phase_of_their_event_or_of_their_delivery(plan: RunFolder) -> None:
    plan.publish(1, start_ns=at(8.5), channel="b")
    plan.foreign(1 << 62, "web-1", at_ns=at(21))
    run = open_run(plan.write())
    assert run.copies_in("probe").sum() == 2 and run.copies_in("drain").sum() == 1 and run.copies_in("run").sum() == 22
    assert run.copies_in("heal").tolist() == [False] * 25
    assert run.copies_phase()[run.copies.publish < 0].tolist() == [5, 4]


# -- stories --------------------------------------------------------------------------------------------------------


def test_the_story_of_an_event_that_was_heard_twice(run: Run) -> None:
    assert run.story("evt_0007000000000000").splitlines() == [
        "evt_0007000000000000: a from locust-0, 1 item, 300 bytes, phase run",
        "            +0 s intended",
        "          +50 us sent",
        "         +150 us acknowledged: the broker answered PUBLISH; PUBLISH said 3 receivers",
        "         +240 us web-0 received, handled 10 us later: delivered",
        "         +240 us web-1 received, handled 10 us later: delivered",
        "         +240 us api-0 received, handled 10 us later: delivered",
        "         +240 us api-0 received, handled 10 us later: duplicate",
    ]


NO_POD = "no pod of the service was alive when it was published: the one copy that the service is owed then"


def test_the_stories_of_what_a_service_without_a_pod_is_owed(run: Run) -> None:
    assert run.story("evt_0007000100000000").splitlines()[-1] == (
        f"                 mail missing, no-pod: {NO_POD} (it had no pod from the beginning to the end)"
    )


def test_the_story_of_an_event_that_was_never_sent(plan: RunFolder) -> None:
    plan.events[5].items, plan.events[5].first_item_ns = 3, at(14.2) - 20 * MS
    lines = open_run(plan.write()).story("evt_0007000000000004").splitlines()
    assert lines == [
        "evt_0007000000000004: a from locust-0, 3 items, 300 bytes, phase run",
        "            +0 s intended",
        "                 batched: 3 items, the oldest waited 20 ms",
        "            +0 s never-sent: its publisher ended before it was sent",
        "         +240 us web-0 received, handled 10 us later: unexpected",
        "                 web-0 missing, never-sent: the publisher ended before sending it",
        "                 web-1 missing, never-sent: the publisher ended before sending it",
        "                 api-0 missing, never-sent: the publisher ended before sending it",
    ]


def test_the_story_of_an_event_in_doubt_and_of_a_stranger(run: Run) -> None:
    assert run.story("evt_0007000000000005").splitlines()[2:] == [
        "          +50 us sent",
        "          +50 us unknown: the bytes left and no answer came: neither lost nor delivered can be claimed",
        "         +240 us web-0 received, handled 10 us later: delivered",
        "                 web-1 unknown",
        "                 api-0 unknown",
    ]
    assert run.story("evt_8000000000000000").splitlines() == [
        "evt_8000000000000000: nobody in this run published it; times from its first delivery",
        "            +0 s api-0 received, handled 10 us later: unexpected",
    ]


def test_the_story_says_when_a_pod_was_silent_and_when_a_service_had_no_pod(plan: RunFolder) -> None:
    plan.pods["mail-0"] = ("mail", "b")
    for seconds, state in ((11, "starting"), (11.001, "subscribed"), (12.5, "aborted"), (13.5, "starting"), (13.501, "subscribed")):
        plan.state("mail-0", at(seconds), state)
    plan.state("mail-0", at(15), "disconnected").state("mail-0", at(17), "subscribed").state("mail-0", at(20.1), "stopped")
    lost = plan.event(at(16), channel="b")
    late = plan.event(at(20.5), channel="b", publisher="locust-1")
    run = open_run(plan.write())
    assert run.story(plan.events[2].id).splitlines()[-1].endswith("(it had no pod from -500 ms to +500 ms)")
    assert run.story(lost.id).splitlines()[-1] == (
        "                 mail-0 missing, deaf: the pod was not subscribed when it was published (silent from -2.5 s to +1 s)"
    )
    assert run.story(late.id).splitlines()[-1].endswith("(it had no pod from -400 ms to the end)")


def test_the_story_of_an_event_that_stands_twice_tells_both_rows(plan: RunFolder) -> None:
    plan.events.append(replace(plan.events[0], outcome="unknown", acked_ns=0, receivers=-1))
    lines = open_run(plan.write()).story("evt_0007000000000000").splitlines()
    assert [line.split()[:2] for line in lines[:8]] == [
        ["evt_0007000000000000:", "a"], ["+0", "s"], ["+50", "us"], ["+150", "us"],
        ["evt_0007000000000000:", "a"], ["+0", "s"], ["+50", "us"], ["+50", "us"],
    ]  # fmt: skip
    assert len(lines) == 8 + 4


def test_the_story_of_an_event_between_two_pods_of_a_service(plan: RunFolder) -> None:
    """One ended three seconds before, another began a second after; changes of pods that had ended lie between."""
    plan.pods |= {"mail-0": ("mail", "b"), "mail-1": ("mail", "b")}
    for pod, seconds, state in (
        ("mail-0", 9, "starting"), ("mail-0", 10, "stopped"), ("mail-0", 11, "aborted"), ("mail-0", 12, "stopped"),
        ("mail-1", 13.5, "stopped"), ("mail-1", 14, "starting"),
    ):  # fmt: skip
        plan.state(pod, at(seconds), state)
    assert open_run(plan.write()).story(plan.events[2].id).splitlines()[-1].endswith("(it had no pod from -3 s to +1 s)")


def test_the_story_of_an_event_of_a_service_of_which_only_ends_are_told_before_it(plan: RunFolder) -> None:
    """Its pods table begins with the ends of pods whose beginning is not known: the absence is told from the first of them on."""
    plan.pods |= {"mail-0": ("mail", "b"), "mail-1": ("mail", "b")}
    for pod, seconds, state in (
        ("mail-0", 11, "stopped"),
        ("mail-1", 12, "aborted"),
        ("mail-1", 14, "starting"),
        ("mail-1", 30, "stopped"),
    ):
        plan.state(pod, at(seconds), state)
    assert open_run(plan.write()).story(plan.events[2].id).splitlines()[-1].endswith("(it had no pod from -2 s to +1 s)")


def test_an_outcome_that_no_publisher_of_ours_has_is_told_as_such(plan: RunFolder) -> None:
    run = open_run(plan.write())
    run.publishes["outcome"] = run.publishes["outcome"].cat.rename_categories({"acknowledged": "strange"})
    assert "+150 us strange: not a known outcome; PUBLISH said" in run.story(plan.events[0].id)


# -- the balance ----------------------------------------------------------------------------------------------------


def test_books_that_were_cooked_do_not_balance(run: Run) -> None:
    """Each of the two accounts is changed in one place; the sentence tells both sums."""
    assert balance.unbalanced(run) == ""
    copies, books = run.copies, run.service_books

    def told(*, copies: Copies | None = None, services: ServiceBooks = books) -> str:
        return balance.unbalanced(cooked(run.folder, copies=copies, services=services)).removeprefix("the books do not balance: ")

    def without(row: int) -> Copies:
        return Copies(*(np.delete(column, row) for column in copies))

    def with_fate(row: int, fate: str) -> Copies:
        fates = copies.fate.copy()
        fates[row] = FATE[fate]
        return copies._replace(fate=fates)

    assert told(copies=without(0)) == "12 delivery rows, but 11 copies delivered, duplicate or unexpected"
    assert told(copies=with_fate(16, "delivered")) == "10 pairs of event and pod in the deliveries, but 11 copies heard once or more"
    assert told(copies=without(5)) == "19 copies were expected, but 18 are delivered, missing or unknown"
    assert told(services=books._replace(heard=books.heard + 1)) == "9 copies were delivered, but services heard 23"
    assert told(services=books._replace(unheard=books.unheard + 1)) == "9 copies were delivered, but services heard 9"
    shorter = books._make(np.delete(column, 3) for column in books)
    assert told(services=shorter) == "services should hear 14 events, but 13 are booked"
    alone = books.fate.copy()
    alone[5] = -1
    assert told(services=books._replace(fate=alone)) == "2 events found no pod of a service, but 1 are booked so"


def test_the_totals_come_from_who_was_alive(plan: RunFolder) -> None:
    plan.state("web-1", at(13), "aborted").state("web-1", at(14), "starting").state("web-1", at(14) + 1, "subscribed")
    plan.state("api-0", at(14.2), "aborted")
    plan.heard = [row for row in plan.heard if not (row.pod == "web-1" and row.handled_ns > at(13))]
    run = open_run(plan.write())
    assert tuple(balance._totals(run)) == (7 + 6 + 3, 14, 2 + 2)
    assert balance.unbalanced(run) == ""


def test_what_a_pod_heard_that_came_alive_before_the_answer_is_in_both_accounts(tmp_path: Path) -> None:
    """It was not alive when the event was sent, nor was any other of its service: the totals count neither a copy nor a pod."""
    plan = RunFolder(tmp_path / "run").pod("web-0")
    (event,) = plan.publish(1, start_ns=at(12))
    plan.pods["late-0"] = ("late", "config.updated")
    plan.state("late-0", event.sent_ns + 10 * US, "starting").state("late-0", event.sent_ns + 20 * US, "subscribed")
    plan.hear(event, "late-0")
    run = open_run(plan.write())
    assert tuple(balance._totals(run)) == (1, 2, 1)
    assert (run.tally.fates(MetricName(""))["delivered"], len(run.service_books.alone)) == (2, 0)
    assert balance.unbalanced(run) == ""


# -- a cluster ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "target", "expected"),
    [(2, "broker", {"not-whole": 2, "unexplained": 1}), (1, "broker", {"unexplained": 3}), (2, "web-0", {"unexplained": 3})],
)
def test_in_a_cluster_a_fault_on_the_broker_explains_what_no_silence_does(
    tmp_path: Path, nodes: int, target: str, expected: dict[str, int]
) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.info.nodes = nodes
    events = plan.publish(30, start_ns=at(12), step_ns=100 * MS)
    plan.faults = [("broker_failover", target, at(12.4), events[8].sent_ns)]
    for number in (4, 8, 9):
        plan.drop(events[number], "web-0")
    run = open_run(plan.write())
    assert causes(run) == expected
    if "not-whole" in expected:
        assert "(silent from -50 us to +400 ms)" not in run.story(events[4].id)
        assert run.story(events[8].id).splitlines()[-1].endswith("(silent from -400 ms to +50 us)")


def test_a_run_that_never_reached_its_run_phase_has_no_data_for_any_checker(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run", slo={"from_future": 0}, reads_per_s=1.0, bus={"once": "keep-marker"}).pod("web-0")
    plan.publish(3, start_ns=at(9.5), stamped_ns=1)
    plan.faults = [("broker_down", "broker", at(9), at(9.7))]
    plan.info.phases = [Phase("start", at(1), at(8)), Phase("warm-up", at(9), 0)]
    verdict = judge(open_run(plan.write(state="interrupted")))
    assert {name: (one.verdict, one.detail) for name, one in verdict.checkers.items()} == {
        "harness": (
            "unknown",
            "the run was interrupted: Ctrl-C; the run did not reach its run phase; the run did not reach its drain phase",
        ),
        "steady": ("valid", "no fault was begun"),
        "ledger": ("unknown", "no data: nothing was published in the run phase"),
        "duplication": ("unknown", "no data: nothing was published in the run phase"),
        "order": ("unknown", "no data: nothing was delivered in the run phase"),
        "lag": ("unknown", "no data: nothing was delivered in the run phase"),
        "consumers": ("valid", "no service's handlers take time"),
        "clocks": ("valid", "no data: no event with a timestamp was delivered in the run phase"),
        "once": ("unknown", "no data: nothing was published in the run phase"),
        "staleness": ("unknown", "no data: the scenario means reads, and none was made in the run phase"),
        "fallback": ("valid", "no fault was begun; no pod called itself connected while it was blind"),
        "deaf": ("valid", "no fault was begun"),
        "batching": ("valid", "the load has no batches"),
        "callers": ("unknown", "no data: calls were meant, and none is recorded in the run phase"),
    }
    assert all(
        not isinstance(value, float) or math.isnan(value) or value in (0.0, 1.0)
        for one in verdict.checkers.values()
        for value in one.metrics.values()
    )
    assert [limit.detail for limit in verdict.slo] == ["from_future was not measured: no data"]


@pytest.mark.parametrize("starved", [False, True])
def test_a_scenario_that_leaves_everything_out_is_judged_by_the_defaults(plan: RunFolder, starved: bool) -> None:
    """Nothing that a scenario may leave out changes a word when it is left out: transport, recipes, reads, services, faults, limits."""
    plan.scenario = ""
    if starved:
        plan.starve(h0=lambda now: Waits(waited_ns=0.0, stood_ns=float(SECOND // 4 * (now > at(15)))))
    folder = plan.write()
    whole = judge(open_run(folder))
    (folder / "scenario.toml").write_text('name = "synthetic"\n')
    run = open_run(folder)
    bare = judge(run)
    assert {name: result_json(one) for name, one in bare.checkers.items()} == {
        name: result_json(one) for name, one in whole.checkers.items()
    }
    assert bare.slo == [] and not [one for one in bare.checkers.values() if "checker failed" in one.detail]
    best = AtBest(run, lambda arriving: np.array([], dtype=np.int64))
    expected = {
        "missing": 8.0, "lag_ms_p50": 0.25, "handled_twice": 4.0, "time_to_notice_s_max": 7.0, "calls_failed": 0.0,
        "offered_ratio_min": 1.0,
    }  # fmt: skip
    if not starved:
        assert {metric: best.value(metric, 7.0, 1.0) for metric in expected} == expected
    assert best.withheld.stalls.keys() == ({"h0", "locust"})


def test_the_first_event_of_all_balances_as_any_other_where_nobody_should_have_heard_it(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("web", replicas=2)
    refused = plan.event(RUN_NS, outcome="refused")
    plan.hear(refused, "web-0"), plan.hear(refused, "web-0"), plan.hear(refused, "web-1")
    plan.publish(2, start_ns=RUN_NS + SECOND)
    run = open_run(plan.write())
    assert fates(run) == {"delivered": 4, "missing": 2, "unexpected": 3} and balance.unbalanced(run) == ""
