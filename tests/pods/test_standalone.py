"""`buslab pod`: one real pod as its own process, through start, outage, and every kind of end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

import psutil
import pytest
import redis

from sim.errors import UsageError
from sim.grounds.server_binary import server_binary
from sim.pods.context import OnceRules
from sim.pods.standalone import Settings, read_settings, run_pod
from sim.wire.address import Address, free_port
from tests.support.pod_process import BOUND_S, OURS, running_pod

ITEM = {"type": "analytics.events.batch", "data": {"eventType": "track.played"}}
CLEAR = {"type": "config.cache.invalidate", "data": {"pattern": "*"}}
NAMES = ["event_bus_events_published_total", "event_bus_events_received_total", "event_bus_publish_errors_total"]
NAMES += ["event_bus_subscribe_errors_total", "event_bus_connection_status", "analytics_events_queued_total"]
NAMES += ["analytics_events_published_total", "config_cache_invalidations_total"]


def test_without_variables_the_reference_s_defaults_hold() -> None:
    assert read_settings({}) == read_settings(dict.fromkeys(OURS, "")) == Settings(None, 100, 30_000, "")


def test_the_variables_are_read() -> None:
    found = read_settings({"REDIS_URL": "redis://h:1", "EVENT_BUS_BATCH_SIZE": "7", "EVENT_BUS_BATCH_INTERVAL_MS": "8", "ADMIN_TOKEN": "t"})
    assert (str(found.address), found.batch_size, found.batch_interval_ms, found.admin_token) == ("redis://h:1", 7, 8, "t")


def test_the_recipe_for_handling_once_is_read_and_its_key_is_the_reference_s() -> None:
    once = read_settings({"BUSLAB_ONCE": "finally-del", "BUSLAB_ONCE_SCOPE": "service", "BUSLAB_ONCE_TTL_S": "7"}).once
    assert once == OnceRules("finally-del", 7, "service")
    assert read_settings({}).once == OnceRules("none", 300, "event", "server", prefix="")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("BUSLAB_ONCE", "finaly-del", "did you mean 'finally-del'"),
        ("BUSLAB_ONCE", "yes", "give one of none, finally-del, token-del, keep-marker, two-key"),
        ("BUSLAB_ONCE_SCOPE", "pod", "give one of event, service"),
        ("BUSLAB_ONCE_TTL_S", "0", "from 1 to 86400"),
    ],
)
def test_a_recipe_that_is_not_there_is_refused(name: str, value: str, says: str) -> None:
    with pytest.raises(UsageError, match=name) as caught:
        read_settings({name: value})
    assert says in str(caught.value)
    assert repr(value) in str(caught.value)


BAD = [(name, value) for name in OURS[1:3] for value in ("ten", "0", "-1", "1.5", "1 0", "²", "9" * 30, "1e3")]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_number_is_named_with_its_value(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=name) as caught:
        read_settings({name: value})
    assert repr(value) in str(caught.value)


def test_a_bad_url_is_named_without_its_password() -> None:
    with pytest.raises(UsageError, match="REDIS_URL") as caught:
        read_settings({"REDIS_URL": "http://:hunter2@host:1"})
    assert "hunter2" not in str(caught.value)
    assert "host:1" in str(caught.value)


def test_a_service_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'music-service'"):
        run_pod("musik-service", environment={})


@pytest.mark.broker
@pytest.mark.parametrize(
    ("args", "environment", "says"),
    [
        (["music-service"], {"EVENT_BUS_BATCH_SIZE": "ten"}, "EVENT_BUS_BATCH_SIZE='ten'"),
        (["music-service"], {"REDIS_URL": "localhost:6379"}, "REDIS_URL: 'localhost:6379'"),
        (["music-service"], {"BUSLAB_ONCE": "twice"}, "BUSLAB_ONCE='twice'"),
        (["musik-service"], {}, "did you mean 'music-service'"),
        (["music-service", "--port", "65536"], {}, "--port"),
        (["music-service", "--bind", "192.0.2.1"], {}, "cannot listen on 192.0.2.1"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(args: list[str], environment: dict[str, str], says: str) -> None:
    argv = [sys.executable, "-m", "sim.cli", "pod", *args]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=BOUND_S, check=False, env=dict(os.environ) | environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.broker
def test_without_redis_it_is_ready_and_hears_itself_alone() -> None:
    with running_pod("api-gateway", ADMIN_TOKEN="t") as pod:
        assert pod.log[0] == pod.log[0] | {"service": "api-gateway", "host": "127.0.0.1", "mode": "memory"}
        assert pod.ask("/health/live")[0] == 200
        assert pod.ask("/health/ready") == (200, '{"ready":true,"checks":{"eventBus":{"connected":false,"redisEnabled":false}}}')
        assert pod.ask("/api/admin/cache/clear", {"pattern": "a:*"}, token="t")[0] == 202
        assert pod.ask("/api/admin/cache/clear", {"pattern": "a:*"}, token="u")[0] == 403
        assert pod.ask("/api/admin/cache/clear", {"pattern": "a:*"})[0] == 401
        assert pod.metrics() == dict(zip(NAMES, [1, 1, 0, 0, 0, 0, 0, 1], strict=True))
        assert 'buslab_http_refused_total{status="403"} 1.0' in pod.ask("/metrics")[1]
        assert pod.end() == 0
        assert [line["event"] for line in pod.log] == ["started", "stopping", "stopped"]


@pytest.mark.broker
def test_a_part_full_batch_leaves_by_age_and_a_full_one_at_once() -> None:
    with running_pod("analytics-service", ADMIN_TOKEN="t", EVENT_BUS_BATCH_SIZE="2", EVENT_BUS_BATCH_INTERVAL_MS="40") as pod:
        for _ in range(3):
            assert pod.ask("/api/lab/call", ITEM, token="t")[0] == 202
        now = pod.metrics_when(analytics_events_published_total=3, analytics_events_queued_total=0)
        assert now["analytics_events_published_total"] == 3
        assert now["analytics_events_queued_total"] == 0
        assert json.loads(pod.ask("/api/analytics/system")[1])["byType"] == {"track.played": 3}


def heard_by(address: Address) -> Any:
    subscriber = redis.Redis.from_url(address.url).pubsub(ignore_subscribe_messages=False)
    subscriber.psubscribe("aiponge:events:*")
    assert subscriber.get_message(timeout=BOUND_S)["type"] == "psubscribe"
    return subscriber


@pytest.mark.broker
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_gracefully_and_the_part_full_batch_leaves(address: Address, number: signal.Signals) -> None:
    subscriber = heard_by(address)
    with running_pod("music-service", REDIS_URL=address.url, ADMIN_TOKEN="t") as pod:
        pod.until("connected")
        assert pod.ask("/health/ready") == (200, '{"ready":true,"checks":{"eventBus":{"connected":true,"redisEnabled":true}}}')
        pod.ask("/api/lab/call", ITEM, token="t")
        assert pod.metrics()["analytics_events_queued_total"] == 1
        assert pod.end(number) == 0
    assert [line["event"] for line in pod.log] == ["started", "connected", "stopping", "disconnected", "stopped"]
    assert pod.log[-1]["published"] == 1
    event = json.loads(subscriber.get_message(timeout=BOUND_S)["data"])
    assert event["data"] == {"events": [{"eventType": "track.played"}]}
    subscriber.close()


def start_server(port: int) -> subprocess.Popen[bytes]:
    argv = [str(server_binary()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.broker
def test_started_in_an_outage_it_is_alive_not_ready_and_recovers() -> None:
    port = free_port()
    with running_pod("system-service", REDIS_URL=f"redis://127.0.0.1:{port}", ADMIN_TOKEN="t") as pod:
        assert "not reachable" in pod.until("disconnected")["reason"]
        not_ready = '{"ready":false,"checks":{"eventBus":{"connected":false,"redisEnabled":false}}}'
        assert pod.ask("/health/ready") == (503, not_ready)
        assert pod.ask("/health/live")[0] == 200
        assert pod.ask("/api/lab/call", CLEAR, token="t")[0] == 202
        assert pod.metrics()["event_bus_events_received_total"] == 1, "in memory, by itself"
        with start_server(port) as server:
            try:
                pod.until("connected")
                assert pod.ready_when(True)["checks"]["eventBus"] == {"connected": True, "redisEnabled": True}
                assert pod.metrics()["event_bus_connection_status"] == 1
                server.kill()
                pod.until("disconnected")
                assert not pod.ready_when(False)["ready"]
            finally:
                server.kill()
        assert pod.end() == 0


@pytest.mark.broker
def test_each_try_to_reconnect_is_logged_with_its_attempt_and_pause() -> None:
    port = free_port()
    with start_server(port) as server, running_pod("system-service", REDIS_URL=f"redis://127.0.0.1:{port}") as pod:
        try:
            pod.until("connected")
        finally:
            server.kill()
        pod.until("disconnected")
        told = [pod.until("reconnecting") for _ in range(6)]
        assert pod.end() == 0
    for connection in ("subscriber", "publisher"):
        tries = [line for line in told if line["connection"] == connection]
        assert [line["attempt"] for line in tries] == list(range(1, len(tries) + 1))
        for line in tries:
            assert 0 <= line["pause_ms"] <= 50 * 2 ** (line["attempt"] - 1), "exponential, from 50 ms on, drawn from 0 to there"
            assert ("not reachable" in line.get("error", "")) == (line["attempt"] > 1)
    connections = [line["connection"] for line in told]
    after = connections[connections.index("subscriber") :]  # whichever end is read first is told first
    assert set(after) == {"subscriber"}, "the publisher is opened when the subscriber is back"


@pytest.mark.broker
@pytest.mark.parametrize(
    ("scope", "handled", "keys"),
    [
        ("", 1, ["aiponge:locks:evt_1"]),
        ("event", 1, ["aiponge:locks:evt_1"]),
        ("service", 2, ["aiponge:locks:music-service:evt_1", "aiponge:locks:system-service:evt_1"]),
    ],
)
def test_pods_of_two_services_share_the_reference_s_key(
    own_server: tuple[Address, redis.Redis], scope: str, handled: int, keys: list[str]
) -> None:
    address, client = own_server
    settings = {"REDIS_URL": address.url, "BUSLAB_ONCE": "keep-marker", "BUSLAB_ONCE_SCOPE": scope}
    with running_pod("music-service", **settings) as music, running_pod("system-service", **settings) as system:
        for pod in (music, system):
            pod.until("connected")
        payload = {"eventId": "evt_1", "type": "config.cache.invalidate", "version": "1.0", "timestamp": "", "source": "x"}
        payload["data"] = {"pattern": "k"}
        assert client.publish("aiponge:events:config.cache.invalidate", json.dumps(payload)) == 2
        for pod in (music, system):
            pod.metrics_when(event_bus_events_received_total=1)
            assert pod.end() == 0  # in order: what it has begun is done
    assert sorted(key.decode() for key in client.keys("aiponge:*")) == keys
    assert len(keys) == handled


@pytest.mark.broker
def test_it_writes_nothing_and_keeps_no_rows(address: Address) -> None:
    with running_pod("system-service", REDIS_URL=address.url) as pod, redis.Redis.from_url(address.url) as client:
        pod.until("connected")
        payload = '{"eventId":"e%d","type":"config.cache.invalidate","version":"1.0","timestamp":"","source":"x","data":{"pattern":"k"}}'
        for start in range(0, 20_000, 1000):
            with client.pipeline(transaction=False) as pipe:
                for number in range(start, start + 1000):
                    pipe.publish("aiponge:events:config.cache.invalidate", payload % number)
                pipe.execute()
        assert pod.metrics_when(event_bus_events_received_total=20_000)["config_cache_invalidations_total"] == 20_000
        files = [file.path for file in psutil.Process(pod.process.pid).open_files() if "w" in file.mode or "a" in file.mode]
        assert files == []
        assert pod.end() == 0


@pytest.mark.broker
def test_a_second_signal_ends_it_at_once(own_server: tuple[Address, redis.Redis]) -> None:
    address, client = own_server
    with running_pod("music-service", REDIS_URL=address.url, ADMIN_TOKEN="t") as pod:
        pod.until("connected")
        server = psutil.Process(client.info("server")["process_id"])
        server.suspend()  # the publish gets no answer: the pod waits for it when it ends
        try:
            pod.ask("/api/lab/call", CLEAR, token="t")
            pod.process.send_signal(signal.SIGTERM)
            pod.until("stopping")
            assert pod.end(signal.SIGTERM) == 128 + signal.SIGTERM
        finally:
            server.resume()


@pytest.mark.broker
def test_its_health_is_answered_while_one_client_sends_ahead_and_another_holds_connections() -> None:
    ahead, sent = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 4000
    with running_pod("music-service") as pod, contextlib.ExitStack() as open_ones:
        held = [open_ones.enter_context(socket.create_connection(("127.0.0.1", pod.port))) for _ in range(300)]
        assert pod.ask("/health/live")[0] == 200
        for one in held:
            one.close()
        flood = open_ones.enter_context(socket.create_connection(("127.0.0.1", pod.port), timeout=BOUND_S))
        threading.Thread(target=flood.sendall, args=[ahead * sent], daemon=True).start()
        heard = flood.recv(1 << 16)
        assert pod.ask("/health/ready")[0] == 200
        while heard.count(b"HTTP/1.1 200") < sent // 2:
            heard += flood.recv(1 << 20)
            assert pod.ask("/health/live")[0] == 200
        assert heard.count(b"HTTP/1.1 200") < sent, "it was answered before the last of those that were there first"
        assert pod.end() == 0


@pytest.mark.broker
def test_a_hang_up_counts_once_and_not_where_it_was_ignored_at_the_start() -> None:
    with running_pod("music-service") as pod:
        for _ in range(3):
            pod.process.send_signal(signal.SIGHUP)
        assert pod.end(signal.SIGHUP) == 0
    usual = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does for what it starts
    try:
        with running_pod("music-service") as pod:
            pod.process.send_signal(signal.SIGHUP)
            assert pod.ask("/health/live")[0] == 200
            assert pod.end() == 0
            assert [line["event"] for line in pod.log] == ["started", "stopping", "stopped"]
            assert pod.log[1]["signal"] == "SIGTERM"
    finally:
        signal.signal(signal.SIGHUP, usual)
