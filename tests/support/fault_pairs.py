"""Two faults of one run that overlap: which pairs there are, what each is like, and a run of them that must end, heal and be judged."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from sim.errors import BrokerUnreachable, BuslabError, Interrupted, ScenarioError, UsageError
from sim.faults.catalogue import FAULTS
from sim.faults.timeline import Timeline
from sim.faults.world import Server, World
from sim.grounds.catalogue import open_broker
from sim.machine.clock import NS_PER_S, now_ns
from sim.record.schema import FELT
from sim.results.checkers import judge
from sim.results.opened_run import Run, open_recorded, open_run
from sim.run import steps
from sim.run.fit import check_ground
from sim.run.steps import run_in_memory, run_scenario
from sim.scenario.file import Scenario, check_tree
from sim.wire.address import join_nodes, parse_address

PLACES = ("before", "in", "after")
# What a fault needs beside its times to be worth the name in a run of four seconds.
FIELDS: dict[str, dict[str, Any]] = {
    "broker_slow": {"every_ms": 200, "stall_ms": 80, "how": "pause"},
    "buffer_limit": {"hard_bytes": 40_000},
    "clock_skew": {"skew_ms": 5000, "pods": ["music-service"]},
    "handler_error": {"pods": ["music-service"]},
    "link_blackhole": {"pods": ["music-service"]},
    "link_cut": {"pods": ["music-service"]},
    "link_reset": {"pods": ["music-service"], "every_ms": 100},
    "link_slow": {"pods": ["music-service"], "delay_ms": 20},
    "machine_down": {"machines": 2, "elsewhere_s": 0.2},
    "partition": {"pods": ["music-service"]},
    "pod_freeze": {"pods": ["music-service-0"]},
    "pod_kill": {"pods": ["music-service-0"]},
    "pod_start_in_outage": {"pods": ["music-service-0"]},
    "pod_stop": {"pods": ["music-service-0"], "grace_s": 1},
    "rolling_restart": {"pods": ["music-service"], "each_s": 0.1, "grace_s": 1},
    "slow_handler": {"pods": ["music-service"], "handler_ms": 10},
}
SETTINGS = ("client-output-buffer-limit", "maxclients", "requirepass")
HEAL_MAX_S = 15.0  # of a run that is interrupted on a busy machine; a cluster may have to become whole again
ASKED_AGAIN = 50
LATE_S = 0.3  # less is left of the load when a run is interrupted
LONGER = {"broker_failover": 3.0}  # a replica takes some two seconds to be elected


@dataclass(frozen=True)
class Pair:
    """Two faults, where the second begins, and whether the run is interrupted in the middle."""

    first: str
    second: str
    place: str
    interrupted: bool

    def __str__(self) -> str:
        return f"{self.first}-{self.second}-{self.place}{'-interrupted' if self.interrupted else ''}"


def all_pairs() -> list[Pair]:
    """Return every ordered pair of faults, with the second before, in and after the first, interrupted or not."""
    return [Pair(one, two, place, cut) for one in FAULTS for two in FAULTS for place in PLACES for cut in (False, True)]


def scenario_of(pair: Pair) -> Scenario:
    """Return the scenario of a pair. A seed of the pair's own draws which fault ends first, and which is listed first.

    Raises
    ------
    ScenarioError
        The two cannot be on at once.
    """
    draw = Random(f"{pair.first}/{pair.second}/{pair.place}")
    one_s, two_s = (LONGER.get(kind, 1.0) for kind in (pair.first, pair.second))
    at_s = 1.0
    other_s = {"before": at_s - 0.4, "in": at_s + 0.4 * one_s, "after": at_s + one_s + 0.2}[pair.place]
    lasts_s = two_s * draw.choice((0.3, 1.0))
    faults = [
        {"kind": pair.first, "at_s": at_s, "for_s": one_s, **FIELDS.get(pair.first, {})},
        {"kind": pair.second, "at_s": other_s, "for_s": lasts_s, **FIELDS.get(pair.second, {})},
    ]
    if draw.random() < 0.5:
        faults.reverse()  # in which order they are listed says nothing
    run_s = max(at_s + one_s, other_s + lasts_s) + 0.5
    events = ["analytics.metric.recorded", "config.template.invalidated", "config.cache.invalidate"]
    tree: dict[str, Any] = {
        "name": "pair",
        "seed": draw.randrange(1, 1000),
        "faults": faults,
        "bus": {"once": "token-del"},
        "limits": {"drain_s": 15},
        "load": {"driver": "pods", "rate_per_s": 60, "warm_up_s": 0.2, "run_s": run_s, "mix": dict.fromkeys(events, 1)},
        "services": {
            "music-service": {"replicas": 2, "publishes": events, "subscribes": ["config.template.invalidated", "config.cache.invalidate"]},
            "ai-config-service": {"replicas": 1, "publishes": events[1:2], "subscribes": events[1:]},
            "analytics-service": {"replicas": 1, "subscribes": [events[0], events[2]]},
        },
    }
    return check_tree(tree, where="pair")


def ground_like(on: str) -> Any:
    """Return what `check_ground` asks of a ground, without starting one."""
    ports = range(7000, 7006 if on == "cluster" else 7001)
    return SimpleNamespace(ground=on, control=object(), address=join_nodes([parse_address(f"redis://127.0.0.1:{port}") for port in ports]))


def can_do(pair: Pair, on: str) -> bool:
    """Return whether a ground can do both faults, and the two can be in one scenario at all."""
    try:
        check_ground(scenario_of(pair), ground_like(on))
    except (ScenarioError, UsageError):
        return False
    return True


class _Errors(logging.Handler):
    """What asyncio logs of exceptions that nobody caught."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(" ".join(record.getMessage().split())[:300])


@dataclass
class Watched:
    """What is seen of a run from inside, beside its record."""

    interrupt_s: float | None
    found: list[str] = field(default_factory=list)
    heal_s: float = 0.0
    late_s: float = 0.0
    _before: asyncio.Task[list[Any]] | None = None
    _before_all: bool = False

    def started(self, timeline: Timeline) -> None:
        """Ask for the settings before the first fault, and set the alarm that interrupts."""
        loop = asyncio.get_running_loop()
        self._before = loop.create_task(_settings(world_of(timeline)))
        self._before.add_done_callback(lambda _: self._answered(timeline))
        if self.interrupt_s is not None:
            due_s = loop.time() + self.interrupt_s
            loop.call_at(due_s, self._interrupt, due_s)

    def _interrupt(self, due_s: float) -> None:
        self.late_s = asyncio.get_running_loop().time() - due_s
        os.kill(os.getpid(), signal.SIGINT)

    async def healed(self, timeline: Timeline) -> None:
        """Look for what a fault has left behind."""
        world = world_of(timeline)
        holds = world.holds
        left = {
            "settings": world.settings,
            "down": holds.down,
            "frozen": holds.frozen,
            "pods": {n for n, held in holds.pods.items() if held},
        }
        self.found += [f"{name} left behind: {what}" for name, what in left.items() if what]
        wanted = {name: pod for name, pod in world.pods.items() if getattr(pod, "wanted", None) is None or pod.wanted.is_set()}
        still = [name for name, pod in wanted.items() if getattr(pod, "frozen", False) or not getattr(pod, "running", True)]
        self.found += [f"pods that do not run: {still}"] if still else []
        assert self._before is not None
        before, after = await self._before, await _settings(world)
        self.found += [f"settings were {before} and are {after}"] if self._before_all and before != after else []

    def _answered(self, timeline: Timeline) -> None:
        """Note whether what the settings were is known from before the first fault."""
        self._before_all = not any(one.begun_ns for one in timeline._occasions)


def world_of(timeline: Timeline) -> World:
    """Return what the faults of a timeline may touch."""
    return timeline._occasions[0].world


async def _settings(world: World) -> list[Any]:
    """Return the settings of each server; one that does not answer is asked again for a while, as the machine may be busy."""
    return await asyncio.gather(*(_settings_of(server) for server in world.servers))


async def _settings_of(server: Server) -> list[Any]:
    for _ in range(ASKED_AGAIN):
        with contextlib.suppress(BrokerUnreachable):
            return [await server.ask("CONFIG", "GET", name) for name in SETTINGS]
        await asyncio.sleep(0.1)
    return [await server.ask("CONFIG", "GET", name) for name in SETTINGS]


@contextlib.contextmanager
def watching(watched: Watched) -> Iterator[None]:
    """Look at the run that begins inside the block."""
    started, heal, errors = Timeline.start, Timeline.heal, _Errors()

    def start(self: Timeline, run_ns: int) -> None:
        started(self, run_ns)
        watched.started(self)

    async def healed(self: Timeline) -> None:
        began_ns = now_ns()
        await heal(self)
        watched.heal_s = (now_ns() - began_ns) / NS_PER_S
        await watched.healed(self)

    logger = logging.getLogger("asyncio")
    logger.addHandler(errors)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Timeline, "start", start)
            patch.setattr(Timeline, "heal", healed)
            yield
    finally:
        logger.removeHandler(errors)
        watched.found += errors.texts


@contextlib.contextmanager
def one_broker(on: str) -> Iterator[None]:
    """Start a broker for all runs inside the block: of a cluster, starting is the longest part of a run."""
    with open_broker(on) as broker, pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "open_broker", lambda on, **more: contextlib.nullcontext(broker))
        yield


def play(pair: Pair, folder: Path, *, on: str) -> tuple[Run, Watched]:
    """Run a pair and return its opened run, with what was seen from inside."""
    scenario = scenario_of(pair)
    if on == "model" and not pair.interrupted:
        watched = Watched(None)
        with watching(watched):
            return open_recorded(run_in_memory(scenario)), watched
    watched = Watched(sorted(fault.at_s for fault in scenario.faults)[1] + 0.1 if pair.interrupted else None)
    with watching(watched), pytest.raises(Interrupted) if pair.interrupted else contextlib.nullcontext():
        run_scenario(scenario, on=on, out=folder)
    return open_run(folder), watched


def problems(pair: Pair, folder: Path, *, on: str) -> list[str]:
    """Run a pair and return what is wrong; empty when it ended, healed, left nothing behind and was judged."""
    try:
        run, watched = play(pair, folder, on=on)
    except BuslabError as error:
        return [f"{type(error).__name__}: {error}"]
    found, state = list(watched.found), "interrupted" if pair.interrupted else "complete"
    if watched.late_s > LATE_S and run.info.state == "complete":
        state = "complete"  # the machine kept the loop waiting until the run was over
    if run.info.state != state:
        found.append(f"the run was {run.info.state}: {run.info.reason}")
    if strange := set(map(str, run.faults["felt"])) - set(FELT):
        found.append(f"felt is {strange}")
    if pair.interrupted:
        return found + ([f"healing took {watched.heal_s:.1f} s"] if watched.heal_s > HEAL_MAX_S else [])
    if len(run.faults) != 2:
        found.append(f"{len(run.faults)} faults in the table")
    verdict = judge(run)
    counts = verdict.checkers["ledger"].counts
    found += [f"{counts['unexplained']:.0f} copies unexplained"] if counts.get("unexplained") else []
    # A pod in memory mode hears itself at once, and later what its slow handler has kept waiting: that breaks order, and is a finding.
    checkers = [(name, one) for name, one in verdict.checkers.items() if (name, one.verdict) != ("order", "invalid")]
    found += [f"{name} is {one.verdict}: {one.detail}" for name, one in checkers if one.verdict != "valid"]
    return found + ([] if run.info.recovered else [f"not recovered: {run.info.notes}"])


def drawn(on: str, many: int, *, seed: int) -> list[Pair]:
    """Return so many pairs that a ground can do; no more are looked at than it takes to find them."""
    pairs = all_pairs()
    can = (pair for pair in Random(seed).sample(pairs, len(pairs)) if can_do(pair, on))
    return list(islice(can, many))


def share_of(on: str, share: float, *, seed: int) -> tuple[list[Pair], int, int]:
    """Return a drawn share of the pairs that a ground can do, then how many it can do and how many it cannot."""
    pairs = all_pairs()
    can = [pair for pair in pairs if can_do(pair, on)]
    return sorted(Random(seed).sample(can, round(len(can) * share)), key=str), len(can), len(pairs) - len(can)
