"""Count how often an event was really run, where the bus has a recipe for handling it once.

A *run* is a handler that returned. What is judged depends on among whom the recipe lets one pod handle an event (`bus.once_scope`):

- ``event``, as in the reference: one lock an event for all services. Judged are events: run once by some pod of some service as wanted,
  never (every pod of every service skipped, failed or did not hear), or more than once, by whichever services.
- ``service``: a lock for each service. Judged are pairs of an event and a service that should have heard it, over the service's pods.

With ``event`` an event that one service ran is handled, though others wanted it too. So the pairs are counted beside it: **elsewhere** is a
pair whose service never ran the event because another service had the lock: its pods that heard it skipped it, none ran it and none
failed. The limit on `handled_elsewhere` judges them. With ``service`` there are none. Only the `run` phase is judged.

What a recipe promises decides the verdict: `keep-marker` and `two-key` promise never more than once while no lock's TTL runs out, so
one such event is invalid. `finally-del`, the reference's snippet, and `token-del` promise nothing of the kind: their counts are
reported, and a limit on `handled_twice`, `handled_never` or `handled_elsewhere` judges them. Without a recipe every pod handles every
event.
"""

from __future__ import annotations

import numpy as np

from sim.machine.words import agreeing, amount, count, times
from sim.record.reader import Array, codes_in
from sim.record.schema import event_id
from sim.results.checkers.verdict import MAX_WITNESSES, Result
from sim.results.copies import FATE
from sim.results.opened_run import Run

PROMISE_ONCE = ("keep-marker", "two-key")
METRICS = ("handled_twice", "handled_never", "handled_elsewhere")


def check(run: Run) -> Result:
    """Count what was run never, once and more than once: events, or events of each service, as the recipe's scope says."""
    bus = run.scenario.get("bus", {})
    recipe = str(bus.get("once", "none"))
    of_all = bus.get("once_scope", "service") == "event"  # runs from before it could be chosen had a lock for each service
    if recipe == "none":
        nothing = dict.fromkeys(METRICS, float("nan"))
        return Result("valid", "the bus has no recipe for handling once: every pod that hears an event handles it", metrics=nothing)
    if not (run.publishes["phase"] == "run").any():
        return Result("unknown", "no data: nothing was published in the run phase")
    services = sorted({history.service for history in run.pod_histories if history.channels})
    pairs, runs, elsewhere = _pairs(run, services)
    judged, judged_runs = pairs, runs
    if of_all:
        judged, place = np.unique(pairs // len(services), return_inverse=True)
        judged_runs = np.bincount(place, weights=runs, minlength=len(judged)).astype(np.int64)
    else:
        elsewhere = np.zeros(len(pairs), dtype=bool)
    most = int(judged_runs.max(initial=0))
    counts: dict[str, int | float] = {"events": len(np.unique(pairs // len(services))), "pairs": len(pairs)}
    counts |= {"never": int((judged_runs == 0).sum()), "once": int((judged_runs == 1).sum())}
    counts |= {"twice_or_more": int((judged_runs > 1).sum()), "most_runs": most, "elsewhere": int(elsewhere.sum())}
    for code, name in enumerate(services):
        mine = pairs % len(services) == code
        if mine.any():
            counts[f"twice_or_more.{name}"] = int((runs[mine] > 1).sum())
            counts[f"runs_per_event.{name}"] = float(runs[mine].mean())
            counts[f"elsewhere.{name}"] = int(elsewhere[mine].sum())
    metrics = dict(zip(METRICS, (float(counts[name]) for name in ("twice_or_more", "never", "elsewhere")), strict=True))
    suspects = judged[judged_runs > 1] if most > 1 else judged[judged_runs == 0]
    events, each = run.publishes["event"].to_numpy(), 1 if of_all else len(services)
    witnesses = [event_id(int(events[one // each])) + ("" if of_all else f" in {services[one % each]}") for one in suspects[:MAX_WITNESSES]]
    broken = recipe in PROMISE_ONCE and counts["twice_or_more"] > 0
    detail = _sentence(recipe, counts, of_all=of_all)
    return Result("invalid" if broken else "valid", detail, counts=counts, witnesses=witnesses, metrics=metrics)


def _pairs(run: Run, services: list[str]) -> tuple[Array, Array, Array]:
    """Return each (event, service) pair as event row x services + service, how often it was run, and whether another had its lock."""
    copies, pod_histories = run.copies, run.pod_histories
    number = np.array([services.index(history.service) if history.channels else -1 for history in pod_histories])
    judged = (run.copies_phase() == list(run.phases).index("run")) & (copies.publish >= 0) & (copies.fate != FATE["unexpected"])
    rows = np.flatnonzero(judged)
    outcome = np.append(codes_in(run.deliveries["outcome"], {"handled": 1, "skipped": 2, "failed": 3}), 0)[copies.delivery[rows]]
    outcome[copies.delivery[rows] < 0] = 0  # nobody heard it
    pairs, place = np.unique(copies.publish[rows].astype(np.int64) * len(services) + number[copies.pod[rows]], return_inverse=True)
    runs, skips, failures = (np.bincount(place[outcome == code], minlength=len(pairs)) for code in (1, 2, 3))
    return pairs, runs, (runs == 0) & (failures == 0) & (skips > 0)


def _sentence(recipe: str, counts: dict[str, int | float], *, of_all: bool) -> str:
    never, once, more, elsewhere = (amount(counts[name]) for name in ("never", "once", "twice_or_more", "elsewhere"))
    most = int(counts["most_runs"])
    what = count(counts["events"], "event") if of_all else count(counts["pairs"], "(event, service) pair")
    text = f"{recipe}{', one lock for all services' if of_all else ''}: of {what} {once} ran once, {more} more than once"
    text += (f" (at most {times(most)})" if most > 1 else "") + f", {never} never"
    if not counts["elsewhere"]:
        return text
    left = agreeing(counts["elsewhere"], "was never run by its service", "were never run by their service")
    return f"{text}; of {count(counts['pairs'], '(event, service) pair')} {elsewhere} {left}: another service had the lock"
