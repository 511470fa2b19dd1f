"""Name the deliveries of events that travelled without an id: which publish each of them is of.

A pod knew such an event by the hash of its payload. Where only one publish had that payload, it is that. Equal payloads are told apart by
their times: a pod hears what was sent in its order, so the last that it heard is the last that had been sent by then, the one before it the
one before that, and so on. If some were lost, which of several equal ones it was can be wrong; how many were lost is not. What nobody of
ours published keeps its hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sim.record.reader import Array, codes_of, positions


def name_deliveries(
    deliveries: pd.DataFrame,
    publishes: pd.DataFrame,
    identities: pd.DataFrame,
    *,
    hearer: Mapping[str, int] | None = None,
    error_ns: int = 0,
) -> pd.DataFrame:
    """Return the deliveries with the keys of the events in place of hashes, where `identities` knows them.

    What a pod heard from itself, in memory mode, is of its own publishes in memory mode; what came from the broker of those that left.

    Parameters
    ----------
    hearer
        Pod -> the number of its service, where a transport hands an event to one pod of each service: then they hear together.
    error_ns
        By how much a time of hearing may be wrong against one of sending: how many copies there are must not turn on it.
    """
    if not len(identities):
        return deliveries
    columns = ["event", "sent_ns", "outcome", "publisher"]
    known = identities.drop_duplicates("event").merge(publishes[columns].drop_duplicates("event"), on="event")
    known = known[known["sent_ns"] > 0].sort_values("sent_ns", kind="stable")
    in_memory, heard_here = (known["outcome"] == "memory").to_numpy(), (deliveries["path"] == "memory").to_numpy()
    named = deliveries["event"].to_numpy().copy()
    together = deliveries["pod"] if hearer is None else deliveries["pod"].map(hearer).astype("category")
    _name(named, deliveries, ~heard_here, known[~in_memory], by=together, error_ns=error_ns)
    for pod, own in known[in_memory].groupby("publisher", observed=True):
        _name(named, deliveries, heard_here & (deliveries["pod"] == pod).to_numpy(), own, by=deliveries["pod"])
    return deliveries.assign(event=named)


def _name(named: Array, deliveries: pd.DataFrame, chosen: Array, known: pd.DataFrame, *, by: pd.Series[Any], error_ns: int = 0) -> None:
    """Give some deliveries the keys of the events that they are of; `known` stands in the order of sending, `by` says who heard."""
    rows = np.flatnonzero(chosen)
    order = np.argsort(known["identity"].to_numpy(), kind="stable")
    hashes, events, sent_ns = (known[column].to_numpy()[order] for column in ("identity", "event", "sent_ns"))
    unique, first, many = np.unique(hashes, return_index=True, return_counts=True)
    at = positions(unique, named[rows])
    rows, at = rows[at < len(unique)], at[at < len(unique)]
    named[rows] = events[first[at]]
    who, received_ns = codes_of(by)[0], deliveries["received_ns"].to_numpy()
    alike: dict[tuple[int, int], list[int]] = {}
    for row, place in zip(rows.tolist(), at.tolist(), strict=True):
        if many[place] > 1:
            alike.setdefault((place, int(who[row])), []).append(row)
    for (place, _), some in alike.items():
        mine = sorted(some, key=lambda row: received_ns[row])
        span = slice(first[place], first[place] + many[place])
        named[mine] = events[span][_matched(sent_ns[span], received_ns[mine] + error_ns)]


def _matched(sent_ns: Array, received_ns: Array) -> list[int]:
    """Return for each time at which equal payloads were received which of the times of sending it is of; both rise."""
    found, last = [], len(sent_ns)
    for at in received_ns[::-1].tolist():
        last = max(0, min(last - 1, int(np.searchsorted(sent_ns, at, side="right")) - 1))
        found.append(last)
    return found[::-1]
