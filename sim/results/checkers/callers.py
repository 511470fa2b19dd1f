"""Measure what fire and forget costs its caller: how long each call took, inside each fault and outside, and which failed.

A call is a row of the table `calls`; it belongs to the run phase by its intended time, and is *in* a fault when the time from then to
its return, had it begun on time, touches the fault. Faults of the same name count together. A POST to an analytics-service pod
(`http.events.batch`) waits for its answer by nature: its times stand beside the others as a channel, and in no metric.

A quantile q of n values is the value at rank ceil(q * (n - 1)), counted from 0 in rising order. A *failed* call did not raise: its
content could not be encoded and was dropped, or its publish was refused at once.

Nothing is promised, so this is valid without a limit in `[slo]`; calls that were meant and are not recorded are unknown.
"""

from __future__ import annotations

import numpy as np

from sim.machine.words import amount, count, duration
from sim.record.reader import Array, codes_in, codes_of, quantiles
from sim.record.schema import HTTP_CALL, event_id
from sim.results.checkers.verdict import MAX_WITNESSES, Result
from sim.results.opened_run import Run

QUANTILES = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
METRICS = {"p99": "call_ms_p99", "p999": "call_ms_p999", "max": "call_ms_max"}


def check(run: Run) -> Result:
    """Measure the calls of the run phase."""
    calls = run.calls
    start_ns, end_ns = run.run_span
    intended, took = calls["intended_ns"].to_numpy(), calls["took_ns"].to_numpy()
    in_run = (intended >= start_ns) & (intended < end_ns)
    bus = in_run & (codes_in(calls["channel"], {HTTP_CALL: 1}) != 1)
    nothing = dict.fromkeys((*METRICS.values(), "calls_failed"), float("nan"))
    if not in_run.any():
        if run.info.load.offered_calls:
            return Result("unknown", "no data: calls were meant, and none is recorded in the run phase", metrics=nothing)
        return Result("valid", "the load means no calls", metrics=nothing)
    failed = codes_in(calls["outcome"], {"failed": 1}) == 1
    faults = _faults(run, intended, took)
    counts: dict[str, int | float] = {"calls": int(bus.sum()), "failed": int((failed & bus).sum())}
    counts |= _quantiles("took_us", took[bus])
    outside = bus.copy()
    for name, inside in faults.items():
        counts |= {f"calls.in.{name}": int((bus & inside).sum()), f"failed.in.{name}": int((bus & inside & failed).sum())}
        counts |= _quantiles(f"took_us.in.{name}", took[bus & inside])
        outside &= ~inside
    if faults:
        counts |= {"calls.outside": int(outside.sum()), "failed.outside": int((outside & failed).sum())}
        counts |= _quantiles("took_us.outside", took[outside])
    channel, channels = codes_of(calls["channel"])
    for code, word in enumerate(channels):
        counts |= _quantiles(f"took_us.channel.{word}", took[in_run & (channel == code)])
    if not bus.any():
        return Result("valid", "every call of the run phase was a POST, none was fire and forget", counts=counts, metrics=nothing)
    metrics = {name: counts[f"took_us.{quantile}"] / 1e3 for quantile, name in METRICS.items()}
    metrics |= {"calls_failed": float(counts["failed"])}
    witnesses = _witnesses(run, np.flatnonzero(bus), failed)
    return Result("valid", _sentence(run, counts, list(faults)), counts=counts, witnesses=witnesses, metrics=metrics)


def _faults(run: Run, intended: Array, took: Array) -> dict[str, Array]:
    """Return for each fault that touches the run phase which calls are in it."""
    start_ns, end_ns = run.run_span
    inside: dict[str, Array] = {}
    for row in run.felt_faults():
        end = row["end_ns"] or end_ns
        if row["begin_ns"] < end_ns and end > start_ns:
            here = (intended <= end) & (intended + took >= row["begin_ns"])
            inside[row["fault"]] = inside.get(row["fault"], False) | here
    return inside


def _quantiles(name: str, values_ns: Array) -> dict[str, int | float]:
    return {f"{name}.{quantile}": value / 1e3 for quantile, value in quantiles(values_ns, QUANTILES).items()}


def _sentence(run: Run, counts: dict[str, int | float], faults: list[str]) -> str:
    failed = f"{amount(counts['failed']) if counts['failed'] else 'none'} of {count(counts['calls'], 'call')} failed"
    if run.info.ground == "model" and not counts["took_us.max"]:
        return f"{failed}; none waited (in virtual time code takes no time, so only waiting would show)"
    took = {name: duration(value / 1e6) for name, value in counts.items() if name.startswith("took_us")}
    text = f"{failed}; the caller waited {took['took_us.p50']} in the median, p99.9 {took['took_us.p999']}, max {took['took_us.max']}"
    told = [name for name in faults if f"took_us.in.{name}.max" in took]
    text += "".join(f"; in {name} at most {took[f'took_us.in.{name}.max']}" for name in told)
    return text + (f", outside at most {took['took_us.outside.max']}" if told and "took_us.outside.max" in took else "")


def _witnesses(run: Run, rows: Array, failed: Array) -> list[str]:
    """Return calls that failed, then the slowest ones that waited; with the event of those that published one themselves."""
    took = run.calls["took_ns"].to_numpy()
    chosen = np.concatenate([rows[failed[rows]][:MAX_WITNESSES], _slowest(rows[~failed[rows] & (took[rows] > 0)], took)])[:MAX_WITNESSES]
    if not len(chosen):
        return []
    publishes, texts = run.publishes, []
    intended = publishes["intended_ns"].to_numpy()
    for row in run.calls.iloc[chosen].to_dict("records"):
        same = publishes.iloc[np.flatnonzero(intended == row["intended_ns"])]
        same = same[(same["publisher"].astype(str) == row["publisher"]) & (same["channel"].astype(str) == row["channel"])]
        name = f"{event_id(int(same['event'].iloc[0]))} on {row['channel']}" if len(same) == 1 else f"a call of {row['channel']}"
        word = ", failed" if row["outcome"] == "failed" else ""
        texts.append(f"{name}: {row['publisher']} waited {duration(row['took_ns'] / 1e9)}{word}")
    return texts


def _slowest(rows: Array, took: Array) -> Array:
    if len(rows) > MAX_WITNESSES:
        rows = rows[np.argpartition(-took[rows], MAX_WITNESSES)[:MAX_WITNESSES]]
    return rows[np.argsort(-took[rows], kind="stable")]
