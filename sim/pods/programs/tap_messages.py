"""What the process of the taps tells the run about programs. Times are nanoseconds of CLOCK_MONOTONIC; pods are their numbers.

Beside these it answers the orders of `sim.grounds.proxy`, as it is one.
"""

from __future__ import annotations

import msgspec

from sim.grounds.proxy import Cut, Opened, Refuse, Reset, Shape


class Doors(msgspec.Struct, frozen=True, tag="doors"):
    """An order to open a tap for each of these pods, each leading to the broker; answered by `Opened`, its ports in the order of the pods.

    Attributes
    ----------
    url
        The broker's address, with what lets a client in.
    pointer
        Where in an event its id stands, as a JSON pointer; empty where events carry none.
    channel_prefix
        What is left out of a channel to have the event's type; what has another is told with its whole name.
    """

    url: str
    pods: list[int]
    pointer: str
    channel_prefix: str
    seed: int


class ProgramPublished(msgspec.Struct, frozen=True, tag="published", array_like=True):
    """An event that a program sent, with what became of it; the fields are those of `sim.wire.tap_rows.Publish`."""

    pod: int
    connection: int
    channel: str
    key: int
    size: int
    passed_ns: int
    answered_ns: int
    outcome: str
    receivers: int


class ProgramHeard(msgspec.Struct, frozen=True, tag="heard", array_like=True):
    """Messages that had been written to a program's socket by then: event types, and the keys by which they are known."""

    pod: int
    written_ns: int
    channels: list[str]
    keys: list[int]


class ConnectionJoined(msgspec.Struct, frozen=True, tag="joined", array_like=True):
    """What a connection is subscribed to from now on: event types, and patterns of whole channels."""

    pod: int
    connection: int
    at_ns: int
    channels: list[str]
    patterns: list[str]


class ConnectionClosed(msgspec.Struct, frozen=True, tag="closed", array_like=True):
    """The end of a connection, one of `sim.wire.tap_rows.ENDS`; `unread` are bytes that could not be read."""

    pod: int
    connection: int
    at_ns: int
    end: str
    unread: int


Told = ProgramPublished | ProgramHeard | ConnectionJoined | ConnectionClosed
LinkOrder = Shape | Reset | Refuse | Cut


class TapRows(msgspec.Struct, frozen=True, tag="rows"):
    """What the taps have to tell since the last time, in order."""

    told: list[Told]


class Flush(msgspec.Struct, frozen=True, tag="flush"):
    """An order to tell at once what there is to tell; answered by `Flushed` after it."""


class Flushed(msgspec.Struct, frozen=True, tag="flushed"):
    """The answer to `Flush`: everything that had passed by then was told."""


FromTaps = TapRows | Opened | Flushed
ToTaps = Doors | Shape | Reset | Refuse | Cut | Flush
