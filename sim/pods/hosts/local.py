"""Host `local`: pods in child processes, so that a kill is SIGKILL, a freeze SIGSTOP, and pods do not share one event loop.

Rules
-----
1. A pod that a fault, or the kubelet, may end or freeze has a process of its own, a new one for each of its incarnations. The others
   are spread evenly over `hosts.processes`.
2. A process of its own keeps a journal (`sim.record.journal`): when it was killed, the run writes what it had recorded,
   and what it had begun (`sim.pods.pod_journal`). Whatever else dies by itself fails the run.
3. A killed pod is dead when its process is gone, a frozen one stands still when the kernel says so; the run records both.
4. Processes have names for the tables: ``local-0``, ``local-1``, …; ``<pod>.1``, ``<pod>.2``, … by incarnation; ``local`` is the run.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from sim.errors import BrokerUnreachable, BuslabError, HostError, RecordError, UsageError
from sim.grounds.links import Links
from sim.machine.clock import NS_PER_S, now_ns
from sim.machine.words import count, duration
from sim.pods.clocks import Clocks
from sim.pods.hosts.local_messages import Drive, Entered, Failed, ForgetLag, Hold, Ports, ProbeHeard, Read, Settle, Word
from sim.pods.hosts.local_process import HostProcess
from sim.pods.hosts.local_replica import LocalReplica
from sim.pods.hosts.meters import Counts, LoopMeter
from sim.pods.pod import ENDED
from sim.pods.pod_journal import calls_made, inherit
from sim.pods.replica import GRACE_S, next_publisher
from sim.record.journal import JOURNALS, Journal
from sim.record.recorder import Recorder, Tamper
from sim.record.schema import HTTP_CALL, compose_key
from sim.scenario.file import Scenario
from sim.scenario.schedule import IntendedReads, Schedule
from sim.wire.address import Address

DROP_TIMEOUT_S = 5.0  # a process may take so long to write its record after its pods were dropped
SETTLE_GRACE_S = 5.0


class LocalHost:
    """The processes of pods, and what the run itself records beside them.

    `replicas`: by pod name, in the order of the pods' numbers.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        address: Address,
        folder: Path,
        nonce: int,
        run_id: str,
        probed: Callable[[int, str, int], None],
        failed: Callable[[BuslabError], None],
        tamper: Tamper | None = None,
        links: Links | None = None,
        clocks: Clocks | None = None,
    ) -> None:
        if tamper is not None:
            raise UsageError("the self-audit plants errors in the record of this process: it needs hosts.kind = 'inline'")
        pods = scenario.pods()
        self.name = "local"
        self.recorder = Recorder(folder, source=self.name, pods=[name for name, _ in pods])
        self.replicas: dict[str, LocalReplica] = {}
        for number, (name, service) in enumerate(pods):
            channels = ",".join(scenario.services[service].subscribes)
            deployed = number < len(scenario.first_pods())
            self.replicas[name] = LocalReplica(self, name, number=number, service=service, channels=channels, deployed=deployed)
        self.closing = False
        self._pods = list(self.replicas.values())
        self._scenario, self._tree = scenario, msgspec.to_builtins(scenario)
        self._address, self._links = address, links
        self._clocks = clocks or Clocks(address, run_id=run_id)
        self._folder, self._nonce, self._run_id = folder, nonce, run_id
        self._probed, self._failed = probed, failed
        self._publishers = itertools.count(len(pods))  # for further incarnations, because event keys are unique in a run
        self._processes: dict[str, HostProcess] = {}  # those that run, by name
        self._past: list[HostProcess] = []  # those that were killed or stopped; what they sent last is read at the end
        self._dead: list[tuple[str, int, int]] = []  # journals to inherit: name, first key, when it died
        self._gone = Counts()  # the counts of those that are gone
        self._driving: Drive | None = None
        self._reading: Read | None = None
        self._schedule: Schedule | None = None
        self._meter: LoopMeter | None = None
        self._posts = any(kind == HTTP_CALL and weight > 0 for kind, weight in scenario.load.mix.items())

    # -- processes ---------------------------------------------------------------------------------------------

    async def launch(self, pods: list[LocalReplica], *, name: str, killable: bool, patient: bool) -> HostProcess:
        """Start a process that holds these pods; `up` says when they run."""
        publishers = {p.number: p.number if not p.first_key else next_publisher(p.name, self._publishers) for p in pods}
        for pod in pods:
            pod.first_key = compose_key(nonce=self._nonce, publisher=publishers[pod.number], sequence=0)
        hold = Hold(
            scenario=self._tree,
            name=name,
            folder=str(self._folder.resolve()),
            nonce=self._nonce,
            run_id=self._run_id,
            urls=self._address.urls,
            links={} if self._links is None else {pod.number: self._links.address(pod.number).urls for pod in pods},
            publishers=publishers,
            places={pod.number: pod.place for pod in pods},
            killable=killable,
            patient=patient,
            grace_s=min([GRACE_S, *self._graces_s()]),
            timeout_s=self._scenario.limits.start_s,
            told=[told for pod in pods for told in pod.told.values()],
        )
        log = self._folder / JOURNALS / f"{name}.log"
        log.parent.mkdir(exist_ok=True)
        process = self._processes[name] = await HostProcess.open(hold, log=log, take=self._take, lost=self._lost, clocks=self._clocks)
        for pod in pods:
            pod.process = process
        return process

    def _graces_s(self) -> list[float]:
        faults = [fault.grace_s for fault in self._scenario.faults if hasattr(fault, "grace_s")]
        return faults + ([self._scenario.kubelet.grace_s] if self._scenario.kubelet.enabled else [])

    async def up(self, process: HostProcess) -> None:
        """Wait until the pods of a process run, then give it the orders that the others have."""
        answer = await process.started()
        for name, port in answer.ports.items():
            self.replicas[name].port = port
        self._tell_ports()
        self._give_orders(process)

    def _give_orders(self, process: HostProcess) -> None:
        """Order the calls and reads of the pods of a process from now on, unless others still make them."""
        since_ns = now_ns()
        if not all(pod.calls for pod in self._pods if pod.process is process):
            return
        if self._driving is not None and process.driven is None:
            process.drive(msgspec.structs.replace(self._driving, since_ns=since_ns))
        if self._reading is not None and not process.reading:
            process.read(msgspec.structs.replace(self._reading, since_ns=since_ns))

    def hand_over(self, old: LocalReplica) -> None:
        """Give the calls and reads of a pod to its heir, if it has one."""
        heir = old.heir
        if heir is None or not old.calls:
            return
        old.calls, heir.calls = False, True
        if heir.running and heir.process is not None and heir.process.has_started:  # else it gets them when it has
            self._give_orders(heir.process)

    def _tell_ports(self) -> None:
        if self._posts:
            ports = [pod.port for pod in self._pods if self._scenario.behaviour(pod.service) == "analytics" and pod.port]
            for process in self._processes.values():
                process.send(Ports(ports))

    def _take(self, word: Word) -> None:
        if isinstance(word, ProbeHeard):
            self._probed(word.pod, word.channel, word.round)
        elif isinstance(word, Entered):
            pod = self._pods[word.pod]
            if not pod.ended.is_set():
                pod.state, pod.ready = word.state, word.ready
        elif isinstance(word, Failed):
            self._failed(HostError(word.error))

    def _lost(self, process: HostProcess, error: BuslabError) -> None:
        for pod in self._pods:
            if pod.process is process and process.killable:
                pod.bury("aborted")
        if self._processes.pop(process.name, None) is not None:
            self._past.append(process)
        self._failed(error)

    def buried(self, pod: LocalReplica, process: HostProcess, died_ns: int) -> None:
        """Note what is needed to inherit a process that is gone, and record the end of its pod unless the pod did."""
        self._processes.pop(process.name, None)
        self._past.append(process)
        self._dead.append((process.name, pod.first_key, died_ns))
        journal = Journal(self._folder / JOURNALS / process.name)
        gone, heard, published = self._gone, len(journal.rows("deliveries")), len(journal.rows("publishes"))
        self._gone = Counts(gone.published + published, gone.delivered + heard, gone.calls + calls_made(journal))
        if (last := journal.read("pods")[-1:]) and last[0]["state"] not in ENDED:
            self._add_state(pod, process, died_ns, "aborted", "stopped", last[0]["clock_ahead_ns"])
        self._tell_ports()

    def record_state(self, pod: LocalReplica, state: str, at_ns: int) -> None:
        """Record a state that the pod cannot record itself; empty: the one that it recorded last."""
        assert pod.process is not None
        if last := Journal(self._folder / JOURNALS / pod.process.name).read("pods")[-1:]:
            self._add_state(pod, pod.process, at_ns, state or last[0]["state"], last[0]["bus"], last[0]["clock_ahead_ns"])

    def _add_state(self, pod: LocalReplica, process: HostProcess, at_ns: int, state: str, bus: str, clock_ahead_ns: int) -> None:
        self.recorder.tables["pods"].add(pod.name, pod.service, process.name, pod.channels, at_ns, state, bus, clock_ahead_ns)

    # -- what a host does --------------------------------------------------------------------------------------

    async def start(self, *, timeout_s: float) -> None:
        """Start every process and its pods.

        Raises
        ------
        HostError
            A process did not start.
        BrokerUnreachable, BrokerRefused
            A pod cannot connect or subscribe, or not in time.
        """
        self._meter = LoopMeter(self.recorder, self.name, self._failed)
        alone = self._scenario.killable_pods()
        first = [pod for pod in self._pods if pod.wanted.is_set()]
        for pod in first:
            if pod.name in alone:
                await pod.begin()
        shared = [pod for pod in first if pod.name not in alone]
        for place in range(min(self._scenario.hosts.processes, len(shared))):
            await self.launch(shared[place :: self._scenario.hosts.processes], name=f"local-{place}", killable=False, patient=False)
        try:
            async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as group:
                for process in list(self._processes.values()):
                    group.create_task(self.up(process))
        except TimeoutError:
            states = self.states()
            text = f"only {states['subscribed']} of {count(len(first), 'pod')} were subscribed within limits.start_s = {timeout_s:g} s"
            raise BrokerUnreachable(text) from None
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from None

    async def drive(self, schedule: Schedule, *, zero_ns: int, end_ns: int) -> int:
        """Make the pods' calls, those of a pod that starts later from then on; return how many were made by the end."""
        self._schedule = schedule
        self._driving = Drive(zero_ns, end_ns)
        for process in self._processes.values():
            process.drive(self._driving)
        await asyncio.sleep(max(0.0, (end_ns - now_ns()) / NS_PER_S))
        while waiting := [p.driven for p in self._processes.values() if p.driven is not None and not p.driven.done()]:
            await asyncio.wait(waiting)
        return self.counts().calls

    def read(self, reads: IntendedReads, *, zero_ns: int) -> None:
        """Read the pods' configuration at these times, that of a pod that starts later from then on."""
        self._reading = Read(zero_ns)
        for process in self._processes.values():
            process.read(self._reading)

    async def settle(self, *, timeout_s: float, last: bool = False, handled: bool = False) -> None:
        """Flush every pod's batch and wait for the answers, and for the handlers if wished; the last time, give up what pods still keep."""
        frozen = {pod.process for pod in self._pods if pod.frozen}
        settling = [process.ask(Settle(timeout_s, last, handled)) for process in self._processes.values() if process not in frozen]
        try:
            async with asyncio.timeout(3 * timeout_s + SETTLE_GRACE_S):
                await asyncio.gather(*settling)
        except TimeoutError:
            raise HostError(f"a process of pods did not flush within {duration(3 * timeout_s + SETTLE_GRACE_S)}") from None

    def listening(self) -> set[int]:
        """Return the numbers of the pods that run and do not stand still."""
        return {pod.number for pod in self._pods if pod.running and not pod.frozen}

    async def stop(self, *, timeout_s: float) -> None:
        """Stop every pod gracefully; one that stands still is killed."""
        self.closing = True
        alone = [pod for pod in self._pods if pod.process is not None and pod.process.killable]
        shared = [process for process in self._processes.values() if not process.killable]
        grace_s = 2.5 * timeout_s
        ended = await asyncio.gather(
            *(self._stop_shared(process, grace_s) for process in shared),
            *(pod.kill() if pod.frozen else pod.stop(grace_s=grace_s) for pod in alone),
            return_exceptions=True,
        )
        self._close_meter()
        for outcome in ended:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _stop_shared(self, process: HostProcess, grace_s: float) -> None:
        if not await process.stop(timeout_s=grace_s + DROP_TIMEOUT_S):
            raise HostError(f"the process {process.name} of pods did not end in order, what it had not written is lost: {process.tail()}")
        self._past.append(self._processes.pop(process.name))

    def abort(self) -> None:
        """Drop every connection at once; `close` returns when that is done."""
        self.closing = True
        for pod in self._pods:
            if pod.process is not None and pod.process.killable:
                pod.kill_now()
        for process in self._processes.values():
            process.drop()
        self._close_meter()

    def _close_meter(self) -> None:
        if self._meter is not None:
            self._meter.close()

    async def close(self) -> None:
        """End every process that is left, and write what those that kept a journal recorded.

        Raises
        ------
        HostError
            A process had to be killed, or failed, that had not written what it recorded. One whose pods never ran had nothing to write.
        RecordError
        """
        killed = [process for process in self._processes.values() if not await process.gone(DROP_TIMEOUT_S) and process.has_started]
        for process in (*self._processes.values(), *self._past):
            await process.close()
        self._processes.clear()
        await asyncio.to_thread(self._inherit)
        if killed:
            names = ", ".join(process.name for process in killed)
            raise HostError(f"the processes {names} of pods did not end in order, what they had not written is lost: {killed[0].tail()}")

    def _inherit(self) -> None:
        journals = self._folder / JOURNALS
        for name, first_key, died_ns in self._dead:
            its_ns = self._clocks.theirs(name, died_ns)
            inherit(Journal(journals / name), folder=self._folder, source=name, first_key=first_key, died_ns=its_ns)
        self._dead.clear()
        try:
            for file in sorted(journals.glob("**/*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            if journals.exists():
                journals.rmdir()
        except OSError as error:
            raise RecordError(f"cannot remove {journals}: {error.strerror or error}") from None

    def states(self) -> Counter[str]:
        """Return how many pods are in which state."""
        return Counter("frozen" if pod.frozen else pod.state for pod in self._pods if pod.wanted.is_set() or pod.running)

    def counts(self) -> Counts:
        """Return what the display shows; of the lags of the processes the greatest."""
        gone, live = self._gone, [process.progress for process in (*self._processes.values(), *(p for p in self._past if not p.killable))]
        calls = gone.calls + sum(one.calls for one in live)
        differ = self._clocks.differ  # then a process that hears cannot tell how late an event of another one is
        lags = [one.lag_ms_p99 for one in live if one.lag_ms_p99 is not None and not differ]
        return Counts(
            self.recorder.rows("publishes") + gone.published + sum(one.published for one in live),
            gone.delivered + sum(one.delivered for one in live),
            calls,
            max(lags, default=None),
            max(0, self._due() - calls),
        )

    def _due(self) -> int:
        if self._driving is None or self._schedule is None:
            return 0
        return int(np.searchsorted(self._schedule.offset_ns, now_ns() - self._driving.zero_ns, side="right"))

    def forget_lag(self) -> None:
        """Start the sampled lag anew."""
        for process in self._processes.values():
            process.send(ForgetLag())
