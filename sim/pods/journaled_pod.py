"""A pod that writes down what it is about to do, because its process may be killed; and what is made of that when it was.

A pod that is dropped inside a process that goes on (`Pod.abort`) says itself what becomes of what it had begun. A killed process says
nothing more. So this pod writes each thing down as it would stand if it were killed at once, before it does it:

==========================  ======================  ==================================================================
what                        table                   as
==========================  ======================  ==================================================================
a publish on its way        publishes               `unknown`: the bytes may have left
one kept through an outage  publishes               `never-sent`
the part-full batch         publishes, event key 0  `never-sent`; it gets the key that it would have had, and no size
a call by HTTP              calls                   `failed`
an event being handled      deliveries              `failed`
==========================  ======================  ==================================================================

What was done after all has a row in the table itself; the rest is taken over by `inherit`. The newest row of an event holds, and the
part-full batch is the newest row of its channel, unless that is a batch that left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sim.bus.envelope import BATCH, PROBE, Chunk
from sim.bus.node import Send
from sim.machine.clock import now_ns
from sim.pods.http_calls import HttpCalls
from sim.pods.pod import Pod
from sim.pods.slow_handling import SlowHandling
from sim.record.journal import Journal, JournalRecorder
from sim.record.recorder import PARTS, ROWS_PER_PART, DeliveryBuffer, TableBuffer, arrow_table, write_table
from sim.record.schema import HTTP_CALL, TABLES
from sim.wire.read_memo import Handling

_BROKER = DeliveryBuffer.PATHS.index("broker")


class JournaledPod(Pod):
    """Be a pod whose process may be killed; its place's recorder is a `JournalRecorder`."""

    def __init__(self, name: str, **more: Any) -> None:
        super().__init__(name, **more)
        recorder = self._place.recorder
        assert isinstance(recorder, JournalRecorder)
        self._journal = recorder.journal
        self._under_way = recorder.under_way
        self._inside = False  # whether an event is on its way within the pod: its row is not complete when it was heard

    def heard(self, chunk: Chunk, received_ns: int) -> Handling | None:
        """Handle the events of one read, and write down that it did."""
        handling = super().heard(chunk, received_ns)
        if not self._inside:
            self._journal.commit()
        return handling

    def _heard_slowly(self, slow: SlowHandling, chunk: Chunk, received_ns: int, *, path: int = _BROKER) -> Handling:
        word, add = DeliveryBuffer.PATHS[path], self._under_way["deliveries"].add
        for (kind, _), key in zip(chunk.events, chunk.keys, strict=True):
            if kind != PROBE:
                add(key, self.name, received_ns, received_ns, word, "failed")
        return super()._heard_slowly(slow, chunk, received_ns, path=path)

    def _deliver_here(self, send: Send) -> None:
        self._inside = True
        try:
            super()._deliver_here(send)
        finally:
            self._inside = False
            self._journal.commit()

    def _carry_out(self, send: Send | None) -> None:
        if send is None:
            return
        self._begin(send, self._now_ns(), "unknown")
        super()._carry_out(send)
        if self._kept and self._kept[-1] is send:
            self._begin(send, 0, "never-sent")

    def _begin(self, send: Send, sent_ns: int, outcome: str) -> None:
        times = (send.first_item_ns, send.items_wait_ns, send.intended_ns, sent_ns, 0)
        size = len(send.payload)
        self._under_way["publishes"].add(send.event, send.type, self.name, send.items, size, *times, outcome, -1, send.subject)

    def _call_one(self, kind: str, data: dict[str, Any], began_ns: int, due_ns: int) -> None:
        super()._call_one(kind, data, began_ns, due_ns)
        batch = self.node.batcher
        if kind == BATCH and len(batch):
            times = (batch.first_item_ns, batch.items_wait_ns, batch.last_item_ns, 0, 0)
            self._under_way["publishes"].add(0, BATCH, self.name, len(batch), 0, *times, "never-sent", -1, "")


class MortalPoster(HttpCalls):
    """Write down each call by HTTP before it is made."""

    def __init__(self, name: str, *, recorder: JournalRecorder, **more: Any) -> None:
        super().__init__(name, recorder=recorder, **more)
        self._begun = recorder.under_way["calls"]

    def post(self, item: dict[str, Any], *, intended_ns: int) -> None:
        """Begin one call."""
        self._begun.add(intended_ns, self._name, HTTP_CALL, now_ns(), "failed")  # from when, instead of how long
        super().post(item, intended_ns=intended_ns)


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
    left = {
        "publishes": _publishes_left(journal, first_key, died_ns),
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
    batch = next((row for row in reversed(begun) if row["channel"] == BATCH), None)
    key = max(newest, default=first_key - 1) + 1
    if batch is not None and not batch["event"] and key not in done:
        waited_more_ns = max(0, died_ns - batch["intended_ns"])
        waited_ns = batch["items_wait_ns"] + waited_more_ns * batch["items"]
        yield batch | {"event": key, "intended_ns": batch["intended_ns"] + waited_more_ns, "items_wait_ns": waited_ns}


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
