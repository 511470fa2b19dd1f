"""Claims on handling an event once: the reference's lock, the same lock without the deletion, and whom the lock's key lets handle it."""

from __future__ import annotations

from collections.abc import Mapping

from sim.experiments.claims.claim import Claim, Evidence, Finding, Trial
from sim.machine.words import agreeing, amount, count

LAB = ("load.run_s=4",)
DIES = "faults=[{kind='pod_kill',at_s=1,for_s=1,pods=['music-service-0']}]"
SITUATIONS = {
    "short": "with a handler of 0.5 ms in pods that hear 0-5 ms apart",
    "long": "with a handler of 10 ms",
    "raises": "when the handler raises",
    "calm": "when nothing fails",
    "dies": "when the pod dies in the handler",
    "stays": "when the lock stays as a marker",
}
TWO = (*LAB, "services.ai-content-service.replicas=2", "services.ai-content-service.subscribes=['config.template.invalidated']")
TWO_LONG = (*TWO, "services.music-service.handler_ms=10", "services.ai-content-service.handler_ms=10")
ONE_SERVICE_SHARE = 0.99  # a pod that a busy machine makes late hears when the first one is done


def _once(evidence: Mapping[str, Evidence]) -> Finding:
    cases: dict[str, bool | None] = {}
    numbers: dict[str, float] = {}
    parts = []
    for name, one in evidence.items():
        counts = one.counts("once")
        pairs, twice, never = (int(counts[key]) for key in ("pairs", "twice_or_more", "never"))
        cases[SITUATIONS[name]] = twice == never == 0 if pairs else None
        numbers |= {f"twice_{name}": twice, f"never_{name}": never, f"events_{name}": pairs}
        parts.append(f"{SITUATIONS[name]} {amount(twice)} of {count(pairs, 'event')} ran more than once and {amount(never)} never")
    return Finding(cases, None, "", "; ".join(parts), numbers)


def _with_deletion(evidence: Mapping[str, Evidence]) -> Finding:
    found = _once(evidence)
    share = 100 * found.numbers["twice_short"] / found.numbers["events_short"]
    return Finding(found.cases, share, "% of events run more than once", found.detail, found.numbers)


def _without_deletion(evidence: Mapping[str, Evidence]) -> Finding:
    found = _once(evidence)
    lost = sum(found.numbers[f"never_{name}"] for name in ("raises", "dies"))
    return Finding(found.cases, lost, f"{agreeing(lost, 'event')} that nobody ran", found.detail, found.numbers)


FINALLY_DEL = Claim(
    words="SET NX EX with DEL in finally processes an event exactly once",
    where="Preventing Duplicate Processing",
    theory="false when pods hear further apart than the handler takes; nobody runs it when the holder raises",
    expects="depends",
    trials=(
        Trial("short", "lock_lab", LAB),
        Trial("long", "lock_lab", (*LAB, "services.music-service.handler_ms=10")),
        Trial("raises", "handler_error", ("bus.once=finally-del", "services.music-service.handler_ms=10")),
    ),
    rule=_with_deletion,
    false_if="an event runs more than once, or never, in each of the situations",
)
KEEP_MARKER = Claim(
    words="SET NX EX without the DEL processes an event exactly once",
    where="Preventing Duplicate Processing, without its finally",
    theory="at most once: a holder that fails or dies leaves the event to nobody",
    expects="depends",
    trials=(
        Trial("calm", "lock_lab", (*LAB, "bus.once=keep-marker")),
        Trial("raises", "handler_error", ("bus.once=keep-marker",)),
        Trial("dies", "lock_lab", (*LAB, "bus.once=keep-marker", "services.music-service.handler_ms=100", DIES)),
    ),
    rule=_without_deletion,
    false_if="an event runs more than once, or never, in each of the situations",
)


def _one_service(evidence: Mapping[str, Evidence]) -> Finding:
    """Ask of how many events that two services should have handled one of them never did, because the other had the lock.

    It is false where both handle every event, as with a lock for each service: then no pair is left to another service.
    """
    cases: dict[str, bool | None] = {}
    numbers: dict[str, float] = {}
    parts = []
    for name, one in evidence.items():
        counts = one.counts("once")
        events, left = int(counts["events"]), int(counts["elsewhere"])
        cases[SITUATIONS[name]] = left >= ONE_SERVICE_SHARE * events if events else None
        numbers |= {f"left_{name}": left, f"events_{name}": events}
        parts.append(f"{SITUATIONS[name]} {amount(left)} of {count(events, 'event')} for two services ran in one of them only")
    share = 100 * numbers["left_long"] / numbers["events_long"] if numbers["events_long"] else None
    return Finding(cases, share, "% of events for two services run by one of them only", "; ".join(parts), numbers)


ONE_OF_SEVERAL = Claim(
    words="The lock lets one service of several handle an event",
    where="Preventing Duplicate Processing: aiponge:locks:<eventId> names no service",
    theory="true while the first one has the lock, and for good where it stays; a service that hears later than that handles it too",
    expects="depends",
    trials=(
        Trial("short", "lock_lab", TWO),
        Trial("long", "lock_lab", TWO_LONG),
        Trial("stays", "lock_lab", (*TWO, "bus.once=keep-marker")),
    ),
    rule=_one_service,
    false_if="each service that hears an event runs it, in each of the situations",
)
