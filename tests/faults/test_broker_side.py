"""Faults on the side of the broker do what they say, and take it back: on the model as on a real server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from sim.errors import BrokerError, BrokerRefused, ScenarioError, UsageError
from sim.faults.catalogue import FAULTS, Fault
from sim.faults.world import World
from sim.grounds.catalogue import open_broker
from sim.machine.clock import now_ns
from sim.run.fit import check_ground
from sim.scenario.file import load_scenario
from sim.wire.address import join_nodes, parse_address
from sim.wire.command_client import CommandClient
from sim.wire.connection import Wire, open_wire

MS = 1_000_000
PODS = ("music-service-0", "music-service-1", "api-gateway-0")
SERVICES = {"music-service": PODS[:2], "api-gateway": PODS[2:]}
LIMIT = "client-output-buffer-limit"
BOUND_S = 60


@dataclass
class Stage:
    """A broker, what a fault may touch of it, and the connections of three pods."""

    broker: Any
    world: World
    wires: dict[str, Wire]
    lost: list[str]

    async def connect(self, name: str) -> Wire:
        wire = self.wires[name] = await open_wire(self.broker.address, client_name=f"buslab-1f-{name}")
        wire.on_lost = lambda reason: self.lost.append(name)
        if wire.is_gone:  # by what is cutting, between the last answer and here
            self.lost.append(name)
        return wire

    async def lose(self, *names: str) -> None:
        """Return when just these connections were lost, in any order."""
        async with asyncio.timeout(BOUND_S):
            while len(self.lost) < len(names):
                await asyncio.sleep(0.005)
        assert sorted(self.lost) == sorted(names)
        self.lost.clear()

    async def setting(self, name: str) -> str:
        answer = await self.world.servers[0].ask("CONFIG", "GET", name)
        return str(answer[1].decode())

    def again(self) -> World:
        """Return what another occasion may touch."""
        return replace(self.world, kept={})


Scene = Callable[[Stage], Coroutine[Any, Any, None]]
Play = Callable[[Scene], None]


@contextlib.asynccontextmanager
async def staged(broker: Any) -> AsyncIterator[Stage]:
    asker = CommandClient(broker.address, name="buslab-1f-faults")
    world = World(
        broker=broker.control,
        ask=asker.ask,
        pods={name: None for name in PODS},  # type: ignore[misc]  # none of these faults touches a pod itself
        services=SERVICES,
        servers=[asker],
    )
    stage = Stage(broker, world, {}, [])
    for pod in PODS:
        for use in ("sub", "pub"):
            await stage.connect(f"{pod}-{use}")
    await stage.connect("prober")
    try:
        yield stage
    finally:
        for wire in stage.wires.values():
            wire.close()
        asker.close()


REAL = [pytest.param("embedded", marks=pytest.mark.broker), pytest.param("container", marks=[pytest.mark.broker, pytest.mark.container])]


def play_on(on: str, scene: Scene) -> None:
    """Run a scene on a ground."""
    with open_broker(on) as broker, asyncio.Runner(loop_factory=broker.new_loop) as runner:

        async def whole() -> None:
            async with asyncio.timeout(BOUND_S), staged(broker) as stage:
                await scene(stage)

        runner.run(whole())


@pytest.fixture(params=["model", *REAL])
def play(request: pytest.FixtureRequest) -> Play:
    """Return what runs a scene on a ground."""
    return partial(play_on, request.param)


def fault(kind: str, **fields: Any) -> Fault:
    return FAULTS[kind](at_s=0, for_s=1, **fields)


@pytest.mark.parametrize(("kind", "use"), [("subscribers_cut", "sub"), ("publishers_cut", "pub")])
def test_a_cut_ends_one_kind_of_connection_of_the_chosen_pods_again_and_again(play: Play, kind: str, use: str) -> None:
    async def scene(stage: Stage) -> None:
        cut = fault(kind, pods=("music-service",), every_ms=20)
        await cut.begin(stage.world)
        names = [f"music-service-{number}-{use}" for number in range(2)]
        await stage.lose(*names)
        await stage.connect(names[0])
        await stage.lose(names[0])
        await cut.end(stage.world)
        await cut.end(stage.world)
        wire = await stage.connect(names[0])
        await asyncio.sleep(0.1)
        assert await wire.command("CLIENT", "ID")
        assert not stage.lost

    play(scene)


def test_a_stampede_begins_with_every_connection_of_every_pod_and_of_nobody_else(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        stampede = fault("reconnect_stampede")
        await stampede.begin(stage.world)
        await stage.lose(*(f"{pod}-{use}" for pod in PODS for use in ("sub", "pub")))
        await stampede.end(stage.world)
        wire = await stage.connect(f"{PODS[0]}-sub")
        assert await wire.command("CLIENT", "ID")
        assert not stage.lost

    play(scene)


def test_cutting_waits_through_a_broker_that_is_not_there(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        cut = fault("subscribers_cut", every_ms=20)
        await stage.world.broker.kill()  # type: ignore[union-attr]
        await stage.lose(*stage.wires)
        await cut.begin(stage.world)
        await asyncio.sleep(0.1)
        await stage.world.broker.start()  # type: ignore[union-attr]
        name = f"{PODS[0]}-sub"
        await stage.connect(name)
        await stage.lose(name)
        await cut.end(stage.world)

    play(scene)


@pytest.mark.parametrize("how", ["script", "pause"])
def test_a_slow_broker_lets_everybody_wait_as_long_as_a_stall(play: Play, how: str) -> None:
    async def scene(stage: Stage) -> None:
        wire = stage.wires["prober"]
        slow = fault("broker_slow", every_ms=1000, stall_ms=400, how=how)
        await slow.begin(stage.world)
        longest_ns, rounds = 0, 0
        while longest_ns < 300 * MS:  # the bound of the scene ends it when nothing stalls
            began_ns = now_ns()
            assert await wire.command("CLIENT", "ID")
            longest_ns = max(longest_ns, now_ns() - began_ns)
            rounds += 1
        await slow.end(stage.world)
        await slow.end(stage.world)
        assert await wire.command("CLIENT", "ID")

    play(scene)


def test_a_limit_is_what_it_was_when_the_fault_ends(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        before = await stage.setting(LIMIT)
        lowered = fault("buffer_limit", hard_bytes=1 << 20, soft_bytes=1 << 16, soft_s=7)
        await lowered.begin(stage.world)
        assert await stage.setting(LIMIT) == before.partition(" pubsub ")[0] + " pubsub 1048576 65536 7"
        await lowered.end(stage.world)
        assert await stage.setting(LIMIT) == before
        await stage.world.servers[0].ask("CONFIG", "SET", LIMIT, "pubsub 1 1 1")
        await lowered.end(stage.world)
        assert (await stage.setting(LIMIT)).endswith(" pubsub 1 1 1"), "it ended before, and has nothing left to take back"

    play(scene)


@pytest.mark.parametrize("first_ends_first", [True, False])
def test_of_two_limits_at_a_time_the_last_counts_and_nothing_stays(play: Play, first_ends_first: bool) -> None:
    async def scene(stage: Stage) -> None:
        before = await stage.setting(LIMIT)
        one, other, worlds = fault("buffer_limit", hard_bytes=1000), fault("buffer_limit", hard_bytes=2000), (stage.again(), stage.again())
        await one.begin(worlds[0])
        await other.begin(worlds[1])
        assert (await stage.setting(LIMIT)).endswith(" pubsub 2000 0 0")
        if first_ends_first:
            await one.end(worlds[0])
            assert (await stage.setting(LIMIT)).endswith(" pubsub 2000 0 0")
            await other.end(worlds[1])
        else:
            await other.end(worlds[1])
            assert (await stage.setting(LIMIT)).endswith(" pubsub 1000 0 0")
            await one.end(worlds[0])
        assert await stage.setting(LIMIT) == before

    play(scene)


def test_what_one_turn_queues_beyond_the_limit_cuts_who_hears_it_and_nobody_else(play: Play) -> None:
    """A server writes nothing before the end of a turn: no reader is fast enough."""

    async def scene(stage: Stage) -> None:
        lowered = fault("buffer_limit", hard_bytes=32_768)
        await lowered.begin(stage.world)
        hears, idle = f"{PODS[0]}-sub", f"{PODS[1]}-sub"
        assert await stage.wires[hears].command("SUBSCRIBE", "big")
        assert await stage.wires[idle].command("SUBSCRIBE", "small")
        # Held back by a pause, all of it comes in one turn. 15,000 bytes: more than that a server may keep once for all.
        await stage.world.ask("CLIENT", "PAUSE", "60000", "WRITE")
        publishers = [wire for name, wire in stage.wires.items() if name.endswith("-pub")]
        answers = [asyncio.ensure_future(wire.command("PUBLISH", "big", "x" * 15_000)) for wire in publishers for _ in range(4)]
        await asyncio.sleep(0.1)
        await stage.world.ask("CLIENT", "UNPAUSE")
        await asyncio.gather(*answers)
        await stage.lose(hears)
        await lowered.end(stage.world)

    play(scene)


def test_lost_keys_are_lost_and_subscriptions_stay(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        wire = stage.wires["prober"]
        assert await stage.wires[f"{PODS[0]}-sub"].command("SUBSCRIBE", "c")
        await wire.command("SET", "lock", "1")
        lost = fault("keys_lost")
        await lost.begin(stage.world)
        assert await wire.command("GET", "lock") is None
        assert await wire.command("PUBLISH", "c", "x") == 1
        await wire.command("SET", "lock", "2")
        await lost.end(stage.world)
        assert await wire.command("GET", "lock") == b"2", "once"
        repeated = fault("keys_lost", every_ms=10)
        await repeated.begin(stage.world)
        for _ in range(3):
            await wire.command("SET", "lock", "3")
            while await wire.command("GET", "lock"):
                await asyncio.sleep(0.005)
        await repeated.end(stage.world)

    play(scene)


@pytest.mark.broker
@pytest.mark.parametrize("on", ["embedded", pytest.param("container", marks=pytest.mark.container)])
def test_memory_that_is_short_evicts_every_key_and_is_given_back(on: str) -> None:
    async def scene(stage: Stage) -> None:
        wire, settings = stage.wires["prober"], [await stage.setting(name) for name in ("maxmemory", "maxmemory-policy")]
        assert await stage.wires[f"{PODS[0]}-sub"].command("SUBSCRIBE", "c")
        for number in range(300):
            await wire.command("SET", f"lock-{number}", "1")
        lost = fault("keys_lost", how="evict")
        await lost.begin(stage.world)
        assert await wire.command("EXISTS", *(f"lock-{number}" for number in range(300))) == 0
        assert int(await stage.setting("maxmemory")) > 0
        assert await stage.setting("maxmemory-policy") == "allkeys-random"
        assert int(_stat(await wire.command("INFO", "stats"), "evicted_keys")) >= 300, "not deleted: evicted"
        assert await wire.command("PUBLISH", "c", "x") == 1
        assert await wire.command("SET", "lock", "2", "NX") == b"OK", "a server whose memory is short still takes writes"
        await lost.end(stage.world)
        await lost.end(stage.world)
        assert [await stage.setting(name) for name in ("maxmemory", "maxmemory-policy")] == settings
        assert await wire.command("KEYS", "*") == [b"lock"], "what the fault wrote is gone"
        repeated = fault("keys_lost", how="evict", every_ms=10)
        world = stage.again()
        await repeated.begin(world)
        for _ in range(3):
            await wire.command("SET", "lock", "3")
            while await wire.command("EXISTS", "lock"):
                await asyncio.sleep(0.005)
        await repeated.end(world)
        assert await wire.command("DBSIZE") == 0

    play_on(on, scene)


@pytest.mark.broker
def test_every_master_of_a_cluster_evicts() -> None:
    async def scene(broker: Any) -> None:
        clients = [CommandClient(node, name="test") for node in broker.address.nodes]
        world = World(broker=broker.control, ask=clients[0].ask, pods={}, services={}, servers=clients)
        keys = 0
        for number in range(60):
            for client in clients:
                with contextlib.suppress(BrokerRefused):  # MOVED
                    keys += await client.ask("SET", f"lock-{number}", "1") == b"OK"
        assert keys == 60
        lost = fault("keys_lost", how="evict")
        await lost.begin(world)
        for client in clients:
            assert not [key for key in await client.ask("KEYS", "lock-*")] or (await client.ask("ROLE"))[0] == b"slave"
        await lost.end(world)
        masters = [client for client in clients if (await client.ask("ROLE"))[0] == b"master"]
        assert [await client.ask("DBSIZE") for client in masters] == [0, 0, 0]
        assert {(await client.ask("CONFIG", "GET", "maxmemory"))[1] for client in clients} == {b"0"}
        for client in clients:
            client.close()

    with open_broker("cluster") as broker, asyncio.Runner(loop_factory=broker.new_loop) as runner:
        runner.run(scene(broker))


def _stat(info: bytes, name: str) -> bytes:
    return next(line for line in info.splitlines() if line.startswith(name.encode() + b":")).partition(b":")[2]


@pytest.mark.parametrize("how", ["maxclients", "password"])
@pytest.mark.parametrize("asker_stays", [True, False])
def test_nobody_is_let_in_until_the_fault_ends(play: Play, how: str, asker_stays: bool) -> None:
    """Also where we lost our own connection, and would have to be let in to heal."""

    async def scene(stage: Stage) -> None:
        settings = [await stage.setting(name) for name in ("maxclients", "requirepass")]
        refused = fault("connections_refused", how=how)
        await refused.begin(stage.world)
        await stage.lose(*(f"{pod}-{use}" for pod in PODS for use in ("sub", "pub")))
        with pytest.raises(BrokerError):
            await stage.connect(f"{PODS[0]}-sub")
        if not asker_stays:
            stage.world.servers[0].close()  # type: ignore[attr-defined]
        await refused.end(stage.world)
        await refused.end(stage.world)
        assert await (await stage.connect(f"{PODS[0]}-pub")).command("CLIENT", "ID")
        assert [await stage.setting(name) for name in ("maxclients", "requirepass")] == settings
        stage.world.servers[0].close()  # type: ignore[attr-defined]
        assert await stage.world.ask("CLIENT", "ID"), "nor does it ask for a password that the server does not have"

    play(scene)


def test_a_broker_that_started_anew_meanwhile_is_healed_too(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        refused = fault("connections_refused", how="password")
        await refused.begin(stage.world)
        await stage.world.broker.kill()  # type: ignore[union-attr]
        await stage.world.broker.start()  # type: ignore[union-attr]
        await refused.end(stage.world)
        assert await (await stage.connect(f"{PODS[0]}-pub")).command("CLIENT", "ID")
        assert await stage.setting("requirepass") == ""

    play(scene)


def test_a_stop_and_a_start_end_every_connection_and_keep_the_address(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        stopped = fault("broker_stop")
        await stopped.begin(stage.world)
        await stage.lose(*stage.wires)
        with pytest.raises(BrokerError):
            await stage.connect("prober")
        await stopped.end(stage.world)
        await stopped.end(stage.world)
        assert await (await stage.connect("prober")).command("CLIENT", "ID")

    play(scene)


def test_an_end_without_a_beginning_hurts_nobody(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        for kind in ("broker_slow", "broker_stop", "buffer_limit", "connections_refused", "keys_lost", "subscribers_cut"):
            await fault(kind, **({"hard_bytes": 1} if kind == "buffer_limit" else {})).end(stage.world)
        assert await stage.wires["prober"].command("CLIENT", "ID")
        assert not stage.lost

    play(scene)


@pytest.mark.broker
def test_a_failover_promotes_a_replica_and_gives_the_old_master_back() -> None:
    async def scene(broker: Any) -> None:
        world = World(broker=broker.control, ask=None, pods={}, services={})  # type: ignore[arg-type]
        failover = fault("broker_failover", channel="aiponge:events:x")
        await failover.begin(world)
        gone = [node for node in broker.address.nodes if not await answers(node)]
        assert len(gone) == 1
        await failover.end(world)
        await failover.end(world)
        asker = CommandClient(gone[0], name="test")
        assert (await asker.ask("ROLE"))[0] == b"slave"
        asker.close()

    with open_broker("cluster") as broker, asyncio.Runner(loop_factory=broker.new_loop) as runner:
        runner.run(scene(broker))


async def answers(node: Any) -> bool:
    asker = CommandClient(node, name="test")
    try:
        await asker.ask("PING")
    except BrokerRefused:
        return True
    except BrokerError:
        return False
    finally:
        asker.close()
    return True


def test_a_ground_that_cannot_do_it_refuses_before_anything_starts() -> None:
    alone = SimpleNamespace(ground="embedded", control=object(), address=parse_address("redis://127.0.0.1:7000"))
    several = SimpleNamespace(
        ground="cluster", control=object(), address=join_nodes([parse_address(f"redis://127.0.0.1:{port}") for port in (7000, 7001)])
    )
    foreign = SimpleNamespace(ground="redis://127.0.0.1:7000", control=None, address=alone.address)
    with pytest.raises(UsageError, match=r"embedded has no replica .* broker_failover with --on cluster"):
        check_ground(load_scenario("broker_failover"), alone)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"cluster has several nodes.* connections_refused with --on embedded"):
        check_ground(load_scenario("connections_refused"), several)  # type: ignore[arg-type]
    check_ground(load_scenario("subscribers_cut"), several)  # type: ignore[arg-type]
    model = SimpleNamespace(ground="model", control=object(), address=alone.address)
    evicted = load_scenario("keys_lost", settings=("faults=[{kind='keys_lost',at_s=1,for_s=1,how='evict'}]",))
    with pytest.raises(UsageError, match=r"the model keeps no account of memory, .*: run the fault keys_lost with --on embedded"):
        check_ground(evicted, model)  # type: ignore[arg-type]
    check_ground(evicted, several)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="not ours to hurt"):
        check_ground(evicted, foreign)  # type: ignore[arg-type]
    for name in FAULTS:
        if "broker" in load_scenario(name).faults[0].needs:
            with pytest.raises(UsageError, match="not ours to hurt"):
                check_ground(load_scenario(name), foreign)  # type: ignore[arg-type]


def test_stalls_without_a_pause_between_them_are_refused() -> None:
    settings = ('faults=[{kind="broker_slow", at_s=1, for_s=2, every_ms=100, stall_ms=100}]',)
    with pytest.raises(ScenarioError, match=r"stall_ms = 100 leaves no time .* every_ms \(now 100\)"):
        load_scenario("baseline", settings=settings)
