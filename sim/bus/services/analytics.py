"""analytics-service: adds up what the other services record, and answers queries about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from sim.bus.cache import LruCache
from sim.bus.envelope import Event
from sim.bus.foreign_data import BEYOND, ITEM_NAMES, ITEMS, MAX_NUMBER, METRIC_NAMES, PROVIDERS, TOKENS, find, label_of, name_of, number_in

MAX_NAMES = 1000  # of item types of a source, metrics, providers and sources each: names come from outside

# By name, as `sim.bus.foreign_data.name_of` gives it. What JSON calls a name is a key here only where it is text, and was asked about when
# it was new: a handler may look at once whether a name is there, which is what the lab measures its own speed by.
Counts = dict[Hashable, Any]


class AnalyticsService:
    """Counts of items by type, metrics by name and tokens by provider. Nothing is deduplicated, as in the reference."""

    def __init__(self) -> None:
        self.sources: dict[Hashable, Counts] = {}  # service that sent the batch -> item type -> items
        self.metrics: Counts = {}
        self.tokens: Counts = {}  # of the same providers as `uses`
        self.uses: Counts = {}
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
        return dict(sum(map(Counter, self.sources.values()), Counter()))

    def batch(self, event: Event) -> None:
        """Add the items of a batch; data without a list of them is one item."""
        items = find(event.data, ITEMS)
        self.add_items(items if isinstance(items, list) else [event.data], source=event.source)

    def add_items(self, items: list[Any], *, source: str) -> None:
        """Add items, however they came and whatever they call themselves."""
        counts = self.sources.get(source)
        if counts is None:
            counts = self.sources.setdefault(_key_in(self.sources, source), {})
        for item in items:
            try:
                counts[item["eventType"]] += 1
            except (KeyError, TypeError):
                _add(counts, name_of(item, ITEM_NAMES), 1)

    def metric(self, event: Event) -> None:
        """Add one metric."""
        try:
            self.metrics[event.data["name"]] += 1
        except (KeyError, TypeError):
            _add(self.metrics, name_of(event.data, METRIC_NAMES), 1)

    def usage(self, event: Event) -> None:
        """Add one use of an AI provider."""
        data = event.data
        tokens = data.get("tokens")
        if tokens.__class__ is not int or not -MAX_NUMBER < tokens < MAX_NUMBER:
            tokens = number_in(data, TOKENS)
        try:
            provider = data["providerId"]
            self.uses[provider] += 1
            self.tokens[provider] += tokens
        except (KeyError, TypeError):
            provider = name_of(data, PROVIDERS)
            _add(self.uses, provider, 1)
            _add(self.tokens, provider, tokens)

    def cache_invalidated(self, event: Event) -> None:
        """Drop cached reports that match the event's pattern."""
        self.reports.drop(event.data.get("pattern"))
        self.invalidations += 1

    def music_analytics(self) -> dict[str, Any]:
        """Answer getMusicAnalytics: the items that music-service recorded, by type."""
        items = self.sources.get("music-service", {})
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


def _key_in(counts: Mapping[Hashable, Any], name: Hashable) -> Hashable:
    """Return the key under which a name is counted: its own, or `BEYOND` where it is one too many."""
    return name if name in counts or len(counts) < MAX_NAMES else BEYOND


def _add(counts: Counts, name: Hashable, amount: Any) -> None:
    """Add to the count of a name, which may be new."""
    key = _key_in(counts, name)
    counts[key] = counts.get(key, 0) + amount


def _by_name(counts: Counts) -> dict[str, int]:
    """Return the counts in the order of their labels, as another program may have sent anything as a name."""
    return dict(sorted((label_of(name), count) for name, count in counts.items()))
