"""Plan what the services' own handlers carry, beside the broker. Pure.

Rules
-----
1. On Pub/Sub each pod of a service hears every event of its channels. More replicas share no work, so each pod must keep up with all of it.
2. A pod keeps up when it is asked for less than its handlers can do (`sim.results.handling`), and when 99 of 100 events wait for them no
   longer than the limit on lag. The wait is that of an M/G/c queue, whose tail falls as that of M/M/c does; where the core and the number
   at a time both limit, it is that of whichever is fuller.
3. What would help: fewer events for each pod (a stream or a queue that shares them among the replicas, or channels split by key), more
   at a time where the wait and not the core is the limit, or a cheaper handler. Each with its number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from sim.machine.words import amount, count, duration
from sim.measure.capacity.workload import Workload
from sim.results.handling import Handling, handling_of
from sim.results.queueing import busy_wait, mean_wait_s

TAIL = 0.01  # the share of events that may wait longer than the limit
OUTAGE_S = 60.0  # that a backlog is told for
CLOSE = 1.002  # how near a rate is found


class ServiceLoad(msgspec.Struct, frozen=True):
    """What one pod of a service would be asked for at a rate.

    Attributes
    ----------
    events_per_s, can_per_s
        What each of its pods hears, and what its handlers can do; infinite where nothing limits them.
    wait_s, wait_p99_s
        How long an event waits for its handler on average, and at most but for one in a hundred.
    carries
        How many times as much it could hear with the limit kept; 0 where not even the least.
    changes
        What would help where it does not keep up, each alone.
    """

    service: str
    replicas: int
    events_per_s: float
    can_per_s: float
    wait_s: float
    wait_p99_s: float
    carries: float
    changes: tuple[str, ...] = ()

    @property
    def utilisation(self) -> float:
        """What is asked over what can be done."""
        return self.events_per_s / self.can_per_s

    def drain_s(self, outage_s: float) -> float:
        """Return how long a pod needs for what was kept in an outage of so many seconds, beside what comes meanwhile; infinite if never."""
        left = self.can_per_s - self.events_per_s
        return self.events_per_s * outage_s / left if left > 0 else math.inf

    @property
    def keeps_up(self) -> bool:
        """Whether it carries what is asked."""
        return self.carries >= 1


def plan_consumers(
    services: Mapping[str, Mapping[str, object]], workload: Workload, *, calls_per_s: float, lag_ms_p99: float
) -> tuple[ServiceLoad, ...]:
    """Return what each service whose handlers take time would be asked for.

    Parameters
    ----------
    services
        The services' tables of a scenario.
    lag_ms_p99
        The limit on lag, of which the wait for a handler is a part.
    """
    found = []
    for name, service in services.items():
        handling = handling_of(service)
        heard = _heard_per_s(workload, name, calls_per_s)
        if not handling.takes_time or not heard:
            continue
        rate = sum(heard.values())
        shares = {channel: one / rate for channel, one in heard.items()}
        limit_s = lag_ms_p99 / 1e3
        mean, tail = _waits(handling, shares, rate)
        carries = _most(handling, shares, rate, limit_s)
        changes = _changes(handling, shares, rate, limit_s, replicas=workload.replicas[name]) if carries < 1 else ()
        found.append(ServiceLoad(name, workload.replicas[name], rate, handling.can_per_s(shares), mean, tail, carries, changes))
    return tuple(found)


def _heard_per_s(workload: Workload, service: str, calls_per_s: float) -> dict[str, float]:
    """Return how many events of each channel a pod of a service hears a second."""
    return {kind.name: kind.share * calls_per_s / workload.items(kind, calls_per_s) for kind in workload.kinds if service in kind.heard_by}


def _waits(handling: Handling, shares: Mapping[str, float], rate: float) -> tuple[float, float]:
    """Return how long an event waits on average, and the longest but for one in a hundred, in seconds; infinite where it falls behind."""
    worst = (0.0, 0.0)
    for mean_s, square_s2, servers in handling.queues(shares):
        mean = mean_wait_s(rate, mean_s=mean_s, square_s2=square_s2, servers=servers)
        waits = busy_wait(rate * mean_s, servers)
        if math.isinf(mean):
            return math.inf, math.inf
        tail = mean / waits * math.log(waits / TAIL) if waits > TAIL else 0.0
        worst = max(worst, (mean, tail), key=lambda one: one[1])
    return worst


def _keeps_up(handling: Handling, shares: Mapping[str, float], rate: float, limit_s: float) -> bool:
    return rate < handling.can_per_s(shares) and _waits(handling, shares, rate)[1] <= limit_s


def _most(handling: Handling, shares: Mapping[str, float], rate: float, limit_s: float) -> float:
    """Return how many times the rate it carries; infinite where nothing limits it."""
    can = handling.can_per_s(shares)
    if math.isinf(can):
        return math.inf
    good, bad = 0.0, can
    while bad - good > (CLOSE - 1) * bad / 2:
        middle = (good + bad) / 2
        good, bad = (middle, bad) if _keeps_up(handling, shares, middle, limit_s) else (good, middle)
    return good / rate


def _changes(handling: Handling, shares: Mapping[str, float], rate: float, limit_s: float, *, replicas: int) -> tuple[str, ...]:
    """Return what would help, each alone."""
    found = []
    for pods in range(2, 1001):
        if _keeps_up(handling, shares, rate / pods, limit_s):
            now = f" (it has {count(replicas, 'replica')}, which share nothing on Pub/Sub)"
            found.append(f"its events shared among {count(pods, 'pod')}, by a stream's consumer group or by key{now}")
            break
    more = next((many for many in range(handling.concurrency + 1, 1001) if _keeps_up(handling.at_once(many), shares, rate, limit_s)), 0)
    if handling.concurrency and more:
        found.append(f"{more} events at a time in place of {handling.concurrency}")
    elif handling.concurrency:
        found.append("more events at a time does not help: the core is full")
    share = _cheapest(handling, shares, rate, limit_s)
    if share:
        whole = sum(part * (handling.cpu[channel].mean_ms + handling.wait[channel].mean_ms) for channel, part in shares.items())
        found.append(f"handlers that take {duration(whole * share / 1e3)} in place of {duration(whole / 1e3)}")
    return tuple(found)


def _cheapest(handling: Handling, shares: Mapping[str, float], rate: float, limit_s: float) -> float:
    """Return to which share handlers would have to become cheaper; 0 where not even a thousandth would do."""
    good, bad = 0.001, 1.0
    if not _keeps_up(handling.cheaper(good), shares, rate, limit_s):
        return 0.0
    while bad > good * CLOSE:
        middle = (good * bad) ** 0.5
        good, bad = (middle, bad) if _keeps_up(handling.cheaper(middle), shares, rate, limit_s) else (good, middle)
    return good


def consumer_sentence(load: ServiceLoad, *, lag_ms_p99: float, kept: bool = False) -> str:
    """Return in a sentence whether a service keeps up, and why not.

    Parameters
    ----------
    kept
        Whether publishers keep their events in an outage: then what piles up comes after it, all at once.
    """
    asked = f"{amount(load.events_per_s)} events/s"
    if math.isinf(load.can_per_s):
        return f"{load.service} keeps up: it handles as many events at a time as it reads."
    head = (
        f"each pod of {load.service} is asked for {load.utilisation:.0%} of what its handlers can do ({asked} of {amount(load.can_per_s)})"
    )
    if load.keeps_up:
        wait = f"an event waits {duration(load.wait_s)} on average, {duration(load.wait_p99_s)} at most but for one in a hundred"
        drain = f"; what is kept in an outage of {duration(OUTAGE_S)} it works off in {duration(load.drain_s(OUTAGE_S))}" if kept else ""
        return f"{load.service} keeps up: {head}, and {wait}{drain}."
    why = "it falls behind for as long as that goes on"
    if math.isfinite(load.wait_p99_s):
        why = f"one event in a hundred waits longer than {duration(load.wait_p99_s)}, and {duration(lag_ms_p99 / 1e3)} is the limit"
    return f"{load.service} does not keep up: {head}, and {why}."
