"""Claims on handling an event once: the reference's lock, the same lock without the deletion, and whom the lock's key lets handle it.

What a recipe is worth shows when one pod of three raises. Where the others hear the event later than it raised, the recipes part: a lock
that was deleted lets each of them run it, one that stays lets none, and a marker that is set only by success lets one. Where the others
have skipped by then, no recipe brings the event back. And where a handler outlives its lock, the deletion takes away another pod's.
"""

from __future__ import annotations

from collections.abc import Mapping

from sim.experiments.claims.claim import Claim, Evidence, Finding, Trial
from sim.machine.words import agreeing, amount, count

LAB = ("load.run_s=4",)
DIES = "faults=[{kind='pod_kill',at_s=1,for_s=1,pods=['music-service-0']}]"
ONE_RAISES = (*LAB, "faults=[{kind='handler_error',at_s=0.1,for_s=3.8,pods=['music-service-0']}]")
APART = "services.music-service.skew_ms=50"  # a hundred times as long as the handler: each pod hears when the one before is done
LONG = "services.music-service.handler_ms=10"  # twice as long as pods hear apart: who does not have the lock has skipped
# A lock of 1 s, a handler of 1.5 s, pods up to 3 s apart: the second has the lock when the first deletes it, and the third comes
OUTLIVES = (
    *("load.run_s=8", "load.rate_per_s=40", "bus.once_ttl_s=1", "services.music-service.handler_ms=1500"),
    *("services.music-service.skew_ms=3000", "faults=[{kind='handler_error',at_s=0.1,for_s=7.8,pods=['music-service-0']}]"),
)
LATER = "when one of three pods raises and the others hear later"
WITH_DELETION = {
    "short": "with a handler of 0.5 ms in pods that hear 0-5 ms apart",
    "long": "with a handler of 10 ms",
    "raises_finally_del": LATER,
    "raises_long": "when one of three pods raises and the others have skipped",
    "outlives": "when a handler outlives its lock",
}
WITHOUT_DELETION = {"calm": "when nothing fails", "raises_keep_marker": LATER, "dies": "when the pod dies in the handler"}
ONE_SERVICE = {"short": WITH_DELETION["short"], "long": WITH_DELETION["long"], "stays": "when the lock stays as a marker"}
RECIPES = ("finally-del", "token-del", "keep-marker", "two-key")
TWO = (*LAB, "services.ai-content-service.replicas=2", "services.ai-content-service.subscribes=['config.template.invalidated']")
TWO_LONG = (*TWO, "services.music-service.handler_ms=10", "services.ai-content-service.handler_ms=10")
ONE_SERVICE_SHARE = 0.99  # a pod that a busy machine makes late hears when the first one is done


def _with(recipe: str, name: str, *settings: str) -> Trial:
    return Trial(name, "lock_lab", (*settings, f"bus.once={recipe}"))


RAISES = tuple(_with(recipe, f"raises_{recipe.replace('-', '_')}", *ONE_RAISES, APART) for recipe in RECIPES)
OTHERS = {trial.name: f"{recipe} {LATER}" for recipe, trial in zip(RECIPES, RAISES, strict=True)}
OTHERS |= {"outlives_token_del": f"token-del {WITH_DELETION['outlives']}"}


def _once(evidence: Mapping[str, Evidence], situations: Mapping[str, str]) -> Finding:
    """Judge each situation; the runs of other recipes decide nothing and are told beside."""
    cases: dict[str, bool | None] = {}
    numbers: dict[str, float] = {}
    parts, others = [], []
    for name, one in evidence.items():
        counts = one.counts("once")
        pairs, twice, never = (int(counts[key]) for key in ("pairs", "twice_or_more", "never"))
        numbers |= {f"twice_{name}": twice, f"never_{name}": never, f"events_{name}": pairs}
        told = f"{amount(twice)} of {count(pairs, 'event')} ran more than once and {amount(never)} never"
        if name in situations:
            cases[situations[name]] = twice == never == 0 if pairs else None
            parts.append(f"{situations[name]} {told}")
        else:
            others.append(f"with {OTHERS[name]}, {told}")
    return Finding(cases, None, "", "; ".join([*parts, *others]), numbers)


def _with_deletion(evidence: Mapping[str, Evidence]) -> Finding:
    found = _once(evidence, WITH_DELETION)
    share = 100 * found.numbers["twice_short"] / found.numbers["events_short"]
    return Finding(found.cases, share, "% of events run more than once", found.detail, found.numbers)


def _without_deletion(evidence: Mapping[str, Evidence]) -> Finding:
    found = _once(evidence, WITHOUT_DELETION)
    lost = sum(found.numbers[f"never_{name}"] for name in ("raises_keep_marker", "dies"))
    return Finding(found.cases, lost, f"{agreeing(lost, 'event')} that nobody ran", found.detail, found.numbers)


FINALLY_DEL = Claim(
    words="SET NX EX with DEL in finally processes an event exactly once",
    where="Preventing Duplicate Processing",
    theory="false when pods hear further apart than the handler takes: each runs it; and where they do not, nobody runs what its holder "
    "raised on",
    expects="depends",
    trials=(
        Trial("short", "lock_lab", LAB),
        Trial("long", "lock_lab", (*LAB, LONG)),
        _with("finally-del", "raises_long", *ONE_RAISES, LONG),
        _with("finally-del", "outlives", *OUTLIVES),
        *RAISES,
        _with("token-del", "outlives_token_del", *OUTLIVES),
    ),
    rule=_with_deletion,
    false_if="an event runs more than once, or never, in each of the situations, also with a long handler and no pod that raises",
)
KEEP_MARKER = Claim(
    words="SET NX EX without the DEL processes an event exactly once",
    where="Preventing Duplicate Processing, without its finally",
    theory="at most once: a holder that raises or dies leaves the event to nobody, though others hear it later",
    expects="depends",
    trials=(
        Trial("calm", "lock_lab", (*LAB, "bus.once=keep-marker")),
        Trial("dies", "lock_lab", (*LAB, "bus.once=keep-marker", "services.music-service.handler_ms=100", DIES)),
        *RAISES,
    ),
    rule=_without_deletion,
    false_if="an event runs more than once, or never, in each of the situations, also when nothing fails",
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
        cases[ONE_SERVICE[name]] = left >= ONE_SERVICE_SHARE * events if events else None
        numbers |= {f"left_{name}": left, f"events_{name}": events}
        parts.append(f"{ONE_SERVICE[name]} {amount(left)} of {count(events, 'event')} for two services ran in one of them only")
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
