"""Bring a broker to its limit, or to a rate, with subscribers that cost next to nothing, and account for its processor time.

Rules
-----
1. The server has a core of its own where it is a process of ours; both children share another (`sim.measure.capacity.children`). Of a
   cluster each node has one where there are enough. Servers that have a share of a core each keep off the children's.
2. What is read is the broker's own processor time (INFO, of its main thread where it says so) between the beginning and the end of the
   window, so neighbours that take the core for a while do not count. `core` is its share of the window: near 1 the broker was full. Of a
   cluster it is that of the busiest node, which is full first.
3. Both must have had their cores: how long each could have run and did not, by whose doing does not matter, is told (`withheld`). The
   children are excused for each other: they share a core where there are only two.
4. The drain must have kept up: where the publisher waited for it, it and not the broker was the limit, and `waited` says so. (A node
   answers before it has passed an event on to the others, so for those the publisher waits as well: there `core` tells who was full.)
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import redis

from sim.bus.envelope import BATCH, VERSION, Event
from sim.bus.envelopes import AIPONGE, Envelope
from sim.errors import BrokerRefused, BuslabError
from sim.grounds.broker import Broker
from sim.machine.line import Line, start_child
from sim.machine.waits import ThreadAccounts
from sim.machine.words import count
from sim.measure.capacity.children import (
    MARK,
    PATIENCE_S,
    Drained,
    DrainOrder,
    DriveOrder,
    Drove,
    End,
    EventKind,
    WindowBegan,
    WindowEnded,
)
from sim.measure.child_messages import Begin, Prepared
from sim.record.schema import event_id
from sim.scenario.payloads import Content
from sim.scenario.settings import reference_contents
from sim.wire.refusals import in_short, unreachable
from sim.wire.reply_reader import GuardedParser

START_TIMEOUT_S = 30.0
FIRST_NUMBER, DRAWN, ALIKE = 1_000, 200, 0.2  # of the contents of calls that stand for all of a kind


@dataclass(frozen=True)
class Shot:
    """One window of measuring.

    Attributes
    ----------
    events, seconds
        Events that the server answered in the window.
    broker_cpu_s
        Processor time of the server in the window; of the busiest node.
    speaker_core, drain_core
        Shares of a core that the children used.
    behind_s
        How long after the end the drain was still busy.
    broker_withheld, children_withheld
        Shares of the window in which the server, and the worse of the children, could have run and had no core; NaN where nobody knows.
    waiting
        Which server that was, in words.
    waited
        Share of the window in which the publisher waited for the drain: near 0, or the drain and not the broker was the limit.
    rate
        What the watchers saw, when events were sent at a rate: see `sim.measure.capacity.children.Drove`.
    out_bytes
        What the server counted as sent in the window.
    """

    events: int
    seconds: float
    broker_cpu_s: float
    speaker_core: float
    drain_core: float
    behind_s: float
    waited: float
    rate: dict[str, float]
    out_bytes: int = 0
    broker_withheld: float = math.nan
    children_withheld: float = math.nan
    waiting: str = "the broker"

    def starved(self, most: float) -> str:
        """Return who had its core withheld for more than this share of the window, empty when nobody."""
        shares = {self.waiting: self.broker_withheld, "the process that publishes or the one that drains": self.children_withheld}
        worst = max(shares, key=lambda who: -1.0 if math.isnan(shares[who]) else shares[who])
        return f"{worst} waited for a core in {shares[worst]:.0%} of the time" if shares[worst] > most else ""

    @property
    def rate_per_s(self) -> float:
        """Events per second by the wall clock."""
        return self.events / self.seconds

    @property
    def core(self) -> float:
        """Share of a core that the server used."""
        return self.broker_cpu_s / self.seconds

    @property
    def cpu_us(self) -> float:
        """Processor time of the server per event, microseconds."""
        return self.broker_cpu_s / self.events * 1e6


class Accounts:
    """How long the servers (their names and process ids) and the two children ran and waited for a core since this was made."""

    def __init__(self, servers: Mapping[str, int], first: int, second: int) -> None:
        self._servers = list(servers)
        self._accounts = [ThreadAccounts(pid) for pid in (*servers.values(), first, second)]
        self._began = time.monotonic()
        self._before = self._read()

    def _read(self) -> list[tuple[float, float]]:
        return [one.read() for one in self._accounts]

    def shares(self) -> tuple[float, float, str]:
        """Return which shares of the time were withheld from the server that waited most and from the worse child, and who the former is.

        What one child ran excuses the other.
        """
        seconds = max(time.monotonic() - self._began, 1e-3)
        *servers, first, second = (
            ((after[0] - before[0]) / 1e9 / seconds, (after[1] - before[1]) / 1e9 / seconds)
            for before, after in zip(self._before, self._read(), strict=True)
        )
        waited = {name: share for name, (_, share) in zip(self._servers, servers, strict=True) if not math.isnan(share)}
        worst = max(waited, key=lambda name: waited[name], default="the broker")
        return waited.get(worst, math.nan), max(first[1] - second[0], second[1] - first[0], 0.0), worst

    def close(self) -> None:
        """Close their files."""
        for one in self._accounts:
            one.close()


def payload_of(kind: str, *, payload_bytes: int, items: int) -> bytes:
    """Return an envelope of the reference as the bus makes it, with `MARK` as its correlation id; `items` counts in a batch only."""
    return envelope_of(kind, reference_contents(payload_bytes=payload_bytes)[kind], items=items if kind == BATCH else None)


def envelope_of(kind: str, content: Content, *, items: int | None, envelope: Envelope = AIPONGE) -> bytes:
    """Return an envelope as the bus makes it, with `MARK` as its correlation id: a batch of so many items, or one event.

    Where contents differ in size by more than `ALIKE` of their mean, it is of `DRAWN` the one that is nearest to it.
    """
    if items is None:
        some = [content(FIRST_NUMBER + n) for n in range(DRAWN)]
        sizes = [len(msgspec.json.encode(one)) for one in some]
        mean = sum(sizes) / DRAWN
        alike = max(sizes) - min(sizes) <= ALIKE * mean
        data = some[0 if alike else min(range(DRAWN), key=lambda n: abs(sizes[n] - mean))]
    else:
        data = {"events": [content(FIRST_NUMBER + n) for n in range(items)]}
    return envelope.encode(Event(event_id(1 << 60), MARK.decode(), kind, VERSION, "2026-01-01T00:00:00.000Z", "analytics-service", data))


@dataclass
class Range:
    """A broker, one server or a cluster, and the cores that it and the children run on.

    Attributes
    ----------
    share
        How much of a core each server may use, when somebody has seen to that (`sim.machine.core_shares`). A server with less than a whole
        one waits for its turns all the time, so nothing of that is said to be withheld from it.
    cores
        One for each server of ours, in their order, and behind them those of the children; empty where there are too few.
    """

    broker: Broker
    folder: Path
    share: float = 1.0

    def __post_init__(self) -> None:
        self.urls = [node.url for node in self.broker.address.nodes]
        self._servers = {"the broker": self.broker.pid} if self.broker.pid is not None else {}
        if len(self.urls) > 1:
            self._servers = {f"the node {node}": pid for node, pid in self.broker.pids.items()}
        affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self.cores = affinity if self._servers and len(affinity) > len(self._servers) else []
        if self.share < 1:
            self.cores = affinity[-1:]
            for pid in self._servers.values():
                os.sched_setaffinity(pid, affinity[:-1])
        elif self.cores:
            for pid, core in zip(self._servers.values(), self.cores, strict=False):
                os.sched_setaffinity(pid, {core})
        self._askers = [
            redis.Redis.from_url(url, socket_timeout=PATIENCE_S, protocol=2, parser_class=GuardedParser, retry=None) for url in self.urls
        ]

    def full(
        self, kinds: Sequence[EventKind], pods: Sequence[Sequence[str]], *, connections: int, seconds: float, warm_up_s: float
    ) -> Shot:
        """Publish as fast as the broker can."""
        drive = DriveOrder(self.urls, list(kinds), connections, seconds, warm_up_s, subscribers=len(pods))
        return self._shoot(drive, DrainOrder(self.urls, [list(one) for one in pods]))

    def at_rate(
        self,
        kinds: Sequence[EventKind],
        pods: Sequence[Sequence[str]],
        *,
        connections: int,
        seconds: float,
        warm_up_s: float,
        rate_per_s: float,
        seed: int,
    ) -> Shot:
        """Publish at a rate; the first, the middle and the last subscriber watch."""
        watching = sorted({0, len(pods) // 2, len(pods) - 1})
        rest = [list(one) for place, one in enumerate(pods) if place not in watching]
        watched = [list(pods[place]) for place in watching]
        drive = DriveOrder(self.urls, list(kinds), connections, seconds, warm_up_s, rate_per_s, watched, seed)
        return self._shoot(drive, DrainOrder(self.urls, rest))

    def _shoot(self, drive: DriveOrder, drain: DrainOrder) -> Shot:
        watched = self._servers if self.share == 1 else {}
        with contextlib.ExitStack() as stack:
            heard_fd = os.memfd_create("buslab-heard")
            stack.callback(os.close, heard_fd)
            os.ftruncate(heard_fd, 8)
            hearing, driving = (stack.enter_context(self._start(kind, heard_fd)) for kind in ("drain", "drive"))
            self._prepare(hearing, msgspec.structs.replace(drain, heard_fd=heard_fd), place=2)
            self._prepare(driving, msgspec.structs.replace(drive, heard_fd=heard_fd), place=1)
            driving.send(Begin())
            driving.receive(WindowBegan, timeout_s=drive.warm_up_s + PATIENCE_S)
            withheld = stack.enter_context(contextlib.closing(Accounts(watched, driving.child.pid, hearing.child.pid)))
            before, bytes_before = self._cpu_s(), self._out_bytes()
            if drive.rate_per_s:
                driving.receive(WindowEnded, timeout_s=drive.seconds + drive.warm_up_s + PATIENCE_S)
                used, sent, shares = self._used_s(before), self._out_bytes() - bytes_before, withheld.shares()
                drove = driving.receive(Drove, timeout_s=PATIENCE_S * 3)
            else:
                drove = driving.receive(Drove, timeout_s=drive.seconds + PATIENCE_S)
                used, sent, shares = self._used_s(before), self._out_bytes() - bytes_before, withheld.shares()
            hearing.send(End())
            drained = hearing.receive(Drained, timeout_s=PATIENCE_S * 3)
        if not drove.events:
            raise BuslabError("the server answered no publish while it was measured: is it blocked, or another program's?")
        cut = drove.cut + drained.cut
        if cut and not drive.rate_per_s:
            raise BuslabError(
                f"the broker cut {count(cut, 'subscriber')} while it was kept full: the machine is too busy for them; try again later"
            )
        rate, seconds = {**drove.rate, "cut": cut} if drive.rate_per_s else {}, drove.seconds
        drain_core = drained.cpu_s / drained.seconds
        return Shot(
            drove.events, seconds, used, drove.cpu_s / seconds, drain_core, drained.behind_s, drove.waited_s / seconds, rate, sent, *shares
        )

    def _used_s(self, before: Sequence[float]) -> float:
        """Return the processor time that the busiest server has used since."""
        return max(after - begun for after, begun in zip(self._cpu_s(), before, strict=True))

    def _cpu_s(self) -> list[float]:
        used = []
        for place in range(len(self.urls)):
            said = self.info("cpu", node=place)
            suffix = "_main_thread" if "used_cpu_user_main_thread" in said else ""
            used.append(sum(self._number(said, f"used_cpu_{kind}{suffix}", place) for kind in ("user", "sys")))
        return used

    def _out_bytes(self) -> int:
        return int(sum(self._number(self.info("stats", node=place), "total_net_output_bytes", place) for place in range(len(self.urls))))

    def _number(self, said: Mapping[str, Any], field: str, node: int) -> float:
        if not isinstance(found := said.get(field), int | float):
            where = self.broker.address.nodes[node]
            raise BrokerRefused(f"{where} says no number as {field} in INFO, but {in_short(found)}: what it carries cannot be measured")
        return float(found)

    def info(self, section: str, *, node: int = 0) -> dict[str, Any]:
        """Return what a server says in a section of INFO.

        Raises
        ------
        BrokerError
            It says nothing, or nothing that is one.
        """
        try:
            said: Any = self._askers[node].info(section)
        except (redis.RedisError, OSError) as error:
            raise unreachable(self.broker.address.nodes[node], error) from None
        return said if isinstance(said, dict) else {}

    def config(self, name: str) -> str:
        """Return a setting of the first server, empty where it does not say."""
        with contextlib.suppress(redis.RedisError, OSError):
            said: Any = self._askers[0].config_get(name)
            return str(said.get(name, "")) if isinstance(said, dict) else ""
        return ""

    @contextlib.contextmanager
    def _start(self, kind: str, heard_fd: int) -> Iterator[Line]:
        """Start a child, which then waits for its plan, and end it in any case."""
        name, log = f"the process that should {kind}", self.folder / f"{kind}.log"
        line = start_child("sim.measure.capacity.children", name=name, log=log, pass_fds=[heard_fd])
        try:
            yield line
        finally:
            line.close()
            line.child.end(timeout_s=1.0)

    def _prepare(self, line: Line, plan: DriveOrder | DrainOrder, *, place: int) -> None:
        """Send the child its plan, wait until it is ready, then pin it to its core: it starts wherever there is room."""
        line.send(plan)
        line.receive(Prepared, timeout_s=START_TIMEOUT_S)
        if self.cores:
            os.sched_setaffinity(line.child.pid, {self.cores[min(place, len(self.cores) - 1)]})

    def close(self) -> None:
        """Close our own connections."""
        for one in self._askers:
            one.close()
