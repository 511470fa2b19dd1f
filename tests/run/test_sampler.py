"""What the broker says of itself in a run: output buffers, cuts, subscribers, its processor time; and that asking costs little."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from sim.machine.process import Child
from sim.record.recorder import Recorder
from sim.results.checkers import judge
from sim.results.opened_run import open_run
from sim.run import steps as running
from sim.run.fleet import Fleet
from sim.run.sampler import BrokerSampler, rest_s
from sim.run.steps import Status, run_scenario
from sim.scenario.file import Scenario
from sim.wire.address import Address, free_port, parse_address
from sim.wire.transports.pubsub import PubSub

pytestmark = pytest.mark.broker
Small = Callable[..., Scenario]
CHANNEL = "aiponge:events:config.cache.invalidate"
PIECE = b"x" * 10_000  # no event: pods count it as malformed. Valkey 9 does not count one above 16 KB against the limit
PIECES_AT_ONCE = 20
LIMIT_BYTES = 4_000_000
MOST_ROUNDS = 500


@pytest.fixture
def without_counter(tmp_path: Path) -> Iterator[tuple[Address, redis.Redis]]:
    """Give a server that does not count its buffer cuts."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("needs redis-server on PATH (Debian: apt-get install redis-server)")
    port = free_port()
    child = Child([binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)], log=tmp_path / "log")
    try:
        with redis.Redis(port=port) as client:
            for _ in range(500):
                with contextlib.suppress(redis.ConnectionError):
                    client.ping()
                    break
                time.sleep(0.02)
            if "client_output_buffer_limit_disconnections" in client.info("stats"):
                pytest.skip("this redis-server counts its buffer cuts")
            yield parse_address(f"redis://127.0.0.1:{port}"), client
    finally:
        child.end()


class Slow:
    """Stop one pod from reading in the run phase, publish until the broker cut it, then let it read on."""

    def __init__(self, client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
        self.client = client
        self.fleet: Fleet | None = None
        self.pod = ""
        self.cut = False
        self._thread: threading.Thread | None = None

        def make(*args: Any, **kwargs: Any) -> Fleet:
            self.fleet = Fleet(*args, **kwargs)
            return self.fleet

        monkeypatch.setattr(running, "Fleet", make)

    def watch(self, status: Status) -> None:
        if status.phase == "run" and self._thread is None:
            assert self.fleet is not None
            pod = next(iter(self.fleet.host.replicas.values())).pod
            self.pod = pod.name
            pod._connections.pause()
            wire = pod._connections._subscription._wire.transport.get_extra_info("socket")
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # else the kernel would keep some 30 MB for it
            loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._publish, args=(lambda: loop.call_soon_threadsafe(pod._connections.resume),))
            self._thread.start()

    def _publish(self, resume: Callable[[], object]) -> None:
        for _ in range(MOST_ROUNDS):
            pieces = self.client.pipeline(transaction=False)
            for _ in range(PIECES_AT_ONCE):
                pieces.publish(CHANNEL, PIECE)
            pieces.execute()
            time.sleep(0.02)
            if not any(row["name"].endswith(f"-{self.pod}-sub") for row in self.client.client_list(_type="pubsub")):
                self.cut = True
                break
        time.sleep(0.4)  # the sampler sees it gone while the pod, which reads nothing, does not know yet
        resume()

    def end(self) -> None:
        assert self._thread is not None
        self._thread.join(30)


def cut_one_pod(server: tuple[Address, redis.Redis], small: Small, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, client = server
    client.config_set("client-output-buffer-limit", f"pubsub {LIMIT_BYTES * 100} {LIMIT_BYTES} 1")  # after 1 s: samples see it grow
    slow = Slow(client, monkeypatch)
    scenario = small("load.driver=pods", "load.run_s=8", "load.rate_per_s=100", "bus.reattach=automatic")
    run = open_run(run_scenario(scenario, on=address.url, out=folder, watch=slow.watch))
    slow.end()
    assert slow.cut, "the broker did not cut the pod"
    broker = run.broker
    waiting = broker[broker["metric"] == "output_buffer_bytes"]
    assert waiting.loc[waiting["subject"] == slow.pod, "value"].max() > LIMIT_BYTES / 2
    assert broker.loc[broker["metric"] == "buffer_cuts", ["subject", "value"]].to_numpy().tolist() == [[slow.pod, 1.0]]
    counts = judge(run).checkers["ledger"].counts
    assert counts["cut"] > 0
    assert counts["unexplained"] == 0
    ledger = run.ledger()
    lost = ledger[ledger["fate"] == "missing"]
    assert set(lost["pod"]) == {slow.pod}
    assert set(lost["cause"]) == {"cut"}


def test_a_pod_that_does_not_read_is_cut_and_the_ledger_knows(
    own_server: tuple[Address, redis.Redis], small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_one_pod(own_server, small, tmp_path / "run", monkeypatch)


def test_so_it_is_on_a_server_that_does_not_count_cuts(
    without_counter: tuple[Address, redis.Redis], small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_one_pod(without_counter, small, tmp_path / "run", monkeypatch)


def test_a_pod_whose_connection_was_killed_was_not_cut(own_server: tuple[Address, redis.Redis], small: Small, tmp_path: Path) -> None:
    address, client = own_server
    todo = [None]

    def watch(status: Status) -> None:
        if status.phase == "run" and todo:
            todo.pop()
            client.client_kill_filter(_type="pubsub")

    run = open_run(run_scenario(small("load.driver=pods", "load.run_s=3"), on=address.url, out=tmp_path / "run", watch=watch))
    assert "disconnected" in set(run.pods["state"])
    assert "buffer_cuts" not in set(run.broker["metric"])
    assert judge(run).checkers["ledger"].counts["cut"] == 0


def test_subscribers_are_a_series_that_agrees_with_the_fleet(small: Small, tmp_path: Path) -> None:
    scenario = small("load.driver=pods", "load.run_s=4")
    run = open_run(run_scenario(scenario, out=tmp_path / "run"))
    begin, end = run.phases["run"]
    numsub = run.broker[(run.broker["metric"] == "numsub") & run.broker["at_ns"].between(begin, end)]
    for channel, rows in numsub.groupby("subject", observed=True):
        claimed = sum(service.replicas for service in scenario.services.values() if channel in service.subscribes)
        assert len(rows) >= 2
        assert set(rows["value"]) == {claimed}
    assert judge(run).checkers["harness"].verdict == "valid"


def test_a_server_that_is_down_for_a_while_leaves_a_gap_and_no_error(tmp_path: Path, run_async: Any) -> None:
    async def scene() -> None:
        port = free_port()
        recorder = Recorder(tmp_path, source="h", pods=[])
        from sim.grounds.embedded import start_server

        server = start_server(port, folder=tmp_path)
        sampler = await BrokerSampler.open(parse_address(f"redis://127.0.0.1:{port}"), recorder, run_id="7")
        sampler.start(["a"], prefix="x:", transport=PubSub(), expected_s=1)
        for _ in range(2):
            before = recorder.rows("broker")
            while recorder.rows("broker") <= before + 20:
                await asyncio.sleep(0.02)
            server.kill()
            server = await asyncio.to_thread(start_server, port, folder=tmp_path)
        await sampler.close()
        server.end()
        assert sampler.notes == []
        recorder.close()

    run_async(scene())


def test_many_subscribers_are_listed_less_often(own_server: tuple[Address, redis.Redis], tmp_path: Path, run_async: Any) -> None:
    """By the broker's own count of what the listings took it, over all of them: no timing of ours."""
    address, client = own_server
    sockets = [socket.create_connection(("127.0.0.1", address.port)) for _ in range(1500)]
    try:
        for number, one in enumerate(sockets):
            one.sendall(b"CLIENT SETNAME buslab-7-pod-%d-sub\r\nSUBSCRIBE a\r\n" % number)
        while client.pubsub_numsub("a")[0][1] < len(sockets):
            time.sleep(0.02)

        async def scene() -> None:
            recorder = Recorder(tmp_path, source="h", pods=[])
            sampler = await BrokerSampler.open(address, recorder, run_id="7")
            sampler.start(["a"], prefix="", transport=PubSub(), expected_s=1)
            await asyncio.sleep(6)
            await sampler.close()
            recorder.close()

        run_async(scene())
    finally:
        for one in sockets:
            one.close()
    stat = client.info("commandstats")["cmdstat_client|list"]
    assert stat["calls"] >= 2
    assert stat["usec"] / 6e6 < 0.02


@pytest.mark.parametrize(("took_ms", "rest"), [(0, 0.125), (1, 0.125), (2, 0.25), (8, 1.0), (40, 5.0)])
def test_the_longer_a_listing_takes_the_longer_until_the_next(took_ms: float, rest: float) -> None:
    assert rest_s(took_ms / 1000) == pytest.approx(rest)
