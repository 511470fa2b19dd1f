"""Both ends of a transport, opened for a test and closed however it ends, and a log of what they say."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import redis

from sim.wire.address import Address
from sim.wire.clients import PublishCallbacks, SubscribingClient, SubscriptionCallbacks
from sim.wire.read_memo import Handling, ReadMemo
from sim.wire.transports import Transport

groups = count()


@dataclass
class Payloads:
    """What a decoder makes of a read, here: the payloads themselves."""

    events: tuple[bytes, ...]


def as_payloads(payloads: Iterable[bytes]) -> Payloads:
    return Payloads(tuple(payloads))


class Log:
    """What a transport said, and a way to wait for it."""

    def __init__(self) -> None:
        self.handling: list[asyncio.Future[None]] | None = None  # with a list, what is heard is not handled before its future is done
        self.heard: list[bytes] = []
        self.lost: list[str] = []
        self.answered: list[tuple[Any, int]] = []
        self.refused: list[tuple[Any, str]] = []
        self.unanswered: list[Any] = []
        self._news = asyncio.Event()

    def hear(self, chunk: Payloads, received_ns: int) -> Handling | None:
        self.heard += chunk.events
        self._news.set()
        if self.handling is None:
            return None
        begun: list[asyncio.Future[None]] = [asyncio.get_running_loop().create_future() for _ in chunk.events]
        self.handling += begun
        return begun

    def lose(self, reason: str, unanswered: Iterable[Any] = ()) -> None:
        self.lost.append(reason)
        self.unanswered += unanswered
        self._news.set()

    def answer(self, token: Any, receivers: int, at_ns: int) -> None:
        self.answered.append((token, receivers))
        self._news.set()

    def refuse(self, token: Any, reason: str, at_ns: int) -> None:
        self.refused.append((token, reason))
        self._news.set()

    async def until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            self._news.clear()
            await self._news.wait()


@dataclass
class Ends:
    """Both ends of a transport, which are closed however the test ends."""

    transport: Transport
    address: Address
    memo: Any = field(default_factory=lambda: ReadMemo(as_payloads))
    opened: list[Any] = field(default_factory=list)

    async def subscribe(
        self, *channels: str, name: str = "test-sub", group: str = "", consumer: str = "c", returning: bool = False, log: Log | None = None
    ) -> Log:
        """Subscribe, as a service of its own unless a group is named: then it gets every event on every transport."""
        log = log or Log()
        client = SubscribingClient(name, group or f"g{next(groups)}", consumer, returning)
        callbacks = SubscriptionCallbacks(self.memo, log.hear, log.lose)
        one = await self.transport.subscribe(self.address, channels, client=client, callbacks=callbacks)
        self.opened.append(one)
        return log

    async def publisher(self, name: str = "test-pub") -> tuple[Any, Log]:
        log = Log()
        callbacks = PublishCallbacks(log.answer, log.refuse, log.lose)
        one = await self.transport.open_publisher(self.address, client_name=name, callbacks=callbacks)
        self.opened.append(one)
        return one, log

    def close(self) -> None:
        for one in self.opened:
            one.close()


@contextlib.contextmanager
def ends(transport: Transport, address: Address) -> Iterator[Ends]:
    both = Ends(transport, address)
    try:
        yield both
    finally:
        both.close()


def named(address: Address, name: str) -> list[Any]:
    with redis.Redis.from_url(address.url) as client:
        return [row for row in client.client_list() if row["name"] == name]
