"""The line between a run and its load generator: JSON lines over one socket, which the one that was started inherits from the other.

run -> generator      ``job`` (everything it needs, the broker's URL included: it is on no command line and in no file),
                      then ``go`` with time zero, or ``stop``; while the load runs, ``heard`` for Locust's own tables; ``mirror`` where the
                      echo of a worker cannot be reached
generator -> run      ``other-clock`` of each worker that does not read the run's clock, ``ready``, then ``progress`` twice a second,
                      ``part-home`` while the record of workers on other machines comes in, then ``done``
end of file           the other side is gone: the generator stops, the run fails
"""

from __future__ import annotations

from typing import Any

import msgspec

from sim.pods.clocks import OtherClock

OWN_LOCUSTFILE = "BUSLAB_LOCUSTFILE"  # in the environment of a Locust that a run starts: the user's own locustfile


class LoadJob(msgspec.Struct, frozen=True, tag="job"):
    """The order to publish this scenario there, and to record it in this folder."""

    url: str
    folder: str
    nonce: int
    run_id: str
    scenario: dict[str, Any]


class Go(msgspec.Struct, frozen=True, tag="go"):
    """The order to start: offsets of the schedule count from `zero_ns`, a time of `now_ns`.

    `zero_of` has the same time for each process that reads another clock, by that clock.
    """

    zero_ns: int
    zero_of: dict[str, int] = {}


class MirrorOf(msgspec.Struct, frozen=True, tag="mirror"):
    """The order for one process to answer on this channel at the broker with its clock (`sim.pods.clocks.MirrorClock`)."""

    host: str
    channel: str


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """The order to stop now: flush, keep the record, leave."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The news that every user is connected and waits; `hosts` are the names under which the generator's processes record what they use."""

    users: int
    hosts: tuple[str, ...] = ("locust",)


class LoadProgress(msgspec.Struct, frozen=True, tag="progress"):
    """How far the load is."""

    calls: int
    published: int


class PartHome(msgspec.Struct, frozen=True, tag="part-home"):
    """The news that so many bytes more of the record of workers on other machines were written."""

    size: int


class LagSample(msgspec.Struct, frozen=True, tag="heard"):
    """Some of the lags of what was delivered lately, milliseconds: a sample to be shown, not to be judged."""

    lags_ms: tuple[float, ...]


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The news that everything is sent and recorded; `error` is empty when all went well.

    `closed_by_server` is how often a connection was found closed by the server before a publish, and made anew.
    """

    calls: int
    error: str = ""
    closed_by_server: int = 0


Message = LoadJob | Go | Stop | LagSample | MirrorOf | OtherClock | Ready | LoadProgress | PartHome | Done
