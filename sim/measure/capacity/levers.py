"""What would have to change where no choice carries a target: each change alone, with its number, computed for the workload at hand. Pure.

Rules
-----
1. A number is found by halving: what it names is accepted by the rules of the plan, and a little more is not. As many brokers may be used
   as there are channels.
2. A change that is not enough alone says how far it goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sim.machine.words import amount, count, listed
from sim.measure.capacity.workload import Workload, hearing_alone

CLOSE = 1.005  # how near a rate or a link is found
MAX_STEPS = 64
MAX_SHARDS = 256
LEAST_CALLS_PER_S = 1.0
MOST_MBIT_PER_S = 1e9


class Carried(Protocol):
    """Whether any choice carries a rate of a workload over a link of so many Mbit/s (0: no limit), with so many brokers."""

    def __call__(self, load: Workload, rate: float, link: float, many: int = ..., /) -> bool:
        """Return the answer."""


def what_must_change(workload: Workload, target_calls_per_s: float, *, link_mbit_per_s: float, carried: Carried) -> tuple[str, ...]:
    """Return the changes, each a clause of a sentence: a lower rate, more replicas, link, payloads, hearers, channels split by key."""
    target, link = target_calls_per_s, link_mbit_per_s

    def most(load: Workload, over: float) -> float:
        """Return the highest rate that is carried, at most the target; 0 for none."""
        return last(lambda rate: carried(load, rate, over), LEAST_CALLS_PER_S, target) or 0.0

    today = most(workload, link)

    def unless(change: str, load: Workload, over: float) -> str:
        """Return how far a change goes that is not enough."""
        goes = most(load, over)
        return f"{change} does not help" if goes <= today * CLOSE else f"{change} is not enough and carries {goes:,.0f} calls/s"

    found = [f"at most {today:,.0f} calls/s" if today else "a lower rate does not help"]
    if (alone := hearing_alone(workload)) and carried(workload.with_at_least(2), target, link):
        found.append(f"at least 2 replicas of {listed(alone)}")
    if link and carried(workload, target, MOST_MBIT_PER_S):
        thinnest = last(lambda thinner: carried(workload, target, 1 / thinner), 1 / MOST_MBIT_PER_S, 1 / link) or 1 / MOST_MBIT_PER_S
        found.append(f"a link of {1 / thinnest:,.0f} Mbit/s in place of {link:,.0f}")
    elif link:
        found.append(unless("a thicker link", workload, MOST_MBIT_PER_S))
    if payload := round(max(kind.payload_bytes for kind in workload.kinds)):
        size = last_of(payload, lambda size: carried(workload.with_payloads(size / payload), target, link))
        if size is None:
            found.append(unless("a payload of 0 B", workload.with_payloads(0.0), link))
        else:
            found.append(f"payloads of at most {size:,} B in place of {payload:,}")
    found.append(_hearers(workload, target, link, carried, unless))
    found.append(_split(workload, target, link, carried))
    return tuple(filter(None, found))


def _hearers(workload: Workload, target: float, link: float, carried: Carried, unless: Callable[[str, Workload, float], str]) -> str:
    """Return to how many replicas of a service those that hear would have to come down."""
    hearing = {name for kind in workload.kinds for name in kind.heard_by}
    most = max((pods for name, pods in workload.replicas.items() if name in hearing), default=0)
    if most < 2:
        return ""
    least = min(2, most - 1)  # one alone must not be down
    few = last_of(most - 1, lambda pods: carried(workload.with_at_most(pods), target, link), first=least)
    if few is None:
        return unless(f"at most {count(least, 'replica')} of a service", workload.with_at_most(least), link)
    before, after = (max(load.receivers(kind) for kind in load.kinds) for load in (workload, workload.with_at_most(few)))
    return f"at most {count(few, 'replica')} of a service, so that {amount(after)} and not {count(before, 'pod')} hear an event"


def _split(workload: Workload, target: float, link: float, carried: Carried) -> str:
    """Return over how many brokers each channel would have to be split by key."""
    fewer = last_of(MAX_SHARDS, lambda shards: not carried(workload, target / shards, link, 1), first=1)
    if fewer == MAX_SHARDS or not carried(workload, target / MAX_SHARDS, link, 1):
        return f"each channel split by key over {MAX_SHARDS} brokers does not help"
    enough = (fewer or 1) + 1
    return f"each channel split by key over {count(enough, 'broker')}, each with 1/{enough} of the events"


def last(holds: Callable[[float], bool], good: float, bad: float) -> float | None:
    """Return the last number from `good` up to `bad` that holds, nearly; None when not even `good` does."""
    if not holds(good):
        return None
    if bad <= good or holds(bad):
        return max(good, bad)
    for _ in range(MAX_STEPS):
        if bad <= good * CLOSE:
            break
        middle = (good * bad) ** 0.5
        good, bad = (middle, bad) if holds(middle) else (good, middle)
    return good


def last_of(most: int, holds: Callable[[int], bool], *, first: int = 0) -> int | None:
    """Return the last whole number from `first` to `most` that holds, where all up to it do; None when not even the first does."""
    if not holds(first):
        return None
    if holds(most):
        return most
    good, bad = first, most
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if holds(middle) else (good, middle)
    return good
