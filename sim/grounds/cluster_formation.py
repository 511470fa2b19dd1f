"""Make a cluster out of servers that answer, and find out when it is whole. Blocking: for the grounds, never for a pod.

Rules
-----
1. Every node is told of every other one at once, so nobody waits for gossip.
2. A cluster is whole when each node that should live says so itself: it serves all slots, is connected with each of the others,
   agrees with them on who owns what, and, if it is a replica, is in step with its master.
3. A master that starts waits 2 s before it serves; forming takes little longer.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from sim.errors import BrokerError
from sim.machine.words import agreeing, count, duration
from sim.wire.address import Address
from sim.wire.reply_reader import GuardedParser

SLOTS = 16_384
READY_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 2.0
NODE_TIMEOUT_MS = 1000  # a master that is silent for so long may be replaced: a failover takes some two seconds
_POLL_S = 0.02

# What a server needs beyond its port and folder. A replica may copy at once: nobody else waits for the same copy.
ARGUMENTS = (
    *("--cluster-enabled", "yes"),
    *("--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
    *("--cluster-announce-ip", "127.0.0.1"),
    *("--repl-diskless-sync-delay", "0"),
)


def form(addresses: Sequence[Address], *, masters: int) -> None:
    """Make one cluster of empty nodes: the first `masters` share the slots, each other one follows one of them.

    Raises
    ------
    BrokerError
        A node refuses, or the cluster is not whole in time; the message says what is missing.
    """
    with _clients(addresses) as clients:
        try:
            for number, (client, address) in enumerate(zip(clients, addresses, strict=True)):
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
                if number < masters:
                    client.execute_command("CLUSTER", "ADDSLOTS", *range(number * SLOTS // masters, (number + 1) * SLOTS // masters))
                for other in clients[:number]:
                    other.execute_command("CLUSTER", "MEET", address.host, address.port)
            _until(lambda: _apart(clients, addresses), f"the nodes of the cluster, {len(addresses)}, do not come together")
            ids = [client.execute_command("CLUSTER", "MYID") for client in clients]
            for number, client in enumerate(clients[masters:]):
                client.execute_command("CLUSTER", "REPLICATE", ids[number % masters])
        except redis.RedisError as error:
            raise BrokerError(f"the cluster cannot be formed: {error}") from None
    await_whole(addresses, replicas=len(addresses) - masters)


def await_whole(addresses: Sequence[Address], *, replicas: int = 0) -> None:
    """Return when these nodes serve the cluster, nobody else owns a slot, and at least so many of them are replicas in step.

    Raises
    ------
    BrokerError
        They do not in time; the message says what is missing.
    """
    with _clients(addresses) as clients:
        _until(lambda: _broken(clients, addresses, replicas), f"the cluster of {count(len(addresses), 'node')} is not whole")


def owner(addresses: Sequence[Address], slot: int) -> Address:
    """Return the master that owns a slot, as the first of these nodes that answers sees it.

    Raises
    ------
    BrokerError
        None of them answers, or the owner is none of them.
    """
    with _clients(addresses) as clients:
        for client in clients:
            with contextlib.suppress(redis.RedisError):
                for row in _look(client):
                    if any(begin <= slot <= end for begin, end in row.slots):
                        return next(address for address in addresses if address.port == row.port)
    raise BrokerError(f"nobody owns slot {slot} of the cluster")


@dataclass(frozen=True)
class _NodeRow:
    """One line of CLUSTER NODES."""

    port: int
    flags: frozenset[str]
    connected: bool
    slots: tuple[tuple[int, int], ...]


def _look(client: Any) -> list[_NodeRow]:
    rows = []
    for line in _text(client.execute_command("CLUSTER", "NODES")).splitlines():
        _, place, flags, _, _, _, _, link, *slots = line.split()
        ranges = [part.partition("-") for part in slots if not part.startswith("[")]  # in brackets: on its way to another node
        port = int(place.partition("@")[0].rpartition(":")[2])
        named = frozenset(flags.split(","))
        connected = link == "connected" or "myself" in named
        rows.append(_NodeRow(port, named, connected, tuple((int(first), int(last or first)) for first, _, last in ranges)))
    return rows


def _text(reply: Any) -> str:
    return reply if isinstance(reply, str) else str(reply)


def _apart(clients: Sequence[Any], addresses: Sequence[Address]) -> str:
    """Return which node does not know or reach another one, empty when all do."""
    wanted = {address.port for address in addresses}
    for client, address in zip(clients, addresses, strict=True):
        met = {row.port for row in _look(client) if row.connected and not row.flags & {"handshake", "noaddr", "fail", "fail?"}}
        if wanted - met:
            return f"{address} does not reach the node on port {min(wanted - met)}"
    return ""


def _broken(clients: Sequence[Any], addresses: Sequence[Address], replicas: int) -> str:
    """Return what keeps the cluster from being whole, empty when nothing does."""
    if apart := _apart(clients, addresses):
        return apart
    views, in_step = set(), 0
    for client, address in zip(clients, addresses, strict=True):
        says = dict(line.split(":", 1) for line in _text(client.execute_command("CLUSTER", "INFO")).split() if ":" in line)
        if says.get("cluster_state") != "ok" or says.get("cluster_slots_ok") != str(SLOTS):
            return f"{address} says state {says.get('cluster_state')}, {says.get('cluster_slots_ok')} of {SLOTS:,} slots served"
        owners = frozenset((row.port, row.slots) for row in _look(client) if row.slots)
        strangers = {port for port, _ in owners} - {one.port for one in addresses}
        if strangers:
            return f"{address} says that the node on port {min(strangers)} owns slots"
        views.add(owners)
        follows = client.info("replication")
        if follows["role"] == "slave":
            if follows["master_link_status"] != "up":
                return f"{address} is not in step with its master"
            in_step += 1
    if len(views) > 1:
        return "the nodes do not agree who owns which slots"
    return "" if in_step >= replicas else f"{in_step} of {count(replicas, 'replica')} {agreeing(in_step, 'is', 'are')} in step"


def _until(broken: Callable[[], str], what: str) -> None:
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            found = broken()
        except redis.RedisError as error:
            found = str(error)
        if not found:
            return
        if time.monotonic() > deadline_s:
            raise BrokerError(f"{what} within {duration(READY_TIMEOUT_S)}: {found}")
        time.sleep(_POLL_S)


@contextlib.contextmanager
def _clients(addresses: Sequence[Address]) -> Iterator[list[Any]]:
    """Yield a client of each node; typed Any, because redis-py types its answers for its blocking and its async half at once."""
    made = [
        redis.Redis.from_url(
            one.url,
            socket_timeout=ANSWER_TIMEOUT_S,
            socket_connect_timeout=ANSWER_TIMEOUT_S,
            retry=None,
            decode_responses=True,
            protocol=2,
            parser_class=GuardedParser,
        )
        for one in addresses
    ]
    try:
        yield made
    finally:
        for client in made:
            client.close()
