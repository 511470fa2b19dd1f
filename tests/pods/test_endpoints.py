"""What a pod answers, without a socket: health, the admin API, the analytics queries."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.bus.envelope import EVENT_TYPES, Event
from sim.bus.fallback import HEARING, SPEAKING
from sim.bus.foreign_data import BEYOND
from sim.bus.metrics import create_metrics
from sim.machine.http_server import HttpAnswer, Refusal, Request
from sim.pods.endpoints import MAX_ITEMS, MAX_PATTERN, endpoints, readiness
from tests.support.reference import SERVICES

TOKEN = "sécret"
GOOD = {b"authorization": b"Bearer " + TOKEN.encode()}
CLEAR = "/api/admin/cache/clear"


class Bus:
    """What the endpoints see of a pod."""

    def __init__(self, service: str = "api-gateway", state: str = "connected") -> None:
        self.service = service
        self.logic: Any = SERVICES[service]()
        self.state = state
        self.calls: list[tuple[str, dict[str, Any]]] = []

    @property
    def fallback(self) -> Bus:
        return self

    @property
    def connected(self) -> bool:
        return self.state == "connected"

    def ask(self, method: str, path: str, body: bytes = b"", headers: dict[bytes, bytes] | None = None, token: str = TOKEN) -> HttpAnswer:
        routes = endpoints(self, create_metrics("x"), call=lambda kind, data: self.calls.append((kind, data)), admin_token=token)  # type: ignore[arg-type]
        try:
            return routes[path][method](Request(method, path, GOOD if headers is None else headers, body))
        except Refusal as refusal:
            return refusal.answer


@pytest.mark.parametrize(
    ("state", "status", "connected", "redis_enabled"),
    [
        ("connected", 200, True, True),
        ("memory-only", 200, False, False),
        ("connecting", 503, False, False),
        ("outage", 503, False, False),
        ("deaf", 503, False, True),
        ("mute", 503, False, True),
        ("stopped", 503, False, False),
    ],
)
def test_readiness_is_the_reference_s_json(state: str, status: int, connected: bool, redis_enabled: bool) -> None:
    answer = readiness(Bus(state=state))  # type: ignore[arg-type]
    assert answer.status == status
    expected = {"ready": status == 200, "checks": {"eventBus": {"connected": connected, "redisEnabled": redis_enabled}}}
    assert answer.body == json.dumps(expected, separators=(",", ":")).encode()
    assert redis_enabled == (state in HEARING or state in SPEAKING)


def test_a_pod_is_alive_whatever_its_bus_is() -> None:
    assert Bus(state="outage").ask("GET", "/health/live").status == 200


def test_a_cache_clear_is_published_and_accepted() -> None:
    bus = Bus()
    answer = bus.ask("POST", CLEAR, b'{"pattern": "aiponge:*:templates:*"}')
    assert (answer.status, bus.calls) == (202, [("config.cache.invalidate", {"pattern": "aiponge:*:templates:*"})])
    assert json.loads(answer.body)["pattern"] == "aiponge:*:templates:*"


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        (b"", 401),
        (b"Bearer", 401),
        (b"Bearer ", 401),
        (b"Basic c2VjcmV0", 401),
        (TOKEN.encode(), 401),
        (b"Bearer one two", 401),
        (b"Bearer wrong", 403),
        (b"Bearer " + TOKEN.encode()[:-1], 403),
        (b"Bearer \xff\xfe", 403),
        (b"bearer " + TOKEN.encode(), 202),
    ],
)
@pytest.mark.parametrize(
    ("path", "body"), [(CLEAR, {"pattern": "*"}), ("/api/lab/call", {"type": EVENT_TYPES[5], "data": {"pattern": "*"}})]
)
def test_only_the_token_opens_what_publishes(path: str, body: dict[str, Any], header: bytes | None, status: int) -> None:
    bus = Bus()
    answer = bus.ask("POST", path, json.dumps(body).encode(), {} if header is None else {b"authorization": header})
    assert (answer.status, len(bus.calls)) == (status, int(status == 202))
    assert (("WWW-Authenticate", "Bearer") in answer.headers) == (status == 401)


def test_without_a_token_of_its_own_a_pod_lets_nobody_in() -> None:
    assert Bus().ask("POST", CLEAR, b'{"pattern": "*"}', token="").status == 403
    assert Bus().ask("POST", CLEAR, b'{"pattern": "*"}', {b"authorization": b"Bearer "}, token="").status == 401


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"pattern": 1}',
        b'{"pattern": null}',
        b'{"pattern": ""}',
        b'{"pattern": "\xff"}',
        b'{"pattern": "\\ud800"}',
        b"[" * 100000,
        json.dumps({"pattern": "x" * (MAX_PATTERN + 1)}).encode(),
    ],
)
def test_a_body_without_a_pattern_is_refused_and_nothing_is_published(body: bytes) -> None:
    bus = Bus()
    assert (bus.ask("POST", CLEAR, body).status, bus.calls) == (400, [])


@pytest.mark.parametrize("body", [b"{}", b'{"type": "x", "data": {}}', b'{"type": [], "data": {}}', b'{"type": "config.cache.invalidate"}'])
def test_a_lab_call_needs_a_type_and_data(body: bytes) -> None:
    bus = Bus("music-service")
    assert (bus.ask("POST", "/api/lab/call", body).status, bus.calls) == (400, [])


@given(
    st.binary(max_size=50)
    | st.recursive(st.none() | st.text(max_size=3), lambda v: st.dictionaries(st.just("pattern"), v)).map(msgspec.json.encode)
)
def test_no_body_raises_anything_but_a_refusal(body: bytes) -> None:
    for bus, path in ((Bus(), CLEAR), (Bus(), "/api/lab/call"), (Bus("analytics-service"), "/api/events/batch")):
        assert bus.ask("POST", path, body).status in (202, 400)


@pytest.mark.parametrize("service", SERVICES)
def test_a_pod_has_the_endpoints_of_its_service_and_no_others(service: str) -> None:
    bus = Bus(service)
    routes = set(endpoints(bus, create_metrics(service), call=lambda kind, data: None, admin_token=""))  # type: ignore[arg-type]
    own = {
        "api-gateway": {CLEAR},
        "analytics-service": {"/api/events/batch", "/api/analytics/music", "/api/analytics/system"},
    }
    assert routes == {"/health/live", "/health/ready", "/metrics", "/api/lab/call"} | own.get(service, set())


def event(kind: str, data: dict[str, Any], source: str = "music-service") -> Event:
    return Event(event_id="evt_1", correlation_id="", type=kind, version="1.0", timestamp="", source=source, data=data)


def test_the_queries_answer_over_what_the_pod_received() -> None:
    bus = Bus("analytics-service")
    handlers: dict[str, Callable[[Event], None]] = bus.logic.handlers
    handlers["analytics.events.batch"](event("analytics.events.batch", {"events": [{"eventType": "track.played"}] * 2}))
    handlers["analytics.events.batch"](event("analytics.events.batch", {"events": [{"eventType": "login"}]}, source="api-gateway"))
    handlers["analytics.metric.recorded"](event("analytics.metric.recorded", {"name": "cpu", "value": 1}))
    handlers["analytics.provider.usage"](event("analytics.provider.usage", {"providerId": "p", "tokens": 7}))
    assert bus.ask("POST", "/api/events/batch", b'{"events": [{"eventType": "login", "userId": 1}]}').status == 202
    assert json.loads(bus.ask("GET", "/api/analytics/music").body) == {"events": 2, "byType": {"track.played": 2}}
    assert json.loads(bus.ask("GET", "/api/analytics/system").body) == {
        "events": 4,
        "byType": {"login": 2, "track.played": 2},
        "metrics": {"cpu": 1},
        "providers": {"p": {"uses": 1, "tokens": 7}},
    }


@pytest.mark.parametrize(
    "events", ["x", None, [1], [{}], [{"eventType": 1}], [{"eventType": "x"}, {"eventType": None}], [{}] * (MAX_ITEMS + 1)]
)
def test_a_batch_with_one_wrong_item_counts_none(events: Any) -> None:
    bus = Bus("analytics-service")
    assert bus.ask("POST", "/api/events/batch", json.dumps({"events": events}).encode()).status == 400
    assert not bus.logic.items


def test_names_that_are_no_strings_do_not_break_a_query() -> None:
    bus = Bus("analytics-service")
    for name in ("x", 1, None, 2.5, "1", True):
        bus.logic.add_items([{"eventType": name}], source="music-service")
        bus.logic.handlers["analytics.provider.usage"](event("analytics.provider.usage", {"providerId": name, "tokens": 1}))
        bus.logic.handlers["analytics.provider.usage"](event("analytics.provider.usage", {"providerId": "new", "tokens": "9"}))
    shown = {"(unnamed)": 1, "1": 1, "1 (number)": 1, "2.5 (number)": 1, "true (boolean)": 1, "x": 1}
    assert json.loads(bus.ask("GET", "/api/analytics/music").body)["byType"] == shown
    providers = json.loads(bus.ask("GET", "/api/analytics/system").body)["providers"]
    assert providers == {label: {"uses": 1, "tokens": 1} for label in shown} | {"new": {"uses": 6, "tokens": 0}}


def test_names_that_nobody_can_print_are_counted_and_shown_apart() -> None:
    bus = Bus("analytics-service")
    names = ["caf\u00e9", "cafe\u0301", "a", "a\u200b", "a\n", "\ud83d", "\ud83e", '"a\\u200b"', "(unnamed)", "", "a\x00"]
    for name in names:
        bus.logic.handlers["analytics.metric.recorded"](event("analytics.metric.recorded", {"name": name, "value": 1}))
    shown = json.loads(bus.ask("GET", "/api/analytics/system").body)["metrics"]
    assert list(shown.values()) == [1] * len(names)
    assert all(label.isprintable() for label in shown)


def test_names_from_outside_do_not_grow_without_bound() -> None:
    logic = Bus("analytics-service").logic
    for number in range(1500):
        logic.add_items([{"eventType": f"kind{number}"}], source="x")
        logic.handlers["analytics.metric.recorded"](event("analytics.metric.recorded", {"name": f"m{number}", "value": 1}))
        logic.handlers["analytics.provider.usage"](event("analytics.provider.usage", {"providerId": f"p{number}", "tokens": 1}))
    for counts in (logic.items, logic.metrics, logic.tokens, logic.uses):
        first = [counts.get(name) for name in ("kind0", "m0", "p0") if name in counts]
        assert (len(counts), sum(counts.values()), counts[BEYOND], first) == (1001, 1500, 500, [1])
    for number in range(1500):
        logic.add_items([{"eventType": "kind"}], source=f"service{number}")
    assert len(logic.sources) == 1001
    assert sum(logic.items.values()) == 3000


def test_the_page_of_one_pod_names_every_endpoint() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "one-pod.md").read_text("utf-8")
    for service in SERVICES:
        routes = endpoints(Bus(service), create_metrics(service), call=lambda kind, data: None, admin_token="")  # type: ignore[arg-type]
        for path, methods in routes.items():
            assert all(f"`{method} {path}`" in page for method in methods), path
