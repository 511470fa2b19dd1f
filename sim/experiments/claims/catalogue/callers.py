"""Claims on the caller: fire and forget never blocks it, and the bus made requests faster than HTTP was."""

from __future__ import annotations

from collections.abc import Mapping

from sim.experiments.claims.claim import EMBEDDED, Claim, Evidence, Finding, Trial
from sim.machine.words import agreeing, amount, count, duration

BLOCKED_MS = 50.0  # a call that takes longer waited for something; a busy machine alone has been seen to take 20
FASTER = 1.5  # the median call must be so many times shorter on the bus
BUS, HTTP = "analytics.events.batch", "http.events.batch"
# each fault for a while, one after another
FREEZE_THEN_STOP = (
    "faults=[{kind='broker_slow',at_s=0.5,for_s=1,every_ms=500,stall_ms=200},{kind='broker_freeze',at_s=2,for_s=1},"
    "{kind='subscribers_cut',at_s=3.5,for_s=0.5},{kind='publishers_cut',at_s=4.5,for_s=0.5},{kind='broker_down',at_s=5.5,for_s=1}]"
)


def _never_blocks(evidence: Mapping[str, Evidence]) -> Finding:
    one = evidence["faults"]
    counts, ledger = one.counts("callers"), one.counts("ledger")
    inside = {key.removeprefix("took_us.in.").removesuffix(".p999"): value / 1e3 for key, value in counts.items() if _in_a_fault(key)}
    worst = max(inside, key=lambda fault: inside[fault])
    raised = (one.run.info.load.calls or 0) - len(one.run.calls)  # a call that returns is recorded, whatever it returns
    detail = (
        f"of {count(counts['calls'], 'call')} {amount(raised)} raised and "
        f"{count(counts['failed'], 'was', 'were')} refused; p99.9 in the worst fault, {worst}, "
    )
    detail += (
        f"{duration(inside[worst] / 1e3)}; nobody told the caller that {amount(ledger['missing'])} of "
        f"{count(ledger['expected'], 'copy')} {agreeing(ledger['missing'], 'was', 'were')} lost"
    )
    cases: dict[str, bool | None] = {f"in {fault}": took_ms <= BLOCKED_MS and not raised for fault, took_ms in inside.items()}
    return Finding(cases, inside[worst], "ms, p99.9 of a call in the worst fault", detail, {f"p999_ms_{k}": v for k, v in inside.items()})


def _in_a_fault(key: str) -> bool:
    return key.startswith("took_us.in.") and key.endswith(".p999")


def _faster(evidence: Mapping[str, Evidence]) -> Finding:
    counts = evidence["both"].counts("callers")
    bus, http = (counts[f"took_us.channel.{word}.p50"] / 1e3 for word in (BUS, HTTP))
    waited = evidence["both"].counts("batching")["wait_ms.mean"]
    detail = f"the caller waits {duration(http / 1e3)} for a POST in the median and {duration(bus / 1e3)} for the bus; in turn an item "
    detail += f"waits {duration(waited / 1e3)} in its batch on average, at an interval of 500 ms"
    cases: dict[str, bool | None] = {"for the caller of one item": bus * FASTER < http}
    return Finding(cases, http - bus, "ms saved by each call, median", detail, {"bus_ms": bus, "http_ms": http, "wait_ms": waited})


FIRE_AND_FORGET = Claim(
    words="Fire and forget never blocks or throws",
    where="Fire-and-Forget Pattern",
    theory="true for the caller, who is not told of a loss either",
    expects="true",
    trials=(Trial("faults", "broker_freeze", ("load.run_s=8", "load.rate_per_s=200", FREEZE_THEN_STOP), on=EMBEDDED, needs="server"),),
    rule=_never_blocks,
    false_if="a call raises, or one of a thousand takes over 50 ms, in every fault",
)
HTTP_TO_BUS = Claim(
    words="Moving analytics from HTTP to the bus made requests faster",
    where="Migration Notes",
    theory="true for the caller; the item itself comes later",
    expects="true",
    trials=(Trial("both", "http_vs_bus", ("load.run_s=4",), on=EMBEDDED, needs="server"),),
    rule=_faster,
    false_if="the median call of the bus is not 1.5 times shorter than the POST",
)
