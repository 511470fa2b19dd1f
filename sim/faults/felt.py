"""How far one occasion of a fault was carried out: what it means to hurt may be away, or may go away meanwhile.

Rules
-----
1. A fault that says nothing was carried out as a whole when it began.
2. One that meets something that is away *waits* for it, to the end of its window and no longer. What it then does is done *late*; what it
   does to some and not, or only later, to others is done *in part*; and so is what is taken back before its window ends, as by a new server
   that knows no changed setting.
3. What was never done was felt *not at all*: the run goes on, and is told so.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from sim.machine.clock import NS_PER_S, now_ns

RETRY_S = 0.05


@dataclass
class Felt:
    """How far one occasion of a fault was carried out so far.

    Attributes
    ----------
    until_s
        When its window ends, in the time of the event loop.
    says
        Whether the fault says itself what it did.
    at_ns
        When the first of it was done; 0 = nothing was.
    late
        Whether it waited for that.
    in_part
        Whether some of it was not done, not at the same time, or taken back too early.
    missed_ns
        When it first could not be done; 0 = it could be at once.
    cut_short
        Whether it is ended before its window is, as the run is interrupted: what heals waits then for nothing that had yet to happen.
    """

    until_s: float = math.inf
    says: bool = False
    at_ns: int = 0
    late: bool = False
    in_part: bool = False
    missed_ns: int = 0
    cut_short: bool = False

    @property
    def is_over(self) -> bool:
        """Whether the window has ended."""
        return asyncio.get_running_loop().time() >= self.until_s

    def did(self, *, waited: bool = False, since_ns: int = 0) -> None:
        """Note that something is done now, or was since a time, after it had to wait or at once."""
        self.says = True
        if self.at_ns:
            self.in_part |= waited
            return
        self.at_ns = since_ns or now_ns()
        since_missed_s = (self.at_ns - self.missed_ns) / NS_PER_S
        if waited or (self.missed_ns and since_missed_s > RETRY_S):
            self.late = True
        elif self.missed_ns:
            self.in_part = True  # to others it could not be done at that time

    def missed(self) -> None:
        """Note that something could not be done."""
        self.says = True
        if self.at_ns:
            self.in_part = True
        else:
            self.missed_ns = self.missed_ns or now_ns()

    def word(self) -> str:
        """Return one of `sim.record.schema.FELT`."""
        if not self.at_ns:
            return "not at all"
        return ", ".join(word for word, so in (("late", self.late), ("in part", self.in_part)) if so) or "whole"
