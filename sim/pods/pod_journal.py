"""What a pod writes down before it does it, because its process may be killed; and how the run reads that when it was.

A pod that is dropped inside a process that goes on (`Pod.abort`) records itself what becomes of what it had begun. A killed process
records nothing more. So a pod that may be killed has a journal. It tells the journal of each thing before it does it, and the journal
writes it down as it would stand if the process were killed at once:

==========================  ======================  ==================================================================
what                        table                   as
==========================  ======================  ==================================================================
a publish on its way        publishes               `unknown`: the bytes may have left
one kept through an outage  publishes               `never-sent`
a part-full batch           publishes, event key 0  `never-sent`; it gets a key that it could have had, and no size
its items' business keys    keys, event key 0       the same event
a call by HTTP              calls                   `failed`
an event being handled      deliveries              `failed`
==========================  ======================  ==================================================================

What was done after all has a row in the table itself; the rest is taken over by `inherit`. Of several rows of one event the newest
counts, and a part-full batch is the newest row of its channel, unless that is a batch that left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from sim.bus.batcher import Batcher
from sim.bus.node import Send
from sim.record.journal import Journal, JournalRecorder
from sim.record.recorder import PARTS, ROWS_PER_PART, DeliveryBuffer, TableBuffer, arrow_table, write_table
from sim.record.schema import HTTP_CALL, TABLES


class PodJournal(Protocol):
    """A journal as a pod and its calls by HTTP see it.

    Each `begin_...` is called before anything of it can be seen outside the pod, and before it is recorded; `commit` when the
    deliveries of a read are recorded.
    """

    def begin_publish(self, send: Send, *, sent_ns: int) -> None:
        """Write down that a publish is about to leave; `sent_ns` 0: that it waits for the end of an outage."""

    def begin_batch(self, type: str, batch: Batcher, keys: list[str] | None) -> None:
        """Write down the part-full batch of an event type as it is now; `keys` are its items' business keys, where it has them."""

    def begin_call(self, *, intended_ns: int, began_ns: int) -> None:
        """Write down that a call by HTTP is about to be made."""

    def begin_handling(self, event: int, received_ns: int, *, path: int) -> None:
        """Write down that an event was heard and waits for its handler; `path` is an index into `DeliveryBuffer.PATHS`."""

    def commit(self) -> None:
        """Write down the deliveries of the reads since the last time; one that is added by itself (`DeliveryBuffer.add`) needs none."""


class UnderWayJournal:
    """The journal of one pod whose process may be killed: it has what is under way as it would stand if that were killed now."""

    def __init__(self, recorder: JournalRecorder, pod: str) -> None:
        self._pod = pod
        self._add_publish = recorder.under_way["publishes"].add
        self._add_key = recorder.under_way["keys"].add
        self._add_identity = recorder.under_way["identities"].add
        self._written: dict[str, tuple[list[str] | None, int]] = {}  # event type -> the keys of its batch, how many are written down
        self._add_call = recorder.under_way["calls"].add
        self._add_delivery = recorder.under_way["deliveries"].add
        self._deliveries = recorder.journal

    def begin_publish(self, send: Send, *, sent_ns: int) -> None:
        """Write down that a publish is about to leave; `sent_ns` 0: that it waits for the end of an outage."""
        times = (send.first_item_ns, send.items_wait_ns, send.intended_ns, sent_ns, 0)
        outcome = "unknown" if sent_ns else "never-sent"
        self._add_publish(
            send.event, send.type, self._pod, send.items, len(send.payload), *times, outcome, -1, send.subject, send.stamped_ns
        )
        for place, key in enumerate(send.keys):
            self._add_key(send.event, send.type, place, key)
        if send.identity:
            self._add_identity(send.event, send.identity)

    def begin_batch(self, type: str, batch: Batcher, keys: list[str] | None) -> None:
        """Write down the part-full batch of an event type as it is now."""
        if keys is not None:
            known, written = self._written.get(type, (None, 0))
            written = written if known is keys else 0
            for place in range(written, len(keys)):
                self._add_key(0, type, place, keys[place])
            self._written[type] = (keys, len(keys))
        times = (batch.first_item_ns, batch.items_wait_ns, batch.last_item_ns, 0, 0)
        self._add_publish(0, type, self._pod, len(batch), 0, *times, "never-sent", -1, "", 0)

    def begin_call(self, *, intended_ns: int, began_ns: int) -> None:
        """Write down that a call by HTTP is about to be made: in place of how long it took, when it began."""
        self._add_call(intended_ns, self._pod, HTTP_CALL, began_ns, "failed")

    def begin_handling(self, event: int, received_ns: int, *, path: int) -> None:
        """Write down that an event was heard and waits for its handler."""
        self._add_delivery(event, self._pod, received_ns, received_ns, DeliveryBuffer.PATHS[path], "failed")

    def commit(self) -> None:
        """Write down the deliveries of the reads since the last time."""
        self._deliveries.commit()


def calls_made(journal: Journal) -> int:
    """Return how many calls the applications of a process made."""
    rows, channels = journal.rows("calls"), journal.words("calls")["channel"]
    answered = int((rows["channel"] == channels.index(HTTP_CALL)).sum()) if HTTP_CALL in channels else 0
    return len(rows) - answered + len(journal.rows("calls", under_way=True))


def inherit(journal: Journal, *, folder: Path, source: str, first_key: int, died_ns: int) -> None:
    """Write what a process wrote down as parts of the run folder: its rows, then what was under way when it died.

    Parameters
    ----------
    source
        Of the process; parts are joined in the order of their sources.
    first_key
        The key of the first event that its pod published, or would have.
    died_ns
        When it was dead for certain, or had ended.

    Raises
    ------
    RecordError
    """
    publishes = list(_publishes_left(journal, first_key, died_ns))
    left = {
        "publishes": publishes,
        "keys": _keys_left(journal, publishes),
        "identities": _identities_left(journal, publishes),
        "calls": _calls_left(journal, died_ns),
        "deliveries": _deliveries_left(journal),
    }
    for table, columns in TABLES.items():
        rows, words = journal.rows(table), journal.words(table)
        parts = []
        for first in range(0, len(rows), ROWS_PER_PART):
            some = rows[first : first + ROWS_PER_PART]
            parts.append(arrow_table(table, {column: some[column] for column in columns}, words))
        buffer = TableBuffer(table)
        for row in left.get(table, ()):
            buffer.add(*(row[column] for column in columns))
        if len(buffer):
            parts.append(buffer.take())
        for number, part in enumerate(parts, 1):
            write_table(folder / PARTS / f"{table}-{source}-{number:05d}.parquet", table, part)


def _publishes_left(journal: Journal, first_key: int, died_ns: int) -> Iterable[dict[str, Any]]:
    done = set(journal.rows("publishes")["event"].tolist())
    begun = journal.read("publishes", under_way=True)
    newest = {row["event"]: row for row in begun if row["event"]}
    yield from (row for event, row in newest.items() if event not in done)
    key = max(newest, default=first_key - 1)
    for batch in {row["channel"]: row for row in begun}.values():  # the newest of each channel
        if batch["event"]:
            continue  # its last batch left
        key += 1
        if key not in done:
            waited_more_ns = max(0, died_ns - batch["intended_ns"])
            waited_ns = batch["items_wait_ns"] + waited_more_ns * batch["items"]
            yield batch | {"event": key, "intended_ns": batch["intended_ns"] + waited_more_ns, "items_wait_ns": waited_ns}


def _keys_left(journal: Journal, publishes: list[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Yield the business keys of what was under way: of a part-full batch, those that came since its first item."""
    begun: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in journal.read("keys", under_way=True):
        if row["item"] == 0:
            begun[row["event"], row["channel"]] = []
        begun[row["event"], row["channel"]].append(row)
    for publish in publishes:
        of_batch = publish["stamped_ns"] == 0 and publish["bytes"] == 0
        rows = begun.get((0 if of_batch else publish["event"], publish["channel"]), [])
        yield from (row | {"event": publish["event"]} for row in rows[: publish["items"]])


def _identities_left(journal: Journal, publishes: list[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    left = {publish["event"] for publish in publishes}
    yield from {row["event"]: row for row in journal.read("identities", under_way=True) if row["event"] in left}.values()


def _calls_left(journal: Journal, died_ns: int) -> Iterable[dict[str, Any]]:
    ended = Counter(row["intended_ns"] for row in journal.read("calls") if row["channel"] == HTTP_CALL)
    for row in journal.read("calls", under_way=True):
        if ended[row["intended_ns"]]:
            ended[row["intended_ns"]] -= 1
        else:
            yield row | {"took_ns": max(0, died_ns - row["took_ns"])}


def _deliveries_left(journal: Journal) -> Iterable[dict[str, Any]]:
    begun = journal.read("deliveries", under_way=True)
    done = Counter(journal.rows("deliveries")["event"].tolist()) if begun else Counter()
    for row in begun:
        if done[row["event"]]:
            done[row["event"]] -= 1
        else:
            yield row
