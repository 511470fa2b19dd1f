"""Servers that have less than Redis: commands renamed away, as proxies and managed services do, and users without a password."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from sim.pods.blocking_client import BusClient
from sim.record.run_info import read_info
from sim.results.checkers import judge
from sim.results.opened_run import open_run
from sim.run.steps import Status, run_scenario
from sim.scenario.file import Scenario
from sim.wire.address import Address, parse_address
from sim.wire.command_client import CommandClient
from tests.support.pod_process import running_pod
from tests.support.strange_server import client_of, server_without

pytestmark = pytest.mark.broker
Small = Callable[..., Scenario]
NOTES = {
    "CLIENT": ("CLIENT SETNAME", "CLIENT LIST"),
    "INFO": ("INFO",),
    "CONFIG": (),  # only asked where there is no counter of cuts
    "PUBSUB": ("PUBSUB NUMSUB",),
    "PING": None,  # probes of the lab need none, but a keep-alive would
    "CLUSTER": (),
    "SCAN": (),
}


@pytest.mark.parametrize("lacking", [("CLIENT",), ("INFO",), ("CONFIG",), ("PUBSUB",), ("PING",), ("CLIENT", "INFO", "CONFIG", "PUBSUB")])
def test_a_run_goes_on_without_them_and_notes_it(small: Small, tmp_path: Path, lacking: tuple[str, ...]) -> None:
    with server_without(*lacking, folder=tmp_path) as address:
        folder = run_scenario(small("load.driver=pods"), on=address.url, out=tmp_path / "run")
    notes = read_info(folder / "run.json").notes
    for command in lacking:
        for asked in NOTES[command] or ():
            assert [note for note in notes if f"ask {asked} (" in note and "unknown" in note], notes
    run = open_run(folder)
    assert len(run.ledger()) > 0
    assert judge(run).checkers["ledger"].verdict == "valid"


def test_locust_goes_on_without_client(small: Small, tmp_path: Path) -> None:
    with server_without("CLIENT", folder=tmp_path) as address:
        folder = run_scenario(small("load.driver=locust"), on=address.url, out=tmp_path / "run")
    assert any("CLIENT SETNAME" in note for note in read_info(folder / "run.json").notes)
    assert judge(open_run(folder)).checkers["ledger"].verdict == "valid"


def test_a_pod_connects_without_client(tmp_path: Path) -> None:
    with server_without("CLIENT", folder=tmp_path) as address, running_pod("music-service", REDIS_URL=f"{address.url}\n") as pod:
        pod.until("connected")
        assert pod.end() == 0
        assert [line for line in pod.log if line["event"] == "disconnected" and "reason" in line] == []


@pytest.mark.parametrize("kind", ["sharded"])
def test_shards_are_heard_at_a_server_without_cluster(small: Small, tmp_path: Path, kind: str) -> None:
    with server_without("CLUSTER", folder=tmp_path) as address:
        folder = run_scenario(small("load.driver=pods", f"bus.transport={kind}"), on=address.url, out=tmp_path / "run")
    assert judge(open_run(folder)).checkers["ledger"].verdict == "valid"


USERS = ["app@", "app:@", "ann:hunter2@", "%61pp@", ":@", ""]


@pytest.mark.parametrize("user", USERS)
def test_both_drivers_are_the_user_that_redis_py_is(own_server: tuple[Address, redis.Redis], run_async: Any, user: str) -> None:
    address, server = own_server
    rights: dict[str, Any] = {"enabled": True, "commands": ["+@all"], "keys": ["*"], "channels": ["*"], "reset": True}
    server.acl_setuser("app", nopass=True, **rights)
    server.acl_setuser("ann", passwords=["+hunter2"], **rights)
    there = parse_address(f" redis://{user}127.0.0.1:{address.port}\n")
    expected = redis.Redis.from_url(there.url, protocol=2).execute_command("ACL", "WHOAMI")

    async def ours() -> bytes:
        client = CommandClient(there, name="buslab-test")
        try:
            answer: bytes = await client.ask("ACL", "WHOAMI")
            return answer
        finally:
            client.close()

    assert run_async(ours()) == expected
    client = BusClient(there, source="music-service", publisher="locusts")
    client.connect()
    assert {one["user"] for one in server.client_list() if one["name"] == "buslab-locusts"} == {expected.decode()}
    client.close()


def test_every_connection_of_a_run_is_the_user_of_the_url(small: Small, tmp_path: Path, own_server: tuple[Address, redis.Redis]) -> None:
    address, server = own_server
    server.acl_setuser("app", enabled=True, nopass=True, commands=["+@all"], keys=["*"], channels=["*"], reset=True)
    server.client_setname("the-test")
    admin = client_of(address)
    admin.client_setname("the-test")
    seen: Counter[tuple[bool, str]] = Counter()

    def look(status: Status) -> None:
        if status.phase == "run":
            seen.update((one["name"].startswith("buslab-"), one["user"]) for one in admin.client_list() if one["name"] != "the-test")

    url = f"redis://app@127.0.0.1:{address.port}"
    run_scenario(small("load.driver=locust"), on=url, out=tmp_path / "run", watch=look)
    assert {user for _, user in seen} == {"app"}
    server.acl_setuser("default", enabled=False)
    try:
        run_scenario(small("load.driver=pods"), on=url, out=tmp_path / "without-default")
    finally:
        redis.Redis.from_url(url).execute_command("ACL", "SETUSER", "default", "on", "nopass", "+@all")
    admin.close()
