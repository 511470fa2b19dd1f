"""Measure what a tap costs beside the proxy of links that it is made of: events and copies a second, and what each adds to a round trip.

Rules
-----
1. The ways take turns within a round: straight to the server, through the proxy, through the tap, which records into a folder as in a run.
   A ratio is the median of the ratios within the rounds.
2. One publisher has `FLIGHT` writes of `depth` PUBLISHes on their way; every subscriber reads and drops. Publisher and subscribers go the
   same way, so the process between has all of it to pass on. Every answer and every copy is waited for: what is lost gives no figure.
3. Processor time of the process between, per message that it passed on (an event or a copy), stands beside the rate: it moves less with the
   machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sim.errors import BrokerError
from sim.grounds.embedded import embedded
from sim.grounds.links import ProxyLinks, round_trips_us
from sim.grounds.tap_plan import Door, TapPlan
from sim.machine.words import count, multiple
from sim.measure.bench.children import CHANNEL, events
from sim.wire.resp import pack

DIRECT, PROXY, TAP = "direct", "proxy", "tap"
WAYS = (DIRECT, PROXY, TAP)
CASES = ((0, 1), (0, 16), (1, 1), (10, 1), (10, 16), (100, 1))  # subscribers, depth
FLIGHT = 4
ROUNDS_MADE = 1500  # more different reads than a tap remembers
PATIENCE_S = 10.0
TARGET = 0.7


@dataclass(frozen=True)
class TapFigure:
    """One measurement.

    Attributes
    ----------
    rate
        Messages a second that were passed on: events and copies.
    cpu_us
        Processor time of the process between, per message; nan without one.
    """

    way: str
    subscribers: int
    depth: int
    rate: float
    cpu_us: float


@dataclass(frozen=True)
class TapReport:
    """What one bench of the tap found; `trips_us` maps a way to median and 99th percentile of round trips, of each round."""

    rounds: int
    event_bytes: int
    figures: tuple[TapFigure, ...]
    trips_us: dict[str, list[tuple[float, float]]]

    def ratio(self, subscribers: int, depth: int, *, by_cpu: bool = False) -> float:
        """Return how many times the proxy's rate the tap has, or of messages per processor time."""
        of = {way: [one for one in self.figures if (one.way, one.subscribers, one.depth) == (way, subscribers, depth)] for way in WAYS}
        pairs = zip(of[PROXY], of[TAP], strict=True)
        return statistics.median(proxy.cpu_us / tap.cpu_us if by_cpu else tap.rate / proxy.rate for proxy, tap in pairs)


def run_tap_bench(
    *,
    seconds: float = 1.0,
    rounds: int = 5,
    event_bytes: int = 300,
    cases: Sequence[tuple[int, int]] = CASES,
    tell: Callable[[str], None] = lambda line: None,
) -> TapReport:
    """Measure every case each way, `seconds` each, `rounds` times.

    Raises
    ------
    BrokerError
        A proxy did not start, or lost something.
    """
    figures: list[TapFigure] = []
    trips: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="buslab-tap-") as name, embedded() as broker, asyncio.Runner() as runner:
        plan = TapPlan(name, 1, doors=(Door("tap"),), pointer="/eventId")
        proxy = runner.run(ProxyLinks.open(broker.address, pods=1, folder=Path(name), seed=1))
        tap = runner.run(ProxyLinks.open(broker.address, pods=1, folder=Path(name), seed=1, tap=plan))
        ways = {DIRECT: (broker.address, None), PROXY: (proxy.address(0), _pid(proxy)), TAP: (tap.address(0), _pid(tap))}
        try:
            made = {depth: _rounds(event_bytes, depth) for depth in {depth for _, depth in cases}}
            for number in range(rounds):
                for way, (address, _) in ways.items():
                    trips[way].append(runner.run(round_trips_us(address)))
                for subscribers, depth in cases:
                    for way, (address, pid) in ways.items():
                        cpu_before = 0.0 if pid is None else _cpu_s(pid)
                        passed, took_s = _drive(address.port, made[depth], subscribers=subscribers, depth=depth, seconds=seconds)
                        cpu_us = float("nan") if pid is None else (_cpu_s(pid) - cpu_before) * 1e6 / passed
                        figures.append(TapFigure(way, subscribers, depth, passed / took_s, cpu_us))
                    tell(f"round {number + 1}/{rounds}, {count(subscribers, 'subscriber')}, {depth} deep: measured")
        finally:
            with contextlib.suppress(BrokerError):
                runner.run(tap.end_tap())
            for links in (proxy, tap):
                runner.run(links.close())
    return TapReport(rounds, event_bytes, tuple(figures), trips)


def tap_bench_table(report: TapReport) -> Group:
    """Return the report for a rich console."""
    title = f"Messages passed on a second, {report.event_bytes}-byte events, median of {count(report.rounds, 'round')}"
    table = Table(title=title)
    for heading in ("subscribers", "in a write", *WAYS, "tap x proxy", "proxy CPU us", "tap CPU us", "by CPU"):
        table.add_column(heading, justify="right")
    cases = list(dict.fromkeys((one.subscribers, one.depth) for one in report.figures))
    for case in cases:
        of = {way: [one for one in report.figures if (one.way, one.subscribers, one.depth) == (way, *case)] for way in WAYS}
        rates = [f"{statistics.median(one.rate for one in of[way]):,.0f}" for way in WAYS]
        cpu = [f"{statistics.median(one.cpu_us for one in of[way]):.2f}" for way in (PROXY, TAP)]
        ratios = [f"{report.ratio(*case):.2f}", *cpu, f"{report.ratio(*case, by_cpu=True):.2f}"]
        table.add_row(str(case[0]), str(case[1]), *rates, *ratios)
    trip = {way: [statistics.median(one[rank] for one in report.trips_us[way]) for rank in (0, 1)] for way in WAYS}
    p50, p99 = ([f"{trip[way][rank]:.0f}" for way in WAYS] for rank in (0, 1))
    worst = min(cases, key=lambda case: report.ratio(*case))
    word = "reached" if report.ratio(*worst) >= TARGET else "NOT reached"
    notes = [
        f"A round trip takes {' / '.join(p50)} us ({' / '.join(WAYS)}, median) and {' / '.join(p99)} us (99th percentile).",
        f"At worst the tap has {multiple(report.ratio(*worst))} the proxy's rate ({count(worst[0], 'subscriber')}, {worst[1]} in a write), "
        f"target {multiple(TARGET)} it: {word}.",
    ]
    return Group(table, *map(Text, notes))


def _pid(links: ProxyLinks) -> int:
    return next(iter(links.pids.values()))


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _rounds(event_bytes: int, depth: int) -> list[bytes]:
    made = events(event_bytes)
    return [b"".join(pack(b"PUBLISH", CHANNEL, next(made).payload) for _ in range(depth)) for _ in range(ROUNDS_MADE)]


def _drive(port: int, rounds: Sequence[bytes], *, subscribers: int, depth: int, seconds: float) -> tuple[int, float]:
    """Publish for some seconds and wait for every answer and copy; return how many messages passed, and how long it took."""
    with contextlib.ExitStack() as stack:
        hearers = [stack.enter_context(one) for one in _subscribed(port, subscribers)]
        publisher = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S))
        publisher.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ready = stack.enter_context(selectors.DefaultSelector())
        left = {one: 0 for one in (publisher, *hearers)}  # bytes that are still to come, by socket
        for one in left:
            one.setblocking(False)
            ready.register(one, selectors.EVENT_READ)
        copy_bytes = len(rounds[0])  # a copy is as long as its PUBLISH: both words have seven letters, and all events one length
        answer_bytes = len(b":%d\r\n" % subscribers) * depth
        scratch, sent, began = memoryview(bytearray(256 * 1024)), 0, time.monotonic()
        while True:
            going = time.monotonic() - began < seconds
            if not going and not any(left.values()):
                break
            while going and max(left[publisher] // answer_bytes, *(left[one] // copy_bytes for one in hearers), 0) < FLIGHT:
                publisher.sendall(rounds[sent % len(rounds)])
                sent += 1
                left[publisher] += answer_bytes
                for one in hearers:
                    left[one] += copy_bytes
            events_ready = ready.select(PATIENCE_S)
            if not events_ready:
                raise BrokerError(f"through port {port} nothing comes any more after {sent} writes: something was lost")
            for key, _ in events_ready:
                end = key.fileobj
                assert isinstance(end, socket.socket)
                got = end.recv_into(scratch)
                if not got:
                    raise BrokerError(f"through port {port} a connection ended")
                left[end] -= got
        return sent * depth * (1 + subscribers), time.monotonic() - began


def _subscribed(port: int, subscribers: int) -> Iterator[socket.socket]:
    for _ in range(subscribers):
        one = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        one.sendall(pack(b"SUBSCRIBE", CHANNEL))
        confirmation = len(pack(b"subscribe", CHANNEL)) + len(b":1\r\n")
        while confirmation:
            confirmation -= len(one.recv(confirmation))
        yield one
