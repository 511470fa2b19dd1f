"""Gather analytics items into batches, by count or by the age of the oldest item, whichever comes first.

Rules
-----
1. A batch leaves when it holds `size` items, when its oldest item is `interval_ms` old, or on a flush.
2. Its intended time is when the rule meant it to leave: the last item's intended time, the due time, or the flush.
3. An item is in exactly one batch, in the order it was added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class BatchRule:
    """When a batch leaves: with so many items, or when its oldest is so old."""

    size: int = 100
    interval_ms: int = 30_000


@dataclass(frozen=True, slots=True)
class Batch:
    """The items of one event.

    Attributes
    ----------
    first_item_ns
        Intended time of its oldest item.
    items_wait_ns
        Sum over the items of (`intended_ns` - the item's intended time).
    intended_ns
        When the rule meant the batch to leave.
    """

    items: tuple[Any, ...]
    first_item_ns: int
    items_wait_ns: int
    intended_ns: int


class Batcher:
    """The part-full batch of one publisher."""

    def __init__(self, *, size: int, interval_ms: int) -> None:
        self.size = size
        self.interval_ns = interval_ms * _MS
        self._start()

    def _start(self) -> None:
        self._items: list[Any] = []
        self._intended_sum_ns = 0
        self._first_ns = 0
        self._last_ns = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def due_ns(self) -> int | None:
        """When the part-full batch must leave, or None when there is none."""
        return self._first_ns + self.interval_ns if self._items else None

    @property
    def first_item_ns(self) -> int:
        """Intended time of the oldest item; 0 when there is none."""
        return self._first_ns

    @property
    def last_item_ns(self) -> int:
        """The latest intended time of an item; 0 when there is none."""
        return self._last_ns

    @property
    def items_wait_ns(self) -> int:
        """Sum over the items of (`last_item_ns` - the item's intended time)."""
        return self._last_ns * len(self._items) - self._intended_sum_ns

    def add(self, item: Any, *, intended_ns: int) -> Batch | None:
        """Add one item; return the batch when this item fills it."""
        if not self._items:
            self._first_ns = intended_ns
        self._items.append(item)
        self._intended_sum_ns += intended_ns
        self._last_ns = max(self._last_ns, intended_ns)
        return self._leave(self._last_ns) if len(self._items) >= self.size else None

    def tick(self, now_ns: int) -> Batch | None:
        """Return the part-full batch when its time has come."""
        due_ns = self.due_ns
        return self._leave(due_ns) if due_ns is not None and now_ns >= due_ns else None

    def flush(self, now_ns: int) -> Batch | None:
        """Return the part-full batch whatever its age."""
        return self._leave(max(now_ns, self._last_ns)) if self._items else None

    def _leave(self, intended_ns: int) -> Batch:
        # A late generator may add an item that was intended for a time after the batch was due.
        intended_ns = max(intended_ns, self._last_ns)
        waited_ns = intended_ns * len(self._items) - self._intended_sum_ns
        batch = Batch(tuple(self._items), self._first_ns, waited_ns, intended_ns)
        self._start()
        return batch
