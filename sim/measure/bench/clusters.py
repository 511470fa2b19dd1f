"""Measure what a copy costs the broker, classic and sharded, with one master and with three, at the same offered load.

Rules
-----
1. Each measure is a whole run of the scenario `cluster_fanout`, judged like any other: one that is not valid gives no figure.
2. Processor time is that of all nodes, replicas too, between the first and the last sample inside the run phase, by the copies received
   between them. What the same nodes use at rest is measured before, and taken off: heartbeats are not the copies' cost.
3. The settings take turns within a round; a figure is the median of the rounds.
4. Both clusters have the machine to themselves, but it has fewer cores than they have nodes, which shows in the lag.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import redis
from rich.table import Table

from sim.errors import BuslabError
from sim.grounds.catalogue import open_broker
from sim.machine.words import count, duration
from sim.results.checkers.verdict import least_of
from sim.results.judged_run import JudgedRun, judge_folder
from sim.results.opened_run import Run
from sim.run.steps import run_scenario
from sim.scenario.file import load_scenario
from sim.wire.address import Address
from sim.wire.reply_reader import GuardedParser

SCENARIO = "cluster_fanout"
MASTERS = (1, 3)
KINDS = {"pubsub": "classic", "sharded": "sharded"}
REST_S = 2.0


@dataclass(frozen=True)
class Cost:
    """What one run, or the median of some, comes to.

    Attributes
    ----------
    cpu_us
        Processor time of all nodes per copy, without what they use at rest.
    busiest
        Share of a core that the busiest node used, at rest or not: this one is full first.
    rest
        Share of a core that all nodes together use at rest.
    """

    masters: int
    nodes: int
    transport: str
    copies_per_s: float
    cpu_us: float
    busiest: float
    rest: float
    lag_ms_p50: float
    lag_ms_p99: float


def measure_clusters(*, rounds: int = 3, settings: Sequence[str] = (), tell: Callable[[str], None] = lambda line: None) -> list[Cost]:
    """Run the scenario on each cluster with each transport, `rounds` times, and return the medians.

    Raises
    ------
    BuslabError
        A cluster did not start, or a run was not valid.
    """
    costs: list[Cost] = []
    with tempfile.TemporaryDirectory(prefix="buslab-clusters-") as folder:
        for number in range(rounds):
            for masters in MASTERS:
                with open_broker(f"cluster:{masters}") as broker:
                    rest = _rest(broker.address)
                    for transport in KINDS:
                        out = Path(folder) / f"{number}-{masters}-{transport}"
                        scenario = load_scenario(SCENARIO, settings=(*settings, f"bus.transport={transport}"))
                        judged = judge_folder(run_scenario(scenario, on=broker.address.urls, out=out))
                        cost = _cost(judged, masters=masters, transport=transport, rest=rest)
                        costs.append(cost)
                        tell(
                            f"round {number + 1}/{rounds}, {count(masters, 'master')}, {KINDS[transport]}: "
                            f"{duration(cost.cpu_us / 1e6)} a copy"
                        )
    return [_median([c for c in costs if (c.masters, c.transport) == (m, t)]) for m in MASTERS for t in KINDS]


def clusters_table(costs: Sequence[Cost], *, rounds: int) -> Table:
    """Return the figures for a rich console."""
    table = Table(title=f"{SCENARIO}: what a copy costs the broker, median of {count(rounds, 'round')}")
    for heading in ("masters", "nodes", "Pub/Sub", "copies/s", "CPU us a copy", "at rest", "busiest node", "lag p50 ms", "lag p99 ms"):
        table.add_column(heading, justify="right")
    for c in costs:
        lag = (f"{c.lag_ms_p50:.2f}", f"{c.lag_ms_p99:.2f}")
        shares = (f"{c.rest:.1%}", f"{c.busiest:.1%}")
        table.add_row(str(c.masters), str(c.nodes), KINDS[c.transport], f"{c.copies_per_s:,.0f}", f"{c.cpu_us:.2f}", *shares, *lag)
    return table


def _rest(address: Address) -> float:
    """Return the share of a core that the nodes use while nobody asks them for anything."""
    before, begun_s = _used_s(address), time.monotonic()
    time.sleep(REST_S)
    return (_used_s(address) - before) / (time.monotonic() - begun_s)


def _used_s(address: Address) -> float:
    used_s = 0.0
    for node in address.nodes:
        with redis.Redis.from_url(node.url, protocol=2, parser_class=GuardedParser) as client:
            said = client.info("cpu")
        used_s += float(said["used_cpu_user"]) + float(said["used_cpu_sys"])
    return used_s


def _cost(judged: JudgedRun, *, masters: int, transport: str, rest: float) -> Cost:
    run, verdict = judged.run, judged.verdict
    if verdict.verdict != "valid":
        raise BuslabError(f"{count(masters, 'master')}, {KINDS[transport]}: the run is {verdict.verdict}: {'; '.join(verdict.reasons)}")
    node_cpu = _cpu_of_nodes(run) or {"": _cpu(run, "used_cpu", "")}
    begin_ns, end_ns, _ = next(iter(node_cpu.values()))
    seconds = (end_ns - begin_ns) / 1e9
    received = run.deliveries["received_ns"].to_numpy()
    copies = int(np.count_nonzero((received >= begin_ns) & (received < end_ns)))
    used = [used_s for _, _, used_s in node_cpu.values()]
    slo = verdict.checkers["lag"].metrics
    return Cost(
        masters,
        run.info.nodes,
        transport,
        copies_per_s=copies / seconds,
        cpu_us=(sum(used) - rest * seconds) / copies * 1e6,
        busiest=max(used) / seconds,
        rest=rest,
        lag_ms_p50=least_of(slo["lag_ms_p50"]),
        lag_ms_p99=least_of(slo["lag_ms_p99"]),
    )


def _cpu_of_nodes(run: Run) -> dict[str, tuple[int, int, float]]:
    rows = run.broker[run.broker["metric"] == "node_used_cpu_user_s"]
    return {str(node): _cpu(run, "node_used_cpu", str(node)) for node in rows["subject"].unique()}


def _cpu(run: Run, metric: str, subject: str) -> tuple[int, int, float]:
    """Return the first and last sample's time inside the run phase, and the processor seconds used between them."""
    begin, end = run.phases["run"]
    rows = run.broker[(run.broker["subject"] == subject) & run.broker["metric"].isin([f"{metric}_user_s", f"{metric}_sys_s"])]
    inside = rows[(rows["at_ns"] >= begin) & (rows["at_ns"] < end)]
    sums = inside.groupby("at_ns")["value"].sum()
    return int(sums.index[0]), int(sums.index[-1]), float(sums.iloc[-1] - sums.iloc[0])


def _median(costs: Sequence[Cost]) -> Cost:
    first = costs[0]
    figures = {
        name: statistics.median(getattr(cost, name) for cost in costs)
        for name in ("copies_per_s", "cpu_us", "busiest", "rest", "lag_ms_p50", "lag_ms_p99")
    }
    return Cost(first.masters, first.nodes, first.transport, **figures)
