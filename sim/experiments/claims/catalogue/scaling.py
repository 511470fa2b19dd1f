"""The claim that more analytics pods cut the lag: every replica gets every event, so each is as late as one alone."""

from __future__ import annotations

from collections.abc import Mapping

from sim.experiments.claims.claim import Claim, Evidence, Finding, Trial
from sim.machine.words import amount, duration

HELPS = 0.8  # four replicas help when their lag is this share of one replica's, or less
LAG = "lag_us.service.analytics-service.p50"
SLOW = "faults=[{kind='slow_handler',at_s=0.1,for_s=11.8,pods=['analytics-service'],handler_ms=20,at_once=1}]"
LOAD = ("load.rate_per_s=100", "load.payload_bytes=100", SLOW)  # 90 metrics/s for pods that can handle 50


def _replicas(evidence: Mapping[str, Evidence]) -> Finding:
    one, four = (evidence[name].counts("lag")[LAG] / 1e6 for name in ("one", "four"))
    sent_one, sent_four = (_sent_mb(evidence[name]) for name in ("one", "four"))
    detail = (
        f"the median event waits {duration(one)} with one analytics pod that is too slow and {duration(four)} with four; the broker sends "
    )
    detail += f"{amount(sent_four / sent_one)} times as much"
    cases = {"with four replicas in place of one": four <= HELPS * one}
    return Finding(cases, four / one, "times the lag of one replica", detail, {"lag_s_one": one, "lag_s_four": four})


def _sent_mb(one: Evidence) -> float:
    rows = one.run.broker[one.run.broker["metric"] == "net_output_bytes"]["value"]
    return float(rows.iloc[-1] - rows.iloc[0]) / 1e6


SCALE_ANALYTICS = Claim(
    words="Scaling the analytics consumers cuts the lag",
    where="Operational Runbook, Event Delivery Lag, 2",
    theory="false on Pub/Sub: each replica gets every event",
    expects="false",
    trials=(
        Trial("one", "slow_handler", (*LOAD, "services.analytics-service.replicas=1")),
        Trial("four", "slow_handler", (*LOAD, "services.analytics-service.replicas=4")),
    ),
    rule=_replicas,
    false_if="the median lag with four replicas is over 0.8 of that with one",
)
