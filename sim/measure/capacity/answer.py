"""CapacityAnswer in one sentence whether a bus carries a rate: broker, link and services' handlers together, and which ends first. Pure.

Each limit is told as how many times the rate it would carry, the low end of what is known. The least of them is the first limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from sim.machine.words import listed
from sim.measure.capacity.consumers import ServiceLoad, consumer_sentence, plan_consumers
from sim.measure.capacity.frames import BITS, on_link
from sim.measure.capacity.plan import NO_BATCH, Option, Plan, headroom, make_plan
from sim.measure.capacity.report import Capacity, conclusion
from sim.measure.capacity.workload import Workload
from sim.scenario.client_settings import keeps_events
from sim.scenario.settings import Scenario


class Limit(msgspec.Struct, frozen=True):
    """One thing that ends: its name, how many times the rate it carries (infinite: no end is known), and how full it would be, in words."""

    name: str
    times: float
    fullness: str


class CapacityAnswer(msgspec.Struct, frozen=True):
    """Whether a rate is carried, the limits in the order in which they end, and what would have to change, each alone."""

    calls_per_s: float
    limits: tuple[Limit, ...]
    changes: tuple[str, ...]
    excuses: tuple[str, ...]

    @property
    def carried(self) -> bool:
        """Whether it is."""
        return not self.excuses and all(limit.times >= 1 for limit in self.limits)

    def __str__(self) -> str:
        first, rate = self.limits[0], f"{self.calls_per_s:,.0f} calls/s"
        full = "; ".join(limit.fullness for limit in self.limits)
        full = f"{full[:1].upper()}{full[1:]}."
        ends = f"the first limit is {first.name}, at {first.times:.3g} times that"
        if self.carried:
            return f"{rate} are carried: {ends}. {full}"
        over = [limit.name for limit in self.limits if limit.times < 1]
        more = f", then {listed(over[1:])}" if len(over) > 1 else ""
        changes = f" What would have to change: {'; '.join(self.changes)}." if self.changes else ""
        if over:
            return f"{rate} are not carried: {ends}{more}. {full}{changes}"
        return f"{rate} cannot be promised as it is: {'; '.join(self.excuses)}. {full}{changes}"


def answer(plan: Plan, workload: Workload, consumers: Sequence[ServiceLoad], *, link_mbit_per_s: float) -> CapacityAnswer:
    """Return what a plan's option of one broker and today's replicas and batches, and the consumers, come to."""
    target = plan.target_calls_per_s
    today = _as_it_is(plan, workload)
    free = headroom()
    mbit = on_link(workload.sent(target)).most * BITS / 1e6 * target
    of_link = link_mbit_per_s * (1 - free) / mbit if link_mbit_per_s and mbit else math.inf
    limits = [
        Limit(
            "the broker",
            _of_broker(today, target, of_link),
            f"the broker would be at {today.used:.0%} of its saturation rate, and {today.headroom:.0%} are to be kept free",
        )
    ]
    if link_mbit_per_s:
        full = f"the broker's link would carry {mbit:,.0f} of {link_mbit_per_s:,.0f} Mbit/s"
        limits.append(Limit("the broker's link", of_link, full))
    for load in consumers:
        if math.isfinite(load.can_per_s):
            full = f"the handlers of {load.service} would be asked for {load.utilisation:.0%} of what they can do"
            limits.append(Limit(f"{load.service}'s handlers", load.carries, full))
    limits.sort(key=lambda limit: limit.times)
    changes = [f"for {load.service} {_one_of(load.changes)}" for load in consumers if load.changes]
    if not today.accepted:
        changes.append(f"for the broker {plan.best.choice}" if plan.best else f"for the broker {_one_of(plan.changes)}")
    return CapacityAnswer(target, tuple(limits), tuple(changes), today.excuses)


def _one_of(changes: Sequence[str]) -> str:
    return ", or ".join(changes)


def _as_it_is(plan: Plan, workload: Workload) -> Option:
    """Return the option that changes nothing."""
    size = workload.batch_size if workload.is_batched else NO_BATCH
    same = [option for option in plan.options if option.choice.brokers == 1 and not option.choice.least_replicas]
    return min(same, key=lambda option: abs(option.choice.batch_size - size))


def _of_broker(option: Option, target: float, of_link: float) -> float:
    """Return how many times the rate the broker's core carries: with the headroom kept, and no more than was measured."""
    by_core = (1 - option.headroom) / option.used if option.used else math.inf
    in_all = option.carries.low / target
    return in_all if in_all < min(by_core, of_link) else by_core


class BusPlan(msgspec.Struct, frozen=True):
    """A plan for the broker and for the services' handlers; `kept`: whether publishers keep their events in an outage."""

    broker: Plan
    consumers: tuple[ServiceLoad, ...]
    answer: CapacityAnswer
    lag_ms_p99: float
    kept: bool

    @property
    def carried(self) -> bool:
        """Whether some choice of the plan carries the rate, and every service's handlers do."""
        return self.broker.best is not None and all(load.keeps_up for load in self.consumers)

    @property
    def sentences(self) -> list[str]:
        """The answer, then a sentence for each service whose handlers take time, or that none says so."""
        told = [consumer_sentence(load, lag_ms_p99=self.lag_ms_p99, kept=self.kept) for load in self.consumers]
        silent = "Of the services' own work nothing is known: no handler_ms or handler_cpu_ms says how long it lasts."
        return [str(self.answer), *(told or [silent])]


def plan_bus(
    scenario: Scenario,
    workload: Workload,
    measured: Capacity,
    *,
    target_calls_per_s: float,
    least_replicas: Sequence[int] = (0,),
    link_mbit_per_s: float = 0.0,
) -> BusPlan:
    """Plan a scenario's bus for a rate, from what was measured: broker, link and handlers.

    Parameters
    ----------
    workload
        Of the scenario (`sim.measure.capacity.run.workload_of`).
    least_replicas, link_mbit_per_s
        As of `make_plan`.
    """
    plan = make_plan(
        measured.plan_model,
        workload,
        target_calls_per_s=target_calls_per_s,
        measured=measured.measured,
        least_replicas=least_replicas,
        link_mbit_per_s=link_mbit_per_s,
    )
    services = {name: msgspec.to_builtins(service) for name, service in scenario.services.items()}
    limit, kept = measured.lag_ms_p99, keeps_events(scenario.bus)
    consumers = plan_consumers(services, workload, calls_per_s=target_calls_per_s, lag_ms_p99=limit)
    return BusPlan(plan, consumers, answer(plan, workload, consumers, link_mbit_per_s=link_mbit_per_s), limit, kept)


def plan_answer(measured: Capacity, plan: BusPlan) -> tuple[str, str]:
    """Return the verdict of a measurement and a plan, and why: invalid where the rate that was planned is not carried."""
    verdict, text = conclusion(measured)
    if verdict == "valid" and not plan.carried:
        verdict = "invalid"
    return verdict, " ".join([text, *plan.sentences])
