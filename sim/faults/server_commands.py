"""What faults do to a server by its own commands: end pods' connections, change a setting, keep it busy.

Rules
-----
1. Only connections of pods are ended, known by the names under which the server lists them (`Connections`).
2. A setting that several faults change at a time is what the last of them made it, and what it was at first when all have ended.
3. What is done once waits for a server that is away, to the end of the fault's window; what is done again and again skips it. What
   heals raises `BrokerUnreachable`, and is tried again when the server is back (`timeline`).
4. Nothing is sent to a server that a fault has frozen: it would carry it out when it is thawed, long after it was meant.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from sim.errors import BrokerError, BrokerRefused, BrokerSilent, BrokerUnreachable
from sim.faults.felt import RETRY_S
from sim.faults.world import Server, World
from sim.machine.clock import now_ns

USES = ("sub", "pub", "cmd")  # what a pod's connections are for, as their names end
SETTLED_S = 0.25  # pods are back when for so long no more connections came
MAX_SPIN_MS = 1000  # below a server's own limit of 5 s for scripts, and our patience of 2 s for an answer
# It spins for processor time, as a busy thread does, and does not wait for a TIME: since Redis 7 that stands still within a script.
SPIN = "local e=os.clock()+ARGV[1]/1000 for n=1,1e9 do if os.clock()>=e then break end end return 'done'"
# What a server says that lets nobody in, or answers nothing, for now.
_FOR_NOW = (" LOADING ", " BUSY ", " MASTERDOWN ", " CLUSTERDOWN ", " TRYAGAIN ", "maxclients", " NOAUTH ", "does not let us in")
_CLIENT = re.compile(rb"^id=(\d+) .*? name=buslab-[^- ]+-(\S+)", re.MULTILINE)


def is_away(error: BrokerError) -> bool:
    """Return whether a server is not there for now; it may be back later."""
    return isinstance(error, BrokerUnreachable) or any(word in f"{error} " for word in _FOR_NOW)


async def on_each(world: World, act: Callable[[Server], Awaitable[Any]], *, waiting: bool) -> list[Any]:
    """Act on every server at the same time, and return what each act returned; None for a server that is away.

    Parameters
    ----------
    act
        Returns 0 where there was nothing to be done.
    waiting
        Whether a server that is away is waited for, to the end of the fault's window.

    Raises
    ------
    BrokerError
        A server refuses; the others were acted on all the same.
    """
    outcomes = await asyncio.gather(*(_on(world, server, act, waiting) for server in world.servers), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes


async def _on(world: World, server: Server, act: Callable[[Server], Awaitable[Any]], waiting: bool) -> Any:
    world.felt.says, waited = True, False
    while True:
        if not world.holds.broker_away:
            since_ns = now_ns()
            try:
                found = await act(server)
            except BrokerError as error:
                if not is_away(error):
                    raise
            else:
                if found != 0:
                    world.felt.did(waited=waited, since_ns=since_ns)
                return found
        if not waiting or world.felt.is_over:
            world.felt.missed()
            return None
        waited = True
        await asyncio.sleep(RETRY_S)


async def end_connections(world: World, pods: Sequence[str], uses: Iterable[str] = USES) -> int:
    """End the connections of these pods that are for these uses, those of one server at once; return how many.

    Raises
    ------
    BrokerError
    """
    names = {f"{pod}-{use}".encode() for pod in world.names(pods) for use in uses}

    async def of(server: Server) -> int:
        numbers = [number for number, name in await _connections(server) if name in names]
        return sum(await server.ask_all(*(("CLIENT", "KILL", "ID", number) for number in numbers))) if numbers else 0

    ended = sum(many or 0 for many in await on_each(world, of, waiting=False))
    if not ended and not world.felt.at_ns:
        world.felt.missed()  # the pods are not there yet
    return ended


async def await_connections(world: World, pods: Sequence[str]) -> None:
    """Return when some of these pods are connected and no more come, or with the fault's window.

    Raises
    ------
    BrokerError
    """
    names = {f"{pod}-{use}".encode() for pod in world.names(pods) for use in USES}
    now_s = asyncio.get_running_loop().time
    most, since_s = 0, now_s()
    world.felt.missed()

    async def of(server: Server) -> int:
        return sum(name in names for _, name in await _connections(server))

    while not world.felt.is_over:
        found = 0
        if not world.holds.broker_away:
            outcomes = await asyncio.gather(*map(of, world.servers), return_exceptions=True)
            for outcome in outcomes:
                if isinstance(outcome, BaseException) and not (isinstance(outcome, BrokerError) and is_away(outcome)):
                    raise outcome
            found = sum(outcome for outcome in outcomes if isinstance(outcome, int))
        if found != most:
            most, since_s = found, now_s()
        if found and now_s() - since_s >= SETTLED_S:
            return
        await asyncio.sleep(RETRY_S)


async def _connections(server: Server) -> list[tuple[str, bytes]]:
    """Return number and name (POD-USE) of each connection of a pod."""
    listed = await server.ask("CLIENT", "LIST")
    if not isinstance(listed, bytes):
        raise BrokerError(f"the server's answer to CLIENT LIST is no list of clients but {listed!r:.80}")
    return [(number.decode(), name) for number, name in _CLIENT.findall(listed)]


async def each(world: World, *words: str, waiting: bool = False) -> None:
    """Send every server one command, all at the same time.

    A server that is still busy with it when time is up, or when the fault ends, was hurt by it, though it has not said so.

    Raises
    ------
    BrokerError
    """

    async def of(server: Server) -> Any:
        asked_ns = now_ns()
        try:
            return await server.ask(*words)
        except (asyncio.CancelledError, BrokerSilent) as error:
            world.felt.did(since_ns=asked_ns)
            if isinstance(error, BrokerSilent):
                return 0
            raise

    await on_each(world, of, waiting=waiting)


async def each_master(world: World, *words: str, waiting: bool = False) -> None:
    """Send every server that may write one command; a replica gets it from its master.

    Raises
    ------
    BrokerError
    """

    async def of(server: Server) -> Any:
        try:
            return await server.ask(*words)
        except BrokerRefused as error:
            if "READONLY" not in str(error):
                raise
            return 0

    await on_each(world, of, waiting=waiting)


def keep_on(world: World, act: Callable[[], Awaitable[object]], *, every_s: float) -> None:
    """Call `act` now and every so often, until `leave_off`."""
    world.felt.says = True
    world.kept["acting"] = asyncio.get_running_loop().create_task(_repeat(act, every_s))


async def _repeat(act: Callable[[], Awaitable[object]], every_s: float) -> None:
    now_s = asyncio.get_running_loop().time
    due_s = now_s()
    while True:
        await act()
        due_s = max(due_s + every_s, now_s())
        await asyncio.sleep(due_s - now_s())


async def leave_off(world: World) -> None:
    """Stop acting, and raise what the acting raised; nothing when it was stopped before.

    Raises
    ------
    BrokerRefused
        The server refused what was done.
    """
    acting: asyncio.Task[None] | None = world.kept.pop("acting", None)
    if acting is not None:
        acting.cancel()
        (outcome,) = await asyncio.gather(acting, return_exceptions=True)
        if isinstance(outcome, Exception):
            raise outcome


async def change_setting(world: World, name: str, value: str) -> bool:
    """Change a setting of every server, until `restore_settings`; return whether that was done on one.

    Raises
    ------
    BrokerError
    """
    number = {id(server): place for place, server in enumerate(world.servers)}

    async def of(server: Server) -> Any:
        key = number[id(server)], name
        if key not in world.settings:
            said = await server.ask("CONFIG", "GET", name)
            if not isinstance(said, list) or len(said) != 2 or not isinstance(said[1], bytes):
                raise BrokerError(f"the server has no setting {name}: its answer to CONFIG GET is {said!r:.80}")
            world.settings[key] = [(0, said[1].decode())]
        if (world.who, value) not in world.settings[key]:  # it may have been tried before, and have had no answer
            world.settings[key].append((world.who, value))
        world.kept.update(deaths=world.holds.deaths, outages=world.holds.outages)
        return await server.ask("CONFIG", "SET", name, value)

    return any(await on_each(world, of, waiting=True))


async def restore_settings(world: World, *, within_s: float = 0.0) -> None:
    """Undo what this occasion of the fault changed; nothing when it was undone before, or all servers have ended since.

    Raises
    ------
    BrokerError
        A server refuses, or is not there for that long; it may be tried again.
    """
    world.felt.in_part |= world.kept.pop("deaths", world.holds.deaths) != world.holds.deaths  # a new server knows nothing of it
    outlived = world.kept.get("outages", world.holds.outages) != world.holds.outages
    for (number, name), values in list(world.settings.items()):
        left = [(who, value) for who, value in values if who != world.who]
        if left == values:
            continue
        try:
            await _insist(world, world.servers[number], ("CONFIG", "SET", name, left[-1][1]), within_s=within_s)
        except BrokerUnreachable:
            if not outlived:
                raise
        if len(left) > 1:
            world.settings[number, name] = left
        else:
            del world.settings[number, name]


async def _insist(world: World, server: Server, words: Sequence[str], *, within_s: float) -> None:
    """Send a command again until the server is there."""
    now_s = asyncio.get_running_loop().time
    deadline_s = now_s() + within_s
    while True:
        if world.holds.broker_away:
            raise BrokerUnreachable("the broker is down, or stands still")
        try:
            await server.ask(*words)
            return
        except BrokerUnreachable:
            if now_s() >= deadline_s:
                raise
        await asyncio.sleep(RETRY_S)
