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
from sim.record.limits import MetricName
from sim.record.schema import event_id
from sim.results.checkers.verdict import MAX_WITNESSES, Bounds, Result
from sim.results.copies import FATE
from sim.results.opened_run import Run
from sim.results.pieces import Piece
from sim.results.service_books import NO_COPY

AT_LEAST_ONCE = ("streams",)  # transports that may deliver again


def check(run: Run) -> Result:
    """Count handled copies per event and service, and copies that a pod heard again."""
    if not (run.publishes["phase"] == "run").any():
        return Result("unknown", "no data: nothing was published in the run phase", metrics={"duplicates": math.nan})
    again = run.tally.fates(MetricName(""))["duplicate"]
    counts = {"redelivered": again, **_fan_out(run)}
    metrics = _metrics(run)
    witnesses = [text for texts in run.pieces.each(lambda piece: _witnesses(run, piece)) for text in texts][:MAX_WITNESSES] if again else []
    per_event = {name.partition(".")[2]: amount(value) for name, value in counts.items() if name.startswith("handled_per_event.")}
    factors = ", ".join(f"{service} {value}" for service, value in per_event.items()) or "none"
    detail = f"no pod heard an event twice; handled copies per event: {factors}"
    if not again:
        return Result("valid", detail, counts=counts, metrics=metrics)
    what = count(again, "copy was heard again by a pod that had heard it", "copies were heard again by a pod that had heard them")
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


def _fan_out(run: Run) -> dict[str, int | float]:
    """Return pods, and handled copies per event that the service should hear, of each service that hears something."""
    books, handled = run.service_books, run.books.handled.sum(axis=1)
    meant = (run.publishes["phase"] == "run").to_numpy()[books.publish] & (books.fate == NO_COPY)  # some pod was to hear it
    events = np.bincount(books.service[meant], minlength=len(run.services)).tolist()
    counts: dict[str, int | float] = {}
    for name in sorted({history.service for history in run.pod_histories if history.channels}):
        pods = [number for number, history in enumerate(run.pod_histories) if history.service == name]
        counts[f"pods.{name}"] = len(pods)
        if many := events[run.services.index(name)]:
            counts[f"handled_per_event.{name}"] = int(handled[pods].sum()) / many
    return counts


def _witnesses(run: Run, piece: Piece) -> list[str]:
    rows = np.flatnonzero(piece.in_run & (piece.fate == FATE["duplicate"]))[:MAX_WITNESSES]
    events, pods = run.publishes[["event", "channel"]].iloc[piece.publish[rows]], piece.pod[rows].tolist()
    told = zip(events["event"].tolist(), events["channel"].tolist(), pods, strict=True)
    return [f"{event_id(key)} on {channel}: heard again by {run.pod_histories[pod].pod}" for key, channel, pod in told]
