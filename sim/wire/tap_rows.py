"""What a tap tells of the connections that pass through it, and who takes it.

Times are `sim.machine.clock.now_ns` of the tap's process. A connection of a client to the tap and the tap's own to the server are one here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

# How a connection ended, as the tap saw it.
ENDS = {
    "client": "its client closed it",
    "client-reset": "its client reset it, or died with something unread",
    "server": "the server closed it",
    "server-reset": "the server reset it, or died",
    "cut": "the server closed it while its client did not keep up: what the server had sent stood unread",
    "unknown-node": "the tap ended it: the cluster named a node that has no tap, and the client would have left the tap for it",
    "fault": "a fault of the lab reset it",
    "no-server": "the server could not be reached for it",
    "tap": "the tap ended",
}


class Connection(msgspec.Struct):
    """One connection, and what was seen of it so far; the tap changes it as it goes on.

    Attributes
    ----------
    number
        Counts from 1 in its tap.
    door
        The name of the listener that it came by.
    client_name, library
        As the client says them (CLIENT SETNAME, HELLO … SETNAME, CLIENT SETINFO); empty until then.
    protocol
        2 or 3, of RESP.
    commands
        How often each command passed towards the server; a name that Redis does not have counts as `other`.
    unread_to_server, unread_to_client
        Bytes that passed and could not be read, or were not kept.
    channels
        What the server has confirmed that it is subscribed to: pairs of a kind (subscribe, psubscribe, ssubscribe) and a name.
    """

    number: int
    door: str
    opened_ns: int
    client_name: str = ""
    library: str = ""
    protocol: int = 2
    commands: Counter[str] = msgspec.field(default_factory=Counter)
    unread_to_server: int = 0
    unread_to_client: int = 0
    channels: set[tuple[str, bytes]] = msgspec.field(default_factory=set)


class Publish(NamedTuple):
    """An event that a client sent towards the server, with what became of it.

    Attributes
    ----------
    command
        publish | spublish | xadd.
    key, hashed
        Its identity, and whether that is a hash that other events may have too.
    size
        Bytes of the payload.
    passed_ns
        When its last byte had been written to the server's socket.
    answered_ns
        When the answer came from the server; 0 = never.
    outcome
        acknowledged | refused | unknown, as `sim.record.schema.OUTCOMES`.
    receivers
        What PUBLISH returned; -1 where nothing did, or an id of a stream's entry.
    said
        The error that refused it, without what could be a secret: its first word.
    """

    command: str
    channel: bytes
    key: int
    hashed: bool
    size: int
    passed_ns: int
    answered_ns: int
    outcome: str
    receivers: int
    said: str = ""


class Push(NamedTuple):
    """A message that the server sent to a subscriber, or an entry that it read from a stream.

    Attributes
    ----------
    kind
        message | pmessage | smessage | entry.
    pattern
        Of a pmessage, the pattern that it matched; of an entry, its id.
    """

    kind: str
    channel: bytes
    key: int
    hashed: bool
    size: int
    pattern: bytes = b""


class Identify(Protocol):
    """The rule by which an event is known, see `sim.bus.event_rule`."""

    def key(self, channel: bytes, payload: bytes) -> tuple[int, bool]:
        """Return the key of an event, and whether it is a hash which others may share."""

    def begin(self, channel: bytes) -> Any:
        """Return a hash to be fed with a payload that is too long to be kept."""

    def key_of_long(self, hash: Any) -> int:
        """Return the key of that payload."""


class TapSink(Protocol):
    """Who takes what a tap tells; called in the tap's event loop, in the order of what happened on each connection."""

    def opened(self, connection: Connection) -> None:
        """Take a new connection."""

    def published(self, connection: Connection, publishes: Sequence[Publish]) -> None:
        """Take publishes whose outcome is known now, in the order in which they were sent."""

    def pushed(self, connection: Connection, written_ns: int, pushes: Sequence[Push]) -> None:
        """Take messages whose last bytes had been written to the client's socket by then; one tuple may come for many connections."""

    def subscribed(self, connection: Connection, at_ns: int, kind: str, channel: bytes, on: bool) -> None:
        """Take a confirmation, written to the client's socket, that a subscription began or ended; `connection.channels` has it already."""

    def acknowledged(self, connection: Connection, passed_ns: int, stream: bytes, group: bytes, ids: Sequence[bytes]) -> None:
        """Take an XACK that passed towards the server: what a consumer says that it has handled."""

    def closed(self, connection: Connection, at_ns: int, end: str) -> None:
        """Take the end of a connection, one of `ENDS`; publishes without an answer came before."""
