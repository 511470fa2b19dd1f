"""How bytes reach a broker, and who gets them.

A member is a frozen dataclass whose fields are its settings, with the methods of `Transport`. It offers two connections with the same
methods on every broker:

- a *subscription* hears channels and calls ``heard(chunk, received_ns)`` once a read. What that returns, if anything, are futures: the
  chunk is handled when they are done, and only then may a member that acknowledges do so;
- a *publisher* sends payloads without waiting and calls ``answered(token, receivers, at_ns)``, in order for each channel; receivers is
  -1 where the broker's answer does not say.

Both call ``lost(reason)`` once when the connection is gone. No exception of a foreign library leaves this folder:
opening raises `BrokerUnreachable` or `BrokerRefused`. To add one: write ``sim/wire/transports/<name>.py`` with such a class, and list it in
`TRANSPORTS`. Its settings are keys of a scenario's ``[bus]`` with the names of its fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Protocol

from sim.machine.freezer import Freezer
from sim.wire.address import Address
from sim.wire.clients import PublishCallbacks, SubscribingClient, SubscriptionCallbacks
from sim.wire.connection import Command
from sim.wire.read_memo import C
from sim.wire.transports.memory import Memory
from sim.wire.transports.pubsub import PubSub
from sim.wire.transports.sharded import Sharded
from sim.wire.transports.streams import Streams


class Subscription(Protocol):
    """An open connection that hears channels."""

    def ping(self) -> bool:
        """Ask the broker for a sign of life; return False when the request before was not answered."""

    def pause(self) -> None:
        """Read no more for now."""

    def resume(self) -> None:
        """Go on reading."""

    async def finish(self) -> None:
        """Read no more; return when all that was heard is handled and acknowledged, or the connection is gone."""

    def give_up(self, reason: str) -> None:
        """Drop the connection and call `lost`."""

    def close(self) -> None:
        """Close the connection."""

    def abort(self) -> None:
        """Drop the connection at once."""


class Publisher(Protocol):
    """An open connection to publish on without waiting."""

    @property
    def in_flight(self) -> int:
        """Publishes without an answer."""

    @property
    def full(self) -> bool:
        """Whether so many have no answer that the next would be turned down."""

    def send(self, channel: bytes, payload: bytes, token: Any) -> bool:
        """Send one publish; return False when it cannot be sent now."""

    def ping(self) -> bool:
        """Ask the broker for a sign of life; return False when the request before was not answered."""

    def give_up(self, reason: str) -> None:
        """Drop the connection and call `lost`."""

    def close(self) -> list[Any]:
        """Close the connection and return the tokens that have no answer."""

    def abort(self) -> list[Any]:
        """Drop the connection at once and return the tokens that have no answer."""


class Store(Protocol):
    """The keys in which a broker keeps events. Each is a channel with its prefix."""

    async def backlog(self, command: Command, channels: Sequence[str], groups: Sequence[str]) -> int:
        """Return how many events these groups have not been given, or not acknowledged."""

    async def found(self, command: Command, channels: Sequence[str]) -> frozenset[str]:
        """Return which channels have a key already."""

    async def clear(self, command: Command, channels: Sequence[str], groups: Sequence[str], *, found: frozenset[str]) -> None:
        """Remove these groups, and the keys that were not found before and that nobody else has a group on."""


class Transport(Protocol):
    """A way for events from one pod to others."""

    @property
    def one_per_service(self) -> bool:
        """Whether an event reaches one pod of each service, instead of every pod."""

    @property
    def any_node(self) -> bool:
        """Whether an event may enter a cluster at any node, which passes it on to all others; else a channel has its own node."""

    @property
    def store(self) -> Store | None:
        """How to look after what the broker keeps, None when it keeps nothing."""

    async def subscribe(
        self, address: Address, channels: Sequence[str], *, client: SubscribingClient, callbacks: SubscriptionCallbacks[C]
    ) -> Subscription:
        """Open a connection that hears channels; return once the broker confirmed them all.

        Raises
        ------
        BrokerUnreachable, BrokerRefused
        """

    async def open_publisher(
        self, address: Address, *, client_name: str, callbacks: PublishCallbacks, freezer: Freezer | None = None
    ) -> Publisher:
        """Open a connection to publish on; while the freezer is frozen, nothing is read and nothing is called.

        Raises
        ------
        BrokerUnreachable, BrokerRefused
        """

    def publish_words(self, channel: str, payload: bytes) -> tuple[str | bytes, ...]:
        """Return the command by which another client publishes the same."""

    async def subscribers(self, commands: Sequence[Command], address: Address, channels: Sequence[str]) -> list[int]:
        """Return how many subscribers the broker counts on each channel; `commands` has one for each node."""


TRANSPORTS: dict[str, Callable[..., Transport]] = {"pubsub": PubSub, "sharded": Sharded, "memory": Memory, "streams": Streams}


def make_transport(name: str, settings: Mapping[str, Any]) -> Transport:
    """Return a transport with those of the settings that it has."""
    member: Any = TRANSPORTS[name]
    made: Transport = member(**{field.name: settings[field.name] for field in fields(member) if field.name in settings})
    return made
