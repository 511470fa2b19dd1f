"""The two processes that bring a broker to its limit: one publishes and watches, one drains.

`sim.measure.capacity.saturate` starts both and speaks with each over a line. It sends a `DriveOrder` or a `DrainOrder`; the child answers
`Prepared`. On `Begin` the first publishes, marks what is measured by `WindowBegan` and, at a rate, `WindowEnded`, and answers `Drove`; on
`End` the second answers `Drained`.

Rules
-----
1. Subscribers cost next to nothing, as in production each has a core of its own: the drain lets the kernel drop what arrived (MSG_TRUNC).
2. *Full*: each connection has two reads of the server in flight (16 KiB each, or one event where that is larger), and sends the next
   when one is answered. So the server always has work, as much of it in a turn as it takes, and no backlog grows.
3. *At a rate*: every event has an intended time. Those due leave together, at most `TICK_S` late, spread over the connections. A number
   in each event's correlation id tells a watching subscriber which one it has heard, so lag is from the intended time to the read.
4. The drain counts the bytes that it has heard in memory that both share. A full drive waits when more than `AHEAD_BYTES` a subscriber
   are unheard, or the server would cut the subscribers; how long it waited is told.
5. The watchers are subscribers of the first process. The backlog, looked at every tick, is what is due and not answered by the server.
6. Of a cluster, connections and subscribers take its nodes in turn, as those of many pods would. A node counts its own subscribers only,
   and each passes an event on to every other one.
"""

from __future__ import annotations

import mmap
import os
import re
import select
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import redis
from redis.connection import ConnectionPool

from sim.errors import BrokerError
from sim.machine.line import Line, inherited_line
from sim.machine.words import count
from sim.measure.child_messages import Begin, Prepared
from sim.wire.address import parse_address
from sim.wire.refusals import in_short, unreachable
from sim.wire.reply_reader import MAX_LINE, GuardedParser
from sim.wire.resp import message_size, pack

FULL_BYTES = 16 * 1024  # what the server reads from one connection in one turn
TICK_S = 0.001
READ_BYTES = 1024 * 1024
AHEAD_BYTES = 1024 * 1024
PATIENCE_S = 10.0
DIGITS = 12
MARK = b"cor_" + b"0" * DIGITS  # stands in the envelope as its correlation id
_NUMBER = re.compile(rb"cor_(\d{12})")
_POWERS = 10 ** np.arange(DIGITS - 1, -1, -1, dtype=np.int64)


class EventKind(msgspec.Struct, frozen=True):
    """One kind of event: its channel, its envelope with `MARK` in it, its share of all events, and how many subscribers hear it."""

    channel: str
    payload: bytes
    share: float
    receivers: int


class DriveOrder(msgspec.Struct, frozen=True, tag="drive"):
    """What to publish; `rate_per_s` 0 means full. `watchers` are the channels of each watching subscriber.

    `urls` are those of the server, or of every node.
    """

    urls: list[str]
    kinds: list[EventKind]
    connections: int
    seconds: float
    warm_up_s: float
    rate_per_s: float = 0.0
    watchers: list[list[str]] = []
    seed: int = 1
    heard_fd: int = -1
    subscribers: int = 0


class DrainOrder(msgspec.Struct, frozen=True, tag="drain"):
    """Who hears: the channels of each subscriber; `urls` as in `DriveOrder`."""

    urls: list[str]
    subscribers: list[list[str]]
    heard_fd: int = -1


class WindowBegan(msgspec.Struct, frozen=True, tag="window-began"):
    """The sign that the warm-up is over: what is published from here on counts."""


class WindowEnded(msgspec.Struct, frozen=True, tag="window-ended"):
    """The sign that no more is published at the rate; the answer follows when all of it was heard."""


class End(msgspec.Struct, frozen=True, tag="end"):
    """The order to drain what is still under way, and to answer: no more is published."""


class Drove(msgspec.Struct, frozen=True, tag="drove"):
    """What was published in the window; `waited_s` is known of a full drive, `cut` and `rate` of one at a rate."""

    events: int
    seconds: float
    cpu_s: float
    waited_s: float = 0.0
    cut: int = 0
    rate: dict[str, int | float] = {}


class Drained(msgspec.Struct, frozen=True, tag="drained"):
    """What was drained, and for how long after the order to end."""

    bytes: int
    reads: int
    cut: int
    cpu_s: float
    behind_s: float
    seconds: float


@dataclass
class Watched:
    """One watching subscriber and what it has heard."""

    socket: socket.socket
    carry: bytes = b""
    cut: bool = False

    def read(self) -> list[int]:
        """Return the numbers of the events that have arrived."""
        try:
            data = self.socket.recv(READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        if not data:
            self.cut = True
            return []
        data = self.carry + data
        found, end = [], 0
        for match in _NUMBER.finditer(data):
            found.append(int(match[1]))
            end = match.end()
        self.carry = data[max(end, len(data) - len(MARK) + 1) :]
        return found


def connect(url: str, channels: Sequence[str] = ()) -> socket.socket:
    """Return a socket that was let in, and is subscribed when channels are named.

    Raises
    ------
    BrokerError
        It was not let in, or what answers is no Redis.
    """
    pool = ConnectionPool.from_url(url, protocol=2, socket_timeout=PATIENCE_S, parser_class=GuardedParser)
    connection: Any = pool.make_connection()
    try:
        connection.connect()
        if channels:
            connection.send_command("SUBSCRIBE", *channels)
            for _ in channels:
                connection.read_response()
    except (redis.RedisError, OSError) as error:
        raise unreachable(parse_address(url), error) from None
    made: socket.socket = connection._sock
    connection._sock = None  # it is ours now
    made.setblocking(True)  # with a timeout MSG_DONTWAIT would wait; the parent bounds how long all of it may take
    return made


def connect_each(urls: Sequence[str], channels: Sequence[Sequence[str]]) -> list[socket.socket]:
    """Return a socket for each of these lists of channels, at each node in turn."""
    return [connect(urls[place % len(urls)], some) for place, some in enumerate(channels)]


def shared(fd: int) -> np.ndarray:
    """Return the bytes heard, shape (1,): one process writes it, the other reads it."""
    return np.frombuffer(mmap.mmap(fd, 8), dtype=np.int64)


# -- drain ---------------------------------------------------------------------------------------------------------


def drain(line: Line, plan: DrainOrder) -> None:
    """Drop what arrives until the parent speaks, then what is under way; report how much and what it cost."""
    sockets = {one.fileno(): one for one in connect_each(plan.urls, plan.subscribers)}
    epoll = select.epoll()
    for fd in (*sockets, line.socket.fileno()):
        epoll.register(fd, select.EPOLLIN)
    buffer = memoryview(bytearray(READ_BYTES))
    receive = {fd: one.recv_into for fd, one in sockets.items()}
    flags = socket.MSG_DONTWAIT | getattr(socket, "MSG_TRUNC", 0)
    heard = shared(plan.heard_fd)
    line.send(Prepared())
    reads = got = cut = 0
    ending = False
    begun_cpu, begun = time.process_time(), time.monotonic()
    last = begun
    while True:
        ready = epoll.poll(0.05 if ending else None)
        if ending and not ready:
            break
        for fd, _ in ready:
            if fd not in receive:
                line.receive(End, timeout_s=PATIENCE_S)
                ending = True
                asked = time.monotonic()
                epoll.unregister(fd)
                continue
            count = receive[fd](buffer, READ_BYTES, flags)
            if not count:  # the server cut it: it was too slow
                cut += 1
                epoll.unregister(fd)
            got += count
            reads += 1
        heard[0] = got
        last = time.monotonic()
    line.send(Drained(got, reads, cut, time.process_time() - begun_cpu, max(0.0, last - asked), last - begun))


# -- drive ---------------------------------------------------------------------------------------------------------


class Speaker:
    """The connections that publish, and the answers on them."""

    def __init__(self, plan: DriveOrder) -> None:
        self.plan = plan
        self.sockets = connect_each(plan.urls, [()] * plan.connections)
        self.epoll = select.epoll()
        self.of = {one.fileno(): one for one in self.sockets}
        for fd in self.of:
            self.epoll.register(fd, select.EPOLLIN)
        self.answered = dict.fromkeys(self.of, 0)
        self.pending: dict[int, bytes] = dict.fromkeys(self.of, b"")
        shares = np.array([kind.share for kind in plan.kinds], dtype=float)
        self.shares = shares / shares.sum()
        self.frames = [np.frombuffer(pack(b"PUBLISH", kind.channel.encode(), kind.payload), dtype=np.uint8) for kind in plan.kinds]
        self.at = [frame.tobytes().index(MARK) + len(MARK) - DIGITS for frame in self.frames]

    def copied_bytes(self) -> float:
        """Return what all subscribers read for one event, on average."""
        sizes = [message_size(b"message", kind.channel.encode(), kind.payload) * kind.receivers for kind in self.plan.kinds]
        return float(self.shares @ sizes)

    def check_receivers(self) -> None:
        """Publish one event of each kind, at each node, and demand that as many subscribers of all nodes hear it as should."""
        for kind, frame in zip(self.plan.kinds, self.frames, strict=True):
            answers = [_answer(one, frame.tobytes()) for one in self.sockets[: len(self.plan.urls)]]
            if not all(answer[:1] == b":" and answer[1:-2].isdigit() for answer in answers):
                sys.exit(f"the server answers PUBLISH with {in_short(answers)}")
            if (heard := sum(int(answer[1:]) for answer in answers)) != kind.receivers:
                sys.exit(f"{kind.channel} should be heard by {count(kind.receivers, 'subscriber')}, and is by {heard:,}")

    def read_answers(self, timeout_s: float) -> list[int]:
        """Read what has been answered; return the sockets that said something."""
        ready = self.epoll.poll(timeout_s)
        for fd, _ in ready:
            data = self.of[fd].recv(READ_BYTES, socket.MSG_DONTWAIT) or sys.exit("the server closed a publisher")
            if b"-" in data:
                sys.exit(f"the server refuses to publish: {data[:100]!r}")
            self.answered[fd] += data.count(b"\n")
        return [fd for fd, _ in ready]

    def bytes_of(self, kinds: np.ndarray, numbers: np.ndarray) -> bytes:
        """Return the PUBLISH commands of some events, grouped by kind, each with its number."""
        parts = []
        for kind, frame in enumerate(self.frames):
            mine = numbers[kinds == kind]
            if not len(mine):
                continue
            block = np.tile(frame, (len(mine), 1))
            block[:, self.at[kind] : self.at[kind] + DIGITS] = mine[:, None] // _POWERS % 10 + ord("0")
            parts.append(block.tobytes())
        return b"".join(parts)


def _answer(one: socket.socket, command: bytes) -> bytes:
    """Send a command and return the line that answers it."""
    one.sendall(command)
    got = b""
    while not got.endswith(b"\r\n"):
        got += one.recv(4096) or sys.exit("the server closed a publisher")
        if len(got) > MAX_LINE:
            sys.exit(f"the server answers with a line of more than {MAX_LINE:,} bytes")
    return got


def drive_full(line: Line, plan: DriveOrder) -> None:
    """Keep every connection full; count what was answered between warm-up and end."""
    speaker = Speaker(plan)
    speaker.check_receivers()
    mean_bytes = float(speaker.shares @ [len(frame) for frame in speaker.frames])
    each = max(1, int(FULL_BYTES / mean_bytes))
    rng = np.random.default_rng(plan.seed)
    kinds = [rng.choice(len(plan.kinds), size=each, p=speaker.shares) for _ in range(64)]
    chunks = [speaker.bytes_of(some, np.zeros(each, dtype=np.int64)) for some in kinds]
    line.send(Prepared())
    line.receive(Begin, timeout_s=None)
    turn = 0
    sent = dict.fromkeys(speaker.of, 0)
    for fd, one in speaker.of.items():
        for _ in range(2):
            one.sendall(chunks[turn % 64])
            sent[fd] += each
            turn += 1
    begun, told, base, busy, waited_s = time.monotonic(), False, 0, 0.0, 0.0
    heard, copied = shared(plan.heard_fd), speaker.copied_bytes()
    while True:
        late = time.monotonic()
        while copied * sum(speaker.answered.values()) - int(heard[0]) > AHEAD_BYTES * plan.subscribers:
            time.sleep(0.0005)
            if time.monotonic() - late > PATIENCE_S:
                sys.exit("the subscribers stand still")
        waited_s += (time.monotonic() - late) * told
        for fd in speaker.read_answers(PATIENCE_S) or sys.exit("the server does not answer"):
            while speaker.answered[fd] + each >= sent[fd]:
                speaker.of[fd].sendall(chunks[turn % 64])
                sent[fd] += each
                turn += 1
        now = time.monotonic()
        if not told and now - begun >= plan.warm_up_s:
            told, base, busy = True, sum(speaker.answered.values()), time.process_time()
            line.send(WindowBegan())
            began = time.monotonic()
        elif told and now - began >= plan.seconds:
            break
    events, cpu_s = sum(speaker.answered.values()) - base, time.process_time() - busy
    line.send(Drove(events, now - began, cpu_s, waited_s))


def drive_rate(line: Line, plan: DriveOrder) -> None:
    """Publish at intended times, and report the watchers' lag and the backlog."""
    speaker = Speaker(plan)
    watchers = [Watched(one) for one in connect_each(plan.urls, plan.watchers)]
    speaker.check_receivers()
    rng = np.random.default_rng(plan.seed)
    total_s = plan.warm_up_s + plan.seconds
    count = rng.poisson(plan.rate_per_s * total_s)
    due_s = np.sort(rng.random(count)) * total_s
    kinds = rng.choice(len(plan.kinds), size=count, p=speaker.shares).astype(np.uint8)
    line.send(Prepared())
    line.receive(Begin, timeout_s=None)
    for watcher in watchers:
        watcher.read()  # the event that `check_receivers` published
        watcher.carry = b""
    found = _Found(due_s, len(watchers))
    sent, told, begun = 0, False, time.monotonic()
    while True:
        now_s = time.monotonic() - begun
        upto = int(np.searchsorted(due_s, now_s, side="right"))
        if upto > sent:
            _send(speaker, kinds, sent, upto)
            found.sent(sent, upto, now_s)
            sent = upto
        if not told and now_s >= plan.warm_up_s:
            told, base, busy = True, sum(speaker.answered.values()), time.process_time()
            line.send(WindowBegan())
        speaker.read_answers(0)
        for place, watcher in enumerate(watchers):
            if numbers := watcher.read():
                found.heard(place, numbers, time.monotonic() - begun)
        found.look(time.monotonic() - begun, sum(speaker.answered.values()))
        if now_s >= total_s:
            break
        left_s = TICK_S - (time.monotonic() - begun - now_s)
        if left_s > 0:
            time.sleep(left_s)
    events, cpu_s = sum(speaker.answered.values()) - base, time.process_time() - busy
    line.send(WindowEnded())
    _drain_watchers(speaker, watchers, found, sent, begun)
    cut = sum(watcher.cut for watcher in watchers)
    line.send(Drove(events, now_s - plan.warm_up_s, cpu_s, cut=cut, rate=found.summary(plan.warm_up_s, sent)))


def _send(speaker: Speaker, kinds: np.ndarray, begin: int, end: int) -> None:
    parts = min(len(speaker.sockets), end - begin)
    for n, numbers in enumerate(np.array_split(np.arange(begin, end), parts)):
        data = speaker.bytes_of(kinds[numbers[0] : numbers[-1] + 1], numbers)
        speaker.sockets[(begin + n) % len(speaker.sockets)].sendall(data)


def _drain_watchers(speaker: Speaker, watchers: Sequence[Watched], found: _Found, sent: int, begun: float) -> None:
    """Wait until everything that was sent is answered and heard, for the lag of the last ones."""
    quiet = time.monotonic()
    while time.monotonic() - quiet < 0.3:
        if speaker.read_answers(0.002):
            quiet = time.monotonic()
        for place, watcher in enumerate(watchers):
            if numbers := watcher.read():
                quiet = time.monotonic()
                found.heard(place, numbers, quiet - begun)


class _Found:
    """The lag, lateness and backlog of a drive at a rate."""

    def __init__(self, due_s: np.ndarray, watchers: int) -> None:
        self.due_s = due_s
        self.heard_s = np.full((watchers, len(due_s)), np.nan)
        self.sent_s = np.full(len(due_s), np.nan)
        self.backlog: list[tuple[float, int]] = []

    def sent(self, begin: int, end: int, now_s: float) -> None:
        self.sent_s[begin:end] = now_s

    def heard(self, place: int, numbers: list[int], now_s: float) -> None:
        self.heard_s[place, numbers] = now_s

    def look(self, now_s: float, answered: int) -> None:
        self.backlog.append((now_s, int(np.searchsorted(self.due_s, now_s)) - answered))

    def summary(self, from_s: float, sent: int) -> dict[str, int | float]:
        judged = (self.due_s >= from_s) & (np.arange(len(self.due_s)) < sent)
        lag_s = (self.heard_s - self.due_s)[:, judged]
        lag_s = lag_s[~np.isnan(lag_s)]
        late_s = (self.sent_s - self.due_s)[judged]
        at_s, behind = np.array(self.backlog).T
        half = at_s >= (from_s + at_s[-1]) / 2
        slope = float(np.polyfit(at_s[half], behind[half], 1)[0]) if half.sum() > 2 else 0.0
        return {
            "meant": int(judged.sum()),
            "heard": len(lag_s),
            "lag_ms_p50": _ms(lag_s, 0.5),
            "lag_ms_p99": _ms(lag_s, 0.99),
            "late_ms_p99": _ms(late_s, 0.99),
            "backlog_per_s": slope,
            "backlog_max": int(behind.max()),
        }


def _ms(values_s: np.ndarray, rank: float) -> float:
    """Return a quantile in milliseconds, 0 of nothing: how many were heard stands beside it."""
    return float(np.quantile(values_s, rank)) * 1e3 if len(values_s) else 0.0


def main() -> None:
    """Drain or drive, as the order says."""
    line = inherited_line(name="the command")
    for plan in line.messages(DriveOrder | DrainOrder):
        try:
            if isinstance(plan, DrainOrder):
                drain(line, plan)
            else:
                (drive_rate if plan.rate_per_s else drive_full)(line, plan)
        except BrokerError as error:
            sys.exit(str(error))
        os._exit(0)  # nothing is left to tidy, and thousands of sockets close faster this way


if __name__ == "__main__":
    main()
