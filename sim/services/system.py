"""system-service: watches the metrics of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sim.bus.cache import LruCache
from sim.bus.envelope import Event


class SystemService:
    """Keep the latest value of each metric."""

    def __init__(self) -> None:
        self.latest: dict[str, float] = {}
        self.settings: LruCache[str, Any] = LruCache(500)
        self.handlers: dict[str, Callable[[Event], None]] = {
            "analytics.metric.recorded": self.metric,
            "config.cache.invalidate": self.cache_invalidated,
        }

    def metric(self, event: Event) -> None:
        """Keep one metric's value."""
        self.latest[event.data["name"]] = event.data["value"]

    def cache_invalidated(self, event: Event) -> None:
        """Drop cached settings that match the event's pattern."""
        self.settings.delete_matching(event.data["pattern"])
