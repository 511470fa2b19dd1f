"""Claims on batching: that batch sizes are what to review for lag, and that the defaults (100 items, 30 s) are good.

Five pods record items at a low, a middle and a high rate; with the default settings, with half the size, with half the interval.
"""

from __future__ import annotations

from collections.abc import Mapping

from sim.experiments.claims.claim import Claim, Evidence, Finding, Trial
from sim.machine.words import count, duration

MATTERS = 0.8  # a setting matters when halving it leaves this share of the wait, or less
FRESH_S = 5.0  # an item of analytics that comes later than this is stale: an SRE looking at a dashboard in an incident
PODS = 5
RATES = {"low": 1, "middle": 10, "high": 90}  # items/s of each pod
SECONDS = {"low": 300, "middle": 120, "high": 30}


def _at(rate: str, *settings: str) -> tuple[str, ...]:
    calls_per_s = RATES[rate] * PODS / 0.9  # nine of ten calls are items
    load = (f"load.rate_per_s={calls_per_s:.4g}", f"load.run_s={SECONDS[rate]}", "bus.batch_size=100", "bus.batch_interval_ms=30000")
    return (*load, *settings)


LOW, HIGH = (Trial(rate, "graceful_shutdown", _at(rate)) for rate in ("low", "high"))


def _per_s(rate: int) -> str:
    return f"{count(rate, 'item')}/s"


def _review(evidence: Mapping[str, Evidence]) -> Finding:
    wait_s = {name: one.counts("batching")["wait_ms.mean"] / 1e3 for name, one in evidence.items()}
    cases: dict[str, bool | None] = {}
    parts = []
    for rate in ("low", "high"):
        size, interval = wait_s[f"{rate}_half_size"], wait_s[f"{rate}_half_interval"]
        part = f"at {_per_s(RATES[rate])} a pod an item waits {duration(wait_s[rate])} on average"
        parts.append(f"{part}, {duration(size)} with half the batch size, {duration(interval)} with half the interval")
        cases[f"at {_per_s(RATES[rate])} a pod"] = size <= MATTERS * wait_s[rate]
    ratio = wait_s["low_half_size"] / wait_s["low"]
    return Finding(cases, ratio, "times the wait at 1 item/s, with half the batch size", "; ".join(parts), wait_s)


def _defaults(evidence: Mapping[str, Evidence]) -> Finding:
    cases: dict[str, bool | None] = {}
    numbers: dict[str, float] = {}
    parts = []
    for rate, per_s in RATES.items():
        counts = evidence[rate].counts("batching")
        age_s, at_risk = counts["age_ms.p99"] / 1e3, int(counts["at_risk.max"])
        cases[f"at {_per_s(per_s)} a pod"] = age_s <= FRESH_S
        numbers |= {f"age_s_p99_{rate}": age_s, f"wait_s_mean_{rate}": counts["wait_ms.mean"] / 1e3, f"at_risk_{rate}": at_risk}
        die = count(at_risk, "item dies", "items die")
        parts.append(f"at {_per_s(per_s)} a pod the oldest item of a batch is {duration(age_s)} old and {die} with a pod")
    quick = evidence["quick"].counts("batching")
    more_per_s = quick["batches_per_s"] - evidence["low"].counts("batching")["batches_per_s"]
    detail = "; ".join(parts) + f"; an interval of 1 s makes it {duration(quick['age_ms.p99'] / 1e3)} at 1 item/s, for "
    detail += f"{count(more_per_s, 'publish')}/s more of all {PODS} pods"
    return Finding(cases, numbers["age_s_p99_low"], "s, age of the oldest item at 1 item/s", detail, numbers)


BATCH_SIZE = Claim(
    words="Review batch sizes in the publishers to cut the lag",
    where="Operational Runbook, Event Delivery Lag, 3",
    theory="the interval rules at low rates, the size at high ones",
    expects="depends",
    trials=tuple(
        Trial(f"{rate}{name}", "graceful_shutdown", _at(rate, *settings))
        for rate in ("low", "high")
        for name, settings in (("", ()), ("_half_size", ("bus.batch_size=50",)), ("_half_interval", ("bus.batch_interval_ms=15000",)))
    ),
    rule=_review,
    false_if="halving the size leaves over 0.8 of the wait at a high rate as well",
)
DEFAULTS = Claim(
    words="The defaults of 100 items and 30,000 ms are good: an item is seen within 5 s",
    where="Configuration Reference; the 5 s are ours, as the reference names no goal",
    theory="only where a pod fills a batch within the goal: over 100 / 5 = 20 items/s; else the interval is the age",
    expects="depends",
    trials=(
        LOW,
        Trial("middle", "graceful_shutdown", _at("middle")),
        HIGH,
        Trial("quick", "graceful_shutdown", _at("low", "bus.batch_interval_ms=1000")),
    ),
    rule=_defaults,
    false_if="an item is over 5 s old at each of the three rates",
)
