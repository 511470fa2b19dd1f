"""How far a fault was carried out that met a broker, or pods, which another one had taken away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sim.faults.felt import RETRY_S, Felt
from sim.machine.clock import NS_PER_S
from sim.scenario.file import check_tree
from tests.support.fault_pairs import FIELDS
from tests.support.ran import ran

AWAY = (2.0, 3.0)
NOT, LATE, PART, WHOLE = "not at all", "late", "in part", "whole"
INSIDE, BEGINS_IN, ENDS_IN = (2.3, 2.7), (2.5, 4.5), (1.5, 2.5)


def felt(folder: Path, outer: str, kind: str, span: tuple[float, float], **fields: Any) -> tuple[str, float]:
    """Return how a fault was felt that met another one, and at which second of the run phase."""
    faults = [{"kind": one, "at_s": begin, "for_s": end - begin} for one, (begin, end) in ((outer, AWAY), (kind, span))]
    faults[0] |= FIELDS.get(outer, {})
    faults[1] |= FIELDS.get(kind, {}) | fields
    events = ["config.template.invalidated"]
    tree: dict[str, Any] = {
        "faults": faults,
        "load": {"driver": "pods", "rate_per_s": 50, "warm_up_s": 0.2, "run_s": 5, "mix": {events[0]: 1}},
        "services": {"music-service": {"replicas": 2, "publishes": events, "subscribes": events}},
    }
    run = ran(check_tree(tree, where="felt"), folder=folder)
    row = run.faults[run.faults["fault"] == kind].iloc[-1]
    return str(row["felt"]), (int(row["felt_ns"]) - run.phases["run"][0]) / 1e9


@pytest.mark.parametrize("outer", ["broker_down", "broker_freeze"])
@pytest.mark.parametrize(
    "kind", ["broker_slow", "buffer_limit", "connections_refused", "keys_lost", "publishers_cut", "reconnect_stampede", "subscribers_cut"]
)
def test_what_needs_a_broker_waits_for_one_and_says_so(tmp_path: Path, outer: str, kind: str) -> None:
    assert felt(tmp_path / "inside", outer, kind, INSIDE)[0] == NOT
    word, at_s = felt(tmp_path / "begins", outer, kind, BEGINS_IN)
    assert word == LATE and AWAY[1] <= at_s <= BEGINS_IN[1]


@pytest.mark.parametrize(
    ("outer", "kind", "word"),
    [
        ("broker_down", "buffer_limit", PART),
        ("broker_down", "connections_refused", PART),
        ("broker_down", "broker_freeze", PART),
        ("broker_down", "publishers_cut", PART),
        ("broker_freeze", "buffer_limit", WHOLE),
        ("broker_freeze", "publishers_cut", PART),
        ("broker_down", "keys_lost", WHOLE),
        ("broker_down", "broker_stop", WHOLE),
    ],
)
def test_what_ends_while_the_broker_is_away_was_felt_as_far_as_it_was_there(tmp_path: Path, outer: str, kind: str, word: str) -> None:
    assert felt(tmp_path / "run", outer, kind, ENDS_IN) == (word, ENDS_IN[0])


def test_a_cut_of_pods_that_are_not_back_yet_is_late(tmp_path: Path) -> None:
    """The broker is there again, and no pod is connected."""
    word, at_s = felt(tmp_path / "run", "broker_down", "subscribers_cut", (3.01, 4.0))
    assert word == LATE and at_s > 3.05


def test_a_fault_on_pods_some_of_which_are_down_already_is_felt_in_part(tmp_path: Path) -> None:
    assert felt(tmp_path / "some", "pod_kill", "pod_stop", (2.3, 2.7), pods=["music-service"])[0] == PART
    assert felt(tmp_path / "none", "pod_kill", "pod_stop", (2.3, 2.7), pods=["music-service-0"])[0] == NOT


def test_words() -> None:
    assert Felt().word() == NOT
    at_once, waited, others_missed, missed_first = Felt(), Felt(), Felt(), Felt()
    at_once.did()
    waited.did(waited=True)
    others_missed.did()
    others_missed.missed()
    missed_first.missed()
    missed_first.did()
    assert [one.word() for one in (at_once, waited, others_missed, missed_first)] == [WHOLE, LATE, PART, PART]
    again = Felt()
    again.missed()
    again.did(since_ns=again.missed_ns + int(2 * RETRY_S * NS_PER_S))
    assert again.word() == LATE
    again.missed()
    assert again.word() == f"{LATE}, {PART}"
