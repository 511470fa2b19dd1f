"""Ask a broker one thing at a time, on a connection of our own that is opened when first needed and again when it was lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import hiredis

from sim.errors import BrokerRefused, BrokerSilent
from sim.machine.words import duration
from sim.wire.address import Address
from sim.wire.connection import Wire, open_wire

ANSWER_TIMEOUT_S = 2.0


class CommandClient:
    """A client of one broker that sends one command, or several in one write, and waits for the replies.

    Parameters
    ----------
    name
        Under which the broker lists it.
    """

    def __init__(self, address: Address, *, name: str) -> None:
        self._address = address
        self._name = name
        self._password: str | None = None
        self._wire: Wire | None = None
        self._one_question = asyncio.Lock()

    async def ask(self, *words: str) -> Any:
        """Send one command and return the reply.

        Raises
        ------
        BrokerRefused
            The broker answered with an error.
        BrokerUnreachable
            It is not there, or, as `BrokerSilent`, does not answer in time.
        """
        return (await self.ask_all(words))[0]

    async def ask_all(self, *commands: Sequence[str]) -> list[Any]:
        """Send commands in one write, so that the broker carries them out with nothing in between, and return their replies.

        Raises
        ------
        BrokerRefused, BrokerUnreachable
            As `ask`; the other commands are carried out all the same.
        """
        async with self._one_question:
            if self._wire is None or self._wire.is_gone:
                self._wire = await self._open()
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    replies = await self._wire.commands(*commands)
            except TimeoutError:
                self.close()  # a late answer must not be taken for the next one's
                raise BrokerSilent(f"{self._address} does not answer {commands[0][0]} within {duration(ANSWER_TIMEOUT_S)}") from None
        for words, reply in zip(commands, replies, strict=True):
            if isinstance(reply, hiredis.ReplyError):
                raise BrokerRefused(f"{self._address} refuses {words[0]}: {reply}")
        return replies

    async def _open(self) -> Wire:
        if self._password is not None:
            with contextlib.suppress(BrokerRefused):  # a server that was started anew since asks for the one we began with
                return await open_wire(replace(self._address, password=self._password), client_name=self._name)
        return await open_wire(self._address, client_name=self._name)

    def let_in_by(self, password: str | None) -> None:
        """Set the password for connections to come, None = that of the address; what is connected stays."""
        self._password = password

    def close(self) -> None:
        """Close the connection; the next question opens another."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None
