"""The bus for blocking code: Locust users (under gevent) and scripts.

The same `BusNode` as in the pods decides; this file publishes through redis-py, one connection per client, one
PUBLISH at a time. Every call is fire and forget in that it never raises. But it is blocking code: the call that fills a batch,
and every call that is an event of its own, waits for the broker's answer, and in an outage for `TIMEOUT_S`. What each caller
waited stands in the table `calls`.

Not for use inside an asyncio loop: there `sim/pod.py` drives the bus.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis

from sim.address import Address
from sim.bus.envelope import CHANNEL_PREFIX
from sim.bus.node import BusNode, Send
from sim.calling import Caller
from sim.clock import now_ns, wall_offset_ns
from sim.errors import BrokerRefused, BrokerUnreachable
from sim.record import Recorder
from sim.transports import TRANSPORTS, Transport

TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Published:
    """Say what became of one publish; `error` is empty when the broker took it."""

    send: Send
    sent_ns: int
    acked_ns: int
    outcome: str
    receivers: int
    error: str


class BusClient(Caller[Published]):
    """Publish as one service; the application's calls are those of `EventPublisher`, and wait for PUBLISH (see the module).

    `call` returns what became of the publish that it caused, None when it caused none.

    Parameters
    ----------
    source
        The service's name in the envelope.
    publisher
        Who this client is in the tables `publishes` and `calls`; one connection, one sequence.
    nonce, number
        The upper parts of its event keys (see `schema`).
    recorder
        Where its calls and publishes are recorded, or None.
    transport
        How the pods hear; by default Pub/Sub.
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
        channel_prefix: str = CHANNEL_PREFIX,
        recorder: Recorder | None = None,
        transport: Transport | None = None,
    ) -> None:
        node = BusNode(
            source,
            nonce=nonce,
            publisher=number,
            batch_size=batch_size,
            batch_interval_ms=batch_interval_ms,
            wall_offset_ns=wall_offset_ns(),
        )
        super().__init__(publisher or source, node=node, recorder=recorder)
        self._address = address
        self._prefix = channel_prefix
        self._publish_words = (transport or TRANSPORTS["pubsub"]()).publish_words
        # No retry: a second PUBLISH after a lost answer would be a duplicate of our own making.
        # redis-py types its connections in part only, so for mypy it is Any.
        self._connection: Any = redis.ConnectionPool.from_url(
            address.url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=None, client_name=f"buslab-{self.publisher}"
        ).make_connection()

    def connect(self) -> None:
        """Connect now instead of with the first publish.

        Raises
        ------
        BrokerUnreachable, BrokerRefused
        """
        try:
            self._connection.connect()
        except (redis.AuthenticationError, redis.ResponseError) as error:
            raise BrokerRefused(f"{self._address} does not let us in: {error}") from None
        except (redis.RedisError, OSError) as error:
            raise BrokerUnreachable(f"{self._address} is not reachable: {error}") from None

    @property
    def due_ns(self) -> int | None:
        """When `tick` must be called, or None."""
        return self.node.due_ns

    def tick(self) -> Published | None:
        """Publish the batch whose time has come, if any."""
        return self._carry_out(self.node.tick(now_ns()))

    def flush(self) -> Published | None:
        """Publish the part-full batch, if any."""
        return self._carry_out(self.node.flush(now_ns()))

    def close(self) -> Published | None:
        """Flush, then disconnect."""
        published = self.flush()
        self._connection.disconnect()
        return published

    def _carry_out(self, send: Send | None) -> Published | None:
        if send is None:
            return None
        published = self._publish(send)
        self._record(send, sent_ns=published.sent_ns, acked_ns=published.acked_ns, outcome=published.outcome, receivers=published.receivers)
        return published

    def _publish(self, send: Send) -> Published:
        connection = self._connection
        try:
            connection.connect()
        except (redis.RedisError, OSError) as error:
            return Published(send, 0, 0, "refused", -1, str(error))
        sent_ns = now_ns()
        try:
            # A send that fails has not handed over the whole command, so the broker cannot have run it.
            connection.send_command(*self._publish_words(self._prefix + send.type, send.payload), check_health=False)
        except (redis.RedisError, OSError) as error:
            connection.disconnect()
            return Published(send, sent_ns, 0, "refused", -1, str(error))
        try:
            reply = connection.read_response()
        except redis.ResponseError as error:
            return Published(send, sent_ns, now_ns(), "refused", -1, str(error))
        except (redis.RedisError, OSError) as error:
            connection.disconnect()
            return Published(send, sent_ns, 0, "unknown", -1, str(error))
        return Published(send, sent_ns, now_ns(), "acknowledged", reply if isinstance(reply, int) else -1, "")
