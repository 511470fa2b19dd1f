"""Audit the instrument before its measurements are believed. Its verdict is valid or unknown, never invalid.

It is unknown when the run was not sealed or did not reach its end, when the broker counts other subscribers than the fleet claims
(see `_audit_subscriptions`), when the generator of a run that went to its end made under 99 % of the calls that the schedule
meant to make, when a process used 90 % of a core or more (then it measured itself), and when the rows that would show any of this are
missing. On the model ground time is virtual, so processor time says nothing and is not asked for.

Also reported: how long each process could have run and did not, loop lag beside lag, the send delay's share of lag, and the smallest
step between two timestamps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from sim.machine.words import amount, count, duration
from sim.record.reader import FOREVER_NS, Array, codes_in, codes_of
from sim.record.schema import ALIVE_STATES, HTTP_CALL, NOT_COMPARED_NS
from sim.results.checkers.verdict import Result
from sim.results.client import keeps_events
from sim.results.excuses import notable
from sim.results.opened_run import Run
from sim.results.pod_histories import PodHistory
from sim.results.programs import program_services, sent_by_programs
from sim.results.withheld import frozen_on, looked_at, read_withheld

OFFERED_RATIO_MIN = 0.99
CPU_SHARE_MAX = 0.9
ENDED_EARLY = ("interrupted", "failed", "killed")  # `schema.RUN_STATES`
SEND_DELAY_SHARE = 0.3
ROWS_FOR_CLOCK = 200_000
SETTLES_NS = 1_000_000_000  # the broker may count for so long who is gone, or who is not back yet
SAMPLED_NS = 1_000_000_000  # a process that had pods for so long must have samples


@dataclass
class _Audit:
    """What was found so far: what is wrong (it makes the verdict unknown), what is odd, and the numbers."""

    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    counts: dict[str, int | float] = field(default_factory=dict)


def check(run: Run) -> Result:
    """Audit the run's end, the subscriptions, the offered load, processors, loops and clocks."""
    audit = _Audit()
    _audit_end(run, audit)
    (_audit_receivers if run.info.fleet == "none" else _audit_subscriptions)(run, audit)
    ratio = _audit_load(run, audit)
    _audit_processors(run, audit)
    _audit_waits(run, audit)
    _audit_lag_share(run, audit)
    _audit_clock(run, audit)
    _audit_clocks(run, audit)
    metrics = {"offered_ratio_min": ratio}
    if audit.faults:
        return Result("unknown", "; ".join(audit.faults), counts=audit.counts, metrics=metrics, warnings=audit.warnings)
    heard = "the broker has subscribers" if run.info.fleet == "none" else _proof(run)
    made, offered = audit.counts["calls_made"], audit.counts["calls_offered"]
    share = f"all {amount(made)}" if made == offered > 1 else f"{amount(made)} of {amount(offered)}"
    detail = f"the run is whole, {heard}, and {share} offered calls were made"
    if not offered and program_services(run):
        detail = f"the run is whole, {heard}, and programs sent what was sent"
    return Result("valid", detail, counts=audit.counts, metrics=metrics, warnings=audit.warnings)


def _audit_end(run: Run, audit: _Audit) -> None:
    state, reason = run.info.state, run.info.reason or "no reason was recorded"
    if state == "killed":
        audit.faults.append(f"the run is not whole, it was killed: {reason}")
    elif not run.sealed:
        audit.faults.append("the run was not sealed: it is still going or its process was killed")
    elif state != "complete":
        audit.faults.append(f"the run was {state}: {reason}")
    for name in ("run", "drain"):
        if name not in run.phases:
            audit.faults.append(f"the run did not reach its {name} phase")
    if run.unreadable_parts:
        audit.faults.append(f"{count(len(run.unreadable_parts), 'part')} of tables cannot be read: {', '.join(run.unreadable_parts[:3])}")


def _proof(run: Run) -> str:
    """Return what proved the subscriptions, in words."""
    if not (run.broker["metric"] == "numsub").any():
        return "PUBLISH said of the probes that they reached the subscribers that the fleet claims"
    return f"the broker counts the {'consumers' if run.one_per_service else 'subscribers'} that the fleet claims"


def _audit_subscriptions(run: Run, audit: _Audit) -> None:
    """Compare the broker's newest count of each channel, less who was there before the fleet, with the pods that say they subscribe.

    A broker that does not let us count (PUBSUB NUMSUB) says by its answers to the probes how many there are (`probe_receivers`).
    While a fault is on, and shortly after it or a change of a pod's state, the two may differ for a moment, so there an older count is
    looked at too; the oldest, before the load, has to agree. A consumer of a stream's group is counted from its first subscription on,
    whether or not it is connected, until the group is lost: there are at least as many as pods subscribe, and at most as many as did.
    """
    broker = run.broker
    end = run.phases.get("run", (0, FOREVER_NS))[1]
    at_ns, values = broker["at_ns"].to_numpy(), broker["value"].to_numpy()
    kinds = codes_in(broker["metric"], {"numsub": 0, "probe_receivers": 0, "numsub_foreign": 1})
    subject, subjects = codes_of(broker["subject"])
    counted = np.flatnonzero((kinds == 0) & (at_ns <= end))
    samples: dict[str, list[tuple[int, float]]] = {}
    for row in counted[np.argsort(at_ns[counted], kind="stable")].tolist():
        samples.setdefault(subjects[subject[row]], []).append((int(at_ns[row]), float(values[row])))
    before = {subjects[subject[row]]: float(values[row]) for row in np.flatnonzero(kinds == 1).tolist()}
    channels = sorted({channel for history in run.pod_histories for channel in history.channels})
    unproven = [channel for channel in channels if channel not in samples]
    wrong = [text for channel in channels if (text := _differ(run, channel, samples.get(channel, []), before.get(channel, 0.0)))]
    audit.counts |= {"channels_proven": len(channels) - len(unproven) - len(wrong), "channels": len(channels)}
    if not channels:
        audit.faults.append("no pod subscribes to anything")
    if unproven:
        audit.faults.append(f"no NUMSUB was sampled for {', '.join(unproven[:3])}: subscriptions are not proven")
    if wrong:
        audit.faults.append(f"NUMSUB and the fleet differ: {'; '.join(wrong[:3])}")
    if any(before.values()):
        audit.warnings.append(f"{count(sum(before.values()), 'subscriber')} of other programs on these channels before the fleet")


def _differ(run: Run, channel: str, samples: list[tuple[int, float]], strangers: float) -> str:
    """Return how the broker's count of a channel and the fleet differ, empty when the newest that can be compared agrees."""
    pods = [history for history in run.pod_histories if channel in history.channels]
    for place, (at_ns, value) in enumerate(reversed(samples), start=1):
        counted, claimed = value - strangers, sum(history.state(at_ns) == "subscribed" for history in pods)
        most = sum(history.has_been("subscribed", at_ns) for history in pods) if run.one_per_service else claimed
        if claimed <= counted <= most:
            return ""
        if place == len(samples) or not _restless(run, pods, at_ns):
            return f"{channel}: {count(counted, 'subscriber')}, the fleet claims {most if counted > most else claimed}"
    return ""


def _restless(run: Run, pods: list[PodHistory], at_ns: int) -> bool:
    """Whether a fault is on at a time or ended shortly before, or a pod changes its state about then."""
    faults = run.faults
    on = (faults["begin_ns"] <= at_ns) & ((faults["end_ns"] == 0) | (faults["end_ns"] >= at_ns - SETTLES_NS))
    return bool(on.any()) or any(abs(changed - at_ns) <= SETTLES_NS for history in pods for changed in history.at_ns)


def _audit_receivers(run: Run, audit: _Audit) -> None:
    """Ask, where the fleet is not ours, only whether anybody was there: PUBLISH returns how many subscribers it reached."""
    told = run.publishes["receivers"][(run.publishes["phase"] == "run") & (run.publishes["receivers"] >= 0)]
    if len(told):
        audit.counts |= {"receivers.min": int(told.min()), "receivers.max": int(told.max())}
        if not told.max():
            audit.faults.append("no publish reached a subscriber: there is no fleet, or it listens to other channels")
        elif not told.min():
            audit.warnings.append(f"{int((told == 0).sum()):,} of {count(len(told), 'publish')} reached no subscriber")


def _audit_load(run: Run, audit: _Audit) -> float:
    """Return calls made / calls offered, without those of pods that did not run; NaN when nothing was offered."""
    publishes, load = run.publishes, run.info.load
    rows = publishes.drop_duplicates("event")
    if program_services(run):  # they decide by themselves what they send
        rows = rows[~sent_by_programs(run)[rows.index.to_numpy()]]
    made = int(rows.loc[rows["phase"] != "probe", "items"].sum()) + int((run.calls["channel"] == HTTP_CALL).sum())
    absent = load.calls_not_made or 0
    offered = (load.offered_calls or 0) - absent
    audit.counts |= {"calls_offered": offered, "calls_made": made}
    if lost := sum(one.calls for one in run.info.lost or ()):
        absent = max(0, absent - lost)
        audit.warnings.append(f"{count(lost, 'call was', 'calls were')} due of pods whose record was lost with their machine")
    if absent:
        audit.counts["calls_not_made"] = absent
        audit.warnings.append(
            f"{count(absent, 'more call was', 'more calls were')} due while their pods did not run: nobody made them, and no copy of "
            "theirs is missing"
        )
    if load.closed_by_server:
        audit.counts["closed_by_server"] = load.closed_by_server
        audit.warnings.append(
            f"before {count(load.closed_by_server, 'publish')} the generator found that the server had closed its connection (an idle "
            "time-out, or an end of the server); it connected anew"
        )
    if not offered and program_services(run):
        return math.nan
    if not offered:
        audit.faults.append("no data: run.json names no offered calls")
        return math.nan
    if run.info.state in ENDED_EARLY:  # the schedule went on without it: that is no lateness of the generator
        if made < offered:
            audit.warnings.append(f"the run had made {made:,} of the {count(offered, 'call')} of its schedule when it ended")
        return math.nan
    if made < OFFERED_RATIO_MIN * offered:
        audit.faults.append(f"generator saturated: it made {made:,} of {offered:,} offered calls ({made / offered:.1%})")
    return made / float(offered)


def _audit_processors(run: Run, audit: _Audit) -> None:
    """Report every process that used too much of a core, or whose use is not known."""
    generators = set(run.info.load.generators)
    if run.info.ground == "model":
        audit.warnings.append("virtual time: processor time and loop lag mean nothing and were not judged")
        return
    shares, loops = _samples(run)
    for lost in run.info.lost or ():
        audit.warnings.append(f"what {lost.host} recorded ({count(len(lost.pods), 'pod')}) was lost with its machine: {lost.reason}")
    lived = {host for host in _lived_on(run) if not looked_at(host)}
    for host in sorted((lived | generators) - {lost.host for lost in run.info.lost or ()}):
        if host not in shares:
            audit.faults.append(f"no processor samples of {host} in the run phase: its saturation is not known")
    if not generators:
        audit.faults.append("run.json names no generator process: its saturation is not known")
    for host, share in shares.items():
        audit.counts[f"cpu_share.{host}"] = round(share, 4)
        if share >= CPU_SHARE_MAX:
            who = f"generator saturated: {host}" if host in generators else f"the host measured itself: {host}"
            audit.faults.append(f"{who} used {share:.0%} of a core")
    if len(loops):
        found = np.quantile(loops, [0.5, 0.99, 1.0], method="higher") / 1e3
        audit.counts |= dict(zip(("loop_lag_us.p50", "loop_lag_us.p99", "loop_lag_us.max"), found.tolist(), strict=True))


def _lived_on(run: Run) -> set[str]:
    """Return the processes that had a pod in the run phase for so long that they must have samples."""
    begin, end = run.phases.get("run", (0, FOREVER_NS))
    lived = set()
    for host, rows in run.pods.groupby("host"):
        gone = rows["state"].iloc[rows["at_ns"].argmax()] not in ALIVE_STATES
        until = rows["at_ns"].max() if gone else FOREVER_NS
        if min(until, end) - max(rows["at_ns"].min(), begin) >= SAMPLED_NS:
            lived.add(str(host))
    return lived


def _audit_waits(run: Run, audit: _Audit) -> None:
    """Report how long each process could have run in the run phase and did not; what that means for a limit is said beside the limit."""
    withheld = read_withheld(run)
    for host in withheld.accounts:
        sums = withheld.sums(host, *run.phases.get("run", (0, FOREVER_NS)))
        audit.counts |= {f"{word}_s.{host}": round(sums[word], 4) for word in ("waited", "stood", "throttled") if sums[word]}
    if told := notable(run, withheld):
        audit.warnings.append(f"the lab did not have the machine to itself: {told}")


def _samples(run: Run) -> tuple[dict[str, float], Array]:
    """Return each process's share of a core, and every loop lag, over the samples that enclose the run phase.

    A loop is not late when its process was made to stand still.
    """
    shares, loops = {}, [np.array([], dtype=np.int64)]
    begin, end = run.phases.get("run", (0, FOREVER_NS))
    frozen = frozen_on(run)
    for host, rows in run.hosts.sort_values("at_ns", kind="stable").groupby("host"):
        if looked_at(str(host)):
            continue  # how much of its core a server uses is a finding about the bus, not about the lab
        at, cpu = rows["at_ns"].to_numpy(), rows["cpu_ns"].to_numpy()
        first = max(int(np.searchsorted(at, begin, side="right")) - 1, 0)
        last = min(int(np.searchsorted(at, end)), len(at) - 1)
        if at[last] > at[first]:
            shares[str(host)] = float(cpu[last] - cpu[first]) / float(at[last] - at[first])
            still = np.zeros(last - first, dtype=bool)
            for since, until in frozen.get(str(host), ()):
                still |= (at[first + 1 : last + 1] >= since) & (at[first:last] <= until)
            loops.append(rows["loop_lag_ns"].to_numpy()[first + 1 : last + 1][~still])
    return shares, np.concatenate(loops)


def _audit_lag_share(run: Run, audit: _Audit) -> None:
    """Report how much of the lag may be of the lab's own making: late loops, late sending."""
    lags = run.lags
    if not lags.copies:
        return
    share = float(lags.delay_ns / lags.lag_ns) if lags.lag_ns > 0 else 0.0
    audit.counts["send_delay_share"] = round(share, 4)
    if share > SEND_DELAY_SHARE:
        audit.warnings.append(f"{share:.0%} of all lag passed before the event was sent: {_who_was_late(run)}, not the bus")
    # A row of `hosts` holds the worst of some ten samples, so the median row is near the 93rd percentile of the loops' lateness.
    lag_p99, loop_us = lags.of(lags.lag).quantiles({"p99": 0.99})["p99"] / 1e3, audit.counts.get("loop_lag_us.p50", 0.0)
    if loop_us > lag_p99 / 2:
        text = f"the loops are often {duration(loop_us / 1e6)} late, lag p99 is {duration(lag_p99 / 1e6)}"
        audit.warnings.append(f"{text}: busy loops may be what is measured")


def _who_was_late(run: Run) -> str:
    """Return who may have kept events before they were sent: a pod may keep them itself, or stand still."""
    kept = keeps_events(run.scenario.get("bus", {}))
    still = any(history.freezes for history in run.pod_histories)
    if not (kept or still):
        return "the generator was late"
    may = ["pods kept them in an outage"] * kept + ["pods stood still"] * still
    return f"{' or '.join(may)}, or the generator was late" if run.info.ground != "model" else " or ".join(may)


def _audit_clocks(run: Run, audit: _Audit) -> None:
    """Report how exact the times of processes are that read another clock than the run; one that was not compared says nothing of time."""
    clocks = run.clocks
    alone = sorted(host for host, line in clocks.lines.items() if line.bound_ns >= NOT_COMPARED_NS)
    audit.counts |= {f"clock_bound_us.{host}": line.bound_ns / 1e3 for host, line in clocks.lines.items() if host not in alone}
    if alone:
        audit.faults.append(f"the clock of {', '.join(alone[:3])} was compared with nothing: its times cannot be judged")
    if run.of_unknown_clocks:
        audit.faults.append(f"nobody wrote down which clock which rows of {', '.join(run.of_unknown_clocks)} are of")


def _audit_clock(run: Run, audit: _Audit) -> None:
    times = np.sort(run.first_handled_ns(ROWS_FOR_CLOCK))
    steps = np.diff(times)
    steps = steps[steps > 0]
    if len(steps):
        audit.counts["clock_step_ns"] = int(steps.min())
