"""Ground `container`: it leaves nothing in the engine however a run ends, and says what is wrong in one line."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from sim.errors import BrokerError, BrokerRefused, RunFolderError
from sim.grounds.catalogue import open_broker
from sim.grounds.container import start_server
from sim.grounds.container_engine import IMAGE_ENV, LABEL, engine, local_image, owner_label, shares_loopback
from sim.grounds.local_image import build_image, pack
from sim.record.run_info import read_info
from sim.wire.address import Address, PortTaken, free_port

pytestmark = [pytest.mark.broker, pytest.mark.container]
MODULE = sys.modules["sim.grounds.container"]  # the family exports a function of this name
BOUND_S = 60.0


def containers(pid: int | None = None) -> list[dict[str, Any]]:
    """Return the containers that a process owns; without one, this process's."""
    owner = owner_label().split(":")[0] + f":{pid or os.getpid()}:"
    with engine() as client:
        found: list[dict[str, Any]] = client.api.containers(all=True, filters={"label": LABEL})
        return [one for one in found if one["Labels"][LABEL].startswith(owner)]


def wait_until(true: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + BOUND_S
    while not true():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@contextlib.contextmanager
def buslab_run(folder: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command in a process group of its own."""
    argv = [sys.executable, "-m", "sim.cli", "run", "baseline", "--on", "container", "--out", str(folder), "--no-report", *more]
    short = ["--set", "load.warm_up_s=0.3"] + ([] if any("load.run_s" in word for word in more) else ["--set", "load.run_s=30"])
    with subprocess.Popen([*argv, *short], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


def phase_of(folder: Path) -> str:
    with contextlib.suppress(RunFolderError, IndexError):
        return read_info(folder / "run.json").phases[-1].name
    return ""


@pytest.mark.parametrize(("slo", "code"), [("slo.lag_ms_p99=100000", 0), ("slo.lag_ms_p99=0.000001", 1)])
def test_nothing_is_left_after_a_run_that_is_valid_or_not_and_the_folder_names_the_image(slo: str, code: int, tmp_path: Path) -> None:
    with buslab_run(tmp_path / "run", "--set", slo, "--set", "load.run_s=1") as process:
        said, errors = process.communicate(timeout=BOUND_S)
        assert process.returncode == code, said + errors
        assert containers(process.pid) == []
    about = json.loads((tmp_path / "run" / "environment.json").read_text())["broker"]
    assert about["image"]["name"] == os.environ[IMAGE_ENV]
    assert about["image"]["id"].startswith("sha256:")
    assert about.get("valkey_version") or about["redis_version"]
    assert read_info(tmp_path / "run" / "run.json").ground == "container"


@pytest.mark.parametrize("end", ["group", "process", "SIGTERM"])
def test_nothing_is_left_after_an_interruption(end: str, tmp_path: Path) -> None:
    with buslab_run(tmp_path / "run") as process:
        wait_until(lambda: phase_of(tmp_path / "run") == "run", process)
        assert len(containers(process.pid)) == 1
        if end == "group":
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGINT if end == "process" else signal.SIGTERM)
        _, errors = process.communicate(timeout=BOUND_S)
        assert process.returncode == 128 + (signal.SIGTERM if end == "SIGTERM" else signal.SIGINT)
        assert "Traceback" not in errors
        assert containers(process.pid) == []


def test_nothing_is_left_after_a_ctrl_c_while_the_container_starts(tmp_path: Path) -> None:
    with buslab_run(tmp_path / "run") as process:
        wait_until(lambda: containers(process.pid), process)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=BOUND_S)
        assert process.returncode == 130, errors
        assert "Traceback" not in errors
        assert containers(process.pid) == []


@pytest.mark.parametrize("end", ["SIGKILL", "second Ctrl-C"])
def test_what_a_killed_run_leaves_is_swept_by_the_next_and_what_a_living_one_uses_is_not(end: str, tmp_path: Path) -> None:
    with buslab_run(tmp_path / "killed") as killed, buslab_run(tmp_path / "living") as living:
        wait_until(lambda: phase_of(tmp_path / "killed") == "run", killed)
        wait_until(lambda: phase_of(tmp_path / "living") == "run", living)
        for number in [signal.SIGKILL] if end == "SIGKILL" else [signal.SIGINT] * 2:
            killed.send_signal(number)
        killed.communicate(timeout=BOUND_S)
        if end == "SIGKILL":
            assert len(containers(killed.pid)) == 1, "nobody was left to remove it"
        with open_broker("container"):
            assert containers(killed.pid) == []
            assert len(containers(living.pid)) == 1
        living.send_signal(signal.SIGINT)
        living.communicate(timeout=BOUND_S)
        assert containers(living.pid) == []


def test_a_ctrl_c_ends_the_wait_for_a_registry(tmp_path: Path) -> None:
    with engine() as client:
        if not shares_loopback(client):
            pytest.skip("this engine does not see our loopback, so it cannot ask the registry of this test")
    with socket.create_server(("127.0.0.1", 0)) as registry:  # takes connections and never answers
        image = f"127.0.0.1:{registry.getsockname()[1]}/redis:1"
        with buslab_run(tmp_path / "run", "--image", image) as process:
            registry.settimeout(BOUND_S)
            connection, _ = registry.accept()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=BOUND_S)
            connection.close()
    assert process.returncode == 130
    assert f"interrupted while {image} was pulled; nothing was started" in errors
    assert not (tmp_path / "run").exists()


def test_an_image_that_no_registry_gives_is_refused_and_the_way_out_named() -> None:
    image = f"127.0.0.1:{free_port()}/redis:1"
    with pytest.raises(BrokerError, match="not on this machine, and pulling it failed") as refused, open_broker("container", image=image):
        pass
    assert local_image() in str(refused.value)
    assert "`buslab image`" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_local_image_that_was_not_built_is_not_asked_of_a_registry() -> None:
    image = "buslab/valkey:0.0.0"
    with pytest.raises(BrokerError, match=f"{image} is not on this machine: .*{local_image()}"), open_broker("container", image=image):
        pass


def test_without_permission_the_message_says_so() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become a user without permission")
    script = (
        "import os, docker, testcontainers.core.docker_client\nfrom sim.grounds.local_image import build_image\n"
        "os.seteuid(65534)\nbuild_image()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=BOUND_S, check=False)
    assert f"{BrokerRefused.__name__}: no permission to use the container engine" in done.stderr
    assert "join the group docker" in done.stderr


def test_a_taken_port_is_named_and_the_other_server_is_left_alone(address: Address) -> None:
    with pytest.raises(BrokerError, match=rf"port {address.port} .* is taken.*container:PORT"), open_broker(f"container:{address.port}"):
        pass
    with redis.Redis.from_url(address.url) as client:
        assert client.ping()
    assert containers() == []


def test_a_port_taken_by_something_that_is_no_server_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(BrokerError, match=f"port {port} .* is taken"), open_broker(f"container:{port}"):
            pass
    assert containers() == []


@pytest.fixture
def empty_image() -> Iterator[str]:
    """An image without a server."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("nothing"))
    with engine() as client:
        client.api.import_image_from_data(archive.getvalue(), repository="buslab-test", tag="empty")
        yield "buslab-test:empty"
        client.images.remove("buslab-test:empty")


def test_an_image_without_a_server_is_an_error_and_leaves_nothing(empty_image: str) -> None:
    refused = pytest.raises(BrokerError, match=f"cannot start a container of {empty_image}.*redis-server")
    with refused, open_broker("container", image=empty_image):
        pass
    assert containers() == []


def test_a_server_that_ends_at_once_gives_the_end_of_its_log() -> None:
    with engine() as client, pytest.raises(BrokerError, match=r"ended with code 1: .*no-such-option"), contextlib.ExitStack() as until:
        start_server(client, os.environ[IMAGE_ENV], free_port(), until=until, extra=("--no-such-option", "1"))
    assert containers() == []


def test_several_start_with_more_arguments_and_end_together() -> None:
    with engine() as client, contextlib.ExitStack() as until:
        ports = [free_port(), free_port()]
        for port in ports:
            start_server(client, os.environ[IMAGE_ENV], port, until=until, extra=("--maxclients", "77"))
        for port in ports:
            with redis.Redis(port=port) as server:
                assert server.config_get("maxclients") == {"maxclients": "77"}
        with pytest.raises(PortTaken):
            start_server(client, os.environ[IMAGE_ENV], ports[0], until=until)
    assert containers() == []


def test_it_keeps_nothing_and_listens_on_loopback_only() -> None:
    with open_broker("container") as broker, redis.Redis.from_url(broker.address.url) as client:
        assert (client.config_get("save")["save"], client.config_get("appendonly")["appendonly"]) == ("", "no")
        listening = {c.laddr.ip for c in psutil.net_connections() if c.status == "LISTEN" and c.laddr.port == broker.address.port}
        assert listening <= {"127.0.0.1"}


def test_killed_and_started_again_it_is_empty_at_the_same_address_and_frozen_it_is_silent() -> None:
    with open_broker("container") as broker:
        control = broker.control
        assert control is not None
        with redis.Redis.from_url(broker.address.url, socket_timeout=0.3, retry=None) as client:
            client.set("a", "b")
            asyncio.run(control.kill())
            asyncio.run(control.kill())
            with pytest.raises(redis.ConnectionError):
                client.ping()
            asyncio.run(control.start())
            asyncio.run(control.start())
            assert client.dbsize() == 0
            asyncio.run(control.freeze())  # type: ignore[attr-defined]
            with pytest.raises(redis.TimeoutError):
                client.ping()
            asyncio.run(control.thaw())  # type: ignore[attr-defined]
            asyncio.run(control.thaw())  # type: ignore[attr-defined]
            assert client.ping()
            asyncio.run(control.freeze())  # type: ignore[attr-defined]
    assert containers() == [], "a frozen container is removed too"


def test_where_the_engine_does_not_share_our_loopback_the_port_is_published_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    with engine() as client:
        if not client.networks.list(names=["^bridge$"]):
            pytest.skip("this engine has no bridge network to publish a port from")
    monkeypatch.setattr(MODULE, "shares_loopback", lambda client: False)
    with open_broker("container") as broker, redis.Redis.from_url(broker.address.url, retry=None) as client:
        assert client.set("a", "b")
        assert broker.control is not None
        asyncio.run(broker.control.kill())
        asyncio.run(broker.control.start())
        assert client.dbsize() == 0
        (one,) = containers()
        assert [port["IP"] for port in one["Ports"]] == ["127.0.0.1"]
        port = broker.address.port
        with pytest.raises(BrokerError, match=f"port {port} .* is taken"), open_broker(f"container:{port}"):
            pass
    assert containers() == []


def test_the_local_image_is_built_once_and_runs_the_embedded_server() -> None:
    first, second = build_image(), build_image()
    assert (first.name, second.built) == (local_image(), False)
    assert second.size_bytes > 1e6
    with open_broker("container", image=first.name) as broker, redis.Redis.from_url(broker.address.url) as client:
        assert client.info("server")["valkey_version"] == local_image().rpartition(":")[2]


def test_an_image_of_other_content_takes_the_name_and_the_old_one_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.grounds.local_image.local_image", lambda: "buslab-test:other")
    with engine() as client:
        build_image()
        old = client.images.get("buslab-test:other").id
        monkeypatch.setattr("sim.grounds.local_image.pack", lambda binary, libraries: pack(binary, libraries[:1]))
        assert build_image().built
        assert client.images.get("buslab-test:other").id != old
        assert old not in {image.id for image in client.images.list(all=True)}
        client.images.remove("buslab-test:other")
