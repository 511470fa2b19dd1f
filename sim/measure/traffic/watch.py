"""Watch the server that is listened to: whoever listens must not become a burden to it.

Rules
-----
1. A subscriber that reads more slowly than events come makes the server keep them, in an output buffer for it. That is looked at every
   `PERIOD_S`, for our connection alone (CLIENT LIST ID), and what waits beyond a limit ends the capture.
2. Not every server tells (an ACL, a proxy before it), and Valkey 9 leaves payloads above 16 KB out of what it tells. So the subscribed
   connection is pinged too: the answer stands behind all that waits for us, and one that does not come within `PONG_S` means the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import Any

from sim.errors import BrokerError, BrokerRefused
from sim.machine.clock import NS_PER_S, now_ns
from sim.machine.words import amount, duration
from sim.wire.address import Address
from sim.wire.command_client import CommandClient
from sim.wire.listening import ChannelListener

PERIOD_S = 0.25
PONG_S = 2.0
MIB = 1024 * 1024
_WAITING = re.compile(rb"\bomem=(\d+)")
_CPU = re.compile(rb"used_cpu_(?:sys|user):([\d.]+)")


class Watch:
    """What one server has waiting for one listener, and what processor time it used meanwhile.

    Attributes
    ----------
    buffer_bytes_max
        The most that waited for us; None where the server does not tell.
    cpu_share
        Of a core, over the whole time; None where the server does not tell.
    """

    def __init__(self, address: Address, listener: ChannelListener, *, name: str, limit_bytes: int) -> None:
        self.buffer_bytes_max: int | None = None
        self.cpu_share: float | None = None
        self._client = CommandClient(address, name=name)
        self._listener = listener
        self._limit_bytes = limit_bytes
        self._tells = listener.client_id is not None
        self._first_cpu: tuple[float, int] | None = None

    async def until_too_much(self) -> str:
        """Return once too much waits for us, with a sentence that says so."""
        try:
            await self.look_at_cpu()
            while True:
                if said := await self._too_much():
                    return said
                await asyncio.sleep(PERIOD_S)
        except BrokerError:  # the listener's own connection tells whether the server is gone
            return await self._until_no_answer()

    async def _until_no_answer(self) -> str:
        self._tells = False
        while not (said := await self._too_much()):
            await asyncio.sleep(PERIOD_S)
        return said

    async def _too_much(self) -> str:
        if self._tells:
            waiting = await self._waiting()
            if waiting is not None:
                self.buffer_bytes_max = max(self.buffer_bytes_max or 0, waiting)
                if waiting > self._limit_bytes:
                    return f"{amount(waiting / MIB)} MiB waited for it in the server, more than {amount(self._limit_bytes / MIB)}"
        before_ns = self._listener.pinged_ns
        if before_ns is not None and now_ns() - before_ns > PONG_S * NS_PER_S:
            return f"the server's answer to a PING was not there after {duration(PONG_S)}, as it stands behind all that waits"
        self._listener.ping()
        return ""

    async def _waiting(self) -> int | None:
        """Return how many bytes wait for us; None where the server does not tell, now and from then on."""
        try:
            said: Any = await self._client.ask("CLIENT", "LIST", "ID", str(self._listener.client_id))
        except BrokerRefused:
            self._tells = False
            return None
        found = _WAITING.search(said if isinstance(said, bytes) else b"")
        if found is None:  # our connection is not listed, as behind a proxy
            self._tells = False
            return None
        return int(found[1])

    async def look_at_cpu(self) -> None:
        """Take the server's processor time; the second time and later, its share of a core since the first."""
        with contextlib.suppress(BrokerError):
            said = await self._client.ask("INFO", "cpu")
            times = [float(one) for one in _CPU.findall(said if isinstance(said, bytes) else b"")]
            if len(times) == 2:
                if self._first_cpu is None:
                    self._first_cpu = (sum(times), now_ns())
                else:
                    used_s, begun_ns = self._first_cpu
                    self.cpu_share = (sum(times) - used_s) / max(1e-9, (now_ns() - begun_ns) / NS_PER_S)

    def close(self) -> None:
        """Close the connection that asks."""
        self._client.close()
