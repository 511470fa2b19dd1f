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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sim.record.limits import read_metric
from sim.record.reader import FOREVER_NS, Array, codes_in, codes_of
from sim.record.schema import HTTP_CALL
from sim.results.copies import CAUSE, FATE, OUTCOME
from sim.results.handling import longest_ms
from sim.results.opened_run import Run
from sim.results.outages import load_end, read_outages
from sim.results.passages import Passages, by_publisher, kept_at_best
from sim.results.stated_ages import read_stated_ages
from sim.results.withheld import Withheld, hosts_of_pods, read_withheld

HORIZON_NS = 10_000_000_000  # reconnecting, with every bound and pause on the way, is over by then
SOON_NS = 1_000_000_000  # a loss may be noted so long before the row of the stall that made it
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "p9999": 0.9999, "max": 1.0}
PROMISE_ONCE = ("keep-marker", "two-key")


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
            return float(np.quantile(values, QUANTILES[quantile], method="higher")) / 1e6 if len(values) else -math.inf
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

    def _chosen(self, metric: str) -> Array:
        """Return which copies a metric is about: of the run phase, and of the channel or service that it names."""
        run = self.run
        chosen: Array = run.copies_in("run") & (run.copies.publish >= 0)
        of = read_metric(metric)
        if of.scope == "service":
            chosen &= np.array([history.service == of.subject for history in run.pod_histories], dtype=bool)[run.copies.pod]
        elif of.scope == "channel":
            chosen &= codes_in(run.publishes["channel"], {of.subject: 1})[run.copies.publish] == 1
        return chosen

    def _lag(self, metric: str, limit_ns: float) -> Array:
        copies = self.run.copies
        rows = np.flatnonzero(self._chosen(metric) & (copies.fate == FATE["delivered"]))
        publish, handled = copies.publish[rows], self.run.deliveries["handled_ns"].to_numpy()[copies.delivery[rows]]
        begin = self.run.publishes["intended_ns"].to_numpy()[publish]
        lost = self._passages.arriving(publish, copies.pod[rows], handled)
        return kept_at_best(handled - begin, lost, begin, limit_ns=limit_ns, withheld=self.withheld)

    def _send_delay(self, metric: str, limit_ns: float) -> Array:
        publishes = self.run.publishes
        sent, outcome = publishes["sent_ns"].to_numpy(), codes_in(publishes["outcome"], OUTCOME)
        rows = np.flatnonzero((publishes["phase"] == "run").to_numpy() & (sent > 0) & (outcome != OUTCOME["memory"]))
        begin, lost = publishes["intended_ns"].to_numpy()[rows], self._passages.sending()[rows]
        return kept_at_best(sent[rows] - begin, lost, begin, limit_ns=limit_ns, withheld=self.withheld)

    def _call(self, metric: str, limit_ns: float) -> Array:
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
        return kept_at_best(took[rows], lost, intended[rows], limit_ns=limit_ns, withheld=self.withheld)

    def _item_age(self, metric: str, limit_ns: float) -> Array:
        copies, publishes = self.run.copies, self.run.publishes
        (begin_ns, end_ns), items = self.run.run_span, publishes["items"].to_numpy()
        first, intended = publishes["first_item_ns"].to_numpy(), publishes["intended_ns"].to_numpy()
        batch = ((codes_in(publishes["channel"], dict.fromkeys(self.run.batched, 1)) == 1) & (items > 0)) | (items > 1)
        batch &= (first < end_ns) & (intended >= begin_ns)
        rows = np.flatnonzero((copies.fate == FATE["delivered"]) & np.append(batch, False)[copies.publish])
        publish, pod = copies.publish[rows], copies.pod[rows]
        handled = self.run.deliveries["handled_ns"].to_numpy()[copies.delivery[rows]]
        lost = np.minimum(self._passages.to_pods(publish, pod, first[publish], handled), handled - first[publish])
        lost = np.maximum(lost, self._passages.arriving(publish, pod, handled))
        ages = kept_at_best(handled - first[publish], lost, first[publish], limit_ns=limit_ns, withheld=self.withheld)
        age = np.full(len(publishes), -1, dtype=np.int64)
        np.maximum.at(age, publish, ages)
        return age[age >= 0]

    def _stale(self, metric: str, limit_ns: float) -> Array:
        return self.stale_for_ns(self._passages.arriving)

    def _stated_age(self, metric: str, limit_ns: float) -> Array:
        """Return how old events seemed; of what a wrong clock adds to that nothing was withheld, only of the way that was really gone."""
        copies = self.run.copies
        rows, ages = read_stated_ages(self.run)
        handled = self.run.deliveries["handled_ns"].to_numpy()[copies.delivery[rows]]
        lost = self._passages.arriving(copies.publish[rows], copies.pod[rows], handled)
        return kept_at_best(ages, lost, handled - ages, limit_ns=limit_ns, withheld=self.withheld)

    def _reaction(self, name: str, measured: float) -> float:
        """Return a time since a fault began or ended, less what was withheld in it, and one more try of a connection after a stall."""
        long, best = round(measured * 1e9), measured
        pause_s = float(self.run.scenario.get("bus", {}).get("reconnect_max_s", 0.0))
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

    def _missing_copies(self, metric: str) -> tuple[Array, Array]:
        """Return the rows of the missing copies that a metric is about, and which of them a stall may have made."""
        copies, chosen = self.run.copies, self._chosen(metric)
        missing = np.flatnonzero(chosen & (copies.fate == FATE["missing"]))
        due = self._due_ns()[copies.publish[missing]]
        made: Array = self._stall_made(due, copies.pod[missing]) & (copies.cause[missing] != CAUSE["taken-by-peer"])
        return missing, made

    def _missing(self, metric: str) -> float:
        _, made = self._missing_copies(metric)
        fates = self.run.tally.fates(read_metric(metric))
        left = float(fates["missing"] - made.sum())  # an event that found no pod of a service is no stall's doing
        if not metric.startswith("missing_ratio"):
            return left
        expected = fates["delivered"] + fates["missing"] + fates["unknown"]
        return left / expected if expected else math.nan

    def _unserved(self, metric: str) -> float:
        missing, made = self._missing_copies(metric)
        served, books = self.run.tally.served(read_metric(metric)), self.run.service_books
        pair = self._pair_of(missing[made])
        saved = np.unique(pair[books.unserved[pair] & ~books.in_doubt[pair]])  # one of its pods would have heard it
        left = float(served["unserved"] - served["in_doubt"] - len(saved))
        if metric.startswith("unserved_ratio"):
            return left / served["pairs"] if served["pairs"] else math.nan
        return left

    def _half_served(self, metric: str) -> float:
        missing, made = self._missing_copies(metric)
        pair = self._pair_of(missing[~made])
        return float(len(np.unique(pair[self.run.service_books.half_served[pair]])))

    def _pair_of(self, rows: Array) -> Array:
        """Return the entry of the service books to which each of these copies belongs."""
        run, copies, books = self.run, self.run.copies, self.run.service_books
        many = len(run.publishes)
        keys = books.service.astype(np.int64) * many + books.publish
        order = np.argsort(keys)
        wanted = run.service_of_pod[copies.pod[rows]].astype(np.int64) * many + copies.publish[rows]
        entries: Array = order[np.searchsorted(keys[order], wanted)]
        return entries

    def _due_ns(self) -> Array:
        sent, intended = self.run.publishes["sent_ns"].to_numpy(), self.run.publishes["intended_ns"].to_numpy()
        due: Array = np.where(sent > 0, sent, intended)
        return due

    def _from_future(self) -> float:
        """Return how many copies came from the future while a clock was meant to be wrong: being late makes them older, never younger."""
        rows, ages = read_stated_ages(self.run)
        intended = self.run.publishes["intended_ns"].to_numpy()[self.run.copies.publish[rows[ages < 0]]]
        meant = np.zeros(len(intended), dtype=bool)
        for_ns, faults = self._meant_to_last_ns().get("clock_skew", FOREVER_NS), self.run.faults
        for begin_ns in faults.loc[faults["fault"] == "clock_skew", "begin_ns"].to_numpy():
            meant |= (intended >= begin_ns) & (intended - begin_ns <= for_ns)
        made = ~meant & self.withheld.stalled(self.withheld.accounts, intended - HORIZON_NS, intended + SOON_NS)
        return float((~made).sum())

    def _items_lost(self, metric: str) -> float:
        publishes, copies = self.run.publishes, self.run.copies
        (begin_ns, end_ns), items = self.run.run_span, publishes["items"].to_numpy()
        heard = np.zeros(len(publishes), dtype=bool)
        heard[copies.publish[copies.fate == FATE["delivered"]]] = True
        batch = ((codes_in(publishes["channel"], dict.fromkeys(self.run.batched, 1)) == 1) & (items > 0)) | (items > 1)
        batch &= (publishes["first_item_ns"].to_numpy() < end_ns) & (publishes["intended_ns"].to_numpy() >= begin_ns)
        rows = np.flatnonzero(batch & ~heard)
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
        run, copies = self.run, self.run.copies
        ran = np.flatnonzero(self._chosen("handled_twice") & (copies.delivery >= 0) & (copies.fate != FATE["unexpected"]))
        ran = ran[codes_in(run.deliveries["outcome"], {"handled": 1})[copies.delivery[ran]] == 1]
        services = sorted({history.service for history in run.pod_histories})
        service = np.array([services.index(history.service) for history in run.pod_histories], dtype=np.int64)[copies.pod[ran]]
        handled = run.deliveries["handled_ns"].to_numpy()[copies.delivery[ran]]
        of_all = run.scenario.get("bus", {}).get("once_scope") == "event"  # then one lock is for all services
        pair = copies.publish[ran].astype(np.int64) * len(services) + (0 if of_all else service)
        order = np.lexsort((handled, pair))
        again = np.flatnonzero(np.diff(pair[order], prepend=-1) == 0)
        first, second = order[again - 1], order[again]
        lost = self._passages.arriving(copies.publish[ran], copies.pod[ran], handled)[second]
        made = self._lock_outlived(handled[first], handled[second], lost, [services[code] for code in service[second].tolist()])
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
