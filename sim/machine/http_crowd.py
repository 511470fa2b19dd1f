"""Who comes next of many HTTP clients, and who must go when there are too many: one client alone can keep nobody else waiting.

Rules
-----
1. Work comes in pieces, each bounded: the head of one request and its answer, or what one read brought of a body. In one turn of the event
   loop one piece is done, and before it those of the probes of health; so whatever else lives on the loop has its turn as well.
2. A connection waits for its next turn behind all that wait already: it has one piece done while each other has one done.
3. A new connection is always taken. Where there are too many, another one is closed for it, of the client that has the most: first one that
   rests between two requests, then one whose client is slow to send, then one whose client is slow to read; of several the oldest.
"""

from __future__ import annotations

import asyncio
import enum
import ipaddress
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

FIRST_PER_TURN = 8  # probes of health; there are two a second of each pod


class Rota:
    """The order of the pieces of work."""

    def __init__(self) -> None:
        self._given = False  # in this turn of the loop
        self._first: deque[asyncio.Future[None]] = deque()
        self._others: deque[asyncio.Future[None]] = deque()

    async def take(self, *, first: bool = False) -> None:
        """Return when it is this piece's turn, at once where nobody had this turn of the loop; `first` is for the probes of health."""
        loop = asyncio.get_running_loop()
        if not self._given:
            self._given = True
            loop.call_soon(self._next)
            return
        turn = loop.create_future()
        (self._first if first else self._others).append(turn)
        await turn

    def _next(self) -> None:
        given = sum(_give(self._first) for _ in range(min(FIRST_PER_TURN, len(self._first)))) + _give(self._others)
        self._given = given > 0
        if self._given:
            asyncio.get_running_loop().call_soon(self._next)


def _give(waiting: deque[asyncio.Future[None]]) -> int:
    while waiting:
        turn = waiting.popleft()
        if not turn.done():  # its connection was closed, or it took too long
            turn.set_result(None)
            return 1
    return 0


class State(enum.IntEnum):
    """What a connection is doing, in the order in which they are given up."""

    RESTS = 0
    RECEIVES = 1
    SENDS = 2
    WAITS_FOR_US = 3


class Guest(Protocol):
    """A connection, as this file sees it."""

    client: str
    state: State


G = TypeVar("G", bound=Guest)


class Crowd(Generic[G]):
    """The connections that are open, the oldest first."""

    def __init__(self, *, most: int, most_of_client: int) -> None:
        self._most = most
        self._most_of_client = most_of_client
        self._there: dict[G, None] = {}

    def __iter__(self) -> Iterator[G]:
        return iter(list(self._there))

    def __len__(self) -> int:
        return len(self._there)

    def enter(self, one: G) -> G | None:
        """Add a connection; return the one that must go for it, which is no longer here, or None."""
        counts = Counter(other.client for other in self._there)
        goes = None
        if counts[one.client] >= self._most_of_client:
            goes = self._pick(one.client)
        elif len(self._there) >= self._most:
            goes = self._pick(counts.most_common(1)[0][0])
        if goes is not None:
            self.leave(goes)
        self._there[one] = None
        return goes

    def leave(self, one: G) -> None:
        """Forget a connection; nothing when it is not here."""
        self._there.pop(one, None)

    def _pick(self, client: str) -> G:
        return min((one for one in self._there if one.client == client), key=lambda one: one.state)


def client_of(peer: Any) -> str:
    """Return who a socket's peer is: an IPv4 address, or an IPv6 network of 64 bits, which is what one client has."""
    try:
        address = ipaddress.ip_address(str(peer[0]).partition("%")[0])
    except (TypeError, IndexError, ValueError):  # it is gone already, or no network is between
        return ""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    if mapped is None and isinstance(address, ipaddress.IPv6Address) and not address.is_loopback:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(mapped or address)
