"""The reference's eight metrics: read from plain counters when Prometheus asks, so counting costs a delivery nothing.

Rules
-----
1. The names are the reference's, letter by letter, with the service in it; a metric name allows no ``-``, so it becomes ``_``. Of another
   bus they begin with its own word instead of ``aiponge`` (`metric_start`).
2. `analytics_events_queued_total` is a gauge although its name ends as a counter's does: so says the reference.
3. The text is Prometheus' format 0.0.4. OpenMetrics would forbid rule 2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
COUNTER, GAUGE = "counter", "gauge"
PREFIX = "aiponge"

# field of `BusCounts` -> type, description; the reference's metric is `aiponge_<service>_<field>`
METRICS: dict[str, tuple[str, str]] = {
    "event_bus_events_published_total": (COUNTER, "Events published via event bus"),
    "event_bus_events_received_total": (COUNTER, "Events received via subscriptions"),
    "event_bus_publish_errors_total": (COUNTER, "Failed publish attempts"),
    "event_bus_subscribe_errors_total": (COUNTER, "Failed subscription handling"),
    "event_bus_connection_status": (GAUGE, "1 if connected, 0 if not"),
    "analytics_events_queued_total": (GAUGE, "Pending events in queue"),
    "analytics_events_published_total": (COUNTER, "Analytics events published"),
    "config_cache_invalidations_total": (COUNTER, "Cache invalidations processed"),
}


@dataclass(frozen=True, slots=True)
class BusCounts:
    """The counts of one pod's bus since it started.

    Attributes
    ----------
    event_bus_events_published_total
        Events that the broker took, or in memory mode the pod itself.
    event_bus_events_received_total
        Events heard, whatever their handler did.
    event_bus_publish_errors_total
        Events that were refused, dropped, or sent without an answer.
    event_bus_subscribe_errors_total
        Handlers that raised, and payloads that were no event.
    analytics_events_queued_total, analytics_events_published_total
        What the applications recorded, one for each item of a batch.
    config_cache_invalidations_total
        Invalidations of any of the three types that were carried out.
    """

    event_bus_events_published_total: int = 0
    event_bus_events_received_total: int = 0
    event_bus_publish_errors_total: int = 0
    event_bus_subscribe_errors_total: int = 0
    event_bus_connection_status: int = 0
    analytics_events_queued_total: int = 0
    analytics_events_published_total: int = 0
    config_cache_invalidations_total: int = 0


class Metrics:
    """The metrics that one service shows at ``GET /metrics``."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.registry = CollectorRegistry()

    def text(self) -> bytes:
        """Return everything registered, read now, in Prometheus' text format."""
        return generate_latest(self.registry)


def create_metrics(service: str) -> Metrics:
    """Return a service's metrics, still empty."""
    return Metrics(service)


def register_event_bus_metrics(service: str, metrics: Metrics, read: Callable[[], BusCounts] = BusCounts, *, prefix: str = PREFIX) -> None:
    """Show a pod's counts among a service's metrics.

    Parameters
    ----------
    read
        Called at each scrape. Without it all counts stay zero, as before a pod's start.
    prefix
        The bus' own word, which the names begin with.
    """
    metrics.registry.register(_EventBusCollector(metric_start(service, prefix=prefix), read))


def register_refusals(metrics: Metrics, read: Callable[[], dict[int, int]]) -> None:
    """Show how often the HTTP server refused, by status code; 0 stands for a connection closed without an answer."""
    metrics.registry.register(_RefusalCollector(read))


def metric_name(service: str, field: str) -> str:
    """Return the whole name of one of the reference's metrics."""
    return f"{metric_start(service)}_{field}"


def metric_start(service: str, *, prefix: str = PREFIX) -> str:
    """Return what the names of a service's metrics begin with.

    A name may hold little: of ASCII, what it may not hold becomes ``_``; any other character becomes its number, ``_u4ef7_``, so that two
    services of one length stay two. A digit may not stand first.
    """
    name = re.sub(r"[^\x00-\x7f]", lambda found: f"_u{ord(found[0]):x}_", f"{prefix}_{service}" if prefix else service)
    name = re.sub(r"[^a-zA-Z0-9_]", "_", name)
    return f"_{name}" if name[0].isdigit() else name


class _EventBusCollector:
    def __init__(self, start: str, read: Callable[[], BusCounts]) -> None:
        self._start = start
        self._read = read

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        counts = self._read()
        for field, (kind, description) in METRICS.items():
            family = CounterMetricFamily if kind == COUNTER else GaugeMetricFamily
            yield family(f"{self._start}_{field}", description, value=getattr(counts, field))


class _RefusalCollector:
    def __init__(self, read: Callable[[], dict[int, int]]) -> None:
        self._read = read

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily("buslab_http_refused", "HTTP requests and connections refused", labels=["status"])
        for status, count in sorted(self._read().items()):
            family.add_metric([str(status)], count)
        yield family
