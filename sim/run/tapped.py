"""Keep the books of programs that are not ours, on their way to a server that may be anybody's: a tap, until it is told to end.

Steps
-----
1. Check where it may listen, and ask the server for the nodes of its cluster, if it is in one: each gets a tap.
2. Make the folder: run.json says that it is going on, so a tap that is killed leaves what it had written, marked as such.
3. Listen, and record until the time is over or a signal ends it; then seal the folder as that of a run.

The folder opens with `sim.open_run`: publishes, deliveries, who was subscribed when, and a line for each connection.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import signal
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from sim.bus.event_rule import EventRule
from sim.errors import BrokerError, Interrupted, RecordError, UsageError
from sim.grounds.proxy import Ends
from sim.grounds.tap import open_taps, tap_name
from sim.grounds.tap_plan import TAP, Door, TapPlan
from sim.grounds.tap_record import CONNECTIONS, TapRecorder
from sim.machine.clock import new_event_loop, now_ns, utc_now, wall_offset_ns
from sim.machine.facts import environment
from sim.machine.signals import interruptible
from sim.machine.words import count
from sim.record.checksum import file_checksum
from sim.record.recorder import seal_tables, write_json
from sim.record.run_info import LoadInfo, Phase, RunInfo
from sim.record.schema import FORMAT
from sim.run.folder import empty_folder, reports_folder, write_info
from sim.wire.address import Address, parse_address
from sim.wire.connection import open_wire

LOOK_S = 0.25
LOOK_FOR_CLUSTER_S = 2.0
TELL_EVERY = 40  # looks
NAME = "tap"


@dataclass(frozen=True)
class Listen:
    """Where a tap listens, and with which certificate (PEM files); without one, without TLS."""

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None


def parse_listen(text: str, *, exposed: bool, certificate: Path | None = None, key: Path | None = None) -> Listen:
    """Return what HOST:PORT means.

    Raises
    ------
    UsageError
        It is none, or an address that others reach and `exposed` does not say so.
    """
    host, colon, port = text.rpartition(":")
    host = host.strip("[]")
    if not colon or not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65_535 or not host:
        raise UsageError(f"--listen {text!r}: write HOST:PORT, as 127.0.0.1:6390; port 0 is any free one")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise UsageError(f"--listen {text!r}: the host is no address: write one of this machine, as 127.0.0.1") from None
    if not loopback and not exposed:
        raise UsageError(
            f"--listen {text}: whoever reaches this address would reach the server behind the tap, with its rights where it asks for no "
            "password; add --expose-server if that is meant"
        )
    if key is not None and certificate is None:
        raise UsageError("--tls-key without --tls-cert: name the certificate too")
    return Listen("127.0.0.1" if host == "localhost" else host, int(port), certificate, key)


def run_tap(
    to: str,
    *,
    listen: Listen,
    out: Path | None = None,
    pointer: str = "",
    channel_prefix: str = "",
    seconds: float | None = None,
    tell: Callable[[str], None] = lambda line: None,
    on_ready: Callable[[int], None] = lambda port: None,
) -> Path:
    """Tap a server until `seconds` are over or a signal comes, and return the sealed folder.

    Parameters
    ----------
    to
        The server's URL, redis:// or rediss://. A password in it is not used: clients log in themselves.
    pointer, channel_prefix
        How an event is known, see `sim.bus.event_rule`.
    on_ready
        Called with the port once it listens.

    Raises
    ------
    UsageError, BrokerError, RecordError
        What cannot be; where the folder was made already, what was recorded is in it.
    Interrupted
        A signal ended it; the folder is sealed, and says so.
    """
    address = parse_address(to)
    try:
        rule = EventRule(pointer, channel_prefix=channel_prefix)
    except ValueError as error:
        raise UsageError(f"--id {error}") from None
    ends = Ends(listen.host, listen.port, _tls(listen), address.ssl_context)
    folder = empty_folder(out or reports_folder() / "taps" / utc_now().strftime("%Y%m%dT%H%M%S.%fZ"))
    one = _TapRun(address, folder=folder, rule=rule, ends=ends, plan=TapPlan(str(folder), 0), tell=tell, on_ready=on_ready)
    one.run(pointer=pointer, channel_prefix=channel_prefix, seconds=seconds)
    return folder


def _tls(listen: Listen) -> ssl.SSLContext | None:
    if listen.certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(listen.certificate, listen.key)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "not what it should be"
        raise UsageError(f"--tls-cert {listen.certificate}: {reason}; PEM files are wanted, and a key that fits the certificate") from None
    return context


class _TapRun:
    """One tap from its folder to its seal."""

    def __init__(
        self,
        address: Address,
        *,
        folder: Path,
        rule: EventRule,
        ends: Ends,
        plan: TapPlan,
        tell: Callable[[str], None],
        on_ready: Callable[[int], None],
    ) -> None:
        self._address, self._folder, self._rule, self._ends = address, folder, rule, ends
        self._tell, self._on_ready = tell, on_ready
        self._signal: signal.Signals | None = None
        self._plan = plan
        self._nodes: list[Address] = []
        self._info = RunInfo(
            format=FORMAT,
            scenario=NAME,
            ground=str(address),
            nodes=1,
            seed=0,
            driver="none",
            nonce=secrets.randbits(32) % 0x7FFF + 1,
            state="running",
            reason="",
            started_at=utc_now().isoformat(timespec="milliseconds"),
            wall_offset_ns=wall_offset_ns(),
            phases=[],
            load=LoadInfo(),
            fleet="tapped",
            notes=[],
        )

    def run(self, *, pointer: str, channel_prefix: str, seconds: float | None) -> None:
        """Do the steps."""
        failure: BaseException | None = None
        with interruptible(self._interrupt), asyncio.Runner(loop_factory=new_event_loop) as runner:
            self._nodes = runner.run(_nodes_of(self._address))
            self._info.nodes = len(self._nodes)
            names = [TAP] if len(self._nodes) == 1 else [tap_name(place) for place in range(len(self._nodes))]
            doors = tuple(map(Door, names))
            self._plan = TapPlan(str(self._folder), self._info.nonce, doors=doors, pointer=pointer, channel_prefix=channel_prefix)
            self._make_folder(pointer=pointer, channel_prefix=channel_prefix)
            try:
                runner.run(self._tap(seconds))
                self._info.state = "complete"
                if self._signal is not None:
                    failure = Interrupted(self._signal, f"ended by {self._signal.name}; what was recorded is in {self._folder}")
                    self._info.state, self._info.reason = "interrupted", str(failure)
            except (BrokerError, RecordError, OSError) as error:
                failure, self._info.state, self._info.reason = error, "failed", str(error)
        self._seal()
        if failure is not None:
            raise failure

    def _interrupt(self, number: int) -> None:
        self._signal = signal.Signals(number)

    def _make_folder(self, *, pointer: str, channel_prefix: str) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            scenario = {"name": NAME, "envelope": {"id": pointer}, "bus": {"channel_prefix": channel_prefix}}
            (self._folder / "scenario.toml").write_text(tomli_w.dumps(scenario), "utf-8")
        except OSError as error:
            raise RecordError(f"cannot make the folder {self._folder}: {error.strerror or error}; choose another --out") from None
        write_json(self._folder / "environment.json", environment(broker_says={}))
        write_info(self._folder, self._info)

    async def _tap(self, seconds: float | None) -> None:
        recorder = TapRecorder(self._plan)
        taps = await open_taps(self._nodes, sink=recorder, identify=self._rule, ends=self._ends)
        try:
            self._info.phases = [Phase("run", now_ns())]
            write_info(self._folder, self._info)
            self._on_ready(taps[0].ports[0])
            end_ns = None if seconds is None else now_ns() + int(seconds * 1e9)
            looks, told = 0, ""
            while self._signal is None and (end_ns is None or now_ns() < end_ns):
                await asyncio.sleep(LOOK_S if end_ns is None else max(0.0, min(LOOK_S, (end_ns - now_ns()) / 1e9)))
                recorder.flush()
                looks += 1
                if looks % TELL_EVERY == 0 and (said := self._said(recorder)) != told:
                    told = said
                    self._tell(said)
        finally:
            self._info.phases[-1:] = [Phase("run", self._info.phases[-1].start_ns, now_ns())] if self._info.phases else []
            for tap in taps:
                await tap.close()
            recorder.close()
            self._info.notes.append(f"{self._said(recorder)}; connections ended: {_ends_in_words(recorder.ended)}")

    def _said(self, recorder: TapRecorder) -> str:
        rows = recorder.rows
        return f"{count(rows['publishes'], 'publish', 'publishes')} and {count(rows['deliveries'], 'message')} passed"

    def _seal(self) -> None:
        self._info.tables = seal_tables(self._folder)
        self._info.scenario_crc32 = file_checksum(self._folder / "scenario.toml")
        files = [self._folder / "environment.json", self._folder / CONNECTIONS]
        self._info.files = {path.name: file_checksum(path) for path in files if path.is_file()}
        write_info(self._folder, self._info)


def _ends_in_words(ended: dict[str, int]) -> str:
    return ", ".join(f"{many} by {how}" for how, many in sorted(ended.items())) or "none"


async def _nodes_of(address: Address) -> list[Address]:
    """Return the nodes of a cluster, the one that was named first; that one alone where there is no cluster, or nobody answers yet."""
    try:
        async with asyncio.timeout(LOOK_FOR_CLUSTER_S):
            wire = await open_wire(address, client_name="buslab-tap")
            try:
                reply = await wire.command("CLUSTER", "SLOTS")
            finally:
                wire.close()
    except (BrokerError, TimeoutError):  # who is not there now may come; who does not let us ask lets its clients in
        return [address]
    if not isinstance(reply, list) or not reply:
        return [address]
    found: dict[tuple[str, int], Address] = {(address.host, address.port): address.nodes[0]}
    for _, _, *nodes in reply:
        for host, port, *_ in nodes:
            node = address.at((host or b"").decode() or address.host, int(port))
            found.setdefault((node.host, node.port), node)
    if len(found) > 1 and (address.host, address.port) not in {(n[0].decode(), int(n[1])) for _, _, *ns in reply for n in ns if n[0]}:
        raise UsageError(
            f"--to {address}: it is a node of a cluster that calls itself otherwise, so its own name cannot be rewritten: "
            f"name it as the cluster does, as {list(found.values())[1]}"
        )
    return list(found.values())
