"""Bring one server and a cluster to their limits with the same load, and write down what each carries and how late events are then.

`python -m sim.measure.capacity.cluster_limits FOLDER --masters 3` measures and writes a verdict with the numbers; claim 19 judges them.

Rules
-----
1. Classic Pub/Sub, as in the reference: a node passes each event on to every other one. Publishers and subscribers take the nodes in
   turn. The masters have no replicas, which would hear every event as well: more masters can only look better than they are.
2. The two are measured in turns, `ROUNDS` times, so that what the machine does meanwhile meets both. What a broker carries when it is
   full lies between the least and the most of its rounds.
3. The busiest node is full first: where it used less than it may, something else was the limit, and more might be carried. The least of
   what it used is written down, for who judges.
4. Lag is measured at rates that one server can carry for certain: `SHARE` of its least on that server, and `MORE` times as much on the
   cluster. The lesser p99 of two windows counts: one neighbour may take a core for a moment.
5. Each node needs a core of its own, and publishing and draining one together. Where the machine has fewer, each node, and the one
   server, gets the same share of one (`sim.machine.core_shares`): all carry less, and how much more the cluster carries stays. Where no
   shares can be given, one window of the cluster shows who waited, and nothing is answered.
6. Nothing is answered either where somebody waited for a core for over `MOST_WITHHELD` of a window, `TRIES` times, or where `BUDGET_S` is
   over before all was measured. A node with a share always waits for its next turn; whether it got its share is what rule 3 writes down.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sim.bus.envelope import EVENT_TYPES
from sim.errors import BuslabError, MachineBusyError
from sim.grounds.cluster import cluster
from sim.machine.core_shares import core_shares
from sim.machine.files import write_whole
from sim.machine.others import OtherProcesses
from sim.machine.words import count, duration, listed
from sim.measure.capacity.children import EventKind
from sim.measure.capacity.saturate import Range, Shot, payload_of
from sim.results.checkers.verdict import Result, Verdict

NAME = "limits"  # of the result in the verdict
HEARERS = (1, 20)
ROUNDS, TRIES = 3, 3
FULL_S, RATE_S, WARM_UP_S = 0.8, 1.5, 0.3
BUDGET_S = 60.0
MOST_WITHHELD = 0.1
SHARE = 0.7
MORE = 1.2
OF_THE_CORES = 0.75  # but one, for servers that share them: the rest keeps them from each other's way
LAG_MS_P99 = 50.0
CONNECTIONS = 4  # publishing, of each node
CHANNEL = f"aiponge:events:{EVENT_TYPES[0]}"
ONE, CLUSTER = "one", "cluster"


@dataclass
class Limits:
    """The ranges of one server and of a cluster, and what was measured on them.

    Attributes
    ----------
    counts
        By ``<one or cluster>.<hearers>.``: `least_per_s` and `most_per_s`, events that were carried when it was full; `core`, the least
        that its busiest node used then of what it may; `at_per_s` and `lag_ms_p99`, a rate and the lag at it. `share`: how much of a core
        each node may use.
    """

    ranges: dict[str, Range]
    tell: Callable[[str], None]
    counts: dict[str, int | float] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def measure(self) -> None:
        """Measure both, full and at a rate.

        Raises
        ------
        MachineBusyError
            Somebody had no core in each of some windows.
        """
        full: dict[tuple[str, int], list[Shot]] = {(who, hearers): [] for hearers in HEARERS for who in self.ranges}
        for number in range(ROUNDS):
            for (who, hearers), shots in full.items():
                shots.append(self._with_a_core(lambda who=who, hearers=hearers: self.full(who, hearers)))  # type: ignore[misc]
                shown = f"round {number + 1} of {ROUNDS}, {who}, {count(hearers, 'subscriber')}"
                self.tell(f"{shown}: {shots[-1].rate_per_s:,.0f} events/s, the busiest node used {shots[-1].core:.0%} of a core")
        for (who, hearers), shots in full.items():
            rates = [shot.rate_per_s for shot in shots]
            used = min(shot.core for shot in shots) / self.ranges[who].share
            self._note(who, hearers, least_per_s=min(rates), most_per_s=max(rates), core=used)
        for who, hearers in full:
            at_per_s = self.counts[f"{ONE}.{hearers}.least_per_s"] * SHARE * (MORE if who == CLUSTER else 1.0)
            lags = [self._lag_ms(who, hearers, at_per_s)]
            if lags[0] > LAG_MS_P99:
                lags.append(self._lag_ms(who, hearers, at_per_s))
            self._note(who, hearers, at_per_s=at_per_s, lag_ms_p99=min(lags))
            self.tell(f"{who}, {count(hearers, 'subscriber')}, {at_per_s:,.0f} events/s: p99 of lag {duration(min(lags) / 1e3)}")

    def _note(self, who: str, hearers: int, **numbers: float) -> None:
        self.counts |= {f"{who}.{hearers}.{name}": number for name, number in numbers.items()}

    def full(self, who: str, hearers: int) -> Shot:
        """Measure one window in which it is full."""
        one = self.ranges[who]
        return one.full(*_load(hearers), connections=CONNECTIONS * len(one.urls), seconds=FULL_S, warm_up_s=WARM_UP_S)

    def _lag_ms(self, who: str, hearers: int, per_s: float) -> float:
        """Return p99 of lag at a rate; infinite where the broker cut who heard, or nothing was heard."""
        one, kinds = self.ranges[who], _load(hearers)
        how = {"connections": CONNECTIONS * len(one.urls), "seconds": RATE_S, "warm_up_s": WARM_UP_S, "rate_per_s": per_s, "seed": 1}
        said = self._with_a_core(lambda: one.at_rate(*kinds, **how)).rate  # type: ignore[arg-type]
        return math.inf if said["cut"] or not said["heard"] else said["lag_ms_p99"]

    def _with_a_core(self, shoot: Callable[[], Shot]) -> Shot:
        starved, takers = "what should take less than a minute has taken longer", []
        for _ in range(TRIES):
            if time.monotonic() - self.began > BUDGET_S:
                break
            others = OtherProcesses([pid for one in self.ranges.values() for pid in one.broker.pids.values()])
            shot = shoot()
            if not (starved := shot.starved(MOST_WITHHELD)):
                return shot
            takers = others.busiest()
            self.tell(f"{starved}: once more")
        stop = f"stop {listed([str(one) for one in takers])}" if takers else "stop what else runs on this machine"
        raise MachineBusyError(f"{starved}, so what was measured would be this machine and not the bus; {stop}, and try again")


def _load(hearers: int) -> tuple[list[EventKind], list[list[str]]]:
    kind = EventKind(CHANNEL, payload_of(EVENT_TYPES[0], payload_bytes=0, items=1), 1.0, hearers)
    return [kind], [[CHANNEL]] * hearers


def compare_limits(folder: Path, *, masters: int = 3, tell: Callable[[str], None] = lambda line: None) -> Verdict:
    """Measure one server and a cluster of so many masters, and write and return what was found; *unknown* where there was no core.

    Raises
    ------
    BuslabError
        A cluster did not start, or a process failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="buslab-limits-")))
        brokers = {who: stack.enter_context(cluster(str(size), replicas=False)) for who, size in ((ONE, 1), (CLUSTER, masters))}
        share, why_whole = _shared_out(stack, [pid for broker in brokers.values() for pid in broker.pids.values()], masters)
        ranges = {who: Range(broker, logs, share=share) for who, broker in brokers.items()}
        for one in ranges.values():
            stack.callback(one.close)
        limits = Limits(ranges, tell, {"share": share})
        try:
            result = _too_few_cores(limits, masters, why_whole) if why_whole else _measured(limits)
        except MachineBusyError as error:
            result = Result("unknown", str(error))
    result.counts["took_s"] = time.monotonic() - began
    verdict = Verdict(result.verdict, "cluster_limits", f"cluster:{masters}", None, {NAME: result}, [])
    write_whole(folder / "verdict.json", json.dumps(verdict.to_json(), indent=2, allow_nan=False) + "\n")
    return verdict


def _shared_out(stack: contextlib.ExitStack, pids: list[int], masters: int) -> tuple[float, str]:
    """Give each server its share of a core where there is none for each node; return it, and what forbids that, empty when nothing does."""
    cores = _cores()
    if cores > masters:
        return 1.0, ""
    share = OF_THE_CORES * (cores - 1) / masters
    if not share:
        return 1.0, "one core is too little for servers and who publishes"
    try:
        stack.enter_context(core_shares(pids, share))
    except OSError as error:
        return 1.0, f"shares of a core cannot be given here: {error}"
    return share, ""


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _too_few_cores(limits: Limits, masters: int, why: str) -> Result:
    """Return what one window shows where nodes have to share a core, and nobody can say who gets how much of it."""
    waited = limits.full(CLUSTER, HEARERS[-1]).starved(0.0) or "who waited is not known here"
    need = f"{count(masters, 'node')} and who publishes and drains need {count(masters + 1, 'core')}, and this process may use {_cores():,}"
    return Result("unknown", f"{need} ({why}): {waited}; measure it on a machine with {count(masters + 1, 'core')} or more, or as root")


def _measured(limits: Limits) -> Result:
    limits.measure()
    counts, parts = limits.counts, []
    for hearers in HEARERS:
        told = [
            f"{who} {counts[f'{who}.{hearers}.least_per_s']:,.0f} to {counts[f'{who}.{hearers}.most_per_s']:,.0f}" for who in limits.ranges
        ]
        parts.append(f"{count(hearers, 'subscriber')}: {', '.join(told)} events/s when full")
    if (share := counts["share"]) < 1:
        parts.append(f"each server had {share:.0%} of a core")
    return Result("valid", "; ".join(parts), counts=counts)


def main() -> None:
    """Measure, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--masters", type=int, default=3, metavar="N")
    said = parser.parse_args()
    try:
        print(compare_limits(said.folder, masters=said.masters, tell=print).checkers[NAME].detail)
    except BuslabError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
