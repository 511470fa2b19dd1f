"""Ask a broker one thing at a time, on a connection of our own that is opened when first needed and again when it was lost."""

from __future__ import annotations

import asyncio
from typing import Any

import hiredis

from sim.address import Address
from sim.errors import BrokerRefused, BrokerUnreachable
from sim.wire import Wire, open_wire

ANSWER_TIMEOUT_S = 2.0


class Asker:
    """Own the connection.

    Parameters
    ----------
    name
        Under which the broker lists it.
    """

    def __init__(self, address: Address, *, name: str) -> None:
        self._address = address
        self._name = name
        self._wire: Wire | None = None
        self._one_question = asyncio.Lock()

    async def ask(self, *words: str) -> Any:
        """Send one command and return the reply.

        Raises
        ------
        BrokerRefused
            The broker answered with an error.
        BrokerUnreachable
            It is not there, or does not answer in time.
        """
        async with self._one_question:
            if self._wire is None or self._wire.is_gone:
                self._wire = await open_wire(self._address, client_name=self._name)
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    reply = await self._wire.command(*words)
            except TimeoutError:
                self.close()  # a late answer must not be taken for the next one's
                raise BrokerUnreachable(f"{self._address} does not answer {words[0]} within {ANSWER_TIMEOUT_S:g} s") from None
        if isinstance(reply, hiredis.ReplyError):
            raise BrokerRefused(f"{self._address} refuses {words[0]}: {reply}")
        return reply

    def close(self) -> None:
        """Close the connection; the next question opens another."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None
