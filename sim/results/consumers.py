"""Measure how the handlers of each pod kept up: what was asked of them, how much waited, how long, and until when.

A pod is judged where its scenario says that handling takes time (`services.X.handler_ms`, `handler_cpu_ms`). Then it can handle so many
events a second: `concurrency` of them at a time, each as long as its whole time, and no more than its core does.

- **utilisation**: what came (events of the run phase that the pod handled, or that were cut off or left unread because it was behind) over
  what it can handle in that time.
- **queue**: events that were sent and that the pod had not begun, at a time. One that was cut off is not among them.
- **wait**: from sent to the handler's start, so with the way through the broker.
- **drain**: from the end of the load until the pod had begun all that had been sent in it; infinite where it ended before.

Beside the mean wait stands that of an M/G/c queue where its conditions hold: random arrivals at one rate, single events, no fault, and
either one wait at a time or the core alone that limits. It is a check of the instrument as much as of the bus.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sim.record.reader import FOREVER_NS, Array, codes_of, take_rows
from sim.results.copies import CAUSE, FATE
from sim.results.handling import Handling, handling_of
from sim.results.opened_run import Run
from sim.results.pieces import Piece


@dataclass(frozen=True)
class PodLoad:
    """What one pod's handlers did in the run phase.

    Attributes
    ----------
    events
        How many it handled.
    per_s
        How many came a second.
    can_per_s
        How many it can handle a second.
    wait_mean_s, wait_p99_s
        From sent to begun.
    theory_s
        The mean wait of the M/G/c queue; NaN where its conditions do not hold.
    queue_max, queue_end
        Most events that waited at a time, and those that waited at the end of the load.
    drain_s
        How long those took; 0 where none waited, infinite where the run ended before.
    watched_s
        How long after the load the pod was last seen to begin an event; 0 where it was not.
    """

    pod: str
    service: str
    events: int
    per_s: float
    can_per_s: float
    wait_mean_s: float
    wait_p99_s: float
    theory_s: float
    queue_max: int
    queue_end: int
    drain_s: float
    watched_s: float

    @property
    def utilisation(self) -> float:
        """What was asked over what it can."""
        return self.per_s / self.can_per_s if self.can_per_s else float("inf")


def read_loads(run: Run) -> list[PodLoad]:
    """Return what the handlers of each pod did, of services whose handlers take time, in the order of the pods."""
    services = run.scenario.get("services", {})
    handlings = {name: handling for name, service in services.items() if (handling := handling_of(service)).takes_time}
    if not handlings or "run" not in run.phases:
        return []
    return [load for loads in run.pieces.each(lambda piece: _loads_of(run, piece, handlings)) for load in loads]


def _loads_of(run: Run, piece: Piece, handlings: Mapping[str, Handling]) -> list[PodLoad]:
    channel, words = codes_of(run.publishes["channel"])
    sent_ns = run.publishes["sent_ns"].to_numpy()
    found = []
    for number in piece.pods:
        history = run.pod_histories[number]
        if history.service not in handlings:
            continue
        own = piece.of_pod(number)
        in_run, cause = piece.in_run[own], piece.cause[own]
        mine = np.flatnonzero(in_run & ((cause == CAUSE["behind"]) | (piece.fate[own] == FATE["delivered"])))
        rows = piece.publish[own][mine]
        begun_ns = take_rows(piece.heard.handled_ns, piece.delivery[own][mine], none=FOREVER_NS)
        shares = {
            word: float(np.mean(channel[rows] == code)) for code, word in enumerate(words) if len(rows) and (channel[rows] == code).any()
        }
        found.append(
            _load_of(
                history.pod,
                history.service,
                handlings[history.service],
                shares=shares,
                sent_ns=sent_ns[rows],
                begun_ns=begun_ns,
                cut=int((in_run & (cause == CAUSE["cut"])).sum()),
                span=run.run_span,
                as_theory_wants=_as_theory_wants(run, shares) and not len(run.index.faults),
            )
        )
    return found


def _as_theory_wants(run: Run, channels: Mapping[str, float]) -> bool:
    load = run.scenario.get("load", {})
    single = not set(channels) & set(run.batched)
    return single and load.get("arrivals") == "poisson" and load.get("shape") == "steady" and not run.one_per_service


def _load_of(
    pod: str,
    service: str,
    handling: Handling,
    *,
    shares: Mapping[str, float],
    sent_ns: Array,
    begun_ns: Array,
    cut: int,
    span: tuple[int, int],
    as_theory_wants: bool,
) -> PodLoad:
    begin, end = span
    rate = (len(sent_ns) + cut) / (end - begin) * 1e9 if end > begin else 0.0
    can = handling.can_per_s(shares) if shares else float("inf")
    handled = begun_ns < FOREVER_NS
    waits = (begun_ns - sent_ns)[handled] / 1e9
    longest, at_end = _queue(sent_ns, begun_ns, end)
    theory = handling.theory_s(shares, rate) if as_theory_wants and shares else float("nan")
    watched = max(0.0, float(begun_ns[handled].max(initial=end) - end) / 1e9)
    drain = 0.0 if not at_end else watched if handled.all() else math.inf
    mean, p99 = (float(waits.mean()), float(np.quantile(waits, 0.99, method="higher"))) if len(waits) else (float("nan"),) * 2
    return PodLoad(pod, service, int(handled.sum()), rate, can, mean, p99, theory, longest, at_end, drain, watched)


def _queue(sent_ns: Array, begun_ns: Array, end_ns: int) -> tuple[int, int]:
    """Return the most events that had been sent and not begun at a time, and those at the end of the load."""
    if not len(sent_ns):
        return 0, 0
    times = np.concatenate([begun_ns, sent_ns])
    steps = np.repeat([-1, 1], len(sent_ns))
    order = np.lexsort((steps, times))  # what begins at a moment has left before the next comes
    return int(np.cumsum(steps[order]).max(initial=0)), int((sent_ns <= end_ns).sum() - (begun_ns <= end_ns).sum())
