"""Send commands on keys to where the key is: to the broker, or in a cluster to the master that owns the key's slot."""

from __future__ import annotations

import asyncio
from typing import Any

import hiredis

from sim.errors import BrokerUnreachable
from sim.machine.freezer import Freezer
from sim.wire.address import Address
from sim.wire.connection import Wire, open_wire
from sim.wire.slots import Owners, find_owners, read_moved

MAX_MOVES = 5


class KeyCommands:
    """A connection to each node that was needed, opened when it first is."""

    def __init__(self, address: Address, *, client_name: str, freezer: Freezer | None = None) -> None:
        self._address = address
        self._client_name = client_name
        self._freezer = freezer
        self._wires: dict[tuple[str, int], Wire] = {}
        self._owners: Owners | None = None
        self._opening = asyncio.Lock()

    async def command(self, *words: str) -> Any:
        """Send one command and return the reply; its key is the word behind its name, or behind the script and 1.

        Raises
        ------
        BrokerUnreachable, BrokerRefused
        """
        for _ in range(1 + MAX_MOVES):
            wire = await self._wire(words[3] if words[0] == "EVAL" else words[1])
            reply = await wire.command(*words)
            if not (isinstance(reply, hiredis.ReplyError) and read_moved(str(reply))):
                return reply
            self._owners = None
        raise BrokerUnreachable(f"no master has the key of {words[0]}: each says that another one does")

    async def _wire(self, key: str) -> Wire:
        async with self._opening:
            master = self._address
            if self._address.others:
                try:
                    self._owners = self._owners or await find_owners(self._address, client_name=self._client_name, freezer=self._freezer)
                    master = self._owners.of(key)
                except BrokerUnreachable:
                    self._owners = None
                    raise
            wire = self._wires.get((master.host, master.port))
            if wire is None or wire.is_gone:
                self._owners, owners = None, self._owners  # a master that cannot be reached may have been replaced
                wire = self._wires[master.host, master.port] = await open_wire(master, client_name=self._client_name, freezer=self._freezer)
                self._owners = owners
        return wire

    def abort(self) -> None:
        """Drop every connection at once."""
        for wire in self._wires.values():
            wire.abort()
