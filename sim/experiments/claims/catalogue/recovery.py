"""Claims on coming back: the client reconnects by itself, and pods must be restarted after an outage."""

from __future__ import annotations

from collections.abc import Mapping

from sim.experiments.claims.claim import Claim, Evidence, Finding, Trial
from sim.machine.words import agreeing, amount, count, duration
from sim.results.outages import read_beliefs, read_outages

KILLED = Trial("killed", "restart_redis")
STAMPEDE = Trial("stampede", "reconnect_stampede")
SITUATIONS = {"killed": "after Redis was killed", "stampede": "after every pod lost its connections at once"}
REATTACHES = {"automatic": "a client that always re-attaches", "once": "a client that re-attaches only if it was connected before"}
PODS = {"up": "for a pod that was up", "started": "for a pod that started in the outage"}


def _reconnects(evidence: Mapping[str, Evidence]) -> Finding:
    cases: dict[str, bool | None] = {}
    numbers: dict[str, float] = {}
    parts = []
    for name, one in evidence.items():
        counts = one.counts("fallback")
        noticed, away = int(counts["noticed"]), int(counts["unrecovered"])
        numbers |= {f"recover_s_{name}": float(counts.get("recover_s.max", 0.0)), f"lost_{name}": one.lost_unheard}
        inside = int(one.counts("ledger").get("sent-in-memory-mode", 0))
        cases[SITUATIONS[name]] = away == 0 if noticed else None
        back = duration(numbers[f"recover_s_{name}"])
        parts.append(
            f"{SITUATIONS[name]} pods come back {amount(noticed - away)} of {count(noticed, 'time')}, {back} after its end at most; "
            f"{count(inside, 'copy')} stayed in their publisher meanwhile and {amount(numbers[f'lost_{name}'])} met the deaf"
        )
    return Finding(cases, numbers["recover_s_killed"], "s from Redis' return to the last pod's", "; ".join(parts), numbers)


def _restart(evidence: Mapping[str, Evidence]) -> Finding:
    cases: dict[str, bool | None] = {}
    numbers: dict[str, float] = {}
    parts = []
    for name, one in evidence.items():
        started = frozenset[str]().union(*(outage.pods for outage in read_outages(one.run)))
        end_ns = one.run.phases["run"][1]
        ends = {pod: belief.at(end_ns) for pod, belief in read_beliefs(one.run).items()}
        for kind, pods in (("up", ends.keys() - started), ("started", ends.keys() & started)):
            away = sum(ends[pod] != "connected" for pod in pods)
            cases[f"{PODS[kind]} with {REATTACHES[name]}"] = away > 0 if pods else None
            numbers |= {f"away_{kind}_{name}": away, f"pods_{kind}_{name}": len(pods)}
            parts.append(f"{PODS[kind]} with {REATTACHES[name]}: {amount(away)} of {amount(len(pods))} still away 6 s after Redis is back")
    stay = agreeing(numbers["away_started_once"], "stays", "stay")
    unit = f"of {count(numbers['pods_started_once'], 'pod')} that started in the outage {stay} away"
    return Finding(cases, numbers["away_started_once"], unit, "; ".join(parts), numbers)


RECONNECTS = Claim(
    words="The Redis client reconnects by itself",
    where="Connection Recovery",
    theory="true; what was sent meanwhile is gone",
    expects="true",
    trials=(KILLED, STAMPEDE),
    rule=_reconnects,
)
RESTART = Claim(
    words="Pods must be restarted after Redis has recovered",
    where="Redis Cluster Failure, 3",
    theory="not those that were up; those that started in the outage, where the client does not re-attach",
    expects="depends",
    trials=(
        Trial("automatic", "pod_start_in_outage"),
        Trial("once", "pod_start_in_outage", ("bus.reattach=if-connected-once",)),
    ),
    rule=_restart,
)
