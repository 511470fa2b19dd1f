"""Answer in a few numbers what happened in a run: what each service lost, how long it heard nothing, when all was back, how late it was.

That a run kept its limits says nothing of this: Pub/Sub may lose events, and a scenario may promise little. So a page has both.

- **lost**: events of the run phase that no pod of the service heard although its publisher knows what became of them (`sim.results.lost`).
  **in doubt**: that nobody knows of. **not handled**: that pods heard, and none of them ran. **heard by some**: only by some of its pods.
- **longest silence**: from the first to the last copy of the longest unbroken row of copies that one pod lost, whatever the cause, in the
  order in which events were meant; where the row is of one copy, no time at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from sim.machine.words import amount, count, duration, listed
from sim.record.limits import read_metric
from sim.record.reader import FOREVER_NS, Array
from sim.results.checkers.verdict import Bounds, JudgedLimit, Verdict, bound, least_of, told
from sim.results.copies import FATE
from sim.results.opened_run import Run
from sim.results.over_time import is_lost
from sim.results.pieces import Piece
from sim.results.plots import LAG_LIMITS

FEW, ONE_TENTH = 0.001, 0.1  # shares that are told in words, and with a digit behind the point


class ServiceLoss(NamedTuple):
    """How many events one service should have heard in the run phase, and what of them it did not, and why."""

    service: str
    events: int
    lost: int
    in_doubt: int
    not_handled: int
    by_some: int
    why: str

    @property
    def share(self) -> float:
        """The lost share of its events."""
        return self.lost / self.events if self.events else 0.0


class Silence(NamedTuple):
    """The longest unbroken row of lost copies of one pod, in seconds since the run phase began; `copies` is 0 where no copy was lost."""

    pod: str
    begin_s: float
    end_s: float
    copies: int

    @property
    def seconds(self) -> float:
        """How long it went on."""
        return self.end_s - self.begin_s


NO_SILENCE = Silence("", 0.0, 0.0, 0)
NAMED_LIMITS = 3  # in the box of the answer; all stand in their table


class WhatHappened(NamedTuple):
    """What happened in a run; each figure is its name, its value and what it is about."""

    services: list[ServiceLoss]
    silence: Silence
    figures: list[tuple[str, str, str]]
    headline: str


def answer_of(run: Run, verdict: Verdict, lost_rows: list[tuple[str, str, str, int, int]]) -> WhatHappened:
    """Return what happened.

    Parameters
    ----------
    lost_rows
        Events that services never handled: see `sim.results.lost.lost_events`.
    """
    services, silence = _services(run, lost_rows), longest_silence(run)
    figures = [_fault_figure(run), _silence_figure(silence), *_fault_figures(run, verdict), _lag_figure(run, verdict)]
    return WhatHappened(services, silence, figures, headline(run, services, silence))


def _services(run: Run, lost_rows: list[tuple[str, str, str, int, int]]) -> list[ServiceLoss]:
    found = []
    for of in run.tally.scopes():
        if of.scope != "service":
            continue
        served = run.tally.served(of)
        mine = [(how, cause, many) for service, how, cause, many, _ in lost_rows if service == of.subject]
        not_handled = sum(many for how, _, many in mine if how in ("failed", "skipped"))
        why = ", ".join(f"{cause or how} {many:,}" for how, cause, many in sorted(mine, key=lambda row: -row[2]))
        lost = served["unserved"] - served["in_doubt"]
        found.append(ServiceLoss(of.subject, served["pairs"], lost, served["in_doubt"], not_handled, served["half_served"], why))
    return sorted((one for one in found if one.events), key=lambda one: (-one.share, -one.lost, -one.by_some, one.service))


def longest_silence(run: Run) -> Silence:
    """Return the longest unbroken row of copies of the run phase that one pod lost."""
    intended, zero = run.publishes["intended_ns"].to_numpy(), run.run_span[0]
    order = np.argsort(intended, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))

    def of_piece(piece: Piece) -> Silence:
        lost = is_lost(piece) & piece.in_run & (piece.publish >= 0)
        heard = (piece.fate == FATE["delivered"]) & piece.in_run
        pods = np.unique(piece.pod[lost])
        if not len(pods):
            return NO_SILENCE
        rows = np.flatnonzero((lost | heard) & np.isin(piece.pod, pods))
        rows = rows[np.argsort(piece.pod[rows].astype(np.int64) * len(rank) + rank[piece.publish[rows]], kind="stable")]
        bounds = np.flatnonzero(np.diff(piece.pod[rows], prepend=-1))
        of_pods = zip(
            np.split(lost[rows], bounds[1:]), np.split(intended[piece.publish[rows]] - zero, bounds[1:]), pods.tolist(), strict=True
        )
        found = [_longest_row(run.pod_histories[pod].pod, some, at_ns) for some, at_ns, pod in of_pods]
        return max(found, key=lambda one: (one.copies > 0, one.seconds, one.copies), default=NO_SILENCE)

    silences = [*run.pieces.each(of_piece), *_without_pods(run)]
    return max(silences, key=lambda one: (one.copies > 0, one.seconds, one.copies), default=NO_SILENCE)


def _without_pods(run: Run) -> Iterator[Silence]:
    """Yield the longest row of events of the run phase that were for each service while it had no pod; others between them end a row."""
    books, publishes = run.service_books, run.publishes
    intended, in_run = publishes["intended_ns"].to_numpy(), (publishes["phase"] == "run").to_numpy()
    for service in np.unique(books.service[books.alone]).tolist():
        rows = np.flatnonzero((books.service == service) & in_run[books.publish])
        rows = rows[np.argsort(intended[books.publish[rows]], kind="stable")]
        lost, at_ns = books.fate[rows] == FATE["missing"], intended[books.publish[rows]] - run.run_span[0]
        yield _longest_row(f"{run.services[service]} (no pod)", lost, at_ns)


def _longest_row(name: str, lost: Array, at_ns: Array) -> Silence:
    """Return the longest unbroken row of what is lost, of copies in the order of time."""
    if not lost.any():
        return NO_SILENCE
    opens, closes = lost & np.append(True, ~lost[:-1]), lost & np.append(~lost[1:], True)
    begins, ends = np.flatnonzero(opens), np.flatnonzero(closes)
    longest = np.lexsort((ends - begins, at_ns[ends] - at_ns[begins]))[-1]
    begin, end = int(begins[longest]), int(ends[longest])
    return Silence(name, int(at_ns[begin]) / 1e9, int(at_ns[end]) / 1e9, end - begin + 1)


def headline(run: Run, services: list[ServiceLoss], silence: Silence) -> str:
    """Return in one or two plain sentences what was lost: the service that lost the largest share, the share, and for how long."""
    if run.info.fleet == "none":
        return "The fleet is not ours: who heard, and what was lost, is not known."
    losers = [one for one in services if one.lost]
    if not services:
        return "No data: no event of the run phase was for any service."
    doubted = sum(one.in_doubt for one in services)
    if not losers and doubted:
        return f"No event is known to be lost, but of {count(doubted, 'event')} nobody knows."
    if not losers:
        return _kept(run, services, silence)
    maybe = f" Of {count(doubted, 'more event')} nobody knows." if doubted else ""
    worst = losers[0]
    of_it = f"{worst.lost:,} of {worst.events:,}"
    if len(losers) == 1:
        text = f"{worst.service} lost {percent(worst.share)} of its events: {of_it}."
    else:
        who = f"All {len(services)} services" if len(losers) == len(services) else f"{len(losers)} of {len(services)} services"
        text = f"{who} lost events, {worst.service} the largest share: {percent(worst.share)}, {of_it}."
    return f"{text}{_silent(silence)}{maybe}"


def _kept(run: Run, services: list[ServiceLoss], silence: Silence) -> str:
    not_handled, by_some = (sum(getattr(one, kind) for one in services) for kind in ("not_handled", "by_some"))
    if not_handled:
        worst = max(services, key=lambda one: one.not_handled)
        return f"No event was lost, but {worst.service} never handled {worst.not_handled:,} of its {count(worst.events, 'event')}."
    if by_some:
        worst = max(services, key=lambda one: one.by_some)
        some = f"{count(worst.by_some, 'event')} of {worst.service} ({percent(worst.by_some / worst.events)}) did not reach all of its pods"
        return f"Every event reached its services, but {some}.{_silent(silence)}"
    events = run.tally.events
    one = "The one event" if events == 1 else f"All {events:,} events"
    return f"Nothing was lost: {one[0].lower()}{one[1:]} reached every service that should handle {'it' if events == 1 else 'them'}."


def _silent(silence: Silence) -> str:
    if not silence.copies or silence.seconds <= 0:
        return ""
    return f" {silence.pod} lost all that was for it for {duration(silence.seconds)}, from {_at(silence.begin_s, silence.end_s)}."


def percent(share: float) -> str:
    """Return a share as a percentage that is 0 % only of nothing and 100 % only of all."""
    if share in (0, 1):
        return f"{100 * share:.0f} %"
    if share < FEW or share > 1 - FEW:
        return "under 0.1 %" if share < FEW else "over 99.9 %"
    return f"{100 * share:.1f} %" if share < ONE_TENTH or share > 1 - ONE_TENTH else f"{100 * share:.0f} %"


def _at(begin_s: float, end_s: float) -> str:
    return f"{begin_s:.1f} to {end_s:.1f} s"


def _silence_figure(silence: Silence) -> tuple[str, str, str]:
    name = "longest silence"
    if not silence.copies:
        return name, "none", "no pod lost a copy"
    if silence.seconds <= 0:
        return name, "one copy", f"{silence.pod}, at {silence.begin_s:.1f} s"
    return name, duration(silence.seconds), f"{silence.pod}, {_at(silence.begin_s, silence.end_s)}"


def _fault_figure(run: Run) -> tuple[str, str, str]:
    """Return which faults there were, and when the first began and the last ended."""
    rows = sorted(run.faults.to_dict("records"), key=lambda row: row["begin_ns"])
    if not rows:
        return "faults", "none", "nothing was broken on purpose"
    names, zero = list(dict.fromkeys(str(row["fault"]) for row in rows)), run.run_span[0]
    begin, ends = (rows[0]["begin_ns"] - zero) / 1e9, [row["end_ns"] for row in rows]
    span = _at(begin, (max(ends) - zero) / 1e9) if all(ends) else f"{begin:.1f} s to the end"
    shown = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    return ("fault" if len(rows) == 1 else f"{len(rows)} faults"), shown, f"{span}, {_targets(run, rows)}"


def _targets(run: Run, rows: list[dict[Any, Any]]) -> str:
    """Return what faults were on, in a few words."""
    targets = {name for row in rows for name in str(row["target"]).split(",") if name}
    pods = targets & {history.pod for history in run.pod_histories}
    others = sorted(targets - pods)[:2]
    return listed(others + ([sorted(pods)[0] if len(pods) == 1 else count(len(pods), "pod")] if pods else [])) or "the broker"


def _fault_figures(run: Run, verdict: Verdict) -> list[tuple[str, str, str]]:
    """Return how long pods stayed deaf after a fault had ended, and how long it took until all was as before."""
    if not len(run.faults):
        return [("deaf after a fault", "no fault", "none was begun"), ("all back after", "no fault", "none was begun")]
    return [
        ("deaf after a fault", *_after(verdict, "deaf", "deaf_s_max", "the longest of any pod, from the end of the fault")),
        ("all back after", *_after(verdict, "steady", "steady_s_max", "until all pods were connected and nothing more was lost")),
    ]


def _after(verdict: Verdict, checker: str, metric: str, meaning: str) -> tuple[str, str]:
    result = verdict.checkers.get(checker)
    value = result.metrics.get(metric) if result else None
    if result is None or value is None or np.isnan(least_of(value)):
        return "not known", result.detail if result else "it was not asked"
    if not isinstance(value, Bounds):
        return duration(value), meaning
    return f"at least {duration(value.low)}" if np.isinf(value.high) else f"{duration(value.low)} to {duration(value.high)}", meaning


def _lag_figure(run: Run, verdict: Verdict) -> tuple[str, str, str]:
    limits = [one for one in verdict.slo if read_metric(one.metric).base in LAG_LIMITS and not read_metric(one.metric).scope]
    worst = min(limits, key=lambda one: ("invalid", "unknown", "valid").index(one.verdict), default=None)
    metric = worst.metric if worst else "lag_ms_p99"
    name = f"lag, {read_metric(metric).base.removeprefix('lag_ms_')}"
    found = verdict.checkers["lag"].metrics.get(metric) if "lag" in verdict.checkers else None
    if found is None or np.isnan(least_of(found)):
        return name, "not known", "nothing was delivered"
    value = duration(found / 1e3) if not isinstance(found, Bounds) else told(metric, found)
    if worst is None:
        return name, value, "no limit is set on it"
    kept = {"valid": "kept", "invalid": "broken", "unknown": "not known whether kept"}[worst.verdict]
    return name, value, f"limit: {bound(metric, worst.limit)}, {kept}"


def title_of(run: Run) -> str:
    """Return the title of this run, from its tables: what was there, and what it did."""
    pods, services = len(run.pod_histories), len({history.service for history in run.pod_histories})
    fleet = f"{count(pods, 'pod')} of {count(services, 'service')}" if pods else "no pods of ours"
    ended = "" if run.info.state == "complete" else f" ({run.info.state})"
    return f"{run.info.scenario}: {fleet}, {_load(run)}, on {run.info.ground}{ended}"


def _load(run: Run) -> str:
    begin, end = run.run_span
    in_run = (run.publishes["phase"] == "run").to_numpy()
    if "run" not in run.phases:
        return "ended before its run phase"
    events = run.publishes["event"].to_numpy()[in_run]
    many = len(np.unique(events)) if len(events) else 0
    if end == FOREVER_NS:
        return f"{count(many, 'event')} until it ended early"
    return f"{count(many, 'event')} in {amount((end - begin) / 1e9)} s"


def _named(limits: list[JudgedLimit]) -> str:
    """Return limits with what was measured, the first few of them."""
    rest = [f"{len(limits) - NAMED_LIMITS} more"] if len(limits) > NAMED_LIMITS else []
    return "; ".join([one.detail.removesuffix(" as promised") for one in limits[:NAMED_LIMITS]] + rest)


def promises(verdict: Verdict) -> tuple[str, str, str]:
    """Return whether limits and promises were kept: a verdict, a word for it, and one sentence."""
    limits = count(len(verdict.slo), "limit") + " of the scenario" if verdict.slo else ""
    if verdict.verdict == "valid":
        named = f"{limits} ({_named(verdict.slo)}), and what the bus promises"
        kept = named if limits else "what the bus promises; the scenario sets no limits of its own"
        return "valid", "Yes", kept[0].upper() + kept[1:] + "."
    mine = [one for one in verdict.slo if one.verdict == verdict.verdict]
    reasons, word = verdict.reasons, "No" if verdict.verdict == "invalid" else "Not known"
    more = f", and {count(len(reasons) - 1, 'more reason')}" if len(reasons) > 1 else ""
    of_limits = f"{len(mine)} of {limits}: " if mine and reasons and reasons[0] == mine[0].detail else ""
    return verdict.verdict, word, f"{of_limits}{reasons[0] if reasons else 'nothing was judged'}{more}."
