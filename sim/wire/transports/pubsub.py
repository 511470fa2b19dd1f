"""Classic Redis Pub/Sub over our own asyncio protocol: every subscriber hears every event, if it is connected at that moment.

Why not redis-py here: with hundreds of pods in one process its listener would be most of the lag that is measured.

Rules
-----
1. Hearing is `sim.wire.subscription`, speaking is `sim.wire.pipeline`.
2. In a cluster any node will do: it passes what it is given on to every other node, whether or not anybody there listens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sim.machine.freezer import Freezer
from sim.wire.address import Address
from sim.wire.clients import PublishCallbacks, SubscribingClient, SubscriptionCallbacks
from sim.wire.connection import Command
from sim.wire.pipeline import Pipeline, open_pipeline
from sim.wire.read_memo import C
from sim.wire.subscription import CLASSIC, ChannelSubscription, counted, open_subscription


def frame(channel: bytes, payload: bytes) -> bytes:
    """Return one PUBLISH as RESP."""
    return b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(channel), channel, len(payload), payload)


@dataclass(frozen=True)
class PubSub:
    """The transport that copies each event to every subscriber."""

    one_per_service = False
    any_node = True
    store = None

    async def subscribe(
        self, address: Address, channels: Sequence[str], *, client: SubscribingClient, callbacks: SubscriptionCallbacks[C]
    ) -> ChannelSubscription[C]:
        """Subscribe; return once the broker confirmed every channel. Group and consumer mean nothing here."""
        subscription = await open_subscription(address, channels, kind=CLASSIC, client=client, callbacks=callbacks)
        subscription.on_lost(callbacks.lost)
        return subscription

    async def open_publisher(
        self, address: Address, *, client_name: str, callbacks: PublishCallbacks, freezer: Freezer | None = None
    ) -> Pipeline:
        """Open a connection to publish on; the answer is how many subscribers of that node the event was queued for."""
        return await open_pipeline(address, client_name=client_name, frame=frame, callbacks=callbacks, freezer=freezer)

    def publish_words(self, channel: str, payload: bytes) -> tuple[str | bytes, ...]:
        """Return the command that publishes."""
        return ("PUBLISH", channel, payload)

    async def subscribers(self, commands: Sequence[Command], address: Address, channels: Sequence[str]) -> list[int]:
        """Ask every node PUBSUB NUMSUB: each counts its own subscribers."""
        return await counted(commands, "NUMSUB", channels)
