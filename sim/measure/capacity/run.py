"""Measure what a bus carries on this machine: a grid of points to fit, points to hold against the fit, a search, and what it found.

Rules
-----
1. Points are measured with the broker full (`sim.measure.capacity.saturate`), in rounds, each round in another order.
   Held-out points are measured after the fit, and the fit never sees them.
2. A rate is *sustained* when p99 of lag is within the limit, the backlog grows by less than `GROWTH` of the rate, and as much was
   answered as was meant (OpenMessaging's rule, and a limit on lag). A rate that fails is tried once more: a neighbour may have taken the
   core. The search goes up in steps while rates are sustained, then halves the gap until it is below `GAP`.
3. Without a core there is no answer: where the broker, or who publishes and drains, could have run and did not for more than
   `Effort.most_withheld` of a window, it is tried again, `TRIES` times; then the measurement ends, before the rest of the budget is
   spent, and says what else took the cores. The first window looks for nothing else.
4. Everything has a part of the budget of time. Two rounds of the points to fit, and one of those held out, are always measured, further
   ones while there is time: from one round alone nothing is known of how far rounds lie apart.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from sim.bus.batcher import BatchRule
from sim.bus.envelope import ANALYTICS, EVENT_TYPES
from sim.bus.once import ONCE_FOR_ALL
from sim.bus.services import ADDING_UP
from sim.errors import MachineBusyError, UsageError
from sim.grounds.broker import Broker
from sim.grounds.catalogue import open_broker, shown_ground
from sim.grounds.embedded import EmbeddedBroker
from sim.machine.clock import utc_now
from sim.machine.facts import environment
from sim.machine.others import OtherProcesses
from sim.machine.words import count, duration, listed
from sim.measure.bench.children import LAB
from sim.measure.bench.measure import Setting
from sim.measure.capacity.children import EventKind as Driven
from sim.measure.capacity.fit import Point, fit_costs, fit_usl
from sim.measure.capacity.plan import saturation
from sim.measure.capacity.report import FILE_FORMAT, Capacity, TriedRate, again_held
from sim.measure.capacity.saturate import Range, Shot, envelope_of, payload_of
from sim.measure.capacity.workload import EventType, Workload
from sim.scenario.file import Scenario
from sim.scenario.payloads import Content
from sim.scenario.settings import Channel

CONNECTIONS = 4  # publishing connections: four reads of 16 KiB make the 64 KiB that the server writes to one subscriber in one turn
GRID_PODS, LARGE_PODS = (1, 6, 24, 72), (1, 12)  # and as many as hear any channel of the scenario, if those are more
SMALL = ((0, 1), (64, 10), (64, 100))  # payload bytes, batch: events of 0.3, 1.8 and 16.0 KB
LARGE = ((64, 105), (512, 120))  # 16.8 and 73 KB
HELD_OUT = ((3, 64, 1), (12, 256, 1), (48, 64, 5), (40, 64, 30), (12, 200, 20), (3, 128, 40), (12, 512, 80), (48, 512, 70))
KINK_SETTING = "min-string-size-avoid-copy-reply"
NO_KINK = 1 << 30
CHANNEL = EVENT_TYPES[0]
TRIES = 3
GROWTH, GAP, MIN_ANSWERED = 0.02, 1.12, 0.98
MAX_STEPS = 10
MAX_LOWER = 3  # the rate found is measured again, and so often lowered until it holds
LEAST_ROUNDS = 2  # one alone tells nothing of how far rounds lie apart
HOST_PODS = 100
Window = dict[str, float | str]


@dataclass(frozen=True)
class Effort:
    """How much is measured, and how long it may take.

    Attributes
    ----------
    budget_s
        About how long all of it may take; the first rounds of points are measured in any case.
    rounds
        Of points, at most; of those to fit two at least.
    full_s, rate_s
        Windows of a point and of a rate.
    again
        How often the answer's rate is measured again.
    most_withheld
        The share of a window in which the broker, or the children, may wait for a core before it says nothing about the broker.
    """

    budget_s: float = 200.0
    rounds: int = 3
    full_s: float = 0.5
    rate_s: float = 2.0
    again: int = 4
    most_withheld: float = 0.2
    pods: tuple[int, ...] = GRID_PODS
    small: tuple[tuple[int, int], ...] = SMALL
    large: tuple[tuple[int, int], ...] = LARGE
    held_out: tuple[tuple[int, int, int], ...] = HELD_OUT


QUICK = Effort()
DEEP = Effort(budget_s=900.0, rounds=7, full_s=1.0, rate_s=6.0, again=8)
TINY = Effort(  # for a notebook
    budget_s=20.0, rounds=1, full_s=0.3, rate_s=0.8, again=2, pods=(1, 6, 24), large=(), held_out=((3, 64, 1), (12, 64, 5))
)
EFFORTS = {"TINY": TINY, "QUICK": QUICK, "DEEP": DEEP}


def workload_of(scenario: Scenario) -> Workload:
    """Return what a scenario asks of the bus.

    Raises
    ------
    UsageError
        Its events do not go through one broker's Pub/Sub.
    """
    if scenario.bus.transport != "pubsub" or not scenario.bus.redis_url:
        how = scenario.bus.transport if scenario.bus.redis_url else "redis_url = false"
        raise UsageError(f"scenario {scenario.name}: bus.transport = {how!r}: capacity is measured of pubsub on one broker")
    mix = {kind: weight for kind, weight in scenario.load.mix.items() if weight > 0 and kind in scenario.channels}
    if not mix:
        raise UsageError(f"scenario {scenario.name}: load.mix names no event of the bus: there is nothing to size")
    if scenario.envelope.kind == "raw":
        why = "capacity finds the lag by a correlation id, and such events have none"
        raise UsageError(f"scenario {scenario.name}: envelope.kind = 'raw': {why}")
    if scenario.envelope.kind == "plain" and not scenario.envelope.correlation:
        raise UsageError(
            f"scenario {scenario.name}: envelope.correlation is empty: capacity finds the lag by it; give it a place, as /correlationId"
        )
    kinds, envelope = [], scenario.new_envelope()
    for name, weight in mix.items():
        channel, content = scenario.channels[name], scenario.content(name)
        one, two = (len(envelope_of(name, content, items=items if channel.batched else None, envelope=envelope)) for items in (1, 2))
        heard, published = (
            tuple(service for service, its in scenario.services.items() if name in getattr(its, how)) for how in ("subscribes", "publishes")
        )
        head = 2 * one - two if channel.batched else one
        kinds.append(
            EventType(
                name,
                weight / sum(mix.values()),
                channel.batched,
                head,
                two - one,
                heard,
                published,
                _could_be_smaller(scenario, channel, content),
                scenario.bus.channel_prefix + name,
            )
        )
    replicas = {name: service.replicas for name, service in scenario.services.items()}
    hearing = {name for kind in kinds if kind.name in ANALYTICS for name in kind.heard_by}
    counts = {name for name in hearing if scenario.behaviour(name) in ADDING_UP}
    counts |= {name for kind in kinds for name in kind.heard_by if scenario.services[name].must_not_double}
    adding_up = tuple(name for name in replicas if name in counts and scenario.bus.once not in ONCE_FOR_ALL)
    rules = [rule for name, rule in scenario.batches().items() if name in mix] or [
        BatchRule(scenario.bus.batch_size, scenario.bus.batch_interval_ms)
    ]
    if len(set(rules)) > 1:
        told = "; ".join(f"{name}: {rule.size:,} or {rule.interval_ms:,} ms" for name, rule in scenario.batches().items() if name in mix)
        raise UsageError(f"scenario {scenario.name}: its batches leave by different rules, and capacity plans one batch size: {told}")
    evenly = scenario.load.arrivals == "uniform"
    return Workload(tuple(kinds), replicas, rules[0].size, rules[0].interval_ms / 1000, adding_up, evenly)


def _could_be_smaller(scenario: Scenario, channel: Channel, content: Content) -> float:
    """Return how many bytes of what a call carries are filler or stand for a size, and could be left out."""
    if isinstance(channel.payload, dict):
        return float(scenario.load.payload_bytes) if "{filler}" in json.dumps(channel.payload) else 0.0
    return float(max(0, len(json.dumps(content(0), separators=(",", ":"))) - len(json.dumps({"id": 0, "note": ""}, separators=(",", ":")))))


def with_pods(scenario: Scenario, pods_per_service: int | None) -> Scenario:
    """Return a scenario with so many replicas of every service, or as it is."""
    if pods_per_service is None:
        return scenario
    services = {name: msgspec.structs.replace(service, replicas=pods_per_service) for name, service in scenario.services.items()}
    return msgspec.structs.replace(scenario, services=services)


def measure_capacity(
    scenario: Scenario,
    *,
    on: str = "embedded",
    lag_ms_p99: float = 50.0,
    effort: Effort = QUICK,
    load_this_server: bool = False,
    image: str | None = None,
    tell: Callable[[str], None] = lambda line: None,
    keep: Callable[[Window], object] = lambda window: None,
) -> Capacity:
    """Measure costs, fit them, hold them against new points, search the highest sustainable rate, and return all of it.

    Parameters
    ----------
    keep
        Called with each window as soon as it is measured, so that something is known when the measurement is interrupted.

    Raises
    ------
    UsageError
        The scenario or the ground is not one that can be sized.
    BuslabError
        A broker or a process failed.
    """
    workload = workload_of(scenario)
    if on.partition(":")[0] in ("model", "cluster", "container-cluster") or " " in on.strip():
        raise UsageError(f"--on {shown_ground(on)}: capacity is measured of one real broker: embedded, container or redis://")
    if on.startswith("rediss:"):
        raise UsageError("--on rediss://…: capacity through TLS is not measured; give a redis:// address")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="buslab-capacity-")))
        broker = stack.enter_context(open_broker(on, load_this_server=load_this_server, image=image, tell=tell))
        job = _Measurement(broker, folder, scenario, workload, effort, lag_ms_p99, tell, keep)
        stack.callback(job.range.close)
        return job.run()


@dataclass
class _Measurement:
    """One measurement on its way."""

    broker: Broker
    folder: Path
    scenario: Scenario
    workload: Workload
    effort: Effort
    lag_ms_p99: float
    tell: Callable[[str], None]
    keep: Callable[[Window], object]
    begun: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.range = Range(self.broker, self.folder)

    def run(self) -> Capacity:
        """Measure, in order: that there is a core, the grid, the fit, what was held out, the mix, the search, the answer anew, our pods."""
        kink = self._kink()
        self._with_a_core(lambda: self._point(1, 0, 1))
        fitted = self._points(self._grid(), "to fit", until=0.45, least=LEAST_ROUNDS)
        model, usl = fit_costs(fitted, kink_bytes=kink), fit_usl(fitted, kink_bytes=kink)
        held_out = self._points(list(self.effort.held_out), "held out", until=0.68)
        mix = self._mix()
        steps = self._search(min(self._wall_calls(mix), saturation(model, self.workload).value * 1.5))
        carried = max((step.calls_per_s for step in steps if step.sustained), default=0.0)
        again: list[TriedRate] = []
        lowered: list[TriedRate] = []
        for _ in range(MAX_LOWER if carried else 0):
            again = [self._step(carried, self.workload, "again") for _ in range(self.effort.again)]
            if again_held(again):
                break
            lowered += again
            carried /= GAP
        carried = again[0].calls_per_s if again else 0.0
        down = self.workload.one_down()
        one_down = [self._step(carried, down, "one pod down") for _ in range((self.effort.again + 1) // 2)] if carried else []
        return Capacity(
            format=FILE_FORMAT,
            measured_at=utc_now().isoformat(timespec="seconds"),
            took_s=round(time.monotonic() - self.begun, 1),
            scenario=self.scenario.name,
            ground=self.broker.ground,
            lag_ms_p99=self.lag_ms_p99,
            connections=CONNECTIONS,
            workload=self.workload,
            fitted=tuple(fitted),
            held_out=tuple(held_out),
            model=model,
            usl=usl,
            mix_cpu_us=tuple(shot.cpu_us for shot in mix),
            mix_core=tuple(shot.core for shot in mix),
            steps=tuple(steps),
            at_answer=tuple(again),
            one_down=tuple(one_down),
            lowered=tuple(lowered) if again_held(again) else (),
            host_copies_per_s=self._host(),
            about=environment(broker_says={key: str(value) for key, value in self.range.info("server").items()}, image=self.broker.image),
        )

    def _with_a_core(self, shoot: Callable[[], Shot]) -> Shot:
        """Return a window in which all had their cores.

        Raises
        ------
        MachineBusyError
            There was none.
        """
        for _ in range(TRIES):
            others = OtherProcesses([self.broker.pid] if self.broker.pid is not None else [])
            shot = shoot()
            if not (starved := shot.starved(self.effort.most_withheld)):
                return shot
            takers = others.busiest()
            self._say(f"{starved}: once more")
        stop = f"stop {listed([str(one) for one in takers])}" if takers else "stop what else runs on this machine"
        raise MachineBusyError(f"unknown: {starved}, so what was measured would be this machine and not the bus; {stop}, and try again")

    # -- points --------------------------------------------------------------------------------------------------

    def _grid(self) -> list[tuple[int, int, int]]:
        most = max([*self.effort.pods, *(self.workload.receivers(kind) for kind in self.workload.kinds)])
        pods = (*self.effort.pods[:-1], most)
        small = [(count, *size) for count in pods for size in self.effort.small]
        return small + [(count, *size) for count in (*LARGE_PODS, most) for size in self.effort.large]

    def _kink(self) -> int:
        """Return from which size on the server refers to a reply instead of copying it, as far as it says."""
        said = self.range.config(KINK_SETTING)
        return int(said) or NO_KINK if said.isascii() and said.isdigit() else NO_KINK

    def _points(self, todo: list[tuple[int, int, int]], what: str, *, until: float, least: int = 1) -> list[Point]:
        """Measure every combination in each round, in another order, while there is time for a round."""
        shots: dict[tuple[int, int, int], list[Shot]] = {one: [] for one in todo}
        rounds = max(least, self.effort.rounds)
        for number in range(rounds):
            round_began = time.monotonic()
            for place, (pods, payload_bytes, batch) in enumerate(random.Random(number).sample(todo, len(todo))):
                shot = self._point(pods, payload_bytes, batch)
                self._keep(what, shot, pods=pods, payload_bytes=payload_bytes, batch=batch)
                shots[pods, payload_bytes, batch].append(shot)
                done = f"{what}, round {number + 1}/{rounds}, {place + 1}/{len(todo)}"
                self._say(
                    f"{done}: {count(pods, 'pod')}, {payload_bytes} B, batch {batch}: "
                    f"{duration(shot.cpu_us / 1e6)} an event, core {shot.core:.0%}"
                )
            took_s = time.monotonic() - round_began
            if number + 1 >= least and time.monotonic() + took_s - self.begun > until * self.effort.budget_s:
                break
        return [
            Point(
                pods,
                payload_bytes,
                batch,
                len(payload_of(CHANNEL, payload_bytes=payload_bytes, items=batch)),
                tuple(shot.cpu_us for shot in its),
                tuple(shot.rate_per_s for shot in its),
                tuple(shot.core for shot in its),
            )
            for (pods, payload_bytes, batch), its in shots.items()
        ]

    def _point(self, pods: int, payload_bytes: int, batch: int) -> Shot:
        channel = self._channel(CHANNEL)
        kind = Driven(channel, payload_of(CHANNEL, payload_bytes=payload_bytes, items=batch), 1.0, pods)
        return self.range.full([kind], [[channel]] * pods, connections=CONNECTIONS, seconds=self.effort.full_s, warm_up_s=0.15)

    # -- the scenario's mix --------------------------------------------------------------------------------------

    def _mix(self) -> list[Shot]:
        shots = []
        for number in range(self.effort.rounds):
            shot = self.range.full(
                *self._driven(self.workload, math.inf), connections=CONNECTIONS, seconds=self.effort.full_s, warm_up_s=0.15
            )
            self._keep("mix", shot)
            turn = f"mix of {self.scenario.name}, full, {number + 1}/{self.effort.rounds}"
            self._say(f"{turn}: {shot.rate_per_s:,.0f} events/s, core {shot.core:.0%}")
            shots.append(shot)
        return shots

    def _wall_calls(self, mix: Sequence[Shot]) -> float:
        return max(shot.rate_per_s for shot in mix) / self.workload.events_per_call(math.inf)

    def _driven(self, workload: Workload, calls_per_s: float) -> tuple[list[Driven], list[list[str]]]:
        """Return the kinds of events with their shares of all, and the channels of each pod that hears any."""
        kinds = []
        for kind, (events, pods, _) in zip(workload.kinds, workload.events(calls_per_s), strict=True):
            items = round(workload.items(kind, calls_per_s))
            payload = envelope_of(
                kind.name, self.scenario.content(kind.name), items=items if kind.batched else None, envelope=self.scenario.new_envelope()
            )
            kinds.append(Driven(self._channel(kind.name), payload, events, pods))
        known = {kind.name for kind in workload.kinds}
        pods_channels = [
            [self._channel(name) for name in service.subscribes if name in known]
            for name_of, service in self.scenario.services.items()
            for _ in range(workload.replicas[name_of])
        ]
        return kinds, [channels for channels in pods_channels if channels]

    def _channel(self, kind: str) -> str:
        return self.scenario.bus.channel_prefix + kind

    def _search(self, full_calls_per_s: float) -> list[TriedRate]:
        """Find the highest sustained rate: up or down from half of the full rate, then between the two."""
        steps: list[TriedRate] = []
        good, bad, rate = 0.0, math.inf, 0.5 * full_calls_per_s
        while len(steps) < MAX_STEPS and not (good and bad / good < GAP):
            step = self._step(rate, self.workload, "search")
            if not step.sustained:
                step = self._step(rate, self.workload, "search, once more")
            steps.append(step)
            good, bad = (max(good, rate), bad) if step.sustained else (good, min(bad, rate))
            rate = math.sqrt(good * bad) if good and bad < math.inf else (rate * 1.35 if good else rate * 0.5)
            if time.monotonic() - self.begun > self.effort.budget_s and good:
                break
        return steps

    def _step(self, calls_per_s: float, workload: Workload, what: str) -> TriedRate:
        kinds, pods = self._driven(workload, calls_per_s)
        events_per_s = calls_per_s * workload.events_per_call(calls_per_s)
        shot = self._with_a_core(
            lambda: self.range.at_rate(
                kinds,
                pods,
                connections=CONNECTIONS,
                seconds=self.effort.rate_s,
                warm_up_s=0.5,
                rate_per_s=events_per_s,
                seed=self.scenario.seed,
            )
        )
        said = shot.rate
        step = TriedRate(
            calls_per_s,
            shot.rate_per_s,
            said["lag_ms_p50"],
            said["lag_ms_p99"],
            said["late_ms_p99"],
            said["backlog_per_s"],
            shot.core,
            why_not(shot, events_per_s, self.lag_ms_p99),
            shot.out_bytes / shot.events,
        )
        self._keep(what, shot, calls_per_s=calls_per_s, lag_ms_p99=step.lag_ms_p99, why_not=step.why_not)
        word = "sustained" if step.sustained else f"not sustained: {step.why_not}"
        self._say(f"{what}: {calls_per_s:,.0f} calls/s, p99 {duration(step.lag_ms_p99 / 1e3)}, core {step.core:.0%}: {word}")
        return step

    # -- the lab's own process -----------------------------------------------------------------------------------

    def _host(self) -> float:
        """Return how many copies a second one process full of the lab's pods hears at most, by its processor time."""
        if not isinstance(self.broker, EmbeddedBroker):
            return 0.0
        self._say("what the lab's own pods cost")
        setting = Setting(self.broker, self.folder, None, HOST_PODS, self.effort.full_s, 300, self.range.cores[:2])
        return 1e9 / setting.measure(LAB, 16).cpu_each_ns

    def _keep(self, what: str, shot: Shot, **of: float | str) -> None:
        at_s = round(time.monotonic() - self.begun, 3)
        self.keep({"at_s": at_s, "what": what, **of, "events_per_s": shot.rate_per_s, "us_per_event": shot.cpu_us, "core": shot.core})

    def _say(self, text: str) -> None:
        passed = time.monotonic() - self.begun
        self.tell(f"{duration(round(passed)):>10}, {duration(round(max(0.0, self.effort.budget_s - passed))):>10} left | {text}")


def why_not(shot: Shot, events_per_s: float, lag_ms_p99: float) -> str:
    """Return why a rate is not sustained, or nothing."""
    said = shot.rate
    if said["cut"]:
        return f"the broker cut {said['cut']:,.0f} of the subscribers: too slow"
    if not said["heard"]:
        return "no watching subscriber heard anything"
    if said["lag_ms_p99"] > lag_ms_p99:
        return f"p99 of lag is {duration(said['lag_ms_p99'] / 1e3)}, over {duration(lag_ms_p99 / 1e3)}"
    if said["backlog_per_s"] > GROWTH * events_per_s:
        return f"the backlog grows by {count(round(said['backlog_per_s']), 'event')}/s"
    if shot.rate_per_s < MIN_ANSWERED * said["meant"] / shot.seconds:
        return f"only {shot.rate_per_s:,.0f} of {said['meant'] / shot.seconds:,.0f} events/s were answered"
    return ""
