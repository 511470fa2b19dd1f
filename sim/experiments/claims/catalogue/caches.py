"""Claims on invalidations: every pod's cache is fresh after one, and a Streams consumer group would do the same and keep events."""

from __future__ import annotations

from collections.abc import Mapping

from sim.experiments.claims.claim import Claim, Evidence, Finding, Trial
from sim.machine.words import agreeing, amount, count, duration, times

READS = "load.reads_per_s=1000"
AWAY = "faults=[{kind='broker_down',at_s=2,for_s=3}]"
CONFIG = ("config.template.invalidated", "config.provider.invalidated", "config.cache.invalidate")


def _fresh(evidence: Mapping[str, Evidence]) -> Finding:
    calm, gap = (evidence[name].counts("staleness") for name in ("calm", "gap"))
    worst_s = gap.get("stale_ms.max", 0.0) / 1e3
    detail = f"with every pod subscribed {_of_reads(calm)} stale, and no pod misses an update; with Redis "
    detail += f"away for 3 s {_of_reads(gap)}, {duration(worst_s)} at most, and "
    detail += (
        f"{count(gap['never_heard_pods'], 'pod never hears: it', 'pods never hear: they')} still served "
        f"the old copy when the load ended, or until something "
    )
    detail += f"else cleared it ({times(int(gap['never_heard']))})"
    cases = {
        "while every pod is subscribed": calm["never_heard"] == 0 if calm["updates"] else None,
        "for a pod in a gap": gap["never_heard"] == 0 if gap["updates"] else None,
    }
    return Finding(cases, worst_s, "s, the oldest copy served after its update", detail, {"never_heard": gap["never_heard"]})


def _of_reads(counts: Mapping[str, float]) -> str:
    return f"{amount(counts['stale_reads'])} of {count(counts['reads'], 'read')} {agreeing(counts['stale_reads'], 'is', 'are')}"


def _drop_in(evidence: Mapping[str, Evidence]) -> Finding:
    reached = {name: _pods_reached(one) for name, one in evidence.items()}
    pods = int(evidence["streams"].counts("duplication")["pods.music-service"])
    stale = evidence["streams"].counts("staleness")
    detail = (
        f"an invalidation reaches {amount(reached['streams'])} of {count(pods, 'music pod')} by a consumer "
        f"group, {amount(reached['pubsub'])} by Pub/Sub; "
    )
    detail += f"{_of_reads(stale)} then stale, {evidence['pubsub'].counts('staleness')['stale_reads']:,} "
    detail += "by Pub/Sub"
    whole = reached["streams"] >= pods if reached["pubsub"] >= pods > 1 else None
    cases = {"for invalidations of caches": whole}
    unit = f"of {count(pods, 'pod')} {agreeing(reached['streams'], 'hears', 'hear')} an invalidation"
    return Finding(cases, reached["streams"], unit, detail, {"stale_reads": stale["stale_reads"]})


def _pods_reached(one: Evidence) -> float:
    """Return in how many music pods an invalidation of the run phase was handled, on average."""
    ledger = one.run.ledger()
    mine = ledger[(ledger["phase"] == "run") & (ledger["service"] == "music-service") & ledger["channel"].isin(CONFIG)]
    return float((mine["fate"] == "delivered").sum() / mine["event"].nunique())


FRESH = Claim(
    words="Every pod's cache is fresh after an invalidation",
    where="Config Invalidation Events",
    theory="pods in a gap stay stale until something else clears them",
    expects="depends",
    trials=(Trial("calm", "cache_invalidation", (READS,)), Trial("gap", "cache_invalidation", (READS, AWAY))),
    rule=_fresh,
)
STREAMS = Claim(
    words="A Streams consumer group is a drop-in that keeps events",
    where="not in the reference: the usual advice",
    theory="false: one pod of a group gets an event, so an invalidation reaches one replica",
    expects="false",
    trials=(
        Trial("streams", "streams_vs_pubsub", (READS,)),
        Trial("pubsub", "streams_vs_pubsub", (READS, "bus.transport=pubsub")),
    ),
    rule=_drop_in,
)
