"""analytics-service: adds up what the other services record, and answers queries about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from sim.bus.cache import LruCache
from sim.bus.envelope import Event

MAX_NAMES = 1000  # of item types, metrics and providers each: names come from outside
OTHERS = "(others)"  # counts every name beyond


class AnalyticsService:
    """Count items by type, metrics by name and tokens by provider. It does not deduplicate, as in the reference."""

    def __init__(self) -> None:
        self.items: Counter[str] = Counter()
        self.sources: Counter[tuple[str, str]] = Counter()  # (service that sent the batch, item type)
        self.metrics: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.uses: Counter[str] = Counter()
        self.invalidations = 0
        self.reports: LruCache[str, Any] = LruCache(500)
        self.handlers: dict[str, Callable[[Event], None]] = {
            "analytics.events.batch": self.batch,
            "analytics.metric.recorded": self.metric,
            "analytics.provider.usage": self.usage,
            "config.cache.invalidate": self.cache_invalidated,
        }

    def batch(self, event: Event) -> None:
        """Add the items of a batch."""
        self.add_items(event.data["events"], source=event.source)

    def add_items(self, items: list[dict[str, Any]], *, source: str) -> None:
        """Add items, however they came; an item without an `eventType` is an error."""
        for item in items:
            kind = item["eventType"]
            _add(self.items, kind, 1)
            _add(self.sources, (source, kind), 1, others=(OTHERS, OTHERS))

    def metric(self, event: Event) -> None:
        """Add one metric."""
        _add(self.metrics, event.data["name"], 1)

    def usage(self, event: Event) -> None:
        """Add one use of an AI provider."""
        provider, tokens = event.data["providerId"], event.data["tokens"]
        _add(self.tokens, provider, tokens)
        _add(self.uses, provider, 1)

    def cache_invalidated(self, event: Event) -> None:
        """Drop cached reports that match the event's pattern."""
        self.reports.delete_matching(event.data["pattern"])
        self.invalidations += 1

    def music_analytics(self) -> dict[str, Any]:
        """Answer getMusicAnalytics: the items that music-service recorded, by type."""
        items = {kind: count for (source, kind), count in sorted(self.sources.items()) if source == "music-service"}
        return {"events": sum(items.values()), "byType": items}

    def system_analytics(self) -> dict[str, Any]:
        """Answer getSystemAnalytics: everything this pod heard, by kind."""
        return {
            "events": self.items.total(),
            "byType": dict(sorted(self.items.items())),
            "metrics": dict(sorted(self.metrics.items())),
            "providers": {name: {"uses": self.uses[name], "tokens": self.tokens[name]} for name in sorted(self.uses)},
        }


def _add(counter: Counter[Any], name: Any, amount: Any, *, others: Any = OTHERS) -> None:
    if name not in counter and len(counter) >= MAX_NAMES:
        name = others
    counter[name] += amount
