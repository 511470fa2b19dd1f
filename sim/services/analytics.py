"""analytics-service: adds up what the other services record."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from sim.bus.cache import LruCache
from sim.bus.envelope import Event


class AnalyticsService:
    """Count items by type, metrics by name and tokens by provider. It does not deduplicate, as in the reference."""

    def __init__(self) -> None:
        self.items: defaultdict[str, int] = defaultdict(int)
        self.metrics: defaultdict[str, int] = defaultdict(int)
        self.tokens: defaultdict[str, int] = defaultdict(int)
        self.reports: LruCache[str, Any] = LruCache(500)
        self.handlers: dict[str, Callable[[Event], None]] = {
            "analytics.events.batch": self.batch,
            "analytics.metric.recorded": self.metric,
            "analytics.provider.usage": self.usage,
            "config.cache.invalidate": self.cache_invalidated,
        }

    def batch(self, event: Event) -> None:
        """Add the items of a batch."""
        for item in event.data["events"]:
            self.items[item["eventType"]] += 1

    def metric(self, event: Event) -> None:
        """Add one metric."""
        self.metrics[event.data["name"]] += 1

    def usage(self, event: Event) -> None:
        """Add one use of an AI provider."""
        self.tokens[event.data["providerId"]] += event.data["tokens"]

    def cache_invalidated(self, event: Event) -> None:
        """Drop cached reports that match the event's pattern."""
        self.reports.delete_matching(event.data["pattern"])
