"""What a measurement of capacity found, as a file and as words: capacity.json, capacity.md, and the answer in some sentences.

Offline: `buslab capacity --from DIR` plans anew from the file, on any machine. Of a measurement that was interrupted the
windows are kept, a row each, but there is no answer to plan with.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sim.errors import UsageError
from sim.machine.files import whole_file, write_all
from sim.machine.words import agreeing, count, duration
from sim.measure.capacity.fit import CostModel, HeldOut, Point, Usl, fit_costs, hold_against
from sim.measure.capacity.frames import on_link
from sim.measure.capacity.link_table import LINK_HEADINGS, LINK_MBIT_PER_S, link_rows, link_sentence
from sim.measure.capacity.plan import ResourceLimit, SustainedRate, headroom, saturation
from sim.measure.capacity.workload import Workload, hearing_alone
from sim.record.checksum import KEY, is_whole, with_checksum
from sim.results.interval import Interval, mean_interval

FILE_FORMAT = 1
FILE = "capacity.json"
INTERRUPTED_FILE = "capacity.interrupted.csv"
WINDOW = (
    *("at_s", "what", "pods", "payload_bytes", "batch", "calls_per_s"),
    *("events_per_s", "us_per_event", "core", "lag_ms_p99", "why_not"),
)
FULL_CORE = 0.9  # a broker that used less of its core was not full
LEAST_CORE = 0.03  # a broker with less of its core was not measured at all
MOST = 0.75  # of the repeats of a rate must hold
NOISY = 0.15  # spread of rounds, or missing share of a core, from which on the text says that the machine was not at rest


class TriedRate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rate that was tried: calls meant and events answered per second, lag, what the backlog did, and the broker's core.

    `out_bytes_per_event` is what the broker itself counted as sent, 0 in a file of before that was asked.
    """

    calls_per_s: float
    events_per_s: float
    lag_ms_p50: float
    lag_ms_p99: float
    late_ms_p99: float
    backlog_per_s: float
    core: float
    why_not: str
    out_bytes_per_event: float = 0.0

    @property
    def sustained(self) -> bool:
        """Whether the rule held."""
        return not self.why_not


class Capacity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One measurement of capacity.

    Attributes
    ----------
    fitted, held_out
        Points that the models were fitted to, and those that were measured afterwards.
    mix_cpu_us, mix_core
        Broker's processor time per event of the scenario's mix, full, and the share of its core, one each a round.
    steps
        The search, in order.
    at_answer, one_down
        The answer's rate again, all pods up and with one pod down.
    lowered
        Rates that the search found, and that did not hold when they were measured again.
    host_copies_per_s
        What one process full of the lab's own pods hears at most, 0 where it was not measured.
    """

    format: int
    measured_at: str
    took_s: float
    scenario: str
    ground: str
    lag_ms_p99: float
    connections: int
    workload: Workload
    fitted: tuple[Point, ...]
    held_out: tuple[Point, ...]
    model: CostModel
    usl: Usl
    mix_cpu_us: tuple[float, ...]
    mix_core: tuple[float, ...]
    steps: tuple[TriedRate, ...]
    at_answer: tuple[TriedRate, ...]
    one_down: tuple[TriedRate, ...]
    host_copies_per_s: float
    about: dict[str, Any]
    lowered: tuple[TriedRate, ...] = ()

    @property
    def carried(self) -> TriedRate | None:
        """The rate of the answer, of which `MOST` of the repeats held; None when they did not, or no rate held in the search."""
        if self.at_answer and not again_held(self.at_answer):
            return None
        return max((step for step in self.at_answer or self.steps if step.sustained), key=lambda step: step.calls_per_s, default=None)

    @property
    def measured(self) -> SustainedRate:
        """Which rate was carried and which was too much, for plans."""
        carried = self.carried.calls_per_s if self.carried else 0.0
        above = [step for step in (*self.steps, *self.lowered, *self.at_answer) if step.calls_per_s > carried * (1 + 1e-9)]
        least = min(above, key=lambda step: (step.calls_per_s, step.sustained), default=None)
        if least is None:
            return SustainedRate(self.workload, carried, math.inf, "")
        return SustainedRate(self.workload, carried, least.calls_per_s, least.why_not or "it held once, but not when it was measured again")

    @property
    def plan_model(self) -> CostModel:
        """The fitted costs with intervals that also hold what the held-out points showed."""
        return self.model.calibrated(self.held())

    def held(self) -> list[HeldOut]:
        """Return the held-out points beside what both models said of them."""
        return hold_against(self.model, self.usl, self.held_out)

    def mix_saturation_calls_per_s(self) -> float:
        """Return the measured saturation rate of the scenario's own mix, in calls per second."""
        return 1e6 / float(np.median(self.mix_cpu_us)) / self.workload.events_per_call(math.inf)

    def limits(self, link_mbit_per_s: float = LINK_MBIT_PER_S) -> list[ResourceLimit]:
        """Return what each resource carries, the least first."""
        found = [ResourceLimit("the broker's core", saturation(self.plan_model, self.workload), "fitted to measured costs")]
        least, most = on_link(self.workload.sent(math.inf)).calls_per_s(link_mbit_per_s)
        if math.isfinite(most):
            how = "computed, with every header; loopback has none"
            found.append(ResourceLimit(f"a link of {link_mbit_per_s:,.0f} Mbit/s", Interval(least, least, most), how))
        if self.host_copies_per_s and (copies := self.workload.copies_per_call(math.inf)):
            exact = self.host_copies_per_s / copies
            name = "one process with all of the lab's pods"
            found.append(ResourceLimit(name, Interval(exact, exact, exact), "measured, 16 in flight; of a run of this lab, not of the bus"))
        return sorted(found, key=lambda limit: limit.calls_per_s.value)


def again_held(again: Sequence[TriedRate]) -> bool:
    """Return whether enough of the repeats of a rate held."""
    return sum(step.sustained for step in again) >= MOST * len(again)


def answer(found: Capacity) -> str:
    """Return the answer in some sentences."""
    load, carried = found.workload, found.carried
    pods = sorted(set(load.replicas.values()))
    per_service = f"{pods[0]}" if len(pods) == 1 else f"{pods[0]} to {pods[-1]}"
    if carried is None:
        return f"{_nothing_carried(found)} {_noise(found)}".strip()
    rate = carried.calls_per_s
    core = mean_interval([100 * step.core for step in found.at_answer or (carried,)])
    between = "" if math.isnan(core.low) else f", 95 % interval {core.low:.0f} .. {core.high:.0f} %"
    says_up = f"({sum(step.sustained for step in found.at_answer)} of {count(len(found.at_answer), 'repeat')} held)"
    down = [step for step in found.one_down if step.sustained]
    says_down = f"and with one pod down ({len(down)} of {len(found.one_down)} held)" if found.one_down else "(one down: not tested)"
    alone = hearing_alone(load)
    sentences = [
        f"This bus ({found.scenario}, {count(sum(load.replicas.values()), 'pod')}, {per_service} a service) carries {rate:,.0f} calls/s = "
        f"{rate * load.events_per_call(rate):,.0f} events/s = {rate * load.copies_per_call(rate):,.0f} copies/s at p99 <= "
        f"{duration(found.lag_ms_p99 / 1e3)} (measured {duration(carried.lag_ms_p99 / 1e3)}) with all pods up {says_up} {says_down}.",
        f"The broker's core is then at {core.value:.0f} %{between}.",
        _next_limit(found),
        _plan_for(found, rate),
        _error(found),
    ]
    if alone:
        sentences.append(f"{', '.join(alone)} {'has' if len(alone) == 1 else 'have'} one replica: with it down nobody hears its events.")
    return " ".join([*sentences, _noise(found)]).strip()


def _nothing_carried(found: Capacity) -> str:
    limit = f"at p99 <= {duration(found.lag_ms_p99 / 1e3)}"
    once = [step.calls_per_s for step in found.steps if step.sustained]
    if not once:
        least = min(found.steps, key=lambda step: step.calls_per_s)
        return f"No rate that was tried was carried {limit}, the lowest was {least.calls_per_s:,.0f} calls/s: {least.why_not}."
    failed = [step for step in found.at_answer if not step.sustained]
    held, rate = len(found.at_answer) - len(failed), failed[0].calls_per_s
    return (
        f"No rate was carried {limit}: in the search {max(once):,.0f} calls/s held once, but of the repeats at {rate:,.0f} only "
        f"{held} of {len(found.at_answer)} held: {failed[0].why_not}."
    )


def _plan_for(found: Capacity, rate: float) -> str:
    """Return for how much to plan: with the headroom kept, and never for more than was carried."""
    full, free = found.mix_saturation_calls_per_s(), headroom()
    planned = full * (1 - free)
    text = f"The mix filled the broker at {full:,.0f} calls/s; with {free:.0%} of that kept free (0.712 / cores^0.448, one core), "
    most = f"plan for {min(planned, rate):,.0f} calls/s at most"
    text += f"{most}." if planned <= rate else f"{planned:,.0f} calls/s would be left, which is computed: {most}, which was measured."
    least = on_link(found.workload.sent(math.inf)).calls_per_s(LINK_MBIT_PER_S)[0] * (1 - free)
    return (
        text
        if least >= min(planned, rate)
        else f"{text} A link of {LINK_MBIT_PER_S:,.0f} Mbit/s, as much of it kept free, is for {least:,.0f}."
    )


def _next_limit(found: Capacity) -> str:
    carried, broken = found.carried, [step for step in found.steps if not step.sustained]
    first = min(broken, key=lambda step: step.calls_per_s, default=None)
    others = "; ".join(f"{one.name} {_rate_of(one)} calls/s ({one.how})" for one in found.limits())
    if first is None or carried is None:
        return f"No rate that was tried was too much. What each resource carries: {others}."
    who = (
        "the broker's core"
        if first.core >= FULL_CORE
        else f"not the broker's core, which had {first.core:.0%}: it may be this machine's other work"
    )
    once = [step.calls_per_s for step in found.steps if step.sustained and carried.calls_per_s * (1 + 1e-9) < step.calls_per_s]
    before = f"; {min(once):,.0f} held once, but not again" if once else ""
    return f"The next limit is {who} (at {first.calls_per_s:,.0f} calls/s {first.why_not}{before}). What each resource carries: {others}."


def _rate_of(limit: ResourceLimit) -> str:
    """Return one number, or both ends where the low one is taken."""
    rate = limit.calls_per_s
    return f"{rate.value:,.0f} to {rate.high:,.0f}" if rate.low == rate.value < rate.high else f"{rate.value:,.0f}"


def _error(found: Capacity) -> str:
    held = found.held()
    error, usl = (float(np.median(np.abs(errors))) for errors in ([one.error for one in held], [one.usl_error for one in held]))
    inside = sum(one.covered for one in held)
    better = "the fan-out model" if error <= usl else "the scalability law"
    return (
        f"Of {count(len(held), 'held-out combination')} the fan-out model's saturation rate was off by "
        f"{error:.0%} in the median, the scalability "
        f"law's by {usl:.0%}, so {better} predicts better here; {inside} of {len(held)} "
        f"{agreeing(inside, 'lies', 'lie')} in the model's 95 % intervals." + _widened(found)
    )


def _widened(found: Capacity) -> str:
    """Return by how much the intervals of plans are wider than those of the predictions, where they are."""
    load = found.workload.events(math.inf)
    before, after = (one.cost_us(load) for one in (found.model, found.plan_model))
    ratios = [math.sqrt(one.high / one.low) for one in (before, after)]
    if ratios[1] <= ratios[0] * 1.005:
        return ""
    return f" Plans have wider ones to hold such errors too: a factor of {ratios[1]:.1f} to either side for the mix, not {ratios[0]:.1f}."


def _noise(found: Capacity) -> str:
    cores = [float(np.median(point.core)) for point in (*found.fitted, *found.held_out)]
    rounds = f"whole rounds lay {found.model.rounds:.0%} apart"
    if len(found.fitted[0].cpu_us) < 2:
        rounds = "there was time for one round of points only"
    if found.model.rounds < NOISY and min(cores) > 1 - NOISY:
        return ""
    return (
        f"The machine was not at rest: {rounds} and the broker got as little as {min(cores):.0%} "
        "of its core when it should have been full; costs are of its processor time, rates at p99 are of this machine as it was."
    )


def write_capacity(found: Capacity, folder: Path, plan: str = "") -> Path:
    """Write the file and the page for people, with a plan in Markdown at its end, and return the file.

    Raises
    ------
    UsageError
        They cannot be written.
    """
    path = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(with_checksum(msgspec.json.decode(msgspec.json.encode(found))), indent=1)
        write_all({folder / "capacity.md": markdown(found) + plan, path: text + "\n"})
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror or error}; choose another folder with --out") from None
    return path


def write_windows(windows: list[dict[str, float | str]], folder: Path) -> Path:
    """Write the windows of a measurement that was interrupted, a row each with the columns `WINDOW`, beside what an earlier one found.

    Raises
    ------
    UsageError
        It cannot be written.
    """
    path = folder / INTERRUPTED_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, WINDOW)
            writer.writeheader()
            writer.writerows(windows)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}; choose another folder with --out") from None
    return path


def read_capacity(source: Path | str) -> Capacity:
    """Return what an earlier measurement found; source is its folder or its file.

    Raises
    ------
    UsageError
        There is none, or it is no such file.
    """
    path = Path(source)
    path = path if path.suffix == ".json" else path / FILE
    again = "measure with `buslab capacity SCENARIO`"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r}: {error.strerror or error}; {again}") from None
    try:
        raw = msgspec.json.decode(content, type=dict[str, Any])
        found = msgspec.convert({key: value for key, value in raw.items() if key != KEY}, Capacity)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} holds no measurement of capacity: {error}; {again}") from None
    if not is_whole(raw):
        raise UsageError(f"{path} was damaged or changed after it was written, its checksum differs; {again}")
    if found.format != FILE_FORMAT:
        raise UsageError(f"{path} is of format {found.format}, this version reads {FILE_FORMAT}; {again}")
    if not found.model.rounds_freedom:  # written before intervals told of what they are made: its points are fitted anew
        return msgspec.structs.replace(found, model=fit_costs(found.fitted, kink_bytes=found.model.kink_bytes))
    return found


def held_rows(found: Capacity) -> list[list[str]]:
    """Return the rows of the held-out table."""
    return [
        [
            one.point.name,
            f"{one.point.event_bytes:,}",
            f"{one.predicted.value:,.0f} ({one.predicted.low:,.0f} .. {one.predicted.high:,.0f})",
            f"{one.measured:,.0f}",
            f"{one.error:+.0%}",
            "yes" if one.covered else "no",
            f"{one.usl_error:+.0%}",
            f"{float(np.median(one.point.rate_per_s)):,.0f} at {float(np.median(one.point.core)):.0%}",
            one.outside or "yes",
        ]
        for one in found.held()
    ]


HELD_HEADINGS = (
    "held out", "event, B", "predicted events/s (95 %)", "measured", "error", "inside", "USL", "by the wall clock, at core",
    "within what was tested",
)  # fmt: skip
STEP_HEADINGS = ("calls/s", "events/s", "lag p50 ms", "p99 ms", "backlog grows /s", "broker's core", "held")


def search_rows(found: Capacity) -> list[list[str]]:
    """Return the rows of the table of the search; what held there but not when it was measured again says so."""
    carried = found.carried.calls_per_s if found.carried else 0.0
    rows = step_rows(found.steps)
    for step, row in zip(found.steps, rows, strict=True):
        if step.sustained and step.calls_per_s > carried * (1 + 1e-9):
            row[-1] = "once, but not again"
    return rows


def step_rows(steps: tuple[TriedRate, ...]) -> list[list[str]]:
    """Return the rows of a table of tried rates."""
    return [
        [
            f"{step.calls_per_s:,.0f}",
            f"{step.events_per_s:,.0f}",
            f"{step.lag_ms_p50:.2f}",
            f"{step.lag_ms_p99:.2f}",
            f"{step.backlog_per_s:+,.0f}",
            f"{step.core:.0%}",
            "yes" if step.sustained else f"no: {step.why_not}",
        ]
        for step in steps
    ]


def cost_rows(found: Capacity) -> list[list[str]]:
    """Return the fitted numbers with their intervals."""
    kink = f"{found.model.kink_bytes:,} B"
    names = {
        "event": "an event, us",
        "event_byte": "a byte of an event, ns",
        "copy": f"a copy below {kink}, us",
        "copy_byte": f"a byte of a copy below {kink}, ns",
        "large_copy": f"a copy from {kink}, us",
        "large_copy_byte": f"a byte of a copy from {kink}, ns",
    }
    rows = []
    for name, value in found.model.parts().items():
        scale = 1000 if name.endswith("byte") else 1
        known = not name.startswith("large") or found.model.hull.large[1]
        shown = (f"{scale * value.value:.3g}", f"{scale * value.low:.3g} .. {scale * value.high:.3g}") if known else ("not measured", "")
        rows.append([names[name], *shown])
    rows.append(["USL sigma", f"{found.usl.sigma.value:.3g}", f"{found.usl.sigma.low:.3g} .. {found.usl.sigma.high:.3g}"])
    rows.append(["USL kappa", f"{found.usl.kappa.value:.3g}", f"{found.usl.kappa.low:.3g} .. {found.usl.kappa.high:.3g}"])
    return rows


def tables(found: Capacity) -> Group:
    """Return all of it for a rich console."""
    parts = [
        plain_table("Costs of the broker when it is full, 95 % intervals", ("what", "value", "interval"), cost_rows(found)),
        plain_table("Saturation rates predicted and measured", HELD_HEADINGS, held_rows(found)),
        plain_table(f"Rates tried with the mix of {found.scenario}", STEP_HEADINGS, search_rows(found)),
        plain_table("What a call puts on a link", LINK_HEADINGS, link_rows(found.workload)),
    ]
    return Group(*parts, Text(_link(found)), Text(answer(found)))


def plain_table(title: str, headings: tuple[str, ...], rows: list[list[str]]) -> Table:
    """Return a table for a rich console; cells fold."""
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def markdown(found: Capacity) -> str:
    """Return the page for people."""
    machine, broker = found.about.get("machine", {}), found.about.get("broker", {})
    server = f"{broker.get('server_name', 'redis')} {broker.get('valkey_version', broker.get('redis_version', ''))}".strip()
    lines = [
        f"# Capacity of `{found.scenario}` on this machine",
        "",
        answer(found),
        "",
        f"Measured {found.measured_at} in {duration(found.took_s)} on {found.ground}: {server}, {_cores(machine)}, "
        f"{machine.get('processor', '?')}, {count(found.connections, 'publishing connection')}, loopback. "
        f"`buslab capacity {found.scenario}` "
        "measures it again, `--from` plans with this.",
    ]
    for title, headings, rows in (
        ("Held out: predicted, then measured", HELD_HEADINGS, held_rows(found)),
        ("Costs of the broker's core when it is full", ("what", "value", "95 %"), cost_rows(found)),
        ("Rates tried", STEP_HEADINGS, search_rows(found)),
        ("The answer's rate again", STEP_HEADINGS, step_rows(found.at_answer)),
        ("With one pod down", STEP_HEADINGS, step_rows(found.one_down)),
        ("What a call puts on a link", LINK_HEADINGS, link_rows(found.workload)),
    ):
        lines += ["", f"## {title}", "", *markdown_table(headings, rows)]
    return "\n".join([*lines, "", _link(found)]) + "\n"


def _link(found: Capacity) -> str:
    at = found.at_answer or found.steps
    counted = [step.out_bytes_per_event for step in found.at_answer]
    return link_sentence(found.workload, calls_per_s=at[0].calls_per_s, counted=counted)


def _cores(machine: Mapping[str, Any]) -> str:
    return count(machine["cores"], "core") if "cores" in machine else "? cores"


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table in Markdown."""
    return ["| " + " | ".join(cells) + " |" for cells in (headings, ["---"] * len(headings), *rows)]


def conclusion(found: Capacity) -> tuple[str, str]:
    """Return what a notebook concludes: a verdict, and the answer's first sentence with the error of the prediction.

    It is valid when a rate was carried, and half of the held-out points at least lie inside their intervals; where no point was held
    out, or the broker did not get its core, nothing is known.
    """
    held = found.held()
    text = f"{answer(found).split(' The broker')[0]} {_error(found)}" if held else answer(found)
    if not held or float(np.median([one.point.core for one in held])) < LEAST_CORE:
        return "unknown", f"The broker did not get its core: {text}"
    return ("valid" if found.carried and sum(one.covered for one in held) * 2 >= len(held) else "invalid"), text
