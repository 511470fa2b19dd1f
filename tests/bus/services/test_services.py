"""The contract that every service keeps, and what each does beyond it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.bus.cache import LruCache, subject_of
from sim.bus.envelope import EVENT_TYPES, Event
from sim.bus.foreign_data import BEYOND, MAX_NUMBER, UNNAMED
from sim.bus.services.analytics import MAX_NAMES, AnalyticsService
from sim.bus.services.hears import Hears
from sim.bus.services.system import SystemService
from sim.scenario.file import load_scenario
from tests.support.reference import SERVICES, content

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


def test_a_service_that_only_hears_has_no_handlers() -> None:
    one, other = Hears(), Hears()
    assert (one.handlers, one.invalidations) == ({}, 0) and one.handlers is not other.handlers


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


def test_a_service_is_fresh_with_its_caches_of_the_reference_s_sizes() -> None:
    limits = {
        name: {cache: one.limit for holder in (logic, getattr(logic, "config", None)) if holder for cache, one in caches_of(holder).items()}
        for name, make in SERVICES.items()
        for logic in (make(),)
    }
    config = {"templates": 500, "providers": 500}
    assert limits == {
        "music-service": config,
        "analytics-service": {"reports": 500},
        "ai-config-service": config,
        "ai-content-service": config,
        "system-service": {"latest": 1000, "settings": 500},
        "api-gateway": {"responses": 500},
    }
    assert {make().invalidations for make in SERVICES.values()} == {0}


def caches_of(holder: Any) -> dict[str, LruCache[Any, Any]]:
    return {name: cache for name, cache in vars(holder).items() if isinstance(cache, LruCache)}


def test_analytics_answers_its_queries_by_kind_and_in_the_order_of_names() -> None:
    analytics = AnalyticsService()
    assert analytics.music_analytics() == {"events": 0, "byType": {}}
    assert analytics.system_analytics() == {"events": 0, "byType": {}, "metrics": {}, "providers": {}}
    heard: list[tuple[str, dict[str, Any], str]] = [
        (
            EVENT_TYPES[0],
            {"events": [{"eventType": "played"}, {"eventType": "liked"}, {"eventType": "played"}, {}, "skipped"]},
            "music-service",
        ),
        (EVENT_TYPES[0], {"eventType": "played"}, "api-gateway"),
        (EVENT_TYPES[0], {"events": {"type": "no list"}, "name": "whole"}, "api-gateway"),
        (EVENT_TYPES[1], {"name": "latency", "value": 3}, "test"),
        (EVENT_TYPES[1], {"name": 7}, "test"),
        (EVENT_TYPES[2], {"providerId": "openai", "tokens": 3}, "test"),
        (EVENT_TYPES[2], {"providerId": "openai", "tokens": 4}, "test"),
        (EVENT_TYPES[2], {"providerId": "openai", "tokens": MAX_NUMBER - 1}, "test"),
        (EVENT_TYPES[2], {"providerId": "openai", "tokens": MAX_NUMBER, "totalTokens": 5}, "test"),
        (EVENT_TYPES[2], {"providerId": "openai", "tokens": -MAX_NUMBER, "totalTokens": 6}, "test"),
        (EVENT_TYPES[2], {"providerId": "openai", "tokens": True, "totalTokens": 7}, "test"),
        (EVENT_TYPES[2], {"providerId": "openai", "tokens": -3}, "test"),
        (EVENT_TYPES[2], {"providerId": "free"}, "test"),
        (EVENT_TYPES[2], {"tokens": 2}, "test"),
    ]
    for kind, data, source in heard:
        analytics.handlers[kind](event(kind, data, source=source))
    by_type = {"(unnamed)": 1, "liked": 1, "played": 2, "skipped": 1}
    assert list(analytics.music_analytics()["byType"].items()) == list(by_type.items())
    assert analytics.music_analytics() == {"events": 5, "byType": by_type}
    assert analytics.system_analytics() == {
        "events": 7,
        "byType": by_type | {"played": 3, "whole": 1},
        "metrics": {"7 (number)": 1, "latency": 1},
        "providers": {
            "openai": {"uses": 7, "tokens": 3 + 4 + MAX_NUMBER - 1 + 5 + 6 + 7 - 3},
            "free": {"uses": 1, "tokens": 0},
            "(unnamed)": {"uses": 1, "tokens": 2},
        },
    }


def test_names_beyond_the_limit_are_counted_together_and_those_within_it_go_on() -> None:
    analytics = AnalyticsService()
    handle, within, beyond = analytics.handlers, [f"name {n}" for n in range(MAX_NAMES)], [f"other {n}" for n in range(3)]
    for _ in range(2):
        for name in [*within, *beyond]:
            handle[EVENT_TYPES[0]](event(EVENT_TYPES[0], {"events": [{"eventType": name}]}))
            handle[EVENT_TYPES[1]](event(EVENT_TYPES[1], {"name": name}))
            handle[EVENT_TYPES[2]](event(EVENT_TYPES[2], {"providerId": name, "tokens": 5}))
    counts = dict.fromkeys(within, 2) | {BEYOND: 6}
    assert (analytics.items, analytics.metrics, analytics.uses) == (counts, counts, counts)
    assert analytics.tokens == {name: 5 * many for name, many in counts.items()}


def test_sources_beyond_the_limit_are_counted_together() -> None:
    analytics = AnalyticsService()
    sources = [f"service {n}" for n in range(MAX_NAMES + 3)]
    for source in [*sources, *sources]:
        analytics.add_items([{"eventType": "played"}], source=source)
    assert {source: dict(counts) for source, counts in analytics.sources.items()} == {
        **{key: {"played": 2} for key in sources[:MAX_NAMES]},
        BEYOND: {"played": 6},
    }


@pytest.mark.parametrize(
    ("data", "key", "value"),
    [
        ({"name": "latency", "value": 7, "metricName": "other"}, "latency", 7),
        ({"name": "latency", "value": 0}, "latency", 0),
        ({"metricName": "latency", "value": 7}, "latency", 7),
        ({"name": "latency", "value": None, "metricValue": 3}, "latency", 3),
        ({"name": "latency"}, "latency", None),
        ({"name": 7, "value": "x"}, ("number", "7"), "x"),
        ({}, UNNAMED, None),
    ],
)
def test_system_stores_the_value_of_a_metric_under_its_name(data: dict[str, Any], key: object, value: Any) -> None:
    system = SystemService()
    system.handlers[EVENT_TYPES[1]](event(EVENT_TYPES[1], data))
    assert system.latest.entries() == [(key, value)]


@pytest.mark.parametrize(
    ("name", "cache"), [("analytics-service", "reports"), ("system-service", "settings"), ("api-gateway", "responses")]
)
def test_a_cache_invalidation_drops_what_matches_its_pattern_each_time_that_it_comes(name: str, cache: str) -> None:
    logic: Any = SERVICES[name]()
    held = getattr(logic, cache)
    for key in ("a:1", "a:2", "b:1"):
        held.put(key, key)
    for pattern in ("a:*", "b:2"):
        logic.handlers[EVENT_TYPES[5]](event(EVENT_TYPES[5], {"pattern": pattern}))
    assert (held.entries(), logic.invalidations) == ([("b:1", "b:1")], 2)


def test_as_many_names_as_there_may_be_are_counted_one_by_one_and_no_name_is_taken_for_those_beyond() -> None:
    analytics = AnalyticsService()
    names = ["(others)", *(f"name {n}" for n in range(MAX_NAMES - 1))]
    for name in names:
        analytics.handlers[EVENT_TYPES[0]](event(EVENT_TYPES[0], {"events": [{"eventType": name}]}))
        analytics.handlers[EVENT_TYPES[1]](event(EVENT_TYPES[1], {"name": name}))
    assert analytics.items == analytics.metrics == dict.fromkeys(names, 1)
    for _ in range(2):
        analytics.handlers[EVENT_TYPES[1]](event(EVENT_TYPES[1], {"name": "one more"}))
    shown = analytics.system_analytics()["metrics"]
    assert (shown['"(others)"'], shown["(others)"], len(shown)) == (1, 2, MAX_NAMES + 1), "what an event is called stands in quotes"


def test_a_name_that_is_known_is_counted_without_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lab measures its own speed by these handlers."""
    analytics, system = AnalyticsService(), SystemService()

    def handle_one_of_each() -> None:
        for kind in EVENT_TYPES[:3]:
            analytics.handlers[kind](event(kind, data_of(kind)))
        system.handlers[EVENT_TYPES[1]](event(EVENT_TYPES[1], data_of(EVENT_TYPES[1])))

    handle_one_of_each()
    for searched in ("analytics.name_of", "analytics.number_in", "analytics._add", "system.name_of", "system.find"):
        monkeypatch.setattr(f"sim.bus.services.{searched}", None)
    handle_one_of_each()
    learned = (analytics.items, analytics.metrics, analytics.tokens, system.latest.entries())
    assert learned == ({"track.played": 4}, {"request.duration": 2}, {"prov_1": 202}, [("request.duration", 1)])
