"""Measure the fallback: who notices an outage, how long pods are on their own, when they are back, and where they are wrong about it.

What a pod *believes* is the column `bus` of the pods table. Faults are those that touch the run phase; what happens until the next
one begins, or the drain, is put down to a fault.

- **time to notice**: from the beginning of a fault until a pod that was `connected` believes something else.
- **time to recover**: from the end of a fault until a pod that had noticed is `connected`; 0 when it was so before the end.
- **unrecovered**: a pod that noticed, lives, and was not connected again.
- **memory mode**: a pod's publishes stay in the pod: `memory-only`, and, where the scenario's bus falls back and keeps no queue, `mute`,
  `outage` and `connecting`. The run phase's part counts.
- **heard only here**: events of the run phase that their own pod heard on the path memory. `published_inside` counts all that were
  published in memory mode, also those that nobody heard; a pod's metric of published events counts both as published.
- **blind**: from the first to the last copy of an unbroken row of copies that a living pod lost as deaf, cut or cut-link; while a copy
  was over a second on its way; while a publish of the pod had no answer for over a second, or for ever. A pod whose handlers take time and
  that reads on is behind and not blind, and a copy whose publish had no answer for over a second blinds nobody while others had theirs: it
  stood at its publisher. So a pod is never blind without evidence, and a quiet bus hides blindness. Copies that may never have been
  published count for the upper ends of metrics.
- **truth gap**: blind and `connected` at once. **ready while blind**: blind and the kubelet's last readiness probe was answered 200.
- **unnoticed**: a pod with a truth gap in a fault, that stayed `connected` to the end of the fault's time.

Nothing here is promised by the bus, so it is valid without a limit in `[slo]`; a fault or probes that were meant and are not recorded are
unknown. How pods that end in a fault recover is not measured: they do not notice, they die.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from sim.machine.words import amount, count, duration, times
from sim.record.reader import FOREVER_NS, Array, categorical, codes_in, codes_of
from sim.record.schema import event_id
from sim.results.checkers.verdict import MAX_WITNESSES, Bounds, Result, greatest, united
from sim.results.client import keeps_events
from sim.results.copies import CAUSE, FATE, OUTCOME
from sim.results.handling import handling_of
from sim.results.heard import PATHS
from sim.results.opened_run import Run
from sim.results.outages import (
    NO_SPANS,
    UNHEARD_CAUSES,
    Belief,
    Outage,
    load_end,
    meet,
    read_beliefs,
    read_outages,
    seconds,
    union,
    without_outage,
)
from sim.results.pieces import Piece
from sim.results.pod_histories import read_ways
from sim.results.programs import UNTOLD

LATE_NS = 1_000_000_000
NOTICED = "notice_s"
RECOVERED = "recover_s"


class _Reaction(NamedTuple):
    """How one pod took one fault: "noticed", "unnoticed" or "ended"; where it did not recover, it would have taken at least `recover_s`."""

    word: str
    notice_s: float = 0.0
    recover_s: float = 0.0
    recovered: bool = True


def check(run: Run) -> Result:
    """Measure notice, memory mode, recovery and the truth gap of every pod."""
    beliefs, outages = {pod: one for pod, one in read_beliefs(run).items() if UNTOLD not in one.bus}, read_outages(run)
    phase = np.array([run.run_span], dtype=np.int64)
    blind = {pod: meet(spans, phase) for pod, spans in blind_spans(run, beliefs).items()}
    gaps = {pod: meet(blind.get(pod, NO_SPANS), belief.spans(("connected",))) for pod, belief in beliefs.items()}
    ready = {pod: meet(blind.get(pod, NO_SPANS), spans) for pod, spans in _ready_spans(run).items()}
    memory = [seconds(meet(belief.spans(_memory_words(run)), phase)) for belief in beliefs.values()]
    reactions = [reaction for outage in outages for reaction in _reactions(outage, beliefs, gaps)]
    notice = [one.notice_s for one in reactions if one.word == "noticed"]
    unnoticed = [one.notice_s for one in reactions if one.word == "unnoticed"]
    back = [one.recover_s for one in reactions if one.word == "noticed" and one.recovered]
    away = [one.recover_s for one in reactions if one.word == "noticed" and not one.recovered]
    longest = max(gaps, key=lambda pod: seconds(gaps[pod]), default="")
    counts: dict[str, int | float] = {"faults": len(outages), "noticed": len(notice), "unnoticed": len(unnoticed)}
    counts |= {"unrecovered": len(away), "ended": sum(one.word == "ended" for one in reactions)}
    counts |= _spread(NOTICED, notice) | _spread(RECOVERED, back)
    counts |= {"memory_pods": sum(one > 0 for one in memory), "memory_s.max": max(memory, default=0.0), "memory_s.sum": float(sum(memory))}
    counts |= _inside(run)
    counts |= {"truth_gap_s.sum": sum(map(seconds, gaps.values())), "truth_gap_s.max": seconds(gaps[longest]) if longest else 0.0}
    counts |= {"ready_while_blind_s.sum": sum(map(seconds, ready.values()))} if len(run.probes) else {}
    published = bool((run.publishes["phase"] == "run").any())
    metrics: dict[str, float | Bounds] = {
        "time_to_notice_s_max": greatest(notice, unnoticed),
        "time_to_recover_s_max": greatest(back, away),
        "truth_gap_s_max": float(counts["truth_gap_s.max"]) if beliefs and published else math.nan,
        "heard_only_here": float(counts["heard_only_here"]) if published else math.nan,
    }
    if run.books.fates["unknown"]:
        metrics = _with_doubts(run, metrics, beliefs, outages)
    absent = _absent(run, outages)
    if absent:
        return Result("unknown", absent, counts=counts, metrics=metrics)
    return Result("valid", _sentence(run, counts, longest), counts=counts, witnesses=_witnesses(run, gaps), metrics=metrics)


def _with_doubts(
    run: Run, metrics: dict[str, float | Bounds], beliefs: dict[str, Belief], outages: list[Outage]
) -> dict[str, float | Bounds]:
    """Return the metrics with the ends that they have when every copy is lost that may never have been published."""
    phase = np.array([run.run_span], dtype=np.int64)
    blind = {pod: meet(spans, phase) for pod, spans in blind_spans(run, beliefs, in_doubt=True).items()}
    gaps = {pod: meet(blind.get(pod, NO_SPANS), belief.spans(("connected",))) for pod, belief in beliefs.items()}
    reactions = [reaction for outage in outages for reaction in _reactions(outage, beliefs, gaps)]
    sides = ([one.notice_s for one in reactions if one.word == word] for word in ("noticed", "unnoticed"))
    most = {"time_to_notice_s_max": greatest(*sides), "truth_gap_s_max": max(map(seconds, gaps.values()), default=math.nan)}
    why = "whether what was not heard had been published"
    return metrics | {name: united(metrics[name], value, why) for name, value in most.items()}


def reachability(run: Run, *, width_s: float = 1.0) -> pd.DataFrame:
    """Count, pod by pod and second by second, what was published for a pod and what of it was heard there.

    Parameters
    ----------
    width_s
        Width of an interval, seconds; 0 is the start of the run phase.

    Returns
    -------
    DataFrame
        publisher, hearer (Categoricals), second (start of the interval, float), published, heard (copies). Only rows with published > 0,
        sorted by publisher, hearer and second; probes are left out.
    """
    publishes, pods = run.publishes, len(run.pod_histories)
    publisher, publishers = codes_of(publishes["publisher"])
    place = np.floor((publishes["intended_ns"].to_numpy() - run.run_span[0]) / (width_s * 1e9)).astype(np.int64)
    first, many = (int(place.min()), int(np.ptp(place)) + 1) if len(place) else (0, 1)
    cell_of = publisher.astype(np.int64) * pods * many + place - first
    counted = np.append(publishes["items"].to_numpy() > 0, False)

    def of_piece(piece: Piece) -> tuple[Array, Array, Array]:
        meant = np.isin(piece.fate, [FATE["delivered"], FATE["missing"], FATE["unknown"]])
        meant &= counted[piece.publish]
        keys, cell = np.unique(cell_of[piece.publish[meant]] + piece.pod[meant].astype(np.int64) * many, return_inverse=True)
        heard = piece.fate[meant] == FATE["delivered"]
        return keys, np.bincount(cell, minlength=len(keys)), np.bincount(cell[heard], minlength=len(keys))

    cells, published, heard = (np.concatenate(column) for column in zip(*run.pieces.each(of_piece), strict=True))
    order = np.argsort(cells)  # no pod is in two pieces
    cells, published, heard = cells[order], published[order], heard[order]
    columns = {
        "publisher": categorical(cells // many // max(pods, 1), publishers),
        "hearer": categorical(cells // many % max(pods, 1), [history.pod for history in run.pod_histories]),
        "second": (cells % many + first) * width_s,
        "published": published,
        "heard": heard,
    }
    return pd.DataFrame(columns)


def blind_spans(run: Run, beliefs: dict[str, Belief], *, in_doubt: bool = False) -> dict[str, Array]:
    """Return when each pod was blind, see the module; a pod without such a time is left out.

    Parameters
    ----------
    in_doubt
        Whether copies that may never have been published count as lost.
    """
    pods = [history.pod for history in run.pod_histories]
    code = {pod: number for number, pod in enumerate(pods)}
    found = [_unanswered(run, beliefs, code)]
    answers = _read_answers(run)
    for lost, late in run.pieces.each(lambda piece: (_lost_rows(run, piece, beliefs, in_doubt=in_doubt), _late(run, piece, answers))):
        found += [lost, late]
    pod, begin, end = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.argsort(pod)
    bounds = np.searchsorted(pod[order], np.arange(len(pods) + 1))
    spans = np.column_stack([begin, end])[order]
    return {pods[n]: union(spans[bounds[n] : bounds[n + 1]]) for n in np.unique(pod)}


def _lost_rows(run: Run, piece: Piece, beliefs: dict[str, Belief], *, in_doubt: bool) -> tuple[Array, Array, Array]:
    """Return pod, begin and end of each unbroken row of lost copies; a delivery or a new subscription breaks it."""
    sent, acked = (run.publishes[column].to_numpy() for column in ("sent_ns", "acked_ns"))
    lost = (piece.fate == FATE["missing"]) & np.isin(piece.cause, [CAUSE[word] for word in UNHEARD_CAUSES])
    lost |= in_doubt & (piece.fate == FATE["unknown"])
    none = np.array([], dtype=np.int64)
    pods, begins, ends = [none], [none], [none]
    for number in np.unique(piece.pod[lost]).tolist():
        own = piece.of_pod(number)
        rows = piece.publish[own][lost[own]]
        rows = rows[np.argsort(sent[rows], kind="stable")]
        came = np.flatnonzero(piece.fate[own] == FATE["delivered"])
        came = came[piece.heard.path[piece.delivery[own][came]] == PATHS["broker"]]
        heard = np.sort(sent[piece.publish[own][came]], kind="stable")
        at = sent[rows]
        broken = np.searchsorted(heard, at, side="right")
        belief = beliefs.get(run.pod_histories[number].pod)
        if belief is not None:
            joined = belief.at_ns[[state == "subscribed" for state in belief.state]]
            broken = broken + np.searchsorted(joined, at, side="right")
        opens = np.append(True, broken[1:] != broken[:-1])
        closes = np.flatnonzero(np.append(opens[1:], True))
        pods.append(np.full(len(closes), number, dtype=np.int64))
        begins.append(at[opens])
        ends.append(np.maximum(acked[rows[closes]], at[closes]))
    return np.concatenate(pods), np.concatenate(begins), np.concatenate(ends)


class _Answers(NamedTuple):
    """What publishes say of when somebody was answered: a column each, one entry a row of `publishes`.

    `answered` are those that had an answer within a second, `way` numbers the ways to the broker, `first_ns` is when the first was sent,
    `silences` has of each way the times of over a second in which nobody was answered on it.
    """

    sent_ns: Array
    answered: Array
    way: Array
    first_ns: int
    silences: Callable[[int], Array]


def _read_answers(run: Run) -> _Answers:
    publishes = run.publishes
    sent, acked = (publishes[column].to_numpy() for column in ("sent_ns", "acked_ns"))
    answered = (codes_in(publishes["outcome"], OUTCOME) == OUTCOME["acknowledged"]) & (acked - sent <= LATE_NS)
    # a stream's channels are kept by one server too, which is what answers
    way = read_ways(publishes, many_nodes=run.many_nodes, transport="sharded" if run.transport == "streams" else run.transport)
    first_ns = int(sent[sent > 0].min(initial=FOREVER_NS))
    return _Answers(sent, answered, way, first_ns, cache(lambda one: _silences(acked[answered & (way == one)], since_ns=first_ns)))


def _late(run: Run, piece: Piece, answers: _Answers) -> tuple[Array, Array, Array]:
    """Return pod, begin and end of each time in which copies were over a second on their way, as far as the pod could not hear then.

    A publish that had no answer for over a second may have stood at its publisher: its copies count while nobody was answered at all.
    """
    sent, answered, way, first_ns, silences = answers
    slow = {name for name, service in run.scenario.get("services", {}).items() if handling_of(service).takes_time}
    none = np.array([], dtype=np.int64)
    found = [(none, none, none)]
    heard = np.flatnonzero(piece.fate == FATE["delivered"])
    received = piece.heard.received_ns[piece.delivery[heard]]
    late = np.flatnonzero(received - sent[piece.publish[heard]] > LATE_NS)
    pods, publishes = piece.pod[heard[late]], piece.publish[heard[late]]
    spans = np.column_stack([sent[publishes], received[late]])
    bounds = np.searchsorted(pods, np.arange(piece.pods.start, piece.pods.stop + 1))
    for number in np.unique(pods).tolist():
        mine = slice(bounds[number - piece.pods.start], bounds[number - piece.pods.start + 1])
        own, publish = spans[mine], publishes[mine]
        blind = [own[answered[publish]]]
        for one in np.unique(way[publish[~answered[publish]]]).tolist():
            unsure = own[~answered[publish] & (way[publish] == one)]
            blind.append(meet(union(unsure), silences(one)))
        both = union(np.concatenate(blind))
        if run.pod_histories[number].service in slow:
            both = meet(both, _silences(received[piece.pod[heard] == number], since_ns=first_ns))
        both = both[both[:, 1] - both[:, 0] > LATE_NS]
        found.append((np.full(len(both), number), both[:, 0], both[:, 1]))
    pod, begins, ends = (np.concatenate(column) for column in zip(*found, strict=True))
    return pod, begins, ends


def _silences(at_ns: Array, *, since_ns: int) -> Array:
    """Return the times of over a second between these moments, and before the first and after the last of them."""
    edges = np.concatenate([[since_ns], np.sort(at_ns), [FOREVER_NS]])
    long = np.flatnonzero(np.diff(edges) > LATE_NS)
    return union(np.column_stack([edges[long], edges[long + 1]]))


def _unanswered(run: Run, beliefs: dict[str, Belief], code: dict[str, int]) -> tuple[Array, Array, Array]:
    publishes = run.publishes
    pod, outcome = codes_in(publishes["publisher"], code), codes_in(publishes["outcome"], OUTCOME)
    sent, acked = publishes["sent_ns"].to_numpy(), publishes["acked_ns"].to_numpy()
    slow = (outcome == OUTCOME["acknowledged"]) & (acked - sent > LATE_NS)
    never = (outcome == OUTCOME["unknown"]) & (sent > 0)
    end = acked.copy()
    names = list(code)
    for number in np.unique(pod[never & (pod >= 0)]):
        mine, belief = never & (pod == number), beliefs.get(names[number])
        if belief is not None:
            end[mine] = np.append(belief.at_ns, FOREVER_NS)[np.searchsorted(belief.at_ns, sent[mine], side="right")]
    rows = np.flatnonzero((slow | never) & (pod >= 0))
    return pod[rows], sent[rows], end[rows]


def _ready_spans(run: Run) -> dict[str, Array]:
    """Return when the last readiness probe of each probed pod had been answered 200."""
    if not len(run.probes):
        return {}
    probes = run.probes[run.probes["probe"] == "ready"].sort_values("at_ns", kind="stable")
    spans = {}
    for pod, mine in probes.groupby("pod"):
        at, good = mine["at_ns"].to_numpy(), mine["status"].to_numpy() == 200
        spans[str(pod)] = union(np.column_stack([at, np.append(at[1:], load_end(run))])[good])
    return spans


def _memory_words(run: Run) -> tuple[str, ...]:
    bus = run.scenario.get("bus", {})
    falls_back = bus.get("fallback", "on-failure") == "on-failure" and not keeps_events(bus)
    return ("memory-only", "connecting", "mute", "outage") if falls_back else ("memory-only",)


def _reactions(outage: Outage, beliefs: dict[str, Belief], gaps: dict[str, Array]) -> list[_Reaction]:
    mine = [(beliefs[pod], gaps[pod]) for pod in sorted(outage.pods) if pod in beliefs]
    found = [_reaction(outage, belief, gap) for belief, gap in mine if belief.at(outage.begin_ns - 1) == "connected"]
    return [one for one in found if one is not None]


def _reaction(outage: Outage, belief: Belief, gap: Array) -> _Reaction | None:
    """Return how a pod that was connected took the fault, None when nothing shows that it was concerned."""
    row = belief.row(outage.begin_ns - 1) + 1
    while row < len(belief.bus) and belief.bus[row] == "connected":
        row += 1
    left = int(belief.at_ns[row]) if row < len(belief.bus) else FOREVER_NS
    if left >= outage.until_ns:
        wrong = meet(gap, np.array([[outage.begin_ns, outage.until_ns]]))
        return _Reaction("unnoticed", (outage.end_ns - outage.begin_ns) / 1e9) if len(wrong) else None
    if belief.bus[row] == "stopped":
        return _Reaction("ended")
    row = belief.row(max(left, outage.end_ns))
    while row < len(belief.bus) and belief.bus[row] not in ("connected", "stopped") and belief.at_ns[row] < outage.until_ns:
        row += 1
    at = int(belief.at_ns[row]) if row < len(belief.bus) else FOREVER_NS
    if at < outage.until_ns and belief.bus[row] == "stopped":
        return _Reaction("ended")
    recovered = at < outage.until_ns
    return _Reaction("noticed", (left - outage.begin_ns) / 1e9, max(min(at, outage.until_ns) - outage.end_ns, 0) / 1e9, recovered)


def _inside(run: Run) -> dict[str, int | float]:
    """Count the run phase's events that stayed in their pod."""
    publishes = run.publishes
    inside = codes_in(publishes["outcome"], OUTCOME) == OUTCOME["memory"]
    inside &= (publishes["phase"] == "run").to_numpy()
    receivers = publishes["receivers"].to_numpy()
    events = publishes["event"].to_numpy()
    counts: dict[str, int | float] = {"published_inside": int(inside.sum()), "heard_only_here": 0}
    if counts["published_inside"]:
        marked = np.zeros(len(run.index.row), dtype=bool)
        for found in run.pieces.each(lambda piece: np.unique(piece.heard.event_of[piece.heard.path == PATHS["memory"]])):
            marked[found] = True
        heard = events[run.index.row[:-1][marked[:-1]]]
        counts["heard_only_here"] = int((np.isin(events, heard) & inside & (receivers > 0)).sum())
    return counts


def _spread(name: str, values: list[float]) -> dict[str, int | float]:
    if not values:
        return {}
    middle, most = np.quantile(values, [0.5, 1.0], method="higher")
    return {f"{name}.p50": float(middle), f"{name}.max": float(most)}


def _absent(run: Run, outages: list[Outage]) -> str:
    """Return which data the scenario promises and the run does not have, empty when it has all."""
    if not len(run.pods):
        return "no data: the pods table is empty, so nothing says what any pod believed"
    if not outages and without_outage(run)[1]:
        return without_outage(run)[0]
    if run.scenario.get("kubelet", {}).get("enabled") and "drain" in run.phases and not len(run.probes):
        return "no data: the scenario means a kubelet, and no probe is recorded"
    return ""


def _sentence(run: Run, counts: dict[str, int | float], longest: str) -> str:
    noticed, one = int(counts["noticed"]), counts["faults"] == 1
    if not counts["faults"]:
        text = without_outage(run)[0]
    elif not noticed:
        text = "no pod noticed the fault" if one else "no pod noticed a fault"
    else:
        text = f"{count(noticed, 'pod')} noticed the fault" if one else f"pods noticed {count(counts['faults'], 'fault')} {times(noticed)}"
        text += f", at most {duration(counts[f'{NOTICED}.max'])} after it began"
        back = counts.get(f"{RECOVERED}.max")
        text += f"; they were connected again at most {duration(back)} after its end" if back is not None else ""
        text += f"; {count(counts['unrecovered'], 'was', 'were')} not connected again" if counts["unrecovered"] else ""
    text += f"; {count(counts['unnoticed'], 'pod was', 'pods were')} blind in a fault and did not notice" if counts["unnoticed"] else ""
    if counts["published_inside"]:
        text += f"; {count(counts['published_inside'], 'event was', 'events were')} published in memory mode, "
        heard = counts["heard_only_here"]
        text += f"{amount(heard)} of them heard, each by its own pod alone" if heard else "none of them heard"
    if counts["truth_gap_s.max"]:
        gap = duration(counts["truth_gap_s.max"])
        return f"{text}; {longest} called itself connected for {gap} while it was blind, longer than any other pod"
    return text + "; no pod called itself connected while it was blind"


def _witnesses(run: Run, gaps: dict[str, Array]) -> list[str]:
    """Return, of the pods with the longest truth gaps, the first event of each that shows it."""
    publishes, texts = run.publishes, []
    sent, events = publishes["sent_ns"].to_numpy(), publishes["event"].to_numpy()
    publisher, publishers = codes_of(publishes["publisher"])
    numbers = {history.pod: number for number, history in enumerate(run.pod_histories) if len(gaps.get(history.pod, ()))}
    for pod in sorted(numbers, key=lambda pod: -seconds(gaps[pod]))[:MAX_WITNESSES]:
        number, spans = numbers[pod], gaps[pod]
        own = np.flatnonzero(publisher == publishers.index(pod)) if pod in publishers else np.array([], dtype=np.int64)
        piece = run.pieces.of_pod(number)
        rows = piece.publish[piece.of_pod(number)]
        rows = np.concatenate([rows[rows >= 0], own])
        rows = rows[sent[rows] >= spans[0, 0]]
        if len(rows):
            row = rows[np.argmin(sent[rows])]
            text = f"{event_id(int(events[row]))} on {publishes['channel'].iloc[row]}: {pod} called itself connected and was blind for"
            texts.append(f"{text} {duration(seconds(spans))}, from then on")
    return texts
