"""Run a scenario and leave a sealed run folder: the numbered steps.

1.  start or reach the broker, then make the run folder: from here on everything that happens is kept
2.  provision: ask the broker what it is, count subscribers that are not ours; start the load generator
3.  start: every pod connects and subscribes
4.  probe: one event per channel until every pod has heard it; compare the broker's count of subscribers with the fleet
5.  warm-up and run: time zero is set, the generator follows its schedule
6.  drain: part-full batches leave, then one more probe round: once a pod has heard it, nothing is on its way to it; the same of what
    pods had kept through an outage; and nothing that the broker keeps for the pods is left
7.  stop pods, generator and broker, whatever happened before
8.  seal: join the parts, write what was true of the whole run

Judging is not part of it: `sim.results.checkers.judge` reads the sealed folder, now or in a year.

An interruption or a failure at any step goes to 7 and 8, and the folder says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import secrets
import signal
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import ClassVar

from sim.errors import BrokerError, BrokerUnreachable, BuslabError, GeneratorError, Interrupted
from sim.faults.timeline import Timeline
from sim.grounds.broker import Broker
from sim.grounds.catalogue import open_broker
from sim.grounds.links import Links
from sim.machine.clock import NS_PER_MS, NS_PER_S, in_a_loop, is_virtual, now_ns, to_the_end, utc_now, wall_offset_ns
from sim.machine.facts import environment
from sim.machine.lease import note_folder
from sim.machine.signals import interruptible, signal_of
from sim.machine.words import agreeing, count
from sim.pods.clocks import Clocks
from sim.pods.hosts.places import Places
from sim.record.checksum import file_checksum
from sim.record.recorder import Tamper, seal_tables, write_json
from sim.record.run_info import LoadInfo, Phase, RunInfo
from sim.record.schema import FORMAT
from sim.run.bystanders import Bystanders, bystanders_of
from sim.run.fit import check_ground, check_hosts, check_open_files, fit_time, peopled
from sim.run.fleet import Fleet
from sim.run.folder import free_folder, make_folder, other_files, write_info
from sim.run.generator import Generator, start_generator, until
from sim.run.healing import heal_left_over
from sim.run.leftovers import delete_leftovers
from sim.run.machines import places_of
from sim.run.reporter import Reporter
from sim.run.sampler import BrokerSampler
from sim.run.stage import open_links, staged
from sim.run.status import Status, Watch
from sim.scenario.file import Scenario

ZERO_DELAY_NS = 100 * NS_PER_MS
NUMSUB_BEFORE_END_NS = 50 * NS_PER_MS
STOP_TIMEOUT_S = 5.0
CLOSED_LOOP = "users in a closed loop made the calls: each lag counts from its call, and a late bus was called less often"
FROZEN_PODS = 500  # of runs whose remains are not collected; a pod leaves a few hundred objects. To count those takes 10 ms a run
INFO_PERIOD_S = 0.25  # of the machine's time between two run.json of a run in virtual time, whose phases may pass in a millisecond


def run_scenario(
    scenario: Scenario,
    *,
    on: str = "embedded",
    out: Path | None = None,
    load_this_server: bool = False,
    image: str | None = None,
    fleet: str = "ours",
    parts_to: str = "",
    caller: socket.socket | None = None,
    watch: Watch = lambda status: None,
    tamper: Tamper | None = None,
) -> Path:
    """Run a scenario and return its sealed run folder.

    Parameters
    ----------
    on
        A ground of `sim.grounds.catalogue.GROUNDS`, for example ``embedded``, ``cluster:3`` or ``redis://HOST:PORT``.
    out
        The run folder to make; by default ``reports/runs/<scenario>/<UTC time>``.
    load_this_server
        Whether a server on another machine may be loaded.
    image
        What the grounds of containers run, if not their default.
    fleet
        ``none``: start no pods; the load meets a fleet that is there already, and only its publishes are recorded.
    parts_to
        With `hosts.kind = "dask"`: the URL of a place that every worker can write, by which what they recorded comes home.
    caller
        The line to the Locust that started this run and makes its calls (see `sim.run.locust_messages`).
    watch
        Called with a `Status` some times a second.
    tamper
        For the self-audit only: plants errors in the record (see `sim.record.recorder.Recorder`).

    Raises
    ------
    BuslabError
        The run failed, or was `Interrupted`; what was recorded is kept in the folder, which the error names as `run_folder`.

    Notes
    -----
    It may be called from a notebook: where an event loop runs already, the run gets a thread of its own.
    """
    virtual = (on := on.strip()).partition(":")[0] == "model"
    scenario, notes = fit_time(scenario, virtual=virtual)
    reporter = Reporter(watch)
    broker = open_broker(on, load_this_server=load_this_server, image=image, tell=reporter.say, seed=scenario.seed)
    folder = free_folder(scenario, out)
    one = _RunSteps(
        scenario,
        peopled=check_open_files(peopled(scenario, fleet=fleet), on=on),
        broker_context=broker,
        folder=folder,
        named=out is not None,
        caller=caller,
        reporter=reporter,
        tamper=tamper,
        virtual=virtual,
        fleet=fleet,
        parts_to=parts_to,
        notes=notes,
    )
    one.run_here() if not in_a_loop() else one.run_aside()
    return folder


class _RunSteps:
    """One run, from its folder to its seal, and all that it starts in between."""

    frozen_pods: ClassVar[int] = 0  # of the runs of this process since `gc.unfreeze`

    def __init__(
        self,
        scenario: Scenario,
        *,
        peopled: Scenario,
        broker_context: contextlib.AbstractContextManager[Broker],
        folder: Path,
        named: bool,
        caller: socket.socket | None,
        reporter: Reporter,
        tamper: Tamper | None,
        virtual: bool,
        fleet: str,
        parts_to: str,
        notes: Sequence[str],
    ) -> None:
        self._parts_to = parts_to
        self.scenario = scenario
        self._peopled = peopled  # the scenario with only the pods that the run starts
        self.folder = folder
        self._caller = caller
        self._named = named
        self.nonce = (scenario.seed if virtual else secrets.randbits(32)) % 0x7FFF + 1  # a seed repeats the event ids too
        self.run_id = f"{self.nonce:x}"
        self._broker_context = broker_context
        self._reporter = reporter
        self._written_s = -math.inf  # when run.json was written last, by the machine's clock
        self._tamper = tamper
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._signal: signal.Signals | None = None
        self._links: Links | None = None
        self._bystanders: Bystanders | None = None
        self._places: Places | None = None
        self._clocks: Clocks | None = None
        self.info = RunInfo(
            format=FORMAT,
            scenario=scenario.name,
            ground="",
            nodes=1,
            seed=scenario.seed,
            driver=scenario.load.driver,
            nonce=self.nonce,
            state="running",
            reason="",
            started_at=utc_now().isoformat(timespec="milliseconds"),
            wall_offset_ns=wall_offset_ns(),
            phases=[],
            load=LoadInfo(),
            fleet=fleet,
            notes=list(notes),
        )

    # -- outside: one event loop, signals, the seal ------------------------------------------------------------

    def run_here(self) -> None:
        """Run on an event loop in this thread, seal, and raise what went wrong."""
        failure: BaseException | None = None
        self.info.notes += heal_left_over(tell=partial(self._reporter.say, stays=True))
        with interruptible(self.interrupt), self._broker_context as broker, contextlib.ExitStack() as stack:
            # Where the broker or the workers cannot be had, no folder is made.
            self.info.ground, self.info.nodes = broker.ground, len(broker.address.nodes)
            check_ground(self.scenario, broker)
            check_hosts(self._peopled)
            if broker.address.others:
                check_open_files(self._peopled, on=broker.ground, nodes=self.info.nodes)
            self._places = stack.enter_context(places_of(self._peopled, broker.address, run_id=self.run_id, parts_to=self._parts_to))
            make_folder(self.folder, self.scenario, link_latest=not self._named)
            note_folder(self.folder)
            try:
                with asyncio.Runner(loop_factory=broker.new_loop) as runner:
                    self._loop = runner.get_loop()
                    runner.run(self._run(broker))
                self.info.state = "complete"
            except (asyncio.CancelledError, KeyboardInterrupt) as end:
                number = self._signal or (signal_of(end) if isinstance(end, KeyboardInterrupt) else signal.SIGINT)
                failure = Interrupted(
                    number, f"interrupted by {number.name} in phase {self._phase_name()}; what was recorded is in {self.folder}"
                )
                self.info.state, self.info.reason = "interrupted", str(failure)
            except (Exception, SystemExit) as error:  # SystemExit: some library thought that the process was its own
                failure = error
                self.info.state = "failed"
                self.info.reason = str(error) if isinstance(error, BuslabError) else f"{type(error).__name__}: {error}"
            self._seal(failure)
        if failure is None and self._signal is not None:
            failure = Interrupted(self._signal, f"interrupted by {self._signal.name} after the run was complete; it is in {self.folder}")
        if failure is not None:
            if isinstance(failure, BuslabError):
                failure.run_folder = self.folder
            raise failure

    def run_aside(self) -> None:
        """Run in a thread of its own: in this one an event loop runs already."""
        with ThreadPoolExecutor(1, thread_name_prefix="run") as pool:
            running = pool.submit(self.run_here)
            try:
                running.result()
            except KeyboardInterrupt as error:
                self.interrupt(signal_of(error))
                running.result()

    def interrupt(self, number: int) -> None:
        """End the run at its next step; may be called from another thread or a signal handler."""
        self._signal = signal.Signals(number)
        if self._loop is not None and self._task is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._task.cancel)

    def _seal(self, failure: BaseException | None) -> None:
        self._reporter.watch(Status("seal"))
        end_ns = now_ns()
        for phase in self.info.phases:
            _end_of(phase, end_ns)
        self.info.notes += [self._reporter.failure] if self._reporter.failure else []
        try:
            self.info.tables = seal_tables(self.folder)
            self.info.scenario_crc32 = file_checksum(self.folder / "scenario.toml")
            self.info.files = other_files(self.folder, but="locust" if self._caller is not None else None)  # it writes on after the seal
            self._write_info()
        except BuslabError:
            if failure is None:
                raise
            # The failure of the run is the one to report; the parts that were written stay readable.

    def _write_info(self) -> None:
        write_info(self.folder, self.info)
        self._written_s = time.monotonic()

    # -- inside: the steps -------------------------------------------------------------------------------------

    async def _run(self, broker: Broker) -> None:
        self._task = asyncio.current_task()
        if self._signal is not None:
            raise asyncio.CancelledError
        self._enter("provision")
        self._links, self.info.links_us = await open_links(self.scenario, broker, folder=self.folder, places=self._places)
        self._clocks = Clocks(broker.address, run_id=self.run_id, virtual=is_virtual())
        fleet = self._reporter.fleet = Fleet(
            self._peopled,
            address=broker.address,
            folder=self.folder,
            nonce=self.nonce,
            run_id=self.run_id,
            tamper=self._tamper,
            links=self._links,
            places=self._places,
            clocks=self._clocks,
        )
        sampler = await BrokerSampler.open(broker.address, fleet.recorder, run_id=self.run_id)
        if not is_virtual():
            self._bystanders = Bystanders(fleet.recorder, lambda: bystanders_of(broker, self._links))
            self._bystanders.start()
        display = asyncio.get_running_loop().create_task(self._reporter.keep_showing())
        try:
            fleet.failed.add_done_callback(lambda _: self._task.cancel() if self._task else None)
            await self._steps(broker, fleet, sampler)
        except asyncio.CancelledError:
            if self._signal is None and fleet.failed.done():
                raise fleet.failed.result() from None
            raise
        finally:
            display.cancel()
            await to_the_end(self._stop(fleet, sampler))
            _end_of(self.info.phases[-1], now_ns())  # read here, where the clock is the run's own

    async def _steps(self, broker: Broker, fleet: Fleet, sampler: BrokerSampler) -> None:
        limits, prefix = self.scenario.limits, self.scenario.bus.channel_prefix
        write_json(self.folder / "environment.json", environment(broker_says=sampler.about, image=broker.image))
        await fleet.look(sampler.command)
        foreign = await sampler.numsub(fleet.channels, prefix=prefix, metric="numsub_foreign", transport=fleet.transport)
        if strangers := int(sum(foreign.values())):
            hear = "may hear" if fleet.transport.one_per_service else agreeing(strangers, "hears", "hear")  # a consumer may be gone
            verb = agreeing(strangers, "is not ours; it", "are not ours; they")
            self.info.notes.append(f"{count(strangers, 'subscription')} on these channels {verb} {hear} this run too")
        load = self.scenario.load
        sampler.start(fleet.channels, prefix=prefix, transport=fleet.transport, expected_s=load.warm_up_s + load.run_s)
        self.info.load.offered_calls = len(self.scenario.schedule())
        generator = self._reporter.generator = await start_generator(
            self.scenario,
            fleet.host,
            address=broker.address,
            folder=self.folder,
            nonce=self.nonce,
            run_id=self.run_id,
            clocks=self._clocks,
            caller=self._caller,
        )
        self._enter("start", limits.start_s)
        await fleet.start()
        await generator.ready()
        self.info.load.generators = list(generator.hosts)

        self._enter("probe", limits.probe_s)
        await fleet.probe(timeout_s=limits.probe_s, purpose="before the load")
        counted = await sampler.numsub(fleet.channels, prefix=prefix, metric="numsub", transport=fleet.transport)
        sampler.record_counts({c: n for c, n in fleet.receivers.items() if c not in counted}, metric="probe_receivers")
        _RunSteps.frozen_pods += len(self.scenario.pods())
        if not is_virtual() or _RunSteps.frozen_pods > FROZEN_PODS:
            _RunSteps.frozen_pods = 0
            gc.unfreeze()  # what earlier runs of this process have left can be collected; in virtual time many runs are short
        gc.collect()
        gc.freeze()  # what is alive now stays alive: later collections need not walk it while lag is measured

        async with staged(self.scenario, broker, fleet, links=self._links, places=self._places, run_id=self.run_id) as timeline:
            await self._load(generator, sampler, fleet, timeline)
            if self.scenario.faults:
                self._enter("heal")

        self._enter("drain", limits.drain_s)
        await generator.finished()
        self.info.load.calls, self.info.load.calls_not_made = generator.calls, generator.calls_not_made
        if self.scenario.load.locustfile:
            self.info.load.offered_calls = generator.calls
            self.info.notes.append(CLOSED_LOOP)
        await fleet.settle(timeout_s=limits.drain_s)
        try:
            await fleet.probe(timeout_s=limits.drain_s, purpose="after the load")
            if self.scenario.bus.outage_queue == "keep":  # what a pod kept may leave only now, and would meet pods that are stopping
                await fleet.settle(timeout_s=limits.drain_s, last=True)
                await fleet.probe(timeout_s=limits.drain_s, purpose="after what was kept had left")
            await fleet.catch_up(sampler.command, timeout_s=limits.drain_s)
            if any(service.concurrency or service.handler_cpu_ms for service in self.scenario.services.values()):
                await fleet.settle(timeout_s=limits.drain_s, handled=True)  # what they read waits for its turn
            self.info.recovered = True
        except BrokerUnreachable as error:
            behind = any(service.handler_ms or service.handler_cpu_ms for service in self.scenario.services.values())
            if not self.scenario.faults and not behind:
                raise
            self.info.recovered = False
            why = "; if its handlers are only behind, raise limits.drain_s" if behind else ""
            self.info.notes.append(f"the bus did not recover: {error}{why}")

    async def _load(self, generator: Generator, sampler: BrokerSampler, fleet: Fleet, timeline: Timeline) -> None:
        load = self.scenario.load
        reads = self._peopled.reads()
        self.info.load.offered_reads = len(reads)
        zero_ns = now_ns() + ZERO_DELAY_NS
        run_ns = zero_ns + int(load.warm_up_s * NS_PER_S)
        end_ns = run_ns + int(load.run_s * NS_PER_S)
        await generator.go(zero_ns)
        fleet.host.read(reads, zero_ns=zero_ns)
        self._enter("warm-up", load.warm_up_s, start_ns=zero_ns)
        await until(run_ns, generator)
        fleet.host.forget_lag()
        self._enter("run", load.run_s, start_ns=run_ns)
        timeline.start(run_ns)
        await until(end_ns - NUMSUB_BEFORE_END_NS, generator)
        with contextlib.suppress(BrokerError):  # a fault may have it down; then the checker `harness` has the count before the load
            await sampler.numsub(fleet.channels, prefix=self.scenario.bus.channel_prefix, metric="numsub", transport=fleet.transport)
        await until(end_ns, generator)
        self.info.phases[-1].end_ns = end_ns

    async def _stop(self, fleet: Fleet, sampler: BrokerSampler) -> None:
        """End everything that was started, also when one of the ends fails."""
        self.info.notes += fleet.notes
        async with contextlib.AsyncExitStack() as last_first:
            last_first.callback(self._note_lost, fleet)
            last_first.callback(fleet.recorder.close)
            if self._clocks is not None:
                last_first.callback(self._keep_clocks, self._clocks, fleet)
            if self._bystanders is not None:
                last_first.callback(self._bystanders.close)
            if self._links is not None:
                last_first.push_async_callback(self._links.close)
            last_first.push_async_callback(self._leave_nothing, fleet, sampler)
            last_first.push_async_callback(fleet.host.close)
            if self._phase_name() == "drain":
                last_first.push_async_callback(fleet.stop, timeout_s=STOP_TIMEOUT_S)
            else:
                last_first.callback(fleet.abort)
            if self._clocks is not None:
                last_first.push_async_callback(self._clocks.finish)
            if self._reporter.generator is not None:
                with contextlib.suppress(GeneratorError):
                    await self._reporter.generator.close()
                self.info.load.record_kept = self._reporter.generator.kept
                self.info.load.closed_by_server = self._reporter.generator.closed_by_server or None

    def _note_lost(self, fleet: Fleet) -> None:
        """Write down which processes of pods took their record with them; known when the others have handed theirs over."""
        self.info.lost = fleet.host.lost or None

    def _keep_clocks(self, clocks: Clocks, fleet: Fleet) -> None:
        """Record how the clocks of processes went that do not read the run's, and tell it."""
        clocks.write(fleet.recorder)
        self.info.notes += clocks.notes

    async def _leave_nothing(self, fleet: Fleet, sampler: BrokerSampler) -> None:
        """Delete what this run made the broker keep, and close the last connection."""
        try:
            await fleet.clear(sampler.command)
        except BrokerError as error:
            self.info.notes.append(f"what the broker kept of this run was not removed: {error}")
        await sampler.close()
        self.info.notes.extend(sampler.notes)
        if self.scenario.bus.once != "none" and (left := await delete_leftovers(fleet.address, run_id=self.run_id)):
            self.info.notes.append(left)

    # -- the phases --------------------------------------------------------------------------------------------

    def _enter(self, phase: str, seconds: float | None = None, *, start_ns: int | None = None) -> None:
        at_ns = now_ns() if start_ns is None else start_ns
        if self.info.phases:
            at_ns = max(at_ns, _end_of(self.info.phases[-1], at_ns))  # a timer may end early
        self.info.phases.append(Phase(phase, at_ns))
        self._reporter.phase, self._reporter.phase_ends_ns = phase, None if seconds is None else at_ns + int(seconds * NS_PER_S)
        if not is_virtual() or phase == "run" or time.monotonic() - self._written_s >= INFO_PERIOD_S:  # it lasts, and may be killed
            self._write_info()
        self._reporter.show()

    def _phase_name(self) -> str:
        return self.info.phases[-1].name if self.info.phases else "provision"


def _end_of(phase: Phase, at_ns: int) -> int:
    """End a phase that has not ended yet, and return when it ended."""
    if phase.end_ns is None:
        phase.end_ns = at_ns
    return phase.end_ns
