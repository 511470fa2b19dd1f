"""Account for every copy, and for every event at every service: what was expected, what was heard, and why the rest is missing.

The words are defined in `sim.results.copies` and `sim.results.service_books`. Counts are of the `run` phase; the books are balanced over
the whole run, because a delivery belongs to it whatever its phase, and so are unexplained and unexpected copies outside the probe.

The books are kept twice, and must agree:

1. Copy by copy, as `Run.copies` does, and pair by pair of event and service, as `Run.service_books` does.
2. From totals: rows of the deliveries table, and, event by event, how many pods of its channel were alive in each service (`balance`).

A third account, what PUBLISH said, is evidence and not truth: a broker counts subscribers of any program, and connections that
are already dead. It is reported, never judged. In a cluster PUBLISH counts one node's subscribers, so that it said fewer is no finding
there (a sharded one reaches only its own node's, so there it is).

Losing copies is not invalid (Pub/Sub may); one without a cause makes the verdict unknown. A copy nobody should have heard is
invalid, unless it is traffic of another program or another run on the same broker: then it is unknown.

Where publishers do not know whether some events were published, nobody can vouch for the copies of these that were not heard: what is
missing or unserved is then between those known to be lost, and these too. Likewise where the record of a process was lost with its machine
and the run went on (`hosts.on_loss = "count"`): what its pods heard is not known, and of what they published only what others heard. Each
call that they were meant to make may then have been an event that everybody missed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from sim.machine.words import amount, count
from sim.record.limits import MetricName
from sim.record.reader import Array, codes_in, codes_of
from sim.record.schema import FOREIGN_BIT, event_id
from sim.results.balance import unbalanced
from sim.results.checkers.verdict import MAX_WITNESSES, Bounds, Result, Word, between, told
from sim.results.copies import CAUSE, FATE, OUTCOME
from sim.results.opened_run import Run
from sim.results.pieces import Piece
from sim.results.tally import Tally

ALL = MetricName("")
MAX_SERVICES = 1  # at most so many are named in the sentence; the report has a table of all
WHY = "whether what was not heard had been published"
LOST = "what the pods of a lost machine heard and published"

UNNOTICED_NS = 1_000_000_000  # for so long a broker may not know that a connection is gone


def check(run: Run) -> Result:
    """Count copies by fate and cause, and events by service; balance the books, and name what has no explanation."""
    tally = run.tally
    fates, served = tally.fates(ALL), tally.served(ALL)
    expected = fates["delivered"] + fates["missing"] + fates["unknown"]
    found = list(run.pieces.each(lambda piece: _suspects(run, piece)))
    unexplained, unexpected = sum(one.unexplained for one in found), sum(one.unexpected for one in found)
    foreign = sum(one.foreign for one in found)
    unpublished, of_lost = sum(one.unpublished for one in found), sum(one.of_lost for one in found)
    counts: dict[str, int | float] = {
        "events": int((run.publishes["phase"] == "run").sum()),
        "expected": expected,
        **fates,
        **tally.causes,
        **served,
        "foreign": foreign,
        **_unrecorded(run, foreign=foreign, unpublished=unpublished, of_lost=of_lost),
        **_publish_account(run),
    }
    witnesses = [] if unexplained or unexpected else _alone_witnesses(run)
    kind = 0 if unexplained else 1 if unexpected else 2
    witnesses += [text for one in found for text in one.witnesses[kind]]
    why = _why(run)
    sentence = f"{_services_sentence(tally, one_pod=run.one_per_service)}; {_sentence(expected, fates, tally.causes, why)}"
    verdict, detail = _decide(counts, unexplained, unexpected, unbalanced(run), sentence)
    metrics = _metrics(tally, why, pods=len(run.pod_histories), unheard=sum(lost.calls for lost in run.info.lost or ()))
    if run.info.lost:
        metrics["unexpected"] = float(fates["unexpected"] - sum(one.of_lost_in_run for one in found))
    return Result(verdict, detail, counts=counts, witnesses=witnesses[:MAX_WITNESSES], metrics=metrics, warnings=_warnings(run, counts))


def _why(run: Run) -> str:
    """Return what nobody knows of a copy that is unknown."""
    if run.info.lost:
        return LOST
    return WHY if not run.clocks.differ else f"{WHY}, or was to be heard: that turns on less than the clocks of two machines are known by"


def _metrics(tally: Tally, why: str, *, pods: int, unheard: int) -> dict[str, float | Bounds]:
    """Return the metrics of the run, of each service and of each channel; NaN where nothing was owed.

    Parameters
    ----------
    unheard
        How many events there may have been of which nothing is recorded; each would have had a copy for each of so many `pods` at most.
    """
    metrics: dict[str, float | Bounds] = {}
    for of in tally.scopes():
        fates, served = tally.fates(of), tally.served(of)
        expected, pairs = fates["delivered"] + fates["missing"] + fates["unknown"], served["pairs"]
        missing, most = fates["missing"], fates["missing"] + fates["unknown"] + unheard * pods
        known, unserved = served["unserved"] - served["in_doubt"], served["unserved"] + unheard * pods
        found: dict[str, float | Bounds] = {
            "missing": between(missing, most, why) if expected else math.nan,
            "missing_ratio": between(missing / expected, most / (expected + unheard * pods), why) if expected else math.nan,
            "unserved": between(known, unserved, why if unheard else WHY) if pairs else math.nan,
            "unserved_ratio": between(known / pairs, unserved / (pairs + unheard * pods), why if unheard else WHY) if pairs else math.nan,
            "half_served": _half_served(served, why, unheard=unheard * pods) if pairs else math.nan,
        }
        metrics |= {str(of._replace(base=name)): value for name, value in found.items()}
    of_all = tally.fates(ALL)
    heard = of_all["delivered"] + of_all["duplicate"] + of_all["unexpected"]
    return metrics | {"unexpected": float(of_all["unexpected"]) if heard else math.nan}


def _half_served(served: Mapping[str, int], why: str, *, unheard: int) -> float | Bounds:
    half = float(served["half_served"])
    of_clocks = "whether pods that did not hear should have: their clocks are not known that well"
    return between(half - served.get("half_in_doubt", 0), half + unheard, LOST if why == LOST else of_clocks)


def _decide(counts: dict[str, int | float], unexplained: int, unexpected: int, unbalanced: str, sentence: str) -> tuple[Word, str]:
    foreign = int(counts["foreign"])
    if not counts["events"]:
        return "unknown", "no data: nothing was published in the run phase"
    unrecorded, of_lost = int(counts.get("unrecorded", 0)), int(counts.get("of_lost_publishers", 0))
    if unexpected > foreign + unrecorded + of_lost:
        return "invalid", f"copies heard that nobody should have heard: {unexpected - foreign - unrecorded - of_lost:,}"
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


def _services_sentence(tally: Tally, *, one_pod: bool) -> str:
    """Return how many events reached the services that should hear them, the services that lack most first."""
    short = []
    for of in tally.scopes():
        served = tally.served(of)
        if of.scope == "service" and served["unserved"] + served["half_served"]:
            short.append((served["unserved"], served["half_served"], of.subject, served))
    if not short:
        whole = f"all {tally.events:,} events" if tally.events > 1 else "the one event"
        pods = "" if one_pod else "every living pod of "
        return f"{whole} reached {pods}every service that should handle {'them' if tally.events > 1 else 'it'}"
    texts = []
    for unserved, half, service, served in sorted(short, key=lambda one: (-one[0], -one[1], one[2]))[:MAX_SERVICES]:
        parts = []
        if unserved:
            parts.append(f"{told('', between(unserved - served['in_doubt'], unserved, WHY))} reached none of its pods")
        parts += [f"{half:,} {'' if parts else 'reached '}only some{'' if parts else ' of its pods'}"] if half else []
        texts.append(f"of {count(served['pairs'], 'event')} that {service} should handle {' and '.join(parts)}")
    more = len(short) - len(texts)
    return ", ".join(texts) + (f", and {count(more, 'more service lacks', 'more services lack')} some" if more else "")


class _Suspects(NamedTuple):
    """Of a piece: copies that are unexplained and unexpected, and witnesses of both, and of losses.

    `foreign`, `unpublished` and `of_lost` are of the unexpected ones, `of_lost_in_run` is of those of the run phase.
    """

    unexplained: int
    unexpected: int
    foreign: int
    unpublished: int
    of_lost: int
    of_lost_in_run: int
    witnesses: tuple[list[str], list[str], list[str]]


def _suspects(run: Run, piece: Piece) -> _Suspects:
    loaded = ~piece.in_phase("probe")
    unexplained = np.flatnonzero(loaded & (piece.cause == CAUSE["unexplained"]))
    unexpected = np.flatnonzero(loaded & (piece.fate == FATE["unexpected"]))
    lost = np.flatnonzero(piece.in_run & (piece.fate == FATE["missing"]))
    of_lost = _of_lost(run, piece, unexpected)
    told = [[_witness(run, piece, copy) for copy in some[:MAX_WITNESSES].tolist()] for some in (unexplained, unexpected, lost)]
    return _Suspects(
        unexplained=len(unexplained),
        unexpected=len(unexpected),
        foreign=int(_foreign(run, piece, unexpected).sum()),
        unpublished=int((piece.publish[unexpected] < 0).sum()),
        of_lost=len(of_lost),
        of_lost_in_run=int(piece.in_run[of_lost].sum()),
        witnesses=(told[0], told[1], told[2]),
    )


def _unrecorded(run: Run, *, foreign: int, unpublished: int, of_lost: int) -> dict[str, int | float]:
    """Count the copies of our own events whose record was lost with the generator or a machine; nothing where it was not lost."""
    found: dict[str, int | float] = {}
    if run.info.lost:
        found["of_lost_publishers"] = of_lost
    if run.info.load.record_kept is False:
        found["unrecorded"] = unpublished - foreign
    return found


def _of_lost(run: Run, piece: Piece, unexpected: Array) -> Array:
    """Return those of these copies whose events were published by pods whose record is lost."""
    numbers = [number for lost in run.info.lost or () for number in lost.publishers]
    if not numbers:
        return unexpected[:0]
    keys = piece.heard.key[piece.delivery[unexpected]]
    theirs = (piece.publish[unexpected] < 0) & np.isin(keys >> np.uint64(32) & np.uint64(0xFFFF), numbers)
    found: Array = unexpected[theirs & (keys >> np.uint64(48) == np.uint64(run.info.nonce))]
    return found


def _sentence(expected: int, fates: dict[str, int], causes: dict[str, int], why: str) -> str:
    missing = ", ".join(f"{many:,} {cause}" for cause, many in causes.items() if cause and many)
    if expected == fates["delivered"] > 1:
        return f"all {expected:,} expected copies were delivered"
    text = f"of {count(expected, 'expected copy', 'expected copies')} {count(fates['delivered'], 'was', 'were')} delivered"
    if not fates["unknown"]:
        return text + (f", {count(fates['missing'], 'is', 'are')} missing ({missing})" if missing else ", none is missing")
    ends = between(fates["missing"], fates["missing"] + fates["unknown"], WHY)
    text += f", {told('', ends)} are missing" + (f" ({missing})" if missing else "")
    if why == LOST:
        return f"{text}: nobody knows of {amount(fates['unknown'])}, because what pods recorded was lost with their machine"
    of_clocks = why.removeprefix(WHY)
    return f"{text}: nobody knows whether {amount(fates['unknown'])} had been published{of_clocks}"


def _witness(run: Run, piece: Piece, copy: int) -> str:
    publish = piece.publish[copy]
    key = run.publishes["event"].iloc[publish] if publish >= 0 else piece.heard.key[piece.delivery[copy]]
    channel = f" on {run.publishes['channel'].iloc[publish]}" if publish >= 0 else ""
    cause = list(CAUSE)[piece.cause[copy]]
    text = f"{event_id(int(key))}{channel}: {list(FATE)[piece.fate[copy]]} at {run.pod_histories[piece.pod[copy]].pod}"
    return text + (f", {cause}" if cause else "")


def _alone_witnesses(run: Run) -> list[str]:
    """Return some of the run phase's events that were owed to a service without a pod."""
    books = run.service_books
    alone = books.alone[books.fate[books.alone] == FATE["missing"]]
    of_run = (run.publishes["phase"] == "run").to_numpy()
    texts = []
    for pair in alone[of_run[books.publish[alone]]][:MAX_WITNESSES]:
        key, channel = run.publishes[["event", "channel"]].iloc[books.publish[pair]]
        texts.append(f"{event_id(int(key))} on {channel}: missing at {run.services[books.service[pair]]}, {list(CAUSE)[books.cause[pair]]}")
    return texts


def _foreign(run: Run, piece: Piece, unexpected: Array) -> Array:
    """Return which of these copies are of events that no publisher of this run can have made."""
    if not len(unexpected):
        return np.zeros(0, dtype=bool)
    unpublished = piece.publish[unexpected] < 0
    keys = piece.heard.key[piece.delivery[unexpected]]
    own = np.unique(run.publishes["event"].to_numpy() >> np.uint64(48))
    return unpublished & ((keys >= np.uint64(FOREIGN_BIT)) | ~np.isin(keys >> np.uint64(48), own))


def _publish_account(run: Run) -> dict[str, int | float]:
    """Return what PUBLISH said of the run phase's events, beside how many copies of them were expected."""
    receivers, said, heard = run.publishes["receivers"].to_numpy(), _said(run), run.books.delivered
    one_count = not run.handed_on
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
    more: Array = run.publishes["receivers"].to_numpy() > run.books.expected
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
