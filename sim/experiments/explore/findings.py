"""What counts as found in a judged run: what is wrong with the lab, with the bus, or with both.

1. The run does not end as it should: it is not whole, breaks, or hangs (`sim.experiments.explore.look`).
2. The books do not balance, by a count of their own here, or a copy is missing without a cause.
3. A checker or a limit says unknown, and its own rows do not bear out why: a bug of the lab.
4. A checker or a limit says invalid: a promise was broken; or one of those in `sim.experiments.explore.promises` is.
5. The bus does not heal: `heal_s` after the last fault ended, what is published still does not reach a pod that should hear it. Not where
   the scenario asks for a bus that stays away (`bus.reattach`, no REDIS_URL), nor of what slow handlers or a full stream lost.
6. A property of the user's own says so.

Not found is what follows from a scenario that nobody would have written: nothing was published, or a marker that Redis lost with its keys
keeps nobody from handling an event again. Each such reason must be borne out by the rows (`UNKNOWN`, `INVALID`).
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from sim.bus.envelope import BATCH
from sim.experiments.explore.flaw import Flaw
from sim.experiments.explore.promises import broken_promises
from sim.machine.words import count
from sim.record.reader import Array, codes_in, take_rows
from sim.record.schema import event_id
from sim.results.checkers import Result, Verdict
from sim.results.checkers.once import PROMISE_ONCE
from sim.results.copies import CAUSE, FATE
from sim.results.opened_run import Run
from sim.results.outages import Belief, read_beliefs

FORGETS = ("broker_down", "broker_failover", "broker_stop", "connections_refused", "keys_lost", "pod_start_in_outage")
MUST_HEAL = ("deaf", "sent-in-memory-mode", "publish-refused", "cut-link", "unexplained", "not-whole")  # causes
Reason = Callable[[Run, str, Result], bool]


def findings(run: Run, verdict: Verdict, *, heal_s: float | None = None) -> list[Flaw]:
    """Return what is wrong with a run and its verdict; empty when nothing is.

    Parameters
    ----------
    heal_s
        So long after the last fault all must have healed; None: this is not asked.
    """
    found = [] if run.info.state == "complete" else [Flaw(f"run: {run.info.state}", f"the run is {run.info.state}: {run.info.reason}")]
    found += _of_balance(run) + _unexplained(run)
    for name, result in verdict.checkers.items():
        if result.verdict != "valid" and not any(holds(run, name, result) for holds in (UNKNOWN, INVALID)[result.verdict == "invalid"]):
            event = result.witnesses[0].split()[0].rstrip(":") if result.witnesses else ""
            found.append(Flaw(f"{name}: {_kind_of(result)}", f"{name} is {result.verdict}: {result.detail}", event))
    for limit in verdict.slo:
        if limit.verdict == "invalid":
            found.append(Flaw(f"slo: {limit.metric}", limit.detail))
    found += broken_promises(run)
    return found + ([] if heal_s is None else _not_healed(run, heal_s))


def _kind_of(result: Result) -> str:
    """Return what kind of thing a checker says: its verdict, and of an unknown the words that its sentence begins with."""
    if result.verdict == "invalid":
        return "invalid"
    words = re.sub(r"[^a-z ]", " ", re.split(r"[:;]", result.detail.lower())[-1 if "failed" in result.detail else 0]).split()
    return " ".join(["unknown", *words[:4]])


def _of_balance(run: Run) -> list[Flaw]:
    """Count pairs of event and pod anew, with no code of the books."""
    heard = run.deliveries
    numbers = {history.pod: number for number, history in enumerate(run.pod_histories)}
    pairs = _different(heard["event"].to_numpy(), codes_in(heard["pod"], numbers))
    copies = run.copies
    event = take_rows(run.publishes["event"].to_numpy(), copies.publish)
    foreign = copies.publish < 0
    event[foreign] = heard["event"].to_numpy()[copies.delivery[foreign]]
    first = np.isin(copies.fate, [FATE["delivered"], FATE["unexpected"]])
    booked = _different(event[first], copies.pod[first], copies.fate[first])
    rows = int((first | (copies.fate == FATE["duplicate"])).sum())
    if (booked, rows) == (pairs, len(heard)):
        return []
    text = f"the books do not balance: {booked} of {pairs} pairs, {rows} of {len(heard)} rows"
    return [Flaw("books: do not balance", text)]


def _different(*columns: Array) -> int:
    """Return how many different rows some columns make."""
    if not len(columns[0]):
        return 0
    order = np.lexsort(columns)
    changes = np.zeros(len(order) - 1, dtype=bool)
    for column in columns:
        changes |= column[order][1:] != column[order][:-1]
    return int(changes.sum()) + 1


def _unexplained(run: Run) -> list[Flaw]:
    rows = np.flatnonzero(run.copies.cause == CAUSE["unexplained"])
    if not len(rows):
        return []
    return [Flaw("ledger: unexplained", f"unexplained: {len(rows)}", _event_of(run, int(rows[0])))]


def _event_of(run: Run, row: int) -> str:
    publish = int(run.copies.publish[row])
    return event_id(int(run.publishes["event"].iloc[publish])) if publish >= 0 else ""


def _not_healed(run: Run, heal_s: float) -> list[Flaw]:
    """Return what does not come back after the last fault: pods that hear no probe, and what is lost of the load that goes on."""
    bus = run.scenario["bus"]
    stays_away = not bus["redis_url"] or bus["reattach"] != "automatic" or bus["fallback"] != "on-failure" or bus["transport"] == "memory"
    if stays_away or not len(run.faults):
        return []
    found = []
    if run.info.recovered is False and not _only_behind(run):
        why = next((note for note in run.info.notes if note.startswith("the bus did not recover")), "")
        found.append(Flaw("liveness: not recovered", why or "the bus did not recover"))
    healed_ns = int(run.faults["end_ns"].max() + heal_s * 1e9)
    copies, publishes = run.copies, run.publishes
    causes = [CAUSE[cause] for cause in MUST_HEAL]
    lost = np.flatnonzero((copies.fate == FATE["missing"]) & np.isin(copies.cause, causes) & (copies.publish >= 0))
    sent_ns = publishes["sent_ns"].to_numpy()[copies.publish[lost]]
    late = lost[(sent_ns >= healed_ns) & (sent_ns < run.run_span[1])]
    if len(late):
        words = {code: word for word, code in CAUSE.items()}
        cause = words[int(copies.cause[late[0]])]
        pods = len(set(copies.pod[late].tolist()))
        text = f"{heal_s:g} s after the last fault {count(len(late), 'copy', 'copies')} of {count(pods, 'pod')} were still lost, {cause}"
        found.append(Flaw(f"liveness: {cause}", text, _event_of(run, int(late[0]))))
    return found


# -- reasons that the rows bear out ---------------------------------------------------------------------------------------


def _published(run: Run) -> int:
    return int((run.publishes["phase"] == "run").sum())


def _delivered(run: Run) -> int:
    mine = run.publishes.loc[run.publishes["phase"] == "run", "event"]
    return int(run.deliveries["event"].isin(mine).sum())


def _kinds(run: Run) -> set[str]:
    return {fault["kind"] for fault in run.scenario.get("faults", ())}


def _nothing_published(run: Run, name: str, result: Result) -> bool:
    return result.detail == "no data: nothing was published in the run phase" and not _published(run)


def _nothing_delivered(run: Run, name: str, result: Result) -> bool:
    said = ("no data: nothing was delivered in the run phase", "no data: no event with a timestamp was delivered in the run phase")
    return result.detail in said and not _delivered(run)


def _nobody_to_hear(run: Run, name: str, result: Result) -> bool:
    ledger = run.ledger()
    mine = ledger["event"].isin(run.publishes.loc[run.publishes["phase"] == "run", "event"])
    return (
        result.detail == "no data: no pod was to hear what was published in the run phase"
        and not (mine & (ledger["fate"] != "unexpected")).any()
    )


def _machine_busy(run: Run, name: str, result: Result) -> bool:
    """On real grounds the lab may lack a core; then every part of the sentence must be about that."""
    busy = ("of a core", "generator saturated")
    return (
        name == "harness" and run.info.ground != "model" and all(any(word in part for word in busy) for part in result.detail.split("; "))
    )


def _latest_s(run: Run) -> float:
    """Return how late a loop of a run was at most, in seconds; 0 when it has no samples."""
    return float(run.hosts["loop_lag_ns"].max()) / 1e9 if len(run.hosts) else 0.0


def _fault_came_late(run: Run, name: str, result: Result) -> bool:
    """A loop that stood still for longer than was left of the load when a fault was to begin could not begin it."""
    said = result.detail == "no data: the scenario means faults, and none is recorded in the run phase"
    left_s = min(run.scenario["load"]["run_s"] - fault["at_s"] - fault["within_s"] for fault in run.scenario["faults"])
    return said and run.info.ground != "model" and _latest_s(run) >= left_s


def _keys_were_lost(run: Run, name: str, result: Result) -> bool:
    """A marker that is gone keeps nobody from handling an event again."""
    bus = run.scenario["bus"]
    return name == "once" and bus["once"] in PROMISE_ONCE and (bool(_kinds(run) & set(FORGETS)) or bus["once_ttl_s"] == 1)


def _no_batches(run: Run, name: str, result: Result) -> bool:
    """A mix gives an event type a chance, not a number."""
    said = result.detail == "no data: the load's mix means batches, and none waited in the run phase"
    begin_ns, end_ns = run.phases["run"]
    mine = run.publishes[(run.publishes["channel"] == BATCH) & (run.publishes["items"] > 0)]
    return said and not ((mine["first_item_ns"] < end_ns) & (mine["intended_ns"] >= begin_ns)).any()


def _sent_before_its_connection_was_lost(run: Run, name: str, result: Result) -> bool:
    """What a publisher had no answer for may still reach the broker when it goes on by another way: memory, or a new connection."""
    rows = run.deliveries.drop_duplicates(["event", "pod"])
    rows = rows.merge(
        run.publishes[["event", "channel", "publisher", "outcome"]].drop_duplicates("event"), on="event", suffixes=("", "_sent")
    )
    newest = rows.groupby(["pod", "publisher", "channel"], observed=True)["event"].cummax()
    late = rows.loc[rows["event"] < newest, "outcome_sent"]
    return name == "order" and len(late) > 0 and bool((late == "unknown").all())


def _behind_before_the_faults(run: Run, name: str, result: Result) -> bool:
    """Handlers that take time fell behind by themselves, and what they had not read was dropped before any fault began."""
    if name != "steady" or "not in its steady state before the first fault" not in result.detail:
        return False
    times = ("handler_ms", "handler_cpu_ms", "concurrency", "skew_ms")
    slow = {name for name, one in run.scenario["services"].items() if any(one.get(key) for key in times)}
    sent = run.publishes.drop_duplicates("event").set_index("event")["sent_ns"]
    lost = run.ledger().query("fate == 'missing' and phase == 'run' and cause != 'taken-by-peer'")
    early = lost[sent.reindex(lost["event"]).to_numpy() < run.faults["begin_ns"].min()]
    return len(early) > 0 and set(early["cause"].astype(str)) <= {"trimmed", "cut", "behind"} and set(early["service"].astype(str)) <= slow


def _only_behind(run: Run) -> bool:
    """Whether the probe after the load waits behind a queue: no pod is away, and the handlers of the one that did not hear it take time."""
    slow = {name for name, one in run.scenario["services"].items() if one.get("handler_ms") or one.get("handler_cpu_ms")}
    named = [found[1] for note in run.info.notes if (found := re.search(r"heard no probe .*; the first: (\S+) on ", note))]
    service = {history.pod: history.service for history in run.pod_histories}
    silent = run.scenario["bus"]["transport"] != "memory" and any(belief.bus[-2:][:1] != ("connected",) for belief in _last_beliefs(run))
    return run.info.recovered is False and any(service.get(pod) in slow for pod in named) and not silent


def _last_beliefs(run: Run) -> list[Belief]:
    """Return what the pods believed that ended in order: before that, their last belief."""
    return [belief for belief in read_beliefs(run).values() if belief.bus and belief.bus[-1] == "stopped" and len(belief.bus) > 1]


def _handlers_never_caught_up(run: Run, name: str, result: Result) -> bool:
    return name == "steady" and result.counts.get("away_after") == 0 and _only_behind(run)


UNKNOWN: tuple[Reason, ...] = (
    _nothing_published, _nothing_delivered, _nobody_to_hear, _no_batches, _machine_busy, _fault_came_late, _behind_before_the_faults
)  # fmt: skip
INVALID: tuple[Reason, ...] = (_keys_were_lost, _sent_before_its_connection_was_lost, _handlers_never_caught_up)
