"""Claims on coming back: the client reconnects by itself, and pods must be restarted after an outage.

Both are asked of three clients: the lab's own, on the model; the client that Locust's users publish with, on a real server; and redis-py as
it comes (`sim.experiments.claims.client_outage`), which no setting of the lab can make right or wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sim.experiments.claims.claim import CLIENT, EMBEDDED, Claim, Evidence, Finding, Trial
from sim.machine.words import agreeing, amount, count, duration
from sim.results.outages import read_beliefs, read_outages

KILLED = Trial("killed", "restart_redis")
STAMPEDE = Trial("stampede", "reconnect_stampede")
REAL = Trial("real", "restart_redis", on=EMBEDDED, needs="server")
LOCUST = Trial("locust", "restart_redis", ("load.driver=locust",), on=EMBEDDED, needs="server")
AWAY_S = {"redis_py_short": 1.0, "redis_py_long": 8.0}
OUTAGE = "sim.experiments.claims.client_outage"
REDIS_PY = tuple(
    Trial(name, "redis-py", on=EMBEDDED, needs="only", program=(OUTAGE, "--away", f"{away_s:g}"), about_s=away_s + 13.0)
    for name, away_s in AWAY_S.items()
)
SITUATIONS = {
    "killed": "for our pods after Redis was killed",
    "stampede": "for our pods after every one lost its connections at once",
    "real": "for our pods after a real server was killed",
}
LAST_NS = 2_000_000_000  # a publisher that is back publishes at the end of the load


def _redis_py(name: str) -> str:
    return f"for redis-py's subscriber with Redis away for {duration(AWAY_S[name])}"


def publishers_back(one: Evidence) -> tuple[int, int]:
    """Return how many of those that published before the first fault had a publish taken at the end of the load, and of how many."""
    run = one.run
    begin_ns, end_ns = min(outage.begin_ns for outage in read_outages(run)), run.phases["run"][1]
    told = run.publishes[(run.publishes["outcome"] == "acknowledged") & (run.publishes["phase"] != "probe")]
    before = set(told[told["sent_ns"] < begin_ns]["publisher"].astype(str))
    after = set(told[told["sent_ns"] >= end_ns - LAST_NS]["publisher"].astype(str))
    return len(before & after), len(before)


def _reconnects(evidence: Mapping[str, Evidence]) -> Finding:
    cases: dict[str, bool | None] = {}
    numbers: dict[str, float] = {}
    parts = []
    for name, words in SITUATIONS.items():
        one = evidence[name]
        counts = one.counts("fallback")
        noticed, away = int(counts["noticed"]), int(counts["unrecovered"])
        numbers |= {f"recover_s_{name}": float(counts.get("recover_s.max", 0.0)), f"lost_{name}": one.lost_unheard}
        inside = int(one.counts("ledger").get("sent-in-memory-mode", 0))
        cases[words] = away == 0 if noticed else None
        back = duration(numbers[f"recover_s_{name}"])
        parts.append(
            f"{words} {amount(noticed - away)} of {count(noticed, 'return')}, {back} after its end at most; "
            f"{count(inside, 'copy')} stayed in their publisher meanwhile and {amount(numbers[f'lost_{name}'])} met the deaf"
        )
    back_again, of = publishers_back(evidence["locust"])
    cases["for Locust's publishers after a real server was killed"] = back_again == of if of else None
    parts.append(f"{amount(back_again)} of {count(of, 'publisher')} of Locust's publish again")
    for name in AWAY_S:
        counts = evidence[name].counts(CLIENT)
        cases[_redis_py(name)] = bool(counts["hears"])
        numbers[f"hears_{name}"] = counts["hears"]
        parts.append(evidence[name].checkers[CLIENT].detail)
    numbers |= {"locust_back": back_again, "locust_of": of}
    return Finding(cases, numbers["recover_s_real"], "s from a real server's return to the last pod's", "; ".join(parts), numbers)


def _restart(evidence: Mapping[str, Evidence]) -> Finding:
    one = evidence["automatic"]
    cases: dict[str, bool | None] = {}
    numbers: dict[str, float] = {}
    parts = []
    started = frozenset[str]().union(*(outage.pods for outage in read_outages(one.run)))
    end_ns = one.run.phases["run"][1]
    ends = {pod: belief.at(end_ns) for pod, belief in read_beliefs(one.run).items()}
    for kind, words, pods in (("up", "was up", ends.keys() - started), ("started", "started in the outage", ends.keys() & started)):
        away = sum(ends[pod] != "connected" for pod in pods)
        cases[f"for a pod of ours that {words}"] = away > 0 if pods else None
        numbers |= {f"away_{kind}": away, f"pods_{kind}": len(pods)}
        parts.append(f"{amount(away)} of {count(len(pods), 'pod')} of ours that {words} {agreeing(away, 'is', 'are')} away 6 s after it")
    for name in AWAY_S:
        counts = evidence[name].counts(CLIENT)
        cases[_redis_py(name)] = not counts["hears"]
        parts.append(evidence[name].checkers[CLIENT].detail)
    ended = int(np.sum([not evidence[name].counts(CLIENT)["hears"] for name in AWAY_S]))
    unit = f"of {count(len(AWAY_S), 'subscriber')} of redis-py's {agreeing(ended, 'needs', 'need')} a restart"
    return Finding(cases, ended, unit, "; ".join(parts), numbers)


RECONNECTS = Claim(
    words="The Redis client reconnects by itself",
    where="Connection Recovery",
    theory="it depends on the client: ours tries for ever, redis-py's subscriber gives up after three tries and ends",
    expects="depends",
    trials=(KILLED, STAMPEDE, REAL, LOCUST, *REDIS_PY),
    rule=_reconnects,
    false_if="after Redis is back, a pod, a publisher of Locust's or redis-py's subscriber stays away, each of them in every situation",
)
RESTART = Claim(
    words="Pods must be restarted after Redis has recovered",
    where="Redis Cluster Failure, 3",
    theory="not ours; one whose client gave up, as redis-py's subscriber does after three tries, hears nothing more until it is",
    expects="depends",
    trials=(Trial("automatic", "pod_start_in_outage"), *REDIS_PY),
    rule=_restart,
    false_if="every pod of ours and every subscriber of redis-py's hears again by itself, however long Redis was away",
)
