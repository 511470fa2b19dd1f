"""The line between a run and a process that holds pods: JSON lines over one socket that the child inherits.

run -> child      `Hold` (everything it needs, the broker's URLs included: they are on no command line and in no file), then orders.
                  Times in them are of the child's own clock
child -> run      an `Answer` to each order but `Read`, `Ports` and `MirrorClock`; meanwhile what its pods `Entered` and `ProbeHeard`, how
                  far they are (`PodProgress`), why it cannot go on (`Failed`), and before all else that it reads another clock than
                  the run (`OtherClock`). An answer names the order's `id`, which whoever sends it gives it
end of file       the run is gone, or drops everything: the child drops its connections, keeps its record and ends
SIGTERM           the child ends in order: its pods stop, what was recorded is written, exit code 0
"""

from __future__ import annotations

from typing import Any

import msgspec

from sim.pods.clocks import MirrorClock, OtherClock


class Handlers(msgspec.Struct, frozen=True, tag="handlers"):
    """The order to slow a pod's handlers down: so long for each event, at most so many at a time."""

    pod: str
    handler_ms: float
    at_once: int
    id: int = 0


class Failing(msgspec.Struct, frozen=True, tag="failing"):
    """The order that makes a pod's handlers raise, or work again."""

    pod: str
    failing: bool
    id: int = 0


class Skew(msgspec.Struct, frozen=True, tag="skew"):
    """The order that sets a pod's wall clock ahead by so much."""

    pod: str
    skew_ms: float
    id: int = 0


class Cease(msgspec.Struct, frozen=True, tag="cease"):
    """The order to make no call and no read of a pod any more: another has its place."""

    pod: str
    id: int = 0


Told = Handlers | Failing | Skew  # what a fault orders for a pod; its later incarnations follow it too


class Hold(msgspec.Struct, frozen=True, tag="hold"):
    """The order to make these pods, and to start them. Answered when they are subscribed; if `patient`, when HTTP answers.

    Attributes
    ----------
    name
        The process, as in the tables.
    urls
        The broker's nodes.
    links
        Pod number -> the URL by which it reaches the broker, where that is a way of its own.
    publishers
        Pod number -> its number in event keys.
    places
        Pod number -> the number of the pod whose calls it makes.
    killable
        Whether it may be killed: then it keeps a journal.
    grace_s
        From SIGTERM until it is killed.
    told
        What faults ordered for its pods before.
    clock
        The identity of the run's clock (`sim.machine.clock.clock_identity`); empty where it is known that the child reads it.
    echo
        The address at which the child answers for its own clock, if that is another.
    """

    scenario: dict[str, Any]
    name: str
    folder: str
    nonce: int
    run_id: str
    urls: str
    links: dict[int, str]
    publishers: dict[int, int]
    places: dict[int, int]
    killable: bool
    patient: bool
    grace_s: float
    timeout_s: float
    told: list[Told]
    id: int = 0
    clock: str = ""
    echo: str = "127.0.0.1"


class Drive(msgspec.Struct, frozen=True, tag="drive"):
    """The order to make the pods' calls from `since_ns` on. Answered when all are made and the end has come."""

    zero_ns: int
    end_ns: int
    since_ns: int = 0
    id: int = 0


class Read(msgspec.Struct, frozen=True, tag="read"):
    """The order to read the pods' configuration from `since_ns` on."""

    zero_ns: int
    since_ns: int = 0


class Settle(msgspec.Struct, frozen=True, tag="settle"):
    """The order to flush every pod's batch, the last time also to give up what is kept. Answered when every publish has its answer.

    With `handled` it is answered when the handlers have done all that was heard, too.
    """

    timeout_s: float
    last: bool = False
    handled: bool = False
    id: int = 0


class Ports(msgspec.Struct, frozen=True, tag="ports"):
    """The news of where the analytics pods of the fleet listen now."""

    ports: list[int]


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """The answer to an order: that it was carried out, or what went wrong; `ports`: pod -> where it serves HTTP."""

    id: int
    error: str = ""
    refused: bool = False
    ports: dict[str, int] = {}


class ProbeHeard(msgspec.Struct, frozen=True, tag="heard"):
    """The news that a pod heard the probe of a round."""

    pod: int
    channel: str
    round: int


class Entered(msgspec.Struct, frozen=True, tag="entered"):
    """The news that a pod's state changed, or what it believes of its connections; `bus` as in the table `pods`."""

    pod: int
    state: str
    ready: bool
    bus: str = ""


class PodProgress(msgspec.Struct, frozen=True, tag="progress"):
    """How far the pods are, as in `sim.pods.hosts.meters.Counts`."""

    published: int = 0
    delivered: int = 0
    calls: int = 0
    lag_ms_p99: float | None = None


class ForgetLag(msgspec.Struct, frozen=True, tag="forget-lag"):
    """The order to start the sampled lag anew."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The reason why this process cannot go on."""

    error: str


Order = Hold | Handlers | Failing | Skew | Cease | Drive | Read | Settle | Ports | ForgetLag | MirrorClock
Word = Answer | OtherClock | ProbeHeard | Entered | PodProgress | Failed
