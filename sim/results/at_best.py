"""What a metric would have been at best, had nothing been withheld from the lab: so a limit is broken by the bus, or may not be.

Rules
-----
1. A *time* loses what was withheld, inside it, from the processes that it passed (`sim.results.passages`); times that do not overlap
   share what there is.
2. A *count* loses what a stall may have made: what gave up waiting, or was away for longer. Such a loss has a stall at most `HORIZON_NS`
   before it, and is outside the time that a fault was meant to be on, in which it would have been lost anyway.
3. Nothing that a machine does makes a pod of Pub/Sub hear an event twice, or events of one publisher overtake each other, or be heard by
   whom they are not for. Where a transport hands an entry on when its time is out, a stall or a step of the wall clock can do the
   former two.
4. A recipe for once that holds its lock while the handler runs is late or not: a second run loses what was withheld on its copy's way.
   One that keeps a marker is broken by a second run, unless the marker's time ran out only because of what was withheld between the
   two, or because the wall clock was set forward.
5. What this file does not know is at best anything when there was a stall in the run phase, and as measured when there was none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from sim.record.limits import read_metric
from sim.record.reader import FOREVER_NS, Array, codes_in, codes_of
from sim.record.schema import HTTP_CALL
from sim.results.client import longest_pause_s
from sim.results.copies import CAUSE, FATE, OUTCOME
from sim.results.handling import longest_ms
from sim.results.heard import RESULTS
from sim.results.opened_run import Run
from sim.results.outages import load_end, read_outages
from sim.results.passages import Passages, by_publisher, excusable, kept_at_best
from sim.results.pieces import Piece
from sim.results.stated_ages import read_stated_ages
from sim.results.values import Values, new_values
from sim.results.withheld import Withheld, hosts_of_pods, read_withheld

HORIZON_NS = 10_000_000_000  # reconnecting, with every bound and pause on the way, is over by then
SOON_NS = 1_000_000_000  # a loss may be noted so long before the row of the stall that made it
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "p9999": 0.9999, "max": 1.0}
PROMISE_ONCE = ("keep-marker", "two-key")


class _Times(NamedTuple):
    """How long some copies took, the most that each lost of it, from when on, and which events (rows of `publishes`) they are of."""

    took_ns: Array
    lost_ns: Array
    begin_ns: Array
    publish: Array


@dataclass(frozen=True)
class AtBest:
    """What the metrics of one run would have been at best.

    `stale_for_ns`, given a function like `Passages.arriving`, returns how long each read was stale that would have been stale even so.
    """

    run: Run
    stale_for_ns: Callable[[Callable[[Array, Array, Array], Array]], Array]

    @cached_property
    def withheld(self) -> Withheld:
        """What the machine withheld."""
        return read_withheld(self.run)

    @cached_property
    def _passages(self) -> Passages:
        return Passages(self.run, self.withheld)

    def concerns(self, metric: str) -> bool:
        """Return whether anything that a machine does can change a metric, see rule 3."""
        name = metric.partition(".")[0]
        return name != "unexpected" and (name not in ("duplicates", "out_of_order") or self.run.one_per_service)

    def value(self, metric: str, measured: float, limit: float) -> float:
        """Return the metric at best, in its unit: -inf (inf of a `_min`) where it may have been anything.

        What was withheld is given out so that the limit is kept, where that can be.

        Parameters
        ----------
        metric
            One of `schema.SLO_METRICS`, or such a one narrowed to a channel or a service: ``missing.channel."config.updated"``.
        measured
            What it is.
        """
        name = metric.partition(".")[0]
        if not self.concerns(metric):
            return measured
        known = {
            "lag_ms": self._lag,
            "send_delay_ms": self._send_delay,
            "call_ms": self._call,
            "item_age_ms": self._item_age,
            "stale_ms": self._stale,
            "stated_age_ms": self._stated_age,
        }
        stem, _, quantile = name.rpartition("_")
        if stem in known and quantile in QUANTILES:
            values = known[stem](metric, limit * 1e6)
            return values.quantiles({name: QUANTILES[quantile]})[name] / 1e6 if len(values) else -math.inf
        counts = {
            "missing": self._missing,
            "missing_ratio": self._missing,
            "unserved": self._unserved,
            "unserved_ratio": self._unserved,
            "half_served": self._half_served,
            "items_lost": self._items_lost,
            "calls_failed": self._calls_failed,
        }
        if name in counts:
            return counts[name](metric)
        if name == "stale_reads":
            return float(len(self._stale(metric, 0.0)))
        if name == "from_future":
            return self._from_future()
        if name == "handled_twice":
            return float(self.handled_twice())
        if name in ("time_to_notice_s_max", "time_to_recover_s_max", "deaf_s_max", "steady_s_max"):
            return self._reaction(name, measured)
        if name == "offered_ratio_min":
            return min(1.0, measured + self._share_withheld())
        disturbed = self._stalled_in(*self.run.run_span) or (self.run.one_per_service and self.withheld.stepped(*self.run.run_span))
        return (math.inf if metric.endswith("_min") else -math.inf) if disturbed else measured

    # -- times ---------------------------------------------------------------------------------------------------

    def _chooser(self, metric: str) -> Callable[[Piece], Array]:
        """Return what says which copies of a piece a metric is about: of the run phase, and of the channel or service that it names."""
        of, run = read_metric(metric), self.run
        pods = np.array([of.scope != "service" or history.service == of.subject for history in run.pod_histories], dtype=bool)
        events = (
            codes_in(run.publishes["channel"], {of.subject: 1}) == 1 if of.scope == "channel" else np.ones(len(run.publishes), dtype=bool)
        )

        def chosen(piece: Piece) -> Array:
            found: Array = piece.in_run & (piece.publish >= 0) & pods[piece.pod] & np.append(events, False)[piece.publish]
            return found

        return chosen

    def _at_best(self, times_of: Callable[[Piece], _Times], limit_ns: float) -> Iterator[tuple[Array, Array]]:
        """Yield events and times at best: piece by piece those that stay, then those that what was withheld is given out to."""
        excused: list[_Times] = []

        def of_piece(piece: Piece) -> tuple[_Times, Array]:
            times = times_of(piece)
            return times, excusable(times.took_ns, times.lost_ns, limit_ns=limit_ns)

        self._passages.sending()  # of the whole run, before pieces are worked on at a time
        for times, excuse in self.run.pieces.each(of_piece):
            excused.append(_Times(*(column[excuse] for column in times)))
            yield times.publish[~excuse], times.took_ns[~excuse]
        if excused:
            took, lost, begin, publish = (np.concatenate(column) for column in zip(*excused, strict=True))
            yield publish, kept_at_best(took, lost, begin, limit_ns=limit_ns, withheld=self.withheld)

    def _values(self, parts: Iterator[tuple[Array, Array]]) -> Values:
        in_file = self.run.pieces.whole is None
        values = new_values(in_file=in_file)
        for _, took in parts:
            values.add(np.sort(took) if in_file else took)
        return values

    def _lag(self, metric: str, limit_ns: float) -> Values:
        chosen, intended = self._chooser(metric), self.run.publishes["intended_ns"].to_numpy()

        def times_of(piece: Piece) -> _Times:
            rows = np.flatnonzero(chosen(piece) & (piece.fate == FATE["delivered"]))
            publish, handled = piece.publish[rows], piece.heard.handled_ns[piece.delivery[rows]]
            begin = intended[publish]
            return _Times(handled - begin, self._passages.arriving(publish, piece.pod[rows], handled), begin, publish)

        return self._values(self._at_best(times_of, limit_ns))

    def _send_delay(self, metric: str, limit_ns: float) -> Values:
        publishes = self.run.publishes
        sent, outcome = publishes["sent_ns"].to_numpy(), codes_in(publishes["outcome"], OUTCOME)
        rows = np.flatnonzero((publishes["phase"] == "run").to_numpy() & (sent > 0) & (outcome != OUTCOME["memory"]))
        begin, lost = publishes["intended_ns"].to_numpy()[rows], self._passages.sending()[rows]
        return Values([kept_at_best(sent[rows] - begin, lost, begin, limit_ns=limit_ns, withheld=self.withheld)])

    def _call(self, metric: str, limit_ns: float) -> Values:
        """Return what each call took; where it began late, by how late the loop of its process was."""
        calls, (begin_ns, end_ns) = self.run.calls, self.run.run_span
        intended, took = calls["intended_ns"].to_numpy(), calls["took_ns"].to_numpy()
        rows = np.flatnonzero((intended >= begin_ns) & (intended < end_ns) & (codes_in(calls["channel"], {HTTP_CALL: 1}) != 1))
        publisher, words = codes_of(calls["publisher"])
        by_pod, lost = hosts_of_pods(self.run), np.zeros(len(rows), dtype=np.int64)
        for code in np.unique(publisher[rows]).tolist():
            mine = publisher[rows] == code
            hosts = by_publisher(words[code], by_pod, tuple(self.run.info.load.generators))
            at, long = intended[rows][mine], took[rows][mine]
            late = np.max([np.zeros(len(at), dtype=np.int64), *(self.withheld.late_ns(host, at) for host in hosts)], axis=0)
            lost[mine] = np.minimum(self.withheld.over((*hosts, *self.withheld.servers), at, at + long + late), long)
        return Values([kept_at_best(took[rows], lost, intended[rows], limit_ns=limit_ns, withheld=self.withheld)])

    def _batches(self) -> Array:
        """Return which publishes are batches of which an item waited in the run phase."""
        publishes, (begin_ns, end_ns) = self.run.publishes, self.run.run_span
        items, first = publishes["items"].to_numpy(), publishes["first_item_ns"].to_numpy()
        batch = ((codes_in(publishes["channel"], dict.fromkeys(self.run.batched, 1)) == 1) & (items > 0)) | (items > 1)
        found: Array = batch & (first < end_ns) & (publishes["intended_ns"].to_numpy() >= begin_ns)
        return found

    def _item_age(self, metric: str, limit_ns: float) -> Values:
        """Return how old the oldest item of each batch was when the last pod that heard it began to handle it."""
        batch, first = np.append(self._batches(), False), self.run.publishes["first_item_ns"].to_numpy()

        def times_of(piece: Piece) -> _Times:
            rows = np.flatnonzero((piece.fate == FATE["delivered"]) & batch[piece.publish])
            publish, pod = piece.publish[rows], piece.pod[rows]
            begin, handled = first[publish], piece.heard.handled_ns[piece.delivery[rows]]
            lost = np.minimum(self._passages.to_pods(publish, pod, begin, handled), handled - begin)
            return _Times(handled - begin, np.maximum(lost, self._passages.arriving(publish, pod, handled)), begin, publish)

        age = np.full(len(first), -1, dtype=np.int64)
        for publish, ages in self._at_best(times_of, limit_ns):
            np.maximum.at(age, publish, ages)
        return Values([age[age >= 0]])

    def _stale(self, metric: str, limit_ns: float) -> Values:
        return Values([self.stale_for_ns(self._passages.arriving)])

    def _stated_age(self, metric: str, limit_ns: float) -> Values:
        """Return how old events seemed; of what a wrong clock adds to that nothing was withheld, only of the way that was really gone."""

        def times_of(piece: Piece) -> _Times:
            rows, ages = read_stated_ages(self.run, piece)
            publish, handled = piece.publish[rows], piece.heard.handled_ns[piece.delivery[rows]]
            return _Times(ages, self._passages.arriving(publish, piece.pod[rows], handled), handled - ages, publish)

        return self._values(self._at_best(times_of, limit_ns))

    def _reaction(self, name: str, measured: float) -> float:
        """Return a time since a fault began or ended, less what was withheld in it, and one more try of a connection after a stall."""
        long, best = round(measured * 1e9), measured
        pause_s = longest_pause_s(self.run.scenario.get("bus", {}))
        for outage in read_outages(self.run):
            begin = outage.begin_ns if name == "time_to_notice_s_max" else outage.end_ns
            lost_s = self._withheld_in(begin, begin + long) / 1e9
            lost_s += pause_s if self._stalled_in(outage.begin_ns, begin + long) else 0.0
            best = min(best, max(measured - lost_s, 0.0))
        return best

    def _withheld_in(self, begin_ns: int, end_ns: int) -> int:
        """Return what was withheld from all that may stand in the way of one pod: the servers, and of the others the worst."""
        begin, end = np.array([begin_ns]), np.array([end_ns])
        others = [int(self.withheld.of(host, begin, end)[0]) for host in self.withheld.accounts if host not in self.withheld.servers]
        return min(int(self.withheld.over(self.withheld.servers, begin, end)[0]) + max(others, default=0), end_ns - begin_ns)

    # -- counts --------------------------------------------------------------------------------------------------

    def _stalled_in(self, begin_ns: int, end_ns: int, hosts: Iterable[str] | None = None) -> bool:
        names = self.withheld.accounts if hosts is None else hosts
        return bool(self.withheld.stalled(names, np.array([begin_ns]), np.array([end_ns]))[0])

    def _stall_made(self, at_ns: Array, pod: Array) -> Array:
        """Return which losses a stall may have made, see rule 2; `pod` numbers `run.pod_histories`, -1 for none of the fleet."""
        meant = np.zeros(len(at_ns), dtype=bool)
        since = at_ns - HORIZON_NS
        lasts = self._meant_to_last_ns()
        for outage in read_outages(self.run):
            names = np.array([*(history.pod in outage.pods for history in self.run.pod_histories), True])
            concerned = names[pod]
            end_ns = min(outage.begin_ns + lasts[outage.fault], outage.end_ns) if outage.fault in lasts else outage.end_ns
            meant |= concerned & (at_ns >= outage.begin_ns) & (at_ns <= end_ns)
            after = concerned & (at_ns > end_ns)
            since[after] = np.minimum(since[after], outage.begin_ns)
        made: Array = ~meant & self.withheld.stalled(self.withheld.accounts, since, at_ns + SOON_NS)
        return made

    def _meant_to_last_ns(self) -> dict[str, int]:
        """Return how long each kind of fault was meant to be on, where the scenario says so."""
        lasts: dict[str, int] = {}
        for fault in self.run.scenario.get("faults", []):
            if isinstance(fault, dict) and isinstance(fault.get("for_s"), int | float):
                kind = str(fault.get("kind"))
                lasts[kind] = max(lasts.get(kind, 0), round(float(fault["for_s"]) * 1e9))
        return lasts

    def _missing_copies(self, metric: str) -> Iterator[tuple[Array, Array, Array]]:
        """Yield events (rows of `publishes`) and pods of a metric's missing copies, and which of these a stall may have made."""
        chosen, due = self._chooser(metric), self._due_ns()

        def of_piece(piece: Piece) -> tuple[Array, Array, Array]:
            missing = np.flatnonzero(chosen(piece) & (piece.fate == FATE["missing"]))
            publish, pod = piece.publish[missing], piece.pod[missing]
            made: Array = self._stall_made(due[publish], pod) & (piece.cause[missing] != CAUSE["taken-by-peer"])
            return publish, pod, made

        return self.run.pieces.each(of_piece)

    def _missing(self, metric: str) -> float:
        made = sum(int(made.sum()) for *_, made in self._missing_copies(metric))
        fates = self.run.tally.fates(read_metric(metric))
        left = float(fates["missing"] - made)  # an event that found no pod of a service is no stall's doing
        if not metric.startswith("missing_ratio"):
            return left
        expected = fates["delivered"] + fates["missing"] + fates["unknown"]
        return left / expected if expected else math.nan

    def _unserved(self, metric: str) -> float:
        served, books = self.run.tally.served(read_metric(metric)), self.run.service_books
        pair = self._pairs_missing(metric, made=True)
        saved = np.flatnonzero(books.unserved[pair] & ~books.in_doubt[pair])  # one of its pods would have heard it
        left = float(served["unserved"] - served["in_doubt"] - len(saved))
        if metric.startswith("unserved_ratio"):
            return left / served["pairs"] if served["pairs"] else math.nan
        return left

    def _half_served(self, metric: str) -> float:
        return float(self.run.service_books.half_served[self._pairs_missing(metric, made=False)].sum())

    def _pairs_missing(self, metric: str, *, made: bool) -> Array:
        """Return the entries of the service books, each once, of the missing copies that a stall may have made, or of the others."""
        run, books = self.run, self.run.service_books
        many = len(run.publishes)
        keys = books.service.astype(np.int64) * many + books.publish
        wanted = [np.array([], dtype=np.int64)]
        for publish, pod, by_stall in self._missing_copies(metric):
            of_these = by_stall == made
            wanted.append(np.unique(run.service_of_pod[pod[of_these]].astype(np.int64) * many + publish[of_these]))
        order = np.argsort(keys)
        entries: Array = order[np.searchsorted(keys[order], np.unique(np.concatenate(wanted)))]
        return entries

    def _due_ns(self) -> Array:
        sent, intended = self.run.publishes["sent_ns"].to_numpy(), self.run.publishes["intended_ns"].to_numpy()
        due: Array = np.where(sent > 0, sent, intended)
        return due

    def _from_future(self) -> float:
        """Return how many copies came from the future while a clock was meant to be wrong: being late makes them older, never younger."""
        intended_ns, for_ns = self.run.publishes["intended_ns"].to_numpy(), self._meant_to_last_ns().get("clock_skew", FOREVER_NS)
        begins = self.run.faults.loc[self.run.faults["fault"] == "clock_skew", "begin_ns"].to_numpy()

        def of_piece(piece: Piece) -> int:
            rows, ages = read_stated_ages(self.run, piece)
            intended = intended_ns[piece.publish[rows[ages < 0]]]
            meant = np.zeros(len(intended), dtype=bool)
            for begin_ns in begins:
                meant |= (intended >= begin_ns) & (intended - begin_ns <= for_ns)
            made = ~meant & self.withheld.stalled(self.withheld.accounts, intended - HORIZON_NS, intended + SOON_NS)
            return int((~made).sum())

        return float(sum(self.run.pieces.each(of_piece)))

    def _items_lost(self, metric: str) -> float:
        rows, items = np.flatnonzero(self._batches() & (self.run.books.delivered == 0)), self.run.publishes["items"].to_numpy()
        return float(items[rows][~self._stall_made(self._due_ns()[rows], self._pod_of("publishes", rows))].sum())

    def _pod_of(self, table: str, rows: Array) -> Array:
        names = {history.pod: number for number, history in enumerate(self.run.pod_histories)}
        return codes_in(getattr(self.run, table)["publisher"], names)[rows]

    def _calls_failed(self, metric: str) -> float:
        calls, (begin_ns, end_ns) = self.run.calls, self.run.run_span
        intended = calls["intended_ns"].to_numpy()
        bus = codes_in(calls["channel"], {HTTP_CALL: 1}) != 1
        failed = codes_in(calls["outcome"], {"failed": 1}) == 1
        rows = np.flatnonzero(failed & bus & (intended >= begin_ns) & (intended < end_ns))
        return float((~self._stall_made(intended[rows], self._pod_of("calls", rows))).sum())

    def handled_twice(self) -> int:
        """Return how many events some service would have run more than once even so, see rule 4."""
        run, chosen = self.run, self._chooser("handled_twice")
        of_all = run.scenario.get("bus", {}).get("once_scope") == "event"  # then one lock is for all services
        number = np.zeros_like(run.service_of_pod) if of_all else run.service_of_pod
        many = len(run.services)

        def ran(piece: Piece) -> tuple[Array, Array]:
            """Return which copies were run, and the number of event and lock of each."""
            rows = np.flatnonzero(chosen(piece) & (piece.delivery >= 0) & (piece.fate != FATE["unexpected"]))
            rows = rows[piece.heard.outcome[piece.delivery[rows]] == RESULTS["handled"]]
            return rows, piece.publish[rows].astype(np.int64) * many + number[piece.pod[rows]]

        times = np.zeros(len(run.publishes) * many, dtype=np.int32)
        for pair in run.pieces.each(lambda piece: ran(piece)[1]):
            np.add.at(times, pair, 1)

        def run_again(piece: Piece) -> tuple[Array, ...]:
            rows, pair = ran(piece)
            handled = piece.heard.handled_ns[piece.delivery[rows]]
            lost = self._passages.arriving(piece.publish[rows], piece.pod[rows], handled)
            several = times[pair] > 1
            return tuple(column[several] for column in (pair, handled, lost, run.service_of_pod[piece.pod[rows]]))

        self._passages.sending()  # of the whole run, before pieces are worked on at a time
        found = list(run.pieces.each(run_again))
        if not found:
            return 0
        pair, handled, lost, service = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.lexsort((handled, pair))
        again = np.flatnonzero(np.diff(pair[order], prepend=-1) == 0)
        first, second = order[again - 1], order[again]
        made = self._lock_outlived(handled[first], handled[second], lost[second], [run.services[code] for code in service[second].tolist()])
        return len(np.unique(pair[second[~made]]))

    def _lock_outlived(self, first_ns: Array, second_ns: Array, lost_ns: Array, services: list[str]) -> Array:
        bus = self.run.scenario.get("bus", {})
        ttl_ns = int(float(bus["once_ttl_s"]) * 1e9) if "once_ttl_s" in bus else FOREVER_NS
        gap = second_ns - first_ns
        between = self.withheld.over(self.withheld.accounts, first_ns, second_ns)
        forward = np.zeros(len(gap), dtype=np.int64)
        for step in self.withheld.steps:
            forward += np.where((first_ns <= step.at_ns) & (second_ns + SOON_NS >= step.at_ns), max(step.by_ns, 0), 0)
        ran_out: Array = (gap + forward >= ttl_ns) & (gap - between < ttl_ns)
        if bus.get("once") in PROMISE_ONCE:
            return ran_out
        slow = max([0.0, *(float(f.get("handler_ms", 0.0)) for f in self.run.scenario.get("faults", []) if isinstance(f, dict))])
        longest = {name: longest_ms(self.run.scenario.get("services", {}).get(name, {})) for name in set(services)}
        took = np.array([max(slow, longest[name]) * 1e6 for name in services])
        return ran_out | ((lost_ns > 0) & (gap - lost_ns <= took))

    def _share_withheld(self) -> float:
        begin, end = self.run.run_span
        hosts = self.run.info.load.generators
        if not self._stalled_in(begin, end, hosts):
            return 0.0  # it was back in time for the next call
        lost = max(int(self.withheld.of(host, np.array([begin]), np.array([end]))[0]) for host in hosts)
        return lost / (end - begin) if end > begin else 0.0

    # -- checkers ------------------------------------------------------------------------------------------------

    def may_be_made(self, checker: str) -> bool:
        """Return whether what made a checker say invalid may be the machine's doing."""
        if checker == "once":
            return self.handled_twice() == 0
        if checker != "steady":
            return False
        ends = [outage.end_ns for outage in read_outages(self.run)]
        begin, end = max(ends, default=0), self.run.phases.get("drain", (0, FOREVER_NS))[1]
        return self._stalled_in(begin, max(end, load_end(self.run)))
