"""The six services of `examples/ioredis` on a real server: batches, config events, the lock, metrics, health, an outage and the flush.

Needs node, npm and a package index; the exact client is installed into a temporary folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sim.bus.metrics import METRICS
from sim.grounds.broker import Broker
from sim.grounds.catalogue import open_broker
from sim.wire.address import free_port

FOLDER = Path(__file__).parents[2] / "examples" / "ioredis"
TOKEN = "token-of-the-test"
BOUND_S = 30.0
BATCH, METRIC, TEMPLATE, CACHE = (
    "analytics.events.batch", "analytics.metric.recorded", "config.template.invalidated", "config.cache.invalidate",
)  # fmt: skip

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="node and npm are not on this machine"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, with its client."""
    installed = tmp_path_factory.mktemp("example") / "ioredis"
    shutil.copytree(FOLDER, installed, ignore=shutil.ignore_patterns("node_modules"))
    argv = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(argv, cwd=installed, capture_output=True, text=True, timeout=150, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install ioredis here: {done.stderr.strip().splitlines()[-1:]}")
    assert not (installed / "package-lock.json").exists(), "a lock file would name the host of a registry"
    return installed


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A server of the test's own, which it may hurt."""
    with open_broker("embedded") as one:
        yield one


class Service:
    """One pod of the example."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, output: Path) -> None:
        self.process, self.port, self.output = process, port, output

    def ask(self, path: str, **body: Any) -> tuple[int, str]:
        """Status and text of an answer; by POST where there is a body."""
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, {"Authorization": f"Bearer {TOKEN}"})
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=BOUND_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def ready(self) -> tuple[int, Any]:
        """What its readiness says; 0 where nothing answers yet."""
        try:
            status, text = self.ask("/health/ready")
        except OSError:
            assert self.process.poll() is None, "it ended"
            return 0, None
        return status, json.loads(text)

    def call(self, type: str, **data: Any) -> None:
        status, text = self.ask("/api/lab/call", type=type, data=data)
        assert status == 202, text

    def metrics(self) -> dict[str, float]:
        """Its metrics, without what all their names begin with."""
        rows = re.findall(r"^(\w+) (\S+)$", self.ask("/metrics")[1], re.M)
        return {re.sub("^aiponge_(api_gateway|[a-z_]+?_service)_", "", name): float(value) for name, value in rows}

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(BOUND_S)


@contextlib.contextmanager
def service(folder: Path, name: str, url: str | None, **env: str) -> Iterator[Service]:
    """Run one pod until the block ends; wait until it answers."""
    port = free_port()
    known = {key: value for key, value in os.environ.items() if key not in ("REDIS_URL", "ONCE")}
    known |= {"PORT": str(port), "POD_NAME": f"{name}-{port}", "ADMIN_TOKEN": TOKEN, **({"REDIS_URL": url} if url else {}), **env}
    output = folder / f"{name}-{port}.out"
    with output.open("wb") as out, subprocess.Popen(["node", "service.js", name], cwd=folder, env=known, stdout=out) as process:
        one = Service(process, port, output)
        try:
            until(lambda: one.ready()[0] != 0)
            yield one
        finally:
            process.kill()


def published(one: Service) -> float:
    return one.metrics()["event_bus_events_published_total"]


def until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + BOUND_S
    while not reached():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def test_batches_metrics_config_events_and_the_flush(folder: Path, broker: Broker) -> None:
    url = broker.address.url
    with (
        service(folder, "music-service", url, EVENT_BUS_BATCH_SIZE="3", BUSLAB_HANDLED_URL="http://127.0.0.1:1") as music,
        service(folder, "analytics-service", url, BUSLAB_HANDLED_URL="http://127.0.0.1:1") as analytics,
        service(folder, "ai-config-service", url) as config,
        service(folder, "api-gateway", url) as gateway,
    ):
        for one in (music, analytics, config, gateway):
            until(lambda one=one: one.ready()[0] == 200)  # type: ignore[misc]
        body = {"ready": True, "checks": {"eventBus": {"connected": True, "redisEnabled": True}}}
        assert music.ready() == (200, body)
        for n in range(4):
            music.call(BATCH, eventType="track.played", userId=f"u{n}")
        music.call(METRIC, name="request.duration", value=1.5)
        until(lambda: analytics.metrics()["event_bus_events_received_total"] == 2)
        assert (music.metrics()["analytics_events_queued_total"], music.metrics()["analytics_events_published_total"]) == (1, 4)
        config.call(TEMPLATE, templateId="tpl_1")
        assert gateway.ask("/api/admin/cache/clear", pattern="aiponge:*:templates:*")[0] == 202
        until(lambda: music.metrics()["config_cache_invalidations_total"] == 2)
        until(lambda: gateway.metrics()["config_cache_invalidations_total"] == 1)
        assert set(music.metrics()) == set(METRICS), "the eight of the reference"
        assert music.metrics()["event_bus_connection_status"] == 1
        assert music.end() == 0
        until(lambda: analytics.metrics()["event_bus_events_received_total"] == 4)  # the clear, and the flushed batch
        handled = [line for line in analytics.output.read_text().splitlines() if line.startswith("buslab handled evt_")]
        assert len(handled) == len(set(handled)) == 4


def test_an_outage_queues_what_is_published_and_the_pod_says_that_it_is_not_ready(folder: Path, broker: Broker) -> None:
    assert broker.control is not None
    with service(folder, "system-service", broker.address.url) as system:
        until(lambda: system.ready()[0] == 200)
        asyncio.run(broker.control.kill())
        until(lambda: system.ready()[0] == 503)
        assert system.ready()[1]["checks"]["eventBus"] == {"connected": False, "redisEnabled": True}
        for n in range(5):
            system.call(METRIC, name=f"m{n}", value=n)
        counts = system.metrics()
        assert (counts["event_bus_events_published_total"], counts["event_bus_publish_errors_total"]) == (0, 0)
        asyncio.run(broker.control.start())
        until(lambda: published(system) == 5)
        until(lambda: system.ready()[0] == 200)
        assert system.metrics()["event_bus_events_received_total"] <= 5, "who is back first decides"


def test_after_the_retries_what_waits_is_rejected_and_a_first_subscribe_too(folder: Path, broker: Broker) -> None:
    assert broker.control is not None
    asyncio.run(broker.control.kill())
    options = json.dumps({"maxRetriesPerRequest": 1})
    with service(folder, "system-service", broker.address.url, REDIS_OPTIONS=options) as system:
        system.call(METRIC, name="m", value=1)
        until(lambda: system.metrics()["event_bus_publish_errors_total"] == 1)
        until(lambda: system.metrics()["event_bus_subscribe_errors_total"] == 2)
        asyncio.run(broker.control.start())
        until(lambda: system.ask("/api/lab/call", type=METRIC, data={})[0] == 202 and published(system) > 3)
        assert system.metrics()["event_bus_events_received_total"] == 0, "nobody repeats the SUBSCRIBE"
        assert system.ready()[0] == 503


def test_without_a_url_events_stay_in_the_pod_and_once_means_one_pod(folder: Path, broker: Broker) -> None:
    with service(folder, "system-service", None) as alone:
        alone.call(METRIC, name="m", value=1)
        until(lambda: published(alone) == 1)
        assert alone.ready() == (200, {"ready": True, "checks": {"eventBus": {"connected": False, "redisEnabled": False}}})
        assert alone.metrics()["event_bus_connection_status"] == 0
    url, once = broker.address.url, {"ONCE": "1", "BUSLAB_HANDLED_URL": "http://127.0.0.1:1"}
    with service(folder, "ai-content-service", url, **once) as first, service(folder, "ai-content-service", url, **once) as second:
        with service(folder, "ai-config-service", url) as config:
            for one in (first, second, config):
                until(lambda one=one: one.ready()[0] == 200)  # type: ignore[misc]
            for n in range(20):
                config.call(TEMPLATE, templateId=f"tpl_{n}")
            until(lambda: first.metrics()["event_bus_events_received_total"] == second.metrics()["event_bus_events_received_total"] == 20)
        until(lambda: len(first.output.read_text().splitlines() + second.output.read_text().splitlines()) >= 20)
        lines = [line for one in (first, second) for line in one.output.read_text().splitlines() if line.startswith("buslab handled")]
        assert len(set(lines)) == 20, "each was handled; with the lock gone after the handler a second time is possible"


@pytest.mark.parametrize(
    ("argv", "env", "said"),
    [
        (["musik-service"], {}, 'no service "musik-service": give one of music-service'),
        (["music-service"], {"EVENT_BUS_BATCH_SIZE": "many"}, 'EVENT_BUS_BATCH_SIZE = "many": give a number'),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder: Path, argv: list[str], env: dict[str, str], said: str) -> None:
    done = subprocess.run(["node", "service.js", *argv], cwd=folder, env=dict(os.environ) | env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith(said) and done.stderr.count("\n") == 1
