"""Client libraries of several languages publish and hear through a tap, and what it tells is what they said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from sim.grounds.embedded import embedded
from sim.record.schema import event_key
from tests.support.tap_witness import tapping

pytestmark = pytest.mark.broker
SUPPORT = Path(__file__).parents[1] / "support"
NODE_REDIS = "5.8.2"
GOPATH = Path("/usr/share/gocode")
CHANNEL, COUNT = "shop:orders", 200


def in_c(folder: Path) -> list[str]:
    if not (shutil.which("gcc") and Path("/usr/include/hiredis/hiredis.h").exists()):
        pytest.skip("needs gcc and Debian's libhiredis-dev")
    subprocess.run(["gcc", "-O1", "-o", folder / "client", SUPPORT / "tap_client.c", "-lhiredis"], check=True, timeout=120)
    return [str(folder / "client")]


def in_go(folder: Path) -> list[str]:
    if not (shutil.which("go") and (GOPATH / "src/github.com/gomodule/redigo").exists()):
        pytest.skip("needs Debian's golang-go and golang-github-gomodule-redigo-dev")
    environment = os.environ | {"GO111MODULE": "off", "GOPATH": str(GOPATH), "GOCACHE": str(folder / "cache")}
    subprocess.run(["go", "build", "-o", folder / "client", SUPPORT / "tap_client.go"], check=True, timeout=300, env=environment)
    return [str(folder / "client")]


def in_node(folder: Path) -> list[str]:
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not on this machine")
    options = ["--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
    subprocess.run(["npm", "install", *options, f"redis@{NODE_REDIS}"], cwd=folder, check=True, timeout=300, capture_output=True)
    shutil.copy(SUPPORT / "tap_client.mjs", folder)
    return ["node", str(folder / "tap_client.mjs")]


def through(make: Callable[[Path], list[str]], name: str, folder: Path) -> None:
    argv = make(folder)
    with embedded() as broker, tapping(broker.address) as (port, told, _):
        done = subprocess.run([*argv, str(port), CHANNEL, str(COUNT)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    heard = [event_key(json.loads(line)["eventId"]) for line in done.stdout.splitlines()]
    names = {number: one.client_name for number, one in told.connections.items()}
    assert len(heard) == COUNT
    assert [(names[number], one.key) for number, _, one in told.pushes] == [(f"{name}-hears", key) for key in heard]
    sent = [(names[number], one.key, one.outcome, one.receivers, one.channel.decode()) for number, one in told.publishes]
    assert sorted(sent) == sorted((f"{name}-says", key, "acknowledged", 1, CHANNEL) for key in heard)
    assert all(end == "client" for end in told.ends.values()), told.ends
    assert all(not one.unread_to_server and not one.unread_to_client for one in told.connections.values())


@pytest.mark.deep
def test_a_c_program_on_hiredis(tmp_path: Path) -> None:
    through(in_c, "hiredis", tmp_path)


@pytest.mark.deep
def test_a_go_program_on_redigo(tmp_path: Path) -> None:
    through(in_go, "redigo", tmp_path)


@pytest.mark.deep
def test_a_node_program_on_node_redis(tmp_path: Path) -> None:
    through(in_node, "node-redis", tmp_path)


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_in_both_protocols_with_sharded_channels_and_streams(protocol: int) -> None:
    with embedded() as broker, tapping(broker.address) as (port, told, _):
        client = redis.Redis(port=port, protocol=protocol, client_name="py", decode_responses=True)
        with client, client.pubsub() as hears:
            hears.subscribe("plain")
            hears.psubscribe("pat*")
            hears.ssubscribe("sharded")
            for _ in range(3):
                assert hears.get_message(timeout=5)
            pipe = client.pipeline(transaction=True)
            for channel in ("plain", "pattern", "plain"):
                pipe.publish(channel, json.dumps({"eventId": channel}))
            assert pipe.execute() == [1, 1, 1]
            assert client.spublish("sharded", json.dumps({"eventId": "sharded"})) == 1
            messages = [hears.get_message(timeout=5) for _ in range(3)]
            messages.append(hears.get_sharded_message(timeout=5) or hears.get_message(timeout=5))
            entry = client.xadd("stream", {"e": json.dumps({"eventId": "entry"})})
            client.xgroup_create("stream", "g", id="0")
            assert client.xreadgroup("g", "c", {"stream": ">"})
            client.xack("stream", "g", entry)
    assert [json.loads(one["data"])["eventId"] for one in messages if one] == ["plain", "pattern", "plain", "sharded"]
    sent = [(one.command, one.key, one.receivers) for _, one in told.publishes]
    keys = {name: event_key(name) for name in ("plain", "pattern", "sharded", "entry")}
    assert sent == [
        *(("publish", keys[name], 1) for name in ("plain", "pattern", "plain")),
        ("spublish", keys["sharded"], 1),
        ("xadd", keys["entry"], -1),
    ]
    assert [(one.kind, one.key) for _, _, one in told.pushes] == [
        ("message", keys["plain"]),
        ("pmessage", keys["pattern"]),
        ("message", keys["plain"]),
        ("smessage", keys["sharded"]),
        ("entry", keys["entry"]),
    ]
    assert told.handled == [(b"stream", b"g", (entry.encode(),))]
    assert {one.protocol for one in told.connections.values()} == {protocol}
