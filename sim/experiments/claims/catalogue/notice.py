"""Claims on what a pod knows: that it falls back by itself, and that `connection_status` says whether it is connected."""

from __future__ import annotations

from collections.abc import Mapping

from sim.experiments.claims.claim import Claim, Evidence, Finding, Trial
from sim.machine.words import agreeing, amount, count, duration

GAP_S = 1.0  # a pod that calls itself connected for longer while it is blind is wrong about it

KILLED = Trial("killed", "restart_redis")
FROZEN = Trial("frozen", "broker_freeze")
BLACK_HOLE = Trial("black_hole", "link_blackhole")
SITUATIONS = {"killed": "when Redis is killed", "frozen": "when Redis stands still", "black_hole": "when the network swallows everything"}


def _fall_back(evidence: Mapping[str, Evidence]) -> Finding:
    cases: dict[str, bool | None] = {}
    numbers: dict[str, float] = {}
    parts = []
    for name, one in evidence.items():
        counts = one.counts("fallback")
        noticed, not_noticed = int(counts["noticed"]), int(counts["unnoticed"])
        touched = noticed + not_noticed
        cases[SITUATIONS[name]] = not_noticed == 0 and counts["published_inside"] > 0 if touched else None
        numbers |= {f"noticed_{name}": noticed, f"touched_{name}": touched}
        who = f"{amount(noticed)} of {count(touched, 'pod')} {agreeing(noticed, 'notices', 'notice')}"
        parts.append(f"{SITUATIONS[name]} {who} and {count(counts['published_inside'], 'event stays', 'events stay')} in their pod")
    verb = agreeing(numbers["noticed_frozen"], "falls", "fall")
    unit = f"of {count(numbers['touched_frozen'], 'pod')} {verb} back when Redis stands still"
    return Finding(cases, numbers["noticed_frozen"], unit, "; ".join(parts), numbers)


def _status(evidence: Mapping[str, Evidence]) -> Finding:
    cases: dict[str, bool | None] = {}
    numbers: dict[str, float] = {}
    parts = []
    for name, one in evidence.items():
        counts = one.counts("fallback")
        longest = float(counts["truth_gap_s.max"])
        touched = counts["noticed"] + counts["unnoticed"]
        cases[SITUATIONS[name]] = longest <= GAP_S if touched else None
        numbers |= {f"gap_s_{name}": longest, f"gap_pod_s_{name}": float(counts["truth_gap_s.sum"])}
        parts.append(f"{SITUATIONS[name]} a pod is blind and says 1 for {duration(longest)} at most")
    detail = "; ".join(parts) + f"; all pods together {duration(numbers['gap_pod_s_frozen'])} of green while Redis stood still for 3 s"
    return Finding(cases, numbers["gap_s_frozen"], "s of green while blind, at most", detail, numbers)


FALL_BACK = Claim(
    words="Services fall back to memory mode by themselves",
    where="Redis Cluster Failure, 2",
    theory="only if the client notices: not when Redis stands still with its connections open",
    expects="depends",
    trials=(KILLED, FROZEN),
    rule=_fall_back,
    false_if="a pod does not notice that Redis was killed either, or publishes nothing inside",
)
STATUS = Claim(
    words="connection_status 1 means connected",
    where="Available Metrics",
    theory="it stays 1 in freezes and black holes until somebody notices",
    expects="depends",
    trials=(KILLED, FROZEN, BLACK_HOLE),
    rule=_status,
    false_if="a pod calls itself connected for over a second while it is blind, also when Redis is killed",
)
