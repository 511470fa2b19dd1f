"""How far is the model from a real server? The same scenarios on both, the same load, and a table of what differs.

Each scenario runs with the same seed on `model` and on `embedded`, its pods making the calls on both. The table gives what was
measured; the sentences under it are made of ratios of the numbers, no limit is judged here. What always differs is in `REASONS`.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sim.errors import UsageError
from sim.machine.files import write_whole
from sim.record.schema import CAUSES
from sim.results.checkers import judge
from sim.results.opened_run import Run, open_run
from sim.run.steps import run_scenario
from sim.scenario.file import Scenario, built_in, load_scenario

MODEL, EMBEDDED = "model", "embedded"
RUN_S, WARM_UP_S = 5.0, 0.5  # at most, of a scenario without faults
MAX_REPEATS = 20
REASONS = (
    "A pod of the model has a core of its own and its code takes no time; on embedded all pods, their load and the recorder share "
    "one process and one event loop, which shares this machine's cores with the server and all else.",
    "A timer of the model fires at its nanosecond; a real loop wakes late, so its events are sent late (send delay).",
    "The model's server pays the same mean cost for the same step each time, and is never without a core; a real one shares its core "
    "and caches with whatever else runs.",
    "A pod of the model is awake at once; a real process that slept is woken by the kernel, and pays for cold caches as the server does.",
    "The model's server has no housekeeping ten times a second, and answers INFO at the price of any command.",
    "Reconnection draws its waits from the same seed on both; but a real outage begins and ends some milliseconds off, an attempt that "
    "just misses the server costs a whole further wait, and which of a pod's two connections breaks first decides which wait it draws.",
)


@dataclass(frozen=True)
class GroundRow:
    """Hold what one run came to; counts, lag and rates are of its run phase.

    Attributes
    ----------
    intended_calls
        Calls that the schedule meant to make, warm-up included.
    lag_us
        p50, p99 and max, intended time to handler start; empty when nothing was heard.
    send_delay_us_p50, bus_us_p50
        Of that, before the event was sent, and after.
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
    """Hold both runs of one scenario and seed, and in a sentence how far they differ."""

    scenario: str
    seed: int
    model: GroundRow
    embedded: GroundRow
    sentence: str = field(default="")


@dataclass(frozen=True)
class Fidelity:
    """Hold a comparison; `about` is the environment.json of a run on the real server."""

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
        raise UsageError(f"--on {model_on}: the model is compared with the embedded server; give model or model:FILE")
    loaded = [shortened(load_scenario(name, settings=tuple(settings))) for name in scenarios or on_both_grounds()]
    pairs, about = [], {}
    with tempfile.TemporaryDirectory(prefix="buslab-fidelity-") as folder:
        for scenario in loaded:
            for seed in range(scenario.seed, scenario.seed + repeats):
                one, sides = msgspec.structs.replace(scenario, seed=seed), {}
                for on in (model_on, EMBEDDED):
                    tell(f"{scenario.name}, seed {seed}, on {on}")
                    ground = on.partition(":")[0]
                    run = open_run(run_scenario(one, on=on, out=Path(folder) / f"{scenario.name}-{seed}-{ground}"))
                    sides[ground], about = measure(run), run.environment
                pair = Pair(scenario.name, seed, sides[MODEL], sides[EMBEDDED])
                pairs.append(Pair(pair.scenario, pair.seed, pair.model, pair.embedded, sentence(pair)))
    return Fidelity(model_on, tuple(pairs), about)


def on_both_grounds() -> list[str]:
    """Return the built-in scenarios that one server can run: a failover needs a cluster."""
    return [name for name in built_in() if not any("failover" in fault.needs for fault in load_scenario(name).faults)]


def shortened(scenario: Scenario) -> Scenario:
    """Return the scenario with the pods as drivers, and without faults at most `RUN_S` long; with faults its times stay."""
    load = msgspec.structs.replace(scenario.load, driver="pods", warm_up_s=min(scenario.load.warm_up_s, WARM_UP_S))
    if not scenario.faults:
        load = msgspec.structs.replace(load, run_s=min(load.run_s, RUN_S))
    return msgspec.structs.replace(scenario, load=load)


def measure(run: Run) -> GroundRow:
    """Judge a run and return what is compared."""
    verdict = judge(run)
    ledger, lag, harness = (verdict.checkers[name].counts for name in ("ledger", "lag", "harness"))
    begin_ns, end_ns = run.phases["run"]
    return GroundRow(
        intended_calls=int(run.info["load"]["offered_calls"]),
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
    """Say how far embedded is from the model, from the numbers alone."""
    model, real = pair.model, pair.embedded
    parts = [f"{real.intended_calls:,} calls were meant on both" if model.intended_calls == real.intended_calls else "THE LOAD DIFFERS"]
    if (model.expected, model.missing) == (real.expected, real.missing):
        parts.append(f"{real.expected:,} copies expected and {sum(real.missing.values()):,} missing on both")
    else:
        parts.append(f"of {model.expected:,} copies the model misses {_share(model)}, of {real.expected:,} the real run {_share(real)}")
    if not math.isnan(model.recovery_s) and not math.isnan(real.recovery_s):
        parts.append(
            f"half of the pods hear again {model.recovery_s:.2f} s after the fault began on the model, {real.recovery_s:.2f} s here"
        )
    for name in ("p50", "p99"):
        parts += [f"lag {name} is {_ratio(real.lag_us[name], model.lag_us[name])}"] if name in real.lag_us and name in model.lag_us else []
    if not math.isnan(real.send_delay_us_p50):  # of what was sent to a broker
        parts.append(f"the median event is sent {real.send_delay_us_p50:,.0f} us late (model {model.send_delay_us_p50:,.0f})")
    if not math.isnan(real.bus_us_p50) and not math.isnan(model.bus_us_p50):
        parts.append(f"the median copy takes {real.bus_us_p50:,.0f} us from sending to handling (model {model.bus_us_p50:,.0f})")
    if not math.isnan(real.broker_cpu_us) and not math.isnan(model.broker_cpu_us):
        parts.append(f"broker CPU per publish is {_ratio(real.broker_cpu_us, model.broker_cpu_us)}")
    if not math.isnan(real.host_cpu):
        parts.append(f"the one process of all pods used {real.host_cpu:.0%} of a core")
    return f"{pair.scenario}, seed {pair.seed}: " + "; ".join(parts) + "."


def _share(side: GroundRow) -> str:
    return f"{sum(side.missing.values()) / side.expected:.1%} ({_causes(side)})" if side.expected else "none"


def _causes(side: GroundRow) -> str:
    return ", ".join(f"{count:,} {cause}" for cause, count in side.missing.items()) or "0"


def _ratio(real: float, model: float) -> str:
    return (
        f"{real / model:,.{0 if real >= 10 * model else 1}f} x the model's"
        if model > 0
        else f"{real:,.0f} us where the model has 0: code takes no time in it"
    )


HEADINGS = (
    *("scenario", "ground", "calls", "publishes", "expected", "delivered", "per s", "missing by cause"),
    *("lag us p50", "p99", "max", "CPU us", "verdict"),
)


def table_rows(fidelity: Fidelity) -> list[tuple[str, ...]]:
    """Return the table's cells, two rows a pair, in the order of `HEADINGS`."""
    rows = []
    for pair in fidelity.pairs:
        name = pair.scenario if pair.seed == fidelity.pairs[0].seed else f"{pair.scenario}, seed {pair.seed}"
        for ground, side in ((MODEL, pair.model), (EMBEDDED, pair.embedded)):
            counts = (f"{count:,}" for count in (side.intended_calls, side.publishes, side.expected, side.delivered))
            lags = (f"{side.lag_us[quantile]:,.0f}" if quantile in side.lag_us else "-" for quantile in ("p50", "p99", "max"))
            cpu = "-" if math.isnan(side.broker_cpu_us) else f"{side.broker_cpu_us:,.0f}"
            rows.append((name, ground, *counts, f"{side.delivered_per_s:,.0f}", _causes(side), *lags, cpu, side.verdict))
    return rows


def _notes(fidelity: Fidelity) -> list[str]:
    unsure = {
        (pair.scenario, ground): side for pair in fidelity.pairs for ground, side in (("model", pair.model), ("embedded", pair.embedded))
    }
    why = [f"{name} on {ground} is {side.verdict}: {side.reasons[0]}" for (name, ground), side in unsure.items() if side.reasons]
    return [*(pair.sentence for pair in fidelity.pairs), *why]


def fidelity_table(fidelity: Fidelity) -> Group:
    """Return the comparison for a rich console."""
    table = Table(padding=(0, 0), title=f"{fidelity.model_on} against embedded: same seed, same load, pods as drivers")
    for heading in HEADINGS:
        words, wide = heading in ("scenario", "ground", "missing by cause", "verdict"), heading == "missing by cause"
        table.add_column(heading, justify="left" if words else "right", min_width=19 if wide else None, no_wrap=not wide)
    for place, cells in enumerate(table_rows(fidelity)):
        table.add_row(*cells, end_section=bool(place % 2))
    return Group(table, *(Text(note) for note in (*_notes(fidelity), "What always differs:", *REASONS)))


def write_fidelity(fidelity: Fidelity, path: Path) -> None:
    """Write the comparison: as JSON where the name ends in ``.json``, else as Markdown.

    Raises
    ------
    UsageError
        The file cannot be written.
    """
    text = json.dumps(_finite(asdict(fidelity)), indent=2, allow_nan=False) if path.suffix == ".json" else to_markdown(fidelity)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.rstrip() + "\n")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}; choose another file with --out") from None


def _finite(value: Any) -> Any:
    """Return the tree with null for every number that does not exist."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_markdown(fidelity: Fidelity) -> str:
    """Return the comparison as Markdown."""
    machine, server = fidelity.about["machine"], fidelity.about["broker"]
    version = server.get("valkey_version", server.get("redis_version", "of unknown version"))
    lines = [
        f"# {fidelity.model_on} against embedded",
        "",
        f"Made by `buslab fidelity` with Python {fidelity.about['python']}, server {version}, {machine['cores']} cores "
        f"({machine['processor']}). Counts, lag and rates are of the run phase; CPU is the server's for each publish that it answered.",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|" + "--|" * len(HEADINGS),
        *("| " + " | ".join(cells) + " |" for cells in table_rows(fidelity)),
        "",
        *(f"- {note}" for note in _notes(fidelity)),
        "",
        "What always differs:",
        "",
        *(f"- {reason}" for reason in REASONS),
    ]
    return "\n".join(lines)
