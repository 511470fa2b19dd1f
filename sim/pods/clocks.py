"""Compare the clocks of processes that do not read the run's: before, during and after, each in a thread beside the event loop.

Rules
-----
1. Which clock a process reads is its `clock_identity`. One that reads the run's is compared with nothing, and has no thread, no port and no
   row: between processes of one clock times are exact.
2. A process that reads another one listens with an echo (`sim.machine.echo`) at an address that the run gives it, and says where. The run
   asks it: a burst of `BURST` trips when it comes, one of `SMALL_BURST` every `PERIOD_S`, a burst at the end. A process that cannot be
   reached so is asked through the broker (`sim.wire.mirror`); which way it was is kept in the table `clocks`.
3. Until its clock is known a process gets no order with a time in it (`Clocks.known`); then such times are put into its clock.
4. Processes of one clock share one line through all their points.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from sim.errors import BrokerError, HostError
from sim.machine.clock import clock_identity
from sim.machine.clock_line import ClockLine, Knot, Trip, fastest, fit_line, line_of
from sim.machine.echo import Echo, EchoClient
from sim.machine.words import duration
from sim.record.recorder import Recorder
from sim.record.schema import NOT_COMPARED_NS
from sim.wire.address import Address
from sim.wire.mirror import Mirror, MirrorClient

BURST, SMALL_BURST = 300, 20
BURST_S = 1.0  # no burst takes longer, if it has one trip
PERIOD_S = 1.0
REACH_TIMEOUT_S = 3.0
KNOWN_TIMEOUT_S = 20.0
END_TIMEOUT_S = 5.0


class OtherClock(msgspec.Struct, frozen=True, tag="other-clock"):
    """The news that a process reads another clock than the run, and where its echo is."""

    host: str
    clock: str
    address: str
    port: int
    token: str


class MirrorClock(msgspec.Struct, frozen=True, tag="mirror-clock"):
    """The order to answer on this channel at the broker with the own clock: the echo cannot be reached."""

    channel: str


class Answering:
    """What a process has that reads another clock than the run's: its echo, and a mirror if it was asked for one."""

    def __init__(self, host: str, *, at: str, now: Callable[[], int] = time.monotonic_ns) -> None:
        self._now = now
        self._echo = Echo.open(at, now=now)
        self._mirror: Mirror | None = None
        self.says = OtherClock(host, clock_identity(), at, self._echo.port, self._echo.token)

    def mirror(self, address: Address, order: MirrorClock) -> None:
        """Answer at the broker from now on."""
        self._mirror = self._mirror or Mirror(address, order.channel, now=self._now)

    def close(self) -> None:
        """Answer no more; may be called twice."""
        self._echo.close()
        if self._mirror is not None:
            self._mirror.close()


def answering(host: str, *, runs_clock: str, at: str) -> Answering | None:
    """Return what answers for the clock of this process, None where it reads the run's.

    Raises
    ------
    HostError
        The address to listen at is not this machine's.
    """
    if not runs_clock or runs_clock == clock_identity():
        return None
    try:
        return Answering(host, at=at)
    except OSError as error:
        raise HostError(f"the echo of {host} cannot listen at {at}: {error.strerror or error}") from None


class _Asked(Protocol):
    def trip(self) -> Trip: ...

    def close(self) -> None: ...


@dataclass
class _Compared:
    """One process that is compared: its points so far, and what its thread looks at."""

    other: OtherClock
    mirror: Callable[[MirrorClock], None]
    known: asyncio.Future[None]
    ending: threading.Event = field(default_factory=threading.Event)
    gone: bool = False
    way: str = "echo"
    channel: str = ""  # of the mirror
    points: list[Trip] = field(default_factory=list)
    thread: threading.Thread | None = None


class Clocks:
    """The comparisons of one run; for its event loop.

    Attributes
    ----------
    identity
        That of the run's own clock, to be told to every process; empty in virtual time.
    """

    def __init__(self, address: Address, *, run_id: str, virtual: bool = False) -> None:
        self.identity = "" if virtual else clock_identity()
        self._address, self._run_id = address, run_id
        self._compared: dict[str, _Compared] = {}

    @property
    def differ(self) -> bool:
        """Whether some process reads another clock than the run."""
        return bool(self._compared)

    def compare(self, other: OtherClock, *, mirror: Callable[[MirrorClock], None]) -> None:
        """Begin to compare a process.

        Parameters
        ----------
        mirror
            Sends the process the order to answer at the broker, where its echo cannot be reached; called on the event loop.
        """
        loop = asyncio.get_running_loop()
        one = self._compared[other.host] = _Compared(other, mirror, loop.create_future())
        one.thread = threading.Thread(target=self._keep_comparing, args=(one, loop), name=f"clock of {other.host}", daemon=True)
        one.thread.start()

    async def known(self, host: str) -> None:
        """Return when the clock of a process is known: at once where it is the run's.

        Raises
        ------
        HostError
            It can be reached neither directly nor through the broker.
        """
        if (one := self._compared.get(host)) is not None:
            try:
                async with asyncio.timeout(KNOWN_TIMEOUT_S):
                    await asyncio.shield(one.known)
            except TimeoutError:
                raise HostError(f"the clock of {host} was not known within {duration(KNOWN_TIMEOUT_S)}") from None

    def theirs(self, host: str, at_ns: int) -> int:
        """Return a time of the run in the clock of a process, as far as that is known by now."""
        one = self._compared.get(host)
        return at_ns if one is None or not one.points else line_of(fit_line(one.points[-60:])).to_theirs(at_ns)

    def left(self, host: str) -> None:
        """Ask a process no more: it is gone."""
        if (one := self._compared.get(host)) is not None:
            one.gone = True
            one.ending.set()

    async def finish(self) -> None:
        """Ask every process one last time, and end the threads; may be called twice."""
        for one in self._compared.values():
            one.ending.set()
        if self._compared:
            await asyncio.to_thread(self._join)

    def _join(self) -> None:
        deadline_s = time.monotonic() + END_TIMEOUT_S
        for one in self._compared.values():
            if one.thread is not None:
                one.thread.join(max(0.0, deadline_s - time.monotonic()))

    # -- in the thread -----------------------------------------------------------------------------------------

    def _keep_comparing(self, one: _Compared, loop: asyncio.AbstractEventLoop) -> None:
        asked: _Asked | None = None
        try:
            asked = self._reach(one, loop)
        except (OSError, BrokerError) as error:
            other = one.other
            why = f"the clock of {other.host} cannot be compared with the run's: no echo at {other.address}:{other.port}, and {error}"
            _on(loop, _fail, one.known, HostError(why))
            return
        many = BURST
        while True:
            try:
                asked = asked or self._again(one)
                one.points.append(_burst(asked, many))
            except (OSError, BrokerError):  # it stands still, is gone, or the network is: the line goes on over the gap
                if asked is not None:
                    asked.close()
                asked = None
            if one.points:
                _on(loop, _succeed, one.known)
            if many == BURST and one.ending.is_set():
                break
            many = BURST if one.ending.wait(PERIOD_S) else SMALL_BURST
            if one.gone:
                break
        if asked is not None:
            asked.close()

    def _reach(self, one: _Compared, loop: asyncio.AbstractEventLoop) -> _Asked:
        """Return a way to ask, directly or else through the broker."""
        other = one.other
        try:
            return EchoClient(other.address, other.port, token=other.token, timeout_s=REACH_TIMEOUT_S)
        except OSError:
            one.way = "broker"
        order = MirrorClock(f"buslab-{self._run_id}-clock-{secrets.token_hex(8)}")
        one.channel = order.channel
        _on(loop, one.mirror, order)
        return MirrorClient(self._address, order.channel, timeout_s=REACH_TIMEOUT_S)

    def _again(self, one: _Compared) -> _Asked:
        if one.way == "echo":
            return EchoClient(one.other.address, one.other.port, token=one.other.token, timeout_s=REACH_TIMEOUT_S)
        return MirrorClient(self._address, one.channel, timeout_s=REACH_TIMEOUT_S)

    # -- what was found ----------------------------------------------------------------------------------------

    def lines(self) -> dict[str, ClockLine | None]:
        """Return the line of each process, None of one whose clock could not be compared."""
        points: dict[str, list[Trip]] = {}
        for one in self._compared.values():
            points.setdefault(one.other.clock, []).extend(one.points)
        fitted = {clock: line_of(knots) if (knots := fit_line(trips)) else None for clock, trips in points.items()}
        return {host: fitted[one.other.clock] for host, one in self._compared.items()}

    def write(self, recorder: Recorder) -> None:
        """Write the table `clocks`; nothing where all processes read the run's."""
        for host, line in self.lines().items():
            one = self._compared[host]
            knots = line.knots if line is not None else (Knot(0, 0, 0.0, 0, 0, NOT_COMPARED_NS),)
            for knot in knots:
                recorder.tables["clocks"].add(host, one.other.clock, one.way, *knot)

    @property
    def notes(self) -> list[str]:
        """A sentence for each clock that is not the run's: how it was compared, and how exact times are between it and the run."""
        told: dict[str, str] = {}
        for host, line in self.lines().items():
            one = self._compared[host]
            others = [name for name, more in self._compared.items() if more.other.clock == one.other.clock]
            who = f"{host}{f' and {len(others) - 1} more' if others[1:] else ''}"
            way = "through the broker" if any(self._compared[name].way == "broker" for name in others) else "directly"
            sure = "with nothing: no times of it can be judged" if line is None else f"{way}: its times are exact to {_told(line)}"
            told.setdefault(one.other.clock, f"the clock of {who} is not the run's; it was compared {sure}")
        return list(told.values())


def _told(line: ClockLine) -> str:
    return f"{duration(line.bound_ns / 1e9)}, its rate to {abs(line.knots[-1].drift_ppm):.3g} ppm of the run's"


def _burst(asked: _Asked, many: int) -> Trip:
    """Return the fastest of so many trips, of fewer where they are slow."""
    deadline_s = time.monotonic() + BURST_S
    trips = [asked.trip()]
    while len(trips) < many and time.monotonic() < deadline_s:
        trips.append(asked.trip())
    return fastest(trips)


def _on(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *args: object) -> None:
    """Call something on the event loop, if that still runs."""
    try:
        loop.call_soon_threadsafe(call, *args)
    except RuntimeError:  # it is closed: the run is over
        return


def _succeed(known: asyncio.Future[None]) -> None:
    if not known.done():
        known.set_result(None)


def _fail(known: asyncio.Future[None], error: HostError) -> None:
    if not known.done():
        known.set_exception(error)
        known.exception()  # read here, so that asyncio does not warn when nobody else reads it
