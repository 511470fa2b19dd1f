"""A least-recently-used cache, as the reference's config subscribers keep their templates."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from fnmatch import fnmatchcase
from typing import Any, Generic, TypeVar

from sim.bus.envelope import Event

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """Keep at most `limit` entries; the one unused for longest leaves first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """Return the entry and mark it as used, or None."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key]

    def put(self, key: K, value: V) -> None:
        """Add or replace an entry; the oldest leaves when there are too many."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self.limit:
            self._entries.popitem(last=False)

    def delete(self, key: K) -> bool:
        """Remove an entry and say whether it was there; removing a missing one is no error."""
        return self._entries.pop(key, None) is not None

    def delete_matching(self, pattern: str) -> int:
        """Remove the entries whose key matches a glob pattern (`*` matches anything) and return how many."""
        gone = [key for key in self._entries if fnmatchcase(str(key), pattern)]
        for key in gone:
            del self._entries[key]
        return len(gone)


class ConfigSubscriber:
    """Keep a service's copies of configuration, and drop them when an event says so (the reference's ConfigEventSubscriber).

    Every handler is idempotent: dropping what is not there changes nothing. An event without the expected field is an error.
    """

    def __init__(self, *, limit: int = 500) -> None:
        self.templates: LruCache[str, Any] = LruCache(limit)
        self.providers: LruCache[str, Any] = LruCache(limit)
        self.invalidations = 0

    def handlers(self) -> dict[str, Callable[[Event], None]]:
        """Return event type -> handler."""
        return {
            "config.template.invalidated": self.template_invalidated,
            "config.provider.invalidated": self.provider_invalidated,
            "config.cache.invalidate": self.cache_invalidated,
        }

    def template_invalidated(self, event: Event) -> None:
        """Drop one template."""
        self.templates.delete(event.data["templateId"])
        self.invalidations += 1

    def provider_invalidated(self, event: Event) -> None:
        """Drop one provider's configuration."""
        self.providers.delete(event.data["providerId"])
        self.invalidations += 1

    def cache_invalidated(self, event: Event) -> None:
        """Drop every entry that matches the event's pattern."""
        pattern = event.data["pattern"]
        self.templates.delete_matching(pattern)
        self.providers.delete_matching(pattern)
        self.invalidations += 1
