"""Measure deaf windows: the broker answers again after a fault, and a pod does not hear yet.

One row of the account is a pod and a fault (see `sim.results.outages` for which pods and how far a fault reaches). The pod lived when the
fault ended.

- **deaf for**: from the end of the fault until the pod *hears again*. A fault's end is recorded when it is done: a broker that was
  started has answered PING by then.
- **hears again**: the first of its row `subscribed` after it lost its subscription, and its first delivery through the broker after the
  fault's end. A pod that kept its subscription and lost nothing after the end is not deaf at all, nor is one that had it back before
  the end.
- **lost**: copies of this pod that are missing as deaf, cut or cut-link and were on their way from the beginning of the fault until it
  heard again. **lost after** are those sent after the fault's end: the broker had them and the pod did not ask for them yet.
- **told**: the pod's belief left `connected` from the beginning of the fault until it heard again, so its application could know.
  **untold**: it lost copies and was not told.
- **unended**: a pod that did not hear again before the next fault or the drain.

A copy whose publisher does not know whether it was published counts as lost here only for the upper ends of the metrics.

Pub/Sub promises no more, so this is valid without a limit in `[slo]`; a fault that was meant and is not recorded is unknown.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from sim.machine.words import amount, count, duration, times
from sim.record.reader import FOREVER_NS, Array, codes_of
from sim.record.schema import ALIVE_STATES, event_id
from sim.results.checkers.verdict import MAX_WITNESSES, Bounds, Result, between, greatest, united
from sim.results.copies import CAUSE, FATE
from sim.results.heard import PATHS
from sim.results.opened_run import Run
from sim.results.outages import UNHEARD_CAUSES, Belief, Outage, read_beliefs, read_outages, without_outage
from sim.results.pieces import Piece
from sim.results.programs import UNTOLD

METRICS = ("deaf_s_max", "deaf_copies", "deaf_untold")


class _Pod(NamedTuple):
    """When one pod heard through the broker again, and what it lost, in rising order of time."""

    heard_ns: list[int]  # of each outage: when it first heard something after its end; `FOREVER_NS` for never
    lost_ns: Array  # when a lost copy was sent
    lost_row: Array  # its row in `publishes`


class DeafTime(NamedTuple):
    """How one pod came through one fault."""

    pod: str
    fault: str
    deaf_s: float
    ended: bool
    lost: Array  # rows of `publishes`
    lost_after: int
    told: bool
    tells: bool = True  # whether anybody knows what it believes: a program without an address to ask says nothing


def check(run: Run) -> Result:
    """Measure how long pods are deaf after each fault, and what they lose."""
    outages = read_outages(run)
    nothing: dict[str, float | Bounds] = dict.fromkeys(METRICS, math.nan)
    if not outages:
        text, absent = without_outage(run)
        return Result("unknown" if absent else "valid", text, metrics=nothing)
    found = windows(run, outages)
    ended, unended = ([one.deaf_s for one in found if one.ended is word] for word in (True, False))
    touched = [one for one in found if len(one.lost) or one.deaf_s > 0]
    untold = [one for one in found if len(one.lost) and not one.told and one.tells]
    silent = sum(not one.tells for one in touched)
    counts: dict[str, int | float] = {"faults": len(outages), "windows": len(found), "deaf": sum(one.deaf_s > 0 for one in found)}
    counts |= {"unended": len(unended), "told": len(touched) - len(untold) - silent, "untold": len(untold)}
    counts |= {"lost": sum(len(one.lost) for one in found), "lost_after": sum(one.lost_after for one in found)}
    if ended:
        middle, most = np.quantile(ended, [0.5, 1.0], method="higher")
        counts |= {"deaf_s.p50": float(middle), "deaf_s.max": float(most)}
    metrics = _metrics(found) if _owed(run, outages) else nothing
    if run.books.fates["unknown"]:
        most = _metrics(windows(run, outages, in_doubt=True))
        metrics = {name: united(value, most[name], "whether what was not heard had been published") for name, value in metrics.items()}
    worst = sorted(touched, key=lambda one: (one.told, -one.deaf_s, -len(one.lost)))
    witnesses = [_witness(run, one) for one in worst if len(one.lost)][:MAX_WITNESSES]
    return Result("valid", _sentence(counts, found), counts=counts, witnesses=witnesses, metrics=metrics)


def _metrics(found: list[DeafTime]) -> dict[str, float | Bounds]:
    ended, unended = ([one.deaf_s for one in found if one.ended is word] for word in (True, False))
    return {
        "deaf_s_max": greatest(ended, unended),
        "deaf_copies": float(sum(one.lost_after for one in found)) if found else math.nan,
        "deaf_untold": _untold(found) if found else math.nan,
    }


def _untold(found: list[DeafTime]) -> float | Bounds:
    untold = [one for one in found if len(one.lost) and not one.told]
    return between(float(sum(one.tells for one in untold)), float(len(untold)), "whether programs that say nothing of themselves knew it")


def _owed(run: Run, outages: list[Outage]) -> bool:
    """Return whether pods were owed anything from the beginning of a fault on: else nobody knows whether they would have heard it."""
    index = run.index
    heard = frozenset().union(*run.service_channels)
    owed = np.array([*(word in heard for word in codes_of(run.publishes["channel"])[1]), False])[index.channel]
    return any((owed & (index.due_ns >= one.begin_ns) & (index.due_ns < one.until_ns)).any() for one in outages)


def windows(run: Run, outages: list[Outage], *, in_doubt: bool = False) -> list[DeafTime]:
    """Return one entry for each fault and each pod that it may concern and that lived when it ended and was to hear something.

    Parameters
    ----------
    in_doubt
        Whether copies that may never have been published count as lost.
    """
    beliefs = read_beliefs(run)
    pods = {history.pod: number for number, history in enumerate(run.pod_histories) if history.channels}
    times = _times(run, outages, in_doubt=in_doubt)
    found = []
    for number, outage in enumerate(outages):
        for pod in sorted(outage.pods & beliefs.keys() & pods.keys()):
            belief = beliefs[pod]
            row = belief.row(outage.end_ns)
            if row >= 0 and belief.state[row] in ALIVE_STATES:
                found.append(_window(outage, pod, belief, times[pods[pod]], heard_ns=times[pods[pod]].heard_ns[number]))
    return found


def _times(run: Run, outages: list[Outage], *, in_doubt: bool) -> list[_Pod]:
    """Return when each of `run.pod_histories` heard again and what it lost."""
    sent = run.publishes["sent_ns"].to_numpy()
    ends_ns = np.array([outage.end_ns for outage in outages], dtype=np.int64)
    causes = [CAUSE[word] for word in UNHEARD_CAUSES]

    def of_piece(piece: Piece) -> list[_Pod]:
        unheard = (piece.fate == FATE["missing"]) & np.isin(piece.cause, causes)
        lost = unheard | (in_doubt & (piece.fate == FATE["unknown"]))
        found = []
        for pod in piece.pods:
            own, heard = piece.of_pod(pod), piece.heard.rows(pod)
            rows = piece.publish[own][lost[own]]
            rows = rows[np.argsort(sent[rows], kind="stable")]
            received = np.sort(piece.heard.received_ns[heard[piece.heard.path[heard] == PATHS["broker"]]], kind="stable")
            after = np.append(received, FOREVER_NS)[np.searchsorted(received, ends_ns, side="right")]
            found.append(_Pod(after.tolist(), sent[rows], rows))
        return found

    return [pod for pods in run.pieces.each(of_piece) for pod in pods]


def _window(outage: Outage, pod: str, belief: Belief, times: _Pod, *, heard_ns: int) -> DeafTime:
    hears = min(_hears_ns(outage, belief, times, heard_ns), FOREVER_NS)
    ended = hears < outage.until_ns
    until = hears if ended else outage.until_ns
    first, after, last = np.searchsorted(times.lost_ns, [outage.begin_ns, outage.end_ns, until])
    believed = belief.bus[max(belief.row(outage.begin_ns), 0) : belief.row(until) + 1]
    was_told = any(word not in ("connected", UNTOLD) for word in believed)
    lost = times.lost_row[first:last]
    deaf_s, lost_after = max(until - outage.end_ns, 0) / 1e9, max(int(last - after), 0)
    return DeafTime(pod, outage.fault, deaf_s, ended, lost, lost_after, was_told, tells=UNTOLD not in believed)


def _hears_ns(outage: Outage, belief: Belief, times: _Pod, heard_ns: int) -> int:
    """Return when the pod heard again, not before the fault's end; `FOREVER_NS` for never."""
    row = belief.row(outage.end_ns)
    lost_later = np.searchsorted(times.lost_ns, outage.until_ns) > np.searchsorted(times.lost_ns, outage.end_ns)
    held = belief.state[row] in ("subscribed", "frozen")
    if held and not lost_later:
        return outage.end_ns
    later = [n for n in range(row + 1, len(belief.state)) if belief.state[n] == "subscribed" and belief.state[n - 1] != "subscribed"]
    return min(heard_ns, int(belief.at_ns[later[0]]) if later else FOREVER_NS)


def _sentence(counts: dict[str, int | float], found: list[DeafTime]) -> str:
    if not found:
        return "no pod that hears anything lived at the end of a fault"
    if not counts["deaf"] and not counts["lost"]:
        return "every pod heard as soon as the fault had ended, and none lost a copy by not hearing"
    deaf = [one for one in found if one.deaf_s > 0]
    text = f"pods were deaf {times(len(deaf))} after a fault had ended" if deaf else "no pod was deaf after a fault had ended"
    if deaf:
        most = max(deaf, key=lambda one: one.deaf_s)
        text += f", at most for {duration(most.deaf_s)} ({most.pod} after {most.fault})"
    text += f"; {count(counts['lost'], 'copy was', 'copies were')} lost by not hearing"
    text += f", {_when(counts['lost_after'], counts['lost'])}" if counts["lost"] else ""
    text += f"; a pod did not hear again {times(int(counts['unended']))}" if counts["unended"] else ""
    if silent := sum(not one.tells for one in found if len(one.lost) or one.deaf_s > 0):
        text += f"; nobody knows whether the application was told in {count(silent, 'case')}, of programs that say nothing of themselves"
        if not counts["told"] + counts["untold"]:
            return text
    if counts["untold"]:
        return text + f"; the application was not told in {counts['untold']:,} of {counts['told'] + counts['untold']:,} cases"
    return text + "; the application was told each time"


def _when(after: float, lost: float) -> str:
    if not after:
        return "while the fault was on"
    return "after the end" if after == lost == 1 else f"{'all' if after == lost else amount(after)} of them after the end"


def _witness(run: Run, window: DeafTime) -> str:
    row = int(window.lost[0])
    key, channel = run.publishes["event"].iloc[row], run.publishes["channel"].iloc[row]
    silence = "" if window.told or not window.tells else ", and its application was not told"
    which = f"the first of {len(window.lost):,} copies" if len(window.lost) > 1 else "the one copy"
    text = f"{event_id(int(key))} on {channel}: {which} that {window.pod} did not hear"
    return f"{text}; it was deaf for {duration(window.deaf_s)} after {window.fault}{silence}"
