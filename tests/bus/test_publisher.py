"""The application's names: each stands for one event type, and for data that the services' handlers take."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from sim.bus.envelope import BATCH, EVENT_TYPES, Event
from sim.bus.publisher import EventPublisher
from tests.support.reference import SERVICES, content


class Written(EventPublisher):
    """Write down what would be published."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[dict[str, Any]], int | None]] = []

    def call_all(self, kind: str, contents: Iterable[dict[str, Any]], *, intended_ns: int | None = None) -> None:
        self.calls.append((kind, list(contents), intended_ns))


ITEM = {"eventType": "track.played", "userId": "u", "properties": {}}
NAMES: dict[str, tuple[str, Callable[[EventPublisher], None]]] = {
    "record_event": (BATCH, lambda bus: bus.record_event(ITEM, intended_ns=7)),
    "record_events": (BATCH, lambda bus: bus.record_events([ITEM, ITEM], intended_ns=7)),
    "record_metric": ("analytics.metric.recorded", lambda bus: bus.record_metric("d", 1.5, unit="ms", tags={"a": "b"}, intended_ns=7)),
    "record_provider_usage": ("analytics.provider.usage", lambda bus: bus.record_provider_usage("prov_1", 120, intended_ns=7)),
    "invalidate_template": ("config.template.invalidated", lambda bus: bus.invalidate_template("tpl_1", intended_ns=7)),
    "invalidate_provider": ("config.provider.invalidated", lambda bus: bus.invalidate_provider("prov_1", intended_ns=7)),
    "invalidate_cache": ("config.cache.invalidate", lambda bus: bus.invalidate_cache("aiponge:*:templates:*", intended_ns=7)),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_one_call_of_its_event_type_at_its_time(name: str) -> None:
    kind, call = NAMES[name]
    bus = Written()
    call(bus)
    [(made, contents, intended_ns)] = bus.calls
    assert (made, intended_ns) == (kind, 7)
    assert len(contents) == (2 if name == "record_events" else 1)


def test_every_event_type_has_a_name_and_every_name_is_tested() -> None:
    assert {kind for kind, _ in NAMES.values()} == set(EVENT_TYPES)
    assert set(NAMES) == {name for name in vars(EventPublisher) if name.startswith(("record_", "invalidate_"))}


@pytest.mark.parametrize("name", NAMES)
def test_the_handlers_of_every_service_take_what_a_name_publishes(name: str) -> None:
    kind, call = NAMES[name]
    bus = Written()
    call(bus)
    data = {"events": bus.calls[0][1]} if kind == BATCH else bus.calls[0][1][0]
    heard = 0
    for make in SERVICES.values():
        handler = make().handlers.get(kind)
        if handler is not None:
            handler(Event("evt_1", "c", kind, "1.0", "", "test", data))
            heard += 1
    assert heard


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("record_event")])
def test_the_load_s_contents_have_the_fields_of_the_names(name: str) -> None:
    kind, call = NAMES[name]
    bus = Written()
    call(bus)
    assert set(bus.calls[0][1][0]) <= set(content(kind, 1, 0))


USAGE, METRIC = "analytics.provider.usage", "analytics.metric.recorded"
CALLS: list[tuple[Callable[[EventPublisher], None], tuple[str, list[dict[str, Any]], int | None]]] = [
    (lambda bus: bus.record_event(ITEM), (BATCH, [ITEM], None)),
    (lambda bus: bus.record_events(iter([ITEM, {}])), (BATCH, [ITEM, {}], None)),
    (lambda bus: bus.record_metric("d", 1.5), (METRIC, [{"name": "d", "value": 1.5, "unit": "", "tags": {}}], None)),
    (
        lambda bus: bus.record_metric("d", 2, unit="ms", tags={"a": "b"}),
        (METRIC, [{"name": "d", "value": 2, "unit": "ms", "tags": {"a": "b"}}], None),
    ),
    (
        lambda bus: bus.record_provider_usage("prov_1", 120),
        (USAGE, [{"providerId": "prov_1", "model": "", "tokens": 120, "costUsd": 0.0}], None),
    ),
    (
        lambda bus: bus.record_provider_usage("prov_1", 120, model="m", cost_usd=0.25),
        (USAGE, [{"providerId": "prov_1", "model": "m", "tokens": 120, "costUsd": 0.25}], None),
    ),
    (
        lambda bus: bus.invalidate_template("tpl_1"),
        ("config.template.invalidated", [{"templateId": "tpl_1", "reason": "updated"}], None),
    ),
    (
        lambda bus: bus.invalidate_template("tpl_1", reason="gone"),
        ("config.template.invalidated", [{"templateId": "tpl_1", "reason": "gone"}], None),
    ),
    (
        lambda bus: bus.invalidate_provider("prov_1"),
        ("config.provider.invalidated", [{"providerId": "prov_1", "reason": "updated"}], None),
    ),
    (
        lambda bus: bus.invalidate_provider("prov_1", reason="gone"),
        ("config.provider.invalidated", [{"providerId": "prov_1", "reason": "gone"}], None),
    ),
    (lambda bus: bus.invalidate_cache("a:*"), ("config.cache.invalidate", [{"pattern": "a:*"}], None)),
]


@pytest.mark.parametrize(("call", "made"), CALLS)
def test_a_name_publishes_the_data_that_the_reference_gives_it(
    call: Callable[[EventPublisher], None], made: tuple[str, list[dict[str, Any]], int | None]
) -> None:
    bus = Written()
    call(bus)
    assert bus.calls == [made]
