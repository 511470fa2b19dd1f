"""The claim that a handler which deletes is idempotent: what the pods of a run heard and read is played again, each event twice.

The play uses the bus's own `ConfigSubscriber`. Of each pod it takes what the run recorded, invalidations and reads in their order, and
plays it three times: as it was; with each event again at once; and with each event again `LATE_NS` later, when a redelivery would come.
Compared are the copies that each read served and the caches at the end. A late repetition may drop a copy that was loaded since: that
costs a load, and is no wrong answer as long as no read is served a copy from before an invalidation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from sim.bus.cache import PROVIDERS, TEMPLATES, ConfigSubscriber
from sim.bus.envelope import Event
from sim.experiments.claims.claim import Claim, Evidence, Finding, Trial
from sim.machine.words import agreeing, amount, count
from sim.results.opened_run import Run

LATE_NS = 1_000_000_000
FIELDS = {  # event type -> field of its data, what its recorded subject begins with
    "config.template.invalidated": ("templateId", TEMPLATES),
    "config.provider.invalidated": ("providerId", PROVIDERS),
    "config.cache.invalidate": ("pattern", ""),
}


class PodStep(NamedTuple):
    """One thing that happened in a pod: the subject of an invalidation of some type, or the key of a read (no type)."""

    at_ns: int
    kind: str
    subject: str


class Played(NamedTuple):
    """What a play came to: the copy that each read served, how many reads loaded one, the caches at the end, deletions of missing keys."""

    served: list[int]
    loads: int
    stale: int
    caches: list[tuple[str, int]]
    missing: int


def steps_of(run: Run) -> dict[str, list[PodStep]]:
    """Return what each pod that reads configuration heard and read, in the order of time."""
    told = run.publishes.set_index("event")[["channel", "subject"]]
    told = told[~told.index.duplicated()]
    heard = run.deliveries[run.deliveries["outcome"] == "handled"].join(told, on="event", how="inner")
    heard = heard[heard["subject"].astype(str) != ""]
    found: dict[str, list[PodStep]] = {str(pod): [] for pod in run.reads["pod"].unique()}
    for pod, at, kind, subject in heard[["pod", "handled_ns", "channel", "subject"]].itertuples(index=False, name=None):
        if pod in found:
            found[pod].append(PodStep(int(at), str(kind), str(subject)))
    for pod, at, subject in run.reads[["pod", "at_ns", "subject"]].itertuples(index=False, name=None):
        found[str(pod)].append(PodStep(int(at), "", str(subject)))
    return {pod: sorted(steps) for pod, steps in found.items()}


def play(steps: list[PodStep]) -> Played:
    """Play the steps to a new subscriber."""
    one = ConfigSubscriber()
    handlers, served, loads, stale, missing = one.handlers(), [], 0, 0, 0
    dropped_ns: dict[str, int] = {}
    for step in steps:
        if step.kind:
            field, prefix = FIELDS[step.kind]
            before = len(one.templates) + len(one.providers)
            handlers[step.kind](Event("", "", step.kind, "1.0", "", "", {field: step.subject.removeprefix(prefix)}))
            missing += len(one.templates) + len(one.providers) == before
            dropped_ns[step.subject] = step.at_ns
        else:
            loaded_ns, hit = one.read(step.subject, now_ns=step.at_ns)
            served.append(loaded_ns)
            loads += not hit
            stale += loaded_ns < dropped_ns.get(step.subject, 0)
    caches = [entry for cache in (one.templates, one.providers) for entry in cache.entries()]
    return Played(served, loads, stale, caches, missing)


def _late(steps: list[PodStep]) -> list[PodStep]:
    return sorted([*steps, *(step._replace(at_ns=step.at_ns + LATE_NS) for step in steps if step.kind)])


def _twice(steps: list[PodStep]) -> Iterator[PodStep]:
    for step in steps:
        yield step
        if step.kind:
            yield step


def _idempotent(evidence: Mapping[str, Evidence]) -> Finding:
    different = stale = extra = missing = repeated = reads = 0
    for steps in steps_of(evidence["updates"].run).values():
        plain, twice, late = play(steps), play(list(_twice(steps))), play(_late(steps))
        different += sum(a != b for a, b in zip(plain.served, twice.served, strict=True)) + (plain.caches != twice.caches)
        stale += max(late.stale - plain.stale, 0)
        extra += late.loads - plain.loads
        missing += twice.missing - plain.missing
        repeated += sum(bool(step.kind) for step in steps)
        reads += len(plain.served)
    detail = (
        f"{count(repeated, 'invalidation')} repeated at once, {amount(missing)} of them of a key that was not there: of "
        f"{count(reads, 'read')} and the caches {count(different, 'differs', 'differ')}; "
    )
    detail += f"repeated a second later they cost {count(extra, 'load')} more and serve {count(stale, 'old copy', 'old copies')}"
    cases = {"repeated at once": different == 0 if repeated else None, "repeated a second later": stale == 0 if repeated else None}
    unit = agreeing(different, "read or cache that differs", "reads or caches that differ")
    return Finding(cases, different, unit, detail, {"repeated": repeated, "extra_loads": extra})


DELETE_AGAIN = Claim(
    words="Deleting a missing key makes handlers idempotent",
    where="Event Handler Idempotency",
    theory="true: dropping what is not there changes nothing",
    expects="true",
    trials=(Trial("updates", "cache_invalidation", ("load.reads_per_s=1000", "load.run_s=5", "load.warm_up_s=1")),),
    rule=_idempotent,
    false_if="a repeated invalidation changes what a read is served, or what a cache holds",
)
