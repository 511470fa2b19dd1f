"""system-service: watches the metrics of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sim.bus.cache import LruCache
from sim.bus.envelope import Event


class SystemService:
    """The latest value of each metric."""

    def __init__(self) -> None:
        self.invalidations = 0
        self.latest: LruCache[str, float] = LruCache(1000)
        self.settings: LruCache[str, Any] = LruCache(500)
        self.handlers: dict[str, Callable[[Event], None]] = {
            "analytics.metric.recorded": self.metric,
            "config.cache.invalidate": self.cache_invalidated,
        }

    def metric(self, event: Event) -> None:
        """Store one metric's value."""
        self.latest.put(event.data["name"], event.data["value"])

    def cache_invalidated(self, event: Event) -> None:
        """Drop cached settings that match the event's pattern."""
        self.settings.delete_matching(event.data["pattern"])
        self.invalidations += 1
