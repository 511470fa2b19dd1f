"""Pub/Sub on a cluster of three masters and three replicas: what moves, what is lost, and that both ends find the new owner."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from sim.errors import BrokerError
from sim.grounds.catalogue import open_broker
from sim.grounds.cluster import ClusterBroker
from sim.grounds.cluster_formation import await_whole, owner
from sim.pods.blocking_client import BusClient
from sim.wire.address import Address
from sim.wire.key_commands import KeyCommands
from sim.wire.slots import SLOTS, slot_of
from sim.wire.transports import Transport
from sim.wire.transports.pubsub import PubSub
from sim.wire.transports.sharded import Sharded
from tests.support.scenes import Ground
from tests.support.transport_contract import CONTRACT, Scene
from tests.support.transport_ends import Ends, Log, ends

pytestmark = pytest.mark.broker
Run = Callable[[Any], Any]
both_kinds = pytest.mark.parametrize("transport", [PubSub(), Sharded()], ids=["pubsub", "sharded"])


@pytest.fixture(scope="module")
def broker() -> Iterator[ClusterBroker]:
    with open_broker("cluster") as broker:
        assert isinstance(broker, ClusterBroker)
        yield broker


def of_each_master(count: int = 1) -> list[str]:
    """Channels of which each third of the slots has so many."""
    found: dict[int, list[str]] = {0: [], 1: [], 2: []}
    for n in range(1_000):
        found[slot_of(b"ch%d" % n) * 3 // SLOTS].append(f"ch{n}")
    return [channel for of_one in found.values() for channel in of_one[:count]]


def admin(address: Address) -> redis.Redis:
    return redis.Redis.from_url(address.url, decode_responses=True)


def client_names(broker: ClusterBroker) -> list[int]:
    """How many connections named `mine` each node has."""
    counts = []
    for node in broker.address.nodes:
        with admin(node) as client:
            counts.append(sum(row["name"] == "mine" for row in client.client_list()))
    return counts


@both_kinds
@pytest.mark.parametrize("keeps", CONTRACT, ids=lambda scene: scene.__name__)
def test_the_contract_is_kept_on_a_cluster(keeps: Scene, transport: Transport, broker: ClusterBroker) -> None:
    keeps(transport, Ground(broker))


def test_every_node_takes_a_classic_event_and_passes_it_to_subscribers_of_every_other(broker: ClusterBroker, run_async: Run) -> None:
    async def scene() -> None:
        nodes = len(broker.address.nodes)
        with ends(PubSub(), broker.address) as one:
            logs = []
            for number in range(nodes):
                one.address = broker.address.from_node(number)
                logs.append(await one.subscribe("everywhere"))
            answers = []
            for number in range(nodes):
                one.address = broker.address.from_node(number)
                publisher, said = await one.publisher()
                assert publisher.send(b"everywhere", b"%d" % number, number)
                await said.until(lambda said=said: said.answered != [])
                answers += said.answered
            for log in logs:
                await log.until(lambda log=log: len(log.heard) >= nodes)
                assert sorted(log.heard) == [b"%d" % n for n in range(nodes)]
            assert answers == [(number, 1) for number in range(nodes)], "each node counts its own subscriber only"

    run_async(scene())


def test_a_sharded_end_has_one_connection_to_each_master_it_needs(broker: ClusterBroker, run_async: Run) -> None:
    async def scene() -> None:
        channels = of_each_master(2)
        with ends(Sharded(), broker.address.from_node(4)) as one:  # begins at a replica
            await one.subscribe(*channels[:4], name="mine")  # of two masters
            assert client_names(broker) == [1, 1, 0, 0, 0, 0]
            await one.publisher(name="mine")
            assert client_names(broker) == [2, 2, 1, 0, 0, 0]

    run_async(scene())


def move_slot(broker: ClusterBroker, slot: int, *, to: int) -> None:
    """Give a slot to another master, as redis-cli does; it holds no keys."""
    nodes = broker.address.nodes
    source = owner(nodes, slot)
    with admin(source) as old, admin(nodes[to]) as new:
        ids = [client.execute_command("CLUSTER", "MYID") for client in (old, new)]
        new.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        old.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        for client in (new, old):
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])
    await_whole(nodes, replicas=3)


async def publish(one: Ends, publisher: Any, said: Log, channel: str, begin: int, count: int) -> None:
    """Publish so many and wait for their answers."""
    before = len(said.answered) + len(said.refused)
    for n in range(begin, begin + count):
        assert publisher.send(channel.encode(), b"%d" % n, n)
    await said.until(lambda: len(said.answered) + len(said.refused) == before + count)


def test_a_slot_on_its_way_is_still_its_old_owners(broker: ClusterBroker, run_async: Run) -> None:
    """A server never answers ASK for a channel, so nobody here follows one."""

    async def scene() -> None:
        channel = of_each_master()[2]
        slot, nodes = slot_of(channel.encode()), broker.address.nodes
        with ends(Sharded(), broker.address) as one, admin(nodes[2]) as old, admin(nodes[0]) as new:
            new.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", old.execute_command("CLUSTER", "MYID"))
            old.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", new.execute_command("CLUSTER", "MYID"))
            try:
                log = await one.subscribe(channel)
                publisher, said = await one.publisher()
                await publish(one, publisher, said, channel, 0, 10)
                await log.until(lambda: len(log.heard) == 10)
                assert (said.answered, said.refused) == ([(n, 1) for n in range(10)], [])
            finally:
                for client in (old, new):
                    client.execute_command("CLUSTER", "SETSLOT", slot, "STABLE")

    run_async(scene())


def test_when_a_slot_moves_hearing_is_lost_once_and_speaking_follows_in_order(broker: ClusterBroker, run_async: Run) -> None:
    async def scene() -> None:
        channel, other, _ = of_each_master()
        with ends(Sharded(), broker.address) as one:
            log, bystander = await one.subscribe(channel, other), await one.subscribe(other)
            publisher, said = await one.publisher()
            await publish(one, publisher, said, channel, 0, 100)
            await log.until(lambda: len(log.heard) == 100)
            await asyncio.to_thread(move_slot, broker, slot_of(channel.encode()), to=1)
            await log.until(lambda: log.lost != [])
            assert len(log.lost) == 1 and "took the channel" in log.lost[0]
            assert bystander.lost == [] and said.lost == []
            again = await one.subscribe(channel, other)
            await publish(one, publisher, said, channel, 100, 500)  # the first of them are answered with MOVED
            await again.until(lambda: len(again.heard) >= 500)
            assert again.heard == [b"%d" % n for n in range(100, 600)], "in order, each once"
            assert said.answered == [(n, 1) for n in range(600)] and said.refused == []
            assert publisher.in_flight == 0
            await asyncio.to_thread(move_slot, broker, slot_of(channel.encode()), to=0)

    run_async(scene())


@pytest.mark.parametrize("pace", [0, 1])
def test_a_slot_moves_under_load_and_nothing_is_heard_twice_or_out_of_order(broker: ClusterBroker, run_async: Run, pace: int) -> None:
    async def scene() -> None:
        channel = of_each_master(3)[pace]
        logs: list[Log] = []
        with ends(Sharded(), broker.address) as one:
            logs.append(await one.subscribe(channel))
            publisher, said = await one.publisher()
            moving = asyncio.ensure_future(asyncio.to_thread(move_slot, broker, slot_of(channel.encode()), to=1))
            sent = 0
            while not moving.done() or sent < 500:
                for _ in range(5):
                    assert publisher.send(channel.encode(), b"%d" % sent, sent)
                    sent += 1
                await asyncio.sleep(0)
                if logs[-1].lost:
                    logs.append(await one.subscribe(channel))
                if publisher.in_flight > 1_000:
                    await said.until(lambda: publisher.in_flight < 500)
            await moving
            await said.until(lambda: publisher.in_flight == 0)
            if logs[-1].lost:
                logs.append(await one.subscribe(channel))
            await publish(one, publisher, said, channel, sent, 1)
            await logs[-1].until(lambda: logs[-1].heard[-1:] == [b"%d" % sent])
            heard = [int(payload) for log in logs for payload in log.heard]
            assert heard == sorted(set(heard)), "in order, each once"
            assert said.refused == [] and sorted(token for token, _ in said.answered) == list(range(sent + 1))
            missing = sent + 1 - len(heard)
            assert missing == sum(receivers == 0 for _, receivers in said.answered), "who was missed, the broker says so"
            await asyncio.to_thread(move_slot, broker, slot_of(channel.encode()), to=0)

    run_async(scene())


def test_a_blocking_client_asks_for_the_master_and_follows_a_slot_that_moves(broker: ClusterBroker, run_async: Run) -> None:
    async def scene() -> None:
        channel = "config.cache.invalidate"
        at = slot_of(channel.encode()) * 3 // SLOTS
        with ends(Sharded(), broker.address) as one:
            log = await one.subscribe(channel)
            client = BusClient(broker.address.from_node(5), source="api-gateway", channel_prefix="", batch_size=1, transport=Sharded())
            first = await asyncio.to_thread(client.call, channel, {"pattern": "*"})
            await log.until(lambda: len(log.heard) == 1)
            await asyncio.to_thread(move_slot, broker, slot_of(channel.encode()), to=(at + 1) % 3)
            await log.until(lambda: log.lost != [])
            again = await one.subscribe(channel)
            second = await asyncio.to_thread(client.call, channel, {"pattern": "*"})
            await again.until(lambda: len(again.heard) == 1)
            assert [(made.outcome, made.receivers) for made in (first, second) if made] == [("acknowledged", 1)] * 2
            await asyncio.to_thread(client.close)
            await asyncio.to_thread(move_slot, broker, slot_of(channel.encode()), to=at)

    run_async(scene())


def test_a_command_goes_where_its_key_is_and_follows_it(broker: ClusterBroker, run_async: Run) -> None:
    async def scene() -> None:
        commands = KeyCommands(broker.address, client_name="mine")
        keys = of_each_master()
        for key in keys:
            assert await commands.command("SET", key, "1", "NX", "EX", "5") == b"OK"
            assert await commands.command("EVAL", "return redis.call('get', KEYS[1])", "1", key) == b"1"
            assert await commands.command("DEL", key) == 1
        assert client_names(broker)[:3] == [1, 1, 1]
        slot = slot_of(keys[0].encode())
        await asyncio.to_thread(move_slot, broker, slot, to=2)
        assert await commands.command("SET", keys[0], "2", "EX", "5") == b"OK"
        assert await commands.command("DEL", keys[0]) == 1
        await asyncio.to_thread(move_slot, broker, slot, to=0)
        commands.abort()

    run_async(scene())


@both_kinds
def test_after_a_failover_both_ends_find_the_promoted_replica(transport: Transport, run_async: Run) -> None:
    async def scene(broker: ClusterBroker) -> None:
        channels = of_each_master()
        with ends(transport, broker.address) as one:
            log = await one.subscribe(*channels)
            publisher, said = await one.publisher()
            dead = await broker.kill_master(channels[0])
            await log.until(lambda: log.lost != [])
            await said.until(lambda: said.lost != [])
            await broker.promoted()
            again = await one.subscribe(*channels)
            publisher, said = await one.publisher()
            for channel in channels:
                await publish(one, publisher, said, channel, 0, 100)
            await again.until(lambda: len(again.heard) >= 300)
            assert sorted(again.heard) == sorted(3 * [b"%d" % n for n in range(100)])
            assert said.answered == 3 * [(n, 1) for n in range(100)]
            assert (len(log.lost), again.lost) == (1, [])
            assert owner([node for node in broker.address.nodes if node != dead], slot_of(channels[0].encode())) != dead

    with open_broker("cluster") as broker:
        assert isinstance(broker, ClusterBroker)
        run_async(scene(broker))


def test_where_no_replica_can_take_over_opening_says_which_master_is_gone(run_async: Run) -> None:
    async def scene(address: Address) -> None:
        with ends(Sharded(), address) as one:
            with pytest.raises(BrokerError, match="not reachable"):
                await one.subscribe("c")
            with pytest.raises(BrokerError, match="not reachable"):
                await one.publisher()

    with open_broker("cluster:1") as broker:
        assert isinstance(broker, ClusterBroker)
        run_async(broker.kill())
        run_async(scene(broker.address))
