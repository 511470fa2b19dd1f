"""A tap on real sockets and a real server: what strains it, how connections end, faults of links, TLS, and what it refuses."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import redis

from sim.errors import UsageError
from sim.faults.link import LinkPlan
from sim.grounds.cluster import cluster
from sim.grounds.embedded import EmbeddedBroker, embedded
from sim.grounds.proxy import Cut, ProxyEnds, Refuse, Reset, Shape
from sim.record.run_info import read_info
from sim.results.opened_run import open_run
from sim.run.tapped import parse_listen, run_tap
from sim.wire.address import free_port, parse_address
from sim.wire.resp import pack
from tests.support.cli import buslab
from tests.support.tap_witness import tapping, until
from tests.support.tls_server import make_certificates, serve, why_not

pytestmark = pytest.mark.broker
MB = 1 << 20
EVENT = b'{"eventId":"one"}'


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedBroker]:
    with embedded() as broker:
        yield broker


@contextlib.contextmanager
def plain(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as one:
        yield one


def test_a_64_mb_value_passes_whole_and_is_not_kept(server: EmbeddedBroker) -> None:
    value = os.urandom(MB) * 64
    with tapping(server.address) as (port, told, _), redis.Redis(port=port) as client:
        client.set("warm", value[:MB])
        before = psutil.Process().memory_info().rss
        top = [0]
        watching = threading.Event()

        def watch() -> None:
            while not watching.is_set():
                top[0] = max(top[0], psutil.Process().memory_info().rss)
                time.sleep(0.002)

        thread = threading.Thread(target=watch)
        with plain(port) as raw:  # a client that holds one piece at a time, so that what grows is the tap's
            thread.start()
            raw.sendall(b"*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$%d\r\n" % len(value))
            for place in range(0, len(value), 65_536):
                raw.sendall(memoryview(value)[place : place + 65_536])
            raw.sendall(b"\r\n")
            assert raw.recv(5) == b"+OK\r\n"
            raw.sendall(pack(b"GET", b"big"))
            left, scratch = len(b"$%d\r\n" % len(value)) + len(value) + 2, bytearray(MB)
            while left:
                left -= raw.recv_into(scratch)
        watching.set()
        thread.join()
        assert top[0] - before < 24 * MB, f"{(top[0] - before) / MB:.0f} MB more"
        with redis.Redis(port=server.address.port) as direct:
            assert direct.get("big") == value
            direct.delete("big")
    assert [one.commands["SET"] for one in told.connections.values()] == [1, 1]
    assert sum(one.unread_to_client + one.unread_to_server for one in told.connections.values()) == 0


def test_half_a_frame_is_passed_on_and_is_no_publish(server: EmbeddedBroker) -> None:
    with tapping(server.address) as (port, told, _):
        with plain(port) as one:
            one.sendall(pack(b"PUBLISH", b"half", EVENT) + pack(b"PUBLISH", b"half", EVENT)[:-4])
            assert one.recv(100) == b":0\r\n"
        until(lambda: told.ends)
    assert [(one.outcome, one.receivers) for _, one in told.publishes] == [("acknowledged", 0)]
    assert told.ends == {1: "client"}


def test_a_client_that_sends_and_goes_at_once_is_in_the_books(server: EmbeddedBroker) -> None:
    with tapping(server.address) as (port, told, _):
        for _number in range(20):
            with plain(port) as one:
                one.sendall(b"PUBLISH gone hello\r\n")
        until(lambda: len(told.ends) == 20)
    assert len(told.publishes) == 20


def test_a_client_that_never_reads_is_cut_by_the_server_and_stands_so(server: EmbeddedBroker) -> None:
    with redis.Redis(port=server.address.port) as direct, tapping(server.address) as (port, told, _):
        direct.config_set("client-output-buffer-limit", "pubsub 2mb 1mb 60")
        with plain(port) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            one.sendall(pack(b"CLIENT", b"SETNAME", b"sleeper") + pack(b"SUBSCRIBE", b"flood"))
            until(lambda: told.subscriptions)
            sent, heard = 0, 1
            while heard:  # each shorter than what a server keeps one copy of for all
                pipe = direct.pipeline(transaction=False)
                for _ in range(200):
                    pipe.publish("flood", b"x" * 8_000)
                heard, sent = pipe.execute()[-1], sent + 200
                assert sent < 20_000
        until(lambda: told.ends)
        direct.config_set("client-output-buffer-limit", "pubsub 32mb 8mb 60")
    assert told.ends == {1: "cut"}
    assert told.connections[1].client_name == "sleeper"
    assert 0 < len(told.pushes) < sent


def test_a_server_that_is_gone_ends_its_clients_and_a_new_one_is_met(server: EmbeddedBroker) -> None:
    nobody = parse_address(f"redis://127.0.0.1:{free_port()}")
    with tapping(nobody) as (port, told, _):
        with pytest.raises(ConnectionResetError), plain(port) as one:
            one.sendall(b"PING\r\n")
            one.recv(100)
            raise ConnectionResetError  # an end without a reset is an end too
        until(lambda: told.ends)
    assert told.ends == {1: "no-server"}


def test_faults_of_links_work_on_it(server: EmbeddedBroker) -> None:
    with tapping(server.address) as (port, told, order), plain(port) as hears, redis.Redis(port=server.address.port) as direct:
        hears.sendall(pack(b"SUBSCRIBE", b"ch"))
        until(lambda: told.subscriptions)
        order(Shape([port], LinkPlan(), LinkPlan(delay_ns=200_000_000)))
        began_ns = time.monotonic_ns()
        assert direct.publish("ch", EVENT) == 1
        until(lambda: told.pushes)
        assert told.pushes[0][1] - began_ns >= 200_000_000  # the time at which it was written, not at which it came
        order(Shape([port], LinkPlan(), LinkPlan(held=True)))
        direct.publish("ch", EVENT)
        time.sleep(0.1)
        assert len(told.pushes) == 1
        order(Shape([port], LinkPlan(), LinkPlan()))
        until(lambda: len(told.pushes) == 2)
        order(Cut([port], True))
        direct.publish("ch", EVENT)
        until(lambda: told.ends)
        assert len(told.pushes) == 2  # half of the third was passed on
        with plain(port) as other:
            other.sendall(b"PING\r\n")
            assert other.recv(100) == b"+PONG\r\n"
            order(Reset([port]))
            until(lambda: len(told.ends) == 2)
        order(Refuse([port], True))
        with contextlib.suppress(ConnectionResetError), plain(port):  # it may come before connect returns
            pass
        until(lambda: len(told.ends) == 3)
    assert set(told.ends.values()) == {"fault"}


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_tls_on_either_side_and_on_both(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    trusting = ssl.create_default_context(cafile=made.file("ca.crt"))
    with serve(made, tmp_path) as tls:
        listening = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        listening.load_cert_chain(made.file("server.crt"), made.file("server.key"))
        far = parse_address(tls.trusted())
        near = parse_address(f"redis://127.0.0.1:{tls.plain_port}")
        for address, ends in (
            (near, ProxyEnds(tls=listening)),
            (far, ProxyEnds(server_tls=far.ssl_context)),
            (far, ProxyEnds(tls=listening, server_tls=far.ssl_context)),
        ):
            with tapping(address, ends=ends) as (port, told, _):
                options = {"ssl": True, "ssl_ca_certs": made.file("ca.crt")} if ends.tls else {}
                with redis.Redis(port=port, **options) as client, client.pubsub() as hears:  # type: ignore[arg-type]
                    hears.subscribe("ch")
                    assert hears.get_message(timeout=5)
                    assert [client.publish("ch", EVENT) for _ in range(20)] == [1] * 20
                    client.set("big", b"v" * MB)
                    assert client.get("big") == b"v" * MB
                    assert all(hears.get_message(timeout=5) for _ in range(20))
            assert (len(told.publishes), len(told.pushes)) == (20, 20)
        stranger = ProxyEnds(server_tls=trusting)
        with tapping(parse_address(f"redis://127.0.0.1:{tls.plain_port}"), ends=stranger) as (port, told, _), plain(port) as one:
            until(lambda: told.ends)  # no TLS there
            assert told.ends == {1: "no-server"}
            one.close()


@pytest.mark.deep
def test_five_thousand_connections_lose_nothing(server: EmbeddedBroker) -> None:
    with tapping(server.address) as (port, told, _), contextlib.ExitStack() as stack:
        ones = []
        for number in range(5000):
            one = stack.enter_context(plain(port))
            one.sendall(pack(b"SUBSCRIBE", b"all"))
            ones.append(one)
            if number % 100 == 99:
                until(lambda number=number: len(told.subscriptions) == number + 1)  # type: ignore[misc]
        before = psutil.Process().memory_info().rss
        with redis.Redis(port=port) as client:
            assert [client.publish("all", f'{{"eventId":"{number}"}}') for number in range(10)] == [5000] * 10
        until(lambda: len(told.pushes) == 50_000)
        assert psutil.Process().memory_info().rss - before < 100 * MB
    assert {one.key for _, _, one in told.pushes} == {one.key for _, one in told.publishes} and len(told.publishes) == 10


def test_a_password_that_passes_is_nowhere_in_the_folder(tmp_path: Path) -> None:
    secret, out = "hunter2-Geheim", tmp_path / "out"
    with embedded() as broker, redis.Redis(port=broker.address.port) as direct:
        direct.config_set("requirepass", secret)
        argv = [sys.executable, "-m", "sim.cli", "tap", "--listen", "127.0.0.1:0", "--out", str(out)]
        argv += ["--to", f"redis://:{secret}@127.0.0.1:{broker.address.port}"]
        tap = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        assert tap.stderr is not None
        said = tap.stderr.readline()
        port = int(said.rpartition(":")[2])
        with redis.Redis(port=port, password=secret, protocol=3) as client:
            client.publish("ch", "hello")
        with plain(port) as one:
            one.sendall(f"AUTH {secret}\r\n{secret}\r\nPUBLISH ch x\r\n".encode())
            time.sleep(0.1)
        tap.send_signal(signal.SIGINT)
        assert tap.wait(30) == 130
        said += tap.stderr.read()
        tap.stderr.close()
    run = open_run(out)
    assert (run.info.state, len(run.publishes)) == ("interrupted", 2)
    assert secret not in said
    for path in out.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path


def test_a_tap_that_ends_by_itself_is_complete_and_one_whose_port_is_taken_says_so(server: EmbeddedBroker, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        done = buslab("tap", "--listen", where, "--to", server.address, "--out", tmp_path / "taken", cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "the tap cannot listen on port" in done.stderr
    folder = run_tap(str(server.address), listen=parse_listen("127.0.0.1:0", exposed=False), out=tmp_path / "out", seconds=0.2)
    info = read_info(folder / "run.json")
    assert info.state == "complete"
    assert info.links_us is not None and info.links_us["through_p50"] > info.links_us["direct_p50"] > 0
    again = buslab("tap", "--to", server.address, "--out", folder, cwd=tmp_path)
    assert (again.returncode, "is not empty" in again.stderr) == (2, True)


def test_a_tap_that_is_killed_leaves_what_it_had_written_and_its_verdict_is_unknown(server: EmbeddedBroker, tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = [sys.executable, "-m", "sim.cli", "tap", "--listen", "127.0.0.1:0", "--to", str(server.address), "--out", str(out)]
    tap = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    assert tap.stderr is not None
    with redis.Redis(port=int(tap.stderr.readline().rpartition(":")[2])) as client, client.pubsub() as hears:
        hears.subscribe("ch")
        assert hears.get_message(timeout=5)
        assert [client.publish("ch", "hello") for _ in range(5)] == [1] * 5
        until(lambda: [_written(out, table) for table in ("publishes", "deliveries")] == [5, 5])
        tap.kill()
    tap.wait()
    tap.stderr.close()
    run = open_run(out)
    assert (run.info.state, len(run.publishes), len(run.deliveries)) == ("running", 5, 5)
    assert buslab("check", out, cwd=tmp_path).returncode == 2


@pytest.mark.parametrize(
    ("listen", "says"),
    [
        ("0.0.0.0:6390", "--expose-server"),
        ("[::]:6390", "--expose-server"),
        ("6390", "write HOST:PORT"),
        ("127.0.0.1:99999", "write HOST:PORT"),
        ("redis.example:6390", "the host is no address"),
    ],
)
def test_where_it_may_not_listen(listen: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_listen(listen, exposed=False)


def test_where_it_may_listen() -> None:
    assert parse_listen("0.0.0.0:0", exposed=True).host == "0.0.0.0"
    assert parse_listen("[::1]:6390", exposed=False).host == "::1"
    assert parse_listen("localhost:6390", exposed=False).host == "127.0.0.1"


def test_a_pointer_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    done = buslab("tap", "--to", "redis://127.0.0.1:1", "--id", "eventId", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n"), "is no JSON pointer" in done.stderr) == (2, 1, True)


def test_a_clusters_clients_stay_on_its_taps(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with cluster("3") as broker:
        theirs = {node.port for node in broker.address.nodes}
        elsewhere = f"redis://localhost:{broker.address.port}"  # the cluster does not call it so
        done = buslab("tap", "--to", elsewhere, "--out", out, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n"), "name it as the cluster does" in done.stderr) == (2, 1, True)
        argv = [sys.executable, "-m", "sim.cli", "tap", "--listen", "127.0.0.1:0", "--out", str(out), "--id", "/eventId"]
        tap = subprocess.Popen([*argv, "--to", str(broker.address.nodes[0])], stderr=subprocess.PIPE, text=True)
        assert tap.stderr is not None
        port = int(tap.stderr.readline().rpartition(":")[2])
        names = [f"ch{number}" for number in range(12)]
        with redis.RedisCluster(host="127.0.0.1", port=port) as client:
            nodes = {(node.host, node.port) for node in client.get_nodes()}
            for name in names:
                client.set(name, name)
            assert [client.get(name) for name in names] == [name.encode() for name in names]
            hears = client.pubsub()
            for name in names:
                hears.ssubscribe(name)
            sent = [client.spublish(name, f'{{"eventId":"{name}"}}') for name in names]
            heard: list[bytes] = []
            until(lambda: heard.extend(_sharded(hears)) or len(heard) == len(names))  # type: ignore[func-returns-value]
            hears.close()
        with redis.Redis(port=port) as alone, pytest.raises(redis.ResponseError) as moved:
            for name in names:  # the slots of some are on another node
                alone.execute_command("GET", name)
        tap.send_signal(signal.SIGINT)
        assert tap.wait(30) == 130
        tap.stderr.close()
    assert len(nodes) == len(theirs) and not theirs & {number for _, number in nodes}
    assert int(str(moved.value).rpartition(":")[2]) in {number for _, number in nodes}
    run = open_run(out)
    assert sent == [1] * len(names)
    assert len(run.publishes) == len(run.deliveries) == len(names)
    assert set(run.ledger()["fate"]) == {"delivered"}
    assert len({str(name).partition("/")[0] for name in run.publishes["publisher"]}) == 3  # each master's tap


def _written(folder: Path, table: str) -> int:
    return sum(pq.read_metadata(part).num_rows for part in folder.glob(f"parts/{table}-*.parquet"))


def _sharded(hears: Any) -> list[bytes]:
    message = hears.get_sharded_message(timeout=0.05)
    return [message["data"]] if message is not None and message["type"] == "smessage" else []
