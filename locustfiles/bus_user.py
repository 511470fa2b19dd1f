"""Locust users that publish the reference's events, open loop, by a schedule of intended times.

::

    locust -f locustfiles/bus_user.py --headless -u 20 -r 5 -t 30s --scenario baseline

starts broker and fleet in child processes, drives them, lets the run drain, judges it, and ends with the verdict's exit code: 0 valid,
1 invalid and nothing else, 2 unknown or an error. ``buslab run`` starts the same file as its own child. Either way the run folder is the
same.

Each user plays a publishing pod: one connection, one batch, one sequence of events. With fewer users than such pods a user
plays several; with more, several users share a pod's calls. More users do not make more load: the scenario's rate does.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import _path  # noqa: F401  - before whatever the working directory may hold in the place of what comes below
import gevent
from _crew import Hand, Lead, join_crew
from _launch import (
    END_TIMEOUT_S,
    INTERRUPTED,
    Child,
    Grounds,
    RunShape,
    Signals,
    Tables,
    add_options,
    check_options,
    end_with_parent,
    end_workers,
    leave_1_to_the_verdict,
)
from _play import Play, Wait, log
from locust import User, events, task
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner

from sim.errors import BuslabError
from sim.machine.clock import NS_PER_S, now_ns
from sim.machine.line import CONTROL_FD, inherited_line
from sim.machine.signals import endings_heard
from sim.machine.words import count, duration
from sim.pods.blocking_client import BusClient
from sim.run.locust_messages import LoadJob
from sim.scenario.schedule import Schedule

LATE_GRACE_NS = 2 * NS_PER_S  # calls are given up this long after the schedule's end
STOP_TIMEOUT_S = 5.0


class BusUser(User):
    """A user that plays one or more publishing pods."""

    def on_start(self) -> None:
        """Take a number, wait for the job, and connect."""
        self.wait = Wait()
        self.clients: dict[int, BusClient] = {}
        self.playing = False
        hand: Hand = self.environment.buslab.hand  # type: ignore[attr-defined]
        number = hand.take_number()
        play: Play | None = hand.play.get()
        if play is None or number >= play.here:
            return  # there is nothing to do: `publish` ends this user
        self.play, self.playing = play, True
        self.pods, self.part, self.parts = play.share(play.first + number)
        play.waits.append(self.wait)
        try:
            self.clients = {pod: play.client(pod, self.part) for pod in self.pods}
        except BuslabError as error:
            play.fail(str(error))
            return  # raised here, Locust would log it with its traceback; `publish` ends this user instead
        play.came()

    @task
    def publish(self) -> None:
        """Make this user's calls at their intended times, then leave."""
        if not self.playing or self.play.error:
            raise StopUser
        play = self.play
        zero_ns = play.zero_ns.get()
        if not play.stopping:
            end_ns = zero_ns + round((play.scenario.load.warm_up_s + play.scenario.load.run_s) * NS_PER_S)
            self._play(play.schedule.of_pods(self.pods, part=self.part, parts=self.parts), zero_ns, end_ns)
        raise StopUser

    def _play(self, calls: Schedule, zero_ns: int, end_ns: int) -> None:
        play, kinds = self.play, calls.kinds
        rows = zip((calls.offset_ns + zero_ns).tolist(), calls.kind.tolist(), calls.pod.tolist(), strict=True)
        for number, (at_ns, kind, pod) in enumerate(rows):
            self._wait_until(at_ns)
            if now_ns() > end_ns + LATE_GRACE_NS:
                return  # the generator is saturated; the checker `harness` will say so
            name = kinds[kind]
            play.calls += 1
            play.report(self.clients[pod].call(name, play.contents[name](number), intended_ns=at_ns))
        self._wait_until(end_ns)

    def _wait_until(self, at_ns: int) -> None:
        """Wait, sending part-full batches that fall due meanwhile."""
        while True:
            due_ns = min((c.due_ns for c in self.clients.values() if c.due_ns is not None), default=at_ns)
            self.wait.until(min(at_ns, due_ns))
            if self.play.stopping:
                raise StopUser
            if due_ns >= at_ns:
                return
            for client in self.clients.values():
                self.play.report(client.tick())

    def on_stop(self) -> None:
        """Flush and disconnect."""
        for client in self.clients.values():
            self.play.report(client.close())
        self.wait.close()
        if self.playing:
            self.play.left()


class State:
    """What this process has of the crew: its hand and, where it leads, the lead, the run that it started, and Locust's tables of it."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.run_s: float | None = None
        self.hand = Hand(environment)
        self.grounds = Grounds()
        self.grounds.hide(environment)
        self.lead: Lead | None = None
        self.child: Child | None = None
        self.tables: Tables | None = None
        leads = environment.parsed_options.headless and not isinstance(environment.runner, WorkerRunner)
        end = self._end if leads else partial(os.kill, os.getpid(), signal.SIGTERM)  # Locust ends in order on it
        self.signals = Signals(end, *(number for number in endings_heard() if leads or number != signal.SIGTERM))

    def begin(self) -> None:
        """Start the run, or take the line to the one that started this process."""
        if CONTROL_FD in os.environ:
            line = inherited_line(name="the run")
            self.lead = Lead(self.environment, line, began=lambda job: None, ended=self._leave, waits=False)
            return
        self.environment.process_exit_code = 2  # until the run says otherwise: Locust's own would be 1 where a publish failed
        self.child = Child(self.environment, run_s=self.run_s, grounds=self.grounds)
        self.lead = Lead(self.environment, self.child.line, began=self._keep_tables, ended=self._ended, waits=True)

    def _keep_tables(self, job: LoadJob) -> None:
        self.tables = Tables(self.environment, Path(job.folder))

    def _ended(self) -> None:
        assert self.child is not None and self.lead is not None
        job = self.lead.job
        self.environment.process_exit_code = self.child.wait(None if job is None else Path(job.folder))
        self._leave()

    def _leave(self) -> None:
        options, runner = self.environment.parsed_options, self.environment.runner
        if options.headless:
            gevent.spawn(runner.quit)
        else:
            self.say()
            gevent.spawn(runner.stop)

    def _end(self) -> None:
        if self.lead is None:
            self.give_up(INTERRUPTED, "interrupted before there was a run")
        self.interrupt()
        self.environment.runner.quit()

    def give_up(self, code: int, why: str) -> NoReturn:
        """End before there was a run, and tell the workers that came."""
        log.error("%s", why)
        self.environment.runner.quit()
        sys.exit(code)

    def await_workers(self, wait_s: float) -> None:
        """End with 2 when too few workers come in time; Locust would end with 1, as for a broken limit."""
        gevent.sleep(wait_s)
        came, expected = len(self.environment.runner.clients.ready), self.environment.parsed_options.expect_workers
        if self.lead is None and came < expected:
            self.give_up(2, f"{came} of {count(expected, 'worker')} came within {duration(wait_s)} (--expect-workers-max-wait)")

    def interrupt(self) -> None:
        """End a run that is still going on, in order, and wait until it is sealed."""
        if self.child is None or self.lead is None or self.lead.greenlet.ready():
            return
        self.child.interrupt(begun=self.lead.job is not None)
        self.lead.greenlet.join(END_TIMEOUT_S)
        self.child.kill()

    def quit(self) -> None:
        """Print the verdict below Locust's own tables, and write the tables once more with what workers reported last."""
        if not self.environment.parsed_options.json:  # printing the JSON has reset the numbers
            self.write()
        self.say()

    def write(self) -> None:
        """Write Locust's tables into the run folder."""
        if self.tables is not None:
            self.tables.write()

    def say(self) -> None:
        """Print the verdict, once; with --json to stderr, so that stdout stays JSON."""
        if self.child is not None and self.child.said:
            print(self.child.said, end="", file=sys.stderr if self.environment.parsed_options.json else sys.stdout, flush=True)
            self.child.said = ""


@events.init_command_line_parser.add_listener
def _add_options(parser: Any, **_: object) -> None:
    add_options(parser)
    leave_1_to_the_verdict()


@events.init.add_listener
def _init(environment: Environment, **_: object) -> None:
    """Check the options before anything starts, and connect the processes of the crew."""
    options = environment.parsed_options
    environment.stop_timeout = max(environment.stop_timeout, STOP_TIMEOUT_S)  # users flush when they leave
    state = environment.buslab = State(environment)  # type: ignore[attr-defined]
    join_crew(environment)
    environment.events.quit.add_listener(lambda **_: state.quit())
    environment.events.quitting.add_listener(_quitting)  # the last one is called first: before the runner reports that this worker left
    if not isinstance(environment.runner, MasterRunner):
        environment.events.spawning_complete.add_listener(lambda **_: gevent.spawn(state.hand.all_came))
    if isinstance(environment.runner, WorkerRunner) and options.processes:
        gevent.spawn(end_with_parent)
    if isinstance(environment.runner, WorkerRunner):
        environment.process_exit_code = 0  # what its users met is judged with the run
    if isinstance(environment.runner, WorkerRunner) or CONTROL_FD in os.environ:
        return
    state.run_s, options.run_time = options.run_time, None  # the run ends by itself; Locust's own timer would count the set-up too
    logging.getLogger("locust.main").addFilter(lambda record: not record.getMessage().startswith("No run time limit set"))
    try:
        check_options(environment, run_s=state.run_s)
    except BuslabError as error:
        log.error("%s", error)
        end_workers()
        sys.exit(2)
    if isinstance(environment.runner, MasterRunner) and options.expect_workers_max_wait:
        gevent.spawn(state.await_workers, options.expect_workers_max_wait)
        options.expect_workers_max_wait = 0
    if options.shape:
        environment.shape_class = RunShape(environment)


@events.test_start.add_listener
def _begin(environment: Environment, **_: object) -> None:
    state: State = environment.buslab  # type: ignore[attr-defined]
    state.grounds.hide(environment)
    if not isinstance(environment.runner, MasterRunner):
        state.hand = Hand(environment)
    if isinstance(environment.runner, WorkerRunner):
        return
    if environment.shape_class is None:
        state.signals.leave_to_locust(signal.SIGTERM)
    if environment.web_ui is not None:  # the form may have asked for another length, and has then started Locust's own timer
        state.run_s = environment.parsed_options.run_time or state.run_s
        environment.web_ui._cancel_run_time_timer()
    state.begin()


@events.test_stopping.add_listener
def _stopping(environment: Environment, **_: object) -> None:
    """End a run that was stopped by hand, so that it is sealed, and have the users flush."""
    state: State = environment.buslab  # type: ignore[attr-defined]
    state.interrupt()
    if not isinstance(environment.runner, MasterRunner):
        state.hand.leave()


def _quitting(environment: Environment, **more: object) -> None:
    _stopping(environment)
    environment.buslab.write()  # type: ignore[attr-defined]


@events.test_stop.add_listener
def _stopped(environment: Environment, **_: object) -> None:
    environment.buslab.write()  # type: ignore[attr-defined]
