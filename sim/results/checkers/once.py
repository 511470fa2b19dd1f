"""Count how often each service really ran an event, where the bus has a recipe for handling it once.

A *run* is a handler that returned. For each event and service that should have heard it, runs are counted over the service's pods:
once as wanted, never (every pod skipped, failed or did not hear, or none was alive), or more than once. Only the `run` phase is judged.

What a recipe promises decides the verdict: `keep-marker` and `two-key` promise never more than once while no lock's TTL runs out, so
one such event is invalid. `finally-del`, the reference's snippet, and `token-del` promise nothing of the kind: their counts are
reported, and a limit on `handled_twice` or `handled_never` judges them. Without a recipe every pod handles every event.
"""

from __future__ import annotations

import math

import numpy as np

from sim.machine.words import count, times
from sim.record.reader import Array, codes_in
from sim.record.schema import event_id
from sim.results.checkers.verdict import MAX_WITNESSES, Bounds, Result, between
from sim.results.copies import FATE
from sim.results.opened_run import Run

WHY = "whether events that no pod ran had been published"
PROMISE_ONCE = ("keep-marker", "two-key")


def check(run: Run) -> Result:
    """Count events per service that were run never, once and more than once."""
    recipe = str(run.scenario.get("bus", {}).get("once", "none"))
    nothing: dict[str, float | Bounds] = dict.fromkeys(("handled_twice", "handled_never"), math.nan)
    if recipe == "none":
        return Result("valid", "the bus has no recipe for handling once: every pod that hears an event handles it", metrics=nothing)
    if not (run.publishes["phase"] == "run").any():
        return Result("unknown", "no data: nothing was published in the run phase", metrics=nothing)
    books, services = run.service_books, run.services
    mine = np.flatnonzero((run.publishes["phase"] == "run").to_numpy()[books.publish])
    runs = _runs(run)[mine]
    service, in_doubt = books.service[mine], books.in_doubt[mine]
    most = int(runs.max(initial=0))
    counts: dict[str, int | float] = {"pairs": len(mine), "never": int((runs == 0).sum()), "once": int((runs == 1).sum())}
    counts |= {"twice_or_more": int((runs > 1).sum()), "most_runs": most}
    for code, name in enumerate(services):
        of_service = runs[service == code]
        if len(of_service):
            counts[f"twice_or_more.{name}"] = int((of_service > 1).sum())
            counts[f"runs_per_event.{name}"] = float(of_service.mean())
    metrics: dict[str, float | Bounds] = {
        "handled_twice": float(counts["twice_or_more"]) if books.heard[mine].any() else math.nan,
        "handled_never": between(counts["never"] - int((in_doubt & (runs == 0)).sum()), counts["never"], WHY) if len(mine) else math.nan,
    }
    never, once, more = (f"{counts[name]:,}" for name in ("never", "once", "twice_or_more"))
    detail = f"{recipe}: of {count(len(mine), '(event, service) pair')} {once} ran once, {more} more than once"
    detail += (f" (at most {times(most)})" if most > 1 else "") + f", {never} never"
    suspects = mine[runs > 1] if (runs > 1).any() else mine[runs == 0]
    events = run.publishes["event"].to_numpy()
    named = [(books.publish[one], books.service[one]) for one in suspects[:MAX_WITNESSES]]
    witnesses = [f"{event_id(int(events[row]))} in {services[code]}" for row, code in named]
    broken = recipe in PROMISE_ONCE and counts["twice_or_more"] > 0
    return Result("invalid" if broken else "valid", detail, counts=counts, witnesses=witnesses, metrics=metrics)


def _runs(run: Run) -> Array:
    """Return how often pods of its service ran each event of the service books."""
    copies, books = run.copies, run.service_books
    ran = (copies.publish >= 0) & (copies.fate != FATE["unexpected"]) & (copies.delivery >= 0)
    ran[ran] = codes_in(run.deliveries["outcome"], {"handled": 1})[copies.delivery[ran]] == 1
    publish, service = copies.publish[ran], run.service_of_pod[copies.pod[ran]]
    runs = np.zeros(len(books.publish), dtype=np.int64)
    for code in range(len(run.services)):
        mine = books.service == code
        runs[mine] = np.bincount(publish[service == code], minlength=len(run.publishes))[books.publish[mine]]
    return runs
