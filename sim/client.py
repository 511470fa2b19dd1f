"""The bus for blocking code: Locust users (under gevent) and scripts.

The same `BusNode` as in the pods decides; this file publishes through redis-py, one connection per client, one
PUBLISH at a time. Every call is fire and forget: it never raises.

Not for use inside an asyncio loop: there `sim/pod.py` drives the bus.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis

from sim.address import Address
from sim.bus.envelope import BATCH, CHANNEL_PREFIX
from sim.bus.node import BusNode, Send
from sim.clock import now_ns, wall_offset_ns
from sim.errors import BrokerRefused, BrokerUnreachable
from sim.pod import record_publish
from sim.record import Recorder

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


class BusClient:
    """Publish as one service.

    Parameters
    ----------
    source
        The service's name in the envelope.
    publisher
        Who this client is in the `publishes` table; one connection, one sequence.
    nonce, number
        The upper parts of its event keys (see `schema`).
    recorder
        Where its publishes are recorded, or None.
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
    ) -> None:
        self.publisher = publisher or source
        self._address = address
        self.node = BusNode(
            source,
            nonce=nonce,
            publisher=number,
            batch_size=batch_size,
            batch_interval_ms=batch_interval_ms,
            wall_offset_ns=wall_offset_ns(),
        )
        self._prefix = channel_prefix
        self._recorder = recorder
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

    def record_event(self, item: dict[str, Any], *, intended_ns: int | None = None) -> Published | None:
        """Queue one analytics item; return what became of the batch when this item filled it."""
        return self.call(BATCH, item, intended_ns=intended_ns)

    def call(self, kind: str, data: dict[str, Any], *, intended_ns: int | None = None) -> Published | None:
        """Make one call of the application: queue an item, or publish an event of any other type."""
        now = now_ns()
        return self._carry_out(self.node.call(kind, data, now_ns=now, intended_ns=now if intended_ns is None else intended_ns))

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
        if self._recorder is not None:
            record_publish(
                self._recorder,
                self.publisher,
                send,
                sent_ns=published.sent_ns,
                acked_ns=published.acked_ns,
                outcome=published.outcome,
                receivers=published.receivers,
            )
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
            connection.send_command("PUBLISH", self._prefix + send.type, send.payload, check_health=False)
        except (redis.RedisError, OSError) as error:
            connection.disconnect()
            return Published(send, sent_ns, 0, "refused", -1, str(error))
        try:
            receivers = int(connection.read_response())
        except redis.ResponseError as error:
            return Published(send, sent_ns, now_ns(), "refused", -1, str(error))
        except (redis.RedisError, OSError) as error:
            connection.disconnect()
            return Published(send, sent_ns, 0, "unknown", -1, str(error))
        return Published(send, sent_ns, now_ns(), "acknowledged", receivers, "")
