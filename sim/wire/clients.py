"""Who opens a connection, and what is called when something comes over it: what every transport is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic

from sim.machine.freezer import Freezer
from sim.wire.read_memo import C, Heard, ReadMemo


@dataclass(frozen=True)
class SubscribingClient:
    """One that hears channels, as the broker and the other clients of its group see it.

    Attributes
    ----------
    name
        Under which the broker lists its connections.
    group, consumer
        Who shares the events (a service), and who this is among them (a pod).
    returning
        Whether it heard before: then what was published meanwhile is meant for it, if the broker still has it.
    freezer
        While it is frozen, nothing is read and nothing is called.
    """

    name: str
    group: str
    consumer: str
    returning: bool = False
    freezer: Freezer | None = None


@dataclass(frozen=True)
class SubscriptionCallbacks(Generic[C]):
    """What is done with the reads of a subscription, and who is told when it is gone.

    Attributes
    ----------
    memo
        Decodes the payloads of a read, once for all who share it.
    heard
        Called with (chunk, received_ns) for each read.
    lost
        Called once with the reason.
    """

    memo: ReadMemo[C]
    heard: Heard[C]
    lost: Callable[[str], None]


@dataclass(frozen=True)
class PublishCallbacks:
    """Who is told what became of each publish.

    Attributes
    ----------
    answered
        Called with (token, receivers, at_ns) for each publish that the broker took; receivers is -1 where its answer does not say.
    refused
        Called with (token, the broker's words, at_ns) for each that it did not.
    lost
        Called once with (reason, tokens without an answer) when the connection is gone.
    """

    answered: Callable[[Any, int, int], None]
    refused: Callable[[Any, str, int], None]
    lost: Callable[[str, list[Any]], None]
