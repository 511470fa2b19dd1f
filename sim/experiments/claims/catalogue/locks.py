"""Claims on handling an event once: the reference's lock, and the same lock without the deletion."""

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
}


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
