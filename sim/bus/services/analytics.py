"""analytics-service: adds up what the other services record, and answers queries about it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import Any

from sim.bus.cache import LruCache
from sim.bus.envelope import Event
from sim.bus.foreign_data import BEYOND, ITEM_NAMES, ITEMS, MAX_NUMBER, METRIC_NAMES, PROVIDERS, TOKENS, find, label_of, name_of, number_in

MAX_NAMES = 1000  # of item types of a source, metrics, providers and sources each: names come from outside

Counts = defaultdict[Hashable, Any]  # by name, as `sim.bus.foreign_data.name_of` gives it


class AnalyticsService:
    """Counts of items by type, metrics by name and tokens by provider. Nothing is deduplicated, as in the reference."""

    def __init__(self) -> None:
        self.sources: defaultdict[Hashable, Counts] = defaultdict(_counts)  # service that sent the batch -> item type -> items
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
        """Add the items of a batch; data without a list of them is one item."""
        items = find(event.data, ITEMS)
        self.add_items(items if isinstance(items, list) else [event.data], source=event.source)

    def add_items(self, items: list[Any], *, source: str) -> None:
        """Add items, however they came and whatever they call themselves."""
        counts = self.sources[source if source in self.sources or len(self.sources) < MAX_NAMES else BEYOND]
        for item in items:
            try:
                name = item["eventType"]
            except (KeyError, TypeError):
                name = None
            counts[name if name.__class__ is str else name_of(item, ITEM_NAMES)] += 1
        _bound(counts)

    def metric(self, event: Event) -> None:
        """Add one metric."""
        metrics, data = self.metrics, event.data
        try:
            name = data["name"]
        except KeyError:
            name = None
        metrics[name if name.__class__ is str else name_of(data, METRIC_NAMES)] += 1
        if len(metrics) > MAX_NAMES:  # checked here and not in a function: the lab measures its own speed by this handler
            _bound(metrics)

    def usage(self, event: Event) -> None:
        """Add one use of an AI provider."""
        provider, tokens = event.data.get("providerId"), event.data.get("tokens")
        if provider.__class__ is not str or tokens.__class__ is not int or tokens >= MAX_NUMBER:
            provider, tokens = name_of(event.data, PROVIDERS), number_in(event.data, TOKENS)
        self.tokens[provider] += tokens
        self.uses[provider] += 1
        _bound(self.tokens)
        _bound(self.uses)

    def cache_invalidated(self, event: Event) -> None:
        """Drop cached reports that match the event's pattern."""
        self.reports.drop(event.data.get("pattern"))
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
            "providers": {label_of(name): {"uses": uses, "tokens": self.tokens[name]} for name, uses in self.uses.items()},
        }


def _counts() -> Counts:
    return defaultdict(int)


def _by_name(counts: Counts) -> dict[str, int]:
    """Return the counts in the order of their labels, as another program may have sent anything as a name."""
    return dict(sorted((label_of(name), count) for name, count in counts.items()))


def _bound(counts: Counts) -> None:
    """Move the newest names beyond the limit into one."""
    if len(counts) > MAX_NAMES:
        newest = [counts.popitem()[1] for _ in range(len(counts) - MAX_NAMES)]  # `BEYOND` is among them once it is there
        counts[BEYOND] = sum(newest)
