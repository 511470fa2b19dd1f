"""The bus for blocking code: Locust users (under gevent) and scripts.

The same `BusNode` as in the pods decides; this file publishes through redis-py, one connection per client (in a cluster, to each
node that has one of its channels), one PUBLISH at a time. Every call is fire and forget in that it never raises. But it is blocking
code: the call that fills a batch, and every call that is an event of its own, waits for the broker's answer, and in an outage for
`TIMEOUT_S`. What each caller waited stands in the table `calls`.

A server may close a connection while it is idle (its setting `timeout`, or a proxy's). What is written into such a connection is lost, and
nobody can say so. So before each publish the client looks whether the server has closed it, connects anew if it has, and counts that
(`BusClient.closed_by_server`). What closes between the look and the publish stays unknown.

Not for use inside an asyncio loop: there `sim/pods/pod.py` drives the bus.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import redis

from sim.bus.batcher import BatchRule
from sim.bus.envelope import BATCH, CHANNEL_PREFIX
from sim.bus.envelopes import AIPONGE, Envelope
from sim.bus.key_caches import KeyRule
from sim.bus.node import BusNode, Send
from sim.bus.pointer import Pointer
from sim.errors import BrokerUnreachable
from sim.machine.clock import now_ns, wall_offset_ns
from sim.pods.caller import Caller
from sim.record.recorder import Recorder
from sim.wire.address import Address
from sim.wire.pipeline import MAX_CREDIBLE, NOT_SAID
from sim.wire.refusals import keeps_out, refusal, reply_text, unreachable
from sim.wire.reply_reader import GuardedParser
from sim.wire.slots import read_owners
from sim.wire.transports import TRANSPORTS, Transport

TIMEOUT_S = 5.0
TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)  # Linux has it
ESTABLISHED = b"\x01"  # the first byte of what it gives: the state of the connection
MAX_MOVES = 5  # how often one publish is sent on to another node


@dataclass(frozen=True, slots=True)
class Published:
    """One publish and what became of it; `error` is empty when the broker took it."""

    send: Send
    sent_ns: int
    acked_ns: int
    outcome: str
    receivers: int
    error: str


class BusClient(Caller[Published]):
    """One service that publishes; the application's calls are those of `EventPublisher`, and wait for PUBLISH (see the module).

    `call` returns what became of the publish that it caused, None when it caused none.

    Parameters
    ----------
    source
        The service's name in the envelope.
    publisher
        Who this client is in the tables `publishes` and `calls`; one connection, one sequence.
    nonce, number
        The upper parts of its event keys (see `schema`).
    batch_size, batch_interval_ms
        When a batch of the reference's analytics items leaves.
    batches
        The rules of another bus: event type -> when its batch leaves.
    recorder
        Where its calls and publishes are recorded, or None.
    transport
        How the pods hear; by default Pub/Sub.
    keys, cache_keys, envelope
        As of `BusNode`.
    """

    def __init__(
        self,
        address: Address,
        *,
        source: str,
        publisher: str = "",
        nonce: int = 0,
        number: int = 0,
        batch_size: int = 100,
        batch_interval_ms: int = 30_000,
        batches: Mapping[str, BatchRule] | None = None,
        channel_prefix: str = CHANNEL_PREFIX,
        recorder: Recorder | None = None,
        transport: Transport | None = None,
        keys: Mapping[str, Pointer] = MappingProxyType({}),
        cache_keys: Mapping[str, KeyRule] = MappingProxyType({}),
        envelope: Envelope = AIPONGE,
    ) -> None:
        node = BusNode(
            source,
            nonce=nonce,
            publisher=number,
            batches={BATCH: BatchRule(batch_size, batch_interval_ms)} if batches is None else batches,
            wall_offset_ns=wall_offset_ns(),
            keys=keys,
            cache_keys=cache_keys,
            envelope=envelope,
        )
        super().__init__(publisher or source, node=node, recorder=recorder)
        self._address = address
        self._prefix = channel_prefix
        transport = transport or TRANSPORTS["pubsub"]()
        self._publish_words = transport.publish_words
        self._nodes = _Nodes(address, client_name=f"buslab-{self.publisher}", any_node=transport.any_node)

    def connect(self) -> None:
        """Connect now instead of with the first publish.

        Raises
        ------
        BrokerUnreachable, BrokerRefused
        UsageError
            A file of the TLS options is missing.
        """
        _ = self._address.ssl_context  # an error of redis-py would not name the file
        try:
            self._nodes.connect()
        except (redis.AuthenticationError, redis.ResponseError) as error:
            raise refusal(self._address, "a connection", reply_text(error)) from None
        except (redis.RedisError, OSError) as error:
            raise unreachable(self._address, error) from None

    @property
    def closed_by_server(self) -> int:
        """How often a connection was found closed by the server before a publish, and made anew."""
        return self._nodes.closed_by_server

    @property
    def due_ns(self) -> int | None:
        """When `tick` must be called, or None."""
        return self.node.due_ns

    def tick(self) -> Published | None:
        """Publish a batch whose time has come, if any; there may be more, as `due_ns` says."""
        return self._carry_out(self.node.tick(now_ns()))

    def flush(self) -> Published | None:
        """Publish the part-full batches, if any; return what became of the last."""
        published = None
        while (send := self.node.flush(now_ns())) is not None:
            published = self._carry_out(send)
        return published

    def close(self) -> Published | None:
        """Flush, then disconnect."""
        published = self.flush()
        self._nodes.disconnect()
        return published

    def _carry_out(self, send: Send | None) -> Published | None:
        if send is None:
            return None
        published = self._publish(send)
        self._record(send, sent_ns=published.sent_ns, acked_ns=published.acked_ns, outcome=published.outcome, receivers=published.receivers)
        return published

    def _publish(self, send: Send) -> Published:
        """Publish at the node that has the channel: one that does not have it has not published, so the next attempt repeats nothing."""
        channel = self._prefix + send.type
        words = self._publish_words(channel, send.payload)
        for _ in range(1 + MAX_MOVES):
            published = self._publish_once(send, channel, words)
            if published is not None:
                return published
        return Published(send, now_ns(), now_ns(), "refused", -1, f"no node has {channel}: each says that another one does")

    def _publish_once(self, send: Send, channel: str, words: tuple[str | bytes, ...]) -> Published | None:
        """Publish once; return None when the node said that another one has the channel."""
        try:
            connection = self._nodes.connect(channel)
        except (redis.RedisError, OSError) as error:
            return Published(send, 0, 0, "refused", -1, str(error))
        sent_ns = now_ns()
        try:
            # A send that fails has not handed over the whole command, so the broker cannot have run it.
            connection.send_command(*words, check_health=False)
        except (redis.RedisError, OSError) as error:
            self._nodes.lost(connection)
            return Published(send, sent_ns, 0, "refused", -1, str(error))
        try:
            reply = connection.read_response()
        except redis.exceptions.MovedError as moved:
            self._nodes.moved(channel, moved.host, moved.port)
            return None
        except redis.ResponseError as error:
            return Published(send, sent_ns, now_ns(), "refused", -1, str(error))
        except (redis.RedisError, OSError) as error:
            self._nodes.lost(connection)
            return Published(send, sent_ns, 0, "unknown", -1, str(error))
        return Published(
            send, sent_ns, now_ns(), "acknowledged", reply if isinstance(reply, int) and 0 <= reply <= MAX_CREDIBLE else NOT_SAID, ""
        )


def has_ended(connection: Any) -> bool:
    """Return whether the other side has closed a connection that waits for no answer.

    The kernel knows, and says so in a microsecond. Where it cannot be asked, a read that does not wait finds the end; or something that
    came unasked, which makes the connection as useless. Not by redis-py's own `can_read`: to that, a TLS session ticket is data, and
    under gevent it takes 50 microseconds.
    """
    sock = connection._sock
    if TCP_INFO is not None:
        state: bytes = sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 1)
        return state != ESTABLISHED
    sock.settimeout(0)
    try:
        sock.recv(1, *(() if isinstance(sock, ssl.SSLSocket) else (socket.MSG_PEEK,)))
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True
    else:
        return True
    finally:
        sock.settimeout(TIMEOUT_S)


class _Nodes:
    """A connection to each node that was needed, and which node has which channel.

    A channel's master is asked for before the first publish: its replica would take a sharded event too, and pass it on, but count none
    of the master's subscribers. redis-py types its connections in part only, so for mypy they are Any.
    """

    def __init__(self, address: Address, *, client_name: str, any_node: bool) -> None:
        self._client_name = client_name
        self._any_node = any_node or not address.others
        self._seeds = address.nodes
        self._connections: dict[tuple[str, int], Any] = {}
        self.closed_by_server = 0
        self._node_of: dict[str, Address] = {}  # channel -> where its node is

    def connect(self, channel: str = "") -> Any:
        """Return a connection to the channel's node; to the first node that can be reached where any will do."""
        own = self._node_of.get(channel)
        try:
            if own is not None:
                return self._connected(own)
            connection = self._first()
            if channel and not self._any_node:
                connection.send_command("CLUSTER", "SLOTS", check_health=False)
                own = self._node_of[channel] = read_owners(connection.read_response(), self._seeds[0]).of(channel)
                connection = self._connected(own)
        except BrokerUnreachable as error:
            raise redis.ConnectionError(str(error)) from None
        except (redis.ConnectionError, redis.TimeoutError, OSError):
            self._node_of.pop(channel, None)  # the next call asks another node which one has it now
            raise
        return connection

    def _first(self) -> Any:
        for node in self._seeds[:-1]:
            with contextlib.suppress(redis.ConnectionError, redis.TimeoutError, OSError):
                return self._connected(node)
        return self._connected(self._seeds[-1])

    def _connected(self, node: Address) -> Any:
        connection = self._connections.get((node.host, node.port))
        if connection is None:
            # No retry: a second PUBLISH after a lost answer would be a duplicate of our own making.
            connection = redis.ConnectionPool.from_url(
                node.url,
                socket_timeout=TIMEOUT_S,
                socket_connect_timeout=TIMEOUT_S,
                retry=None,
                protocol=2,
                redis_connect_func=self._let_in,
                parser_class=GuardedParser,
            ).make_connection()
            self._connections[node.host, node.port] = connection
        elif connection.is_connected and has_ended(connection):
            self.closed_by_server += 1
            self.lost(connection)
        connection.connect()
        return connection

    def _let_in(self, connection: Any) -> None:
        connection.on_connect()
        connection.send_command("CLIENT", "SETNAME", self._client_name, check_health=False)
        try:
            connection.read_response()
        except redis.ResponseError as error:  # only people who read CLIENT LIST need the name
            if keeps_out(reply_text(error)):
                raise

    def moved(self, channel: str, host: str, port: int) -> None:
        """Remember where a channel is; no host means the one that was asked."""
        self._node_of[channel] = self._seeds[0].at(host or self._seeds[0].host, port)

    def lost(self, connection: Any) -> None:
        """Disconnect, and forget which channels that node had."""
        connection.disconnect()
        self._node_of = {c: node for c, node in self._node_of.items() if self._connections.get((node.host, node.port)) is not connection}

    def disconnect(self) -> None:
        """Close every connection."""
        for connection in self._connections.values():
            connection.disconnect()
