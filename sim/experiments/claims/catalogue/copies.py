"""Claims on copies: who gets an event, whether a lost one comes again, and how often one is counted."""

from __future__ import annotations

from collections.abc import Mapping

from sim.experiments.claims.claim import CALM, Claim, Evidence, Finding, Trial
from sim.machine.words import agreeing, amount, count, times

CUT = Trial("cut", "subscribers_cut")


def _all_pods(evidence: Mapping[str, Evidence]) -> Finding:
    calm, cut = (evidence[name].counts("ledger") for name in ("calm", "cut"))
    share = cut["missing"] / cut["expected"]
    detail = f"with every pod subscribed {_of(calm, 'delivered', 'arrives', 'arrive')}; with subscriptions cut for 3 s "
    detail += f"{_of(cut, 'missing', 'does not', 'do not')} ({share:.1%})"
    cases = {"while every pod is subscribed": _whole(calm), "while subscriptions are cut": _whole(cut)}
    return Finding(cases, 100 * share, "% of copies missing while cut", detail, {"missing": cut["missing"], "expected": cut["expected"]})


def _of(counts: Mapping[str, float], fate: str, verb: str, plural: str) -> str:
    return f"{amount(counts[fate])} of {count(counts['expected'], 'copy')} {agreeing(counts[fate], verb, plural)}"


def _whole(counts: Mapping[str, float]) -> bool | None:
    return counts["missing"] == 0 if counts["expected"] else None


def _at_least_once(evidence: Mapping[str, Evidence]) -> Finding:
    one = evidence["cut"]
    lost, again = one.lost_unheard, int(one.counts("duplication")["redelivered"])
    was_cut = bool((one.run.pods["state"] == "disconnected").any())
    detail = f"{count(lost, 'copy')} that the broker took for pods that could not hear never came, and {count(again, 'copy')} came twice"
    unit = f"{agreeing(lost, 'copy')} lost, none sent again"
    return Finding({"while subscriptions are cut": lost == 0 if was_cut else None}, lost, unit, detail)


def _often(handled: float) -> str:
    return times(int(handled)) if handled.is_integer() else f"{amount(handled, digits=4)} times"


def _counted_by_each(evidence: Mapping[str, Evidence]) -> Finding:
    cases: dict[str, bool | None] = {}
    numbers: dict[str, float] = {}
    parts = []
    for name, one in evidence.items():
        counts = one.counts("duplication")
        pods, handled = int(counts["pods.analytics-service"]), float(counts["handled_per_event.analytics-service"])
        again = int(counts["redelivered"])
        cases[f"with {count(pods, 'replica')}"] = handled > 1
        numbers |= {f"handled_{name}": handled, f"pods_{name}": pods}
        parts.append(
            f"{count(pods, 'analytics pod handles', 'analytics pods together handle')} an event {_often(handled)}, "
            f"{count(again, 'event')} twice in one pod"
        )
    detail = "; ".join(parts) + ": so what analytics counts over its pods is multiplied by their number"
    most = max(numbers.values())
    return Finding(cases, most, f"{agreeing(most, 'handling')} of an event in one service", detail, numbers)


ALL_PODS = Claim(
    words="All pods receive all events",
    where="Multiple Pod Subscription, 1",
    theory="true while a pod is subscribed; Pub/Sub keeps nothing for one that is not",
    expects="depends",
    trials=(CALM, CUT),
    rule=_all_pods,
    false_if="copies are missing also in everyday load, with every pod subscribed",
)
AT_LEAST_ONCE = Claim(
    words="Delivery is at least once",
    where="Multiple Pod Subscription, 3",
    theory="false: at most once for each subscriber; what looks like more is one copy for each replica",
    expects="false",
    trials=(CUT,),
    rule=_at_least_once,
    false_if="a copy that the broker took for a pod that was cut off never comes",
)
SEVERAL_TIMES = Claim(
    words="An event may be processed several times across pods",
    where="Multiple Pod Subscription, 3",
    theory="true: once in each replica",
    expects="true",
    trials=(
        Trial("two", "baseline", (*CALM.settings, "services.analytics-service.replicas=2")),
        Trial("three", "baseline", (*CALM.settings, "services.analytics-service.replicas=3")),
    ),
    rule=_counted_by_each,
    false_if="one of several replicas handles an event, and the others do not",
)
