"""A fleet with programs of the user's own: each a process behind a tap, beside pods of ours in this process (`sim.pods.programs`).

Rules
-----
1. Pods keep their numbers: those of ours live on the host `inline`, which knows nothing of the others.
2. A program is sampled as any process of the lab: how much processor it used, and how long it waited for a core.
3. Every second its sockets are looked at: one that leads to the broker and not through its tap is written down (`own_connections`).
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sim.errors import BrokerError, BuslabError, HostError, UsageError
from sim.grounds.links import Links
from sim.machine.clock import now_ns
from sim.machine.http_server import HttpLimits, HttpServer
from sim.machine.process_group import GroupGuard
from sim.machine.waits import OtherWaits
from sim.machine.words import count, duration
from sim.pods.clocks import Clocks
from sim.pods.hosts.inline import InlineHost
from sim.pods.hosts.meters import Counts
from sim.pods.programs.books import PodBook, ProgramBooks
from sim.pods.programs.own_connections import ports_of_clients, round_the_tap
from sim.pods.programs.replica import ProgramEvents, ProgramPod, ProgramReplica
from sim.pods.programs.reports import handled_endpoint
from sim.pods.programs.tap_messages import ConnectionClosed, ConnectionJoined, ProgramHeard, ProgramPublished, TapRows
from sim.pods.programs.taps import ProgramTaps
from sim.record.recorder import Tamper
from sim.record.run_info import LostProcess, ProgramLife
from sim.scenario.file import Scenario
from sim.scenario.schedule import IntendedReads, Schedule
from sim.wire.address import Address, free_port
from sim.wire.command_client import CommandClient

LOGS = "programs"  # the folder of their output in the run folder
SAMPLE_S = 0.25
LOOK_S = 1.0
STARTING_AT_ONCE = 8
QUIET_S = 0.3
HANDLE_S = 10.0  # programs have so long, at the end, to handle what they were given
NO_LOOP = -1  # in place of a lateness
MOST_SHOWN = 5  # connections of one program that go round its tap


class ProgramsHost:
    """The programs of a run and its other pods.

    `replicas`: by pod name, in the order of the pods' numbers. `lives`: of programs, those that have ended.
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
        probed_by_key: Callable[[int, str, int], None],
        prober: int,
        failed: Callable[[BuslabError], None],
        tamper: Tamper | None = None,
        links: Links | None = None,
        clocks: Clocks | None = None,
    ) -> None:
        if not isinstance(links, ProgramTaps):
            raise UsageError("programs need taps, and this run has none")
        self._taps, self._scenario, self._address, self._run_id = links, scenario, address, run_id
        self._ours = InlineHost(
            scenario,
            address=address,
            folder=folder,
            nonce=nonce,
            run_id=run_id,
            probed=probed,
            failed=failed,
            tamper=tamper,
            links=links.others,
            clocks=clocks,
        )
        self.name, self.recorder = self._ours.name, self._ours.recorder
        self.lost: list[LostProcess] = []  # none: all of them are on this machine
        self.lives: list[ProgramLife] = []
        self._failed = failed
        self._guard = GroupGuard()
        self._tasks: list[asyncio.Task[None]] = []
        self._accounts: dict[str, OtherWaits] = {}
        self._client: CommandClient | None = None
        self._logs = folder / LOGS
        numbered = [(number, name, service) for number, (name, service) in enumerate(scenario.pods())]
        mine = [one for one in numbered if scenario.services[one[2]].command]
        reporting = {number for number, _, service in mine if scenario.services[service].reports_handled}
        self.books = ProgramBooks(
            self.recorder,
            names={number: name for number, name, _ in mine},
            reporting=reporting,
            channels=set(scenario.channels),
            nonce=nonce,
            prober=prober,
            publishers=self._ours.publishers,
            probed=probed_by_key,
        )
        posts = {f"/handled/{number}": self._endpoint(number) for number in reporting}
        self._http = HttpServer(posts, limits=HttpLimits(connections=4096, connections_of_client=4096))
        self._variables: list[tuple[int, dict[str, str]]] = []  # of each program, by its pod's number
        self.programs: dict[str, ProgramReplica] = {}
        self._make_programs(mine)
        self._by_number = {program.pod.number: program for program in self.programs.values()}
        both: dict[str, Any] = {**self._ours.replicas, **self.programs}
        self.replicas: dict[str, Any] = {name: both[name] for _, name, _ in numbered}
        links.take, links.failed = self._take, failed

    def _make_programs(self, pods: list[tuple[int, str, str]]) -> None:
        """Make the programs, none of which runs yet; each pod by its number, its name and its service."""
        first = len(self._scenario.first_pods())
        events = ProgramEvents(self._entered, self.books.reported, self._ended, self.lives.append)
        taken: set[int] = set()
        for number, name, service in pods:
            while (port := free_port()) in taken:
                pass
            taken.add(port)
            variables = {"REDIS_URL": self._taps.address(number).url, "POD_NAME": name, "PORT": str(port)}
            self._variables.append((number, variables))
            settings = self._scenario.services[service]
            pod = ProgramPod(name, number, service, settings, port, variables, self._logs, self._scenario.bus.channel_prefix)
            self.programs[name] = ProgramReplica(
                pod, events=events, guard=self._guard, deployed=number < first, start_s=self._scenario.limits.start_s, fleet=self.programs
            )

    def _endpoint(self, number: int) -> dict[str, Any]:
        return {"POST": handled_endpoint(lambda event, at_ns: self.books.reported(number, event, at_ns), now_ns)}

    # -- what is told ------------------------------------------------------------------------------------------

    def _take(self, rows: TapRows) -> None:
        """Take what the taps tell."""
        try:
            for one in rows.told:
                if isinstance(one, ProgramHeard):
                    self.books.heard(one)
                elif isinstance(one, ProgramPublished):
                    self.books.published(one)
                elif isinstance(one, ConnectionJoined):
                    self._by_number[one.pod].joined(one.connection, one.at_ns, set(one.channels), set(one.patterns))
                else:
                    self._left(one)
        except BuslabError as error:
            self._failed(error)

    def _left(self, one: ConnectionClosed) -> None:
        program = self._by_number[one.pod]
        program.unread += one.unread
        self.books.closed(one.pod, one.connection)
        if one.end == "cut":  # the broker tells nobody whom it cut; the tap saw what stood unread
            self.recorder.tables["broker"].add(one.at_ns, "buffer_cuts", program.name, 1.0)
        program.left(one.connection, one.at_ns)

    def _entered(self, program: ProgramReplica, at_ns: int, state: str) -> None:
        pod = program.pod
        channels = ",".join(pod.settings.subscribes)
        self.recorder.tables["pods"].add(pod.name, pod.service, program.host, channels, at_ns, state, program.bus, 0)

    def _ended(self, program: ProgramReplica) -> PodBook:
        return self.books.ended(program.pod.number, in_time_ns=program.in_time_ns)

    # -- samples -----------------------------------------------------------------------------------------------

    async def _sample(self) -> None:
        while True:
            for program in self.programs.values():
                if program.pid:
                    at_ns = now_ns()
                    cpu_ns, waits = self._accounts.setdefault(program.host, OtherWaits()).sample(program.pid, at_ns)
                    if not math.isnan(cpu_ns):
                        self.recorder.tables["hosts"].add(at_ns, program.host, int(cpu_ns), NO_LOOP, *waits)
            await asyncio.sleep(SAMPLE_S)

    async def _look_round(self) -> None:
        """Look, again and again, whether a program has connections that go round its tap."""
        ports = {node.port for node in self._address.nodes}
        client = self._client = CommandClient(self._address, name=f"buslab-{self._run_id}-programs")
        while True:
            clients: set[int] | None = None
            try:
                listing = await client.ask("CLIENT", "LIST")
                clients = ports_of_clients(listing if isinstance(listing, bytes) else str(listing).encode())
            except BrokerError:
                pass  # it is away, or does not show its clients
            for program in self.programs.values():
                if program.pid and not program.frozen and len(program.round_tap) < MOST_SHOWN:
                    found = await asyncio.to_thread(round_the_tap, program.pid, broker_ports=ports, clients=clients)
                    program.round_tap += [one for one in found if one not in program.round_tap][:MOST_SHOWN]
            await asyncio.sleep(LOOK_S)

    # -- what a host does --------------------------------------------------------------------------------------

    async def start(self, *, timeout_s: float) -> None:
        """Start every pod; return when all of them are up.

        Raises
        ------
        HostError
            A program cannot be started, has ended, or is not up in time.
        BrokerUnreachable, BrokerRefused
            A pod of ours cannot connect or subscribe.
        """
        self._logs.mkdir(exist_ok=True)
        await self._http.start("127.0.0.1", 0)
        for number, variables in self._variables:
            variables["BUSLAB_HANDLED_URL"] = f"http://127.0.0.1:{self._http.port}/handled/{number}"
        loop = asyncio.get_running_loop()
        self._tasks += [loop.create_task(self._sample())]
        slots = asyncio.Semaphore(STARTING_AT_ONCE)

        async def begin(program: ProgramReplica) -> None:
            async with slots:
                await program.begin()

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._ours.start(timeout_s=timeout_s))
                for program in self.programs.values():
                    if program.wanted.is_set():
                        group.create_task(begin(program))
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from None
        self._tasks += [loop.create_task(self._look_round())]

    async def drive(self, schedule: Schedule, *, zero_ns: int, end_ns: int) -> int:
        """Make the calls of the pods of ours; programs decide by themselves what they send."""
        return await self._ours.drive(schedule, zero_ns=zero_ns, end_ns=end_ns)

    def read(self, reads: IntendedReads, *, zero_ns: int) -> None:
        """Read the configuration of the pods of ours at these times."""
        self._ours.read(reads, zero_ns=zero_ns)

    async def settle(self, *, timeout_s: float, last: bool = False, handled: bool = False) -> None:
        """Flush the batch of every pod of ours, and wait for the answers; what a program keeps, it sends when it is told to stop."""
        await self._ours.settle(timeout_s=timeout_s, last=last, handled=handled)
        await self._taps.flush()

    def listening(self) -> set[int]:
        """Return the numbers of the pods that run and do not stand still."""
        mine = {one.pod.number for one in self.programs.values() if one.running and not one.frozen}
        return self._ours.listening() | mine

    async def stop(self, *, timeout_s: float) -> None:
        """Stop every pod gracefully, programs by their own signals and grace periods; one that stands still is killed."""
        await self._handle_on()
        stopping = [one.kill() if one.frozen else one.stop() for one in self.programs.values()]
        ended = await asyncio.gather(self._ours.stop(timeout_s=timeout_s), *stopping, return_exceptions=True)
        self._end_tasks()
        await self._taps.flush()
        for outcome in ended:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _handle_on(self) -> None:
        """Return when programs have reported all that they were given, or nothing for a moment: what they keep may be on purpose."""
        left, deadline_ns = self.books.waiting(), now_ns() + int(HANDLE_S * 1e9)
        while left and now_ns() < deadline_ns:
            await asyncio.sleep(QUIET_S)
            before, left = left, self.books.waiting()
            if left == before:
                break

    def abort(self) -> None:
        """Drop every connection, and kill every program, at once; `close` returns when that is done."""
        self._ours.abort()
        for program in self.programs.values():
            program.abort()
        self._end_tasks()

    def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()
        for account in self._accounts.values():
            account.close()
        self._accounts.clear()

    async def close(self) -> None:
        """Kill the programs that are left, and end what listens for them.

        Raises
        ------
        HostError
            The kernel does not end one of them.
        """
        self._end_tasks()
        errors = []
        for program in self.programs.values():
            try:
                await program.finish()
            except HostError as error:
                errors.append(error)
        await self._taps.flush()
        if self._client is not None:
            self._client.close()
        await self._http.close()
        await asyncio.to_thread(self._guard.close)
        await self._ours.close()
        if errors:
            raise errors[0]

    def states(self) -> Counter[str]:
        """Return how many pods are in which state."""
        mine = Counter("frozen" if p.frozen else p.state for p in self.programs.values() if p.wanted.is_set() or p.running)
        return self._ours.states() + mine

    def counts(self) -> Counts:
        """Return what the display shows; the lag is that of pods of ours."""
        return self._ours.counts()

    def forget_lag(self) -> None:
        """Start the live lag anew, at time zero."""
        self._ours.forget_lag()

    @property
    def notes(self) -> list[str]:
        """Sentences for the reader of the run."""
        told = []
        for one in self.lives:
            if one.end == "by-itself":
                at_s = (one.ended_ns - one.started_ns) / 1e9
                told.append(f"{one.pod} ended by itself, {duration(at_s)} after its start, {one.why}")
            elif one.end == "after-grace":
                told.append(f"{one.pod} did not end in its grace period and was killed")
        if left := sum(one.left_out for one in self.lives):
            told.append(f"programs printed more than is kept: {count(left, 'byte')} of their output were left out of {LOGS}/")
        return told
