"""When a fault is on: once or repeated, at fixed times or at times drawn from the seed."""

from __future__ import annotations

from random import Random
from typing import Annotated

import msgspec
from msgspec import Meta


class FaultTimes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The times of a fault: when it begins, how long it is on, and how often. Every fault has these fields.

    Attributes
    ----------
    at_s
        Seconds after the start of the run phase.
    for_s
        How long it is on.
    within_s
        It begins at a time drawn uniformly from `at_s` to `at_s + within_s`; the scenario's seed decides.
    times, every_s
        How often, and how far apart the beginnings are (before the draw).
    """

    at_s: Annotated[float, Meta(ge=0, le=86_400)]
    for_s: Annotated[float, Meta(gt=0, le=86_400)]
    within_s: Annotated[float, Meta(ge=0, le=86_400)] = 0.0
    times: Annotated[int, Meta(ge=1, le=1000)] = 1
    every_s: Annotated[float, Meta(ge=0, le=86_400)] = 0.0

    def begins_s(self, draw: Random) -> list[float]:
        """Return when it begins, in seconds after the start of the run phase."""
        return [self.at_s + place * self.every_s + draw.random() * self.within_s for place in range(self.times)]

    def spans_s(self) -> list[tuple[float, float]]:
        """Return from when to when it may be on, each time, whatever is drawn."""
        begins = [self.at_s + place * self.every_s for place in range(self.times)]
        return [(begin, begin + self.within_s + self.for_s) for begin in begins]

    @property
    def last_end_s(self) -> float:
        """When it is over at the latest."""
        return self.at_s + (self.times - 1) * self.every_s + self.within_s + self.for_s

    def not_on_model(self) -> str:
        """Return why the model cannot do it, empty when it can."""
        return ""

    def problem(self) -> str:
        """Return what is wrong with the times, empty when nothing is."""
        if self.times > 1 and self.every_s < self.for_s + self.within_s:
            return f"times = {self.times} would overlap: give every_s at least for_s + within_s = {self.for_s + self.within_s:g}"
        return ""
