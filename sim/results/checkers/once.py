"""Count how often each service really ran an event, where the bus has a recipe for handling it once.

A *run* is a handler that returned. For each event and service that should have heard it, runs are counted over the service's pods:
once as wanted, never (every pod skipped, failed or did not hear), or more than once. Only the `run` phase is judged.

What a recipe promises decides the verdict: `keep-marker` and `two-key` promise never more than once while no lock's TTL runs out, so
one such event is invalid. `finally-del`, the reference's snippet, and `token-del` promise nothing of the kind: their counts are
reported, and a limit on `handled_twice` or `handled_never` judges them. Without a recipe every pod handles every event.
"""

from __future__ import annotations

import numpy as np

from sim.machine.words import count, times
from sim.record.reader import codes_in
from sim.record.schema import event_id
from sim.results.checkers.verdict import MAX_WITNESSES, Result
from sim.results.copies import FATE
from sim.results.opened_run import Run

PROMISE_ONCE = ("keep-marker", "two-key")


def check(run: Run) -> Result:
    """Count events per service that were run never, once and more than once."""
    recipe = str(run.scenario.get("bus", {}).get("once", "none"))
    if recipe == "none":
        nothing = {"handled_twice": float("nan"), "handled_never": float("nan")}
        return Result("valid", "the bus has no recipe for handling once: every pod that hears an event handles it", metrics=nothing)
    if not (run.publishes["phase"] == "run").any():
        return Result("unknown", "no data: nothing was published in the run phase")
    copies, pod_histories = run.copies, run.pod_histories
    services = sorted({history.service for history in pod_histories if history.channels})
    number = np.array([services.index(history.service) if history.channels else -1 for history in pod_histories])
    judged = (run.copies_phase() == list(run.phases).index("run")) & (copies.publish >= 0) & (copies.fate != FATE["unexpected"])
    pair = copies.publish.astype(np.int64) * len(services) + number[copies.pod]
    ran = judged & (copies.delivery >= 0)
    ran[ran] = codes_in(run.deliveries["outcome"], {"handled": 1})[copies.delivery[ran]] == 1
    pairs, place = np.unique(pair[judged], return_inverse=True)
    runs = np.bincount(place[ran[judged]], minlength=len(pairs))
    most = int(runs.max(initial=0))
    counts: dict[str, int | float] = {"pairs": len(pairs), "never": int((runs == 0).sum()), "once": int((runs == 1).sum())}
    counts |= {"twice_or_more": int((runs > 1).sum()), "most_runs": most}
    for code, name in enumerate(services):
        of_service = runs[pairs % len(services) == code]
        if len(of_service):
            counts[f"twice_or_more.{name}"] = int((of_service > 1).sum())
            counts[f"runs_per_event.{name}"] = float(of_service.mean())
    metrics = {"handled_twice": float(counts["twice_or_more"]), "handled_never": float(counts["never"])}
    never, once, more = (f"{counts[name]:,}" for name in ("never", "once", "twice_or_more"))
    detail = f"{recipe}: of {count(len(pairs), '(event, service) pair')} {once} ran once, {more} more than once"
    detail += (f" (at most {times(most)})" if most > 1 else "") + f", {never} never"
    suspects = pairs[runs > 1] if (runs > 1).any() else pairs[runs == 0]
    events = run.publishes["event"].to_numpy()
    witnesses = [f"{event_id(int(events[one // len(services)]))} in {services[one % len(services)]}" for one in suspects[:MAX_WITNESSES]]
    broken = recipe in PROMISE_ONCE and counts["twice_or_more"] > 0
    return Result("invalid" if broken else "valid", detail, counts=counts, witnesses=witnesses, metrics=metrics)
