"""How far a run is, for whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sim.machine.clock import now_ns


@dataclass(frozen=True)
class Status:
    """How far a run is, for a display.

    Attributes
    ----------
    left_s
        Seconds until the phase ends, or None where nobody knows.
    lag_ms_p99
        So far, sampled; None before the load.
    stays
        `phase` is a sentence to be read when the run is over too.
    """

    phase: str
    left_s: float | None = None
    published: int = 0
    delivered: int = 0
    at_ns: int = field(default_factory=now_ns)
    lag_ms_p99: float | None = None
    pods: dict[str, int] = field(default_factory=dict)
    stays: bool = False


Watch = Callable[[Status], None]
