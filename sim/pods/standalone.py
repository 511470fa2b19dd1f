"""One real pod as its own process: the fleet's Pod with the reference's environment variables, HTTP, and JSON lines as its log.

It is of the reference's bus, or of the one that a bus file describes: then that says what it hears, how calls are batched, how it behaves
in an outage, and what its metrics are called. A variable stands above the bus file.

Rules
-----
1. HTTP answers before the bus is tried: a pod that starts in an outage is alive, not ready, and recovers.
2. It records nothing: rows are dropped before they count for memory.
3. SIGTERM, SIGINT and SIGHUP end it gracefully: the part-full batch leaves, its answer is awaited, then the connections close; exit code 0.
   A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from msgspec.structs import replace

from sim.bus.metrics import create_metrics, metric_start, register_event_bus_metrics, register_refusals
from sim.bus.node import BusNode
from sim.bus.once import RECIPES, Scope
from sim.errors import BrokerError, UsageError, did_you_mean
from sim.machine.clock import Alarm, new_event_loop, now_ns, utc_now, wall_offset_ns
from sim.machine.http_server import HttpServer
from sim.machine.signals import endings_heard
from sim.machine.variables import read_variable
from sim.pods.context import BrokerAccess, OnceRules, PodContext, PodIdentity, outage_rules, pace_of
from sim.pods.endpoints import PROBES, endpoints
from sim.pods.pod import Pod
from sim.record.recorder import Recorder
from sim.scenario.file import load_bus
from sim.scenario.settings import Bus, Scenario
from sim.wire.address import Address, parse_address
from sim.wire.read_memo import ReadMemo

PORT = 3000
REFERENCE = "aiponge"  # its bus file
STOP_TIMEOUT_S = 10.0  # below Kubernetes' grace period of 30 s
FORGET_PERIOD_S = 0.5
BATCH_SIZES = (1, 100_000)
BATCH_INTERVALS_MS = (1, 86_400_000)
ONCE_TTLS_S = (1, 86_400)

Log = Callable[..., None]


@dataclass(frozen=True)
class Settings:
    """What the environment says; `address` is None without REDIS_URL: memory mode."""

    address: Address | None = None
    batch_size: int = 100
    batch_interval_ms: int = 30_000
    admin_token: str = ""
    once: OnceRules = field(default_factory=OnceRules)


def read_settings(environment: Mapping[str, str], bus: Bus | None = None, *, code_folder: str = "") -> Settings:
    """Read the reference's environment variables, as `sim.machine.variables` says; what is absent is as the bus has it.

    Raises
    ------
    UsageError
        A value is wrong; the message names the variable and the value, but no password.
    """
    url = read_variable("REDIS_URL", environment, is_list=True)
    try:
        address = parse_address(url) if url else None
        _ = address and address.ssl_context  # read now, so that a missing file ends the pod at its start
    except UsageError as error:
        raise UsageError(f"REDIS_URL: {error}") from None
    bus = bus or Bus()
    recipes = [*RECIPES, bus.once] if bus.once not in RECIPES else [*RECIPES]
    return Settings(
        address=address if bus.redis_url else None,
        batch_size=_whole_number(environment, "EVENT_BUS_BATCH_SIZE", bus.batch_size, BATCH_SIZES),
        batch_interval_ms=_whole_number(environment, "EVENT_BUS_BATCH_INTERVAL_MS", bus.batch_interval_ms, BATCH_INTERVALS_MS),
        admin_token=read_variable("ADMIN_TOKEN", environment),
        once=OnceRules(
            recipe=_one_of(environment, "BUSLAB_ONCE", bus.once, recipes),
            scope=cast(Scope, _one_of(environment, "BUSLAB_ONCE_SCOPE", bus.once_scope, get_args(Scope))),
            ttl_s=_whole_number(environment, "BUSLAB_ONCE_TTL_S", bus.once_ttl_s, ONCE_TTLS_S),
            ttl_clock=bus.once_ttl_clock,
            code_folder=code_folder,
        ),
    )


def _one_of(environment: Mapping[str, str], name: str, default: str, known: Iterable[str]) -> str:
    text = read_variable(name, environment) or default
    if text not in known:
        raise UsageError(f"{name}={text!r}: give one of {', '.join(known)}{did_you_mean(text, known)}")
    return text


def _whole_number(environment: Mapping[str, str], name: str, default: int, bounds: tuple[int, int]) -> int:
    text = read_variable(name, environment)
    if not text:
        return default
    low, high = bounds
    if not (text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high):
        raise UsageError(f"{name}={text!r}: give a whole number from {low} to {high}")
    return int(text)


def run_pod(
    service: str,
    *,
    bus: str = "",
    port: int = PORT,
    bind: str = "127.0.0.1",
    environment: Mapping[str, str] | None = None,
    log: Log | None = None,
) -> None:
    """Run one pod of a service in this process until a signal ends it.

    Parameters
    ----------
    bus
        The bus file whose service it is; without it what `BUSLAB_BUS` names, or the reference's.
    port
        0 takes any free port; the log line `started` says which.
    environment
        Of the process, unless given.

    Raises
    ------
    UsageError
        No such service, a wrong environment variable, a port that is taken.
    ScenarioError
        No such bus file, or something in it is wrong.
    """
    variables = os.environ if environment is None else environment
    named = bus or read_variable("BUSLAB_BUS", variables)
    scenario = load_bus(named or REFERENCE)
    known = scenario.services
    if service not in known:
        where = f" on the bus {named}" if named else ""
        raise UsageError(f"no service {service!r}{where}{did_you_mean(service, known)}; known: {', '.join(known)}")
    settings = read_settings(variables, scenario.bus, code_folder=scenario.code_folder)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        pod = StandalonePod(service, settings, scenario=scenario, log=log or log_line(service))
        runner.run(pod.run(bind=bind, port=port, bus=named))


def log_line(service: str) -> Log:
    """Return a function that writes one JSON line to stdout; a reader that is gone does not end the pod."""

    def write(event: str, **more: Any) -> None:
        line = {"time": utc_now().isoformat(timespec="milliseconds"), "event": event, "service": service, **more}
        with contextlib.suppress(OSError):
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()

    return write


class StandalonePod:
    """One pod, its HTTP server, and what they need of the process."""

    def __init__(self, service: str, settings: Settings, *, scenario: Scenario, log: Log) -> None:
        self._settings = settings
        self._log = log
        self._was_connected = False
        self._stop = asyncio.Event()
        self._alarm: Alarm | None = None
        publisher, nonce = secrets.randbits(16), secrets.randbits(15)  # no other pod may have the same event ids
        name = f"{service}-{nonce:x}-{publisher:x}"
        self._recorder = Recorder(Path(), source=name, pods=[name])  # never flushed
        logic, bus, mine = scenario.new_logic(service), scenario.bus, scenario.services[service]
        rules = replace(scenario, bus=replace(bus, batch_size=settings.batch_size, batch_interval_ms=settings.batch_interval_ms))
        envelope = scenario.new_envelope()
        self.pod = Pod(
            PodIdentity(name, 0, service, mine.subscribes, seed=publisher),
            logic=logic,
            node=BusNode(
                service,
                nonce=nonce,
                publisher=publisher,
                batches=rules.batches(),
                wall_offset_ns=wall_offset_ns(),
                keys=scenario.keys(),
                cache_keys=scenario.cache_keys(),
                envelope=envelope,
            ),
            context=PodContext(
                host="standalone",
                run_id="pod",
                broker=BrokerAccess(settings.address, bus.channel_prefix, scenario.transport()),
                recorder=self._recorder,
                memo=ReadMemo(envelope.decode_read, by_channel=envelope.by_channel),
                probed=lambda number, kind, round: None,
                entered=self._entered,
                reconnecting=self._reconnecting,
                outage=outage_rules(bus),
                once=settings.once,
            ),
            pace=pace_of(mine),
            caches=scenario.new_caches(service),
        )
        metrics = create_metrics(service)
        self._metrics_start = metric_start(service, prefix=bus.metrics_prefix)
        self._mapped = self._metrics_start != f"{bus.metrics_prefix}_{service}".replace("-", "_")
        routes = endpoints(self.pod, metrics, call=self.call, admin_token=settings.admin_token, channels=scenario.channels)
        self.http = HttpServer(routes, first=PROBES)
        register_event_bus_metrics(service, metrics, self.pod.counts, prefix=bus.metrics_prefix)
        register_refusals(metrics, lambda: self.http.refused)

    def call(self, kind: str, data: dict[str, Any]) -> None:
        """Make one call of the application, and set the alarm for a part-full batch."""
        self.pod.call(kind, data, intended_ns=now_ns())
        self._arm()

    def _tick(self) -> None:
        self.pod.tick()
        self._arm()

    def _arm(self) -> None:
        if self._alarm is not None and (due_ns := self.pod.node.due_ns) is not None:
            self._alarm.set(due_ns)

    async def run(self, *, bind: str, port: int, bus: str = "") -> None:
        """Serve until a signal comes, then end gracefully.

        Raises
        ------
        UsageError
            The port cannot be had.
        """
        self._catch_signals()
        await self.http.start(bind, port)
        self._alarm = Alarm(self._tick)
        forgetting = asyncio.create_task(self._forget())
        mode = "redis" if self._settings.address is not None else "memory"
        more = ({"bus_file": bus} if bus else {}) | ({"metrics": f"{self._metrics_start}_…"} if self._mapped else {})
        self._log("started", pod=self.pod.name, host=bind, port=self.http.port, mode=mode, **more)
        starting = asyncio.create_task(self._start())
        try:
            await self._stop.wait()
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            await self.pod.stop(timeout_s=STOP_TIMEOUT_S)
        finally:
            self.pod.abort()
            forgetting.cancel()
            self._alarm.close()
            await self.http.close()
        self._log("stopped", pod=self.pod.name, published=self.pod.counters.published, received=self.pod.counters.received)

    async def _start(self) -> None:
        try:
            await self.pod.start()
        except BrokerError as error:  # the bus goes on trying, and the pod stays
            self._log("disconnected", pod=self.pod.name, reason=str(error))

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()

        def caught(number: int) -> None:
            if self._stop.is_set():
                if number != signal.SIGHUP:  # a terminal that goes may send several
                    os._exit(128 + number)
                return
            self._log("stopping", pod=self.pod.name, signal=signal.Signals(number).name)
            self._stop.set()

        for number in endings_heard():
            loop.add_signal_handler(number, caught, number)

    def _entered(self, state: str, bus: str) -> None:
        """Log that the bus came or went; half a connection is none."""
        connected = bus == "connected"
        if connected != self._was_connected:
            self._was_connected = connected
            self._log("connected" if connected else "disconnected", pod=self.pod.name, bus=bus)

    def _reconnecting(self, connection: str, attempt: int, pause_ms: float, error: str) -> None:
        """Log, as the reference's client does, that a lost connection is tried again; each of the two counts by itself."""
        why = {"error": error} if error else {}
        self._log("reconnecting", pod=self.pod.name, connection=connection, attempt=attempt, pause_ms=round(pause_ms, 1), **why)

    async def _forget(self) -> None:
        while True:
            await asyncio.sleep(FORGET_PERIOD_S)
            self._recorder.forget()
