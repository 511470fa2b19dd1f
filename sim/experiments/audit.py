"""The instrument audits itself: known errors are planted in the record of a real run, and the verdict must report exactly those.

Planted are one loss (a delivery is dropped), one duplicate (written twice), one swap (two neighbours of one publisher and
channel change places) and one delay (a handler's start moved by `DELAY_NS`), each in another pod; and one event for a service without a
pod (the only pod of a service is written down as gone from the delivery before the event to its own, which is dropped). They are planted
between the receive path and the parquet file, so a fault of the writer, the ledger or a checker shows as a difference.

Any scenario can be audited with: its bus, narrowed (`audited`) to a service of several pods that hear one channel, so that neighbours share
it, and one of a single pod that hears a quiet channel, so that two of its events are far apart. A bus that has no other service and channel
for the latter does without its error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa

from sim.errors import UsageError
from sim.machine.clock import NS_PER_S
from sim.record.recorder import Tamper, arrow_table
from sim.record.schema import TABLES, event_id
from sim.results.judged_run import JudgedRun, judge_folder
from sim.run.fleet import PROBER_NUMBER
from sim.run.status import Watch
from sim.run.steps import run_scenario
from sim.scenario.file import load_scenario
from sim.scenario.problems import problems
from sim.scenario.run_settings import Hosts, Kubelet
from sim.scenario.settings import Scenario

DELAY_NS = 7 * NS_PER_S
ALONE = "analytics-service"  # of the reference: one pod, which hears one quiet channel here
CROWD = "api-gateway"  # of the reference: its pods hear one channel only
PLANTED_PODS = 4
MOST_PODS = 8  # of a service of another scenario
QUIET_SHARE = 0.02  # of the calls
EACH_POD_HEARS = ("pubsub", "sharded")  # transports
SETTINGS = (
    "load.driver=pods",
    "load.rate_per_s=300",
    "load.warm_up_s=0",
    "load.run_s=4",
    'load.mix."config.cache.invalidate"=40',
    'load.mix."analytics.provider.usage"=3',
    f'services.{ALONE}.subscribes=["analytics.provider.usage"]',
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
    """The errors, planted in the first part that holds enough deliveries; the next part of the pods table then says who was gone.

    Most are planted in pods of `crowd`; one in the only pod of `single`, or nowhere where it is empty.
    """

    crowd: str = CROWD
    single: str = ALONE
    lost: tuple[int, str] | None = None
    twice: tuple[int, str] | None = None
    swapped: tuple[int, int] | None = None
    late: tuple[int, str] | None = None
    late_handled_ns: int = 0
    alone: tuple[int, str] | None = None
    gone_ns: tuple[int, int] | None = None

    tables = ("deliveries", "pods")

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Return the part with the errors in it."""
        if "state" in rows.column_names:
            return self._without_pod(rows) if self.gone_ns else rows
        if self.lost is not None:
            return rows
        plain, words = _taken_apart("deliveries", rows)
        pods = [f"{self.crowd}-{number}" for number in range(PLANTED_PODS)]
        hearing = [*pods, f"{self.single}-0"] if self.single else pods
        if not set(hearing) <= set(words["pod"]):
            return rows
        by_pod = [self._load_rows(plain, words["pod"].index(pod)) for pod in hearing]
        pair = _neighbours(plain["event"], by_pod[2])
        if pair is None or min(len(pod_rows) for pod_rows in by_pod) < 3:
            return rows
        unheard = [self._unheard(plain, by_pod[-1])] if self.single else []
        lose, double, delay = by_pod[0][1], by_pod[1][1], by_pod[3][1]
        self.lost, self.twice = (int(plain["event"][lose]), pods[0]), (int(plain["event"][double]), pods[1])
        self.late, self.swapped = (int(plain["event"][delay]), pods[3]), (int(plain["event"][pair[0]]), int(plain["event"][pair[1]]))
        plain["handled_ns"][delay] += DELAY_NS
        self.late_handled_ns = int(plain["handled_ns"][delay])
        order = np.arange(rows.num_rows)
        order[pair[0]], order[pair[1]] = pair[1], pair[0]
        copies = np.ones(rows.num_rows, dtype=np.int64)
        copies[[lose, *unheard]], copies[double] = 0, 2
        taken = np.repeat(order, copies)
        return arrow_table("deliveries", {name: values[taken] for name, values in plain.items()}, words)

    def _unheard(self, plain: dict[str, np.ndarray], rows: np.ndarray) -> int:
        """Choose the delivery that is farthest from those before and after it, for which its pod will have been gone."""
        received = plain["received_ns"][rows]
        gaps = np.diff(received)
        place = 1 + int(np.argmax(np.minimum(gaps[:-1], gaps[1:])))
        self.alone = (int(plain["event"][rows[place]]), self.single)
        # the event before it was sent by then, and this one by the time it was heard
        self.gone_ns = (int(received[place - 1]) + 1, int(received[place]))
        return int(rows[place])

    def _without_pod(self, rows: pa.Table) -> pa.Table:
        """Return a part of the pods table that says besides that the only pod of `single` was gone for that time."""
        assert self.gone_ns is not None
        plain, words = _taken_apart("pods", rows)
        mine = np.flatnonzero(np.array(words["pod"] or [""])[plain["pod"]] == f"{self.single}-0")
        if not len(mine):
            return rows
        words["state"] += [word for word in ("stopped", "subscribed") if word not in words["state"]]
        words["bus"] += [word for word in ("stopped", "connected") if word not in words["bus"]]
        for at_ns, state, bus in zip(self.gone_ns, ("stopped", "subscribed"), ("stopped", "connected"), strict=True):
            changed = {"at_ns": at_ns, "state": words["state"].index(state), "bus": words["bus"].index(bus)}
            plain = {name: np.append(values, values.dtype.type(changed.get(name, values[mine[0]]))) for name, values in plain.items()}
        self.gone_ns = None
        return arrow_table("pods", plain, words)

    @staticmethod
    def _load_rows(plain: dict[str, np.ndarray], pod: int) -> np.ndarray:
        publisher = (plain["event"] >> np.uint64(32)) & np.uint64(0xFFFF)
        return np.flatnonzero((plain["pod"] == pod) & (publisher != PROBER_NUMBER))


def _taken_apart(table: str, rows: pa.Table) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Return the columns of a part as arrays, and the words of those that hold words."""
    columns = {name: rows.column(name).combine_chunks() for name in TABLES[table]}
    words = {name: columns[name].dictionary.to_pylist() for name, kind in TABLES[table].items() if kind == "name"}
    return {name: np.array(c.indices if name in words else c) for name, c in columns.items()}, words


def _neighbours(events: np.ndarray, rows: np.ndarray) -> tuple[int, int] | None:
    """Return the rows of two successive events of one publisher that follow each other in their pod, or None."""
    for one, other in zip(rows[:-1].tolist(), rows[1:].tolist(), strict=True):
        if events[one] >> np.uint64(32) == events[other] >> np.uint64(32):
            return one, other
    return None


def audited(base: Scenario) -> tuple[Scenario, str, str]:
    """Return a scenario narrowed to what an audit needs, the service with several pods, and the one with a single pod, empty for none.

    Raises
    ------
    UsageError
        Its pods do not each hear every event, its events have no ids, or nothing that a service publishes is heard.
    """
    where = f"scenario {base.name}"
    if base.bus.transport not in EACH_POD_HEARS or not base.bus.redis_url:
        how = f"transport = {base.bus.transport!r}" if base.bus.redis_url else "redis_url = false"
        raise UsageError(f"{where}: bus.{how}: an audit plants in what each pod hears; it needs one of {', '.join(EACH_POD_HEARS)}")
    if base.envelope.kind == "raw":
        raise UsageError(f"{where}: envelope.kind = 'raw': an audit names the events it plants in, and these have no ids")
    published = {name for service in base.services.values() for name in service.publishes if name in base.channels}
    heard = [(name, channel) for name, service in base.services.items() for channel in service.subscribes if channel in published]
    heard = [one for one in heard if base.channels[one[1]].order]
    if not heard:
        raise UsageError(f"{where}: no pod hears a channel that a service publishes and that promises an order: nothing can be planted")
    busy = max(heard, key=lambda one: base.load.mix.get(one[1], 0.0))
    others = [one for one in heard if one[0] != busy[0] and one[1] != busy[1]]
    quiet = min(others, key=lambda one: base.load.mix.get(one[1], 0.0), default=("", ""))
    replace = msgspec.structs.replace
    services = {}
    for name, service in base.services.items():
        pods, hears = min(service.replicas, MOST_PODS), service.subscribes
        if name in (busy[0], quiet[0]):
            pods, hears = (max(pods, PLANTED_PODS), busy[1:]) if name == busy[0] else (1, quiet[1:])
        services[name] = replace(
            service, replicas=pods, subscribes=hears, handler_ms=0.0, handler_cpu_ms=0.0, concurrency=0, skew_ms=0.0
        )  # fmt: skip
    mix = {busy[1]: 1.0} if not quiet[1] else {busy[1]: 1 - QUIET_SHARE, quiet[1]: QUIET_SHARE}
    load = replace(
        base.load, driver="pods", rate_per_s=300.0, warm_up_s=0.0, run_s=4.0, mix=mix, shape="steady", reads_per_s=0.0, locustfile=""
    )
    narrow = replace(
        base, name="audit", services=services, load=load,
        channels={name: replace(one, batched=False) for name, one in base.channels.items()},
        bus=replace(base.bus, once="none"), faults=(), slo={}, checkers=(), hosts=Hosts(), kubelet=Kubelet(),
    )  # fmt: skip
    for problem in problems(narrow):
        raise UsageError(f"{where} cannot be audited with: {problem}")
    return narrow, busy[0], quiet[0]


def run_audit(
    *,
    scenario: Scenario | None = None,
    on: str = "embedded",
    out: Path | None = None,
    watch: Watch = lambda status: None,
    planter: Tamper | None = None,
) -> Audit:
    """Run a short scenario with planted errors and compare the verdict with them.

    Parameters
    ----------
    scenario
        Whose bus it is; by default the reference's.
    planter
        What changes the record in place of `Planter`, for the audit's own test: the audit must not pass then.

    Raises
    ------
    BuslabError
        The run failed.
    UsageError
        The scenario cannot be audited with.
    """
    planted = Planter()
    narrow = msgspec.structs.replace(load_scenario("baseline", settings=SETTINGS), name="audit")
    if scenario is not None:
        narrow, planted.crowd, planted.single = audited(scenario)
    folder = run_scenario(narrow, on=on, out=out, watch=watch, tamper=planter or planted)
    return Audit(tuple(_compare(judge_folder(folder, write=False), planted)), folder)


def _compare(judged: JudgedRun, planted: Planter) -> list[PlantedError]:
    run, verdict = judged.run, judged.verdict
    counts = {name: result.counts for name, result in verdict.checkers.items()}
    ledger = run.ledger()
    missing, alone = (ledger[(ledger["fate"] == "missing") & ((ledger["cause"] == "no-pod") == one)] for one in (False, True))
    alone = alone.assign(pod=alone["service"])
    again = ledger[ledger["fate"] == "duplicate"]
    publishes = run.publishes.set_index("event")
    late_us = (planted.late_handled_ns - publishes["intended_ns"].get(planted.late[0], 0)) / 1000 if planted.late else float("nan")
    witnesses = " ".join(verdict.checkers["order"].witnesses)
    unheard = int(bool(planted.single))
    return [
        PlantedError("missing copies", 1 + unheard, counts["ledger"]["missing"]),
        PlantedError("of them without a cause", 1, counts["ledger"].get("unexplained", 0)),
        PlantedError("of them owed to a service without a pod", unheard, counts["ledger"].get("no-pod", 0)),
        PlantedError("the event that it missed is the planted one", unheard, float(_holds(alone, planted.alone))),
        PlantedError("events that no pod of a service heard", unheard, counts["ledger"]["unserved"]),
        PlantedError("events that only some pods of a service heard", 1, counts["ledger"]["half_served"]),
        PlantedError("the missing copy is the planted one", 1, float(_holds(missing, planted.lost))),
        PlantedError("copies heard again", 1, counts["duplication"]["redelivered"]),
        PlantedError("the copy heard again is the planted one", 1, float(_holds(again, planted.twice))),
        PlantedError("deliveries out of order", 1, counts["order"]["out_of_order"]),
        PlantedError("the swap's events are the witness", 1, float(any(event_id(e) in witnesses for e in planted.swapped or ()))),
        PlantedError("greatest lag, us", late_us, counts["lag"]["lag_us.max"]),
    ]


def _holds(rows: pd.DataFrame, copy: tuple[int, str] | None) -> bool:
    return copy is not None and len(rows) == 1 and (int(rows["event"].iloc[0]), str(rows["pod"].iloc[0])) == copy
