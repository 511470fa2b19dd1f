"""What one direction of one connection does to bytes: delay, jitter, rate, hold. No I/O, no clock: times come in and go out.

Plans that lie on a link at one time compose, in any order: delays and jitters add up, the slowest rate rules, and it is held while one
of them holds it.

Bytes of a direction arrive in order, as TCP's do: a piece never overtakes the one before it. A *held* direction is a black hole
that TCP repeats into: what is sent meanwhile arrives after it is released.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

NS_PER_S = 1_000_000_000


@dataclass(frozen=True)
class LinkPlan:
    """The behaviour of one direction.

    Attributes
    ----------
    delay_ns
        From sending to arriving, for every piece.
    jitter_ns
        Greatest further delay; each piece draws its own, uniform from 0.
    bytes_per_s
        Rate at which bytes pass, 0 = no limit.
    held
        Nothing arrives until the plan changes.
    """

    delay_ns: int = 0
    jitter_ns: int = 0
    bytes_per_s: int = 0
    held: bool = False

    def over(self, base: LinkPlan) -> LinkPlan:
        """Return this plan together with another one."""
        rates = [rate for rate in (self.bytes_per_s, base.bytes_per_s) if rate]
        return LinkPlan(base.delay_ns + self.delay_ns, base.jitter_ns + self.jitter_ns, min(rates, default=0), base.held or self.held)


@dataclass(frozen=True)
class LinkLoad:
    """The effect of one fault on a link.

    Attributes
    ----------
    refusing
        Open connections are reset when it begins, and new ones are refused.
    cutting
        Connections that are open when it begins end in the middle of what the broker sends next on each.
    """

    to_broker: LinkPlan = LinkPlan()
    to_pod: LinkPlan = LinkPlan()
    refusing: bool = False
    cutting: bool = False

    def over(self, base: LinkLoad) -> LinkLoad:
        """Return this load together with another one."""
        return LinkLoad(
            self.to_broker.over(base.to_broker),
            self.to_pod.over(base.to_pod),
            self.refusing or base.refusing,
            self.cutting or base.cutting,
        )


FREE = LinkLoad()


class Link:
    """One direction of a connection, which tells when each piece arrives.

    Parameters
    ----------
    draw
        Returns uniform numbers from 0 to 1, for the jitter.
    """

    __slots__ = ("_arrived_ns", "_draw", "_free_ns", "plan")

    def __init__(self, plan: LinkPlan, draw: Callable[[], float]) -> None:
        self.plan = plan
        self._draw = draw
        self._free_ns = 0  # when the bytes sent so far have passed the rate limit
        self._arrived_ns = 0  # when the newest piece arrives

    def arrival_ns(self, sent_ns: int, size: int) -> int | None:
        """Return when a piece of `size` bytes arrives, or None while the direction is held: ask again when it is released."""
        plan = self.plan
        if plan.held:
            return None
        at_ns = sent_ns
        if plan.bytes_per_s:
            at_ns = self._free_ns = max(at_ns, self._free_ns) + size * NS_PER_S // plan.bytes_per_s
        at_ns += plan.delay_ns
        if plan.jitter_ns:
            at_ns += int(plan.jitter_ns * self._draw())
        if at_ns < self._arrived_ns:
            return self._arrived_ns
        self._arrived_ns = at_ns
        return at_ns


def that_fit(pieces: Iterable[bytes], room_bytes: int) -> Iterator[bytes]:
    """Yield the first pieces that fit into a room together: what a kernel has taken of what a program wrote."""
    for piece in pieces:
        room_bytes -= len(piece)
        if room_bytes < 0:
            return
        yield piece
