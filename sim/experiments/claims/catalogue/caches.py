"""Claims on invalidations: every pod's cache is fresh after one, and a Streams consumer group would do the same and keep events."""

from __future__ import annotations

from collections.abc import Mapping

from sim.experiments.claims.claim import Claim, Evidence, Finding, Trial
from sim.machine.words import agreeing, amount, count, duration, times

READS = "load.reads_per_s=1000"
AWAY = "faults=[{kind='broker_down',at_s=2,for_s=3}]"
CUT = "faults=[{kind='subscribers_cut',at_s=2,for_s=2}]"
KEPT = {"cut": "while every subscriber is cut off", "away": "while Redis is away"}
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


def unheard(one: Evidence) -> tuple[int, int]:
    """Return how many pairs of an event of the run phase and a service that hears it no pod of the service handled, and of how many."""
    ledger = one.run.ledger()
    mine = ledger[ledger["phase"] == "run"]
    heard = (mine["fate"] == "delivered").groupby([mine["event"], mine["service"]], observed=True).any()
    return int((~heard).sum()), len(heard)


def _drop_in(evidence: Mapping[str, Evidence]) -> Finding:
    reached = {name: _pods_reached(evidence[name]) for name in ("streams", "pubsub")}
    pods = int(evidence["streams"].counts("duplication")["pods.music-service"])
    stale = evidence["streams"].counts("staleness")
    detail = (
        f"an invalidation reaches {amount(reached['streams'])} of {count(pods, 'music pod')} by a consumer "
        f"group, {amount(reached['pubsub'])} by Pub/Sub; "
    )
    detail += f"{_of_reads(stale)} then stale, {evidence['pubsub'].counts('staleness')['stale_reads']:,} "
    detail += "by Pub/Sub"
    cases: dict[str, bool | None] = {
        "as a drop-in, for invalidations of caches": reached["streams"] >= pods if reached["pubsub"] >= pods > 1 else None
    }
    numbers: dict[str, float] = {"stale_reads": stale["stale_reads"]}
    for name, words in KEPT.items():
        (lost, of), (by_pubsub, _) = (unheard(evidence[f"{name}{bus}"]) for bus in ("", "_pubsub"))
        cases[f"as one that keeps events, {words}"] = lost == 0 if by_pubsub else None  # where Pub/Sub loses none there is nothing to keep
        numbers |= {f"unheard_{name}": lost, f"unheard_{name}_pubsub": by_pubsub, f"events_{name}": of}
        lose = agreeing(lost, "is", "are")
        detail += f"; {words} {amount(lost)} of {count(of, 'event')} {lose} handled by no pod of a service, {amount(by_pubsub)} by Pub/Sub"
    unit = f"of {count(pods, 'pod')} {agreeing(reached['streams'], 'hears', 'hear')} an invalidation"
    return Finding(cases, reached["streams"], unit, detail, numbers)


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
    false_if="a pod that is subscribed all the time still serves an old copy when the load ends",
)
STREAMS = Claim(
    words="A Streams consumer group is a drop-in that keeps events",
    where="not in the reference: the usual advice",
    theory="no drop-in: one pod of a group gets an event, so an invalidation reaches one replica; it keeps what its readers miss, "
    "and not what its publishers cannot send",
    expects="depends",
    trials=(
        Trial("streams", "streams_vs_pubsub", (READS,)),
        Trial("pubsub", "streams_vs_pubsub", (READS, "bus.transport=pubsub")),
        *(
            Trial(f"{name}{bus}", "streams_vs_pubsub", (faults, *settings))
            for name, faults in (("cut", CUT), ("away", AWAY))
            for bus, settings in (("", ()), ("_pubsub", ("bus.transport=pubsub",)))
        ),
    ),
    rule=_drop_in,
    false_if="an invalidation reaches fewer pods than by Pub/Sub, and events are lost while subscribers or Redis are away, as by Pub/Sub",
)
