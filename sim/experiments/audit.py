"""The instrument audits itself: known errors are planted in the record of a real run, and the verdict must report exactly those.

Planted are one loss (a delivery is dropped), one duplicate (written twice), one swap (two neighbours of one publisher and
channel change places) and one delay (a handler's start moved by `DELAY_NS`), each in another pod. They are planted between the
receive path and the parquet file, so a fault of the writer, the ledger or a checker shows as a difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa

from sim.machine.clock import NS_PER_S
from sim.record.recorder import arrow_table
from sim.record.schema import TABLES, event_id
from sim.results.judged_run import JudgedRun, judge_folder
from sim.run.fleet import PROBER_NUMBER
from sim.run.status import Watch
from sim.run.steps import run_scenario
from sim.scenario.file import load_scenario

DELAY_NS = 7 * NS_PER_S
PODS = tuple(f"api-gateway-{number}" for number in range(4))  # they hear one channel only, so neighbours share it
SETTINGS = (
    "load.driver=pods",
    "load.rate_per_s=300",
    "load.warm_up_s=0",
    "load.run_s=4",
    'load.mix."config.cache.invalidate"=40',
)


@dataclass(frozen=True)
class PlantedError:
    """One planted error, and what the verdict reports of it."""

    what: str
    planted: float
    reported: float

    @property
    def exact(self) -> bool:
        """Whether the verdict says exactly what was planted."""
        return self.planted == self.reported


@dataclass(frozen=True)
class Audit:
    """The outcome of a self-audit."""

    rows: tuple[PlantedError, ...]
    folder: Path

    @property
    def exact(self) -> bool:
        """Whether every planted error was reported exactly."""
        return all(row.exact for row in self.rows)

    @property
    def text(self) -> str:
        """The outcome as lines to print."""
        lines = [
            f"{row.what:<52} planted {row.planted:>12,.8g}  reported {row.reported:>12,.8g}  {'' if row.exact else 'WRONG'}".rstrip()
            for row in self.rows
        ]
        end = "the verdict reports exactly what was planted" if self.exact else "the instrument is wrong: do not trust its verdicts"
        return "\n".join([*lines, f"audit    {end}", f"run      {self.folder}"])


@dataclass
class Planter:
    """The four errors, planted in the first part that holds enough deliveries."""

    lost: tuple[int, str] | None = None
    twice: tuple[int, str] | None = None
    swapped: tuple[int, int] | None = None
    late: tuple[int, str] | None = None
    late_handled_ns: int = 0
    _seen: int = field(default=0, repr=False)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Return the part with the errors in it."""
        if self.lost is not None:
            return rows
        columns = {name: rows.column(name).combine_chunks() for name in TABLES["deliveries"]}
        words = {name: columns[name].dictionary.to_pylist() for name in ("pod", "path", "outcome")}
        plain = {name: np.array(c.indices if name in words else c) for name, c in columns.items()}
        by_pod = [self._load_rows(plain, words["pod"].index(pod)) for pod in PODS]
        pair = _neighbours(plain["event"], by_pod[2])
        if pair is None or min(len(pod_rows) for pod_rows in by_pod) < 3:
            return rows
        lose, double, delay = by_pod[0][1], by_pod[1][1], by_pod[3][1]
        self.lost, self.twice = (int(plain["event"][lose]), PODS[0]), (int(plain["event"][double]), PODS[1])
        self.late, self.swapped = (int(plain["event"][delay]), PODS[3]), (int(plain["event"][pair[0]]), int(plain["event"][pair[1]]))
        plain["handled_ns"][delay] += DELAY_NS
        self.late_handled_ns = int(plain["handled_ns"][delay])
        order = np.arange(rows.num_rows)
        order[pair[0]], order[pair[1]] = pair[1], pair[0]
        copies = np.ones(rows.num_rows, dtype=np.int64)
        copies[lose], copies[double] = 0, 2
        taken = np.repeat(order, copies)
        return arrow_table("deliveries", {name: values[taken] for name, values in plain.items()}, words)

    @staticmethod
    def _load_rows(plain: dict[str, np.ndarray], pod: int) -> np.ndarray:
        publisher = (plain["event"] >> np.uint64(32)) & np.uint64(0xFFFF)
        return np.flatnonzero((plain["pod"] == pod) & (publisher != PROBER_NUMBER))


def _neighbours(events: np.ndarray, rows: np.ndarray) -> tuple[int, int] | None:
    """Return the rows of two successive events of one publisher that follow each other in their pod, or None."""
    for one, other in zip(rows[:-1].tolist(), rows[1:].tolist(), strict=True):
        if events[one] >> np.uint64(32) == events[other] >> np.uint64(32):
            return one, other
    return None


def run_audit(
    *, out: Path | None = None, watch: Watch = lambda status: None, planter: Callable[[pa.Table], pa.Table] | None = None
) -> Audit:
    """Run a short scenario on the embedded broker with planted errors and compare the verdict with them.

    Parameters
    ----------
    planter
        What changes the record in place of `Planter`, for the audit's own test: the audit must not pass then.

    Raises
    ------
    BuslabError
        The run failed.
    """
    planted = Planter()
    scenario = msgspec.structs.replace(load_scenario("baseline", settings=SETTINGS), name="audit")
    folder = run_scenario(scenario, out=out, watch=watch, tamper=planter or planted)
    return Audit(tuple(_compare(judge_folder(folder, write=False), planted)), folder)


def _compare(judged: JudgedRun, planted: Planter) -> list[PlantedError]:
    run, verdict = judged.run, judged.verdict
    counts = {name: result.counts for name, result in verdict.checkers.items()}
    ledger = run.ledger()
    missing = ledger[ledger["fate"] == "missing"]
    again = ledger[ledger["fate"] == "duplicate"]
    publishes = run.publishes.set_index("event")
    late_us = (planted.late_handled_ns - publishes["intended_ns"].get(planted.late[0], 0)) / 1000 if planted.late else float("nan")
    witnesses = " ".join(verdict.checkers["order"].witnesses)
    return [
        PlantedError("missing copies", 1, counts["ledger"]["missing"]),
        PlantedError("of them without a cause", 1, counts["ledger"].get("unexplained", 0)),
        PlantedError("the missing copy is the planted one", 1, float(_holds(missing, planted.lost))),
        PlantedError("copies heard again", 1, counts["duplication"]["redelivered"]),
        PlantedError("the copy heard again is the planted one", 1, float(_holds(again, planted.twice))),
        PlantedError("deliveries out of order", 1, counts["order"]["out_of_order"]),
        PlantedError("the swap's events are the witness", 1, float(any(event_id(e) in witnesses for e in planted.swapped or ()))),
        PlantedError("greatest lag, us", late_us, counts["lag"]["lag_us.max"]),
    ]


def _holds(rows: pd.DataFrame, copy: tuple[int, str] | None) -> bool:
    return copy is not None and len(rows) == 1 and (int(rows["event"].iloc[0]), str(rows["pod"].iloc[0])) == copy
