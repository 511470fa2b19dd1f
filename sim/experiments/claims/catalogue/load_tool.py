"""The claim that the load tool's p99 is the bus's lag: Locust's own table beside the ledger, of the same runs and event types."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from sim.experiments.claims.claim import EMBEDDED, Claim, Evidence, Finding, Trial
from sim.machine.words import duration

NEAR = 1.25  # the two agree when neither is more than so many times the other
LEAST_CALLS = 100  # of an event type: with fewer the 99th percentile is the worst call
STEADY = 1.5  # the median lag of the second half of a steady situation is at most so many times that of the first, or differs by `APART_MS`
APART_MS = 5.0
STATS = "locust_stats.csv"  # in the run folder
LOAD = ("load.driver=locust", "load.run_s=6", "load.warm_up_s=1", "load.rate_per_s=400", "bus.batch_interval_ms=1000")
# 150 events/s of 3 ms each: analytics is busy for 45 % of the time and keeps up, so that its lag does not grow with the length of the run
SLOW = "faults=[{kind='slow_handler',at_s=0.1,for_s=5.8,pods=['analytics-service'],handler_ms=3,at_once=1}]"
SERVICE = "analytics-service"
SITUATIONS = {"calm": "in everyday load", "slow": "while analytics takes 3 ms for an event"}


def lag_halves_ms(one: Evidence) -> tuple[float, float]:
    """Return the median lag of what analytics heard in the first and in the second half of the run phase."""
    run = one.run
    begin_ns, end_ns = run.phases["run"]
    heard = run.ledger()
    heard = heard[(heard["phase"] == "run") & (heard["service"] == SERVICE) & (heard["fate"] == "delivered")]
    meant = run.publishes.drop_duplicates("event").set_index("event")["intended_ns"]
    late = (heard["event"].map(meant) >= (begin_ns + end_ns) / 2).to_numpy()
    lag_ms = heard["lag_us"].to_numpy() / 1e3
    return float(np.median(lag_ms[~late])), float(np.median(lag_ms[late]))


def locust_p99_ms(one: Evidence) -> dict[str, float]:
    """Return what Locust calls the 99th percentile of publishing each event type, milliseconds, where it counted enough."""
    table = pd.read_csv(one.folder / STATS)
    rows = table[(table["Type"] == "PUBLISH") & (table["Request Count"] >= LEAST_CALLS)]
    return {str(name): float(p99) for name, p99 in zip(rows["Name"], rows["99%"], strict=True)}


def _same(evidence: Mapping[str, Evidence]) -> Finding:
    cases: dict[str, bool | None] = {}
    numbers: dict[str, float] = {}
    parts = []
    for name, one in evidence.items():
        lag_ms = {kind: one.counts("lag")[f"lag_us.channel.{kind}.p99"] / 1e3 for kind in locust_p99_ms(one)}
        said_ms = locust_p99_ms(one)
        kind = max(said_ms, key=lambda kind: lag_ms[kind] / max(said_ms[kind], 1.0))  # the one that is furthest off
        first_ms, second_ms = lag_halves_ms(one)
        steady = second_ms <= max(STEADY * first_ms, first_ms + APART_MS)  # a backlog that grows has the lag of a run's length, no other
        cases[SITUATIONS[name]] = all(1 / NEAR <= lag_ms[k] / max(said_ms[k], 1.0) <= NEAR for k in said_ms) if steady else None
        numbers |= {f"locust_ms_{name}": said_ms[kind], f"lag_ms_{name}": lag_ms[kind], f"grew_{name}": second_ms / first_ms}
        parts.append(
            f"{SITUATIONS[name]} Locust says {duration(said_ms[kind] / 1e3)} for {kind}, and the lag is {duration(lag_ms[kind] / 1e3)}"
        )
    ratio = numbers["lag_ms_slow"] / max(numbers["locust_ms_slow"], 1.0)
    return Finding(cases, ratio, "times Locust's p99 is the lag while analytics takes 3 ms", "; ".join(parts), numbers)


LOAD_TOOL = Claim(
    words="The load tool's p99 is the bus's lag",
    where="not in the reference: how load tests are read",
    theory="false: it times the publish alone, by its own clock, rounded to milliseconds, and hears no delivery",
    expects="false",
    trials=(
        Trial("calm", "baseline", LOAD, on=EMBEDDED, needs="server"),
        Trial("slow", "baseline", (*LOAD, SLOW), on=EMBEDDED, needs="server"),
    ),
    rule=_same,
    false_if="in a steady situation, in which the lag does not grow with the length of the run, the two differ by more than a quarter",
)
