"""Claims about the bus, most of them the reference's, each with an experiment that decides.

A member is a file with one `Claim` or a few that share their runs: its words, where it stands, what theory expects, the trials to run,
and a rule that turns the opened runs into a finding (`sim.experiments.claims.claim`). The verdict follows from what the rule measured. A
rule reads run folders and nothing else, so an old run can be judged again.

To add one: write a `Claim` in ``sim/experiments/claims/catalogue/<what it is about>.py`` and list it in `CLAIMS` under the next number.
"""

from __future__ import annotations

from sim.experiments.claims.catalogue import (  # fmt: skip
    backlog,
    batches,
    caches,
    callers,
    clusters,
    copies,
    idempotence,
    load_tool,
    locks,
    memory,
    notice,
    order,
    recovery,
    scaling,
    shutdown,
)
from sim.experiments.claims.claim import Claim, Evidence, Finding, Trial, Word, find

__all__ = ["CLAIMS", "Claim", "Evidence", "Finding", "Trial", "Word", "find"]

CLAIMS: dict[str, Claim] = {
    "1": copies.ALL_PODS,
    "2": copies.AT_LEAST_ONCE,
    "3": copies.SEVERAL_TIMES,
    "4": idempotence.DELETE_AGAIN,
    "5": locks.FINALLY_DEL,
    "6": locks.KEEP_MARKER,
    "7": notice.FALL_BACK,
    "8": memory.MEMORY_MODE,
    "9": callers.FIRE_AND_FORGET,
    "10": recovery.RECONNECTS,
    "11": recovery.RESTART,
    "12": shutdown.FLUSHES,
    "13": notice.STATUS,
    "14": backlog.CHANNELS,
    "15": scaling.SCALE_ANALYTICS,
    "16": batches.BATCH_SIZE,
    "17": batches.DEFAULTS,
    "18": backlog.RECEIVED,
    "19": clusters.CLUSTER,
    "20": callers.HTTP_TO_BUS,
    "21": caches.FRESH,
    "22": caches.STREAMS,
    "23": order.ORDERED,
    "24": load_tool.LOAD_TOOL,
    "25": locks.ONE_OF_SEVERAL,
}
