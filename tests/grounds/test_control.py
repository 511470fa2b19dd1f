"""The contract that every ground's control keeps: what kill, stop, freeze, thaw and start do, as a client of the server sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sim.errors import BrokerError, BrokerUnreachable
from sim.wire.command_client import CommandClient
from sim.wire.connection import Wire, open_wire
from tests.support.scenes import ON_REAL, Ground, until

KEY = "bar"  # of a slot that the first of three masters serves: questions go to the first node
CONTAINER = [pytest.mark.broker, pytest.mark.container]
HURT = pytest.mark.parametrize(
    "ground",
    ["model", ON_REAL, pytest.param("cluster", marks=pytest.mark.broker), pytest.param("container", marks=CONTAINER)],
    indirect=True,
)
ENDS = pytest.mark.parametrize("end", ["kill", "stop"])


@asynccontextmanager
async def connected(ground: Ground) -> AsyncIterator[tuple[Wire, list[str]]]:
    """An idle connection to the server, and what is said when it goes."""
    wire, lost = await open_wire(ground.address, client_name="idle"), []
    wire.on_lost = lost.append
    try:
        yield wire, lost
    finally:
        wire.abort()


async def answers(ground: Ground) -> bool:
    """Whether a new client is let in and answered."""
    asker = CommandClient(ground.address, name="new")
    try:
        return bool(await asker.ask("PING") == b"PONG")
    except BrokerError:
        return False
    finally:
        asker.close()


@HURT
@ENDS
def test_who_is_connected_when_the_server_ends_is_told_once_and_nobody_gets_in(ground: Ground, end: str) -> None:
    async def scene() -> None:
        control = ground.control
        async with connected(ground) as (wire, lost):
            assert await answers(ground)
            await getattr(control, end)()
            await until(lambda: lost != [])
            await getattr(control, end)()  # nothing left to end
            assert len(lost) == 1
            assert wire.is_gone
            with pytest.raises(BrokerUnreachable):
                await open_wire(ground.address, client_name="late")

    ground.run(scene())


@HURT
@ENDS
@pytest.mark.parametrize("frozen", [False, True], ids=["running", "frozen"])
def test_a_start_comes_after_the_end_before_it_that_nobody_waits_for(ground: Ground, end: str, frozen: bool) -> None:
    """As when a run is interrupted in a fault that has just begun; a container was ended after its start."""

    async def scene() -> None:
        control = ground.control
        if frozen:
            await control.freeze()
        ending = asyncio.ensure_future(getattr(control, end)())
        await asyncio.sleep(0.01)
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)
        await control.start()
        await control.thaw()
        await asyncio.sleep(0.3)
        assert await answers(ground)

    ground.run(scene())


@HURT
@ENDS
def test_a_server_that_starts_again_is_empty_and_at_the_same_address(ground: Ground, end: str) -> None:
    async def scene() -> None:
        control = ground.control
        await ground.ask("SET", KEY, "value")
        assert await ground.ask("GET", KEY) == b"value"
        await getattr(control, end)()
        await control.start()
        assert await ground.ask("GET", KEY) is None
        await ground.ask("SET", KEY, "again")
        await control.start()  # it runs: nothing happens to it
        assert await ground.ask("GET", KEY) == b"again"

    ground.run(scene())


@HURT
def test_a_frozen_server_keeps_its_connections_and_answers_when_it_is_thawed(ground: Ground) -> None:
    async def scene() -> None:
        control = ground.control
        async with connected(ground) as (wire, lost):
            await control.freeze()
            await control.freeze()
            asked = asyncio.ensure_future(wire.command("PING"))
            await asyncio.sleep(0.3)
            assert not asked.done(), "it is silent"
            assert lost == [], "and says no goodbye"
            await control.thaw()
            assert await asked == b"PONG"
            await control.thaw()
            assert await answers(ground)

    ground.run(scene())


@HURT
def test_a_frozen_server_can_be_killed_and_runs_when_it_starts(ground: Ground) -> None:
    async def scene() -> None:
        control = ground.control
        async with connected(ground) as (_, lost):
            await control.freeze()
            await control.kill()
            await until(lambda: lost != [])
            await control.start()
            assert await answers(ground)

    ground.run(scene())


@HURT
def test_a_server_that_does_not_run_is_neither_frozen_nor_thawed_nor_ended(ground: Ground) -> None:
    async def scene() -> None:
        control = ground.control
        await control.kill()
        for act in (control.kill, control.stop, control.freeze, control.thaw):
            await act()
        assert not await answers(ground)
        await control.start()
        assert await answers(ground), "not frozen by what was done to it while it was down"

    ground.run(scene())


@HURT
def test_a_subscription_is_gone_after_a_restart_and_who_subscribes_again_hears(ground: Ground) -> None:
    async def scene() -> None:
        control = ground.control
        async with connected(ground) as (wire, lost):
            assert await wire.command("SUBSCRIBE", "c") == [b"subscribe", b"c", 1]
            assert await ground.ask("PUBLISH", "c", "x") == 1
            await control.kill()
            await until(lambda: lost != [])
            await control.start()
            assert await ground.ask("PUBLISH", "c", "x") == 0
        async with connected(ground) as (wire, _):
            await wire.command("SUBSCRIBE", "c")
            assert await ground.ask("PUBLISH", "c", "x") == 1

    ground.run(scene())


@HURT
def test_a_killed_server_closes_those_that_wait_for_its_answer(ground: Ground) -> None:
    async def scene() -> None:
        control = ground.control
        async with connected(ground) as (wire, _):
            await control.freeze()
            asked = asyncio.ensure_future(wire.command("PING"))
            await asyncio.sleep(0.1)
            await control.kill()
            with pytest.raises(BrokerUnreachable):
                await asked

    ground.run(scene())
