"""What a broker's steps and its network cost: the numbers that the model and `fanout` share, and the file of measured ones.

The defaults in the code are one machine's, rounded, so that a seed replays a run anywhere. A file holds another machine's, each
with its interval, as `buslab calibrate` wrote it; `--on model:FILE` takes the means of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgspec

from sim.errors import UsageError
from sim.faults.link import LinkPlan
from sim.machine.files import write_whole

FILE_FORMAT = 1
COLD_MAX_MS = 10.0
MIB = 1024 * 1024
READ_BYTES = 16 * 1024  # of one client in one turn, as PROTO_IOBUF_LEN


@dataclass(frozen=True)
class Costs:
    """The time for which each step keeps the server's thread busy, in nanoseconds.

    The defaults were measured by `buslab calibrate` on 2026-11-23 (reports/costs.json), rounded: Valkey 9.1.2 on a virtual machine
    with two shared x86_64 cores, clients on loopback. They are processor time of the server, its kernel's part included: a write
    pays for the way through the loopback to the reader's socket.

    Attributes
    ----------
    turn_ns
        One turn of the event loop.
    cold_ns
        What a turn costs beyond that after a sleep of 1 ms, caches being cold; it grows with the square root of the sleep, and
        from `COLD_MAX_MS` on no more. An empirical law: between 0.2 and 20 ms it is within a third of what was measured.
    read_ns, write_ns
        One read from a socket, one write to a socket.
    command_ns
        Parsing and carrying out one command.
    copy_ns
        Queueing one copy of a published event.
    byte_ns
        Each byte that is queued and written.
    """

    turn_ns: float = 2_200
    cold_ns: float = 26_000
    read_ns: float = 2_000
    write_ns: float = 5_400
    command_ns: float = 350
    copy_ns: float = 170
    byte_ns: float = 0.31


@dataclass(frozen=True)
class OutputBufferLimit:
    """The client-output-buffer-limit of class pubsub: bytes at once, and bytes for so many seconds; 0 = no limit."""

    hard_bytes: int = 32 * MIB
    soft_bytes: int = 8 * MIB
    soft_s: int = 60


# Of the same machine and day: what a round trip on loopback takes beyond the server's own work, halved, wake-ups included; and what
# the kernel holds of one direction. A network between machines is slower: write its delay into a costs file.
LINK = LinkPlan(delay_ns=3_000, jitter_ns=4_000)
WINDOW_BYTES = 4_000_000


@dataclass(frozen=True)
class GroundCosts:
    """All that the model takes from a measurement."""

    server: Costs = Costs()
    link: LinkPlan = LINK
    window_bytes: int = WINDOW_BYTES


class CostInterval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The mean of one cost over the rounds and its 95 % interval, by the names of the file."""

    mean: float
    low: float
    high: float


class Fit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One experiment as explained by the costs: medians over the rounds of the server's processor time, in microseconds."""

    measured_us: float
    explained_us: float


class CostsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One calibration, as it stands in the file.

    Attributes
    ----------
    values
        One for each field of `Costs`, and ``link_delay_ns``, ``link_jitter_ns``, ``window_bytes``.
    about
        Machine, packages and server, as in a run's environment.json.
    """

    format: int
    measured_at: str
    rounds: int
    values: dict[str, CostInterval]
    fits: dict[str, Fit]
    about: dict[str, Any]


SERVER_VALUES = tuple(field.name for field in fields(Costs))
VALUES = (*SERVER_VALUES, "link_delay_ns", "link_jitter_ns", "window_bytes")


def write_costs(costs: CostsFile, path: Path) -> None:
    """Write a calibration.

    Raises
    ------
    UsageError
        The file cannot be written.
    """
    text = msgspec.json.format(msgspec.json.encode(costs), indent=2).decode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text + "\n")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}; choose another file with --out") from None


def read_costs(path: Path) -> GroundCosts:
    """Return the means of a calibration; raises as `read_costs_file` does."""
    means = {name: value.mean for name, value in read_costs_file(path).values.items()}
    return GroundCosts(
        Costs(**{name: means[name] for name in SERVER_VALUES}),
        LinkPlan(delay_ns=round(means["link_delay_ns"]), jitter_ns=round(means["link_jitter_ns"])),
        round(means["window_bytes"]),
    )


def read_costs_file(path: Path) -> CostsFile:
    """Return a calibration.

    Raises
    ------
    UsageError
        The file is missing, is no calibration, or holds a value that cannot be.
    """
    again = "make one with `buslab calibrate`"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the model's costs from {str(path)!r}: {error.strerror or error}; {again}") from None
    try:
        file = msgspec.json.decode(content, type=CostsFile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} holds no costs of the model: {error}; {again}") from None
    if file.format != FILE_FORMAT:
        raise UsageError(f"{path} is of format {file.format}, this version reads {FILE_FORMAT}; {again}")
    missing, unknown = sorted(set(VALUES) - set(file.values)), sorted(set(file.values) - set(VALUES))
    if missing or unknown:
        what = f"lacks {', '.join(missing)}" if missing else f"has values that the model does not know: {', '.join(unknown)}"
        raise UsageError(f"{path} {what}; {again}")
    for name, value in file.values.items():
        if not math.isfinite(value.mean) or value.mean < 0:
            raise UsageError(f"{path}: {name} = {value.mean:g}: a cost is a number and not below 0; {again}")
    if (window := file.values["window_bytes"].mean) < 1:
        raise UsageError(f"{path}: window_bytes = {window:g}: nothing could be sent; {again}")
    return file
