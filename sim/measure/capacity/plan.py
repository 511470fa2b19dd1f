"""Plan a bus from measured costs: intervals in, choices with reasons out. Pure: it measures nothing and asks nobody.

Words
-----
*Workload*: who hears what, and what a call of the application makes of it: events, copies, bytes.
*Saturation*: calls per second at which the broker's core does nothing else.
*Headroom*: the share of that which stays free, by a stated rule: 0.712 / cores^0.448, at which three in ten arrivals find the core
busy (Netflix, service-capacity-modeling). A broker runs its commands on one core, so 71.2 % stay free.
*Excuse*: why a choice is refused. A refused choice has one at least; an accepted one has none, but may have notes.

Rules
-----
1. More pods never raise what a broker carries: every pod gets every event of its channels.
2. What a choice carries is the low end of the interval, not its middle.
3. A choice outside of what was tested is refused, and one that stands on a computed step (several brokers) says so.
4. One pod down must not silence a channel: a service that hears has two replicas at least. The broker is not relieved by a pod that is
   down: plans are for all pods up, the worse of the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

from sim.machine.words import count, duration
from sim.measure.capacity.fit import CostModel
from sim.results.interval import Interval

HEADROOM_AT_ONE, HEADROOM_POWER = 0.712, 0.448
BATCHES = (1, 10, 30, 100, 300, 1000)
MAX_BROKERS = 8
BITS = 8


class EventType(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One event type of a workload.

    Attributes
    ----------
    share
        Of the application's calls; the shares of all kinds sum to 1.
    batched
        Whether calls are items that wait for a batch.
    head_bytes, item_bytes
        An event has ``head + items x item`` bytes.
    heard_by, published_by
        Services.
    """

    name: str
    share: float
    batched: bool
    head_bytes: float
    item_bytes: float
    heard_by: tuple[str, ...]
    published_by: tuple[str, ...]


class Workload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a scenario asks of a bus."""

    kinds: tuple[EventType, ...]
    replicas: dict[str, int]
    batch_size: int
    batch_interval_s: float

    def with_pods(self, pods_per_service: int) -> Workload:
        """Return the same with so many replicas of every service."""
        return msgspec.structs.replace(self, replicas=dict.fromkeys(self.replicas, pods_per_service))

    def with_at_least(self, replicas: int) -> Workload:
        """Return the same with at least so many replicas of every service."""
        return msgspec.structs.replace(self, replicas={name: max(pods, replicas) for name, pods in self.replicas.items()})

    def one_down(self) -> Workload:
        """Return the same with one pod less of the service that hears most."""
        heard = {name: sum(name in kind.heard_by for kind in self.kinds) for name in self.replicas}
        name = max(heard, key=lambda one: (heard[one], self.replicas[one]))
        return msgspec.structs.replace(self, replicas=self.replicas | {name: self.replicas[name] - 1})

    def receivers(self, kind: EventType) -> int:
        """Return how many pods hear an event of this kind."""
        return sum(self.replicas[name] for name in kind.heard_by)

    def items(self, kind: EventType, calls_per_s: float) -> float:
        """Return how many items a batch has at this rate: the size ends it, or the interval, whichever comes first."""
        if not kind.batched:
            return 1.0
        publishers = max(1, sum(self.replicas[name] for name in kind.published_by))
        in_time = kind.share * calls_per_s / publishers * self.batch_interval_s
        return float(min(self.batch_size, max(1.0, in_time + 1)))

    def events(self, calls_per_s: float, kinds: Sequence[EventType] | None = None) -> list[tuple[float, int, float]]:
        """Return (events, subscribers, bytes) that one call makes on average, of each kind."""
        found = []
        for kind in self.kinds if kinds is None else kinds:
            items = self.items(kind, calls_per_s)
            found.append((kind.share / items, self.receivers(kind), kind.head_bytes + items * kind.item_bytes))
        return found

    def events_per_call(self, calls_per_s: float) -> float:
        """Return how many events a call makes on average."""
        return sum(many for many, _, _ in self.events(calls_per_s))

    def copies_per_call(self, calls_per_s: float) -> float:
        """Return how many copies a call makes on average."""
        return sum(many * pods for many, pods, _ in self.events(calls_per_s))

    def bytes_per_call(self, calls_per_s: float) -> float:
        """Return how many bytes of events leave the broker for a call on average."""
        return sum(many * pods * size for many, pods, size in self.events(calls_per_s))


class ResourceLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one resource carries, in calls per second, and how that is known."""

    name: str
    calls_per_s: Interval
    how: str


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to run the bus: the replicas of the workload, but at least so many of each service; `batch_size` is of items."""

    least_replicas: int
    brokers: int
    batch_size: int

    def __str__(self) -> str:
        brokers = count(self.brokers, "broker")
        pods = f"at least {count(self.least_replicas, 'replica')}" if self.least_replicas else "replicas as they are"
        return f"{pods}, {brokers}, batches of {self.batch_size}"


class Option(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A choice and what came of it.

    Attributes
    ----------
    carries
        Calls per second that its fullest broker, or its link, lets through with the headroom kept.
    used
        Share of the fullest broker's saturation rate at the target, at the low end of the interval.
    excuses
        Why it is refused; empty when it is not.
    """

    choice: Choice
    carries: Interval
    used: float
    headroom: float
    excuses: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.excuses


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every option that was looked at for a target, and the one to take: fewest brokers, then nearest to today's batch."""

    target_calls_per_s: float
    options: tuple[Option, ...]

    @property
    def best(self) -> Option | None:
        """The option to take, or None when none is left."""
        return next((option for option in self.options if option.accepted), None)


def headroom(cores: float = 1.0) -> float:
    """Return the share to keep free; below one core it is that of one, and it is never negative."""
    free: float = HEADROOM_AT_ONE / max(1.0, cores) ** HEADROOM_POWER
    return free


def saturation(
    model: CostModel, workload: Workload, *, calls_per_s: float | None = None, kinds: Sequence[EventType] | None = None
) -> Interval:
    """Return the calls per second that fill a broker's core.

    Parameters
    ----------
    calls_per_s
        Batches are as full as at this rate; by default as full as they are at the rate returned.
    kinds
        What goes over this broker; by default everything.
    """
    at = calls_per_s
    if at is None:
        at = 1e6 / model.cost_us(workload.events(math.inf, kinds)).value  # full batches: the most that can be
        for _ in range(20):  # the interval may end batches before they are full, and then there is more to publish
            at = (at + 1e6 / model.cost_us(workload.events(at, kinds)).value) / 2
    return model.cost_us(workload.events(at, kinds)).inverse(1e6)


def not_tested(model: CostModel, workload: Workload, calls_per_s: float) -> list[str]:
    """Return what of a workload lies outside of what was measured, one sentence a kind."""
    found = []
    for kind, (_, pods, size) in zip(workload.kinds, workload.events(calls_per_s), strict=True):
        if why := model.hull.outside(pods, size, model.kink_bytes):
            found.append(f"not tested: {kind.name} has {why}")
    return found


def split(model: CostModel, workload: Workload, brokers: int, calls_per_s: float) -> list[list[EventType]]:
    """Return which kinds go to which of several independent brokers: the dearest first, each to the one with the least to do."""
    cost = {kind.name: model.cost_us(workload.events(calls_per_s, [kind])).value for kind in workload.kinds}
    groups: list[list[EventType]] = [[] for _ in range(brokers)]
    for kind in sorted(workload.kinds, key=lambda one: -cost[one.name]):
        min(groups, key=lambda group: sum(cost[one.name] for one in group)).append(kind)
    return groups


def make_plan(
    model: CostModel,
    workload: Workload,
    *,
    target_calls_per_s: float,
    least_replicas: Sequence[int] = (0,),
    brokers: Sequence[int] = tuple(range(1, MAX_BROKERS + 1)),
    batches: Sequence[int] = BATCHES,
    link_mbit_per_s: float = 0.0,
    cores: float = 1.0,
) -> Plan:
    """Work out every combination of choices for a target, and what speaks against each.

    Parameters
    ----------
    least_replicas
        How many replicas each service has at least, to look at; 0 means those of the workload.
    link_mbit_per_s
        What a broker's network link carries; 0 = no limit is known.
    cores
        Cores that a broker's commands run on.
    """
    sizes = sorted({*batches, workload.batch_size}, key=lambda size: (abs(math.log(size / workload.batch_size)), size))
    options = [
        _option(model, workload, Choice(pods, many, size), target_calls_per_s, link_mbit_per_s, cores)
        for many in sorted(set(brokers))
        for pods in least_replicas
        for size in sizes
    ]
    return Plan(target_calls_per_s, tuple(options))


def _option(model: CostModel, workload: Workload, choice: Choice, target: float, link_mbit_per_s: float, cores: float) -> Option:
    chosen = msgspec.structs.replace(workload, batch_size=choice.batch_size).with_at_least(choice.least_replicas)
    free = headroom(cores)
    groups = [group for group in split(model, chosen, choice.brokers, target) if group]
    fullest = max(groups, key=lambda group: model.cost_us(chosen.events(target, group)).value)
    full = saturation(model, chosen, kinds=fullest)
    mbit = max(sum(n * pods * size for n, pods, size in chosen.events(target, group)) for group in groups) * BITS / 1e6
    most = link_mbit_per_s / mbit if link_mbit_per_s and mbit else math.inf
    carries = Interval(*(min(value, most) * (1 - free) for value in (full.value, full.low, full.high)))
    used = target / saturation(model, chosen, calls_per_s=target, kinds=fullest).low
    alone = [name for name, pods in chosen.replicas.items() if pods < 2 and any(name in kind.heard_by for kind in chosen.kinds)]
    excuses = [f"one replica of {', '.join(alone)}: with one pod down nobody hears its events"] if alone else []
    excuses += not_tested(model, chosen, target)
    if len(groups) < choice.brokers:
        excuses.append(f"{count(choice.brokers, 'broker')} for {count(len(groups), 'channel')}: one has nothing to do")
    if used > 1 - free:
        excuses.append(f"the fullest broker would be at {used:.0%} of its saturation rate; the rule keeps {free:.0%} free")
    if target > most * (1 - free):
        excuses.append(f"its link would carry {target * mbit:,.0f} Mbit/s of {link_mbit_per_s:,.0f}; the rule keeps {free:.0%} free")
    return Option(choice, carries, used, free, tuple(excuses), tuple(_notes(chosen, choice, target)))


def _notes(workload: Workload, choice: Choice, target: float) -> list[str]:
    notes = []
    if choice.brokers > 1:
        notes.append("not tested: computed from the costs of one broker, each on a core of its own, channels divided among them")
    for kind in workload.kinds:
        if kind.batched and (items := workload.items(kind, target)) > 1:
            publishers = sum(workload.replicas[name] for name in kind.published_by)
            each = f"each of {count(publishers, 'pod')}" if publishers > 1 else "one pod"
            wait_s = min(workload.batch_interval_s, items * publishers / max(kind.share * target, 1e-9))
            notes.append(f"{kind.name}: {count(round(items), 'item')} at risk in {each}, the oldest {duration(wait_s)} old")
    return notes


def what_if(
    model: CostModel,
    workload: Workload,
    *,
    calls_per_s: float,
    pods_per_service: int,
    batch_size: int,
    brokers: int = 1,
    link_mbit_per_s: float = 0.0,
) -> str:
    """Return in some lines what one choice would come to at one rate; for sliders."""
    option = _option(model, workload.with_pods(pods_per_service), Choice(0, brokers, batch_size), calls_per_s, link_mbit_per_s, 1.0)
    head = (
        f"{count(pods_per_service, 'replica')} of each service, {count(brokers, 'broker')}, batches of "
        f"{batch_size}: carries {option.carries.low:,.0f} .. "
        f"{option.carries.high:,.0f} calls/s with {option.headroom:.0%} kept free."
    )
    verdict = "It carries" if option.accepted else "It does not carry"
    lines = [head, f"{verdict} {calls_per_s:,.0f} calls/s, which is {option.used:.0%} of the fullest broker's saturation rate."]
    return "\n".join([*lines, *(f"- {text}" for text in (*option.excuses, *option.notes))])


def teller(model: CostModel, workload: Workload) -> Callable[[float, int, int, int], None]:
    """Return a function of calls_per_s, pods_per_service, batch_size and brokers that prints what they would come to."""

    def tell(calls_per_s: float, pods_per_service: int, batch_size: int, brokers: int) -> None:
        pods, size = pods_per_service, batch_size
        print(what_if(model, workload, calls_per_s=calls_per_s, pods_per_service=pods, batch_size=size, brokers=brokers))

    return tell
