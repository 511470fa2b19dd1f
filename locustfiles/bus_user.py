"""Locust users that publish the reference's events, open loop, by a schedule of intended times.

Two ways to start it:

- ``buslab run baseline`` starts it as a child and hands it a job (`sim/control.py`); its publishes are recorded.
- by hand, against any broker: ``locust -f locustfiles/bus_user.py --host redis://127.0.0.1:6379 --headless -u 12 -t 30s``.
  ``BUSLAB_SCENARIO`` names another scenario than ``baseline``. Nothing is recorded then; Locust's own tables show the publishes.

Each user plays a publishing pod: one connection, one batch, one sequence of events. With fewer users than such pods a user
plays several; with more, several users share a pod's calls.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import time
from pathlib import Path

import gevent
import gevent.event
import gevent.socket
import gevent.threadpool
from locust import User, events, task
from locust.env import Environment
from locust.exception import StopUser

from sim.address import parse_address
from sim.client import BusClient, Published
from sim.clock import NS_PER_MS, NS_PER_S, PreciseTimer, now_ns
from sim.control import CONTROL_FD, Done, Go, Job, Progress, Ready, pack_line, read_line
from sim.errors import BuslabError
from sim.load import Schedule, content
from sim.record import Recorder
from sim.scenario import Scenario, check_tree, load_scenario

HOST_NAME = "locust"
FIRST_PUBLISHER = 32_768  # pods of the fleet have the numbers below
PROGRESS_PERIOD_S = 0.5
FLUSH_PERIOD_NS = 2 * NS_PER_S
LAG_PERIOD_NS = 20 * NS_PER_MS
LAG_ROW_NS = 250 * NS_PER_MS
LEAVE_TIMEOUT_S = 2.0  # users do not wait longer than a publish takes
LATE_GRACE_NS = 2 * NS_PER_S  # a call this much later than the schedule's end is not made any more

log = logging.getLogger("buslab")


class Wait:
    """Wait for a `now_ns` time, letting other greenlets run; to the microsecond where the platform can."""

    def __init__(self) -> None:
        try:
            self._timer: PreciseTimer | None = PreciseTimer()
        except OSError:
            self._timer = None
        self._over = False

    def end(self) -> None:
        """Let the waiter go on now, and wait no more."""
        if self._timer is not None and not self._over:
            self._timer.set(0)
        self._over = True

    def until(self, at_ns: int) -> None:
        """Return at that time, or at once when it has passed."""
        if self._over or at_ns <= now_ns():
            gevent.sleep(0)
        elif self._timer is None:
            gevent.sleep((at_ns - now_ns()) / NS_PER_S)
        else:
            self._timer.set(at_ns)
            gevent.socket.wait_read(self._timer.fd)
            self._timer.clear()

    def close(self) -> None:
        """Free the timer."""
        self._over = True
        if self._timer is not None:
            self._timer.close()


class Play:
    """Hold what all users of this process share: the schedule, how clients are made, the record."""

    def __init__(self, environment: Environment, scenario: Scenario, *, url: str, users: int, job: Job | None) -> None:
        self.environment = environment
        self.scenario = scenario
        self.address = parse_address(url)
        self.job = job
        self.schedule = scenario.schedule()
        self.names = scenario.pods()
        self.publishing = sorted(set(self.schedule.pod.tolist()))
        self.users = users
        self.begun = self.connected = self.finished = self.calls = self.published = 0
        self.all_connected = gevent.event.Event()
        self.all_finished = gevent.event.Event()
        self.error = ""
        self.stopping = False
        self.waits: list[Wait] = []
        self.zero_ns: gevent.event.AsyncResult = gevent.event.AsyncResult()
        self.recorder: Recorder | None = None
        if job is not None:
            self.recorder = Recorder(Path(job.folder), source=HOST_NAME, new_writer=lambda: gevent.threadpool.ThreadPoolExecutor(1))

    def share(self, user: int) -> tuple[list[int], int, int]:
        """Return which pods a user plays, and which part of how many of their calls it makes."""
        pods = self.publishing
        if self.users <= len(pods):
            return pods[user :: self.users], 0, 1
        place = user % len(pods)
        return [pods[place]], user // len(pods), len(range(place, self.users, len(pods)))

    def client(self, pod: int, part: int) -> BusClient:
        """Return a connected client that plays a pod."""
        name, service = self.names[pod]
        bus = self.scenario.bus
        client = BusClient(
            self.address.from_node(pod),
            source=service,
            publisher=f"{name}@{HOST_NAME}-{part}",
            nonce=self.job.nonce if self.job else 0,
            number=FIRST_PUBLISHER + (pod + part * len(self.names)) % FIRST_PUBLISHER,
            batch_size=bus.batch_size,
            batch_interval_ms=bus.batch_interval_ms,
            channel_prefix=bus.channel_prefix,
            recorder=self.recorder,
            transport=self.scenario.transport(),
        )
        client.connect()
        return client

    def fail(self, error: str) -> None:
        """End because a user cannot connect; the first to say so is heard."""
        if self.error:
            return
        self.error = error
        log.error("%s", error)
        self.environment.process_exit_code = 2
        self.all_connected.set()  # `converse` tells the run and quits
        if self.job is None:
            gevent.spawn(self.environment.runner.quit)  # not from a user, which would kill itself

    def stop(self) -> None:
        """Let every user leave where it waits: Locust would kill it, perhaps between a publish and its record."""
        self.stopping = True
        self.zero_ns.set(0)
        for wait in self.waits:
            wait.end()

    def report(self, published: Published | None) -> None:
        """Show one publish in Locust's own tables."""
        if published is None:
            return
        self.published += 1
        self.environment.events.request.fire(
            request_type="PUBLISH",
            name=published.send.type,
            response_time=max(0, published.acked_ns - published.sent_ns) / NS_PER_MS,
            response_length=len(published.send.payload),
            exception=None if published.outcome == "acknowledged" else BuslabError(f"{published.outcome}: {published.error}"),
            context={},
        )


class BusUser(User):
    """Play one or more publishing pods."""

    host = "redis://127.0.0.1:6379"

    def on_start(self) -> None:
        """Take a number and connect."""
        play: Play = self.environment.buslab  # type: ignore[attr-defined]
        self.play = play
        if play.job is None:  # the web interface may ask for another number of users at each start
            play.users = max(1, self.environment.runner.target_user_count)
        user, play.begun = play.begun % play.users, play.begun + 1
        self.pods, self.part, self.parts = play.share(user)
        self.wait = Wait()
        play.waits.append(self.wait)
        self.clients: dict[int, BusClient] = {}
        try:
            self.clients = {pod: play.client(pod, self.part) for pod in self.pods}
        except BuslabError as error:
            play.fail(str(error))
            return  # Locust logs an exception of on_start with its traceback: `publish` leaves instead
        if play.job is None and not play.zero_ns.ready():
            play.zero_ns.set(now_ns())
        play.connected += 1
        if play.connected == play.users:
            play.all_connected.set()

    @task
    def publish(self) -> None:
        """Make this user's calls at their intended times, then leave; by hand, begin again until Locust stops."""
        play = self.play
        if play.error:
            raise StopUser
        zero_ns = play.zero_ns.get()
        length_ns = round((play.scenario.load.warm_up_s + play.scenario.load.run_s) * NS_PER_S)
        schedule = play.schedule
        rounds = 0
        while True:
            self._play(schedule.of_pods(self.pods, part=self.part, parts=self.parts), zero_ns, zero_ns + length_ns)
            if play.job is not None:
                raise StopUser
            rounds += 1
            zero_ns += length_ns
            schedule = play.scenario.schedule(seed_offset=rounds)

    def _play(self, calls: Schedule, zero_ns: int, end_ns: int) -> None:
        play, kinds, payload_bytes = self.play, calls.kinds, self.play.scenario.load.payload_bytes
        rows = zip((calls.offset_ns + zero_ns).tolist(), calls.kind.tolist(), calls.pod.tolist(), strict=True)
        for number, (at_ns, kind, pod) in enumerate(rows):
            self._wait_until(at_ns)
            if now_ns() > end_ns + LATE_GRACE_NS:
                return  # the generator is saturated; the harness will say so
            name = kinds[kind]
            play.calls += 1
            play.report(self.clients[pod].call(name, content(name, number, payload_bytes, templates=calls.templates), intended_ns=at_ns))
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
        self.play.finished += 1
        if self.play.finished == self.play.users:
            self.play.all_finished.set()


def measure(play: Play) -> None:
    """Record how late this process's loop is and what processor time it uses, until killed."""
    assert play.recorder is not None
    wait = Wait()
    row_ns = flushed_ns = now_ns()
    worst_ns = 0
    expected_ns = row_ns + LAG_PERIOD_NS
    while True:
        wait.until(expected_ns)
        now = now_ns()
        worst_ns = max(worst_ns, now - expected_ns)
        expected_ns = now + LAG_PERIOD_NS  # before the work below: what that takes is lateness too
        if now - row_ns >= LAG_ROW_NS:
            play.recorder.tables["hosts"].add(now, HOST_NAME, time.process_time_ns(), worst_ns)
            row_ns, worst_ns = now, 0
        if now - flushed_ns >= FLUSH_PERIOD_NS:
            play.recorder.flush()
            flushed_ns = now


def converse(play: Play, control: socket.socket) -> None:
    """Carry the run's side of `sim/control.py`: ready, go, progress, done; a closed line means stop."""
    runner = play.environment.runner
    meter = gevent.spawn(measure, play)
    error = ""
    try:
        play.all_connected.wait()
        lines = control.makefile("rb")
        first = b""
        if not play.error:
            control.sendall(pack_line(Ready(play.users)))
            first = lines.readline()
        if first and isinstance(go := read_line(first), Go):
            stop = gevent.spawn(lines.readline)  # a stop message, or the end of the file
            play.zero_ns.set(go.zero_ns)
            while not play.all_finished.wait(PROGRESS_PERIOD_S) and not stop.ready() and not meter.ready():
                control.sendall(pack_line(Progress(play.calls, play.published)))
    except OSError:
        pass  # the run is gone: stop
    except Exception as unexpected:
        error = f"{type(unexpected).__name__}: {unexpected}"
    finally:
        if meter.ready() and meter.exception is not None:
            error = str(meter.exception)
        meter.kill(block=False)
        play.stop()  # users flush in on_stop
        play.all_finished.wait(LEAVE_TIMEOUT_S)
        runner.stop()
        error = finish(play) or error or play.error
        with contextlib.suppress(OSError):
            control.sendall(pack_line(Done(play.calls, error)))
        runner.quit()


def finish(play: Play) -> str:
    """Write what is left of the record; return what went wrong, or an empty string."""
    assert play.recorder is not None
    try:
        play.recorder.close()
    except BuslabError as error:
        return str(error)
    return ""


@events.init.add_listener
def _take_job(environment: Environment, **_: object) -> None:
    """Read the scenario: from the run that started this process, or from the environment."""
    options = environment.parsed_options
    users = getattr(options, "num_users", None) or 1
    fd = os.environ.get(CONTROL_FD)
    try:
        if fd is None:
            scenario = load_scenario(os.environ.get("BUSLAB_SCENARIO", "baseline"))
            environment.buslab = Play(environment, scenario, url=environment.host or BusUser.host, users=users, job=None)  # type: ignore[attr-defined]
            return
        control = socket.socket(fileno=int(fd))
        job = read_line(_first_line(control))
        assert isinstance(job, Job)
        play = Play(environment, check_tree(job.scenario, where="of the run"), url=job.url, users=users, job=job)
    except BuslabError as error:
        log.error("%s", error)
        sys.exit(2)
    environment.buslab = play  # type: ignore[attr-defined]
    gevent.spawn(converse, play, control)


def _first_line(control: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        byte = control.recv(1)
        if not byte:
            raise BuslabError("the run that started this process is gone")
        line += byte
    return line
