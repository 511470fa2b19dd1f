"""The rows of the seam of pods that are programs: made of what their taps tell and of what they report, as our own pods' rows are.

Rules
-----
1. An event that a program sends gets a key of ours, by its publisher's number and sequence, so that its order can be judged; `identities`
   has the key by which those know it that hear it. A publisher is one connection at a time: the number of one that has ended is given to
   the next of its pod.
2. Nobody meant a program to send at a certain time: its intended time is that at which the event's last byte had passed towards the broker.
3. A copy is received when its last byte had been written to the program's socket. Of a program that does not report what it has handled,
   that is when it was handled, too; of one that does, what it has not reported when it ends was not handled (`failed`).
4. Rows of one pod stand in the order in which it heard, so a row waits for those before it; at most `MOST_WAITING` do.
5. What is not of a channel of the bus is none of ours, and is left out.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from sim.pods.programs.tap_messages import ProgramHeard, ProgramPublished
from sim.pods.replica import next_publisher
from sim.record.recorder import DeliveryBuffer, Recorder
from sim.record.schema import compose_key, event_key

MOST_WAITING = 50_000  # copies of one pod that wait for a report
MOST_EARLY = 10_000  # reports of one pod that came before the tap told of the copy
FOREVER_NS = (1 << 63) - 1
_FAILED = DeliveryBuffer.RESULTS.index("failed")


@dataclass(slots=True)
class _Given:
    """A copy that waits to be written down; `handled_ns` 0: nobody has reported it."""

    key: int
    received_ns: int
    handled_ns: int


@dataclass
class PodBook:
    """What is known of one incarnation of a program.

    Attributes
    ----------
    heard, handled, published
        Copies that were written to its socket, those of them that it reported (all, where it does not report), and events that it sent.
    unhandled, on_the_way
        Copies that it had not reported when it ended, of a program that reports: those that it had had the time to handle, and those that
        were given to it when it was about to end.
    unknown_reports
        Reports of events that were never written to its socket.
    """

    heard: int = 0
    handled: int = 0
    published: int = 0
    unhandled: int = 0
    on_the_way: int = 0
    unknown_reports: int = 0
    waiting: deque[_Given] = field(default_factory=deque)
    open: dict[int, deque[_Given]] = field(default_factory=dict)  # by key: copies that nobody has reported
    early: dict[int, deque[int]] = field(default_factory=dict)  # by key: reports without a copy, by when
    many_early: int = 0


class ProgramBooks:
    """The rows of all programs of a run.

    Parameters
    ----------
    names
        Pod number -> its name.
    reporting
        The numbers of those that report what they have handled.
    channels
        The event types of the bus.
    publishers
        Numbers of publishers that nobody has had yet.
    probed
        Called with (pod number, event type, key) when a pod was sent a probe of the lab.
    """

    def __init__(
        self,
        recorder: Recorder,
        *,
        names: Mapping[int, str],
        reporting: set[int],
        channels: set[str],
        nonce: int,
        prober: int,
        publishers: Iterator[int],
        probed: Callable[[int, str, int], None],
    ) -> None:
        self.books = {number: PodBook() for number in names}
        self.outside: Counter[int] = Counter()  # pod number -> events on channels that are not of the bus
        self._recorder, self._names, self._reporting, self._channels = recorder, names, reporting, channels
        self._nonce, self._probes, self._publishers, self._probed = nonce, nonce << 16 | prober, publishers, probed
        self._of_connection: dict[tuple[int, int], int] = {}  # (pod, connection) -> its publisher's number
        self._free: dict[int, list[int]] = {number: [] for number in names}
        self._sequences: Counter[int] = Counter()
        self._called: dict[int, str] = {}  # a publisher's number -> its name
        self._in_time_ns = FOREVER_NS

    # -- what the tap tells ------------------------------------------------------------------------------------

    def published(self, one: ProgramPublished) -> None:
        """Write down an event that a program sent.

        Raises
        ------
        UsageError
            Event keys have no room for one more publisher.
        """
        if one.channel not in self._channels:
            self.outside[one.pod] += 1
            return
        publisher = self._publisher(one.pod, one.connection)
        event = compose_key(nonce=self._nonce, publisher=publisher, sequence=self._sequences[publisher])
        self._sequences[publisher] += 1
        passed_ns = one.passed_ns
        times = (passed_ns, 0, passed_ns, passed_ns, one.answered_ns)
        row = (event, one.channel, self._called[publisher], 1, one.size, *times, one.outcome, one.receivers, "", 0)
        self._recorder.tables["publishes"].add(*row)
        self._recorder.tables["identities"].add(event, one.key)
        self.books[one.pod].published += 1

    def _publisher(self, pod: int, connection: int) -> int:
        number = self._of_connection.get((pod, connection))
        if number is None:
            free = self._free[pod]
            number = free.pop() if free else next_publisher(self._names[pod], self._publishers)
            self._of_connection[pod, connection] = number
            if number not in self._called:
                others = sum(name.partition("/")[0] == self._names[pod] for name in self._called.values())
                self._called[number] = self._names[pod] + (f"/{others + 1}" if others else "")
        return number

    def closed(self, pod: int, connection: int) -> None:
        """Take the end of a connection."""
        number = self._of_connection.pop((pod, connection), None)
        if number is not None:
            self._free[pod].append(number)

    def heard(self, some: ProgramHeard) -> None:
        """Write down copies that had been written to a program's socket."""
        book, reports = self.books[some.pod], some.pod in self._reporting
        for channel, key in zip(some.channels, some.keys, strict=True):
            if channel not in self._channels:
                self.outside[some.pod] += 1
                continue
            if key >> 32 == self._probes:
                self._put(book, some.pod, _Given(key, some.written_ns, some.written_ns))
                self._probed(some.pod, channel, key)
                continue
            book.heard += 1
            copy = _Given(key, some.written_ns, 0)
            if not reports:
                copy.handled_ns = some.written_ns
            elif (early := book.early.get(key)) is not None:
                copy.handled_ns = max(some.written_ns, early.popleft())
                book.many_early -= 1
                if not early:
                    del book.early[key]
            else:
                book.open.setdefault(key, deque()).append(copy)
            book.handled += copy.handled_ns > 0
            self._put(book, some.pod, copy)

    def reported(self, pod: int, event: str, at_ns: int) -> None:
        """Take the report of a program that it has handled an event."""
        book, key = self.books[pod], event_key(event)
        if pod not in self._reporting or key >> 32 == self._probes:
            return
        copies = book.open.get(key)
        if copies is None:
            if book.many_early < MOST_EARLY:
                book.early.setdefault(key, deque()).append(at_ns)
                book.many_early += 1
            else:
                book.unknown_reports += 1
            return
        copy = copies.popleft()
        if not copies:
            del book.open[key]
        copy.handled_ns = max(copy.received_ns, at_ns)
        book.handled += 1
        self._write(book, pod)

    # -- rows in order -----------------------------------------------------------------------------------------

    def _put(self, book: PodBook, pod: int, copy: _Given) -> None:
        book.waiting.append(copy)
        self._write(book, pod)
        if len(book.waiting) > MOST_WAITING:
            self._give_up(book, pod)

    def _write(self, book: PodBook, pod: int) -> None:
        """Write down the copies that are handled, up to the first that is not."""
        waiting, add = book.waiting, self._recorder.deliveries.add
        while waiting and waiting[0].handled_ns:
            copy = waiting.popleft()
            add(copy.key, pod, copy.received_ns, copy.handled_ns)

    def _give_up(self, book: PodBook, pod: int) -> None:
        """Write down the oldest copy as not handled, and what waited for it."""
        copy = book.waiting.popleft()
        copies = book.open[copy.key]
        copies.remove(copy)
        if not copies:
            del book.open[copy.key]
        if copy.received_ns < self._in_time_ns:
            book.unhandled += 1
        else:
            book.on_the_way += 1
        self._recorder.deliveries.add(copy.key, pod, copy.received_ns, copy.received_ns, outcome=_FAILED)
        self._write(book, pod)

    def ended(self, pod: int, *, in_time_ns: int = FOREVER_NS) -> PodBook:
        """Take the end of an incarnation, whose output is read to its end: return its book, and begin a new one.

        Parameters
        ----------
        in_time_ns
            Copies that were given to it from then on were on their way when it ended.
        """
        book, self.books[pod] = self.books[pod], PodBook()
        self._in_time_ns = in_time_ns
        while book.waiting:
            self._give_up(book, pod)
        self._in_time_ns = FOREVER_NS
        book.unknown_reports += book.many_early
        return book

    def waiting(self) -> int:
        """Return how many copies have been given to programs that report, and are not reported."""
        return sum(sum(map(len, book.open.values())) for book in self.books.values())
