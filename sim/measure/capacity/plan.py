"""Plan a bus from measured costs: intervals in, choices with reasons out. Pure: it measures nothing and asks nobody.

Words
-----
*Workload*: who hears what, and what a call of the application makes of it (`sim.measure.capacity.workload`).
*Saturation*: calls per second at which the broker's core does nothing else.
*Headroom*: the share of that which stays free, by a stated rule: 0.712 / cores^0.448, at which three in ten arrivals find the core
busy (Netflix, service-capacity-modeling). A broker runs its commands on one core, so 71.2 % stay free.
*Held*: the highest rate that the search of a measurement carried; *too much*: the lowest one above that it did not.
*Excuse*: why a choice is refused. A refused choice has one at least; an accepted one has none, but may have notes.

Rules
-----
1. More pods never raise what a broker carries: every pod gets every event of its channels.
2. What a choice carries is the low end of the interval, not its middle.
3. A choice outside of what was tested is refused, and one that stands on a computed step (several brokers) says so. Events smaller than
   any that was tested are not outside, as they cost no more.
4. One pod down must not silence a channel: a service that hears has two replicas at least. The broker is not relieved by a pod that is
   down: plans are for all pods up, the worse of the two. Excepted is a service that adds up what it hears: a second replica would count
   every event again, so it stays as it is, and the plan says so.
5. No broker is planned to be fuller than it was at the rate that held, where a higher one was measured as too much. An accepted choice
   was measured as it is, or has the word *computed* in its notes, with the reason.
6. Choices that come to the same are one: sizes of a batch that the interval ends first, or that no event waits for; replicas that are
   there already.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

from sim.machine.words import count, duration
from sim.measure.capacity.fit import CostModel
from sim.measure.capacity.frames import BITS, on_link
from sim.measure.capacity.levers import what_must_change
from sim.measure.capacity.workload import EventType, Workload, hearing_alone, same_load
from sim.results.interval import Interval

HEADROOM_AT_ONE, HEADROOM_POWER = 0.712, 0.448
BATCHES = (1, 10, 30, 100, 300, 1000)
MAX_BROKERS = 8
NO_BATCH = 0


class ResourceLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one resource carries, in calls per second, and how that is known."""

    name: str
    calls_per_s: Interval
    how: str


class SustainedRate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the search of a measurement came to, with one broker.

    Attributes
    ----------
    workload
        What it was measured with.
    held_calls_per_s
        The highest rate that was carried; 0 when none was.
    too_much_calls_per_s
        The lowest above it that was not carried; infinite when none was too much.
    why_not
        Why it was not.
    """

    workload: Workload
    held_calls_per_s: float
    too_much_calls_per_s: float
    why_not: str

    @property
    def ended(self) -> bool:
        """Whether some rate was too much."""
        return math.isfinite(self.too_much_calls_per_s)

    def __str__(self) -> str:
        if not self.held_calls_per_s:
            return f"no rate was carried, the lowest that was not is {self.too_much_calls_per_s:,.0f} calls/s: {self.why_not}"
        held = f"{self.held_calls_per_s:,.0f} calls/s held"
        return f"{held}, {self.too_much_calls_per_s:,.0f} did not: {self.why_not}" if self.ended else f"{held}, nothing higher was tried"


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to run the bus: the replicas of the workload, but at least so many of each service; `batch_size` is of items, 0 = none."""

    least_replicas: int
    brokers: int
    batch_size: int

    def __str__(self) -> str:
        brokers = count(self.brokers, "broker")
        pods = f"at least {count(self.least_replicas, 'replica')}" if self.least_replicas else "replicas as they are"
        return f"{pods}, {brokers}" + (f", batches of {self.batch_size}" if self.batch_size != NO_BATCH else "")

    def of(self, workload: Workload) -> Workload:
        """Return the workload as it is with this choice."""
        size = self.batch_size if self.batch_size != NO_BATCH else workload.batch_size
        return msgspec.structs.replace(workload, batch_size=size).with_at_least(self.least_replicas)


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
    """Every option that was looked at for a target, and the one to take: fewest brokers, then nearest to today's batch.

    Attributes
    ----------
    changes
        What would have to change, each alone, where no option is left.
    measured
        Which rate held in the measurement, and which did not.
    """

    target_calls_per_s: float
    options: tuple[Option, ...]
    changes: tuple[str, ...] = ()
    measured: str = ""

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
        at = 1e6 / model.value_us(workload.events(math.inf, kinds))  # full batches: the most that can be
        for _ in range(20):  # the interval may end batches before they are full, and then there is more to publish
            at = (at + 1e6 / model.value_us(workload.events(at, kinds))) / 2
    return model.cost_us(workload.events(at, kinds)).inverse(1e6)


def not_tested(model: CostModel, workload: Workload, calls_per_s: float) -> list[str]:
    """Return what of a workload lies outside of what was measured, one sentence a kind.

    Events that are smaller than any that was tested are not outside: they cost no more than those.
    """
    smallest = model.hull.small[2]
    found = []
    for kind, (_, pods, size) in zip(workload.kinds, workload.events(calls_per_s), strict=True):
        if why := model.hull.outside(pods, max(size, smallest), model.kink_bytes):
            found.append(f"not tested: {kind.name} has {why}")
    return found


def split(model: CostModel, workload: Workload, brokers: int, calls_per_s: float) -> list[list[EventType]]:
    """Return which kinds go to which of several independent brokers: the dearest first, each to the one with the least to do."""
    cost = {kind.name: model.value_us(workload.events(calls_per_s, [kind])) for kind in workload.kinds}
    groups: list[list[EventType]] = [[] for _ in range(brokers)]
    for kind in sorted(workload.kinds, key=lambda one: -cost[one.name]):
        min(groups, key=lambda group: sum(cost[one.name] for one in group)).append(kind)
    return groups


def make_plan(
    model: CostModel,
    workload: Workload,
    *,
    target_calls_per_s: float,
    measured: SustainedRate | None = None,
    least_replicas: Sequence[int] = (0,),
    brokers: Sequence[int] = tuple(range(1, MAX_BROKERS + 1)),
    batches: Sequence[int] = BATCHES,
    link_mbit_per_s: float = 0.0,
    cores: float = 1.0,
) -> Plan:
    """Work out every combination of choices for a target, and what speaks against each.

    Parameters
    ----------
    measured
        Which rates were carried and which were not; without it every option is computed, and says so.
    least_replicas
        How many replicas each service has at least, to look at; 0 means those of the workload.
    link_mbit_per_s
        What a broker's network link carries; 0 = no limit is known.
    cores
        Cores that a broker's commands run on.
    """
    sizes = sorted({*batches, workload.batch_size}, key=lambda size: (abs(math.log(size / workload.batch_size)), size))
    sizes = sizes if workload.is_batched else [NO_BATCH]
    choices = [Choice(pods, many, size) for many in sorted(set(brokers)) for pods in least_replicas for size in sizes]
    distinct: dict[object, Choice] = {}
    for choice in choices:
        load = choice.of(workload)
        distinct.setdefault((choice.brokers, tuple(load.replicas.values()), _told_apart(load.events(target_calls_per_s))), choice)
    look = _Looked(model, measured, link_mbit_per_s, cores)
    options = tuple(look.option(workload, choice, target_calls_per_s) for choice in distinct.values())
    said = str(measured or "")
    if any(option.accepted for option in options):
        return Plan(target_calls_per_s, options, measured=said)
    most = min(max(brokers), len(workload.kinds))

    def carried(load: Workload, rate: float, link: float, many: int = most) -> bool:
        tried = msgspec.structs.replace(look, link_mbit_per_s=link)
        return any(tried.option(load, Choice(pods, many, size), rate).accepted for pods in least_replicas for size in sizes)

    changes = what_must_change(workload, target_calls_per_s, link_mbit_per_s=link_mbit_per_s, carried=carried)
    if measured is not None and not measured.held_calls_per_s:
        changes = ("measure again on a machine at rest (`buslab capacity`): a plan needs a rate that was carried",)
    return Plan(target_calls_per_s, options, changes, said)


def _told_apart(events: Sequence[tuple[float, int, float]]) -> tuple[tuple[str, int, str], ...]:
    """Return events in six digits: batches that all but never fill are as large with any greater size."""
    return tuple((f"{many:.6g}", pods, f"{size:.6g}") for many, pods, size in events)


class _Looked(msgspec.Struct, frozen=True):
    """What options are looked at with."""

    model: CostModel
    measured: SustainedRate | None
    link_mbit_per_s: float
    cores: float = 1.0

    def option(self, workload: Workload, choice: Choice, target: float) -> Option:
        """Return what a choice comes to."""
        model, chosen, free = self.model, choice.of(workload), headroom(self.cores)
        groups = [group for group in split(model, chosen, choice.brokers, target) if group]
        fullest = max(groups, key=lambda group: model.value_us(chosen.events(target, group)))
        full = saturation(model, chosen, kinds=fullest)
        at_target = saturation(model, chosen, calls_per_s=target, kinds=fullest)
        mbit = max(on_link(chosen.sent(target, group)).most for group in groups) * BITS / 1e6
        most = self.link_mbit_per_s / mbit if self.link_mbit_per_s and mbit else math.inf
        ceiling = self._ceiling(chosen, choice, target, full, at_target)
        carries = Interval(*(min(min(value, most) * (1 - free), ceiling) for value in (full.value, full.low, full.high)))
        used = target / at_target.low
        alone = [name for name in hearing_alone(chosen) if name not in chosen.adding_up]
        excuses = [f"one replica of {', '.join(alone)}: with one pod down nobody hears its events"] if alone else []
        excuses += not_tested(model, chosen, target)
        if len(groups) < choice.brokers:
            excuses.append(f"{count(choice.brokers, 'broker')} for {count(len(groups), 'channel')}: one has nothing to do")
        excuses += self._beyond(chosen, choice, target, at_target)
        if used > 1 - free:
            excuses.append(f"the fullest broker would be at {used:.0%} of its saturation rate; the rule keeps {free:.0%} free")
        if target > most * (1 - free):
            excuses.append(
                f"its link would carry {target * mbit:,.0f} Mbit/s of {self.link_mbit_per_s:,.0f}; the rule keeps {free:.0%} free"
            )
        notes = [self._how_known(chosen, choice, target), *_notes(chosen, target)]
        return Option(choice, carries, used, free, tuple(excuses), tuple(notes))

    def _as_measured(self, chosen: Workload, choice: Choice, target: float) -> bool:
        return self.measured is not None and choice.brokers == 1 and same_load(chosen, self.measured.workload, target)

    def _share_held(self, measured: SustainedRate) -> float:
        """Return the share of its saturation rate that a broker had at the rate that held, by the model."""
        held = measured.held_calls_per_s
        return held / saturation(self.model, measured.workload, calls_per_s=held).value

    def _ceiling(self, chosen: Workload, choice: Choice, target: float, full: Interval, at_target: Interval) -> float:
        """Return the calls per second that a choice may be said to carry by what was measured."""
        measured = self.measured
        if measured is None or not (measured.ended or target <= measured.held_calls_per_s):
            return math.inf
        if self._as_measured(chosen, choice, target):
            return measured.held_calls_per_s
        return self._share_held(measured) * min(full.value, at_target.value) if measured.ended else math.inf

    def _beyond(self, chosen: Workload, choice: Choice, target: float, at_target: Interval) -> list[str]:
        """Return why a choice is beyond what was measured."""
        measured = self.measured
        if measured is None or not measured.ended:
            return []
        if self._as_measured(chosen, choice, target):
            return [f"measured: {measured}"] if target > measured.held_calls_per_s else []
        held = self._share_held(measured)
        if target <= held * at_target.value:
            return []
        if not held:
            return [f"measured: {measured}"]
        like = target / at_target.value / held * measured.held_calls_per_s
        return [f"computed: its fullest broker would be as full as one at {like:,.0f} calls/s of what was measured, where {measured}"]

    def _how_known(self, chosen: Workload, choice: Choice, target: float) -> str:
        """Return how it is known what a choice carries."""
        measured = self.measured
        if choice.brokers > 1:
            return "not tested: computed from the costs of one broker, each on a core of its own, channels divided among them"
        if measured is None:
            return "computed from the broker's costs: which rate it sustains was not measured"
        if not self._as_measured(chosen, choice, target):
            return "computed from the broker's costs: measured were other events, replicas or batches"
        if target > measured.held_calls_per_s:
            return f"computed from the broker's costs: measured was {measured.held_calls_per_s:,.0f} calls/s at most"
        return f"measured: {measured.held_calls_per_s:,.0f} calls/s held"


def _notes(workload: Workload, target: float) -> list[str]:
    notes = []
    hearing = [name for name in workload.adding_up if any(name in kind.heard_by for kind in workload.kinds)]
    for name in hearing:
        pods = workload.replicas[name]
        kept = f"one replica of {name} is kept: two would handle every event twice"
        notes.append(
            f"each of the {pods} replicas of {name} handles every event: what that does is done {pods} times" if pods > 1 else kept
        )
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
    measured: SustainedRate | None = None,
) -> str:
    """Return in some lines what one choice would come to at one rate; for sliders."""
    choice = Choice(0, brokers, batch_size if workload.is_batched else NO_BATCH)
    option = _Looked(model, measured, link_mbit_per_s).option(workload.with_pods(pods_per_service), choice, calls_per_s)
    batches = f", batches of {batch_size}" if workload.is_batched else ""
    head = (
        f"{count(pods_per_service, 'replica')} of each service, {count(brokers, 'broker')}{batches}: carries {option.carries.low:,.0f} .. "
        f"{option.carries.high:,.0f} calls/s with {option.headroom:.0%} kept free."
    )
    verdict = "It carries" if option.accepted else "It does not carry"
    lines = [head, f"{verdict} {calls_per_s:,.0f} calls/s, which is {option.used:.0%} of the fullest broker's saturation rate."]
    return "\n".join([*lines, *(f"- {text}" for text in (*option.excuses, *option.notes))])


def teller(model: CostModel, workload: Workload, measured: SustainedRate | None = None) -> Callable[[float, int, int, int], None]:
    """Return a function of calls_per_s, pods_per_service, batch_size and brokers that prints what they would come to."""

    def tell(calls_per_s: float, pods_per_service: int, batch_size: int, brokers: int) -> None:
        pods, size = pods_per_service, batch_size
        print(what_if(model, workload, calls_per_s=calls_per_s, pods_per_service=pods, batch_size=size, brokers=brokers, measured=measured))

    return tell
