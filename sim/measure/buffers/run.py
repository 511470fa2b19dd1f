"""Measure when a server cuts a stalled subscriber, beside the prediction of `sim.measure.buffers.predict`, on a server of our own.

Rules
-----
1. The subscriber is a socket that subscribes and then reads nothing, or a little. It is new: what its kernel lets wait is what a
   new connection's does.
2. The publisher sends copies at their times, many in flight. PUBLISH answers with how many hear it: the first 0 shows at which
   copy the subscriber was gone.
3. It was cut, and not lost otherwise, when the server has counted a cut (if it counts them), CLIENT LIST has the subscriber no more, and
   the subscriber, which reads now, comes to the end of its stream.
"""

from __future__ import annotations

import select
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from sim.errors import BrokerError, UsageError
from sim.grounds.embedded import embedded
from sim.grounds.model.costs import MIB, OutputBufferLimit
from sim.machine.words import count, duration
from sim.measure.buffers.predict import Cutoff, ServerRules, Stall, predict_cut, rules_of
from sim.measure.calibrate import ServerSocket, window_bytes
from sim.wire.address import Address
from sim.wire.resp import pack, wire_size

CHANNEL = b"aiponge:events:config.cache.invalidate"
TICK_S = 0.001
NEVER_S = 1.5  # a case that is never cut is watched for so long after its sockets are full
PATIENCE_S = 3.0  # beyond what was predicted
LONGEST_S = 15.0  # of one case
TOLERANCE = 0.1  # of the time: on a busy machine the publisher is late, and sockets take more or less
LEAST_S = 0.05
MOST_PER_S, MOST_BYTES_PER_S = 50_000, 100e6
AT_ONCE_BYTES = 128 * 1024  # of one write, so that answers are read in between
COUNTER = "client_output_buffer_limit_disconnections"


@dataclass(frozen=True)
class Case:
    """What is published to whom, under which limit."""

    stall: Stall
    limit: OutputBufferLimit


@dataclass(frozen=True)
class Measured:
    """What became of a case.

    Attributes
    ----------
    cut_s
        From the first copy until the first that the subscriber was not counted for; None: it was still there at the end.
    copies
        How many were queued for it.
    watched_s
        How long it was watched.
    read_bytes
        What it could read after the cut.
    """

    case: Case
    predicted: Cutoff
    cut_s: float | None
    copies: int
    watched_s: float
    read_bytes: int

    @property
    def ratio(self) -> float | None:
        """Measured by predicted; None where one of them is never."""
        return None if self.cut_s is None or self.predicted.latest_s is None else self.cut_s / self.predicted.latest_s

    @property
    def as_predicted(self) -> bool:
        """Whether the prediction held, within `TOLERANCE`."""
        return self._fits(self.cut_s)

    @property
    def late(self) -> bool:
        """Whether the copies are as predicted, and only their times are not: the machine was too busy to publish at the rate."""
        return not self.as_predicted and self.cut_s is not None and self._fits(self.copies / self.case.stall.rate_per_s)

    def _fits(self, at_s: float | None) -> bool:
        earliest_s, latest_s = self.predicted.earliest_s, self.predicted.latest_s
        if at_s is None or earliest_s is None or latest_s is None:
            return at_s is latest_s
        return earliest_s - max(LEAST_S, TOLERANCE * earliest_s) <= at_s <= latest_s + max(LEAST_S, TOLERANCE * latest_s)


def _case(rate: float, size: int, *, hard: float = 0, soft: float = 0, soft_s: int = 0, reads: float = 0) -> Case:
    stall = Stall(rate, size, len(CHANNEL), reads_bytes_per_s=reads)
    return Case(stall, OutputBufferLimit(int(hard * MIB), int(soft * MIB), soft_s))


# Each lasts a second or two: high rates, small limits. 32, 8 and 60 are what servers ship with.
CASES = (
    _case(20_000, 300, hard=1),
    _case(10_000, 1_000, hard=8),
    _case(2_000, 4_000, hard=4),
    _case(3_000, 12_000, hard=32, soft=8, soft_s=60),
    _case(1_000, 20_000, hard=0.25),
    _case(4_000, 4_000, hard=32, soft=1, soft_s=1),
    _case(2_000, 4_000, soft=1, soft_s=0),
    _case(3_000, 4_000, hard=2, soft=1, soft_s=1),
    _case(5_000, 4_000, hard=4, reads=5e6),
    _case(2_000, 4_000, hard=1, reads=10e6),
    _case(3_000, 4_000),
)


@dataclass(frozen=True)
class Verified:
    """What was measured on one server: whose rules it follows, what the sockets of a new connection take, and every case."""

    rules: ServerRules
    window_bytes: int
    rows: list[Measured]

    @property
    def as_predicted(self) -> bool:
        """Whether all predictions held."""
        return all(row.as_predicted for row in self.rows)


def program_of(server: str) -> Path | None:
    """Return the program of a server by name: None for the one that comes with the packages.

    Raises
    ------
    UsageError
        It is not there.
    """
    if server == "valkey":
        return None
    found = shutil.which("redis-server")
    if found is None:
        raise UsageError("--server redis --verify: there is no redis-server on PATH (Debian: apt-get install redis-server)")
    return Path(found)


def verify_cuts(cases: Sequence[Case] = CASES, *, binary: Path | None = None, tell: Callable[[str], None] = lambda line: None) -> Verified:
    """Measure what sockets take, and some cases, on a server of our own, one after another.

    Parameters
    ----------
    binary
        The server's program; by default that of ground `embedded`.
    tell
        Called with a line before each case.

    Raises
    ------
    BrokerError
        The server does not start, or does not do what was asked of it.
    UsageError
        A case would take longer than `LONGEST_S`, or needs more than this machine can publish.
    """
    with embedded(binary=binary) as broker:
        control = ServerSocket(broker.address)
        try:
            rules = rules_of(_fields(control.bulk(b"INFO", b"server")))
            for case in cases:
                _check_length(case, rules)
            window = window_bytes(broker.address, control)
            found = []
            for number, case in enumerate(cases, 1):
                tell(f"{number} of {len(cases)}: {count(case.stall.rate_per_s, 'copy')}/s of {count(case.stall.payload_bytes, 'byte')}")
                found.append(_measure(case, broker.address, control, rules, window))
            return Verified(rules, window, found)
        finally:
            control.socket.close()


def _check_length(case: Case, rules: ServerRules) -> None:
    stall = case.stall
    if not stall.rate_per_s:
        raise UsageError("nothing is published, so there is nothing to measure: give a --rate above 0")
    predicted = predict_cut(stall, limit=case.limit, rules=rules)
    lasts_s = predicted.latest_s or predicted.full_s or 0.0
    if lasts_s > LONGEST_S or stall.frame_bytes * stall.rate_per_s > MOST_BYTES_PER_S or stall.rate_per_s > MOST_PER_S:
        raise UsageError(
            f"{count(stall.rate_per_s, 'copy')}/s of {count(stall.payload_bytes, 'byte')} would take "
            f"{duration(lasts_s)}; measured is only what takes "
            f"{duration(LONGEST_S)}, {MOST_PER_S:,} copies/s and {MOST_BYTES_PER_S / 1e6:g} MB/s at most: "
            f"change the rate, or lower the limits"
        )


def _measure(case: Case, address: Address, control: ServerSocket, rules: ServerRules, window: int) -> Measured:
    limit = case.limit
    words = f"pubsub {limit.hard_bytes} {limit.soft_bytes} {limit.soft_s}".encode()
    control.ask(pack(b"CONFIG", b"SET", b"client-output-buffer-limit", words), len(b"+OK\r\n"))
    cuts = _cuts(control)
    reader, publisher = ServerSocket(address), ServerSocket(address)
    try:
        channel = _channel(case.stall)
        reader.ask(pack(b"SUBSCRIBE", channel), wire_size([b"subscribe", channel, 1]))
        rough = predict_cut(case.stall, limit=limit, rules=rules, window_bytes=window)
        until_s = rough.latest_s + PATIENCE_S if rough.latest_s is not None else (rough.full_s or 0.0) + NEVER_S
        run = _Publishing(case.stall, reader.socket, publisher.socket)
        cut_s = run.until_cut(min(until_s, LONGEST_S))
        if cut_s is not None:
            _check_cut(control, reader, cuts)
        exact = predict_cut(case.stall, limit=limit, rules=rules, window_bytes=window, began_s=run.began_s)
        read = _rest(reader.socket) if cut_s is not None else 0
        return Measured(case, exact, cut_s, run.queued, run.watched_s, read)
    finally:
        reader.socket.close()
        publisher.socket.close()


def _channel(stall: Stall) -> bytes:
    return (CHANNEL + b"-" * stall.channel_bytes)[: stall.channel_bytes]


class _Publishing:
    """A publisher at a rate, and its subscriber, which reads as little as the case says."""

    def __init__(self, stall: Stall, reader: socket.socket, publisher: socket.socket) -> None:
        self._stall = stall
        self._reader = reader
        self._publisher = publisher
        self._publish = pack(b"PUBLISH", _channel(stall), bytes(stall.payload_bytes))
        self._most = max(1, AT_ONCE_BYTES // len(self._publish))
        self._unread = b""
        self._taken = 0
        self.began_s = 0.0
        self.watched_s = 0.0
        self.queued = 0

    def until_cut(self, most_s: float) -> float | None:
        """Return when the subscriber was gone, in seconds from the first copy; None when it is still there after so long."""
        sent = 0
        self.began_s, started_s = time.time(), time.monotonic()
        while self.watched_s < most_s:
            due = int(self.watched_s * self._stall.rate_per_s) - sent
            if due > 0:
                self._publisher.sendall(self._publish * min(due, self._most))
                sent += min(due, self._most)
            if self._stall.reads_bytes_per_s:
                self._read(int(self.watched_s * self._stall.reads_bytes_per_s))
            gone = self._gone()
            self.watched_s = time.monotonic() - started_s
            if gone:
                return self.watched_s
            if due <= self._most:
                time.sleep(TICK_S)
                self.watched_s = time.monotonic() - started_s
        return None

    def _read(self, due: int) -> None:
        while self._taken < due and _readable(self._reader):
            self._taken += len(self._reader.recv(min(due - self._taken, AT_ONCE_BYTES))) or due

    def _gone(self) -> bool:
        """Read the answers so far, and return whether one says that nobody heard."""
        while _readable(self._publisher):
            data = self._publisher.recv(65_536)
            if not data:
                raise BrokerError("the server closed the publisher's connection")
            *answers, self._unread = (self._unread + data).split(b"\r\n")
            heard = answers.index(b":0") if b":0" in answers else len(answers)
            if any(answer != b":1" for answer in answers[:heard]):
                raise BrokerError(f"PUBLISH should be heard by one: {answers[:3]!r}")
            self.queued += heard
            if heard < len(answers):
                return True
        return False


def _readable(line: socket.socket) -> bool:
    return bool(select.select([line], [], [], 0)[0])


def _check_cut(control: ServerSocket, reader: ServerSocket, cuts: int | None) -> None:
    """Raise `BrokerError` when the subscriber is gone for another reason."""
    name = "{}:{}".format(*reader.socket.getsockname())
    if f" addr={name} " in control.bulk(b"CLIENT", b"LIST", b"TYPE", b"pubsub"):
        raise BrokerError(f"the server lists {name}, and does not count it as a subscriber")
    if cuts is not None and _cuts(control) != cuts + 1:
        raise BrokerError(f"{name} went, and INFO's {COUNTER} did not rise by one")


def _rest(reader: socket.socket) -> int:
    """Return how many bytes a subscriber can read until the stream ends."""
    size = 0
    try:
        while got := len(reader.recv(1 << 20)):
            size += got
    except ConnectionResetError:
        pass
    return size


def _cuts(control: ServerSocket) -> int | None:
    """Return how many the server has cut; None for one that does not count (Redis 7.0)."""
    said = _fields(control.bulk(b"INFO", b"stats")).get(COUNTER)
    return None if said is None else int(said)


def _fields(info: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in info.splitlines())
    return {key: value for key, _, value in pairs}


def _times(predicted: Cutoff) -> str:
    if predicted.earliest_s is None or predicted.latest_s is None:
        return "never"
    latest = f"{predicted.latest_s:.3f}"
    return latest if predicted.latest_s - predicted.earliest_s < TICK_S else f"{predicted.earliest_s:.3f} .. {latest}"


def verify_table(verified: Verified) -> Table:
    """Return predicted beside measured."""
    title = f"{verified.rules.name}: seconds until a stalled subscriber is cut, whose sockets take {verified.window_bytes / 1e6:.2f} MB"
    table = Table(title=title, title_justify="left")
    for name in ("copies/s", "payload B", "hard MiB", "soft MiB, s", "it reads MB/s", "by", "predicted s", "measured s", "ratio"):
        table.add_column(name, justify="right")
    table.add_column("copies queued", justify="right")
    table.add_column("read after, MB", justify="right")
    table.add_column("as predicted")
    for row in verified.rows:
        stall, limit, predicted = row.case.stall, row.case.limit, row.predicted
        table.add_row(
            f"{stall.rate_per_s:,g}",
            f"{stall.payload_bytes:,}",
            f"{limit.hard_bytes / MIB:g}" if limit.hard_bytes else "-",
            f"{limit.soft_bytes / MIB:g}, {limit.soft_s}" if limit.soft_bytes else "-",
            f"{stall.reads_bytes_per_s / 1e6:g}",
            predicted.by,
            _times(predicted),
            f"not in {row.watched_s:.1f}" if row.cut_s is None else f"{row.cut_s:.3f}",
            "" if row.ratio is None else f"{row.ratio:.3f}",
            f"{row.copies:,}",
            "" if row.cut_s is None else f"{row.read_bytes / 1e6:.2f}",
            "yes" if row.as_predicted else "copies, not time: too busy" if row.late else "NO",
        )
    return table
