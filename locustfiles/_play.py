"""What all users of one Locust process share: the job of the run, its schedule, how clients are made, the record.

The run says what to publish (`sim/run/locust_messages.py`); `_crew.py` brings it here, with the numbers that the users of
this process have in the whole crew.
"""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path
from typing import Protocol

import gevent
import gevent.event
import gevent.lock
import gevent.socket
import gevent.threadpool
from locust.env import Environment

from sim.errors import BuslabError, UsageError
from sim.machine.clock import NS_PER_MS, NS_PER_S, PreciseTimer, now_ns
from sim.machine.waits import OwnWaits
from sim.pods.blocking_client import BusClient, Published
from sim.record.recorder import Recorder
from sim.run.locust_messages import LoadJob
from sim.scenario.own_code import scenario_of
from sim.wire.address import parse_address

FIRST_PUBLISHER = 32_768  # pods of the fleet have the numbers below
FLUSH_PERIOD_NS = 2 * NS_PER_S
LAG_PERIOD_NS = 20 * NS_PER_MS
LAG_ROW_NS = 250 * NS_PER_MS
LEAVE_TIMEOUT_S = 2.0  # a user leaves at once, but for a publish that it waits for

log = logging.getLogger("buslab")


class Wait:
    """A wait until a `now_ns` time, while other greenlets run; precise to the microsecond where the platform can do that."""

    def __init__(self) -> None:
        try:
            self._timer: PreciseTimer | None = PreciseTimer()
        except OSError:
            self._timer = None
        self._over = False

    def end(self) -> None:
        """End the wait now, and every later one at once."""
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


class Ends(Protocol):
    """What a user waits for, or the user itself: something that can be told to end."""

    def end(self) -> None:
        """End, now or soon, and for good."""


class Play:
    """The part of one run that this process plays: `here` of the crew's `users`, the first of which has the number `first`.

    It records into `folder`.
    """

    def __init__(self, environment: Environment, job: LoadJob, *, host: str, folder: Path, first: int, here: int, users: int) -> None:
        self.environment = environment
        self.job = job
        self.host = host
        self.first, self.here, self.users = first, here, users
        self.scenario = scenario_of(job.scenario)  # the run has checked it, and checkers of the user's would bring pandas here
        self.address = parse_address(job.url)
        self.schedule = self.scenario.schedule()
        self.names = self.scenario.pods()
        self.contents = self.scenario.contents()
        self.publishing = sorted(set(self.schedule.pod.tolist()))
        self.connected = self.finished = self.calls = self.published = 0
        self.all_connected = gevent.event.Event()
        self.all_finished = gevent.event.Event()
        if not here:
            self.all_connected.set()
            self.all_finished.set()
        self.error = ""
        self.stopping = False
        self.waits: list[Ends] = []
        self.clients: list[BusClient] = []
        self.zero_ns: gevent.event.AsyncResult = gevent.event.AsyncResult()
        self.recorder = Recorder(folder, source=host, new_writer=lambda: gevent.threadpool.ThreadPoolExecutor(1))
        self.measures = True
        self._meter = gevent.spawn(measure, self)
        self._closing = gevent.lock.BoundedSemaphore()
        self._closed = False

    def share(self, user: int) -> tuple[list[int], int, int]:
        """Return which pods a user of the crew plays, and which part of how many of their calls it makes."""
        pods = self.publishing
        if self.users <= len(pods) or not pods:
            return pods[user :: self.users], 0, 1
        place = user % len(pods)
        return [pods[place]], user // len(pods), len(range(place, self.users, len(pods)))

    def client(self, pod: int, part: int, *, place: int | None = None) -> BusClient:
        """Return a connected client that plays a pod.

        Parameters
        ----------
        part
            Which of the pod's clients it is.
        place
            Which of all clients of the crew, where that does not follow from the former two; it tells their event numbers apart.
        """
        name, service = self.names[pod]
        if place is not None and place >= FIRST_PUBLISHER:
            raise UsageError(f"more than {FIRST_PUBLISHER:,} connections of users: start fewer users")
        place = pod + part * len(self.names) if place is None else place
        bus = self.scenario.bus
        client = BusClient(
            self.address.from_node(pod),
            source=service,
            publisher=f"{name}@locust-{part}",
            nonce=self.job.nonce,
            number=FIRST_PUBLISHER + place % FIRST_PUBLISHER,
            batches=self.scenario.batches(),
            channel_prefix=bus.channel_prefix,
            recorder=self.recorder,
            transport=self.scenario.transport(),
            keys=self.scenario.keys(),
            cache_keys=self.scenario.cache_keys(),
            envelope=self.scenario.new_envelope(),
        )
        client.connect()
        self.clients.append(client)
        return client

    def came(self) -> None:
        """Count a user that is connected."""
        self.connected += 1
        if self.connected == self.here:
            self.all_connected.set()

    def left(self) -> None:
        """Count a user that has gone."""
        self.finished += 1
        if self.finished == self.here:
            self.all_finished.set()

    def fail(self, error: str) -> None:
        """End because a user cannot connect; the first error is the one reported."""
        if not self.error:
            self.error = error
            log.error("%s", error)
            self.all_connected.set()  # who waits for this reports the error
            self.stop()

    def stop(self) -> None:
        """End every user's wait, so that it leaves by itself: Locust would kill it, perhaps between a publish and its record."""
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

    def report_failure(self, channel: str, error: Exception) -> None:
        """Show one call that became no event in Locust's own tables, as a failure."""
        self.environment.events.request.fire(
            request_type="PUBLISH", name=channel, response_time=0, response_length=0, exception=error, context={}
        )

    @property
    def closed_by_server(self) -> int:
        """How often a client found its connection closed by the server before a publish."""
        return sum(client.closed_by_server for client in self.clients)

    @property
    def broken(self) -> bool:
        """Whether the record cannot be written any more."""
        return self._meter.ready()

    def close(self) -> str:
        """Wait for the users to leave, write what is left of the record; return what went wrong, or an empty string.

        A second call, such as a Ctrl-C after the lead said stop, waits until the first has written: its caller may end the process next.
        """
        self.stop()
        self.all_finished.wait(LEAVE_TIMEOUT_S)
        with self._closing:
            if not self._closed:
                self._closed = True
                self.measures = False
                self._meter.join()  # killed while it hands rows over, it would take those with it
                if self._meter.exception is not None:
                    self.error = self.error or str(self._meter.exception)
                try:
                    self.recorder.close()
                except BuslabError as error:
                    self.error = self.error or str(error)
        return self.error


def measure(play: Play) -> None:
    """Record how late this process's loop is, what processor time it uses and what it waited for a core, until the record is closed."""
    with contextlib.closing(OwnWaits()) as waits:
        _measure(play, waits)


def _measure(play: Play, waits: OwnWaits) -> None:
    wait = Wait()
    row_ns = flushed_ns = now_ns()
    worst_ns = 0
    expected_ns = row_ns + LAG_PERIOD_NS
    while play.measures:
        wait.until(expected_ns)
        now = now_ns()
        worst_ns = max(worst_ns, now - expected_ns)
        waits.woke(now - expected_ns)
        expected_ns = now + LAG_PERIOD_NS  # counted from before the work below: the time that it takes is lateness too
        if now - row_ns >= LAG_ROW_NS:
            play.recorder.tables["hosts"].add(now, play.host, time.process_time_ns(), worst_ns, *waits.sample(now))
            row_ns, worst_ns = now, 0
        if now - flushed_ns >= FLUSH_PERIOD_NS:
            play.recorder.flush()
            flushed_ns = now
