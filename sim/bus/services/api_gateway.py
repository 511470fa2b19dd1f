"""api-gateway: caches responses, and drops them on a general cache invalidation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sim.bus.cache import LruCache
from sim.bus.envelope import Event


class ApiGateway:
    """Cached responses by cache key."""

    def __init__(self) -> None:
        self.invalidations = 0
        self.responses: LruCache[str, Any] = LruCache(500)
        self.handlers: dict[str, Callable[[Event], None]] = {"config.cache.invalidate": self.cache_invalidated}

    def cache_invalidated(self, event: Event) -> None:
        """Drop every response whose key matches the event's pattern."""
        self.responses.drop(event.data.get("pattern"))
        self.invalidations += 1
