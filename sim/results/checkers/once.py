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

import math

import numpy as np

from sim.machine.words import agreeing, amount, count, times
from sim.record.schema import event_id
from sim.results.checkers.verdict import MAX_WITNESSES, Bounds, Result, between
from sim.results.opened_run import Run
from sim.results.service_books import count_handlings

WHY = "whether events that no pod ran had been published"
PROMISE_ONCE = ("keep-marker", "two-key")
METRICS = ("handled_twice", "handled_never", "handled_elsewhere")


def check(run: Run) -> Result:
    """Count what was run never, once and more than once: events, or events of each service, as the recipe's scope says."""
    bus = run.scenario.get("bus", {})
    recipe = str(bus.get("once", "none"))
    of_all = bus.get("once_scope") == "event"  # runs from before it could be chosen had a lock for each service
    nothing: dict[str, float | Bounds] = dict.fromkeys(METRICS, math.nan)
    if recipe == "none":
        return Result("valid", "the bus has no recipe for handling once: every pod that hears an event handles it", metrics=nothing)
    if not (run.publishes["phase"] == "run").any():
        return Result("unknown", "no data: nothing was published in the run phase", metrics=nothing)
    books, services = run.service_books, run.services
    mine = np.flatnonzero((run.publishes["phase"] == "run").to_numpy()[books.publish])
    runs, skips, failures = (counted[mine] for counted in count_handlings(run, run.pieces, books))
    publish, service, in_doubt = books.publish[mine], books.service[mine], books.in_doubt[mine]
    elsewhere = of_all & (runs == 0) & (failures == 0) & (skips > 0)
    judged, judged_runs = np.arange(len(mine)), runs
    if of_all:
        _, judged, place = np.unique(publish, return_index=True, return_inverse=True)
        judged_runs = np.bincount(place, weights=runs, minlength=len(judged)).astype(np.int64)
        in_doubt = np.bincount(place, weights=~in_doubt, minlength=len(judged)) == 0
    most = int(judged_runs.max(initial=0))
    counts: dict[str, int | float] = {"events": len(np.unique(publish)), "pairs": len(mine), "never": int((judged_runs == 0).sum())}
    counts |= {"once": int((judged_runs == 1).sum()), "twice_or_more": int((judged_runs > 1).sum()), "most_runs": most}
    counts["elsewhere"] = int(elsewhere.sum())
    for code, name in enumerate(services):
        of_service = service == code
        if of_service.any():
            counts[f"twice_or_more.{name}"] = int((runs[of_service] > 1).sum())
            counts[f"runs_per_event.{name}"] = float(runs[of_service].mean())
            counts[f"elsewhere.{name}"] = int(elsewhere[of_service].sum())
    sure = counts["never"] - int((in_doubt & (judged_runs == 0)).sum())
    metrics: dict[str, float | Bounds] = {
        "handled_twice": float(counts["twice_or_more"]) if books.heard[mine].any() else math.nan,
        "handled_never": between(sure, counts["never"], WHY) if len(mine) else math.nan,
        "handled_elsewhere": float(counts["elsewhere"]) if books.heard[mine].any() else math.nan,
    }
    suspects = judged[judged_runs > 1] if most > 1 else judged[judged_runs == 0]
    events = run.publishes["event"].to_numpy()
    witnesses = [
        event_id(int(events[publish[one]])) + ("" if of_all else f" in {services[service[one]]}") for one in suspects[:MAX_WITNESSES]
    ]
    broken = recipe in PROMISE_ONCE and counts["twice_or_more"] > 0
    detail = _sentence(recipe, counts, of_all=of_all)
    return Result("invalid" if broken else "valid", detail, counts=counts, witnesses=witnesses, metrics=metrics)


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
