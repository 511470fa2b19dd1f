"""Tell two things apart that both look like "handled more than once".

- **Fan-out**: every replica of a service handles its own copy, so an event costs as many handlings as the service has pods. That
  is how Pub/Sub works, and it is reported as handled copies per event and service.
- **Redelivery**: one pod hears the same event again. Pub/Sub delivers at most once, so one such copy makes the run invalid.

Only the `run` phase is judged. Copies whose handler skipped or failed are heard, but not handled.
"""

from __future__ import annotations

import math

import numpy as np

from sim.machine.words import amount, count
from sim.record.reader import codes_in
from sim.record.schema import event_id
from sim.results.checkers.verdict import MAX_WITNESSES, Bounds, Result
from sim.results.copies import FATE
from sim.results.opened_run import Run

AT_LEAST_ONCE = ("streams",)  # transports that may deliver again


def check(run: Run) -> Result:
    """Count handled copies per event and service, and copies that a pod heard again."""
    if not (run.publishes["phase"] == "run").any():
        return Result("unknown", "no data: nothing was published in the run phase", metrics={"duplicates": math.nan})
    copies = run.copies
    judged = run.copies_in("run")
    again = np.flatnonzero(judged & (copies.fate == FATE["duplicate"]))
    counts = {"redelivered": len(again), **_fan_out(run, judged)}
    metrics = _metrics(run)
    witnesses = [_witness(run, int(copy)) for copy in again[:MAX_WITNESSES]]
    per_event = {name.partition(".")[2]: amount(value) for name, value in counts.items() if name.startswith("handled_per_event.")}
    factors = ", ".join(f"{service} {value}" for service, value in per_event.items()) or "none"
    detail = f"no pod heard an event twice; handled copies per event: {factors}"
    if not len(again):
        return Result("valid", detail, counts=counts, metrics=metrics)
    what = count(len(again), "copy was heard again by a pod that had heard it", "copies were heard again by a pod that had heard them")
    detail = f"{what}; handled copies per event: {factors}"
    allowed = run.scenario.get("bus", {}).get("transport", "pubsub") in AT_LEAST_ONCE
    return Result("valid" if allowed else "invalid", detail, counts=counts, witnesses=witnesses, metrics=metrics)


def _metrics(run: Run) -> dict[str, float | Bounds]:
    """Return the duplicates of the run, of each service and of each channel; NaN where nothing was heard that could be one."""
    metrics: dict[str, float | Bounds] = {}
    for of in run.tally.scopes():
        fates = run.tally.fates(of)
        metrics[str(of._replace(base="duplicates"))] = float(fates["duplicate"]) if fates["delivered"] + fates["duplicate"] else math.nan
    return metrics


def _fan_out(run: Run, judged: np.ndarray) -> dict[str, int | float]:
    """Return pods, and handled copies per event that the service should hear, of each service that hears something."""
    copies, pod_histories = run.copies, run.pod_histories
    services = sorted({history.service for history in pod_histories if history.channels})
    number = {service: code for code, service in enumerate(services)}
    service = np.array([number.get(history.service, -1) for history in pod_histories], dtype=np.int64)[copies.pod]
    handled = judged & (copies.delivery >= 0) & (copies.publish >= 0)
    outcome = codes_in(run.deliveries["outcome"], {"handled": 1})
    handled[handled] = outcome[copies.delivery[handled]] == 1
    meant = judged & (copies.publish >= 0) & (copies.fate != FATE["unexpected"])
    counts: dict[str, int | float] = {}
    for code, name in enumerate(services):
        heard = np.zeros(len(run.publishes), dtype=bool)
        heard[copies.publish[meant & (service == code)]] = True
        counts[f"pods.{name}"] = sum(history.service == name for history in pod_histories)
        if heard.any():
            counts[f"handled_per_event.{name}"] = int((handled & (service == code)).sum()) / int(heard.sum())
    return counts


def _witness(run: Run, copy: int) -> str:
    row = run.copies.publish[copy]
    key, channel = run.publishes["event"].iloc[row], run.publishes["channel"].iloc[row]
    return f"{event_id(int(key))} on {channel}: heard again by {run.pod_histories[run.copies.pod[copy]].pod}"
