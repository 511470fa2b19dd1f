"""Two faults of one run that overlap: which pairs there are, what each is like, and a run of them that must end, heal and be judged."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from sim.errors import Interrupted, ScenarioError, UsageError
from sim.faults.catalogue import FAULTS
from sim.faults.timeline import Timeline
from sim.results.checkers import judge
from sim.results.opened_run import Run, open_run
from sim.run.fit import check_ground
from sim.run.steps import run_scenario
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
    "partition": {"pods": ["music-service"]},
    "pod_freeze": {"pods": ["music-service-0"]},
    "pod_kill": {"pods": ["music-service-0"]},
    "pod_start_in_outage": {"pods": ["music-service-0"]},
    "pod_stop": {"pods": ["music-service-0"], "grace_s": 1},
    "rolling_restart": {"pods": ["music-service"], "each_s": 0.1, "grace_s": 1},
    "slow_handler": {"pods": ["music-service"], "handler_ms": 10},
}
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


def scenario_of(pair: Pair, *, unit_s: float = 1.0) -> Scenario:
    """Return the scenario of a pair; `unit_s` is how long its first fault is on. A seed of the pair's own draws who ends first.

    Raises
    ------
    ScenarioError
        The two cannot be on at once.
    """
    draw = Random(f"{pair.first}/{pair.second}/{pair.place}")
    one_s, two_s = (unit_s * LONGER.get(kind, 1.0) for kind in (pair.first, pair.second))
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


@contextlib.contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Send this process a SIGINT so long after the run phase began, in the run's own time."""
    started = Timeline.start

    def start(self: Timeline, run_ns: int) -> None:
        started(self, run_ns)
        asyncio.get_running_loop().call_later(seconds, os.kill, os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Timeline, "start", start)
        yield


def play(pair: Pair, folder: Path, *, on: str, unit_s: float = 1.0) -> Run:
    """Run a pair and return its opened run."""
    scenario = scenario_of(pair, unit_s=unit_s)
    begins = sorted(fault.at_s for fault in scenario.faults)
    with contextlib.ExitStack() as stack:
        if pair.interrupted:
            stack.enter_context(interrupted_after(begins[1] + 0.1))
            stack.enter_context(pytest.raises(Interrupted))
        run_scenario(scenario, on=on, out=folder)
    return open_run(folder)


def problems(pair: Pair, run: Run) -> list[str]:
    """Return what is wrong with the run of a pair; empty when it ended, healed and was judged."""
    found = []
    state = "interrupted" if pair.interrupted else "complete"
    if run.info.state != state:
        found.append(f"the run was {run.info.state}: {run.info.reason}")
    if pair.interrupted:
        return found
    verdict = judge(run)
    counts = verdict.checkers["ledger"].counts
    found += [f"{counts['unexplained']:.0f} copies unexplained"] if counts.get("unexplained") else []
    found += [f"{name} is unknown: {one.detail}" for name, one in verdict.checkers.items() if one.verdict == "unknown"]
    found += [f"not recovered: {run.info.notes}"] if not run.info.recovered else []
    found += [f"{verdict.verdict}: {verdict.reasons}"] if verdict.verdict != "valid" and not found else []
    return found
