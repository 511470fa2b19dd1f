"""The batcher: every item in exactly one batch, in order, never too many, never too late."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.bus.batcher import Batch, Batcher

MS = 1_000_000

# ("add", intended time) | ("tick", now) | ("flush", now)
stimuli = st.lists(st.tuples(st.sampled_from(["add", "add", "add", "tick", "flush"]), st.integers(0, 10_000 * MS)), max_size=80)


def play(batcher: Batcher, steps: list[tuple[str, int]]) -> list[tuple[Batch, str, int]]:
    """Apply the stimuli; return each batch with the stimulus that made it leave."""
    left = []
    for number, (what, at_ns) in enumerate(steps):
        if what == "add":
            batch = batcher.add({"n": number, "at": at_ns}, intended_ns=at_ns)
        else:
            batch = batcher.tick(at_ns) if what == "tick" else batcher.flush(at_ns)
        if batch is not None:
            left.append((batch, what, at_ns))
    last = batcher.flush(20_000 * MS)
    return [*left, (last, "flush", 20_000 * MS)] if last else left


def items(batches: list[Batch]) -> list[dict[str, Any]]:
    return [item for batch in batches for item in batch.items]


@given(stimuli, st.integers(1, 12), st.integers(1, 5_000))
def test_every_item_is_in_exactly_one_batch_in_the_order_it_was_added(steps: list[tuple[str, int]], size: int, interval_ms: int) -> None:
    left = [batch for batch, _, _ in play(Batcher(size=size, interval_ms=interval_ms), steps)]
    assert [item["n"] for item in items(left)] == [number for number, (what, _) in enumerate(steps) if what == "add"]
    assert all(1 <= len(batch.items) <= size for batch in left)


@given(stimuli, st.integers(1, 12), st.integers(1, 5_000))
def test_waits_add_up_exactly_and_no_item_leaves_before_it_was_meant(steps: list[tuple[str, int]], size: int, interval_ms: int) -> None:
    for batch, _, _ in play(Batcher(size=size, interval_ms=interval_ms), steps):
        assert batch.items_wait_ns == sum(batch.intended_ns - item["at"] for item in batch.items)
        assert batch.first_item_ns == batch.items[0]["at"]
        assert batch.intended_ns >= max(item["at"] for item in batch.items)


@given(stimuli, st.integers(2, 12), st.integers(1, 5_000))
def test_a_batch_leaves_for_its_reason_only(steps: list[tuple[str, int]], size: int, interval_ms: int) -> None:
    for batch, what, at_ns in play(Batcher(size=size, interval_ms=interval_ms), steps):
        if what == "add":
            assert len(batch.items) == size
        elif what == "tick":
            assert at_ns >= batch.first_item_ns + interval_ms * MS, "its age was reached"


@given(st.lists(st.integers(0, 10_000 * MS), min_size=1, max_size=40).map(sorted), st.integers(1, 500))
def test_a_driver_that_ticks_at_due_time_keeps_every_item_younger_than_the_interval(times: list[int], interval_ms: int) -> None:
    batcher, left = Batcher(size=1_000, interval_ms=interval_ms), []
    for at_ns in times:
        if batcher.due_ns is not None and batcher.due_ns <= at_ns:
            left.append(batcher.tick(batcher.due_ns))
        left.append(batcher.add({"at": at_ns}, intended_ns=at_ns))
    left.append(batcher.tick(batcher.due_ns or 0))
    batches = [batch for batch in left if batch]
    assert len(items(batches)) == len(times)
    assert all(batch.intended_ns == batch.first_item_ns + interval_ms * MS for batch in batches)


@pytest.mark.parametrize("late_ns", [0, 1, 3_600_000 * MS])
def test_a_late_tick_does_not_move_the_intended_time(late_ns: int) -> None:
    batcher = Batcher(size=10, interval_ms=100)
    batcher.add({}, intended_ns=5 * MS)
    batch = batcher.tick(105 * MS + late_ns)
    assert batch is not None
    assert batch.intended_ns == 105 * MS


def test_an_empty_batcher_has_nothing_to_send_and_is_never_due() -> None:
    batcher = Batcher(size=10, interval_ms=100)
    assert (len(batcher), batcher.due_ns, batcher.tick(10**18), batcher.flush(10**18)) == (0, None, None, None)


def test_a_batcher_tells_of_its_part_full_batch_and_begins_anew_when_that_has_left() -> None:
    batcher = Batcher(size=3, interval_ms=100)

    def told() -> tuple[int, int | None, int, int, int]:
        return len(batcher), batcher.due_ns, batcher.first_item_ns, batcher.last_item_ns, batcher.items_wait_ns

    empty = told()
    assert empty == (0, None, 0, 0, 0)
    assert (batcher.add("a", intended_ns=7), batcher.add("b", intended_ns=5)) == (None, None)
    assert told() == (2, 7 + 100 * MS, 7, 7, 2)
    assert batcher.add("c", intended_ns=9) == Batch(("a", "b", "c"), first_item_ns=7, items_wait_ns=2 + 4, intended_ns=9)
    assert told() == empty
