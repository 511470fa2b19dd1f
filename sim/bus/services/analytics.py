"""analytics-service: adds up what the other services record, and answers queries about it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from sim.bus.cache import LruCache
from sim.bus.envelope import Event

MAX_NAMES = 1000  # of item types of a source, metrics, providers and sources each: names come from outside
OTHERS = "(others)"  # counts for every name beyond that limit

Counts = defaultdict[str, int]


class AnalyticsService:
    """Counts of items by type, metrics by name and tokens by provider. Nothing is deduplicated, as in the reference."""

    def __init__(self) -> None:
        self.sources: defaultdict[str, Counts] = defaultdict(_counts)  # service that sent the batch -> item type -> items
        self.metrics = _counts()
        self.tokens = _counts()
        self.uses = _counts()
        self.invalidations = 0
        self.reports: LruCache[str, Any] = LruCache(500)
        self.handlers: dict[str, Callable[[Event], None]] = {
            "analytics.events.batch": self.batch,
            "analytics.metric.recorded": self.metric,
            "analytics.provider.usage": self.usage,
            "config.cache.invalidate": self.cache_invalidated,
        }

    @property
    def items(self) -> Counts:
        """Items by type, from all sources."""
        total = _counts()
        for counts in self.sources.values():
            for kind, count in counts.items():
                total[kind] += count
        return total

    def batch(self, event: Event) -> None:
        """Add the items of a batch."""
        self.add_items(event.data["events"], source=event.source)

    def add_items(self, items: list[dict[str, Any]], *, source: str) -> None:
        """Add items, however they came; an item without an `eventType` is an error, and those before it count."""
        counts = self.sources[source if source in self.sources or len(self.sources) < MAX_NAMES else OTHERS]
        try:
            for item in items:
                counts[item["eventType"]] += 1
        finally:
            _bound(counts)

    def metric(self, event: Event) -> None:
        """Add one metric."""
        metrics = self.metrics
        metrics[event.data["name"]] += 1
        if len(metrics) > MAX_NAMES:  # checked here and not in a function: the lab measures its own speed by this handler
            _bound(metrics)

    def usage(self, event: Event) -> None:
        """Add one use of an AI provider."""
        provider, tokens = event.data["providerId"], 0 + event.data["tokens"]  # what is no number raises here, before anything is kept
        self.tokens[provider] += tokens
        self.uses[provider] += 1
        _bound(self.tokens)
        _bound(self.uses)

    def cache_invalidated(self, event: Event) -> None:
        """Drop cached reports that match the event's pattern."""
        self.reports.delete_matching(event.data["pattern"])
        self.invalidations += 1

    def music_analytics(self) -> dict[str, Any]:
        """Answer getMusicAnalytics: the items that music-service recorded, by type."""
        items = self.sources.get("music-service", _counts())
        return {"events": sum(items.values()), "byType": _by_name(items)}

    def system_analytics(self) -> dict[str, Any]:
        """Answer getSystemAnalytics: everything this pod heard, by kind."""
        items = self.items
        return {
            "events": sum(items.values()),
            "byType": _by_name(items),
            "metrics": _by_name(self.metrics),
            "providers": {str(name): {"uses": uses, "tokens": self.tokens.get(name, 0)} for name, uses in self.uses.items()},
        }


def _counts() -> Counts:
    return defaultdict(int)


def _by_name(counts: Counts) -> dict[str, int]:
    """Return the counts in the order of their names, which another program may have sent as numbers."""
    return dict(sorted((str(name), count) for name, count in counts.items()))


def _bound(counts: Counts) -> None:
    """Move the newest names beyond the limit into one."""
    if len(counts) > MAX_NAMES:
        beyond = [counts.popitem()[1] for _ in range(len(counts) - MAX_NAMES)]
        counts[OTHERS] += sum(beyond)
