"""Count reads of caches that were served a copy older than the newest update, and say how long that went on.

An *update* of a template or provider happens in the database at the intended time of the `config.template.invalidated` or
`config.provider.invalidated` that announces it, whatever became of the announcement; updates of warm-up and run count. A
`config.cache.invalidate` drops copies and is no update. On any bus, an event of a channel with `invalidates` is an update of the key that
it names; one that names a pattern or nothing drops copies and is none. Reads are those of the `run` phase.

- **stale read**: its copy was loaded before an update that had happened by the time of the read. It *missed* every update in between.
- **stale for**: the time of a stale read minus the first update that its copy missed: how long the copy had been out of date.
- **stale pair**: a pod and an update, where the pod served a copy that missed the update.
- **never heard**: a stale pair whose pod has no delivery of the update's event: it kept the copy until something else cleared it.
  **not dropped**: a stale pair with a delivery, but none that was handled (it failed, or a recipe for once left it to another pod).
- **after handling**: a stale read later than the start of a handler in its pod for an update that it missed. A handler that takes time
  explains it; nothing else should.
- **fresh after**: of an update, from its time until the last pod that had read the subject and not yet loaded the new copy began to
  handle its event. Pods that never heard are not in it.

Staleness breaks no promise of Pub/Sub, so it is valid without a limit in `[slo]`; reads that were meant and not made are unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sim.machine.words import amount, count, duration
from sim.record.reader import FOREVER_NS, Array, codes_in, codes_of, positions, quantiles
from sim.record.schema import OTHERS, event_id
from sim.results.checkers.verdict import CLOCKS, MAX_WITNESSES, Bounds, Result, between
from sim.results.heard import RESULTS
from sim.results.opened_run import Run
from sim.results.pieces import Piece

UPDATES = {"config.template.invalidated": 1, "config.provider.invalidated": 1}
QUANTILES = {"p50": 0.5, "p99": 0.99, "max": 1.0}
MAX_NAMES = 10  # at most so many pods are named in the sentence
METRICS = {"p99": "stale_ms_p99", "max": "stale_ms_max"}


class Updates(NamedTuple):
    """All updates, by subject and time.

    `row` is its row in `publishes`, `rank` its place among all updates in time, `ordered_ns` the times in that order.
    """

    row: Array
    subject: Array
    at_ns: Array
    rank: Array
    ordered_ns: Array

    def before(self, subject: Array, at_ns: Array) -> Array:
        """Return for each subject and time the row behind the last update of the subject that happened by then."""
        many = len(self.at_ns) + 1
        key = subject.astype(np.int64) * many + np.searchsorted(self.ordered_ns, at_ns, side="right")
        return np.searchsorted(self.subject.astype(np.int64) * many + self.rank, key)


class ReadColumns(NamedTuple):
    """Reads column by column, pods and subjects as codes."""

    at_ns: Array
    pod: Array
    subject: Array
    loaded_ns: Array


class HeardUpdates(NamedTuple):
    """When a pod began to handle an update's event, in rising order of `key`, which is (pod, update); `FOREVER_NS` = never."""

    key: Array
    handled_ns: Array


class Pairs(NamedTuple):
    """All stale pairs: the pod, the update, when a copy without it was last served, whether its event was heard, and when handled."""

    pod: Array
    update: Array
    served_ns: Array
    heard: Array
    handled_ns: Array


def check(run: Run) -> Result:
    """Count stale reads of the run phase, the pairs behind them, and how long until every pod was fresh."""
    meant = _meant(run)
    pods, subjects = codes_of(run.reads["pod"])[1], codes_of(run.reads["subject"])[1]
    every = ReadColumns(*(codes_of(run.reads[c])[0] if c in ("pod", "subject") else run.reads[c].to_numpy() for c in ReadColumns._fields))
    start_ns, end_ns = run.run_span
    judged = _rows(every, (every.at_ns >= start_ns) & (every.at_ns < end_ns))
    nothing = {"stale_reads": float("nan"), **dict.fromkeys(METRICS.values(), float("nan"))}
    if not len(judged.at_ns):
        if meant:
            return Result("unknown", "no data: the scenario means reads, and none was made in the run phase", metrics=nothing)
        return Result("valid", "the scenario means no reads of caches", metrics=nothing)
    updates = _updates(run, {subject: code for code, subject in enumerate(subjects) if subject != OTHERS})
    heard = _heard(run, updates, pods)
    first, behind = updates.before(judged.subject, judged.loaded_ns), updates.before(judged.subject, judged.at_ns)
    stale = np.flatnonzero(behind > first)
    for_ns = judged.at_ns[stale] - updates.at_ns[first[stale]]
    pairs = _pairs(heard, len(updates.row), _rows(judged, stale), first[stale], behind[stale])
    never = ~pairs.heard
    counts: dict[str, int | float] = {
        "reads": len(judged.at_ns),
        "hits": int((judged.loaded_ns < judged.at_ns).sum()),
        "updates": int(((updates.at_ns >= start_ns) & (updates.at_ns < end_ns)).sum()),
        "stale_reads": len(stale),
        "stale_pairs": len(pairs.pod),
        "never_heard": int(never.sum()),
        "never_heard_pods": len(np.unique(pairs.pod[never])),
        "not_dropped": int((pairs.heard & (pairs.handled_ns == FOREVER_NS)).sum()),
        "after_handling": int((pairs.served_ns > pairs.handled_ns).sum()),
    }
    counts |= _quantiles("stale_ms", for_ns) | _quantiles("fresh_ms", _fresh_after(heard, updates, every))
    error = run.clocks.greatest_error_ns
    found = _stale_reads(updates, judged, error) if error else float(len(stale))
    metrics: dict[str, float | Bounds] = {"stale_reads": found} | {
        name: float(counts.get(f"stale_ms.{q}", 0.0)) for q, name in METRICS.items()
    }
    witnesses = _witnesses(run, updates, pairs, pods, subjects)
    return Result("valid", _sentence(counts, pairs, pods), counts=counts, witnesses=witnesses, metrics=metrics, warnings=_warnings(run))


def _stale_reads(updates: Updates, reads: ReadColumns, error_ns: int) -> float | Bounds:
    """Return how many reads were stale; where pods read other clocks than publishers, between the fewest and the most."""
    stale = [
        updates.before(reads.subject, reads.at_ns + by) > updates.before(reads.subject, reads.loaded_ns + by)
        for by in (-error_ns, 0, error_ns)
    ]
    return between(float(np.all(stale, axis=0).sum()), float(np.any(stale, axis=0).sum()), CLOCKS)


def stale_for_at_best(run: Run, withheld: Callable[[Array, Array, Array], Array]) -> Array:
    """Return how long each stale read was stale, nanoseconds, without those that would have been fresh had nothing been withheld.

    Such a read's copy missed an update that the pod would have begun to handle before the read.

    Parameters
    ----------
    withheld
        Given rows of `publishes`, pods as numbers of `run.pod_histories` and when the pods began to handle them, returns how much of
        that time was withheld from the lab.
    """
    pods, subjects = codes_of(run.reads["pod"])[1], codes_of(run.reads["subject"])[1]
    every = ReadColumns(*(codes_of(run.reads[c])[0] if c in ("pod", "subject") else run.reads[c].to_numpy() for c in ReadColumns._fields))
    start_ns, end_ns = run.run_span
    judged = _rows(every, (every.at_ns >= start_ns) & (every.at_ns < end_ns))
    updates = _updates(run, {subject: code for code, subject in enumerate(subjects) if subject != OTHERS})
    heard = _heard(run, updates, pods)
    first, behind = updates.before(judged.subject, judged.loaded_ns), updates.before(judged.subject, judged.at_ns)
    stale = np.flatnonzero(behind > first)
    many, begun = len(updates.at_ns) + 1, np.flatnonzero(heard.handled_ns < FOREVER_NS)
    numbers = {history.pod: number for number, history in enumerate(run.pod_histories)}
    number = np.array([numbers.get(pod, -1) for pod in pods], dtype=np.int64)
    handled = heard.handled_ns.copy()
    handled[begun] -= withheld(updates.row[heard.key[begun] % many], number[heard.key[begun] // many], handled[begun])
    missed = (behind - first)[stale]
    read = np.repeat(np.arange(len(stale)), missed)
    update = np.repeat(first[stale] - np.cumsum(missed) + missed, missed) + np.arange(len(read))
    at = positions(heard.key, judged.pod[stale][read].astype(np.int64) * many + update)
    fresh = np.zeros(len(stale), dtype=bool)
    fresh[read[np.append(handled, FOREVER_NS)[at] <= judged.at_ns[stale][read]]] = True
    for_ns: Array = judged.at_ns[stale] - updates.at_ns[first[stale]]
    return for_ns[~fresh]


def _sentence(counts: dict[str, int | float], pairs: Pairs, pods: list[str]) -> str:
    if not counts["stale_reads"]:
        return f"none of {count(counts['reads'], 'read')} was stale"
    text = f"{amount(counts['stale_reads'])} of {count(counts['reads'], 'read')} {'was' if counts['stale_reads'] == 1 else 'were'} stale"
    text += f", at most for {duration(counts['stale_ms.max'] / 1e3)}"
    never = ~pairs.heard
    silent = sorted({pods[pod] for pod in pairs.pod[never]})
    names = ", ".join(silent[:MAX_NAMES]) + (f" and {len(silent) - MAX_NAMES:,} more" if len(silent) > MAX_NAMES else "")
    return text + (f"; {names} never heard of {count(len(np.unique(pairs.update[never])), 'update')}" if silent else "")


def _meant(run: Run) -> bool:
    """Return whether the scenario means reads."""
    services = run.scenario.get("services", {}).values()
    of_caches = [cache.get("reads_per_s", 0.0) for service in services for cache in service.get("caches", {}).values()]
    return any(float(rate) > 0 for rate in (run.scenario.get("load", {}).get("reads_per_s", 0.0), *of_caches))


def _rows(reads: ReadColumns, rows: Array) -> ReadColumns:
    return ReadColumns(*(column[rows] for column in reads))


def _updates(run: Run, codes: dict[str, int]) -> Updates:
    """Return the updates of subjects that somebody read."""
    publishes = run.publishes
    names, words = codes_of(publishes["subject"])
    subject = np.array([*(codes.get(word, -1) for word in words), -1], dtype=np.int64)[names]
    own = {name: 1 for name, channel in run.scenario.get("channels", {}).items() if channel.get("invalidates")}
    announced = (codes_in(publishes["channel"], UPDATES | own) == 1) & (publishes["items"].to_numpy() > 0) & (subject >= 0)
    once = np.sort(run.index.row[:-1])  # an event that stands twice is one update
    rows = once[announced[once]]
    at_ns = publishes["intended_ns"].to_numpy()[rows]
    in_time = np.argsort(at_ns, kind="stable")
    rank = np.empty(len(rows), dtype=np.int64)
    rank[in_time] = np.arange(len(rows))
    order = np.lexsort((rank, subject[rows]))
    return Updates(rows[order], subject[rows][order], at_ns[order], rank[order], at_ns[in_time])


def _pairs(heard: HeardUpdates, updates: int, stale: ReadColumns, first: Array, behind: Array) -> Pairs:
    """Return every (pod, update that it served a copy without); the last stale read of a copy missed all that its earlier ones did."""
    many = updates + 1
    copies, copy = np.unique(stale.pod.astype(np.int64) * many + first, return_inverse=True)
    last, served = np.zeros(len(copies), dtype=np.int64), np.zeros(len(copies), dtype=np.int64)
    np.maximum.at(last, copy, behind)
    np.maximum.at(served, copy, stale.at_ns)
    missed = last - copies % many
    begin = np.repeat(copies % many - np.cumsum(missed) + missed, missed)
    update = begin + np.arange(len(begin))
    pod, served = np.repeat(copies // many, missed), np.repeat(served, missed)
    # no pair stands twice: the pod's next copy of a subject was loaded after all that this one missed
    at = positions(heard.key, pod * many + update)
    return Pairs(pod, update, served, at < len(heard.key), np.append(heard.handled_ns, FOREVER_NS)[at])


def _heard(run: Run, updates: Updates, pods: list[str]) -> HeardUpdates:
    """Return what the readers heard of the updates; of several deliveries to a pod, the first that was handled."""
    update_of_row = np.full(len(run.publishes) + 1, -1, dtype=np.int64)  # one more for events that nobody published
    update_of_row[updates.row] = np.arange(len(updates.row))
    update_of_event = update_of_row[run.index.row]
    readers = {name: code for code, name in enumerate(pods)}
    reader = [readers.get(history.pod, -1) for history in run.pod_histories]

    def of_piece(piece: Piece) -> tuple[Array, Array]:
        keys, times = [np.array([], dtype=np.int64)], [np.array([], dtype=np.int64)]
        for pod in piece.pods if len(updates.row) else ():
            rows = piece.heard.rows(pod) if reader[pod] >= 0 else np.array([], dtype=np.int32)
            update = update_of_event[piece.heard.event_of[rows]]
            rows, update = rows[update >= 0], update[update >= 0]
            begun = piece.heard.outcome[rows] == RESULTS["handled"]
            times.append(np.where(begun, piece.heard.handled_ns[rows], FOREVER_NS))
            keys.append(reader[pod] * (len(updates.row) + 1) + update)
        return np.concatenate(keys), np.concatenate(times)

    key, handled = (np.concatenate(column) for column in zip(*run.pieces.each(of_piece), strict=True))
    order = np.lexsort((handled, key))
    key, first = np.unique(key[order], return_index=True)
    return HeardUpdates(key, handled[order][first])


def _fresh_after(heard: HeardUpdates, updates: Updates, reads: ReadColumns) -> Array:
    """Return for each update that some pod had to drop how long that took until the last of them began to handle it."""
    key, handled = (column[heard.handled_ns < FOREVER_NS] for column in heard)
    pod, update = key // (len(updates.at_ns) + 1), key % (len(updates.at_ns) + 1)
    place = np.unique(np.concatenate([_use(reads.pod, reads.subject), _use(pod, updates.subject[update])]), return_inverse=True)[1]
    used, wanted = place[: len(reads.pod)], place[len(reads.pod) :]
    clock = np.sort(reads.at_ns)
    many = len(clock) + 1
    by_use = np.lexsort((reads.at_ns, used))
    read_key = used[by_use] * many + np.searchsorted(clock, reads.at_ns[by_use], side="right")
    last = np.searchsorted(read_key, wanted * many + np.searchsorted(clock, handled, side="right"), side="right") - 1
    row = by_use[np.maximum(last, 0)]
    held = (last >= 0) & (used[row] == wanted) & (reads.loaded_ns[row] < updates.at_ns[update])
    longest = np.full(len(updates.at_ns), -1, dtype=np.int64)
    np.maximum.at(longest, update[held], (handled - updates.at_ns[update])[held])
    return longest[longest >= 0]


def _use(pod: Array, subject: Array) -> Array:
    return pod.astype(np.int64) << 32 | subject.astype(np.int64)


def _quantiles(name: str, values_ns: Array) -> dict[str, int | float]:
    return {f"{name}.{quantile}": value / 1e6 for quantile, value in quantiles(values_ns, QUANTILES).items()}


def _witnesses(run: Run, updates: Updates, pairs: Pairs, pods: list[str], subjects: list[str]) -> list[str]:
    """Return the pairs that were served stale for longest, those that never heard first."""
    texts, events = [], run.publishes["event"].to_numpy()
    for_ns = pairs.served_ns - updates.at_ns[pairs.update]
    for pair in np.lexsort((-for_ns, pairs.heard))[:MAX_WITNESSES]:
        row = pairs.update[pair]
        text = f"{event_id(int(events[updates.row[row]]))} of {subjects[updates.subject[row]]}: {pods[pairs.pod[pair]]} served the old copy"
        texts.append(f"{text} until {duration(for_ns[pair] / 1e9)} after it" + ("" if pairs.heard[pair] else ", and never heard of it"))
    return texts


def _warnings(run: Run) -> list[str]:
    lost = any(OTHERS in codes_of(table["subject"])[1] for table in (run.reads, run.publishes))
    return [f"more subjects than the record keeps apart: what it calls {OTHERS} is left out of the updates"] if lost else []
