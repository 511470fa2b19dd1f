"""The reference's metrics, as Prometheus reads them."""

from __future__ import annotations

from dataclasses import fields

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sim.bus.metrics import METRICS, BusCounts, create_metrics, metric_name, metric_start, register_event_bus_metrics, register_refusals
from tests.support.reference import SERVICES

# The reference's table, word by word.
REFERENCE = {
    "aiponge_<service>_event_bus_events_published_total": "counter",
    "aiponge_<service>_event_bus_events_received_total": "counter",
    "aiponge_<service>_event_bus_publish_errors_total": "counter",
    "aiponge_<service>_event_bus_subscribe_errors_total": "counter",
    "aiponge_<service>_event_bus_connection_status": "gauge",
    "aiponge_<service>_analytics_events_queued_total": "gauge",
    "aiponge_<service>_analytics_events_published_total": "counter",
    "aiponge_<service>_config_cache_invalidations_total": "counter",
}


def read(text: bytes) -> dict[str, tuple[str, float]]:
    """Sample name -> (type, value)."""
    families = text_string_to_metric_families(text.decode())
    return {sample.name: (family.type, sample.value) for family in families for sample in family.samples}


@pytest.mark.parametrize("service", SERVICES)
def test_names_and_types_are_the_reference_s_and_each_shows_its_own_count(service: str) -> None:
    metrics = create_metrics(service)
    register_event_bus_metrics(service, metrics, lambda: BusCounts(*range(1, 9)))
    word = service.replace("-", "_")
    expected = {name.replace("<service>", word): (kind, float(n)) for n, (name, kind) in enumerate(REFERENCE.items(), 1)}
    text = metrics.text()
    assert read(text) == expected
    for name, (kind, _) in expected.items():
        assert f"# TYPE {name} {kind}\n" in text.decode(), "the very name stands in the text, not only in the parser's reading"


def test_a_count_is_read_at_the_scrape_not_before() -> None:
    counts = BusCounts()
    metrics = create_metrics("music-service")
    register_event_bus_metrics("music-service", metrics, lambda: counts)
    name = metric_name("music-service", "event_bus_events_received_total")
    assert read(metrics.text())[name][1] == 0
    counts = BusCounts(event_bus_events_received_total=2**53)
    assert read(metrics.text())[name][1] == 2**53


def test_every_metric_has_its_field_in_the_same_order() -> None:
    assert [field.name for field in fields(BusCounts)] == list(METRICS)


def test_without_a_pod_all_is_zero() -> None:
    metrics = create_metrics("x")
    register_event_bus_metrics("x", metrics)
    assert {value for _, value in read(metrics.text()).values()} == {0.0}


def test_refusals_are_counted_by_status() -> None:
    metrics = create_metrics("x")
    register_refusals(metrics, lambda: {401: 2, 0: 1})
    text = metrics.text().decode()
    assert 'buslab_http_refused_total{status="0"} 1.0' in text
    assert 'buslab_http_refused_total{status="401"} 2.0' in text


@pytest.mark.parametrize(
    ("service", "name"), [("a-b", "aiponge_a_b_x"), ("A-b7", "aiponge_A_b7_x"), ("a.b c", "aiponge_a_b_c_x"), ("a_b", "aiponge_a_b_x")]
)
def test_what_a_metric_name_may_not_hold_becomes_an_underscore(service: str, name: str) -> None:
    assert metric_name(service, "x") == name


@pytest.mark.parametrize(
    ("prefix", "service", "start"),
    [
        ("shop", "billing", "shop_billing"),
        ("shop", "order-intake", "shop_order_intake"),
        ("", "billing", "billing"),
        ("", "3d", "_3d"),
        ("3d", "x", "_3d_x"),
        ("shop", "价格", "shop__u4ef7__u683c_"),
        ("shop", "订单", "shop__u8ba2__u5355_"),
        ("bü/ro", "x", "b_ufc__ro_x"),
    ],
)
def test_another_bus_has_its_own_word_and_any_name_becomes_one_that_prometheus_reads(prefix: str, service: str, start: str) -> None:
    assert metric_start(service, prefix=prefix) == start
    metrics = create_metrics(service)
    register_event_bus_metrics(service, metrics, lambda: BusCounts(*range(1, 9)), prefix=prefix)
    assert read(metrics.text()) == {f"{start}_{field}": (kind, float(n)) for n, (field, (kind, _)) in enumerate(METRICS.items(), 1)}


def test_the_whole_text_is_what_prometheus_reads() -> None:
    metrics = create_metrics("ai-config")
    register_event_bus_metrics("ai-config", metrics, lambda: BusCounts(*range(1, 9)))
    register_refusals(metrics, lambda: {401: 2, 0: 1})
    lines = []
    for number, (field, (kind, description)) in enumerate(METRICS.items(), 1):
        name = f"aiponge_ai_config_{field}"
        lines += [f"# HELP {name} {description}", f"# TYPE {name} {kind}", f"{name} {number}.0"]
    refused = "buslab_http_refused_total"
    lines += [f"# HELP {refused} HTTP requests and connections refused", f"# TYPE {refused} counter"]
    lines += [f'{refused}{{status="0"}} 1.0', f'{refused}{{status="401"}} 2.0']
    assert metrics.text().decode().splitlines() == lines
    assert metrics.service == "ai-config"
