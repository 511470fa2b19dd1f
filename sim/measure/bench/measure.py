"""One measurement: start a client and a publisher, let them run, account for every copy, end both."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sim.errors import BuslabError
from sim.grounds.embedded import EmbeddedBroker
from sim.machine.line import Line, start_child, start_program
from sim.machine.words import count
from sim.measure.bench.children import CHANNEL, PATIENCE_S, RAW, C, Expect, Heard, PublishedInAll, events
from sim.measure.child_messages import Begin, Prepared
from sim.wire.address import Address
from sim.wire.resp import encode, message_size, pack

ACKNOWLEDGING = 10  # so many subscribers tell the publisher what they heard; the others are nearly as far
START_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class ClientRound:
    """What one client did in one round; `reads` is 0 where it is not known."""

    client: str
    depth: int
    delivered: int
    seconds: float
    cpu_ns: int
    reads: int

    @property
    def rate(self) -> float:
        """Deliveries per second."""
        return self.delivered / self.seconds

    @property
    def cpu_each_ns(self) -> float:
        """Processor time of the client per delivery."""
        return self.cpu_ns / self.delivered


def compile_drain(folder: Path) -> tuple[Path | None, str]:
    """Compile the C program; return its path, or None and a sentence that says why there is none."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None, f"{C} is left out: there is no C compiler (cc) on PATH."
    binary = folder / "bench_drain"
    source = Path(__file__).parent / "drain.c"
    done = subprocess.run([compiler, "-O2", "-o", str(binary), str(source)], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        return None, f"{C} is left out: cc failed: {(done.stderr.strip().splitlines() or ['it printed nothing'])[-1]}"
    return binary, ""


@dataclass(frozen=True)
class Setting:
    """What all measurements of one bench share."""

    broker: EmbeddedBroker
    folder: Path
    drain: Path | None
    pods: int
    seconds: float
    event_bytes: int
    cores: list[int]

    def measure(self, client: str, depth: int) -> ClientRound:
        """Run one client and one publisher, and account for every copy."""
        with contextlib.ExitStack() as stack:
            heard, said = os.pipe()
            pipe_ends = stack.enter_context(contextlib.ExitStack())
            for fd in (heard, said):
                pipe_ends.callback(os.close, fd)
            listener = stack.enter_context(self._start_client(client, depth, said))
            speaker = stack.enter_context(self._start("publisher", [heard], depth, self.event_bytes, self.pods, self.seconds, core=0))
            pipe_ends.close()
            for line in (listener, speaker):
                line.receive(Prepared, timeout_s=START_TIMEOUT_S)
            speaker.send(Begin())
            try:
                published = speaker.receive(PublishedInAll, timeout_s=self.seconds + PATIENCE_S)
            except BuslabError:
                if listener.child.poll() is not None:
                    raise listener.gone() from None  # with what the client said, as that is why the publisher failed
                raise
            copies = published.count * self.pods
            unit = frame_bytes(self.event_bytes) if client in (C, RAW) else 1
            listener.send(Expect(copies * unit))
            heard_in_all = listener.receive(Heard, timeout_s=2 * PATIENCE_S)
        if (got := heard_in_all.count) != copies * unit:
            what = (
                f"{count(published.count, 'event')} x {count(self.pods, 'subscriber')} were published, {count(got / unit, 'copy')} received"
            )
            raise BuslabError(f"{client}: {what}")
        return ClientRound(client, depth, copies, published.took_ns / 1e9, heard_in_all.cpu_ns, heard_in_all.reads)

    @contextlib.contextmanager
    def _start_client(self, client: str, depth: int, said: int) -> Iterator[Line]:
        watched = min(ACKNOWLEDGING, self.pods)
        if client not in (C, RAW):
            with self._start(client, [said], watched, watched * depth, self.pods, str(self.folder), core=1) as line:
                yield line
            return
        sockets = subscribed_sockets(self.broker.address, self.pods)
        bytes_per_ack = watched * depth * frame_bytes(self.event_bytes)
        try:
            fds = [one.fileno() for one in sockets]
            starting = self._start(client, [said], bytes_per_ack, watched, *fds, core=1, more_fds=fds)
            with starting as line:
                yield line
        finally:
            for one in sockets:
                one.close()

    @contextlib.contextmanager
    def _start(self, kind: str, fds: list[int], *words: object, core: int, more_fds: Sequence[int] = ()) -> Iterator[Line]:
        """Start a child that is told by arguments what to do, and end it in any case."""
        name, log, args = f"the bench's {kind}", self.folder / f"{kind}.log", [str(word) for word in (*fds, *words)]
        if kind == C:
            line = start_program([str(self.drain), *args], name=name, log=log, pass_fds=(*fds, *more_fds))
        else:
            port = self.broker.address.port
            line = start_child("sim.measure.bench", kind, port, *args, name=name, log=log, pass_fds=(*fds, *more_fds))
        try:
            if self.cores:
                os.sched_setaffinity(line.child.pid, {self.cores[core]})
            yield line
        finally:
            line.close()
            line.child.end(timeout_s=1.0)


def frame_bytes(event_bytes: int) -> int:
    """Return how many bytes a subscriber reads for one event."""
    return message_size(b"message", CHANNEL, next(events(event_bytes)).payload)


def subscribed_sockets(address: Address, count: int) -> list[socket.socket]:
    """Return sockets that have nothing to read but messages."""
    confirmation = encode([b"subscribe", CHANNEL, 1])
    sockets = []
    for _ in range(count):
        one = socket.create_connection((address.host, address.port), timeout=PATIENCE_S)
        sockets.append(one)
        one.sendall(pack(b"SUBSCRIBE", CHANNEL))
        got = b""
        while len(got) < len(confirmation):
            got += one.recv(len(confirmation) - len(got)) or b"?" * len(confirmation)
        if got != confirmation:
            raise BuslabError(f"the bench cannot subscribe: {got[:80]!r}")
    return sockets
