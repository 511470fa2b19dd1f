"""Delete the keys that a run's once-recipes left on the broker: locks of pods that ended inside, and markers meant to stay.

They all lie under prefixes that name the run (see `keys_of_run`), so nothing of anybody else is ever deleted. A run that was
killed leaves them to their time to live.
"""

from __future__ import annotations

import asyncio
from typing import Any

import hiredis

from sim.bus.once import DONE_PREFIX, LOCK_PREFIX, RUN_PREFIX
from sim.errors import BrokerError
from sim.machine.words import duration
from sim.wire.address import Address
from sim.wire.connection import Wire, open_wire

SCAN_COUNT = 1000  # keys that the broker looks at in one go, which takes it well below a millisecond
TIMEOUT_S = 30.0  # somebody else's server may have millions of keys


def keys_of_run(run_id: str) -> tuple[str, ...]:
    """Return the patterns of every key that this run may set."""
    return tuple(f"{prefix}{RUN_PREFIX}{run_id}:*" for prefix in (LOCK_PREFIX, DONE_PREFIX))


async def delete_leftovers(address: Address, *, run_id: str) -> str:
    """Delete what this run left; return a sentence that says why something may be left, or an empty string."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            for node in address.nodes:
                wire = await open_wire(node, client_name=f"buslab-{run_id}-leftovers")
                try:
                    await _delete(wire, keys_of_run(run_id))
                finally:
                    wire.close()
    except TimeoutError:
        return f"keys of this run may be left under {' and '.join(keys_of_run(run_id))}: no end of SCAN within {duration(TIMEOUT_S)}"
    except (BrokerError, OSError, RuntimeError) as error:
        return f"keys of this run may be left under {' and '.join(keys_of_run(run_id))} until they expire: {error}"
    return ""


async def _delete(wire: Wire, patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        cursor = b"0"
        while True:
            cursor, keys = await _ask(wire, "SCAN", cursor.decode(), "MATCH", pattern, "COUNT", str(SCAN_COUNT))
            for key in keys:  # one by one: in a cluster they are in different slots; a replica says MOVED, and its master deletes them
                await _ask(wire, "DEL", key.decode())
            if cursor == b"0":
                break


async def _ask(wire: Wire, *words: str) -> Any:
    reply = await wire.command(*words)
    if isinstance(reply, hiredis.ReplyError) and not str(reply).startswith("MOVED"):
        raise BrokerError(f"the broker refuses {words[0]}: {reply}")
    return reply
