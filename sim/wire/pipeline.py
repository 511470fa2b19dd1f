"""Publish on one connection without waiting: what every transport with a broker sends its events through.

Rules
-----
1. Publishing never waits: answers come back in order and are matched to what was sent.
2. Publishes without an answer are bounded; when the connection goes, their tokens are handed over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import hiredis

from sim.errors import BrokerUnreachable
from sim.machine.clock import running_clock
from sim.machine.freezer import Freezer
from sim.wire.address import Address
from sim.wire.clients import PublishCallbacks
from sim.wire.connection import Wire, open_wire
from sim.wire.reply_reader import ReplyReader
from sim.wire.resp import pack

MAX_IN_FLIGHT = 10_000  # publishes of one connection without an answer
MAX_CREDIBLE = 1_000_000  # subscribers of a channel at one node
NOT_SAID = -1  # receivers, where the answer is no count
PING = object()  # stands for a PING among the publishes that wait for their answer

Frame = Callable[[bytes, bytes], bytes]


class Pipeline:
    """One connection to publish on without waiting.

    Parameters
    ----------
    frame
        Turns channel and payload into the bytes of one command. Its answer is a number of receivers, or says nothing of them.
    """

    def __init__(self, wire: Wire, *, frame: Frame, callbacks: PublishCallbacks) -> None:
        self._now_ns = running_clock()
        self._wire = wire
        self._frame = frame
        self._reader = ReplyReader()
        self._waiting: deque[Any] = deque()
        self._pinged = False
        self._answered, self._refused, self._lost = callbacks.answered, callbacks.refused, callbacks.lost
        wire.on_read, wire.on_lost = self._read, self._gone

    @property
    def in_flight(self) -> int:
        """Publishes without an answer."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether so many have no answer that the next would be turned down."""
        return len(self._waiting) >= MAX_IN_FLIGHT

    @property
    def is_gone(self) -> bool:
        """Whether the connection is closed or closing."""
        return self._wire.is_gone

    def send(self, channel: bytes, payload: bytes, token: Any) -> bool:
        """Send one publish; return False when the connection is closing or has too many without an answer."""
        transport = self._wire.transport
        if transport is None or transport.is_closing() or len(self._waiting) >= MAX_IN_FLIGHT:
            return False
        self._waiting.append(token)
        transport.write(self._frame(channel, payload))
        return True

    def _read(self, data: bytes) -> None:
        at_ns = self._now_ns()
        reader, waiting = self._reader, self._waiting
        reader.feed(data)
        while (reply := reader.gets()) is not False:
            if not waiting:
                continue
            token = waiting.popleft()
            if reply.__class__ is int and token is not PING:
                self._answered(token, reply if 0 <= reply <= MAX_CREDIBLE else NOT_SAID, at_ns)
            elif token is PING:
                self._pinged = False
            elif isinstance(reply, hiredis.ReplyError):
                self._refused(token, str(reply), at_ns)
            else:
                self._answered(token, NOT_SAID, at_ns)

    def _gone(self, reason: str) -> None:
        self._lost(reason, self._unanswered())

    def _unanswered(self) -> list[Any]:
        waiting = [token for token in self._waiting if token is not PING]
        self._waiting.clear()
        return waiting

    def ping(self) -> bool:
        """Send PING; return False when the one before has no answer yet."""
        if self._pinged or self._wire.transport is None:
            return False
        self._pinged = True
        self._waiting.append(PING)
        self._wire.transport.write(pack(b"PING"))
        return True

    def give_up(self, reason: str) -> None:
        """Drop the connection and call `lost`."""
        self._wire.give_up(reason)

    def close(self) -> list[Any]:
        """Close the connection and return the tokens that have no answer."""
        self._wire.close()
        return self._unanswered()

    def abort(self) -> list[Any]:
        """Drop the connection at once and return the tokens that have no answer."""
        self._wire.abort()
        return self._unanswered()


async def open_pipeline(
    address: Address, *, client_name: str, frame: Frame, callbacks: PublishCallbacks, freezer: Freezer | None = None
) -> Pipeline:
    """Open a connection to publish on; while the freezer is frozen, nothing is read and nothing is called.

    Raises
    ------
    BrokerUnreachable, BrokerRefused
    """
    wire = await open_wire(address, client_name=client_name, freezer=freezer)
    if wire.is_gone:  # it closed after its last answer, so `lost` would never be called
        raise BrokerUnreachable(f"{address} closed the connection after letting us in")
    return Pipeline(wire, frame=frame, callbacks=callbacks)
