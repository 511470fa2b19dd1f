"""The contract that every service keeps, and what each does beyond it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.bus.cache import LruCache, subject_of
from sim.bus.envelope import EVENT_TYPES, Event
from sim.bus.services import SERVICES
from sim.bus.services.analytics import AnalyticsService
from sim.bus.services.system import SystemService
from sim.scenario.file import load_scenario
from sim.scenario.schedule import content

HANDLED = [(name, kind) for name, make in SERVICES.items() for kind in make().handlers]


def event(kind: str, data: dict[str, Any], *, source: str = "test") -> Event:
    return Event("evt_1", "", kind, "1.0", "", source, data)


def data_of(kind: str, number: int = 1) -> dict[str, Any]:
    item = content(kind, number, 8)
    return {"events": [item, item]} if kind == EVENT_TYPES[0] else item


@pytest.mark.parametrize(("name", "kind"), HANDLED)
def test_a_service_takes_what_the_load_sends(name: str, kind: str) -> None:
    SERVICES[name]().handlers[kind](event(kind, data_of(kind)))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_handles_what_the_baseline_subscribes_it_to_and_nothing_unknown(name: str) -> None:
    handled = SERVICES[name]().handlers
    assert set(load_scenario("baseline").services[name].subscribes) <= set(handled) <= set(EVENT_TYPES)


@pytest.mark.parametrize("name", SERVICES)
def test_pods_of_a_service_share_nothing(name: str) -> None:
    first, second = SERVICES[name](), SERVICES[name]()
    untouched = repr(vars_of(second))
    for kind, handle in first.handlers.items():
        handle(event(kind, data_of(kind)))
    assert repr(vars_of(second)) == untouched


def vars_of(logic: Any) -> dict[str, Any]:
    """What a pod has learned: its counters and caches, not its bound methods."""
    learned = {}
    for name, value in vars(logic).items():
        if name != "handlers":
            learned[name] = vars_of(value) if hasattr(value, "__dict__") and not isinstance(value, dict) else repr(value)
    return learned


CONFIG = [(name, kind) for name, kind in HANDLED if kind.startswith("config.")]


@pytest.mark.parametrize(("name", "kind"), CONFIG)
def test_a_config_event_that_comes_twice_leaves_the_same_caches(name: str, kind: str) -> None:
    logic: Any = SERVICES[name]()
    holders = [holder for holder in (logic, getattr(logic, "config", None)) if holder]
    caches = [cache for holder in holders for cache in vars(holder).values() if isinstance(cache, LruCache)]
    named = subject_of(kind, data_of(kind))
    for cache in caches:
        cache.put(named, 1)
        cache.put("another", 2)
    logic.handlers[kind](event(kind, data_of(kind)))
    once = [list(cache._entries) for cache in caches]
    logic.handlers[kind](event(kind, data_of(kind)))
    assert [list(cache._entries) for cache in caches] == once
    assert ["another"] in once, "what it names is dropped, in the cache that it is about"
    assert all("another" in entries for entries in once)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda v: st.lists(v, max_size=3), max_leaves=4
)
names = st.sampled_from(
    [
        "events",
        "items",
        "name",
        "metricName",
        "value",
        "providerId",
        "provider",
        "tokens",
        "totalTokens",
        "templateId",
        "pattern",
        "eventType",
    ]
)


@pytest.mark.parametrize(("name", "kind"), HANDLED)
@given(data=st.dictionaries(names, values, max_size=4))
def test_data_of_any_kind_is_handled_and_counted(name: str, kind: str, data: dict[str, Any]) -> None:
    """The reference fixes no shape of it: whatever another program publishes was heard and handled."""
    logic: Any = SERVICES[name]()
    logic.handlers[kind](event(kind, data))
    counted = [logic.invalidations]
    if name == "analytics-service":
        counted += [sum(logic.items.values()), sum(logic.metrics.values()), sum(logic.uses.values())]
        json.dumps(logic.system_analytics(), allow_nan=False)
    if name == "system-service":
        counted.append(len(logic.latest))
    items = next((data[field] for field in ("events", "items") if data.get(field) is not None), None)
    assert sum(counted) == (len(items) if kind == EVENT_TYPES[0] and isinstance(items, list) else 1)


FOREIGN = [
    (EVENT_TYPES[1], {"metricName": "latency", "metricValue": 7}),
    (EVENT_TYPES[2], {"providerId": "openai", "operation": "chat", "totalTokens": 9, "success": True}),
    (EVENT_TYPES[2], {"provider": "openai", "cost": 0.1}),
    (EVENT_TYPES[0], {"events": [{"type": "track.played"}, {"eventType": "track.played", "userId": None}]}),
    (EVENT_TYPES[0], {"items": [{"event": "track.played"}]}),
]


@pytest.mark.parametrize(("kind", "data"), FOREIGN)
def test_what_another_program_writes_counts_under_the_name_that_it_has(kind: str, data: dict[str, Any]) -> None:
    analytics = AnalyticsService()
    analytics.handlers[kind](event(kind, data))
    assert set(analytics.items) | set(analytics.metrics) | set(analytics.uses) <= {"track.played", "latency", "openai"}
    assert analytics.tokens.get("openai", 0) == data.get("totalTokens", 0)
    system = SystemService()
    system.handlers["analytics.metric.recorded"](event("analytics.metric.recorded", {"metricName": "latency", "metricValue": 7}))
    assert system.latest.get("latency") == 7


@pytest.mark.parametrize(("name", "kind"), CONFIG)
@pytest.mark.parametrize("data", [{}, {"templateId": None, "providerId": None, "pattern": None}, {"pattern": ["a"], "reason": "x"}])
def test_an_invalidation_that_names_nothing_drops_all_where_it_is_general_and_nothing_else(
    name: str, kind: str, data: dict[str, Any]
) -> None:
    logic: Any = SERVICES[name]()
    holders = [holder for holder in (logic, getattr(logic, "config", None)) if holder]
    caches = {cache: one for holder in holders for cache, one in vars(holder).items() if isinstance(one, LruCache)}
    for one in caches.values():
        one.put("aiponge:cache:templates:t", 1)
    logic.handlers[kind](event(kind, data))
    assert logic.invalidations == 1
    assert {cache for cache, one in caches.items() if not len(one)} == (set(caches) - {"latest"} if kind == EVENT_TYPES[5] else set())


def test_analytics_adds_up_items_metrics_and_tokens() -> None:
    analytics = AnalyticsService()
    for kind in EVENT_TYPES[:3]:
        for number in (1, 2):
            analytics.handlers[kind](event(kind, data_of(kind, number)))
    assert analytics.items == {"track.played": 4}
    assert analytics.metrics == {"request.duration": 2}
    assert analytics.tokens == {"prov_1": 101, "prov_2": 102}


def test_system_keeps_the_latest_value_of_a_metric() -> None:
    system = SystemService()
    for number in (1, 2):
        system.handlers["analytics.metric.recorded"](event("analytics.metric.recorded", data_of("analytics.metric.recorded", number)))
    assert system.latest.get("request.duration") == 2
