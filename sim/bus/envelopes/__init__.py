"""How an event of the bus becomes bytes, and how bytes become events: the envelopes that a scenario can name.

A member is a class with the methods of `Envelope`; its settings are keys of a scenario's ``[envelope]``. What the members have in common,
`Event` and `Chunk`, is in `sim.bus.envelope`. To add one: write ``sim/bus/envelopes/<name>.py``, and list it in `ENVELOPES`.

Rules
-----
1. What one member encodes it decodes to the same id, type, source, timestamp and data.
2. What is no such envelope is *malformed*, one of a version that its rule does not read *unsupported*; both are counted and left out.
3. An event of the lab's prober is known as one (`PROBE`), by its source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from sim.bus.envelope import Chunk, Event
from sim.bus.envelopes.aiponge import Aiponge
from sim.bus.envelopes.cloudevents import CloudEvents
from sim.bus.envelopes.plain import Plain
from sim.bus.envelopes.raw import Raw
from sim.bus.pointer import Pointer


class Envelope(Protocol):
    """The form in which events travel."""

    data_at: Pointer
    """Where in the envelope what a call carries stands."""

    by_channel: bool
    """Whether an event does not say its type, so that its channel does: then what is decoded is pairs of channel and payload."""

    def encode(self, event: Event) -> bytes:
        """Return the event as bytes.

        Raises
        ------
        TypeError, ValueError, OverflowError, RecursionError
            Its data cannot be encoded.
        """

    @property
    def identity(self) -> Callable[[str, bytes], int] | None:
        """What gives the event key by which a pod knows an event, from its type and payload; None where events carry their id."""

    def decode_read(self, payloads: Iterable[Any]) -> Chunk:
        """Decode the events of one read; malformed and unsupported ones are counted and left out."""


ENVELOPES: dict[str, Callable[..., Envelope]] = {"aiponge": Aiponge, "cloudevents": CloudEvents, "plain": Plain, "raw": Raw}
AIPONGE = Aiponge()


def make_envelope(kind: str, settings: dict[str, Any]) -> Envelope:
    """Return an envelope with its settings.

    Raises
    ------
    ValueError
        They do not fit together.
    """
    return ENVELOPES[kind](**settings)
