"""List what a service never handled, as the business names it: each event that no pod of the service ran, with its keys, time and cause.

An event is *handled* by a service when the handler of one of its pods returned. What was not is

- **lost**: no pod of the service heard it, and the publisher knows that it was sent, or that it was not. The cause is that of most of its
  pods' copies (`schema.CAUSES`), or ``no-pod``.
- **in doubt**: no pod heard it, and nobody knows whether it was published; without a cause.
- **failed**: pods heard it, and none of their handlers returned.
- **skipped**: pods heard it and left it to the one that had the lock, and no pod of the service ran it.

An event that carries several calls (a batch) has a row for each of them, because each has a key of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sim.errors import UsageError, did_you_mean
from sim.machine.words import count
from sim.record.reader import Array, categorical, gather, positions
from sim.record.schema import CAUSES
from sim.results.copies import CAUSE, FATE
from sim.results.opened_run import Run
from sim.results.pieces import Piece
from sim.results.service_books import NO_COPY, count_handlings

HOW = ("lost", "in doubt", "failed", "skipped")
COLUMNS = ("service", "event", "channel", "publisher", "item", "key", "at_s", "how", "cause")


def lost_calls(run: Run, *, services: Sequence[str] = ()) -> pd.DataFrame:
    """Return the calls of the run phase that a service never handled.

    Parameters
    ----------
    services
        Which services; empty = all that should hear something.

    Returns
    -------
    DataFrame
        One row a call and service, by service and intended time: service, event (key, see `schema.event_id`), channel, publisher, item
        (place in the event's batch), key (the business key; "" where the channel has none), at_s (intended time of the event, seconds
        since the run phase began), how (`HOW`), cause (`schema.CAUSES`; "" where none).

    Raises
    ------
    UsageError
        A service that hears nothing in this run.
    """
    known = [name for name, channels in zip(run.services, run.service_channels, strict=True) if channels]
    for name in services:
        if name not in known:
            raise UsageError(
                f"no service {name!r} hears anything in this run{did_you_mean(name, known)}; there are {', '.join(known) or 'none'}"
            )
    books = run.service_books
    wanted = np.array([name in services or not services for name in run.services], dtype=bool)
    of_run = (run.publishes["phase"] == "run").to_numpy()
    ran, _, failed = count_handlings(run, run.pieces, books)
    pairs = np.flatnonzero(of_run[books.publish] & wanted[books.service] & (ran == 0))
    how = np.select(
        [books.heard[pairs] == 0, failed[pairs] > 0], [books.in_doubt[pairs].astype(int), HOW.index("failed")], HOW.index("skipped")
    )
    publish, service = books.publish[pairs], books.service[pairs]
    cause = np.where(books.fate[pairs] != NO_COPY, books.cause[pairs], _cause_of_pods(run, publish, service))
    cause[how != HOW.index("lost")] = CAUSE[""]
    intended_ns = run.publishes["intended_ns"].to_numpy()[publish]
    order = np.lexsort((intended_ns, service))
    events = pd.DataFrame(
        {
            "service": categorical(service[order], run.services),
            "event": run.publishes["event"].to_numpy()[publish[order]],
            "channel": gather(run.publishes["channel"], publish[order]),
            "publisher": gather(run.publishes["publisher"], publish[order]),
            "at_s": (intended_ns[order] - run.run_span[0]) / 1e9,
            "how": categorical(how[order].astype(np.int8), list(HOW)),
            "cause": categorical(cause[order].astype(np.int8), list(CAUSE)),
            "place": np.arange(len(order)),
        }
    )
    keys = run.keys[["event", "item", "key"]].drop_duplicates(["event", "item"])
    rows = events.merge(keys, on="event", how="left").sort_values(["place", "item"], kind="stable", ignore_index=True)
    return rows.assign(item=rows["item"].fillna(0).astype(np.uint32), key=rows["key"].fillna(""))[list(COLUMNS)]


def _cause_of_pods(run: Run, publish: Array, service: Array) -> Array:
    """Return the cause of most of the missing copies of each pair of event and service; 0 where none is missing."""
    pairs = publish.astype(np.int64) * len(run.services) + service
    order = np.argsort(pairs, kind="stable")
    cells = np.zeros(len(publish) * len(CAUSE), dtype=np.int32)

    def of_piece(piece: Piece) -> tuple[Array, Array]:
        missing = np.flatnonzero((piece.fate == FATE["missing"]) & (piece.publish >= 0))
        wanted = piece.publish[missing].astype(np.int64) * len(run.services) + run.service_of_pod[piece.pod[missing]]
        at = positions(pairs[order], wanted)
        ours = at < len(order)
        return np.unique(order[at[ours]] * len(CAUSE) + piece.cause[missing[ours]], return_counts=True)

    for cell, many in run.pieces.each(of_piece):
        cells[cell] += many.astype(np.int32)
    most: Array = cells.reshape(len(publish), len(CAUSE)).argmax(axis=1)
    return most


def lost_in_short(run: Run, rows: pd.DataFrame) -> list[str]:
    """Return one sentence for each service of `rows`: how many events and keys of how many it never handled, when, and why."""
    sentences = []
    for service, of_service in rows.groupby("service", observed=True):
        place = run.services.index(str(service))
        heard = int(run.tally.pairs[place].sum(axis=0)[0])
        events = of_service["event"].nunique()
        keys = of_service.loc[of_service["key"] != "", "key"].nunique()
        of_keys = f" ({count(keys, 'key')})" if keys else ""
        first, last = of_service["at_s"].min(), of_service["at_s"].max()
        when = f"at {first:.1f} s" if f"{first:.1f}" == f"{last:.1f}" else f"between {first:.1f} and {last:.1f} s"
        why = [one if how == "lost" else how for how, one in zip(of_service["how"], of_service["cause"], strict=True)]
        causes = pd.Series(why).groupby(of_service["event"].to_numpy()).first().value_counts()  # of events: a batch has a row a call
        told = ", ".join(f"{word} {many:,}" for word, many in causes.items())
        sentences.append(f"{service} never handled {events:,} of {count(heard, 'event')}{of_keys}, {when}: {told}")
    return sentences


def lost_events(rows: pd.DataFrame) -> list[tuple[str, str, str, int, int]]:
    """Return of `lost_calls` how many different events each service never handled, by how and cause, with the key of the first of each."""
    once = rows.drop_duplicates(["service", "event"])
    found = once.groupby(["service", "how", "cause"], observed=True, sort=False)["event"].agg(["size", "first"])
    return [
        (str(service), str(how), str(cause), int(many), int(first))
        for (service, how, cause), many, first in zip(found.index, found["size"], found["first"], strict=True)
    ]


MEANINGS = CAUSES | {
    "in doubt": "nobody heard it, and whether it was published is not known",
    "failed": "pods heard it, and none of their handlers returned",
    "skipped": "pods heard it and left it to another that had the lock",
}


def half_served(run: Run, services: Sequence[str] = ()) -> list[tuple[str, int]]:
    """Return how many events of the run phase reached some of a service's pods and not all, of services of which there are any."""
    scopes = [of for of in run.tally.scopes() if of.scope == "service" and (not services or of.subject in services)]
    return [(of.subject, half) for of in scopes if (half := run.tally.served(of)["half_served"])]
