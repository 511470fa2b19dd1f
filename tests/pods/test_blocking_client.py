"""The blocking client: fire and forget, and the truth about what became of it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import redis

from sim.bus.envelope import BATCH
from sim.errors import BrokerError, BrokerRefused, BrokerUnreachable
from sim.grounds.embedded import start_server
from sim.machine.clock import now_ns
from sim.pods import blocking_client
from sim.pods.blocking_client import BusClient, Published
from sim.record.recorder import Recorder, seal_tables
from sim.wire.address import Address, free_port, parse_address
from tests.support.scenes import BOUND_S

pytestmark = pytest.mark.broker
OTHER = "config.cache.invalidate"


class Ear:
    """Hear two channels through redis-py."""

    def __init__(self, address: Address) -> None:
        self._client = redis.Redis.from_url(address.url)
        self._pubsub = self._client.pubsub(ignore_subscribe_messages=True)
        self._pubsub.subscribe(f"aiponge:events:{BATCH}", f"aiponge:events:{OTHER}")
        for _ in range(2):
            self._pubsub.get_message(timeout=BOUND_S)

    def next(self) -> dict[str, Any]:
        while (message := self._pubsub.get_message(timeout=BOUND_S)) is None:
            pass
        event: dict[str, Any] = json.loads(message["data"])
        return event

    def close(self) -> None:
        self._pubsub.close()
        self._client.close()


@pytest.fixture
def ear(address: Address) -> Iterator[Ear]:
    one = Ear(address)
    yield one
    one.close()


@pytest.fixture
def client(address: Address) -> Iterator[BusClient]:
    one = BusClient(address, source="music-service", nonce=3, number=4, batch_size=3)
    yield one
    one.close()


def outcome(published: Published | None) -> str:
    assert published is not None
    return published.outcome


def test_items_travel_in_batches_and_anything_else_at_once(client: BusClient, ear: Ear) -> None:
    assert [client.call(BATCH, {"eventType": "a", "n": n}) for n in range(2)] == [None, None]
    assert outcome(client.call(OTHER, {"pattern": "*"})) == "acknowledged"
    assert outcome(client.call(BATCH, {"eventType": "a", "n": 2})) == "acknowledged"
    first, second = ear.next(), ear.next()
    assert (first["type"], first["data"], first["source"]) == (OTHER, {"pattern": "*"}, "music-service")
    assert [item["n"] for item in second["data"]["events"]] == [0, 1, 2]


def test_a_part_full_batch_leaves_when_it_is_due_or_on_closing(address: Address, ear: Ear) -> None:
    client = BusClient(address, source="music-service", batch_interval_ms=1)
    client.record_event({"n": 1}, intended_ns=now_ns() - 5_000_000)
    assert client.due_ns is not None
    assert client.due_ns < now_ns()
    assert outcome(client.tick()) == "acknowledged"
    assert (client.due_ns, client.tick(), client.flush()) == (None, None, None)
    client.record_event({"n": 2})
    assert outcome(client.close()) == "acknowledged"
    assert client.close() is None
    assert [ear.next()["data"] for _ in range(2)] == [{"events": [{"n": 1}]}, {"events": [{"n": 2}]}]


def test_the_broker_s_count_of_receivers_is_told(client: BusClient, ear: Ear) -> None:
    published = client.call(OTHER, {"pattern": "*"})
    assert published is not None
    assert (published.receivers, published.error) == (1, "")
    assert published.send.intended_ns <= published.sent_ns <= published.acked_ns


def test_a_megabyte_arrives_whole(client: BusClient, ear: Ear) -> None:
    assert outcome(client.call(OTHER, {"pattern": "x" * 1_000_000})) == "acknowledged"
    assert ear.next()["data"] == {"pattern": "x" * 1_000_000}


def refused(url: str) -> BrokerError:
    client = BusClient(parse_address(url), source="music-service")
    with pytest.raises(BrokerError) as error:
        client.connect()
    published = client.call(OTHER, {"pattern": "*"})  # and without asking first: no exception
    assert published is not None
    assert (published.outcome, published.sent_ns, published.receivers) == ("refused", 0, -1)
    assert published.error
    assert "\n" not in str(error.value)
    assert "hunter2" not in str(error.value)
    return error.value


def test_a_dead_port_is_unreachable() -> None:
    assert isinstance(refused(f"redis://:hunter2@127.0.0.1:{free_port()}"), BrokerUnreachable)


@pytest.mark.parametrize("given", ["", ":hunter2@", "ann:hunter2@"])
def test_a_wrong_password_is_refused(own_server: tuple[Address, redis.Redis], given: str) -> None:
    address, server = own_server
    server.config_set("requirepass", "right")
    assert isinstance(refused(f"redis://{given}127.0.0.1:{address.port}"), BrokerRefused)
    client = BusClient(parse_address(f"redis://:right@127.0.0.1:{address.port}"), source="music-service")
    assert outcome(client.call(OTHER, {"pattern": "*"})) == "acknowledged"
    client.close()


def test_a_full_server_is_an_error(own_server: tuple[Address, redis.Redis]) -> None:
    address, server = own_server
    server.config_set("maxclients", 1)
    refused(address.url)


def test_a_channel_without_permission_is_refused_and_the_next_publish_works(own_server: tuple[Address, redis.Redis]) -> None:
    address, server = own_server
    server.acl_setuser("ann", enabled=True, passwords=["+secret"], commands=["+@all"], channels=[f"aiponge:events:{BATCH}"], reset=True)
    client = BusClient(parse_address(f"redis://ann:secret@127.0.0.1:{address.port}"), source="music-service", batch_size=1)
    published = client.call(OTHER, {"pattern": "*"})
    assert published is not None
    assert (published.outcome, "NOPERM" in published.error or "permission" in published.error) == ("refused", True)
    assert outcome(client.call(BATCH, {"n": 1})) == "acknowledged"
    client.close()


def publishes(server: redis.Redis) -> int:
    """Return how many times the server ran PUBLISH."""
    return int(server.info("commandstats").get("cmdstat_publish", {"calls": 0})["calls"])


def gone(server: redis.Redis) -> None:
    """Return when the server has only the connection that asks."""
    deadline_ns = now_ns() + int(BOUND_S * 1e9)
    while len(server.client_list()) > 1:
        assert now_ns() < deadline_ns


@pytest.mark.parametrize("ask_kernel", [True, False])
def test_a_connection_that_the_server_closed_while_it_was_idle_is_found_and_made_anew(
    own_server: tuple[Address, redis.Redis], monkeypatch: pytest.MonkeyPatch, ask_kernel: bool
) -> None:
    """What is written into a closed connection is lost: nothing is, when one looks first."""
    address, server = own_server
    if not ask_kernel:
        monkeypatch.setattr("sim.pods.blocking_client.TCP_INFO", None)
    server.config_set("timeout", 1)
    client = BusClient(address, source="music-service")
    client.connect()
    for found in (1, 2):
        server.ping()
        while len(server.client_list()) > 1:
            server.ping()  # so that this connection is not idle
        assert outcome(client.call(OTHER, {"pattern": "*"})) == "acknowledged"
        assert client.closed_by_server == found
    assert outcome(client.call(OTHER, {"pattern": "*"})) == "acknowledged"
    assert (client.closed_by_server, publishes(server)) == (2, 3)
    client.close()


def test_what_the_server_closes_after_the_look_is_unknown_once_and_then_new(
    own_server: tuple[Address, redis.Redis], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes left and no answer came: it is not claimed lost, and never sent again by itself."""
    address, server = own_server
    client = BusClient(address, source="music-service")
    client.connect()
    look = blocking_client.has_ended

    def too_early(connection: Any) -> bool:
        ended = look(connection)
        server.client_kill_filter(_type="normal", skipme=True)
        gone(server)
        return ended

    monkeypatch.setattr("sim.pods.blocking_client.has_ended", too_early)
    assert outcome(client.call(OTHER, {"pattern": "*"})) in ("unknown", "refused")
    monkeypatch.undo()
    assert outcome(client.call(OTHER, {"pattern": "*"})) == "acknowledged"
    assert (client.closed_by_server, publishes(server)) == (0, 1)
    client.close()


def test_where_the_kernel_cannot_be_asked_what_came_unasked_makes_a_connection_useless(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each answer would be taken for that of the publish after it."""
    monkeypatch.setattr("sim.pods.blocking_client.TCP_INFO", None)
    client = BusClient(address, source="music-service")
    client.connect()
    (connection,) = client._nodes._connections.values()
    connection.send_command("PING")
    deadline_ns = now_ns() + int(BOUND_S * 1e9)
    while not blocking_client.has_ended(connection):
        assert now_ns() < deadline_ns
    published = client.call(OTHER, {"pattern": "*"})
    assert published is not None
    assert (published.outcome, published.receivers, client.closed_by_server) == ("acknowledged", 0, 1)
    client.close()


def test_a_server_that_comes_back_is_published_to_again(tmp_path: Path) -> None:
    port = free_port()
    address = parse_address(f"redis://127.0.0.1:{port}")
    server = start_server(port, folder=tmp_path)
    client = BusClient(address, source="music-service")
    assert outcome(client.call(OTHER, {"pattern": "*"})) == "acknowledged"
    os.kill(server.pid, signal.SIGKILL)
    server.kill()
    assert {outcome(client.call(OTHER, {"pattern": "*"})) for _ in range(3)} <= {"unknown", "refused"}
    server = start_server(port, folder=tmp_path)
    assert outcome(client.call(OTHER, {"pattern": "*"})) == "acknowledged"
    client.close()
    server.end()


def test_a_silent_server_does_not_hold_the_application_for_ever(
    own_server: tuple[Address, redis.Redis], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, server = own_server
    monkeypatch.setattr("sim.pods.blocking_client.TIMEOUT_S", 1.0)
    client = BusClient(address, source="music-service")
    client.connect()
    server.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
    assert outcome(client.call(OTHER, {"pattern": "*"})) == "unknown"
    client.close()


def test_every_publish_is_recorded_with_its_outcome(address: Address, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, source="script")
    live = BusClient(address, source="music-service", publisher="music-0", recorder=recorder, nonce=1, number=2)
    dead = BusClient(parse_address(f"redis://127.0.0.1:{free_port()}"), source="music-service", publisher="music-1", recorder=recorder)
    for client in (live, dead):
        client.record_event({"n": 1}, intended_ns=now_ns())
        client.call(OTHER, {"pattern": "*"})
        client.close()
    recorder.close()
    seal_tables(tmp_path)
    rows = pq.ParquetFile(tmp_path / "publishes.parquet").read().to_pylist()
    assert [(row["publisher"], row["channel"], row["items"], row["outcome"]) for row in rows] == [
        (publisher, channel, 1, outcome)
        for publisher, outcome in (("music-0", "acknowledged"), ("music-1", "refused"))
        for channel in (OTHER, BATCH)
    ]
    assert [(row["sent_ns"] > 0, row["acked_ns"] > 0, row["receivers"]) for row in rows] == [(True, True, 0)] * 2 + [(False, False, -1)] * 2
