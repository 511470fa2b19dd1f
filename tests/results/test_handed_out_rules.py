"""The rules of what a consumer group handed out, one by one, at their bounds; times are small numbers."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sim.record.reader import FOREVER_NS
from sim.results.handed_out import Absence, GroupBooks, forgets, read_absences
from sim.results.pod_histories import make_history
from sim.results.silent_windows import PodFault

Rows = list[tuple[int, str]]
BEGUN: Rows = [(5, "starting"), (9, "subscribed")]


def absences(rows: Rows, heard: list[tuple[int, int]] | None = None, *, drain: int = FOREVER_NS) -> list[Absence]:
    """Return the absences of a pod with these rows that heard (received, sent)."""
    history = make_history("p", service="s", channels=["a"], at_ns=[at for at, _ in rows], states=[state for _, state in rows])
    received, sent = (np.array([pair[n] for pair in heard or []], dtype=np.int64) for n in (0, 1))
    return read_absences(history, received_ns=received, sent_ns=sent, drain_ns=drain)


@pytest.mark.parametrize(
    ("rows", "heard", "expected"),
    [
        pytest.param(BEGUN, [], [], id="who is there is not absent"),
        pytest.param([(5, "starting"), (7, "aborted")], [], [], id="who never joined had nothing"),
        pytest.param([*BEGUN, (20, "disconnected"), (30, "subscribed")], [], [(9, 20, 30)], id="since it joined"),
        pytest.param(
            [*BEGUN, (20, "disconnected"), (30, "subscribed")],
            [(12, 11), (20, 13), (21, 19)],
            [(13, 20, 30)],
            id="since the newest it heard",
        ),
        pytest.param([*BEGUN, (20, "aborted"), (25, "starting"), (30, "subscribed")], [(12, 11)], [(11, 20, 30)], id="until it is back"),
        pytest.param([*BEGUN, (20, "disconnected"), (22, "aborted"), (30, "subscribed")], [], [(9, 20, 30)], id="from the first of it"),
        pytest.param([*BEGUN, (20, "stopped")], [(12, 8)], [(9, 20, FOREVER_NS)], id="for good"),
        pytest.param(
            [*BEGUN, (20, "disconnected"), (30, "subscribed"), (40, "disconnected"), (50, "subscribed")],
            [(12, 11)],
            [(11, 20, 30), (30, 40, 50)],
            id="the second time since it joined again",
        ),
        pytest.param([*BEGUN, (15, "subscribed"), (20, "stopped")], [], [(9, 20, FOREVER_NS)], id="a second subscribed is no new joining"),
    ],
)
def test_a_pod_is_absent(rows: Rows, heard: list[tuple[int, int]], expected: list[tuple[int, int, int]]) -> None:
    assert absences(rows, heard) == [Absence(*one) for one in expected]


def test_how_pods_end_in_the_drain_is_no_absence() -> None:
    assert absences([*BEGUN, (20, "stopped")], drain=20) == []
    assert absences([*BEGUN, (20, "stopped")], drain=21) == [Absence(9, 20, FOREVER_NS)]


def fault(kind: str, begin: int, end: int) -> PodFault:
    return PodFault(kind, begin, end, frozenset(["broker"]))


def books(
    *,
    away: dict[int, list[Absence]] | None = None,
    faults: list[PodFault] | None = None,
    heard: list[tuple[int, int]] | None = None,
    added: list[tuple[int, int]] | None = None,
    max_len: int = 100,
) -> GroupBooks:
    """Return books of what was heard as (received, sent), and added as (sent, answered)."""
    columns = [np.array([pair[n] for pair in pairs or []], dtype=np.int64) for pairs in (heard, added) for n in (0, 1)]
    return GroupBooks(away or {}, faults or [], *columns, max_len)


def causes(group: GroupBooks, *events: tuple[int, int], of_pod: int = 0) -> list[str]:
    """Return the causes of events (sent, answered) at a pod."""
    sent, answered = (np.array([event[n] for event in events], dtype=np.int64) for n in (0, 1))
    return list(group.causes(sent, answered, of_pod=of_pod))


EVENTS = ((9, 10), (10, 11), (20, 21), (21, 22))
GONE = {1: [Absence(11, 20, FOREVER_NS)]}
BACK = {1: [Absence(11, 20, 30)]}


def test_what_was_given_to_a_peer_that_never_came_back_it_took() -> None:
    """Given to it was what was answered when it had last heard, or later, and sent before it was lost."""
    assert causes(books(away=GONE), *EVENTS) == ["", "taken-by-peer", "taken-by-peer", ""]
    assert causes(books(away=BACK), *EVENTS) == [""] * 4, "it got them again when it was back"
    assert causes(books(away=GONE), *EVENTS, of_pod=1) == [""] * 4, "its own absence is no peer's"


@pytest.mark.parametrize(
    ("begin", "end", "expected"),
    [
        (25, 26, ["", "keys-lost", "keys-lost", ""]),
        (30, 40, ["", "keys-lost", "keys-lost", ""]),
        (31, 40, [""] * 4),
        (15, 19, ["", "keys-lost", "", ""]),
        (15, 20, ["", "keys-lost", "keys-lost", ""]),
    ],
)
def test_a_broker_that_forgot_while_a_peer_was_away_lost_what_it_had_given_to_it(begin: int, end: int, expected: list[str]) -> None:
    assert causes(books(away=BACK, faults=[fault("broker_down", begin, end)]), *EVENTS) == expected


@pytest.mark.parametrize(
    ("heard", "expected"),
    [
        ([], ["keys-lost", "keys-lost", "keys-lost", ""]),
        ([(14, 11)], ["", "keys-lost", "keys-lost", ""]),
        ([(15, 21)], ["keys-lost", "keys-lost", "keys-lost", ""]),
        ([(14, 11), (13, 21)], ["", "", "keys-lost", ""]),
    ],
)
def test_keys_that_were_lost_while_all_were_there_are_those_that_nobody_had_been_given(
    heard: list[tuple[int, int]], expected: list[str]
) -> None:
    """They were lost from 15 to 20; what was answered before the newest was sent that anybody had got by 15 had been given."""
    assert causes(books(faults=[fault("keys_lost", 15, 20)], heard=heard), *EVENTS) == expected
    assert causes(books(faults=[fault("broker_down", 15, 20)], heard=heard), *EVENTS) == [""] * 4


ADDED = [(12, 12), (13, 15), (14, 14), (30, 31)]


@pytest.mark.parametrize(
    ("max_len", "heard", "expected"),
    [
        (2, [], ["trimmed", "trimmed", "", ""]),
        (3, [], ["trimmed", "trimmed", "", ""]),
        (4, [], ["", "", "", ""]),
        (3, [(29, 11), (30, 12)], ["", "trimmed", "", ""]),
        (3, [(29, 12)], ["", "", "", ""]),
        (3, [(31, 11), (30, 12)], ["trimmed", "trimmed", "", ""]),
    ],
)
def test_what_so_many_were_added_after_before_anybody_got_later_ones_was_trimmed(
    max_len: int, heard: list[tuple[int, int]], expected: list[str]
) -> None:
    """With three kept, the fourth, sent at 30, drops what was sent before 12, unless something later was got by then."""
    assert causes(books(added=ADDED, heard=heard, max_len=max_len), *EVENTS) == expected


def test_what_had_been_given_to_a_peer_may_be_trimmed_before_it_is_back() -> None:
    late = [(25, 11), (25, 12), (25, 25)]  # later events were got, so nobody could be given these any more
    assert causes(books(away={1: [Absence(9, 20, 31)]}, added=ADDED, heard=late, max_len=3), *EVENTS) == ["trimmed", "trimmed", "", ""]
    assert causes(books(away={1: [Absence(9, 20, 29)]}, added=ADDED, heard=late, max_len=3), *EVENTS) == [""] * 4
    assert causes(books(away={1: [Absence(9, 20, FOREVER_NS)]}, added=ADDED, heard=late, max_len=4), *EVENTS[:2]) == ["taken-by-peer"] * 2


def test_the_first_rule_that_fits_says_why() -> None:
    everything = books(away=GONE, added=ADDED, max_len=3, faults=[fault("keys_lost", 15, 20)])
    assert causes(everything, *EVENTS) == ["trimmed", "trimmed", "keys-lost", ""]


def test_faults_after_which_the_broker_has_forgotten() -> None:
    kinds = (
        "broker_down",
        "broker_stop",
        "broker_failover",
        "connections_refused",
        "keys_lost",
        "pod_start_in_outage",
        "link_cut",
        "broker_freeze",
    )
    assert [one.fault for one in forgets(fault(kind, 1, 2) for kind in kinds)] == list(kinds[:6])


@pytest.mark.parametrize("seed", range(40))
def test_causes_are_those_of_a_plain_loop(seed: int) -> None:
    draw = random.Random(seed)

    def pairs(many: int) -> list[tuple[int, int]]:
        return [(at, at + draw.randrange(4)) for at in (draw.randrange(1, 40) for _ in range(many))]

    heard, added, events = [(end, begin) for begin, end in pairs(draw.randrange(6))], pairs(draw.randrange(20)), pairs(30)
    away = {
        pod: [Absence(at, at + draw.randrange(6), draw.choice((at + 10, FOREVER_NS))) for at in draw.sample(range(40), draw.randrange(3))]
        for pod in range(3)
    }
    faults = [fault(draw.choice(("keys_lost", "broker_down")), at, at + draw.randrange(5)) for at in draw.choices(range(40), k=seed % 3)]
    max_len = draw.randrange(1, 8)
    expected = []
    for sent, answered in events:
        before = sum(end < sent for _, end in added)
        trimmed = [*sorted(begin for begin, _ in added)[before + max_len :], FOREVER_NS][0]
        passed = min((received for received, begin in heard if begin > answered), default=FOREVER_NS - 1)
        given = [one for pod, its in away.items() if pod != 1 for one in its if one.since_ns <= answered and sent <= one.lost_ns]
        words = ["trimmed"] if trimmed <= passed else []
        for lost in faults:
            newest = max((begin for received, begin in heard if received < lost.begin_ns), default=0)
            words += ["keys-lost"] if lost.fault == "keys_lost" and answered >= newest and sent <= lost.end_ns else []
        for one in given:
            words += ["keys-lost" for lost in faults if lost.begin_ns <= one.back_ns and sent <= lost.end_ns]
            words += ["trimmed"] if trimmed <= one.back_ns and trimmed < FOREVER_NS else []
            words += ["taken-by-peer"] if one.back_ns == FOREVER_NS else []
        expected.append([*words, ""][0])
    assert causes(books(away=away, faults=faults, heard=heard, added=added, max_len=max_len), *events, of_pod=1) == expected
