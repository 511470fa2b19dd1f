"""How far is the model from a real server? The same scenarios on both, the same load, and a table of what differs.

Each scenario runs with the same seed on `model` and on `embedded`, its pods making the calls on both. The table gives what was
measured; the sentences under it give ratios of its numbers, and nothing is judged against a limit. What always differs is in
`sim.experiments.fidelity.table.REASONS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np

from sim.errors import UsageError
from sim.experiments.many_runs import Job, run_many
from sim.grounds.catalogue import shown_ground
from sim.machine.words import count, duration, multiple
from sim.record.schema import CAUSES
from sim.results.judged_run import JudgedRun
from sim.results.opened_run import Run
from sim.scenario.file import Scenario, built_in, load_scenario

MODEL, EMBEDDED = "model", "embedded"
RUN_S, WARM_UP_S = 5.0, 0.5  # at most, of a scenario without faults
MAX_REPEATS = 20


@dataclass(frozen=True)
class GroundRow:
    """What one run came to; counts, lag and rates are of its run phase.

    Attributes
    ----------
    intended_calls
        Calls that the schedule meant to make, warm-up included.
    lag_us
        p50, p99 and max, intended time to handler start; empty when nothing was heard.
    send_delay_us_p50, bus_us_p50
        The parts of the lag before the event was sent, and after.
    broker_cpu_us
        The server's processor time per publish that it answered, everything that it did meanwhile included; NaN without one.
    host_cpu
        Share of a core that the process with the pods used; NaN in virtual time.
    recovery_s
        Median over the pods from the begin of the first fault to hearing again; NaN where none had to.
    """

    intended_calls: int
    publishes: int
    expected: int
    delivered: int
    missing: dict[str, int]
    delivered_per_s: float
    lag_us: dict[str, float]
    send_delay_us_p50: float
    bus_us_p50: float
    broker_cpu_us: float
    host_cpu: float
    recovery_s: float
    verdict: str
    reasons: list[str]


@dataclass(frozen=True)
class Pair:
    """Both runs of one scenario and seed, and in a sentence how far they differ."""

    scenario: str
    seed: int
    model: GroundRow
    embedded: GroundRow
    sentence: str = field(default="")


@dataclass(frozen=True)
class Fidelity:
    """A comparison; `about` is the environment.json of a run on the real server."""

    model_on: str
    pairs: tuple[Pair, ...]
    about: dict[str, Any]


def run_fidelity(
    scenarios: Sequence[str] = (),
    *,
    repeats: int = 1,
    model_on: str = MODEL,
    settings: Sequence[str] = (),
    tell: Callable[[str], None] = lambda line: None,
) -> Fidelity:
    """Run scenarios on the model and on an embedded server, and compare.

    Parameters
    ----------
    scenarios
        Names or files; by default every built-in one that both grounds can run.
    repeats
        Pairs of runs of each scenario, with the scenario's seed and the ones after it.
    model_on
        ``model``, or ``model:FILE`` with measured costs.
    settings
        As of `load_scenario`, for every scenario.

    Raises
    ------
    BuslabError
        A run failed.
    UsageError
        `repeats` is out of bounds, or `model_on` is not the model.
    """
    if not 1 <= repeats <= MAX_REPEATS:
        raise UsageError(f"--repeats {repeats}: give 1 to {MAX_REPEATS}")
    if model_on.partition(":")[0] != MODEL:
        raise UsageError(f"--on {shown_ground(model_on)}: the model is compared with the embedded server; give model or model:FILE")
    loaded = [shortened(load_scenario(name, settings=tuple(settings))) for name in scenarios or on_both_grounds()]
    planned = [msgspec.structs.replace(one, seed=one.seed + number) for one in loaded for number in range(repeats)]
    jobs = [Job(f"{place}-{on.partition(':')[0]}", one, on) for place, one in enumerate(planned) for on in (model_on, EMBEDDED)]
    sides, about = list[GroundRow](), dict[str, Any]()
    for outcome in run_many(jobs, begin=lambda job: tell(f"{job.scenario.name}, seed {job.scenario.seed}, on {shown_ground(job.on)}")):
        judged = outcome.judged()
        sides.append(measure(judged))
        about = judged.run.environment
    pairs = (Pair(one.name, one.seed, model, real) for one, model, real in zip(planned, sides[::2], sides[1::2], strict=True))
    return Fidelity(model_on, tuple(replace(pair, sentence=sentence(pair)) for pair in pairs), about)


def on_both_grounds() -> list[str]:
    """Return the built-in scenarios that one server can run: a failover needs a cluster."""
    return [name for name in built_in() if not any("failover" in fault.needs for fault in load_scenario(name).faults)]


def shortened(scenario: Scenario) -> Scenario:
    """Return the scenario with the pods as drivers, and without faults at most `RUN_S` long; with faults its times stay."""
    load = msgspec.structs.replace(scenario.load, driver="pods", warm_up_s=min(scenario.load.warm_up_s, WARM_UP_S))
    if not scenario.faults:
        load = msgspec.structs.replace(load, run_s=min(load.run_s, RUN_S))
    return msgspec.structs.replace(scenario, load=load)


def measure(judged: JudgedRun) -> GroundRow:
    """Return what is compared of a run."""
    run, verdict = judged.run, judged.verdict
    ledger, lag, harness = (verdict.checkers[name].counts for name in ("ledger", "lag", "harness"))
    begin_ns, end_ns = run.phases["run"]
    return GroundRow(
        intended_calls=run.info.load.offered_calls or 0,
        publishes=int(ledger["events"]),
        expected=int(ledger["expected"]),
        delivered=int(ledger["delivered"]),
        missing={cause: int(ledger[cause]) for cause in CAUSES if ledger.get(cause)},
        delivered_per_s=float(ledger["delivered"]) / ((end_ns - begin_ns) / 1e9),
        lag_us={name: float(lag[f"lag_us.{name}"]) for name in ("p50", "p99", "max") if f"lag_us.{name}" in lag},
        send_delay_us_p50=float(lag.get("send_delay_us.p50", math.nan)),
        bus_us_p50=float(lag.get("bus_us.p50", math.nan)),
        broker_cpu_us=broker_cpu_us(run),
        host_cpu=max((float(value) for name, value in harness.items() if name.startswith("cpu_share.")), default=math.nan),
        recovery_s=recovery_s(run),
        verdict=verdict.verdict,
        reasons=verdict.reasons if verdict.verdict != "valid" else [],
    )


def broker_cpu_us(run: Run) -> float:
    """Return the server's processor time per answered publish, between its first and last sample of the run phase.

    A restart sets the server's clock back to zero; the time between the samples around it is left out.
    """
    broker, publishes = run.broker, run.publishes
    used = broker[broker["metric"].isin(["used_cpu_user_s", "used_cpu_sys_s"])].groupby("at_ns")["value"].sum()
    begin_ns, end_ns = run.phases["run"]
    used = used[(used.index >= begin_ns) & (used.index <= end_ns)]
    acked_ns = np.sort(publishes.loc[publishes["outcome"] == "acknowledged", "acked_ns"].to_numpy())
    grown_s, answered = np.diff(used.to_numpy()), np.diff(np.searchsorted(acked_ns, used.index.to_numpy()))
    alive = grown_s >= 0
    count = int(answered[alive].sum())
    return float(grown_s[alive].sum()) * 1e6 / count if count else math.nan


def recovery_s(run: Run) -> float:
    """Return the median over the pods from the first fault's begin to hearing again; NaN where no pod lost and regained its connection."""
    begins = run.faults["begin_ns"].to_numpy()
    took_ns = []
    for history in run.pod_histories if len(begins) else ():
        later = [(at, state) for at, state in zip(history.at_ns, history.states, strict=True) if at >= begins.min()]
        lost = next((at for at, state in later if state == "disconnected"), None)
        again = next((at for at, state in later if lost is not None and at > lost and state == "subscribed"), None)
        took_ns += [again - begins.min()] if again is not None else []
    return float(np.median(took_ns)) / 1e9 if took_ns else math.nan


def sentence(pair: Pair) -> str:
    """Return in a sentence how far embedded is from the model, from the numbers alone."""
    model, real = pair.model, pair.embedded
    parts = [
        f"{count(real.intended_calls, 'call was', 'calls were')} meant on both"
        if model.intended_calls == real.intended_calls
        else "THE LOAD DIFFERS"
    ]
    if (model.expected, model.missing) == (real.expected, real.missing):
        parts.append(f"{count(real.expected, 'copy')} expected and {sum(real.missing.values()):,} missing on both")
    else:
        parts.append(
            f"of {count(model.expected, 'copy')} the model misses {_share(model)}, of {real.expected:,} the real run {_share(real)}"
        )
    if not math.isnan(model.recovery_s) and not math.isnan(real.recovery_s):
        parts.append(
            f"half of the pods hear again {duration(model.recovery_s)} after the fault began on the model, {duration(real.recovery_s)} here"
        )
    for name in ("p50", "p99"):
        parts += [f"lag {name} is {_ratio(real.lag_us[name], model.lag_us[name])}"] if name in real.lag_us and name in model.lag_us else []
    if not math.isnan(real.send_delay_us_p50):  # it is NaN when nothing was sent to a broker
        parts.append(
            f"the median event is sent {duration(real.send_delay_us_p50 / 1e6)} late (model {duration(model.send_delay_us_p50 / 1e6)})"
        )
    if not math.isnan(real.bus_us_p50) and not math.isnan(model.bus_us_p50):
        parts.append(
            f"the median copy takes {duration(real.bus_us_p50 / 1e6)} from sending to handling (model {duration(model.bus_us_p50 / 1e6)})"
        )
    if not math.isnan(real.broker_cpu_us) and not math.isnan(model.broker_cpu_us):
        parts.append(f"broker CPU per publish is {_ratio(real.broker_cpu_us, model.broker_cpu_us)}")
    if not math.isnan(real.host_cpu):
        parts.append(f"the one process of all pods used {real.host_cpu:.0%} of a core")
    return f"{pair.scenario}, seed {pair.seed}: " + "; ".join(parts) + "."


def _share(side: GroundRow) -> str:
    return f"{sum(side.missing.values()) / side.expected:.1%} ({causes(side)})" if side.expected else "none"


def causes(side: GroundRow) -> str:
    """Return the missing copies by cause, in words."""
    return ", ".join(f"{many:,} {cause}" for cause, many in side.missing.items()) or "0"


def _ratio(real: float, model: float) -> str:
    return (
        f"{multiple(real / model)} the model's" if model > 0 else f"{duration(real / 1e6)} where the model has 0: code takes no time in it"
    )
