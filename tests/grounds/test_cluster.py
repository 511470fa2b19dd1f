"""Ground `cluster`: whole when it is entered, mended after every hurt, and clear about what is wrong."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from pathlib import Path

import psutil
import pytest
import redis

from sim.errors import BrokerError, UsageError
from sim.grounds import cluster_formation as formation
from sim.grounds.catalogue import open_broker
from sim.grounds.cluster import ClusterBroker
from sim.grounds.cluster_formation import await_whole, owner
from sim.grounds.embedded import FOLDER_PREFIX
from sim.wire.slots import SLOTS, slot_of

pytestmark = pytest.mark.broker


def of(broker: object) -> ClusterBroker:
    assert isinstance(broker, ClusterBroker)
    return broker


@pytest.mark.parametrize(
    ("on", "nodes", "ground"), [("cluster:1", 1, "cluster:1"), ("cluster:3", 6, "cluster"), ("cluster:4", 8, "cluster:4")]
)
def test_a_cluster_is_whole_when_it_is_entered(on: str, nodes: int, ground: str) -> None:
    with open_broker(on) as broker:
        masters = of(broker).masters
        assert (len(broker.address.nodes), broker.ground) == (nodes, ground)
        owners = [owner(broker.address.nodes, slot * SLOTS // masters) for slot in range(masters)]
        assert owners == list(broker.address.nodes[:masters])
        followed = []
        for node in broker.address.nodes:
            with redis.Redis.from_url(node.url, decode_responses=True) as client:
                assert "cluster_state:ok" in str(client.execute_command("CLUSTER", "INFO"))
                said = client.info("replication")
                assert said["role"] == "master" or said["master_link_status"] == "up"
                followed += [said["master_port"]] if said["role"] == "slave" else []
        assert sorted(followed) == ([] if masters == 1 else sorted(node.port for node in broker.address.nodes[:masters]))


def test_a_killed_master_is_replaced_and_comes_back_as_a_replica() -> None:
    async def scene(broker: ClusterBroker) -> None:
        dead = await broker.kill_master("c")
        with redis.Redis.from_url(dead.url, retry=None) as client, pytest.raises(redis.ConnectionError):
            client.ping()
        await broker.promoted()
        assert owner(broker.address.nodes, slot_of(b"c")) != dead
        await broker.start()
        with redis.Redis.from_url(dead.url) as client:
            assert client.info("replication")["role"] == "slave"
        await broker.kill()
        await broker.start()
        await broker.start()  # nothing, when it runs
        await_whole(broker.address.nodes, replicas=3)

    with open_broker("cluster") as broker:
        asyncio.run(scene(of(broker)))


def test_a_cluster_that_cannot_become_whole_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_broker("cluster") as broker:
        for node in broker.address.nodes:  # nobody takes over, however long this test takes
            with redis.Redis.from_url(node.url) as client:
                client.config_set("cluster-replica-no-failover", "yes")
        monkeypatch.setattr(formation, "READY_TIMEOUT_S", 0.3)
        asyncio.run(of(broker).kill_master("c"))
        with pytest.raises(BrokerError, match=r"6 nodes is not whole within 300 ms: .*(connect|reach)"):
            await_whole(broker.address.nodes)
        with pytest.raises(BrokerError, match=r"5 nodes is not whole within 300 ms: .* owns slots"):
            asyncio.run(of(broker).promoted())


def test_a_cluster_of_one_has_nobody_to_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_broker("cluster:1") as broker:
        address = asyncio.run(of(broker).kill_master("c"))
        assert address == broker.address
        with pytest.raises(BrokerError, match="nobody owns slot"):
            owner(broker.address.nodes, 0)
        asyncio.run(of(broker).start())
        assert owner(broker.address.nodes, 0) == address


@pytest.mark.parametrize("offset", [2, 10_003])
def test_a_taken_port_is_an_error_that_names_the_ports_and_nothing_is_left(offset: int) -> None:
    children, base = set(psutil.Process().children(recursive=True)), 22_600
    with (
        socket.create_server(("127.0.0.1", base + offset)),
        pytest.raises(BrokerError, match=f"ports {base} to {base + 5} .* cluster bus 10,000 above, is taken"),
        open_broker(f"cluster:3:{base}"),
    ):
        pass
    assert set(psutil.Process().children(recursive=True)) == children
    assert not list(Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}{psutil.Process().pid}-*"))


def test_a_cluster_takes_the_ports_it_is_given() -> None:
    with open_broker("cluster:1:22690") as broker:
        assert broker.address.port == 22_690


@pytest.mark.parametrize("text", ["0", "2", "11", "x", "-1", "3:", "3:80", "3:22696", "3:x", "1:22701", "٣"])
def test_a_shape_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"number of masters must be 1, or from 3 to 10|first port must be a number between 10000 and 22"):
        open_broker(f"cluster:{text}").__enter__()


def test_a_cluster_that_runs_already_is_reached_by_the_urls_of_its_nodes() -> None:
    with open_broker("cluster:3") as broker, open_broker(broker.address.urls) as same:
        assert same.address.nodes == broker.address.nodes
        assert same.control is None
