"""The books of programs: what taps tell and programs report become the rows that our own pods' rows are."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from sim.pods.programs import books as module
from sim.pods.programs.books import ProgramBooks
from sim.pods.programs.tap_messages import ProgramHeard, ProgramPublished
from sim.record.recorder import Recorder
from sim.record.schema import compose_key, event_id, event_key

NONCE, PROBER = 7, 65_535
PROBED: list[tuple[int, str, int]] = []


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path, source="inline", pods=["web-0", "own-0", "own-1"])


@pytest.fixture
def books(recorder: Recorder) -> ProgramBooks:
    PROBED.clear()
    return ProgramBooks(
        recorder,
        names={1: "own-0", 2: "own-1"},
        reporting={1},
        channels={"a", "b"},
        nonce=NONCE,
        prober=PROBER,
        publishers=itertools.count(3),
        probed=lambda *told: PROBED.append(told),
    )


def published(connection: int, key: int, *, pod: int = 1, channel: str = "a", at: int = 100) -> ProgramPublished:
    return ProgramPublished(pod, connection, channel, key, 50, at, at + 5, "acknowledged", 2)


def rows(recorder: Recorder, table: str) -> list[dict[str, Any]]:
    taken = recorder.deliveries.take() if table == "deliveries" else recorder.tables[table].take()
    found: list[dict[str, Any]] = taken.to_pylist()
    return found


def heard_rows(recorder: Recorder) -> list[tuple[Any, ...]]:
    return [(row["event"], row["pod"], row["received_ns"], row["handled_ns"], row["outcome"]) for row in rows(recorder, "deliveries")]


def test_each_event_of_a_connection_has_the_next_key_and_its_identity_beside_it(books: ProgramBooks, recorder: Recorder) -> None:
    for key in (901, 902, 901):
        books.published(published(1, key))
    books.published(published(2, 903))
    keys = [compose_key(nonce=NONCE, publisher=3, sequence=number) for number in range(3)] + [
        compose_key(nonce=NONCE, publisher=4, sequence=0)
    ]
    found = rows(recorder, "publishes")
    assert [row["event"] for row in found] == keys and [row["publisher"] for row in found] == ["own-0"] * 3 + ["own-0/2"]
    one = found[0]
    assert (one["intended_ns"], one["sent_ns"], one["acked_ns"], one["items"], one["bytes"], one["receivers"]) == (100, 100, 105, 1, 50, 2)
    assert [(row["event"], row["identity"]) for row in rows(recorder, "identities")] == list(zip(keys, (901, 902, 901, 903), strict=True))


def test_the_number_of_a_connection_that_ended_goes_to_the_next(books: ProgramBooks, recorder: Recorder) -> None:
    for connection in range(1, 1001):
        books.published(published(connection, connection))
        books.closed(1, connection)
    found = rows(recorder, "publishes")
    assert {row["publisher"] for row in found} == {"own-0"} and {row["event"] >> 32 & 0xFFFF for row in found} == {3}
    assert [row["event"] & 0xFFFFFFFF for row in found] == list(range(1000))


def test_without_reports_what_was_written_to_its_socket_is_handled(books: ProgramBooks, recorder: Recorder) -> None:
    books.heard(ProgramHeard(2, 200, ["a", "b"], [901, 902]))
    assert heard_rows(recorder) == [(901, "own-1", 200, 200, "handled"), (902, "own-1", 200, 200, "handled")]
    assert (books.books[2].heard, books.books[2].handled) == (2, 2)


def test_rows_stand_in_the_order_heard_whatever_the_order_of_reports(books: ProgramBooks, recorder: Recorder) -> None:
    first, second, third = (event_key(one) for one in ("x", "y", "z"))
    books.heard(ProgramHeard(1, 200, ["a", "a"], [first, second]))
    books.reported(1, "y", 260)
    assert heard_rows(recorder) == []
    books.reported(1, "z", 210)  # before the tap has told of it
    books.heard(ProgramHeard(1, 220, ["a"], [third]))
    books.reported(1, "x", 190)  # a clock that is read too early
    assert heard_rows(recorder) == [
        (first, "own-0", 200, 200, "handled"),
        (second, "own-0", 200, 260, "handled"),
        (third, "own-0", 220, 220, "handled"),
    ]
    assert books.waiting() == 0


def test_an_event_that_came_twice_and_was_handled_once_was_once_not_handled(books: ProgramBooks, recorder: Recorder) -> None:
    key = event_key("x")
    books.heard(ProgramHeard(1, 200, ["a"], [key]))
    books.heard(ProgramHeard(1, 210, ["a"], [key]))
    books.reported(1, "x", 215)
    books.reported(1, "never", 216)
    book = books.ended(1)
    assert heard_rows(recorder) == [(key, "own-0", 200, 215, "handled"), (key, "own-0", 210, 210, "failed")]
    assert (book.heard, book.handled, book.unhandled, book.on_the_way, book.unknown_reports) == (2, 1, 1, 0, 1)
    assert books.books[1].heard == 0


def test_what_was_given_too_late_to_be_handled_is_told_apart(books: ProgramBooks, recorder: Recorder) -> None:
    books.heard(ProgramHeard(1, 200, ["a"], [event_key("x")]))
    books.heard(ProgramHeard(1, 300, ["a"], [event_key("y")]))
    book = books.ended(1, in_time_ns=250)
    assert (book.unhandled, book.on_the_way) == (1, 1)


def test_probes_are_told_and_need_no_report(books: ProgramBooks, recorder: Recorder) -> None:
    probe = compose_key(nonce=NONCE, publisher=PROBER, sequence=4)
    books.heard(ProgramHeard(1, 200, ["a"], [probe]))
    books.reported(1, event_id(probe), 210)
    assert [(1, "a", probe)] == PROBED
    assert heard_rows(recorder) == [(probe, "own-0", 200, 200, "handled")]
    assert (books.books[1].heard, books.ended(1).unknown_reports) == (0, 0)


def test_what_is_not_of_the_bus_is_left_out(books: ProgramBooks, recorder: Recorder) -> None:
    books.heard(ProgramHeard(1, 200, ["\0other:a"], [5]))
    books.published(published(1, 5, channel="\0other:a"))
    assert heard_rows(recorder) == [] and rows(recorder, "publishes") == [] and books.outside[1] == 2


def test_no_more_copies_wait_than_may(books: ProgramBooks, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    for number in range(5):
        books.heard(ProgramHeard(1, 200 + number, ["a"], [event_key(f"x{number}")]))
    assert [row[4] for row in heard_rows(recorder)] == ["failed", "failed"] and books.waiting() == 3
