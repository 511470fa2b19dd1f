"""The claim on memory mode: events go on within the pod, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping

from sim.experiments.claims.claim import Claim, Evidence, Finding, Trial
from sim.machine.words import agreeing, amount, count


def _within_the_pod(evidence: Mapping[str, Evidence]) -> Finding:
    one = evidence["alone"]
    ledger = one.run.ledger()
    ledger = ledger[ledger["phase"] == "run"]
    heard = ledger["fate"] == "delivered"
    own = ledger["pod"].astype(str) == ledger["publisher"].astype(str)
    here, there = int((heard & own).sum()), int((heard & ~own).sum())
    inside = one.counts("fallback")["published_inside"]
    nobody = int(inside) - int(one.counts("fallback")["heard_only_here"])
    detail = f"{amount(here)} of {count(int(own.sum()), 'copy')} for the publishing pod itself {agreeing(here, 'arrives', 'arrive')}, and "
    detail += (
        f"{amount(there)} of {amount(int((~own).sum()))} for other pods; {amount(nobody)} of {count(inside, 'event')} that counted as "
    )
    detail += f"published {agreeing(nobody, 'was', 'were')} heard by nobody"
    cases = {"without Redis": here == own.sum() and there == 0 if own.any() and (~own).any() else None}
    share = 100 * nobody / inside if inside else 0.0
    return Finding(cases, share, "% of published events heard by nobody", detail, {"own": here, "others": there})


MEMORY_MODE = Claim(
    words="In memory mode events go on within the same pod, and only there",
    where="Memory Fallback Mode, limitations",
    theory="true; published_total rises all the same",
    expects="true",
    trials=(Trial("alone", "memory_mode"),),
    rule=_within_the_pod,
    false_if="copies reach other pods, or the publishing pod misses its own",
)
