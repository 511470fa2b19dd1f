"""system-service: watches the metrics of the others."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from sim.bus.cache import LruCache
from sim.bus.envelope import Event
from sim.bus.foreign_data import METRIC_NAMES, VALUES, find, name_of


class SystemService:
    """The latest value of each metric."""

    def __init__(self) -> None:
        self.invalidations = 0
        self.latest: LruCache[Hashable, Any] = LruCache(1000)
        self.settings: LruCache[str, Any] = LruCache(500)
        self.handlers: dict[str, Callable[[Event], None]] = {
            "analytics.metric.recorded": self.metric,
            "config.cache.invalidate": self.cache_invalidated,
        }

    def metric(self, event: Event) -> None:
        """Store one metric's value; None for one without."""
        data = event.data
        name, value = data.get("name"), data.get("value")
        if name.__class__ is not str or value is None:
            name, value = name_of(data, METRIC_NAMES), find(data, VALUES)
        self.latest.put(name, value)

    def cache_invalidated(self, event: Event) -> None:
        """Drop cached settings that match the event's pattern."""
        self.settings.drop(event.data.get("pattern"))
        self.invalidations += 1
