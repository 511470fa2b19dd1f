"""What a tap is asked to record, and what it says of its doors: the words between a run and the process of its proxy."""

from __future__ import annotations

import msgspec

TAP = "tap"  # the source of a tap's rows, and the name of a door that has none


class Door(msgspec.Struct, frozen=True, omit_defaults=True):
    """One listener of a tap: the pod behind it, its service, and the channels (whole names) that it should hear; none: not known."""

    name: str
    service: str = ""
    channels: tuple[str, ...] = ()


class SeenDoor(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a tap sees at a door now.

    Attributes
    ----------
    connections
        How many are open.
    names
        Of their clients, as far as they said one.
    hears
        Whether they hear together what the door should (with nothing known, whether they hear anything).
    publishes, pushes
        How many passed by this door since the tap began.
    """

    name: str
    connections: int
    names: list[str]
    hears: bool
    publishes: int
    pushes: int


class TapPlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a tap records, and where.

    Attributes
    ----------
    folder
        The run folder.
    source
        Which process writes; unique in the run, and the `host` of its rows of `pods`.
    nonce, first_publisher
        Of the keys of events without an id: the run's nonce, and the number of the first connection among its publishers.
    doors
        The tap's listeners.
    by_door
        Whether a door is one pod, whatever connections it opens; else each connection is one.
    pointer, channel_prefix
        As of `sim.bus.event_rule.EventRule`.
    """

    folder: str
    nonce: int
    source: str = TAP
    first_publisher: int = 0
    doors: tuple[Door, ...] = (Door(TAP),)
    by_door: bool = False
    pointer: str = ""
    channel_prefix: str = ""
