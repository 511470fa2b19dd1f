"""What an outage is to a pod: which faults concern it, what it believed of its connections meanwhile, and spans of time.

Times are nanoseconds. A *span* is a half-open time from begin to end; many are an array of shape (n, 2). A *belief* is the column
`bus` of the pods table: the state of the pod's own fallback (`connected`, `outage`, …) and, in the reference, what its health check says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from sim.record.reader import FOREVER_NS, Array, codes_of
from sim.results.opened_run import Run

UNHEARD_CAUSES = ("deaf", "cut", "cut-link")  # causes of copies that the broker or the network had, and the pod did not hear
MAX_TARGET = 60  # characters of pods' names in one sentence
NO_SPANS = np.zeros((0, 2), dtype=np.int64)


class Belief(NamedTuple):
    """What one pod believed: the time of each row of the pods table, its belief and its state from then on."""

    at_ns: Array
    bus: tuple[str, ...]
    state: tuple[str, ...]

    def row(self, at_ns: int) -> int:
        """Return the row that holds at a time, -1 before the first."""
        return int(np.searchsorted(self.at_ns, at_ns, side="right")) - 1

    def at(self, at_ns: int) -> str:
        """Return what the pod believed at a time, empty before its first row."""
        row = self.row(at_ns)
        return self.bus[row] if row >= 0 else ""

    def spans(self, words: Collection[str]) -> Array:
        """Return when the pod believed one of `words`."""
        ends = np.append(self.at_ns[1:], FOREVER_NS)
        held = np.array([bus in words for bus in self.bus], dtype=bool)
        return union(np.column_stack([self.at_ns[held], ends[held]]))


class Outage(NamedTuple):
    """One row of the faults table that touches the run phase.

    `pods` are those it may concern: all of them when its target is the broker. What happens before `until_ns`, the beginning of the
    next fault or of the drain, is put down to it.
    """

    fault: str
    begin_ns: int
    end_ns: int
    until_ns: int
    pods: frozenset[str]


def read_beliefs(run: Run) -> dict[str, Belief]:
    """Return what each pod of the pods table believed, in the order of time."""
    rows = run.pods.sort_values("at_ns", kind="stable")
    pod, pods = codes_of(rows["pod"])
    order = np.argsort(pod, kind="stable")
    at_ns, (bus, state) = (
        rows["at_ns"].to_numpy()[order],
        (rows[column].astype(str).to_numpy()[order].tolist() for column in ("bus", "state")),
    )
    begins = np.flatnonzero(np.diff(pod[order].astype(np.int64), prepend=-1)).tolist()
    spans = sorted(zip(begins, [*begins[1:], len(order)], strict=True), key=lambda span: int(order[span[0]])) if begins else []
    return {str(pods[pod[order[begin]]]): Belief(at_ns[begin:end], tuple(bus[begin:end]), tuple(state[begin:end])) for begin, end in spans}


def read_outages(run: Run) -> list[Outage]:
    """Return the faults that were felt in the run phase, in the order in which they were first."""
    begin_ns, end_ns = run.run_span
    last_ns = load_end(run)
    rows = sorted(run.felt_faults(), key=_begin_ns)
    begins = [_begin_ns(row) for row in rows]
    everybody = frozenset(history.pod for history in run.pod_histories)
    outages = []
    for row in rows:
        begin, end = _begin_ns(row), int(row["end_ns"]) or last_ns
        if begin >= end_ns or end <= begin_ns:
            continue
        until = min([last_ns, *(other for other in begins if other >= end and other > begin)])
        names = str(row["target"]).split(",")
        pods = everybody & frozenset(names) or everybody
        outages.append(Outage(str(row["fault"]), begin, end, max(until, end), pods))
    return outages


def _begin_ns(row: Mapping[str, Any]) -> int:
    """Return when the first of a fault was carried out."""
    return int(row["felt_ns"] if row["felt"].startswith("late") else row["begin_ns"])


def load_end(run: Run) -> int:
    """Return when the drain began; without one, the time of the last row of the pods table."""
    return run.phases["drain"][0] if "drain" in run.phases else int(run.pods["at_ns"].max()) if len(run.pods) else 0


def without_outage(run: Run) -> tuple[str, bool]:
    """Return what to say of a run in whose run phase no fault was felt, and whether faults that must be in the table are not."""
    if len(run.faults) > len(run.felt_faults()):
        return "no fault was felt", False
    if run.scenario.get("faults") and "drain" in run.phases:
        return "no data: the scenario means faults, and none is recorded in the run phase", True
    return "no fault was begun", False


def told_felt(run: Run) -> list[str]:
    """Return one sentence for each fault that was felt late, in part or not at all; times are seconds of the run phase."""
    zero = run.run_span[0]
    told = []
    for row in sorted(run.faults.to_dict("records"), key=lambda row: row["begin_ns"]):
        word, target = str(row["felt"]), str(row["target"])
        if word in ("", "whole"):
            continue
        begin, felt, end = ((int(row[column]) - zero) / 1e9 for column in ("begin_ns", "felt_ns", "end_ns"))
        text = f"{row['fault']} of {target if len(target) <= MAX_TARGET else f'{target[:MAX_TARGET]}…'} was felt {word}: "
        if word == "not at all":
            text += f"what it hurts was away from {begin:.2f} s, when it was to begin, to {end:.2f} s"
        elif word.startswith("late"):
            text += f"it was to begin at {begin:.2f} s and was carried out at {felt:.2f} s"
        else:
            text += f"begun at {begin:.2f} s, it was not on all that it was meant for, or not until it ended at {end:.2f} s"
        told.append(text)
    return told


def union(spans: Array) -> Array:
    """Return the same time as spans in rising order that neither touch nor overlap; empty spans are left out."""
    spans = spans[spans[:, 1] > spans[:, 0]]
    if not len(spans):
        return NO_SPANS
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    reach = np.maximum.accumulate(spans[:, 1])
    opens = np.append(True, spans[1:, 0] > reach[:-1])
    return np.column_stack([spans[opens, 0], reach[np.append(opens[1:], True)]])


def meet(first: Array, second: Array) -> Array:
    """Return the time that lies in both; each must be a `union`."""
    low = np.searchsorted(second[:, 1], first[:, 0], side="right")
    many = np.maximum(np.searchsorted(second[:, 0], first[:, 1], side="left") - low, 0)
    mine = np.repeat(np.arange(len(first)), many)
    other = np.arange(len(mine)) - np.repeat(np.cumsum(many) - many, many) + np.repeat(low, many)
    return np.column_stack([np.maximum(first[mine, 0], second[other, 0]), np.minimum(first[mine, 1], second[other, 1])])


def seconds(spans: Array) -> float:
    """Return how long spans that do not overlap are together, in seconds."""
    return float((spans[:, 1] - spans[:, 0]).sum()) / 1e9
