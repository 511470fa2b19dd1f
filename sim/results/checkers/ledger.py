"""Account for every copy: what was expected, what was heard, and why the rest is missing.

The words are defined in `sim.results.copies`. Counts are of the `run` phase; the books are balanced over the whole run, because a
delivery belongs to it whatever its phase, and so are unexplained and unexpected copies outside the probe.

The books are kept twice, and must agree:

1. Copy by copy, as `Run.copies` does.
2. From totals: rows of the deliveries table, and, event by event, how many pods of its channel were alive.

A third account, what PUBLISH said, is evidence and not truth: a broker counts subscribers of any program, and connections that
are already dead. It is reported, never judged. In a cluster PUBLISH counts one node's subscribers, so that it said fewer is no finding
there (a sharded one reaches only its own node's, so there it is).

Losing copies is not invalid (Pub/Sub may); one without a cause makes the verdict unknown. A copy nobody should have heard is
invalid, unless it is traffic of another program or another run on the same broker: then it is unknown.
"""

from __future__ import annotations

import numpy as np

from sim.machine.words import amount, count
from sim.record.reader import Array, codes_in, codes_of
from sim.record.schema import ALIVE_STATES, FOREIGN_BIT, event_id
from sim.results.checkers.verdict import MAX_WITNESSES, Result, Word
from sim.results.copies import CAUSE, FATE, OUTCOME
from sim.results.opened_run import Run

UNNOTICED_NS = 1_000_000_000  # for so long a broker may not know that a connection is gone


def check(run: Run) -> Result:
    """Count copies by fate and cause, balance the books, and name what has no explanation."""
    copies, phase = run.copies, run.copies_phase()
    names = list(run.phases)
    judged = phase == (names.index("run") if "run" in names else -1)
    loaded = phase != (names.index("probe") if "probe" in names else -1)
    fates = dict(zip(FATE, np.bincount(copies.fate[judged], minlength=len(FATE)).tolist(), strict=True))
    causes = dict(zip(CAUSE, np.bincount(copies.cause[judged], minlength=len(CAUSE)).tolist(), strict=True))
    expected = fates["delivered"] + fates["missing"] + fates["unknown"]
    unexplained = np.flatnonzero(loaded & (copies.cause == CAUSE["unexplained"]))
    unexpected = np.flatnonzero(loaded & (copies.fate == FATE["unexpected"]))
    foreign = unexpected[_foreign(run, unexpected)]
    counts: dict[str, int | float] = {
        "events": int((run.publishes["phase"] == "run").sum()),
        "expected": expected,
        **fates,
        **{cause: count for cause, count in causes.items() if cause},
        "foreign": len(foreign),
        **_unrecorded(run, len(foreign), unexpected),
        **_publish_account(run),
    }
    metrics = {
        "missing": float(fates["missing"]),
        "missing_ratio": fates["missing"] / expected if expected else float("nan"),
        "unexpected": float(fates["unexpected"]),
    }
    warnings = _warnings(run, counts)
    unbalanced = _unbalanced(run)
    lost = np.flatnonzero(judged & (copies.fate == FATE["missing"]))
    suspects = unexplained if len(unexplained) else unexpected if len(unexpected) else lost
    witnesses = [_witness(run, int(copy)) for copy in suspects[:MAX_WITNESSES]]
    verdict, detail = _decide(counts, len(unexplained), len(unexpected), unbalanced, _sentence(expected, fates, causes))
    return Result(verdict, detail, counts=counts, witnesses=witnesses, metrics=metrics, warnings=warnings)


def _decide(counts: dict[str, int | float], unexplained: int, unexpected: int, unbalanced: str, sentence: str) -> tuple[Word, str]:
    foreign = int(counts["foreign"])
    if not counts["events"]:
        return "unknown", "no data: nothing was published in the run phase"
    unrecorded = int(counts.get("unrecorded", 0))
    if unexpected > foreign + unrecorded:
        return "invalid", f"copies heard that nobody should have heard: {unexpected - foreign - unrecorded:,}"
    if unrecorded:
        return "unknown", f"copies of events whose publishes are not recorded: {unrecorded:,}; the generator ended without its record"
    if unbalanced:
        return "unknown", unbalanced
    if unexplained:
        return "unknown", f"missing copies without an explanation: {unexplained:,}"
    if foreign:
        return "unknown", f"deliveries that are traffic of another program or run on the same broker: {foreign:,}"
    if not counts["expected"]:
        return "unknown", "no data: no pod was to hear what was published in the run phase"
    return "valid", sentence


def _unrecorded(run: Run, foreign: int, unexpected: Array) -> dict[str, int | float]:
    """Count the copies of our own events whose record was lost with the generator; nothing where it was not lost."""
    if run.info.load.record_kept is not False:
        return {}
    return {"unrecorded": int((run.copies.publish[unexpected] < 0).sum()) - foreign}


def _sentence(expected: int, fates: dict[str, int], causes: dict[str, int]) -> str:
    missing = ", ".join(f"{many:,} {cause}" for cause, many in causes.items() if cause and many)
    if expected == fates["delivered"] > 1:
        return f"all {expected:,} expected copies were delivered"
    text = f"of {count(expected, 'expected copy', 'expected copies')} {count(fates['delivered'], 'was', 'were')} delivered"
    text += f", {count(fates['missing'], 'is', 'are')} missing ({missing})" if missing else ", none is missing"
    return text + (f", the fate of {amount(fates['unknown'])} is not known" if fates["unknown"] else "")


def _witness(run: Run, copy: int) -> str:
    copies = run.copies
    publish, delivery = copies.publish[copy], copies.delivery[copy]
    key = run.publishes["event"].iloc[publish] if publish >= 0 else run.deliveries["event"].iloc[delivery]
    channel = f" on {run.publishes['channel'].iloc[publish]}" if publish >= 0 else ""
    cause = list(CAUSE)[copies.cause[copy]]
    text = f"{event_id(int(key))}{channel}: {list(FATE)[copies.fate[copy]]} at {run.pod_histories[copies.pod[copy]].pod}"
    return text + (f", {cause}" if cause else "")


def _foreign(run: Run, unexpected: Array) -> Array:
    """Return which of these copies are of events that no publisher of this run can have made."""
    copies = run.copies
    unpublished = copies.publish[unexpected] < 0
    keys = run.deliveries["event"].to_numpy()[copies.delivery[unexpected]]
    own = np.unique(run.publishes["event"].to_numpy() >> np.uint64(48))
    return unpublished & ((keys >= np.uint64(FOREIGN_BIT)) | ~np.isin(keys >> np.uint64(48), own))


def _unbalanced(run: Run) -> str:
    """Return how the two accounts differ, empty when they agree."""
    copies, index, pods = run.copies, run.index, len(run.pod_histories)
    fates = dict(zip(FATE, np.bincount(copies.fate, minlength=len(FATE)).tolist(), strict=True))
    heard, rows = fates["delivered"] + fates["duplicate"] + fates["unexpected"], len(run.deliveries)
    if heard != rows:
        return f"the books do not balance: {rows:,} delivery rows, but {heard:,} copies delivered, duplicate or unexpected"
    published = index.event_of < len(index.row) - 1
    pod = codes_in(run.deliveries["pod"], {history.pod: number for number, history in enumerate(run.pod_histories)})
    pairs = _distinct(index.event_of[published].astype(np.int64) * pods + pod[published])
    stray = (copies.fate == FATE["unexpected"]) & (copies.publish >= 0)
    once = fates["delivered"] + _distinct(copies.publish[stray].astype(np.int64) * pods + copies.pod[stray])
    if pairs != once:
        return f"the books do not balance: {pairs:,} pairs of event and pod in the deliveries, but {once:,} copies heard once or more"
    booked = fates["delivered"] + fates["missing"] + fates["unknown"]
    expected = _expected_from_totals(run)
    if expected != booked and expected + _came_alive_late(run) != booked:
        return f"the books do not balance: {expected:,} copies were expected, but {booked:,} are delivered, missing or unknown"
    return ""


def _distinct(values: Array) -> int:
    values = np.sort(values)
    return int((values[1:] != values[:-1]).sum()) + 1 if len(values) else 0


def _expected_from_totals(run: Run) -> int:
    """Return the number of expected copies: event by event, pods of its channel that had begun minus those that had ended."""
    index, channels = run.index, codes_of(run.publishes["channel"])[1]
    total = 0
    for code, channel in enumerate(channels):
        begins, ends = [], []
        for history in run.pod_histories:
            was = False
            for at, state in zip(history.at_ns, history.states, strict=True) if channel in history.channels else ():
                alive = state in ALIVE_STATES
                begins += [at] if alive and not was else []
                ends += [at] if was and not alive else []
                was = alive
        due = index.due_ns[:-1][index.channel[:-1] == code]
        total += int(np.searchsorted(np.sort(begins), due, side="right").sum() - np.searchsorted(np.sort(ends), due, side="right").sum())
    return total


def _came_alive_late(run: Run) -> int:
    """Return the number of copies heard by pods that came alive between sending and answer, or lived for a part of its nanosecond."""
    copies, index, late = run.copies, run.index, 0
    due = np.zeros(len(run.publishes) + 1, dtype=np.int64)
    due[index.row] = index.due_ns
    for number, history in enumerate(run.pod_histories):
        mine = copies.publish[(copies.pod == number) & (copies.fate == FATE["delivered"])]
        late += int((~history.alive(due[mine])).sum())
    return late


def _publish_account(run: Run) -> dict[str, int | float]:
    """Return what PUBLISH said of the run phase's events, beside how many copies of them were expected."""
    copies, receivers, said = run.copies, run.publishes["receivers"].to_numpy(), _said(run)
    one_count = not run.many_nodes or run.transport != "pubsub"
    heard = np.bincount(copies.publish[copies.fate == FATE["delivered"]], minlength=len(receivers))
    return {
        "publish_receivers": int(receivers[said].sum()),
        "publish_delivered": int(heard[said].sum()),
        "publish_said_more": int(_said_more(run).sum()),
        "publish_said_fewer": int((receivers < heard)[said].sum()) if one_count else 0,
    }


def _said(run: Run) -> Array:
    """Return which publishes of the run phase PUBLISH told a number of subscribers of."""
    publishes = run.publishes
    told: Array = (publishes["phase"] == "run").to_numpy() & (publishes["receivers"].to_numpy() >= 0)
    told &= codes_in(publishes["outcome"], OUTCOME) == OUTCOME["acknowledged"]
    return told


def _said_more(run: Run) -> Array:
    """Return of which publishes PUBLISH said more subscribers than the fleet had to hear it."""
    copies = run.copies
    meant = np.isin(copies.fate, [FATE["delivered"], FATE["missing"], FATE["unknown"]])
    expected = np.bincount(copies.publish[meant], minlength=len(run.publishes))
    more: Array = run.publishes["receivers"].to_numpy() > expected
    return _said(run) & more


def _who_else(run: Run) -> str:
    """Return who was counted by PUBLISH beside the fleet, as far as anything shows it.

    A broker counts a connection until it knows that it is gone: about a fault, or when a pod ends or connects again, it may be our own.
    """
    if (run.broker["value"][run.broker["metric"] == "numsub_foreign"] > 0).any():
        return "other programs subscribe to these channels too"
    rows = run.publishes[_said_more(run)]
    sent, answered = rows["sent_ns"].to_numpy(), rows["acked_ns"].to_numpy()
    channel, channels = codes_of(rows["channel"])
    ours = np.zeros(len(rows), dtype=bool)
    for fault in run.faults.to_dict("records"):
        ours |= (fault["begin_ns"] <= answered) & ((fault["end_ns"] == 0) | (fault["end_ns"] >= sent - UNNOTICED_NS))
    for history in run.pod_histories:
        changes = np.searchsorted(history.at_ns, answered, side="right") > np.searchsorted(history.at_ns, sent - UNNOTICED_NS)
        ours |= changes & np.array([*(word in history.channels for word in channels), False])[channel]
    return "it may have counted connections of pods that had ended or connected again" if ours.all() else "someone else may listen"


def _warnings(run: Run, counts: dict[str, int | float]) -> list[str]:
    texts = []
    if counts["publish_said_more"]:
        more = count(counts["publish_said_more"], "event")
        texts.append(f"PUBLISH reached more subscribers than the fleet has in {more}: {_who_else(run)}")
    if counts["publish_said_fewer"]:
        texts.append(f"PUBLISH said fewer receivers than pods heard it in {count(counts['publish_said_fewer'], 'event')}")
    if counts["foreign"]:
        texts.append("another program or run publishes on these channels: give this run its own channel prefix or broker")
    again = len(run.publishes) + 1 - len(run.index.row)
    if again:
        texts.append(
            f"{count(again, 'event stands', 'events stand')} more than once in the publishes; each counts once, with its best outcome"
        )
    return texts
