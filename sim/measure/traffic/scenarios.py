"""Write the scenarios of a capture beside it: one that plays it, and a synthetic one whose rates and sizes are fitted to it.

The fitted one draws its load anew: each channel at its mean rate, sizes log-normal by their median and 99th percentile, and one shape for
all. What that leaves out (bursts, order between channels, sizes of two kinds) is seen by describing both (`sim.measure.traffic.describe`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import tomli_w

from sim.errors import CaptureError, ScenarioError
from sim.machine.files import why_not_written, write_all
from sim.machine.words import count, duration
from sim.measure.traffic.describe import ChannelTraffic, channel_traffic, dispersion_of, shares_of_time
from sim.measure.traffic.services import BusTables, bus_tables
from sim.record.capture_file import NAME, Capture
from sim.scenario.file import check_tree
from sim.scenario.replay import event_bytes, names_in_bus
from sim.scenario.run_settings import REPLAY
from sim.scenario.schedule import SHAPES, share_of_peak
from sim.scenario.settings import Scenario

REPLAY_FILE = "replay.toml"
SYNTHETIC_FILE = "synthetic.toml"
PARTS = 32  # of the time, in which the rate is looked at for its shape
LEAST_IN_PART = 20.0  # events, in the mean
NOISE = 2.0  # times what chance does: a rate that moves less is steady
BETTER = 0.5  # a shape is another than steady where it leaves so much of the error
EVEN = 0.5  # a dispersion below it is that of evenly spaced events
SMALL = {"id": 0, "note": ""}  # what a call of a size has around its filler
MOST_MADE = 2000  # calls of a channel that are made to learn their sizes
MAX_RATE = 1_000_000.0


@dataclass(frozen=True)
class FittedLoad:
    """The load that was fitted to a capture; `told` is a sentence about how well that went."""

    shape: str
    arrivals: str
    rate_per_s: float
    told: str


@dataclass(frozen=True)
class WrittenScenarios:
    """The scenarios that were written beside a capture.

    Attributes
    ----------
    notes
        What was left out or made up.
    fitted
        The load of the synthetic one.
    """

    replay: Path
    synthetic: Path
    notes: tuple[str, ...]
    fitted: FittedLoad


def write_scenarios(folder: Path, capture: Capture, *, told: Mapping[str, Any]) -> WrittenScenarios:
    """Write both scenarios into the folder of a capture.

    Parameters
    ----------
    told
        The services, as `sim.measure.traffic.services.services_of` read them.

    Raises
    ------
    CaptureError
        They cannot be written, or the services do not fit what was captured; the capture itself is there.
    """
    made = bus_tables(capture, told)
    replay, (synthetic, fitted) = replay_tree(capture, made), synthetic_tree(capture, made)
    texts = {
        folder / REPLAY_FILE: _text(replay, capture, f"Play it: buslab run {REPLAY_FILE} --on model --set load.speed=10", made.notes),
        folder / SYNTHETIC_FILE: _text(synthetic, capture, f"Fitted, not played: {fitted.told}", made.notes),
    }
    try:
        for name, tree in ((REPLAY_FILE, replay), (SYNTHETIC_FILE, synthetic)):
            check_tree(_whole(tree, folder), where=name)
        write_all(texts)
    except ScenarioError as error:
        raise CaptureError(f"the capture is in {folder / NAME}, and no scenario was made of it: {error}") from None
    except OSError as error:
        raise CaptureError(f"cannot write the scenarios in {folder}: {why_not_written(error)}") from None
    return WrittenScenarios(folder / REPLAY_FILE, folder / SYNTHETIC_FILE, made.notes, fitted)


def _whole(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    load = tree["load"]
    return tree | {"load": load | ({"capture": str((folder / load["capture"]).absolute())} if "capture" in load else {})}


def _head(capture: Capture, title: str) -> dict[str, Any]:
    return {"title": f"{title} {', '.join(capture.info.names)} of {capture.info.started_at[:16]}"[:300]}


def replay_tree(capture: Capture, made: BusTables) -> dict[str, Any]:
    """Return the scenario that plays a capture which lies beside it."""
    load = {"shape": REPLAY, "capture": NAME, "speed": 1.0, "driver": "pods"}
    return _head(capture, "What was captured on") | {"load": load} | made.tables


def synthetic_tree(capture: Capture, made: BusTables) -> tuple[dict[str, Any], FittedLoad]:
    """Return the scenario whose load is fitted to a capture, and that load."""
    scenario = scenario_of_tables(made)
    seconds = max(capture.info.seconds, 1e-3)
    names = names_in_bus(capture, scenario.bus.channel_prefix)
    rows_of: dict[str, np.ndarray] = {}
    for name, rows in zip(names, capture.by_channel(), strict=True):
        if name in scenario.channels:
            rows_of[name] = rows
    channels = {name: dict(one) for name, one in made.tables["channels"].items()}
    for name, one in channels.items():
        one.pop("rate_per_s", None)
        if name in rows_of:
            sizes = capture.sizes[rows_of[name]]
            one |= {"payload": _payload(sizes, _around(scenario, name)), "rate_per_s": float(f"{len(sizes) / seconds:.6g}")}
    at_s = np.sort(np.concatenate(list(rows_of.values()))) if rows_of else np.zeros(0, np.int64)
    fitted = fit_load(capture.at_ns[at_s] / 1e9, seconds)
    load = {"shape": fitted.shape, "arrivals": fitted.arrivals, "rate_per_s": fitted.rate_per_s, "warm_up_s": 0.0}
    load |= {"run_s": min(86_400.0, float(f"{seconds:.6g}")), "driver": "pods"}
    return _head(capture, "A load fitted to") | {"load": load} | made.tables | {"channels": channels}, fitted


def scenario_of_tables(made: BusTables) -> Scenario:
    """Return the scenario that only its bus is known of."""
    return msgspec.convert({"services": {}} | made.tables, Scenario)


def _around(scenario: Scenario, name: str) -> int:
    """Return how many bytes of an event of a channel are not what it carries."""
    source = next((service for service, its in scenario.services.items() if name in its.publishes), "")
    return event_bytes(name, SMALL, envelope=scenario.new_envelope(), source=source) - len(msgspec.json.encode(SMALL))


def _payload(sizes: np.ndarray, around: int) -> int | str:
    """Return a size, or a distribution of sizes, of what the events carry whose sizes these are."""
    p50, p99, most = (max(1, round(float(one)) - around) for one in (*np.percentile(sizes, (50, 99)), sizes.max()))
    p50, p99, most = (min(one, 1_000_000) for one in (p50, p99, most))
    return p50 if p50 == most else f"lognormal(p50={p50}, p99={max(p50, p99)}, most={most})"


def fit_load(at_s: np.ndarray, seconds: float) -> FittedLoad:
    """Return the load whose shape comes nearest to the rate of these events.

    Parameters
    ----------
    at_s
        float64, shape (events,): when each came, in order.
    """
    mean = max(1e-6, len(at_s) / seconds)
    dispersion = dispersion_of(at_s, seconds)
    arrivals = "uniform" if dispersion < EVEN else "poisson"
    parts = int(min(PARTS, len(at_s) / LEAST_IN_PART))
    if parts < 4:
        return FittedLoad("steady", arrivals, _rate(mean), f"{count(len(at_s), 'event')} are too few to see a shape")
    rates = np.array(shares_of_time(at_s, seconds, parts))
    noise = mean / (seconds / parts) * parts  # the variance of a count is its mean
    errors = {}
    for shape in SHAPES:
        shares = np.array([share_of_peak(shape, (place + 0.5) / parts) for place in range(parts)])
        peak = float(rates @ shares / (shares @ shares))
        errors[shape] = (float(((rates - peak * shares) ** 2).sum()), peak)
    steady, best = errors["steady"][0], min(errors, key=lambda shape: errors[shape][0])
    if steady <= NOISE * noise:
        return FittedLoad("steady", arrivals, _rate(mean), "its rate is steady")
    if errors[best][0] <= BETTER * steady:
        return FittedLoad(best, arrivals, _rate(errors[best][1]), f"its rate moves as the shape {best!r} does")
    return FittedLoad("steady", arrivals, _rate(mean), "its rate moves, and as none of the shapes: the fitted one is steady")


def _rate(rate: float) -> float:
    return min(MAX_RATE, float(f"{rate:.6g}"))


def describe_fitted(scenario: Scenario) -> dict[str, ChannelTraffic]:
    """Return the traffic that a synthetic scenario means, by the names that its channels have at the broker."""
    schedule, found = scenario.schedule(), {}
    seconds = scenario.load.warm_up_s + scenario.load.run_s
    for place, kind in enumerate(schedule.kinds):
        rows = np.flatnonzero(schedule.kind == place)
        content, around = scenario.content(kind), _around(scenario, kind)
        made = [len(msgspec.json.encode(content(number))) + around for number in rows[:MOST_MADE].tolist()]
        name = scenario.bus.channel_prefix + kind
        found[name] = channel_traffic(name, schedule.offset_ns[rows] / 1e9, np.array(made, np.int64), seconds=seconds)
    return found


def _text(tree: dict[str, Any], capture: Capture, what: str, notes: Sequence[str]) -> str:
    info = capture.info
    heard = f"{count(info.events, 'event')} on {count(len(capture.channels), 'channel')} in {duration(info.seconds)}"
    ended = f", which ended early: {info.reason}" if info.ended != "time" else ""
    lines = [
        f"Captured by `buslab capture` from {info.server} at {info.started_at}: {heard}{ended}.",
        what,
        *(f"Note: {one}" for one in notes),
    ]
    return "".join(f"# {_comment(line)}\n" for line in lines) + tomli_w.dumps(tree)


def _comment(text: str) -> str:
    return "".join(one if one.isprintable() else " " for one in text)
