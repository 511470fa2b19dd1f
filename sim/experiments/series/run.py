"""Run a scenario several times with one setting changed, and return a row for each run.

`sim.experiments.series.plots` draws these rows. This is for a few short runs inside a notebook; `buslab sweep` is for a grid of settings
with repeats, which can be resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from sim.bus.envelope import CHANNEL_PREFIX
from sim.errors import UsageError
from sim.experiments.many_runs import Job, run_many
from sim.grounds.catalogue import shown_ground
from sim.grounds.model.costs import LINK
from sim.grounds.model.fanout import predict_fanout
from sim.results.broker_costs import broker_costs
from sim.results.checkers import judge
from sim.results.checkers.fallback import reachability
from sim.results.checkers.verdict import least_of, most_of
from sim.results.opened_run import Run
from sim.results.outages import read_beliefs
from sim.scenario.file import load_scenario

NS_PER_S = 1_000_000_000
LAGS = {"lag_ms_p50": 0.5, "lag_ms_p99": 0.99, "lag_ms_max": 1.0}


def run_each(
    scenario: str,
    key: str,
    values: Sequence[float | str],
    *,
    on: str = "model",
    settings: Sequence[str] = (),
    tell: Callable[[str], None] = lambda line: None,
) -> dict[float | str, Run]:
    """Run a scenario once for each value of a setting, and return the opened runs; their tables are in memory, the folders are gone.

    Parameters
    ----------
    key, settings
        As of `load_scenario`: ``key=value``, after the settings that all runs share.

    Raises
    ------
    UsageError
        No value, or one twice.
    BuslabError
        A run failed.
    """
    if not values or len(set(values)) < len(values):
        raise UsageError(f"{key} = {list(values)!r}: give at least one value, and each once")
    loaded = [load_scenario(scenario, settings=(*settings, f"{key}={value}")) for value in values]
    jobs = [Job(str(place), one, on) for place, one in enumerate(loaded)]

    def begin(job: Job) -> None:
        tell(f"{scenario}: {key} = {values[int(job.key)]}, on {shown_ground(on)}")

    runs: dict[float | str, Run] = {}
    for value, outcome in zip(values, run_many(jobs, begin=begin), strict=True):
        run = outcome.judged().run
        for table in ("publishes", "deliveries", "calls", "reads", "pods", "faults", "broker", "hosts", "probes"):
            getattr(run, table)  # read now: the folder does not stay
        runs[value] = run
    return runs


def lag_rows(runs: dict[float | str, Run]) -> pd.DataFrame:
    """Return one row a run: value, pods, events_per_s, copies_per_s, missing, missing_most, lags, unserved, broker_share, verdict.

    All are of the run phase. `missing` and `unserved` are the least that they can be, `missing_most` and `unserved_most` the most: more
    where nobody knows whether what was not heard had been published. Lags are lag_ms_p50, lag_ms_p99 and lag_ms_max; `broker_share` is
    the broker's processor time per second.
    """
    rows = []
    for value, run in runs.items():
        verdict = judge(run)
        ledger, lag = (verdict.checkers[name] for name in ("ledger", "lag"))
        begin_ns, end_ns = run.phases["run"]
        seconds = (end_ns - begin_ns) / NS_PER_S
        row = {
            "value": value,
            "pods": sum(bool(history.channels) for history in run.pod_histories),
            "events_per_s": ledger.counts["events"] / seconds,
        }
        row |= {"copies_per_s": ledger.counts["delivered"] / seconds}
        for name in ("missing", "unserved"):
            row |= {name: least_of(ledger.metrics[name]), f"{name}_most": most_of(ledger.metrics[name])}
        row |= {name: least_of(lag.metrics.get(name, float("nan"))) for name in LAGS}
        rows.append(row | {"broker_share": broker_costs(run).cpu_share, "verdict": verdict.verdict})
    return pd.DataFrame(rows)


def predict_rows(runs: dict[float | str, Run], pods: Sequence[int]) -> pd.DataFrame:
    """Return what `sim.grounds.model.fanout` computes for more pods than were run: the publishes of the last run, heard by so many.

    Returns
    -------
    DataFrame
        value, pods, copies, lag_ms_p50, lag_ms_p99, lag_ms_max, broker_share, stable: whether the broker keeps up.

    Raises
    ------
    UsageError
        The run has events of more than one channel: they would wait for each other.
    """
    run = list(runs.values())[-1]
    sent = run.publishes[(run.publishes["phase"] == "run") & (run.publishes["items"] > 0)].sort_values("sent_ns")
    channels = sent["channel"].astype(str).unique()
    if len(channels) != 1:
        raise UsageError(f"the run publishes on {', '.join(channels) or 'no channel'}; a prediction is of exactly one")
    prefix = run.scenario.get("bus", {}).get("channel_prefix", CHANNEL_PREFIX)
    rows = []
    for count in pods:
        found = predict_fanout(
            sent["sent_ns"].to_numpy(),
            subscribers=count,
            payload_bytes=int(sent["bytes"].median()),
            channel_bytes=len(prefix + channels[0]),
            publisher=sent["publisher"].cat.codes.to_numpy().astype(np.int64),
            link=LINK,
            quantiles=tuple(LAGS.values()),
        )
        lags = {name: found.lag_ns[share] / 1e6 for name, share in LAGS.items()}
        rows.append(
            {"value": count, "pods": count, "copies": found.copies} | lags | {"broker_share": found.busy_share, "stable": found.stable}
        )
    return pd.DataFrame(rows)


def second_rows(run: Run) -> pd.DataFrame:
    """Return one row a second of the run phase: what was published for whom, what was heard, and how many pods believed what.

    Returns
    -------
    DataFrame
        Index: second since the run phase began. Copies published and heard, for other pods and for the publishing pod itself; and pods
        that called themselves connected, deaf, and anything else (connecting, mute, outage), at the middle of the second.
    """
    rows = reachability(run)
    own = rows["publisher"].astype(str) == rows["hearer"].astype(str)
    found: dict[str, pd.Series[int]] = {}
    for name, mine in (("for others", rows[~own]), ("for itself", rows[own])):
        sums = mine.groupby("second")[["published", "heard"]].sum()
        found |= {f"{name}: published": sums["published"], f"{name}: heard": sums["heard"]}
    table = pd.DataFrame(found).fillna(0).astype(int)
    begin_ns, end_ns = run.phases["run"]
    table = table[(table.index >= 0) & (table.index < (end_ns - begin_ns) / NS_PER_S)]
    beliefs = read_beliefs(run).values()
    words = [[belief.at(begin_ns + int((second + 0.5) * NS_PER_S)) for belief in beliefs] for second in table.index]
    table["pods connected"] = [row.count("connected") for row in words]
    table["pods deaf"] = [row.count("deaf") for row in words]
    table["pods on their own"] = [len(row) - row.count("connected") - row.count("deaf") for row in words]
    return table


def lock_rows(
    recipes: Sequence[str],
    *,
    handler_ms: Sequence[float],
    skew_ms: Sequence[float],
    service: str = "music-service",
    on: str = "model",
    settings: Sequence[str] = (),
    tell: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:
    """Run the lock lab for each recipe, handler time and start skew, and count how often an event really ran.

    Returns
    -------
    DataFrame
        recipe, pods, handler_ms, skew_ms, events, never, once, more (shares of events), runs_per_event, verdict, and `expected_more`: the
        share that arithmetic gives for a lock that is freed when the handler ends (`freed_too_early`).
    """
    rows = []
    for recipe in recipes:
        for skew in skew_ms:
            shared = (*settings, f"bus.once={recipe}", f"services.{service}.skew_ms={skew}")
            runs = run_each("lock_lab", f"services.{service}.handler_ms", handler_ms, on=on, settings=shared, tell=tell)
            for handler, run in runs.items():
                verdict = judge(run)
                counts = verdict.checkers["once"].counts
                pods, events = sum(history.service == service for history in run.pod_histories), int(counts["events"])
                row = {"recipe": recipe, "pods": pods, "handler_ms": float(handler), "skew_ms": float(skew), "events": events}
                row |= {"never": counts["never"] / events, "once": counts["once"] / events, "more": counts["twice_or_more"] / events}
                row |= {"runs_per_event": counts[f"runs_per_event.{service}"], "verdict": verdict.verdict}
                rows.append(row | {"expected_more": freed_too_early(pods, handler_ms=float(handler), skew_ms=float(skew))})
    return pd.DataFrame(rows)


def freed_too_early(pods: int, *, handler_ms: float, skew_ms: float) -> float:
    """Return the chance that an event runs again when the lock is deleted at the handler's end.

    Pods begin at times drawn evenly from 0 to `skew_ms`. It runs again when the last one begins after the first one is done, that is when
    the range of the times is above `handler_ms`: for n even draws that is 1 - n r^(n-1) + (n-1) r^n, with r = handler / skew. The lock's
    own round trips, some 0.1 ms, are left out.
    """
    if skew_ms <= handler_ms:
        return 0.0
    ratio = handler_ms / skew_ms
    return 1 - pods * ratio ** (pods - 1) + (pods - 1) * ratio**pods
