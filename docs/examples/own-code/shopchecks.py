"""What the shop promises about its orders."""

from __future__ import annotations

from sim.results.checkers.verdict import Result
from sim.results.opened_run import Run


def every_order_billed(run: Run) -> Result:
    """Judge whether each order of the run phase was handled by some pod of billing."""
    ledger = run.ledger()
    orders = ledger[(ledger["channel"] == "order.created") & (ledger["service"] == "billing") & (ledger["phase"] == "run")]
    handled = run.deliveries.loc[run.deliveries["outcome"] == "handled", "event"]
    billed = orders["event"].isin(handled).groupby(orders["event"]).any()
    counts = {"orders": len(billed), "never_billed": (~billed).sum()}
    if not len(billed):
        return Result("unknown", "no data: nobody ordered anything", counts=counts)
    word = "valid" if billed.all() else "invalid"
    return Result(word, f"{counts['never_billed']:,} of {len(billed):,} orders were never billed", counts=counts)
