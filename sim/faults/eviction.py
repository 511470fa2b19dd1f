"""How a fault makes a server evict keys: memory that is short, and keys of the fault's own that push the others out.

Rules
-----
1. `maxmemory` is what the fullest server uses, and `ROOM_BYTES` more, so that a write finds something to evict and is not refused. A
   master has as much more as its log for replicas can still grow, which nothing evicts.
2. What is written lies under one prefix that no other run has, in slots of the server that it is written to. It is deleted at the end.
3. The policy takes any key as likely as another. One that prefers keys of long ago knows no order within a second, which is an age
   for a lock, and would spare a stream that is read all the time. So it takes some writes until the last of the others is gone; a fault
   that wrote `MAX_FILL_BYTES` in vain fails, and says what is left.
"""

from __future__ import annotations

import re

from sim.errors import BrokerError, BrokerRefused, BrokerUnreachable
from sim.faults.server_commands import change_setting, on_each
from sim.faults.world import Server, World
from sim.machine.words import count

POLICY = "allkeys-random"
ROOM_BYTES = 2 << 20  # also for what clients have on their way
VALUE_BYTES = 128 << 10
VALUES_AT_ONCE = 2
MAX_FILL_BYTES = 256 << 20
MAX_KEYS = 1_000_000  # that are looked at on one server; a run has some thousands
SCAN_COUNT = 1000
EXISTS_AT_ONCE = 500
MAX_TAGS = 4096  # tried until one lies in a slot of the server: a master of so many slots has one of the first ten or so
_FILLER = "buslab-filler-"
_NUMBERS = re.compile(rb"^(used_memory|repl_backlog_size|repl_backlog_histlen):(\d+)", re.MULTILINE)


async def limit_memory(world: World) -> bool:
    """Set `maxmemory` a little above what is used, with a policy that evicts any key, until `restore_settings`; False: no server was there.

    Raises
    ------
    BrokerError
    """
    told = await on_each(world, lambda server: server.ask("INFO"), waiting=True)
    numbers = [{name: int(value) for name, value in _NUMBERS.findall(text)} for text in told if text is not None]
    if not all(b"used_memory" in one for one in numbers):
        raise BrokerError("keys_lost: INFO memory names no used_memory, so nobody knows how little memory is too little")
    if not numbers:
        return False
    await change_setting(world, "maxmemory-policy", POLICY)
    needed = (one[b"used_memory"] + one.get(b"repl_backlog_size", 0) - one.get(b"repl_backlog_histlen", 0) for one in numbers)
    return await change_setting(world, "maxmemory", str(max(needed) + ROOM_BYTES))


async def evict_keys(world: World) -> None:
    """Write keys of our own until each key that is there now was evicted, or deleted by whoever set it.

    Raises
    ------
    BrokerRefused
        A server refuses it, or keeps keys although much was written.
    """
    number = {id(server): place for place, server in enumerate(world.servers)}
    await on_each(world, lambda server: _evict(world, number[id(server)]), waiting=True)


async def _evict(world: World, number: int) -> int:
    """Evict the keys of one server, and return how many there were."""
    server, tags = world.servers[number], world.kept.setdefault("tags", {})
    if (number, "maxmemory") not in world.settings:
        return 0  # it was away when its memory was to be limited
    if number not in tags:
        tags[number] = await _tag(server)
    if not tags[number]:
        return 0
    begin = f"{_FILLER}{world.who:x}-{{{tags[number]}}}-"
    for name in ("maxmemory-policy", "maxmemory"):  # again, because a server that was started anew since does not have them
        await server.ask("CONFIG", "SET", name, world.settings[number, name][-1][1])
    left = [key for key in await _keys(server) if not key.startswith(begin)]
    many = len(left)
    filled: dict[int, int] = world.kept.setdefault("filled", {})
    value, written = "x" * VALUE_BYTES, 0
    while left:
        if written >= MAX_FILL_BYTES:
            raise BrokerRefused(
                f"keys_lost: the server keeps {count(len(left), 'key')} although {written >> 20} MB were written: {left[0]}"
            )
        first = filled.get(number, 0)
        filled[number] = first + VALUES_AT_ONCE
        try:
            await server.ask_all(*(("SET", f"{begin}{place}", value) for place in range(first, first + VALUES_AT_ONCE)))
        except BrokerRefused as error:
            if "OOM" not in str(error):  # else there was nothing left to evict
                raise
        written += VALUES_AT_ONCE * VALUE_BYTES
        left = await _that_exist(server, left)
    return many


async def _that_exist(server: Server, keys: list[str]) -> list[str]:
    """Return those of some keys that are there; one command each, since in a cluster they lie in different slots."""
    left: list[str] = []
    for first in range(0, len(keys), EXISTS_AT_ONCE):
        some = keys[first : first + EXISTS_AT_ONCE]
        left += [key for key, there in zip(some, await server.ask_all(*(("EXISTS", key) for key in some)), strict=True) if there]
    return left


async def _keys(server: Server) -> list[str]:
    keys: dict[str, None] = {}
    cursor = b"0"
    while len(keys) < MAX_KEYS:
        cursor, some = await server.ask("SCAN", cursor.decode(), "COUNT", str(SCAN_COUNT))
        keys |= {key.decode("utf-8", "replace"): None for key in some}
        if cursor == b"0":
            break
    return list(keys)


async def _tag(server: Server) -> str:
    """Return what makes a key lie in a slot of this server; empty for one that keeps no slot of its own, as a replica does."""
    for number in range(MAX_TAGS):
        try:
            await server.ask("GET", f"{_FILLER}{{{number}}}")
            return str(number)
        except BrokerRefused as error:
            if "MOVED" not in str(error):
                raise
    return ""


async def delete_filler(world: World) -> None:
    """Delete what was written; nothing when it was deleted before.

    Raises
    ------
    BrokerError
        A server refuses, or is not there; it may be tried again.
    """
    filled: dict[int, int] = world.kept.get("filled", {})
    if filled and world.holds.broker_away:
        raise BrokerUnreachable("the broker is down, or stands still")
    for number, many in list(filled.items()):
        begin = f"{_FILLER}{world.who:x}-{{{world.kept['tags'][number]}}}-"
        for first in range(0, many, EXISTS_AT_ONCE):
            keys = [f"{begin}{place}" for place in range(first, min(first + EXISTS_AT_ONCE, many))]
            await world.servers[number].ask("UNLINK", *keys)
        del filled[number]
