"""How two pods of billing agree on who bills an order."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from sim.bus.once import DONE_PREFIX, RUN


def first_wins(event_id: str, *, token: str, ttl_s: int, wall_ms: Callable[[], int] | None = None) -> Generator[tuple[str, ...], Any, str]:
    """Set a marker, and handle the event if it was not there; take it back when the handler raised, so that another pod may try."""
    key = DONE_PREFIX + event_id
    if (yield ("SET", key, token, "NX", "EX", str(ttl_s))) is None:
        return "skipped"
    if (yield RUN):
        return "handled"
    yield ("DEL", key)
    return "failed"
