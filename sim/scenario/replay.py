"""Play what was captured: `load.shape = "replay"` takes intended times, channels and sizes from a capture and draws nothing but pods.

Rules
-----
1. Time zero is the capture's beginning; `load.speed` divides every time. Order stays, also of events that were heard at one moment.
2. Played are the channels of the capture that the scenario has, and whose weight in `load.mix` is above 0 where there is a mix. What these
   mean as a mix and as a rate is worked out when the scenario is read, so whoever reads those two reads what will be played.
3. A captured channel is the scenario's without the bus' prefix; where not all of them have it, as it is.
4. An event carries the data of its payload, if that was kept and is of the scenario's envelope; else filler, so that the whole event is
   as long as the captured one, or as short as one can be.
5. A batch was captured as one event and is played as one: a channel that is played is not batched again.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sim.bus.envelope import PROBE
from sim.bus.envelopes import Envelope
from sim.bus.node import BusNode
from sim.errors import CaptureError, ScenarioError
from sim.machine.words import amount, duration
from sim.record.capture_file import Capture, capture_path, read_capture
from sim.scenario.payloads import Content
from sim.scenario.run_settings import REPLAY, Load
from sim.scenario.schedule import MAX_CALLS, Schedule, draw_pods

SLICES = 64  # of the run phase: the rate of a replay is that of the busiest
MAX_RUN_S = 86_400.0
MAX_SHOWN = 5  # names in one message
AT_NS = 1 << 48  # when an event is made whose length is taken
SAME = 1e-3  # two rates that differ by less are one


def open_capture(named: str) -> Capture:
    """Return a capture, which is read once however often it is asked for.

    Raises
    ------
    ScenarioError
        It cannot be read.
    """
    path = capture_path(Path(named))
    try:
        status = path.stat()
        return _read(path, status.st_mtime_ns, status.st_size)
    except (CaptureError, OSError, ValueError) as error:
        why = f"{error.strerror}: {path}" if isinstance(error, OSError) else str(error)
        raise ScenarioError(f"load.capture = {named!r}: {why}") from None


@functools.lru_cache(maxsize=2)
def _read(path: Path, changed_ns: int, size: int) -> Capture:
    return read_capture(path)


def names_in_bus(capture: Capture, prefix: str) -> list[str]:
    """Return what each channel of a capture is called in a bus of this prefix."""
    of_it = all(name.startswith(prefix) and name != prefix for name in capture.channels)
    return [name.removeprefix(prefix) if of_it else name for name in capture.channels]


def with_capture(tree: dict[str, Any], *, channels: Sequence[str], prefix: str, where: str) -> dict[str, Any]:
    """Return a scenario's tree in which a replay's load is filled in: its length, its mix and its rate.

    Parameters
    ----------
    channels, prefix
        Those of the scenario's bus.

    Raises
    ------
    ScenarioError
        There is no such capture, or nothing of it can be played, or the load says a rate that is not the capture's.
    """
    load = tree.get("load")
    if not isinstance(load, dict) or load.get("shape") != REPLAY:
        return tree
    named, speed, mix = load.get("capture"), load.get("speed", 1.0), load.get("mix") or {}
    if not isinstance(named, str) or not named:
        raise ScenarioError(f"{where}: load.shape = 'replay' plays a capture: name its file, as load.capture = \"capture.parquet\"")
    times = [speed, load.get("warm_up_s", 0.0), load.get("run_s", 1.0)]
    if not isinstance(mix, dict) or not all(isinstance(one, int | float) and 0 <= one < float("inf") for one in times) or not speed:
        return tree  # a value that is refused by its type or its bounds
    try:
        capture = open_capture(named)
    except ScenarioError as error:
        raise ScenarioError(f"{where}: {error}") from None
    warm_up_s = float(load.get("warm_up_s", 0.0))
    run_s = _run_s(capture, speed, warm_up_s, where) if "run_s" not in load else float(load["run_s"])
    names = names_in_bus(capture, prefix)
    played = {name for name in names if name in channels and (not mix or _weight(mix.get(name)) > 0)}
    rows = np.isin(capture.channel, [code for code, name in enumerate(names) if name in played])
    if not rows.any():
        raise ScenarioError(f"{where}: load.capture = {named!r}: {_none_played(names, channels, prefix, mix)}")
    at_s = capture.at_ns / (1e9 * speed) - warm_up_s
    if not (many_in_run := _slices(at_s[rows], run_s)).any():
        lasts = f"the run phase of {duration(run_s)} after {duration(warm_up_s)} of warm-up"
        raise ScenarioError(f"{where}: load.capture = {named!r}: nothing of it falls into {lasts}: change load.run_s or load.warm_up_s")
    many = np.bincount(capture.channel[rows & (at_s < run_s)], minlength=len(names)).tolist()
    rate = float(many_in_run.max()) * SLICES / run_s
    given = load.get("rate_per_s")
    if isinstance(given, int | float) and abs(given - rate) > SAME * rate:
        at = f"{amount(given / rate * speed)}" if given > 0 else "2"
        raise ScenarioError(
            f"{where}: load.rate_per_s = {given:g}: a replay has the rate of its capture, here {amount(rate)} calls a second at most: "
            f"leave it out, or set load.speed, as load.speed = {at}"
        )
    counts = {name: float(times) for name, times in zip(names, many, strict=True) if times}
    filled = {"warm_up_s": warm_up_s, "run_s": run_s, "rate_per_s": rate if given is None else given, "mix": counts}
    return tree | {"load": load | filled}


def _run_s(capture: Capture, speed: float, warm_up_s: float, where: str) -> float:
    """Return how long a whole capture plays after the warm-up."""
    lasts_s = capture.info.seconds / speed
    if lasts_s > MAX_RUN_S:
        raise ScenarioError(
            f"{where}: load.speed = {speed:g}: the capture lasts {duration(capture.info.seconds)}, so that is {duration(lasts_s)}, more "
            f"than {duration(MAX_RUN_S)}: raise it, or play a part, as load.run_s = 3600"
        )
    if lasts_s <= warm_up_s:
        raise ScenarioError(f"{where}: load.warm_up_s = {warm_up_s:g}: all of the capture is over after {duration(lasts_s)}: lower it")
    return lasts_s - warm_up_s


def _weight(value: Any) -> float:
    return value if isinstance(value, int | float) else 0.0


def _none_played(names: Sequence[str], channels: Sequence[str], prefix: str, mix: Mapping[str, Any]) -> str:
    if not names:
        return "it has no event"
    there, its = ", ".join(map(repr, list(names)[:MAX_SHOWN])), ", ".join(map(repr, list(channels)[:MAX_SHOWN]))
    if mix and set(names) & set(channels):
        return f"none of its channels ({there}) has a weight in load.mix: leave load.mix out to play them all"
    return f"none of its channels ({there}) is one of the scenario's ({its}); bus.channel_prefix = {prefix!r} is what they begin with"


def _slices(at_s: np.ndarray, run_s: float) -> np.ndarray:
    """Return how many events each of `SLICES` equal parts of the run phase has."""
    return np.histogram(at_s, bins=SLICES, range=(0.0, run_s))[0]


def replayed_shares(load: Load, prefix: str) -> list[float]:
    """Return the share of its highest rate that a replay has in each of `SLICES` equal parts of its run."""
    capture = open_capture(load.capture)
    codes = [code for code, name in enumerate(names_in_bus(capture, prefix)) if load.mix.get(name, 0.0) > 0]
    at_s = capture.at_ns[np.isin(capture.channel, codes)] / (1e9 * load.speed) - load.warm_up_s
    many = _slices(at_s, load.run_s)
    return [float(one) for one in many / max(1, many.max())]


def replayed_calls(load: Load, *, prefix: str, seed: int, publishers: Mapping[str, list[int]]) -> Schedule:
    """Return the calls of a replay; `publishers` as of `make_schedule`.

    Raises
    ------
    ScenarioError
        The capture cannot be read, or has more than `MAX_CALLS` events to play.
    """
    capture = open_capture(load.capture)
    kinds = tuple(publishers)
    names, places = names_in_bus(capture, prefix), {kind: place for place, kind in enumerate(kinds)}
    kind_of = np.array([places.get(name, -1) for name in names] or [-1], dtype=np.int32)
    number = np.zeros(len(capture), dtype=np.int64)
    for rows in capture.by_channel():
        number[rows] = np.arange(len(rows))
    offset_ns = np.rint(capture.at_ns / load.speed).astype(np.int64)
    rows = np.flatnonzero((kind_of[capture.channel] >= 0) & (offset_ns < (load.warm_up_s + load.run_s) * 1e9))
    if len(rows) > MAX_CALLS:
        raise ScenarioError(f"the capture has {len(rows):,} events to play, more than {MAX_CALLS:,}: lower load.run_s")
    kind = kind_of[capture.channel[rows]].astype(np.uint16)
    draw = np.random.default_rng([seed, 1]).random(len(rows))
    return Schedule(offset_ns[rows], kind, draw_pods(kind, draw, kinds, publishers), kinds, number[rows])


def replayed_content(load: Load, name: str, *, prefix: str, envelope: Envelope, source: str) -> Content:
    """Return what makes what the events of a channel carry, from their numbers within the channel.

    Parameters
    ----------
    envelope, source
        The form in which they travel, and a service that publishes them, whose name has its length there.
    """
    capture = open_capture(load.capture)
    codes = [code for code, one in enumerate(names_in_bus(capture, prefix)) if one == name]
    rows = np.flatnonzero(np.isin(capture.channel, codes))
    sizes, places = capture.sizes[rows].tolist(), rows.tolist()
    around = event_bytes(name, {"number": 0, "note": ""}, envelope=envelope, source=source) - 1

    def content(number: int) -> dict[str, Any]:
        number %= len(sizes)
        if (payload := capture.payloads.get(places[number])) is not None:
            data = _data_of(payload, capture.channels[codes[0]], envelope)
            if data is not None:
                return data
        left = sizes[number] - around - len(str(number))
        return {"number": number, "note": "x" * left} if left > 0 else {"number": number}

    return content


def event_bytes(name: str, data: dict[str, Any], *, envelope: Envelope, source: str) -> int:
    """Return how many bytes an event with these data has."""
    node = BusNode(source, nonce=1, publisher=1, batches={}, wall_offset_ns=0, envelope=envelope)
    sent = node.call(name, data, now_ns=AT_NS, intended_ns=AT_NS)
    assert sent is not None
    return len(sent.payload)


def _data_of(payload: bytes, channel: str, envelope: Envelope) -> dict[str, Any] | None:
    """Return what an event carried, None where it is not of this envelope."""
    if envelope.by_channel:
        try:
            data = json.loads(payload)
        except (ValueError, RecursionError):
            return None
        return data if isinstance(data, dict) else None
    events = envelope.decode_read([payload]).events
    return events[0][1].data if events and events[0][0] != PROBE else None
