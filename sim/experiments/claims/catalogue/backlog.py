"""Claims on a pod that does not read: what PUBSUB CHANNELS shows of the backlog, and what PUBLISH counts. Both share one stalled pod."""

from __future__ import annotations

from collections.abc import Mapping

from sim.experiments.claims.claim import EMBEDDED, Claim, Evidence, Finding, Trial
from sim.machine.words import agreeing, amount, count

LEAST_MB = 1.0  # by which the backlog must grow while answers come, or they prove nothing
STALLED = Trial(
    "stalled",
    "slow_handler",
    ("load.run_s=6", "faults=[{kind='slow_handler',at_s=0.5,for_s=5,pods=['analytics-service'],handler_ms=150,at_once=1}]"),
    on=EMBEDDED,
)


def _channels(evidence: Mapping[str, Evidence]) -> Finding:
    broker = evidence["stalled"].run.broker
    answers = broker[broker["metric"] == "channels_listed_bytes"].sort_values("at_ns")
    waiting = broker[broker["metric"] == "output_buffer_bytes_sum"].sort_values("at_ns")
    before = waiting["at_ns"].searchsorted(answers["at_ns"], side="right") - 1
    backlog_mb = waiting["value"].to_numpy()[before] / 1e6  # when each answer was given
    grew_mb = float(backlog_mb.max() - backlog_mb.min()) if len(backlog_mb) else 0.0
    most_mb = float(waiting["value"].max()) / 1e6
    names = int(broker[broker["metric"] == "channels_listed"]["value"].max())
    detail = (
        f"while CLIENT LIST's omem grew to {most_mb:.1f} MB, {count(len(answers), 'answer')} of PUBSUB "
        f"CHANNELS named {count(names, 'channel')} in "
    )
    detail += f"{amount(answers['value'].min())} to {count(answers['value'].max(), 'byte')}: names, and nothing of what waits"
    cases = {"while a pod does not read": answers["value"].nunique() > 1 if grew_mb >= LEAST_MB else None}
    return Finding(cases, most_mb, "MB in omem, not shown", detail, {"answers": len(answers), "grew_mb": grew_mb})


def _received(evidence: Mapping[str, Evidence]) -> Finding:
    one = evidence["stalled"]
    said, heard = int(one.counts("ledger")["publish_receivers"]), int(one.counts("ledger")["publish_delivered"])
    detail = f"PUBLISH counted {count(said, 'receiver')}, and {count(heard, 'copy was', 'copies were')} heard: "
    held: bool | None = heard >= said if said else None
    if heard < said:
        detail += "the others waited in the broker's buffer for a pod that did not read, and went with it"
    elif one.counts("fallback")["faults"]:  # on a busy machine too little is published in the fault's time
        detail += "the pod that was to fall behind did not so far that the broker gave up what waited for it, so the claim was not tried"
        held = None
    else:
        detail += "every pod read all the time"
    unit = f"{agreeing(said - heard, 'copy')} counted and never heard"
    return Finding({"while a pod does not read": held}, said - heard, unit, detail, {"said": said, "heard": heard})


CHANNELS = Claim(
    words="`pubsub channels` shows the Pub/Sub backlog",
    where="Operational Runbook, Event Delivery Lag, 1",
    theory="false: it answers with names; what waits stands in CLIENT LIST, omem",
    expects="false",
    trials=(STALLED,),
    rule=_channels,
    false_if="the answer of PUBSUB CHANNELS stays as long as it was while what waits grows by a megabyte and more",
)
RECEIVED = Claim(
    words="PUBLISH returned N, so N pods got it",
    where="implied by the return value; PUBLISH's own documentation says clients that received it",
    theory="false: it was put into N buffers",
    expects="false",
    trials=(STALLED,),
    rule=_received,
    false_if="fewer copies were heard than PUBLISH counted receivers",
)
