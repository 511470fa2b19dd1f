"""What a run showed, so that a search can tell whether it is new: its signature, a set of traits.

A trait is one of three kinds: how a copy went missing (its cause, whether its channel is batched, the faults that were on when it was sent,
and what its pod believed of its connections); how often a checker counted something, to a factor of four; and a step that a pod took from
one state of its fallback to another.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from sim.record.reader import FOREVER_NS, codes_of
from sim.results.checkers import Verdict
from sim.results.copies import CAUSE, FATE
from sim.results.opened_run import Run
from sim.results.outages import Belief, read_beliefs

NOBODY = Belief(np.zeros(0, dtype=np.int64), (), ())  # of a pod that is in no row
_TIMES = ("_ms", "_s.", "_s_", "_us", "ratio", "mean", "share", "per_s", "bytes")  # how long or how much, not how often


def signature(run: Run, verdict: Verdict) -> frozenset[str]:
    """Return the traits of a judged run."""
    return frozenset(_lost(run) | _counted(verdict) | _steps(read_beliefs(run)))


def _lost(run: Run) -> set[str]:
    copies, publishes, beliefs = run.copies, run.publishes, read_beliefs(run)
    words = {code: word for word, code in CAUSE.items()}
    missing = np.flatnonzero((copies.fate == FATE["missing"]) & (copies.publish >= 0))
    channel, channels = codes_of(publishes["channel"])
    batched = np.array([name in run.batched for name in channels], dtype=bool)
    sent_ns = publishes["sent_ns"].to_numpy()
    sent_ns = np.where(sent_ns > 0, sent_ns, publishes["intended_ns"].to_numpy())
    faults = [(str(row["fault"]), int(row["begin_ns"]), int(row["end_ns"]) or FOREVER_NS) for row in run.faults.to_dict("records")]
    on = np.zeros(len(sent_ns), dtype=np.int64)
    for place, (_, begin_ns, end_ns) in enumerate(faults[:62]):
        on |= ((sent_ns >= begin_ns) & (sent_ns <= end_ns)).astype(np.int64) << place
    names = [history.pod for history in run.pod_histories]
    traits = set()
    for row in missing.tolist():
        publish = int(copies.publish[row])
        belief = beliefs.get(names[int(copies.pod[row])], NOBODY).at(int(sent_ns[publish]))
        traits.add((words[int(copies.cause[row])], bool(batched[channel[publish]]), int(on[publish]), belief))
    return {
        f"{cause} of {'a batch' if of_batch else 'an event'} in {'+'.join(sorted(_named(faults, bits))) or 'calm'}, {belief}"
        for cause, of_batch, bits, belief in traits
    }


def _named(faults: list[tuple[str, int, int]], bits: int) -> set[str]:
    return {name for place, (name, _, _) in enumerate(faults[:62]) if bits >> place & 1}


def _counted(verdict: Verdict) -> set[str]:
    traits = set()
    for checker, result in verdict.checkers.items():
        for key, value in result.counts.items():
            if checker != "harness" and value > 0 and math.isfinite(value) and not any(word in f"{key}." for word in _TIMES):
                traits.add(f"{checker}.{key} {int(math.log(value, 4))}")
    return traits


def _steps(beliefs: dict[str, Belief]) -> set[str]:
    return {f"{one} > {other}" for belief in beliefs.values() for one, other in pairwise(belief.bus) if one != other}
