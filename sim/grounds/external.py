"""Ground `redis://…`: a server that runs already. It is only used: no key, no configuration, no flush.

The URLs of several nodes, with spaces between them, are a cluster.
"""

from __future__ import annotations

import contextlib
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import redis

from sim.errors import UsageError
from sim.machine.clock import new_event_loop
from sim.wire.address import Address, parse_address
from sim.wire.refusals import keeps_out, lacks, refusal, reply_text, unreachable
from sim.wire.reply_reader import GuardedParser

TIMEOUT_S = 5.0


@dataclass(frozen=True)
class ExternalBroker:
    """The address of somebody else's server."""

    address: Address
    ground: str
    pid: int | None = None
    pids: ClassVar[dict[str, int]] = {}
    control: None = None
    new_loop: ClassVar[Callable[[], AbstractEventLoop]] = staticmethod(new_event_loop)
    image: None = None


@contextlib.contextmanager
def external(url: str, *, load_this_server: bool = False) -> Iterator[ExternalBroker]:
    """Reach a server by URL.

    Raises
    ------
    UsageError
        The URL is wrong, or names another machine without the user's word that it may be loaded.
    BrokerUnreachable, BrokerRefused
        Nothing answers there, or it does not let us in.
    """
    address = parse_address(url)
    if not address.is_loopback and not load_this_server:
        raise UsageError(f"{address} is not on this machine: add --yes-load-this-server if it may be loaded")
    reach(address)
    yield ExternalBroker(address, str(address))


def reach(address: Address) -> None:
    """PING every node once, from this machine.

    Raises
    ------
    UsageError
        A file that its TLS options name is missing.
    BrokerUnreachable, BrokerRefused
    """
    _ = address.ssl_context  # a missing file is named before anything is asked of the server
    for node in address.nodes:
        client = redis.Redis.from_url(
            node.url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=None, protocol=2, parser_class=GuardedParser
        )
        try:
            check(client, node)
        finally:
            client.close()


def check(client: redis.Redis, address: Address) -> None:
    """PING once; who is refused only the PING, by the ACL or by a server that has none, was let in all the same.

    Raises
    ------
    BrokerUnreachable, BrokerRefused
    """
    try:
        client.ping()
    except (redis.AuthenticationError, redis.ResponseError) as error:
        if lacks(reply_text(error)) and not keeps_out(reply_text(error)):
            return
        raise refusal(address, "PING", reply_text(error)) from None
    except (redis.RedisError, OSError) as error:
        raise unreachable(address, error) from None
