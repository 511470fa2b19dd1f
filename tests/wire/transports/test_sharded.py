"""What the speaking end of sharded Pub/Sub does with answers, one by one: the order of a channel, and what it may follow."""

from __future__ import annotations

from typing import Any

import pytest

from sim.wire.address import parse_address
from sim.wire.pipeline import MAX_IN_FLIGHT
from sim.wire.slots import SLOTS, Owners, slot_of
from sim.wire.transports.sharded import MAX_MOVES, Publisher

OLD, NEW = parse_address("redis://h:1"), parse_address("redis://h:2")
MOVED = f"MOVED {slot_of(b'c')} h:2"


class Line:
    """A connection to a master that takes everything and answers when it is told to."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.unanswered: list[Any] = []
        self.takes = True

    def send(self, channel: bytes, payload: bytes, token: Any) -> bool:
        if self.takes:
            self.sent.append(payload)
            self.unanswered.append(token)
        return self.takes

    @property
    def in_flight(self) -> int:
        return len(self.unanswered)

    def abort(self) -> list[Any]:
        left, self.unanswered, self.takes = self.unanswered, [], False
        return left


class End:
    """A publisher on two such lines, and what it told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sim.wire.transports.sharded.Pipeline", Line)
        self.old, self.new = Line(), Line()
        self.answered: list[Any] = []
        self.refused: list[Any] = []
        self.lost: list[Any] = []
        lines: Any = {("h", 1): self.old, ("h", 2): self.new}
        self.publisher = Publisher(
            Owners(((0, SLOTS - 1, OLD),)),
            lines,
            answered=lambda token, receivers, at_ns: self.answered.append(token),
            refused=lambda token, reason, at_ns: self.refused.append(token),
        )
        self.publisher.on_lost(lambda reason, tokens: self.lost.append((reason, tokens)))

    def send(self, *numbers: int) -> list[bool]:
        return [self.publisher.send(b"c", b"%d" % n, n) for n in numbers]

    def answer(self, line: Line, error: str = "", count: int = 1) -> None:
        for _ in range(count):
            token = line.unanswered.pop(0)
            if error:
                self.publisher.refused(token, error, 0)
            else:
                self.publisher.answered(token, 1, 0)


@pytest.fixture
def end(monkeypatch: pytest.MonkeyPatch) -> End:
    return End(monkeypatch)


def test_what_is_sent_while_a_channel_moves_comes_after_what_was_sent_back(end: End) -> None:
    end.send(0, 1, 2, 3)
    end.answer(end.old)
    end.answer(end.old, MOVED)
    end.send(4, 5)
    assert (end.new.sent, end.publisher.in_flight) == ([], 5), "the old owner has not answered all"
    end.answer(end.old, MOVED, count=2)
    end.send(6)
    assert end.new.sent == [b"1", b"2", b"3", b"4", b"5", b"6"]
    end.answer(end.new, count=6)
    assert (end.answered, end.refused, end.publisher.in_flight) == ([0, 1, 2, 3, 4, 5, 6], [], 0)


def test_a_refusal_that_points_nowhere_is_told(end: End) -> None:
    end.send(0, 1)
    end.answer(end.old, "CLUSTERDOWN The cluster is down", count=2)
    assert (end.refused, end.new.sent, end.lost) == ([0, 1], [], [])


def test_a_channel_that_is_sent_on_for_ever_is_refused(end: End) -> None:
    end.send(0)
    for move in range(MAX_MOVES):
        end.answer((end.old, end.new)[move % 2], MOVED.replace("h:2", f"h:{(2, 1)[move % 2]}"))
    assert end.refused == []
    end.answer((end.old, end.new)[MAX_MOVES % 2], MOVED)
    assert (end.refused, end.publisher.in_flight) == ([0], 0)


def test_a_master_that_was_none_ends_the_connection_once_and_all_tokens_come_back(end: End) -> None:
    end.send(0, 1, 2)
    end.answer(end.old, "MOVED 7 h:9")
    assert end.refused == [0], "it was not published"
    ((reason, tokens),) = end.lost
    assert "h:9" in reason and tokens == [1, 2]
    assert end.send(3) == [False]
    end.publisher.give_up("again")
    assert len(end.lost) == 1


def test_what_waits_for_a_move_comes_back_too_when_a_connection_is_lost(end: End) -> None:
    end.send(0, 1)
    end.answer(end.old, MOVED)
    end.send(2)
    end.publisher.lost("reset", [])
    ((reason, tokens),) = end.lost
    assert (reason, sorted(tokens)) == ("reset", [0, 1, 2])
    assert (end.send(3), end.publisher.in_flight) == ([False], 0)


def test_what_waits_counts_as_in_flight_and_is_bounded(end: End) -> None:
    end.send(0, 1)
    end.answer(end.old, MOVED)
    assert all(end.send(*range(2, MAX_IN_FLIGHT)))
    assert (end.publisher.in_flight, end.publisher.full) == (MAX_IN_FLIGHT, True)
    assert end.send(MAX_IN_FLIGHT) == [False]
