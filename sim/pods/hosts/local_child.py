"""A process that holds pods for a run: ``python -m sim.pods.hosts.local_child``.

`sim.pods.hosts.local` starts it; what they say to each other stands in `sim.pods.hosts.local_messages`. The pods, and all that they do,
are those of the host `inline`; what this file adds is the line, and the ends of the process. A process that may be killed records into a
journal, and its pods write down what they are about to do (`sim.pods.pod_journal`).
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sim.errors import BrokerRefused, BuslabError
from sim.machine.clock import new_event_loop
from sim.machine.garbage import freeze_the_living
from sim.machine.line import AsyncLine, Line, inherited_line
from sim.pods.clocks import MirrorClock, answering
from sim.pods.hosts.inline import HostedPods, InlineHost
from sim.pods.hosts.local_messages import (
    Answer,
    Cease,
    Drive,
    Entered,
    Failed,
    Failing,
    ForgetLag,
    Handlers,
    Hold,
    Order,
    PodProgress,
    Ports,
    ProbeHeard,
    Read,
    Settle,
    Skew,
    Told,
    Word,
)
from sim.pods.pod_journal import PodJournal, UnderWayJournal
from sim.record.journal import JournalRecorder
from sim.record.recorder import Recorder
from sim.scenario.own_code import scenario_of
from sim.wire.address import Address, parse_address

PROGRESS_PERIOD_S = 0.25


class Hosted:
    """This process's pods, and the end of the line that takes the run's orders."""

    def __init__(self, hold: Hold, line: AsyncLine) -> None:
        self._hold = hold
        self._line = line
        self._scenario = scenario_of(hold.scenario)
        places = sorted(hold.places[pod] for pod in hold.publishers)
        self._schedule = self._scenario.schedule().of_pods(places)  # computed now, because later it would delay pods that connect
        self._reads = self._scenario.reads().of_pods(places)
        self._analytics_ports: list[int] = []
        self._tasks: set[asyncio.Task[None]] = set()
        names = [name for name, _ in self._scenario.pods()]
        recorder, new_journal = _new_record(hold, names)
        share = HostedPods(
            name=hold.name,
            recorder=recorder,
            publishers=hold.publishers,
            places=hold.places,
            address=self._address_of,
            entered=lambda pod, state, bus: self._say(Entered(pod, state, bus in ("connected", "memory-only"), bus)),
            ports=lambda: self._analytics_ports,
            new_journal=new_journal,
        )
        self._address = parse_address(hold.urls)
        self._clock = answering(hold.name, runs_clock=hold.clock, at=hold.echo)
        if self._clock is not None:
            self._say(self._clock.says)
        self._host = InlineHost(
            self._scenario,
            address=self._address,
            folder=Path(hold.folder),
            nonce=hold.nonce,
            run_id=hold.run_id,
            probed=lambda pod, channel, round: self._say(ProbeHeard(pod, channel, round)),
            failed=lambda error: self._say(Failed(str(error))),
            share=share,
        )

    def _address_of(self, pod: int) -> Address:
        if pod in self._hold.links:
            return parse_address(self._hold.links[pod])
        return self._address.from_node(pod)

    def _say(self, word: Word) -> None:
        self._line.send(word)

    async def run(self) -> None:
        """Carry out orders until the run wants no more, and keep the record; return when nothing is left to do."""
        terminated = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
        self._begin(self._progress())
        self._begin(self._carry_out(self._hold))
        listening = asyncio.ensure_future(self._listen())
        asked = asyncio.ensure_future(terminated.wait())
        await asyncio.wait({listening, asked}, return_when=asyncio.FIRST_COMPLETED)
        if terminated.is_set():
            await self._host.stop(timeout_s=0.4 * self._hold.grace_s)
        else:
            self._host.abort()
        if self._clock is not None:
            self._clock.close()
        for task in (listening, asked, *self._tasks):
            task.cancel()
        await asyncio.gather(listening, asked, *self._tasks, return_exceptions=True)
        try:
            self._host.recorder.close()
        except BuslabError as error:
            self._say(Failed(str(error)))
        self._say(self._how_far())
        await self._line.finish()

    def _begin(self, work: asyncio._CoroutineLike[None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._say(Failed(str(error) if isinstance(error, BuslabError) else f"{type(error).__name__}: {error}"))

    async def _listen(self) -> None:
        async for order in self._line.messages(Order):
            if isinstance(order, Drive | Settle):
                self._begin(self._carry_out(order))
            else:
                await self._carry_out(order)

    async def _carry_out(self, order: Order) -> None:
        host = self._host
        if isinstance(order, Hold):
            await self._start(order)
        elif isinstance(order, Drive):
            await self._drive(order)
        elif isinstance(order, Read):
            host.read(self._reads.since(order.since_ns - order.zero_ns), zero_ns=order.zero_ns)
        elif isinstance(order, Settle):
            await host.settle(timeout_s=order.timeout_s, last=order.last, handled=order.handled)
            self._say(Answer(order.id))
        elif isinstance(order, Ports):
            self._analytics_ports = order.ports
        elif isinstance(order, ForgetLag):
            host.forget_lag()
        elif isinstance(order, MirrorClock):
            assert self._clock is not None
            self._clock.mirror(self._address, order)
        else:
            await self._tell(order)
            self._say(Answer(order.id))

    async def _start(self, hold: Hold) -> None:
        for told in hold.told:
            await self._tell(told)
        freeze_the_living()
        try:
            await self._host.start(timeout_s=hold.timeout_s, patient=hold.patient)
        except BuslabError as error:
            self._say(Answer(hold.id, str(error), isinstance(error, BrokerRefused)))
            return
        self._say(Answer(hold.id, ports={name: c.port for name, c in self._host.replicas.items() if c.port}))

    async def _drive(self, order: Drive) -> None:
        schedule = self._schedule.since(order.since_ns - order.zero_ns)
        await self._host.drive(schedule, zero_ns=order.zero_ns, end_ns=order.end_ns)
        self._say(self._how_far())
        self._say(Answer(order.id))

    async def _tell(self, told: Told | Cease) -> None:
        replica = self._host.replicas[told.pod]
        if isinstance(told, Cease):
            self._host.cease(told.pod)
        elif isinstance(told, Handlers):
            await replica.slow(handler_ms=told.handler_ms, at_once=told.at_once)
        elif isinstance(told, Failing):
            await replica.fail(told.failing)
        elif isinstance(told, Skew):
            await replica.skew(told.skew_ms)

    def _how_far(self) -> PodProgress:
        counts = self._host.counts()
        return PodProgress(counts.published, counts.delivered, counts.calls, counts.lag_ms_p99)

    async def _progress(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_PERIOD_S)
            self._say(self._how_far())


def _new_record(hold: Hold, names: list[str]) -> tuple[Recorder, Callable[[str], PodJournal | None]]:
    """Return the recorder of the process, and what gives its pods their journals."""
    if not hold.killable:
        return Recorder(Path(hold.folder), source=hold.name, pods=names), lambda pod: None
    recorder = JournalRecorder(Path(hold.folder), source=hold.name, pods=names)
    return recorder, partial(UnderWayJournal, recorder)


async def serve(line: Line) -> None:
    """Run pods until the run wants no more."""
    to_run = await line.to_async()
    async for hold in to_run.messages(Hold):
        try:
            hosted = Hosted(hold, to_run)
        except BuslabError as error:  # code of the user's may raise for this pod and for no other
            to_run.send(Answer(hold.id, str(error)))
            await to_run.finish()
            return
        await hosted.run()
        return


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve(inherited_line(name="the run")))
