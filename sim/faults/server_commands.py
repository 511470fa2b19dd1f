"""What faults do to a server by its own commands: end pods' connections, change a setting, keep it busy.

Rules
-----
1. Only connections of pods are ended, known by the names under which the server lists them (`Connections`).
2. A setting that several faults change at a time is what the last of them made it, and what it was at first when all have ended.
3. What is done again and again skips a server that is not there, as there is nothing to hurt. What heals waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence

from sim.errors import BrokerError, BrokerRefused, BrokerUnreachable
from sim.faults.world import Server, World

USES = ("sub", "pub", "cmd")  # what a pod's connections are for, as their names end
HEAL_S = 10.0
RETRY_S = 0.05
MAX_SPIN_MS = 1000  # below a server's own limit of 5 s for scripts, and our patience of 2 s for an answer
# It spins for processor time, as a busy thread does, and does not wait for a TIME: since Redis 7 that stands still within a script.
SPIN = "local e=os.clock()+ARGV[1]/1000 for n=1,1e9 do if os.clock()>=e then break end end return 'done'"
_CLIENT = re.compile(rb"^id=(\d+) .*? name=buslab-[^- ]+-(\S+)", re.MULTILINE)


async def end_connections(world: World, pods: Sequence[str], uses: Iterable[str] = USES) -> int:
    """End the connections of these pods that are for these uses, those of one server at once; return how many.

    Raises
    ------
    BrokerError
    """
    names = {f"{pod}-{use}".encode() for pod in world.names(pods) for use in uses}

    async def of(server: Server) -> int:
        listed = await server.ask("CLIENT", "LIST")
        if not isinstance(listed, bytes):
            raise BrokerError(f"the server's answer to CLIENT LIST is no list of clients but {listed!r:.80}")
        chosen = [number.decode() for number, name in _CLIENT.findall(listed) if name in names]
        return sum(await server.ask_all(*(("CLIENT", "KILL", "ID", number) for number in chosen))) if chosen else 0

    return sum(await asyncio.gather(*map(of, world.servers)))


async def each(world: World, *words: str) -> None:
    """Send every server one command, all at the same time.

    Raises
    ------
    BrokerError
    """
    await asyncio.gather(*(server.ask(*words) for server in world.servers))


async def each_master(world: World, *words: str) -> None:
    """Send every server that may write one command; a replica gets it from its master.

    Raises
    ------
    BrokerError
    """

    async def of(server: Server) -> None:
        try:
            await server.ask(*words)
        except BrokerRefused as error:
            if "READONLY" not in str(error):
                raise

    await asyncio.gather(*map(of, world.servers))


def keep_on(world: World, act: Callable[[], Awaitable[object]], *, every_s: float) -> None:
    """Call `act` now and every so often, until `leave_off`."""
    world.kept["acting"] = asyncio.get_running_loop().create_task(_repeat(act, every_s))


async def _repeat(act: Callable[[], Awaitable[object]], every_s: float) -> None:
    now_s = asyncio.get_running_loop().time
    due_s = now_s()
    while True:
        with contextlib.suppress(BrokerUnreachable):
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


async def change_setting(world: World, name: str, value: str) -> None:
    """Change a setting of every server, until `restore_settings`.

    Raises
    ------
    BrokerError
    """
    for number, server in enumerate(world.servers):
        if (number, name) not in world.settings:
            said = await server.ask("CONFIG", "GET", name)
            if not isinstance(said, list) or len(said) != 2 or not isinstance(said[1], bytes):
                raise BrokerError(f"the server has no setting {name}: its answer to CONFIG GET is {said!r:.80}")
            world.settings[number, name] = [(0, said[1].decode())]
        world.settings[number, name].append((id(world), value))
        await server.ask("CONFIG", "SET", name, value)


async def restore_settings(world: World, *, within_s: float = HEAL_S) -> None:
    """Undo what this occasion of the fault changed; nothing when it was undone before.

    Raises
    ------
    BrokerError
        A server refuses, or is not there for that long; it may be tried again.
    """
    for (number, name), values in list(world.settings.items()):
        left = [(who, value) for who, value in values if who != id(world)]
        if left == values:
            continue
        await _insist(world.servers[number], ("CONFIG", "SET", name, left[-1][1]), within_s=within_s)
        if len(left) > 1:
            world.settings[number, name] = left
        else:
            del world.settings[number, name]


async def _insist(server: Server, words: Sequence[str], *, within_s: float) -> None:
    """Send a command again until the server is there."""
    now_s = asyncio.get_running_loop().time
    deadline_s = now_s() + within_s
    while True:
        try:
            await server.ask(*words)
            return
        except BrokerUnreachable:
            if now_s() > deadline_s:
                raise
        await asyncio.sleep(RETRY_S)
