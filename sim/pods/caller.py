"""The application's side of both drivers: make a call, never raise, and record what the caller paid and what was published."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from sim.bus.counters import Counters
from sim.bus.envelope import ANALYTICS
from sim.bus.node import BusNode, Send
from sim.bus.publisher import EventPublisher
from sim.machine.clock import running_clock
from sim.record.recorder import Recorder

R = TypeVar("R")


def record_publish(recorder: Recorder, publisher: str, send: Send, *, sent_ns: int, acked_ns: int, outcome: str, receivers: int) -> None:
    """Write one row of `publishes`, one of `keys` for each call with a business key, and what it is known by without an id."""
    recorder.tables["publishes"].add(
        send.event,
        send.type,
        publisher,
        send.items,
        len(send.payload),
        send.first_item_ns,
        send.items_wait_ns,
        send.intended_ns,
        sent_ns,
        acked_ns,
        outcome,
        receivers,
        send.subject,
        send.stamped_ns,
    )
    if send.identity:
        recorder.tables["identities"].add(send.event, send.identity)
    if send.keys:
        add = recorder.tables["keys"].add
        for place, key in enumerate(send.keys):
            add(send.event, send.type, place, key)


class Caller(EventPublisher, Generic[R]):
    """The application's side of one bus node: its calls end in `_carry_out`, which returns what became of a publish, if it knows.

    Parameters
    ----------
    publisher
        Who this is in the tables `publishes` and `calls`.
    recorder
        Where calls and publishes are recorded, or None.

    Attributes
    ----------
    failure
        Why the last call that failed did; whoever wants to know whose that is sets it to None before a call.
    """

    def __init__(self, publisher: str, *, node: BusNode, recorder: Recorder | None) -> None:
        self.publisher = publisher
        self.node = node
        self.counters = Counters()
        self.failure: Exception | None = None
        self._now_ns = running_clock()
        self._recorder = recorder

    @abstractmethod
    def _carry_out(self, send: Send | None) -> R | None:
        """Publish, if there is something to publish."""

    def call(self, kind: str, data: dict[str, Any], *, intended_ns: int | None = None) -> R | None:
        """Make one call: queue an analytics item, or publish an event of any other type. It never raises."""
        began_ns = self._now_ns()
        due_ns = began_ns if intended_ns is None else intended_ns
        errors = self.counters.publish_errors
        became = self._call_one(kind, data, began_ns, due_ns)
        if self._recorder is not None:
            self._record_call(kind, due_ns, began_ns, failed=self.counters.publish_errors > errors)
        return became

    def call_all(self, kind: str, contents: Iterable[dict[str, Any]], *, intended_ns: int | None = None) -> None:
        """Make one call that carries several contents. It never raises, also when `contents` does."""
        began_ns = self._now_ns()
        due_ns = began_ns if intended_ns is None else intended_ns
        errors = self.counters.publish_errors
        try:
            for content in contents:
                self._call_one(kind, content, began_ns, due_ns)
        except Exception:  # the caller's own iterator may raise anything
            self.counters.publish_errors += 1
        if self._recorder is not None:
            self._record_call(kind, due_ns, began_ns, failed=self.counters.publish_errors > errors)

    def _call_one(self, kind: str, data: dict[str, Any], began_ns: int, due_ns: int) -> R | None:
        try:
            return self._carry_out(self.node.call(kind, data, now_ns=began_ns, intended_ns=due_ns))
        except Exception as error:  # fire and forget: whatever goes wrong in here is no failure of the business logic that calls
            self.counters.publish_errors += 1
            self.failure = error
            return None

    def _record_call(self, kind: str, due_ns: int, began_ns: int, *, failed: bool) -> None:
        assert self._recorder is not None
        took_ns = self._now_ns() - began_ns
        self._recorder.tables["calls"].add(due_ns, self.publisher, kind, took_ns, "failed" if failed else "ok")

    def _record(self, send: Send, *, sent_ns: int, acked_ns: int, outcome: str, receivers: int) -> None:
        """Count and record what became of one publish."""
        self.counters.publish_ended(outcome, analytics_items=send.items if send.type in ANALYTICS else 0)
        if self._recorder is not None:
            record_publish(self._recorder, self.publisher, send, sent_ns=sent_ns, acked_ns=acked_ns, outcome=outcome, receivers=receivers)
