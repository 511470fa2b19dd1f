"""Aiponge's services are Node: ioredis publishes to our pods and hears them, and both sides count the same.

Needs node, npm and a package index; the exact client is installed into a temporary folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sim.wire.address import Address
from tests.support.pod_process import BOUND_S, lines_of, running_pod

IOREDIS = "5.11.1"
SCRIPT = Path(__file__).parents[1] / "support" / "interop_ioredis.js"
PREFIX = "aiponge:events:"
TOKEN = "token-of-the-test"

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="node and npm are not on this machine"),
]


class Node:
    """A Node process with ioredis."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines = lines_of(process)
        self.heard: list[tuple[str, dict[str, Any]]] = []

    def until(self, event: str) -> dict[str, Any]:
        """The next line of a kind; what is heard meanwhile is kept."""
        while True:
            line = self._lines.get(timeout=BOUND_S)
            assert line is not None, "node ended"
            print("node:", json.dumps(line))
            if line["event"] == "heard" and not line["payload"].startswith("not"):
                self.heard.append((line["channel"].removeprefix(PREFIX), json.loads(line["payload"])))
            if line["event"] == event:
                return line

    def publish(self, kind: str, **what: Any) -> int:
        """Let ioredis publish; the number of receivers."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"channel": PREFIX + kind, **what}) + "\n")
        self.process.stdin.flush()
        receivers: int = self.until("published")["receivers"]
        return receivers

    def hears_from(self, source: str, count: int) -> list[tuple[str, dict[str, Any]]]:
        """The first so many events of a service, as soon as they were heard."""
        while len(found := [(kind, event) for kind, event in self.heard if event["source"] == source]) < count:
            self.until("heard")
        return found


@pytest.fixture(scope="module")
def client_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ioredis")
    shutil.copy(SCRIPT, folder)
    argv = ["npm", "install", "--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", f"ioredis@{IOREDIS}"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def node(client_folder: Path, address: Address) -> Iterator[Node]:
    environment = dict(os.environ) | {"REDIS_URL": address.url}
    argv = ["node", SCRIPT.name]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, cwd=client_folder, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        try:
            node = Node(process)
            assert node.until("ready")["ioredis"] == IOREDIS
            yield node
            assert process.stdin is not None
            process.stdin.close()
            node.until("ended")
            assert process.wait(BOUND_S) == 0
        finally:
            process.kill()


def standard_event(number: int, kind: str, data: dict[str, Any]) -> dict[str, Any]:
    """The reference's envelope, field by field."""
    return {
        "eventId": f"evt_abc{number}",
        "type": kind,
        "version": "1.0",
        "timestamp": "2024-12-22T10:30:00Z",
        "source": "music-service",
        "data": data,
    }


SENT: list[tuple[str, dict[str, Any]]] = [
    *[("analytics.events.batch", {"events": [{"eventType": "track.played", "userId": "u1"}] * 3})] * 2,
    ("analytics.events.batch", {"events": [{"eventType": "playlist.made", "userId": "ü"}]}),
    *[("analytics.metric.recorded", {"name": "request.duration", "value": 12.5, "unit": "ms"})] * 4,
    *[("analytics.provider.usage", {"providerId": "openai", "model": "m", "tokens": 321})] * 2,
    ("config.cache.invalidate", {"pattern": "aiponge:*:templates:*"}),
]
ALL_TYPES: list[tuple[str, dict[str, Any]]] = [
    *SENT,
    ("config.template.invalidated", {"templateId": "tpl_1"}),
    ("config.provider.invalidated", {"providerId": "prov_1"}),
]


def test_a_pod_hears_what_ioredis_publishes_and_counts_exactly_that(node: Node, address: Address) -> None:
    with running_pod("analytics-service", REDIS_URL=address.url) as pod:
        pod.until("connected")
        for number, (kind, data) in enumerate(ALL_TYPES):
            receivers = node.publish(kind, standardEvent=standard_event(number, kind, data))
            assert receivers == (2 if (kind, data) in SENT else 1), "node's own subscription, and the pod where it handles the type"
        node.publish("analytics.events.batch", raw="not an event")
        node.publish("analytics.events.batch", standardEvent=standard_event(99, "analytics.events.batch", {"no": "events"}))

        found = pod.metrics_when(event_bus_events_received_total=len(SENT) + 1)
        print("analytics-service /metrics:", found)
        assert found == {
            "event_bus_events_published_total": 0,
            "event_bus_events_received_total": len(SENT) + 1,
            "event_bus_publish_errors_total": 0,
            "event_bus_subscribe_errors_total": 1,  # the one that is no event; a batch with other fields is one item without a name
            "event_bus_connection_status": 1,
            "analytics_events_queued_total": 0,
            "analytics_events_published_total": 0,
            "config_cache_invalidations_total": 1,
        }
        assert json.loads(pod.ask("/api/analytics/music")[1]) == {
            "events": 8,
            "byType": {"(unnamed)": 1, "playlist.made": 1, "track.played": 6},
        }
        system = json.loads(pod.ask("/api/analytics/system")[1])
        print("analytics-service /api/analytics/system:", system)
        assert (system["metrics"], system["providers"]) == ({"request.duration": 4}, {"openai": {"uses": 2, "tokens": 642}})
        assert pod.end() == 0


def test_config_events_of_ioredis_reach_a_cache(node: Node, address: Address) -> None:
    with running_pod("music-service", REDIS_URL=address.url) as pod:
        pod.until("connected")
        for number, (kind, data) in enumerate(ALL_TYPES):
            node.publish(kind, standardEvent=standard_event(number, kind, data))
        assert pod.metrics_when(config_cache_invalidations_total=3)["event_bus_events_received_total"] == 3
        assert pod.end() == 0


def is_reference_envelope(event: dict[str, Any]) -> bool:
    """Whether it has the reference's fields, and no more than the correlation id besides."""
    fields = ["eventId", "type", "version", "timestamp", "source", "data"]
    stamp = re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["timestamp"])
    return [name for name in event if name != "correlationId"] == fields and event["version"] == "1.0" and stamp is not None


def test_ioredis_hears_the_gateway_s_cache_clear(node: Node, address: Address) -> None:
    with running_pod("api-gateway", REDIS_URL=address.url, ADMIN_TOKEN=TOKEN) as pod:
        pod.until("connected")
        assert pod.ask("/api/admin/cache/clear", {"pattern": "aiponge:*:templates:*"}, token=TOKEN)[0] == 202
        [(kind, event)] = node.hears_from("api-gateway", 1)
        assert (kind, event["type"], event["data"]) == ("config.cache.invalidate", kind, {"pattern": "aiponge:*:templates:*"})
        assert is_reference_envelope(event)
        found = pod.metrics_when(event_bus_events_published_total=1, event_bus_events_received_total=1)
        print("api-gateway /metrics:", found)
        assert found["event_bus_events_published_total"] == found["event_bus_events_received_total"] == 1
        assert found["config_cache_invalidations_total"] == 1
        assert pod.end() == 0


def test_ioredis_hears_a_full_batch_and_at_the_end_the_part_full_one(node: Node, address: Address) -> None:
    items = [{"eventType": "track.played", "n": number} for number in range(5)]
    with running_pod("music-service", REDIS_URL=address.url, ADMIN_TOKEN=TOKEN, EVENT_BUS_BATCH_SIZE="2") as pod:
        pod.until("connected")
        for item in items:
            assert pod.ask("/api/lab/call", {"type": "analytics.events.batch", "data": item}, token=TOKEN)[0] == 202
        heard = node.hears_from("music-service", 2)
        found = pod.metrics_when(event_bus_events_published_total=2)
        print("music-service /metrics:", found)
        assert (found["event_bus_events_published_total"], found["analytics_events_published_total"]) == (2, 4)
        assert found["analytics_events_queued_total"] == 1
        assert pod.end() == 0
        assert pod.log[-1]["published"] == 3
    heard = node.hears_from("music-service", 3)
    assert [event["data"]["events"] for _, event in heard] == [items[:2], items[2:4], items[4:]]
    assert all(is_reference_envelope(event) for _, event in heard)
    assert len({event["eventId"] for _, event in heard}) == 3
