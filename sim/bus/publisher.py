"""What an application calls: the reference's names, and the event type and data that each stands for.

Rules
-----
1. Fire and forget: no call raises, whatever it is given. What cannot be encoded is dropped and counted as a publish error.
2. The names are written here once; a driver only says how calls are carried out (`call_all`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from sim.bus.envelope import BATCH


class EventPublisher(ABC):
    """The calls of an application, the same in every driver of the bus.

    `intended_ns` is when a schedule meant the call to be made; without it, now.
    """

    @abstractmethod
    def call_all(self, kind: str, contents: Iterable[dict[str, Any]], *, intended_ns: int | None = None) -> None:
        """Make one call that carries several contents of one event type. It never raises."""

    def record_event(self, item: dict[str, Any], *, intended_ns: int | None = None) -> None:
        """Queue one analytics item for the next batch."""
        self.call_all(BATCH, (item,), intended_ns=intended_ns)

    def record_events(self, items: Iterable[dict[str, Any]], *, intended_ns: int | None = None) -> None:
        """Queue analytics items, in their order; an item that cannot be encoded does not take the others with it."""
        self.call_all(BATCH, items, intended_ns=intended_ns)

    def record_metric(
        self, name: str, value: float, *, unit: str = "", tags: dict[str, str] | None = None, intended_ns: int | None = None
    ) -> None:
        """Publish one metric."""
        data = {"name": name, "value": value, "unit": unit, "tags": {} if tags is None else tags}
        self.call_all("analytics.metric.recorded", (data,), intended_ns=intended_ns)

    def record_provider_usage(
        self, provider_id: str, tokens: int, *, model: str = "", cost_usd: float = 0.0, intended_ns: int | None = None
    ) -> None:
        """Publish one use of an AI provider."""
        data = {"providerId": provider_id, "model": model, "tokens": tokens, "costUsd": cost_usd}
        self.call_all("analytics.provider.usage", (data,), intended_ns=intended_ns)

    def invalidate_template(self, template_id: str, *, reason: str = "updated", intended_ns: int | None = None) -> None:
        """Tell every subscriber to drop a prompt template."""
        self.call_all("config.template.invalidated", ({"templateId": template_id, "reason": reason},), intended_ns=intended_ns)

    def invalidate_provider(self, provider_id: str, *, reason: str = "updated", intended_ns: int | None = None) -> None:
        """Tell every subscriber to drop a provider's configuration."""
        self.call_all("config.provider.invalidated", ({"providerId": provider_id, "reason": reason},), intended_ns=intended_ns)

    def invalidate_cache(self, pattern: str, *, intended_ns: int | None = None) -> None:
        """Tell every subscriber to drop what matches a glob pattern."""
        self.call_all("config.cache.invalidate", ({"pattern": pattern},), intended_ns=intended_ns)
