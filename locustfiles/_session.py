"""One Locust process in a run, from its options to its exit code: whoever imports this has the lab's listeners on Locust's events.

Users of either kind, those of `bus_user` and those of `users`, are played by it: it starts the run that the command line means, or takes
the line to the one that started this process, and ends with the verdict.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import gevent
from locust import events
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from locustfiles._crew import Hand, Lead, join_crew
from locustfiles._launch import (
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
from locustfiles._play import log
from sim.errors import BuslabError
from sim.machine.line import CONTROL_FD, inherited_line
from sim.machine.signals import endings_heard
from sim.machine.words import count, duration
from sim.run.locust_messages import LoadJob

STOP_TIMEOUT_S = 5.0


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
            self.lead = Lead(self.environment, line, began=partial(self._keep_tables, pages=False), ended=self._leave, waits=False)
            return
        self.environment.process_exit_code = 2  # until the run says otherwise: Locust's own would be 1 where a publish failed
        self.child = Child(self.environment, run_s=self.run_s, grounds=self.grounds)
        self.lead = Lead(self.environment, self.child.line, began=self._keep_tables, ended=self._ended, waits=True)

    def _keep_tables(self, job: LoadJob, *, pages: bool = True) -> None:
        self.tables = Tables(self.environment, Path(job.folder), pages=pages)

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
    if isinstance(environment.runner, MasterRunner):
        return
    if state.hand.is_heard_by(gevent.getcurrent()):
        gevent.spawn(state.hand.leave)
    else:
        state.hand.leave()


def _quitting(environment: Environment, **more: object) -> None:
    _stopping(environment)
    environment.buslab.write()  # type: ignore[attr-defined]


@events.test_stop.add_listener
def _stopped(environment: Environment, **_: object) -> None:
    environment.buslab.write()  # type: ignore[attr-defined]
