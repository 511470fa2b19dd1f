"""A least-recently-used cache, as the reference's config subscribers keep their templates.

A cache key is a full name, ``aiponge:cache:templates:<id>`` or ``aiponge:cache:providers:<id>``, so that the patterns of the
reference's admin API (``aiponge:*:templates:*``) match it.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Hashable
from fnmatch import translate
from typing import Any, Generic, TypeVar

from sim.bus.envelope import Event

TEMPLATES = "aiponge:cache:templates:"
PROVIDERS = "aiponge:cache:providers:"
CACHE_SIZE = 500  # entries, as in the reference
MAX_SUBJECT = 200  # characters of a subject that are recorded

# event type -> the field that names what it is about, and what stands before that in a key
_NAMED = {
    "config.template.invalidated": ("templateId", TEMPLATES),
    "config.provider.invalidated": ("providerId", PROVIDERS),
    "config.cache.invalidate": ("pattern", ""),
}
NAMING = tuple(_NAMED)  # event types of the reference that name what they are about
_GLOB = re.compile(r"[*?\[]")

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """A map of at most `limit` entries; when it is full, the one unused for longest leaves."""

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

    def entries(self) -> list[tuple[K, V]]:
        """Return every entry, the one unused for longest first."""
        return list(self._entries.items())

    def delete_matching(self, pattern: str) -> int:
        """Remove the entries whose key matches a glob pattern (`*` matches anything) and return how many."""
        matches = re.compile(translate(pattern)).match
        gone = [key for key in self._entries if matches(str(key))]
        for key in gone:
            del self._entries[key]
        return len(gone)

    def drop(self, pattern: object) -> int:
        """Remove what an invalidation names and return how many; one that names nothing means all: a stale copy would be the worse error.

        A pattern without a wildcard is looked up, not searched for.
        """
        if isinstance(pattern, str):
            return self.delete_matching(pattern) if _GLOB.search(pattern) else int(self.delete(pattern))  # type: ignore[arg-type]
        dropped = len(self._entries)
        self._entries.clear()
        return dropped


def subject_of(kind: str, data: dict[str, Any]) -> str:
    """Return what an invalidation is about: the cache key or pattern that it names; empty for any other event."""
    naming = _NAMED.get(kind)
    if naming is None:
        return ""
    field, prefix = naming
    named = data.get(field)
    return "" if named is None else f"{prefix}{named}"[:MAX_SUBJECT]


def read_through(copies: LruCache[str, int], key: str, *, now_ns: int) -> tuple[int, bool]:
    """Return when the copy was loaded that a cache serves, and whether it was there; one that was not is loaded now."""
    loaded_ns = copies.get(key)
    if loaded_ns is not None:
        return loaded_ns, True
    copies.put(key, now_ns)
    return now_ns, False


class ConfigSubscriber:
    """A service's copies of configuration, dropped when an event says so (the reference's ConfigEventSubscriber).

    Every handler is idempotent: dropping what is not there changes nothing. An event that names no template or provider drops none, as the
    reference's `delete(undefined)` does; a cache invalidation without a pattern drops all.
    A copy is represented by the time at which it was loaded from the database: that is all that decides whether it is stale.
    While it does not serve, every read goes to the database and nothing is kept.
    """

    def __init__(self, *, limit: int = CACHE_SIZE) -> None:
        self.templates: LruCache[str, int] = LruCache(limit)
        self.providers: LruCache[str, int] = LruCache(limit)
        self.invalidations = 0
        self.serves = True

    def handlers(self) -> dict[str, Callable[[Event], None]]:
        """Return event type -> handler."""
        return {
            "config.template.invalidated": self.template_invalidated,
            "config.provider.invalidated": self.provider_invalidated,
            "config.cache.invalidate": self.cache_invalidated,
        }

    def read(self, key: str, *, now_ns: int) -> tuple[int, bool]:
        """Return when the served copy was loaded, and whether it was in the cache; one that was not is loaded now."""
        if not self.serves:
            return now_ns, False
        return read_through(self.providers if key.startswith(PROVIDERS) else self.templates, key, now_ns=now_ns)

    def forget(self) -> None:
        """Drop every copy, because nobody knows what was missed while nobody listened. It does not count as an invalidation."""
        self.templates, self.providers = LruCache(self.templates.limit), LruCache(self.providers.limit)

    def template_invalidated(self, event: Event) -> None:
        """Drop one template."""
        if (named := event.data.get("templateId")) is not None:
            self.templates.delete(f"{TEMPLATES}{named}")
        self.invalidations += 1

    def provider_invalidated(self, event: Event) -> None:
        """Drop one provider's configuration."""
        if (named := event.data.get("providerId")) is not None:
            self.providers.delete(f"{PROVIDERS}{named}")
        self.invalidations += 1

    def cache_invalidated(self, event: Event) -> None:
        """Drop every entry that matches the event's pattern."""
        pattern = event.data.get("pattern")
        for cache in (self.templates, self.providers):
            cache.drop(pattern)
        self.invalidations += 1
