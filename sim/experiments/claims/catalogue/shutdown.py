"""The claim that a graceful shutdown flushes what waits: with Redis there, with Redis away, and beside a kill."""

from __future__ import annotations

from collections.abc import Mapping

from sim.experiments.claims.claim import Claim, Evidence, Finding, Trial
from sim.machine.words import agreeing, amount, count

LONG = "load.run_s=6"  # no batch leaves by itself: the scenario's interval is 30 s
AWAY = "faults=[{kind='broker_down',at_s=1,for_s=3},{kind='pod_stop',at_s=2,for_s=1,pods=['music-service']}]"
KILL = "faults=[{kind='pod_kill',at_s=2,for_s=1,pods=['music-service']}]"


def _flush(evidence: Mapping[str, Evidence]) -> Finding:
    counts = {name: one.counts("batching") for name, one in evidence.items()}
    lost = {name: int(one["lost"]) for name, one in counts.items()}
    items = {name: int(one["items"]) for name, one in counts.items()}
    detail = (
        f"a graceful stop loses {amount(lost['stopped'])} of {count(items['stopped'], 'item')}; one of the "
        f"music pods while Redis is away loses "
    )
    detail += (
        f"{amount(lost['stopped_away'])} of {amount(items['stopped_away'])}, a kill of them "
        f"{amount(lost['killed'])} of {amount(items['killed'])}"
    )
    cases = {"while Redis answers": lost["stopped"] == 0, "while Redis is away": lost["stopped_away"] == 0}
    unit = f"{agreeing(lost['stopped_away'], 'item')} lost by a stop in an outage"
    return Finding(cases, lost["stopped_away"], unit, detail, {f"lost_{name}": n for name, n in lost.items()})


FLUSHES = Claim(
    words="A graceful shutdown flushes pending events",
    where="Graceful Shutdown",
    theory="true while Redis answers, and then no item is lost; a flush in an outage reaches nobody, and a kill loses part-full batches",
    expects="depends",
    trials=(
        Trial("stopped", "graceful_shutdown", (LONG,)),
        Trial("stopped_away", "graceful_shutdown", (LONG, AWAY)),
        Trial("killed", "graceful_shutdown", (LONG, KILL)),
    ),
    rule=_flush,
    false_if="a graceful stop loses items also while Redis answers",
)
