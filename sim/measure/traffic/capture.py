"""Capture what passes on a server's channels: hear it as one subscriber more, and keep times, channels, sizes and hashes in a file.

Rules
-----
1. One PSUBSCRIBE, or a subscription of channels that are named; in a cluster the shards of named channels are heard from their masters.
2. Everything is bounded: the time, the events, the bytes of payloads, the channels, and what may wait in the server (`.watch`).
3. A payload is kept only of a channel that was named for it; of any other its size and a hash.
4. However it ends, what was heard is kept, and the file says how it ended. Only a file that cannot be written is lost.
5. The probes of this lab are no traffic and are left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from sim.bus.envelopes import AIPONGE
from sim.bus.envelopes.cloudevents import CloudEvents
from sim.bus.envelopes.raw import PROBE_MARK
from sim.errors import BrokerError, CaptureError, Interrupted, UsageError, did_you_mean
from sim.machine.clock import NS_PER_S, in_a_loop, new_event_loop, now_ns, utc_now
from sim.machine.files import made_folders
from sim.machine.signals import interruptible
from sim.machine.words import count, duration, listed
from sim.measure.traffic.watch import MIB, Watch
from sim.record.capture_file import FORMAT, NAME, CaptureInfo, CaptureWriter, writing_capture
from sim.run.folder import empty_folder, point_latest_to, reports_folder
from sim.wire.address import Address, parse_address
from sim.wire.command_client import CommandClient
from sim.wire.listening import ChannelListener, Messages, open_listener
from sim.wire.slots import find_owners

MAX_S = 86_400.0
MAX_EVENTS = 5_000_000
MAX_MB = 1000
BUFFER_MB = 1.0
MAX_CHANNELS = 20_000
LOOKED_AT = 20  # events of each channel, for their form
SHOWN_CHANNELS = 5
AS_MEANT = ("time", "events", "bytes")  # ends that were asked for
_PATTERN = re.compile(r"[*?\[\]\\]")
_PROBE = re.compile(rb'"buslab".*\{"round": ?\d+\}', re.DOTALL)
_CLOUD = CloudEvents()


@dataclass(frozen=True)
class Wanted:
    """What is to be captured.

    Attributes
    ----------
    command, names
        One of `sim.wire.listening.LISTENING`, and its pattern or channels.
    for_s
        How long.
    payloads
        The channels whose payloads are kept.
    max_events, max_bytes
        After so many events, or bytes of payloads that are kept, it ends.
    buffer_bytes
        When more than that waits in the server for us, it ends.
    """

    command: str
    names: tuple[str, ...]
    for_s: float
    payloads: frozenset[bytes] = frozenset()
    max_events: int = MAX_EVENTS
    max_bytes: int = MAX_MB * MIB
    buffer_bytes: int = round(BUFFER_MB * MIB)


@dataclass(frozen=True)
class Captured:
    """A capture that was made.

    Attributes
    ----------
    folder
        Where its file is, as `sim.record.capture_file.NAME`.
    signal_number
        Of the signal that ended it, else None.
    """

    folder: Path
    info: CaptureInfo
    signal_number: int | None = None

    @property
    def file(self) -> Path:
        """The file of the capture."""
        return self.folder / NAME


def wanted_of(
    *,
    pattern: str = "",
    channels: Sequence[str] = (),
    sharded: bool = False,
    for_s: float = 60.0,
    payloads: Sequence[str] = (),
    max_events: int = MAX_EVENTS,
    max_mb: float = MAX_MB,
    buffer_mb: float = BUFFER_MB,
) -> Wanted:
    """Return what is to be captured, checked.

    Parameters
    ----------
    pattern, channels
        What to hear: a pattern of PSUBSCRIBE, or the whole names of channels; one of the two.
    sharded
        Whether the named channels are those of sharded Pub/Sub.
    payloads
        Whole names of channels whose payloads are kept; `*` alone: of every one of `channels`.

    Raises
    ------
    UsageError
        Neither a pattern nor channels, or both; payloads of channels that were not named.
    """
    if bool(pattern) == bool(channels):
        said = "give one of them" if pattern else "give --pattern, such as 'shop:*', or --channel NAME"
        raise UsageError(f"what is to be captured? A capture hears one pattern, or channels that are named: {said}")
    if sharded and pattern:
        raise UsageError(f"--pattern {pattern!r} and --sharded: sharded Pub/Sub knows no patterns; name its channels with --channel NAME")
    for name in (pattern,) if pattern else channels:
        _check_text(name)
    if not 0 < for_s <= MAX_S:
        raise UsageError(f"--for {for_s:g} s: a capture lasts more than 0 s, and {duration(MAX_S)} at most")
    kept = tuple(channels) if "*" in payloads and channels else tuple(payloads)
    for name in kept:
        _check_text(name)
        if _PATTERN.search(name) and name not in channels:
            raise UsageError(
                f"--payloads {name}: payloads may hold anything, so they are kept only of channels that are named, each by its whole name"
            )
        if channels and name not in channels:
            raise UsageError(f"--payloads {name}: it is not captured{did_you_mean(name, channels)}; name it with --channel too")
    return Wanted(
        command="PSUBSCRIBE" if pattern else "SSUBSCRIBE" if sharded else "SUBSCRIBE",
        names=(pattern,) if pattern else tuple(dict.fromkeys(channels)),
        for_s=for_s,
        payloads=frozenset(name.encode() for name in kept),
        max_events=max_events,
        max_bytes=round(max_mb * MIB),
        buffer_bytes=round(buffer_mb * MIB),
    )


def _check_text(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name!r}: a channel's name or pattern is text in UTF-8") from None
    if not name:
        raise UsageError("a channel's name is empty: give its whole name, such as shop:order.created")


def capture_traffic(url: str, wanted: Wanted, *, out: Path | None = None, tell: Callable[[str], None] = lambda line: None) -> Captured:
    """Hear a server's channels for a while and keep what was heard.

    Parameters
    ----------
    url
        Of the server, as ``redis://HOST:PORT``; several of a cluster's nodes with blanks between them.
    out
        The folder to make; by default ``reports/captures/<UTC time>``.
    tell
        Called with lines about what goes on.

    Returns
    -------
    Captured
        Its info says how it ended: by a signal, too.

    Raises
    ------
    UsageError, BrokerError
        The URL is none, the folder is not empty, or the server cannot be reached or does not let us listen.
    CaptureError
        Nothing was heard, or the file could not be written.
    Interrupted
        A signal came before anything was heard.
    """
    address = parse_address(url)
    folder = empty_folder(out or reports_folder() / "captures" / utc_now().strftime("%Y%m%dT%H%M%S.%fZ"))
    one = _Hearing(address, wanted, tell)
    try:
        with made_folders(folder):
            info = one.run_here(folder) if not in_a_loop() else _aside(one, folder)
    except OSError as error:
        raise CaptureError(f"cannot make the folder {folder}: {error.strerror or error}; choose another --out") from None
    if out is None:
        with contextlib.suppress(OSError):
            point_latest_to(folder)
    return Captured(folder, info, one.signal_number)


def _aside(one: _Hearing, folder: Path) -> CaptureInfo:
    """Capture in a thread of its own: in this one an event loop runs already."""
    with ThreadPoolExecutor(1, thread_name_prefix="capture") as pool:
        running = pool.submit(one.run_here, folder)
        try:
            return running.result()
        except KeyboardInterrupt:
            one.interrupt(signal.SIGINT)
            return running.result()


@dataclass
class _Forms:
    """The forms of the first events of each channel."""

    looked: dict[bytes, int] = field(default_factory=dict)
    found: dict[str, int] = field(default_factory=dict)

    def look(self, channel: bytes, payload: bytes) -> None:
        many = self.looked.get(channel, 0)
        if many < LOOKED_AT:
            self.looked[channel] = many + 1
            form = (
                "aiponge" if AIPONGE.decode_read([payload]).events else "cloudevents" if _CLOUD.decode_read([payload]).events else "other"
            )
            self.found[form] = self.found.get(form, 0) + 1


class _Hearing:
    """One capture while it goes on."""

    def __init__(self, address: Address, wanted: Wanted, tell: Callable[[str], None]) -> None:
        self.signal_number: int | None = None
        self._address, self._wanted, self._tell = address, wanted, tell
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Future[tuple[str, str]] | None = None
        self._writer: CaptureWriter | None = None
        self._forms = _Forms()
        self._probes = 0
        self._zero_ns = self._last_ns = 0
        self._watches: list[Watch] = []
        self._failure: Exception | None = None

    def run_here(self, folder: Path) -> CaptureInfo:
        """Capture on an event loop in this thread; the folder is there."""
        with interruptible(self.interrupt), writing_capture(folder / NAME) as writer:
            self._writer = writer
            started_at = utc_now().isoformat(timespec="milliseconds")
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                self._loop = runner.get_loop()
                ended, reason = runner.run(self._listen())
            if self._failure is not None:
                raise self._failure
            seconds = (now_ns() if ended != "time" else self._zero_ns + round(self._wanted.for_s * NS_PER_S)) - self._zero_ns
            info = self._info(ended, reason, started_at, seconds / NS_PER_S)
            if not writer.events:
                raise self._nothing(info)
            writer.finish(info)
            return info

    def interrupt(self, number: int) -> None:
        """End now; may be called from another thread or a signal handler."""
        self.signal_number = number
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._over, "interrupted", f"interrupted by {signal.Signals(number).name}")

    def _over(self, ended: str, reason: str) -> None:
        if self._end is not None and not self._end.done():
            self._end.set_result((ended, reason))

    async def _listen(self) -> tuple[str, str]:
        self._end = asyncio.get_running_loop().create_future()
        if self.signal_number is not None:
            return "interrupted", "interrupted before it began"
        name = f"buslab-capture-{utc_now():%H%M%S%f}"
        opened: list[ChannelListener] = []
        tasks: list[asyncio.Task[None]] = []
        self._zero_ns = self._last_ns = now_ns()
        try:
            for node, names in await self._nodes(name):
                listener = await open_listener(node, self._wanted.command, names, client_name=name, heard=self._heard)
                opened.append(listener)
                listener.on_lost(partial(self._lost, node))
                self._watches.append(Watch(node, listener, name=f"{name}-watch", limit_bytes=self._wanted.buffer_bytes))
            tasks += [asyncio.get_running_loop().create_task(self._watch(one)) for one in self._watches]
            self._tell(f"listening to {listed(list(self._wanted.names))} for {duration(self._wanted.for_s)}; Ctrl-C keeps what was heard")
            left_s = self._wanted.for_s - (now_ns() - self._zero_ns) / NS_PER_S
            await asyncio.wait([self._end], timeout=max(0.0, left_s))
            ended = self._end.result() if self._end.done() else ("time", "")
        finally:
            for listener in opened:
                listener.abort()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(one.look_at_cpu() for one in self._watches))
        if ended[0] == "time" and not self._total():
            self._there = await self._channels_there(name)
        for watch in self._watches:
            watch.close()
        return ended

    def _lost(self, node: Address, reason: str) -> None:
        self._over("server", f"{node} ended the connection: {reason}")

    async def _nodes(self, name: str) -> list[tuple[Address, list[str]]]:
        """Return whom to listen to, and which names are heard there."""
        if self._wanted.command != "SSUBSCRIBE":
            return [(self._address, list(self._wanted.names))]
        return (await find_owners(self._address, client_name=name)).grouped(self._wanted.names)

    async def _watch(self, watch: Watch) -> None:
        self._over("buffer", f"it was a burden to the server: {await watch.until_too_much()}")

    def _heard(self, messages: Messages, received_ns: int) -> None:
        writer, wanted = self._writer, self._wanted
        assert writer is not None
        if self._end is None or self._end.done():
            return
        self._last_ns = max(self._last_ns, received_ns)  # of several connections
        at_ns, known, keep = self._last_ns - self._zero_ns, writer.channels, wanted.payloads
        try:
            for channel, payload in messages:
                if b"buslab" in payload and (payload.startswith(PROBE_MARK) or _PROBE.search(payload)):
                    self._probes += 1
                    continue
                if channel not in known and len(known) >= MAX_CHANNELS:
                    return self._over("channels", f"there are more than {MAX_CHANNELS:,} channels: narrow the pattern")
                self._forms.look(channel, payload)
                writer.add(at_ns, channel, payload, keep=channel in keep)
                if writer.events >= wanted.max_events:
                    return self._over("events", f"{count(writer.events, 'event')} are enough, as --max-events says")
                if writer.payload_bytes >= wanted.max_bytes:
                    return self._over("bytes", f"{writer.payload_bytes / MIB:,.1f} MiB of payloads are enough, as --max-mb says")
        except CaptureError as error:
            self._failure = error
            self._over("server", str(error))

    def _total(self) -> int:
        return 0 if self._writer is None else self._writer.events

    def _info(self, ended: str, reason: str, started_at: str, seconds: float) -> CaptureInfo:
        buffers = [one.buffer_bytes_max for one in self._watches if one.buffer_bytes_max is not None]
        shares = [one.cpu_share for one in self._watches if one.cpu_share is not None]
        assert self._writer is not None
        return CaptureInfo(
            format=FORMAT,
            server=" ".join(map(str, self._address.nodes)),
            heard_by=self._wanted.command,
            names=self._wanted.names,
            started_at=started_at,
            seconds=seconds,
            wanted_s=self._wanted.for_s,
            ended=ended,
            reason=reason,
            events=self._writer.events,
            probes=self._probes,
            forms=dict(sorted(self._forms.found.items())),
            with_payload=tuple(sorted(name.decode() for name in self._wanted.payloads if name in self._writer.channels)),
            buffer_bytes_max=max(buffers, default=None),
            cpu_share=max(shares, default=None),
        )

    _there: tuple[str, ...] = ()

    async def _channels_there(self, name: str) -> tuple[str, ...]:
        """Return some channels that somebody hears on the server; none where it does not tell."""
        client = CommandClient(self._address, name=f"{name}-watch")
        try:
            said = await client.ask("PUBSUB", "SHARDCHANNELS" if self._wanted.command == "SSUBSCRIBE" else "CHANNELS")
        except BrokerError:
            return ()
        finally:
            client.close()
        found = sorted(one.decode("utf-8", "backslashreplace") for one in said if isinstance(one, bytes)) if isinstance(said, list) else []
        return tuple(one for one in found if one not in self._wanted.names)

    def _nothing(self, info: CaptureInfo) -> Exception:
        """Return the error of a capture that heard nothing."""
        names = listed([repr(name) for name in info.names])
        if info.ended == "interrupted" and self.signal_number is not None:
            return Interrupted(self.signal_number, f"{info.reason}: nothing was heard on {names} until then, and nothing is kept")
        if info.ended != "time":
            return CaptureError(f"{info.reason}; nothing was heard on {names} until then, and nothing is kept")
        hint = f"somebody hears {listed(list(self._there[:SHOWN_CHANNELS]))} there" if self._there else "nobody hears another channel there"
        hint += f" and {len(self._there) - SHOWN_CHANNELS:,} more" if len(self._there) > SHOWN_CHANNELS else ""
        probes = f" but {count(self._probes, 'probe')} of this lab" if self._probes else ""
        return CaptureError(
            f"nothing{probes} was published on {names} at {info.server} within {duration(info.wanted_s)}: {hint}; "
            "give another pattern, or a longer --for"
        )
