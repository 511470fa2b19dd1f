"""Check the steady state before the first fault, without which nothing can be concluded, and after the last: did the lab heal?

- **steady before**: in the run phase until the first fault began, no pod that ran changed its state, and no copy is missing of what was
  meant and answered `MARGIN_NS` before that: what was still on its way then may have met the fault. A fault at the very beginning
  leaves the probes before the load as the proof.
- **recovered**: after the load, a probe on every channel was heard by every pod that runs; run.json says so. A pod that its bus's policy
  leaves alone (`bus.reattach` other than `automatic`; or one that never heard since its start, where the client rejects a first SUBSCRIBE
  after some retries) is a finding, not a lab that is broken.
- **steady again after**: from a fault's end until every pod believed what it did before, and the last copy was lost that was meant
  before the next fault began; of several faults, the longest. Faults that are on at the same time count as one. Where the next one began
  before a pod believed that again, only the least that it would have taken is known.

- **felt late, in part or not at all**: a fault that met a broker which another one had taken away. A sentence for each, with its times.

Not steady before: unknown. Not recovered although the bus promises to reattach: invalid.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from sim.machine.words import agreeing, count, duration, times
from sim.record.reader import FOREVER_NS, Array
from sim.record.schema import ALIVE_STATES, event_id
from sim.results.checkers.verdict import MAX_WITNESSES, Bounds, Result, greatest, united
from sim.results.client import gives_up_a_first_subscribe
from sim.results.copies import CAUSE, FATE
from sim.results.opened_run import Run
from sim.results.outages import Belief, Outage, load_end, read_beliefs, read_outages, told_felt, without_outage
from sim.results.pieces import Piece
from sim.results.programs import UNTOLD

MARGIN_NS = 250_000_000


def check(run: Run) -> Result:
    """Compare the fleet before the first fault with the fleet after the last."""
    outages = read_outages(run)
    nothing: dict[str, float | Bounds] = {"steady_s_max": math.nan}
    told = told_felt(run)
    if not outages:
        return Result("valid", without_outage(run)[0], metrics=nothing, warnings=told)
    begin_ns, calms = min(one.begin_ns for one in outages), _calms(outages)
    beliefs = {pod: _as_seen(one) for pod, one in read_beliefs(run).items()}
    found = list(run.pieces.each(lambda piece: _losses(run, piece, begin_ns=begin_ns, calms=calms)))
    meant_ns, copies = run.publishes["intended_ns"].to_numpy(), _copies_of_run(run)
    copies_before, lost_before = int(copies[_is_before(run, begin_ns)].sum()), sum(one.before for one in found)
    restless = sorted(pod for pod, one in beliefs.items() if not _rests(one, run.phases["run"][0], begin_ns))
    counts: dict[str, int | float] = {"copies_before": copies_before, "lost_before": lost_before, "restless_before": len(restless)}
    counts |= {"felt_otherwise": len(told)} if told else {}
    if lost_before or restless:
        who = f"{restless[0]} was not at rest" if restless else f"{lost_before:,} of {count(copies_before, 'copy')} were lost"
        text = f"the lab was not in its steady state before the first fault: {who}; what the faults did cannot be told from that"
        witnesses = [text for one in found for text in one.witnesses][:MAX_WITNESSES]
        return Result("unknown", text, counts=counts, witnesses=witnesses, metrics=nothing, warnings=told)
    away = sorted(pod for pod, one in beliefs.items() if not _is_back(one, begin_ns, load_end(run)))
    counts["away_after"] = len(away)
    recovered = run.info.recovered
    if recovered is None:
        return Result("unknown", "the run ended before it was seen whether the lab recovers", counts=counts, metrics=nothing, warnings=told)
    if not recovered:
        who = count(len(away), "pod is", "pods are") + " away" + (f", {away[0]} first" if away else "")
        text = f"the lab did not recover after the last fault: {who}"
        if why := _may_stay_away(run, [beliefs[pod] for pod in away]):
            return Result("valid", f"{text}, as {why} lets them be", counts=counts, metrics=nothing, warnings=told)
        return Result("invalid", text, counts=counts, metrics=nothing, warnings=told)
    alone_ns, end_ns = _alone(run), calms[-1].begin_ns
    returns = [_return(calm, place, list(beliefs.values()), found, alone_ns, before_ns=begin_ns) for place, calm in enumerate(calms)]
    lost_after = sum(one.after for one in found) + int((alone_ns >= end_ns).sum())
    counts |= {"copies_after": int(copies[meant_ns > end_ns + round(returns[-1].most_s * 1e9)].sum()), "lost_after": lost_after}
    ended, unended = [one for one in returns if one.ended], [one.most_s for one in returns if not one.ended]
    counts |= {"steady_s": max(one.most_s for one in returns)} | ({"not_steady_between": len(unended)} if unended else {})
    text = f"steady before the first fault, and again {_when(returns, unended)}"
    text += f"; {_otherwise(run, told)}" if told else ""
    sides = (greatest([one.least_s for one in ended], unended), greatest([one.most_s for one in ended], unended))
    steady_s = united(*sides, "whether what was not heard had been published")
    return Result("valid", text, counts=counts, metrics={"steady_s_max": steady_s}, warnings=told)


def _may_stay_away(run: Run, away: list[Belief]) -> str:
    """Return which setting lets these pods stay away, empty where none does; with nobody away it is not the policy."""
    bus = run.scenario.get("bus", {})
    policy = str(bus.get("reattach", "automatic"))
    if policy != "automatic" and away:
        return f"bus.reattach = {policy!r}"
    if away and gives_up_a_first_subscribe(bus) and not any(_has_heard(one) for one in away):
        return "bus.ioredis.maxRetriesPerRequest"
    return ""


def _has_heard(belief: Belief) -> bool:
    """Return whether a pod was subscribed since it last started."""
    began = max((row for row, state in enumerate(belief.state) if state == "starting"), default=0)
    return "subscribed" in belief.state[began:]


class _Calm(NamedTuple):
    """A time without a fault after one: from the end of all that were on to the beginning of the next."""

    begin_ns: int
    until_ns: int


class _Return(NamedTuple):
    """How long the lab took in one calm until it was steady, without and with what may never have been published; at least."""

    least_s: float
    most_s: float
    ended: bool


def _calms(outages: list[Outage]) -> list[_Calm]:
    """Return the times between faults and after the last, in order."""
    spans: list[list[int]] = []
    for one in sorted(outages, key=lambda one: one.begin_ns):
        if spans and one.begin_ns <= spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], one.end_ns)
        else:
            spans.append([one.begin_ns, one.end_ns])
    begins = [begin for begin, _ in spans[1:]] + [FOREVER_NS]
    return [_Calm(end, begin) for (_, end), begin in zip(spans, begins, strict=True)]


def _return(calm: _Calm, place: int, beliefs: list[Belief], found: list[_Losses], alone_ns: Array, *, before_ns: int) -> _Return:
    """Return how the lab came back in one calm, the `place`-th."""
    last = calm.until_ns == FOREVER_NS
    lone_ns = alone_ns[(alone_ns >= calm.begin_ns) & (alone_ns < calm.until_ns)]
    back_ns = max([calm.begin_ns, *(_back_ns(one, before_ns, calm.until_ns) for one in beliefs), int(lone_ns.max(initial=0))])
    sides = ([one.sure_ns for one in found], [one.last_ns for one in found])
    sure_ns, again_ns = (max([back_ns, *(int(newest[place]) for newest in side)]) for side in sides)
    if not last and any(_is_away(one, before_ns, calm.until_ns - 1) for one in beliefs):
        return _Return(*((calm.until_ns - calm.begin_ns) / 1e9,) * 2, ended=False)
    return _Return((sure_ns - calm.begin_ns) / 1e9, (again_ns - calm.begin_ns) / 1e9, ended=True)


def _when(returns: list[_Return], unended: list[float]) -> str:
    if len(returns) == 1:
        return f"{duration(returns[0].most_s)} after the last one's end"
    text = f"at most {duration(max(one.most_s for one in returns if one.ended))} after a fault's end, of {len(returns)} that were apart"
    return text + (f"; {times(len(unended))} not before the next began" if unended else "")


def _otherwise(run: Run, told: list[str]) -> str:
    return f"{len(told)} of {count(len(run.faults), 'fault')} {agreeing(len(told), 'was', 'were')} felt late, in part or not at all"


def _alone(run: Run) -> Array:
    """Return when the run phase's events were meant that a service without a pod did not hear."""
    rows = run.service_books.publish[run.service_books.alone]
    meant: Array = run.publishes["intended_ns"].to_numpy()[rows[(run.publishes["phase"] == "run").to_numpy()[rows]]]
    return meant


class _Losses(NamedTuple):
    """Of a piece: copies lost before the first fault and from the end of the last on; when those of each calm were meant, at most."""

    before: int
    after: int
    sure_ns: Array  # without those that may never have been published; 0 where there is none
    last_ns: Array
    witnesses: list[str]  # of those before


def _losses(run: Run, piece: Piece, *, begin_ns: int, calms: list[_Calm]) -> _Losses:
    usual = ["taken-by-peer"] if run.scenario.get("bus", {}).get("redis_url", True) else ["taken-by-peer", "sent-in-memory-mode"]
    bad = np.isin(piece.fate, [FATE["missing"], FATE["unknown"]]) & ~np.isin(piece.cause, [CAUSE[word] for word in usual])
    lost = np.flatnonzero(bad & piece.in_run)
    before = lost[_is_before(run, begin_ns)[piece.publish[lost]]]
    meant_ns = run.publishes["intended_ns"].to_numpy()[piece.publish[lost]]
    place = np.searchsorted([calm.begin_ns for calm in calms], meant_ns, side="right") - 1
    calm = (place >= 0) & (meant_ns < np.array([calm.until_ns for calm in calms])[np.maximum(place, 0)])
    in_doubt = piece.fate[lost] == FATE["unknown"]
    sure, last = np.zeros((2, len(calms)), dtype=np.int64)
    for newest, rows in ((sure, calm & ~in_doubt), (last, calm)):
        np.maximum.at(newest, place[rows], meant_ns[rows])
    return _Losses(len(before), int((meant_ns >= calms[-1].begin_ns).sum()), sure, last, _witnesses(run, piece, before))


def _is_before(run: Run, begin_ns: int) -> Array:
    """Return which publishes of the run phase had been meant, and answered, well before the first fault."""
    publishes = run.publishes
    meant_ns = publishes["intended_ns"].to_numpy()
    early: Array = (publishes["phase"] == "run").to_numpy() & (meant_ns >= run.phases["run"][0])
    early &= np.maximum(meant_ns, _last_ns(run)) < begin_ns - MARGIN_NS
    return early


def _copies_of_run(run: Run) -> Array:
    """Return how many copies each publish of the run phase has, those heard again or by the wrong pod too."""
    copies: Array = np.where((run.publishes["phase"] == "run").to_numpy(), run.books.expected + run.books.again, 0)
    return copies


def _last_ns(run: Run) -> Array:
    last: Array = np.maximum(run.publishes["sent_ns"].to_numpy(), run.publishes["acked_ns"].to_numpy())
    return last


def _as_seen(belief: Belief) -> Belief:
    """Return what a program that says nothing of itself would believe if it knew what was seen of it: that is its state."""
    seen = ("connected" if state == "subscribed" else state for state in belief.state)
    return belief._replace(bus=tuple(one if bus == UNTOLD else bus for bus, one in zip(belief.bus, seen, strict=True)))


def _rests(belief: Belief, from_ns: int, to_ns: int) -> bool:
    """Whether a pod that runs changed nothing in this time."""
    first, last = belief.row(from_ns), belief.row(to_ns - 1)
    return first < 0 or first == last


def _is_back(belief: Belief, begin_ns: int, at_ns: int) -> bool:
    """Whether a pod runs at a time and believes what it did before the first fault."""
    row = belief.row(at_ns)
    return row < 0 or (belief.state[row] in ALIVE_STATES and belief.bus[row] == (belief.at(begin_ns - 1) or "connected"))


def _is_away(belief: Belief, begin_ns: int, at_ns: int) -> bool:
    """Whether a pod that lives believes at a time something else than before the first fault."""
    row = belief.row(at_ns)
    return row >= 0 and belief.state[row] in ALIVE_STATES and belief.bus[row] != (belief.at(begin_ns - 1) or "connected")


def _back_ns(belief: Belief, begin_ns: int, until_ns: int) -> int:
    """Return when a pod believed again, and until a time, what it did before the first fault; 0 when it never believed anything else."""
    word, last = belief.at(begin_ns - 1) or "connected", 0
    for at_ns, bus, state in zip(belief.at_ns.tolist(), belief.bus, belief.state, strict=True):
        if at_ns >= until_ns:
            break
        if at_ns >= begin_ns and bus == word and state in ALIVE_STATES:
            last = last or at_ns
        elif at_ns >= begin_ns and bus != "stopped":
            last = 0
    return last


def _witnesses(run: Run, piece: Piece, copies: Array) -> list[str]:
    events, some = run.publishes["event"].to_numpy(), copies[:MAX_WITNESSES].tolist()
    return [f"{event_id(int(events[piece.publish[one]]))} for {run.pod_histories[piece.pod[one]].pod}" for one in some]
