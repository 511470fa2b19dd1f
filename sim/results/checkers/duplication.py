"""Tell two things apart that both look like "handled more than once".

- **Fan-out**: every replica of a service handles its own copy, so an event costs as many handlings as the service has pods. That
  is how Pub/Sub works, and it is reported as handled copies per event and service.
- **Redelivery**: one pod hears the same event again. Pub/Sub delivers at most once, so one such copy makes the run invalid. But a client
  that sends again what had no answer when it lost its connection (`bus.client = "ioredis"`) promises no more than at least once: of events
  whose publisher lost its publishing connection between sending and answer such copies are counted only (`sent_again`).

Only the `run` phase is judged. Copies whose handler skipped or failed are heard, but not handled.
"""

from __future__ import annotations

import math

import numpy as np

from sim.machine.words import amount, count
from sim.record.limits import MetricName
from sim.record.reader import FOREVER_NS, Array, codes_of
from sim.record.schema import event_id
from sim.results.checkers.verdict import MAX_WITNESSES, Bounds, Result
from sim.results.client import sends_again
from sim.results.copies import FATE
from sim.results.opened_run import Run
from sim.results.outages import NO_SPANS, read_beliefs
from sim.results.pieces import Piece
from sim.results.service_books import NO_COPY

AT_LEAST_ONCE = ("streams",)  # transports that may deliver again


def check(run: Run) -> Result:
    """Count handled copies per event and service, and copies that a pod heard again."""
    if not (run.publishes["phase"] == "run").any():
        return Result("unknown", "no data: nothing was published in the run phase", metrics={"duplicates": math.nan})
    again = run.tally.fates(MetricName(""))["duplicate"]
    counts: dict[str, int | float] = {"redelivered": again, **_fan_out(run)}
    metrics = _metrics(run)
    witnesses = [text for texts in run.pieces.each(lambda piece: _witnesses(run, piece)) for text in texts][:MAX_WITNESSES] if again else []
    per_event = {name.partition(".")[2]: amount(value) for name, value in counts.items() if name.startswith("handled_per_event.")}
    factors = ", ".join(f"{service} {value}" for service, value in per_event.items()) or "none"
    detail = f"no pod heard an event twice; handled copies per event: {factors}"
    if not again:
        return Result("valid", detail, counts=counts, metrics=metrics)
    what = count(again, "copy was heard again by a pod that had heard it", "copies were heard again by a pod that had heard them")
    detail = f"{what}; handled copies per event: {factors}"
    if sends_again(run.scenario.get("bus", {})):
        may = _sent_again(run)
        counts["sent_again"] = sum(run.pieces.each(lambda piece: int(may[piece.publish[_rows(piece)]].sum())))
        detail += f"; {counts['sent_again']:,} of them may have been sent again by a publisher that lost its connection"
    allowed = run.scenario.get("bus", {}).get("transport", "pubsub") in AT_LEAST_ONCE or counts.get("sent_again") == again
    return Result("valid" if allowed else "invalid", detail, counts=counts, witnesses=witnesses, metrics=metrics)


def _rows(piece: Piece) -> Array:
    return np.flatnonzero(piece.in_run & (piece.fate == FATE["duplicate"]))


def _sent_again(run: Run) -> Array:
    """Return for each publish whether its publisher lost its publishing connection while it had no answer."""
    publisher, publishers = codes_of(run.publishes["publisher"])
    sent, acked = (run.publishes[column].to_numpy() for column in ("sent_ns", "acked_ns"))
    answered, found, beliefs = np.where(acked > 0, acked, FOREVER_NS), np.zeros(len(sent), dtype=bool), read_beliefs(run)
    for code, name in enumerate(publishers):
        away = beliefs[name].spans(("connecting", "mute", "outage")) if name in beliefs else NO_SPANS
        mine = publisher == code
        next_away = np.searchsorted(away[:, 1], sent[mine], side="right")
        found[mine] = np.append(away[:, 0], FOREVER_NS)[next_away] < answered[mine]
    return found


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
    rows = _rows(piece)[:MAX_WITNESSES]
    events, pods = run.publishes[["event", "channel"]].iloc[piece.publish[rows]], piece.pod[rows].tolist()
    told = zip(events["event"].tolist(), events["channel"].tolist(), pods, strict=True)
    return [f"{event_id(key)} on {channel}: heard again by {run.pod_histories[pod].pod}" for key, channel, pod in told]
