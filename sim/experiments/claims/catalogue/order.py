"""The claim that events are ordered: as pods hear them, and as their handlers begin."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from sim.experiments.claims.claim import CALM, Claim, Evidence, Finding, Trial
from sim.machine.words import amount, count
from sim.results.copies import FATE

HEARD = {"calm": "as heard, nothing broken", "resets": "as heard, connections reset"}
HANDLED = "as handled, handlers starting 0-5 ms later"


def handled_late(one: Evidence) -> tuple[int, int]:
    """Return how many deliveries began to be handled before an earlier event of their publisher and channel, and of how many."""
    run = one.run
    copies = run.copies
    judged = (copies.fate == FATE["delivered"]) & run.copies_in("run")
    rows = run.publishes.iloc[copies.publish[judged]]
    table = pd.DataFrame(
        {
            "pod": copies.pod[judged],
            "source": rows["event"].to_numpy() >> 32,
            "channel": rows["channel"].astype(str).to_numpy(),
            "event": rows["event"].to_numpy(),
            "handled_ns": run.deliveries["handled_ns"].to_numpy()[copies.delivery[judged]],
        }
    ).sort_values(["pod", "source", "channel", "event"])
    latest = table.groupby(["pod", "source", "channel"], sort=False)["handled_ns"].cummax()
    return int((table["handled_ns"] < latest).sum()), len(table)


def _ordered(evidence: Mapping[str, Evidence]) -> Finding:
    cases: dict[str, bool | None] = {}
    parts = []
    for name, words in HEARD.items():
        counts = evidence[name].counts("order")
        cases[words] = counts["out_of_order"] == 0
        parts.append(
            f"{words}: {amount(counts['out_of_order'])} of {count(counts['deliveries'], 'delivery')} overtook "
            f"an earlier event of their publisher and channel"
        )
    late, of = handled_late(evidence["concurrent"])
    cases[HANDLED] = late == 0 if of else None
    parts.append(f"{HANDLED}: {amount(late)} of {amount(of)} did")
    return Finding(cases, 100 * late / of, "% handled before an earlier event", "; ".join(parts), {"late": late, "of": of})


ORDERED = Claim(
    words="Events are ordered",
    where="implied by the broadcast of the architecture overview",
    theory="per connection of a publisher; not across concurrent handlers",
    expects="depends",
    trials=(CALM, Trial("resets", "link_reset"), Trial("concurrent", "lock_lab", ("bus.once=none",))),
    rule=_ordered,
    false_if="events overtake earlier ones of their publisher and channel in each case, with nothing broken too",
)
