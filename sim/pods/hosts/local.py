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
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from sim.errors import BrokerUnreachable, BuslabError, HostError, MachineLost, RecordError, UsageError
from sim.grounds.links import Links
from sim.machine.clock import NS_PER_MS, NS_PER_S, now_ns
from sim.machine.words import count, duration
from sim.pods.clocks import Clocks
from sim.pods.hosts.local_messages import Drive, Entered, Failed, ForgetLag, Hold, Ports, ProbeHeard, Read, Settle, Skew, Word
from sim.pods.hosts.local_process import HostProcess, LocalEnd, ProcessEnd, Start
from sim.pods.hosts.local_replica import LocalReplica
from sim.pods.hosts.meters import Counts, LoopMeter
from sim.pods.hosts.places import Places
from sim.pods.pod import ENDED
from sim.pods.pod_journal import calls_made, inherit
from sim.pods.replica import GRACE_S, next_publisher
from sim.record.journal import JOURNALS, Journal
from sim.record.recorder import PARTS, Recorder, Tamper
from sim.record.run_info import LostProcess
from sim.record.schema import HTTP_CALL, compose_key
from sim.scenario.file import Scenario
from sim.scenario.schedule import IntendedReads, Schedule
from sim.wire.address import Address

DROP_TIMEOUT_S = 5.0  # a process may take so long to write its record after its pods were dropped
SETTLE_GRACE_S = 5.0


class LocalHost:
    """The processes of pods, and what the run itself records beside them.

    `replicas`: by pod name, in the order of the pods' numbers. `lost`: the processes that the run has gone on without.
    A `name` is that of the run's own process in the tables, and that of the others begins with it; `start` starts one of them on this
    machine, and `processes` is over how many the pods are spread that nothing ends.
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
        places: Places | None = None,
        clocks: Clocks | None = None,
        name: str = "local",
        start: Start = LocalEnd.start,
        processes: int | None = None,
    ) -> None:
        if tamper is not None:
            raise UsageError("the self-audit plants errors in the record of this process: it needs hosts.kind = 'inline'")
        pods = scenario.pods()
        self.name = name if places is None else places.name
        self._start_one, self._many = start, scenario.hosts.processes if processes is None else processes
        self.recorder = Recorder(folder, source=self.name, pods=[name for name, _ in pods])
        self.replicas: dict[str, LocalReplica] = {}
        first_pods = len(scenario.first_pods())
        for number, (name, service) in enumerate(pods):
            channels = ",".join(scenario.services[service].subscribes)
            deployed = number < first_pods
            self.replicas[name] = LocalReplica(self, name, number=number, service=service, channels=channels, deployed=deployed)
        self.closing = False
        self._pods = list(self.replicas.values())
        self._places = places
        self._scenario, self._tree = scenario, msgspec.to_builtins(scenario)
        self._address, self._links = address, links
        self._clocks = clocks or Clocks(address, run_id=run_id)
        self._folder, self._nonce, self._run_id = folder, nonce, run_id
        self._probed, self._failed = probed, failed
        self._publishers = itertools.count(len(pods))  # for further incarnations, because event keys are unique in a run
        self._processes: dict[str, HostProcess] = {}  # those that run, by name
        self._past: list[HostProcess] = []  # those that were killed or stopped; what they sent last is read at the end
        self._dead: list[tuple[str, int, int]] = []  # journals to inherit: name, first key, when it died
        self._failed_late: list[HostError] = []
        self._gaps: list[HostProcess] = []  # those that were lost with their machines, while the run went on
        self.lost: list[LostProcess] = []
        self._gone = Counts()  # the counts of those that are gone
        self._driving: Drive | None = None
        self._reading: Read | None = None
        self._schedule: Schedule | None = None
        self._meter: LoopMeter | None = None
        self._posts = any(kind == HTTP_CALL and weight > 0 for kind, weight in scenario.load.mix.items())

    # -- processes ---------------------------------------------------------------------------------------------

    async def launch(self, pods: list[LocalReplica], *, name: str, killable: bool, patient: bool, place: int = 0) -> HostProcess:
        """Start a process that holds these pods; `up` says when they run. `place` is that of pods that share a process."""
        if self._places is None:
            end: ProcessEnd = await self._start_one(name, folder=self._folder)
        else:
            end = await self._places.open(name, self._places.place_of(pods[0].name) if killable else place)
        publishers = {p.number: p.number if not p.first_key else next_publisher(p.name, self._publishers) for p in pods}
        for pod in pods:
            pod.first_key = compose_key(nonce=self._nonce, publisher=publishers[pod.number], sequence=0)
        hold = Hold(
            scenario=self._tree | ({"code_folder": end.code_folder} if end.code_folder else {}),
            name=name,
            folder=end.folder,
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
            echo=end.echo_at,
        )
        process = self._processes[name] = await HostProcess.open(hold, end=end, take=self._take, lost=self._lost, clocks=self._clocks)
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
                if self._places is not None:
                    pod.seen.append((now_ns(), word.state, word.bus))
        elif isinstance(word, Failed):
            error = HostError(word.error)
            self._failed(error)
            if self.closing:  # the run ends already: nobody looks whether it has failed
                self._failed_late.append(error)

    def _lost(self, process: HostProcess, error: BuslabError) -> None:
        if isinstance(error, MachineLost):
            self._leave_out(process, error)
            return
        for pod in self._pods:
            if pod.process is process and process.killable:
                pod.bury("aborted")
        if self._processes.pop(process.name, None) is not None:
            self._past.append(process)
        self._failed(error)

    def _leave_out(self, process: HostProcess, error: MachineLost) -> None:
        """Take in that a process is lost with its machine: its pods are aborted now, and what they did not hand over is a gap.

        The run goes on without it where the scenario says so, and there is a way to other machines.
        """
        if process in self._gaps:
            return
        self._processes.pop(process.name, None)
        self._gaps.append(process)
        at_ns = now_ns()
        for pod in self._pods:
            if pod.process is process and not pod.ended.is_set():
                pod.seen.append((at_ns, "aborted", "stopped"))
                pod.ended.set()
                pod.wanted.clear()  # nothing can start it again
                pod.port, pod.frozen, pod.state, pod.ready = 0, False, "aborted", False
        self._state_gap(process, error, at_ns)
        self._tell_ports()
        began = process.has_started or self._driving is not None
        if self._scenario.hosts.on_loss == "fail" or error.every or not began:
            self._failed(error)

    def _state_gap(self, process: HostProcess, error: BuslabError, at_ns: int) -> None:
        """Record what the run itself knows of the pods of a process whose own record is lost."""
        pods = [pod for pod in self._pods if pod.process is process]
        for pod in pods:
            for seen_ns, state, bus in pod.seen:
                self._add_state(pod, process, seen_ns, state, bus, 0)
        calls = 0
        if self._driving is not None and self._schedule is not None:
            theirs = self._schedule.of_pods(sorted(pod.place for pod in pods)).offset_ns
            calls = int(np.searchsorted(theirs, at_ns - self._driving.zero_ns, side="right"))
        publishers = sorted(pod.first_key >> 32 & 0xFFFF for pod in pods)
        self.lost.append(LostProcess(process.name, [pod.name for pod in pods], publishers, calls, at_ns, str(error)))

    async def _bring_home(self, places: Places) -> None:
        """Fetch what the processes wrote; of one that does not come whole nothing counts."""
        at_ns = now_ns()
        missing = await places.bring_home(self._folder)
        await places.stop_listening()
        for name, error in missing.items():
            for part in (self._folder / PARTS).glob(f"*-{name}-[0-9]*.parquet"):
                part.unlink()
            for process in {pod.process for pod in self._pods if pod.process is not None and pod.process.name == name}:
                self._state_gap(process, error, at_ns)
        for error in missing.values():
            raise error

    def buried(self, pod: LocalReplica, process: HostProcess, died_ns: int) -> None:
        """Note what is needed to inherit a process that is gone, and record the end of its pod unless the pod did."""
        if process.lost is not None:
            self._leave_out(process, process.lost)
            return
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
        if self._places is not None:  # its journal is on its machine
            ahead = pod.told.get("Skew")
            ahead_ns = round(ahead.skew_ms * NS_PER_MS) if isinstance(ahead, Skew) else 0
            for _, last_state, bus in pod.seen[-1:]:
                self._add_state(pod, pod.process, at_ns, state or last_state, bus, ahead_ns)
        elif last := Journal(self._folder / JOURNALS / pod.process.name).read("pods")[-1:]:
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
        if self._places is not None:
            self._places.listen(self._folder)
        alone = self._scenario.killable_pods(None if self._places is None else self._places.place_of)
        first = [pod for pod in self._pods if pod.wanted.is_set()]
        for pod in first:
            if pod.name in alone:
                await pod.begin()
        await self._launch_shared([pod.name for pod in first if pod.name not in alone])
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

    async def _launch_shared(self, pods: list[str]) -> None:
        many = self._many
        if self._places is not None:
            spread = self._places.spread(pods, processes=many)
        else:
            spread = [(f"{self.name}-{place}", place, pods[place::many]) for place in range(min(many, len(pods)))]
        try:
            async with asyncio.TaskGroup() as group:
                for name, place, held in spread:
                    replicas = [self.replicas[pod] for pod in held]
                    group.create_task(self.launch(replicas, name=name, killable=False, patient=False, place=place))
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
        settling = [
            self._unless_lost(process, process.ask(Settle(timeout_s, last, handled)))
            for process in self._processes.values()
            if process not in frozen
        ]
        try:
            async with asyncio.timeout(3 * timeout_s + SETTLE_GRACE_S):
                await asyncio.gather(*settling)
        except TimeoutError:
            raise HostError(f"a process of pods did not flush within {duration(3 * timeout_s + SETTLE_GRACE_S)}") from None

    async def _unless_lost(self, process: HostProcess, answer: Coroutine[Any, Any, object]) -> None:
        """Wait for an answer; from a process that the run has gone on without, none will come."""
        try:
            await answer
        except MachineLost:
            if process not in self._gaps:
                raise

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
            if (lost := process.lost) is not None and self._scenario.hosts.on_loss == "count":
                self._leave_out(process, lost)
                return
            raise HostError(f"the process {process.name} of pods did not end in order, what it had not written is lost: {process.tail()}")
        self._past.append(self._processes.pop(process.name))

    def abort(self) -> None:
        """Drop every connection at once; `close` returns when that is done."""
        self.closing = True
        for pod in self._pods:
            if pod.process is not None and pod.process.killable and (pod.frozen or self._places is None):
                pod.process.kill()
                if self._places is None:
                    pod.bury("aborted")
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
        MachineLost
            One was lost with its machine only now, and the run is not to go on without it.
        RecordError
        """
        every, other_lost = list(self._processes.values()), bool(self._gaps)
        ended = [one for one in every if not await one.gone(DROP_TIMEOUT_S) and one.has_started and not one.killable]
        late = [(one, lost) for one in ended if (lost := one.lost) is not None]
        killed = [one for one in ended if one.lost is None]
        for one, lost in late:  # what it had not handed over is stated, as of those whose loss ended the run
            self._leave_out(one, lost)
        if self._places is not None:
            for pod in self._pods:  # those that were dropped have ended, and their journals are on their machines
                if pod.process is not None and pod.process.killable:
                    await pod.kill()
        for process in (*self._processes.values(), *self._past, *self._gaps):
            await process.close()
        self._processes.clear()
        if self._places is not None:
            await self._bring_home(self._places)
        await asyncio.to_thread(self._inherit)
        if self._failed_late:
            raise self._failed_late[0]
        if late and not other_lost and self._scenario.hosts.on_loss == "fail":
            raise late[0][1]
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
